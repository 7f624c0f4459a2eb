//! What happened, as one number that tells two runs apart, and as lines for who wants to read it.

use vm_types::Moment;

use crate::dice::mix;

/// Lines that are kept, the newest ones.
const LINES_MAX: usize = 400_000;

/// The record of a run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// A record; with lines, if they are wanted.
    pub const fn new(lines: bool) -> Self {
        Self {
            hash: 0,
            events: 0,
            lines: if lines { Some(Vec::new()) } else { None },
        }
    }

    /// Something happened, told in numbers.
    pub fn event(&mut self, now: Moment, what: u64, who: u64, more: u64) {
        self.events += 1;
        let word = now.as_nanos() ^ mix(what ^ who << 8 ^ more << 24);
        self.hash = mix(self.hash.rotate_left(7) ^ word);
    }

    /// The same in words.
    pub fn line(&mut self, now: Moment, words: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            if lines.len() >= LINES_MAX {
                lines.drain(..LINES_MAX / 2);
            }
            let ns = now.as_nanos();
            let (s, us) = (ns / 1_000_000_000, ns / 1_000 % 1_000_000);
            lines.push(format!("{s:5}.{us:06} {}", words()));
        }
    }

    /// The number that tells runs apart.
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// How much happened.
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// The lines.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
