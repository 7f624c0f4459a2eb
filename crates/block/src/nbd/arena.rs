//! Where the data of requests in flight live: one mapping for each connection, handed out in runs of
//! whole pages, lowest first, so that a quiet connection touches little of it.

use vm_types::{GuestAddress, GuestMemory, MemoryError};

/// Runs begin at multiples of it, which direct I/O needs.
const UNIT: u64 = 4096;

/// A run of bytes of an arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u64,
    /// A multiple of [`UNIT`].
    length: u64,
}

impl Run {
    /// As the disk sees it, `skip` bytes on.
    pub(super) const fn address(&self, skip: u64) -> GuestAddress {
        GuestAddress(self.start + skip)
    }
}

/// The free parts of a mapping.
#[derive(Debug)]
pub(super) struct Arena {
    /// In order of their place, no two adjacent.
    free: Vec<Run>,
}

impl Arena {
    /// The memory and its arena. Errors: the system cannot map that much.
    pub(super) fn new(length: u64) -> Result<(GuestMemory, Self), MemoryError> {
        let length = length.next_multiple_of(UNIT);
        let free = vec![Run { start: 0, length }];
        Ok((GuestMemory::flat(length)?, Self { free }))
    }

    /// The lowest run that has room for `length` bytes. `None`: wait until others are given back.
    pub(super) fn take(&mut self, length: u64) -> Option<Run> {
        let length = length.next_multiple_of(UNIT);
        if length == 0 {
            return Some(Run::default());
        }
        let index = self.free.iter().position(|run| run.length >= length)?;
        let run = self.free.get_mut(index)?;
        let start = run.start;
        run.start += length;
        run.length -= length;
        if run.length == 0 {
            self.free.remove(index);
        }
        Some(Run { start, length })
    }

    /// Gives back what [`Arena::take`] gave.
    pub(super) fn give(&mut self, run: Run) {
        if run.length == 0 {
            return;
        }
        let index = self.free.partition_point(|other| other.start < run.start);
        self.free.insert(index, run);
        self.join(index);
        if let Some(before) = index.checked_sub(1) {
            self.join(before);
        }
    }

    /// Makes one of the run at `index` and the next, if they touch.
    fn join(&mut self, index: usize) {
        if let [first, second, ..] = self.free.get_mut(index..).unwrap_or_default()
            && first.start + first.length == second.start
        {
            first.length += second.length;
            self.free.remove(index + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_lowest_run_is_used_again() {
        let (_, mut arena) = Arena::new(64 << 10).unwrap();
        let first = arena.take(4096).unwrap();
        let second = arena.take(1).unwrap();
        assert_eq!((first.start, second.start), (0, 4096));
        arena.give(first);
        assert_eq!(arena.take(4096).unwrap(), first);
    }

    #[test]
    fn a_full_arena_says_so_and_recovers() {
        let (_, mut arena) = Arena::new(8192).unwrap();
        let whole = arena.take(8192).unwrap();
        assert_eq!(arena.take(1), None);
        assert_eq!(arena.take(0), Some(Run::default()));
        arena.give(whole);
        arena.give(Run::default());
        assert_eq!(arena.take(8192), Some(whole));
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_all_comes_back(
            steps in prop::collection::vec((any::<bool>(), 0_u64..40_000, any::<prop::sample::Index>()), 0..200)
        ) {
            let (_, mut arena) = Arena::new(1 << 20).unwrap();
            let mut held: Vec<Run> = Vec::new();
            for (take, length, which) in steps {
                if take {
                    if let Some(run) = arena.take(length).filter(|run| run.length > 0) {
                        prop_assert!(run.length >= length && run.start + run.length <= 1 << 20);
                        let apart = held.iter().all(|other| {
                            run.start + run.length <= other.start
                                || other.start + other.length <= run.start
                        });
                        prop_assert!(apart);
                        held.push(run);
                    }
                } else if !held.is_empty() {
                    arena.give(held.swap_remove(which.index(held.len())));
                }
            }
            held.into_iter().for_each(|run| arena.give(run));
            prop_assert_eq!(arena.free, vec![Run { start: 0, length: 1 << 20 }]);
        }
    }
}
