//! The high precision event timer at 0xfed00000 (IA-PC HPET specification 1.0a): a counter of 100 MHz
//! and three timers, each one-shot or periodic, on IOAPIC pins, as messages, or in place of PIT and RTC.

use std::sync::{Arc, Mutex, Weak};

use serde::{Deserialize, Serialize};
use vm_types::{Clock, Gate, IrqLine, IrqSink, Moment, MsiMessage, MsiSink, Span, Task, Timers};

use super::bounded_deadline;
use crate::bus::{
    Access, AddressSpace, BusDevice, RegisterFile, RegisterMap, SpaceError, Width, row,
};
use crate::lifecycle::{Lifecycle, RestoreError, Snapshot};
use crate::sync::lock;

/// Where a PC has it.
pub const HPET_BASE: u64 = 0xfed0_0000;
/// Bytes of its window.
pub const HPET_LENGTH: u64 = 0x400;
/// Number of timers.
pub const HPET_TIMERS: usize = 3;
/// The shortest periodic interval that software should ask for, in ticks, as the ACPI table says.
pub const HPET_MIN_TICK: u16 = 1000;

/// Nanoseconds of one tick.
const TICK_NS: u64 = 10;
/// IOAPIC pins that a timer can be sent to: those that nothing else is on.
const ROUTES: u32 = 0x00f0_0000;
/// Period in femtoseconds, vendor 8086, replacement, 64-bit counter, number of the last timer, revision 1.
const CAPABILITIES: u64 = (TICK_NS * 1_000_000) << 32
    | 0x8086 << 16
    | 1 << 15
    | 1 << 13
    | (HPET_TIMERS as u64 - 1) << 8
    | 1;

/// What the capabilities register's low half says; the ACPI table repeats it.
pub const HPET_BLOCK_ID: u32 = CAPABILITIES as u32;

const KIND: &str = "hpet";

/// What the HPET is connected to.
#[derive(Clone)]
pub struct HpetPorts {
    /// The machine's time.
    pub clock: Clock,
    /// Where to arm for the next match.
    pub timers: Timers,
    /// The machine's interrupt numbers, as [`crate::irq::IrqFabric`] counts them.
    pub irq: Arc<dyn IrqSink>,
    /// For timers that interrupt by message.
    pub msi: MsiSink,
    /// Closed while the timers stand in for PIT and RTC.
    pub legacy: Gate,
}

impl std::fmt::Debug for HpetPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HpetPorts").finish_non_exhaustive()
    }
}

/// General configuration bits.
mod general {
    pub(super) const ENABLE: u64 = 1;
    pub(super) const LEGACY: u64 = 2;
}

