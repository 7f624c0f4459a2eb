//! What the tests of the store share: small regions, blocks that tell who wrote them, and a model of what a region
//! may hold.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use crucible_downstairs::disk::Disk;
use crucible_downstairs::store::{Exported, Mode, Options, Overwrite, Region, StoreError};
use crucible_protocol::context::{hash, integrity_hash};
use crucible_protocol::{
    BlockContext, BlockIndex, CrucibleError, EncryptionContext, Geometry, ReadBlockContext,
    RegionDefinition,
};
use uuid::Uuid;

/// The sizes of a region under test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) block_size: u64,
    pub(crate) blocks: u64,
    pub(crate) extents: u32,
    pub(crate) encrypted: bool,
}

pub(crate) const SMALL: Shape = Shape {
    block_size: 512,
    blocks: 8,
    extents: 4,
    encrypted: false,
};

impl Shape {
    pub(crate) fn definition(&self) -> RegionDefinition {
        let geometry = Geometry::new(self.block_size, self.blocks, self.extents).unwrap();
        RegionDefinition::new(geometry, Uuid::from_u128(7), self.encrypted)
    }

    pub(crate) fn all(&self) -> u64 {
        self.blocks * u64::from(self.extents)
    }
}

pub(crate) fn options() -> Options {
    Options {
        // Small, so that writes go to their place as soon as they may.
        direct_bytes: 1 << 10,
        direct_after: 1,
        background: false,
        ..Options::default()
    }
}

pub(crate) fn create(disk: &Arc<dyn Disk>, shape: Shape) {
    Region::create(disk, &shape.definition(), &mut |_, _| {}).unwrap();
}

pub(crate) fn open(disk: &Arc<dyn Disk>) -> Region {
    Region::open(Arc::clone(disk), Mode::ReadWrite, options()).unwrap()
}

pub(crate) fn try_open(disk: &Arc<dyn Disk>, mode: Mode) -> Result<Region, StoreError> {
    Region::open(Arc::clone(disk), mode, options())
}

/// The content of a block in its `version`; different in every sector, so that a torn block is none.
pub(crate) fn block(shape: Shape, index: u64, version: u64) -> Vec<u8> {
    let mut data = vec![0; shape.block_size as usize];
    for (at, part) in data.chunks_mut(8).enumerate() {
        part.copy_from_slice(&word(index, version, at as u64)[..part.len()]);
    }
    data
}

fn word(index: u64, version: u64, at: u64) -> [u8; 8] {
    Draw(index << 40 ^ version << 20 ^ at).next().to_le_bytes()
}

pub(crate) fn context(shape: Shape, index: u64, version: u64, data: &[u8]) -> BlockContext {
    if !shape.encrypted {
        return BlockContext::plain(data);
    }
    let seed = hash(&[index.to_le_bytes(), version.to_le_bytes()].concat()).to_le_bytes();
    let mut encryption = EncryptionContext {
        nonce: [seed[0]; 12],
        tag: [seed[1]; 16],
    };
    encryption.nonce[..8].copy_from_slice(&seed);
    BlockContext {
        hash: integrity_hash(Some(&encryption), data),
        encryption: Some(encryption),
    }
}

/// `count` blocks from `start` on, all in one version.
pub(crate) fn blocks(
    shape: Shape,
    start: u64,
    count: u64,
    version: u64,
) -> (Vec<BlockContext>, Vec<u8>) {
    let mut contexts = Vec::new();
    let mut data = Vec::new();
    for index in start..start + count {
        let block = block(shape, index, version);
        contexts.push(context(shape, index, version, &block));
        data.extend(block);
    }
    (contexts, data)
}

pub(crate) fn write(
    region: &Region,
    shape: Shape,
    start: u64,
    count: u64,
    version: u64,
) -> Result<(), CrucibleError> {
    let (contexts, data) = blocks(shape, start, count, version);
    region.write(BlockIndex(start), &contexts, &data, Overwrite::All)
}

/// One block as a read answers it.
pub(crate) fn read(
    region: &Region,
    index: u64,
) -> Result<(ReadBlockContext, Vec<u8>), CrucibleError> {
    let (mut data, mut contexts) = (BytesMut::new(), Vec::new());
    region.read(BlockIndex(index), 1, &mut data, &mut contexts)?;
    assert_eq!(contexts.len(), 1);
    Ok((contexts[0], data.to_vec()))
}

/// Takes what a region gives out.
#[expect(clippy::unnecessary_wraps, reason = "what takes an export may fail")]
pub(crate) fn append(all: &mut Vec<u8>, piece: Exported<'_>) -> std::io::Result<()> {
    match piece {
        Exported::Data(data) => all.extend_from_slice(data),
        Exported::Zeros(count) => all.resize(all.len() + count as usize, 0),
    }
    Ok(())
}

/// Which version of a block this is; 0 for never written. Panics on anything that nobody wrote.
pub(crate) fn version_of(
    shape: Shape,
    index: u64,
    read: &(ReadBlockContext, Vec<u8>),
    newest: u64,
) -> u64 {
    let (context_read, data) = read;
    if *context_read == ReadBlockContext::Empty {
        assert!(
            data.iter().all(|byte| *byte == 0),
            "block {index}: never written, but not zero"
        );
        return 0;
    }
    for version in 1..=newest {
        if data[..8] != word(index, version, 0) {
            continue;
        }
        let expected = block(shape, index, version);
        if expected == *data {
            let context = context(shape, index, version, &expected);
            assert_eq!(
                ReadBlockContext::from(context),
                *context_read,
                "block {index}: version {version} with the context of another"
            );
            return version;
        }
    }
    panic!("block {index}: {context_read:?} with data that nobody wrote");
}

/// What a region may hold after a crash: for each block its version as of the last flush, and all since.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) flushed: BTreeMap<u64, u64>,
    pub(crate) since: BTreeMap<u64, Vec<u64>>,
    pub(crate) newest: u64,
}

impl Model {
    pub(crate) fn write(&mut self, start: u64, count: u64, version: u64) {
        self.newest = self.newest.max(version);
        for index in start..start + count {
            self.since.entry(index).or_default().push(version);
        }
    }

    pub(crate) fn flush(&mut self, through: impl Fn(u64) -> bool) {
        let since = std::mem::take(&mut self.since);
        for (index, versions) in since {
            if through(index) {
                self.flushed.insert(index, *versions.last().unwrap());
            } else {
                self.since.insert(index, versions);
            }
        }
    }

    /// The newest version of a block.
    pub(crate) fn now(&self, index: u64) -> u64 {
        let since = self.since.get(&index).and_then(|versions| versions.last());
        *since.or_else(|| self.flushed.get(&index)).unwrap_or(&0)
    }

    pub(crate) fn may_be(&self, index: u64, version: u64) -> bool {
        self.flushed.get(&index).copied().unwrap_or(0) == version
            || self
                .since
                .get(&index)
                .is_some_and(|versions| versions.contains(&version))
    }
}

/// A generator whose draws depend on the seed alone (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// A directory that goes away with the test.
#[derive(Debug)]
pub(crate) struct Scratch(pub(crate) std::path::PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("trivet-store-{}", Uuid::new_v4()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
