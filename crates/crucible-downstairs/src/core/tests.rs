//! The tables of spec 2.2 and 3.2, row by row, against a disk that always obeys.

use std::collections::VecDeque;

use bytes::Bytes;
use crucible_protocol::{
    BlockContext, BlockIndex, ClientId, CrucibleError, ExtentId, ExtentState, Geometry, JobId,
    MESSAGE_VERSION, Message, NegotiationError, ReadBlockContext, ReadResponseHeader,
    ReconciliationId, RegionDefinition, SessionId, SessionKey, UpstairsId, WriteHeader,
};
use uuid::Uuid;
use vm_types::{Moment, Span};

use super::*;

const A: ConnectionId = ConnectionId(1);
const B: ConnectionId = ConnectionId(2);

fn key(upstairs: u128, session: u128) -> SessionKey {
    SessionKey {
        upstairs: UpstairsId(Uuid::from_u128(upstairs)),
        session: SessionId(Uuid::from_u128(session)),
    }
}

/// A server of 4 extents of 8 blocks of 512 bytes, and what it wanted done.
struct World {
    server: Server,
    now: Moment,
    sent: Vec<(ConnectionId, Message)>,
    hung_up: Vec<(ConnectionId, Reason)>,
    work: VecDeque<(Ticket, Operation)>,
    cancelled: Vec<Ticket>,
    paused: Vec<(ConnectionId, bool)>,
    deadline: Moment,
    /// Whether the disk obeys at once.
    prompt: bool,
}

impl World {
    fn new(mode: Mode, encrypted: bool, promoted: u64) -> Self {
        Self::with(mode, encrypted, promoted, Limits::default())
    }

    fn with(mode: Mode, encrypted: bool, promoted: u64, limits: Limits) -> Self {
        let geometry = Geometry::new(512, 8, 4).unwrap();
        let facts = Facts {
            definition: RegionDefinition::new(geometry, Uuid::from_u128(9), encrypted),
            mode,
            repair_address: "127.0.0.1:7810".parse().unwrap(),
        };
        Self {
            server: Server::new(facts, promoted, limits).unwrap(),
            now: Moment::START,
            sent: Vec::new(),
            hung_up: Vec::new(),
            work: VecDeque::new(),
            cancelled: Vec::new(),
            paused: Vec::new(),
            deadline: Moment::NEVER,
            prompt: true,
        }
    }

    fn writable() -> Self {
        Self::new(Mode::ReadWrite, false, 0)
    }

    fn tell(&mut self, event: Event) {
        let mut out = Vec::new();
        self.server.handle(self.now, event, &mut out);
        for action in out {
            match action {
                Action::Send(id, message) => self.sent.push((id, message)),
                Action::HangUp(id, reason) => self.hung_up.push((id, reason)),
                Action::Pause(id) => self.paused.push((id, true)),
                Action::Resume(id) => self.paused.push((id, false)),
                Action::Run(ticket, operation) => self.work.push_back((ticket, operation)),
                Action::Cancel(ticket) => self.cancelled.push(ticket),
                Action::Deadline(at) => self.deadline = at,
            }
        }
        while self.prompt && !self.work.is_empty() {
            self.obey();
        }
    }

    /// The oldest piece of work is done well.
    fn obey(&mut self) {
        let (ticket, operation) = self.work.pop_front().unwrap();
        let outcome = match operation {
            Operation::Read { count, .. } => Outcome::Blocks(
                vec![ReadBlockContext::Empty; count as usize],
                Bytes::from(vec![0; count as usize * 512]),
            ),
            Operation::States => Outcome::States(vec![ExtentState::default(); 4]),
            Operation::Close { .. } | Operation::FlushClose { .. } => {
                Outcome::State(ExtentState::default())
            }
            _ => Outcome::Done,
        };
        self.tell(Event::Finished(ticket, outcome));
    }

    /// The oldest piece of work fails.
    fn fail(&mut self, error: CrucibleError) {
        let (ticket, operation) = self.work.pop_front().unwrap();
        self.tell(Event::Finished(ticket, Outcome::Failed(error, operation)));
    }

    fn wait(&mut self, span: Span) {
        self.now = self.now.after(span);
        self.tell(Event::Wake);
    }

    fn say(&mut self, id: ConnectionId, message: Message) -> Vec<Message> {
        self.sent.clear();
        self.tell(Event::Received(id, message));
        self.answers(id)
    }

