//! Blocks of one extent that have been written and wait in memory for the next commit.

use std::collections::HashMap;

use crucible_protocol::layout::StoredContext;

/// Data is kept in pieces of this size, so that it never moves and the allocator finds the same sizes again.
const PIECE_BYTES: usize = 256 << 10;

/// The last version of each block that was written since the last commit.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Block within the extent, to its place in the other two.
    index: HashMap<u32, u32>,
    contexts: Vec<StoredContext>,
    /// One block after the other; only the last piece is not full.
    pieces: Vec<Vec<u8>>,
    bytes: usize,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Bytes of data.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn contains(&self, block: u32) -> bool {
        self.index.contains_key(&block)
    }

    /// A block and its context.
    pub(super) fn get(&self, block: u32, block_size: usize) -> Option<(&StoredContext, &[u8])> {
        let entry = *self.index.get(&block)? as usize;
        Some((
            self.contexts.get(entry)?,
            self.stretch(entry, 1, block_size)?,
        ))
    }

    /// Where a block is among those in memory, and its data.
    pub(super) fn place(&self, block: u32, block_size: usize) -> Option<(usize, &[u8])> {
        let entry = *self.index.get(&block)? as usize;
        Some((entry, self.stretch(entry, 1, block_size)?))
    }

    /// The data of so many blocks, if they lie behind each other in memory.
    pub(super) fn stretch(&self, entry: usize, count: usize, block_size: usize) -> Option<&[u8]> {
        let each = blocks_of_piece(block_size);
        let begin = entry % each * block_size;
        self.pieces
            .get(entry / each)?
            .get(begin..begin + count * block_size)
    }

    /// Takes a block in, in the place of an earlier version. Answers the bytes by which this grew.
    pub(super) fn put(&mut self, block: u32, stored: StoredContext, data: &[u8]) -> usize {
        let next = self.contexts.len() as u32;
        let entry = *self.index.entry(block).or_insert(next);
        if entry == next {
            self.contexts.push(stored);
            let each = blocks_of_piece(data.len());
            if (entry as usize).is_multiple_of(each) && entry as usize / each == self.pieces.len() {
                // Who has filled one fills the next one, too; a small one grows.
                let room = if entry == 0 { 0 } else { each * data.len() };
                self.pieces.push(Vec::with_capacity(room));
            }
            if let Some(piece) = self.pieces.get_mut(entry as usize / each) {
                piece.extend_from_slice(data);
            }
            self.bytes += data.len();
            return data.len();
        }
        let each = blocks_of_piece(data.len());
        let begin = entry as usize % each * data.len();
        if let (Some(context), Some(target)) = (
            self.contexts.get_mut(entry as usize),
            self.pieces
                .get_mut(entry as usize / each)
                .and_then(|piece| piece.get_mut(begin..begin + data.len())),
        ) {
            *context = stored;
            target.copy_from_slice(data);
        }
        0
    }

    /// All blocks, in ascending order.
    pub(super) fn blocks(&self) -> Vec<u32> {
        let mut blocks: Vec<u32> = self.index.keys().copied().collect();
        blocks.sort_unstable();
        blocks
    }

    /// Takes in what `older` has and this has not.
    pub(super) fn absorb(&mut self, older: &Self, block_size: usize) {
        for block in older.blocks() {
            if self.contains(block) {
                continue;
            }
            if let Some((stored, data)) = older.get(block, block_size) {
                self.put(block, *stored, data);
            }
        }
    }

    /// Forgets all blocks, and keeps the buffers unless they are large.
    pub(super) fn clear(&mut self) {
        if self.pieces.len() > 1 {
            *self = Self::default();
            return;
        }
        self.index.clear();
        self.contexts.clear();
        self.pieces.iter_mut().for_each(Vec::clear);
        self.bytes = 0;
    }
}

/// Blocks of a full piece.
fn blocks_of_piece(block_size: usize) -> usize {
    (PIECE_BYTES / block_size.max(1)).max(1)
}
