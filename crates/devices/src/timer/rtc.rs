//! The real-time clock and its battery-backed memory at ports 0x70 and 0x71 (MC146818A data sheet;
//! memory-size bytes as PC firmware reads them).
//!
//! Flags are worked out when somebody looks: register C shows what has happened since it was last
//! read. A timer is armed only for an interrupt that is enabled and not yet shown.

use std::sync::{Arc, Mutex, Weak};

use serde::{Deserialize, Serialize};
use vm_types::{Clock, Gate, IrqLine, Moment, Span, Task, Timer, Timers};

use super::bounded_deadline;
use super::wall::{Civil, DAY};
use crate::bus::{AddressSpace, BusDevice, SpaceError};
use crate::lifecycle::{Lifecycle, RestoreError, Snapshot};
use crate::sync::lock;

/// First of its two ports.
pub const RTC_PORT: u64 = 0x70;

/// Bytes of registers and memory.
const CMOS_BYTES: usize = 128;
const SECOND_NS: i64 = 1_000_000_000;
/// How long before the second changes the update-in-progress bit is set.
const UPDATE_NS: i64 = 244_000;
/// Frequency of the divider's input.
const CRYSTAL_HZ: u64 = 32_768;

const KIND: &str = "rtc";

mod reg {
    pub(super) const SECONDS: usize = 0;
    pub(super) const SECONDS_ALARM: usize = 1;
    pub(super) const MINUTES: usize = 2;
    pub(super) const MINUTES_ALARM: usize = 3;
    pub(super) const HOURS: usize = 4;
    pub(super) const HOURS_ALARM: usize = 5;
    pub(super) const WEEKDAY: usize = 6;
    pub(super) const DAY: usize = 7;
    pub(super) const MONTH: usize = 8;
    pub(super) const YEAR: usize = 9;
    pub(super) const A: usize = 10;
    pub(super) const B: usize = 11;
    pub(super) const C: usize = 12;
    pub(super) const D: usize = 13;
    pub(super) const CENTURY: usize = 0x32;
}

/// Bits of register B.
mod control {
    pub(super) const HOURS_24: u8 = 0x02;
    pub(super) const BINARY: u8 = 0x04;
    pub(super) const SQUARE_WAVE: u8 = 0x08;
    pub(super) const SET: u8 = 0x80;
}

/// Flags of register C; the same bits of register B enable them.
mod flag {
    pub(super) const UPDATE: u8 = 0x10;
    pub(super) const ALARM: u8 = 0x20;
    pub(super) const PERIODIC: u8 = 0x40;
    pub(super) const REQUEST: u8 = 0x80;
    pub(super) const ALL: u8 = UPDATE | ALARM | PERIODIC;
}

/// What the RTC is connected to.
#[derive(Clone, Debug)]
pub struct RtcPorts {
    /// The machine's time.
    pub clock: Clock,
    /// Where to arm for the next interrupt.
    pub timers: Timers,
    /// Interrupt 8.
    pub irq: IrqLine,
    /// `irq` is driven while it is open; the HPET closes it.
    pub legacy: Gate,
}

/// What its memory says about the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RtcConfig {
    /// Wall time at the clock's start, in nanoseconds since 1970.
    pub wall_start_ns: i64,
    /// Bytes of RAM from address 0.
    pub low_memory_bytes: u64,
    /// Bytes of RAM from 4 GiB.
    pub high_memory_bytes: u64,
    /// Number of CPUs.
    pub cpus: u32,
}

/// The RTC.
#[derive(Debug)]
pub struct Rtc {
    clock: Clock,
    irq: IrqLine,
    legacy: Gate,
    timer: Timer,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    /// Registers and memory. Date and time are current only while register B's SET is on.
    cmos: Vec<u8>,
    index: u8,
    /// Wall time at the clock's start, in nanoseconds.
    epoch_ns: i64,
    /// Up to when flags have been worked out, in nanoseconds of wall time.
    seen_ns: i64,
    #[serde(skip)]
    paused: bool,
}