    fn answers(&self, id: ConnectionId) -> Vec<Message> {
        let mine = self.sent.iter().filter(|(to, _)| *to == id);
        mine.map(|(_, message)| message.clone()).collect()
    }

    fn is_open(&self, id: ConnectionId) -> bool {
        self.hung_up.iter().all(|(gone, _)| *gone != id)
    }

    fn greet(&mut self, id: ConnectionId, key: SessionKey, read_only: bool) {
        self.tell(Event::Opened(id));
        let answers = self.say(id, here_i_am(key, 13, read_only, false, &[]));
        assert!(matches!(answers[..], [Message::YesItsMe { .. }]));
    }

    fn activate(&mut self, id: ConnectionId, key: SessionKey, generation: u64) -> Vec<Message> {
        self.greet(id, key, false);
        self.say(id, Message::PromoteToActive { key, generation })
    }

    /// All the way to the first job.
    fn running(&mut self, id: ConnectionId, key: SessionKey, generation: u64) {
        let answers = self.activate(id, key, generation);
        assert_eq!(answers, [Message::YouAreNowActive { key, generation }]);
        let answers = self.say(id, Message::RegionInfoPlease);
        assert!(matches!(answers[..], [Message::RegionInfo(_)]));
        let answers = self.say(id, Message::ExtentVersionsPlease);
        assert!(matches!(answers[..], [Message::ExtentVersions { .. }]));
    }
}

fn here_i_am(
    key: SessionKey,
    version: u32,
    read_only: bool,
    encrypted: bool,
    alternates: &[u32],
) -> Message {
    Message::HereIAm {
        version,
        key,
        generation: 1,
        read_only,
        encrypted,
        alternate_versions: alternates.to_vec(),
    }
}

fn ids(numbers: &[u64]) -> Vec<JobId> {
    numbers.iter().copied().map(JobId).collect()
}

fn write(key: SessionKey, job: u64, dependencies: &[u64], start: u64, blocks: usize) -> Message {
    let data = Bytes::from(vec![0; blocks * 512]);
    Message::Write {
        header: WriteHeader {
            key,
            job: JobId(job),
            dependencies: ids(dependencies),
            start: BlockIndex(start),
            contexts: vec![BlockContext::plain(&[0; 512]); blocks],
        },
        data,
    }
}

fn unwritten(key: SessionKey, job: u64) -> Message {
    match write(key, job, &[], 0, 1) {
        Message::Write { header, data } => Message::WriteUnwritten { header, data },
        other => other,
    }
}

fn read(key: SessionKey, job: u64, dependencies: &[u64], start: u64, count: u64) -> Message {
    Message::ReadRequest {
        key,
        job: JobId(job),
        dependencies: ids(dependencies),
        start: BlockIndex(start),
        count,
    }
}

fn flush(key: SessionKey, job: u64, dependencies: &[u64]) -> Message {
    Message::Flush {
        key,
        job: JobId(job),
        dependencies: ids(dependencies),
        flush: 1,
        generation: 1,
        snapshot: None,
        extent_limit: None,
    }
}

fn write_ack(key: SessionKey, job: u64) -> Message {
    Message::WriteAck {
        key,
        job: JobId(job),
        result: Ok(()),
    }
}

fn flush_ack(key: SessionKey, job: u64) -> Message {
    Message::FlushAck {
        key,
        job: JobId(job),
        result: Ok(()),
    }
}

// --- 2.2: the first words ---

#[test]
fn a_ping_is_answered_in_every_phase() {
    let mut world = World::writable();
    world.tell(Event::Opened(A));
    assert_eq!(world.say(A, Message::Ruok), [Message::Imok]);
    world.running(B, key(1, 1), 1);
    assert_eq!(world.say(B, Message::Ruok), [Message::Imok]);
}

#[test]
fn a_ping_is_answered_while_the_disk_hangs() {
    let mut world = World::writable();
    world.running(A, key(1, 1), 1);
    world.prompt = false;
    world.say(A, write(key(1, 1), 1000, &[], 0, 1));
    assert_eq!(world.say(A, Message::Ruok), [Message::Imok]);
}

#[test]
fn versions_meet_or_are_refused() {
    for (version, alternates, accepted) in [
        (13, &[][..], true),
        (12, &[][..], false),
        (14, &[][..], false),
        (14, &[12, 13][..], true),
        (14, &[15, 16][..], false),
    ] {
        let mut world = World::writable();
        world.tell(Event::Opened(A));
        let answers = world.say(A, here_i_am(key(1, 1), version, false, false, alternates));
        if accepted {
            let welcome = Message::YesItsMe {
                version: MESSAGE_VERSION,
                repair_address: "127.0.0.1:7810".parse().unwrap(),
            };
            assert_eq!(answers, [welcome]);
        } else {
            assert_eq!(answers, [Message::VersionMismatch { version: 13 }]);
        }
        assert_eq!(world.is_open(A), accepted, "{version} {alternates:?}");
    }
}

