//! Reads: one replica is asked, a second when it is late, the others when what came is not to be believed.
//!
//! Each attempt is a job of its own, ordered after all that was sent to that replica before; so any whole replica
//! may be asked at any time, and the answer has every write that was acknowledged when the read began.
//! An attempt that nobody waits for any more is remembered until it is answered, or its link is gone.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;
use crucible_protocol::{
    BlockIndex, ClientId, CrucibleError, Geometry, JobId, Message, ReadBlockContext,
};
use vm_types::{Moment, Span};

use super::action::{Action, Actions, Answer, Report, VolumeError};
use super::clients::{PerClient, is_client};
use super::event::{BadData, Plain, Token, Written};
use super::status::{JobState, JobStatus, JobType, Phase};
use super::upstairs::Upstairs;

/// One of so many reads goes to a replica by turn, so that the latency of each stays known.
const EXPLORE_EVERY: u64 = 64;
/// Reads that may be with more than one replica at once, whatever the load.
const HEDGES_MIN: usize = 4;
/// One of so many reads may be with more than one replica.
const HEDGES_SHARE: usize = 8;
/// A replica that has answered no read for so long, though it was asked, is stuck.
const STUCK: Span = Span::from_millis(250);
/// Where all who could be asked have reported errors and go on trying, the read fails after this.
const REPORTS_LAST: Span = Span::from_secs(5);
/// When no more may be hedged, it is tried again after this.
const HEDGE_PAUSE: Span = Span::from_millis(2);

/// All reads that are not answered.
#[derive(Debug, Default)]
pub(super) struct Reads {
    slots: Vec<Option<Read>>,
    free: Vec<usize>,
    attempts: HashMap<JobId, Attempt, BuildHasherDefault<IdHasher>>,
    /// Reads for which no replica is there.
    parked: VecDeque<usize>,
    bytes: usize,
    /// Attempts beyond the first of each read that waits.
    hedges: usize,
    hedge_not_before: Moment,
    /// When reads of which there are only reports of errors are looked at again.
    reports_due: Option<Moment>,
    turn: u64,
}

/// A read of the guest.
#[derive(Debug)]
struct Read {
    token: Token,
    start: BlockIndex,
    count: u64,
    bytes: usize,
    arrived: Moment,
    asked: PerClient<Asked>,
    /// All who could be asked have reported errors: it fails then, if none of them has managed to answer.
    give_up: Option<Moment>,
}

impl Read {
    /// What went wrong where it was asked last.
    fn fault(&self) -> Option<VolumeError> {
        let (start, count) = (self.start.0, self.count);
        self.asked.iter().rev().find_map(|asked| match asked {
            Asked::Bad(bad) => Some(VolumeError::BadData {
                start,
                count,
                bad: *bad,
            }),
            Asked::Failed(error) | Asked::Reported(_, error) => Some(VolumeError::ReadFailed {
                start,
                count,
                error: error.clone(),
            }),
            Asked::No | Asked::Waiting(_) => None,
        })
    }
}

/// How a read stands with one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Asked {
    #[default]
    No,
    Waiting(JobId),
    /// It has reported an error, and goes on trying. Spec: I/O semantics 3.2.
    Reported(JobId, CrucibleError),
    Bad(BadData),
    Failed(CrucibleError),
}

impl Asked {
    /// The attempt that may still be answered.
    const fn attempt(&self) -> Option<JobId> {
        match self {
            Self::Waiting(id) | Self::Reported(id, _) => Some(*id),
            Self::No | Self::Bad(_) | Self::Failed(_) => None,
        }
    }
}

/// One replica was asked.
#[derive(Debug)]
struct Attempt {
    /// The read that waits for it, if it still does.
    read: Option<usize>,
    client: ClientId,
    sent: Moment,
    /// It is with the cipher.
    opening: bool,
    /// It is not the first of its read.
    hedge: bool,
}