/// Timer configuration bits.
mod config {
    pub(super) const LEVEL: u64 = 1 << 1;
    pub(super) const ENABLE: u64 = 1 << 2;
    pub(super) const PERIODIC: u64 = 1 << 3;
    pub(super) const CAN_BE_PERIODIC: u64 = 1 << 4;
    pub(super) const IS_64_BIT: u64 = 1 << 5;
    pub(super) const SET_VALUE: u64 = 1 << 6;
    pub(super) const ONLY_32_BITS: u64 = 1 << 8;
    pub(super) const ROUTE_SHIFT: u32 = 9;
    pub(super) const MESSAGE: u64 = 1 << 14;
    pub(super) const CAN_BE_MESSAGE: u64 = 1 << 15;
    pub(super) const WRITABLE: u64 =
        LEVEL | ENABLE | PERIODIC | SET_VALUE | ONLY_32_BITS | 0x1f << ROUTE_SHIFT | MESSAGE;
    pub(super) const FIXED: u64 =
        CAN_BE_PERIODIC | IS_64_BIT | CAN_BE_MESSAGE | (super::ROUTES as u64) << 32;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reg {
    Capabilities,
    General,
    Status,
    CounterLow,
    CounterHigh,
    Config(usize),
    ComparatorLow(usize),
    ComparatorHigh(usize),
    MessageData(usize),
    MessageAddress(usize),
}

const GENERAL: Access = Access::ReadWrite {
    mask: general::ENABLE | general::LEGACY,
};
const STATUS: Access = Access::WriteOneToClear {
    mask: (1 << HPET_TIMERS) - 1,
};
const CONFIG: Access = Access::ReadWrite {
    mask: config::WRITABLE,
};
const HALF: Access = Access::ReadWrite { mask: 0xffff_ffff };

/// Section 2.3. A comparator and the counter are two halves here, because what a write of one half does
/// to the other matters.
static REGISTERS: RegisterMap<Reg> = RegisterMap::new(&[
    row(Reg::Capabilities, 0x000, Width::U64, Access::ReadOnly),
    row(Reg::General, 0x010, Width::U64, GENERAL),
    row(Reg::Status, 0x020, Width::U64, STATUS),
    row(Reg::CounterLow, 0x0f0, Width::U32, HALF),
    row(Reg::CounterHigh, 0x0f4, Width::U32, HALF),
    row(Reg::Config(0), 0x100, Width::U64, CONFIG),
    row(Reg::ComparatorLow(0), 0x108, Width::U32, HALF),
    row(Reg::ComparatorHigh(0), 0x10c, Width::U32, HALF),
    row(Reg::MessageData(0), 0x110, Width::U32, HALF),
    row(Reg::MessageAddress(0), 0x114, Width::U32, HALF),
    row(Reg::Config(1), 0x120, Width::U64, CONFIG),
    row(Reg::ComparatorLow(1), 0x128, Width::U32, HALF),
    row(Reg::ComparatorHigh(1), 0x12c, Width::U32, HALF),
    row(Reg::MessageData(1), 0x130, Width::U32, HALF),
    row(Reg::MessageAddress(1), 0x134, Width::U32, HALF),
    row(Reg::Config(2), 0x140, Width::U64, CONFIG),
    row(Reg::ComparatorLow(2), 0x148, Width::U32, HALF),
    row(Reg::ComparatorHigh(2), 0x14c, Width::U32, HALF),
    row(Reg::MessageData(2), 0x150, Width::U32, HALF),
    row(Reg::MessageAddress(2), 0x154, Width::U32, HALF),
]);

/// The HPET.
#[derive(Debug)]
pub struct Hpet {
    clock: Clock,
    timer: vm_types::Timer,
    state: Mutex<State>,
}

struct State {
    ports: HpetPorts,
    saved: Saved,
    /// Each timer's line and the number that it is on.
    lines: [Option<(u32, IrqLine)>; HPET_TIMERS],
    paused: bool,
    /// The moment of the access that is being served.
    now: Moment,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Saved {
    general: u64,
    status: u64,
    /// The counter's value at `since_ns`, or always, while it is halted.
    counter: u64,
    since_ns: u64,
    timers: [TimerState; HPET_TIMERS],
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct TimerState {
    config: u64,
    comparator: u64,
    period: u64,
    message: MsiRegisters,
    /// Waits for its match; a one-shot timer that has fired does not.
    armed: bool,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct MsiRegisters {
    data: u32,
    address: u32,
}

impl TimerState {
    fn mask(&self) -> u64 {
        if self.config & config::ONLY_32_BITS != 0 {
            0xffff_ffff
        } else {
            u64::MAX
        }
    }

    fn is(&self, bit: u64) -> bool {
        self.config & bit != 0
    }

    /// Ticks from `counter` to the next match, 1 or more: a match that is just now is already served.
    fn ticks_to_match(&self, counter: u64) -> u64 {
        let mask = self.mask();
        match self.comparator.wrapping_sub(counter) & mask {
            // A whole turn, or what can be said of it.
            0 => mask.saturating_add(1),
            ticks => ticks,
        }
    }

    /// After a match at or before `counter`: the periodic comparator moves on past it.
    fn advance(&mut self, counter: u64) {
        let mask = self.mask();
        let period = self.period & mask;
        if period == 0 {
            self.armed = false;
            return;
        }
        let behind = counter.wrapping_sub(self.comparator) & mask;
        let steps = (behind / period).wrapping_add(1);
        self.comparator = self.comparator.wrapping_add(steps.wrapping_mul(period)) & mask;
    }

    fn write_comparator(&mut self, value: u64, written: u64) {
        let mask = self.mask();
        let merge = |old: u64| ((old & !written) | (value & written)) & mask;
        if !self.is(config::PERIODIC) {
            self.comparator = merge(self.comparator);
            self.period = self.comparator;
        } else if self.is(config::SET_VALUE) {
            // The write after the bit sets where the first match is, the next the period. A guest that
            // writes halves sets the low one first.
            self.comparator = merge(self.comparator);
            self.period = merge(self.period);
            self.config &= !config::SET_VALUE;
        } else {
            self.period = merge(self.period);
        }
        self.armed = true;
    }
}

impl State {
    fn is_running(&self) -> bool {
        self.saved.general & general::ENABLE != 0
    }

    fn counter(&self) -> u64 {
        let since = Moment::from_nanos(self.saved.since_ns);
        let passed = if self.is_running() {
            self.now.since(since).as_nanos() / TICK_NS
        } else {
            0
        };
        self.saved.counter.wrapping_add(passed)
    }

    /// The counter's value from now on.
    fn set_counter(&mut self, value: u64) {
        self.saved.counter = value;
        self.saved.since_ns = self.now.as_nanos();
    }

    /// Serves every timer whose match has come.
    fn catch_up(&mut self, before: u64) {
        if !self.is_running() {
            return;
        }
        let counter = self.counter();
        let passed = counter.wrapping_sub(before);
        for index in 0..HPET_TIMERS {
            let timer = &mut self.saved.timers[index];
            if !timer.armed || passed == 0 || timer.ticks_to_match(before) > passed {
                continue;
            }
            if timer.is(config::PERIODIC) {
                timer.advance(counter);
            } else {
                timer.armed = false;
            }
            if timer.is(config::ENABLE) && !self.paused {
                self.interrupt(index);
            }
        }
    }

    fn interrupt(&mut self, index: usize) {
        let timer = self.saved.timers[index];
        if timer.is(config::MESSAGE) {
            self.ports.msi.send(MsiMessage {
                address: u64::from(timer.message.address),
                data: timer.message.data,
            });
        } else if timer.is(config::LEVEL) {
            self.saved.status |= 1 << index;
            self.drive(index);
        } else if let Some(line) = self.line(index) {
            line.pulse();
        }
    }

    /// The number that timer `index` interrupts by.
    fn number(&self, index: usize) -> u32 {
        match index {
            0 if self.saved.general & general::LEGACY != 0 => 0,
            1 if self.saved.general & general::LEGACY != 0 => 8,
            _ => (self.saved.timers[index].config >> config::ROUTE_SHIFT) as u32 & 0x1f,
        }
    }

    fn line(&mut self, index: usize) -> Option<IrqLine> {
        let number = self.number(index);
        match &self.lines[index] {
            Some((on, line)) if *on == number => return Some(line.clone()),
            Some((_, line)) => line.set(false),
            None => {}
        }
        let legacy = self.saved.general & general::LEGACY != 0 && index < 2;
        self.lines[index] = (legacy || ROUTES & 1 << number != 0)
            .then(|| (number, IrqLine::new(self.ports.irq.clone(), number)));
        self.lines[index].as_ref().map(|(_, line)| line.clone())
    }

    /// Brings a level-triggered line in step with the status bit.
    fn drive(&mut self, index: usize) {
        let timer = self.saved.timers[index];
        let pending = self.saved.status & 1 << index != 0;
        let high = pending
            && timer.is(config::LEVEL)
            && timer.is(config::ENABLE)
            && !timer.is(config::MESSAGE);
        if let Some(line) = self.line(index) {
            line.set(high);
        }
    }

    /// When the next match of an enabled timer is.
    fn next_match(&self) -> Option<Moment> {
        if !self.is_running() || self.paused {
            return None;
        }
        let counter = self.counter();
        let since = Moment::from_nanos(self.saved.since_ns);
        let ticks = self
            .saved
            .timers
            .iter()
            .filter(|timer| timer.armed && timer.is(config::ENABLE))
            .map(|timer| timer.ticks_to_match(counter))
            .min()?;
        // From the start of the count, so that roundings do not add up.
        let ticks = counter
            .wrapping_sub(self.saved.counter)
            .saturating_add(ticks);
        let due = since.after(Span::from_nanos(ticks.saturating_mul(TICK_NS)));
        Some(bounded_deadline(self.now, due))
    }
}

impl RegisterFile<Reg> for State {
    fn read(&mut self, register: Reg) -> u64 {
        match register {
            Reg::Capabilities => CAPABILITIES,
            Reg::General => self.saved.general,
            Reg::Status => self.saved.status,
            Reg::CounterLow => self.counter() & 0xffff_ffff,
            Reg::CounterHigh => self.counter() >> 32,
            Reg::Config(index) => self.saved.timers[index].config | config::FIXED,
            Reg::ComparatorLow(index) => self.saved.timers[index].comparator & 0xffff_ffff,
            Reg::ComparatorHigh(index) => self.saved.timers[index].comparator >> 32,
            Reg::MessageData(index) => u64::from(self.saved.timers[index].message.data),
            Reg::MessageAddress(index) => u64::from(self.saved.timers[index].message.address),
        }
    }

    fn write(&mut self, register: Reg, value: u64) {
        match register {
            Reg::Capabilities => {}
            Reg::General => {
                let counter = self.counter();
                self.saved.general = value;
                self.set_counter(counter);
                self.ports.legacy.set(value & general::LEGACY == 0);
                for index in 0..HPET_TIMERS {
                    self.drive(index);
                }
            }
            Reg::Status => {
                self.saved.status &= !value;
                for index in 0..HPET_TIMERS {
                    self.drive(index);
                }
            }
            Reg::CounterLow => self.set_counter((self.counter() & !0xffff_ffff) | value),
            Reg::CounterHigh => self.set_counter((self.counter() & 0xffff_ffff) | (value << 32)),
            Reg::Config(index) => {
                let timer = &mut self.saved.timers[index];
                timer.config = value & config::WRITABLE;
                timer.comparator &= timer.mask();
                timer.period &= timer.mask();
                if !timer.is(config::LEVEL) {
                    self.saved.status &= !(1 << index);
                }
                self.drive(index);
            }
            Reg::ComparatorLow(index) => {
                self.saved.timers[index].write_comparator(value, 0xffff_ffff);
            }
            Reg::ComparatorHigh(index) => {
                self.saved.timers[index].write_comparator(value << 32, !0xffff_ffff);
            }
            Reg::MessageData(index) => self.saved.timers[index].message.data = value as u32,
            Reg::MessageAddress(index) => self.saved.timers[index].message.address = value as u32,
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.saved.fmt(f)
    }
}

impl Hpet {
    /// An HPET whose counter stands at zero.
    pub fn new(ports: HpetPorts) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            clock: ports.clock.clone(),
            timer: ports.timers.register(this.clone()),
            state: Mutex::new(State {
                ports,
                saved: Saved::default(),
                lines: Default::default(),
                paused: false,
                now: Moment::START,
            }),
        })
    }

    /// Claims its window in the MMIO space.
    pub fn attach(self: &Arc<Self>, mmio: &AddressSpace) -> Result<(), SpaceError> {
        mmio.claim(self.name(), HPET_BASE, HPET_LENGTH, self.clone())
    }

    /// Does `work` on a state that is up to date, then arms for what comes next.
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.state);
        let before = state.counter();
        state.now = self.clock.now();
        state.catch_up(before);
        let result = work(&mut state);
        match state.next_match() {
            Some(due) => self.timer.arm(due),
            None => self.timer.disarm(),
        }
        result
    }
}

