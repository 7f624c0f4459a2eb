//! What a guest asks for: what is taken, what is refused, what waits. Spec: I/O semantics 3.3.

use bytes::{Bytes, BytesMut};
use crucible_protocol::{BlockContext, BlockIndex, ClientId, Geometry, JobId};
use vm_types::Moment;

use super::action::{Action, Actions, Answer, VolumeError};
use super::clients::PerClient;
use super::event::{Request, Token};
use super::jobs::{HeldKind, HeldRequest, Job, Kind, Payload};
use super::status::Phase;
use super::upstairs::Upstairs;

/// Replicas that must be there, or be kept up to date for their return, before a write or flush is begun.
const LIVE_FOR_WRITES: usize = 2;
/// The same for a flush with a snapshot.
const LIVE_FOR_SNAPSHOT: usize = 3;

impl Upstairs {
    /// Takes, holds or refuses a request.
    pub(super) fn request(&mut self, token: Token, request: Request, out: &mut Actions) {
        let geometry = match self.admit(&request) {
            Ok(geometry) => geometry,
            Err(error) => return self.answer(token, Err(error), out),
        };
        let what = match request {
            Request::Read { start, count } => {
                self.counters.reads += 1;
                self.counters.read_bytes += count * u64::from(geometry.block_size());
                return self.read(token, start, count, geometry, out);
            }
            Request::Write { start, data } => HeldKind::Write {
                start,
                data,
                unwritten: false,
            },
            Request::WriteUnwritten { start, data } => HeldKind::Write {
                start,
                data,
                unwritten: true,
            },
            Request::Flush { snapshot } => HeldKind::Flush { snapshot },
        };
        match &what {
            HeldKind::Write { data, .. } => {
                self.counters.writes += 1;
                self.counters.write_bytes += data.len() as u64;
            }
            HeldKind::Flush { .. } => self.counters.flushes += 1,
        }
        let request = HeldRequest {
            token,
            arrived: self.now,
            what,
        };
        if self.held.list.is_empty() && self.can_begin(&request.what) {
            self.begin(request, out);
        } else {
            self.held.bytes += request.bytes();
            self.held.list.push_back(request);
            self.begin_to_wait(out);
        }
    }

    /// Refuses what cannot be done.
    fn admit(&self, request: &Request) -> Result<Geometry, VolumeError> {
        if let Some(stopped) = &self.activation.stopped {
            return Err(VolumeError::Stopped(Box::new(stopped.clone())));
        }
        match self.phase {
            Phase::Active => {}
            Phase::Inactive | Phase::Activating => return Err(VolumeError::Inactive),
            Phase::Deactivating => return Err(VolumeError::Deactivating),
        }
        let geometry = self.geometry.ok_or(VolumeError::Inactive)?;
        let block_size = geometry.block_size();
        let (start, count) = match request {
            Request::Read { start, count } => (*start, *count),
            Request::Write { start, data } | Request::WriteUnwritten { start, data } => {
                if self.config.read_only {
                    return Err(VolumeError::ReadOnly);
                }
                if data.len() % block_size as usize != 0 {
                    return Err(VolumeError::NotWholeBlocks {
                        bytes: data.len(),
                        block_size,
                    });
                }
                (*start, data.len() as u64 / u64::from(block_size))
            }
            Request::Flush { snapshot } => {
                if self.config.read_only && snapshot.is_some() {
                    return Err(VolumeError::ReadOnly);
                }
                (BlockIndex(0), 0)
            }
        };
        if !geometry.contains(start, count) {
            return Err(VolumeError::OutOfRange {
                start: start.0,
                count,
                blocks: geometry.block_count(),
            });
        }
        // No overflow: the blocks exist, and the bytes of a region do not overflow.
        let bytes = count * u64::from(block_size);
        let max = self.config.limits.request_bytes;
        if bytes > max as u64 {
            return Err(VolumeError::TooLarge { bytes, max });
        }
        let room = self.room();
        if room.jobs == 0 || bytes > room.bytes as u64 {
            return Err(VolumeError::Full);
        }
        Ok(geometry)
    }

    /// Whether enough replicas are there for it.
    fn can_begin(&self, what: &HeldKind) -> bool {
        let live = self
            .clients
            .count(|client| client.takes_jobs() || client.is_offline());
        match what {
            HeldKind::Flush { .. } if self.config.read_only => true,
            HeldKind::Flush { snapshot: Some(_) } => live >= LIVE_FOR_SNAPSHOT,
            HeldKind::Write { .. } if live > 0 => {
                let waiting = ClientId::ALL
                    .into_iter()
                    .filter(|&id| self.waits_for_source(id))
                    .count();
                live + waiting >= LIVE_FOR_WRITES
            }
            HeldKind::Write { .. } | HeldKind::Flush { .. } => live >= LIVE_FOR_WRITES,
        }
    }

    fn begin(&mut self, request: HeldRequest, out: &mut Actions) {
        match request.what {
            HeldKind::Write {
                start,
                data,
                unwritten,
            } => self.write(request.token, start, data, unwritten, out),
            HeldKind::Flush { .. } if self.config.read_only => {
                self.answer(request.token, Ok(Answer::Flushed), out);
            }
            HeldKind::Flush { .. } if self.jobs.take_dropped() => {
                let error = VolumeError::FlushFailed { failed: 3 };
                self.answer(request.token, Err(error), out);
            }
            HeldKind::Flush { snapshot } => {
                self.flush(Some(request.token), snapshot, request.arrived);
            }
        }
    }