/// Job ids are spread well enough by one multiplication, and the same everywhere.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(26);
    }
}

impl Reads {
    /// How many are not answered.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// What they ask for.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a replica or the cipher is at work for one of them.
    pub(super) fn is_asking(&self) -> bool {
        self.len() > self.parked.len()
    }

    pub(super) fn into_tokens(self) -> impl Iterator<Item = Token> {
        self.slots.into_iter().flatten().map(|read| read.token)
    }

    pub(super) fn statuses(&self) -> impl Iterator<Item = JobStatus> {
        self.slots.iter().flatten().filter_map(|read| {
            let id = read.asked.iter().find_map(Asked::attempt)?;
            Some(JobStatus {
                id,
                kind: JobType::Read,
                replay: false,
                start: read.start,
                blocks: read.count,
                dependencies: Vec::new(),
                acked: false,
                states: ClientId::ALL.map(|client| match read.asked[client] {
                    Asked::No => JobState::Skipped,
                    Asked::Waiting(_) | Asked::Reported(..) => JobState::Sent,
                    Asked::Bad(_) | Asked::Failed(_) => JobState::Failed,
                }),
            })
        })
    }

    /// How many wait for a replica.
    pub(super) fn parked(&self) -> usize {
        self.parked.len()
    }

    fn insert(&mut self, read: Read) -> usize {
        self.bytes += read.bytes;
        if let Some(slot) = self.free.pop() {
            if let Some(place) = self.slots.get_mut(slot) {
                *place = Some(read);
            }
            slot
        } else {
            self.slots.push(Some(read));
            self.slots.len() - 1
        }
    }

    fn get(&self, slot: usize) -> Option<&Read> {
        self.slots.get(slot)?.as_ref()
    }

    fn get_mut(&mut self, slot: usize) -> Option<&mut Read> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// Takes a read out. Nobody waits for its attempts any more.
    fn remove(&mut self, slot: usize) -> Option<Read> {
        let read = self.slots.get_mut(slot)?.take()?;
        self.bytes -= read.bytes;
        self.free.push(slot);
        for asked in read.asked.iter() {
            if let Some(id) = asked.attempt() {
                self.detach(id);
            }
        }
        Some(read)
    }

    /// Nobody waits for an attempt any more.
    fn detach(&mut self, id: JobId) {
        if let Some(attempt) = self.attempts.get_mut(&id) {
            attempt.read = None;
        }
        self.is_no_hedge(id);
    }

    /// An answer to this attempt may never come; others must not wait for that.
    fn is_no_hedge(&mut self, id: JobId) {
        if let Some(attempt) = self.attempts.get_mut(&id) {
            self.hedges -= usize::from(std::mem::take(&mut attempt.hedge));
        }
    }

    fn drop_attempt(&mut self, id: JobId) -> Option<Attempt> {
        let attempt = self.attempts.remove(&id)?;
        self.hedges -= usize::from(attempt.hedge);
        Some(attempt)
    }
}

impl Upstairs {
    /// Begins a read of blocks that exist.
    pub(super) fn read(
        &mut self,
        token: Token,
        start: BlockIndex,
        count: u64,
        geometry: Geometry,
        out: &mut Actions,
    ) {
        if count == 0 {
            let nothing = Plain {
                data: Bytes::new(),
                written: Written::All,
            };
            return self.answer(token, Ok(Answer::Read(nothing)), out);
        }
        let slot = self.reads.insert(Read {
            token,
            start,
            count,
            bytes: (count * u64::from(geometry.block_size())) as usize,
            arrived: self.now,
            asked: PerClient::default(),
            give_up: None,
        });
        self.pursue(slot, out);
    }

