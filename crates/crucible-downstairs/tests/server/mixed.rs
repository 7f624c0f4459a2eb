//! Several of our servers under the reference's upstairs, as it was recorded: it reconciles three of them, and makes an
//! empty one whole from another while it is used. Between the connections the order is that of the upstairs: a step
//! is taken when all have answered the one before. After that, what it may do and no recording has.

use std::path::Path;

use bytes::BytesMut;
use crucible_protocol::wire::Decoder;
use crucible_protocol::{
    ExtentId, ExtentState, JobId, Message, ReconciliationId, RegionDefinition, SessionKey,
};

use crate::support::{Peer, Server, blocks, flush, ids, key, read, write};

/// What was said on a connection: by the upstairs, by the region server.
struct Recording {
    up: Vec<Message>,
    down: Vec<Message>,
}

impl Recording {
    fn load(scenario: &str, connection: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../crucible-protocol/tests/data")
            .join(scenario);
        let messages = |end: &str| {
            let bytes = std::fs::read(folder.join(format!("{connection}.{end}"))).unwrap();
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut messages = Vec::new();
            while let Some(message) = Decoder::default().decode(&mut buffer).unwrap() {
                messages.push(message);
            }
            messages
        };
        Self {
            up: messages("up"),
            down: messages("down"),
        }
    }

    fn region(&self) -> RegionDefinition {
        let region = self.down.iter().find_map(|message| match message {
            Message::RegionInfo(definition) => Some(*definition),
            _ => None,
        });
        region.unwrap()
    }

    fn key(&self) -> SessionKey {
        match &self.up[0] {
            Message::HereIAm { key, .. } => *key,
            other => panic!("{other:?}"),
        }
    }

    /// Says what comes before the first job, one question at a time, and compares the answers.
    fn negotiate(&self, peer: &mut Peer) {
        for (question, recorded) in self.up.iter().zip(&self.down).take(4) {
            let answer = peer.ask(question);
            match (&answer, recorded) {
                (Message::YesItsMe { version, .. }, Message::YesItsMe { .. }) => {
                    assert_eq!(*version, 13);
                }
                _ => assert_eq!(answer, *recorded),
            }
        }
    }
}

/// The number of a step of a reconciliation.
fn step_of(message: &Message) -> Option<ReconciliationId> {
    match message {
        Message::ExtentFlush { repair, .. }
        | Message::ExtentClose { repair, .. }
        | Message::ExtentRepair { repair, .. }
        | Message::ExtentReopen { repair, .. } => Some(*repair),
        _ => None,
    }
}

/// A region as a first session of generation 1 with one flush leaves it.
fn used_once(definition: &RegionDefinition) -> Server {
    let server = Server::fresh(definition);
    let own = key(77, 77);
    let mut peer = server.peer();
    let yes = peer.greet(own, false, definition.encrypted);
    assert!(matches!(yes, Message::YesItsMe { .. }), "{yes:?}");
    peer.ask(&Message::PromoteToActive {
        key: own,
        generation: 1,
    });
    peer.ask(&Message::RegionInfoPlease);
    peer.ask(&Message::ExtentVersionsPlease);
    peer.ask(&write(own, 1000, &[], 0, &blocks(5, 32)));
    let done = peer.ask(&flush(own, 1001, &[1000], 1));
    assert!(matches!(done, Message::FlushAck { result: Ok(()), .. }));
    server
}

