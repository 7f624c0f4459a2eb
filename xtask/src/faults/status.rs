//! What the machine's control socket says of its volume.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::guest::machine::CONTROL;
use crate::run;

/// The name of the volume's disk in `vm.toml`.
pub(super) const DISK: &str = "data";

/// `standalone ctl`, on the socket in a machine's directory.
#[derive(Clone, Debug)]
pub(super) struct Ctl {
    pub(super) program: PathBuf,
    pub(super) directory: PathBuf,
}

impl Ctl {
    /// Runs one of its commands and returns what it printed.
    pub(super) fn run(&self, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.directory);
        run::quiet(command.args(["ctl", CONTROL]).args(words))
    }

    /// How the volume is.
    pub(super) fn status(&self) -> Result<Status, String> {
        let text = self.run(&["disks", "--json"])?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| format!("the control socket's answer: {error}: {text}"))?;
        Status::read(&value)
            .ok_or_else(|| format!("no volume in the control socket's answer: {text}"))
    }

    /// What the machine's own log says, if it can be read.
    pub(super) fn log(&self, name: &Path) -> String {
        std::fs::read_to_string(self.directory.join(name)).unwrap_or_default()
    }
}

/// The parts of it that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    /// The state of each region server, in a word.
    pub(super) states: Vec<(String, String)>,
    /// Requests of the guest that failed.
    pub(super) failed: u64,
    /// Extents that were copied from one region server to another.
    pub(super) extents_copied: u64,
    /// Jobs that were sent again.
    pub(super) jobs_replayed: u64,
    /// Blocks that came back with other bytes than were written.
    pub(super) bad_reads: u64,
    /// Requests and jobs that wait for anybody.
    pub(super) pending: u64,
}

impl Status {
    fn read(value: &Value) -> Option<Status> {
        let disks = value.as_array().or_else(|| value["disks"].as_array())?;
        let disk = disks.iter().find(|disk| disk["name"] == DISK)?;
        let volume = &disk["volume"];
        let replicas = volume["replicas"].as_array()?;
        let sum = |name: &str| {
            replicas
                .iter()
                .filter_map(|replica| replica["counters"][name].as_u64())
                .sum()
        };
        let failed = disk["operations"]
            .as_object()?
            .values()
            .filter_map(|operation| operation["failed"].as_u64())
            .sum();
        let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        Some(Status {
            states: replicas
                .iter()
                .map(|replica| (word(&replica["address"]), word(&replica["state"])))
                .collect(),
            failed,
            extents_copied: sum("extents_repaired"),
            jobs_replayed: sum("replayed_jobs"),
            bad_reads: sum("bad_reads"),
            pending: volume["guest_jobs"].as_u64()?,
        })
    }

    /// All three are of use.
    pub(super) fn is_whole(&self) -> bool {
        self.states.len() == 3 && self.states.iter().all(|(_, state)| state == "active")
    }

    /// What is not as it should be, for a message.
    pub(super) fn complaint(&self) -> String {
        self.states
            .iter()
            .filter(|(_, state)| state != "active")
            .map(|(address, state)| format!("{address} is {state}"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"[{"name": "root", "operations": {}},
        {"name": "data", "operations": {"read": {"failed": 2}, "write": {"failed": 1}}, "volume": {"guest_jobs": 4,
         "replicas": [
            {"address": "127.0.0.1:1", "state": "active", "counters": {"extents_repaired": 3, "replayed_jobs": 5}},
            {"address": "127.0.0.1:2", "state": "active", "counters": {"extents_repaired": 4, "bad_reads": 6}},
            {"address": "127.0.0.1:3", "state": "offline", "counters": {}}]}}]"#;

    #[test]
    fn the_volume_is_found_among_the_disks_and_its_counters_are_added_up() {
        let status = Status::read(&serde_json::from_str(ANSWER).unwrap()).unwrap();
        assert_eq!((status.failed, status.pending), (3, 4));
        assert_eq!((status.extents_copied, status.jobs_replayed), (7, 5));
        assert_eq!(status.bad_reads, 6);
        assert!(!status.is_whole());
        assert_eq!(status.complaint(), "127.0.0.1:3 is offline");
    }

    #[test]
    fn two_active_replicas_are_not_a_whole_volume() {
        let mut status = Status::read(&serde_json::from_str(ANSWER).unwrap()).unwrap();
        status.states.pop();
        assert!(!status.is_whole());
        status
            .states
            .push(("127.0.0.1:4".to_owned(), "active".to_owned()));
        assert!(status.is_whole());
    }
}
