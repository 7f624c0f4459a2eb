//! Contexts of blocks as they are kept in memory, so that a read is one system call.

use std::ops::Range;

use crucible_protocol::layout::{SLOT_LEN, StoredContext};
use crucible_protocol::{EncryptionContext, ReadBlockContext};

/// Blocks whose contexts are loaded together.
pub(super) const CHUNK: u32 = 128;

/// What a read answers for a block, in 29 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum CachedContext {
    #[default]
    Empty,
    /// Empty, and the other slot has never held anything either.
    Untouched,
    Plain([u8; 8]),
    Sealed {
        nonce: [u8; 12],
        tag: [u8; 16],
    },
    /// The slot holds what no slot can hold.
    Bad,
}

/// The contexts of an extent that are in memory.
#[derive(Debug, Default)]
pub(super) struct ContextCache {
    chunks: Vec<Option<Box<[CachedContext]>>>,
    bytes: usize,
}

impl CachedContext {
    pub(super) fn decode(slot: &[u8; SLOT_LEN]) -> Self {
        StoredContext::decode(slot).map_or(Self::Bad, |stored| Self::new(stored.as_ref()))
    }

    pub(super) fn new(stored: Option<&StoredContext>) -> Self {
        match stored.map(|stored| stored.context) {
            None => Self::Empty,
            Some(context) => match context.encryption {
                None => Self::Plain(context.hash.to_le_bytes()),
                Some(EncryptionContext { nonce, tag }) => Self::Sealed { nonce, tag },
            },
        }
    }

    /// Whether the block was never written.
    pub(super) const fn is_empty(self) -> bool {
        matches!(self, Self::Empty | Self::Untouched)
    }

    /// `None` for a slot that cannot be read.
    pub(super) const fn answer(self) -> Option<ReadBlockContext> {
        Some(match self {
            Self::Empty | Self::Untouched => ReadBlockContext::Empty,
            Self::Plain(hash) => ReadBlockContext::Unencrypted(u64::from_le_bytes(hash)),
            Self::Sealed { nonce, tag } => {
                ReadBlockContext::Encrypted(EncryptionContext { nonce, tag })
            }
            Self::Bad => return None,
        })
    }
}

impl ContextCache {
    /// Bytes in memory.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first chunk that blocks `first..first + count` need and that is not there, as a range of blocks.
    pub(super) fn missing(&self, first: u32, count: u32, blocks: u32) -> Option<Range<u32>> {
        if count == 0 {
            return None;
        }
        let last = first
            .saturating_add(count - 1)
            .min(blocks.saturating_sub(1));
        (first / CHUNK..=last / CHUNK)
            .find(|chunk| !matches!(self.chunks.get(*chunk as usize), Some(Some(_))))
            .map(|chunk| chunk * CHUNK..((chunk + 1) * CHUNK).min(blocks))
    }

    /// Takes in the contexts of one chunk; `range` as [`ContextCache::missing`] gave it.
    pub(super) fn load(&mut self, range: &Range<u32>, contexts: Box<[CachedContext]>) {
        let chunk = (range.start / CHUNK) as usize;
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, || None);
        }
        self.bytes += size_of_val(&*contexts);
        if let Some(place) = self.chunks.get_mut(chunk) {
            *place = Some(contexts);
        }
    }

    /// What is known of a block.
    pub(super) fn get(&self, block: u32) -> Option<CachedContext> {
        let chunk = self.chunks.get((block / CHUNK) as usize)?.as_ref()?;
        chunk.get((block % CHUNK) as usize).copied()
    }

    /// Replaces what is known; nothing when the chunk is not there.
    pub(super) fn set(&mut self, block: u32, context: CachedContext) {
        if let Some(Some(chunk)) = self.chunks.get_mut((block / CHUNK) as usize)
            && let Some(place) = chunk.get_mut((block % CHUNK) as usize)
        {
            *place = context;
        }
    }

    /// Forgets everything; answers the bytes that this freed.
    pub(super) fn clear(&mut self) -> usize {
        self.chunks = Vec::new();
        std::mem::take(&mut self.bytes)
    }
}

const _: () = assert!(size_of::<CachedContext>() == 29);
