//! The board: interrupt controllers, clocks, chipset, serial ports, keyboard controller; whatever of it the
//! hypervisor does not bring along.

use std::sync::Arc;

use devices::bus::BusDevice;
use devices::chipset::{
    HOST_BRIDGE_AT, HostBridge, LPC_AT, Lpc, POWER_AT, PowerManagement, PowerPorts, ResetRegister,
};
use devices::irq::{IoApic, IoApicConfig, IoApicPorts, IrqFabric, Pic, PicPorts, PirqRouter};
use devices::lifecycle::Lifecycle;
use devices::misc::{DebugConsole, PostCode, Signal, SystemControl};
use devices::pci::{CONFIG_ADDRESS_PORT, CONFIG_PORTS, ConfigPorts, SpaceMapper, Topology};
use devices::ps2::{Ps2, Ps2Ports};
use devices::serial::{COM_PORTS, Discard, SerialPeer, Uart, UartConfig, UartPorts};
use devices::timer::{Hpet, HpetPorts, Pit, PitPorts, Rtc, RtcConfig, RtcPorts};
use vm_types::{Gate, IrqLine, IrqSink};

use super::clockwork::Clockwork;
use super::error::BuildError;
use super::io::MachineIo;
use crate::hypervisor::{Capabilities, Vm};
use crate::lifecycle::{Ending, Event, EventSender};
use crate::memory::Layout;

/// The IOAPIC's identifier: beyond those of the local APICs, which are the vCPUs' numbers, as far as its
/// four bits allow.
pub(super) const IOAPIC_ID: u8 = 0xf;

/// What the board is made from.
pub(super) struct PlatformPorts<'a> {
    pub(super) io: &'a Arc<MachineIo>,
    pub(super) vm: &'a dyn Vm,
    pub(super) capabilities: Capabilities,
    pub(super) clockwork: &'a Clockwork,
    pub(super) layout: &'a Layout,
    pub(super) cpus: u32,
    /// COM1.
    pub(super) console: Arc<dyn SerialPeer>,
    /// The debug console at port 0x402.
    pub(super) debug: Arc<dyn SerialPeer>,
    pub(super) events: &'a EventSender,
}

/// The board.
pub(super) struct Platform {
    pub(super) topology: Arc<Topology>,
    pub(super) config_ports: Arc<ConfigPorts>,
    pub(super) power: Arc<PowerManagement>,
    pub(super) com1: Arc<Uart>,
    /// Everything that lives and dies with the machine, in the order of its making.
    pub(super) parts: Vec<Arc<dyn Lifecycle>>,
}

impl Platform {
    pub(super) fn new(ports: &PlatformPorts<'_>) -> Result<Self, BuildError> {
        let mut parts: Vec<Arc<dyn Lifecycle>> = Vec::new();
        let irq = interrupts(ports, &mut parts)?;
        clocks(ports, &irq, &mut parts)?;

        let io = ports.io;
        let events = ports.events.clone();
        let reset = Signal::new(move || events.send(Event::Reset));
        let router = Arc::new(PirqRouter::new(irq.clone()));
        let mapper = SpaceMapper::new(io.ports.clone(), io.mmio.clone());
        let topology = Arc::new(Topology::new(Arc::new(mapper), Arc::new(router.clone())));

        let bridge = HostBridge::new().map_err(BuildError::function("host bridge"))?;
        topology.add(HOST_BRIDGE_AT, bridge.clone())?;
        let lpc = Lpc::new(router).map_err(BuildError::function("ISA bridge"))?;
        topology.add(LPC_AT, lpc.clone())?;
        let power = power(ports, &irq)?;
        topology.add(POWER_AT, power.clone())?;
        parts.extend([bridge as Arc<dyn Lifecycle>, lpc, power.clone()]);

        let reset_register = ResetRegister::new(reset.clone());
        let config_ports = Arc::new(ConfigPorts::new(
            topology.clone(),
            Some(reset_register.clone() as Arc<dyn BusDevice>),
        ));
        io.ports.claim(
            "pci configuration",
            CONFIG_ADDRESS_PORT,
            CONFIG_PORTS,
            config_ports.clone(),
        )?;
        parts.push(reset_register);

        let com1 = serial_ports(ports, &irq, &mut parts)?;
        legacy(ports, &irq, &reset, &mut parts)?;
        Ok(Self {
            topology,
            config_ports,
            power,
            com1,
            parts,
        })
    }
}

/// The machine's interrupt numbers, on the hypervisor's chips or ours.
fn interrupts(
    ports: &PlatformPorts<'_>,
    parts: &mut Vec<Arc<dyn Lifecycle>>,
) -> Result<Arc<dyn IrqSink>, BuildError> {
    if let Some(irqchip) = ports.vm.irqchip() {
        return Ok(irqchip);
    }
    let intr = IrqLine::new(ports.vm.interrupt_line(), 0);
    let pic = Arc::new(Pic::new(PicPorts { intr }));
    let msi = ports.vm.msi_sink();
    let ioapic = Arc::new(IoApic::new(
        IoApicPorts { msi },
        IoApicConfig { id: IOAPIC_ID },
    ));
    pic.attach(&ports.io.ports)?;
    ioapic.attach(&ports.io.mmio)?;
    ports.io.set_chips(pic.clone(), ioapic.clone());
    parts.extend([pic.clone() as Arc<dyn Lifecycle>, ioapic.clone()]);
    Ok(Arc::new(IrqFabric::new(Some(pic), Some(ioapic))))
}

