//! Flushes and barriers: their numbers, and when one comes of itself. Spec: I/O semantics 3.4.

use crucible_protocol::JobId;
use vm_types::Moment;

use super::clients::PerClient;
use super::config::Relief;
use super::event::Token;
use super::jobs::{Job, Kind, Payload};
use super::status::Phase;
use super::upstairs::Upstairs;

impl Upstairs {
    /// Begins a flush: of the guest, or of our own.
    pub(super) fn flush(
        &mut self,
        token: Option<Token>,
        snapshot: Option<String>,
        arrived: Moment,
    ) -> JobId {
        let number = self.next_flush_number();
        let id = self.jobs.next_id();
        self.place(Job {
            id,
            kind: Kind::Flush { number, snapshot },
            token,
            arrived,
            payload: Payload::Empty,
            bytes: 0,
            slots: PerClient::default(),
        });
        if self.clients.count(|client| !client.takes_jobs()) > 0 {
            self.wait_patiently();
        }
        id
    }

    /// Each flush, and each close of a live repair, has its own number.
    pub(super) fn next_flush_number(&mut self) -> u64 {
        let number = self.next_flush;
        self.next_flush = number.saturating_add(1);
        number
    }

    /// Something happened that a flush should cover within its time.
    pub(super) fn arm_flush(&mut self) {
        if self.flush_due.is_none() && !self.config.read_only {
            self.flush_due = Some(self.now.after(self.config.flush_interval));
        }
    }

    /// Flushes when it is time, also under load, and also when a barrier has left no job. While a flush is on its way, the next one waits for its turn.
    pub(super) fn flush_if_due(&mut self) {
        if self.flush_due.is_none_or(|due| due > self.now) {
            return;
        }
        self.flush_due = None;
        if self.phase != Phase::Active {
            return;
        }
        if self.is_fence_on_its_way() {
            self.arm_flush();
            return;
        }
        self.counters.auto_flushes += 1;
        self.flush(None, None, self.now);
    }

    /// Keeps the list of jobs that no fence has covered short: what is on it is kept for replay here, and as
    /// completed ids by the region servers.
    pub(super) fn relieve(&mut self) {
        let limits = &self.config.limits;
        if (self.jobs.unfenced_jobs < limits.relief_jobs
            && self.jobs.unfenced_bytes < limits.relief_bytes)
            || self.phase != Phase::Active
            || self.is_fence_on_its_way()
        {
            return;
        }
        if self.config.relief == Relief::Flush && !self.config.read_only {
            self.counters.auto_flushes += 1;
            self.flush(None, None, self.now);
            return;
        }
        self.counters.barriers += 1;
        let id = self.jobs.next_id();
        // The time of the next flush stays what it was: a barrier makes nothing durable.
        let flush_due = self.flush_due;
        self.place(Job {
            id,
            kind: Kind::Barrier,
            token: None,
            arrived: self.now,
            payload: Payload::Empty,
            bytes: 0,
            slots: PerClient::default(),
        });
        self.flush_due = flush_due;
    }

    /// Whether the newest fence is still to be answered by a replica that is there.
    fn is_fence_on_its_way(&self) -> bool {
        self.jobs.newest_fence().is_some_and(|fence| {
            self.clients
                .iter()
                .any(|client| client.takes_jobs() && !fence.slots[client.id].state.is_finished())
        })
    }
}