#[test]
fn a_recorded_reconciliation_of_three_gets_the_recorded_answers() {
    let names = ["conn03-ds18810", "conn04-ds18820", "conn02-ds18830"];
    let recordings = names.map(|name| Recording::load("reconcile", name));
    // The second one was replaced by an older copy, which is an empty one.
    let servers = [
        used_once(&recordings[0].region()),
        Server::fresh(&recordings[1].region()),
        used_once(&recordings[2].region()),
    ];
    let mut peers = [0, 1, 2].map(|at| servers[at].peer());
    for (recording, peer) in recordings.iter().zip(&mut peers) {
        recording.negotiate(peer);
    }
    for number in 0..16 {
        let repair = ReconciliationId(number);
        let mut asked = Vec::new();
        for (at, (recording, peer)) in recordings.iter().zip(&mut peers).enumerate() {
            let step = recording.up.iter().find(|m| step_of(m) == Some(repair));
            let Some(mut step) = step.cloned() else {
                continue;
            };
            if let Message::ExtentRepair { source_address, .. } = &mut step {
                *source_address = servers[0].repair;
            }
            peer.send(&step);
            asked.push(at);
        }
        assert!(!asked.is_empty(), "step {number} is in no recording");
        for at in asked {
            let answer = peers[at].receive();
            assert_eq!(answer, Some(Message::RepairAckId { repair }), "server {at}");
        }
    }
    // Then a write, a read and a flush: the answers of all three are those of the recording, contexts included.
    for (recording, peer) in recordings.iter().zip(&mut peers) {
        let jobs = recording.up.iter().skip(4);
        for job in jobs.filter(|message| step_of(message).is_none()) {
            peer.send(job);
        }
        let answers = recording.down.iter().skip(4);
        for recorded in answers.filter(|m| !matches!(m, Message::RepairAckId { .. })) {
            assert_eq!(peer.receive().as_ref(), Some(recorded));
        }
    }
    // What the others had is on the second one, with the same contexts.
    let own = recordings[0].key();
    let [first, second, third] = &mut peers;
    let all = read(own, 2000, &[1002], 0, 32);
    let expected = first.ask(&all);
    assert_eq!(second.ask(&all), expected);
    assert_eq!(third.ask(&all), expected);
}

/// What a healthy server gets and answers while another is repaired from it: the same four jobs for each extent.
struct Healthy<'a> {
    peer: Peer,
    server: &'a Server,
    key: SessionKey,
}

impl Healthy<'_> {
    fn closes(&mut self, job: JobId, extent: ExtentId, flush: u64) -> ExtentState {
        let answer = self.peer.ask(&Message::ExtentLiveFlushClose {
            key: self.key,
            job,
            dependencies: Vec::new(),
            extent,
            flush,
            generation: 1,
        });
        match answer {
            Message::ExtentLiveCloseAck {
                result: Ok(state), ..
            } => state,
            other => panic!("{other:?}"),
        }
    }

    /// The copies are made: the rest of the four.
    fn opens(&mut self, close: JobId, extent: ExtentId) {
        let [repair, no_op, reopen] = [1, 2, 3].map(|more| close.0 + more);
        let nothing = |job: u64| Message::ExtentLiveNoOp {
            key: self.key,
            job: JobId(job),
            dependencies: ids(&[job - 1]),
        };
        let messages = [
            nothing(repair),
            nothing(no_op),
            Message::ExtentLiveReopen {
                key: self.key,
                job: JobId(reopen),
                dependencies: ids(&[no_op]),
                extent,
            },
        ];
        for (message, job) in messages.iter().zip([repair, no_op, reopen]) {
            let expected = Message::ExtentLiveAckId {
                key: self.key,
                job: JobId(job),
                result: Ok(()),
            };
            assert_eq!(self.peer.ask(message), expected);
        }
    }
}

/// The job of an answer.
fn answered(message: &Message) -> Option<u64> {
    match message {
        Message::ReadResponse { header, .. } => Some(header.job.0),
        Message::WriteAck { job, .. }
        | Message::FlushAck { job, .. }
        | Message::ExtentLiveCloseAck { job, .. }
        | Message::ExtentLiveRepairAckId { job, .. }
        | Message::ExtentLiveAckId { job, .. } => Some(job.0),
        _ => None,
    }
}

/// What came so far, by job.
#[derive(Default)]
struct Answers(std::collections::BTreeMap<u64, Message>);

impl Answers {
    fn wait_for(&mut self, peer: &mut Peer, job: u64) -> Message {
        while !self.0.contains_key(&job) {
            let answer = peer.receive().unwrap();
            if let Some(job) = answered(&answer) {
                let again = self.0.insert(job, answer);
                assert!(again.is_none(), "job {job} is answered twice");
            }
        }
        self.0[&job].clone()
    }
}

