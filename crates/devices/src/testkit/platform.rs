//! A whole board without CPUs: every platform device in its place, on one clock, with records of what
//! reaches the CPUs. Also the shortest description of how the devices fit together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vm_types::{
    Clock, Gate, GuestMemory, IrqLine, ManualClock, MsiSink, RecordedMessages, Span, Timers,
};

use crate::bus::{AddressSpace, BusDevice, SpaceView};
use crate::chipset::{
    HOST_BRIDGE_AT, HostBridge, LPC_AT, Lpc, POWER_AT, PowerManagement, PowerPorts, ResetRegister,
};
use crate::firmware::{
    AcpiConfig, AcpiTables, FwCfg, FwCfgItems, FwCfgPorts, MemoryLayout, Smbios, SmbiosConfig,
};
use crate::irq::{IoApic, IoApicConfig, IoApicPorts, IrqFabric, Pic, PicPorts, PirqRouter};
use crate::lifecycle::Lifecycle;
use crate::misc::{
    DebugConsole, DebugExit, PostCode, Pvpanic, Signal, SystemControl, debug_exit::DEBUG_EXIT_PORT,
};
use crate::pci::{
    CONFIG_ADDRESS_PORT, CONFIG_PORTS, ConfigPorts, EcamWindow, SpaceMapper, Topology,
};
use crate::ps2::{Ps2, Ps2Ports};
use crate::serial::{COM_PORTS, Discard, Uart, UartConfig, UartPorts};
use crate::timer::{Hpet, HpetPorts, Pit, PitPorts, Rtc, RtcConfig, RtcPorts};

/// RAM of the board in bytes.
const RAM_BYTES: u64 = 2 << 20;

/// The board.
pub struct PlatformRig {
    /// The machine's time.
    pub clock: Clock,
    /// Its hand.
    pub hand: ManualClock,
    /// All timers.
    pub timers: Timers,
    /// The port space.
    pub ports: AddressSpace,
    /// The MMIO space.
    pub mmio: AddressSpace,
    /// RAM from address 0.
    pub memory: GuestMemory,
    /// The PIC pair.
    pub pic: Arc<Pic>,
    /// Its INTR output.
    pub intr: IrqLine,
    /// The IOAPIC.
    pub ioapic: Arc<IoApic>,
    /// Interrupt messages to the CPUs.
    pub messages: RecordedMessages,
    /// COM1 to COM4.
    pub serial: Vec<Arc<Uart>>,
    /// Keyboard and mouse.
    pub ps2: Arc<Ps2>,
    /// Power management.
    pub power: Arc<PowerManagement>,
    /// How often something pulled the reset pin.
    pub resets: Arc<AtomicU32>,
    /// How often the guest switched itself off.
    pub offs: Arc<AtomicU32>,
    /// Everything that is saved, reset and paused.
    pub parts: Vec<Arc<dyn Lifecycle>>,
    view: SpaceView,
}

fn counter() -> (Signal, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let seen = count.clone();
    let signal = Signal::new(move || {
        seen.fetch_add(1, Ordering::SeqCst);
    });
    (signal, count)
}

impl Default for PlatformRig {
    fn default() -> Self {
        Self::new()
    }
}

