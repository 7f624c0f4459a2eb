//! The ACPI power management timer (ACPI 4.8.3.3): a free-running counter of 3.579545 MHz.

use vm_types::{Clock, Moment, Span};

/// Ticks a second.
pub const PM_TIMER_HZ: u64 = 3_579_545;

/// How many bits count; the FADT says which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PmTimerWidth {
    /// 24 bits, 4.7 seconds round.
    Bits24,
    /// 32 bits, 20 minutes round.
    #[default]
    Bits32,
}

/// The counter. Its overflow status belongs to the chipset's PM1 registers.
#[derive(Clone, Debug)]
pub struct PmTimer {
    clock: Clock,
    width: PmTimerWidth,
    /// Added to the clock's ticks, so that a restored machine goes on where it was.
    offset: u64,
}

impl PmTimer {
    /// A timer that shows the clock's time since its start.
    pub fn new(clock: Clock, width: PmTimerWidth) -> Self {
        Self {
            clock,
            width,
            offset: 0,
        }
    }

    /// Ticks so far; the register shows the low bits.
    pub fn ticks(&self) -> u64 {
        self.at(self.clock.now())
    }

    /// Goes on from `ticks`, as another timer said.
    pub fn set_ticks(&mut self, ticks: u64) {
        self.offset = 0;
        self.offset = ticks.wrapping_sub(self.ticks());
    }

    /// The register.
    pub fn read(&self) -> u32 {
        match self.width {
            PmTimerWidth::Bits24 => self.ticks() as u32 & 0x00ff_ffff,
            PmTimerWidth::Bits32 => self.ticks() as u32,
        }
    }

    /// How often the top bit has changed: each change sets the overflow status.
    pub fn overflows(&self) -> u64 {
        self.ticks() / self.half()
    }

    /// When the top bit changes next.
    pub fn next_overflow(&self) -> Moment {
        let now = self.clock.now();
        let left = self.half() - self.at(now) % self.half();
        now.after(Span::of_ticks(left, PM_TIMER_HZ))
    }

    fn at(&self, now: Moment) -> u64 {
        let ticks = now.since(Moment::START).ticks(PM_TIMER_HZ);
        ticks.wrapping_add(self.offset)
    }

    fn half(&self) -> u64 {
        match self.width {
            PmTimerWidth::Bits24 => 1 << 23,
            PmTimerWidth::Bits32 => 1 << 31,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_its_frequency() {
        let (clock, hand) = Clock::manual();
        let timer = PmTimer::new(clock, PmTimerWidth::Bits24);
        hand.advance(Span::from_secs(1));
        assert_eq!(timer.read(), 3_579_545);
        hand.advance(Span::from_secs(9));
        assert_eq!(timer.read(), 35_795_450 & 0xff_ffff);
        assert_eq!(timer.overflows(), 4);
    }

    #[test]
    fn at_the_promised_moment_the_top_bit_has_changed() {
        let (clock, hand) = Clock::manual();
        let timer = PmTimer::new(clock, PmTimerWidth::Bits32);
        hand.advance(Span::from_millis(1234));
        let due = timer.next_overflow();
        hand.advance_to(due);
        assert_eq!(timer.read(), 1 << 31);
        assert_eq!(timer.overflows(), 1);
    }

    #[test]
    fn it_goes_on_from_a_saved_count() {
        let (clock, hand) = Clock::manual();
        hand.advance(Span::from_secs(77));
        let mut timer = PmTimer::new(clock, PmTimerWidth::Bits32);
        timer.set_ticks(5);
        assert_eq!(timer.read(), 5);
    }
}
