//! The local APIC proper: acceptance, priorities, acknowledge, end of interrupt, reset.
//!
//! ```text
//!              accept(vector)            acknowledge()              end_of_interrupt()
//!  (message) ---------------->  IRR  ------------------->  ISR  -----------------------> (gone;
//!                               TMR remembers the trigger                 level: broadcast to the IOAPIC)
//! ```

use vm_types::Moment;

use super::destination::{Identity, x2apic_logical_id};
use super::lvt::{Lvt, LvtEntry};
use super::message::{DeliveryMode, Trigger};
use super::timer::Timer;
use super::vectors::VectorSet;

/// What a local APIC is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalApicConfig {
    /// The identifier, unique in the machine. In xAPIC mode the low eight bits count.
    pub id: u32,
    /// Whether this is the bootstrap processor.
    pub bootstrap: bool,
    /// Rate of the timer's input clock.
    pub timer_hz: u64,
    /// Rate of the time-stamp counter.
    pub tsc_hz: u64,
    /// Physical address width, which bounds `IA32_APIC_BASE`.
    pub physical_address_bits: u8,
}

/// What the processor should take next, were interrupts enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// A vector of the APIC's own; take it with [`LocalApic::acknowledge`].
    Vector(u8),
    /// The 8259 pair has one; ask it for the vector after [`LocalApic::acknowledge_external`].
    External,
}

/// One processor's local APIC.
#[derive(Clone, Debug)]
pub struct LocalApic {
    pub(super) config: LocalApicConfig,
    /// `IA32_APIC_BASE`.
    pub(super) base: u64,
    pub(super) task_priority: u8,
    pub(super) spurious: u32,
    /// Bits 31:24 of the LDR, in xAPIC mode.
    pub(super) logical_id: u8,
    /// The cluster model (DFR 0) instead of the flat one.
    pub(super) cluster_model: bool,
    pub(super) irr: VectorSet,
    pub(super) isr: VectorSet,
    pub(super) tmr: VectorSet,
    /// ESR as software reads it, and the errors since it was last latched.
    pub(super) errors: u8,
    pub(super) errors_pending: u8,
    pub(super) lvt: Lvt,
    pub(super) icr: u64,
    pub(super) timer: Timer,
    /// Level of the pins LINT0 and LINT1.
    pub(super) pins: [bool; 2],
    /// An ExtINT message that waits to be acknowledged.
    pub(super) external: bool,
    /// An NMI from the table (LINT1 as a rule) that the processor has not yet collected.
    pub(super) nmi: bool,
}

pub(super) const BASE_BOOTSTRAP: u64 = 1 << 8;
pub(super) const BASE_X2APIC: u64 = 1 << 10;
pub(super) const BASE_ENABLED: u64 = 1 << 11;
pub(super) const BASE_RESET: u64 = 0xfee0_0000;
pub(super) const SPURIOUS_ENABLED: u32 = 1 << 8;
pub(super) const SPURIOUS_NO_BROADCAST: u32 = 1 << 12;

/// Error status bits (SDM 3A, APIC, "Error Handling").
pub(super) mod error {
    pub(in crate::apic) const SEND_ILLEGAL_VECTOR: u8 = 1 << 5;
    pub(in crate::apic) const RECEIVE_ILLEGAL_VECTOR: u8 = 1 << 6;
    pub(in crate::apic) const ILLEGAL_REGISTER: u8 = 1 << 7;
}

impl LocalApic {
    /// An APIC as after power-up: globally enabled at 0xFEE0_0000, software-disabled.
    ///
    /// The bootstrap processor's LINT0 starts as ExtINT, unmasked, which PC firmware would do first thing:
    /// an 8259 then works for guests that never touch the APIC.
    pub fn new(config: LocalApicConfig) -> Self {
        let mut apic = Self {
            config,
            base: 0,
            task_priority: 0,
            spurious: 0,
            logical_id: 0,
            cluster_model: false,
            irr: VectorSet::EMPTY,
            isr: VectorSet::EMPTY,
            tmr: VectorSet::EMPTY,
            errors: 0,
            errors_pending: 0,
            lvt: Lvt::MASKED,
            icr: 0,
            timer: Timer::new(config.timer_hz),
            pins: [false; 2],
            external: false,
            nmi: false,
        };
        apic.reset();
        apic
    }

