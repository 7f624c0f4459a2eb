//! From checked tables to a machine: references between tables, files, and what contradicts itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vmm::machine::config::{
    BootConfig, CHIPSET_FUNCTIONS, ClockMode, DeviceConfig, DiskConfig, DiskKind, ExitPolicy,
    HypervisorChoice, KernelConfig, MachineConfig, PciPath,
};

use super::document::{Entry, Raw};
use super::error::{ConfigError, Problem};
use super::read::{Findings, Table, read_table, read_variant};
use super::schema::{BLOCK_DEV, CLOUDINIT, DEV, Family, MAIN, Presence, TOP_LEVEL, nearest};
use super::volume::{self, REQUEST_TIMEOUT_VIRTIO, VolumeConfig};
use super::{Config, cpuid, files};
use crate::cloudinit;
use crate::stop::Deadlines;

type Entries = BTreeMap<String, Entry>;

/// Largest file that a cloud-init item is read from; far more than fits the volume.
const CLOUDINIT_FILE_MAX: u64 = 1 << 20;

/// Largest command line that the boot protocol's loaders take.
const CMDLINE_MAX: usize = 2047;

pub(super) fn lower(file: Arc<str>, document: &Entries) -> Result<Config, Vec<ConfigError>> {
    let mut findings = Findings::new(file);
    let config = Lowering {
        findings: &mut findings,
        warnings: Vec::new(),
    }
    .all(document);
    findings.finish(config)
}

struct Lowering<'a> {
    findings: &'a mut Findings,
    warnings: Vec<String>,
}

/// A `[block_dev.NAME]`, lowered, and whether it can be written.
struct Disk {
    config: DiskConfig,
    volume: Option<VolumeConfig>,
    line: u32,
}

