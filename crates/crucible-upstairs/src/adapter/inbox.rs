//! Where answers gather until the queue's worker comes for them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use block::Doorbell;

use crate::store::{Outcome, Sink};

/// Inline, the guest's thread waits for its answers; it looks again this often.
const WAIT_INLINE: Duration = Duration::from_secs(1);

/// Answers, until the worker comes for them, with the tags of their parts.
pub(super) struct Inbox {
    answers: Mutex<Vec<(u64, Outcome)>>,
    doorbell: Arc<Doorbell>,
    /// For a guest's thread that waits for its answers.
    inline: Option<Condvar>,
}

impl Inbox {
    /// `inline`: somebody will call [`Inbox::wait`]; else `doorbell` is rung when answers have come.
    pub(super) fn new(doorbell: Arc<Doorbell>, inline: bool) -> Self {
        Self {
            answers: Mutex::default(),
            doorbell,
            inline: inline.then(Condvar::new),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Outcome)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what has come to the end of `into`.
    pub(super) fn take(&self, into: &mut Vec<(u64, Outcome)>) {
        into.append(&mut self.lock());
    }

    /// Until there is an answer, or earlier.
    pub(super) fn wait(&self) {
        let Some(arrived) = &self.inline else { return };
        let answers = self.lock();
        if answers.is_empty() {
            let waited = arrived.wait_timeout(answers, WAIT_INLINE);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Sink for Inbox {
    fn complete(&self, tag: u64, outcome: Outcome) {
        self.lock().push((tag, outcome));
    }

    fn rest(&self) {
        match &self.inline {
            Some(arrived) => arrived.notify_all(),
            None => self.doorbell.ring(),
        }
    }
}