    /// Power-up reset. The levels of the pins stay: they belong to those who drive them.
    pub fn reset(&mut self) {
        self.base = BASE_RESET | BASE_ENABLED;
        if self.config.bootstrap {
            self.base |= BASE_BOOTSTRAP;
        }
        self.reset_registers();
    }

    /// INIT: everything but the identifier, the mode and the base (SDM 3A, APIC, "Local APIC State After
    /// It Receives an INIT-Deassert IPI", "x2APIC after INIT").
    pub fn init(&mut self) {
        self.reset_registers();
    }

    pub(super) fn reset_registers(&mut self) {
        self.task_priority = 0;
        self.spurious = 0xff;
        self.logical_id = 0;
        self.cluster_model = false;
        self.irr = VectorSet::EMPTY;
        self.isr = VectorSet::EMPTY;
        self.tmr = VectorSet::EMPTY;
        self.errors = 0;
        self.errors_pending = 0;
        self.lvt = Lvt::MASKED;
        if self.config.bootstrap {
            self.lvt.restore(LvtEntry::Lint0, 0x700);
        }
        self.icr = 0;
        self.timer.reset();
        self.external = false;
        self.nmi = false;
    }

    /// The identifier it was built with, which is the x2APIC identifier.
    pub fn id(&self) -> u32 {
        self.config.id
    }

    /// Where the register page is, if it is mapped: enabled and not in x2APIC mode.
    pub fn window(&self) -> Option<u64> {
        (self.is_present() && !self.is_x2apic()).then_some(self.base & !0xfff)
    }

    /// Whether the physical page at `page` is the register page.
    #[inline]
    pub fn covers(&self, page: u64) -> bool {
        self.base ^ page < 0x1000 && self.window() == Some(page)
    }

    /// Whether it is globally enabled (`IA32_APIC_BASE` bit 11).
    pub fn is_present(&self) -> bool {
        self.base & BASE_ENABLED != 0
    }

    /// Whether it is in x2APIC mode.
    pub fn is_x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    /// Whether software has enabled it (SVR bit 8).
    pub fn is_enabled(&self) -> bool {
        self.spurious & SPURIOUS_ENABLED != 0
    }

    /// What senders have to know. Publish it in the mailbox after each register or base write.
    pub fn identity(&self) -> Identity {
        if !self.is_present() {
            return Identity::ABSENT;
        }
        Identity::xapic(self.config.id, self.logical_id)
            .with_cluster_model(self.cluster_model)
            .with_x2apic(self.is_x2apic())
            .with_enabled(self.is_enabled())
            .with_priority(self.task_priority)
    }

    /// The LDR as software reads it.
    pub(super) fn logical_destination(&self) -> u32 {
        if self.is_x2apic() {
            x2apic_logical_id(self.config.id)
        } else {
            u32::from(self.logical_id) << 24
        }
    }

    /// Takes a fixed or lowest-priority interrupt into IRR.
    ///
    /// A software-disabled APIC drops it; vectors below 16 are an error (ESR bit 6).
    pub fn accept(&mut self, vector: u8, trigger: Trigger) {
        if !self.is_present() || !self.is_enabled() {
            return;
        }
        self.accept_local(vector, trigger);
    }

    fn accept_local(&mut self, vector: u8, trigger: Trigger) {
        if vector < 16 {
            self.note_error(error::RECEIVE_ILLEGAL_VECTOR);
        } else {
            self.irr.insert(vector);
            self.tmr.set(vector, trigger == Trigger::Level);
        }
    }

