//! The PIIX4's power management function: ACPI's fixed hardware (82371AB data sheet, chapter 7; ACPI 6.3,
//! 4.8.3).
//!
//! The machine is in ACPI mode from the start: the FADT names no SMI command port, and `SCI_EN` reads as
//! one.

use std::sync::{Arc, Mutex, Weak};

use serde::{Deserialize, Serialize};
use vm_types::{Clock, IrqLine, Task, Timer, Timers};

use super::{INTEL, SUBSYSTEM_VENDOR};
use crate::bus::{
    Access, AddressSpace, BusDevice, RegisterFile, RegisterMap, SpaceError, Width, row,
};
use crate::lifecycle::{Lifecycle, RestoreError, Snapshot};
use crate::misc::Signal;
use crate::pci::{Endpoint, Function, FunctionError, FunctionState, Identity};
use crate::sync::lock;
use crate::timer::{PmTimer, PmTimerWidth};

/// First port of the PM block; PM1 events at 0, PM1 control at 4, timer at 8.
pub const PM_BASE: u16 = 0xb000;
/// Ports of the PM block.
pub const PM_LENGTH: u16 = 0x40;
/// First port of the general purpose events: two bytes of status, two of enables.
pub const GPE0_BASE: u16 = 0xafe0;
/// Ports of the general purpose events.
pub const GPE0_LENGTH: u8 = 4;
/// The interrupt of the SCI.
pub const SCI_IRQ: u32 = 9;
/// The sleep type that means off, in `_S5`.
pub const SLEEP_TYPE_S5: u8 = 0;

/// Advanced power management control and status: storage.
const APM_PORTS: (u64, u64) = (0xb2, 2);

const KIND: &str = "piix4-pm";

/// What power management is connected to.
#[derive(Clone, Debug)]
pub struct PowerPorts {
    /// The machine's time.
    pub clock: Clock,
    /// Where to arm for the timer's overflow.
    pub timers: Timers,
    /// Interrupt 9.
    pub sci: IrqLine,
    /// The guest has switched itself off.
    pub power_off: Signal,
}

/// PM1 status and enable bits.
mod event {
    pub(super) const TIMER: u16 = 1 << 0;
    pub(super) const GLOBAL: u16 = 1 << 5;
    pub(super) const POWER_BUTTON: u16 = 1 << 8;
    pub(super) const CLOCK: u16 = 1 << 10;
    /// Those that can raise the SCI.
    pub(super) const ALL: u16 = TIMER | GLOBAL | POWER_BUTTON | CLOCK;
    /// Further status bits: bus master activity, waking.
    pub(super) const STATUS: u16 = ALL | 1 << 4 | 1 << 15;
}

