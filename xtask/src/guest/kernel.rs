//! A Debian kernel: fetched by package name, with the modules that a guest's disks need.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::elf::Elf;
use crate::debian::{self, Cache};
use crate::{run, tree};

/// Which of Debian's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// `linux-image-cloud-amd64`: small, most disk drivers built in.
    Cloud,
    /// `linux-image-amd64`: everything, as modules.
    Full,
}

impl Flavour {
    fn meta_package(self) -> &'static str {
        match self {
            Flavour::Cloud => "linux-image-cloud-amd64",
            Flavour::Full => "linux-image-amd64",
        }
    }
}

/// A kernel image and its modules.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// The compressed image that a boot loader takes.
    pub(crate) image: PathBuf,
    /// `lib/modules/RELEASE`, where there is one.
    pub(crate) modules: Option<PathBuf>,
    /// What it is called in messages.
    pub(crate) name: String,
}

/// A module that goes into the initramfs, in the order of loading.
#[derive(Debug)]
pub(crate) struct Module {
    /// File name without its ending: `virtio_blk`.
    pub(crate) name: String,
    /// The module itself, uncompressed.
    pub(crate) content: Vec<u8>,
}

/// Fetches the kernel of the day by package name; nothing is fetched twice.
///
/// Errors: no package, no network, or a package without a kernel.
pub(crate) fn fetch(flavour: Flavour) -> Result<Kernel, String> {
    let cache = Cache::open(&tree::target().join("guest/packages"))?;
    let meta = flavour.meta_package();
    let (package, place) = match kernel_package(&cache, meta) {
        Ok(found) => found,
        Err(_old) => {
            // The remembered kernel may have left the archive; a second failure is the real one.
            cache.forget(meta);
            kernel_package(&cache, meta)?
        }
    };
    let image = first_in(&place.join("boot"), "vmlinuz-")
        .ok_or_else(|| format!("{package} holds no boot/vmlinuz-*"))?;
    // Debian 13 and later unpack under usr/.
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .find_map(|directory| first_in(&place.join(directory), ""));
    Ok(Kernel {
        image,
        modules,
        name: package,
    })
}

/// The package that the meta package stands for, and its tree.
fn kernel_package(cache: &Cache, meta: &str) -> Result<(String, PathBuf), String> {
    let package = cache
        .dependencies(meta)?
        .into_iter()
        .find(|name| name.starts_with("linux-image-"))
        .ok_or_else(|| format!("{meta} depends on no linux-image-* package"))?;
    let place = cache.unpacked(&package)?;
    Ok((package, place))
}

fn first_in(directory: &Path, prefix: &str) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(directory)
        .ok()?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .collect();
    found.sort();
    found.into_iter().next()
}

impl Kernel {
    /// A kernel that the user brings; its drivers must be built in or come with its own initramfs.
    pub(crate) fn from_file(image: &Path) -> Result<Kernel, String> {
        let image = image
            .canonicalize()
            .map_err(|error| format!("{}: {error}", image.display()))?;
        let name = image.display().to_string();
        Ok(Kernel {
            image,
            modules: None,
            name,
        })
    }

    /// Writes the ELF file that the compressed image holds to `place`.
    ///
    /// Errors: the image is no bzImage, or packed in a way that we do not know.
    pub(crate) fn unpack(&self, place: &Path) -> Result<PathBuf, String> {
        let image =
            fs::read(&self.image).map_err(|error| format!("{}: {error}", self.image.display()))?;
        let (program, packed) = payload(&image).and_then(packer).ok_or_else(|| {
            format!(
                "{}: no bzImage with a payload that we know",
                self.image.display()
            )
        })?;
        let stream = place.with_extension(program);
        fs::write(&stream, packed).map_err(|error| format!("{}: {error}", stream.display()))?;
        let elf = decompress(program, &stream)?;
        fs::write(place, elf).map_err(|error| format!("{}: {error}", place.display()))?;
        Ok(place.to_path_buf())
    }

