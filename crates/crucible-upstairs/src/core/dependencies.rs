//! Which jobs a job must wait for. Spec: I/O semantics 3.1 and 3.2.
//!
//! A region server runs any job whose dependencies are complete, and forgets everything older than a flush or
//! barrier (here: a fence) when that is done. So a list must name enough, and nothing that is forgotten.
//!
//! There is one map for each connection, and it knows the jobs that were sent there and no others. That is what
//! makes the rest simple: a read that only one of three was asked, a job that was skipped, an id from before a
//! live repair can never slip into the list of a peer that has not heard of it.

use std::collections::BTreeMap;

use crucible_protocol::JobId;

/// What was sent over one connection since the last fence, by blocks.
#[derive(Debug, Default)]
pub(super) struct DependencyMap {
    /// The latest fence: what every block depends on that nothing touched since.
    fence: Option<JobId>,
    /// Touched since, by first block; disjoint.
    touched: BTreeMap<u64, Touched>,
}

/// Blocks that the same jobs touched.
#[derive(Clone, Debug)]
struct Touched {
    /// One past the last block.
    end: u64,
    /// The latest job that everything after it waits for; the fence if none.
    blocking: Option<JobId>,
    /// The reads since.
    reads: Vec<JobId>,
}

impl DependencyMap {
    /// A connection on which `fence` is known to be complete and nothing else was sent.
    pub(super) fn after(fence: Option<JobId>) -> Self {
        Self {
            fence,
            touched: BTreeMap::new(),
        }
    }

    /// Takes in a read of `start..end`, and tells what it waits for.
    pub(super) fn read(&mut self, id: JobId, start: u64, end: u64) -> Vec<JobId> {
        if start >= end {
            return Vec::new();
        }
        // Mostly the blocks were touched as they are now, or not at all: then one look is enough.
        match self.touched.range_mut(..end).next_back() {
            Some((&from, touched)) if from == start && touched.end == end => {
                touched.reads.push(id);
                return touched.blocking.or(self.fence).into_iter().collect();
            }
            Some((_, touched)) if touched.end > start => {}
            _ => {
                let (blocking, reads) = (None, vec![id]);
                self.enter(start, end, blocking, reads);
                return self.fence.into_iter().collect();
            }
        }
        self.split_at(start);
        self.split_at(end);
        let mut waits = Vec::new();
        let mut gaps = Vec::new();
        let mut next = start;
        for (&from, touched) in self.touched.range_mut(start..end) {
            if next < from {
                gaps.push((next, from));
            }
            next = touched.end;
            waits.extend(touched.blocking.or(self.fence));
            touched.reads.push(id);
        }
        if next < end {
            gaps.push((next, end));
        }
        if !gaps.is_empty() {
            waits.extend(self.fence);
        }
        for (from, end) in gaps {
            let (blocking, reads) = (None, vec![id]);
            self.enter(from, end, blocking, reads);
        }
        sorted(waits)
    }

    /// Takes in a write (or anything else that changes blocks) of `start..end`, and tells what it waits for.
    pub(super) fn write(&mut self, id: JobId, start: u64, end: u64) -> Vec<JobId> {
        if start >= end {
            return Vec::new();
        }
        let (blocking, reads) = (Some(id), Vec::new());
        // As for reads: one look.
        match self.touched.range_mut(..end).next_back() {
            Some((&from, touched)) if from == start && touched.end == end => {
                let mut waits = Vec::new();
                touched.waits(self.fence, &mut waits);
                (touched.blocking, touched.reads) = (blocking, reads);
                return sorted(waits);
            }
            Some((_, touched)) if touched.end > start => {}
            _ => {
                self.enter(start, end, blocking, reads);
                return self.fence.into_iter().collect();
            }
        }
        self.split_at(start);
        self.split_at(end);
        let mut waits = Vec::new();
        let mut next = start;
        let mut gap = false;
        while let Some((&from, touched)) = self.touched.range(start..end).next() {
            gap |= next < from;
            next = touched.end;
            touched.waits(self.fence, &mut waits);
            self.touched.remove(&from);
        }
        if gap || next < end {
            waits.extend(self.fence);
        }
        self.enter(start, end, blocking, reads);
        sorted(waits)
    }

    /// Takes in a flush or barrier of a region of `blocks` blocks, and tells what it waits for.
    pub(super) fn fence(&mut self, id: JobId, blocks: u64) -> Vec<JobId> {
        let mut waits = Vec::new();
        let mut covered = 0;
        for (from, touched) in &self.touched {
            covered += touched.end - from;
            touched.waits(self.fence, &mut waits);
        }
        if covered < blocks {
            waits.extend(self.fence);
        }
        self.touched.clear();
        self.fence = Some(id);
        sorted(waits)
    }

    /// The fence `id` is complete everywhere: nobody needs to wait for it any more.
    pub(super) fn retire(&mut self, id: JobId) {
        if self.fence == Some(id) {
            self.fence = None;
        }
    }

    fn enter(&mut self, start: u64, end: u64, blocking: Option<JobId>, reads: Vec<JobId>) {
        let touched = Touched {
            end,
            blocking,
            reads,
        };
        self.touched.insert(start, touched);
    }

