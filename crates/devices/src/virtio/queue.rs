//! One virtqueue: its registers, its ring while it is in use, and what the device still owes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_types::GuestMemory;

use super::registers::NO_VECTOR;
use super::ring::{Chain, Format, Layout, RingError, SplitRing};

/// A queue and its lock.
#[derive(Debug)]
pub(super) struct Virtqueue {
    state: Mutex<QueueState>,
}

/// What the driver has set, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueueState {
    /// The largest size that the device offers.
    size_max: u16,
    pub(super) layout: Layout,
    /// Legacy: the page number as written.
    pub(super) page: u32,
    pub(super) vector: u16,
    /// In use since the driver enabled it.
    ring: Option<SplitRing>,
    /// The ring broke, and nobody has been told yet.
    broken: Option<&'static str>,
    /// Counts lives, so that an answer of an earlier one goes nowhere.
    generation: u32,
    /// Chains taken in this life and not answered.
    owed: u32,
    /// The same of earlier lives: their data may still arrive.
    stale: u32,
}

/// The saved state of a queue.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct SavedQueue {
    layout: Layout,
    page: u32,
    vector: u16,
    ring: Option<SplitRing>,
}

impl Virtqueue {
    pub(super) fn new(size_max: u16) -> Self {
        let state = QueueState {
            size_max,
            layout: Layout {
                size: size_max,
                ..Layout::default()
            },
            page: 0,
            vector: NO_VECTOR,
            ring: None,
            broken: None,
            generation: 0,
            owed: 0,
            stale: 0,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    pub(super) const fn is_enabled(&self) -> bool {
        self.ring.is_some()
    }

    pub(super) const fn size_max(&self) -> u16 {
        self.size_max
    }

    /// Names the current life.
    pub(super) const fn generation(&self) -> u32 {
        self.generation
    }

    /// The device may still write to buffers of a life that is over.
    pub(super) const fn is_draining(&self) -> bool {
        self.stale > 0
    }

    /// Nothing is owed to any life.
    pub(super) const fn is_idle(&self) -> bool {
        self.owed == 0 && self.stale == 0
    }

    /// The driver's word for the size counts while the queue is off, and if it is one.
    pub(super) fn set_size(&mut self, size: u16) {
        if !self.is_enabled() && size.is_power_of_two() && size <= self.size_max {
            self.layout.size = size;
        }
    }

    /// Puts the queue into use from the beginning of its ring. Errors: the layout makes no ring.
    pub(super) fn enable(&mut self) -> Result<(), &'static str> {
        if self.is_enabled() {
            return Ok(());
        }
        if !self.layout.is_sound() {
            return Err("a queue is misplaced");
        }
        self.ring = Some(SplitRing::new(self.layout));
        Ok(())
    }

    /// Ends this life of the queue. What is owed will be forgotten when the disk lets go of it.
    pub(super) fn disable(&mut self) {
        self.ring = None;
        self.broken = None;
        self.generation = self.generation.wrapping_add(1);
        self.stale += self.owed;
        self.owed = 0;
    }

    /// As at power-on, but for what is still owed.
    pub(super) fn reset(&mut self) {
        self.disable();
        self.layout = Layout {
            size: self.size_max,
            ..Layout::default()
        };
        self.page = 0;
        self.vector = NO_VECTOR;
    }

    /// Takes the next chain; `None` when there is none or the ring is broken.
    pub(super) fn pop(
        &mut self,
        memory: &GuestMemory,
        format: Format,
        chain: &mut Chain,
    ) -> Option<u16> {
        // A driver that offers a descriptor twice could make us owe without bound.
        if self.owed >= u32::from(self.layout.size) {
            return None;
        }
        let head = self.attempt(|ring| ring.pop(memory, format, chain))??;
        self.owed += 1;
        Some(head)
    }

    /// Answers a chain of life `generation`. Of an earlier life, only the debt is struck off.
    pub(super) fn answer(
        &mut self,
        memory: &GuestMemory,
        generation: u32,
        head: u16,
        written: u32,
    ) {
        if generation != self.generation {
            self.stale = self.stale.saturating_sub(1);
            return;
        }
        self.owed = self.owed.saturating_sub(1);
        self.attempt(|ring| ring.answer(memory, head, written));
    }

    /// Shows answers; whether the driver wants an interrupt.
    pub(super) fn publish(&mut self, memory: &GuestMemory, format: Format) -> bool {
        self.attempt(|ring| ring.publish(memory, format))
            .unwrap_or(false)
    }

    /// Asks to be told of new chains; whether there is one already.
    pub(super) fn rest(&mut self, memory: &GuestMemory, format: Format) -> bool {
        self.attempt(|ring| ring.rest(memory, format))
            .unwrap_or(false)
    }

    /// One chain less is owed, without an answer.
    pub(super) fn forget_one(&mut self) {
        self.owed = self.owed.saturating_sub(1);
    }

    /// Marks the ring as broken by the driver.
    pub(super) fn fail(&mut self, reason: &'static str) {
        self.broken.get_or_insert(reason);
        self.ring = None;
    }

    /// Why the ring broke, once.
    pub(super) const fn take_failure(&mut self) -> Option<&'static str> {
        self.broken.take()
    }

    fn attempt<R>(
        &mut self,
        body: impl FnOnce(&mut SplitRing) -> Result<R, RingError>,
    ) -> Option<R> {
        match body(self.ring.as_mut()?) {
            Ok(value) => Some(value),
            Err(RingError::Closed) => None,
            Err(RingError::Broken(reason)) => {
                self.fail(reason);
                None
            }
        }
    }

    pub(super) fn save(&self) -> SavedQueue {
        SavedQueue {
            layout: self.layout,
            page: self.page,
            vector: self.vector,
            ring: self.ring,
        }
    }

    /// Errors (what is wrong) leave the queue as it was.
    pub(super) fn restore(&mut self, saved: &SavedQueue) -> Result<(), String> {
        let layouts = [Some(saved.layout), saved.ring.map(|ring| *ring.layout())];
        for layout in layouts.into_iter().flatten() {
            if !layout.size.is_power_of_two() || layout.size > self.size_max {
                return Err(format!("a queue of {} entries", layout.size));
            }
        }
        if saved.ring.is_some_and(|ring| !ring.layout().is_sound()) {
            return Err("a queue is misplaced".to_owned());
        }
        self.layout = saved.layout;
        self.page = saved.page;
        self.vector = saved.vector;
        self.ring = saved.ring;
        Ok(())
    }
}