    /// The modules of `wanted` and all they stand on, in the order of loading.
    ///
    /// A name that is no module is taken to be built in. Errors: a module that cannot be read.
    pub(crate) fn modules(&self, wanted: &[&str]) -> Result<Vec<Module>, String> {
        let Some(directory) = &self.modules else {
            return Ok(Vec::new());
        };
        let mut paths = BTreeMap::new();
        for file in tree::files(directory)? {
            if let Some(name) = module_name(&file) {
                paths.insert(name, directory.join(file));
            }
        }
        let mut order = LoadOrder {
            paths,
            facts: BTreeMap::new(),
            loaded: Vec::new(),
        };
        for name in wanted {
            order.add(&normal(name), 0)?;
        }
        Ok(order.loaded)
    }
}

struct LoadOrder {
    paths: BTreeMap<String, PathBuf>,
    /// Names under which modules that were read can be asked for.
    facts: BTreeMap<String, String>,
    loaded: Vec<Module>,
}

/// Chains of modules are short; a longer one is a cycle.
const DEPTH_MAX: usize = 16;

impl LoadOrder {
    fn add(&mut self, name: &str, depth: usize) -> Result<(), String> {
        let known = self.loaded.iter().any(|module| module.name == name);
        let Some(path) = self.path(name) else {
            return Ok(());
        };
        if known || depth > DEPTH_MAX || self.facts.contains_key(name) {
            return Ok(());
        }
        self.facts
            .insert(name.to_owned(), path.display().to_string());
        let content = read_module(&path)?;
        let before = Elf::parse(&content)
            .map(|elf| prerequisites(&elf.module_info()))
            .ok_or_else(|| format!("{}: no ELF file", path.display()))?;
        for needed in before {
            self.add(&normal(&needed), depth + 1)?;
        }
        let name = module_name(&path).unwrap_or_else(|| name.to_owned());
        self.loaded.push(Module { name, content });
        Ok(())
    }

    /// A soft dependency may name an algorithm; its plain implementation is `NAME_generic`.
    fn path(&self, name: &str) -> Option<PathBuf> {
        self.paths
            .get(name)
            .or_else(|| self.paths.get(&format!("{name}_generic")))
            .cloned()
    }
}

