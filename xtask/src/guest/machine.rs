//! A machine of one's own: a directory with its `vm.toml`, its disk images and its socket, and the
//! process that runs it. QEMU can stand in for `standalone`, to compare.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::debian;
use crate::measured::Measured;

/// Who runs the machine.
#[derive(Clone, Debug)]
pub(crate) enum Engine {
    /// This workspace's program, at this path.
    Standalone(PathBuf),
    /// QEMU's translator, with the nearest machine it has.
    Qemu,
}

/// A disk and the controller in front of it.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// The name of its tables in `vm.toml`.
    pub(crate) name: &'static str,
    /// `pci-nvme` or `pci-virtio-block`.
    pub(crate) driver: &'static str,
    /// Where its bytes are.
    pub(crate) medium: Medium,
    /// Device number on the first PCI bus.
    pub(crate) slot: u8,
}

/// Where a disk's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Medium {
    /// A raw image of this name in the machine's directory.
    Image(&'static str),
    /// A volume on three region servers; size and geometry are theirs.
    Volume(Volume),
}

/// A volume as `vm.toml` names it.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    /// Block size in bytes.
    pub(crate) block_size: u32,
    /// Data addresses of the three region servers.
    pub(crate) targets: [String; 3],
    /// What blocks are sealed with, in base64.
    pub(crate) key: Option<String>,
    /// Who comes with the highest has the volume; none leaves it to the program, which counts its own starts.
    pub(crate) generation: Option<u64>,
}

/// What the machine is made of.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Its name.
    pub(crate) name: &'static str,
    /// Virtual processors.
    pub(crate) cpus: u32,
    /// RAM in MiB.
    pub(crate) memory: u32,
    /// `auto`, `soft`, `kvm` or `bhyve`.
    pub(crate) hypervisor: String,
    /// `host` or `virtual`; none leaves it to the program.
    pub(crate) clock: Option<&'static str>,
    /// Kernel image.
    pub(crate) kernel: PathBuf,
    /// Initramfs.
    pub(crate) initrd: PathBuf,
    /// The kernel's command line.
    pub(crate) cmdline: String,
    /// Its disks.
    pub(crate) disks: Vec<Disk>,
}

