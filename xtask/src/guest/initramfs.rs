//! The guest's first root directory: busybox, a script as first process, modules, programs.

use std::fs;
use std::path::Path;

use super::cpio::Archive;
use super::kernel::Kernel;
use super::programs::{self, Program};

/// The first process.
const INIT: &str = include_str!("scripts/init.sh");
/// Tasks that `trivet=NAME` on the kernel's command line starts, or a person at the shell.
const TASKS: &[(&str, &str)] = &[
    ("digest", include_str!("scripts/digest.sh")),
    ("parallel", include_str!("scripts/parallel.sh")),
    ("rounds", include_str!("scripts/rounds.sh")),
    ("speed", include_str!("scripts/speed.sh")),
    ("storage", include_str!("scripts/storage.sh")),
];

/// Drivers of the disks that a machine can have, and the file system of the demo.
const MODULES: &[&str] = &[
    "nvme",
    "virtio_pci",
    "virtio_blk",
    "virtio_rng",
    "ext4",
    "crc32c_generic",
];

/// Builds an initramfs for `kernel` with `programs` in it and writes it to `place`.
///
/// Returns its length in bytes. Errors: a package that cannot be fetched, a file that cannot be
/// read or written.
pub(crate) fn build(kernel: &Kernel, programs: &[Program], place: &Path) -> Result<usize, String> {
    let mut archive = Archive::default();
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/null", 1, 3);
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("bin/busybox", 0o755, &programs::busybox()?);
    archive.symlink("bin/sh", "busybox");
    for (name, script) in TASKS {
        archive.file(&format!("trivet/{name}"), 0o755, script.as_bytes());
    }
    let mut order = String::new();
    for module in kernel.modules(MODULES)? {
        archive.file(
            &format!("lib/modules/{}.ko", module.name),
            0o644,
            &module.content,
        );
        order.push_str(&module.name);
        order.push('\n');
    }
    archive.file("lib/modules/order", 0o644, order.as_bytes());
    programs::add(&mut archive, programs)?;
    let bytes = archive.finish();
    fs::write(place, &bytes).map_err(|error| format!("{}: {error}", place.display()))?;
    Ok(bytes.len())
}