impl State {
    fn new(config: &RtcConfig) -> Self {
        let mut cmos = vec![0; CMOS_BYTES];
        cmos[reg::A] = 0x26;
        cmos[reg::B] = control::HOURS_24;
        cmos[reg::D] = 0x80;
        // Equipment: FPU and pointing device.
        cmos[0x14] = 0x06;
        let mut put = |at: usize, bytes: &[u8]| cmos[at..at + bytes.len()].copy_from_slice(bytes);
        // Base memory in KiB, then what lies above 1 MiB in KiB (twice), above 16 MiB and above 4 GiB
        // in units of 64 KiB; each as much as its bytes can say.
        let base = (config.low_memory_bytes / 1024).min(640) as u16;
        let above = |start: u64, unit: u64, most: u64| {
            (config.low_memory_bytes.saturating_sub(start) / unit).min(most)
        };
        let extended = (above(1 << 20, 1 << 10, 0xffff) as u16).to_le_bytes();
        let middle = (above(16 << 20, 1 << 16, 0xffff) as u16).to_le_bytes();
        let high = (config.high_memory_bytes >> 16).min(0xff_ffff) as u32;
        put(0x15, &base.to_le_bytes());
        put(0x17, &extended);
        put(0x30, &extended);
        put(0x34, &middle);
        put(0x5b, &high.to_le_bytes()[..3]);
        put(0x5f, &[config.cpus.saturating_sub(1).min(255) as u8]);
        Self {
            cmos,
            index: 0,
            epoch_ns: config.wall_start_ns,
            seen_ns: config.wall_start_ns,
            paused: false,
        }
    }

    fn control(&self) -> u8 {
        self.cmos[reg::B]
    }

    fn is_set(&self) -> bool {
        self.control() & control::SET != 0
    }

    fn wall_ns(&self, now: Moment) -> i64 {
        let elapsed = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        self.epoch_ns.saturating_add(elapsed)
    }

    /// Nanoseconds between periodic flags, if register A asks for any.
    fn period_ns(&self) -> Option<i64> {
        let rate = match self.cmos[reg::A] & 0x0f {
            0 => return None,
            rate @ 1..=2 => rate + 7,
            rate => rate,
        };
        let ticks = 1u64 << (rate - 1);
        // Rates are powers of two of the crystal, from 122 µs on; the shorter are out of reach.
        Some((ticks * SECOND_NS as u64 / CRYSTAL_HZ).max(1) as i64)
    }

