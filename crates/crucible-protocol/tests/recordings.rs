//! What the reference programs said and wrote: each frame, each region.json and each extent is read, understood and
//! written again to the same bytes.
//!
//! A few recordings lie beside the tests; many more are read from where `TRIVET_CRUCIBLE_FIXTURES` says.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::panic, reason = "helpers of tests fail as tests do")]
#![expect(
    clippy::print_stderr,
    reason = "a test that finds nothing to do says so"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use crucible_protocol::context::hash;
use crucible_protocol::layout::{
    ActiveSlots, ExtentLayout, ExtentMetadata, SLOT_LEN, Slot, StoredContext, decode_region,
    encode_region, names,
};
use crucible_protocol::{BlockContext, Decoder, ExtentId, Message, ReadBlockContext, WriteHeader};

const BESIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
const ELSEWHERE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../../shared/fixtures/crucible"
);

/// Where recordings are; the first one always is.
fn roots() -> Vec<PathBuf> {
    let elsewhere = std::env::var_os("TRIVET_CRUCIBLE_FIXTURES")
        .map_or_else(|| PathBuf::from(ELSEWHERE), PathBuf::from);
    if elsewhere.is_dir() {
        vec![BESIDE.into(), elsewhere]
    } else {
        eprintln!(
            "NO RECORDINGS in {}: only the few in tests/data are looked at; TRIVET_CRUCIBLE_FIXTURES names others",
            elsewhere.display()
        );
        vec![BESIDE.into()]
    }
}

/// All files below a directory.
fn files(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut pending) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// All connections on which messages went: path and content.
fn conversations(root: &Path) -> impl Iterator<Item = (PathBuf, Vec<u8>)> {
    files(root)
        .into_iter()
        .filter(|path| {
            let extension = path.extension().unwrap_or_default();
            extension == "up" || extension == "down"
        })
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .filter(|(_, bytes)| !bytes.starts_with(b"GET /") && !bytes.starts_with(b"HTTP/"))
}

fn messages(path: &Path, bytes: &[u8]) -> Vec<Message> {
    let decoder = Decoder::default();
    let mut buffer = BytesMut::from(bytes);
    let mut messages = Vec::new();
    loop {
        match decoder.decode(&mut buffer) {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => break,
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
    assert!(
        buffer.is_empty(),
        "{}: {} bytes left",
        path.display(),
        buffer.len()
    );
    messages
}

#[test]
fn every_recorded_frame_is_encoded_to_the_same_bytes() {
    for root in roots() {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (path, bytes) in conversations(&root) {
            let mut again = BytesMut::new();
            for message in messages(&path, &bytes) {
                let start = again.len();
                message.encode_into(&mut again);
                assert_eq!(again.len() - start, message.encoded_len());
                assert_eq!(
                    again.get(start..),
                    bytes.get(start..again.len()),
                    "{} at {start}: {}",
                    path.display(),
                    message.name()
                );
                *seen.entry(message.name()).or_default() += 1;
            }
            assert_eq!(again, bytes);
        }
        eprintln!("{}: {seen:?}", root.display());
        assert!(seen.len() >= 27, "{} kinds of messages", seen.len());
    }
}

#[test]
fn recorded_frames_may_arrive_byte_by_byte() {
    let decoder = Decoder::default();
    for (path, bytes) in conversations(Path::new(BESIDE)) {
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for byte in &bytes {
            assert!(decoder.missing(&buffer).unwrap() > 0);
            buffer.extend_from_slice(&[*byte]);
            found.extend(decoder.decode(&mut buffer).unwrap());
        }
        assert_eq!(found, messages(&path, &bytes));
    }
}

/// Block by block, with what goes with it.
fn blocks<'a, T>(contexts: &'a [T], data: &'a [u8]) -> impl Iterator<Item = (&'a T, &'a [u8])> {
    let size = data.len() / contexts.len();
    assert_eq!(size * contexts.len(), data.len());
    contexts.iter().zip(data.chunks_exact(size))
}

#[test]
fn the_hashes_of_recorded_blocks_are_right() {
    let mut counts = [0; 4];
    for root in roots() {
        for (path, bytes) in conversations(&root) {
            for message in messages(&path, &bytes) {
                match &message {
                    Message::Write { header, data } | Message::WriteUnwritten { header, data } => {
                        let WriteHeader { contexts, .. } = header;
                        for (context, block) in blocks(contexts, data) {
                            assert!(context.fits(block), "{}", path.display());
                            counts[usize::from(context.encryption.is_some())] += 1;
                        }
                    }
                    Message::ReadResponse { header, data } => {
                        for (context, block) in blocks(header.blocks.as_ref().unwrap(), data) {
                            match context {
                                ReadBlockContext::Unencrypted(expected) => {
                                    assert_eq!(hash(block), *expected, "{}", path.display());
                                    counts[2] += 1;
                                }
                                ReadBlockContext::Empty => {
                                    assert!(block.iter().all(|byte| *byte == 0));
                                    counts[3] += 1;
                                }
                                ReadBlockContext::Encrypted(_) => {}
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(
        counts.iter().all(|count| *count > 0),
        "plain, sealed, read, empty: {counts:?}"
    );
}

#[test]
fn every_recorded_region_is_understood_and_written_again_to_the_same_bytes() {
    for root in roots() {
        let mut extents = 0;
        for path in files(&root) {
            if path.ends_with(names::REGION_FILE) {
                let file = fs::read(&path).unwrap();
                let region = decode_region(&file).unwrap();
                assert_eq!(
                    encode_region(&region).as_bytes(),
                    file,
                    "{}",
                    path.display()
                );
                let layout = ExtentLayout::new(&region.geometry().unwrap());
                for extent in 0..region.extent_count {
                    let extent = path.with_file_name(names::extent_path(ExtentId(extent)));
                    check_extent(&extent, &layout, region.encrypted);
                    extents += 1;
                }
            }
        }
        assert!(extents >= 8, "{extents} extents");
    }
}

fn check_extent(path: &Path, layout: &ExtentLayout, encrypted: bool) {
    let file = fs::read(path).unwrap();
    assert_eq!(file.len() as u64, layout.file_len(), "{}", path.display());
    let part = |range: std::ops::Range<u64>| &file[range.start as usize..range.end as usize];

    let metadata = part(layout.metadata()).try_into().unwrap();
    let decoded = ExtentMetadata::decode(&metadata).unwrap();
    assert_eq!(decoded.encode(), metadata);
    assert!(!decoded.state.dirty, "{}", path.display());

    let active = ActiveSlots::from_bytes(part(layout.bitmap()), layout.blocks()).unwrap();
    for block in 0..layout.blocks() {
        let slot = |slot| -> Option<StoredContext> {
            let bytes: [u8; SLOT_LEN] = part(layout.slots(slot, block, 1).unwrap())
                .try_into()
                .unwrap();
            let decoded = StoredContext::decode(&bytes).unwrap();
            assert_eq!(
                StoredContext::encode(decoded.as_ref()),
                bytes,
                "{}",
                path.display()
            );
            decoded
        };
        let (a, b) = (slot(Slot::A), slot(Slot::B));
        let data = part(layout.data(block, 1).unwrap());
        match if active.get(block) == Some(Slot::A) {
            a
        } else {
            b
        } {
            None => assert!(data.iter().all(|byte| *byte == 0)),
            Some(stored) => {
                assert_eq!(stored.on_disk_hash, hash(data), "{}", path.display());
                assert!(
                    BlockContext::fits(&stored.context, data),
                    "{}",
                    path.display()
                );
                assert_eq!(stored.context.encryption.is_some(), encrypted);
            }
        }
    }
}