/// PM1 control bits.
mod control {
    pub(super) const SCI_ENABLED: u16 = 1 << 0;
    pub(super) const SLEEP_TYPE_SHIFT: u16 = 10;
    pub(super) const SLEEP_ENABLE: u16 = 1 << 13;
    /// Those that are kept.
    pub(super) const KEPT: u16 = 0x1c02;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reg {
    Status,
    Enable,
    Control,
    Timer,
    GpeStatus,
    GpeEnable,
    Apm(usize),
}

const EVENT_STATUS: Access = Access::WriteOneToClear {
    mask: event::STATUS as u64,
};
const EVENT_ENABLE: Access = Access::ReadWrite {
    mask: event::ALL as u64,
};

/// By port. The rest of the PM block, which drives power planes that are not here, reads as zero.
static REGISTERS: RegisterMap<Reg> = RegisterMap::new(&[
    row(
        Reg::Apm(0),
        APM_PORTS.0,
        Width::U8,
        Access::ReadWrite { mask: 0xff },
    ),
    row(
        Reg::Apm(1),
        APM_PORTS.0 + 1,
        Width::U8,
        Access::ReadWrite { mask: 0xff },
    ),
    row(
        Reg::GpeStatus,
        GPE0_BASE as u64,
        Width::U16,
        Access::WriteOneToClear { mask: 0xffff },
    ),
    row(
        Reg::GpeEnable,
        GPE0_BASE as u64 + 2,
        Width::U16,
        Access::ReadWrite { mask: 0xffff },
    ),
    row(Reg::Status, PM_BASE as u64, Width::U16, EVENT_STATUS),
    row(Reg::Enable, PM_BASE as u64 + 2, Width::U16, EVENT_ENABLE),
    row(
        Reg::Control,
        PM_BASE as u64 + 4,
        Width::U16,
        Access::ReadWrite { mask: 0xffff },
    ),
    row(Reg::Timer, PM_BASE as u64 + 8, Width::U32, Access::ReadOnly),
]);

/// The power management function.
#[derive(Debug)]
pub struct PowerManagement {
    function: Function,
    sci: IrqLine,
    power_off: Signal,
    timer: Timer,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pm_timer: PmTimer,
    registers: Registers,
    /// The timer's overflows that the status has taken note of.
    overflows: u64,
    /// S5 was asked for in this access.
    power_off: bool,
    paused: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Registers {
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u16,
    gpe_enable: u16,
    apm: [u8; 2],
}

#[derive(Serialize, Deserialize)]
struct Saved {
    function: FunctionState,
    registers: Registers,
    timer_ticks: u64,
}

impl State {
    fn catch_up(&mut self) {
        let overflows = self.pm_timer.overflows();
        if overflows != self.overflows {
            self.overflows = overflows;
            self.registers.status |= event::TIMER;
        }
    }

    fn sci(&self) -> bool {
        let registers = &self.registers;
        registers.status & registers.enable & event::ALL != 0
            || registers.gpe_status & registers.gpe_enable != 0
    }
}

impl RegisterFile<Reg> for State {
    fn read(&mut self, register: Reg) -> u64 {
        match register {
            Reg::Status => u64::from(self.registers.status),
            Reg::Enable => u64::from(self.registers.enable),
            Reg::Control => u64::from(self.registers.control | control::SCI_ENABLED),
            Reg::Timer => u64::from(self.pm_timer.read()),
            Reg::GpeStatus => u64::from(self.registers.gpe_status),
            Reg::GpeEnable => u64::from(self.registers.gpe_enable),
            Reg::Apm(index) => u64::from(self.registers.apm[index]),
        }
    }

    fn write(&mut self, register: Reg, value: u64) {
        let value = value as u16;
        match register {
            Reg::Status => self.registers.status &= !value,
            Reg::Enable => self.registers.enable = value,
            Reg::Control => {
                self.registers.control = value & control::KEPT;
                let sleep_type = value >> control::SLEEP_TYPE_SHIFT & 7;
                if value & control::SLEEP_ENABLE != 0 && sleep_type == u16::from(SLEEP_TYPE_S5) {
                    self.power_off = true;
                }
            }
            Reg::Timer => {}
            Reg::GpeStatus => self.registers.gpe_status &= !value,
            Reg::GpeEnable => self.registers.gpe_enable = value,
            Reg::Apm(index) => self.registers.apm[index] = value as u8,
        }
    }
}

impl PowerManagement {
    /// The function; errors are mistakes in its own declaration.
    pub fn new(ports: PowerPorts) -> Result<Arc<Self>, FunctionError> {
        let identity = Identity {
            vendor: INTEL,
            device: 0x7113,
            class: 0x06_80_00,
            revision: 3,
            subsystem_vendor: SUBSYSTEM_VENDOR,
            subsystem: 0xfffc,
        };
        let function = Function::builder(identity)
            // Bases of the PM block and (not there) of the SMBus, neither of which moves.
            .register(0x40, &(u32::from(PM_BASE) | 1).to_le_bytes(), &[])
            // The PM block is decoded.
            .register(0x80, &[0x01], &[])
            .register(0x90, &0xb101u32.to_le_bytes(), &[])
            .build()?;
        Ok(Arc::new_cyclic(|this: &Weak<Self>| Self {
            function,
            sci: ports.sci,
            power_off: ports.power_off,
            timer: ports.timers.register(this.clone()),
            state: Mutex::new(State {
                pm_timer: PmTimer::new(ports.clock, PmTimerWidth::Bits32),
                registers: Registers::default(),
                overflows: 0,
                power_off: false,
                paused: false,
            }),
        }))
    }

