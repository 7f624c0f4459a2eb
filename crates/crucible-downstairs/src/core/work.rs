//! The queue of a connection's jobs: what waits for what, and what may run.
//!
//! Rules (spec: 3.2): a job runs when each id in its list is in the set of completed jobs. Ids may be named before
//! they arrive. Completing a flush or barrier forgets the ids before it, so that whoever names one of those later
//! waits for ever; that is the peer's mistake and costs the peer's own queue only.
//!
//! Jobs find out by counting: each waits for a number of ids and is entered under each of them, so that finishing a
//! job touches those that wait for it and no others. A dependency that was once met stays met.

use std::collections::{BTreeMap, HashMap};

use crucible_protocol::{CrucibleError, JobId};

use super::completed::CompletedJobs;

/// Jobs of one connection, with what the owner keeps about each.
#[derive(Debug)]
pub struct JobQueue<T> {
    jobs: HashMap<JobId, Entry<T>>,
    waiters: HashMap<JobId, Vec<JobId>>,
    completed: CompletedJobs,
    /// Jobs that changed nothing although they should have: whoever depends on one fails as well, so that no flush
    /// is answered with Ok after a write that was lost.
    failed: BTreeMap<JobId, CrucibleError>,
}

#[derive(Debug)]
struct Entry<T> {
    missing: usize,
    blame: Option<CrucibleError>,
    item: T,
}

/// What became of a job that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// Everything that it depends on is done.
    Ready,
    /// Something is not.
    Waiting,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Done; others may build on it.
    Done,
    /// Done, and everything before it can be forgotten: a flush or a barrier.
    DoneAndForget,
    /// Failed for good. Others may name it, and fail for this reason.
    Failed(CrucibleError),
}

/// A job id that is in the queue already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duplicate;

impl<T> JobQueue<T> {
    /// Nothing queued, and at most one job done: the last flush that the peer knows of.
    pub fn new(last_flush: Option<JobId>) -> Self {
        Self {
            jobs: HashMap::new(),
            waiters: HashMap::new(),
            completed: CompletedJobs::starting_with(last_flush),
            failed: BTreeMap::new(),
        }
    }

    /// Takes in a job. The queue keeps of `dependencies` only what is not yet done.
    pub fn add(&mut self, job: JobId, dependencies: &[JobId], item: T) -> Result<Added, Duplicate> {
        if self.jobs.contains_key(&job) {
            return Err(Duplicate);
        }
        let mut missing = 0;
        let mut blame = None;
        for dependency in dependencies {
            if self.completed.contains(*dependency) {
                continue;
            }
            if let Some(error) = self.failed.get(dependency) {
                blame.get_or_insert_with(|| error.clone());
                continue;
            }
            missing += 1;
            self.waiters.entry(*dependency).or_default().push(job);
        }
        self.jobs.insert(
            job,
            Entry {
                missing,
                blame,
                item,
            },
        );
        Ok(if missing == 0 {
            Added::Ready
        } else {
            Added::Waiting
        })
    }

    /// What the owner keeps about a job.
    pub fn get_mut(&mut self, job: JobId) -> Option<&mut T> {
        self.jobs.get_mut(&job).map(|entry| &mut entry.item)
    }

    /// Why a job must fail without being tried: something that it depends on did.
    pub fn blame(&self, job: JobId) -> Option<&CrucibleError> {
        self.jobs.get(&job)?.blame.as_ref()
    }

    /// A job has ended. Puts those that can run now at the end of `ready`, in the order in which they arrived
    /// at this dependency. `None` if there is no such job.
    pub fn finish(&mut self, job: JobId, ending: Ending, ready: &mut Vec<JobId>) -> Option<T> {
        let entry = self.jobs.remove(&job)?;
        let mut blame = None;
        match ending {
            Ending::Done => self.completed.insert(job),
            Ending::DoneAndForget => {
                self.completed.insert(job);
                self.completed.forget_before(job);
                self.failed = self.failed.split_off(&job);
            }
            Ending::Failed(error) => {
                self.failed.insert(job, error.clone());
                blame = Some(error);
            }
        }
        for waiter in self.waiters.remove(&job).unwrap_or_default() {
            let Some(waiting) = self.jobs.get_mut(&waiter) else {
                continue;
            };
            if let Some(error) = &blame {
                waiting.blame.get_or_insert_with(|| error.clone());
            }
            waiting.missing = waiting.missing.saturating_sub(1);
            if waiting.missing == 0 {
                ready.push(waiter);
            }
        }
        Some(entry.item)
    }