impl Machine {
    /// The text of `vm.toml`.
    pub(crate) fn toml(&self) -> String {
        let mut text = String::new();
        let mut line = |words: std::fmt::Arguments<'_>| {
            // Writing to a string cannot fail.
            let _written = writeln!(text, "{words}");
        };
        line(format_args!("[main]"));
        line(format_args!("name = {}", string(self.name)));
        line(format_args!("cpus = {}", self.cpus));
        line(format_args!("memory = {}", self.memory));
        line(format_args!("hypervisor = {}", string(&self.hypervisor)));
        if let Some(clock) = self.clock {
            line(format_args!("clock = {}", string(clock)));
        }
        line(format_args!(
            "kernel = {}",
            string(&self.kernel.to_string_lossy())
        ));
        line(format_args!(
            "initrd = {}",
            string(&self.initrd.to_string_lossy())
        ));
        line(format_args!("cmdline = {}", string(&self.cmdline)));
        for disk in &self.disks {
            line(format_args!("\n[block_dev.{}]", disk.name));
            match &disk.medium {
                Medium::Image(image) => {
                    line(format_args!("type = \"file\""));
                    line(format_args!("path = {}", string(image)));
                }
                Medium::Volume(volume) => {
                    let targets = volume.targets.each_ref().map(|target| string(target));
                    line(format_args!("type = \"crucible\""));
                    line(format_args!("block_size = {}", volume.block_size));
                    line(format_args!("targets = [{}]", targets.join(", ")));
                    if let Some(key) = &volume.key {
                        line(format_args!("encryption_key = {}", string(key)));
                    }
                    if let Some(generation) = volume.generation {
                        line(format_args!("generation = {generation}"));
                    }
                }
            }
            line(format_args!("\n[dev.{}0]", disk.name));
            line(format_args!("driver = {}", string(disk.driver)));
            line(format_args!("block_dev = {}", string(disk.name)));
            line(format_args!("pci-path = \"0.{}.0\"", disk.slot));
        }
        text
    }

    /// Writes `vm.toml` into `directory`, and empty images of `bytes` for the disks that are images.
    pub(crate) fn prepare(&self, directory: &Path, bytes: u64) -> Result<(), String> {
        self.configure(directory)?;
        for disk in &self.disks {
            let Medium::Image(image) = disk.medium else {
                continue;
            };
            let place = directory.join(image);
            File::create(&place)
                .and_then(|file| file.set_len(bytes))
                .map_err(|error| format!("{}: {error}", place.display()))?;
        }
        Ok(())
    }

    /// Writes `vm.toml` into `directory`; images are whoever's who asks.
    pub(crate) fn configure(&self, directory: &Path) -> Result<(), String> {
        fs::create_dir_all(directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        let place = directory.join("vm.toml");
        fs::write(&place, self.toml()).map_err(|error| format!("{}: {error}", place.display()))?;
        // Sockets of an earlier run would be taken for this one's.
        for name in [SOCKET, CONTROL] {
            let socket = directory.join(name);
            if socket.exists() {
                fs::remove_file(&socket)
                    .map_err(|error| format!("{}: {error}", socket.display()))?;
            }
        }
        Ok(())
    }

    /// Starts the machine; its own messages go to `log` in the directory.
    ///
    /// It waits for a client on the console before the first instruction.
    pub(crate) fn start(&self, engine: &Engine, directory: &Path) -> Result<Measured, String> {
        let mut command = self.command(engine)?;
        let place = directory.join(LOG);
        let log = File::create(&place).map_err(|error| format!("{}: {error}", place.display()))?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        command
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        Measured::start(&mut command)
    }

    fn command(&self, engine: &Engine) -> Result<Command, String> {
        match engine {
            Engine::Standalone(program) => {
                let mut command = Command::new(program);
                command.arg("vm.toml");
                Ok(command)
            }
            Engine::Qemu => {
                let program = debian::provide("qemu-system-x86_64", "qemu-system-x86")?;
                let mut command = Command::new(program);
                command.args(["-M", "pc", "-nographic", "-monitor", "none", "-no-reboot"]);
                command.args(["-accel", "tcg", "-nic", "none"]);
                command.args(["-name", &format!("{},debug-threads=on", self.name)]);
                command.args([
                    "-m",
                    &self.memory.to_string(),
                    "-smp",
                    &self.cpus.to_string(),
                ]);
                command
                    .arg("-kernel")
                    .arg(&self.kernel)
                    .arg("-initrd")
                    .arg(&self.initrd);
                command.args(["-append", &self.cmdline]);
                command.args([
                    "-chardev",
                    &format!("socket,id=tty,path={SOCKET},server=on"),
                ]);
                command.args(["-serial", "chardev:tty"]);
                for disk in &self.disks {
                    let name = disk.name;
                    let Medium::Image(image) = disk.medium else {
                        return Err(format!("QEMU knows no volume, which disk {name} is on"));
                    };
                    command.args([
                        "-drive",
                        &format!("file={image},format=raw,if=none,id={name}"),
                    ]);
                    let device = match disk.driver {
                        // Without this, QEMU 7.2 loses completions under its translator: the guest waits a minute.
                        "pci-nvme" => format!("nvme,drive={name},serial={name},ioeventfd=off"),
                        _ => format!("virtio-blk-pci,drive={name}"),
                    };
                    command.args(["-device", &device]);
                }
                Ok(command)
            }
        }
    }
}

/// What the program says about a machine on the virtual clock when it has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// A hash of the guest's memory, in hexadecimal.
    pub(crate) hash: String,
    /// Guest instructions executed, on all processors.
    pub(crate) instructions: u64,
}

