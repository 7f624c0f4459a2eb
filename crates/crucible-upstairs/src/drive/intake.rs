//! The way in: a queue under one lock, and the waker of the task that empties it.
//!
//! The queue itself has no bound; what is put there holds a permit ([`crate::volume`]) or is one of few commands.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::sync::oneshot;

use crate::core::{Command, Request};
use crate::store::{Ask, Insight, Reply, Submission};

/// Shared by the handles of a region and its driver.
#[derive(Default)]
pub(super) struct Intake {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    requests: VecDeque<(Request, Reply)>,
    commands: Vec<(Command, Reply)>,
    questions: Vec<oneshot::Sender<Box<Insight>>>,
    /// The driver, when it is (about to be) asleep. Nobody else needs waking.
    sleeper: Option<Waker>,
    /// No handle is left.
    abandoned: bool,
    /// The driver has ended.
    closed: bool,
}

/// What a turn takes in at once.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) requests: VecDeque<(Request, Reply)>,
    pub(super) commands: Vec<(Command, Reply)>,
    pub(super) questions: Vec<oneshot::Sender<Box<Insight>>>,
    pub(super) abandoned: bool,
}

impl Intake {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all of it. Gives the waker of the driver if that is asleep: whoever gets it sees to it.
    pub(super) fn submit(&self, batch: &mut Vec<Submission>) -> Option<Waker> {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            // Each of them says, as it is dropped, that the volume was shut down.
            batch.clear();
            return None;
        }
        for Submission { ask, reply } in batch.drain(..) {
            match ask {
                Ask::Request(request) => state.requests.push_back((request, reply)),
                Ask::Command(command) => state.commands.push((command, reply)),
            }
        }
        state.sleeper.take()
    }

    pub(super) fn ask(&self, question: oneshot::Sender<Box<Insight>>) {
        let mut state = self.lock();
        if !state.closed {
            state.questions.push(question);
            Self::wake(state);
        }
    }

    /// The last handle is gone.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.abandoned = true;
        Self::wake(state);
    }

    /// Something happened elsewhere that the driver should look at.
    pub(super) fn nudge(&self) {
        Self::wake(self.lock());
    }

    fn wake(mut state: MutexGuard<'_, State>) {
        let sleeper = state.sleeper.take();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    /// Moves what is there to `taken`, whose lists are empty but for requests that had to wait. With nothing
    /// there, the driver is noted as asleep, to be woken by whatever comes. Returns whether there was anything.
    pub(super) fn take(&self, taken: &mut Taken, waker: &Waker) -> bool {
        let mut state = self.lock();
        let any = !state.requests.is_empty()
            || !state.commands.is_empty()
            || !state.questions.is_empty()
            || (state.abandoned && !taken.abandoned);
        if !any {
            if !state
                .sleeper
                .as_ref()
                .is_some_and(|known| known.will_wake(waker))
            {
                state.sleeper = Some(waker.clone());
            }
            return false;
        }
        if taken.requests.is_empty() {
            std::mem::swap(&mut taken.requests, &mut state.requests);
        } else {
            taken.requests.append(&mut state.requests);
        }
        taken.commands.append(&mut state.commands);
        taken.questions.append(&mut state.questions);
        taken.abandoned = state.abandoned;
        true
    }

    /// The driver ends: what comes now is turned away.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let requests = std::mem::take(&mut state.requests);
        let commands = std::mem::take(&mut state.commands);
        state.questions.clear();
        drop(state);
        // Outside of the lock: each says, as it is dropped, that the volume was shut down.
        drop((requests, commands));
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Intake(..)")
    }
}
