//! The job queue against an oracle that rescans everything, and any sequence of messages against the core.

#![expect(clippy::unwrap_used, reason = "a property that cannot be set up fails")]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use crucible_downstairs::core::work::{Added, Ending, JobQueue};
use crucible_downstairs::core::{
    Action, ConnectionId, Event, Facts, Limits, Mode, Operation, Outcome, Server, Ticket,
};
use crucible_protocol::{
    BlockContext, BlockIndex, ClientId, CrucibleError, ExtentId, ExtentState, Geometry, JobId,
    Message, ReadBlockContext, ReconciliationId, RegionDefinition, SessionId, SessionKey,
    UpstairsId, WriteHeader,
};
use proptest::prelude::*;
use uuid::Uuid;
use vm_types::{Moment, Span};

/// The rules of spec 3.2, as slowly as they can be followed: every job keeps what it still waits for, and all are
/// looked at after each change.
#[derive(Default)]
struct Oracle {
    waiting: BTreeMap<u64, BTreeSet<u64>>,
    running: BTreeSet<u64>,
    completed: BTreeSet<u64>,
}

impl Oracle {
    fn add(&mut self, job: u64, dependencies: &[u64]) -> bool {
        let missing: BTreeSet<u64> = dependencies
            .iter()
            .copied()
            .filter(|id| !self.completed.contains(id))
            .collect();
        let ready = missing.is_empty();
        self.waiting.insert(job, missing);
        self.start();
        ready
    }

