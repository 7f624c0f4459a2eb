//! The split virtqueue as the device sees it: chains out of the available ring, answers into the used
//! ring, and who must be told.
//!
//! Source: Virtio 1.2, 2.7. Everything in guest memory is the guest's word: indices, lengths and links
//! are checked, and every walk is bounded.

use std::sync::atomic::{Ordering, fence};

use block::Segment;
use vm_types::{ByteValued, GuestAddress, GuestMemory, MemoryError};

/// The chain goes on at `next`.
const DESCRIPTOR_NEXT: u16 = 1;
/// The device writes this buffer; else it reads it.
const DESCRIPTOR_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
const DESCRIPTOR_INDIRECT: u16 = 4;
const DESCRIPTOR_BYTES: u64 = 16;
/// In the available ring's flags: the driver wants no interrupts.
const NO_INTERRUPT: u16 = 1;

/// Most buffers in one chain. A driver may not go beyond the queue's size; some indirect tables do.
const CHAIN_MAX: usize = 1024;

/// Why a ring cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RingError {
    /// Bus mastering is off: not an error of the ring, try again when it is on.
    Closed,
    /// The driver broke the rules; the device needs a reset.
    Broken(&'static str),
}

impl From<MemoryError> for RingError {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::Closed => Self::Closed,
            _ => Self::Broken("part of the ring is not in guest memory"),
        }
    }
}

/// Where the three parts of a ring are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Layout {
    /// Entries, a power of two.
    pub(super) size: u16,
    /// Descriptor table, aligned to 16.
    pub(super) descriptors: u64,
    /// Available ring ("driver area"), aligned to 2.
    pub(super) available: u64,
    /// Used ring ("device area"), aligned to 4.
    pub(super) used: u64,
}

impl Layout {
    /// The layout of the legacy interface: one run of pages.
    pub(super) const fn legacy(size: u16, page: u32) -> Self {
        let descriptors = (page as u64) << 12;
        let available = descriptors + DESCRIPTOR_BYTES * size as u64;
        // Flags, index, entries, and the used event.
        let end = available + 6 + 2 * size as u64;
        Self {
            size,
            descriptors,
            available,
            used: end.next_multiple_of(4096),
        }
    }

    pub(super) const fn is_sound(&self) -> bool {
        // Far enough from the top that no sum below can wrap.
        const TOP: u64 = u64::MAX - (1 << 24);
        self.size.is_power_of_two()
            && self.descriptors.is_multiple_of(16)
            && self.available.is_multiple_of(2)
            && self.used.is_multiple_of(4)
            && self.descriptors < TOP
            && self.available < TOP
            && self.used < TOP
    }
}

/// Which optional parts of the format the driver accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Format {
    /// `VIRTIO_F_RING_EVENT_IDX`.
    pub(super) event_index: bool,
    /// `VIRTIO_F_RING_INDIRECT_DESC`.
    pub(super) indirect: bool,
}

/// The buffers of one chain. Reused from chain to chain.
#[derive(Clone, Debug, Default)]
pub(super) struct Chain {
    /// What the driver wrote for us, in order.
    pub(super) readable: Vec<Segment>,
    /// What we may write, in order.
    pub(super) writable: Vec<Segment>,
    /// An indirect table.
    table: Vec<u8>,
}

