//! What is done to the volume: one function a fault. Each leaves everything as it was, for the volume to find its way.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::stage::{EXTENT_BYTES, Stage};
use crate::guest::machine::LOG;
use crate::volume::fleet::extent_file;

/// Seeded choices: which server, how long, which block.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        // Neighbouring seeds begin far apart, and none at zero, where the sequence would stay.
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }

    /// One of the volume's three places.
    pub(super) fn member(&mut self) -> usize {
        usize::try_from(self.below(3)).unwrap_or(0)
    }
}

/// What a fault does; returns what is worth saying about it.
pub(super) type Inject = fn(&mut Stage<'_>, &mut Dice) -> Result<String, String>;

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) inject: Inject,
    /// Can stand in the mixed run, where the machine goes on.
    pub(super) mixes: bool,
}

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "kill",
        about: "kill -9 one region server, and start it again 5 s later",
        inject: kill,
        mixes: true,
    },
    Fault {
        name: "freeze",
        about: "stop one for 60 s",
        inject: |stage, dice| freeze(stage, dice, 60),
        mixes: false,
    },
    Fault {
        name: "freeze-short",
        about: "stop one for some seconds",
        inject: |stage, dice| {
            let seconds = 3 + dice.below(12);
            freeze(stage, dice, seconds)
        },
        mixes: true,
    },
    Fault {
        name: "full",
        about: "one's disk takes no more writes for 15 s",
        inject: full,
        mixes: true,
    },
    Fault {
        name: "slow",
        about: "one does a tenth of what it could, for 20 s",
        inject: slow,
        mixes: true,
    },
    Fault {
        name: "rot",
        about: "bytes flipped in one's extent files",
        inject: rot,
        mixes: true,
    },
    Fault {
        name: "replace",
        about: "one killed, its region deleted, another put in its place",
        inject: replace,
        mixes: true,
    },
    Fault {
        name: "one-by-one",
        about: "all three restarted, one after another",
        inject: one_by_one,
        mixes: true,
    },
    Fault {
        name: "all-at-once",
        about: "all three killed, and started again 5 s later",
        inject: all_at_once,
        mixes: false,
    },
    Fault {
        name: "cut",
        about: "one's connection cut in the middle of a frame, three times",
        inject: cut,
        mixes: true,
    },
    Fault {
        name: "takeover",
        about: "a second standalone takes the volume over",
        inject: take_over,
        mixes: false,
    },
    Fault {
        name: "power",
        about: "kill -9 of standalone, and a new start",
        inject: power,
        mixes: false,
    },
];

fn kill(stage: &mut Stage<'_>, dice: &mut Dice) -> Result<String, String> {
    let server = stage.fleet.members()[dice.member()];
    stage.fleet.kill(server)?;
    stage.wait(Duration::from_secs(5))?;
    stage.fleet.restart(server)?;
    Ok(format!("server {server}"))
}

fn freeze(stage: &mut Stage<'_>, dice: &mut Dice, seconds: u64) -> Result<String, String> {
    let server = stage.fleet.members()[dice.member()];
    let process = stage.fleet.pid(server)?;
    signal(process, libc::SIGSTOP)?;
    let waited = stage.wait(Duration::from_secs(seconds));
    signal(process, libc::SIGCONT)?;
    waited?;
    Ok(format!("server {server}, {seconds} s"))
}

/// A limit on the length of files that is shorter than all of them: writes fail, reads do not. A full disk would say
/// ENOSPC where this says EFBIG, and would need a file system of its own, which only root can have.
fn full(stage: &mut Stage<'_>, dice: &mut Dice) -> Result<String, String> {
    let server = stage.fleet.members()[dice.member()];
    let process = stage.fleet.pid(server)?;
    limit_files(process, 0)?;
    let waited = stage.wait(Duration::from_secs(15));
    let is_alive = limit_files(process, libc::RLIM_INFINITY).is_ok();
    waited?;
    if !is_alive || stage.fleet.pid(server).ok() != Some(process) {
        stage.fleet.restart(server)?;
        return Ok(format!("server {server}, which ended by it"));
    }
    Ok(format!("server {server}"))
}

