//! Making replicas whole again while the guest goes on. Spec: repair 6.4.
//!
//! For each extent four jobs with consecutive ids take part in the order of all jobs:
//!
//! ```text
//! earlier I/O on the extent ◄── close ◄── repair ◄── no-op ◄── reopen ◄── later I/O on the extent
//! ```
//!
//! Close and reopen are sent at once, so that everything later waits. Repair is sent when all have closed and it
//! is known who differs; the no-op when the copies are done: it keeps the source closed until then. Replicas that
//! are away are not waited for: they get the four jobs by replay, like any others.
//!
//! A replica under repair gets the I/O that begins at or below its limit, the last extent whose repair has begun.
//! Several extents are in flight; their number is small, since the guest's I/O on them waits.

use crucible_protocol::{BlockIndex, ClientId, ExtentId, ExtentState, Geometry, JobId};

use super::action::Actions;
use super::client::Client;
use super::clients::PerClient;
use super::dispatch::last_extent;
use super::jobs::{Job, Kind, Payload};
use super::status::{JobState, Phase, ReplicaState, Step};
use super::upstairs::Upstairs;

/// A live repair that is going on, of all replicas in that state.
#[derive(Debug)]
pub(super) struct LiveRepair {
    /// The next extent to begin with.
    next: u32,
    flight: Vec<Repair>,
    /// The flush after which the repaired replicas are whole.
    last: Option<JobId>,
}

/// An extent that is being repaired.
#[derive(Debug)]
struct Repair {
    extent: ExtentId,
    /// The first of four jobs.
    close: JobId,
    stage: Stage,
    /// What each replica found when it had closed the extent.
    found: PerClient<Option<ExtentState>>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Close,
    Copy,
    Reopen,
}

impl LiveRepair {
    /// Extents that are equal.
    pub(super) fn done(&self) -> u64 {
        u64::from(self.next).saturating_sub(self.flight.len() as u64)
    }
}

impl Repair {
    const fn repair(&self) -> JobId {
        JobId(self.close.0 + 1)
    }

    const fn no_op(&self) -> JobId {
        JobId(self.close.0 + 2)
    }

    const fn reopen(&self) -> JobId {
        JobId(self.close.0 + 3)
    }
}

impl Upstairs {
    /// Begins when somebody is ready for it and somebody is whole. All who are ready are repaired together.
    pub(super) fn start_live_repair(&mut self, out: &mut Actions) {
        let ready = PerClient::from_fn(|id| self.clients[id].is_at(Step::LiveRepairReady));
        if self.phase != Phase::Active
            || self.config.read_only
            || self.live_repair.is_some()
            || self.reconcile.is_some()
            || ready.count(|&is| is) == 0
            || self.clients.count(|client| client.is_active()) == 0
            || self.is_stuck(&ready)
        {
            return;
        }
        for id in ClientId::ALL.into_iter().filter(|&id| ready[id]) {
            let client = &mut self.clients[id];
            client.set_state(ReplicaState::LiveRepair);
            client.extents = Vec::new();
            client.last_flush = None;
            client.jobs = 0;
            client.bytes = 0;
            self.report(
                id,
                "live repair begins",
                "it is made equal, extent by extent",
                out,
            );
        }
        self.live_repair = Some(LiveRepair {
            next: 0,
            flight: Vec::new(),
            last: None,
        });
        self.advance_live_repair(out);
    }

    /// A write that begins in a repaired extent and ends beyond the limit must wait for the repair of what lies
    /// between; so that begins now.
    pub(super) fn repair_what_a_write_spans(
        &mut self,
        start: BlockIndex,
        count: u64,
        geometry: Geometry,
    ) {
        let Some(mut repair) = self.live_repair.take() else {
            return;
        };
        let first = geometry.locate(start).map_or(0, |(extent, _)| extent.0);
        let last = last_extent(geometry, start.0, count).0;
        if first < repair.next && self.is_any_under_repair() {
            while repair.next <= last {
                self.begin_extent(&mut repair);
            }
        }
        self.live_repair = Some(repair);
    }

