//! Register accesses: the page of an xAPIC, the MSRs of an x2APIC, and `IA32_APIC_BASE`.

use vm_types::Moment;

use super::destination::Destination;
use super::local::{
    BASE_BOOTSTRAP, BASE_ENABLED, BASE_X2APIC, LocalApic, SPURIOUS_ENABLED, SPURIOUS_NO_BROADCAST,
    error,
};
use super::lvt::{LvtEntry, TimerMode};
use super::message::{DeliveryMode, Message, Target, Trigger};
use super::register::{MsrAccess, Register};

/// Version 0x14, six LVT entries, EOI broadcast can be suppressed.
const VERSION: u32 = 1 << 24 | 5 << 16 | 0x14;
const SPURIOUS_WRITABLE: u32 = 0xff | SPURIOUS_ENABLED | SPURIOUS_NO_BROADCAST;
/// Vector, delivery mode, destination mode, level, trigger, shorthand.
const ICR_LOW_WRITABLE: u32 = 0x000c_cfff;

/// What a register write asks of the world outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an IPI that is not sent leaves a processor waiting"]
pub enum Effect {
    /// Nothing.
    None,
    /// Send this to those it means.
    Send(Message),
    /// Tell the IOAPICs that this level-triggered vector has ended.
    EndOfInterrupt(u8),
}

