//! Any volume of parts over any parent, under any operations, against blocks in a list.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a failure is the finding"
)]

use std::sync::Arc;

use bytes::BytesMut;
use crucible_protocol::BlockIndex;
use crucible_upstairs::core::Written;
use crucible_upstairs::store::Store;
use crucible_upstairs::volume::{Composite, Direct, MemoryLeaf, ScrubOptions, Volume, block_on};
use proptest::collection::vec;
use proptest::prelude::*;

const BLOCK: usize = 512;

#[derive(Clone, Debug)]
enum Step {
    Write { start: u64, count: u64, byte: u8 },
    WriteUnwritten { start: u64, count: u64, byte: u8 },
    Read { start: u64, count: u64 },
    Scrub,
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..30_u64, 1..12_u64);
    prop_oneof![
        4 => (range(), 1..250_u8).prop_map(|((start, count), byte)| Step::Write { start, count, byte }),
        2 => (range(), 1..250_u8)
            .prop_map(|((start, count), byte)| Step::WriteUnwritten { start, count, byte }),
        6 => range().prop_map(|(start, count)| Step::Read { start, count }),
        1 => Just(Step::Scrub),
    ]
}

fn memory(blocks: u64) -> Arc<dyn Store> {
    Arc::new(Direct(MemoryLeaf::new(512, blocks).unwrap()))
}

fn blocks(count: u64, byte: u8) -> BytesMut {
    BytesMut::from(&vec![byte; count as usize * BLOCK][..])
}

/// What each block is: of the volume itself, and of the parent below; `None` was never written.
struct Model {
    own: Vec<Option<u8>>,
    parent: Vec<Option<u8>>,
}

impl Model {
    fn at(&self, block: usize) -> Option<u8> {
        self.own[block].or_else(|| self.parent.get(block).copied().flatten())
    }
}

fn run(parts: &[u64], parent: &[Option<u8>], steps: &[Step]) {
    let below = memory(parent.len().max(1) as u64);
    let writer = Volume::over(below.clone(), Vec::new());
    for (at, byte) in parent.iter().enumerate() {
        if let Some(byte) = byte {
            let write = writer.write_blocking(BlockIndex(at as u64), blocks(1, *byte));
            write.unwrap();
        }
    }
    let below = (!parent.is_empty()).then_some(below);
    let stores = parts.iter().map(|blocks| memory(*blocks)).collect();
    let volume = Volume::composed(Composite::new(512, stores, below), Vec::new());
    let total: u64 = parts.iter().sum();
    let mut model = Model {
        own: vec![None; total as usize],
        parent: parent.to_vec(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    for step in steps {
        match *step {
            Step::Write { start, count, byte } => {
                let done = volume.write_blocking(BlockIndex(start), blocks(count, byte));
                assert_eq!(done.is_ok(), start + count <= total, "{step:?}");
                if done.is_ok() {
                    model.own[start as usize..(start + count) as usize].fill(Some(byte));
                }
            }
            Step::WriteUnwritten { start, count, byte } => {
                let done = volume.write_unwritten_blocking(BlockIndex(start), blocks(count, byte));
                assert_eq!(done.is_ok(), start + count <= total, "{step:?}");
                if done.is_ok() {
                    for block in &mut model.own[start as usize..(start + count) as usize] {
                        *block = block.or(Some(byte));
                    }
                }
            }
            Step::Read { start, count } => {
                let read = block_on(volume.read(BlockIndex(start), count));
                assert_eq!(read.is_ok(), start + count <= total, "{step:?}");
                let Ok(plain) = read else { continue };
                for (index, block) in plain.data.chunks(BLOCK).enumerate() {
                    let expected = model.at(start as usize + index);
                    assert!(block.iter().all(|byte| *byte == expected.unwrap_or(0)));
                    assert_eq!(plain.written.has(index), expected.is_some(), "{step:?}");
                }
                let all = (0..count as usize).all(|index| plain.written.has(index));
                assert_eq!(all, plain.written == Written::All);
            }
            Step::Scrub => {
                let scrub = volume.scrub(ScrubOptions::default(), |_| {});
                runtime.block_on(scrub).unwrap();
                for at in 0..model.own.len() {
                    model.own[at] = model.at(at);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn a_volume_of_parts_is_a_list_of_blocks(
        parts in vec(1..14_u64, 1..4),
        parent in vec(proptest::option::of(1..250_u8), 0..40),
        steps in vec(step(), 1..30),
    ) {
        run(&parts, &parent, &steps);
    }
}
