//! The volume comes and goes: who must be there, which generation may have it, and how it is let go.
//! Spec: negotiation 2.3.

use crucible_protocol::{ClientId, ExtentState, JobId};
use vm_types::{Moment, Span};

use super::action::{Actions, Answer, VolumeError};
use super::client::Client;
use super::clients::PerClient;
use super::event::Token;
use super::jobs::{Held, Slot};
use super::reads::Reads;
use super::status::{JobState, Mode, Phase, ReplicaState, Step};
use super::upstairs::Upstairs;

/// What is on the way up or down.
#[derive(Debug, Default)]
pub(super) struct Activation {
    /// Who waits for activation.
    up: Option<Token>,
    /// Who waits for deactivation.
    down: Option<Down>,
    /// Since when two of three are ready.
    two_since: Option<Moment>,
    /// A reconciliation of this activation has begun to stamp extents with its generation.
    pub(super) stamped: bool,
    /// Why the volume stopped.
    pub(super) stopped: Option<VolumeError>,
}

/// A deactivation.
#[derive(Clone, Copy, Debug)]
struct Down {
    token: Token,
    /// The flush that is waited for.
    last: Option<JobId>,
    /// From now on two whole replicas that have done it are enough.
    enough: Moment,
}

/// When two replicas have done the last flush, the third gets this long. It is made equal at the next activation.
const GRACE: Span = Span::from_secs(3);

impl Upstairs {
    /// Begins to activate the volume.
    pub(super) fn activate(&mut self, token: Token, generation: u64, out: &mut Actions) {
        let refused = match self.phase {
            Phase::Inactive if generation == 0 && !self.config.read_only => {
                Some(VolumeError::GenerationZero)
            }
            Phase::Inactive => None,
            Phase::Activating => Some(VolumeError::Activating),
            Phase::Active => Some(VolumeError::Active {
                generation: self.generation,
            }),
            Phase::Deactivating => Some(VolumeError::Deactivating),
        };
        if let Some(refused) = refused {
            return self.answer(token, Err(refused), out);
        }
        self.phase = Phase::Activating;
        self.generation = generation;
        self.geometry = self.config.geometry;
        self.activation = Activation {
            up: Some(token),
            ..Activation::default()
        };
        let synced_through = self.jobs.retired_through();
        for id in ClientId::ALL {
            let client = &mut self.clients[id];
            client.reset(synced_through);
            client.region = None;
            client.refusals = 0;
            client.last_loss = None;
            client.set_state(ReplicaState::Connecting {
                mode: Mode::New,
                step: Step::WaitConnect,
            });
            self.dial(id, out);
        }
        let [first, second, third] = ClientId::ALL.map(|id| self.clients[id].address);
        let what = format!(
            "activation begins with generation {generation}: {first}, {second} and {third} are dialed"
        );
        Self::tell(what, out);
    }

    /// Activates when enough replicas are ready; when all have been lost since, makes them equal anew.
    pub(super) fn try_to_activate(&mut self, out: &mut Actions) {
        if self.reconcile.is_some() {
            return;
        }
        match self.phase {
            Phase::Activating if self.config.read_only => self.join_read_only(out),
            Phase::Activating => {
                if let Some(who) = self.quorum(Step::WaitQuorum) {
                    self.check_generation(&who, out);
                }
            }
            Phase::Active if self.config.read_only => self.join_read_only(out),
            Phase::Active => {
                let nobody = |up: &Self| {
                    up.clients
                        .count(|client| client.takes_jobs() || client.is_offline())
                        == 0
                };
                if nobody(self)
                    && let Some(who) = self.quorum(Step::LiveRepairReady)
                {
                    self.jobs.all_given_up();
                    let what = "all replicas were given up: they are made equal as at activation; \
                                writes that no flush covered may be lost";
                    Self::tell(what.to_owned(), out);
                    self.begin_reconciliation(&who, out);
                }
            }
            Phase::Inactive | Phase::Deactivating => {}
        }
    }

    /// Who takes part, when enough stand at this step: all three, or, at activation, two after the configured
    /// wait.
    fn quorum(&mut self, step: Step) -> Option<PerClient<bool>> {
        let who = PerClient::from_fn(|id| self.clients[id].is_at(step));
        match who.count(|&ready| ready) {
            3 => Some(who),
            // Who was given up may have missed anything: of two of these, neither need be whole.
            2 if step == Step::WaitQuorum && self.newcomer(&who).is_none() => {
                let since = *self.activation.two_since.get_or_insert(self.now);
                let wait = self.config.degraded_activation?;
                (self.now.since(since) >= wait).then_some(who)
            }
            _ => {
                self.activation.two_since = None;
                None
            }
        }
    }