/// An MSR access that raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl LocalApic {
    /// Reads 32 bits at `offset` (0 to 0xfff) of the register page.
    ///
    /// Only aligned offsets are registers; the words between them read as zero. Unknown registers set
    /// ESR bit 7 and read as zero.
    pub fn read(&mut self, now: Moment, offset: u16) -> u32 {
        if offset & 0xf != 0 {
            return 0;
        }
        match Register::at_offset(offset) {
            Some(Register::SelfIpi) | None => {
                self.note_error(error::ILLEGAL_REGISTER);
                0
            }
            Some(register) => self.value(now, register),
        }
    }

    /// Writes 32 bits at `offset` (0 to 0xfff) of the register page. Writes to read-only registers are
    /// ignored; unknown registers set ESR bit 7.
    pub fn write(&mut self, now: Moment, offset: u16, value: u32) -> Effect {
        if offset & 0xf != 0 {
            return Effect::None;
        }
        match Register::at_offset(offset) {
            Some(Register::SelfIpi) | None => {
                self.note_error(error::ILLEGAL_REGISTER);
                Effect::None
            }
            Some(Register::InterruptCommandHigh) => {
                self.icr = u64::from(value & 0xff00_0000) << 32 | self.icr & 0xffff_ffff;
                Effect::None
            }
            Some(Register::InterruptCommandLow) => {
                let low = value & ICR_LOW_WRITABLE;
                self.icr = self.icr & !0xffff_ffff | u64::from(low);
                self.command(Destination {
                    field: (self.icr >> 56) as u32,
                    logical: low & 1 << 11 != 0,
                    wide: false,
                })
            }
            Some(Register::LogicalDestination) => {
                self.logical_id = (value >> 24) as u8;
                Effect::None
            }
            Some(Register::DestinationFormat) => {
                // The flat model is all ones in bits 31:28; the manual knows no third model.
                self.cluster_model = value >> 28 != 0xf;
                Effect::None
            }
            Some(register) => self.set(now, register, value),
        }
    }

    /// RDMSR of 0x800 to 0x8ff.
    pub fn read_msr(&mut self, now: Moment, msr: u32) -> Result<u64, Refused> {
        let register = self.msr_register(msr)?;
        match register.msr_access() {
            MsrAccess::Absent | MsrAccess::WriteOnly => Err(Refused),
            MsrAccess::ReadOnly | MsrAccess::ReadWrite => Ok(match register {
                Register::InterruptCommandLow => self.icr,
                _ => u64::from(self.value(now, register)),
            }),
        }
    }

    /// WRMSR of 0x800 to 0x8ff. Reserved bits fault (SDM 3A, APIC, "Reserved Bit Checking").
    pub fn write_msr(&mut self, now: Moment, msr: u32, value: u64) -> Result<Effect, Refused> {
        let register = self.msr_register(msr)?;
        if matches!(
            register.msr_access(),
            MsrAccess::Absent | MsrAccess::ReadOnly
        ) {
            return Err(Refused);
        }
        if register == Register::InterruptCommandLow {
            // Delivery status (12) is gone in x2APIC mode; a write of it is reserved.
            if value as u32 & !ICR_LOW_WRITABLE != 0 {
                return Err(Refused);
            }
            self.icr = value;
            return Ok(self.command(Destination {
                field: (value >> 32) as u32,
                logical: value & 1 << 11 != 0,
                wide: true,
            }));
        }
        let value = u32::try_from(value).map_err(|_| Refused)?;
        let reserved = match register {
            Register::EndOfInterrupt | Register::ErrorStatus => value != 0,
            Register::TaskPriority | Register::SelfIpi => value > 0xff,
            Register::SpuriousVector => value & !SPURIOUS_WRITABLE != 0,
            Register::Lvt(entry) => entry.has_reserved(value),
            Register::DivideConfiguration => value & !0b1011 != 0,
            _ => false,
        };
        if reserved {
            return Err(Refused);
        }
        if register == Register::SelfIpi {
            self.accept(value as u8, Trigger::Edge);
            if value < 16 {
                self.note_error(error::SEND_ILLEGAL_VECTOR);
            }
            return Ok(Effect::None);
        }
        Ok(self.set(now, register, value))
    }

    /// `IA32_APIC_BASE` (0x1b) as software reads it.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Writes `IA32_APIC_BASE`.
    ///
    /// ```text
    ///   from \ to    disabled      xAPIC          x2APIC
    ///   disabled     -             after reset    #GP
    ///   xAPIC        registers     -              keeps IRR, ISR, ...
    ///                are lost
    ///   x2APIC       the same      #GP            -
    /// ```
    /// Also #GP: EXTD without EN, and reserved bits. The bootstrap flag is read-only.
    /// Source: SDM 3A, APIC, "x2APIC State Transitions".
    pub fn set_base(&mut self, value: u64) -> Result<(), Refused> {
        let width = u32::from(self.config.physical_address_bits.clamp(32, 52));
        let address = ((1u64 << width) - 1) & !0xfff;
        if value & !(address | BASE_BOOTSTRAP | BASE_X2APIC | BASE_ENABLED) != 0 {
            return Err(Refused);
        }
        let mode = |base: u64| (base & BASE_ENABLED != 0, base & BASE_X2APIC != 0);
        match (mode(self.base), mode(value)) {
            // x2APIC needs the enable bit, is entered from xAPIC only and left to disabled only.
            ((_, _), (false, true))
            | ((false, _), (true, true))
            | ((true, true), (true, false)) => {
                return Err(Refused);
            }
            ((true, _), (false, false)) => self.reset_registers(),
            ((false, _), _) | ((true, false), (true, _)) | ((true, true), (true, true)) => {}
        }
        self.base = value & !BASE_BOOTSTRAP | self.base & BASE_BOOTSTRAP;
        Ok(())
    }

    fn msr_register(&self, msr: u32) -> Result<Register, Refused> {
        if !self.is_present() || !self.is_x2apic() {
            return Err(Refused);
        }
        Register::at_msr(msr).ok_or(Refused)
    }

    /// Reads a register that both modes share.
    fn value(&mut self, now: Moment, register: Register) -> u32 {
        match register {
            Register::Id if self.is_x2apic() => self.config.id,
            Register::Id => self.config.id << 24,
            Register::Version => VERSION,
            Register::TaskPriority => u32::from(self.task_priority),
            Register::ArbitrationPriority => u32::from(self.arbitration_priority()),
            Register::ProcessorPriority => u32::from(self.processor_priority()),
            Register::EndOfInterrupt | Register::RemoteRead | Register::SelfIpi => 0,
            Register::LogicalDestination => self.logical_destination(),
            Register::DestinationFormat if self.cluster_model => 0x0fff_ffff,
            Register::DestinationFormat => 0xffff_ffff,
            Register::SpuriousVector => self.spurious,
            Register::Isr(index) => self.isr.register(index.into()),
            Register::Tmr(index) => self.tmr.register(index.into()),
            Register::Irr(index) => self.irr.register(index.into()),
            Register::ErrorStatus => u32::from(self.errors),
            Register::InterruptCommandLow => self.icr as u32,
            Register::InterruptCommandHigh => (self.icr >> 32) as u32,
            Register::Lvt(entry) => self.lvt.get(entry),
            Register::InitialCount => self.timer.initial(),
            Register::CurrentCount => self.timer.current(now, self.lvt.timer_mode()),
            Register::DivideConfiguration => self.timer.divide(),
        }
    }

    /// Writes a register that both modes share; read-only ones are ignored.
    fn set(&mut self, now: Moment, register: Register, value: u32) -> Effect {
        match register {
            Register::TaskPriority => self.task_priority = value as u8,
            Register::EndOfInterrupt => {
                if let Some(vector) = self.end_of_interrupt() {
                    return Effect::EndOfInterrupt(vector);
                }
            }
            Register::SpuriousVector => {
                self.spurious = value & SPURIOUS_WRITABLE;
                if !self.is_enabled() {
                    self.lvt.mask_all();
                }
            }
            Register::ErrorStatus => {
                self.errors = std::mem::take(&mut self.errors_pending);
            }
            Register::Lvt(entry) => self.set_lvt(now, entry, value),
            Register::InitialCount => {
                self.advance(now);
                self.timer.write_initial(now, self.lvt.timer_mode(), value);
            }
            Register::DivideConfiguration => {
                self.advance(now);
                self.timer.write_divide(now, self.lvt.timer_mode(), value);
            }
            Register::Id
            | Register::Version
            | Register::ArbitrationPriority
            | Register::ProcessorPriority
            | Register::RemoteRead
            | Register::LogicalDestination
            | Register::DestinationFormat
            | Register::Isr(_)
            | Register::Tmr(_)
            | Register::Irr(_)
            | Register::InterruptCommandLow
            | Register::InterruptCommandHigh
            | Register::CurrentCount
            | Register::SelfIpi => {}
        }
        Effect::None
    }

    fn set_lvt(&mut self, now: Moment, entry: LvtEntry, value: u32) {
        // What was due under the old mask and mode happens, or is lost, under those.
        self.advance(now);
        let old: TimerMode = self.lvt.timer_mode();
        self.lvt.set(entry, value, self.is_enabled());
        if entry == LvtEntry::Timer {
            self.timer.change_mode(now, old, self.lvt.timer_mode());
        }
        // A level-triggered pin that is high when it is unmasked asks at once.
        if entry == LvtEntry::Lint0
            && self.pins[0]
            && self.lvt.is_level(entry)
            && !self.lvt.remote_irr(entry)
        {
            self.fire(entry);
        }
    }

    /// Sends what the ICR says.
    fn command(&mut self, destination: Destination) -> Effect {
        let low = self.icr as u32;
        let mode = DeliveryMode::from_bits(low >> 8);
        let vector = low as u8;
        let level_triggered = low & 1 << 15 != 0;
        let asserted = low & 1 << 14 != 0;
        match mode {
            // INIT level de-assert only set arbitration identifiers on old buses.
            DeliveryMode::Init if level_triggered && !asserted => return Effect::None,
            // Not in the ICR: reserved encodings and ExtINT; there is no SMM.
            DeliveryMode::Reserved | DeliveryMode::ExtInt | DeliveryMode::Smi => {
                return Effect::None;
            }
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if vector < 16 => {
                self.note_error(error::SEND_ILLEGAL_VECTOR);
                return Effect::None;
            }
            DeliveryMode::Fixed
            | DeliveryMode::LowestPriority
            | DeliveryMode::Nmi
            | DeliveryMode::Init
            | DeliveryMode::Startup => {}
        }
        let target = match low >> 18 & 3 {
            0 => Target::Matching(destination),
            1 => {
                // "Self" is for fixed interrupts only.
                if matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority) {
                    self.accept(vector, Trigger::Edge);
                }
                return Effect::None;
            }
            2 => Target::All,
            _ => Target::Others,
        };
        Effect::Send(Message {
            target,
            mode,
            vector,
            // IPIs are edge-triggered whatever the bit says, except the INIT level de-assert above.
            trigger: Trigger::Edge,
        })
    }
}
