//! One turn of a queue: collect answers, fetch, check, start, answer.
//!
//! The same turn serves a worker thread and a doorbell that runs inline; see `attach` for both loops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use vm_types::{Clock, Moment};

use crate::engine::Engine;
use crate::info::DiskInfo;
use crate::limit::Limiter;
use crate::request::{Batch, Completion, Operation, Outcome, Request, Source};
use crate::slots::{InFlight, Slots};
use crate::stats::{Class, QueueStats};

/// Most requests fetched in one turn. Enough to make the cost of a turn small; few enough that the
/// first of a batch does not wait long for the last.
const BATCH_MAX: usize = 64;

/// What a queue is to do with new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Running,
    /// Fetch nothing; bring what is in flight to its end.
    Paused,
    /// As paused, for ever.
    Detaching,
}

/// What a turn found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// There may be more to do at once.
    Again,
    /// Nothing to do before a ring, an answer, or this moment.
    Wait(Option<Moment>),
    /// The device is gone.
    Orphaned,
}

/// How a queue treats its requests.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) info: DiskInfo,
    pub(crate) skip_flush: bool,
    pub(crate) limiter: Option<Arc<Limiter>>,
    pub(crate) clock: Clock,
}

/// All that a queue's worker owns.
pub(crate) struct Pump {
    source: Weak<dyn Source>,
    pub(crate) engine: Box<dyn Engine>,
    policy: Policy,
    stats: Arc<QueueStats>,
    slots: Slots,
    /// The source may hold more: no fetch has come back empty since the last ring.
    unfetched: bool,
    batch: Batch,
    /// Answers of the engine, by slot.
    done: Vec<Completion>,
    /// Answers for the device.
    answers: Vec<Completion>,
}

