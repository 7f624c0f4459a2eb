//! The table of all jobs that change something or keep order: writes, flushes, barriers, repairs. Each is kept
//! until a fence (a flush or barrier) at or after it is finished everywhere, so that it can be replayed.
//!
//! Reads are not here: they leave nothing behind, and live in [`reads`](super::reads).

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use crucible_protocol::{BlockContext, BlockIndex, ClientId, ExtentId, JobId};
use vm_types::Moment;

use super::clients::PerClient;
use super::event::Token;
use super::status::{JobState, JobStatus, JobType};

/// How many retired ids are remembered for `GET /work`.
const RETIRED_SHOWN: usize = 8;

/// All jobs but reads, in the order of their ids.
#[derive(Debug)]
pub(super) struct Jobs {
    next: JobId,
    list: VecDeque<Job>,
    /// Data of all.
    bytes: usize,
    /// Every job up to this one is finished and forgotten.
    retired_through: JobId,
    retired: VecDeque<JobId>,
    /// Sent since the last fence: jobs (reads too) and data.
    pub(super) unfenced_jobs: usize,
    pub(super) unfenced_bytes: usize,
    newest_fence: JobId,
    /// Writes that the guest has its answer for are on no disk: its next flush must not succeed.
    dropped: bool,
    /// Writes that are forgotten here are on one whole replica only: they are not as safe as a flush must say.
    thin: bool,
    /// Writes were forgotten behind a barrier, and no flush has come since: a replica that is given up may lose them.
    loose: bool,
}

/// One job.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) kind: Kind,
    /// Who waits for the answer.
    pub(super) token: Option<Token>,
    pub(super) arrived: Moment,
    /// Whether it can be sent, and with what.
    pub(super) payload: Payload,
    /// Of data.
    pub(super) bytes: usize,
    pub(super) slots: PerClient<Slot>,
}

/// What a job does.
#[derive(Debug)]
pub(super) enum Kind {
    Write {
        start: BlockIndex,
        count: u64,
        /// Only blocks that were never written.
        unwritten: bool,
    },
    Flush {
        number: u64,
        snapshot: Option<String>,
    },
    Barrier,
    /// Live repair: the first of four with consecutive ids.
    Close {
        extent: ExtentId,
        flush: u64,
    },
    Repair {
        extent: ExtentId,
        /// Where from, once it is known that somebody needs it.
        source: Option<ClientId>,
        needy: PerClient<bool>,
    },
    NoOp,
    Reopen {
        extent: ExtentId,
    },
}

/// What a job carries.
#[derive(Debug)]
pub(super) enum Payload {
    /// Not here yet: the cipher has it, or an earlier step of a repair must be done first.
    Pending,
    /// Nothing to carry.
    Empty,
    /// Sealed blocks.
    Sealed {
        contexts: Vec<BlockContext>,
        data: Bytes,
    },
}

/// Where a job stands on one region server.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) state: JobState,
    /// What it waits for there. Moves into the message.
    pub(super) waits: Vec<JobId>,
    /// On its way into, or in, the queue of the present connection.
    pub(super) queued: bool,
    /// Sent for a second time, or to be.
    pub(super) replayed: bool,
    /// It was done once, but may be forgotten: to be done again.
    pub(super) redo: bool,
    /// The region server is under repair: flushes reach only so far.
    pub(super) limit: Option<ExtentId>,
    /// How often it was reported as failing.
    pub(super) errors: u32,
    /// It was sent over an earlier connection: its snapshot is not asked for again, since more may have been done
    /// there since.
    pub(super) sent_before: bool,
    /// The snapshot of a flush was not made, or not in its moment.
    pub(super) snapshot_failed: bool,
}

impl Jobs {
    pub(super) fn new() -> Self {
        Self {
            next: JobId::FIRST,
            list: VecDeque::new(),
            bytes: 0,
            retired_through: JobId(0),
            retired: VecDeque::with_capacity(RETIRED_SHOWN),
            unfenced_jobs: 0,
            unfenced_bytes: 0,
            newest_fence: JobId(0),
            dropped: false,
            thin: false,
            loose: false,
        }
    }