    /// Takes 64 edge- and level-triggered interrupts at once, as a mailbox holds them: vectors from
    /// `word * 64`, `level` a subset of `requests`.
    pub(super) fn accept_word(&mut self, word: usize, requests: u64, level: u64) {
        if requests == 0 || !self.is_present() || !self.is_enabled() {
            return;
        }
        let mut requests = requests;
        while requests != 0 {
            let bit = requests.trailing_zeros();
            requests &= requests - 1;
            let trigger = if level >> bit & 1 == 1 {
                Trigger::Level
            } else {
                Trigger::Edge
            };
            self.accept_local((word * 64) as u8 + bit as u8, trigger);
        }
    }

    /// Takes an ExtINT message.
    pub fn accept_external(&mut self) {
        if self.is_present() {
            self.external = true;
        }
    }

    /// Sets error bits and raises the error entry.
    pub(super) fn note_error(&mut self, bits: u8) {
        self.errors_pending |= bits;
        if !self.lvt.is_masked(LvtEntry::Error) {
            let vector = self.lvt.vector(LvtEntry::Error);
            if vector < 16 {
                self.errors_pending |= error::RECEIVE_ILLEGAL_VECTOR;
            } else {
                self.irr.insert(vector);
                self.tmr.remove(vector);
            }
        }
    }

    /// Lets a local interrupt happen (performance counter, thermal sensor, error, or a pin's edge).
    pub fn fire(&mut self, entry: LvtEntry) {
        if !self.is_present() || self.lvt.is_masked(entry) {
            return;
        }
        match self.lvt.mode(entry) {
            DeliveryMode::Fixed => {
                let trigger = if self.lvt.is_level(entry) {
                    self.lvt.set_remote_irr(entry, true);
                    Trigger::Level
                } else {
                    Trigger::Edge
                };
                self.accept_local(self.lvt.vector(entry), trigger);
            }
            DeliveryMode::Nmi => self.nmi = true,
            // While LINT0 is high, `pending` sees the level; other entries have no 8259 behind them.
            DeliveryMode::ExtInt => {}
            DeliveryMode::LowestPriority
            | DeliveryMode::Smi
            | DeliveryMode::Reserved
            | DeliveryMode::Init
            | DeliveryMode::Startup => {}
        }
        if entry == LvtEntry::Performance {
            self.lvt.mask(LvtEntry::Performance);
        }
    }

    /// Drives LINT0, the 8259's INTR.
    pub fn set_lint0(&mut self, level: bool) {
        let before = std::mem::replace(&mut self.pins[0], level);
        if level && !before {
            self.fire(LvtEntry::Lint0);
        }
    }

    /// Drives LINT1, the machine's NMI. A globally disabled APIC passes it on as it is.
    pub fn set_lint1(&mut self, level: bool) {
        let before = std::mem::replace(&mut self.pins[1], level);
        if level && !before {
            if self.is_present() {
                self.fire(LvtEntry::Lint1);
            } else {
                self.nmi = true;
            }
        }
    }