impl Pump {
    pub(crate) fn new(
        source: Weak<dyn Source>,
        engine: Box<dyn Engine>,
        policy: Policy,
        stats: Arc<QueueStats>,
        depth: u32,
    ) -> Self {
        Self {
            source,
            engine,
            policy,
            stats,
            slots: Slots::new(depth),
            unfetched: false,
            batch: Batch::default(),
            done: Vec::with_capacity(depth as usize),
            answers: Vec::with_capacity(depth as usize),
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.policy.clock
    }

    /// One turn. `rung`: the doorbell has been taken since the last turn. `give_up`, which is taken: what is in flight
    /// is wanted no more.
    pub(crate) fn turn(&mut self, rung: bool, mode: Mode, give_up: &AtomicBool) -> Turn {
        let Some(source) = self.source.upgrade() else {
            return Turn::Orphaned;
        };
        self.unfetched |= rung;
        self.engine.poll(&mut self.done);
        if mode != Mode::Running {
            self.engine.hurry(&mut self.done);
        }
        // Before anything is fetched that comes after a reset.
        self.give_up(give_up);
        // Answers free slots, so that this very turn can fetch for them.
        self.collect();
        let mut wait = None;
        if mode == Mode::Running && self.unfetched {
            let room = self.slots.free().min(BATCH_MAX);
            match self.allowance(room) {
                Ok(0) => {}
                Ok(room) => {
                    self.batch.clear();
                    source.fetch(room, &mut self.batch);
                    if self.batch.requests.is_empty() {
                        self.unfetched = false;
                    } else {
                        self.start(&*source);
                        self.collect();
                    }
                }
                Err(moment) => wait = Some(moment),
            }
        }
        let answered = !self.answers.is_empty();
        if answered {
            self.stats.set_in_flight(self.slots.in_flight());
            source.complete(&self.answers);
            self.answers.clear();
        }
        let fetch_now = mode == Mode::Running && self.unfetched && wait.is_none();
        if answered || (fetch_now && self.slots.free() > 0) {
            return Turn::Again;
        }
        let earlier = match (wait, self.engine.deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Turn::Wait(earlier)
    }

    fn give_up(&mut self, wanted: &AtomicBool) {
        // The plain look keeps the line shared.
        if wanted.load(Ordering::SeqCst) && wanted.swap(false, Ordering::SeqCst) {
            self.engine.give_up(&mut self.done);
            self.collect();
        }
    }

    /// Answers all that is still in flight with [`Outcome::Abandoned`]; returns how many there were.
    pub(crate) fn abandon(&mut self) -> usize {
        let mut count = 0;
        while let Some(request) = self.slots.take_any() {
            count += 1;
            self.stats.refused(request.class);
            self.answers.push(Completion {
                token: request.token,
                outcome: Outcome::Abandoned,
            });
        }
        self.stats.set_in_flight(0);
        if let Some(source) = self.source.upgrade().filter(|_| count > 0) {
            source.complete(&self.answers);
        }
        self.answers.clear();
        count
    }

    /// Lets late answers of an abandoned engine come in, and go nowhere.
    pub(crate) fn drain(&mut self) -> bool {
        self.engine.poll(&mut self.done);
        self.done.clear();
        self.engine.is_idle()
    }

    fn allowance(&self, room: usize) -> Result<usize, Moment> {
        match &self.policy.limiter {
            None => Ok(room),
            Some(limiter) => {
                let allowed = limiter.allowance(self.policy.clock.now(), room);
                if allowed.is_err() {
                    self.stats.throttled();
                }
                allowed
            }
        }
    }

    /// Enters the fetched requests, answers those that cannot be carried out, starts the others.
    fn start(&mut self, source: &dyn Source) {
        let now = self.policy.clock.now();
        self.stats.fetched();
        if let Some(limiter) = &self.policy.limiter {
            let moved = |request: &Request| match Class::of(request.operation) {
                Class::Read | Class::Write => request.length,
                _ => 0,
            };
            let bytes = self.batch.requests.iter().map(moved);
            let bytes = bytes.fold(0_u64, u64::saturating_add);
            limiter.pay(now, self.batch.requests.len() as u64, bytes);
        }
        let Self {
            batch,
            policy,
            slots,
            stats,
            answers,
            ..
        } = self;
        let Batch { requests, segments } = batch;
        requests.retain_mut(|request| {
            let class = Class::of(request.operation);
            let range = request.segments.start as usize..request.segments.end as usize;
            let verdict = if policy.skip_flush && request.operation == Operation::Flush {
                Some(Outcome::Ok)
            } else {
                request.durable &= !policy.skip_flush;
                let segments = segments.get(range).unwrap_or(&[]);
                policy.info.check(request, segments).err()
            };
            let outcome = match verdict {
                Some(outcome) => outcome,
                None => {
                    let entry = InFlight {
                        token: request.token,
                        class,
                        bytes: request.length,
                        started: now,
                    };
                    match slots.start(entry) {
                        Some(token) => {
                            request.token = token;
                            return true;
                        }
                        // A source that hands out more than it was asked for.
                        None => Outcome::Retry,
                    }
                }
            };
            if outcome == Outcome::Ok {
                stats.finished(class, 0, now.since(now), outcome);
            } else {
                stats.refused(class);
            }
            answers.push(Completion {
                token: request.token,
                outcome,
            });
            false
        });
        self.stats.set_in_flight(self.slots.in_flight());
        if !self.batch.requests.is_empty() {
            self.engine
                .submit(&self.batch, source.memory(), &mut self.done);
        }
    }

    /// Turns the engine's answers into the device's.
    fn collect(&mut self) {
        if self.done.is_empty() {
            return;
        }
        let now = self.policy.clock.now();
        for completion in self.done.drain(..) {
            // Unknown: answered twice, or given up.
            if let Some(request) = self.slots.finish(completion.token) {
                let latency = now.since(request.started);
                self.stats
                    .finished(request.class, request.bytes, latency, completion.outcome);
                self.answers.push(Completion {
                    token: request.token,
                    outcome: completion.outcome,
                });
            }
        }
    }
}