    fn encode(&self, value: u8) -> u8 {
        if self.control() & control::BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.control() & control::BINARY != 0 {
            value
        } else {
            (value >> 4) * 10 + (value & 0x0f)
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.control() & control::HOURS_24 != 0 {
            return self.encode(hour);
        }
        let half = if hour.is_multiple_of(12) {
            12
        } else {
            hour % 12
        };
        self.encode(half) | if hour >= 12 { 0x80 } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.control() & control::HOURS_24 != 0 {
            return self.decode(value);
        }
        let half = self.decode(value & 0x7f) % 12;
        if value & 0x80 != 0 { half + 12 } else { half }
    }

    /// Puts the time at `wall_ns` into the registers.
    fn show(&mut self, wall_ns: i64) {
        let civil = Civil::from_unix(wall_ns.div_euclid(SECOND_NS));
        let year = civil.year.rem_euclid(10_000);
        self.cmos[reg::SECONDS] = self.encode(civil.second);
        self.cmos[reg::MINUTES] = self.encode(civil.minute);
        self.cmos[reg::HOURS] = self.encode_hour(civil.hour);
        self.cmos[reg::WEEKDAY] = self.encode(civil.weekday);
        self.cmos[reg::DAY] = self.encode(civil.day);
        self.cmos[reg::MONTH] = self.encode(civil.month);
        self.cmos[reg::YEAR] = self.encode((year % 100) as u8);
        self.cmos[reg::CENTURY] = self.encode((year / 100) as u8);
    }

    /// Takes the time in the registers as the time at `now`. The fraction of the second starts anew.
    fn take(&mut self, now: Moment) {
        let field = |index: usize| self.decode(self.cmos[index]);
        let civil = Civil {
            year: i64::from(field(reg::CENTURY)) * 100 + i64::from(field(reg::YEAR)),
            month: field(reg::MONTH),
            day: field(reg::DAY),
            hour: self.decode_hour(self.cmos[reg::HOURS]),
            minute: field(reg::MINUTES),
            second: field(reg::SECONDS),
            weekday: 1,
        };
        let elapsed = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        let wall_ns = civil.to_unix().saturating_mul(SECOND_NS);
        self.epoch_ns = wall_ns.saturating_sub(elapsed);
        self.seen_ns = wall_ns;
    }

    /// The first moment of wall time after `after` at which the alarm matches.
    fn next_alarm(&self, after_ns: i64) -> Option<i64> {
        let field = |index: usize| {
            let value = self.cmos[index];
            // Two top bits set: any value will do.
            (value < 0xc0).then_some(value)
        };
        let hours = field(reg::HOURS_ALARM).map(|value| self.decode_hour(value));
        let minutes = field(reg::MINUTES_ALARM).map(|value| self.decode(value));
        let seconds = field(reg::SECONDS_ALARM).map(|value| self.decode(value));
        let choices = |field: Option<u8>, limit: u8| match field {
            Some(value) => value..value.saturating_add(1).min(limit),
            None => 0..limit,
        };
        let after = after_ns.div_euclid(SECOND_NS);
        let midnight = after.div_euclid(DAY) * DAY;
        // Today or tomorrow; the first that lies ahead ends the search.
        for day in [midnight, midnight + DAY] {
            for hour in choices(hours, 24) {
                let hour_start = day + i64::from(hour) * 3600;
                if hour_start + 3599 <= after {
                    continue;
                }
                for minute in choices(minutes, 60) {
                    let minute_start = hour_start + i64::from(minute) * 60;
                    if minute_start + 59 <= after {
                        continue;
                    }
                    let mut seconds = choices(seconds, 60);
                    let ahead = seconds.find(|second| minute_start + i64::from(*second) > after);
                    if let Some(second) = ahead {
                        return Some((minute_start + i64::from(second)).saturating_mul(SECOND_NS));
                    }
                }
            }
        }
        None
    }

    /// Works out the flags up to `now`.
    fn catch_up(&mut self, now: Moment) {
        let wall_ns = self.wall_ns(now);
        let seen = self.seen_ns;
        self.seen_ns = wall_ns.max(seen);
        if wall_ns <= seen {
            return;
        }
        let mut flags = 0;
        if let Some(period) = self.period_ns()
            && wall_ns.div_euclid(period) != seen.div_euclid(period)
        {
            flags |= flag::PERIODIC;
        }
        let is_later_second = wall_ns.div_euclid(SECOND_NS) != seen.div_euclid(SECOND_NS);
        if is_later_second && !self.is_set() {
            flags |= flag::UPDATE;
            if self.next_alarm(seen).is_some_and(|at| at <= wall_ns) {
                flags |= flag::ALARM;
            }
        }
        self.cmos[reg::C] |= flags;
        self.request();
    }

    /// Sets or clears the request bit from flags and enables; says which.
    fn request(&mut self) -> bool {
        let requested = self.cmos[reg::C] & self.control() & flag::ALL != 0;
        self.cmos[reg::C] &= flag::ALL;
        if requested {
            self.cmos[reg::C] |= flag::REQUEST;
        }
        requested
    }

    /// When the next enabled flag will be set, in nanoseconds of wall time.
    fn next_event(&self, now: Moment) -> Option<i64> {
        let wall_ns = self.wall_ns(now);
        let enabled = self.control();
        let boundary = |period: i64| (wall_ns.div_euclid(period) + 1).saturating_mul(period);
        let periodic = self
            .period_ns()
            .filter(|_| enabled & flag::PERIODIC != 0)
            .map(boundary);
        let running = !self.is_set();
        let update = (running && enabled & flag::UPDATE != 0).then(|| boundary(SECOND_NS));
        let alarm = if running && enabled & flag::ALARM != 0 {
            self.next_alarm(wall_ns)
        } else {
            None
        };
        [periodic, update, alarm].into_iter().flatten().min()
    }

    fn read(&mut self, now: Moment) -> u8 {
        let index = usize::from(self.index);
        match index {
            reg::A => {
                let to_go = SECOND_NS - self.wall_ns(now).rem_euclid(SECOND_NS);
                let updating = !self.is_set() && to_go <= UPDATE_NS;
                (self.cmos[reg::A] & 0x7f) | (u8::from(updating) << 7)
            }
            reg::C => {
                self.catch_up(now);
                std::mem::take(&mut self.cmos[reg::C])
            }
            _ => {
                let is_time = is_time(index);
                if is_time && !self.is_set() {
                    self.show(self.wall_ns(now));
                }
                self.cmos.get(index).copied().unwrap_or(0xff)
            }
        }
    }

    fn write(&mut self, now: Moment, value: u8) {
        self.catch_up(now);
        let index = usize::from(self.index);
        match index {
            reg::A => self.cmos[reg::A] = value & 0x7f,
            reg::B => {
                let was_set = self.is_set();
                if !was_set {
                    // In the old format: a change of format does not change what the registers hold.
                    self.show(self.wall_ns(now));
                }
                self.cmos[reg::B] = value;
                if was_set && !self.is_set() {
                    self.take(now);
                }
                self.request();
            }
            reg::C | reg::D => {}
            _ if is_time(index) => {
                if self.is_set() {
                    self.cmos[index] = value;
                } else {
                    self.show(self.wall_ns(now));
                    self.cmos[index] = value;
                    self.take(now);
                }
            }
            _ => {
                if let Some(byte) = self.cmos.get_mut(index) {
                    *byte = value;
                }
            }
        }
    }
}

fn is_time(index: usize) -> bool {
    matches!(
        index,
        reg::SECONDS
            | reg::MINUTES
            | reg::HOURS
            | reg::WEEKDAY
            | reg::DAY
            | reg::MONTH
            | reg::YEAR
            | reg::CENTURY
    )
}

impl Rtc {
    /// A clock that shows the wall time of `config`.
    pub fn new(ports: RtcPorts, config: RtcConfig) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            clock: ports.clock,
            irq: ports.irq,
            legacy: ports.legacy,
            timer: ports.timers.register(this.clone()),
            state: Mutex::new(State::new(&config)),
        })
    }

    /// Claims its ports.
    pub fn attach(self: &Arc<Self>, ports: &AddressSpace) -> Result<(), SpaceError> {
        ports.claim(self.name(), RTC_PORT, 2, self.clone())
    }

    /// Reads a byte of the memory as the guest would (without the side effects of register C).
    pub fn peek(&self, index: u8) -> u8 {
        let state = lock(&self.state);
        State {
            index,
            ..state.clone()
        }
        .read(self.clock.now())
    }

    /// Sets a byte of the memory, for machines that tell their firmware more.
    pub fn poke(&self, index: u8, value: u8) {
        let mut state = lock(&self.state);
        if let Some(byte) = state.cmos.get_mut(usize::from(index)) {
            *byte = value;
        }
    }

    /// Brings the interrupt line and the timer in step with the flags.
    fn update(&self, state: &mut State, now: Moment) {
        let requested = state.cmos[reg::C] & flag::REQUEST != 0;
        self.irq.set(requested && self.legacy.is_open());
        // While the line is up nothing can raise it further; the read of register C arms again.
        match state.next_event(now) {
            Some(wall_ns) if !requested && !state.paused => {
                let left = wall_ns.saturating_sub(state.wall_ns(now)).max(0) as u64;
                let due = now.after(Span::from_nanos(left));
                self.timer.arm(bounded_deadline(now, due));
            }
            _ => self.timer.disarm(),
        }
    }
}

