//! The local APIC: what each processor has between its core and the interrupts of the machine.
//!
//! [`LocalApic`] is a state machine without threads, locks or a clock: register accesses and moments go
//! in, messages and deadlines come out. Reading order:
//!
//! * [`vectors`]: the 256-bit sets behind IRR, ISR and TMR.
//! * [`destination`]: who is meant by a destination field; one function for IPIs, MSIs and the IOAPIC.
//! * [`message`]: one interrupt on its way, and how MSI writes and the ICR spell it.
//! * [`register`]: the register page and the x2APIC MSRs as one table.
//! * [`lvt`], [`timer`]: the local vector table and the timer with its three modes.
//! * [`local`]: acceptance, priorities, acknowledge, end of interrupt, INIT.
//! * [`access`]: reads and writes of the registers, the mode switches of `IA32_APIC_BASE`.
//! * [`mailbox`]: where other threads leave interrupts for one processor, without a lock.
//! * [`interconnect`]: all mailboxes of a machine; routes messages to those who match.
//! * [`saved`]: the state for snapshots.
//!
//! Source throughout: Intel SDM vol. 3A, chapter "Advanced Programmable Interrupt Controller" (11 in
//! current editions, 10 in older ones), cited as "SDM 3A, APIC".

pub mod vectors;

pub mod destination;

pub mod message;

pub mod register;

pub mod lvt;

pub mod timer;

pub mod local;

pub mod access;

pub mod mailbox;

pub mod interconnect;

pub mod saved;

pub use access::{Effect, Refused};
pub use destination::{Destination, Identity};
pub use interconnect::Interconnect;
pub use local::{LocalApic, LocalApicConfig, Pending};
pub use mailbox::{Mailbox, Signals};
pub use message::{DeliveryMode, Message, Target, Trigger};
pub use saved::SavedApic;
pub use vectors::VectorSet;