fn slow(stage: &mut Stage<'_>, dice: &mut Dice) -> Result<String, String> {
    const RUNS: Duration = Duration::from_millis(5);
    const STOPS: Duration = Duration::from_millis(45);
    let server = stage.fleet.members()[dice.member()];
    let process = stage.fleet.pid(server)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        signal(process, libc::SIGSTOP)?;
        let pumped = stage.pump(Duration::ZERO);
        std::thread::sleep(STOPS);
        signal(process, libc::SIGCONT)?;
        pumped?;
        std::thread::sleep(RUNS);
    }
    Ok(format!("server {server}"))
}

/// Flips a byte in blocks that fio has written and will read, in the files of a server that is down for the moment.
fn rot(stage: &mut Stage<'_>, dice: &mut Dice) -> Result<String, String> {
    const FLIPS: usize = 16;
    stage.hold()?;
    let said = stage.fragments()?;
    let blocks = parse_fragments(&said);
    if blocks.is_empty() {
        return Err(format!("no blocks of fio's in: {said}"));
    }
    let server = stage.fleet.members()[dice.member()];
    stage.fleet.stop(server)?;
    let region = stage.fleet.region(server);
    for _ in 0..FLIPS {
        let at = usize::try_from(dice.below(blocks.len() as u64)).unwrap_or(0);
        let byte = blocks[at] * 4096 + dice.below(4096);
        flip(&region, byte)?;
    }
    stage.fleet.restart(server)?;
    stage.until("the volume is whole", Duration::from_secs(120), |stage| {
        Ok(stage.ctl.status()?.is_whole())
    })?;
    // Each region server should be asked for some of them.
    let mut found = 0;
    for _ in 0..4 {
        stage.reread()?;
        found = stage.ctl.status()?.bad_reads;
    }
    stage.release()?;
    Ok(format!(
        "{FLIPS} bytes on server {server}, {found} bad reads since its start"
    ))
}

fn flip(region: &Path, byte: u64) -> Result<(), String> {
    let extent = u32::try_from(byte / EXTENT_BYTES).map_err(|error| error.to_string())?;
    let place = extent_file(region, extent);
    let said = |error: io::Error| format!("{}: {error}", place.display());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&place)
        .map_err(said)?;
    let at = byte % EXTENT_BYTES;
    let mut old = [0_u8];
    file.read_exact_at(&mut old, at).map_err(said)?;
    file.write_all_at(&[old[0] ^ 0x10], at).map_err(said)
}

/// The blocks of a file, from `filefrag -v`: `ext: logical: physical: length:`, each range `first.. last`.
fn parse_fragments(text: &str) -> Vec<u64> {
    let mut blocks = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let is_row = fields
            .first()
            .is_some_and(|first| first.trim().parse::<u32>().is_ok());
        if !is_row || fields.len() < 4 {
            continue;
        }
        let mut ends = fields[2].split("..").map(|end| end.trim().parse::<u64>());
        if let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) {
            blocks.extend(first..=last);
        }
    }
    blocks
}

fn replace(stage: &mut Stage<'_>, dice: &mut Dice) -> Result<String, String> {
    // The first one is reached through the proxy, which stays where it is.
    let member = 1 + usize::try_from(dice.below(2)).unwrap_or(0);
    let lost = stage.fleet.members()[member];
    stage.replace(member)?;
    let new = stage.fleet.members()[member];
    Ok(format!("server {new} for server {lost}"))
}

fn one_by_one(stage: &mut Stage<'_>, _dice: &mut Dice) -> Result<String, String> {
    for server in stage.fleet.members() {
        stage.fleet.stop(server)?;
        stage.wait(Duration::from_secs(1))?;
        stage.fleet.restart(server)?;
        stage.heal()?;
    }
    Ok("each whole again before the next".to_owned())
}