impl Chain {
    pub(super) fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }

    fn add(&mut self, descriptor: &Descriptor) -> Result<(), RingError> {
        let segment = Segment {
            address: GuestAddress(descriptor.address),
            length: descriptor.length,
        };
        if self.readable.len() + self.writable.len() >= CHAIN_MAX {
            return Err(RingError::Broken("a chain does not end"));
        }
        if descriptor.flags & DESCRIPTOR_WRITE != 0 {
            self.writable.push(segment);
        } else if self.writable.is_empty() {
            self.readable.push(segment);
        } else {
            return Err(RingError::Broken("a readable buffer after a writable one"));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn from_bytes(bytes: &[u8; 16]) -> Self {
        let [
            a0,
            a1,
            a2,
            a3,
            a4,
            a5,
            a6,
            a7,
            l0,
            l1,
            l2,
            l3,
            f0,
            f1,
            n0,
            n1,
        ] = *bytes;
        Self {
            address: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }

    /// The next one of the chain, if there is one.
    const fn next(&self) -> Option<u16> {
        if self.flags & DESCRIPTOR_NEXT != 0 {
            Some(self.next)
        } else {
            None
        }
    }
}

/// A ring in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct SplitRing {
    layout: Layout,
    /// Chains taken, modulo 2^16.
    taken: u16,
    /// The driver's index as we last saw it.
    seen: u16,
    /// Answers written, modulo 2^16.
    answered: u16,
    /// Answers that the driver can see.
    published: u16,
}

impl SplitRing {
    /// A ring from its beginning.
    pub(super) const fn new(layout: Layout) -> Self {
        Self {
            layout,
            taken: 0,
            seen: 0,
            answered: 0,
            published: 0,
        }
    }

    pub(super) const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Takes the next chain into `chain` and returns its head; `None` when there is none.
    pub(super) fn pop(
        &mut self,
        memory: &GuestMemory,
        format: Format,
        chain: &mut Chain,
    ) -> Result<Option<u16>, RingError> {
        if self.taken == self.seen && !self.look(memory)? {
            return Ok(None);
        }
        let slot = u64::from(self.taken & (self.layout.size - 1));
        let head: u16 = read(memory, self.layout.available + 4 + 2 * slot)?;
        chain.clear();
        self.walk(memory, format, head, chain)?;
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(head))
    }

    /// Reads the driver's index; whether there is more than was taken.
    fn look(&mut self, memory: &GuestMemory) -> Result<bool, RingError> {
        let index: u16 = read(memory, self.layout.available + 2)?;
        // What the index announces is read after the index.
        fence(Ordering::SeqCst);
        if index.wrapping_sub(self.taken) > self.layout.size {
            return Err(RingError::Broken("the available index is out of reach"));
        }
        self.seen = index;
        Ok(index != self.taken)
    }

    fn walk(
        &self,
        memory: &GuestMemory,
        format: Format,
        head: u16,
        chain: &mut Chain,
    ) -> Result<(), RingError> {
        let mut at = Some(head);
        // A chain in the table itself cannot be longer than the table.
        for _ in 0..self.layout.size {
            let Some(index) = at else { break };
            if index >= self.layout.size {
                return Err(RingError::Broken("a descriptor beyond the table"));
            }
            let mut bytes = [0; 16];
            let address = self.layout.descriptors + DESCRIPTOR_BYTES * u64::from(index);
            memory.read(GuestAddress(address), &mut bytes)?;
            let descriptor = Descriptor::from_bytes(&bytes);
            at = descriptor.next();
            if descriptor.flags & DESCRIPTOR_INDIRECT == 0 {
                chain.add(&descriptor)?;
                continue;
            }
            if !format.indirect || at.is_some() {
                return Err(RingError::Broken("an indirect table where none may be"));
            }
            walk_table(memory, &descriptor, chain)?;
        }
        match at {
            None => Ok(()),
            Some(_) => Err(RingError::Broken("a chain does not end")),
        }
    }

    /// Before the queue goes idle: asks to be told of the next chain. Returns whether there is one
    /// already, which then nobody announces.
    pub(super) fn rest(&mut self, memory: &GuestMemory, format: Format) -> Result<bool, RingError> {
        if format.event_index {
            let size = u64::from(self.layout.size);
            write(memory, self.layout.used + 4 + 8 * size, self.taken)?;
            // The driver writes its index, then reads our event; we do it the other way round.
            fence(Ordering::SeqCst);
            return self.look(memory);
        }
        Ok(false)
    }

    /// Writes an answer: `written` bytes of the chain's writable buffers.
    pub(super) fn answer(
        &mut self,
        memory: &GuestMemory,
        head: u16,
        written: u32,
    ) -> Result<(), RingError> {
        let slot = u64::from(self.answered & (self.layout.size - 1));
        let element = u64::from(head) | u64::from(written) << 32;
        write(memory, self.layout.used + 4 + 8 * slot, element)?;
        self.answered = self.answered.wrapping_add(1);
        Ok(())
    }

    /// Shows the answers to the driver; whether it wants an interrupt for them.
    pub(super) fn publish(
        &mut self,
        memory: &GuestMemory,
        format: Format,
    ) -> Result<bool, RingError> {
        let before = self.published;
        if before == self.answered {
            return Ok(false);
        }
        // Answers and data before the index.
        fence(Ordering::SeqCst);
        write(memory, self.layout.used + 2, self.answered)?;
        self.published = self.answered;
        // The index before the look at what the driver wants.
        fence(Ordering::SeqCst);
        if format.event_index {
            let size = u64::from(self.layout.size);
            let event: u16 = read(memory, self.layout.available + 4 + 2 * size)?;
            let ahead = self.answered.wrapping_sub(event).wrapping_sub(1);
            Ok(ahead < self.answered.wrapping_sub(before))
        } else {
            let flags: u16 = read(memory, self.layout.available)?;
            Ok(flags & NO_INTERRUPT == 0)
        }
    }
}

