//! What the region servers say to jobs, and what the guest may be told. Spec: I/O semantics 3.2 and 3.3.

use crucible_protocol::{ClientId, CrucibleError, ExtentState, JobId, Message, SessionKey};
use vm_types::Span;

use super::action::{Action, Actions, Answer, Report, VolumeError};
use super::jobs::{HeldKind, HeldRequest, Job, Kind};
use super::rot::blames_the_source;
use super::status::{JobState, Phase};
use super::upstairs::Upstairs;

/// A job that a region server reports as failing so often, for so long, will not get better by itself: the region
/// server is given up and repaired. The reference would wait for ever; its region servers try again without a pause, and
/// report each time.
const ERRORS_MAX: u32 = 3;
const ERRORS_LAST: Span = Span::from_secs(1);

/// What an answer claims to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Write,
    WriteUnwritten,
    Flush,
    Barrier,
    Close(ExtentState),
    Copy,
    Live,
}

/// What is known of a flush.
#[derive(Debug)]
enum Verdict {
    /// It is done, or lost.
    Reached(Result<(), VolumeError>),
    /// One whole replica has done it, and the two others were given up meanwhile.
    OnOneOnly,
}

impl Upstairs {
    /// Takes the answer to a job. Anything that is not one is handed back.
    pub(super) fn reply(
        &mut self,
        from: ClientId,
        message: Message,
        out: &mut Actions,
    ) -> Option<Message> {
        let (key, job, reply, result) = match message {
            Message::WriteAck { key, job, result } => (key, job, Reply::Write, result),
            Message::WriteUnwrittenAck { key, job, result } => {
                (key, job, Reply::WriteUnwritten, result)
            }
            Message::FlushAck { key, job, result } => (key, job, Reply::Flush, result),
            Message::BarrierAck { key, job, result } => (key, job, Reply::Barrier, result),
            Message::ExtentLiveCloseAck { key, job, result } => match result {
                Ok(state) => (key, job, Reply::Close(state), Ok(())),
                Err(error) => (key, job, Reply::Close(ExtentState::default()), Err(error)),
            },
            Message::ExtentLiveRepairAckId { key, job, result } => (key, job, Reply::Copy, result),
            Message::ExtentLiveAckId { key, job, result } => (key, job, Reply::Live, result),
            Message::ReadResponse { header, data } => {
                if self.is_ours(from, header.key, out) {
                    self.read_reply(from, header.job, header.blocks, data, out);
                }
                return None;
            }
            Message::ErrorReport { key, job, error } => {
                if self.is_ours(from, key, out) {
                    self.error_report(from, job, error, out);
                }
                return None;
            }
            other => return Some(other),
        };
        if self.is_ours(from, key, out) {
            self.job_reply(from, job, reply, result, out);
        }
        None
    }

    /// An answer to somebody else means that the peer is confused: better to begin anew with it.
    fn is_ours(&mut self, from: ClientId, key: SessionKey, out: &mut Actions) -> bool {
        let ours = key == self.key;
        if !ours {
            self.lose(from, "it answered another session".to_owned(), out);
        }
        ours
    }

    fn job_reply(
        &mut self,
        from: ClientId,
        id: JobId,
        reply: Reply,
        result: Result<(), CrucibleError>,
        out: &mut Actions,
    ) {
        let Some(job) = self.jobs.get_mut(id) else {
            return; // Retired: the second answer to a job that was replayed.
        };
        if !job.is_answered_by(from, reply) {
            let reason = format!("it gave the wrong kind of answer to job {id}");
            return self.lose(from, reason, out);
        }
        let slot = &mut job.slots[from];
        match slot.state {
            JobState::Sent => {}
            JobState::Waiting => {
                let reason = format!("it answered job {id}, which it was not sent");
                return self.lose(from, reason, out);
            }
            JobState::Done | JobState::Skipped | JobState::Failed => return,
        }
        let result = match (result, &job.kind) {
            // The flush is done; only what should follow it is not.
            (
                Err(CrucibleError::SnapshotFailed(_)),
                Kind::Flush {
                    snapshot: Some(_), ..
                },
            ) => {
                slot.snapshot_failed = true;
                Ok(())
            }
            (result, _) => result,
        };
        let client = &mut self.clients[from];
        client.answered(job.bytes);
        if !std::mem::take(&mut slot.redo) {
            client.jobs -= 1;
            client.bytes -= job.bytes;
        }
        if let Err(error) = result {
            slot.state = JobState::Failed;
            client.counters.errors += 1;
            self.report_job(from, id, error.clone(), out);
            return self.fault(from, &format!("job {id} failed there: {error}"), out);
        }
        slot.state = JobState::Done;
        let took = self.now.since(job.arrived);
        match job.kind {
            Kind::Flush { .. } => {
                client.last_flush = Some(id);
                client.synced_through = id;
                if !slot.replayed {
                    client.flush_latency.sample(took);
                }
            }
            Kind::Write { .. } if !slot.replayed => client.write_latency.sample(took),
            _ => {}
        }
        let finished = job.is_finished();
        match job.kind {
            Kind::Write { start, count, .. } => self.written_anew(start, count),
            Kind::Flush { .. } | Kind::Barrier => {
                self.answer_flush(id, out);
                self.flush_reached_replica(from, id, out);
                self.finish_replacement(out);
                if finished {
                    self.retire();
                    self.finish_deactivation(out);
                }
            }
            Kind::Close { extent, .. } => {
                if let Reply::Close(state) = reply {
                    self.extent_closed(from, extent, state);
                }
                self.advance_live_repair(out);
            }
            Kind::Repair { .. } | Kind::NoOp | Kind::Reopen { .. } => {
                self.advance_live_repair(out);
            }
        }
    }

