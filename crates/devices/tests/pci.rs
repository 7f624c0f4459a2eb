//! PCI through its two configuration mechanisms, with windows in real address spaces.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::{Arc, Mutex};

use devices::bus::{AddressSpace, BusDevice};
use devices::lifecycle::Lifecycle;
use devices::pci::config::{command, reg};
use devices::pci::{
    Bar, Bridge, ConfigPorts, EcamWindow, Endpoint, Function, FunctionError, Identity, IntxPin,
    IntxRouter, PciAddress, SpaceMapper, Topology, TopologyError,
};
use proptest::prelude::*;
use vm_types::{GuestAddress, GuestMemory, IrqLine, MsiMessage, MsiSink, RecordedMessages};

/// A device with a window of each kind, whose reads answer with BAR number and offset.
struct Probe {
    function: Function,
    memory: GuestMemory,
    written: Mutex<Vec<(usize, u64, Vec<u8>)>>,
}

impl Probe {
    fn new(pin: IntxPin, msi: MsiSink) -> Arc<Self> {
        let identity = Identity {
            vendor: 0x01de,
            device: 0x0042,
            class: 0x01_08_02,
            revision: 3,
            subsystem_vendor: 0x01de,
            subsystem: 7,
        };
        let builder = Function::builder(identity)
            .bar(0, Bar::memory64(0x4000))
            .bar(2, Bar::ports(0x40))
            .bar(3, Bar::memory32(0x1000))
            .msix(4, 5, msi)
            .capability(0x09, &[0x10, 0xaa, 0xbb], &[0, 0x0f])
            .interrupt_pin(pin);
        let memory = GuestMemory::flat(0x1000)
            .unwrap()
            .gated(&builder.dma_gate());
        Arc::new(Self {
            function: builder.build().unwrap(),
            memory,
            written: Mutex::default(),
        })
    }
}

impl Endpoint for Probe {
    fn function(&self) -> &Function {
        &self.function
    }
    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        data.fill((bar as u8) << 4 | offset as u8 & 0xf);
    }
    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) {
        let mut written = self.written.lock().unwrap();
        written.push((bar, offset, data.to_vec()));
    }
}

#[derive(Default)]
struct Lines(Mutex<Vec<(u8, IntxPin, IrqLine)>>);

impl IntxRouter for Lines {
    fn line(&self, device: u8, pin: IntxPin) -> IrqLine {
        let line = IrqLine::unconnected();
        self.0.lock().unwrap().push((device, pin, line.clone()));
        line
    }
}

struct Machine {
    ports: AddressSpace,
    memory: AddressSpace,
    topology: Arc<Topology>,
    lines: Arc<Lines>,
    reset: Arc<Recorder>,
}

#[derive(Default)]
struct Recorder(Mutex<Vec<u8>>);

impl BusDevice for Recorder {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0x5a);
    }
    fn write(&self, _offset: u64, data: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(data);
    }
}

const ECAM: u64 = 0xe000_0000;

impl Machine {
    fn new() -> Self {
        let (ports, memory) = (AddressSpace::ports(), AddressSpace::mmio());
        let mapper = Arc::new(SpaceMapper::new(ports.clone(), memory.clone()));
        let lines = Arc::new(Lines::default());
        let topology = Arc::new(Topology::new(mapper, lines.clone()));
        let reset = Arc::new(Recorder::default());
        let mechanism = ConfigPorts::new(topology.clone(), Some(reset.clone()));
        ports
            .claim("config", 0xcf8, 8, Arc::new(mechanism))
            .unwrap();
        let ecam = Arc::new(EcamWindow::new(topology.clone()));
        memory
            .claim("ecam", ECAM, EcamWindow::size(256), ecam)
            .unwrap();
        Self {
            ports,
            memory,
            topology,
            lines,
            reset,
        }
    }

    fn read(&self, at: PciAddress, offset: u16) -> u32 {
        let id = u32::from(at.bus()) << 16
            | u32::from(at.device()) << 11
            | u32::from(at.function()) << 8;
        let select = 0x8000_0000 | id | u32::from(offset & 0xfc);
        self.ports.write(0xcf8, &select.to_le_bytes());
        let mut data = [0; 4];
        self.ports.read(0xcfc, &mut data);
        u32::from_le_bytes(data)
    }

    fn ecam(at: PciAddress, offset: u16) -> u64 {
        ECAM + (u64::from(at.bus()) << 20)
            + (u64::from(at.device()) << 15)
            + (u64::from(at.function()) << 12)
            + u64::from(offset)
    }

    fn write(&self, at: PciAddress, offset: u16, data: &[u8]) {
        self.memory.write(Self::ecam(at, offset), data);
    }

