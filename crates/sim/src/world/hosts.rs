//! Machines with an upstairs: the core, its cipher, and its answers.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use crucible_protocol::{ClientId, CrucibleError, JobId, ReadBlockContext, SessionId, UpstairsId};
use crucible_upstairs::core::{
    Action, Answer, BadData, Command, Config, Event, Mismatch, Phase, Plain, ReplaceResult, Report,
    Request, Token, Upstairs, VolumeError,
};
use uuid::Uuid;
use vm_types::{Moment, Span};

use super::nodes::{address_of, node_at};
use super::{Stage, What, World};
use crate::cipher;
use crate::dice::mix;
use crate::faults::Fault;
use crate::network::{Item, Machine, Way};
use crate::oracle::{Asked, Epoch};

/// Jobs that an upstairs may know beyond its limit: its own flushes, barriers and repairs.
const OWN_JOBS: usize = 64;

/// Flushes that may fail in the end, for what was dropped before.
const LATE_FAILURES_MAX: u32 = 2;

/// How an upstairs says that all replicas were given up at once.
const ALL_GIVEN_UP: &str = "all replicas were given up";

/// Where the operator stands with an upstairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Not wanted active.
    Idle,
    /// Asked to become active.
    Activating,
    /// In use.
    Active,
    /// Asked to let go.
    Deactivating,
    /// Gone.
    Dead,
}

/// Work of the cipher.
pub(crate) enum CipherWork {
    Seal {
        write: JobId,
        data: BytesMut,
    },
    Open {
        job: JobId,
        client: ClientId,
        contexts: Vec<ReadBlockContext>,
        data: Bytes,
    },
}

/// An upstairs and its machine.
pub(crate) struct Host {
    core: Upstairs,
    pub(crate) life: Life,
    pub(crate) generation: u64,
    pub(crate) epoch: Option<Epoch>,
    /// Region servers by client number.
    pub(crate) targets: [usize; 3],
    pub(crate) ahead: Span,
    armed: Option<Moment>,
    pub(crate) frozen: Option<Vec<What>>,
    works: BTreeMap<u64, CipherWork>,
    next_work: u64,
    /// Requests of the guest in flight.
    pub(crate) busy: usize,
    /// The operator tries something again then.
    pub(crate) again: Moment,
    /// When the present wish of the operator was first uttered.
    pub(crate) since: Moment,
}

impl Host {
    pub(crate) fn is_alive(&self) -> bool {
        self.life != Life::Dead
    }

    pub(crate) fn status(&self) -> crucible_upstairs::core::Status {
        self.core.status()
    }

    pub(crate) fn room(&self) -> crucible_upstairs::core::Room {
        self.core.room()
    }
}

impl World {
    /// A new upstairs process, on a machine of its own. Which one.
    pub(crate) fn new_host(&mut self, targets: [usize; 3], generation: u64) -> usize {
        let index = self.hosts.len();
        let setup = &self.setup;
        let whole = self.operator.lost.is_none() && !self.operator.incomplete;
        let degraded = setup.degraded.filter(|_| whole);
        let seed = self.scenario.seed;
        let upstairs = UpstairsId(Uuid::from_u64_pair(0x7472_6976_6574, seed));
        let session = SessionId(Uuid::from_u64_pair(mix(seed), index as u64 + 1));
        let config = Config {
            geometry: seed.is_multiple_of(2).then_some(setup.geometry),
            encrypted: setup.encrypted,
            read_only: self.stage == Stage::ReadOnly,
            degraded_activation: degraded,
            flush_interval: setup.flush_interval,
            patience: setup.patience,
            relief: setup.relief,
            limits: setup.limits,
            jitter_seed: seed ^ index as u64,
            ..Config::new(upstairs, targets.map(address_of))
        };
        let host = Host {
            core: Upstairs::new(config, session, self.now),
            life: Life::Idle,
            generation,
            epoch: None,
            targets,
            ahead: Span::ZERO,
            armed: None,
            frozen: None,
            works: BTreeMap::new(),
            next_work: 0,
            busy: 0,
            again: self.now,
            since: self.now,
        };
        self.hosts.push(host);
        self.note(|| format!("u{index} begins, targets {targets:?}, degraded {degraded:?}"));
        index
    }

