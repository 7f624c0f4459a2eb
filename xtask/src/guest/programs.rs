//! Commands for the guest: Debian's own binaries, with the libraries that they need and no others.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::cpio::Archive;
use super::elf::Elf;
use crate::debian::Cache;
use crate::tree;

/// A program of a package, and where the guest finds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    /// The package that holds it.
    pub(crate) package: &'static str,
    /// Its path in the package, without the leading `/`.
    pub(crate) path: &'static str,
}

/// Makes ext4 file systems.
pub(crate) const MKE2FS: Program = Program {
    package: "e2fsprogs",
    path: "sbin/mke2fs",
};
/// Speaks NVMe to a controller.
pub(crate) const NVME: Program = Program {
    package: "nvme-cli",
    path: "usr/sbin/nvme",
};
/// Loads and verifies disks.
pub(crate) const FIO: Program = Program {
    package: "fio",
    path: "usr/bin/fio",
};

/// Chains of packages that hold libraries are short; more than this many is a mistake.
const PACKAGES_MAX: usize = 200;

/// Fetches busybox, linked statically.
pub(crate) fn busybox() -> Result<Vec<u8>, String> {
    let cache = Cache::open(&tree::target().join("guest/packages"))?;
    let place = cache.unpacked("busybox-static")?;
    let found = ["bin/busybox", "usr/bin/busybox"]
        .iter()
        .map(|path| place.join(path))
        .find(|path| path.is_file())
        .ok_or("busybox-static holds no busybox")?;
    fs::read(&found).map_err(|error| format!("{}: {error}", found.display()))
}

/// Adds `programs` to the archive under `usr/bin/`, where no name of busybox's stands before them, and
/// the libraries that they need under `lib/`.
///
/// Errors: a package that cannot be fetched, or a library that none of the packages holds.
pub(crate) fn add(archive: &mut Archive, programs: &[Program]) -> Result<(), String> {
    let cache = Cache::open(&tree::target().join("guest/packages"))?;
    for program in programs {
        let mut trees = Trees::new(&cache, program.package);
        let path = trees
            .find(|tree| {
                [program.path.to_owned(), format!("usr/{}", program.path)]
                    .iter()
                    .map(|path| tree.join(path))
                    .find(|path| path.is_file())
            })?
            .ok_or_else(|| format!("{} holds no {}", program.package, program.path))?;
        let content = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = program.path.rsplit('/').next().unwrap_or(program.path);
        archive.file(&format!("usr/bin/{name}"), 0o755, &content);
        add_libraries(archive, &content, &mut trees)?;
    }
    Ok(())
}

fn add_libraries(
    archive: &mut Archive,
    program: &[u8],
    trees: &mut Trees<'_>,
) -> Result<(), String> {
    let Some(elf) = Elf::parse(program) else {
        return Ok(());
    };
    // The loader's path is written into the binary; libraries are found through `lib`.
    let interpreter = elf.interpreter().unwrap_or_default();
    let mut pending = elf.needed();
    let mut done: BTreeMap<String, ()> = BTreeMap::new();
    if let Some(name) = interpreter
        .rsplit('/')
        .next()
        .filter(|name| !name.is_empty())
    {
        pending.push(name.to_owned());
        archive.symlink(interpreter.trim_start_matches('/'), &format!("/lib/{name}"));
    }
    while let Some(name) = pending.pop() {
        if done.insert(name.clone(), ()).is_some() {
            continue;
        }
        let path = trees
            .find(|tree| find_library(tree, &name))?
            .ok_or_else(|| format!("no package holds the library {name}"))?;
        let content = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if let Some(elf) = Elf::parse(&content) {
            pending.extend(elf.needed());
        }
        archive.file(&format!("lib/{name}"), 0o755, &content);
    }
    Ok(())
}

fn find_library(tree: &Path, name: &str) -> Option<PathBuf> {
    const DIRECTORIES: &[&str] = &[
        "lib/x86_64-linux-gnu",
        "usr/lib/x86_64-linux-gnu",
        "lib64",
        "usr/lib64",
        "lib",
        "usr/lib",
        "usr/lib/x86_64-linux-gnu/ceph",
    ];
    DIRECTORIES
        .iter()
        .map(|directory| tree.join(directory).join(name))
        .find(|path| path.is_file())
}

/// The trees of a package and of what it depends on, fetched only as far as they are asked for.
struct Trees<'a> {
    cache: &'a Cache,
    unpacked: Vec<(String, PathBuf)>,
    /// Packages not yet fetched, breadth first.
    waiting: Vec<String>,
    /// Packages whose dependencies have been asked for.
    asked: usize,
}

impl<'a> Trees<'a> {
    fn new(cache: &'a Cache, package: &str) -> Trees<'a> {
        Trees {
            cache,
            unpacked: Vec::new(),
            waiting: vec![package.to_owned()],
            asked: 0,
        }
    }

    fn find(&mut self, look: impl Fn(&Path) -> Option<PathBuf>) -> Result<Option<PathBuf>, String> {
        if let Some(path) = self.unpacked.iter().find_map(|(_, tree)| look(tree)) {
            return Ok(Some(path));
        }
        while let Some(package) = self.next_package()? {
            let tree = self.cache.unpacked(&package)?;
            let found = look(&tree);
            self.unpacked.push((package, tree));
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The next package that may hold a library, or `None` when all have been fetched.
    fn next_package(&mut self) -> Result<Option<String>, String> {
        while self.waiting.is_empty() {
            if self.asked >= self.unpacked.len() || self.unpacked.len() >= PACKAGES_MAX {
                return Ok(None);
            }
            let package = self.unpacked[self.asked].0.clone();
            self.asked += 1;
            for name in self.cache.dependencies(&package)? {
                let known = self.unpacked.iter().any(|(known, _)| *known == name)
                    || self.waiting.contains(&name);
                if !known && name.starts_with("lib") {
                    self.waiting.push(name);
                }
            }
        }
        Ok(Some(self.waiting.remove(0)))
    }
}
