//! The APIC timer: one-shot, periodic and TSC-deadline.
//!
//! The timer holds no clock. Counting is arithmetic on the moment when it began, so that it costs nothing
//! while nobody looks; [`Timer::next`] says when somebody must.

use vm_types::{Moment, Span};

use super::lvt::TimerMode;

/// State of the timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// Rate of the input clock, before division.
    hz: u64,
    divide: u32,
    initial: u32,
    count: Option<Count>,
    tsc_deadline: u64,
    next: Option<Moment>,
}

/// A count that is running (or, one-shot and masked, has run out unseen).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Count {
    /// When the counter showed `first`.
    origin: Moment,
    first: u64,
    /// How often it has reached zero since.
    expiries: u64,
}

impl Timer {
    /// A timer that stands still, with an input clock of `hz`.
    pub const fn new(hz: u64) -> Self {
        Self {
            hz,
            divide: 0,
            initial: 0,
            count: None,
            tsc_deadline: 0,
            next: None,
        }
    }

    /// As after reset or INIT.
    pub fn reset(&mut self) {
        *self = Self::new(self.hz);
    }

    /// When the timer next reaches its end, masked or not.
    pub const fn next(&self) -> Option<Moment> {
        self.next
    }

    /// The divide configuration register.
    pub const fn divide(&self) -> u32 {
        self.divide
    }

    /// The initial count register.
    pub const fn initial(&self) -> u32 {
        self.initial
    }

    /// `IA32_TSC_DEADLINE`: zero when not armed.
    pub const fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    /// Writes the initial count: starts the counter, zero stops it. In TSC-deadline mode the write is
    /// ignored (SDM 3A, APIC, "TSC-Deadline Mode").
    pub fn write_initial(&mut self, now: Moment, mode: TimerMode, value: u32) {
        if mode == TimerMode::TscDeadline {
            return;
        }
        self.initial = value;
        self.restart(now, mode, u64::from(value));
    }

    /// Writes the divide configuration; a running counter goes on from where it is at the new rate.
    pub fn write_divide(&mut self, now: Moment, mode: TimerMode, value: u32) {
        let count = self.current(now, mode);
        self.divide = value & 0b1011;
        if mode != TimerMode::TscDeadline {
            self.restart(now, mode, u64::from(count));
        }
    }

    /// The current count register.
    pub fn current(&self, now: Moment, mode: TimerMode) -> u32 {
        let Some(count) = &self.count else { return 0 };
        let elapsed = self.ticks_since(count.origin, now);
        let left = match count.first.checked_sub(elapsed) {
            Some(left) if left > 0 => left,
            _ if mode == TimerMode::Periodic && self.initial != 0 => {
                let initial = u64::from(self.initial);
                initial - (elapsed - count.first) % initial
            }
            _ => 0,
        };
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    /// Follows a write of the timer's LVT entry. Into and out of TSC-deadline mode the timer is disarmed;
    /// between one-shot and periodic the count goes on.
    pub fn change_mode(&mut self, now: Moment, old: TimerMode, new: TimerMode) {
        if old == new {
            return;
        }
        let count = self.current(now, old);
        self.tsc_deadline = 0;
        if old == TimerMode::TscDeadline || new == TimerMode::TscDeadline {
            self.count = None;
            self.next = None;
        } else {
            self.restart(now, new, u64::from(count));
        }
    }

    /// Writes `IA32_TSC_DEADLINE`: `tsc` is the counter at `now`, `tsc_hz` its rate. Zero disarms. Outside
    /// TSC-deadline mode the write is ignored.
    pub fn write_tsc_deadline(
        &mut self,
        now: Moment,
        mode: TimerMode,
        target: u64,
        tsc: u64,
        tsc_hz: u64,
    ) {
        if mode != TimerMode::TscDeadline {
            return;
        }
        self.tsc_deadline = target;
        self.next = (target != 0)
            .then(|| now.after(Span::of_ticks(target.saturating_sub(tsc), tsc_hz)))
            .filter(|next| *next != Moment::NEVER);
    }

    /// Whether the timer has reached its end by `now`. Periods that passed unseen count once.
    pub fn expire(&mut self, now: Moment, mode: TimerMode) -> bool {
        if self.next.is_none_or(|next| next > now) {
            return false;
        }
        self.next = None;
        match mode {
            TimerMode::TscDeadline => self.tsc_deadline = 0,
            TimerMode::OneShot | TimerMode::Reserved => self.count = None,
            TimerMode::Periodic => {
                if let Some(count) = &self.count {
                    let (origin, first) = (count.origin, count.first);
                    let elapsed = self.ticks_since(origin, now);
                    let initial = u64::from(self.initial).max(1);
                    let expiries = elapsed.saturating_sub(first) / initial + 1;
                    self.next = self.moment_of(origin, first, expiries);
                    self.count = Some(Count {
                        origin,
                        first,
                        expiries,
                    });
                }
            }
        }
        true
    }

    /// Puts back a saved state: registers, the count at `now`, and the exact moment of the next end.
    pub fn restore(&mut self, now: Moment, saved: RestoredTimer) {
        self.divide = saved.divide & 0b1011;
        self.initial = saved.initial;
        self.tsc_deadline = 0;
        self.count = None;
        self.next = saved.next;
        if saved.mode == TimerMode::TscDeadline {
            self.tsc_deadline = saved.tsc_deadline;
        } else if let Some(next) = saved.next {
            self.count = Some(Count {
                origin: now,
                first: (next.since(now).ticks(self.hz)).div_ceil(self.divisor()),
                expiries: 0,
            });
        }
    }

    fn restart(&mut self, now: Moment, mode: TimerMode, first: u64) {
        self.count = None;
        self.next = None;
        if first != 0 && mode != TimerMode::Reserved {
            self.next = self.moment_of(now, first, 0);
            self.count = Some(Count {
                origin: now,
                first,
                expiries: 0,
            });
        }
    }

    /// The moment of the end number `expiries` (from 0) of a count that showed `first` at `origin`.
    fn moment_of(&self, origin: Moment, first: u64, expiries: u64) -> Option<Moment> {
        let counts = first.saturating_add(expiries.saturating_mul(u64::from(self.initial)));
        let span = Span::of_ticks(counts.saturating_mul(self.divisor()), self.hz);
        Some(origin.after(span)).filter(|next| *next != Moment::NEVER)
    }

    fn ticks_since(&self, origin: Moment, now: Moment) -> u64 {
        now.since(origin).ticks(self.hz) / self.divisor()
    }

    /// Bits 3, 1 and 0 of the divide configuration: 2, 4, 8 to 128, and 1 for all ones.
    const fn divisor(&self) -> u64 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        if code == 7 { 1 } else { 2 << code }
    }
}

