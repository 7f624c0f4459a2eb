//! The cache of lowered blocks, by guest physical address and mode.
//!
//! A switch of address space flushes nothing here. A write to a page that holds blocks drops that
//! page's blocks; the arena of operations is only ever emptied as a whole, between two blocks, so a
//! block that runs stays where it is.

use std::collections::HashMap;

use crate::op::Op;

/// Operations a CPU keeps before it starts over: 6 MiB.
const OPS_MAX: usize = 192 * 1024;
/// Blocks a CPU keeps before it starts over: about 3 MiB.
const BLOCKS_MAX: usize = 48 * 1024;
const FRONT_SIZE: usize = 32 * 1024;
/// A physical address that no block has.
const DROPPED: u64 = u64::MAX;

/// Names a block in the cache until the next flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockId(u32);

/// Where control went last time a block was left, and under which code key that was true.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) rip: u64,
    pub(crate) key: u64,
    pub(crate) block: BlockId,
}

impl Link {
    const NONE: Self = Self {
        rip: 0,
        key: 0,
        block: BlockId(0),
    };
}

/// A run of lowered instructions without a jump in the middle, inside one page (a single instruction
/// that crosses into the next page stands alone).
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// Guest physical address of the first byte.
    physical: u64,
    /// Mode bits that the lowering depended on.
    mode: u8,
    /// First operation in the arena.
    first: u32,
    /// Number of operations.
    count: u32,
    /// Number of instructions: operations may stand for two.
    pub(crate) instructions: u32,
    /// The last two ways out.
    pub(crate) links: [Link; 2],
}

/// One CPU's blocks.
#[derive(Debug)]
pub(crate) struct Cache {
    ops: Vec<Op>,
    blocks: Vec<Block>,
    /// Direct-mapped, by address and mode: block number plus one.
    front: Box<[u32]>,
    /// All blocks of a physical page.
    pages: HashMap<u64, Vec<u32>>,
    /// How often the cache was emptied because it was full.
    pub(crate) flushes: u64,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            // All of it at once: the system gives pages only when they are used, while growing by copies
            // would leave as much behind in the heap again.
            ops: Vec::with_capacity(OPS_MAX),
            blocks: Vec::with_capacity(BLOCKS_MAX),
            front: vec![0; FRONT_SIZE].into_boxed_slice(),
            pages: HashMap::new(),
            flushes: 0,
        }
    }

    /// The block at `physical` lowered for `mode`.
    #[inline]
    pub(crate) fn find(&mut self, physical: u64, mode: u8) -> Option<BlockId> {
        let slot = front_slot(physical, mode);
        let number = self.front[slot];
        if number != 0 {
            let block = &self.blocks[number as usize - 1];
            if block.physical == physical && block.mode == mode {
                return Some(BlockId(number - 1));
            }
        }
        let list = self.pages.get(&(physical & !0xfff))?;
        let number = *list.iter().find(|&&number| {
            let block = &self.blocks[number as usize];
            block.physical == physical && block.mode == mode
        })?;
        self.front[slot] = number + 1;
        Some(BlockId(number))
    }

    /// Adds a block. `second_page` is the other page of an instruction that crosses.
    pub(crate) fn insert(
        &mut self,
        physical: u64,
        mode: u8,
        (ops, instructions): (&[Op], usize),
        second_page: Option<u64>,
    ) -> BlockId {
        if self.ops.len() + ops.len() > OPS_MAX || self.blocks.len() >= BLOCKS_MAX {
            self.clear();
            self.flushes += 1;
        }
        let number = self.blocks.len() as u32;
        self.blocks.push(Block {
            physical,
            mode,
            first: self.ops.len() as u32,
            count: ops.len() as u32,
            instructions: instructions as u32,
            links: [Link::NONE; 2],
        });
        self.ops.extend_from_slice(ops);
        self.pages
            .entry(physical & !0xfff)
            .or_default()
            .push(number);
        if let Some(page) = second_page {
            self.pages.entry(page).or_default().push(number);
        }
        self.front[front_slot(physical, mode)] = number + 1;
        BlockId(number)
    }

    /// Drops the blocks of a physical page. Returns whether there were any. The caller makes all links
    /// stale by moving the code key on.
    pub(crate) fn drop_page(&mut self, page: u64) -> bool {
        let Some(list) = self.pages.remove(&page) else {
            return false;
        };
        for number in list {
            self.blocks[number as usize].physical = DROPPED;
        }
        true
    }

    /// Drops everything. The caller makes all links stale by moving the code key on.
    pub(crate) fn clear(&mut self) {
        self.ops.clear();
        self.blocks.clear();
        self.front.fill(0);
        self.pages.clear();
    }

    /// The block.
    #[inline(always)]
    pub(crate) fn block(&self, id: BlockId) -> &Block {
        &self.blocks[id.0 as usize]
    }

    /// The block, to change its links.
    #[inline(always)]
    pub(crate) fn block_mut(&mut self, id: BlockId) -> &mut Block {
        &mut self.blocks[id.0 as usize]
    }

    /// The operations of a block.
    #[inline(always)]
    pub(crate) fn ops(&self, id: BlockId) -> &[Op] {
        let block = &self.blocks[id.0 as usize];
        &self.ops[block.first as usize..(block.first + block.count) as usize]
    }

    /// Physical page of a block that has not been dropped.
    #[inline(always)]
    pub(crate) fn page(&self, id: BlockId) -> u64 {
        self.blocks[id.0 as usize].physical & !0xfff
    }

    /// Whether a block can be found again, and so be linked to.
    pub(crate) fn is_live(&self, id: BlockId) -> bool {
        self.blocks[id.0 as usize].physical != DROPPED
    }
}

fn front_slot(physical: u64, mode: u8) -> usize {
    let hash = (physical ^ u64::from(mode) << 60).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 40) as usize & (FRONT_SIZE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Flow;

    fn nop() -> Op {
        Op {
            length: 1,
            next: 1,
            ..Op::new(|_, _| Flow::Next)
        }
    }

    #[test]
    fn blocks_are_found_by_address_and_mode() {
        let mut cache = Cache::new();
        let id = cache.insert(0x1000, 2, (&[nop(), nop()], 2), None);
        assert_eq!(cache.find(0x1000, 2), Some(id));
        assert_eq!(cache.find(0x1000, 1), None);
        assert_eq!(cache.find(0x1001, 2), None);
        assert_eq!(cache.ops(id).len(), 2);
    }

    #[test]
    fn a_dropped_page_forgets_blocks_that_cross_into_it() {
        let mut cache = Cache::new();
        cache.insert(0x1fff, 0, (&[nop()], 1), Some(0x7000));
        cache.insert(0x7010, 0, (&[nop()], 1), None);
        assert!(cache.drop_page(0x7000));
        assert_eq!(cache.find(0x1fff, 0), None);
        assert_eq!(cache.find(0x7010, 0), None);
        assert!(!cache.drop_page(0x7000));
    }

    #[test]
    fn a_full_cache_starts_over() {
        let mut cache = Cache::new();
        for index in 0..BLOCKS_MAX as u64 + 1 {
            cache.insert(index * 16, 0, (&[nop()], 1), None);
        }
        assert_eq!(cache.flushes, 1);
        assert_eq!((cache.blocks.len(), cache.ops.len()), (1, 1));
    }
}