impl Task for Rtc {
    fn run(&self) {
        let mut state = lock(&self.state);
        if !state.paused {
            let now = self.clock.now();
            state.catch_up(now);
            self.update(&mut state, now);
        }
    }
}

impl BusDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = lock(&self.state);
        let now = self.clock.now();
        for (port, byte) in (offset..).zip(data) {
            // The index port is write-only.
            *byte = if port == 1 { state.read(now) } else { 0xff };
        }
        self.update(&mut state, now);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = lock(&self.state);
        let now = self.clock.now();
        for (port, byte) in (offset..).zip(data) {
            match port {
                // The top bit masks NMIs, of which there are none.
                0 => state.index = byte & 0x7f,
                1 => state.write(now, *byte),
                _ => {}
            }
        }
        self.update(&mut state, now);
    }
}

impl Lifecycle for Rtc {
    fn name(&self) -> &str {
        KIND
    }

    fn pause(&self) {
        lock(&self.state).paused = true;
        self.timer.disarm();
    }

    fn resume(&self) {
        let mut state = lock(&self.state);
        state.paused = false;
        let now = self.clock.now();
        state.catch_up(now);
        self.update(&mut state, now);
    }

    /// The battery keeps time and memory; only enables and flags go.
    fn reset(&self) {
        let mut state = lock(&self.state);
        state.cmos[reg::B] &= !(flag::ALL | control::SQUARE_WAVE);
        state.cmos[reg::C] = 0;
        self.update(&mut state, self.clock.now());
    }