/// Extents are reopened before they are closed, reads name jobs that come later, and what is written next waits for
/// ids that were set aside: all as it was recorded.
#[test]
fn a_recorded_live_repair_of_an_empty_region_gets_the_recorded_answers() {
    let recording = Recording::load("live-repair", "conn05-ds18840");
    let own = recording.key();
    let mut definition = recording.region();
    let target = Server::fresh(&definition);
    definition.uuid = uuid::Uuid::from_u128(0x18830);
    let source = used_once(&definition);
    let mut healthy = Healthy {
        peer: source.peer(),
        server: &source,
        key: own,
    };
    let yes = healthy.peer.greet(own, false, true);
    assert!(matches!(yes, Message::YesItsMe { .. }), "{yes:?}");
    healthy.peer.ask(&Message::PromoteToActive {
        key: own,
        generation: 2,
    });
    healthy.peer.ask(&Message::RegionInfoPlease);
    healthy.peer.ask(&Message::ExtentVersionsPlease);

    let mut peer = target.peer();
    recording.negotiate(&mut peer);
    let mut answers = Answers::default();
    let mut closed = None;
    let mut last = None;
    for message in &recording.up[4..] {
        match message {
            Message::ExtentLiveClose { job, extent, .. } => {
                peer.send(message);
                let state = healthy.closes(*job, *extent, 2);
                assert_eq!(
                    (state.generation, state.flush, state.dirty),
                    (1, 1, false),
                    "a clean extent keeps its stamp"
                );
                closed = Some((*job, *extent));
            }
            Message::ExtentLiveRepair { .. } => {
                let mut message = message.clone();
                if let Message::ExtentLiveRepair { source_address, .. } = &mut message {
                    *source_address = healthy.server.repair;
                }
                peer.send(&message);
            }
            Message::ExtentLiveNoOp { job, .. } => {
                // It is said when the copy is made.
                answers.wait_for(&mut peer, job.0 - 1);
                peer.send(message);
                answers.wait_for(&mut peer, job.0 + 1);
                let (close, extent) = closed.take().unwrap();
                healthy.opens(close, extent);
            }
            Message::Flush { job, .. } => {
                last = Some(*job);
                peer.send(message);
            }
            Message::Ruok => {}
            other => peer.send(other),
        }
        if let (Some(flush), None) = (last, closed)
            && flush == JobId(9019)
        {
            break;
        }
    }
    // The answers up to the flush that ends the repair. Data aside, which was other data then.
    answers.wait_for(&mut peer, 9019);
    for recorded in &recording.down[4..] {
        let Some(job) = answered(recorded).filter(|job| *job <= 9019) else {
            continue;
        };
        let answer = answers.wait_for(&mut peer, job);
        match (&answer, recorded) {
            (Message::ReadResponse { header, data }, Message::ReadResponse { .. }) => {
                assert!(header.blocks.is_ok() && !data.is_empty());
            }
            _ => assert_eq!(answer, *recorded),
        }
    }
    // Both have the same now, with the same contexts.
    let all = |job, after: &[u64]| read(own, job, after, 0, 32);
    let expected = healthy.peer.ask(&all(20_000, &[]));
    assert_eq!(peer.ask(&all(20_000, &[9019])), expected);
    let Message::ReadResponse { data, .. } = expected else {
        panic!("{expected:?}");
    };
    assert_eq!(data, blocks(5, 32));
}

/// The four jobs of a live repair of this extent in the order in which the reference sends them, on a healthy server,
/// and a write that waits for them.
fn closing(own: SessionKey, extent: ExtentId, first: u64, after: &[u64]) -> Vec<Message> {
    let nothing = |job: u64| Message::ExtentLiveNoOp {
        key: own,
        job: JobId(job),
        dependencies: ids(&[job - 1]),
    };
    vec![
        Message::ExtentLiveReopen {
            key: own,
            job: JobId(first + 3),
            dependencies: ids(&[first + 2]),
            extent,
        },
        Message::ExtentLiveFlushClose {
            key: own,
            job: JobId(first),
            dependencies: ids(after),
            extent,
            flush: 9,
            generation: 1,
        },
        write(own, first + 4, &[first + 3], 8, &blocks(9, 1)),
        nothing(first + 1),
        nothing(first + 2),
    ]
}

