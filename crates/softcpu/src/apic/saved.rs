//! The local APIC's state for snapshots: the register page, the base MSR, the timer's target and the
//! errors not yet latched, as kernel hypervisors save it, so that a snapshot can move between backends.

use serde::{Deserialize, Serialize};
use vm_types::Moment;

use super::local::{BASE_BOOTSTRAP, LocalApic, SPURIOUS_ENABLED};
use super::lvt::LvtEntry;
use super::timer::RestoredTimer;

/// A saved local APIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedApic {
    /// The 64 registers of the page, `registers[i]` at offset `16 * i`.
    pub registers: Vec<u32>,
    /// `IA32_APIC_BASE`.
    pub base: u64,
    /// When the timer next ends, in nanoseconds of the machine's clock.
    pub timer_target_ns: Option<u64>,
    /// `IA32_TSC_DEADLINE`.
    pub tsc_deadline: u64,
    /// Error bits that a write to ESR will show.
    pub pending_errors: u8,
    /// Levels of LINT0 and LINT1.
    pub pins: [bool; 2],
    /// An ExtINT message waits.
    pub external: bool,
    /// An NMI of the local vector table waits.
    pub nmi: bool,
}

/// A saved APIC that no APIC can have been in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SavedApicError {
    /// The page has another size.
    #[error("local APIC page: expected 64 registers, found {found}")]
    RegisterCount {
        /// Registers found.
        found: usize,
    },
    /// `IA32_APIC_BASE` has reserved bits or a combination of modes that does not exist.
    #[error("local APIC base {base:#x} is not a legal value")]
    Base {
        /// The value found.
        base: u64,
    },
}

const REGISTERS: usize = 64;

impl LocalApic {
    /// The whole state at `now`.
    pub fn save(&mut self, now: Moment) -> SavedApic {
        self.advance(now);
        let errors = self.errors_pending;
        // Reading the page as software would; registers it cannot read stay zero. Unknown offsets note
        // an error, which is taken back below.
        let (irr, lvt) = (self.irr, self.lvt);
        let mut registers: Vec<u32> = (0..REGISTERS as u16)
            .map(|index| self.read(now, index << 4))
            .collect();
        self.errors_pending = errors;
        (self.irr, self.lvt) = (irr, lvt);
        for (index, word) in registers[0x20..0x28].iter_mut().enumerate() {
            *word = irr.register(index);
        }
        // In x2APIC mode too the ICR's destination is its upper half.
        registers[0x31] = (self.icr >> 32) as u32;
        registers[0x0d] = u32::from(self.logical_id) << 24;
        if self.is_x2apic() {
            registers[0x0d] = self.logical_destination();
        }
        SavedApic {
            registers,
            base: self.base,
            timer_target_ns: self.timer.next().map(Moment::as_nanos),
            tsc_deadline: self.timer.tsc_deadline(),
            pending_errors: errors,
            pins: self.pins,
            external: self.external,
            nmi: self.nmi,
        }
    }