#[test]
fn mode_and_encryption_must_agree_and_are_checked_in_this_order() {
    for (mode, sealed, read_only, encrypted, answer) in [
        (
            Mode::ReadWrite,
            false,
            true,
            true,
            Message::ReadOnlyMismatch { expected: false },
        ),
        (
            Mode::ReadOnly,
            false,
            false,
            false,
            Message::ReadOnlyMismatch { expected: true },
        ),
        (
            Mode::ReadWrite,
            false,
            false,
            true,
            Message::EncryptedMismatch { expected: false },
        ),
        (
            Mode::ReadWrite,
            true,
            false,
            false,
            Message::EncryptedMismatch { expected: true },
        ),
    ] {
        let mut world = World::new(mode, sealed, 0);
        world.tell(Event::Opened(A));
        let answers = world.say(A, here_i_am(key(1, 1), 13, read_only, encrypted, &[]));
        assert_eq!(answers, [answer]);
        assert!(!world.is_open(A));
    }
}

#[test]
fn a_promotion_under_another_name_is_refused_with_the_name_expected() {
    for other in [key(1, 2), key(2, 1)] {
        let mut world = World::writable();
        world.greet(A, key(1, 1), false);
        let answers = world.say(
            A,
            Message::PromoteToActive {
                key: other,
                generation: 1,
            },
        );
        let expected = Uuid::from_u128(1);
        assert_eq!(answers, [Message::UuidMismatch { expected }]);
        assert!(!world.is_open(A));
    }
}

#[test]
fn the_generation_of_the_promotion_counts() {
    let mut world = World::writable();
    let answers = world.activate(A, key(1, 1), 7);
    assert_eq!(
        answers,
        [Message::YouAreNowActive {
            key: key(1, 1),
            generation: 7
        }]
    );
    assert_eq!(world.server.recorded_generation(), 7);
}

#[test]
fn words_out_of_order_end_the_connection_without_an_answer() {
    let own = key(1, 1);
    let promote = Message::PromoteToActive {
        key: own,
        generation: 1,
    };
    let hello = here_i_am(own, 13, false, false, &[]);
    let all = [
        hello,
        promote,
        Message::RegionInfoPlease,
        Message::ExtentVersionsPlease,
        Message::LastFlush { last: None },
    ];
    // What has been said before, and which of the words may follow.
    for (said, allowed) in [
        (0, &[0][..]),
        (1, &[1][..]),
        (2, &[2][..]),
        (3, &[3, 4][..]),
        (4, &[][..]),
    ] {
        for (index, word) in all.iter().enumerate() {
            let mut world = World::writable();
            world.tell(Event::Opened(A));
            for earlier in &all[..said] {
                world.say(A, earlier.clone());
            }
            assert!(world.is_open(A));
            let answers = world.say(A, word.clone());
            if allowed.contains(&index) {
                assert!(world.is_open(A), "{said} {word:?}");
            } else {
                assert_eq!(answers, []);
                assert!(!world.is_open(A), "{said} {word:?}");
            }
        }
    }
}

#[test]
fn jobs_before_their_time_are_ignored() {
    let mut world = World::writable();
    world.greet(A, key(1, 1), false);
    assert_eq!(world.say(A, write(key(1, 1), 1000, &[], 0, 1)), []);
    assert!(world.is_open(A));
}

#[test]
fn words_of_a_server_end_a_running_connection() {
    let mut world = World::writable();
    world.running(A, key(1, 1), 1);
    assert_eq!(world.say(A, Message::Imok), []);
    assert!(!world.is_open(A));
}

