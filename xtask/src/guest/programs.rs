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
            .find(program.package, |tree| {
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
            .find(&name, |tree| find_library(tree, &name))?
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
    /// The package itself, then its libraries' packages, breadth first.
    names: Vec<String>,
    /// How many of `names` have been asked for their own dependencies.
    asked: usize,
    unpacked: BTreeMap<String, PathBuf>,
}

impl<'a> Trees<'a> {
    fn new(cache: &'a Cache, package: &str) -> Trees<'a> {
        Trees {
            cache,
            names: vec![package.to_owned()],
            asked: 0,
            unpacked: BTreeMap::new(),
        }
    }

    /// Looks for `file` with `look`: in the trees that are there, then in packages whose name
    /// resembles the file's, then in all others.
    fn find(
        &mut self,
        file: &str,
        look: impl Fn(&Path) -> Option<PathBuf>,
    ) -> Result<Option<PathBuf>, String> {
        if let Some(path) = self.unpacked.values().find_map(|tree| look(tree)) {
            return Ok(Some(path));
        }
        let stem = stem(file);
        while self.ask_one()? {}
        let mut candidates = self.names.clone();
        // A stable sort: the nearest packages stay first among their equals.
        candidates.sort_by_key(|name| !name.starts_with(&stem));
        for name in candidates {
            if self.unpacked.contains_key(&name) {
                continue;
            }
            let tree = self.cache.unpacked(&name)?;
            let found = look(&tree);
            self.unpacked.insert(name, tree);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Asks one more package for its dependencies; says whether there was one.
    fn ask_one(&mut self) -> Result<bool, String> {
        if self.names.len() > PACKAGES_MAX {
            return Ok(false);
        }
        let Some(package) = self.names.get(self.asked).cloned() else {
            return Ok(false);
        };
        self.asked += 1;
        for name in self.cache.dependencies(&package)? {
            let is_library = name.starts_with("lib") || name.starts_with("zlib");
            if is_library && !self.names.contains(&name) {
                self.names.push(name);
            }
        }
        Ok(true)
    }
}

/// How the package of a library is likely to begin: `libext2fs` of `libext2fs.so.2`, and, as the
/// archive writes names, `libcom-err` of `libcom_err.so.2`.
fn stem(file: &str) -> String {
    let before = file.split(".so").next().unwrap_or(file);
    match before {
        "libc" | "libm" | "libdl" | "libpthread" | "librt" | "libresolv" => "libc6".to_owned(),
        loader if loader.starts_with("ld-linux") => "libc6".to_owned(),
        "libz" => "zlib".to_owned(),
        _ => before.to_lowercase().replace('_', "-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_points_to_its_package() {
        assert_eq!(stem("libext2fs.so.2"), "libext2fs");
        assert_eq!(stem("libcom_err.so.2"), "libcom-err");
        assert_eq!(stem("libc.so.6"), "libc6");
        assert_eq!(stem("ld-linux-x86-64.so.2"), "libc6");
        assert_eq!(stem("libz.so.1"), "zlib");
    }
}