    /// A region server could not do a job, and goes on trying. Spec: I/O semantics 3.2.
    fn error_report(&mut self, from: ClientId, id: JobId, error: CrucibleError, out: &mut Actions) {
        if self.read_error(from, id, &error, out) {
            return;
        }
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        let slot = &mut job.slots[from];
        if slot.state != JobState::Sent {
            return;
        }
        slot.errors = slot.errors.saturating_add(1);
        let errors = slot.errors;
        // A copy is tried once, and so is each step of a repair where it is the target; all else again and again.
        let is_repair = match &job.kind {
            Kind::Repair { needy, .. } if needy[from] => true,
            Kind::Close { .. } | Kind::Repair { .. } | Kind::NoOp | Kind::Reopen { .. } => {
                self.clients[from].is_repairing()
            }
            Kind::Write { .. } | Kind::Flush { .. } | Kind::Barrier => false,
        };
        let is_snapshot = matches!(
            &job.kind,
            Kind::Flush {
                snapshot: Some(_),
                ..
            }
        );
        if errors == 1 {
            self.clients[from].counters.errors += 1;
            self.report_job(from, id, error.clone(), out);
        }
        if is_snapshot && matches!(error, CrucibleError::SnapshotFailed(_)) {
            if let Some(job) = self.jobs.get_mut(id) {
                job.slots[from].snapshot_failed = true;
            }
            self.answer_flush(id, out);
        } else if is_repair {
            let refused = self
                .copied_from(id, from)
                .filter(|_| blames_the_source(&error));
            if let Some((source, extent)) = refused {
                self.copy_refused(from, source, extent, &error, out);
            }
            self.fault(from, &format!("live repair failed there: {error}"), out);
            if let Some((_, extent)) = refused {
                self.stop_without_source(from, extent, out);
            }
        } else {
            let due = self.now.after(ERRORS_LAST);
            self.clients[from].failing.get_or_insert((id, due));
        }
    }

    /// Gives up who has failed a job again and again, when it has had its time.
    pub(super) fn give_up_failing(&mut self, out: &mut Actions) {
        for id in ClientId::ALL {
            let Some((job, _)) = self.clients[id]
                .failing
                .take_if(|(_, due)| *due <= self.now)
            else {
                continue;
            };
            let keeps_failing = self.jobs.get(job).is_some_and(|job| {
                let slot = &job.slots[id];
                slot.state == JobState::Sent && slot.errors >= ERRORS_MAX
            });
            // The last whole replica is never given up for what it may still manage to do.
            let others = self
                .clients
                .count(|client| client.id != id && client.is_active());
            if keeps_failing && others > 0 {
                self.fault(id, &format!("job {job} keeps failing there"), out);
            }
        }
    }

    pub(super) fn report_job(
        &self,
        client: ClientId,
        job: JobId,
        error: CrucibleError,
        out: &mut Actions,
    ) {
        out.push(Action::Report(Report::JobFailed {
            client,
            address: self.clients[client].address,
            job,
            error,
        }));
    }

