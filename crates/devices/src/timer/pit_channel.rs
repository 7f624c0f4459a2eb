//! One counter of the 8254: mode, count, latches, and its output as a function of time.

use serde::{Deserialize, Serialize};
use vm_types::{Moment, Span};

use super::pit::PIT_HZ;

/// How a channel counts (8254 data sheet, "Mode definitions").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mode {
    /// 0: low until the count is over.
    #[default]
    Terminal,
    /// 1: as 0, started by the gate.
    OneShot,
    /// 2: low for the last tick of each period.
    Rate,
    /// 3: high for the first half of each period.
    Square,
    /// 4: low for one tick when the count is over.
    Strobe,
    /// 5: as 4, started by the gate.
    GateStrobe,
}

impl Mode {
    const fn of(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::Terminal,
            1 => Self::OneShot,
            2 | 6 => Self::Rate,
            3 | 7 => Self::Square,
            4 => Self::Strobe,
            _ => Self::GateStrobe,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Terminal => 0,
            Self::OneShot => 1,
            Self::Rate => 2,
            Self::Square => 3,
            Self::Strobe => 4,
            Self::GateStrobe => 5,
        }
    }

    /// A rising gate starts the count again.
    const fn is_gate_started(self) -> bool {
        matches!(
            self,
            Self::OneShot | Self::GateStrobe | Self::Rate | Self::Square
        )
    }

    /// A low gate stops the count.
    const fn is_gate_stopped(self) -> bool {
        !matches!(self, Self::OneShot | Self::GateStrobe)
    }
}

/// Which bytes of the count the guest reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Bytes {
    Low,
    High,
    #[default]
    Both,
}

/// One counter.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Channel {
    mode: Mode,
    bcd: bool,
    bytes: Bytes,
    /// Ticks of a whole count, 1 to 65,536; 0 until the guest has written one.
    count: u32,
    /// Low byte of a count whose high byte has not come yet.
    half_written: Option<u8>,
    /// The next read of an unlatched count gives the high byte.
    half_read: bool,
    latched_count: Option<(u16, u8)>,
    latched_status: Option<u8>,
    gate: bool,
    /// Ticks counted before `since`.
    elapsed: u64,
    /// Counting since then, in nanoseconds of the clock; `None` while stopped.
    since: Option<u64>,
}

impl Channel {
    pub(super) fn with_gate(gate: bool) -> Self {
        Self {
            gate,
            ..Self::default()
        }
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    fn modulus(&self) -> u64 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// Ticks since the count was loaded.
    fn ticks(&self, now: Moment) -> u64 {
        let running = self.since.map_or(0, |since| {
            now.since(Moment::from_nanos(since)).ticks(PIT_HZ)
        });
        self.elapsed.saturating_add(running)
    }

    fn stop(&mut self, now: Moment) {
        self.elapsed = self.ticks(now);
        self.since = None;
    }

    fn restart(&mut self, now: Moment) {
        self.elapsed = 0;
        self.since = (self.count > 0).then_some(now.as_nanos());
    }

    /// The control word's part for this channel (its two top bits are the caller's).
    pub(super) fn control(&mut self, now: Moment, word: u8) {
        self.bytes = match (word >> 4) & 3 {
            0 => return self.latch_count(now),
            1 => Bytes::Low,
            2 => Bytes::High,
            _ => Bytes::Both,
        };
        *self = Self {
            mode: Mode::of(word >> 1),
            bcd: word & 1 != 0,
            bytes: self.bytes,
            gate: self.gate,
            ..Self::default()
        };
    }

    /// The read-back command: `count` and `status` are what it asks for.
    pub(super) fn read_back(&mut self, now: Moment, count: bool, status: bool) {
        if count {
            self.latch_count(now);
        }
        if status && self.latched_status.is_none() {
            let bytes = match self.bytes {
                Bytes::Low => 1,
                Bytes::High => 2,
                Bytes::Both => 3,
            };
            let null_count = self.count == 0 || self.half_written.is_some();
            self.latched_status = Some(
                u8::from(self.output(now)) << 7
                    | u8::from(null_count) << 6
                    | bytes << 4
                    | self.mode.bits() << 1
                    | u8::from(self.bcd),
            );
        }
    }

    fn latch_count(&mut self, now: Moment) {
        if self.latched_count.is_none() {
            let bytes = if self.bytes == Bytes::Both { 2 } else { 1 };
            self.latched_count = Some((self.current(now), bytes));
        }
    }

    /// What the counting element holds, as the guest reads it.
    fn current(&self, now: Moment) -> u16 {
        let count = u64::from(self.count);
        if count == 0 {
            return 0;
        }
        let ticks = self.ticks(now);
        let value = match self.mode {
            Mode::Rate => count - ticks % count,
            // Counts down by two, twice a period.
            Mode::Square => count - (ticks.wrapping_mul(2) % count),
            _ => {
                let modulus = self.modulus();
                (count + modulus - ticks % modulus) % modulus
            }
        } % self.modulus();
        if self.bcd {
            to_bcd(value as u16)
        } else {
            value as u16
        }
    }

    pub(super) fn read(&mut self, now: Moment) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        if let Some((value, bytes_left)) = self.latched_count {
            let [low, high] = value.to_le_bytes();
            self.latched_count = (bytes_left == 2).then_some((value, 1));
            return match (self.bytes, bytes_left) {
                (Bytes::Low, _) | (Bytes::Both, 2) => low,
                _ => high,
            };
        }
        let [low, high] = self.current(now).to_le_bytes();
        match self.bytes {
            Bytes::Low => low,
            Bytes::High => high,
            Bytes::Both => {
                self.half_read = !self.half_read;
                if self.half_read { low } else { high }
            }
        }
    }

