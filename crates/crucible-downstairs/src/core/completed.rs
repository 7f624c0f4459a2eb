//! Which jobs of a connection are done: a set of ranges, since an upstairs numbers its jobs one after the other.

use std::collections::BTreeMap;

use crucible_protocol::JobId;

/// A set of job ids that costs one entry for each run of neighbours.
#[derive(Clone, Debug, Default)]
pub struct CompletedJobs {
    /// First id of each range and its last; ranges neither overlap nor touch.
    ranges: BTreeMap<u64, u64>,
}

impl CompletedJobs {
    /// Only this one, or none.
    pub fn starting_with(last: Option<JobId>) -> Self {
        Self {
            ranges: last.map(|job| (job.0, job.0)).into_iter().collect(),
        }
    }

    /// Whether the job is done, as far as is remembered.
    pub fn contains(&self, job: JobId) -> bool {
        self.ranges
            .range(..=job.0)
            .next_back()
            .is_some_and(|(_, last)| *last >= job.0)
    }

    /// The job is done.
    pub fn insert(&mut self, job: JobId) {
        if self.contains(job) {
            return;
        }
        let mut first = job.0;
        let mut last = job.0;
        if let Some(before) = job.0.checked_sub(1)
            && let Some((&start, &end)) = self.ranges.range(..=before).next_back()
            && end == before
        {
            first = start;
        }
        if let Some(after) = job.0.checked_add(1)
            && let Some(end) = self.ranges.remove(&after)
        {
            last = end;
        }
        self.ranges.insert(first, last);
    }

    /// Forgets all jobs with smaller ids (spec: 3.2, completion of a flush or barrier).
    ///
    /// Those with larger ids stay: where jobs run in parallel, one that does not depend on the flush may be done
    /// before it, and others may still name it.
    pub fn forget_before(&mut self, job: JobId) {
        let kept = self.ranges.split_off(&job.0);
        let straddling = self.ranges.values().next_back().copied();
        self.ranges = kept;
        if let Some(last) = straddling
            && last >= job.0
        {
            self.ranges.insert(job.0, last);
        }
    }

    /// How many ranges there are: what the set costs.
    pub fn range_count(&self) -> usize {
        self.ranges.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_make_one_range() {
        let mut done = CompletedJobs::default();
        for id in [1000, 1002, 1001, 1003, 999] {
            done.insert(JobId(id));
        }
        assert_eq!(done.range_count(), 1);
        assert!(done.contains(JobId(999)) && done.contains(JobId(1003)));
        assert!(!done.contains(JobId(998)) && !done.contains(JobId(1004)));
    }

    #[test]
    fn forgetting_cuts_a_range_in_two() {
        let mut done = CompletedJobs::default();
        for id in 10..20 {
            done.insert(JobId(id));
        }
        done.forget_before(JobId(15));
        assert!(!done.contains(JobId(14)));
        assert!(done.contains(JobId(15)) && done.contains(JobId(19)));
    }

    #[test]
    fn the_ends_of_the_numbers_are_numbers_too() {
        let mut done = CompletedJobs::default();
        for id in [0, u64::MAX, 1, u64::MAX - 1] {
            done.insert(JobId(id));
        }
        assert_eq!(done.range_count(), 2);
        done.forget_before(JobId(u64::MAX));
        assert!(!done.contains(JobId(0)) && !done.contains(JobId(u64::MAX - 1)));
        assert!(done.contains(JobId(u64::MAX)));
    }

    proptest! {
        #[test]
        fn ranges_say_what_a_plain_set_says(steps in prop::collection::vec((0u64..40, prop::bool::weighted(0.1)), 0..80)) {
            let mut ranges = CompletedJobs::default();
            let mut plain = BTreeSet::new();
            for (id, forget) in steps {
                if forget {
                    ranges.forget_before(JobId(id));
                    plain = plain.split_off(&id);
                } else {
                    ranges.insert(JobId(id));
                    plain.insert(id);
                }
                for id in 0..42 {
                    prop_assert_eq!(ranges.contains(JobId(id)), plain.contains(&id));
                }
            }
        }
    }
}