    /// A replica has closed an extent.
    pub(super) fn extent_closed(&mut self, from: ClientId, extent: ExtentId, state: ExtentState) {
        let repair = self.live_repair.as_mut().and_then(|live| {
            live.flight
                .iter_mut()
                .find(|repair| repair.extent == extent)
        });
        if let Some(repair) = repair {
            repair.found[from] = Some(state);
        }
    }

    /// Goes on with all extents whose step is done, begins new ones, and ends with a flush.
    pub(super) fn advance_live_repair(&mut self, out: &mut Actions) {
        let Some(mut live) = self.live_repair.take() else {
            return;
        };
        self.fault_targets_without_source(out);
        let mut index = 0;
        while let Some(repair) = live.flight.get_mut(index) {
            if !self.advance_extent(repair) {
                index += 1;
            } else {
                live.flight.swap_remove(index);
            }
        }
        let geometry_end = self.geometry.map_or(0, |geometry| geometry.extent_count());
        let window = self.config.limits.live_repair_extents.max(1);
        let targets = self.is_any_under_repair();
        let goes_on = targets && self.phase == Phase::Active;
        while goes_on && live.next < geometry_end && live.flight.len() < window {
            self.begin_extent(&mut live);
        }
        if goes_on && live.next == geometry_end && live.flight.is_empty() && live.last.is_none() {
            live.last = Some(self.flush(None, None, self.now));
        }
        // Without targets, the extents in flight are still opened again, and then it is over.
        if targets || !live.flight.is_empty() {
            self.live_repair = Some(live);
        } else {
            Self::tell("live repair broke off".to_owned(), out);
            self.changed = true;
        }
    }

    /// A flush is done on one replica. After the last flush of its repair, that replica is whole.
    pub(super) fn flush_reached_replica(&mut self, id: ClientId, flush: JobId, out: &mut Actions) {
        let is_last = self
            .live_repair
            .as_ref()
            .is_some_and(|live| live.last == Some(flush));
        if !is_last || !self.clients[id].is_repairing() {
            return;
        }
        let client = &mut self.clients[id];
        client.set_state(ReplicaState::Active);
        client.newcomer = false;
        client.extent_limit = None;
        client.suspects.clear();
        client.doubts.clear();
        client.counters.live_repairs_completed += 1;
        if self.clients.count(|client| client.is_active()) >= 2 {
            self.jobs.thickened();
        }
        self.report(id, "live repair is done", "it is used", out);
        if !self.is_any_under_repair() {
            self.live_repair = None;
        }
        self.changed = true;
    }

    /// Whether a replica was told to copy an extent, and has not done so.
    pub(super) fn is_copying(&self, id: ClientId) -> bool {
        let flight = self.live_repair.iter().flat_map(|live| &live.flight);
        flight
            .filter_map(|repair| self.jobs.get(repair.repair()))
            .any(|job| {
                let is_needy = matches!(&job.kind, Kind::Repair { needy, .. } if needy[id]);
                is_needy && job.slots[id].state == JobState::Sent
            })
    }

    fn is_any_under_repair(&self) -> bool {
        self.clients.iter().any(|client| client.is_repairing())
    }

    /// When no whole replica is left, not even one that is away, there is nothing to copy from.
    fn fault_targets_without_source(&mut self, out: &mut Actions) {
        let whole = self.clients.count(Client::is_whole);
        for id in ClientId::ALL {
            if whole == 0 && self.clients[id].is_repairing() {
                self.fault(id, "no whole replica is left to repair it from", out);
            }
        }
    }

    /// Places the four jobs of the next extent; from now on its I/O goes to the replicas under repair, too.
    fn begin_extent(&mut self, live: &mut LiveRepair) {
        let extent = ExtentId(live.next);
        live.next += 1;
        for client in self
            .clients
            .iter_mut()
            .filter(|client| client.is_repairing())
        {
            client.extent_limit = Some(extent);
        }
        let flush = self.next_flush_number();
        let close = self.place_step(Kind::Close { extent, flush }, Payload::Empty);
        let repair = Kind::Repair {
            extent,
            source: None,
            needy: PerClient::default(),
        };
        self.place_step(repair, Payload::Pending);
        self.place_step(Kind::NoOp, Payload::Pending);
        self.place_step(Kind::Reopen { extent }, Payload::Empty);
        live.flight.push(Repair {
            extent,
            close,
            stage: Stage::Close,
            found: PerClient::default(),
        });
    }

