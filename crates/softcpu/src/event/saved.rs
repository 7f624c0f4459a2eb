//! The part of a CPU's state that stands behind [`CpuState`](crate::state::CpuState): its local APIC, the MSRs
//! that are plain storage, and what event delivery remembers.

use serde::{Deserialize, Serialize};
use vm_types::Moment;

use crate::apic::SavedApic;
use crate::apic::saved::SavedApicError;
use crate::cpu::{Cpu, Shadow};
use crate::msr::Storage;

/// For snapshots, together with [`CpuState`](crate::state::CpuState).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemState {
    /// The local APIC, with everything that had been sent to it.
    pub apic: SavedApic,
    /// MTRRs and the like.
    pub msrs: Storage,
    /// Inside an NMI handler: no other NMI before IRET.
    pub nmi_blocked: bool,
    /// An NMI waits.
    pub nmi_pending: bool,
    /// Interrupts are held off for one instruction.
    pub shadow: Option<SavedShadow>,
    /// A triple fault has happened.
    pub shut_down: bool,
}

/// What holds interrupts off for one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedShadow {
    /// STI.
    Sti,
    /// A load of SS, which holds off NMIs and debug traps too.
    StackSegment,
}

impl Cpu {
    /// The state between two instructions, at `now` of the machine's clock. Messages in the mailbox are taken in
    /// first; so take this before [`Cpu::state`], since a start-up message changes that.
    pub fn system_state(&mut self, now: Moment) -> SystemState {
        let package = self.package.clone();
        if let Some(mailbox) = package.interconnect().mailbox(self.id) {
            let signals = mailbox.collect(&mut self.apic);
            super::absorb(self, signals);
            if signals.kick {
                mailbox.kick();
            }
        }
        SystemState {
            apic: self.apic.save(now),
            msrs: self.msrs.clone(),
            nmi_blocked: self.events.nmi_blocked,
            nmi_pending: self.events.nmi_pending,
            shadow: self.shadow.map(|shadow| match shadow {
                Shadow::Sti => SavedShadow::Sti,
                Shadow::StackSegment => SavedShadow::StackSegment,
            }),
            shut_down: self.events.shut_down,
        }
    }

    /// Takes on a state at `now` of the machine's clock; after [`Cpu::set_state`], which ends a shadow. The level
    /// of the 8259's line is restored too; its driver changes it when it next has a reason.
    ///
    /// Errors: the APIC's part is none; nothing has changed then.
    pub fn set_system_state(
        &mut self,
        now: Moment,
        state: &SystemState,
    ) -> Result<(), SavedApicError> {
        self.apic.load(now, &state.apic)?;
        if let Some(mailbox) = self.package.interconnect().mailbox(self.id) {
            mailbox.restore_lint0(state.apic.pins[0]);
        }
        self.msrs = state.msrs.clone();
        self.events.nmi_blocked = state.nmi_blocked;
        self.events.nmi_pending = state.nmi_pending;
        self.events.shut_down = state.shut_down;
        self.shadow = state.shadow.map(|shadow| match shadow {
            SavedShadow::Sti => Shadow::Sti,
            SavedShadow::StackSegment => Shadow::StackSegment,
        });
        self.publish();
        // The register page may be elsewhere.
        self.flush_translations();
        self.update_mode();
        self.request_attention();
        Ok(())
    }
}
