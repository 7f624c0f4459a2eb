//! A disk that fails on purpose: errors, delays and answers that do not come, by script or by seed.
//!
//! Faults sit between a queue and the engine of any backend, so devices, drivers and guests can be
//! shown what a bad day looks like. Time is the queue's clock; with a manual clock and inline execution
//! two runs are alike.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use vm_types::{Clock, GuestMemory, Moment, Span};

use crate::disk::Disk;
use crate::doorbell::Doorbell;
use crate::engine::{Backend, Engine, EngineSetup};
use crate::info::DiskInfo;
use crate::request::{Batch, Completion, Operation, Outcome, Request, Token};
use crate::stats::Class;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not carried out and gets this answer.
    Fail(Outcome),
    /// It is carried out; the answer comes this much later.
    Delay(Span),
    /// It is carried out; the answer is withheld until [`Faults::release`].
    Stall,
}

/// Which requests a scripted fault meets.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Only requests of this class; `None` for all.
    pub class: Option<Class>,
    /// Only requests that touch these bytes of the disk; `None` for all. Flushes touch none.
    pub bytes: Option<Range<u64>>,
    /// Let this many matching requests pass first.
    pub after: u64,
    /// Then meet this many; `u64::MAX` for all that follow.
    pub times: u64,
    /// What happens to them.
    pub fault: Fault,
}

impl Rule {
    /// The next request, of whatever kind.
    pub const fn next(fault: Fault) -> Self {
        Self {
            class: None,
            bytes: None,
            after: 0,
            times: 1,
            fault,
        }
    }

    /// Every request of `class`.
    pub const fn every(class: Class, fault: Fault) -> Self {
        Self {
            class: Some(class),
            bytes: None,
            after: 0,
            times: u64::MAX,
            fault,
        }
    }

    fn matches(&self, request: &Request) -> bool {
        let class = self
            .class
            .is_none_or(|class| class == Class::of(request.operation));
        let bytes = self.bytes.as_ref().is_none_or(|bytes| {
            let end = request.offset.saturating_add(request.length);
            request.operation != Operation::Flush && request.offset < bytes.end && bytes.start < end
        });
        class && bytes
    }
}

/// Faults by chance, the same ones for the same seed and the same order of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chance {
    /// Where the sequence starts.
    pub seed: u64,
    /// Requests in a million that fail with a medium error.
    pub errors_per_million: u32,
    /// Requests in a million that are to be tried again ([`Outcome::Retry`]).
    pub retries_per_million: u32,
    /// Every answer is delayed by up to this much.
    pub delay_max: Span,
}

/// The hand on the faults of one disk; clones steer the same ones. Rules can be added while it runs.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<FaultsInner>);

#[derive(Debug, Default)]
struct FaultsInner {
    plan: Mutex<Plan>,
    /// Counts releases, so that each engine sees those it has missed.
    releases: AtomicU64,
}

#[derive(Debug, Default)]
struct Plan {
    rules: Vec<Rule>,
    chance: Chance,
    doorbells: Vec<Weak<Doorbell>>,
}

impl Faults {
    /// No faults, for now.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule. For each request the oldest matching rule decides.
    pub fn add(&self, rule: Rule) {
        self.lock().rules.push(rule);
    }

    /// Sets what happens by chance to requests that meet no rule.
    pub fn set_chance(&self, chance: Chance) {
        self.lock().chance = chance;
    }

    /// Forgets all rules and chances; what is withheld stays so.
    pub fn clear(&self) {
        let mut plan = self.lock();
        plan.rules.clear();
        plan.chance = Chance::default();
    }

    /// Gives the answers that [`Fault::Stall`] withholds.
    pub fn release(&self) {
        self.0.releases.fetch_add(1, Ordering::SeqCst);
        let mut plan = self.lock();
        plan.doorbells.retain(|bell| bell.strong_count() > 0);
        let bells: Vec<_> = plan.doorbells.iter().filter_map(Weak::upgrade).collect();
        drop(plan);
        for bell in bells {
            bell.ring();
        }
    }