fn walk_table(
    memory: &GuestMemory,
    descriptor: &Descriptor,
    chain: &mut Chain,
) -> Result<(), RingError> {
    let length = u64::from(descriptor.length);
    let count = (length / DESCRIPTOR_BYTES) as usize;
    if length % DESCRIPTOR_BYTES != 0 || count == 0 || count > CHAIN_MAX {
        return Err(RingError::Broken("an indirect table of no size"));
    }
    let mut table = std::mem::take(&mut chain.table);
    table.resize(count * DESCRIPTOR_BYTES as usize, 0);
    let result = memory
        .read(GuestAddress(descriptor.address), &mut table)
        .map_err(RingError::from)
        .and_then(|()| walk_bytes(&table, chain));
    chain.table = table;
    result
}

fn walk_bytes(table: &[u8], chain: &mut Chain) -> Result<(), RingError> {
    let mut at = Some(0_u16);
    for _ in 0..table.len() / 16 {
        let Some(index) = at else { break };
        let start = 16 * usize::from(index);
        let bytes = table
            .get(start..start + 16)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(RingError::Broken("a descriptor beyond its indirect table"))?;
        let descriptor = Descriptor::from_bytes(bytes);
        if descriptor.flags & DESCRIPTOR_INDIRECT != 0 {
            return Err(RingError::Broken("an indirect table in an indirect table"));
        }
        chain.add(&descriptor)?;
        at = descriptor.next();
    }
    match at {
        None => Ok(()),
        Some(_) => Err(RingError::Broken("a chain does not end")),
    }
}

fn read<T: ByteValued>(memory: &GuestMemory, at: u64) -> Result<T, RingError> {
    Ok(memory.read_value(GuestAddress(at))?)
}

