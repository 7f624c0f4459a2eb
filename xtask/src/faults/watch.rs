//! What the guest's lines on the console say about its load.

/// What has been seen since somebody asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    /// The highest number of a transaction that was told to be committed, ever.
    pub(super) ledger: u64,
    /// When that was, in the guest's seconds.
    ledger_time: Option<f64>,
    /// The last round of fio that was verified, ever.
    pub(super) fio: Option<u64>,
    /// Rounds of fio, of pgbench, and commits since.
    pub(super) rounds: [u64; 3],
    /// The longest that a request or a commit took, in seconds.
    pub(super) longest: f64,
    /// What went wrong.
    pub(super) errors: Vec<String>,
    /// Loads that stand still because they were asked to.
    pub(super) held: Vec<String>,
}

/// What the kernel says when a disk fails it.
const COMPLAINTS: &[&str] = &[
    "I/O error",
    "blk_update_request",
    "Buffer I/O",
    "critical medium error",
    "EXT4-fs error",
    "EXT4-fs (nvme1n1): Remounting filesystem read-only",
    "XFS (nvme1n1): metadata I/O error",
    "nvme1: controller is down",
    "timeout, aborting",
    "timeout, reset controller",
    "timeout, disable controller",
    "Device not ready; aborting",
    "blocked for more than",
];
/// More lines than this only repeat.
const ERRORS_MAX: usize = 50;

impl Watch {
    /// Forgets what was since, and keeps what is for ever.
    pub(super) fn begin(&mut self) {
        self.rounds = [0; 3];
        self.longest = 0.0;
        self.errors.clear();
        self.held.clear();
    }

    /// The machine has been started again: clocks before that do not count.
    pub(super) fn restarted(&mut self) {
        self.ledger_time = None;
    }

    /// Takes one line.
    pub(super) fn line(&mut self, line: &str) {
        let Some(at) = line.find("guest: ") else {
            if COMPLAINTS.iter().any(|complaint| line.contains(complaint)) {
                self.error(line);
            }
            return;
        };
        let mut words = line[at..].split_whitespace().skip(1);
        let kind = words.next().unwrap_or_default();
        let number = words.next().unwrap_or_default();
        match (kind, number.parse::<u64>()) {
            ("ledger", Ok(number)) => {
                let time = words.next().and_then(|word| word.parse::<f64>().ok());
                if let (Some(before), Some(now)) = (self.ledger_time, time) {
                    self.longest = self.longest.max(now - before);
                }
                self.ledger_time = time;
                self.ledger = self.ledger.max(number);
                self.rounds[2] += 1;
            }
            ("fio", Ok(round)) => {
                let longest = words
                    .filter_map(|word| word.parse::<f64>().ok())
                    .fold(0.0, f64::max);
                self.longest = self.longest.max(longest / 1e6);
                self.fio = Some(round);
                self.rounds[0] += 1;
            }
            ("pgbench", Ok(_)) => self.rounds[1] += 1,
            ("held", _) => {
                self.held.push(number.to_owned());
                if number == "ledger" {
                    // What comes next will have waited for us.
                    self.ledger_time = None;
                }
            }
            ("error:", _) => self.error(&line[at..]),
            _ => {}
        }
    }

    fn error(&mut self, line: &str) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(line.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_and_stalls_are_read() {
        let mut watch = Watch::default();
        for line in [
            "guest: fio 7 1500000.5 20",
            "guest: ledger 41 100.25",
            "root# guest: ledger 42 102.75",
            "guest: pgbench 3 25.1",
            "guest: held ledger",
        ] {
            watch.line(line);
        }
        assert_eq!((watch.ledger, watch.fio), (42, Some(7)));
        assert_eq!(watch.rounds, [1, 1, 2]);
        assert!((watch.longest - 2.5).abs() < 1e-9, "{}", watch.longest);
        assert_eq!(watch.held, ["ledger"]);
        watch.begin();
        assert_eq!((watch.ledger, watch.longest), (42, 0.0));
        // A pause that we asked for is no stall.
        watch.line("guest: ledger 43 900.0");
        assert!(watch.longest.abs() < 1e-9);
    }

    #[test]
    fn what_the_kernel_and_the_loads_complain_of_counts() {
        let mut watch = Watch::default();
        watch.line("[   12.3] nvme nvme1: I/O 5 QID 2 timeout, aborting");
        watch.line("guest: error: fio round 3 ended with 1: verify: bad header");
        watch.line("[   12.3] nvme nvme1: 4/0/0 default/read/poll queues");
        assert_eq!(watch.errors.len(), 2);
    }
}
