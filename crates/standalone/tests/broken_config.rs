//! Broken configuration files and what is said about each: `tests/broken/NAME.toml` and `NAME.txt`.
//!
//! `FIXTURES` in a file stands for a directory made here. `UPDATE_GOLDEN=1` rewrites the texts.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};

use standalone::config;
use standalone::config::volume::{
    GivenShape, REQUEST_TIMEOUT, REQUEST_TIMEOUT_VIRTIO, VolumeConfig,
};

/// A directory of files for configurations to name; removed when dropped.
struct Fixtures(PathBuf);

impl Fixtures {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("trivet-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let fixtures = Self(path);
        std::fs::write(fixtures.0.join("kernel"), kernel()).unwrap();
        fixtures.file("disk.img", 1 << 20);
        fixtures.file("rom.fd", 8192);
        fixtures.file("odd.fd", 5000);
        fixtures.file("big.fd", (16 << 20) + 4096);
        fixtures.file("empty", 0);
        fixtures.file("small.img", 100);
        fixtures.file("large", 512 * 512 + 1);
        fixtures
    }

    fn file(&self, name: &str, length: u64) {
        let file = std::fs::File::create(self.0.join(name)).unwrap();
        file.set_len(length).unwrap();
    }

    fn fill_in(&self, text: &str) -> String {
        let name = self.0.file_name().unwrap().to_str().unwrap();
        text.replace("FIXTURES_NAME", name)
            .replace("FIXTURES", self.0.to_str().unwrap())
    }
}

/// The smallest multiboot image: a header with addresses, and HLT.
fn kernel() -> Vec<u8> {
    let (magic, flags, base) = (0x1bad_b002_u32, 0x1_0000_u32, 0x10_0000_u32);
    let checksum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    let words = [
        magic,
        flags,
        checksum,
        base,
        base,
        0,
        0,
        base + 32,
        0xf4f4_f4f4,
    ];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

impl Drop for Fixtures {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

#[test]
fn each_broken_file_is_refused_with_place_table_and_key() {
    let fixtures = Fixtures::new("broken");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "toml"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 30, "{} files", paths.len());
    let mut wrong = Vec::new();
    for path in &paths {
        let text = fixtures.fill_in(&std::fs::read_to_string(path).unwrap());
        let said = match config::parse("vm.toml".into(), &text) {
            Ok(_) => "accepted\n".to_owned(),
            Err(errors) => errors.iter().map(|error| format!("{error}\n")).collect(),
        };
        let said = said.replace(fixtures.0.to_str().unwrap(), "FIXTURES");
        let golden = path.with_extension("txt");
        if update {
            std::fs::write(&golden, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if said != expected || said == "accepted\n" {
            wrong.push(format!("{}:\n{said}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A file as a user of propolis-standalone has it, with every table that both programs know.
const FULL: &str = r##"
[main]
name = "testvm"
cpus = 4
bootrom = "FIXTURES/rom.fd"
bootrom_version = "v1"
memory = 4096
use_reservoir = false
cpuid_profile = "mine"
cpu_binding = "any"
exit_on_halt = 3
exit_on_reboot = 4
boot_order = ["disk0"]
acpi_variant = "V0"

[block_dev.root]
type = "file"
path = "FIXTURES/disk.img"
workers = 4

[block_dev.scratch]
type = "mem-async"
size = 1048576
block_size = 4096

[block_dev.seed]
type = "cloudinit"

[block_dev.volume]
type = "crucible"
block_size = 4096
blocks_per_extent = 16384
extent_count = 512
targets = ["127.0.0.1:8810", "127.0.0.1:8820", "[::1]:8830"]
generation = 7
upstairs_id = "0b5e0e3c-8f0e-4a6e-9c4e-3f6f5a1d2b7c"
lossy = false
flush_timeout = 0.25
control_addr = "127.0.0.1:0"
read_only = false
encryption_key = "tCw7zw0hAsPuxMOTWwnPEFYjBK9qJRtYyGdEXKEnrg0="

[block_dev.learned]
type = "crucible"
targets = ["127.0.0.1:8910", "127.0.0.1:8920", "127.0.0.1:8930"]

[block_dev.passing]
type = "crucible-mem"
size = 1048576

[block_dev."an \"odd\"\n\u007fname"]
type = "null"

[dev.disk0]
driver = "pci-nvme"
block_dev = "root"
pci-path = "0.16.0"

[dev.disk3]
driver = "pci-nvme"
block_dev = "volume"
pci-path = "0.19.0"

[dev.disk4]
driver = "pci-virtio-block"
block_dev = "learned"
pci-path = "0.20.0"

[dev.disk5]
driver = "pci-nvme"
block_dev = "passing"
pci-path = "0.21.0"

[dev.disk1]
driver = "pci-virtio-block"
block_dev = "scratch"
pci-path = "0.17.0"

[dev.disk2]
driver = "pci-virtio-block"
block_dev = "seed"
pci-path = "0.18.0"

[dev.panic]
driver = "qemu-pvpanic"
enable_isa = true

[cloudinit]
user-data = '''
#cloud-config
'''
meta-data-path = "FIXTURES/small.img"

[cpuid.mine]
vendor = "amd"
"0" = [0x10, 0x68747541, 0x444d4163, 0x69746e65]
"B-1" = [1, 2, 3, 4]
"##;

#[test]
fn a_full_file_is_understood_and_its_print_out_means_the_same() {
    let fixtures = Fixtures::new("full");
    let first = config::parse("vm.toml".into(), &fixtures.fill_in(FULL)).unwrap();
    assert_eq!(first.machine.cpus, 4);
    assert_eq!(first.machine.memory_bytes, 4 << 30);
    assert_eq!(first.machine.disks.len(), 7);
    assert_eq!(first.machine.devices.len(), 7);
    let crucible = |name: &str| match &first.volumes[name] {
        VolumeConfig::Crucible(config) => (**config).clone(),
        other => unreachable!("{other:?}"),
    };
    let (volume, learned) = (crucible("volume"), crucible("learned"));
    assert_eq!(volume.shape.whole().unwrap().bytes(), 32 << 30);
    assert_eq!((volume.generation, learned.generation), (Some(7), None));
    assert_eq!(learned.shape, GivenShape::default());
    assert_eq!(volume.request_timeout, REQUEST_TIMEOUT);
    assert_eq!(learned.request_timeout, REQUEST_TIMEOUT_VIRTIO);
    let memory = VolumeConfig::Memory {
        block_size: 512,
        blocks: 2048,
    };
    assert_eq!(first.volumes["passing"], memory);
    assert_eq!(first.machine.exits.on_reboot, Some(4));
    let printed = config::print_toml(&first);
    let second = config::parse("printed.toml".into(), &printed).unwrap();
    assert_eq!(first.machine, second.machine);
    // The key is nowhere but in the file.
    for shown in [
        &printed,
        &config::print_json(&first).to_string(),
        &format!("{first:?}"),
    ] {
        assert!(!shown.contains("tCw7zw0h"), "{shown}");
    }
    let mut first_json = config::print_json(&first);
    let volume = first_json["block_dev.volume"].as_object_mut().unwrap();
    assert_eq!(volume.remove("encryption_key").unwrap(), "(not shown)");
    assert_eq!(first_json, config::print_json(&second));
}

#[test]
fn the_schema_text_names_every_table() {
    let text = config::schema_text();
    for word in [
        "[main]",
        "[block_dev.NAME]",
        "[dev.NAME]",
        "[cloudinit]",
        "[cpuid.NAME]",
        "isa-debug-exit",
        "not in this build yet",
    ] {
        assert!(text.contains(word), "{word}");
    }
}