fn clocks(
    ports: &PlatformPorts<'_>,
    irq: &Arc<dyn IrqSink>,
    parts: &mut Vec<Arc<dyn Lifecycle>>,
) -> Result<(), BuildError> {
    let (clock, timers) = (&ports.clockwork.clock, &ports.clockwork.timers);
    let line = |number| IrqLine::new(irq.clone(), number);
    let legacy = Gate::open();
    let has = ports.capabilities;
    if !has.pit {
        let pit = Pit::new(PitPorts {
            clock: clock.clone(),
            timers: timers.clone(),
            irq: line(0),
            legacy: legacy.clone(),
        });
        pit.attach(&ports.io.ports)?;
        parts.push(pit);
    }
    if !has.rtc {
        let rtc = Rtc::new(
            RtcPorts {
                clock: clock.clone(),
                timers: timers.clone(),
                irq: line(8),
                legacy: legacy.clone(),
            },
            RtcConfig {
                wall_start_ns: ports.clockwork.wall_start_ns(),
                low_memory_bytes: ports.layout.lowmem(),
                high_memory_bytes: ports.layout.highmem(),
                cpus: ports.cpus,
            },
        );
        rtc.attach(&ports.io.ports)?;
        parts.push(rtc);
    }
    if !has.hpet {
        let hpet = Hpet::new(HpetPorts {
            clock: clock.clone(),
            timers: timers.clone(),
            irq: irq.clone(),
            msi: ports.vm.msi_sink(),
            legacy,
        });
        hpet.attach(&ports.io.mmio)?;
        parts.push(hpet);
    }
    Ok(())
}

fn power(
    ports: &PlatformPorts<'_>,
    irq: &Arc<dyn IrqSink>,
) -> Result<Arc<PowerManagement>, BuildError> {
    let events = ports.events.clone();
    let power = PowerManagement::new(PowerPorts {
        clock: ports.clockwork.clock.clone(),
        timers: ports.clockwork.timers.clone(),
        sci: IrqLine::new(irq.clone(), devices::chipset::power::SCI_IRQ),
        power_off: Signal::new(move || events.send(Event::Halt(Ending::PowerOff))),
    });
    let power = power.map_err(BuildError::function("power management"))?;
    power.attach(&ports.io.ports)?;
    Ok(power)
}

/// COM1 on the console, COM2 to COM4 with nothing plugged in. Returns COM1.
fn serial_ports(
    ports: &PlatformPorts<'_>,
    irq: &Arc<dyn IrqSink>,
    parts: &mut Vec<Arc<dyn Lifecycle>>,
) -> Result<Arc<Uart>, BuildError> {
    let make = |index: usize, peer: Arc<dyn SerialPeer>| -> Result<Arc<Uart>, BuildError> {
        let (base, interrupt) = COM_PORTS[index];
        let uart = Uart::new(
            UartPorts {
                clock: ports.clockwork.clock.clone(),
                timers: ports.clockwork.timers.clone(),
                irq: IrqLine::new(irq.clone(), interrupt),
                peer,
            },
            UartConfig {
                name: format!("com{}", index + 1),
            },
        );
        uart.attach(&ports.io.ports, base)?;
        Ok(uart)
    };
    let com1 = make(0, ports.console.clone())?;
    parts.push(com1.clone());
    for index in 1..COM_PORTS.len() {
        parts.push(make(index, Arc::new(Discard))?);
    }
    Ok(com1)
}

/// What is left of the PC of old.
fn legacy(
    ports: &PlatformPorts<'_>,
    irq: &Arc<dyn IrqSink>,
    reset: &Signal,
    parts: &mut Vec<Arc<dyn Lifecycle>>,
) -> Result<(), BuildError> {
    let space = &ports.io.ports;
    let ps2 = Ps2::new(Ps2Ports {
        keyboard_irq: IrqLine::new(irq.clone(), 1),
        mouse_irq: IrqLine::new(irq.clone(), 12),
        reset: reset.clone(),
    });
    ps2.attach(space)?;
    let system_control = SystemControl::new(reset.clone());
    system_control.attach(space)?;
    let post = PostCode::new();
    post.attach(space)?;
    let debug = DebugConsole::new(
        ports.debug.clone(),
        ports.clockwork.clock.clone(),
        &ports.clockwork.timers,
    );
    debug.attach(space)?;
    parts.extend([ps2 as Arc<dyn Lifecycle>, system_control, post, debug]);
    Ok(())
}
