//! Whole machines on the scripted backend: the builder joins what it should, and the life cycle moves it.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use devices::serial::{Discard, SerialPeer};
use vmm::hypervisor::fake::{Fake, Step};
use vmm::hypervisor::{Capabilities, Exit, Suspend};
use vmm::lifecycle::{Ending, Event, drive, event_queue};
use vmm::machine::config::{
    BootConfig, ClockMode, DeviceConfig, DiskConfig, DiskKind, ExitPolicy, HypervisorChoice,
    KernelConfig, MachineConfig, PciPath,
};
use vmm::machine::{BuildError, BuildPorts, build};

#[derive(Default)]
struct Said(Mutex<Vec<u8>>);

impl SerialPeer for Said {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

fn config() -> MachineConfig {
    MachineConfig {
        name: "test".to_owned(),
        cpus: 1,
        memory_bytes: 4 << 20,
        hypervisor: HypervisorChoice::Auto,
        clock: ClockMode::Host,
        boot: BootConfig::default(),
        bootrom_version: "1".to_owned(),
        boot_order: None,
        cpuid: None,
        disks: BTreeMap::new(),
        devices: BTreeMap::new(),
        exits: ExitPolicy {
            on_halt: 2,
            on_reboot: None,
        },
    }
}

fn disk(bytes: u64) -> DiskConfig {
    DiskConfig {
        block_size: 512,
        read_only: false,
        skip_flush: false,
        kind: DiskKind::Null { bytes },
    }
}

fn at(slot: u8) -> PciPath {
    PciPath {
        bus: 0,
        slot,
        function: 0,
    }
}

/// Builds, starts and drives a machine to its end; returns exit code and what COM1 said.
fn run(config: MachineConfig, script: Vec<Step>) -> (u8, String) {
    let policy = config.exits;
    let said = Arc::new(Said::default());
    let (sender, events) = event_queue();
    let ports = BuildPorts {
        console: said.clone(),
        debug: Arc::new(Discard),
        events: sender.clone(),
        backends: Default::default(),
    };
    let fake = Fake {
        scripts: vec![script],
        ..Fake::default()
    };
    let mut machine = build(&fake, config, &ports).unwrap();
    sender.send(Event::Start);
    let code = drive(&mut machine, &events, policy);
    drop(machine);
    let said = String::from_utf8(said.0.lock().unwrap().clone()).unwrap();
    (code, said)
}

fn say(text: &str) -> Vec<Step> {
    text.bytes()
        .map(|byte| Step::Out(0x3f8, vec![byte]))
        .collect()
}

#[test]
fn the_serial_port_speaks_and_acpi_powers_off() {
    for clock in [ClockMode::Host, ClockMode::Virtual] {
        let mut script = say("hi");
        script.push(Step::Out(0xb004, vec![0x00, 0x20]));
        let machine = MachineConfig { clock, ..config() };
        assert_eq!(run(machine, script), (2, "hi".to_owned()));
    }
}

#[test]
fn each_way_to_reset_runs_the_script_again() {
    let port = |port, value| Step::Out(port, vec![value]);
    for reset in [
        port(0xcf9, 0x06),
        port(0x64, 0xfe),
        port(0x92, 0x01),
        Step::Exit(Exit::Suspend(Suspend::Reset)),
        Step::Exit(Exit::Suspend(Suspend::TripleFault)),
    ] {
        let mut machine = config();
        machine.exits.on_reboot = Some(5);
        let mut script = say("r");
        script.push(reset.clone());
        assert_eq!(run(machine, script), (5, "r".to_owned()), "{reset:?}");
    }
}

#[test]
fn configured_devices_sit_where_they_are_told() {
    let mut machine = config();
    machine.disks.insert("root".to_owned(), disk(1 << 20));
    machine.disks.insert("more".to_owned(), disk(1 << 20));
    let devices = [
        (
            "nvme",
            DeviceConfig::Nvme {
                disk: "root".to_owned(),
                path: at(4),
            },
        ),
        (
            "block",
            DeviceConfig::VirtioBlock {
                disk: "more".to_owned(),
                path: at(5),
            },
        ),
        ("rng", DeviceConfig::VirtioRng { path: at(6) }),
        ("panic", DeviceConfig::Pvpanic),
        ("exit", DeviceConfig::DebugExit { port: 0xf4 }),
    ];
    for (name, device) in devices {
        machine.devices.insert(name.to_owned(), device);
    }
    // Asks each slot who it is, then leaves by the exit port.
    let (sender, events) = event_queue();
    let ports = BuildPorts {
        console: Arc::new(Discard),
        debug: Arc::new(Discard),
        events: sender.clone(),
        backends: Default::default(),
    };
    let mut script = Vec::new();
    for slot in [0u32, 1, 4, 5, 6, 7] {
        let address = 0x8000_0000 | slot << 11;
        script.push(Step::Out(0xcf8, address.to_le_bytes().to_vec()));
        script.push(Step::In(0xcfc, 4));
    }
    script.push(Step::In(0x505, 1));
    script.push(Step::Out(0xf4, vec![1]));
    let fake = Fake {
        scripts: vec![script],
        ..Fake::default()
    };
    let policy = machine.exits;
    let mut built = build(&fake, machine, &ports).unwrap();
    sender.send(Event::Start);
    assert_eq!(drive(&mut built, &events, policy), 3);
    let unclaimed = built.unclaimed();
    assert_eq!((unclaimed.port_reads, unclaimed.port_writes), (0, 0));
    let vendors: Vec<u16> = fake
        .inputs
        .take()
        .iter()
        .take(6)
        .map(|data| u16::from_le_bytes([data[0], data[1]]))
        .collect();
    assert_eq!(vendors, [0x8086, 0x8086, 0x01de, 0x1af4, 0x1af4, 0xffff]);
}

#[test]
fn a_backend_that_brings_its_chips_gets_none_of_ours() {
    let (sender, _events) = event_queue();
    let ports = BuildPorts {
        console: Arc::new(Discard),
        debug: Arc::new(Discard),
        events: sender,
        backends: Default::default(),
    };
    // It says that it has clocks, which therefore nobody else claims; its scripts find the ports empty.
    let fake = Fake {
        scripts: vec![vec![Step::In(0x40, 1), Step::In(0x70, 1)]],
        capabilities: Capabilities {
            pit: true,
            rtc: true,
            hpet: true,
            ..Capabilities::default()
        },
        ..Fake::default()
    };
    let mut machine = build(&fake, config(), &ports).unwrap();
    vmm::lifecycle::Machine::release_vcpus(&mut machine);
    while machine.unclaimed().port_reads < 2 {
        std::thread::yield_now();
    }
}

#[test]
fn what_cannot_be_built_is_refused_by_name() {
    let refuse = |config: MachineConfig| {
        let (sender, _events) = event_queue();
        let ports = BuildPorts {
            console: Arc::new(Discard),
            debug: Arc::new(Discard),
            events: sender,
            backends: Default::default(),
        };
        build(&Fake::default(), config, &ports).unwrap_err()
    };
    let mut overlap = config();
    overlap
        .devices
        .insert("exit".to_owned(), DeviceConfig::DebugExit { port: 0x3f8 });
    let error = refuse(overlap);
    assert!(matches!(error, BuildError::Space(_)), "{error}");

    let mut no_disk = config();
    no_disk.devices.insert(
        "nvme".to_owned(),
        DeviceConfig::Nvme {
            disk: "root".to_owned(),
            path: at(4),
        },
    );
    let error = refuse(no_disk).to_string();
    assert_eq!(error, "[dev.nvme]: there is no disk \"root\"");

    let mut no_kernel = config();
    no_kernel.boot.kernel = Some(KernelConfig {
        image: PathBuf::from("/nonexistent/vmlinuz"),
        initrd: None,
        cmdline: String::new(),
    });
    let error = refuse(no_kernel).to_string();
    assert!(
        error.starts_with("kernel \"/nonexistent/vmlinuz\""),
        "{error}"
    );
}

#[test]
fn a_halted_machine_ends_on_request() {
    let (sender, events) = event_queue();
    let ports = BuildPorts {
        console: Arc::new(Discard),
        debug: Arc::new(Discard),
        events: sender.clone(),
        backends: Default::default(),
    };
    let mut machine = build(&Fake::default(), config(), &ports).unwrap();
    let button = machine.power_button();
    assert!(!button.press(), "no guest listens");
    sender.send(Event::Start);
    sender.send(Event::Halt(Ending::PowerOff));
    assert_eq!(drive(&mut machine, &events, ExitPolicy::default()), 0);
    let first = machine.memory_hash().unwrap();
    assert_eq!(first, machine.memory_hash().unwrap());
    drop(machine);
    assert!(!button.press());
}