impl Lowering<'_> {
    fn all(mut self, document: &Entries) -> Option<Config> {
        for (word, entry) in document {
            if !TOP_LEVEL.contains(&word.as_str()) {
                let nearest = nearest(word, TOP_LEVEL).map(str::to_owned);
                let problem = Problem::UnknownTable { nearest };
                self.findings.in_table(entry.line, word, problem);
            }
        }
        let main = self.main_table(document);
        let cloudinit = self.single(document, "cloudinit");
        let cloudinit = cloudinit.map(|(line, entries)| {
            read_table("cloudinit", line, entries, CLOUDINIT, self.findings)
        });
        let image = self.cloudinit(cloudinit.as_ref());
        let cpuid = self.cpuid_tables(document);
        let disks = self.family(document, &BLOCK_DEV);
        let devices = self.family(document, &DEV);

        let mut lowered_disks = self.disks(&disks, image);
        let lowered_devices = self.devices(document, &devices, &lowered_disks);
        patience_behind_virtio(&disks, &lowered_devices, &mut lowered_disks);
        let main = main?;
        let boot = self.boot(&main);
        self.sockets(&main);
        self.name(&main);
        self.boot_order(&main, &devices);
        let profile = self.profile(&main, &cpuid);
        for (name, disk) in &lowered_disks {
            let used = lowered_devices.values().any(|device| match device {
                DeviceConfig::Nvme { disk, .. } | DeviceConfig::VirtioBlock { disk, .. } => {
                    disk == name
                }
                _ => false,
            });
            if !used {
                self.warnings.push(format!(
                    "line {}: no device uses [block_dev.{name}]",
                    disk.line
                ));
            }
        }
        for key in ["use_reservoir", "cpu_binding"] {
            if main.setting(key).is_some_and(|setting| setting.given) {
                self.warnings
                    .push(format!("[main] {key:?} has an effect on bhyve only"));
            }
        }
        // Values that are missing have been noted as errors, and so the result is not used.
        let number = |key: &str| main.integer(key).unwrap_or(0);
        let exit_code = |key: &str| main.integer(key).and_then(|code| u8::try_from(code).ok());
        let machine = MachineConfig {
            name: main.text("name").unwrap_or_default().to_owned(),
            cpus: u32::try_from(number("cpus")).unwrap_or(0),
            memory_bytes: number("memory") << 20,
            hypervisor: match main.text("hypervisor") {
                Some("soft") => HypervisorChoice::Soft,
                Some("kvm") => HypervisorChoice::Kvm,
                Some("bhyve") => HypervisorChoice::Bhyve,
                _ => HypervisorChoice::Auto,
            },
            clock: match main.text("clock") {
                Some("virtual") => ClockMode::Virtual,
                _ => ClockMode::Host,
            },
            boot,
            bootrom_version: main.text("bootrom_version").unwrap_or_default().to_owned(),
            boot_order: main.list("boot_order").map(<[String]>::to_vec),
            cpuid: profile,
            disks: lowered_disks
                .iter()
                .map(|(name, disk)| (name.clone(), disk.config.clone()))
                .collect(),
            devices: lowered_devices,
            exits: ExitPolicy {
                on_halt: exit_code("exit_on_halt").unwrap_or(0),
                on_reboot: exit_code("exit_on_reboot"),
            },
        };
        let serial = PathBuf::from(main.text("serial").unwrap_or_default());
        let control = main.text("control").filter(|path| !path.is_empty());
        let control = control.map(PathBuf::from);
        let seconds = |key: &str| Duration::from_secs(number(key));
        let deadlines = Deadlines {
            guest: seconds("stop_deadline"),
            storage: seconds("storage_deadline"),
        };
        let tables = std::iter::once(main)
            .chain(disks)
            .chain(devices)
            .chain(cloudinit)
            .collect();
        Some(Config {
            machine,
            volumes: lowered_disks
                .into_iter()
                .filter_map(|(name, disk)| Some((name, disk.volume?)))
                .collect(),
            serial,
            control,
            deadlines,
            warnings: self.warnings,
            tables,
            cpuid,
        })
    }

    /// A table that stands alone.
    fn single<'d>(&mut self, document: &'d Entries, name: &str) -> Option<(u32, &'d Entries)> {
        let entry = document.get(name)?;
        match &entry.node.value {
            Raw::Table(entries) => Some((entry.line, entries)),
            other => {
                let found = other.describe();
                self.findings
                    .in_table(entry.line, name, Problem::NotTable { found });
                None
            }
        }
    }

    /// The tables `[name.X]`, by X.
    fn several<'d>(
        &mut self,
        document: &'d Entries,
        name: &str,
    ) -> Vec<(&'d str, u32, &'d Entries)> {
        let mut tables = Vec::new();
        for (short_name, entry) in self
            .single(document, name)
            .map(|(_, it)| it)
            .into_iter()
            .flatten()
        {
            match &entry.node.value {
                Raw::Table(entries) => tables.push((short_name.as_str(), entry.line, entries)),
                other => {
                    let problem = Problem::NotTable {
                        found: format!(
                            "{}; tables here are called [{name}.NAME]",
                            other.describe()
                        ),
                    };
                    self.findings.in_key(entry.line, name, short_name, problem);
                }
            }
        }
        tables
    }

    fn main_table(&mut self, document: &Entries) -> Option<Table> {
        if !document.contains_key("main") {
            let needed: Vec<&str> = MAIN
                .iter()
                .filter(|key| key.presence == Presence::Required)
                .map(|key| key.name)
                .collect();
            let needs = needed.join(", ");
            self.findings
                .in_table(1, "main", Problem::MissingTable { needs });
        }
        let (line, entries) = self.single(document, "main")?;
        Some(read_table("main", line, entries, MAIN, self.findings))
    }

    fn family(&mut self, document: &Entries, family: &'static Family) -> Vec<Table> {
        self.several(document, family.name)
            .into_iter()
            .filter_map(|(name, line, entries)| {
                read_variant(name, line, entries, family, self.findings)
            })
            .collect()
    }

    fn cpuid_tables(&mut self, document: &Entries) -> Vec<cpuid::Table> {
        self.several(document, "cpuid")
            .into_iter()
            .filter_map(|(name, line, entries)| cpuid::read(name, line, entries, self.findings))
            .collect()
    }

    /// The content of the cloud-init volume.
    fn cloudinit(&mut self, table: Option<&Table>) -> Arc<[u8]> {
        let mut item = |key: &str| -> Vec<u8> {
            let Some(table) = table else {
                return Vec::new();
            };
            let path_key = format!("{key}-path");
            match (table.text(key), table.text(&path_key)) {
                (Some(_), Some(_)) => {
                    let problem =
                        Problem::Invalid(format!("{key:?} is given as well; keep one of the two"));
                    self.findings.at(table, &path_key, problem);
                    Vec::new()
                }
                (Some(text), None) => text.as_bytes().to_vec(),
                (None, Some(path)) => match files::content(path, CLOUDINIT_FILE_MAX) {
                    Ok(bytes) => bytes,
                    Err(problem) => {
                        self.findings.at(table, &path_key, problem);
                        Vec::new()
                    }
                },
                (None, None) => Vec::new(),
            }
        };
        let content = cloudinit::Content {
            user_data: item("user-data"),
            meta_data: item("meta-data"),
            network_config: item("network-config"),
        };
        match cloudinit::image(&content) {
            Ok(image) => image.into(),
            Err(error) => {
                let line = table.map_or(1, |table| table.line);
                self.findings
                    .in_table(line, "cloudinit", Problem::Invalid(error.to_string()));
                Arc::new([])
            }
        }
    }

    fn disks(&mut self, tables: &[Table], image: Arc<[u8]>) -> BTreeMap<String, Disk> {
        let mut disks = BTreeMap::new();
        let mut writable_files: BTreeMap<PathBuf, String> = BTreeMap::new();
        let mut targets: BTreeMap<SocketAddr, (String, bool)> = BTreeMap::new();
        for table in tables {
            let Some((_, variant)) = table.variant else {
                continue;
            };
            let block_size = table.integer("block_size").unwrap_or(512);
            if !block_size.is_power_of_two() {
                let problem =
                    Problem::Invalid(format!("expected a power of two, found {block_size}"));
                self.findings.at(table, "block_size", problem);
                continue;
            }
            let mut read_only = table.flag("read_only").unwrap_or(false);
            let workers = u32::try_from(table.integer("workers").unwrap_or(8)).unwrap_or(8);
            let mut volume = None;
            let kind = match variant.name {
                "file" => {
                    let Some(path) = table.text("path") else {
                        continue;
                    };
                    if let Err(problem) = files::check_disk(path, read_only, block_size) {
                        self.findings.at(table, "path", problem);
                    } else if !read_only {
                        let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
                        if let Some(other) = writable_files.insert(real, table.name.clone()) {
                            let problem = Problem::Invalid(format!(
                                "[{other}] writes to the same file; give one of them read_only = true"
                            ));
                            self.findings.at(table, "path", problem);
                        }
                    }
                    DiskKind::File {
                        path: path.into(),
                        workers,
                    }
                }
                "cloudinit" => {
                    if table.flag("read_only") == Some(false) {
                        let problem =
                            Problem::Invalid("this volume is always read-only".to_owned());
                        self.findings.at(table, "read_only", problem);
                    }
                    if block_size != 512 {
                        let problem = Problem::Invalid(format!(
                            "this volume has blocks of 512, not {block_size}"
                        ));
                        self.findings.at(table, "block_size", problem);
                    }
                    read_only = true;
                    DiskKind::Image(image.clone())
                }
                "crucible" => {
                    let Some(config) = volume::crucible(table, self.findings) else {
                        continue;
                    };
                    self.targets(table, &config.opts.target, read_only, &mut targets);
                    volume = Some(VolumeConfig::Crucible(Box::new(config)));
                    DiskKind::Given
                }
                name => {
                    let Some(bytes) = table.integer("size") else {
                        continue;
                    };
                    if bytes % block_size != 0 {
                        let problem = Problem::Invalid(format!(
                            "{bytes} is no multiple of the block size {block_size}"
                        ));
                        self.findings.at(table, "size", problem);
                    }
                    match name {
                        "null" => DiskKind::Null { bytes },
                        "crucible-mem" => {
                            volume = Some(VolumeConfig::Memory {
                                block_size: u32::try_from(block_size).unwrap_or(512),
                                blocks: bytes / block_size,
                            });
                            DiskKind::Given
                        }
                        _ => DiskKind::Memory { bytes, workers },
                    }
                }
            };
            let config = DiskConfig {
                block_size: u32::try_from(block_size).unwrap_or(512),
                read_only,
                skip_flush: table.flag("skip_flush").unwrap_or(false),
                kind,
            };
            let disk = Disk {
                config,
                volume,
                line: table.line,
            };
            disks.insert(table.short_name().to_owned(), disk);
        }
        disks
    }

    /// Two volumes on one downstairs would take it from each other, unless both only read.
    fn targets(
        &mut self,
        table: &Table,
        addresses: &[SocketAddr],
        read_only: bool,
        taken: &mut BTreeMap<SocketAddr, (String, bool)>,
    ) {
        for address in addresses {
            let entry = (table.name.clone(), read_only);
            let before = taken.insert(*address, entry);
            let clash =
                before.filter(|(other, both)| *other != table.name && !(*both && read_only));
            if let Some((other, _)) = clash {
                let problem = Problem::Invalid(format!(
                    "[{other}] uses {address} already; a downstairs serves one writer"
                ));
                self.findings.at(table, "targets", problem);
                return;
            }
        }
    }

    fn devices(
        &mut self,
        document: &Entries,
        tables: &[Table],
        disks: &BTreeMap<String, Disk>,
    ) -> BTreeMap<String, DeviceConfig> {
        let mut devices = BTreeMap::new();
        let mut disk_users: BTreeMap<&str, &str> = BTreeMap::new();
        let mut places: BTreeMap<PciPath, String> = CHIPSET_FUNCTIONS
            .iter()
            .map(|(path, name)| (*path, (*name).to_owned()))
            .collect();
        let mut ports: BTreeMap<u16, &str> = BTreeMap::new();
        for table in tables {
            let Some((_, variant)) = table.variant else {
                continue;
            };
            let disk = table.text("block_dev");
            if let Some(disk) = disk {
                self.disk_reference(document, table, disk, disks, &mut disk_users);
            }
            let path = table.pci_path("pci-path");
            if let Some(path) = path {
                self.place(table, path, &mut places);
            }
            let device = match (variant.name, disk, path) {
                ("pci-nvme", Some(disk), Some(path)) => DeviceConfig::Nvme {
                    disk: disk.to_owned(),
                    path,
                },
                ("pci-virtio-block", Some(disk), Some(path)) => DeviceConfig::VirtioBlock {
                    disk: disk.to_owned(),
                    path,
                },
                ("pci-virtio-rng", _, Some(path)) => DeviceConfig::VirtioRng { path },
                ("qemu-pvpanic", ..) => {
                    if table.flag("enable_isa") != Some(true) {
                        continue;
                    }
                    if self.port(table, "enable_isa", 0x505, &mut ports) {
                        continue;
                    }
                    DeviceConfig::Pvpanic
                }
                ("isa-debug-exit", ..) => {
                    let Some(port) = table
                        .integer("iobase")
                        .and_then(|it| u16::try_from(it).ok())
                    else {
                        continue;
                    };
                    if self.port(table, "iobase", port, &mut ports) {
                        continue;
                    }
                    DeviceConfig::DebugExit { port }
                }
                _ => continue,
            };
            devices.insert(table.short_name().to_owned(), device);
        }
        self.lone_functions(tables, &places);
        devices
    }

    fn disk_reference<'t>(
        &mut self,
        document: &Entries,
        table: &'t Table,
        disk: &'t str,
        disks: &BTreeMap<String, Disk>,
        users: &mut BTreeMap<&'t str, &'t str>,
    ) {
        // A disk that is there but wrong has its own message already.
        let written: Vec<&str> = match document.get("block_dev").map(|entry| &entry.node.value) {
            Some(Raw::Table(tables)) => tables.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        };
        if !written.contains(&disk) {
            let problem = Problem::NoSuchTable {
                family: "block_dev",
                name: disk.to_owned(),
                nearest: nearest(disk, written).map(str::to_owned),
            };
            self.findings.at(table, "block_dev", problem);
            return;
        }
        let writable = disks.get(disk).is_some_and(|disk| !disk.config.read_only);
        if let Some(other) = users.insert(disk, &table.name)
            && writable
        {
            let problem = Problem::Invalid(format!(
                "[{other}] uses [block_dev.{disk}] already, and it can be written; two devices may \
                     share a disk only with read_only = true"
            ));
            self.findings.at(table, "block_dev", problem);
        }
    }

    fn place(&mut self, table: &Table, path: PciPath, places: &mut BTreeMap<PciPath, String>) {
        if path.bus != 0 {
            let problem = Problem::Invalid(format!(
                "there is no bus {}: this machine has bus 0 only",
                path.bus
            ));
            self.findings.at(table, "pci-path", problem);
        } else if let Some(other) = places.get(&path) {
            let problem = Problem::Invalid(format!("{path} is taken by {other}"));
            self.findings.at(table, "pci-path", problem);
        } else {
            places.insert(path, format!("[{}]", table.name));
        }
    }

    /// A guest looks at the other functions of a slot only if function 0 is there.
    fn lone_functions(&mut self, tables: &[Table], places: &BTreeMap<PciPath, String>) {
        for table in tables {
            let Some(path) = table.pci_path("pci-path") else {
                continue;
            };
            let first = PciPath {
                function: 0,
                ..path
            };
            if path.bus == 0 && !places.contains_key(&first) {
                let problem = Problem::Invalid(format!(
                    "no guest looks at {path} while there is nothing at {first}"
                ));
                self.findings.at(table, "pci-path", problem);
            }
        }
    }

    /// Notes a clash of ports between devices of the file; says whether there is one.
    fn port<'t>(
        &mut self,
        table: &'t Table,
        key: &str,
        port: u16,
        ports: &mut BTreeMap<u16, &'t str>,
    ) -> bool {
        match ports.insert(port, &table.name) {
            Some(other) => {
                let problem = Problem::Invalid(format!("port {port:#x} is taken by [{other}]"));
                self.findings.at(table, key, problem);
                true
            }
            None => false,
        }
    }

    fn boot(&mut self, main: &Table) -> BootConfig {
        if main.text("bootrom").is_none() && main.text("kernel").is_none() && !self.findings.any() {
            let doc = "the machine has nothing to start; give a bootrom or a kernel".to_owned();
            self.findings
                .in_key(main.line, "main", "bootrom", Problem::MissingKey { doc });
        }
        if let Some(path) = main.text("bootrom")
            && let Err(problem) = files::check_bootrom(path)
        {
            self.findings.at(main, "bootrom", problem);
        }
        for key in ["kernel", "initrd"] {
            if let Some(path) = main.text(key)
                && let Err(problem) = files::check_readable(path)
            {
                self.findings.at(main, key, problem);
            }
        }
        let cmdline = main.text("cmdline").unwrap_or_default();
        if cmdline.len() > CMDLINE_MAX {
            let problem = Problem::Invalid(format!(
                "it has {} bytes, at most {CMDLINE_MAX} fit",
                cmdline.len()
            ));
            self.findings.at(main, "cmdline", problem);
        }
        let Some(kernel) = main.text("kernel") else {
            for key in ["initrd", "cmdline"] {
                if main.setting(key).is_some() {
                    let problem =
                        Problem::Invalid("it needs \"kernel\", which is not given".to_owned());
                    self.findings.at(main, key, problem);
                }
            }
            return BootConfig {
                bootrom: main.text("bootrom").map(PathBuf::from),
                kernel: None,
            };
        };
        let kernel = KernelConfig {
            image: kernel.into(),
            initrd: main.text("initrd").map(PathBuf::from),
            cmdline: cmdline.to_owned(),
        };
        // Reading the whole kernel pays only if nothing else stands in the way.
        if let (Some(memory), false) = (main.integer("memory"), self.findings.any())
            && let Err(problem) = files::check_bootable(&kernel, memory << 20)
        {
            self.findings.at(main, "kernel", problem);
        }
        BootConfig {
            bootrom: main.text("bootrom").map(PathBuf::from),
            kernel: Some(kernel),
        }
    }

    fn sockets(&mut self, main: &Table) {
        for key in ["serial", "control"] {
            if let Some(path) = main.text(key)
                && !(key == "control" && path.is_empty())
                && let Err(problem) = files::check_socket(path)
            {
                self.findings.at(main, key, problem);
            }
        }
        let path = |key| main.text(key).map(Path::new);
        if path("serial").is_some() && path("serial") == path("control") {
            let problem = Problem::Invalid("is the path of \"serial\", too".to_owned());
            self.findings.at(main, "control", problem);
        }
    }

    fn name(&mut self, main: &Table) {
        let Some(name) = main.text("name") else {
            return;
        };
        let fits = !name.is_empty() && name.len() <= 64;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !fits || !name.chars().all(plain) || name.starts_with('.') {
            let problem = Problem::Invalid(format!(
                "expected 1 to 64 letters, digits and \"-_.\", not beginning with a dot, found {name:?}"
            ));
            self.findings.at(main, "name", problem);
        }
    }

    fn boot_order(&mut self, main: &Table, devices: &[Table]) {
        for name in main.list("boot_order").unwrap_or_default() {
            let Some(device) = devices.iter().find(|device| device.short_name() == name) else {
                let known = devices.iter().map(Table::short_name);
                let problem = Problem::NoSuchTable {
                    family: "dev",
                    name: name.clone(),
                    nearest: nearest(name, known).map(str::to_owned),
                };
                self.findings.at(main, "boot_order", problem);
                continue;
            };
            let driver = device.variant.map_or("", |(_, variant)| variant.name);
            if !driver.starts_with("pci-") {
                let problem = Problem::Invalid(format!(
                    "[dev.{name}] has the driver {driver}; only PCI devices can be booted from"
                ));
                self.findings.at(main, "boot_order", problem);
            }
        }
    }

    fn profile(
        &mut self,
        main: &Table,
        tables: &[cpuid::Table],
    ) -> Option<vmm::machine::config::CpuidProfile> {
        let name = main.text("cpuid_profile")?;
        let full = format!("cpuid.{name}");
        let table = tables.iter().find(|table| table.name == full);
        if table.is_none() {
            let known = tables
                .iter()
                .filter_map(|table| table.name.split_once('.'))
                .map(|(_, name)| name);
            let problem = Problem::NoSuchTable {
                family: "cpuid",
                name: name.to_owned(),
                nearest: nearest(name, known).map(str::to_owned),
            };
            self.findings.at(main, "cpuid_profile", problem);
        }
        table.map(|table| table.profile.clone())
    }
}

/// virtio has no status that says "try again": where the user says nothing, requests wait longer.
fn patience_behind_virtio(
    tables: &[Table],
    devices: &BTreeMap<String, DeviceConfig>,
    disks: &mut BTreeMap<String, Disk>,
) {
    for table in tables {
        let name = table.short_name();
        let behind_virtio = devices
            .values()
            .any(|device| matches!(device, DeviceConfig::VirtioBlock { disk, .. } if disk == name));
        if let Some(VolumeConfig::Crucible(config)) =
            disks.get_mut(name).and_then(|disk| disk.volume.as_mut())
            && behind_virtio
            && table.setting("request_timeout").is_none()
        {
            config.request_timeout = REQUEST_TIMEOUT_VIRTIO;
        }
    }
}
