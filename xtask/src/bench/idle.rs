//! A guest that does nothing: what it costs, and the memory around its RAM after some work.

use std::fs;
use std::time::{Duration, Instant};

use super::accounts::processor_time;
use super::{Bound, Options, Row, boot};
use crate::demo::provide_standalone;
use crate::guest::console::{Console, Show};
use crate::guest::machine::{Engine, SOCKET};
use crate::tree;

const LIMIT: Duration = Duration::from_secs(600);
/// Time for the kernel's own late work to end.
const SETTLE: Duration = Duration::from_secs(5);
const WATCH: Duration = Duration::from_secs(10);

/// Boots to the shell, lets it work and then rest, and reads the process's accounts.
pub(super) fn measure(options: &Options) -> Result<Vec<Row>, String> {
    let program = provide_standalone(options.program.as_deref())?;
    let directory = tree::target().join("bench/idle");
    let machine = boot::machine(&directory, "")?;
    machine.prepare(&directory, 0)?;
    let mut child = machine.start(&Engine::Standalone(program), &directory)?;
    let mut console = Console::connect(&directory.join(SOCKET), &mut child, Show::Nothing)?;
    console.wait_for("guest# ", LIMIT, &mut child)?;
    // Some work with a wide footprint, so that caches of translated code have filled.
    console.send("find / -xdev -type f | xargs sha256sum >/tmp/sums; echo sum: $((40 + 2))\n")?;
    console.wait_for("sum: 42", LIMIT, &mut child)?;
    std::thread::sleep(SETTLE);
    let id = child.id();
    let (before, started) = (processor_time(id)?, Instant::now());
    std::thread::sleep(WATCH);
    let used = processor_time(id)?.saturating_sub(before);
    let share = 100.0 * used.as_secs_f64() / started.elapsed().as_secs_f64();
    let around = memory_around(&smaps(id)?, u64::from(machine.memory) << 20);
    child.kill();
    Ok(vec![
        Row {
            figure: "idle guest, share of a core".to_owned(),
            ours: share,
            theirs: None,
            unit: "%".to_owned(),
            bound: Bound::AtMost(2.0),
        },
        Row {
            figure: "memory around the guest's RAM".to_owned(),
            ours: around as f64 / f64::from(1 << 20),
            theirs: None,
            unit: "MiB".to_owned(),
            bound: Bound::AtMost(20.0),
        },
    ])
}

fn smaps(id: u32) -> Result<String, String> {
    let path = format!("/proc/{id}/smaps");
    fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
}

/// Resident bytes of all mappings but the guest's RAM: the one that is at least as large.
fn memory_around(smaps: &str, ram_bytes: u64) -> u64 {
    let mut around = 0;
    let mut is_ram = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(key), Some(value)) = (words.next(), words.next()) else {
            continue;
        };
        let kib: u64 = value.parse().unwrap_or(0);
        match key {
            "Size:" => is_ram = kib << 10 >= ram_bytes,
            "Rss:" if !is_ram => around += kib << 10,
            _ => {}
        }
    }
    around
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_ram_does_not_count() {
        let smaps = "1000-2000 rw-p\nSize: 262144 kB\nRss: 200000 kB\n\
            3000-4000 r--p\nSize: 100 kB\nRss: 40 kB\n";
        assert_eq!(memory_around(smaps, 256 << 20), 40 << 10);
    }

    #[test]
    fn our_own_accounts_can_be_read() {
        let id = std::process::id();
        processor_time(id).unwrap();
        assert!(memory_around(&smaps(id).unwrap(), 1 << 40) > 1 << 20);
    }
}