    /// A write to the count; returns whether a whole count is there, which starts it.
    pub(super) fn write(&mut self, now: Moment, value: u8) -> bool {
        let count = match (self.bytes, self.half_written.take()) {
            (Bytes::Low, _) => u16::from(value),
            (Bytes::High, _) => u16::from(value) << 8,
            (Bytes::Both, None) => {
                self.half_written = Some(value);
                return false;
            }
            (Bytes::Both, Some(low)) => u16::from_le_bytes([low, value]),
        };
        let count = if self.bcd { from_bcd(count) } else { count };
        self.count = match count {
            0 => self.modulus() as u32,
            count => u32::from(count),
        };
        self.elapsed = 0;
        self.since = None;
        let waits_for_gate = matches!(self.mode, Mode::OneShot | Mode::GateStrobe);
        if self.gate && !waits_for_gate {
            self.restart(now);
        }
        true
    }

    pub(super) fn set_gate(&mut self, now: Moment, gate: bool) {
        let was = std::mem::replace(&mut self.gate, gate);
        if gate && !was {
            if self.mode.is_gate_started() {
                self.restart(now);
            } else if self.count > 0 {
                self.since = Some(now.as_nanos());
            }
        } else if !gate && was && self.mode.is_gate_stopped() {
            self.stop(now);
        }
    }

    /// Level of the OUT pin.
    pub(super) fn output(&self, now: Moment) -> bool {
        let count = u64::from(self.count);
        let ticks = self.ticks(now);
        match self.mode {
            Mode::Terminal => count > 0 && ticks >= count,
            Mode::OneShot => self.since.is_none() || ticks >= count,
            Mode::Rate => self.since.is_none() || ticks % count != count - 1,
            Mode::Square => self.since.is_none() || ticks % count < count.div_ceil(2),
            Mode::Strobe | Mode::GateStrobe => self.since.is_none() || ticks != count,
        }
    }

    /// The first moment after `now` at which OUT rises and not before; `None` if it does not.
    pub(super) fn next_rise(&self, now: Moment) -> Option<Moment> {
        let since = Moment::from_nanos(self.since?);
        let count = u64::from(self.count);
        let ticks = self.ticks(now);
        let at = match self.mode {
            Mode::Rate | Mode::Square => (ticks / count + 1).saturating_mul(count),
            Mode::Terminal | Mode::OneShot if ticks < count => count,
            Mode::Strobe | Mode::GateStrobe if ticks <= count => count + 1,
            _ => return None,
        };
        let left = at.saturating_sub(self.elapsed);
        Some(since.after(Span::of_ticks(left, PIT_HZ)))
    }

    /// The state with its times counted from `now`, for a clock that starts elsewhere.
    pub(super) fn frozen(&self, now: Moment) -> Self {
        Self {
            elapsed: self.ticks(now),
            since: self.since.map(|_| 0),
            ..self.clone()
        }
    }

    /// The reverse of `frozen`, with what a damaged state could hold put right.
    pub(super) fn thawed(mut self, now: Moment) -> Self {
        self.count = self.count.min(0x1_0000);
        self.since = self
            .since
            .filter(|_| self.count > 0)
            .map(|_| now.as_nanos());
        self
    }
}

fn to_bcd(value: u16) -> u16 {
    ((value / 1000 % 10) << 12)
        | ((value / 100 % 10) << 8)
        | ((value / 10 % 10) << 4)
        | (value % 10)
}

/// Digits above nine count as they are, as the chip's decade counters would.
fn from_bcd(value: u16) -> u16 {
    (value >> 12) * 1000 + ((value >> 8) & 0xf) * 100 + ((value >> 4) & 0xf) * 10 + (value & 0xf)
}