fn all_at_once(stage: &mut Stage<'_>, _dice: &mut Dice) -> Result<String, String> {
    for server in stage.fleet.members() {
        stage.fleet.kill(server)?;
    }
    stage.wait(Duration::from_secs(5))?;
    for server in stage.fleet.members() {
        stage.fleet.restart(server)?;
    }
    Ok("5 s without any".to_owned())
}

fn cut(stage: &mut Stage<'_>, _dice: &mut Dice) -> Result<String, String> {
    let before = stage.proxy.cuts();
    for round in 1..=3 {
        stage.proxy.cut();
        stage.until("a frame is cut", Duration::from_secs(120), |stage| {
            Ok(stage.proxy.cuts() == before + round)
        })?;
        stage.wait(Duration::from_secs(2))?;
    }
    Ok(format!("server {}", stage.fleet.members()[0]))
}

fn take_over(stage: &mut Stage<'_>, _dice: &mut Dice) -> Result<String, String> {
    let said = stage.take_over()?;
    let message = serde_json::from_str::<serde_json::Value>(&said)
        .ok()
        .and_then(|line| Some(line["msg"].as_str()?.to_owned()))
        .unwrap_or(said);
    println!("faults: the first one says: {message}");
    Ok("the first one stopped and said why".to_owned())
}

fn power(stage: &mut Stage<'_>, _dice: &mut Dice) -> Result<String, String> {
    let told = stage.watch.ledger;
    stage.lose_power()?;
    Ok(format!("after {told} commits, see {LOG}"))
}

fn signal(process: u32, number: libc::c_int) -> Result<(), String> {
    let id = libc::pid_t::try_from(process).map_err(|error| error.to_string())?;
    // SAFETY: a signal to another process touches no memory of ours.
    let sent = unsafe { libc::kill(id, number) };
    if sent == 0 {
        Ok(())
    } else {
        Err(format!(
            "signal to {process}: {}",
            io::Error::last_os_error()
        ))
    }
}

/// Sets how long a process's files may be.
fn limit_files(process: u32, bytes: libc::rlim_t) -> Result<(), String> {
    let id = libc::pid_t::try_from(process).map_err(|error| error.to_string())?;
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the new limit comes from a reference to a live local, and the old one is not asked for.
    let set = unsafe {
        libc::prlimit(
            id,
            libc::RLIMIT_FSIZE,
            &raw const limit,
            std::ptr::null_mut(),
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(format!(
            "a limit for {process}: {}",
            io::Error::last_os_error()
        ))
    }
}

/// Whoever meets the limit gets an error instead of a signal; what we start inherits that.
pub(super) fn ignore_limit_signals() {
    // SAFETY: ignoring a signal installs no handler; nothing in this program waits for this one.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_the_table() {
        for (index, fault) in FAULTS.iter().enumerate() {
            assert!(fault.name.len() <= 12, "{}", fault.name);
            assert!(FAULTS[..index].iter().all(|other| other.name != fault.name));
        }
    }

    #[test]
    fn the_same_seed_throws_the_same_dice() {
        let throws = |seed| {
            let mut dice = Dice::new(seed);
            (0..8).map(|_| dice.below(100)).collect::<Vec<_>>()
        };
        assert_eq!(throws(3), throws(3));
        assert_ne!(throws(3), throws(4));
        assert!(throws(0).iter().any(|throw| *throw != 0));
    }

    #[test]
    fn blocks_of_a_file_are_read() {
        let text = "Filesystem type is: ef53\nFile size of /data/fio0 is 4194304 (1024 blocks of 4096 bytes)\n \
            ext:     logical_offset:        physical_offset: length:   expected: flags:\n   \
            0:        0..       1:      34816..     34817:      2:\n   \
            1:        2..       2:      40000..     40000:      1:             last,eof\n";
        assert_eq!(parse_fragments(text), [34816, 34817, 40000]);
    }
}
