//! The local vector table: one entry for each interrupt that starts inside the processor.

use super::message::DeliveryMode;

/// An entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LvtEntry {
    /// The APIC timer.
    Timer,
    /// The thermal sensor; nothing here ever warms up.
    Thermal,
    /// Performance counter overflow.
    Performance,
    /// Pin 0: by convention the 8259's INTR.
    Lint0,
    /// Pin 1: by convention NMI.
    Lint1,
    /// An error bit was set.
    Error,
}

impl LvtEntry {
    /// All entries, in the order of their registers.
    pub const ALL: [Self; 6] = [
        Self::Timer,
        Self::Thermal,
        Self::Performance,
        Self::Lint0,
        Self::Lint1,
        Self::Error,
    ];

    /// The bits that software may write.
    const fn writable(self) -> u32 {
        match self {
            Self::Timer => 0x0007_00ff,
            Self::Thermal | Self::Performance => 0x0001_07ff,
            Self::Lint0 | Self::Lint1 => 0x0001_a7ff,
            Self::Error => 0x0001_00ff,
        }
    }

    /// Whether `value` sets a bit that is reserved in this entry. Delivery status (12) and remote IRR (14)
    /// are read-only rather than reserved.
    pub const fn has_reserved(self, value: u32) -> bool {
        value & !(self.writable() | 1 << 12 | 1 << 14) != 0
    }
}

const MASKED: u32 = 1 << 16;
const REMOTE_IRR: u32 = 1 << 14;
const LEVEL_TRIGGERED: u32 = 1 << 15;

/// How the timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerMode {
    /// Down to zero, once.
    OneShot,
    /// Down to zero and again.
    Periodic,
    /// Until the time-stamp counter passes `IA32_TSC_DEADLINE`.
    TscDeadline,
    /// The fourth encoding, which is reserved: the timer stands still.
    Reserved,
}

/// The six entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lvt([u32; 6]);

impl Lvt {
    /// All entries masked, as after reset.
    pub const MASKED: Self = Self([MASKED; 6]);

    /// The register's value.
    pub const fn get(&self, entry: LvtEntry) -> u32 {
        self.0[entry as usize]
    }

    /// Writes the register; while the APIC is software-disabled the mask bit stays set.
    pub fn set(&mut self, entry: LvtEntry, value: u32, enabled: bool) {
        let old = self.0[entry as usize];
        let mut new = value & entry.writable() | old & REMOTE_IRR;
        if !enabled {
            new |= MASKED;
        }
        // A pin that is not level-triggered any more has no remote IRR.
        if new & LEVEL_TRIGGERED == 0 {
            new &= !REMOTE_IRR;
        }
        self.0[entry as usize] = new;
    }

    /// Puts back a saved value as it was.
    pub fn restore(&mut self, entry: LvtEntry, value: u32) {
        self.0[entry as usize] = value & (entry.writable() | REMOTE_IRR);
    }

    /// Masks all entries: what software disabling does.
    pub fn mask_all(&mut self) {
        for entry in &mut self.0 {
            *entry |= MASKED;
        }
    }

    /// Masks one entry.
    pub fn mask(&mut self, entry: LvtEntry) {
        self.0[entry as usize] |= MASKED;
    }

    /// Whether the entry is masked.
    pub const fn is_masked(&self, entry: LvtEntry) -> bool {
        self.get(entry) & MASKED != 0
    }

    /// The entry's vector.
    pub const fn vector(&self, entry: LvtEntry) -> u8 {
        self.get(entry) as u8
    }

    /// The entry's delivery mode; the timer and error entries know only fixed.
    pub const fn mode(&self, entry: LvtEntry) -> DeliveryMode {
        match entry {
            LvtEntry::Timer | LvtEntry::Error => DeliveryMode::Fixed,
            _ => DeliveryMode::from_bits(self.get(entry) >> 8),
        }
    }

    /// Whether a fixed interrupt of this pin is level-triggered. LINT1 is always edge-triggered.
    pub const fn is_level(&self, entry: LvtEntry) -> bool {
        matches!(entry, LvtEntry::Lint0) && self.get(entry) & LEVEL_TRIGGERED != 0
    }

    /// Whether a level-triggered pin waits for its end of interrupt.
    pub const fn remote_irr(&self, entry: LvtEntry) -> bool {
        self.get(entry) & REMOTE_IRR != 0
    }

    /// Notes that a level-triggered pin has been accepted, or has ended.
    pub fn set_remote_irr(&mut self, entry: LvtEntry, set: bool) {
        let word = &mut self.0[entry as usize];
        *word = if set {
            *word | REMOTE_IRR
        } else {
            *word & !REMOTE_IRR
        };
    }

    /// The timer's mode.
    pub const fn timer_mode(&self) -> TimerMode {
        match self.get(LvtEntry::Timer) >> 17 & 3 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            2 => TimerMode::TscDeadline,
            _ => TimerMode::Reserved,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_writable_bits_only() {
        let mut lvt = Lvt::MASKED;
        for (entry, kept) in [
            (LvtEntry::Timer, 0x0007_00ff),
            (LvtEntry::Thermal, 0x0001_07ff),
            (LvtEntry::Performance, 0x0001_07ff),
            (LvtEntry::Lint0, 0x0001_a7ff),
            (LvtEntry::Lint1, 0x0001_a7ff),
            (LvtEntry::Error, 0x0001_00ff),
        ] {
            lvt.set(entry, u32::MAX, true);
            assert_eq!(lvt.get(entry), kept, "{entry:?}");
        }
    }

    #[test]
    fn a_disabled_apic_cannot_unmask() {
        let mut lvt = Lvt::MASKED;
        lvt.set(LvtEntry::Timer, 0x31, false);
        assert!(lvt.is_masked(LvtEntry::Timer));
        lvt.set(LvtEntry::Timer, 0x31, true);
        assert!(!lvt.is_masked(LvtEntry::Timer));
    }

    #[test]
    fn timer_modes() {
        let mut lvt = Lvt::MASKED;
        for (bits, mode) in [
            (0, TimerMode::OneShot),
            (1, TimerMode::Periodic),
            (2, TimerMode::TscDeadline),
            (3, TimerMode::Reserved),
        ] {
            lvt.set(LvtEntry::Timer, bits << 17, true);
            assert_eq!(lvt.timer_mode(), mode);
        }
    }
}