    /// How many jobs are in the queue, waiting or running.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether no job is in the queue.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// What is remembered of jobs that are gone, in entries. A peer that keeps to the rules keeps this small; one
    /// that never flushes and leaves a gap after every id does not.
    pub fn memory(&self) -> usize {
        self.completed.range_count() + self.failed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> JobId {
        JobId(number)
    }

    fn finish(queue: &mut JobQueue<()>, job: u64, ending: Ending) -> Vec<JobId> {
        let mut ready = Vec::new();
        queue.finish(id(job), ending, &mut ready);
        ready
    }

    #[test]
    fn a_job_without_dependencies_is_ready() {
        let mut queue = JobQueue::new(None);
        assert_eq!(queue.add(id(1000), &[], ()), Ok(Added::Ready));
    }

    #[test]
    fn a_chain_runs_link_by_link() {
        let mut queue = JobQueue::new(None);
        assert_eq!(queue.add(id(1), &[], ()), Ok(Added::Ready));
        assert_eq!(queue.add(id(2), &[id(1)], ()), Ok(Added::Waiting));
        assert_eq!(queue.add(id(3), &[id(2)], ()), Ok(Added::Waiting));
        assert_eq!(finish(&mut queue, 1, Ending::Done), [id(2)]);
        assert_eq!(finish(&mut queue, 2, Ending::Done), [id(3)]);
    }

    #[test]
    fn an_id_may_be_named_before_it_arrives() {
        let mut queue = JobQueue::new(None);
        assert_eq!(queue.add(id(13), &[id(12)], ()), Ok(Added::Waiting));
        assert_eq!(queue.add(id(12), &[], ()), Ok(Added::Ready));
        assert_eq!(finish(&mut queue, 12, Ending::Done), [id(13)]);
    }

    #[test]
    fn a_flush_forgets_what_came_before_it() {
        let mut queue = JobQueue::new(None);
        for job in [1000, 1001] {
            assert_eq!(queue.add(id(job), &[], ()), Ok(Added::Ready));
        }
        finish(&mut queue, 1000, Ending::Done);
        finish(&mut queue, 1001, Ending::DoneAndForget);
        assert_eq!(queue.add(id(1002), &[id(1001)], ()), Ok(Added::Ready));
        assert_eq!(queue.add(id(1003), &[id(1000)], ()), Ok(Added::Waiting));
    }

    #[test]
    fn a_job_done_early_survives_a_flush_it_did_not_wait_for() {
        let mut queue = JobQueue::new(None);
        assert_eq!(queue.add(id(100), &[], ()), Ok(Added::Ready));
        assert_eq!(queue.add(id(101), &[], ()), Ok(Added::Ready));
        finish(&mut queue, 101, Ending::Done);
        finish(&mut queue, 100, Ending::DoneAndForget);
        assert_eq!(queue.add(id(102), &[id(101)], ()), Ok(Added::Ready));
    }

    #[test]
    fn the_last_flush_of_a_replay_counts_as_done() {
        let mut queue = JobQueue::new(Some(id(1010)));
        assert_eq!(queue.add(id(1011), &[id(1010)], ()), Ok(Added::Ready));
    }

    #[test]
    fn a_failure_is_handed_on_to_whoever_depends_on_it() {
        let mut queue = JobQueue::new(None);
        assert_eq!(queue.add(id(1), &[], ()), Ok(Added::Ready));
        assert_eq!(queue.add(id(2), &[id(1)], ()), Ok(Added::Waiting));
        let ready = finish(&mut queue, 1, Ending::Failed(CrucibleError::HashMismatch));
        assert_eq!(ready, [id(2)]);
        assert_eq!(queue.blame(id(2)), Some(&CrucibleError::HashMismatch));
        assert_eq!(queue.add(id(3), &[id(1)], ()), Ok(Added::Ready));
        assert_eq!(queue.blame(id(3)), Some(&CrucibleError::HashMismatch));
        assert_eq!(queue.add(id(4), &[], ()), Ok(Added::Ready));
        assert_eq!(queue.blame(id(4)), None);
    }

    #[test]
    fn an_id_in_use_is_refused() {
        let mut queue = JobQueue::new(None);
        assert_eq!(queue.add(id(1), &[], ()), Ok(Added::Ready));
        assert_eq!(queue.add(id(1), &[], ()), Err(Duplicate));
    }

    #[test]
    fn an_id_named_twice_counts_twice_and_is_met_once() {
        let mut queue = JobQueue::new(None);
        assert_eq!(queue.add(id(2), &[id(1), id(1)], ()), Ok(Added::Waiting));
        assert_eq!(queue.add(id(1), &[], ()), Ok(Added::Ready));
        assert_eq!(finish(&mut queue, 1, Ending::Done), [id(2)]);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn a_job_that_depends_on_itself_waits_alone() {
        let mut queue = JobQueue::new(None);
        assert_eq!(queue.add(id(5), &[id(5)], ()), Ok(Added::Waiting));
        assert_eq!(queue.add(id(6), &[], ()), Ok(Added::Ready));
    }
}