/// What must be loaded before a module: its dependencies, then the soft ones that say `pre:`.
fn prerequisites(info: &[(String, String)]) -> Vec<String> {
    let mut names = Vec::new();
    for (key, value) in info {
        match key.as_str() {
            "depends" => names.extend(value.split(',').map(str::to_owned)),
            "softdep" => {
                let mut before = false;
                for word in value.split_whitespace() {
                    match word {
                        "pre:" => before = true,
                        "post:" => before = false,
                        _ if before => names.push(word.to_owned()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// `virtio_blk` of `.../virtio_blk.ko` or `.../virtio_blk.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    file.split_once(".ko").map(|(name, _)| normal(name))
}

/// Modules are named with dashes in files and with underscores elsewhere.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn read_module(path: &Path) -> Result<Vec<u8>, String> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => decompress("xz", path),
        Some("zst") => decompress("zstd", path),
        Some("gz") => decompress("gzip", path),
        _ => fs::read(path).map_err(|error| format!("{}: {error}", path.display())),
    }
}

fn decompress(program: &str, path: &Path) -> Result<Vec<u8>, String> {
    let package = if program == "xz" { "xz-utils" } else { program };
    let mut command = Command::new(debian::provide(program, package)?);
    command.args(["-d", "-c"]).arg(path);
    let output = command
        .output()
        .map_err(|error| run::not_started(&command, &error))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!(
            "`{}` failed: {}",
            run::spelled(&command),
            said.trim()
        ))
    }
}

/// The program that unpacks a payload, and the stream for it.
///
/// All packers but gzip are followed by four bytes that hold the unpacked length, which their
/// programs would take for garbage.
fn packer(payload: &[u8]) -> Option<(&'static str, &[u8])> {
    const MAGICS: &[(&[u8], &str)] = &[
        (b"\xfd7zXZ\0", "xz"),
        (b"\x02\x21\x4c\x18", "lz4"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x1f\x8b", "gzip"),
    ];
    let (_, program) = MAGICS
        .iter()
        .find(|(magic, _)| payload.starts_with(magic))?;
    let after = if *program == "gzip" { 0 } else { 4 };
    Some((program, payload.get(..payload.len().checked_sub(after)?)?))
}

/// The compressed kernel inside a bzImage. Source: the boot protocol's `payload_offset` (0x248) and
/// `payload_length` (0x24c), counted from the end of the real-mode part.
fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let sectors = usize::from(*image.get(0x1f1)?);
    let word = |at: usize| -> Option<usize> {
        let bytes: [u8; 4] = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    // A count of zero stands for four, as the protocol says.
    let setup = (if sectors == 0 { 4 } else { sectors } + 1) * 512;
    let start = setup.checked_add(word(0x248)?)?;
    image.get(start..start.checked_add(word(0x24c)?)?)
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::file_with;
    use super::*;

    fn module(info: &str) -> Vec<u8> {
        file_with(&[(
            ".modinfo",
            1,
            info.replace(' ', "\0").replace('~', " ").into_bytes(),
        )])
    }

    fn kernel_with(name: &str, modules: &[(&str, &str)]) -> Kernel {
        let directory =
            std::env::temp_dir().join(format!("trivet-modules-{name}-{}", std::process::id()));
        fs::create_dir_all(directory.join("kernel")).unwrap();
        for (file, info) in modules {
            fs::write(directory.join("kernel").join(file), module(info)).unwrap();
        }
        Kernel {
            image: PathBuf::new(),
            modules: Some(directory),
            name: name.to_owned(),
        }
    }

    fn order(kernel: &Kernel, wanted: &[&str]) -> Vec<String> {
        let names = kernel
            .modules(wanted)
            .unwrap()
            .into_iter()
            .map(|module| module.name)
            .collect();
        fs::remove_dir_all(kernel.modules.as_ref().unwrap()).unwrap();
        names
    }

    #[test]
    fn dependencies_are_loaded_first_and_once() {
        let kernel = kernel_with(
            "first",
            &[
                ("a.ko", "depends=b-c,d "),
                ("b-c.ko", "depends=d "),
                ("d.ko", "depends= "),
            ],
        );
        assert_eq!(order(&kernel, &["a", "d", "built_in"]), ["d", "b_c", "a"]);
    }

    #[test]
    fn soft_dependencies_count_before_but_not_after() {
        let kernel = kernel_with(
            "soft",
            &[
                ("a.ko", "softdep=pre:~crc32c~post:~later "),
                ("crc32c_generic.ko", "depends= "),
                ("later.ko", "depends= "),
            ],
        );
        assert_eq!(order(&kernel, &["a"]), ["crc32c_generic", "a"]);
    }

    #[test]
    fn a_cycle_ends() {
        let kernel = kernel_with("cycle", &[("a.ko", "depends=b "), ("b.ko", "depends=a ")]);
        assert_eq!(order(&kernel, &["a"]), ["b", "a"]);
    }

    #[test]
    fn the_payload_is_found_behind_the_real_mode_part() {
        let mut image = vec![0_u8; 0x202];
        image[0x1f1] = 1;
        image.extend_from_slice(b"HdrS");
        image.resize(0x248, 0);
        image.extend_from_slice(&3_u32.to_le_bytes());
        image.extend_from_slice(&4_u32.to_le_bytes());
        image.resize(1024 + 3, 0);
        image.extend_from_slice(b"body");
        assert_eq!(payload(&image), Some(&b"body"[..]));
        assert_eq!(payload(&image[..1030]), None);
        assert_eq!(payload(b"no kernel"), None);
    }

    #[test]
    fn the_length_behind_the_stream_is_cut_off() {
        assert_eq!(
            packer(b"\x02\x21\x4c\x18ab1234"),
            Some(("lz4", &b"\x02\x21\x4c\x18ab"[..]))
        );
        assert_eq!(packer(b"\x1f\x8bab"), Some(("gzip", &b"\x1f\x8bab"[..])));
        assert_eq!(packer(b"\x02\x21\x4c\x18"), Some(("lz4", &b""[..])));
        assert_eq!(packer(b"unknown"), None);
    }

    #[test]
    fn endings_and_dashes_do_not_matter() {
        assert_eq!(
            module_name(Path::new("x/nvme-core.ko.xz")).as_deref(),
            Some("nvme_core")
        );
        assert_eq!(module_name(Path::new("x/modules.order")), None);
    }
}