    /// Asks the best replica that was not asked yet; parks or fails the read when there is none.
    fn pursue(&mut self, slot: usize, out: &mut Actions) {
        if self.ask(slot, out) {
            return;
        }
        let Some(read) = self.reads.get(slot) else {
            return;
        };
        if read
            .asked
            .iter()
            .any(|asked| matches!(asked, Asked::Waiting(_)))
        {
            return;
        }
        if self.may_still_answer(slot) {
            return;
        }
        let Some(read) = self.reads.get(slot) else {
            return;
        };
        // One that is away may have the blocks in good state.
        let may_come = self.phase == Phase::Active
            && self
                .clients
                .iter()
                .any(|client| !client.is_active() && read.asked[client.id] == Asked::No);
        match read.fault() {
            Some(error) if !may_come => {
                if let Some(read) = self.reads.remove(slot) {
                    self.suspect(&read);
                    self.answer(read.token, Err(error), out);
                    self.changed |= self.phase == Phase::Deactivating;
                }
            }
            _ => {
                self.reads.parked.push_back(slot);
                self.begin_to_wait(out);
            }
        }
    }

    /// Whether somebody who has reported an error may still manage to answer. They get some time; then they count as
    /// having failed.
    fn may_still_answer(&mut self, slot: usize) -> bool {
        let Some(read) = self.reads.get_mut(slot) else {
            return false;
        };
        let is_reported = |asked: &Asked| matches!(asked, Asked::Reported(..));
        if read.asked.count(is_reported) == 0 {
            return false;
        }
        let now = self.now;
        let due = *read.give_up.get_or_insert_with(|| now.after(REPORTS_LAST));
        if self.now < due {
            let first = self.reads.reports_due.map_or(due, |known| known.min(due));
            self.reads.reports_due = Some(first);
            return true;
        }
        let mut given_up = Vec::new();
        for asked in read.asked.iter_mut() {
            if let Asked::Reported(id, error) = asked {
                given_up.push(*id);
                *asked = Asked::Failed(error.clone());
            }
        }
        for id in given_up {
            self.reads.detach(id);
        }
        false
    }

    /// When that time is over.
    pub(super) const fn reports_deadline(&self) -> Option<Moment> {
        self.reads.reports_due
    }

    /// Looks at reads of which there are only reports of errors.
    pub(super) fn give_up_reported_reads(&mut self, out: &mut Actions) {
        if self.reads.reports_due.is_none_or(|due| due > self.now) {
            return;
        }
        self.reads.reports_due = None;
        let slots: Vec<usize> = (0..self.reads.slots.len())
            .filter(|&slot| {
                let is_reported = |asked: &Asked| matches!(asked, Asked::Reported(..));
                let read = self.reads.get(slot);
                read.is_some_and(|read| read.asked.iter().any(is_reported))
            })
            .collect();
        for slot in slots {
            self.pursue(slot, out);
        }
    }

    /// Fails those that have waited too long for a replica; how many.
    pub(super) fn fail_parked_reads(
        &mut self,
        is_over: impl Fn(Moment) -> bool,
        out: &mut Actions,
    ) -> usize {
        let mut failed = 0;
        for slot in std::mem::take(&mut self.reads.parked) {
            let Some(arrived) = self.reads.get(slot).map(|read| read.arrived) else {
                continue;
            };
            if !is_over(arrived) {
                self.reads.parked.push_back(slot);
            } else if let Some(read) = self.reads.remove(slot) {
                self.suspect(&read);
                let waited = self.now.since(arrived);
                let error = read.fault().unwrap_or(VolumeError::Unavailable { waited });
                self.answer(read.token, Err(error), out);
                failed += 1;
            }
        }
        failed
    }