    /// Puts a saved state back at `now`. Nothing changes on an error. The identifier stays the one this
    /// APIC was built with.
    pub fn load(&mut self, now: Moment, saved: &SavedApic) -> Result<(), SavedApicError> {
        let page: &[u32; REGISTERS] =
            saved
                .registers
                .as_slice()
                .try_into()
                .map_err(|_| SavedApicError::RegisterCount {
                    found: saved.registers.len(),
                })?;
        let mut fresh = Self::new(self.config);
        // By way of xAPIC, the only road into x2APIC mode.
        let illegal = |_| SavedApicError::Base { base: saved.base };
        fresh.set_base(saved.base).map_err(illegal)?;
        fresh.base = fresh.base & !BASE_BOOTSTRAP | saved.base & BASE_BOOTSTRAP;
        fresh.task_priority = page[0x08] as u8;
        fresh.spurious = page[0x0f] & 0x11ff;
        fresh.logical_id = if fresh.is_x2apic() {
            0
        } else {
            (page[0x0d] >> 24) as u8
        };
        fresh.cluster_model = page[0x0e] >> 28 != 0xf;
        for index in 0..8 {
            // Vectors below 16 exist in no set.
            let legal = if index == 0 { !0xffff } else { u32::MAX };
            fresh.isr.set_register(index, page[0x10 + index] & legal);
            fresh.tmr.set_register(index, page[0x18 + index] & legal);
            fresh.irr.set_register(index, page[0x20 + index] & legal);
        }
        fresh.errors = page[0x28] as u8;
        fresh.errors_pending = saved.pending_errors;
        fresh.icr = u64::from(page[0x31]) << 32 | u64::from(page[0x30]);
        for (index, entry) in LvtEntry::ALL.into_iter().enumerate() {
            fresh.lvt.restore(entry, page[0x32 + index]);
        }
        if fresh.spurious & SPURIOUS_ENABLED == 0 {
            // As after reset LINT0 of the bootstrap processor may be open; nothing else may.
            for entry in LvtEntry::ALL {
                if entry != LvtEntry::Lint0 {
                    fresh.lvt.mask(entry);
                }
            }
        }
        fresh.timer.restore(
            now,
            RestoredTimer {
                mode: fresh.lvt.timer_mode(),
                divide: page[0x3e],
                initial: page[0x38],
                tsc_deadline: saved.tsc_deadline,
                next: saved.timer_target_ns.map(Moment::from_nanos),
            },
        );
        fresh.pins = saved.pins;
        fresh.external = saved.external;
        fresh.nmi = saved.nmi;
        *self = fresh;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apic::local::LocalApicConfig;
    use crate::apic::message::Trigger;

    fn apic() -> LocalApic {
        LocalApic::new(LocalApicConfig {
            id: 3,
            bootstrap: false,
            timer_hz: 100_000_000,
            tsc_hz: 2_000_000_000,
            physical_address_bits: 40,
        })
    }

    #[test]
    fn a_busy_apic_survives_a_round_trip() {
        let now = Moment::from_nanos(1_000);
        let mut busy = apic();
        for (offset, value) in [
            (0xf0, 0x11ff),
            (0xd0, 0x0800_0000),
            (0xe0, 0x0fff_ffff),
            (0x80, 0x20),
            (0x320, 0x2_0031),
            (0x350, 0x8041),
            (0x3e0, 0xb),
            (0x380, 12_345),
            (0x310, 0x0500_0000),
        ] {
            let _none = busy.write(now, offset, value);
        }
        busy.accept(0x51, Trigger::Level);
        busy.acknowledge();
        busy.accept(0x61, Trigger::Edge);
        let later = Moment::from_nanos(50_000);
        let saved = busy.save(later);
        let mut copy = apic();
        copy.load(later, &saved).unwrap();
        assert_eq!(copy.save(later), saved);
        assert_eq!(copy.deadline(), busy.deadline());
        assert_eq!(copy.identity(), busy.identity());
        assert_eq!(copy.pending(), busy.pending());
    }

    #[test]
    fn x2apic_with_a_deadline() {
        let now = Moment::from_nanos(7);
        let mut busy = apic();
        busy.set_base(0xfee0_0c00).unwrap();
        for (msr, value) in [(0x80f, 0x1ff), (0x832, 0x4_0040), (0x830, 0x1_0000_4000)] {
            let _effect = busy.write_msr(now, msr, value).unwrap();
        }
        busy.set_tsc_deadline(now, 1_000_000, 0);
        let saved = busy.save(now);
        assert_eq!(saved.timer_target_ns, Some(500_007));
        let mut copy = apic();
        copy.load(now, &saved).unwrap();
        assert_eq!(copy.save(now), saved);
        assert_eq!(copy.tsc_deadline(now), 1_000_000);
    }

    #[test]
    fn damaged_states_are_refused_and_change_nothing() {
        let mut target = apic();
        let good = target.save(Moment::START);
        let mut short = good.clone();
        short.registers.pop();
        assert_eq!(
            target.load(Moment::START, &short),
            Err(SavedApicError::RegisterCount { found: 63 })
        );
        let mut bad_base = good.clone();
        bad_base.base = 0x400;
        assert_eq!(
            target.load(Moment::START, &bad_base),
            Err(SavedApicError::Base { base: 0x400 })
        );
        assert_eq!(target.save(Moment::START), good);
    }
}