fn write<T: ByteValued>(memory: &GuestMemory, at: u64, value: T) -> Result<(), RingError> {
    Ok(memory.write_value(GuestAddress(at), value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        size: 4,
        descriptors: 0x1000,
        available: 0x2000,
        used: 0x3000,
    };
    const PLAIN: Format = Format {
        event_index: false,
        indirect: true,
    };
    const EVENTS: Format = Format {
        event_index: true,
        indirect: true,
    };

    fn descriptor(memory: &GuestMemory, at: u64, fields: (u64, u32, u16, u16)) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&fields.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&fields.1.to_le_bytes());
        bytes[12..14].copy_from_slice(&fields.2.to_le_bytes());
        bytes[14..].copy_from_slice(&fields.3.to_le_bytes());
        memory.write(GuestAddress(at), &bytes).unwrap();
    }

    fn offer(memory: &GuestMemory, heads: &[u16]) {
        for (slot, head) in (0..).zip(heads) {
            let at = GuestAddress(0x2004 + 2 * (slot % 4));
            memory.write_value(at, *head).unwrap();
        }
        let index = heads.len() as u16;
        memory.write_value(GuestAddress(0x2002), index).unwrap();
    }

    fn pop(memory: &GuestMemory, format: Format) -> (Result<Option<u16>, RingError>, Chain) {
        let mut chain = Chain::default();
        let popped = SplitRing::new(LAYOUT).pop(memory, format, &mut chain);
        (popped, chain)
    }

    #[test]
    fn a_chain_is_split_into_what_is_read_and_what_is_written() {
        let memory = GuestMemory::flat(0x8000).unwrap();
        descriptor(&memory, 0x1020, (0x4000, 16, 1, 0));
        descriptor(&memory, 0x1000, (0x5000, 512, 1 | 2, 3));
        descriptor(&memory, 0x1030, (0x6000, 1, 2, 99));
        offer(&memory, &[2]);
        let (popped, chain) = pop(&memory, PLAIN);
        assert_eq!(popped, Ok(Some(2)));
        let lengths = |segments: &[Segment]| segments.iter().map(|s| s.length).collect::<Vec<_>>();
        assert_eq!(lengths(&chain.readable), [16]);
        assert_eq!(lengths(&chain.writable), [512, 1]);
    }

    #[test]
    fn an_indirect_table_stands_for_the_chain() {
        let memory = GuestMemory::flat(0x8000).unwrap();
        descriptor(&memory, 0x1000, (0x4000, 48, 4, 0));
        descriptor(&memory, 0x4000, (0x5000, 16, 1, 2));
        descriptor(&memory, 0x4020, (0x6000, 4, 2, 0));
        offer(&memory, &[0]);
        let (popped, chain) = pop(&memory, PLAIN);
        assert_eq!(popped, Ok(Some(0)));
        assert_eq!((chain.readable.len(), chain.writable.len()), (1, 1));
        let (refused, _) = pop(&memory, Format::default());
        assert!(matches!(refused, Err(RingError::Broken(_))));
    }

    #[test]
    fn broken_chains_are_told_and_never_followed_for_ever() {
        let loops = |memory: &GuestMemory| descriptor(memory, 0x1000, (0x4000, 1, 1, 0));
        let beyond = |memory: &GuestMemory| descriptor(memory, 0x1000, (0x4000, 1, 1, 4));
        let order = |memory: &GuestMemory| {
            descriptor(memory, 0x1000, (0x4000, 1, 1 | 2, 1));
            descriptor(memory, 0x1010, (0x4000, 1, 0, 0));
        };
        let odd = |memory: &GuestMemory| descriptor(memory, 0x1000, (0x4000, 17, 4, 0));
        let nested = |memory: &GuestMemory| {
            descriptor(memory, 0x1000, (0x4000, 16, 4, 0));
            descriptor(memory, 0x4000, (0x4000, 16, 4, 0));
        };
        let endless = |memory: &GuestMemory| {
            descriptor(memory, 0x1000, (0x4000, 32, 4, 0));
            descriptor(memory, 0x4000, (0x4000, 16, 1, 1));
            descriptor(memory, 0x4010, (0x4000, 16, 1, 0));
        };
        let outside = |memory: &GuestMemory| descriptor(memory, 0x1000, (0x7fff, 32, 4, 0));
        let cases: [&dyn Fn(&GuestMemory); 7] =
            [&loops, &beyond, &order, &odd, &nested, &endless, &outside];
        for (number, case) in cases.into_iter().enumerate() {
            let memory = GuestMemory::flat(0x8000).unwrap();
            case(&memory);
            offer(&memory, &[0]);
            let (popped, _) = pop(&memory, PLAIN);
            assert!(
                matches!(popped, Err(RingError::Broken(_))),
                "case {number}: {popped:?}"
            );
        }
    }

    #[test]
    fn an_index_that_jumps_is_refused() {
        let memory = GuestMemory::flat(0x8000).unwrap();
        memory.write_value(GuestAddress(0x2002), 5_u16).unwrap();
        let (popped, _) = pop(&memory, PLAIN);
        assert!(matches!(popped, Err(RingError::Broken(_))));
    }

    #[test]
    fn a_closed_gate_is_no_fault_of_the_ring() {
        let memory = GuestMemory::flat(0x8000)
            .unwrap()
            .gated(&vm_types::Gate::closed());
        assert_eq!(pop(&memory, PLAIN).0, Err(RingError::Closed));
    }

    #[test]
    fn answers_are_seen_when_published_and_interrupts_asked_for() {
        let memory = GuestMemory::flat(0x8000).unwrap();
        let mut ring = SplitRing::new(LAYOUT);
        assert_eq!(ring.publish(&memory, PLAIN), Ok(false));
        ring.answer(&memory, 3, 513).unwrap();
        let element: u64 = memory.read_value(GuestAddress(0x3004)).unwrap();
        assert_eq!(element, 513 << 32 | 3);
        assert_eq!(memory.read_value::<u16>(GuestAddress(0x3002)).unwrap(), 0);
        assert_eq!(ring.publish(&memory, PLAIN), Ok(true));
        assert_eq!(memory.read_value::<u16>(GuestAddress(0x3002)).unwrap(), 1);
        memory.write_value(GuestAddress(0x2000), 1_u16).unwrap();
        ring.answer(&memory, 3, 513).unwrap();
        assert_eq!(ring.publish(&memory, PLAIN), Ok(false));
    }

    #[test]
    fn with_event_indices_each_side_is_told_once() {
        let memory = GuestMemory::flat(0x8000).unwrap();
        let mut ring = SplitRing::new(LAYOUT);
        let wanted = GuestAddress(0x200c);
        // The driver wants to hear of the third answer.
        memory.write_value(wanted, 2_u16).unwrap();
        for (answers, told) in [(1, false), (1, false), (1, true), (1, false)] {
            for _ in 0..answers {
                ring.answer(&memory, 0, 0).unwrap();
            }
            assert_eq!(ring.publish(&memory, EVENTS), Ok(told));
        }
        descriptor(&memory, 0x1000, (0x4000, 16, 0, 0));
        offer(&memory, &[0, 0]);
        let mut chain = Chain::default();
        assert_eq!(ring.pop(&memory, EVENTS, &mut chain), Ok(Some(0)));
        assert_eq!(ring.rest(&memory, EVENTS), Ok(true));
        assert_eq!(ring.pop(&memory, EVENTS, &mut chain), Ok(Some(0)));
        assert_eq!(ring.rest(&memory, EVENTS), Ok(false));
        let event: u16 = memory.read_value(GuestAddress(0x3024)).unwrap();
        assert_eq!(event, 2);
    }

    #[test]
    fn the_legacy_layout_is_one_run_of_pages() {
        let layout = Layout::legacy(256, 0x12);
        assert_eq!(
            (layout.descriptors, layout.available, layout.used),
            (0x12000, 0x13000, 0x14000)
        );
        assert!(layout.is_sound());
    }
}
