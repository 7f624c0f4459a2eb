//! What the system says that a process has used so far. Source: proc(5).

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// User and system time of a process.
pub(super) fn processor_time(id: u32) -> Result<Duration, String> {
    let path = format!("/proc/{id}/stat");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    time(&text).ok_or_else(|| format!("{path}: not as expected"))
}

/// User and system time of each group of a process's threads: of those with the same name, but for its number.
pub(super) fn threads_time(id: u32) -> Result<BTreeMap<String, Duration>, String> {
    let path = format!("/proc/{id}/task");
    let tasks = fs::read_dir(&path).map_err(|error| format!("{path}: {error}"))?;
    let mut groups = BTreeMap::new();
    for task in tasks.flatten() {
        // A thread may end while its neighbours are read.
        let text = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        if let (Some(name), Some(time)) = (name(&text), time(&text)) {
            let group = name.trim_end_matches(|end: char| end.is_ascii_digit());
            *groups.entry(group.to_owned()).or_default() += time;
        }
    }
    Ok(groups)
}

/// The most memory that a process held at once, in bytes.
pub(super) fn peak_bytes(id: u32) -> Result<u64, String> {
    let path = format!("/proc/{id}/status");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kib| kib << 10)
        .ok_or_else(|| format!("{path}: not as expected"))
}

/// The second field of `stat`, which may hold spaces and parentheses.
fn name(stat: &str) -> Option<&str> {
    stat.get(stat.find('(')? + 1..stat.rfind(')')?)
}

/// Fields 14 and 15 of `stat`, in hundredths of a second, the unit that Linux shows to all programs.
fn time(stat: &str) -> Option<Duration> {
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(10 * user.checked_add(system)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_behind_the_name() {
        let stat = "12 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 300 40 0 0 20 0";
        assert_eq!(name(stat), Some("a (b) c"));
        assert_eq!(time(stat), Some(Duration::from_millis(3400)));
        assert_eq!(time("12 (a) S 1"), None);
    }

    #[test]
    fn our_own_accounts_can_be_read() {
        let id = std::process::id();
        assert!(processor_time(id).unwrap() < Duration::from_secs(3600));
        assert!(!threads_time(id).unwrap().is_empty());
        assert!(peak_bytes(id).unwrap() > 0);
        assert!(processor_time(u32::MAX).is_err());
    }
}