    fn decide(&self, request: &Request) -> Option<Fault> {
        let mut plan = self.lock();
        let mut decided = None;
        for rule in &mut plan.rules {
            // A rule may be added already used up.
            if rule.times == 0 || !rule.matches(request) {
                continue;
            }
            if rule.after > 0 {
                rule.after -= 1;
            } else {
                if rule.times < u64::MAX {
                    rule.times -= 1;
                }
                decided = Some(rule.fault);
                break;
            }
        }
        plan.rules.retain(|rule| rule.times > 0);
        decided.or_else(|| plan.chance.draw(request))
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.0.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chance {
    fn draw(&mut self, request: &Request) -> Option<Fault> {
        if *self
            == (Self {
                seed: self.seed,
                ..Self::default()
            })
        {
            return None;
        }
        let dice = (self.next() % 1_000_000) as u32;
        if dice < self.errors_per_million {
            return Some(Fault::Fail(match Class::of(request.operation) {
                Class::Read | Class::Check => Outcome::ReadFailed,
                _ => Outcome::WriteFailed,
            }));
        }
        if dice - self.errors_per_million < self.retries_per_million {
            return Some(Fault::Fail(Outcome::Retry));
        }
        let longest = self.delay_max.as_nanos();
        (longest > 0).then(|| Fault::Delay(Span::from_nanos(self.next() % longest)))
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.seed;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

impl Disk {
    /// The same content behind `faults`. Limits and rules of this handle go with it.
    #[must_use]
    pub fn faulty(self, faults: &Faults) -> Self {
        self.with(|core| {
            core.backend = Arc::new(FaultyBackend {
                inner: core.backend.clone(),
                faults: faults.clone(),
            });
        })
    }
}

#[derive(Debug)]
struct FaultyBackend {
    inner: Arc<dyn Backend>,
    faults: Faults,
}

impl Backend for FaultyBackend {
    fn info(&self) -> DiskInfo {
        self.inner.info()
    }

    fn engine(&self, setup: EngineSetup) -> std::io::Result<Box<dyn Engine>> {
        let clock = setup.clock.clone();
        self.faults
            .lock()
            .doorbells
            .push(Arc::downgrade(&setup.doorbell));
        Ok(Box::new(FaultyEngine {
            released: self.faults.0.releases.load(Ordering::SeqCst),
            inner: self.inner.engine(setup)?,
            faults: self.faults.clone(),
            clock,
            batch: Batch::default(),
            answers: Vec::new(),
            marked: Vec::new(),
            held: BinaryHeap::new(),
            sequence: 0,
        }))
    }
}

struct FaultyEngine {
    inner: Box<dyn Engine>,
    faults: Faults,
    clock: Clock,
    batch: Batch,
    /// Of the inner engine, not yet sorted into given and held.
    answers: Vec<Completion>,
    /// Requests in the inner engine whose answers are to be held, and for how long.
    marked: Vec<(Token, Option<Span>)>,
    held: BinaryHeap<Reverse<Held>>,
    sequence: u64,
    released: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    /// [`Moment::NEVER`]: until released.
    until: Moment,
    /// Keeps the order of answers that are due together.
    sequence: u64,
    answer: Answer,
}

/// A completion with an order, which only breaks ties that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer(Completion);

impl PartialOrd for Answer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Answer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.token.slot.cmp(&other.0.token.slot)
    }
}

impl FaultyEngine {
    fn sort(&mut self, done: &mut Vec<Completion>) {
        for completion in self.answers.drain(..) {
            let place = self
                .marked
                .iter()
                .position(|(token, _)| *token == completion.token);
            let Some(place) = place else {
                done.push(completion);
                continue;
            };
            let until = match self.marked.swap_remove(place).1 {
                Some(span) => self.clock.now().after(span),
                None => Moment::NEVER,
            };
            self.sequence += 1;
            self.held.push(Reverse(Held {
                until,
                sequence: self.sequence,
                answer: Answer(completion),
            }));
        }
    }

    /// Gives the held answers that are due at `now`.
    fn give(&mut self, now: Moment, done: &mut Vec<Completion>) {
        while let Some(Reverse(held)) = self.held.peek() {
            if held.until > now || held.until == Moment::NEVER {
                break;
            }
            done.push(held.answer.0);
            self.held.pop();
        }
    }
}

impl Engine for FaultyEngine {
    fn submit(&mut self, batch: &Batch, memory: &GuestMemory, done: &mut Vec<Completion>) {
        self.batch.clear();
        self.batch.segments.extend_from_slice(&batch.segments);
        for request in &batch.requests {
            match self.faults.decide(request) {
                Some(Fault::Fail(outcome)) => {
                    done.push(Completion {
                        token: request.token,
                        outcome,
                    });
                    continue;
                }
                Some(Fault::Delay(span)) => self.marked.push((request.token, Some(span))),
                Some(Fault::Stall) => self.marked.push((request.token, None)),
                None => {}
            }
            self.batch.requests.push(request.clone());
        }
        self.inner.submit(&self.batch, memory, &mut self.answers);
        self.sort(done);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        self.inner.poll(&mut self.answers);
        self.sort(done);
        let releases = self.faults.0.releases.load(Ordering::SeqCst);
        let stalled = releases != self.released;
        self.released = releases;
        if stalled {
            // Delays run on; only what had no moment is let go.
            let (never, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
                .into_sorted_vec()
                .into_iter()
                .rev()
                .partition(|Reverse(held)| held.until == Moment::NEVER);
            done.extend(never.into_iter().map(|Reverse(held)| held.answer.0));
            self.held = later.into();
        }
        self.give(self.clock.now(), done);
    }

    fn deadline(&self) -> Option<Moment> {
        let mine = self.held.peek().map(|Reverse(held)| held.until);
        let mine = mine.filter(|until| *until != Moment::NEVER);
        match (mine, self.inner.deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn hurry(&mut self, done: &mut Vec<Completion>) {
        self.inner.hurry(&mut self.answers);
        self.sort(done);
        // All delays; what stalls goes on stalling.
        self.give(Moment::NEVER, done);
    }

    fn is_idle(&self) -> bool {
        self.inner.is_idle()
    }

    fn park(&mut self, doorbell: &Doorbell, timeout: Option<Duration>) {
        self.inner.park(doorbell, timeout);
    }
}