impl Task for Hpet {
    fn run(&self) {
        self.with(|_| {});
    }
}

impl BusDevice for Hpet {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if matches!(offset, 0xf0..0xf8) {
            // The busiest register by far, in guests that take it for their clock: no timers touched.
            let mut state = lock(&self.state);
            let (now, seen) = (self.clock.now(), state.now);
            state.now = now;
            REGISTERS.read(&mut *state, offset, data);
            // Matches in between are served when the timer fires.
            state.now = seen;
            return;
        }
        self.with(|state| REGISTERS.read(state, offset, data));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.with(|state| {
            let comparator = offset
                .checked_sub(0x108)
                .filter(|distance| distance % 0x20 == 0 && data.len() == 8)
                .map(|distance| (distance / 0x20) as usize)
                .and_then(|index| state.saved.timers.get_mut(index));
            if let (Some(timer), Ok(bytes)) = (comparator, data.try_into()) {
                // Both halves at once are one write, which matters to the bit that it clears.
                timer.write_comparator(u64::from_le_bytes(bytes), u64::MAX);
            } else {
                REGISTERS.write(state, offset, data);
            }
        });
    }
}

impl Lifecycle for Hpet {
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
        self.with(|state| {
            state.saved = Saved::default();
            state.ports.legacy.set(true);
            for (_, line) in state.lines.iter_mut().filter_map(Option::take) {
                line.set(false);
            }
        });
    }

    fn halt(&self) {
        self.pause();
    }

    fn save(&self) -> Option<Snapshot> {
        self.with(|state| {
            let counter = state.counter();
            let saved = Saved {
                counter,
                since_ns: 0,
                ..state.saved.clone()
            };
            Some(Snapshot::of(KIND, 1, &saved))
        })
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        self.reset();
        let mut saved = snapshot.open::<Saved>(self.name(), KIND, 1)?;
        self.with(|state| {
            saved.since_ns = state.now.as_nanos();
            saved.general &= general::ENABLE | general::LEGACY;
            saved.status &= (1 << HPET_TIMERS) - 1;
            for timer in &mut saved.timers {
                timer.config &= config::WRITABLE;
                timer.comparator &= timer.mask();
                timer.period &= timer.mask();
            }
            state.ports.legacy.set(saved.general & general::LEGACY == 0);
            state.saved = saved;
            for index in 0..HPET_TIMERS {
                state.drive(index);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_types::{ManualClock, RecordedMessages};

    #[derive(Default)]
    struct Pins(Mutex<Vec<(u32, bool)>>);
    impl IrqSink for Pins {
        fn raise(&self, pin: u32) {
            self.0.lock().unwrap().push((pin, true));
        }
        fn lower(&self, pin: u32) {
            self.0.lock().unwrap().push((pin, false));
        }
    }

    struct Rig {
        hpet: Arc<Hpet>,
        hand: ManualClock,
        timers: Timers,
        pins: Arc<Pins>,
        sent: RecordedMessages,
        legacy: Gate,
    }

    impl Rig {
        fn new() -> Self {
            let (clock, hand) = Clock::manual();
            let (timers, pins, legacy) = (Timers::new(), Arc::new(Pins::default()), Gate::open());
            let (msi, sent) = MsiSink::recording();
            let hpet = Hpet::new(HpetPorts {
                clock,
                timers: timers.clone(),
                irq: pins.clone(),
                msi,
                legacy: legacy.clone(),
            });
            Self {
                hpet,
                hand,
                timers,
                pins,
                sent,
                legacy,
            }
        }

        fn get(&self, offset: u64) -> u64 {
            let mut data = [0; 8];
            self.hpet.read(offset, &mut data);
            u64::from_le_bytes(data)
        }

        fn set(&self, offset: u64, value: u64) {
            self.hpet.write(offset, &value.to_le_bytes());
        }

        fn set32(&self, offset: u64, value: u32) {
            self.hpet.write(offset, &value.to_le_bytes());
        }

        /// Lets time pass, serving each deadline; returns what the pins did.
        fn pass(&self, ticks: u64) -> Vec<(u32, bool)> {
            let end = self.hpet.clock.now().after(Span::from_nanos(ticks * 10));
            while let Some(due) = self.timers.next_deadline().filter(|due| *due <= end) {
                self.hand.advance_to(due);
                self.timers.fire_due(due);
            }
            self.hand.advance_to(end);
            std::mem::take(&mut self.pins.0.lock().unwrap())
        }
    }

    #[test]
    fn the_counter_runs_when_it_is_enabled() {
        let rig = Rig::new();
        assert_eq!(rig.get(0), 0x0098_9680_8086_a201);
        rig.pass(500);
        assert_eq!(rig.get(0xf0), 0);
        rig.set(0x10, 1);
        rig.pass(500);
        assert_eq!(rig.get(0xf0), 500);
        rig.set(0x10, 0);
        rig.pass(500);
        assert_eq!(rig.get(0xf0), 500);
        rig.set(0xf0, 0xffff_ffff);
        rig.set(0x10, 1);
        rig.pass(1);
        assert_eq!(rig.get(0xf0), 0x1_0000_0000);
    }

    #[test]
    fn a_one_shot_timer_fires_once() {
        let rig = Rig::new();
        rig.set(0x10, 1);
        rig.set(0x100, 20 << 9 | 0x4);
        rig.set32(0x108, 5000);
        assert_eq!(rig.pass(4999), []);
        assert_eq!(rig.pass(1), [(20, true), (20, false)]);
        assert_eq!(rig.pass(1_000_000), []);
    }

    #[test]
    fn a_periodic_timer_as_linux_programs_it() {
        let rig = Rig::new();
        rig.set(0x10, 3);
        assert!(!rig.legacy.is_open());
        rig.pass(777);
        // Periodic, enabled, 32 bits, set value; then the first match, then the period.
        rig.set32(0x100, 0x14c);
        rig.set32(0x108, 777 + 4000);
        rig.set32(0x108, 4000);
        assert_eq!(rig.pass(3999), []);
        assert_eq!(rig.pass(1), [(0, true), (0, false)]);
        assert_eq!(rig.pass(40_000).len(), 20);
        rig.set(0x10, 1);
        assert!(rig.legacy.is_open());
    }

    #[test]
    fn matches_that_nobody_served_are_one_interrupt() {
        let rig = Rig::new();
        rig.set(0x10, 3);
        rig.set32(0x100, 0x4c);
        rig.set(0x108, 10_000);
        rig.set(0x108, 10_000);
        rig.hand.advance(Span::from_secs(1));
        assert_eq!(rig.timers.fire_due(rig.hpet.clock.now()), 1);
        assert_eq!(rig.pins.0.lock().unwrap().len(), 2);
        let to_go = rig.timers.next_deadline().unwrap();
        assert!(to_go.since(rig.hpet.clock.now()) <= Span::from_micros(100));
    }

    #[test]
    fn a_level_interrupt_stays_until_its_status_is_cleared() {
        let rig = Rig::new();
        rig.set(0x10, 1);
        rig.set(0x120, 21 << 9 | 0x6);
        rig.set(0x128, 100);
        assert_eq!(rig.pass(2000), [(21, true)]);
        assert_eq!(rig.get(0x20), 2);
        rig.set(0x20, 2);
        assert_eq!(rig.pass(0), [(21, false)]);
    }

    #[test]
    fn a_message_goes_where_the_guest_says() {
        let rig = Rig::new();
        rig.set(0x10, 1);
        rig.set(0x140, 0x4004);
        rig.set(0x150, 0xfee0_1000_0000_4055);
        rig.set(0x148, 100);
        assert_eq!(rig.pass(2000), []);
        let expected = MsiMessage {
            address: 0xfee0_1000,
            data: 0x4055,
        };
        assert_eq!(rig.sent.take(), [expected]);
    }

    #[test]
    fn a_match_that_was_missed_waits_a_whole_turn() {
        let rig = Rig::new();
        rig.set(0x10, 1);
        rig.set(0x100, 20 << 9 | 0x104);
        rig.pass(1000);
        rig.set32(0x108, 500);
        assert_eq!(rig.pass(0xffff_fe0b), []);
        assert_eq!(rig.pass(1).len(), 2);
    }

    #[test]
    fn a_saved_state_goes_on_on_another_clock() {
        let rig = Rig::new();
        rig.set(0x10, 3);
        rig.set32(0x100, 0x4c);
        rig.set(0x108, 10_000);
        rig.set(0x108, 10_000);
        rig.pass(1234);
        let saved = rig.hpet.save().unwrap();
        let other = Rig::new();
        other.hand.advance(Span::from_secs(3));
        other.hpet.restore(&saved).unwrap();
        assert_eq!(other.get(0xf0), 1234);
        assert_eq!(other.pass(8765), []);
        assert_eq!(other.pass(1), [(0, true), (0, false)]);
        assert!(!other.legacy.is_open());
    }
}
