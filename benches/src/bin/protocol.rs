//! What it costs to put messages of a volume into frames and to take them out again, in nanoseconds a message.
//!
//! The write is one sealed block of 4 KiB that depends on two jobs; its data is not touched on either way.

use std::time::{Duration, Instant};

use benches::{Figure, report};
use bytes::{Bytes, BytesMut};
use crucible_protocol::{
    BlockContext, BlockIndex, Decoder, EncryptionContext, JobId, Message, ReadBlockContext,
    ReadResponseHeader, SessionId, SessionKey, UpstairsId, WireError, WriteHeader,
};
use uuid::Uuid;

/// Messages between two looks at the clock: what a connection's buffer might hold.
const BATCH: u32 = 64;
/// Time for one measurement.
const SPAN: Duration = Duration::from_millis(300);

fn main() -> Result<(), WireError> {
    let rounds = benches::rounds();
    let (write, ack, response) = (write(), ack(), response());
    for (name, message) in [
        ("4K write", &write),
        ("write ack", &ack),
        ("4K read answer", &response),
    ] {
        let mut out = BytesMut::with_capacity(1 << 20);
        let encode = best(rounds, || {
            out.clear();
            let started = Instant::now();
            for _ in 0..BATCH {
                std::hint::black_box(message.encode_head(&mut out));
            }
            Ok(started.elapsed())
        })?;
        figure(&format!("encode, {name}"), encode);

        let mut stream = BytesMut::new();
        (0..BATCH).for_each(|_| message.encode_into(&mut stream));
        let mut buffer = BytesMut::new();
        let decode = best(rounds, || {
            buffer.clear();
            buffer.extend_from_slice(&stream);
            let decoder = Decoder::default();
            let started = Instant::now();
            while let Some(message) = decoder.decode(&mut buffer)? {
                std::hint::black_box(message);
            }
            Ok(started.elapsed())
        })?;
        figure(&format!("decode, {name}"), decode);
    }
    Ok(())
}

fn figure(name: &str, nanoseconds: f64) {
    report(&Figure {
        name: name.to_owned(),
        ours: nanoseconds,
        theirs: None,
        unit: "ns",
        at_least: None,
    });
}

/// The time of the best batch of all rounds, in nanoseconds a message: what the others lose to neighbours on the
/// machine says nothing about the code.
fn best(
    rounds: usize,
    mut batch: impl FnMut() -> Result<Duration, WireError>,
) -> Result<f64, WireError> {
    let mut best = Duration::MAX;
    for _ in 0..rounds {
        let started = Instant::now();
        while started.elapsed() < SPAN {
            best = best.min(batch()?);
        }
    }
    Ok(best.as_secs_f64() * 1e9 / f64::from(BATCH))
}

fn key() -> SessionKey {
    SessionKey {
        upstairs: UpstairsId(Uuid::from_u128(1)),
        session: SessionId(Uuid::from_u128(2)),
    }
}

const ENCRYPTION: EncryptionContext = EncryptionContext {
    nonce: [3; 12],
    tag: [4; 16],
};

fn write() -> Message {
    Message::Write {
        header: WriteHeader {
            key: key(),
            job: JobId(1002),
            dependencies: vec![JobId(1000), JobId(1001)],
            start: BlockIndex(7),
            contexts: vec![BlockContext {
                hash: 5,
                encryption: Some(ENCRYPTION),
            }],
        },
        data: Bytes::from_static(&[6; 4096]),
    }
}

fn ack() -> Message {
    Message::WriteAck {
        key: key(),
        job: JobId(1002),
        result: Ok(()),
    }
}

fn response() -> Message {
    Message::ReadResponse {
        header: ReadResponseHeader {
            key: key(),
            job: JobId(1002),
            blocks: Ok(vec![ReadBlockContext::Encrypted(ENCRYPTION)]),
        },
        data: Bytes::from_static(&[6; 4096]),
    }
}
