//! What the Debian guest's root disk lies on: a copy of the image, or a volume that the image was copied into.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::recipe::System;
use crate::guest::machine::{Disk, Machine, Medium};
use crate::run;
use crate::volume::fleet::{Fleet, Programs, Shape};

/// File name of the root disk's copy.
const IMAGE: &str = "root.img";
/// No wait for a floppy or a second console; a panic ends the machine; no detours for a processor's flaws, which this
/// one has not.
const CMDLINE: &str = "console=ttyS0 root=/dev/nvme0n1 rootfstype=ext4 rw panic=-1 mitigations=off";
/// 4 GiB, encrypted.
const SHAPE: Shape = Shape {
    block_size: 4096,
    extent_size: 16384,
    extent_count: 64,
    encrypted: true,
    servers: 3,
};

/// Where the root file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// On a copy of the image in the machine's directory.
    Image,
    /// On a volume.
    Volume,
}

/// The root disk, and the region servers under it if it has any.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    fleet: Option<Fleet<'a>>,
    commands: Vec<String>,
}

impl<'a> Host<'a> {
    /// Puts a fresh copy of `system`'s image in its place; an earlier one is lost.
    pub(crate) fn start(
        programs: &'a Programs,
        system: &System,
        directory: &Path,
        root: Root,
    ) -> Result<Host<'a>, String> {
        fs::create_dir_all(directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        let mut host = Host {
            fleet: None,
            commands: Vec::new(),
        };
        match root {
            Root::Image => {
                let place = directory.join(IMAGE);
                system.copy_root(&place)?;
                let (from, to) = (spelled(&system.root), spelled(&place));
                host.commands
                    .push(format!("cp --sparse=always {from} {to}"));
            }
            Root::Volume => {
                let name = format!("{}-root", name_of(directory));
                host.fleet = Some(host.import(programs, system, &name)?);
            }
        }
        Ok(host)
    }

    fn import(
        &mut self,
        programs: &'a Programs,
        system: &System,
        name: &str,
    ) -> Result<Fleet<'a>, String> {
        let mut fleet = Fleet::start(programs, name, SHAPE)?;
        let started = Instant::now();
        let mut copy = programs.command("crudd");
        copy.arg("write").arg(&system.root).arg("--skip-zeroes");
        fleet.attach(&mut copy);
        self.commands.push(run::spelled(&fleet.creation()));
        self.commands
            .push(format!("{} &", run::spelled(&fleet.starting())));
        self.commands.push(run::spelled(&copy));
        programs.quiet(&mut copy)?;
        println!(
            "debian: image copied into an encrypted volume on three region servers in {:.1} s",
            started.elapsed().as_secs_f64()
        );
        Ok(fleet)
    }

    /// How to get as far by hand.
    pub(crate) fn commands(&self) -> &[String] {
        &self.commands
    }

    /// The machine's first disk.
    pub(crate) fn disks(&self) -> Vec<Disk> {
        self.fleet.as_ref().map_or_else(Self::image_disks, |fleet| {
            disks(Medium::Volume(fleet.volume()))
        })
    }

    /// The same of a machine whose directory holds an image already.
    pub(crate) fn image_disks() -> Vec<Disk> {
        disks(Medium::Image(IMAGE))
    }

    /// Ends the region servers; the three must then hold the same bytes.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        let Some(fleet) = &mut self.fleet else {
            return Ok(());
        };
        fleet.end()?;
        fleet.verify_regions()?;
        fleet.regions_are_equal()?;
        println!("debian: the three regions are sound and hold the same bytes");
        Ok(())
    }
}

fn disks(medium: Medium) -> Vec<Disk> {
    vec![Disk {
        name: "root",
        driver: "pci-nvme",
        medium,
        slot: 4,
    }]
}

/// The Debian guest's machine, on `soft`.
pub(crate) fn machine(system: &System, cpus: u32, memory: u32, disks: Vec<Disk>) -> Machine {
    Machine {
        name: "debian",
        cpus,
        memory,
        hypervisor: "soft".to_owned(),
        clock: None,
        kernel: system.kernel.clone(),
        initrd: system.initrd.clone(),
        cmdline: CMDLINE.to_owned(),
        disks,
    }
}

fn name_of(directory: &Path) -> String {
    let name = directory.file_name().unwrap_or_default();
    PathBuf::from(name).display().to_string()
}

fn spelled(path: &Path) -> String {
    run::quoted(&path.to_string_lossy())
}
