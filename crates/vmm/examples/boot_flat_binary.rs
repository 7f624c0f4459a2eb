//! A whole machine in a few lines: a multiboot image of 77 bytes says hello on COM1 and powers off.
//!
//! `cargo run -p vmm --example boot_flat_binary`

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use devices::serial::{Discard, SerialPeer};
use vmm::hypervisor::soft::Soft;
use vmm::lifecycle::{Event, drive, event_queue};
use vmm::machine::config::{
    BootConfig, ClockMode, ExitPolicy, HypervisorChoice, KernelConfig, MachineConfig,
};
use vmm::machine::{BuildPorts, build};

/// COM1's other end: standard output.
struct Terminal;

impl SerialPeer for Terminal {
    fn write(&self, bytes: &[u8]) {
        std::io::stdout().write_all(bytes).ok();
    }
}

/// 32-bit code: the text at its end to port 0x3f8, then S5.
const CODE: &[u8] = &[
    0xbe, 0x46, 0x00, 0x10, 0x00, // mov esi, text
    0xba, 0xf8, 0x03, 0x00, 0x00, // mov edx, 0x3f8
    0xb9, 0x07, 0x00, 0x00, 0x00, // mov ecx, 7
    0xf3, 0x6e, // rep outsb
    0xba, 0x04, 0xb0, 0x00, 0x00, // mov edx, 0xb004
    0xb8, 0x00, 0x20, 0x00, 0x00, // mov eax, 0x2000
    0x66, 0xef, // out dx, ax
    0xf4, 0xeb, 0xfd, // hlt, for ever
    0x90, 0x90, 0x90, 0x90, 0x90, 0x90, // up to the text
];

fn image() -> Vec<u8> {
    let (magic, flags, base) = (0x1bad_b002_u32, 0x1_0000_u32, 0x10_0000_u32);
    let checksum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    let header = [magic, flags, checksum, base, base, 0, 0, base + 32];
    let mut image: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.extend_from_slice(CODE);
    image.extend_from_slice(b"hello\r\n");
    image
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::temp_dir().join(format!("flat-{}.bin", std::process::id()));
    std::fs::write(&file, image())?;
    let config = MachineConfig {
        name: "flat".to_owned(),
        cpus: 1,
        memory_bytes: 4 << 20,
        hypervisor: HypervisorChoice::Soft,
        clock: ClockMode::Virtual,
        boot: BootConfig {
            bootrom: None,
            kernel: Some(KernelConfig {
                image: file.clone(),
                initrd: None,
                cmdline: String::new(),
            }),
        },
        bootrom_version: "none".to_owned(),
        boot_order: None,
        cpuid: None,
        disks: BTreeMap::new(),
        devices: BTreeMap::new(),
        exits: ExitPolicy::default(),
    };
    let (sender, events) = event_queue();
    let ports = BuildPorts {
        console: Arc::new(Terminal),
        debug: Arc::new(Discard),
        events: sender.clone(),
        backends: Default::default(),
    };
    let built = build(&Soft, config, &ports);
    std::fs::remove_file(&file)?;
    let mut machine = built?;
    sender.send(Event::Start);
    let code = drive(&mut machine, &events, ExitPolicy::default());
    let done = format!(
        "exit code {code} after {} instructions\n",
        machine.executed()
    );
    std::io::stdout().write_all(done.as_bytes())?;
    Ok(())
}
