//! The shadow of one doorbell in guest memory.
//!
//! Source: NVM Express Base 1.4, 5.7 and 7.13. After Doorbell Buffer Config the guest writes a tail or
//! head into a page of its own, and rings the register only if the new value passes the EventIdx that we
//! have put into the page beside it. So before we wait, EventIdx is set to the value seen last, and then,
//! behind a full barrier, the shadow is read once more: either we see the guest's new value, or the guest
//! sees our EventIdx and rings.
//!
//! A ring of the register also counts while the shadow has not moved since we last looked. A guest whose
//! Doorbell Buffer Config is still under way does not write the shadow yet, and its commands must not be
//! lost.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use vm_types::{GuestAddress, GuestMemory};

/// A doorbell register: the value last written, and whether it has been looked at since.
#[derive(Debug, Default)]
pub(super) struct Register(AtomicU32);

const FRESH: u32 = 1 << 31;

impl Register {
    /// The guest writes `value`.
    pub(super) fn write(&self, value: u16) {
        self.0.store(u32::from(value) | FRESH, Ordering::SeqCst);
    }

    /// The value, however old.
    pub(super) fn value(&self) -> u16 {
        self.0.load(Ordering::SeqCst) as u16
    }

    pub(super) fn reset(&self, value: u16) {
        self.0.store(u32::from(value), Ordering::SeqCst);
    }

    /// The value, if it was written since the last call.
    fn take_fresh(&self) -> Option<u16> {
        if self.0.load(Ordering::SeqCst) & FRESH == 0 {
            return None;
        }
        let old = self.0.fetch_and(!FRESH, Ordering::SeqCst);
        (old & FRESH != 0).then_some(old as u16)
    }
}

/// Where the shadow and the EventIdx of one doorbell are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Shadow {
    doorbell: u64,
    event_index: u64,
    /// The shadow's value when we last looked.
    seen: u32,
}

/// The two pages of Doorbell Buffer Config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Pages {
    pub(super) shadows: u64,
    pub(super) event_indexes: u64,
}

/// Which doorbell of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Tail,
    Head,
}

impl Pages {
    /// The shadow of one doorbell, as if `current` had been written there: the guest begins with it.
    pub(super) fn shadow(
        self,
        memory: &GuestMemory,
        queue: u16,
        side: Side,
        current: u16,
    ) -> Shadow {
        let offset = u64::from(queue) * 8 + if side == Side::Head { 4 } else { 0 };
        let shadow = Shadow {
            doorbell: self.shadows.wrapping_add(offset),
            event_index: self.event_indexes.wrapping_add(offset),
            seen: u32::from(current),
        };
        store(memory, shadow.doorbell, u32::from(current));
        shadow.ask_for_ring(memory, current);
        shadow
    }
}

impl Shadow {
    /// The doorbell's value now: the shadow if it has moved, else the register if it was written.
    pub(super) fn poll(&mut self, memory: &GuestMemory, register: &Register) -> Option<u16> {
        // A page that has become unreadable leaves the register.
        let value = memory
            .read_value::<u32>(GuestAddress(self.doorbell))
            .unwrap_or(self.seen);
        if value != self.seen {
            self.seen = value;
            // Written before the shadow moved on, so older.
            register.take_fresh();
            return u16::try_from(value).ok();
        }
        register.take_fresh()
    }

    /// Asks the guest to ring when it moves the doorbell from `last`. The caller polls once more.
    pub(super) fn ask_for_ring(&self, memory: &GuestMemory, last: u16) {
        store(memory, self.event_index, u32::from(last));
        fence(Ordering::SeqCst);
    }
}

/// A guest that takes its page away harms itself only: it will ring for each command.
fn store(memory: &GuestMemory, at: u64, value: u32) {
    drop(memory.write_value(GuestAddress(at), value));
}

/// The newest value of a doorbell, with or without a shadow.
pub(super) fn poll(
    shadow: Option<&mut Shadow>,
    memory: &GuestMemory,
    register: &Register,
    last: u16,
) -> u16 {
    match shadow {
        Some(shadow) => shadow.poll(memory, register).unwrap_or(last),
        None => register.value(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_register_counts_until_the_shadow_moves() {
        let memory = GuestMemory::flat(0x3000).unwrap();
        let pages = Pages {
            shadows: 0x1000,
            event_indexes: 0x2000,
        };
        let register = Register::default();
        register.write(5);
        let mut shadow = pages.shadow(&memory, 3, Side::Tail, 5);
        assert_eq!(memory.read_value::<u32>(GuestAddress(0x1018)).unwrap(), 5);
        assert_eq!(memory.read_value::<u32>(GuestAddress(0x2018)).unwrap(), 5);
        // The guest does not know of the shadow yet.
        register.write(7);
        assert_eq!(shadow.poll(&memory, &register), Some(7));
        assert_eq!(shadow.poll(&memory, &register), None);
        // Now it does; an old ring that arrives late does not turn the tail back.
        register.write(8);
        memory.write_value(GuestAddress(0x1018), 9u32).unwrap();
        assert_eq!(shadow.poll(&memory, &register), Some(9));
        assert_eq!(shadow.poll(&memory, &register), None);
        shadow.ask_for_ring(&memory, 9);
        assert_eq!(memory.read_value::<u32>(GuestAddress(0x2018)).unwrap(), 9);
    }

    #[test]
    fn a_shadow_outside_memory_leaves_the_register() {
        let memory = GuestMemory::flat(0x1000).unwrap();
        let pages = Pages {
            shadows: !0xfff,
            event_indexes: 0x9000,
        };
        let register = Register::default();
        let mut shadow = pages.shadow(&memory, 600, Side::Head, 0);
        register.write(3);
        assert_eq!(shadow.poll(&memory, &register), Some(3));
    }
}