    fn halt(&self) {
        self.pause();
    }

    fn save(&self) -> Option<Snapshot> {
        let mut state = lock(&self.state).clone();
        let now = self.clock.now();
        state.catch_up(now);
        // Saved as the wall time of now; the restorer's clock starts elsewhere.
        state.epoch_ns = state.wall_ns(now);
        Some(Snapshot::of(KIND, 1, &state))
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        let result = snapshot.open::<State>(self.name(), KIND, 1);
        let damaged = |reason: &str| RestoreError::Damaged {
            device: KIND.to_owned(),
            reason: reason.to_owned(),
        };
        let result = result.and_then(|saved| match saved.cmos.len() {
            CMOS_BYTES => Ok(saved),
            _ => Err(damaged("the memory has not 128 bytes")),
        });
        match result {
            Ok(saved) => {
                let mut state = lock(&self.state);
                let now = self.clock.now();
                let elapsed = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
                *state = State {
                    epoch_ns: saved.epoch_ns.saturating_sub(elapsed),
                    index: saved.index & 0x7f,
                    paused: state.paused,
                    ..saved
                };
                state.cmos[reg::D] = 0x80;
                state.request();
                self.update(&mut state, now);
                Ok(())
            }
            Err(error) => {
                self.reset();
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_types::ManualClock;

    /// 2026-11-21 13:59:58 UTC, a Saturday.
    const START: i64 = 1_795_269_598;

    struct Rig {
        rtc: Arc<Rtc>,
        hand: ManualClock,
        timers: Timers,
        irq: IrqLine,
    }

    impl Rig {
        fn new() -> Self {
            let (clock, hand) = Clock::manual();
            let (timers, irq) = (Timers::new(), IrqLine::unconnected());
            let ports = RtcPorts {
                clock,
                timers: timers.clone(),
                irq: irq.clone(),
                legacy: Gate::open(),
            };
            let config = RtcConfig {
                wall_start_ns: START * SECOND_NS,
                low_memory_bytes: 3 << 30,
                high_memory_bytes: 5 << 30,
                cpus: 4,
            };
            Self {
                rtc: Rtc::new(ports, config),
                hand,
                timers,
                irq,
            }
        }

        fn get(&self, index: u8) -> u8 {
            self.rtc.write(0, &[index]);
            let mut data = [0];
            self.rtc.read(1, &mut data);
            data[0]
        }

        fn set(&self, index: u8, value: u8) {
            self.rtc.write(0, &[index]);
            self.rtc.write(1, &[value]);
        }

        fn pass(&self, span: Span) -> usize {
            let end = self.rtc.clock.now().after(span);
            let mut fired = 0;
            while let Some(due) = self.timers.next_deadline().filter(|due| *due <= end) {
                self.hand.advance_to(due);
                fired += self.timers.fire_due(due);
            }
            self.hand.advance_to(end);
            fired
        }

        fn time(&self) -> [u8; 8] {
            [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| self.get(index))
        }
    }

    #[test]
    fn it_shows_wall_time_in_the_format_asked_for() {
        let rig = Rig::new();
        assert_eq!(rig.time(), [0x20, 0x26, 0x11, 0x21, 0x07, 0x13, 0x59, 0x58]);
        rig.set(11, 0x04);
        assert_eq!(rig.time(), [20, 26, 11, 21, 7, 0x81, 59, 58]);
        rig.pass(Span::from_secs(3));
        assert_eq!(rig.time(), [20, 26, 11, 21, 7, 0x82, 0, 1]);
    }

    #[test]
    fn the_guest_sets_the_time() {
        let rig = Rig::new();
        rig.set(11, 0x82);
        for (index, value) in [(0x32, 0x20), (9, 0x24), (8, 2), (7, 0x28), (4, 0x23)] {
            rig.set(index, value);
        }
        rig.pass(Span::from_secs(100));
        assert_eq!(rig.get(0), 0x58);
        rig.set(11, 0x02);
        rig.pass(Span::from_secs(2));
        assert_eq!(rig.time(), [0x20, 0x24, 0x02, 0x29, 0x05, 0x00, 0x00, 0x00]);
    }

    #[test]
    fn the_update_bit_is_set_just_before_the_second_changes() {
        let rig = Rig::new();
        assert_eq!(rig.get(10), 0x26);
        rig.pass(Span::from_micros(999_900));
        assert_eq!(rig.get(10), 0xa6);
        rig.pass(Span::from_micros(100));
        assert_eq!(rig.get(10), 0x26);
    }

    #[test]
    fn an_update_interrupt_waits_for_register_c() {
        let rig = Rig::new();
        rig.set(11, 0x12);
        assert_eq!(rig.pass(Span::from_secs(10)), 1);
        assert!(rig.irq.level());
        assert_eq!(rig.get(12), 0xd0);
        assert!(!rig.irq.level());
        assert_eq!(rig.get(12), 0);
        assert_eq!(rig.pass(Span::from_millis(999)), 0);
        assert_eq!(rig.pass(Span::from_millis(2)), 1);
    }

    #[test]
    fn periodic_interrupts_come_at_their_rate() {
        let rig = Rig::new();
        rig.set(11, 0x42);
        let mut interrupts = 0;
        for _ in 0..1100 {
            rig.pass(Span::from_millis(1));
            if rig.irq.level() {
                interrupts += 1;
                rig.get(12);
            }
        }
        // 1024 Hz, looked at once a millisecond.
        assert!((1095..=1100).contains(&interrupts), "{interrupts}");
    }

    #[test]
    fn the_alarm_matches_with_its_wildcards() {
        let rig = Rig::new();
        rig.set(1, 0x10);
        rig.set(3, 0xff);
        rig.set(5, 0xff);
        rig.set(11, 0x22);
        assert_eq!(rig.pass(Span::from_secs(11)), 0);
        assert_eq!(rig.pass(Span::from_secs(2)), 1);
        assert_eq!(rig.get(12) & 0xa0, 0xa0);
        rig.set(5, 0x13);
        rig.set(3, 0x00);
        // Tomorrow at 13:00:10.
        assert_eq!(rig.pass(Span::from_secs(22 * 3600)), 0);
        assert_eq!(rig.pass(Span::from_secs(3600)), 1);
    }

    #[test]
    fn an_alarm_that_cannot_match_is_never_armed() {
        let rig = Rig::new();
        rig.set(1, 0x75);
        rig.set(11, 0x22);
        assert_eq!(rig.timers.next_deadline(), None);
    }

    #[test]
    fn memory_sizes_are_where_firmware_looks() {
        let rig = Rig::new();
        assert_eq!([rig.get(0x15), rig.get(0x16)], 640u16.to_le_bytes());
        assert_eq!([rig.get(0x17), rig.get(0x18)], [0xff, 0xff]);
        assert_eq!([rig.get(0x30), rig.get(0x31)], [0xff, 0xff]);
        let middle = (((3u64 << 30) - (16 << 20)) >> 16) as u16;
        assert_eq!([rig.get(0x34), rig.get(0x35)], middle.to_le_bytes());
        assert_eq!([rig.get(0x5b), rig.get(0x5c), rig.get(0x5d)], [0, 0x40, 1]);
        rig.set(0x40, 0x5a);
        rig.rtc.reset();
        assert_eq!(rig.get(0x40), 0x5a);
    }

    #[test]
    fn a_saved_clock_goes_on() {
        let rig = Rig::new();
        rig.set(11, 0x12);
        rig.pass(Span::from_millis(1500));
        let saved = rig.rtc.save().unwrap();
        let other = Rig::new();
        other.hand.advance(Span::from_secs(1_000_000));
        other.rtc.restore(&saved).unwrap();
        assert!(other.irq.level());
        assert_eq!(other.time(), rig.time());
        assert_eq!(other.get(12), 0xd0);
    }
}
