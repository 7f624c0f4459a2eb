//! A Debian system on an ext4 image, with its kernel and initial ramdisk: packages by name, put together by
//! mmdebstrap, finished by a script, and kept until the recipe changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::{debian, run, tree};

/// What is installed beside Debian's essential packages.
const PACKAGES: &[&str] = &[
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    "procps",
    "iproute2",
    "less",
    "openssh-server",
    "fio",
    "nvme-cli",
    "e2fsprogs",
    "xfsprogs",
    "postgresql",
];
/// Taken where the host's own lists name no Debian release.
const RELEASE: &str = "bookworm";
/// What the initial ramdisk holds: a disk behind either controller, and the root file system. Its packing is the one
/// that is quickest to unpack.
const RAMDISK: &str = "mkdir -p \"$1/etc/initramfs-tools/conf.d\" && \
    printf 'MODULES=list\\nCOMPRESS=lz4\\n' >\"$1/etc/initramfs-tools/conf.d/trivet\" && \
    printf 'nvme\\nvirtio_pci\\nvirtio_blk\\next4\\ncrc32c_generic\\n' >\"$1/etc/initramfs-tools/modules\"";
/// Documents that nobody reads there.
const LEFT_OUT: &[&str] = &["man", "locale", "doc", "info"];
const SETUP: &str = include_str!("../scripts/debian-setup.sh");
/// The image's length; most of it is a hole.
const IMAGE_MIB: u32 = 3072;
/// Unpacks the archive and makes a file system of it. Devices are the kernel's to make.
const PACK: &str = "mkdir root && tar -C root -xf root.tar --exclude='./dev/*' && \
    cp root/boot/vmlinuz-* vmlinuz && cp root/boot/initrd.img-* initrd.img && \
    mke2fs -q -t ext4 -L trivet-root -d root root.img \"$1\"M && rm -rf root root.tar";

/// The system's files.
#[derive(Clone, Debug)]
pub(crate) struct System {
    /// The ext4 image. To be copied, not to be written to.
    pub(crate) root: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
}

/// Finds the system that was made before, or makes it.
///
/// Errors: a tool that is missing and may not be installed, with the command that would; whatever a tool says.
pub(crate) fn provide() -> Result<System, String> {
    let place = tree::target().join("guest/debian");
    let recipe = recipe();
    let note = place.join("recipe");
    if fs::read_to_string(&note).is_ok_and(|made| made == recipe) {
        return Ok(System::in_directory(&place));
    }
    // Made under another name first, so that an interrupted run leaves no half system.
    let partial = tree::target().join("guest/debian.partial");
    for old in [&partial, &place] {
        if old.exists() {
            fs::remove_dir_all(old).map_err(|error| format!("{}: {error}", old.display()))?;
        }
    }
    fs::create_dir_all(&partial).map_err(|error| format!("{}: {error}", partial.display()))?;
    let started = Instant::now();
    println!("debian: making the image, which takes some minutes; it is kept for the next time");
    gather(&partial)?;
    println!(
        "debian: packages installed after {:.0} s; making the file system",
        started.elapsed().as_secs_f64()
    );
    pack(&partial)?;
    write(&partial.join("recipe"), &recipe)?;
    fs::rename(&partial, &place).map_err(|error| format!("{}: {error}", place.display()))?;
    println!(
        "debian: image made in {:.0} s: {}",
        started.elapsed().as_secs_f64(),
        place.display()
    );
    Ok(System::in_directory(&place))
}

impl System {
    fn in_directory(place: &Path) -> System {
        System {
            root: place.join("root.img"),
            kernel: place.join("vmlinuz"),
            initrd: place.join("initrd.img"),
        }
    }

    /// Copies the image to `place`, holes as holes.
    pub(crate) fn copy_root(&self, place: &Path) -> Result<(), String> {
        let mut command = Command::new("cp");
        command.args(["--sparse=always", "--reflink=auto"]);
        run::quiet(command.arg(&self.root).arg(place)).map(drop)
    }
}

/// All that the image is made from; another text means another image.
fn recipe() -> String {
    format!(
        "{}\n{}\n{RAMDISK}\n{PACK}\n{IMAGE_MIB}\n{SETUP}",
        PACKAGES.join(" "),
        LEFT_OUT.join(" ")
    )
}

/// Installs the packages into an archive.
fn gather(directory: &Path) -> Result<(), String> {
    let program = debian::provide("mmdebstrap", "mmdebstrap")?;
    let setup = directory.join("setup.sh");
    write(&setup, SETUP)?;
    let mut command = Command::new(program);
    command.current_dir(directory);
    command.arg("--variant=minbase");
    if run::is_root() {
        command.arg("--mode=root");
    } else {
        // By user namespaces, or by fakechroot; it says itself what it lacks.
        debian::provide("fakeroot", "fakeroot")?;
        command.arg("--mode=auto");
    }
    command.arg(format!("--include={}", PACKAGES.join(",")));
    command.arg("--aptopt=APT::Install-Recommends \"false\"");
    for topic in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{topic}/*"));
    }
    command.arg(format!("--essential-hook={RAMDISK}"));
    command.arg("--customize-hook=sh setup.sh \"$1\"");
    let mirrors = debian::mirrors();
    if mirrors.is_empty() {
        command.args([RELEASE, "root.tar"]);
    } else {
        write(&directory.join("sources.list"), &mirrors)?;
        command.args(["", "root.tar", "sources.list"]);
    }
    // Its own messages are the progress that there is.
    run::run(&mut command)
}

/// Makes an image of the archive. Owners are kept, for which somebody must be root, or believe it.
fn pack(directory: &Path) -> Result<(), String> {
    debian::provide("mke2fs", "e2fsprogs")?;
    let mut command = if run::is_root() {
        Command::new("sh")
    } else {
        let mut command = Command::new(debian::provide("fakeroot", "fakeroot")?);
        command.arg("sh");
        command
    };
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .current_dir(directory)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .args(["-e", "-c", PACK, "sh", &IMAGE_MIB.to_string()]);
    run::quiet(&mut command).map(drop)
}

fn write(place: &Path, text: &str) -> Result<(), String> {
    fs::write(place, text).map_err(|error| format!("{}: {error}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipe_names_everything_that_goes_into_the_image() {
        let recipe = recipe();
        assert!(PACKAGES.iter().all(|package| recipe.contains(package)));
        assert!(recipe.contains("autologin root"));
        assert!(recipe.contains("MODULES=list"));
        assert!(recipe.contains("mke2fs"));
    }
}