impl PlatformRig {
    /// A board after power-on.
    ///
    /// # Panics
    /// If the devices do not fit together.
    #[expect(
        clippy::unwrap_used,
        reason = "a test driver stops at the first surprise"
    )]
    pub fn new() -> Self {
        let (clock, hand) = Clock::manual();
        let timers = Timers::new();
        let (ports, mmio) = (AddressSpace::ports(), AddressSpace::mmio());
        let memory = GuestMemory::flat(RAM_BYTES).unwrap();
        let layout = MemoryLayout {
            ecam_buses: 1,
            ..MemoryLayout::of(RAM_BYTES)
        };
        let mut parts: Vec<Arc<dyn Lifecycle>> = Vec::new();

        let intr = IrqLine::unconnected();
        let pic = Arc::new(Pic::new(PicPorts { intr: intr.clone() }));
        pic.attach(&ports).unwrap();
        let (msi, messages) = MsiSink::recording();
        let ioapic = Arc::new(IoApic::new(
            IoApicPorts { msi: msi.clone() },
            IoApicConfig::default(),
        ));
        ioapic.attach(&mmio).unwrap();
        let fabric = Arc::new(IrqFabric::new(Some(pic.clone()), Some(ioapic.clone())));
        let pirq = Arc::new(PirqRouter::new(fabric.clone()));

        let legacy = Gate::open();
        let pit = Pit::new(PitPorts {
            clock: clock.clone(),
            timers: timers.clone(),
            irq: fabric.line(0),
            legacy: legacy.clone(),
        });
        pit.attach(&ports).unwrap();
        let rtc = Rtc::new(
            RtcPorts {
                clock: clock.clone(),
                timers: timers.clone(),
                irq: fabric.line(8),
                legacy: legacy.clone(),
            },
            RtcConfig {
                wall_start_ns: 1_795_269_598_000_000_000,
                low_memory_bytes: layout.low_bytes,
                high_memory_bytes: layout.high_bytes,
                cpus: 2,
            },
        );
        rtc.attach(&ports).unwrap();
        let hpet = Hpet::new(HpetPorts {
            clock: clock.clone(),
            timers: timers.clone(),
            irq: fabric.clone(),
            msi,
            legacy,
        });
        hpet.attach(&mmio).unwrap();

        let mut serial = Vec::new();
        for (index, (base, irq)) in (1..).zip(COM_PORTS) {
            let uart = Uart::new(
                UartPorts {
                    clock: clock.clone(),
                    timers: timers.clone(),
                    irq: fabric.line(irq),
                    peer: Arc::new(Discard),
                },
                UartConfig {
                    name: format!("com{index}"),
                },
            );
            uart.attach(&ports, base).unwrap();
            parts.push(uart.clone());
            serial.push(uart);
        }
        let ((reset, resets), (power_off, offs)) = (counter(), counter());
        let ps2 = Ps2::new(Ps2Ports {
            keyboard_irq: fabric.line(1),
            mouse_irq: fabric.line(12),
            reset: reset.clone(),
        });
        ps2.attach(&ports).unwrap();

        let debug_console = DebugConsole::new(Arc::new(Discard), clock.clone(), &timers);
        debug_console.attach(&ports).unwrap();
        let debug_exit = DebugExit::new(|_| {});
        debug_exit.attach(&ports, DEBUG_EXIT_PORT).unwrap();
        let pvpanic = Pvpanic::new(|_| {});
        pvpanic.attach(&ports).unwrap();
        let post = PostCode::new();
        post.attach(&ports).unwrap();
        let system_control = SystemControl::new(reset.clone());
        system_control.attach(&ports).unwrap();

        let power = PowerManagement::new(PowerPorts {
            clock: clock.clone(),
            timers: timers.clone(),
            sci: fabric.line(crate::chipset::power::SCI_IRQ),
            power_off,
        })
        .unwrap();
        power.attach(&ports).unwrap();
        let host_bridge = HostBridge::new().unwrap();
        let lpc = Lpc::new(pirq.clone()).unwrap();
        let mapper = Arc::new(SpaceMapper::new(ports.clone(), mmio.clone()));
        let topology = Arc::new(Topology::new(mapper, Arc::new(pirq)));
        topology.add(HOST_BRIDGE_AT, host_bridge.clone()).unwrap();
        topology.add(LPC_AT, lpc.clone()).unwrap();
        topology.add(POWER_AT, power.clone()).unwrap();
        let reset_register = ResetRegister::new(reset);
        let reset_window: Arc<dyn BusDevice> = reset_register.clone();
        let config_ports = ConfigPorts::new(topology.clone(), Some(reset_window));
        ports
            .claim(
                "pci-config",
                CONFIG_ADDRESS_PORT,
                CONFIG_PORTS,
                Arc::new(config_ports),
            )
            .unwrap();
        let ecam = Arc::new(EcamWindow::new(topology));
        mmio.claim(
            "pci-ecam",
            crate::firmware::layout::ECAM_BASE,
            EcamWindow::size(1),
            ecam,
        )
        .unwrap();

        let mut items = FwCfgItems::new(&layout, 2);
        items.acpi(&AcpiTables::new(&AcpiConfig {
            cpus: 2,
            ioapic_id: 0,
            layout: layout.clone(),
            serial_ports: COM_PORTS
                .iter()
                .map(|(base, irq)| (*base as u16, *irq as u8))
                .collect(),
            ps2: true,
            pvpanic: true,
            fw_cfg: true,
        }));
        items.smbios(&Smbios::new(&SmbiosConfig {
            firmware_version: "test".to_owned(),
            product: "rig".to_owned(),
            serial: String::new(),
            uuid: uuid::Uuid::nil(),
            cpus: 2,
            cpu_id: (0, 0),
            cpu_name: String::new(),
            layout,
        }));
        let fw_cfg = FwCfg::new(
            FwCfgPorts {
                memory: memory.clone(),
            },
            items,
        );
        fw_cfg.attach(&ports).unwrap();

        parts.extend([
            pic.clone() as Arc<dyn Lifecycle>,
            ioapic.clone(),
            pit,
            rtc,
            hpet,
            ps2.clone(),
            debug_console,
            debug_exit,
            pvpanic,
            post,
            system_control,
            power.clone(),
            host_bridge,
            lpc,
            reset_register,
            fw_cfg,
        ]);
        let view = ports.view();
        Self {
            clock,
            hand,
            timers,
            ports,
            mmio,
            memory,
            pic,
            intr,
            ioapic,
            messages,
            serial,
            ps2,
            power,
            resets,
            offs,
            parts,
            view,
        }
    }

    /// A one-byte port read, through a view as a CPU has it.
    pub fn inb(&mut self, port: u64) -> u8 {
        let mut data = [0];
        self.view.read(port, &mut data);
        data[0]
    }

    /// A one-byte port write.
    pub fn outb(&mut self, port: u64, value: u8) {
        self.view.write(port, &[value]);
    }

    /// A four-byte port read.
    pub fn inl(&mut self, port: u64) -> u32 {
        let mut data = [0; 4];
        self.view.read(port, &mut data);
        u32::from_le_bytes(data)
    }

    /// A four-byte port write.
    pub fn outl(&mut self, port: u64, value: u32) {
        self.view.write(port, &value.to_le_bytes());
    }

    /// A four-byte MMIO read.
    pub fn readl(&self, address: u64) -> u32 {
        let mut data = [0; 4];
        self.mmio.read(address, &mut data);
        u32::from_le_bytes(data)
    }

    /// A four-byte MMIO write.
    pub fn writel(&self, address: u64, value: u32) {
        self.mmio.write(address, &value.to_le_bytes());
    }

    /// Reads a configuration register of a function of bus 0 by the ports.
    pub fn config_read(&mut self, device: u32, function: u32, offset: u32) -> u32 {
        self.outl(
            0xcf8,
            1 << 31 | device << 11 | function << 8 | offset & 0xfc,
        );
        self.inl(0xcfc)
    }

    /// Programs an IOAPIC entry for CPU 0.
    pub fn route(&self, pin: u32, low: u32) {
        let base = crate::irq::ioapic::IOAPIC_BASE;
        for (index, value) in [(0x11 + 2 * pin, 0), (0x10 + 2 * pin, low)] {
            self.writel(base, index);
            self.writel(base + 0x10, value);
        }
    }

    /// Lets time pass and serves what is due on the way, each deadline at its moment; at most `limit`
    /// of them.
    pub fn pass(&mut self, span: Span, limit: usize) {
        let end = self.clock.now().after(span);
        for _ in 0..limit {
            match self.timers.next_deadline().filter(|due| *due <= end) {
                Some(due) => {
                    self.hand.advance_to(due);
                    self.timers.fire_due(self.clock.now());
                }
                None => break,
            }
        }
        self.hand.advance_to(end);
    }
}

impl std::fmt::Debug for PlatformRig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlatformRig")
            .field("ports", &self.ports)
            .field("mmio", &self.mmio)
            .finish_non_exhaustive()
    }
}