    /// Asks one more replica. False when there is none to ask.
    fn ask(&mut self, slot: usize, out: &mut Actions) -> bool {
        let Some(to) = self.choose(slot) else {
            return false;
        };
        let id = self.jobs.next_id();
        let reads = &mut self.reads;
        let Some(read) = reads.slots.get_mut(slot).and_then(Option::as_mut) else {
            return false;
        };
        let waits = |asked: &Asked| matches!(asked, Asked::Waiting(_));
        let hedge = read.asked.iter().any(waits);
        read.asked[to] = Asked::Waiting(id);
        read.give_up = None;
        let (start, count) = (read.start, read.count);
        reads.hedges += usize::from(hedge);
        reads.attempts.insert(
            id,
            Attempt {
                read: Some(slot),
                client: to,
                sent: self.now,
                opening: false,
                hedge,
            },
        );
        let client = &mut self.clients[to];
        if client.reads_open == 0 {
            client.read_heard = self.now;
        }
        let dependencies = client.map.read(id, start.0, start.0 + count);
        client.reads.push_back((id, self.now));
        client.reads_open += 1;
        client.counters.reads += 1;
        let size = 96 + 8 * dependencies.len();
        let request = Message::ReadRequest {
            key: self.key,
            job: id,
            dependencies,
            start,
            count,
        };
        client.hand(request, size, out);
        self.jobs.unfenced_jobs += 1;
        self.arm_flush();
        true
    }

    /// The whole replica that will answer first, as far as one can tell.
    fn choose(&mut self, slot: usize) -> Option<ClientId> {
        self.reads.turn = self.reads.turn.wrapping_add(1);
        let turn = self.reads.turn;
        let read = self.reads.get(slot)?;
        let free = |id: &ClientId| self.clients[*id].is_active() && read.asked[*id] == Asked::No;
        // One that owes answers and gives none is asked only when there is no other.
        let stuck = |id: ClientId| {
            let client = &self.clients[id];
            client.reads_open > 0 && self.now.since(client.read_heard) > STUCK
        };
        if turn.is_multiple_of(EXPLORE_EVERY) {
            let by_turn = ClientId(((turn / EXPLORE_EVERY) % 3) as u8);
            if free(&by_turn) && !stuck(by_turn) {
                return Some(by_turn);
            }
        }
        ClientId::ALL.into_iter().filter(free).min_by_key(|&id| {
            let client = &self.clients[id];
            let mean_us = client.latency.mean().as_nanos() / 1000 + 20;
            let cost = mean_us.saturating_mul(client.reads_open as u64 + 1);
            (stuck(id), cost)
        })
    }

    /// A replica answered a read.
    pub(super) fn read_reply(
        &mut self,
        from: ClientId,
        id: JobId,
        blocks: Result<Vec<ReadBlockContext>, CrucibleError>,
        data: Bytes,
        out: &mut Actions,
    ) {
        let Some(attempt) = self.reads.attempts.get_mut(&id) else {
            return; // Of an earlier link.
        };
        if attempt.client != from || attempt.opening {
            return;
        }
        let (slot, sent) = (attempt.read, attempt.sent);
        let client = &mut self.clients[from];
        client.reads_open = client.reads_open.saturating_sub(1);
        client.read_heard = self.now;
        client.latency.sample(self.now.since(sent));
        let Some(slot) = slot else {
            self.reads.drop_attempt(id);
            return;
        };
        match blocks {
            Ok(contexts) => {
                let Some(read) = self.reads.get(slot) else {
                    return;
                };
                if contexts.len() as u64 != read.count || data.len() != read.bytes {
                    return self.attempt_failed(id, Asked::Bad(BadData::Length), out);
                }
                let start = read.start;
                if let Some(attempt) = self.reads.attempts.get_mut(&id) {
                    attempt.opening = true;
                }
                out.push(Action::Open {
                    job: id,
                    client: from,
                    start,
                    contexts,
                    data,
                });
            }
            Err(error) => self.attempt_failed(id, Asked::Failed(error), out),
        }
    }