#[test]
fn everything_may_be_said_at_once_without_waiting_for_answers() {
    let mut world = World::writable();
    world.prompt = false;
    let own = key(1, 1);
    world.tell(Event::Opened(A));
    for message in [
        here_i_am(own, 13, false, false, &[]),
        Message::PromoteToActive {
            key: own,
            generation: 1,
        },
        Message::RegionInfoPlease,
        Message::ExtentVersionsPlease,
        read(own, 1000, &[], 0, 1),
    ] {
        world.tell(Event::Received(A, message));
    }
    assert_eq!(world.paused, [(A, true)]);
    world.prompt = true;
    world.obey();
    let answers = world.answers(A);
    assert!(
        matches!(
            answers[..],
            [
                Message::YesItsMe { .. },
                Message::YouAreNowActive { .. },
                Message::RegionInfo(_),
                Message::ExtentVersions { .. },
                Message::ReadResponse { .. },
            ]
        ),
        "{answers:?}"
    );
    assert_eq!(world.paused, [(A, true), (A, false)]);
}

#[test]
fn the_last_flush_has_no_answer_and_counts_as_done() {
    let mut world = World::writable();
    world.activate(A, key(1, 1), 1);
    world.say(A, Message::RegionInfoPlease);
    let last = Some(JobId(1010));
    assert_eq!(world.say(A, Message::LastFlush { last }), []);
    let answers = world.say(A, write(key(1, 1), 1011, &[1010], 0, 1));
    assert_eq!(answers, [write_ack(key(1, 1), 1011)]);
}

// --- 2.2: who is active ---

#[test]
fn promotion_matrix_of_a_region_served_read_write() {
    // Who is active at generation 5, who asks, whether it gets in.
    for (newcomer, generation, accepted) in [
        (key(1, 1), 4, false),
        (key(1, 1), 5, true),
        (key(1, 1), 6, true),
        (key(1, 2), 4, false),
        (key(1, 2), 5, false),
        (key(1, 2), 6, true),
        (key(2, 1), 4, false),
        (key(2, 1), 5, false),
        (key(2, 1), 6, true),
    ] {
        let mut world = World::writable();
        world.running(A, key(1, 1), 5);
        let answers = world.activate(B, newcomer, generation);
        let label = format!("{newcomer:?} {generation}");
        if accepted {
            let yes = Message::YouAreNowActive {
                key: newcomer,
                generation,
            };
            assert_eq!(answers, [yes], "{label}");
            let no = Message::YouAreNoLongerActive {
                new_key: newcomer,
                new_generation: generation,
            };
            assert_eq!(world.answers(A), [no], "{label}");
            assert_eq!(world.hung_up, [(A, Reason::Superseded)], "{label}");
        } else {
            assert_eq!(answers, [], "{label}");
            assert!(world.is_open(A) && !world.is_open(B), "{label}");
        }
    }
}

#[test]
fn promotion_matrix_of_a_region_served_read_only() {
    for (newcomer, generation, displaces) in [
        (key(1, 1), 1, true),
        (key(1, 2), 5, true),
        (key(1, 2), 9, true),
        (key(2, 1), 1, false),
        (key(2, 1), 9, false),
    ] {
        let mut world = World::new(Mode::ReadOnly, false, 8);
        for (id, key, generation) in [(A, key(1, 1), 5), (B, newcomer, generation)] {
            world.greet(id, key, true);
            let answers = world.say(id, Message::PromoteToActive { key, generation });
            assert_eq!(answers, [Message::YouAreNowActive { key, generation }]);
        }
        assert_eq!(world.is_open(A), !displaces, "{newcomer:?} {generation}");
    }
}

fn too_low(requested: u64, actual: u64) -> Reason {
    Reason::Refused(NegotiationError::GenerationNumberTooLow { requested, actual })
}