    /// Makes `block` the border of two entries if it lies inside of one.
    fn split_at(&mut self, block: u64) {
        let Some((_, touched)) = self.touched.range_mut(..block).next_back() else {
            return;
        };
        if touched.end > block {
            let right = touched.clone();
            touched.end = block;
            self.touched.insert(block, right);
        }
    }
}

impl Touched {
    /// What changes of these blocks wait for: the reads, which wait for the rest; else the rest itself.
    fn waits(&self, fence: Option<JobId>, waits: &mut Vec<JobId>) {
        if self.reads.is_empty() {
            waits.extend(self.blocking.or(fence));
        } else {
            waits.extend_from_slice(&self.reads);
        }
    }
}

/// In order, each once.
fn sorted(mut waits: Vec<JobId>) -> Vec<JobId> {
    waits.sort_unstable();
    waits.dedup();
    waits
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const BLOCKS: u64 = 24;

    fn ids(list: &[JobId]) -> Vec<u64> {
        list.iter().map(|id| id.0).collect()
    }

    #[test]
    fn a_read_waits_for_the_write_and_the_next_write_for_the_read() {
        let mut map = DependencyMap::default();
        assert!(map.write(JobId(1), 0, 4).is_empty());
        assert_eq!(ids(&map.read(JobId(2), 2, 6)), [1]);
        assert_eq!(ids(&map.read(JobId(3), 3, 4)), [1]);
        assert_eq!(ids(&map.write(JobId(4), 3, 4)), [2, 3]);
        assert_eq!(ids(&map.write(JobId(5), 0, 8)), [1, 2, 4]);
    }

    #[test]
    fn a_fence_hides_all_that_is_older() {
        let mut map = DependencyMap::default();
        map.write(JobId(1), 0, 4);
        map.read(JobId(2), 8, 9);
        assert_eq!(ids(&map.fence(JobId(3), BLOCKS)), [1, 2]);
        assert_eq!(ids(&map.write(JobId(4), 0, 1)), [3]);
        assert_eq!(ids(&map.fence(JobId(5), BLOCKS)), [3, 4]);
        assert_eq!(ids(&map.read(JobId(6), 0, 1)), [5]);
        map.retire(JobId(3));
        assert_eq!(ids(&map.read(JobId(7), 0, 1)), [5], "another fence");
        map.retire(JobId(5));
        assert!(map.read(JobId(8), 2, 3).is_empty());
    }

    #[test]
    fn a_fence_that_nothing_reaches_past_is_not_named() {
        let mut map = DependencyMap::after(Some(JobId(9)));
        map.write(JobId(10), 0, BLOCKS);
        assert_eq!(ids(&map.fence(JobId(11), BLOCKS)), [10]);
    }

    #[test]
    fn no_blocks_wait_for_nothing() {
        let mut map = DependencyMap::after(Some(JobId(9)));
        assert!(map.write(JobId(10), 5, 5).is_empty());
        assert!(map.read(JobId(11), 5, 5).is_empty());
    }

    /// One job, and what the specification says of it, block by block.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Read(u64, u64),
        Write(u64, u64),
        Fence,
        Retire,
    }

    #[derive(Clone, Default)]
    struct Block {
        blocking: Option<JobId>,
        reads: BTreeSet<JobId>,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let range = || (0..BLOCKS).prop_flat_map(|start| (Just(start), start + 1..=BLOCKS));
        prop::collection::vec(
            prop_oneof![
                4 => range().prop_map(|(start, end)| Step::Read(start, end)),
                4 => range().prop_map(|(start, end)| Step::Write(start, end)),
                1 => Just(Step::Fence),
                1 => Just(Step::Retire),
            ],
            1..60,
        )
    }

    proptest! {
        #[test]
        fn lists_are_those_of_a_map_of_single_blocks(steps in steps()) {
            let mut map = DependencyMap::default();
            let mut blocks = vec![Block::default(); BLOCKS as usize];
            let mut fence = None;
            for (place, step) in steps.into_iter().enumerate() {
                let id = JobId(1000 + place as u64);
                let (range, found) = match step {
                    Step::Read(start, end) => (start..end, map.read(id, start, end)),
                    Step::Write(start, end) => (start..end, map.write(id, start, end)),
                    Step::Fence => (0..BLOCKS, map.fence(id, BLOCKS)),
                    Step::Retire => {
                        if let Some(fence) = fence.take() {
                            map.retire(fence);
                            for block in &mut blocks {
                                block.blocking = block.blocking.filter(|&id| id != fence);
                            }
                        }
                        continue;
                    }
                };
                let mut expected = BTreeSet::new();
                for block in range {
                    let block = &mut blocks[block as usize];
                    if let Step::Read(..) = step {
                        expected.extend(block.blocking);
                        block.reads.insert(id);
                    } else {
                        if block.reads.is_empty() {
                            expected.extend(block.blocking);
                        }
                        expected.append(&mut block.reads);
                        block.blocking = Some(id);
                    }
                }
                prop_assert_eq!(&found, &expected.into_iter().collect::<Vec<_>>());
                if let Step::Fence = step {
                    fence = Some(id);
                }
                // Nothing older than the fence is ever named.
                prop_assert!(found.iter().all(|&named| Some(named) >= fence || fence == Some(id)));
            }
        }
    }
}