/// Reads the ending from the program's messages in `directory`.
///
/// Errors: no such message, or messages that cannot be read.
pub(crate) fn ending(directory: &Path) -> Result<Ending, String> {
    let place = directory.join(LOG);
    let log =
        fs::read_to_string(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    log.lines()
        .find_map(read_ending)
        .ok_or_else(|| format!("{}: no hash of the guest's memory", place.display()))
}

/// Messages are a JSON object a line when nobody watches.
fn read_ending(line: &str) -> Option<Ending> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(Ending {
        hash: value.get("hash")?.as_str()?.to_owned(),
        instructions: value.get("instructions")?.as_u64()?,
    })
}

/// File name of the console's socket.
pub(crate) const SOCKET: &str = "ttya";
/// File name of the control socket.
pub(crate) const CONTROL: &str = "ctl";
/// File name of the program's own messages.
pub(crate) const LOG: &str = "standalone.log";

/// A TOML basic string.
fn string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            character if character.is_control() => {
                quoted.push_str(&format!("\\u{:04X}", u32::from(character)));
            }
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            name: "demo",
            cpus: 2,
            memory: 256,
            hypervisor: "auto".to_owned(),
            clock: None,
            kernel: PathBuf::from("/k"),
            initrd: PathBuf::from("/i"),
            cmdline: "console=ttyS0".to_owned(),
            disks: vec![Disk {
                name: "root",
                driver: "pci-nvme",
                medium: Medium::Image("a.img"),
                slot: 16,
            }],
        }
    }

    #[test]
    fn the_file_reads_as_a_person_would_write_it() {
        let expected = "[main]\nname = \"demo\"\ncpus = 2\nmemory = 256\nhypervisor = \"auto\"\n\
            kernel = \"/k\"\ninitrd = \"/i\"\ncmdline = \"console=ttyS0\"\n\n[block_dev.root]\n\
            type = \"file\"\npath = \"a.img\"\n\n[dev.root0]\ndriver = \"pci-nvme\"\n\
            block_dev = \"root\"\npci-path = \"0.16.0\"\n";
        assert_eq!(machine().toml(), expected);
    }

    #[test]
    fn a_volume_is_named_by_its_servers() {
        let mut machine = machine();
        machine.disks[0].medium = Medium::Volume(Volume {
            block_size: 4096,
            targets: [1, 2, 3].map(|port| format!("127.0.0.1:{port}")),
            key: Some("AAEC".to_owned()),
            generation: None,
        });
        let expected = "\n[block_dev.root]\ntype = \"crucible\"\nblock_size = 4096\n\
            targets = [\"127.0.0.1:1\", \"127.0.0.1:2\", \"127.0.0.1:3\"]\nencryption_key = \"AAEC\"\n\n";
        assert!(machine.toml().contains(expected), "{}", machine.toml());
    }

    #[test]
    fn the_ending_is_read_from_the_messages() {
        let line = r#"{"msg":"end","hash":"00ff","instructions":12}"#;
        assert_eq!(
            read_ending(line),
            Some(Ending {
                hash: "00ff".to_owned(),
                instructions: 12
            })
        );
        assert_eq!(read_ending(r#"{"msg":"start"}"#), None);
        assert_eq!(read_ending("plain text"), None);
    }

    #[test]
    fn strings_are_escaped() {
        assert_eq!(string("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000A\"");
    }

    #[test]
    fn a_prepared_directory_holds_configuration_and_image() {
        let directory = std::env::temp_dir().join(format!("trivet-machine-{}", std::process::id()));
        machine().prepare(&directory, 4096).unwrap();
        assert_eq!(fs::metadata(directory.join("a.img")).unwrap().len(), 4096);
        assert!(
            fs::read_to_string(directory.join("vm.toml"))
                .unwrap()
                .starts_with("[main]")
        );
        fs::remove_dir_all(&directory).unwrap();
    }
}