    /// Claims its ports.
    pub fn attach(self: &Arc<Self>, ports: &AddressSpace) -> Result<(), SpaceError> {
        let ranges = [
            APM_PORTS,
            (u64::from(GPE0_BASE), u64::from(GPE0_LENGTH)),
            (u64::from(PM_BASE), u64::from(PM_LENGTH)),
        ];
        ports.claim_all(self.name(), &ranges, self.clone())
    }

    /// Presses and releases the power button. Returns whether the guest listens to it: if not, nothing
    /// will come of it.
    pub fn press_power_button(&self) -> bool {
        self.with(|state| {
            state.registers.status |= event::POWER_BUTTON;
            state.registers.enable & event::POWER_BUTTON != 0
        })
    }

    /// Raises general purpose event `event`, 0 to 15; others are ignored.
    pub fn raise_event(&self, event: u8) {
        self.with(|state| {
            state.registers.gpe_status |= 1u16.checked_shl(u32::from(event)).unwrap_or(0);
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.state);
        state.catch_up();
        let result = work(&mut state);
        self.sci.set(state.sci());
        let enabled = state.registers.enable & !state.registers.status & event::TIMER != 0;
        if enabled && !state.paused {
            self.timer.arm(state.pm_timer.next_overflow());
        } else {
            self.timer.disarm();
        }
        let power_off = std::mem::take(&mut state.power_off);
        drop(state);
        if power_off {
            self.power_off.fire();
        }
        result
    }
}

impl Task for PowerManagement {
    /// The timer has overflown.
    fn run(&self) {
        self.with(|_| {});
    }
}

impl BusDevice for PowerManagement {
    /// `offset` is the port.
    fn read(&self, offset: u64, data: &mut [u8]) {
        // Nothing changes by reading, so no line has to follow.
        let mut state = lock(&self.state);
        state.catch_up();
        REGISTERS.read(&mut *state, offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.with(|state| REGISTERS.write(state, offset, data));
    }
}

impl Endpoint for PowerManagement {
    fn function(&self) -> &Function {
        &self.function
    }

    fn bar_read(&self, _: usize, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&self, _: usize, _: u64, _: &[u8]) {}
}

impl Lifecycle for PowerManagement {
    fn name(&self) -> &str {
        KIND
    }

    fn pause(&self) {
        self.with(|state| state.paused = true);
    }

    fn resume(&self) {
        self.with(|state| state.paused = false);
    }

    fn reset(&self) {
        self.function.reset();
        self.with(|state| state.registers = Registers::default());
    }

    fn halt(&self) {
        self.pause();
    }