    /// One of these two who may lack what was flushed: it took the place of another, or nothing was ever written to
    /// it and something was to the other. The third may be the only one that has everything, so that it is waited for.
    pub(super) fn newcomer(&self, who: &PerClient<bool>) -> Option<ClientId> {
        let is_blank = |client: &Client| {
            let never = ExtentState::default();
            client.extents.iter().all(|&state| state == never)
        };
        let ready = || self.clients.iter().filter(|client| who[client.id]);
        let all_blank = ready().all(is_blank);
        ready()
            .find(|client| client.newcomer || (is_blank(client) && !all_blank))
            .map(|client| client.id)
    }

    /// When two replicas have waited for the third long enough.
    pub(super) fn quorum_deadline(&self) -> Option<Moment> {
        let wait = self.config.degraded_activation?;
        let since = self.activation.two_since?;
        (self.reconcile.is_none()).then(|| since.after(wait))
    }

    /// A generation must be higher than any that is on the disks. Flushes are numbered on from the highest.
    fn check_generation(&mut self, who: &PerClient<bool>, out: &mut Actions) {
        let states = || {
            self.clients
                .iter()
                .filter(|client| who[client.id])
                .flat_map(|client| &client.extents)
        };
        let found = states().map(|state| state.generation).max().unwrap_or(0);
        let flush = states().map(|state| state.flush).max().unwrap_or(0);
        let stamped = self.activation.stamped;
        if self.generation < found || (self.generation == found && !stamped) {
            let requested = self.generation;
            return self.stop(VolumeError::GenerationTooLow { requested, found }, out);
        }
        // A number that was used in this activation is not used again, even if nobody is there who has it.
        let used = if stamped { self.next_flush } else { 0 };
        self.next_flush = flush.saturating_add(1).max(used);
        self.begin_reconciliation(who, out);
    }

    /// The replicas that took part are equal: the volume is active with these.
    pub(super) fn become_active(&mut self, who: &PerClient<bool>, out: &mut Actions) {
        let synced_through = self.jobs.retired_through().max(self.newest_job());
        for id in ClientId::ALL {
            if !who[id] {
                if self.clients[id].mode() == Some(Mode::New) {
                    self.make_latecomer(id, out);
                }
                continue;
            }
            let client = &mut self.clients[id];
            client.set_state(ReplicaState::Active);
            client.newcomer = false;
            client.extents = Vec::new();
            client.suspects.clear();
            client.doubts.clear();
            client.synced_through = synced_through;
            client.last_flush = None;
            self.jobs.thickened();
            self.report(id, "it is equal to the others", "it is used", out);
        }
        self.activation.two_since = None;
        self.changed = true;
        if self.phase == Phase::Activating {
            self.phase = Phase::Active;
            let token = self.activation.up.take();
            let used = self.clients.count(Client::is_active);
            let generation = self.generation;
            Self::tell(
                format!(
                    "the volume is active, generation {generation}, with {used} of 3 region servers"
                ),
                out,
            );
            if let (Some(token), Some(geometry)) = (token, self.geometry) {
                self.answer(token, Ok(Answer::Activated(geometry)), out);
            }
        }
    }

    /// Jobs up to this one were given out.
    fn newest_job(&self) -> JobId {
        self.jobs.iter().last().map_or(JobId(0), |job| job.id)
    }

    /// A replica that was not there in time goes on where it is, but will be repaired.
    fn make_latecomer(&mut self, id: ClientId, out: &mut Actions) {
        if let ReplicaState::Connecting { step, .. } = self.clients[id].state() {
            let step = match step {
                Step::WaitQuorum => Step::LiveRepairReady,
                other => other,
            };
            self.clients[id].set_state(ReplicaState::Connecting {
                mode: Mode::Faulted,
                step,
            });
            let next = self.clients[id].state().outlook();
            self.report(id, "the volume is activated without it", next, out);
        }
    }

    /// Where nothing is written, one replica is enough, and the others join as they come.
    fn join_read_only(&mut self, out: &mut Actions) {
        let who = PerClient::from_fn(|id| {
            self.clients[id].is_at(Step::WaitQuorum)
                || self.clients[id].is_at(Step::LiveRepairReady)
        });
        if who.count(|&ready| ready) > 0 {
            self.become_active(&who, out);
        }
    }

