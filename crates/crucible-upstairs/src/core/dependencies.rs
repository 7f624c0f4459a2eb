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
            let blocking = None;
            let reads = vec![id];
            self.touched.insert(
                from,
                Touched {
                    end,
                    blocking,
                    reads,
                },
            );
        }
        sorted(waits)
    }

    /// Takes in a write (or anything else that changes blocks) of `start..end`, and tells what it waits for.
    pub(super) fn write(&mut self, id: JobId, start: u64, end: u64) -> Vec<JobId> {
        if start >= end {
            return Vec::new();
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
        let blocking = Some(id);
        let reads = Vec::new();
        self.touched.insert(
            start,
            Touched {
                end,
                blocking,
                reads,
            },
        );
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