    /// A new id, higher than all before.
    pub(super) fn next_id(&mut self) -> JobId {
        let id = self.next;
        self.next = id.next();
        id
    }

    /// Takes a job whose id is the highest so far.
    pub(super) fn push(&mut self, job: Job) {
        debug_assert!(self.list.back().is_none_or(|last| last.id < job.id));
        self.bytes += job.bytes;
        self.unfenced_jobs += 1;
        self.unfenced_bytes += job.bytes;
        if job.is_fence() {
            self.newest_fence = job.id;
            self.unfenced_jobs = 0;
            self.unfenced_bytes = 0;
        }
        self.list.push_back(job);
    }

    /// Whether no id was given out since.
    pub(super) fn is_newest(&self, id: JobId) -> bool {
        id.next() == self.next
    }

    /// The newest job carries so much more.
    pub(super) const fn grown(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.unfenced_bytes += bytes;
    }

    pub(super) fn get_mut(&mut self, id: JobId) -> Option<&mut Job> {
        let index = self.index(id)?;
        self.list.get_mut(index)
    }

    pub(super) fn get(&self, id: JobId) -> Option<&Job> {
        self.list.get(self.index(id)?)
    }

    /// Where a job is. Ids rise by one but for the reads between, so it is often just so many from the front.
    fn index(&self, id: JobId) -> Option<usize> {
        let distance = id.0.checked_sub(self.list.front()?.id.0)?;
        let guess = usize::try_from(distance).ok()?;
        if self.list.get(guess).is_some_and(|job| job.id == id) {
            return Some(guess);
        }
        self.list.binary_search_by_key(&id, |job| job.id).ok()
    }

    /// The flush or barrier with the highest id, if it is still known.
    pub(super) fn newest_fence(&self) -> Option<&Job> {
        self.get(self.newest_fence)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Job> {
        self.list.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Job> {
        self.list.iter_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) const fn retired_through(&self) -> JobId {
        self.retired_through
    }

    /// Forgets all jobs up to the newest fence that is finished everywhere and answered, and names that fence.
    pub(super) fn retire(&mut self) -> Option<JobId> {
        let fence = self
            .list
            .iter()
            .take_while(|job| job.is_finished() && job.token.is_none())
            .filter(|job| job.is_fence())
            .last()?
            .id;
        let mut writes = self.loose;
        while self.list.front().is_some_and(|job| job.id <= fence) {
            let Some(job) = self.list.pop_front() else {
                break;
            };
            writes |= matches!(job.kind, Kind::Write { .. });
            if writes && job.is_fence() {
                let reached = |whole: bool| {
                    let is = move |slot: &Slot| {
                        slot.state == JobState::Done && !(whole && slot.limit.is_some())
                    };
                    job.slots.count(is)
                };
                self.dropped |= reached(false) == 0;
                self.thin |= reached(true) < 2;
                self.loose = matches!(job.kind, Kind::Barrier);
                writes = self.loose || reached(true) < 2;
            }
            self.bytes -= job.bytes;
            if self.retired.len() == RETIRED_SHOWN {
                self.retired.pop_front();
            }
            self.retired.push_back(job.id);
        }
        self.retired_through = fence;
        Some(fence)
    }

    /// No replica is whole any more: what none of them has flushed may be lost.
    pub(super) fn all_given_up(&mut self) {
        let mut jobs = self.list.iter();
        self.dropped |= self.loose || jobs.any(|job| matches!(job.kind, Kind::Write { .. }));
        self.loose = false;
    }

    /// Whether writes were dropped since this was asked last.
    pub(super) fn take_dropped(&mut self) -> bool {
        std::mem::take(&mut self.dropped)
    }

    /// Whether what was forgotten may be on no disk yet.
    pub(super) const fn is_loose(&self) -> bool {
        self.loose
    }

    /// Whether what was forgotten may be on one whole replica only.
    pub(super) const fn is_thin(&self) -> bool {
        self.thin
    }

    /// Another replica is whole: it has all.
    pub(super) const fn thickened(&mut self) {
        self.thin = false;
    }

    /// Forgets all jobs. The ids go on.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = Job> + use<> {
        self.bytes = 0;
        self.dropped = false;
        self.thin = false;
        self.loose = false;
        self.unfenced_jobs = 0;
        self.unfenced_bytes = 0;
        self.retired_through = JobId(self.next.0 - 1);
        std::mem::take(&mut self.list).into_iter()
    }

    pub(super) fn retired(&self) -> Vec<JobId> {
        self.retired.iter().copied().collect()
    }
}

impl Slot {
    /// The region server will not do it.
    pub(super) fn skip(&mut self) {
        if !self.state.is_finished() {
            self.state = JobState::Skipped;
        }
        self.redo = false;
        self.queued = false;
        self.waits = Vec::new();
    }