    /// Something waits for region servers to come back. Told once.
    pub(super) fn begin_to_wait(&mut self, out: &mut Actions) {
        if !std::mem::replace(&mut self.waiting, true) {
            let seconds = self.config.patience.as_nanos() / 1_000_000_000;
            let what = format!(
                "too few region servers are there: requests wait for up to {seconds} s, and go on when enough are back"
            );
            Self::tell(what, out);
        }
        self.wait_patiently();
    }

    /// Nothing waits any more, and nothing would: told once, too.
    pub(super) fn end_of_wait(&mut self, out: &mut Actions) {
        let flush = HeldKind::Flush { snapshot: None };
        if self.waiting
            && self.held.list.is_empty()
            && self.reads.parked() == 0
            && self.clients.count(|client| client.is_active()) > 0
            && self.can_begin(&flush)
        {
            self.waiting = false;
            self.failing = false;
            Self::tell(
                "enough region servers are back: requests go on".to_owned(),
                out,
            );
        }
    }

    /// Begins what was held, in order, as far as there are replicas for it.
    pub(super) fn release_held(&mut self, out: &mut Actions) {
        if self.phase != Phase::Active {
            return;
        }
        while let Some(first) = self.held.list.front() {
            if !self.can_begin(&first.what) {
                break;
            }
            let Some(request) = self.held.list.pop_front() else {
                break;
            };
            self.held.bytes -= request.bytes();
            self.begin(request, out);
        }
    }

    /// A write is answered as soon as its place in the order is fixed: every later read will see it.
    fn write(
        &mut self,
        token: Token,
        start: BlockIndex,
        data: BytesMut,
        unwritten: bool,
        out: &mut Actions,
    ) {
        let Some(geometry) = self.geometry else {
            return self.answer(token, Err(VolumeError::Inactive), out);
        };
        let bytes = data.len();
        let count = bytes as u64 / u64::from(geometry.block_size());
        let data = match self.merge(start, data, unwritten, geometry, out) {
            Ok(()) => return self.answer(token, Ok(Answer::Written), out),
            Err(data) => data,
        };
        if count > 0 {
            self.repair_what_a_write_spans(start, count, geometry);
            let id = self.jobs.next_id();
            self.place(Job {
                id,
                kind: Kind::Write {
                    start,
                    count,
                    unwritten,
                },
                token: None,
                arrived: self.now,
                payload: Payload::Pending,
                bytes,
                slots: PerClient::default(),
            });
            out.push(Action::Seal { write: id, data });
            self.may_grow(id, out);
        }
        self.answer(token, Ok(Answer::Written), out);
    }

    /// The cipher is done with a write: it can be sent.
    pub(super) fn sealed(
        &mut self,
        id: JobId,
        contexts: Vec<BlockContext>,
        data: Bytes,
        out: &mut Actions,
    ) {
        let Some(job) = self.jobs.get_mut(id).filter(|job| !job.is_ready()) else {
            return; // Of an activation that is over.
        };
        let Kind::Write { count, .. } = job.kind else {
            return;
        };
        if contexts.len() as u64 != count || data.len() != job.bytes {
            let reason = "the cipher changed the length of a write".to_owned();
            return self.stop(VolumeError::SealFailed(reason), out);
        }
        job.payload = Payload::Sealed { contexts, data };
        self.release(id);
    }

    /// Fails what has waited too long for region servers to come back.
    pub(super) fn lose_patience(&mut self, out: &mut Actions) {
        self.patience_due = None;
        let now = self.now;
        let patience = self.config.patience;
        let is_over = |arrived: Moment| now.since(arrived) >= patience;
        let mut failed: Vec<(Token, Moment)> = Vec::new();
        while let Some(first) = self.held.list.front() {
            if !is_over(first.arrived) {
                break;
            }
            if let Some(request) = self.held.list.pop_front() {
                self.held.bytes -= request.bytes();
                failed.push((request.token, request.arrived));
            }
        }
        let mut waiting = !self.held.list.is_empty();
        // Flushes wait for as long as they are worked on, but not for ever for replicas that are away.
        for job in self.jobs.iter_mut().filter(|job| job.token.is_some()) {
            let away = ClientId::ALL
                .into_iter()
                .any(|id| !job.slots[id].state.is_finished() && !self.clients[id].takes_jobs());
            waiting |= away;
            if away && is_over(job.arrived) {
                failed.extend(job.token.take().map(|token| (token, job.arrived)));
            }
        }
        let lost = failed.len();
        for (token, arrived) in failed {
            let waited = now.since(arrived);
            self.answer(token, Err(VolumeError::Unavailable { waited }), out);
        }
        let lost = lost + self.fail_parked_reads(is_over, out);
        if lost > 0 && !std::mem::replace(&mut self.failing, true) {
            let what = format!(
                "{lost} requests have waited too long for region servers and fail, as will more, until enough are back"
            );
            Self::tell(what, out);
        }
        waiting |= self.reads.parked() > 0;
        if waiting {
            self.wait_patiently();
        }
    }
}