    fn byte_at(space: &AddressSpace, address: u64) -> u8 {
        let mut data = [0];
        space.read(address, &mut data);
        data[0]
    }
}

fn at(bus: u8, device: u8, function: u8) -> PciAddress {
    PciAddress::new(bus, device, function).unwrap()
}

fn one_probe() -> (Machine, Arc<Probe>, RecordedMessages) {
    let machine = Machine::new();
    let (msi, record) = MsiSink::recording();
    let probe = Probe::new(IntxPin::A, msi);
    machine.topology.add(at(0, 4, 0), probe.clone()).unwrap();
    (machine, probe, record)
}

#[test]
fn both_mechanisms_show_the_same_header() {
    let (machine, _probe, _) = one_probe();
    for (offset, expected) in [
        (reg::VENDOR, 0x0042_01de),
        (reg::REVISION, 0x0108_0203),
        (reg::SUBSYSTEM_VENDOR, 0x0007_01de),
        (reg::INTERRUPT_LINE, 0x0000_0100),
    ] {
        assert_eq!(machine.read(at(0, 4, 0), offset), expected, "{offset:#x}");
        let mut data = [0; 4];
        machine
            .memory
            .read(Machine::ecam(at(0, 4, 0), offset), &mut data);
        assert_eq!(u32::from_le_bytes(data), expected, "{offset:#x}");
    }
}

#[test]
fn what_is_absent_reads_as_all_ones_and_swallows_writes() {
    let (machine, _probe, _) = one_probe();
    for absent in [at(0, 5, 0), at(0, 4, 1), at(7, 4, 0), at(255, 31, 7)] {
        assert_eq!(machine.read(absent, 0), 0xffff_ffff, "{absent}");
        machine.write(absent, reg::COMMAND, &[7, 0]);
    }
}

#[test]
fn only_a_word_at_cf8_is_the_address_register() {
    let (machine, _probe, _) = one_probe();
    machine.ports.write(0xcf8, &0x8000_2000u32.to_le_bytes());
    machine.ports.write(0xcf9, &[0x06]);
    machine.ports.write(0xcf8, &[0xff]);
    machine.ports.write(0xcfa, &[0xff, 0xff]);
    assert_eq!(*machine.reset.0.lock().unwrap(), [6]);
    assert_eq!(Machine::byte_at(&machine.ports, 0xcf9), 0x5a);
    let mut data = [0; 4];
    machine.ports.read(0xcf8, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x8000_2000);
    // Bytes and words of the selected register are at the matching data ports.
    let mut word = [0; 2];
    machine.ports.read(0xcfe, &mut word);
    assert_eq!(word, [0x42, 0x00]);
    assert_eq!(Machine::byte_at(&machine.ports, 0xcfd), 0x01);
    // Without the enable bit nothing is selected.
    machine.ports.write(0xcf8, &0x0000_2000u32.to_le_bytes());
    machine.ports.read(0xcfc, &mut data);
    assert_eq!(data, [0xff; 4]);
}

#[test]
fn sizing_shows_each_windows_size() {
    let (machine, _probe, _) = one_probe();
    let bar = |n: u16| reg::BAR0 + n * 4;
    for n in 0..6 {
        machine.write(at(0, 4, 0), bar(n), &[0xff; 4]);
    }
    let sizes: Vec<u32> = (0..6).map(|n| machine.read(at(0, 4, 0), bar(n))).collect();
    assert_eq!(
        sizes,
        [
            0xffff_c004,
            0xffff_ffff,
            0xffff_ffc1,
            0xffff_f000,
            0xffff_e000,
            0
        ]
    );
}

#[test]
fn windows_appear_move_and_go_with_the_command_register() {
    let (machine, probe, _) = one_probe();
    let me = at(0, 4, 0);
    machine.write(me, 0x10, &0x80_0000_0000u64.to_le_bytes());
    machine.write(me, 0x18, &0xc000u32.to_le_bytes());
    machine.write(me, 0x1c, &0xc100_0000u32.to_le_bytes());
    assert!(!machine.memory.is_claimed(0x80_0000_0000));
    machine.write(me, reg::COMMAND, &command::MEMORY_SPACE.to_le_bytes());
    assert_eq!(Machine::byte_at(&machine.memory, 0x80_0000_0003), 0x03);
    assert_eq!(Machine::byte_at(&machine.memory, 0xc100_0004), 0x34);
    assert!(!machine.ports.is_claimed(0xc000));
    let all = command::MEMORY_SPACE | command::IO_SPACE;
    machine.write(me, reg::COMMAND, &all.to_le_bytes());
    assert_eq!(Machine::byte_at(&machine.ports, 0xc005), 0x25);
    // Sizing while decoding, then another place.
    machine.write(me, 0x1c, &[0xff; 4]);
    assert!(!machine.memory.is_claimed(0xc100_0000));
    machine.write(me, 0x1c, &0xc200_0000u32.to_le_bytes());
    machine.memory.write(0xc200_0010, &[1, 2]);
    assert_eq!(*probe.written.lock().unwrap(), [(3, 0x10, vec![1, 2])]);
    machine.write(me, reg::COMMAND, &[0, 0]);
    assert_eq!(machine.memory.windows().len(), 1);
    assert_eq!(machine.ports.windows().len(), 1);
}