    fn save(&self) -> Option<Snapshot> {
        let saved = self.with(|state| Saved {
            function: self.function.save(),
            registers: state.registers.clone(),
            timer_ticks: state.pm_timer.ticks(),
        });
        Some(Snapshot::of(KIND, 1, &saved))
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        self.reset();
        let saved = snapshot.open::<Saved>(KIND, KIND, 1)?;
        self.function
            .restore(&saved.function)
            .map_err(|reason| RestoreError::Damaged {
                device: KIND.to_owned(),
                reason,
            })?;
        self.with(|state| {
            state.pm_timer.set_ticks(saved.timer_ticks);
            state.overflows = state.pm_timer.overflows();
            state.registers = Registers {
                status: saved.registers.status & event::STATUS,
                enable: saved.registers.enable & event::ALL,
                control: saved.registers.control & control::KEPT,
                ..saved.registers
            };
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::misc::signal::tests::counting;
    use std::sync::atomic::{AtomicU32, Ordering};
    use vm_types::{ManualClock, Span};

    struct Rig {
        power: Arc<PowerManagement>,
        ports: AddressSpace,
        sci: IrqLine,
        hand: ManualClock,
        timers: Timers,
        offs: Arc<AtomicU32>,
    }

    impl Rig {
        fn new() -> Self {
            let (clock, hand) = Clock::manual();
            let (power_off, offs) = counting();
            let (timers, sci, ports) =
                (Timers::new(), IrqLine::unconnected(), AddressSpace::ports());
            let power = PowerManagement::new(PowerPorts {
                clock,
                timers: timers.clone(),
                sci: sci.clone(),
                power_off,
            })
            .unwrap();
            power.attach(&ports).unwrap();
            Self {
                power,
                ports,
                sci,
                hand,
                timers,
                offs,
            }
        }

        fn get(&self, port: u64) -> u16 {
            let mut data = [0; 2];
            self.ports.read(port, &mut data);
            u16::from_le_bytes(data)
        }

        fn set(&self, port: u64, value: u16) {
            self.ports.write(port, &value.to_le_bytes());
        }
    }

    #[test]
    fn the_power_button_raises_the_sci_until_its_status_is_cleared() {
        let rig = Rig::new();
        assert!(!rig.power.press_power_button());
        assert!(!rig.sci.level());
        rig.set(0xb000, 0x0100);
        rig.set(0xb002, 0x0100);
        assert!(rig.power.press_power_button());
        assert!(rig.sci.level());
        assert_eq!(rig.get(0xb000), 0x0100);
        rig.set(0xb000, 0x0100);
        assert!(!rig.sci.level());
    }

    #[test]
    fn sleep_type_zero_switches_off() {
        let rig = Rig::new();
        assert_eq!(rig.get(0xb004), 1);
        rig.set(0xb004, 0x2401);
        assert_eq!(rig.offs.load(Ordering::SeqCst), 0);
        rig.set(0xb004, 0x2001);
        assert_eq!(rig.offs.load(Ordering::SeqCst), 1);
        assert_eq!(rig.get(0xb004), 1);
    }

    #[test]
    fn the_timer_counts_and_its_overflow_interrupts() {
        let rig = Rig::new();
        rig.hand.advance(Span::from_secs(1));
        let mut ticks = [0; 4];
        rig.ports.read(0xb008, &mut ticks);
        assert_eq!(u32::from_le_bytes(ticks), 3_579_545);
        rig.set(0xb002, 0x0001);
        let due = rig.timers.next_deadline().unwrap();
        rig.hand.advance_to(due);
        rig.timers.fire_due(due);
        assert!(rig.sci.level());
        assert_eq!(rig.get(0xb000), 1);
        rig.set(0xb000, 1);
        assert!(!rig.sci.level());
        assert!(rig.timers.next_deadline().unwrap() > due);
    }

    #[test]
    fn general_purpose_events_have_registers() {
        let rig = Rig::new();
        rig.set(0xafe2, 0x0004);
        rig.power.raise_event(2);
        rig.power.raise_event(200);
        assert_eq!(rig.get(0xafe0), 4);
        assert!(rig.sci.level());
        rig.ports.write(0xafe0, &[4]);
        assert!(!rig.sci.level());
    }

    #[test]
    fn a_saved_state_comes_back() {
        let rig = Rig::new();
        rig.set(0xb002, 0x0100);
        rig.power.press_power_button();
        rig.hand.advance(Span::from_secs(3));
        let saved = rig.power.save().unwrap();
        let other = Rig::new();
        other.power.restore(&saved).unwrap();
        assert!(other.sci.level());
        assert_eq!(other.power.save(), Some(saved));
        other.power.reset();
        assert!(!other.sci.level());
    }

    #[test]
    fn firmware_finds_the_base_and_cannot_move_it() {
        let rig = Rig::new();
        let mut data = [0; 4];
        rig.power.config_write(0x40, &[0; 4]);
        rig.power.config_read(0x40, &mut data);
        assert_eq!(u32::from_le_bytes(data), 0xb001);
        assert_eq!(rig.power.function.config_u8(0x80) & 1, 1);
    }
}
