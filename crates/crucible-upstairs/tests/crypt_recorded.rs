//! Blocks that the reference sealed, opened by ours: hash, tag and, where a read follows a write, content.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a failure is the finding"
)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use crucible_protocol::{Decoder, Message, ReadBlockContext};
use crucible_upstairs::crypt::{CipherKind, Envelope, Key};

/// Of all recordings.
const KEY: &str = "tCw7zw0hAsPuxMOTWwnPEFYjBK9qJRtYyGdEXKEnrg0=";

fn messages(bytes: &[u8]) -> Vec<Message> {
    let (decoder, mut buffer) = (Decoder::default(), BytesMut::from(bytes));
    std::iter::from_fn(|| decoder.decode(&mut buffer).unwrap()).collect()
}

/// Opens all blocks of one connection with every cipher; returns how many there were.
fn open_all(messages: &[Message]) -> usize {
    let key = Key::from_base64(KEY).unwrap();
    let mut contents: HashMap<[u8; 12], Vec<u8>> = HashMap::new();
    let mut count = 0;
    for kind in CipherKind::ALL {
        let envelope = Envelope::with(Some(&key), *kind);
        for message in messages {
            let (contexts, data) = match message {
                Message::Write { header, data } | Message::WriteUnwritten { header, data } => {
                    let size = data.len() / header.contexts.len();
                    let blocks = data.chunks(size).zip(&header.contexts);
                    blocks.for_each(|(block, context)| assert!(context.fits(block)));
                    let contexts = header.contexts.iter().map(|context| (*context).into());
                    (contexts.collect(), data)
                }
                Message::ReadResponse { header, data } => {
                    (header.blocks.clone().unwrap_or_default(), data)
                }
                _ => continue,
            };
            let contexts: Vec<ReadBlockContext> = contexts;
            if contexts.is_empty() {
                continue;
            }
            let size = data.len() / contexts.len();
            let mut into = vec![0; data.len()];
            envelope.open(size, &contexts, data, &mut into).unwrap();
            for (block, context) in into.chunks(size).zip(&contexts) {
                count += 1;
                if let ReadBlockContext::Encrypted(context) = context {
                    let known = contents
                        .entry(context.nonce)
                        .or_insert_with(|| block.to_vec());
                    assert_eq!(known, block, "one nonce, two contents");
                }
            }
        }
    }
    count
}

#[test]
fn a_recorded_write_opens() {
    let bytes = include_bytes!("data/recorded-encrypted-write.bin");
    assert_eq!(open_all(&messages(bytes)), CipherKind::ALL.len());
}

#[test]
fn all_recorded_blocks_open() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/crucible");
    let Ok(runs) = std::fs::read_dir(&root) else {
        println!("SKIPPED: no recordings at {}", root.display());
        return;
    };
    let mut count = 0;
    for run in runs.map(|run| run.unwrap().path()) {
        let name = run.file_name().unwrap().to_string_lossy().into_owned();
        if !(name.starts_with("enc") || name == "replay" || name == "live-repair") {
            continue;
        }
        let mut files: Vec<PathBuf> = std::fs::read_dir(&run)
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|file| file.extension().is_some_and(|end| end == "up"))
            // The connections of the repair servers speak HTTP.
            .filter(|file| !file.to_string_lossy().contains("-ds22"))
            .collect();
        files.sort();
        for file in files {
            // Both directions together, so that a read is compared with the write it saw.
            let both = [file.clone(), file.with_extension("down")];
            let all: Vec<Message> = both
                .iter()
                .flat_map(|file| messages(&std::fs::read(file).unwrap()))
                .collect();
            count += open_all(&all);
        }
    }
    println!("{count} recorded blocks opened");
    assert!(count > 100, "the recordings hold more blocks than {count}");
}
