//! The course of a stop: which deadline comes next and what is due when it has passed. No clock, no threads.

use std::time::{Duration, Instant};

use crate::control::api::{StopPhase, StopStatus};

/// From cutting storage off to the end of the process, whatever hangs.
pub(super) const LAST: Duration = Duration::from_secs(10);

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Halt the machine; `late`: the guest had time.
    Halt {
        /// It did not use it.
        late: bool,
    },
    /// Name whom storage waits for, and cut it off.
    GiveUp,
    /// End the process.
    Exit,
}

/// Where a stop stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Course {
    asked: Option<Asked>,
    halted: bool,
    /// Until when storage has time, once the machine is on its way to its end.
    storage: Option<Instant>,
    /// Until when the process has time, once storage was cut off.
    last: Option<Instant>,
    exited: bool,
}

#[derive(Clone, Debug)]
struct Asked {
    by: String,
    since: Instant,
    until: Instant,
}

impl Course {
    /// Somebody asks; the guest has time until then.
    pub(super) fn ask(&mut self, by: &str, now: Instant, until: Instant) {
        match &mut self.asked {
            Some(asked) => asked.until = asked.until.min(until),
            None => {
                self.asked = Some(Asked {
                    by: by.to_owned(),
                    since: now,
                    until,
                });
            }
        }
    }

    /// The machine is on its way to its end; storage has time until then. The first call counts.
    pub(super) fn ending(&mut self, until: Instant) {
        self.storage.get_or_insert(until);
    }

    /// The next moment at which something may be due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (self.storage, self.last) {
            (_, Some(last)) => (!self.exited).then_some(last),
            (Some(storage), None) => Some(storage),
            (None, None) if self.halted => None,
            (None, None) => self.asked.as_ref().map(|asked| asked.until),
        }
    }

    /// What is due by now; each thing once.
    pub(super) fn due(&mut self, now: Instant) -> Option<Act> {
        self.deadline().filter(|deadline| *deadline <= now)?;
        if self.last.is_some() {
            self.exited = true;
            return Some(Act::Exit);
        }
        if self.storage.is_some() {
            self.last = Some(now + LAST);
            return Some(Act::GiveUp);
        }
        self.halted = true;
        let late = self.asked.as_ref().is_some_and(|it| it.until > it.since);
        Some(Act::Halt { late })
    }

    /// For those who ask how far it is.
    pub(super) fn status(&self, now: Instant) -> Option<StopStatus> {
        let waits_for = match self.storage {
            Some(_) => StopPhase::Storage,
            None => StopPhase::Guest,
        };
        if self.asked.is_none() && self.storage.is_none() {
            return None;
        }
        let asked_by = self.asked.as_ref().map_or("guest", |asked| &asked.by);
        let left = self.deadline().map(|it| it.saturating_duration_since(now));
        Some(StopStatus {
            asked_by: asked_by.to_owned(),
            waits_for,
            seconds_left: left.unwrap_or_default().as_secs(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_deadline_after_the_other() {
        let begin = Instant::now();
        let at = |seconds: u32| begin + SECOND * seconds;
        let mut course = Course::default();
        assert_eq!((course.deadline(), course.due(at(1000))), (None, None));
        course.ask("control", at(0), at(60));
        let status = course.status(at(10)).unwrap();
        assert_eq!(
            (status.waits_for, status.seconds_left),
            (StopPhase::Guest, 50)
        );
        assert_eq!(course.due(at(59)), None);
        assert_eq!(course.due(at(60)), Some(Act::Halt { late: true }));
        assert_eq!((course.deadline(), course.due(at(61))), (None, None));
        course.ending(at(90));
        course.ending(at(900));
        let status = course.status(at(61)).unwrap();
        assert_eq!(
            (status.waits_for, status.seconds_left),
            (StopPhase::Storage, 29)
        );
        assert_eq!(course.due(at(90)), Some(Act::GiveUp));
        assert_eq!(course.due(at(91)), None);
        assert_eq!(course.due(at(90) + LAST), Some(Act::Exit));
        assert_eq!(course.due(at(9000)), None);
        assert_eq!(course.deadline(), None);
    }

    #[test]
    fn the_earlier_deadline_counts_and_the_first_who_asked() {
        let begin = Instant::now();
        let mut course = Course::default();
        course.ask("signal 15", begin, begin + 60 * SECOND);
        course.ask("control", begin, begin + 90 * SECOND);
        assert_eq!(course.deadline(), Some(begin + 60 * SECOND));
        course.ask("control", begin, begin);
        assert_eq!(course.due(begin), Some(Act::Halt { late: false }));
        assert_eq!(course.status(begin).unwrap().asked_by, "signal 15");
    }

    #[test]
    fn a_guest_that_ends_by_itself_is_waited_for_by_nobody_but_storage() {
        let begin = Instant::now();
        let mut course = Course::default();
        course.ask("control", begin, begin + 60 * SECOND);
        course.ending(begin + 90 * SECOND);
        assert_eq!(course.due(begin + 61 * SECOND), None);
        assert_eq!(course.due(begin + 90 * SECOND), Some(Act::GiveUp));
        let mut course = Course::default();
        course.ending(begin);
        assert_eq!(course.status(begin).unwrap().asked_by, "guest");
    }
}
