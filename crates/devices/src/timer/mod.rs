//! The clocks of a PC: PIT, RTC with its CMOS memory, HPET and the ACPI PM timer.
//!
//! None of them counts. Each computes what it shows from [`vm_types::Clock`] when it is read, and arms a
//! timer only for the next interrupt that the guest has asked for, so that an idle guest costs nothing.
//! Periods that passed while nobody could look are one interrupt, not many.
//!
//! [`pit`] and [`rtc`] hold a gate that [`hpet`] closes while its timers replace them ("legacy
//! replacement").

pub mod hpet;
pub mod pit;
mod pit_channel;
pub mod pm_timer;
pub mod rtc;
mod wall;

pub use hpet::{Hpet, HpetPorts};
pub use pit::{Pit, PitPorts};
pub use pm_timer::{PM_TIMER_HZ, PmTimer, PmTimerWidth};
pub use rtc::{Rtc, RtcConfig, RtcPorts};

use vm_types::{Moment, Span};

/// The shortest time between two interrupts of one timer: a guest that asks for more gets no more,
/// because each is work on the host.
pub(crate) const SHORTEST_PERIOD: Span = Span::from_micros(10);

/// The deadline for an event at `due`, not sooner than the host is willing to serve.
pub(crate) fn bounded_deadline(now: Moment, due: Moment) -> Moment {
    due.max(now.after(SHORTEST_PERIOD))
}
