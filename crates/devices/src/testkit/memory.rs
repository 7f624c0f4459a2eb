//! Guest memory with a pointer to its first unused page.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test driver stops at the first surprise"
)]

use vm_types::{GuestAddress, GuestMemory};

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Hands out pages and never takes one back.
#[derive(Clone, Debug)]
pub struct Pages {
    memory: GuestMemory,
    next: u64,
    end: u64,
}

impl Pages {
    /// `bytes` of RAM from address 0, of which the first page is never handed out, so that no address is
    /// zero.
    ///
    /// # Panics
    /// If the host has no memory.
    pub fn new(bytes: u64) -> Self {
        Self {
            memory: GuestMemory::flat(bytes).unwrap(),
            next: PAGE,
            end: bytes,
        }
    }

    /// The memory itself.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The same pages used, in another memory that holds a copy.
    #[must_use]
    pub fn rebased(&self, memory: &GuestMemory) -> Self {
        Self {
            memory: memory.clone(),
            ..self.clone()
        }
    }

    /// The start of `bytes` fresh bytes, page-aligned.
    ///
    /// # Panics
    /// When all pages are used.
    pub fn take(&mut self, bytes: u64) -> u64 {
        let start = self.next;
        self.next += bytes.next_multiple_of(PAGE);
        if self.next > self.end {
            panic!("the test driver is out of guest memory");
        }
        start
    }

    /// Copies bytes out.
    ///
    /// # Panics
    /// If they are not all RAM.
    pub fn read(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read(GuestAddress(at), &mut bytes).unwrap();
        bytes
    }

    /// Copies bytes in.
    ///
    /// # Panics
    /// If they are not all RAM.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write(GuestAddress(at), bytes).unwrap();
    }

    /// Reads a little-endian word.
    ///
    /// # Panics
    /// If it is not RAM.
    pub fn read_u32(&self, at: u64) -> u32 {
        self.memory.read_value(GuestAddress(at)).unwrap()
    }

    /// Writes a little-endian word.
    ///
    /// # Panics
    /// If it is not RAM.
    pub fn write_u32(&self, at: u64, value: u32) {
        self.memory.write_value(GuestAddress(at), value).unwrap();
    }

    /// Writes a little-endian double word.
    ///
    /// # Panics
    /// If it is not RAM.
    pub fn write_u64(&self, at: u64, value: u64) {
        self.memory.write_value(GuestAddress(at), value).unwrap();
    }
}
