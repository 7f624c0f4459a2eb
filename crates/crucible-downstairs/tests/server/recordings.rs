//! What the reference's upstairs said, said again to our server; the answers are those of the reference's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use crucible_protocol::wire::Decoder;
use crucible_protocol::{Message, RegionDefinition};

use crate::support::{Peer, Server, definition};

fn folders() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crucible-protocol/tests/data");
    let mut folders = vec![here];
    folders.extend(std::env::var_os("TRIVET_CRUCIBLE_FIXTURES").map(PathBuf::from));
    folders
}

fn messages(path: &Path) -> Vec<Message> {
    let mut buffer = BytesMut::from(&std::fs::read(path).unwrap()[..]);
    let mut messages = Vec::new();
    while let Some(message) = Decoder::default().decode(&mut buffer).unwrap() {
        messages.push(message);
    }
    messages
}

/// Says all of it at once, and collects the answers to what has recorded ones.
fn replay(peer: &mut Peer, folder: &Path, connection: &str) -> (Vec<Message>, Vec<Message>) {
    let up = messages(&folder.join(format!("{connection}.up")));
    let mut down = messages(&folder.join(format!("{connection}.down")));
    // The two files are cut at different places.
    let asked: BTreeSet<u64> = up.iter().map(job_of).collect();
    down.retain(|message| asked.contains(&job_of(message)) || job_of(message) == 0);
    assert!(!up.is_empty() && !down.is_empty());
    for message in &up {
        peer.send(message);
    }
    // Jobs that do not depend on each other are answered in any order, and more may be asked than was recorded of
    // the answers.
    let subject = |message: &Message| (message.number(), job_of(message));
    let mut open: Vec<_> = down.iter().map(subject).collect();
    let mut answers = Vec::new();
    while !open.is_empty() {
        let answer = peer.receive().expect("all answers that were recorded");
        if let Some(place) = open.iter().position(|open| *open == subject(&answer)) {
            open.swap_remove(place);
            answers.push(answer);
        }
    }
    (down, answers)
}

/// The job that a message is about; 0 for none, since no upstairs begins there.
fn job_of(message: &Message) -> u64 {
    match message {
        Message::Write { header, .. } | Message::WriteUnwritten { header, .. } => header.job.0,
        Message::ReadResponse { header, .. } => header.job.0,
        Message::Flush { job, .. }
        | Message::Barrier { job, .. }
        | Message::ReadRequest { job, .. }
        | Message::ExtentLiveClose { job, .. }
        | Message::ExtentLiveFlushClose { job, .. }
        | Message::ExtentLiveRepair { job, .. }
        | Message::ExtentLiveReopen { job, .. }
        | Message::ExtentLiveNoOp { job, .. }
        | Message::WriteAck { job, .. }
        | Message::WriteUnwrittenAck { job, .. }
        | Message::FlushAck { job, .. }
        | Message::BarrierAck { job, .. }
        | Message::ExtentLiveCloseAck { job, .. }
        | Message::ExtentLiveRepairAckId { job, .. }
        | Message::ExtentLiveAckId { job, .. } => job.0,
        _ => 0,
    }
}

/// Answers about jobs by job, the others by kind: acks of jobs that do not depend on each other have no order.
fn by_subject(messages: Vec<Message>) -> BTreeMap<(u32, u64), Vec<Message>> {
    let mut sorted: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for message in messages {
        let job = job_of(&message);
        sorted
            .entry((message.number(), job))
            .or_default()
            .push(message);
    }
    sorted
}

fn region_of(messages: &[Message]) -> RegionDefinition {
    messages
        .iter()
        .find_map(|message| match message {
            Message::RegionInfo(definition) => Some(*definition),
            _ => None,
        })
        .unwrap()
}

fn assert_same(recorded: Vec<Message>, answered: Vec<Message>, name: &str) {
    let plain = |messages: Vec<Message>| {
        let messages = messages.into_iter().filter(|message| {
            // Addresses differ; how many pings got through before the end is chance.
            !matches!(message, Message::YesItsMe { .. } | Message::Imok)
        });
        by_subject(messages.collect())
    };
    let (recorded, answered) = (plain(recorded), plain(answered));
    let keys = |map: &BTreeMap<_, Vec<_>>| map.keys().copied().collect::<Vec<_>>();
    assert_eq!(keys(&recorded), keys(&answered), "{name}");
    for (subject, expected) in recorded {
        assert_eq!(answered[&subject], expected, "{name} {subject:?}");
    }
}

#[test]
fn recorded_requests_get_the_recorded_answers() {
    let mut tried = 0;
    for folder in folders() {
        for (scenario, connection) in [
            ("plain-one", "conn02-ds18830"),
            ("plain-span", "conn02-ds18830"),
            ("enc-one", "conn02-ds18830"),
            ("enc-4k-generic", "conn03-ds18810"),
        ] {
            let folder = folder.join(scenario);
            let down = folder.join(format!("{connection}.down"));
            if !down.exists() {
                continue;
            }
            let server = Server::fresh(&region_of(&messages(&down)));
            let (recorded, answered) = replay(&mut server.peer(), &folder, connection);
            assert_same(recorded, answered, scenario);
            tried += 1;
        }
    }
    assert!(tried >= 3, "the recordings are missing");
}

/// The connection before the server was lost, then the one that took it up again, with LastFlush and replay.
#[test]
fn a_recorded_replay_is_taken_up_again() {
    let mut tried = 0;
    for folder in folders() {
        let folder = folder.join("replay");
        if !folder.join("conn05-ds18820.up").exists() {
            continue;
        }
        let up = messages(&folder.join("conn05-ds18820.up"));
        assert!(
            up.iter()
                .any(|message| matches!(message, Message::LastFlush { last: Some(_) }))
        );
        let down = messages(&folder.join("conn05-ds18820.down"));
        let server = Server::fresh(&region_of(&down));
        // What is between the two recordings is cut off, so that blocks differ: kinds and jobs do not.
        let (recorded, answered) = replay(&mut server.peer(), &folder, "conn05-ds18820");
        let subjects = |messages| by_subject(messages).into_keys().collect::<Vec<_>>();
        assert_eq!(subjects(recorded), subjects(answered));
        tried += 1;
    }
    assert!(tried >= 1, "the recording is missing");
}

#[test]
fn the_geometry_of_the_recordings_is_the_one_of_these_tests() {
    let folder = folders().remove(0).join("plain-one");
    let region = region_of(&messages(&folder.join("conn02-ds18830.down")));
    let ours = definition(512, 8, 4, false);
    assert_eq!(region.geometry(), ours.geometry());
}