    fn place_step(&mut self, kind: Kind, payload: Payload) -> JobId {
        let id = self.jobs.next_id();
        self.place(Job {
            id,
            kind,
            token: None,
            arrived: self.now,
            payload,
            bytes: 0,
            slots: PerClient::default(),
        });
        id
    }

    /// Brings one extent on as far as it goes. True when it is done.
    fn advance_extent(&mut self, repair: &mut Repair) -> bool {
        loop {
            match repair.stage {
                Stage::Close => {
                    if !self.is_done_by_all(repair.close) {
                        return false;
                    }
                    let targets = PerClient::from_fn(|id| self.clients[id].is_repairing());
                    let source = self.source(repair);
                    if source.is_none() && targets.count(|&is| is) > 0 {
                        return false; // All whole ones are away; one will come back.
                    }
                    self.decide(repair, source, &targets);
                    repair.stage = Stage::Copy;
                }
                Stage::Copy => {
                    if !self.is_done_by_all(repair.repair()) {
                        return false;
                    }
                    self.count_copies(repair);
                    self.release_empty(repair.no_op());
                    repair.stage = Stage::Reopen;
                }
                Stage::Reopen => {
                    return self.is_done_by_all(repair.no_op())
                        && self.is_done_by_all(repair.reopen());
                }
            }
        }
    }

    /// Whether all who are there have done this job. A job that is not known any more was done by all.
    fn is_done_by_all(&self, id: JobId) -> bool {
        self.jobs.get(id).is_none_or(|job| {
            self.clients
                .iter()
                .all(|client| !client.takes_jobs() || job.slots[client.id].state.is_finished())
        })
    }

    /// The replica to copy from: of those that are whole and have closed the extent, the highest with the newest state
    /// (one that knows of a bad block of its own is dirty, or behind); one that gave bad data from it only when there is
    /// no other.
    fn source(&self, repair: &Repair) -> Option<ClientId> {
        let whole = ClientId::ALL.into_iter().filter(|&id| {
            self.clients[id].is_active() && self.clients[id].repair_address.is_some()
        });
        whole
            .filter_map(|id| {
                let ExtentState {
                    generation,
                    flush,
                    dirty,
                } = repair.found[id]?;
                let good = !self.clients[id].suspects.has(repair.extent);
                Some((good, generation, flush, !dirty, id))
            })
            .max()
            .map(|(.., id)| id)
    }

    /// Says who copies: those that differ from the source, or are not to be believed.
    fn decide(&mut self, repair: &Repair, source: Option<ClientId>, targets: &PerClient<bool>) {
        let best = source.and_then(|source| repair.found[source]);
        let differs = PerClient::from_fn(|id| {
            targets[id]
                && source.is_some()
                && (repair.found[id] != best
                    || repair.found[id].is_none_or(|state| state.dirty)
                    || self.clients[id].suspects.has(repair.extent))
        });
        if let Some(job) = self.jobs.get_mut(repair.repair())
            && let Kind::Repair {
                source: from,
                needy,
                ..
            } = &mut job.kind
        {
            *from = source;
            *needy = differs;
        }
        self.release_empty(repair.repair());
    }

    fn release_empty(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(id) {
            job.payload = Payload::Empty;
        }
        self.release(id);
    }

    fn count_copies(&mut self, repair: &Repair) {
        let Some(job) = self.jobs.get(repair.repair()) else {
            return;
        };
        let Kind::Repair { needy, .. } = &job.kind else {
            return;
        };
        for client in self
            .clients
            .iter_mut()
            .filter(|client| client.is_repairing())
        {
            if job.slots[client.id].state == JobState::Done {
                if needy[client.id] {
                    client.counters.extents_repaired += 1;
                } else {
                    client.counters.extents_confirmed += 1;
                }
            }
        }
    }
}
