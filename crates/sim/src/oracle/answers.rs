//! Every request is answered exactly once.

use std::collections::BTreeMap;

use vm_types::Moment;

use super::history::{Epoch, View};
use crate::cipher::Version;

/// What was asked.
#[derive(Clone, Debug)]
pub enum Asked {
    /// A read, with what was known of each block then.
    Read {
        /// Under which activation.
        epoch: Epoch,
        /// First block.
        start: u64,
        /// One for each block.
        views: Vec<View>,
    },
    /// A write.
    Write {
        /// Under which activation.
        epoch: Epoch,
        /// First block.
        start: u64,
        /// How many blocks.
        count: u64,
        /// Of all its blocks.
        version: Version,
    },
    /// A flush: of all that was submitted before this version.
    Flush {
        /// Under which activation.
        epoch: Epoch,
        /// The next version then.
        before: Version,
    },
    /// A snapshot: as a flush, and as a read of everything.
    Snapshot {
        /// Under which activation.
        epoch: Epoch,
        /// The next version then.
        before: Version,
        /// What it is called.
        number: u64,
        /// What was known of each block then.
        views: Vec<View>,
    },
    /// The operator wants the volume active.
    Activate,
    /// The operator lets go: as a flush.
    Deactivate {
        /// The next version then.
        before: Version,
    },
    /// The operator puts one region server in the place of another.
    Replace {
        /// The slot.
        slot: usize,
        /// The node to come.
        spare: usize,
    },
    /// The end.
    ShutDown,
}

/// Requests of all upstairs.
#[derive(Debug, Default)]
pub struct Answers {
    next: u64,
    open: BTreeMap<u64, (usize, Moment, Asked)>,
    asked: u64,
}

impl Answers {
    /// Writes down a request; its token.
    pub fn ask(&mut self, host: usize, now: Moment, asked: Asked) -> u64 {
        self.next += 1;
        self.asked += 1;
        self.open.insert(self.next, (host, now, asked));
        self.next
    }

    /// An answer came. An error says that it should not have.
    pub fn answered(&mut self, host: usize, token: u64) -> Result<(Moment, Asked), String> {
        match self.open.remove(&token) {
            Some((owner, at, asked)) if owner == host => Ok((at, asked)),
            Some((owner, ..)) => Err(format!(
                "upstairs {host} answered request {token} of upstairs {owner}"
            )),
            None if token <= self.next => Err(format!("request {token} was answered twice")),
            None => Err(format!("an answer to {token}, which nobody asked")),
        }
    }

    /// Nobody waits for these any more: their upstairs has died.
    pub fn forget(&mut self, host: usize) {
        self.open.retain(|_, (owner, ..)| *owner != host);
    }

    /// How many requests of guests wait for their answer.
    pub fn waiting(&self, host: usize) -> usize {
        self.open
            .values()
            .filter(|(owner, ..)| *owner == host)
            .count()
    }

    /// The one that has waited longest.
    pub fn oldest(&self, host: usize) -> Option<(u64, Moment, &Asked)> {
        self.open
            .iter()
            .find(|(_, (owner, ..))| *owner == host)
            .map(|(token, (_, at, asked))| (*token, *at, asked))
    }
}
