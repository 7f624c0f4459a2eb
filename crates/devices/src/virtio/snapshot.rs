//! Life cycle and saved state of a virtio device.
//!
//! A device is saved while it is paused and owes the driver nothing. Chains that were offered and not
//! taken are in guest memory and stay there.

use serde_json::Value;

use super::queue::SavedQueue;
use super::registers::status;
use super::shared::Registers;
use super::transport::Virtio;
use crate::lifecycle::{Lifecycle, RestoreError, Snapshot};
use crate::pci::FunctionState;

const VERSION: u32 = 1;

/// All that a driver can have changed.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct VirtioState {
    function: FunctionState,
    registers: Registers,
    interrupt_status: u8,
    agreed: u64,
    running: bool,
    queues: Vec<SavedQueue>,
    device: Value,
}

impl Lifecycle for Virtio {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn start(&self) {
        // After a restore there may be chains that wait.
        self.notify_all();
    }

    fn pause(&self) {
        self.device.pause();
    }

    fn resume(&self) {
        self.device.resume();
        self.notify_all();
    }

    fn reset(&self) {
        self.reset_device(&mut self.shared.registers());
        self.shared.function.reset();
    }

    fn halt(&self) {
        self.device.halt();
    }

    fn save(&self) -> Option<Snapshot> {
        if !self.shared.is_idle() {
            tracing::warn!(device = self.name(), "not saved: requests are in flight");
            return None;
        }
        let registers = *self.shared.registers();
        let state = VirtioState {
            function: self.shared.function.save(),
            registers,
            interrupt_status: self.shared.interrupt_status(),
            agreed: self.shared.agreed(),
            running: self.shared.is_running(),
            queues: self
                .shared
                .queues
                .iter()
                .map(|queue| queue.lock().save())
                .collect(),
            device: self.device.save(),
        };
        Some(Snapshot::of(self.device.kind(), VERSION, &state))
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        self.reset();
        let kind = self.device.kind();
        let state = snapshot.open::<VirtioState>(self.name(), kind, VERSION)?;
        self.take_state(state).map_err(|reason| {
            self.reset();
            RestoreError::Damaged {
                device: self.name().to_owned(),
                reason,
            }
        })
    }
}

impl Virtio {
    fn take_state(&self, state: VirtioState) -> Result<(), String> {
        if state.queues.len() != self.shared.queues.len() {
            return Err(format!("{} queues", state.queues.len()));
        }
        if !self.offers(state.agreed) {
            return Err(format!("features {:#x} are not offered", state.agreed));
        }
        for (queue, saved) in self.shared.queues.iter().zip(&state.queues) {
            queue.lock().restore(saved)?;
        }
        self.device.restore(&state.device)?;
        self.shared.agree(state.agreed);
        *self.shared.registers() = state.registers;
        let broken = state.registers.status & (status::NEEDS_RESET | status::FAILED) != 0;
        self.shared.set_running(state.running && !broken);
        self.shared.function.restore(&state.function)?;
        self.shared.set_interrupt_status(state.interrupt_status);
        Ok(())
    }
}