    /// Takes the NMI that the local vector table has produced, if there is one.
    pub fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.nmi)
    }

    /// What the processor should take next if its interrupt flag allows. The 8259 goes first, as its pin
    /// bypasses the priority logic.
    pub fn pending(&self) -> Option<Pending> {
        if self.external_pending() {
            return Some(Pending::External);
        }
        self.pending_vector().map(Pending::Vector)
    }

    /// Whether the 8259 or an ExtINT message asks for an acknowledge cycle.
    pub fn external_pending(&self) -> bool {
        if !self.is_present() {
            return self.pins[0];
        }
        self.external
            || self.pins[0]
                && !self.lvt.is_masked(LvtEntry::Lint0)
                && self.lvt.mode(LvtEntry::Lint0) == DeliveryMode::ExtInt
    }

    /// The highest requested vector, if its priority class is above the processor's.
    pub fn pending_vector(&self) -> Option<u8> {
        if !self.is_present() {
            return None;
        }
        self.irr
            .highest()
            .filter(|vector| vector >> 4 > self.processor_priority() >> 4)
    }

    /// Takes the pending vector into service. The spurious vector when none is pending any more, because
    /// the processor has already begun to take one.
    pub fn acknowledge(&mut self) -> u8 {
        match self.pending_vector() {
            Some(vector) => {
                self.irr.remove(vector);
                self.isr.insert(vector);
                vector
            }
            None => self.spurious as u8,
        }
    }

    /// Notes that the processor runs an acknowledge cycle on the 8259.
    pub fn acknowledge_external(&mut self) {
        self.external = false;
    }

    /// Ends the highest interrupt in service. Returns the vector when IOAPICs have to hear of it: it was
    /// level-triggered and the broadcast is not suppressed.
    pub fn end_of_interrupt(&mut self) -> Option<u8> {
        let vector = self.isr.highest()?;
        self.isr.remove(vector);
        if !self.tmr.contains(vector) {
            return None;
        }
        if self.lvt.remote_irr(LvtEntry::Lint0) && self.lvt.vector(LvtEntry::Lint0) == vector {
            self.lvt.set_remote_irr(LvtEntry::Lint0, false);
            if self.pins[0] {
                self.fire(LvtEntry::Lint0);
            }
        }
        (self.spurious & SPURIOUS_NO_BROADCAST == 0).then_some(vector)
    }

    /// PPR: the higher of task priority and the class in service (SDM 3A, APIC, "Task and Processor
    /// Priorities").
    pub fn processor_priority(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0) & 0xf0;
        if self.task_priority & 0xf0 >= in_service {
            self.task_priority
        } else {
            in_service
        }
    }

    /// APR: what a bus arbitration would have used.
    pub(super) fn arbitration_priority(&self) -> u8 {
        let requested = self.irr.highest().unwrap_or(0) & 0xf0;
        let in_service = self.isr.highest().unwrap_or(0) & 0xf0;
        if self.task_priority & 0xf0 >= requested && self.task_priority & 0xf0 > in_service {
            self.task_priority
        } else {
            (self.task_priority & 0xf0).max(requested).max(in_service)
        }
    }

    /// CR8 as software reads it.
    pub fn cr8(&self) -> u64 {
        u64::from(self.task_priority >> 4)
    }

    /// Writes CR8; bits above the low four are the caller's to refuse.
    pub fn set_cr8(&mut self, value: u64) {
        self.task_priority = (value as u8 & 0xf) << 4;
    }

    /// When [`LocalApic::advance`] has something to do: the next unmasked end of the timer.
    pub fn deadline(&self) -> Option<Moment> {
        if self.is_present() && !self.lvt.is_masked(LvtEntry::Timer) {
            self.timer.next()
        } else {
            None
        }
    }

    /// Lets the timer's interrupt happen, if it is due by `now`.
    pub fn advance(&mut self, now: Moment) {
        if self.timer.expire(now, self.lvt.timer_mode()) {
            self.fire(LvtEntry::Timer);
        }
    }

    /// `IA32_TSC_DEADLINE` as software reads it.
    pub fn tsc_deadline(&mut self, now: Moment) -> u64 {
        self.advance(now);
        self.timer.tsc_deadline()
    }

    /// Writes `IA32_TSC_DEADLINE`; `tsc` is the counter at `now`.
    pub fn set_tsc_deadline(&mut self, now: Moment, target: u64, tsc: u64) {
        self.advance(now);
        let mode = self.lvt.timer_mode();
        self.timer
            .write_tsc_deadline(now, mode, target, tsc, self.config.tsc_hz);
        self.advance(now);
    }

    /// Follows a jump of the time-stamp counter to `tsc`: an armed deadline moves with it.
    pub fn tsc_moved(&mut self, now: Moment, tsc: u64) {
        let target = self.timer.tsc_deadline();
        if target != 0 {
            self.set_tsc_deadline(now, target, tsc);
        }
    }
}