    /// A replica cannot do a read, and goes on trying; another is asked meanwhile. True if it was a read.
    pub(super) fn read_error(
        &mut self,
        from: ClientId,
        id: JobId,
        error: &CrucibleError,
        out: &mut Actions,
    ) -> bool {
        let Some(attempt) = self.reads.attempts.get(&id) else {
            return false;
        };
        if attempt.client != from || attempt.opening {
            return true;
        }
        let Some(slot) = attempt.read else {
            // Nobody waits for it, and it may go on for ever.
            self.reads.drop_attempt(id);
            let client = &mut self.clients[from];
            client.reads_open = client.reads_open.saturating_sub(1);
            return true;
        };
        if let Some(read) = self.reads.get_mut(slot)
            && matches!(read.asked[from], Asked::Waiting(_))
        {
            read.asked[from] = Asked::Reported(id, error.clone());
            self.reads.is_no_hedge(id);
            self.clients[from].counters.errors += 1;
            self.report_job(from, id, error.clone(), out);
            self.pursue(slot, out);
        }
        true
    }

    /// The cipher has opened, or not believed, what a replica gave.
    pub(super) fn opened(
        &mut self,
        id: JobId,
        from: ClientId,
        result: Result<Plain, BadData>,
        out: &mut Actions,
    ) {
        let known = self.reads.attempts.get(&id);
        if !known.is_some_and(|attempt| attempt.opening && attempt.client == from) {
            return;
        }
        if !is_client(from) {
            return;
        }
        let plain = match result {
            Ok(plain) => plain,
            Err(bad) => return self.attempt_failed(id, Asked::Bad(bad), out),
        };
        let Some(slot) = self.reads.drop_attempt(id).and_then(|attempt| attempt.read) else {
            return;
        };
        let Some(read) = self.reads.remove(slot) else {
            return;
        };
        for other in read.asked.iter() {
            if let Some(other) = other.attempt()
                && self
                    .reads
                    .attempts
                    .get(&other)
                    .is_some_and(|attempt| attempt.opening)
            {
                out.push(Action::Cancel { job: other });
                self.reads.drop_attempt(other);
            }
        }
        let (start, count) = (read.start, read.count);
        self.answer(read.token, Ok(Answer::Read(plain)), out);
        self.changed |= self.phase == Phase::Deactivating;
        // Good data is proof against those that gave bad data: it is them, not the key.
        for liar in ClientId::ALL {
            if let Asked::Bad(bad) = read.asked[liar] {
                self.distrust(liar, start, count, bad, out);
            }
        }
    }

    /// One replica will not answer a read; others may.
    fn attempt_failed(&mut self, id: JobId, how: Asked, out: &mut Actions) {
        let Some(attempt) = self.reads.drop_attempt(id) else {
            return;
        };
        let from = attempt.client;
        let Some(slot) = attempt.read else {
            return;
        };
        let Some(read) = self.reads.get_mut(slot) else {
            return;
        };
        let (start, count) = (read.start, read.count);
        let before = std::mem::replace(&mut read.asked[from], how.clone());
        match &how {
            Asked::Bad(bad) => {
                self.clients[from].counters.bad_reads += 1;
                out.push(Action::Report(Report::Integrity {
                    client: from,
                    address: self.clients[from].address,
                    start,
                    count,
                    bad: *bad,
                }));
            }
            Asked::Failed(error) if matches!(before, Asked::Waiting(_)) => {
                self.report_job(from, id, error.clone(), out);
            }
            Asked::Failed(_) | Asked::No | Asked::Waiting(_) | Asked::Reported(..) => {}
        }
        self.pursue(slot, out);
    }

    /// A replica gave bad data where another had good: its extents will be copied from another, at once if two
    /// others are whole. With fewer, a replica with a bad block is worth more than none. Proof may come when it was given
    /// up for something else; the repair that has begun since has perhaps left that extent alone, and begins anew.
    fn distrust(
        &mut self,
        id: ClientId,
        start: BlockIndex,
        count: u64,
        bad: BadData,
        out: &mut Actions,
    ) {
        let Some(geometry) = self.geometry else {
            return;
        };
        if self.config.read_only {
            return;
        }
        for run in geometry.runs(start, count) {
            self.clients[id].suspects.add(run.extent);
        }
        let others = self
            .clients
            .count(|other| other.id != id && other.is_active());
        let client = &self.clients[id];
        if client.is_repairing() || (client.is_active() && others == 2) {
            let reason = format!("blocks {start}+{count}: {bad}, another has them in good state");
            self.fault(id, &reason, out);
        }
    }