/// What [`Timer::restore`] takes.
#[derive(Clone, Copy, Debug)]
pub struct RestoredTimer {
    /// Mode in the LVT entry.
    pub mode: TimerMode,
    /// Divide configuration register.
    pub divide: u32,
    /// Initial count register.
    pub initial: u32,
    /// `IA32_TSC_DEADLINE`.
    pub tsc_deadline: u64,
    /// Moment of the next end.
    pub next: Option<Moment>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u64 = 1_000_000_000;

    fn at(ns: u64) -> Moment {
        Moment::from_nanos(ns)
    }

    fn dividing_by_one() -> Timer {
        let mut timer = Timer::new(HZ);
        timer.write_divide(at(0), TimerMode::OneShot, 0b1011);
        timer
    }

    #[test]
    fn divide_configuration() {
        for (code, divisor) in [
            (0b0000, 2),
            (0b0001, 4),
            (0b0010, 8),
            (0b0011, 16),
            (0b1000, 32),
            (0b1001, 64),
            (0b1010, 128),
            (0b1011, 1),
        ] {
            let mut timer = Timer::new(HZ);
            timer.write_divide(at(0), TimerMode::OneShot, code);
            timer.write_initial(at(0), TimerMode::OneShot, 1000);
            assert_eq!(timer.next(), Some(at(1000 * divisor)), "{code:#b}");
            assert_eq!(timer.current(at(10 * divisor), TimerMode::OneShot), 990);
        }
    }

    #[test]
    fn one_shot_ends_once() {
        let mode = TimerMode::OneShot;
        let mut timer = dividing_by_one();
        timer.write_initial(at(50), mode, 100);
        assert_eq!(timer.current(at(149), mode), 1);
        assert!(!timer.expire(at(149), mode));
        assert!(timer.expire(at(150), mode));
        assert!(!timer.expire(at(1000), mode));
        assert_eq!(timer.current(at(1000), mode), 0);
        assert_eq!(timer.next(), None);
    }

    #[test]
    fn periodic_keeps_its_phase() {
        let mode = TimerMode::Periodic;
        let mut timer = dividing_by_one();
        timer.write_initial(at(0), mode, 100);
        assert!(timer.expire(at(103), mode));
        assert_eq!(timer.next(), Some(at(200)));
        assert_eq!(timer.current(at(150), mode), 50);
        // Three periods unseen: one interrupt, and the phase stays.
        assert!(timer.expire(at(430), mode));
        assert!(!timer.expire(at(499), mode));
        assert_eq!(timer.next(), Some(at(500)));
        timer.write_initial(at(450), mode, 0);
        assert_eq!(timer.next(), None);
    }

    #[test]
    fn a_new_divisor_goes_on_from_the_count() {
        let mode = TimerMode::OneShot;
        let mut timer = dividing_by_one();
        timer.write_initial(at(0), mode, 100);
        timer.write_divide(at(60), mode, 0);
        assert_eq!(timer.current(at(60), mode), 40);
        assert_eq!(timer.next(), Some(at(140)));
    }

    #[test]
    fn tsc_deadline() {
        let mode = TimerMode::TscDeadline;
        let mut timer = Timer::new(HZ);
        timer.write_tsc_deadline(at(10), mode, 5000, 3000, 2 * HZ);
        assert_eq!(timer.next(), Some(at(1010)));
        assert_eq!(timer.tsc_deadline(), 5000);
        assert!(timer.expire(at(1010), mode));
        assert_eq!(timer.tsc_deadline(), 0);
        timer.write_tsc_deadline(at(20), mode, 1, 3000, 2 * HZ);
        assert_eq!(timer.next(), Some(at(20)));
        timer.write_tsc_deadline(at(20), mode, 0, 3000, 2 * HZ);
        assert_eq!(timer.next(), None);
        timer.write_initial(at(30), mode, 5);
        assert_eq!(timer.next(), None);
        timer.write_tsc_deadline(at(20), TimerMode::OneShot, 9000, 3000, HZ);
        assert_eq!(timer.next(), None);
    }

    #[test]
    fn one_shot_becomes_periodic_in_flight() {
        let mut timer = dividing_by_one();
        timer.write_initial(at(0), TimerMode::OneShot, 100);
        timer.change_mode(at(30), TimerMode::OneShot, TimerMode::Periodic);
        assert!(timer.expire(at(100), TimerMode::Periodic));
        assert_eq!(timer.next(), Some(at(200)));
        timer.change_mode(at(130), TimerMode::Periodic, TimerMode::TscDeadline);
        assert_eq!(timer.next(), None);
        assert_eq!(timer.current(at(140), TimerMode::TscDeadline), 0);
    }
}
