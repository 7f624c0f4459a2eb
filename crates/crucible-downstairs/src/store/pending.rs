//! Blocks of one extent that have been written and wait in memory for the next commit.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crucible_protocol::layout::StoredContext;

/// Data is kept in pieces of this size, so that it never moves; they are used again by whoever needs one next.
const PIECE_BYTES: usize = 64 << 10;
/// The first piece of an extent is its own and short: there may be many extents with few blocks each.
const FIRST_BYTES: usize = 16 << 10;
/// Entries for which an extent keeps room.
const ENTRIES_KEPT: usize = 256;
/// Bytes of pieces that are kept for those who need one next.
const KEPT_BYTES: usize = 8 << 20;

/// Pieces that nobody uses.
#[derive(Debug, Default)]
pub(super) struct Pieces(Mutex<Vec<Vec<u8>>>);

impl Pieces {
    fn take(&self, bytes: usize) -> Vec<u8> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut piece = kept.unwrap_or_default();
        piece.reserve_exact(bytes);
        piece
    }

    fn give_back(&self, pieces: impl Iterator<Item = Vec<u8>>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for mut piece in pieces {
            if kept.len() < KEPT_BYTES / PIECE_BYTES && piece.capacity() <= PIECE_BYTES {
                piece.clear();
                kept.push(piece);
            }
        }
    }
}

/// The last version of each block that was written since the last commit.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Block within the extent, to its place in the other two.
    index: HashMap<u32, u32>,
    contexts: Vec<StoredContext>,
    /// One block after the other; only the last piece is not full, and the first is shorter.
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
        let (piece, begin) = place(entry, block_size);
        self.pieces
            .get(piece)?
            .get(begin..begin + count * block_size)
    }

    /// Takes a block in, in the place of an earlier version. Answers the bytes by which this grew.
    pub(super) fn put(
        &mut self,
        block: u32,
        stored: StoredContext,
        data: &[u8],
        pool: &Pieces,
    ) -> usize {
        let next = self.contexts.len() as u32;
        let entry = *self.index.entry(block).or_insert(next);
        let (piece, begin) = place(entry as usize, data.len());
        if entry == next {
            self.contexts.push(stored);
            if piece == self.pieces.len() {
                self.pieces.push(match piece {
                    0 => Vec::new(),
                    _ => pool.take(PIECE_BYTES.max(data.len())),
                });
            }
            if let Some(piece) = self.pieces.get_mut(piece) {
                piece.extend_from_slice(data);
            }
            self.bytes += data.len();
            return data.len();
        }
        if let (Some(context), Some(target)) = (
            self.contexts.get_mut(entry as usize),
            self.pieces
                .get_mut(piece)
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
    pub(super) fn absorb(&mut self, older: &Self, block_size: usize, pool: &Pieces) {
        for block in older.blocks() {
            if self.contains(block) {
                continue;
            }
            if let Some((stored, data)) = older.get(block, block_size) {
                self.put(block, *stored, data, pool);
            }
        }
    }

    /// Forgets all blocks, and keeps what it would need again for a few.
    pub(super) fn clear(&mut self, pool: &Pieces) {
        pool.give_back(self.pieces.drain(1.min(self.pieces.len())..));
        if let Some(first) = self.pieces.first_mut() {
            first.clear();
        }
        self.index.clear();
        self.contexts.clear();
        self.index.shrink_to(ENTRIES_KEPT);
        self.contexts.shrink_to(ENTRIES_KEPT);
        self.bytes = 0;
    }
}

/// Which piece an entry is in, and where it begins there.
fn place(entry: usize, block_size: usize) -> (usize, usize) {
    let blocks_of = |bytes: usize| (bytes / block_size.max(1)).max(1);
    let (first, each) = (blocks_of(FIRST_BYTES), blocks_of(PIECE_BYTES));
    match entry.checked_sub(first) {
        None => (0, entry * block_size),
        Some(later) => (1 + later / each, later % each * block_size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crucible_protocol::BlockContext;

    fn data(block: u32, length: usize) -> Vec<u8> {
        (block..).map(|byte| byte as u8).take(length).collect()
    }

    #[test]
    fn every_block_is_found_again_whatever_its_size_and_pieces_are_used_again() {
        let pool = Pieces::default();
        for length in [100_000, 512, 16384, 4096] {
            let mut pending = Pending::default();
            for round in 0..3 {
                let blocks = [300, 3, 60][round];
                for version in 0..2 {
                    for block in (0..blocks).rev() {
                        let data = data(block + version, length);
                        let stored = StoredContext {
                            context: BlockContext::plain(&data),
                            on_disk_hash: u64::from(block),
                            flush_id: 0,
                        };
                        let grown = pending.put(block, stored, &data, &pool);
                        assert_eq!(grown, if version == 0 { length } else { 0 });
                    }
                }
                assert_eq!(pending.bytes(), blocks as usize * length);
                for block in 0..blocks {
                    let (stored, found) = pending.get(block, length).unwrap();
                    assert_eq!(stored.on_disk_hash, u64::from(block));
                    assert_eq!(found, data(block + 1, length));
                }
                pending.clear(&pool);
                assert!(pending.is_empty() && pending.pieces.len() <= 1);
            }
        }
        let kept = pool.0.lock().unwrap();
        assert!(!kept.is_empty());
        assert!(kept.iter().map(Vec::capacity).sum::<usize>() <= KEPT_BYTES);
    }
}