    fn start(&mut self) {
        let ready: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, missing)| missing.is_empty())
            .map(|(job, _)| *job)
            .collect();
        for job in ready {
            self.waiting.remove(&job);
            self.running.insert(job);
        }
    }

    fn finish(&mut self, job: u64, forget: bool) {
        self.running.remove(&job);
        self.completed.insert(job);
        if forget {
            self.completed = self.completed.split_off(&job);
        }
        for missing in self.waiting.values_mut() {
            missing.remove(&job);
        }
        self.start();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add(u64, Vec<u64>),
    /// The n-th of the running jobs ends; whether it is a flush.
    Finish(prop::sample::Index, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let add = (0u64..24, prop::collection::vec(0u64..24, 0..4)).prop_map(|(a, b)| Step::Add(a, b));
    let finish = (any::<prop::sample::Index>(), prop::bool::weighted(0.2))
        .prop_map(|(index, forget)| Step::Finish(index, forget));
    prop::collection::vec(prop_oneof![3 => add, 2 => finish], 0..100)
}

/// A well-behaved upstairs: jobs in order, each depending on the newest flush or on jobs since then.
fn obedient() -> impl Strategy<Value = Vec<(Vec<prop::sample::Index>, bool)>> {
    let dependencies = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    prop::collection::vec((dependencies, prop::bool::weighted(0.15)), 1..60)
}

proptest! {
    #[test]
    fn the_queue_agrees_with_the_oracle(steps in steps()) {
        let mut queue = JobQueue::new(None);
        let mut oracle = Oracle::default();
        let mut running = BTreeSet::new();
        for step in steps {
            match step {
                Step::Add(job, dependencies) => {
                    let known = oracle.waiting.contains_key(&job) || oracle.running.contains(&job);
                    let ids: Vec<JobId> = dependencies.iter().copied().map(JobId).collect();
                    let added = queue.add(JobId(job), &ids, ());
                    prop_assert_eq!(added.is_err(), known);
                    if known {
                        continue;
                    }
                    let ready = oracle.add(job, &dependencies);
                    prop_assert_eq!(added, Ok(if ready { Added::Ready } else { Added::Waiting }));
                    if ready {
                        running.insert(job);
                    }
                }
                Step::Finish(index, forget) => {
                    if running.is_empty() {
                        continue;
                    }
                    let job = *index.get(&running.iter().copied().collect::<Vec<_>>());
                    running.remove(&job);
                    let ending = if forget { Ending::DoneAndForget } else { Ending::Done };
                    let mut ready = Vec::new();
                    prop_assert!(queue.finish(JobId(job), ending, &mut ready).is_some());
                    oracle.finish(job, forget);
                    running.extend(ready.iter().map(|job| job.0));
                }
            }
            prop_assert_eq!(&running, &oracle.running);
            prop_assert_eq!(queue.len(), oracle.waiting.len() + oracle.running.len());
        }
    }

    /// With such an upstairs nothing waits for ever, whatever order the disk finishes in.
    #[test]
    fn an_obedient_upstairs_never_waits_for_ever(
        jobs in obedient(),
        order in prop::collection::vec(any::<prop::sample::Index>(), 200),
    ) {
        let mut queue = JobQueue::new(None);
        let mut running = Vec::new();
        let mut flushes = BTreeSet::new();
        let (mut since, mut last) = (Vec::new(), None);
        let mut order = order.into_iter().cycle();
        for (number, (picks, flush)) in jobs.into_iter().enumerate() {
            let job = JobId(1000 + number as u64);
            let mut dependencies: Vec<JobId> = Vec::new();
            if flush {
                dependencies.append(&mut since);
                dependencies.extend(last);
                flushes.insert(job);
                last = Some(job);
            } else {
                if !since.is_empty() {
                    dependencies.extend(picks.iter().map(|pick| *pick.get(&since)));
                }
                dependencies.extend(last);
                since.push(job);
            }
            if queue.add(job, &dependencies, ()) == Ok(Added::Ready) {
                running.push(job);
            }
            if number % 3 == 0 {
                finish_one(&mut queue, &mut running, &flushes, &mut order);
            }
        }
        while !running.is_empty() {
            finish_one(&mut queue, &mut running, &flushes, &mut order);
        }
        prop_assert!(queue.is_empty());
    }
}

fn finish_one(
    queue: &mut JobQueue<()>,
    running: &mut Vec<JobId>,
    flushes: &BTreeSet<JobId>,
    order: &mut impl Iterator<Item = prop::sample::Index>,
) {
    if running.is_empty() {
        return;
    }
    let job = running.remove(order.next().unwrap().index(running.len()));
    let ending = if flushes.contains(&job) {
        Ending::DoneAndForget
    } else {
        Ending::Done
    };
    queue.finish(job, ending, running);
}

const GEOMETRY: (u64, u64, u32) = (512, 4, 3);

fn key(number: u8) -> SessionKey {
    SessionKey {
        upstairs: UpstairsId(Uuid::from_u128(u128::from(number / 2) + 1)),
        session: SessionId(Uuid::from_u128(u128::from(number % 2) + 1)),
    }
}

fn message() -> impl Strategy<Value = Message> {
    let keys = prop_oneof![8 => Just(0u8), 1 => 1u8..4].prop_map(key);
    let job = (0u64..40).prop_map(JobId);
    let dependencies = prop::collection::vec((0u64..40).prop_map(JobId), 0..3);
    let extent = prop_oneof![6 => 0u32..3, 1 => any::<u32>()].prop_map(ExtentId);
    let start = prop_oneof![6 => 0u64..12, 1 => any::<u64>()].prop_map(BlockIndex);
    let count = prop_oneof![6 => 0u64..5, 1 => any::<u64>()];
    let address = || "127.0.0.1:1".parse().unwrap();
    let repair = (0u64..9).prop_map(ReconciliationId);
    (
        0u8..22,
        (keys, job, dependencies, extent),
        (start, count, repair, 0u64..4, any::<bool>()),
    )
        .prop_map(move |(kind, (key, job, dependencies, extent), rest)| {
            let (start, count, repair, number, flag) = rest;
            let blocks = count.min(5) as usize;
            let header = WriteHeader {
                key,
                job,
                dependencies: dependencies.clone(),
                start,
                contexts: vec![BlockContext::plain(&[]); blocks],
            };
            let data = Bytes::from(vec![0; (blocks + usize::from(flag && number == 3)) * 512]);
            match kind {
                0 => Message::HereIAm {
                    version: 13,
                    key,
                    generation: number,
                    read_only: false,
                    encrypted: false,
                    alternate_versions: Vec::new(),
                },
                1 => Message::PromoteToActive {
                    key,
                    generation: number,
                },
                2 => Message::RegionInfoPlease,
                3 => Message::ExtentVersionsPlease,
                4 => Message::LastFlush {
                    last: flag.then_some(job),
                },
                5 => Message::Ruok,
                6 | 7 => Message::Write { header, data },
                8 => Message::WriteUnwritten { header, data },
                9 | 10 => Message::ReadRequest {
                    key,
                    job,
                    dependencies,
                    start,
                    count,
                },
                11 => Message::Flush {
                    key,
                    job,
                    dependencies,
                    flush: number,
                    generation: number,
                    snapshot: (flag && number == 2).then(|| String::from("s")),
                    extent_limit: flag.then_some(extent),
                },
                12 => Message::Barrier {
                    key,
                    job,
                    dependencies,
                },
                13 => Message::ExtentLiveClose {
                    key,
                    job,
                    dependencies,
                    extent,
                },
                14 => Message::ExtentLiveFlushClose {
                    key,
                    job,
                    dependencies,
                    extent,
                    flush: number,
                    generation: number,
                },
                15 => Message::ExtentLiveRepair {
                    key,
                    job,
                    dependencies,
                    extent,
                    source: ClientId(7),
                    source_address: address(),
                },
                16 => Message::ExtentLiveReopen {
                    key,
                    job,
                    dependencies,
                    extent,
                },
                17 => Message::ExtentLiveNoOp {
                    key,
                    job,
                    dependencies,
                },
                18 => Message::ExtentClose { repair, extent },
                19 => Message::ExtentReopen { repair, extent },
                20 => Message::ExtentRepair {
                    repair,
                    extent,
                    source: ClientId(0),
                    source_address: address(),
                    destinations: Vec::new(),
                },
                _ => Message::Imok,
            }
        })
}

#[derive(Clone, Debug)]
enum Happening {
    Open,
    /// The first words, in order.
    Attach(prop::sample::Index, u64),
    Say(prop::sample::Index, Message),
    Close(prop::sample::Index),
    /// Work ends: which, and how badly.
    Finish(prop::sample::Index, u8),
    Wait(u64),
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let index = || any::<prop::sample::Index>();
    let one = prop_oneof![
        2 => Just(Happening::Open),
        3 => (index(), 0u64..6).prop_map(|(a, b)| Happening::Attach(a, b)),
        24 => (index(), message()).prop_map(|(a, b)| Happening::Say(a, b)),
        1 => index().prop_map(Happening::Close),
        18 => (index(), 0u8..10).prop_map(|(a, b)| Happening::Finish(a, b)),
        2 => (0u64..50).prop_map(Happening::Wait),
    ];
    prop::collection::vec(one, 0..160)
}

struct World {
    server: Server,
    now: Moment,
    open: BTreeSet<ConnectionId>,
    work: BTreeMap<Ticket, (Operation, bool)>,
    sent: usize,
}

impl World {
    fn tell(&mut self, event: Event) -> Result<(), TestCaseError> {
        let mut out = Vec::new();
        let writes = |work: &BTreeMap<Ticket, (Operation, bool)>| {
            work.values().filter(|(_, cancelled)| *cancelled).count()
        };
        self.server.handle(self.now, event, &mut out);
        for action in out {
            match action {
                Action::Send(id, _) => {
                    prop_assert!(self.open.contains(&id), "words for one that is gone");
                    self.sent += 1;
                }
                Action::HangUp(id, _) => {
                    prop_assert!(self.open.remove(&id), "hung up twice");
                }
                Action::Run(ticket, operation) => {
                    if matches!(operation, Operation::TakeOver { .. }) {
                        prop_assert_eq!(
                            writes(&self.work),
                            0,
                            "promoted before the old work ended"
                        );
                    }
                    prop_assert!(self.work.insert(ticket, (operation, false)).is_none());
                }
                Action::Cancel(ticket) => {
                    self.work.get_mut(&ticket).unwrap().1 = true;
                }
                Action::Pause(id) | Action::Resume(id) => prop_assert!(self.open.contains(&id)),
                Action::Deadline(at) => prop_assert!(at > Moment::START),
            }
        }
        prop_assert_eq!(self.server.running(), self.work.len());
        prop_assert_eq!(self.server.connections(), self.open.len());
        for id in &self.open {
            if let Some((jobs, bytes)) = self.server.load(*id) {
                prop_assert!(jobs <= 64, "{jobs} jobs");
                prop_assert!(bytes <= 1 << 18, "{bytes} bytes");
            }
        }
        Ok(())
    }
}

fn outcome(operation: Operation, how: u8) -> Outcome {
    match how {
        0 => Outcome::Failed(CrucibleError::IoError(String::new()), operation),
        1 => Outcome::Failed(CrucibleError::HashMismatch, operation),
        _ => match operation {
            Operation::Read { count, .. } => Outcome::Blocks(
                vec![ReadBlockContext::Empty; count as usize],
                Bytes::from(vec![0; count as usize * 512]),
            ),
            Operation::States => Outcome::States(vec![ExtentState::default(); 3]),
            Operation::Close { .. } | Operation::FlushClose { .. } => {
                Outcome::State(ExtentState::default())
            }
            _ => Outcome::Done,
        },
    }
}

proptest! {
    /// Whatever peers say and disks do: no panic, no words to the departed, no promotion over running work, nothing
    /// that grows past its bounds.
    #[test]
    fn any_sequence_of_messages_is_survived(happenings in happenings()) {
        let (block_size, blocks, extents) = GEOMETRY;
        let geometry = Geometry::new(block_size, blocks, extents).unwrap();
        let facts = Facts {
            definition: RegionDefinition::new(geometry, Uuid::nil(), false),
            mode: Mode::ReadWrite,
            repair_address: "127.0.0.1:4000".parse().unwrap(),
        };
        let limits = Limits { connections: 4, jobs: 16, bytes: 1 << 15, attempts: 3, ..Limits::default() };
        let mut world = World {
            server: Server::new(facts, 0, limits).unwrap(),
            now: Moment::START,
            open: BTreeSet::new(),
            work: BTreeMap::new(),
            sent: 0,
        };
        let mut opened = 0;
        for happening in happenings {
            let pick = |index: prop::sample::Index, open: &BTreeSet<ConnectionId>| {
                (!open.is_empty()).then(|| *index.get(&open.iter().copied().collect::<Vec<_>>()))
            };
            match happening {
                Happening::Open => {
                    opened += 1;
                    world.open.insert(ConnectionId(opened));
                    world.tell(Event::Opened(ConnectionId(opened)))?;
                }
                Happening::Attach(index, generation) => {
                    let Some(id) = pick(index, &world.open) else { continue };
                    let key = key(0);
                    for message in [
                        Message::HereIAm {
                            version: 13,
                            key,
                            generation,
                            read_only: false,
                            encrypted: false,
                            alternate_versions: Vec::new(),
                        },
                        Message::PromoteToActive { key, generation },
                        Message::RegionInfoPlease,
                        Message::LastFlush { last: None },
                    ] {
                        world.tell(Event::Received(id, message))?;
                    }
                }
                Happening::Say(index, message) => {
                    let Some(id) = pick(index, &world.open) else { continue };
                    world.tell(Event::Received(id, message))?;
                }
                Happening::Close(index) => {
                    let Some(id) = pick(index, &world.open) else { continue };
                    world.open.remove(&id);
                    world.tell(Event::Closed(id))?;
                }
                Happening::Finish(index, how) => {
                    if world.work.is_empty() {
                        continue;
                    }
                    let tickets: Vec<Ticket> = world.work.keys().copied().collect();
                    let ticket = *index.get(&tickets);
                    let (operation, _) = world.work.remove(&ticket).unwrap();
                    world.tell(Event::Finished(ticket, outcome(operation, how)))?;
                }
                Happening::Wait(seconds) => {
                    world.now = world.now.after(Span::from_secs(seconds));
                    world.tell(Event::Wake)?;
                }
            }
        }
        // Let everything that runs come to its end: nothing is left over.
        while let Some(id) = world.open.pop_first() {
            world.tell(Event::Closed(id))?;
        }
        while let Some((ticket, (operation, _))) = world.work.pop_first() {
            world.tell(Event::Finished(ticket, outcome(operation, 9)))?;
        }
        prop_assert_eq!(world.server.running(), 0);
    }
}