/// The source of a live repair is away for a moment after it has closed an extent. It is sent the same jobs again, from
/// the last flush on: closed extents are open by then, the opening comes before the closing, ids are those of before.
#[test]
fn a_replay_into_the_middle_of_a_live_repair_finds_its_extents_open() {
    let own = key(1, 1);
    let server = Server::fresh(&crate::support::small());
    let mut peer = server.active(own, 1);
    peer.ask(&write(own, 1000, &[], 8, &blocks(1, 8)));
    peer.ask(&flush(own, 1001, &[1000], 1));
    peer.ask(&write(own, 1002, &[1001], 9, &blocks(2, 1)));
    let jobs = closing(own, ExtentId(1), 1003, &[1002]);
    for job in &jobs[..3] {
        peer.send(job);
    }
    let closed = peer.receive();
    assert!(
        matches!(
            closed,
            Some(Message::ExtentLiveCloseAck { result: Ok(_), .. })
        ),
        "{closed:?}"
    );
    drop(peer);

    let mut peer = server.peer();
    peer.greet(own, false, false);
    peer.ask(&Message::PromoteToActive {
        key: own,
        generation: 1,
    });
    peer.ask(&Message::RegionInfoPlease);
    peer.send(&Message::LastFlush {
        last: Some(JobId(1001)),
    });
    peer.send(&write(own, 1002, &[1001], 9, &blocks(2, 1)));
    for job in &jobs {
        peer.send(job);
    }
    let mut answers = Answers::default();
    for job in 1002..=1007 {
        answers.wait_for(&mut peer, job);
    }
    let Message::ExtentLiveCloseAck {
        result: Ok(state), ..
    } = answers.wait_for(&mut peer, 1003)
    else {
        panic!("{answers:?}", answers = answers.0);
    };
    assert_eq!((state.generation, state.flush, state.dirty), (1, 9, false));
    let Message::ReadResponse { data, .. } = peer.ask(&read(own, 1008, &[1007], 8, 2)) else {
        panic!("no blocks");
    };
    assert_eq!(data[..512], blocks(9, 1)[..]);
    assert_eq!(data[512..], blocks(2, 1)[..]);
}

/// An upstairs is gone in the middle of a live repair; the next one has all extents.
#[test]
fn who_takes_over_in_the_middle_of_a_live_repair_finds_its_extents_open() {
    let (old, new) = (key(1, 1), key(2, 2));
    let server = Server::fresh(&crate::support::small());
    let mut first = server.active(old, 1);
    for job in &closing(old, ExtentId(1), 1000, &[])[..2] {
        first.send(job);
    }
    let closed = first.receive();
    assert!(matches!(closed, Some(Message::ExtentLiveCloseAck { .. })));
    let mut second = server.active(new, 2);
    let answer = second.ask(&write(new, 1000, &[], 8, &blocks(3, 8)));
    assert!(
        matches!(answer, Message::WriteAck { result: Ok(()), .. }),
        "{answer:?}"
    );
}

/// Ids that were set aside for extents that are repaired later are named before they are sent.
#[test]
fn ids_that_were_set_aside_may_be_named_long_before_they_come() {
    let own = key(1, 1);
    let server = Server::fresh(&crate::support::small());
    let mut peer = server.active(own, 1);
    // 1000 to 1003 are kept for extent 1, 1004 to 1007 for extent 2; the second write reaches over both.
    peer.send(&write(own, 1008, &[], 0, &blocks(5, 1)));
    peer.send(&write(own, 1009, &[1003, 1007], 12, &blocks(4, 8)));
    peer.send(&flush(own, 1010, &[1008, 1009], 3));
    let first = peer.receive();
    assert!(
        matches!(&first, Some(Message::WriteAck { job, .. }) if job.0 == 1008),
        "{first:?}"
    );
    let mut answers = Answers::default();
    for (extent, first) in [(ExtentId(1), 1000), (ExtentId(2), 1004)] {
        for job in closing(own, extent, first, &[]) {
            if !matches!(job, Message::Write { .. }) {
                peer.send(&job);
            }
        }
    }
    for job in (1000..=1007).chain([1009, 1010]) {
        answers.wait_for(&mut peer, job);
    }
    let answer = peer.ask(&read(own, 1011, &[1010], 12, 8));
    let Message::ReadResponse { data, .. } = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(data, blocks(4, 8));
}