    /// The region server is away, and will get it when it is back. What it has done, but `may_forget`, is to be
    /// done again: until then nobody may forget the job.
    pub(super) fn put_off(&mut self, may_forget: bool) {
        match self.state {
            JobState::Sent => {
                self.state = JobState::Waiting;
                self.sent_before = true;
                self.snapshot_failed = true;
            }
            JobState::Done if may_forget => {
                self.state = JobState::Waiting;
                self.sent_before = true;
                self.redo = true;
            }
            JobState::Waiting | JobState::Done | JobState::Skipped | JobState::Failed => {}
        }
        self.queued = false;
        self.waits = Vec::new();
    }
}

impl Job {
    pub(super) const fn is_fence(&self) -> bool {
        matches!(self.kind, Kind::Flush { .. } | Kind::Barrier)
    }

    /// Nothing more is to come from anybody.
    pub(super) fn is_finished(&self) -> bool {
        self.slots.iter().all(|slot| slot.state.is_finished())
    }

    pub(super) const fn is_ready(&self) -> bool {
        !matches!(self.payload, Payload::Pending)
    }

    pub(super) fn status(&self, block_size: u64) -> JobStatus {
        JobStatus {
            id: self.id,
            kind: match self.kind {
                Kind::Write { unwritten, .. } if unwritten => JobType::WriteUnwritten,
                Kind::Write { .. } => JobType::Write,
                Kind::Flush { .. } => JobType::Flush,
                Kind::Barrier => JobType::Barrier,
                Kind::Close { .. } => JobType::Close,
                Kind::Repair { .. } => JobType::Repair,
                Kind::NoOp => JobType::NoOp,
                Kind::Reopen { .. } => JobType::Reopen,
            },
            replay: self.slots.iter().any(|slot| slot.replayed),
            start: match self.kind {
                Kind::Write { start, .. } => start,
                _ => BlockIndex(0),
            },
            blocks: self.bytes as u64 / block_size.max(1),
            dependencies: Vec::new(),
            acked: self.token.is_none(),
            states: [ClientId(0), ClientId(1), ClientId(2)].map(|id| self.slots[id].state),
        }
    }
}

/// Requests that wait until enough region servers are there.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) list: VecDeque<HeldRequest>,
    pub(super) bytes: usize,
}

/// One of them. Reads wait elsewhere.
#[derive(Debug)]
pub(super) struct HeldRequest {
    pub(super) token: Token,
    pub(super) arrived: Moment,
    pub(super) what: HeldKind,
}

/// What it wants.
#[derive(Debug)]
pub(super) enum HeldKind {
    Write {
        start: BlockIndex,
        data: BytesMut,
        unwritten: bool,
    },
    Flush {
        snapshot: Option<String>,
    },
}

impl HeldRequest {
    pub(super) fn bytes(&self) -> usize {
        match &self.what {
            HeldKind::Write { data, .. } => data.len(),
            HeldKind::Flush { .. } => 0,
        }
    }
}