#[test]
fn bus_mastering_opens_memory_and_messages() {
    let (machine, probe, record) = one_probe();
    let me = at(0, 4, 0);
    let (offset, table) = (0x40, 0xc300_0000u64);
    assert_eq!(machine.read(me, reg::CAPABILITIES) & 0xff, offset);
    machine.write(me, 0x20, &(table as u32).to_le_bytes());
    machine.write(me, offset as u16 + 2, &0x8000u16.to_le_bytes());
    machine.write(me, reg::COMMAND, &command::MEMORY_SPACE.to_le_bytes());
    machine
        .memory
        .write(table + 16, &0xfee0_0000u64.to_le_bytes());
    machine.memory.write(table + 24, &0x55u64.to_le_bytes());
    probe.function.fire(1);
    assert!(record.take().is_empty());
    assert!(probe.memory.write(GuestAddress(0), &[1]).is_err());
    let on = command::MEMORY_SPACE | command::BUS_MASTER;
    machine.write(me, reg::COMMAND, &on.to_le_bytes());
    probe.function.fire(1);
    let sent = MsiMessage {
        address: 0xfee0_0000,
        data: 0x55,
    };
    assert_eq!(record.take(), [sent]);
    probe.memory.write(GuestAddress(0), &[1]).unwrap();
}

#[test]
fn the_pin_obeys_disable_and_gives_way_to_msix() {
    let (machine, probe, _) = one_probe();
    let me = at(0, 4, 0);
    let line = machine.lines.0.lock().unwrap()[0].2.clone();
    probe.function.set_intx(true);
    assert!(line.level());
    assert_ne!(machine.read(me, reg::COMMAND) & 1 << 19, 0);
    machine.write(me, reg::COMMAND, &command::INTX_DISABLE.to_le_bytes());
    assert!(!line.level());
    assert_ne!(machine.read(me, reg::COMMAND) & 1 << 19, 0);
    machine.write(me, reg::COMMAND, &[0, 0]);
    assert!(line.level());
    machine.write(me, 0x42, &0x8000u16.to_le_bytes());
    assert!(!line.level());
    machine.write(me, 0x42, &[0, 0]);
    probe.function.set_intx(false);
    assert!(!line.level());
}

#[test]
fn capabilities_form_a_list_with_their_own_writable_bits() {
    let (machine, _probe, _) = one_probe();
    let me = at(0, 4, 0);
    assert_eq!(machine.read(me, 0x40) & 0xffff, 0x4c11);
    assert_eq!(machine.read(me, 0x40) >> 16, 4);
    assert_eq!(machine.read(me, 0x44), 4);
    assert_eq!(machine.read(me, 0x48), 0x1004);
    machine.write(me, 0x4c, &[0xff; 8]);
    assert_eq!(machine.read(me, 0x4c), 0xaf10_0009);
    assert_eq!(machine.read(me, 0x50) & 0xff, 0xbb);
}

#[test]
fn a_bridge_routes_by_the_guests_numbers_and_turns_the_pins() {
    let machine = Machine::new();
    let bridge = Arc::new(Bridge::new("bridge", 0x01de, 2).unwrap());
    let topology = &machine.topology;
    topology.add_bridge(at(0, 6, 0), bridge.clone(), 9).unwrap();
    let probe = Probe::new(IntxPin::A, MsiSink::unconnected());
    machine.topology.add(at(9, 3, 0), probe).unwrap();
    let wired: Vec<_> = {
        let lines = machine.lines.0.lock().unwrap();
        lines
            .iter()
            .map(|(device, pin, _)| (*device, *pin))
            .collect()
    };
    assert_eq!(wired, [(6, IntxPin::D)]);
    assert_eq!(machine.read(at(9, 3, 0), 0), 0xffff_ffff);
    assert_eq!(machine.read(at(0, 6, 0), reg::REVISION), 0x0604_0000);
    assert_eq!(machine.read(at(0, 6, 0), 0x0c) >> 16 & 0x7f, 1);
    machine.write(at(0, 6, 0), reg::PRIMARY_BUS, &[0, 2, 4, 0]);
    assert_eq!(machine.read(at(2, 3, 0), 0), 0x0042_01de);
    assert_eq!(machine.read(at(3, 3, 0), 0), 0xffff_ffff);
    let saved = bridge.save().unwrap();
    machine.topology.reset();
    assert_eq!(machine.read(at(2, 3, 0), 0), 0xffff_ffff);
    bridge.restore(&saved).unwrap();
    assert_eq!(machine.read(at(2, 3, 0), 0), 0x0042_01de);
}