/// The generations that a session is shown.
fn shown(world: &mut World, id: ConnectionId) -> Vec<u64> {
    world.say(id, Message::RegionInfoPlease);
    let answers = world.say(id, Message::ExtentVersionsPlease);
    match &answers[..] {
        [Message::ExtentVersions { generations, .. }] => generations.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_generation_once_promoted_stays_known() {
    for (generation, first) in [(4, 5), (5, 0), (6, 0)] {
        let mut world = World::new(Mode::ReadWrite, false, 5);
        let own = key(3, 3);
        let yes = Message::YouAreNowActive {
            key: own,
            generation,
        };
        assert_eq!(world.activate(A, own, generation), [yes]);
        // One that is too low sees so in the states, as from the disk: its upstairs refuses by itself.
        assert_eq!(shown(&mut world, A), [first, 0, 0, 0]);
        let answers = world.say(A, write(own, 1000, &[], 0, 1));
        assert_eq!(answers.is_empty(), generation < 5);
        assert_eq!(world.is_open(A), generation >= 5);
        if generation < 5 {
            assert_eq!(world.hung_up, [(A, too_low(4, 5))]);
            assert_eq!(world.server.recorded_generation(), 5);
        }
    }
}

#[test]
fn a_session_that_is_fenced_disturbs_nobody() {
    let mut world = World::new(Mode::ReadWrite, false, 5);
    let (late, own) = (key(3, 3), key(1, 1));
    assert_eq!(world.activate(A, late, 4).len(), 1);
    world.running(B, own, 6);
    assert_eq!(shown(&mut world, A), [5, 0, 0, 0]);
    assert_eq!(world.say(A, Message::Ruok), [Message::Imok]);
    // While somebody is active, a lower one is turned away without a word, as the reference does.
    let c = ConnectionId(3);
    assert_eq!(world.activate(c, late, 4), []);
    assert!(!world.is_open(c));
    world.tell(Event::Closed(A));
    assert_eq!(world.say(B, write(own, 1000, &[], 0, 1)).len(), 1);
}

#[test]
fn a_session_that_comes_back_after_another_took_its_place_is_told() {
    let mut world = World::new(Mode::ReadWrite, false, 5);
    world.activate(A, key(3, 3), 4);
    world.say(A, Message::RegionInfoPlease);
    let last = Some(JobId(1000));
    let answers = world.say(A, Message::LastFlush { last });
    assert!(
        matches!(
            answers[..],
            [Message::YouAreNoLongerActive {
                new_generation: 5,
                ..
            }]
        ),
        "{answers:?}"
    );
    assert_eq!(world.hung_up, [(A, too_low(4, 5))]);
}

#[test]
fn a_fenced_session_that_goes_on_is_let_in_once() {
    let mut world = World::new(Mode::ReadWrite, false, 5);
    let own = key(3, 3);
    world.activate(A, own, 4);
    shown(&mut world, A);
    assert_eq!(world.say(A, read(own, 1000, &[], 0, 1)), []);
    assert!(!world.is_open(A));
    assert_eq!(world.activate(B, own, 4), []);
    assert!(!world.is_open(B));
    // Another one is told anew.
    let c = ConnectionId(3);
    assert_eq!(world.activate(c, key(3, 4), 4).len(), 1);
}

#[test]
fn a_connection_that_was_never_promoted_leaves_without_a_trace() {
    let mut world = World::writable();
    world.running(A, key(1, 1), 5);
    world.greet(B, key(1, 1), false);
    world.tell(Event::Closed(B));
    let c = ConnectionId(3);
    assert_eq!(world.activate(c, key(2, 2), 4), []);
    assert!(!world.is_open(c) && world.is_open(A));
}

#[test]
fn nobody_is_promoted_before_the_work_of_the_old_session_has_ended() {
    let mut world = World::writable();
    world.running(A, key(1, 1), 1);
    world.prompt = false;
    world.say(A, write(key(1, 1), 1000, &[], 0, 1));
    world.say(A, write(key(1, 1), 1001, &[1000], 0, 1));
    assert_eq!(world.activate(B, key(2, 2), 2), []);
    assert_eq!(world.hung_up, [(A, Reason::Superseded)]);
    assert_eq!(world.cancelled.len(), 1);
    assert_eq!(world.work.len(), 1, "the promotion waits");
    world.obey();
    assert!(matches!(
        world.work[0].1,
        Operation::TakeOver { generation: 2 }
    ));
    world.obey();
    assert!(matches!(
        world.answers(B)[..],
        [Message::YouAreNowActive { generation: 2, .. }]
    ));
    assert!(world.work.is_empty(), "the queued write is gone");
}

#[test]
fn a_promotion_that_cannot_be_recorded_is_none() {
    let mut world = World::writable();
    world.prompt = false;
    world.activate(A, key(1, 1), 1);
    world.fail(CrucibleError::IoError("disk full".into()));
    assert!(!world.is_open(A));
    assert_eq!(world.server.recorded_generation(), 0);
    world.prompt = true;
    let answers = world.activate(B, key(2, 2), 1);
    assert!(matches!(answers[..], [Message::YouAreNowActive { .. }]));
}

#[test]
fn a_newcomer_displaces_one_whose_promotion_is_under_way() {
    let mut world = World::writable();
    world.prompt = false;
    world.activate(A, key(1, 1), 1);
    world.activate(B, key(2, 2), 2);
    assert_eq!(world.hung_up, [(A, Reason::Superseded)]);
    world.obey();
    world.obey();
    assert!(matches!(
        world.answers(B)[..],
        [Message::YouAreNowActive { .. }]
    ));
}

// --- 2.2: running ---

#[test]
fn a_message_of_another_session_is_answered_and_dropped() {
    let mut world = World::writable();
    world.running(A, key(1, 1), 1);
    for (other, expected) in [(key(2, 1), 1), (key(1, 3), 1), (key(2, 3), 1)] {
        let answers = world.say(A, write(other, 1000, &[], 0, 1));
        let expected = Uuid::from_u128(expected);
        assert_eq!(answers, [Message::UuidMismatch { expected }]);
    }
    assert!(world.is_open(A));
    let answers = world.say(A, write(key(1, 1), 1000, &[], 0, 1));
    assert_eq!(answers, [write_ack(key(1, 1), 1000)]);
}

#[test]
fn whoever_writes_to_a_region_served_read_only_is_dropped() {
    let own = key(1, 1);
    let extent = ExtentId(0);
    let (job, dependencies) = (JobId(1000), Vec::new());
    let repair = ReconciliationId(0);
    let source_address = "127.0.0.1:1".parse().unwrap();
    for message in [
        write(own, 1000, &[], 0, 1),
        unwritten(own, 1000),
        Message::ExtentClose { repair, extent },
        Message::ExtentLiveFlushClose {
            key: own,
            job,
            dependencies: dependencies.clone(),
            extent,
            flush: 1,
            generation: 1,
        },
        Message::ExtentLiveRepair {
            key: own,
            job,
            dependencies: dependencies.clone(),
            extent,
            source: ClientId(0),
            source_address,
        },
        Message::ExtentLiveReopen {
            key: own,
            job,
            dependencies: dependencies.clone(),
            extent,
        },
        Message::ExtentLiveNoOp {
            key: own,
            job,
            dependencies,
        },
    ] {
        let mut world = reader();
        assert_eq!(world.say(A, message.clone()), []);
        assert!(!world.is_open(A), "{message:?}");
    }
}

fn reader() -> World {
    let mut world = World::new(Mode::ReadOnly, false, 0);
    let key = key(1, 1);
    world.greet(A, key, true);
    world.say(A, Message::PromoteToActive { key, generation: 1 });
    world.say(A, Message::RegionInfoPlease);
    world.say(A, Message::ExtentVersionsPlease);
    world
}

#[test]
fn a_region_served_read_only_reads_flushes_and_makes_no_snapshots() {
    let mut world = reader();
    let own = key(1, 1);
    let answers = world.say(A, read(own, 1000, &[], 0, 2));
    assert!(matches!(answers[..], [Message::ReadResponse { .. }]));
    assert_eq!(
        world.say(A, flush(own, 1001, &[1000])),
        [flush_ack(own, 1001)]
    );
    let snapshot = match flush(own, 1002, &[]) {
        Message::Flush {
            key,
            job,
            dependencies,
            flush,
            generation,
            extent_limit,
            ..
        } => Message::Flush {
            key,
            job,
            dependencies,
            flush,
            generation,
            extent_limit,
            snapshot: Some("s1".into()),
        },
        other => other,
    };
    assert_eq!(
        world.say(A, snapshot),
        [Message::FlushAck {
            key: own,
            job: JobId(1002),
            result: Err(CrucibleError::ModifyingReadOnlyRegion),
        }]
    );
}

#[test]
fn silence_ends_a_connection_and_any_message_breaks_it() {
    let mut world = World::writable();
    world.running(A, key(1, 1), 1);
    world.wait(Span::from_secs(44));
    world.say(A, Message::Ruok);
    world.wait(Span::from_secs(44));
    assert!(world.is_open(A));
    assert_eq!(world.deadline, Moment::START.after(Span::from_secs(89)));
    world.wait(Span::from_secs(1));
    assert_eq!(world.hung_up, [(A, Reason::Silent)]);
}

#[test]
fn connections_are_counted_and_the_idle_go_first() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let mut world = World::with(Mode::ReadWrite, false, 0, limits);
    world.running(A, key(1, 1), 1);
    world.tell(Event::Opened(B));
    let c = ConnectionId(3);
    world.tell(Event::Opened(c));
    assert_eq!(world.hung_up, [(B, Reason::TooManyConnections)]);
    assert_eq!(world.server.connections(), 2);
}

mod jobs;

#[test]
fn who_wakes_a_server_without_connections_learns_that_nothing_more_is_due() {
    let mut world = World::writable();
    world.deadline = world.now;
    world.tell(Event::Wake);
    assert_eq!(world.deadline, Moment::NEVER);
}