    /// Hands something to an upstairs, and does what it wants done.
    pub(crate) fn tell_host(&mut self, index: usize, event: Event) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(index).filter(|host| host.is_alive()) else {
            return;
        };
        let local = now.after(host.ahead);
        let mut actions = Vec::new();
        host.core.handle(local, event, &mut actions);
        for action in actions {
            self.perform_for_host(index, action);
        }
        self.arm(index);
        self.check_host(index);
    }

    pub(super) fn arm(&mut self, index: usize) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(index).filter(|host| host.is_alive()) else {
            return;
        };
        let deadline = host.core.deadline();
        if deadline != host.armed {
            host.armed = deadline;
            if let Some(deadline) = deadline {
                let span = deadline.since(now.after(host.ahead));
                self.at(span, What::Time(index));
            }
        }
    }

    pub(super) fn time(&mut self, index: usize) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(index).filter(|host| host.is_alive()) else {
            return;
        };
        let local = now.after(host.ahead);
        if host
            .core
            .deadline()
            .is_some_and(|deadline| deadline <= local)
        {
            host.armed = None;
            self.tell_host(index, Event::Time);
        }
    }

    fn perform_for_host(&mut self, index: usize, action: Action) {
        match action {
            Action::Dial {
                client,
                link,
                address,
                not_before,
            } => {
                let Some(host) = self.hosts.get(index) else {
                    return;
                };
                let ahead = host.ahead.as_nanos();
                let not_before = Moment::from_nanos(not_before.as_nanos().saturating_sub(ahead));
                if let Some(node) = node_at(address) {
                    self.note(|| format!("u{index} dials {client} at n{node} as {link:?}"));
                    self.dial(Some((index, client, link)), node, not_before);
                }
            }
            Action::HangUp { client, link } => {
                if let Some(number) = self.network.find(index, client, link) {
                    self.note(|| format!("u{index} hangs up {client} c{number}"));
                    self.close_up(number);
                }
            }
            Action::Send {
                client,
                link,
                message,
            } => {
                if let Some(number) = self.network.find(index, client, link) {
                    self.send(number, Way::Up, Item::Message(message));
                    if let Some(connection) = self.network.connections.get_mut(&number) {
                        connection.undrained = true;
                        if connection.up.bytes() <= connection.buffer {
                            connection.undrained = false;
                            self.at(Span::from_micros(5), What::Drained(number));
                        }
                    }
                }
            }
            Action::Seal { write, data } => {
                self.begin_cipher(index, CipherWork::Seal { write, data });
            }
            Action::Open {
                job,
                client,
                contexts,
                data,
                ..
            } => {
                let work = CipherWork::Open {
                    job,
                    client,
                    contexts,
                    data,
                };
                self.begin_cipher(index, work);
            }
            Action::Cancel { job } => {
                // Half of the time it is too late.
                if let Some(host) = self.hosts.get_mut(index)
                    && self.chance.cipher.percent(50)
                {
                    host.works.retain(
                        |_, work| !matches!(work, CipherWork::Open { job: of, .. } if *of == job),
                    );
                }
            }
            Action::Answer { token, result } => self.answer(index, token.0, result),
            Action::Report(report) => {
                if let Report::Integrity {
                    address,
                    start,
                    count,
                    ..
                } = &report
                {
                    self.outcome.integrity += 1;
                    self.found_bad(index, *address, *start, *count);
                    if !self.scenario.faults.has(Fault::Rot) {
                        let start = start.0;
                        self.fail(|| format!("nothing rots, but block {start} is bad: {report:?}"));
                        return;
                    }
                }
                self.note(|| format!("u{index} reports {}", shorten(&report)));
                if let Report::Volume { what } = &report
                    && what.starts_with(ALL_GIVEN_UP)
                {
                    self.all_given_up(index);
                }
            }
        }
    }

    /// No replica is whole any more; the upstairs has said that unflushed writes may be lost. That is like a new
    /// activation.
    fn all_given_up(&mut self, index: usize) {
        self.outcome.given_up += 1;
        let newest = self.operator.newest == Some(index);
        if let Some(host) = self.hosts.get_mut(index)
            && newest
            && host.epoch == Some(self.history.current())
        {
            host.epoch = Some(self.history.begin());
        }
    }

    fn begin_cipher(&mut self, index: usize, work: CipherWork) {
        let delay = self
            .chance
            .cipher
            .span(Span::from_nanos(500), Span::from_micros(300));
        if let Some(host) = self.hosts.get_mut(index) {
            host.next_work += 1;
            let number = host.next_work;
            host.works.insert(number, work);
            self.at(delay, What::Cipher(index, number));
        }
    }

    pub(super) fn cipher_done(&mut self, index: usize, number: u64) {
        let size = self.setup.geometry.block_size() as usize;
        let encrypted = self.setup.encrypted;
        let Some(work) = self
            .hosts
            .get_mut(index)
            .and_then(|host| host.works.remove(&number))
        else {
            return;
        };
        let event = match work {
            CipherWork::Seal { write, data } => {
                let dice = &mut self.chance.cipher;
                let (contexts, data) = cipher::seal(data, size, encrypted, dice);
                Event::Sealed {
                    write,
                    contexts,
                    data,
                }
            }
            CipherWork::Open {
                job,
                client,
                contexts,
                data,
            } => Event::Opened {
                job,
                client,
                result: cipher::open(&contexts, &data, size, encrypted),
            },
        };
        self.tell_host(index, event);
    }

    /// A request of the guest or the operator goes to an upstairs.
    pub(crate) fn submit(&mut self, index: usize, asked: Asked, request: Request) {
        let token = Token(self.answers.ask(index, self.now, asked));
        if let Some(host) = self.hosts.get_mut(index) {
            host.busy += 1;
        }
        self.note(|| format!("u{index} asked {token:?}: {}", words_of(&request)));
        self.tell_host(index, Event::Request { token, request });
    }

    /// A command of the operator goes to an upstairs.
    pub(crate) fn command(&mut self, index: usize, asked: Asked, command: Command) {
        let token = Token(self.answers.ask(index, self.now, asked));
        self.note(|| format!("u{index} told {token:?}: {command:?}"));
        self.tell_host(index, Event::Command { token, command });
    }

    fn answer(&mut self, index: usize, token: u64, result: Result<Answer, VolumeError>) {
        let (at, asked) = match self.answers.answered(index, token) {
            Ok(asked) => asked,
            Err(why) => return self.fail(|| why),
        };
        let took = self.now.since(at);
        self.note(|| {
            let answer = match &result {
                Ok(Answer::Read(_)) => "data".to_owned(),
                Ok(other) => format!("{other:?}"),
                Err(error) => format!("error: {error}"),
            };
            format!(
                "u{index} answers {token} after {} us: {answer}",
                took.as_nanos() / 1000
            )
        });
        let is_guest = matches!(
            asked,
            Asked::Read { .. } | Asked::Write { .. } | Asked::Flush { .. } | Asked::Snapshot { .. }
        );
        if is_guest && let Some(host) = self.hosts.get_mut(index) {
            host.busy -= 1;
        }
        match result {
            Ok(answer) => self.succeeded(index, asked, answer),
            Err(error) => self.failed(index, &asked, &error),
        }
    }

    fn succeeded(&mut self, index: usize, asked: Asked, answer: Answer) {
        let Some(host) = self.hosts.get_mut(index) else {
            return;
        };
        let epoch = host.epoch;
        match (asked, answer) {
            (
                Asked::Read {
                    epoch,
                    start,
                    views,
                },
                Answer::Read(plain),
            ) => {
                self.outcome.answered += 1;
                self.judge_read(epoch, start, &views, &plain);
            }
            (
                Asked::Write {
                    epoch,
                    start,
                    count,
                    version,
                },
                Answer::Written,
            ) => {
                self.outcome.answered += 1;
                self.history.written(epoch, start, count, version);
            }
            (Asked::Flush { epoch, before }, Answer::Flushed) => {
                self.outcome.answered += 1;
                self.history.flushed(epoch, before);
            }
            (
                Asked::Snapshot {
                    epoch,
                    before,
                    number,
                    views,
                },
                Answer::Flushed,
            ) => {
                self.outcome.answered += 1;
                self.outcome.snapshots += 1;
                self.history.flushed(epoch, before);
                self.judge_snapshot(index, epoch, number, &views);
            }
            (Asked::Activate, Answer::Activated(geometry)) => {
                host.life = Life::Active;
                if geometry != self.setup.geometry {
                    return self.fail(|| format!("activated with {geometry:?}"));
                }
                self.rot.host_begins(index);
                let epoch = self.history.begin();
                if let Some(host) = self.hosts.get_mut(index) {
                    host.epoch = Some(epoch);
                }
                self.outcome.activations += u64::from(self.stage != Stage::ReadOnly);
                self.note(|| format!("u{index} is active: {epoch:?}"));
                self.at(Span::ZERO, What::Guest(index));
            }
            (Asked::Deactivate { before }, Answer::Deactivated) => {
                if let Some(epoch) = epoch {
                    self.history.flushed(epoch, before);
                }
                host.life = Life::Idle;
                host.epoch = None;
                host.again = self.now.after(self.setup.think);
                self.check_released(index);
            }
            (Asked::Replace { slot, spare }, Answer::Replace(result)) => {
                if result == ReplaceResult::Started {
                    if let Some(target) = host.targets.get_mut(slot) {
                        *target = spare;
                    }
                    self.replaced(index, slot, spare);
                }
            }
            (Asked::ShutDown, Answer::ShutDown) => {}
            (asked, answer) => self.fail(|| format!("{asked:?} was answered by {answer:?}")),
        }
    }

    fn judge_read(
        &mut self,
        epoch: Epoch,
        start: u64,
        views: &[crate::oracle::View],
        plain: &Plain,
    ) {
        let size = self.setup.geometry.block_size() as usize;
        if plain.data.len() != views.len() * size {
            let (got, wanted) = (plain.data.len(), views.len() * size);
            return self.fail(|| format!("a read of {wanted} bytes gave {got}"));
        }
        for (index, (block, view)) in plain.data.chunks(size).zip(views).enumerate() {
            let number = start + index as u64;
            let Some(version) = cipher::recognise(number, block) else {
                return self.fail(|| format!("block {number} reads as what nobody wrote"));
            };
            if plain.written.has(index) != (version.0 != 0) {
                return self.fail(|| format!("block {number}: {version:?} has the wrong mark"));
            }
            if let Err(why) = self.history.read(epoch, number, *view, version) {
                return self.fail(|| why);
            }
        }
    }

    fn failed(&mut self, index: usize, asked: &Asked, error: &VolumeError) {
        self.outcome.refused += 1;
        let possible = match error {
            VolumeError::OutOfRange { .. }
            | VolumeError::NotWholeBlocks { .. }
            | VolumeError::TooLarge { .. }
            | VolumeError::ReadOnly
            | VolumeError::SealFailed(_)
            | VolumeError::Full
            | VolumeError::GenerationZero => false,
            // One that has been taken over may know a machine that is another by now.
            VolumeError::Mismatch { mismatch, .. } => {
                matches!(mismatch, Mismatch::OtherRegion { .. })
                    && self.operator.newest != Some(index)
            }
            VolumeError::BadData { bad, start, count } => {
                *bad != BadData::Length && self.may_be_bad(*start, *count)
            }
            VolumeError::ReadFailed {
                error: CrucibleError::MissingContextSlot { .. } | CrucibleError::BadContextSlot(_),
                start,
                count,
            } => self.may_be_bad(*start, *count),
            VolumeError::BadExtent { extent, address } => {
                self.may_be_bad_at(node_at(*address), *extent)
            }
            _ => true,
        };
        if !possible {
            return self.fail(|| format!("{asked:?} failed with {error:?}"));
        }
        let calm = matches!(
            self.stage,
            Stage::Verify | Stage::Flush | Stage::Deactivate | Stage::ReadOnly
        );
        let told_late = calm && matches!(error, VolumeError::FlushFailed { .. }) && {
            // Writes that were dropped in the storm are owned up to by the next flush.
            self.operator.late_failures += 1;
            self.operator.late_failures <= LATE_FAILURES_MAX
        };
        // Where rot struck the only newest copy of a block, nobody has it any more.
        let lost = match error {
            VolumeError::ReadFailed { start, count, .. }
            | VolumeError::BadData { start, count, .. } => {
                calm && self.may_be_bad(*start, *count) && self.is_bad_everywhere(*start, *count)
            }
            _ => false,
        };
        let excused = matches!(asked, Asked::Replace { .. }) || lost || told_late;
        if calm && !excused && self.operator.newest == Some(index) {
            return self.fail(|| format!("no fault is left, but {asked:?} failed: {error}"));
        }
        let Some(host) = self.hosts.get_mut(index) else {
            return;
        };
        match asked {
            Asked::Activate => {
                host.life = Life::Idle;
                host.generation = match error {
                    VolumeError::GenerationTooLow { found, .. } => {
                        host.generation.max(found.saturating_add(1))
                    }
                    _ => host.generation + 1,
                };
                host.again = self.now.after(Span::from_millis(300));
                if let VolumeError::BadExtent { address, .. } = error
                    && let Some(node) = node_at(*address)
                    && self.operator.targets.contains(&node)
                {
                    // As he is told to: it is replaced.
                    self.lose_node(node);
                }
            }
            Asked::Deactivate { .. } => {
                // It may be active still, or it may have stopped: the operator looks.
                host.life = Life::Active;
                host.again = self.now.after(Span::from_millis(300));
            }
            _ => {}
        }
    }

    /// The bounds of an upstairs' memory.
    fn check_host(&mut self, index: usize) {
        let Some(host) = self.hosts.get(index) else {
            return;
        };
        let status = host.core.status();
        let limits = self.setup.limits;
        let jobs = limits.jobs + OWN_JOBS;
        if status.jobs > jobs || status.guest_jobs > jobs || status.bytes > limits.bytes {
            let (jobs, guest, bytes) = (status.jobs, status.guest_jobs, status.bytes);
            self.fail(|| {
                format!("upstairs {index} holds {jobs} jobs, {guest} requests, {bytes} bytes")
            });
        }
        self.outcome.jobs_most = self.outcome.jobs_most.max(status.jobs);
    }

    /// Nothing may be left of a volume that was let go.
    pub(crate) fn check_released(&mut self, index: usize) {
        let Some(host) = self.hosts.get(index) else {
            return;
        };
        let status = host.core.status();
        let waiting = self.answers.waiting(index);
        let left = (status.jobs, status.guest_jobs, status.bytes, waiting);
        if left != (0, 0, 0, 0) || status.phase != Phase::Inactive {
            let oldest = format!("{:?}", self.answers.oldest(index));
            self.fail(|| {
                format!(
                    "upstairs {index} has let go, but keeps (jobs, requests, bytes, unanswered) {left:?}; oldest \
                     {oldest}"
                )
            });
        }
    }

    /// An upstairs process ends, with or without its machine.
    pub(crate) fn kill_host(&mut self, index: usize, dark: bool) {
        self.gather(index);
        let Some(host) = self.hosts.get_mut(index).filter(|host| host.is_alive()) else {
            return;
        };
        host.life = Life::Dead;
        host.works.clear();
        host.epoch = None;
        host.frozen = None;
        self.answers.forget(index);
        self.note(|| format!("u{index} dies"));
        for number in self.network.of(Machine::Host(index)) {
            if let Some(connection) = self.network.connections.get_mut(&number) {
                let open = std::mem::replace(&mut connection.host_open, false);
                if open && !dark {
                    self.send(number, Way::Up, Item::End);
                }
                self.network.tidy(number);
            }
        }
    }

    /// Adds what an upstairs has counted to the table, once.
    pub(crate) fn gather(&mut self, index: usize) {
        let Some(host) = self.hosts.get(index).filter(|host| host.is_alive()) else {
            return;
        };
        let status = host.core.status();
        let totals = &mut self.outcome.totals;
        totals.reads += status.counters.reads;
        totals.writes += status.counters.writes;
        totals.flushes += status.counters.flushes;
        totals.auto_flushes += status.counters.auto_flushes;
        totals.barriers += status.counters.barriers;
        totals.hedged_reads += status.counters.hedged_reads;
        for replica in &status.replicas {
            let counters = replica.counters;
            totals.connections += counters.connected;
            totals.replays += counters.replays;
            totals.replayed_jobs += counters.replayed_jobs;
            totals.live_repairs += counters.live_repairs_completed;
            totals.live_repairs_aborted += counters.live_repairs_aborted;
            totals.extents_repaired += counters.extents_repaired;
        }
    }
}

fn words_of(request: &Request) -> String {
    match request {
        Request::Read { start, count } => format!("read {start}+{count}"),
        Request::Write { start, data } => format!("write {start}, {} bytes", data.len()),
        Request::WriteUnwritten { start, data } => {
            format!("write unwritten {start}, {} bytes", data.len())
        }
        Request::Flush { .. } => "flush".to_owned(),
    }
}

fn shorten(report: &Report) -> String {
    match report {
        Report::Replica {
            client,
            state,
            reason,
            ..
        } => format!("{client}: {state:?}, {reason}"),
        Report::Volume { what } => what.clone(),
        other => format!("{other:?}"),
    }
}