#[test]
fn places_are_given_once_and_functions_know_of_each_other() {
    let (machine, _probe, _) = one_probe();
    let other = Probe::new(IntxPin::B, MsiSink::unconnected());
    let topology = &machine.topology;
    let taken = topology.add(at(0, 4, 0), other.clone());
    assert_eq!(taken, Err(TopologyError::Taken(at(0, 4, 0))));
    let nowhere = topology.add(at(3, 0, 0), other.clone());
    assert_eq!(nowhere, Err(TopologyError::NoBus(at(3, 0, 0))));
    assert_eq!(machine.read(at(0, 4, 0), 0x0c) >> 16 & 0xff, 0);
    topology.add(at(0, 4, 3), other).unwrap();
    assert_eq!(machine.read(at(0, 4, 0), 0x0c) >> 16 & 0xff, 0x80);
    assert_eq!(topology.addresses(), [at(0, 4, 0), at(0, 4, 3)]);
}

#[test]
fn declarations_that_cannot_be_are_refused() {
    let build = |index, bar| {
        Function::builder(Identity::default())
            .bar(index, bar)
            .build()
    };
    for (index, bar) in [
        (5, Bar::memory64(0x1000)),
        (6, Bar::memory32(0x1000)),
        (0, Bar::memory32(0x1800)),
    ] {
        assert_eq!(
            build(index, bar).err(),
            Some(FunctionError::Bar { index, bar })
        );
    }
    let overlapping = Function::builder(Identity::default())
        .bar(0, Bar::memory64(0x1000))
        .bar(1, Bar::memory32(0x1000));
    assert!(overlapping.build().is_err());
    let long = Function::builder(Identity::default()).capability(9, &[0; 200], &[]);
    assert!(long.build().is_err());
}

#[test]
fn a_saved_function_comes_back_with_its_windows() {
    let (machine, probe, _) = one_probe();
    let me = at(0, 4, 0);
    machine.write(me, 0x1c, &0xc100_0000u32.to_le_bytes());
    machine.write(me, reg::COMMAND, &[6, 0]);
    machine.write(me, reg::INTERRUPT_LINE, &[11]);
    let state = probe.function.save();
    let text = serde_json::to_string(&state).unwrap();
    probe.function.reset();
    assert!(!machine.memory.is_claimed(0xc100_0000));
    assert!(!probe.function.dma_gate().is_open());
    probe
        .function
        .restore(&serde_json::from_str(&text).unwrap())
        .unwrap();
    assert_eq!(probe.function.save(), state);
    assert!(machine.memory.is_claimed(0xc100_0000));
    assert!(probe.function.dma_gate().is_open());
}

proptest! {
    /// Whatever a guest writes to configuration space, the identity stays, nothing panics, and after a
    /// reset the spaces are as they were.
    #[test]
    fn arbitrary_configuration_writes_are_survived(
        writes in prop::collection::vec((0u64..0x1_8000, 0usize..4, any::<u64>()), 1..60)
    ) {
        let (machine, probe, _) = one_probe();
        let bridge = Arc::new(Bridge::new("bridge", 0x01de, 2).unwrap());
        machine.topology.add_bridge(at(0, 1, 0), bridge, 1).unwrap();
        let base = Machine::ecam(at(0, 4, 0), 0);
        for (offset, size, value) in writes {
            let length = 1 << size;
            // Mostly the probe, sometimes the bridge or nothing.
            let address = if offset < 0x1_0000 { base + offset % 0x100 } else { ECAM + 0x8000 + offset % 0x100 };
            machine.memory.write(address, &value.to_le_bytes()[..length]);
            let mut data = [0; 8];
            machine.memory.read(address, &mut data[..length]);
        }
        let mut id = [0; 4];
        probe.function.config_read(0, &mut id);
        prop_assert_eq!(id, [0xde, 0x01, 0x42, 0x00]);
        let state = probe.function.save();
        probe.function.reset();
        machine.topology.reset();
        prop_assert_eq!(machine.memory.windows().len(), 1);
        prop_assert_eq!(machine.ports.windows().len(), 1);
        probe.function.restore(&state).unwrap();
        prop_assert_eq!(probe.function.save(), state);
    }
}
