//! Links come and go: who is dialed again, what is replayed, who is given up.
//! Spec: I/O semantics 3.5 and 3.7, negotiation 2.3.

use crucible_protocol::{ClientId, Message};
use vm_types::Moment;

use super::action::{Actions, VolumeError};
use super::client::Client;
use super::dependencies::DependencyMap;
use super::dispatch::record;
use super::event::LinkLoss;
use super::status::{JobState, Mode, Phase, ReplicaState, Step};
use super::upstairs::Upstairs;

/// A session that has the region may be half gone itself: so often, over some seconds, a refusal is tried again.
const REFUSALS_MAX: u32 = 6;

impl Upstairs {
    /// The dialed link is there: greets.
    pub(super) fn link_up(&mut self, id: ClientId, out: &mut Actions) {
        if !self.clients[id].is_at(Step::WaitConnect) {
            return;
        }
        let client = &mut self.clients[id];
        client.connected(self.now);
        let hello = Message::HereIAm {
            version: crucible_protocol::MESSAGE_VERSION,
            key: self.key,
            generation: self.generation,
            read_only: self.config.read_only,
            encrypted: self.config.encrypted,
            alternate_versions: Vec::new(),
        };
        client.say(hello, out);
    }

    /// The link is gone by itself.
    pub(super) fn link_down(&mut self, id: ClientId, loss: LinkLoss, out: &mut Actions) {
        let refused = loss == LinkLoss::Closed && self.clients[id].is_at(Step::WaitForPromote);
        let reason = match loss {
            LinkLoss::Closed if refused => format!(
                "closed when generation {} was to be promoted: another upstairs of the same or a higher \
                 generation may hold the region; if so, use a higher one",
                self.generation
            ),
            LinkLoss::Closed => "closed by the region server".to_owned(),
            LinkLoss::Failed(why) => why,
            LinkLoss::Malformed(why) => format!("it sent what is not a message: {why}"),
        };
        self.clients[id].refusals += u32::from(refused);
        self.clients[id].disconnect(self.now, false, out);
        self.lose(id, reason, out);
        self.accept_refusal(out);
    }

    /// A region server refuses a generation without a word. When two do so again and again, it is no accident, and
    /// they will not change their minds.
    fn accept_refusal(&mut self, out: &mut Actions) {
        let refusing = self.clients.count(|client| client.refusals >= REFUSALS_MAX);
        if self.phase == Phase::Activating && refusing >= 2 {
            let requested = self.generation;
            let found = requested;
            self.stop(VolumeError::GenerationTooLow { requested, found }, out);
        }
    }

    /// Gives the link up, and dials again. What a replica missed in a short absence is kept for it.
    pub(super) fn lose(&mut self, id: ClientId, reason: String, out: &mut Actions) {
        let was = self.clients[id].state();
        let mode = match was {
            ReplicaState::Idle => return,
            ReplicaState::Active if self.can_be_replayed(id) => Mode::Offline,
            ReplicaState::Active | ReplicaState::LiveRepair => {
                return self.fault(id, &reason, out);
            }
            ReplicaState::Connecting { mode, .. } => mode,
        };
        self.clients[id].disconnect(self.now, true, out);
        if was == ReplicaState::Active {
            let synced_through = self.clients[id].synced_through;
            for job in self.jobs.iter_mut() {
                job.slots[id].put_off(job.id > synced_through);
            }
        }
        self.clients[id].set_state(ReplicaState::Connecting {
            mode,
            step: Step::WaitConnect,
        });
        self.dial(id, out);
        if was == ReplicaState::Active {
            self.forget_reads_of(id, out);
            self.wait_patiently();
        }
        let next = match mode {
            Mode::New => "it is dialed again; activation waits for it",
            Mode::Offline => "it is dialed again; what it missed will be replayed",
            Mode::Faulted | Mode::Replaced => "it is dialed again; live repair will follow",
        };
        // A region server that is away is dialed for as long as it takes: that is no news each time.
        if self.clients[id].last_loss.as_deref() != Some(&reason)
            || !matches!(was, ReplicaState::Connecting { .. })
        {
            self.report(id, &reason, next, out);
        }
        self.clients[id].last_loss = Some(reason);
        self.changed = true;
        if matches!(
            was,
            ReplicaState::Connecting {
                step: Step::Reconcile,
                ..
            }
        ) {
            self.abort_reconciliation(out);
        }
    }

