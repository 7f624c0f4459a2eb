//! What a user of the system would do with two disks: root on a file, and a volume of 32 GiB beside it.

use std::fs;
use std::time::{Duration, Instant};

use super::host::{Host, Root, machine};
use super::recipe::System;
use super::{BOOT_LIMIT, END_LIMIT};
use crate::guest::console::Show;
use crate::guest::machine::{Disk, Engine, LOG, Medium};
use crate::guest::session::Session;
use crate::tree;
use crate::volume::fleet::{Fleet, Programs, Shape};

/// 32 GiB, encrypted; next to nothing on disk before it is used.
const SHAPE: Shape = Shape {
    block_size: 4096,
    extent_size: 16384,
    extent_count: 512,
    encrypted: true,
    servers: 3,
};
const STEP_LIMIT: Duration = Duration::from_secs(600);

struct Step {
    what: &'static str,
    command: &'static str,
}

const BEFORE: &[Step] = &[
    Step {
        what: "mkfs.xfs on the volume",
        command: "mkfs.xfs -q /dev/nvme1n1 && mount /dev/nvme1n1 /mnt",
    },
    Step {
        what: "fio writes and verifies",
        command: "fio --name=v --filename=/mnt/fio --size=32m --bs=4k --rw=randwrite --ioengine=libaio --direct=1 \
            --iodepth=32 --verify=crc32c --verify_fatal=1 --randseed=7 --end_fsync=1 --minimal >/root/fio.out",
    },
    Step {
        what: "files are copied",
        command: "cp -a /usr/sbin /mnt/ && (cd /mnt && find sbin -type f -print0 | sort -z | xargs -0 sha256sum) \
            >/root/sums && sync",
    },
    Step {
        what: "fstrim",
        command: "rm -r /mnt/sbin/[a-f]* && sed -i '/ sbin\\/[a-f]/d' /root/sums && sync && fstrim -v /mnt",
    },
];

const AFTER: &[Step] = &[
    Step {
        what: "the volume is mounted again",
        command: "mount /dev/nvme1n1 /mnt",
    },
    Step {
        what: "all files are as they were",
        command: "test -s /root/sums && (cd /mnt && sha256sum --check --quiet /root/sums)",
    },
    Step {
        what: "fio still finds what it wrote",
        command: "fio --name=v --filename=/mnt/fio --size=32m --bs=4k --rw=randwrite --ioengine=libaio --direct=1 \
            --iodepth=32 --verify=crc32c --verify_fatal=1 --randseed=7 --verify_only --minimal >/root/fio.out",
    },
    Step {
        what: "the file system is sound",
        command: "umount /mnt && xfs_repair -n /dev/nvme1n1 2>/root/repair",
    },
];

/// Boots, works, reboots, looks.
///
/// Errors: the first step that fails.
pub(super) fn run(
    system: &System,
    programs: &Programs,
    engine: &Engine,
    cpus: u32,
    memory: u32,
    show: Show,
) -> Result<String, String> {
    let directory = tree::target().join("guest/debian-check");
    let host = Host::start(programs, system, &directory, Root::Image)?;
    let started = Instant::now();
    let mut fleet = Fleet::start(programs, "debian-check", SHAPE)?;
    println!(
        "debian: three regions of {} GiB made in {:.1} s",
        SHAPE.bytes() >> 30,
        started.elapsed().as_secs_f64()
    );
    let mut disks = host.disks();
    disks.push(Disk {
        name: "data",
        driver: "pci-nvme",
        medium: Medium::Volume(fleet.volume()),
        slot: 5,
    });
    let machine = machine(system, cpus, memory, disks);
    machine.configure(&directory)?;
    let mut session = Session::start(&machine, engine, &directory, show)?;
    let outcome = use_disks(&mut session);
    let place = directory.join("console.txt");
    fs::write(&place, session.console.transcript())
        .map_err(|error| format!("{}: {error}", place.display()))?;
    outcome.map_err(|error| format!("{error}; see {}", directory.join(LOG).display()))?;
    // Only where something was written: to look at 96 GiB of nothing takes longer than all of the above.
    timed("the three regions hold the same bytes", || {
        fleet.end()?;
        fleet.regions_are_equal()
    })?;
    fleet.remove()?;
    Ok("both disks did what disks do".to_owned())
}

fn use_disks(session: &mut Session) -> Result<(), String> {
    timed("boot to login", || session.log_in(BOOT_LIMIT))?;
    let list = session.run("lsblk -d -b -n -o NAME,SIZE,MODEL", STEP_LIMIT)?;
    for line in list.lines().filter(|line| !line.trim().is_empty()) {
        println!("    | {}", line.trim());
    }
    let size = SHAPE.bytes().to_string();
    let shown = |name: &str, part: &str| {
        list.lines()
            .any(|line| line.starts_with(name) && line.contains(part))
    };
    if !shown("nvme0n1", "") || !shown("nvme1n1", &size) {
        return Err(format!("lsblk does not show both disks: {list}"));
    }
    steps(session, BEFORE)?;
    timed("reboot from inside", || session.reboot(BOOT_LIMIT))?;
    steps(session, AFTER)?;
    timed("power off", || session.power_off(END_LIMIT).map(drop))
}

fn steps(session: &mut Session, steps: &[Step]) -> Result<(), String> {
    for step in steps {
        let said = timed(step.what, || session.run(step.command, STEP_LIMIT))?;
        for line in said.lines().filter(|line| !line.trim().is_empty()) {
            println!("    | {}", line.trim());
        }
    }
    Ok(())
}

fn timed<T>(what: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let started = Instant::now();
    let outcome = work().map_err(|error| format!("{what}: {error}"))?;
    println!("debian: {what} ({:.1} s)", started.elapsed().as_secs_f64());
    Ok(outcome)
}