    /// Begins to let the volume go: what was written is flushed first.
    pub(super) fn deactivate(&mut self, token: Token, out: &mut Actions) {
        match self.phase {
            Phase::Inactive => return self.answer(token, Err(VolumeError::Inactive), out),
            Phase::Deactivating => return self.answer(token, Err(VolumeError::Deactivating), out),
            Phase::Activating => {
                self.let_go(&VolumeError::Deactivating, out);
                return self.answer(token, Ok(Answer::Deactivated), out);
            }
            Phase::Active => {}
        }
        self.phase = Phase::Deactivating;
        // What was held was never begun.
        for request in std::mem::take(&mut self.held).list {
            self.answer(request.token, Err(VolumeError::Deactivating), out);
        }
        for id in ClientId::ALL {
            if self.clients[id].is_offline() && !self.config.read_only {
                self.fault(id, "the volume is deactivated while it is away", out);
            }
        }
        // After a barrier there may be no job left, and yet something that no flush has covered.
        let is_unflushed = self.jobs.len() > 0
            || self.flush_due.is_some()
            || self.jobs.is_thin()
            || self.jobs.is_loose();
        let last =
            (is_unflushed && !self.config.read_only).then(|| self.flush(None, None, self.now));
        self.activation.down = Some(Down {
            token,
            last,
            enough: self.now.after(GRACE),
        });
        self.changed = true;
    }

    /// Lets go when the last flush is finished.
    pub(super) fn finish_deactivation(&mut self, out: &mut Actions) {
        let Some(Down {
            token,
            last,
            enough,
        }) = self.activation.down
        else {
            return;
        };
        if self.reads.is_asking() {
            return;
        }
        let failed = match last.and_then(|last| self.jobs.get(last)) {
            None => 0,
            Some(job) => {
                let done = |slot: &Slot| slot.state == JobState::Done && slot.limit.is_none();
                let whole = job.slots.count(done);
                if !job.is_finished() && (whole < 2 || self.now < enough) {
                    return;
                }
                let missing = ClientId::ALL
                    .into_iter()
                    .find(|&id| !job.slots[id].state.is_finished());
                if let Some(id) = missing {
                    let reason = "it has not answered the last flush, which the others have done";
                    let next =
                        "the volume is let go; it is made equal when the volume is activated again";
                    self.report(id, reason, next, out);
                }
                3 - whole as u32
            }
        };
        let failed = if self.jobs.take_dropped() { 3 } else { failed };
        self.activation.down = None;
        self.let_go(&VolumeError::Deactivating, out);
        let result = if failed > 1 {
            Err(VolumeError::FlushFailed { failed })
        } else {
            Self::tell(
                "the volume is let go: everything is flushed".to_owned(),
                out,
            );
            Ok(Answer::Deactivated)
        };
        self.answer(token, result, out);
    }

    /// When a deactivation need not wait for the third any more.
    pub(super) fn grace_deadline(&self) -> Option<Moment> {
        let enough = self.activation.down?.enough;
        (enough > self.now).then_some(enough)
    }

    /// Stops the volume for a reason that will not go away by itself.
    pub(super) fn stop(&mut self, why: VolumeError, out: &mut Actions) {
        let was = self.phase;
        self.let_go(&why, out);
        if was != Phase::Inactive && why != VolumeError::ShutDown {
            Self::tell(format!("the volume stopped: {why}"), out);
            self.activation.stopped = Some(why);
        }
    }

    /// Hangs up on all, and answers with `why` all that is unanswered.
    fn let_go(&mut self, why: &VolumeError, out: &mut Actions) {
        self.phase = Phase::Inactive;
        for client in self.clients.iter_mut() {
            client.disconnect(self.now, true, out);
            client.set_state(ReplicaState::Idle);
        }
        self.reconcile = None;
        self.live_repair = None;
        self.stuck = None;
        self.waiting = false;
        self.failing = false;
        self.flush_due = None;
        self.patience_due = None;
        let up = self.activation.up.take();
        let down = self.activation.down.take().map(|down| down.token);
        self.activation.two_since = None;
        let held: Held = std::mem::take(&mut self.held);
        let reads: Reads = std::mem::take(&mut self.reads);
        let jobs: Vec<Token> = self.jobs.clear().filter_map(|job| job.token).collect();
        let tokens = up
            .into_iter()
            .chain(down)
            .chain(held.list.into_iter().map(|request| request.token))
            .chain(reads.into_tokens())
            .chain(jobs);
        for token in tokens {
            self.answer(token, Err(why.clone()), out);
        }
    }
}