    /// Gives a replica up: what it has not done, it will not do; live repair makes it whole again.
    pub(super) fn fault(&mut self, id: ClientId, reason: &str, out: &mut Actions) {
        if self.clients[id].state() == ReplicaState::Idle {
            return;
        }
        let was_repairing = self.clients[id].is_repairing();
        self.clients[id].disconnect(self.now, true, out);
        for job in self.jobs.iter_mut() {
            job.slots[id].skip();
        }
        let client = &mut self.clients[id];
        client.jobs = 0;
        client.bytes = 0;
        client.last_flush = None;
        client.extent_limit = None;
        client.counters.faulted += 1;
        client.counters.live_repairs_aborted += u64::from(was_repairing);
        client.set_state(ReplicaState::Connecting {
            mode: Mode::Faulted,
            step: Step::WaitConnect,
        });
        self.dial(id, out);
        self.forget_reads_of(id, out);
        self.clients[id].last_loss = Some(reason.to_owned());
        self.wait_patiently();
        self.report(
            id,
            reason,
            "it is dialed again; live repair will follow",
            out,
        );
        self.changed = true;
    }

    /// Whether all that a replica would miss from now on is still known. After a barrier was retired that it has
    /// not flushed, it is not.
    fn can_be_replayed(&self, id: ClientId) -> bool {
        self.config.read_only
            || (self.jobs.retired_through() <= self.clients[id].synced_through
                && self.phase != Phase::Deactivating)
    }

    /// A replica is back after a short absence: sends again all that its last flush did not cover, done or not,
    /// since it may have forgotten. It is active at once; there is no answer to wait for.
    pub(super) fn replay(&mut self, id: ClientId, out: &mut Actions) {
        let Some(geometry) = self.geometry else {
            return;
        };
        let client = &mut self.clients[id];
        let last = client.last_flush;
        client.say(Message::LastFlush { last }, out);
        client.map = DependencyMap::after(last);
        client.set_state(ReplicaState::Active);
        client.counters.replays += 1;
        for job in self.jobs.iter_mut() {
            if job.id <= client.synced_through {
                continue;
            }
            let (job_id, ready) = (job.id, job.is_ready());
            let slot = &mut job.slots[id];
            if slot.state != JobState::Waiting {
                continue;
            }
            slot.replayed = true;
            slot.waits = record(&mut client.map, job_id, &job.kind, geometry);
            if ready {
                slot.queued = true;
                client.enqueue(job_id);
                client.counters.replayed_jobs += 1;
            }
        }
        self.report(id, "it is back", "what it missed is replayed", out);
        self.changed = true;
    }

    /// Gives replicas up that are away and for which too much has been kept, as long as enough others are there.
    /// Were they not, giving up would lose what only memory holds; so the guest is slowed down instead.
    pub(super) fn give_up_laggards(&mut self, out: &mut Actions) {
        for id in ClientId::ALL {
            if self.mute_due(id).is_some_and(|due| due <= self.now) {
                let what = if self.is_unsure_of(id) {
                    "the volume waits for it"
                } else {
                    "much waits for it"
                };
                self.lose(id, format!("nothing was heard for 7 s, though {what}"), out);
            }
            if self.clients[id].is_offline() && self.is_dispensable(id) {
                let reason = format!(
                    "away too long: {} jobs, {} bytes wait for it",
                    self.clients[id].jobs, self.clients[id].bytes
                );
                self.fault(id, &reason, out);
            }
        }
    }

    /// Whether so much waits for a replica that the guest will soon have to, while two others are at work.
    fn is_dispensable(&self, id: ClientId) -> bool {
        let limits = self.config.limits;
        let client = &self.clients[id];
        let others =
            |is: fn(&Client) -> bool| self.clients.count(|other| other.id != id && is(other));
        (client.jobs > limits.offline_jobs || client.bytes > limits.offline_bytes)
            && others(Client::takes_jobs) == 2
            && others(Client::is_active) > 0
    }

    /// When a replica that is about to hold the guest up is given up, unless it says something. (A region server of
    /// the reference says nothing while it copies an extent.)
    fn mute_due(&self, id: ClientId) -> Option<Moment> {
        let client = &self.clients[id];
        let holds_up = client.takes_jobs() && self.is_dispensable(id) && !self.is_copying(id);
        let holds_up = holds_up || self.is_unsure_of(id);
        holds_up.then(|| client.mute_deadline()).flatten()
    }

    /// The first of these moments.
    pub(super) fn mute_deadline(&self) -> Option<Moment> {
        let due = ClientId::ALL.into_iter().filter_map(|id| self.mute_due(id));
        due.min()
    }
}