    /// A read has failed, and some gave bad data for it. Where another could not be asked, that is no proof, but
    /// reason enough to copy the extents from it when it is there. Where all did, it is the key.
    fn suspect(&mut self, read: &Read) {
        let is_bad = |asked: &Asked| matches!(asked, Asked::Bad(_));
        let Some(geometry) = self.geometry else {
            return;
        };
        if self.config.read_only || read.asked.iter().all(is_bad) {
            return;
        }
        for id in ClientId::ALL
            .into_iter()
            .filter(|&id| is_bad(&read.asked[id]))
        {
            for run in geometry.runs(read.start, read.count) {
                self.clients[id].suspects.add(run.extent);
            }
            self.changed = true;
        }
    }

    /// The link to a replica is gone: its reads go to others.
    pub(super) fn forget_reads_of(&mut self, id: ClientId, out: &mut Actions) {
        self.clients[id].reads.clear();
        self.clients[id].reads_open = 0;
        let mut lost: Vec<JobId> = self
            .reads
            .attempts
            .iter()
            .filter(|(_, attempt)| attempt.client == id && !attempt.opening)
            .map(|(&job, _)| job)
            .collect();
        lost.sort_unstable();
        for job in lost {
            let slot = self
                .reads
                .drop_attempt(job)
                .and_then(|attempt| attempt.read);
            if let Some(slot) = slot {
                if let Some(read) = self.reads.get_mut(slot) {
                    read.asked[id] = Asked::No;
                }
                self.pursue(slot, out);
            }
        }
    }

    /// Asks for reads that found no replica.
    pub(super) fn ask_parked_reads(&mut self, out: &mut Actions) {
        if self.clients.count(|client| client.is_active()) == 0 {
            return;
        }
        for slot in std::mem::take(&mut self.reads.parked) {
            self.pursue(slot, out);
        }
    }

    /// When the next read is late.
    pub(super) fn late_deadline(&self) -> Option<Moment> {
        if self.clients.count(|client| client.is_active()) < 2 {
            return None;
        }
        self.clients
            .iter()
            .filter_map(|client| {
                let &(_, sent) = client.reads.front()?;
                Some(sent.after(client.latency.late()))
            })
            .min()
            .map(|due| due.max(self.reads.hedge_not_before))
    }

    /// Asks a second replica for reads that are late, within bounds: when all are late, asking more makes it worse.
    pub(super) fn hedge_late_reads(&mut self, out: &mut Actions) {
        for id in ClientId::ALL {
            while let Some(&(job, sent)) = self.clients[id].reads.front() {
                let slot = match self.reads.attempts.get(&job) {
                    Some(attempt) if !attempt.opening => attempt.read,
                    _ => None,
                };
                let Some(slot) = slot else {
                    self.clients[id].reads.pop_front();
                    continue;
                };
                if sent.after(self.clients[id].latency.late()) > self.now {
                    break;
                }
                let bound = HEDGES_MIN.max(self.reads.len() / HEDGES_SHARE);
                if self.reads.hedges >= bound || self.reads.hedge_not_before > self.now {
                    if self.reads.hedge_not_before <= self.now {
                        self.reads.hedge_not_before = self.now.after(HEDGE_PAUSE);
                    }
                    return;
                }
                self.clients[id].reads.pop_front();
                if self.ask(slot, out) {
                    self.counters.hedged_reads += 1;
                    self.clients[id].counters.late_reads += 1;
                }
            }
        }
    }
}
