//! What the transport and the device behind it share: queues, negotiated features, interrupts.
//!
//! Locks are taken in this order: registers, queue, interrupt status, then those of the PCI function.
//! A device serves a queue with no other lock held.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_types::GuestMemory;

use super::queue::{QueueState, Virtqueue};
use super::registers::{ISR_CONFIG, ISR_QUEUE, NO_VECTOR, feature, status};
use super::ring::{Chain, Format};
use crate::pci::Function;

/// The part of a virtio function that its device reaches.
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) function: Function,
    /// Guest memory, closed while bus mastering is off.
    pub(super) memory: GuestMemory,
    pub(super) queues: Box<[Virtqueue]>,
    registers: Mutex<Registers>,
    /// Features that both sides have agreed on.
    agreed: AtomicU64,
    /// Queues may be served.
    running: AtomicBool,
    /// With the lock, status and pin change together.
    interrupt: Mutex<u8>,
}

/// The registers that are not a queue's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Registers {
    pub(super) status: u8,
    /// What a status of zero reads as until a reset is over.
    pub(super) status_before_reset: u8,
    pub(super) device_feature_select: u32,
    pub(super) driver_feature_select: u32,
    pub(super) driver_features: u64,
    pub(super) queue_select: u16,
    pub(super) config_vector: u16,
    /// The driver uses the legacy interface.
    pub(super) legacy: bool,
}

impl Registers {
    pub(super) const POWER_ON: Self = Self {
        status: 0,
        status_before_reset: 0,
        device_feature_select: 0,
        driver_feature_select: 0,
        driver_features: 0,
        queue_select: 0,
        config_vector: NO_VECTOR,
        legacy: false,
    };
}

/// A queue being served: locked, until [`Shared::serve`] returns.
pub(super) struct Service<'a> {
    queue: MutexGuard<'a, QueueState>,
    memory: &'a GuestMemory,
    format: Format,
    running: bool,
}

impl Service<'_> {
    /// Takes the next chain.
    pub(super) fn pop(&mut self, chain: &mut Chain) -> Option<u16> {
        if !self.running {
            return None;
        }
        if let Some(head) = self.queue.pop(self.memory, self.format, chain) {
            return Some(head);
        }
        // Nothing left: ask for a notification, unless there is something by now.
        if self.queue.rest(self.memory, self.format) {
            return self.queue.pop(self.memory, self.format, chain);
        }
        None
    }

    /// Answers a chain, with `written` bytes in its writable buffers.
    pub(super) fn answer(&mut self, generation: u32, head: u16, written: u32) {
        self.queue.answer(self.memory, generation, head, written);
    }

    /// The current life of the queue.
    pub(super) fn generation(&self) -> u32 {
        self.queue.generation()
    }

    /// The chain taken last breaks a rule of the device: it is not answered, a reset is needed.
    pub(super) fn fail(&mut self, reason: &'static str) {
        self.queue.forget_one();
        self.queue.fail(reason);
    }
}

impl Shared {
    pub(super) fn new(
        name: String,
        function: Function,
        memory: GuestMemory,
        queue_sizes: &[u16],
    ) -> Self {
        Self {
            name,
            function,
            memory,
            queues: queue_sizes
                .iter()
                .map(|size| Virtqueue::new(*size))
                .collect(),
            registers: Mutex::new(Registers::POWER_ON),
            agreed: AtomicU64::new(0),
            running: AtomicBool::new(false),
            interrupt: Mutex::new(0),
        }
    }

    pub(super) fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn queue(&self, index: u16) -> Option<&Virtqueue> {
        self.queues.get(usize::from(index))
    }

    /// Whether the driver accepted all of `features`.
    pub(super) fn has(&self, features: u64) -> bool {
        self.agreed.load(Ordering::Relaxed) & features == features
    }

    pub(super) fn agreed(&self) -> u64 {
        self.agreed.load(Ordering::SeqCst)
    }

    pub(super) fn agree(&self, features: u64) {
        self.agreed.store(features, Ordering::SeqCst);
    }

    pub(super) fn set_running(&self, running: bool) {
        self.running.store(running, Ordering::SeqCst);
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    fn format(&self) -> Format {
        Format {
            event_index: self.has(feature::RING_EVENT_IDX),
            indirect: self.has(feature::RING_INDIRECT_DESC),
        }
    }

    /// Serves queue `index`: calls `body`, shows the driver what was answered, interrupts once.
    pub(super) fn serve(&self, index: u16, body: impl FnOnce(&mut Service<'_>)) {
        let Some(queue) = self.queue(index) else {
            return;
        };
        let mut service = Service {
            queue: queue.lock(),
            memory: &self.memory,
            format: self.format(),
            running: self.is_running(),
        };
        body(&mut service);
        let Service {
            mut queue, format, ..
        } = service;
        let interrupt = queue.publish(&self.memory, format);
        let vector = queue.vector;
        let failure = queue.take_failure();
        drop(queue);
        if interrupt {
            self.signal(vector, ISR_QUEUE);
        }
        if let Some(reason) = failure {
            self.need_reset(&mut self.registers(), reason);
        }
    }

    /// The device cannot go on until the driver resets it.
    pub(super) fn need_reset(&self, registers: &mut Registers, reason: &str) {
        if registers.status & status::NEEDS_RESET != 0 {
            return;
        }
        tracing::warn!(device = self.name, reason, "device needs a reset");
        self.set_running(false);
        registers.status |= status::NEEDS_RESET;
        if registers.status & status::DRIVER_OK != 0 {
            self.signal(registers.config_vector, ISR_CONFIG);
        }
    }

    /// Some queue may still get data for an earlier life.
    pub(super) fn is_draining(&self) -> bool {
        self.queues.iter().any(|queue| queue.lock().is_draining())
    }

    /// Nothing is owed to the driver.
    pub(super) fn is_idle(&self) -> bool {
        self.queues.iter().all(|queue| queue.lock().is_idle())
    }

    fn signal(&self, vector: u16, cause: u8) {
        if self.uses_msix() {
            if vector != NO_VECTOR {
                self.function.fire(vector);
            }
            return;
        }
        let mut interrupt = self.lock_interrupt();
        *interrupt |= cause;
        self.function.set_intx(true);
    }

    /// Reads and clears the interrupt status, which lowers the pin.
    pub(super) fn take_interrupt(&self) -> u8 {
        let mut interrupt = self.lock_interrupt();
        self.function.set_intx(false);
        std::mem::take(&mut *interrupt)
    }

    pub(super) fn interrupt_status(&self) -> u8 {
        *self.lock_interrupt()
    }

    /// Sets status and pin together.
    pub(super) fn set_interrupt_status(&self, value: u8) {
        let mut interrupt = self.lock_interrupt();
        *interrupt = value & (ISR_QUEUE | ISR_CONFIG);
        self.function.set_intx(*interrupt != 0);
    }

    pub(super) fn uses_msix(&self) -> bool {
        self.function.msix().is_some_and(|msix| msix.is_enabled())
    }

    /// The vector if the function has it, else none: what a driver reads back when we cannot serve it.
    pub(super) fn usable_vector(&self, vector: u16) -> u16 {
        let count = self.function.msix().map_or(0, |msix| msix.vector_count());
        if vector < count { vector } else { NO_VECTOR }
    }

    fn lock_interrupt(&self) -> MutexGuard<'_, u8> {
        self.interrupt
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("name", &self.name)
            .field("function", &self.function)
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}