    /// Answers a flush if it can be answered now.
    pub(super) fn answer_flush(&mut self, id: JobId, out: &mut Actions) {
        let Some(job) = self.jobs.get(id).filter(|job| job.token.is_some()) else {
            return;
        };
        let Some(verdict) = self.verdict(job) else {
            return;
        };
        let arrived = job.arrived;
        let Some(token) = self.jobs.get_mut(id).and_then(|job| job.token.take()) else {
            return;
        };
        match verdict {
            Verdict::Reached(result) => self.answer(token, result.map(|()| Answer::Flushed), out),
            // Before all that came later and waits as well.
            Verdict::OnOneOnly => {
                self.held.list.push_front(HeldRequest {
                    token,
                    arrived,
                    what: HeldKind::Flush { snapshot: None },
                });
                self.wait_patiently();
            }
        }
    }

    /// Answers all flushes that can be answered now.
    pub(super) fn answer_flushes(&mut self, out: &mut Actions) {
        if self.phase == Phase::Inactive {
            return;
        }
        let waiting: Vec<JobId> = self
            .jobs
            .iter()
            .filter(|job| job.token.is_some())
            .map(|job| job.id)
            .collect();
        for id in waiting {
            self.answer_flush(id, out);
        }
    }

    /// Whether a flush has succeeded or failed by now. A replica under repair has not all extents yet, and one that
    /// is about to be replaced will soon be no copy any more: these count only where no other replica that is at
    /// work is still to answer.
    fn verdict(&self, job: &Job) -> Option<Verdict> {
        let Kind::Flush { snapshot, .. } = &job.kind else {
            return None;
        };
        let (mut whole, mut partial, mut done, mut failed, mut working) = (0, 0, 0, 0, 0);
        for client in self.clients.iter() {
            let slot = &job.slots[client.id];
            match slot.state {
                // What was done in part is whole when the repair is: its own last flush comes after this one.
                JobState::Done if slot.limit.is_none() || client.is_active() => {
                    done += 1;
                    whole += u32::from(client.leaving.is_none());
                }
                JobState::Done if client.is_repairing() => {
                    done += 1;
                    partial += 1;
                }
                JobState::Done => failed += 1,
                JobState::Skipped | JobState::Failed => failed += 1,
                JobState::Waiting | JobState::Sent => working += u32::from(client.takes_jobs()),
            }
        }
        if snapshot.is_some() {
            // One under repair makes a snapshot of what it does not have yet.
            let missed = job
                .slots
                .iter()
                .filter(|slot| {
                    slot.snapshot_failed
                        || slot.limit.is_some()
                        || matches!(slot.state, JobState::Skipped | JobState::Failed)
                })
                .count() as u32;
            return match (missed, done) {
                (0, 3) => Some(Verdict::Reached(Ok(()))),
                (0, _) => None,
                _ => Some(Verdict::Reached(Err(VolumeError::SnapshotFailed {
                    failed: missed,
                }))),
            };
        }
        if whole >= 2 || (done == 3 && partial == 0) {
            return Some(Verdict::Reached(Ok(())));
        }
        if failed > 1 {
            // Everything is on one disk, and the others are made equal to it: then one more flush will do. Where
            // the last one has not answered yet, there is still something to wait for.
            return match (whole, done + failed) {
                (1.., _) if self.phase == Phase::Active => Some(Verdict::OnOneOnly),
                (0, 2) if self.phase == Phase::Active => None,
                _ => Some(Verdict::Reached(Err(VolumeError::FlushFailed { failed }))),
            };
        }
        if partial > 0 {
            return None; // One disk has everything; the repair of the other is waited for.
        }
        let finished = done + failed == 3;
        let enough = done >= 2 && whole >= 1 && working == 0;
        (finished || enough).then_some(Verdict::Reached(Ok(())))
    }

    /// Forgets what is finished everywhere.
    pub(super) fn retire(&mut self) {
        if self.phase == Phase::Deactivating {
            return; // The last flush is still to be judged, and then all is forgotten.
        }
        if let Some(fence) = self.jobs.retire() {
            for client in self.clients.iter_mut() {
                client.map.retire(fence);
            }
        }
    }
}

impl Job {
    /// Whether this is how the job is answered by that region server.
    fn is_answered_by(&self, from: ClientId, reply: Reply) -> bool {
        match &self.kind {
            Kind::Write { unwritten, .. } if *unwritten => reply == Reply::WriteUnwritten,
            Kind::Write { .. } => reply == Reply::Write,
            Kind::Flush { .. } => reply == Reply::Flush,
            Kind::Barrier => reply == Reply::Barrier,
            Kind::Close { .. } => matches!(reply, Reply::Close(_)),
            Kind::Repair { source, needy, .. } if source.is_some() && needy[from] => {
                reply == Reply::Copy
            }
            Kind::Repair { .. } | Kind::NoOp | Kind::Reopen { .. } => reply == Reply::Live,
        }
    }
}
