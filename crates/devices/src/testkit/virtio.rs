//! A virtio device and the driver that plays the guest, by the modern or the legacy registers.
//!
//! ```
//! use block::Disk;
//! use devices::testkit::virtio::{BlockRig, RigOptions};
//!
//! let disk = Disk::memory(512, 1 << 20).unwrap();
//! let mut rig = BlockRig::new(&disk, RigOptions::default());
//! assert_eq!(rig.write(8, &[0xa5; 1024]), 0);
//! assert_eq!(rig.read(8, 1024), (0, vec![0xa5; 1024]));
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test driver stops at the first surprise"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use block::Disk;
use vm_types::{Clock, Execution, MsiSink};

use super::memory::Pages;
use super::pci::Slot;
use crate::virtio::registers::{feature, status};
use crate::virtio::{
    BlockConfig, COMMON_OFFSET, DEVICE_OFFSET, ISR_OFFSET, Interface, LEGACY_BAR, MODERN_BAR,
    NOTIFY_OFFSET, NOTIFY_STRIDE, Virtio, VirtioPorts,
};

/// How the driver goes about it.
#[derive(Clone, Copy, Debug)]
pub struct RigOptions {
    /// By the legacy registers; else by the modern ones.
    pub legacy: bool,
    /// Features that the driver accepts, if they are offered.
    pub accept: u64,
    /// With MSI-X: vector 0 for changes, vector `n + 1` for queue `n`.
    pub msix: bool,
    /// Entries that a modern driver asks for.
    pub queue_size: u16,
    /// Queues of a block device.
    pub queues: u16,
    /// With [`Execution::Inline`] everything is done when a notification returns.
    pub execution: Execution,
}

impl Default for RigOptions {
    fn default() -> Self {
        Self {
            legacy: false,
            accept: u64::MAX,
            msix: true,
            queue_size: 16,
            queues: 1,
            execution: Execution::Inline,
        }
    }
}

/// Between two looks at what a worker thread does: on a busy host, one that yields waits longer than one
/// that sleeps.
const PAUSE: Duration = Duration::from_micros(20);

/// One buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// The device writes it.
    pub writable: bool,
}

/// The driver's side of one queue.
#[derive(Clone, Debug)]
pub struct DriverQueue {
    /// Entries.
    pub size: u16,
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
    /// Next free descriptor, round and round.
    next: u16,
    offered: u16,
    seen: u16,
}

/// A device in a slot and a driver.
#[derive(Debug)]
pub struct VirtioRig {
    /// The device's place.
    pub slot: Slot,
    /// Guest memory.
    pub pages: Pages,
    /// The device.
    pub device: Arc<Virtio>,
    /// Features that both sides have.
    pub features: u64,
    /// The queues set up so far.
    pub queues: Vec<DriverQueue>,
    options: RigOptions,
}

impl VirtioRig {
    /// A device made by `build`, which is given its handles, found and reset but not yet set up.
    ///
    /// # Panics
    /// If the device's declaration is wrong.
    pub fn new(options: RigOptions, build: impl FnOnce(&VirtioPorts) -> Arc<Virtio>) -> Self {
        let pages = Pages::new(4 << 20);
        let (msi, record): (MsiSink, _) = Slot::messages();
        let (clock, _) = Clock::manual();
        let device = build(&VirtioPorts {
            memory: pages.memory().clone(),
            msi,
            clock,
            timers: None,
            execution: options.execution,
        });
        let mut slot = Slot::new(device.clone(), record);
        slot.set_up();
        if !options.msix {
            slot.set_msix_control(0);
        }
        Self {
            slot,
            pages,
            device,
            features: 0,
            queues: Vec::new(),
            options,
        }
    }

    /// Goes through initialisation (3.1.1) up to DRIVER_OK, with `queues` queues.
    ///
    /// # Panics
    /// If the device refuses.
    pub fn start(&mut self, queues: u16) {
        self.negotiate();
        for index in 0..queues {
            self.set_up_queue(index);
        }
        self.set_status(self.status() | status::DRIVER_OK);
    }

    /// Resets, acknowledges and agrees on features.
    ///
    /// # Panics
    /// If the device refuses features that it offered.
    pub fn negotiate(&mut self) {
        self.reset();
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let wanted = self.offered_features() & self.options.accept;
        self.features = wanted;
        if self.options.legacy {
            self.legacy_write(4, &(wanted as u32).to_le_bytes());
            if self.options.msix {
                self.legacy_write(20, &0_u16.to_le_bytes());
            }
            return;
        }
        for half in 0..2_u32 {
            self.common_write(8, u64::from(half), 4);
            self.common_write(12, wanted >> (32 * half) & 0xffff_ffff, 4);
        }
        self.set_status(self.status() | status::FEATURES_OK);
        assert_ne!(
            self.status() & status::FEATURES_OK,
            0,
            "features are refused"
        );
        if self.options.msix {
            self.common_write(0x10, 0, 2);
        }
    }

    /// What the device offers through this interface.
    pub fn offered_features(&self) -> u64 {
        if self.options.legacy {
            return self.legacy_read(0, 4);
        }
        self.common_write(0, 0, 4);
        let low = self.common_read(4, 4);
        self.common_write(0, 1, 4);
        low | self.common_read(4, 4) << 32
    }

    /// Resets the device and waits until it says that it is done. Queues are forgotten.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn reset(&mut self) {
        self.set_status(0);
        self.wait_until("a reset", |rig| rig.status() == 0);
        self.queues.clear();
    }

    /// Places queue `index` and puts it into use.
    ///
    /// # Panics
    /// If queues are not set up in order, or the device has no such queue.
    pub fn set_up_queue(&mut self, index: u16) {
        assert_eq!(usize::from(index), self.queues.len(), "in order");
        let queue = if self.options.legacy {
            self.legacy_write(14, &index.to_le_bytes());
            let size = self.legacy_read(12, 2);
            let available = 16 * size;
            let used = (available + 6 + 2 * size).next_multiple_of(4096);
            assert!(size > 0, "no queue {index}");
            let base = self.ring_pages(used + 6 + 8 * size);
            if self.options.msix {
                self.legacy_write(22, &(index + 1).to_le_bytes());
            }
            self.legacy_write(8, &((base >> 12) as u32).to_le_bytes());
            DriverQueue::new(size as u16, base, base + available, base + used)
        } else {
            self.common_write(0x16, u64::from(index), 2);
            let size = self
                .options
                .queue_size
                .min(self.common_read(0x18, 2) as u16);
            self.common_write(0x18, u64::from(size), 2);
            assert!(size > 0, "no queue {index}");
            let base = self.ring_pages(3 * 4096 + 26 * u64::from(size));
            // Three pages are room for three parts of the sizes that tests use.
            let available = base + (16 * u64::from(size)).next_multiple_of(4096);
            let used = available + (6 + 2 * u64::from(size)).next_multiple_of(4096);
            self.common_write(0x20, base, 8);
            self.common_write(0x28, available, 8);
            self.common_write(0x30, used, 8);
            if self.options.msix {
                self.common_write(0x1a, u64::from(index) + 1, 2);
            }
            self.common_write(0x1c, 1, 2);
            DriverQueue::new(size, base, available, used)
        };
        self.queues.push(queue);
    }

    /// Zeroed pages: where a ring begins, its indices are zero.
    fn ring_pages(&mut self, bytes: u64) -> u64 {
        let base = self.pages.take(bytes);
        self.pages.write(base, &vec![0; bytes as usize]);
        base
    }

    /// Reads the device status.
    pub fn status(&self) -> u8 {
        if self.options.legacy {
            self.legacy_read(18, 1) as u8
        } else {
            self.common_read(0x14, 1) as u8
        }
    }

    /// Writes the device status.
    pub fn set_status(&self, value: u8) {
        if self.options.legacy {
            self.legacy_write(18, &[value]);
        } else {
            self.common_write(0x14, u64::from(value), 1);
        }
    }

    /// Reads, and so clears, the interrupt status.
    pub fn take_isr(&self) -> u8 {
        if self.options.legacy {
            return self.legacy_read(19, 1) as u8;
        }
        let mut byte = [0];
        self.slot
            .memory
            .read(self.slot.window(MODERN_BAR) + ISR_OFFSET, &mut byte);
        byte[0]
    }

    /// Whether the function asks for its interrupt pin.
    pub fn pin(&self) -> bool {
        self.slot.config_read(4) >> 16 & 8 != 0
    }

    /// Reads the device's own configuration.
    pub fn config(&self, offset: u64, bytes: usize) -> u64 {
        let mut data = [0; 8];
        for (at, byte) in (0..).zip(&mut data[..bytes]) {
            let mut one = [0];
            self.config_access(offset + at, &mut one, false);
            *byte = one[0];
        }
        u64::from_le_bytes(data)
    }

    /// Writes one byte of the device's own configuration.
    pub fn set_config(&self, offset: u64, value: u8) {
        self.config_access(offset, &mut [value], true);
    }

    fn config_access(&self, offset: u64, data: &mut [u8], write: bool) {
        let (space, at) = if self.options.legacy {
            let header = if self.options.msix { 24 } else { 20 };
            let at = self.slot.window(LEGACY_BAR) + header + offset;
            (&self.slot.ports, at)
        } else {
            let at = self.slot.window(MODERN_BAR) + DEVICE_OFFSET + offset;
            (&self.slot.memory, at)
        };
        if write {
            space.write(at, data);
        } else {
            space.read(at, data);
        }
    }

    /// Puts a chain into queue `index` without telling the device; returns its head. With `indirect`,
    /// the chain is a table in a fresh page.
    ///
    /// # Panics
    /// If the chain is empty.
    pub fn offer(&mut self, index: u16, chain: &[Buffer], indirect: bool) -> u16 {
        let table = if indirect { self.pages.take(4096) } else { 0 };
        let pages = &self.pages;
        let queue = &mut self.queues[usize::from(index)];
        let head = queue.next;
        if indirect {
            for (slot, buffer) in (0..).zip(chain) {
                let more = usize::from(slot) + 1 < chain.len();
                put_descriptor(pages, table, slot, buffer, more.then_some(slot + 1));
            }
            let bytes = chain.len() as u32 * 16;
            let at = queue.descriptors + 16 * u64::from(head);
            put_raw(pages, at, table, bytes, 4, 0);
            queue.next = (queue.next + 1) % queue.size;
        } else {
            for (number, buffer) in chain.iter().enumerate() {
                let slot = queue.next;
                queue.next = (queue.next + 1) % queue.size;
                let more = number + 1 < chain.len();
                let next = more.then_some(queue.next);
                put_descriptor(pages, queue.descriptors, slot, buffer, next);
            }
        }
        queue.publish(pages, head);
        head
    }

    /// Notifies the device of queue `index`.
    pub fn notify(&self, index: u16) {
        if self.options.legacy {
            self.legacy_write(16, &index.to_le_bytes());
        } else {
            let at = NOTIFY_OFFSET + NOTIFY_STRIDE * u64::from(index);
            let at = self.slot.window(MODERN_BAR) + at;
            self.slot.memory.write(at, &index.to_le_bytes());
        }
    }

    /// The answers since the last call: heads and bytes written.
    pub fn answers(&mut self, index: u16) -> Vec<(u16, u32)> {
        let queue = &mut self.queues[usize::from(index)];
        let now = (self.pages.read_u32(queue.used) >> 16) as u16;
        let mut answers = Vec::new();
        while queue.seen != now {
            let at = queue.used + 4 + 8 * u64::from(queue.seen % queue.size);
            answers.push((self.pages.read_u32(at) as u16, self.pages.read_u32(at + 4)));
            queue.seen = queue.seen.wrapping_add(1);
        }
        answers
    }

    /// Waits for `count` answers.
    ///
    /// # Panics
    /// If they do not come.
    pub fn wait_for(&mut self, index: u16, count: usize) -> Vec<(u16, u32)> {
        let mut answers = Vec::new();
        let begin = Instant::now();
        while answers.len() < count {
            answers.append(&mut self.answers(index));
            if answers.len() < count && begin.elapsed() > self.patience() {
                panic!("{} answers of {count}", answers.len());
            }
            std::thread::sleep(PAUSE);
        }
        answers
    }

    /// Whether all is done when a notification returns.
    pub fn inline(&self) -> bool {
        self.options.execution == Execution::Inline
    }

    /// Inline, what is not done at once is never done.
    const fn patience(&self) -> Duration {
        match self.options.execution {
            Execution::Inline => Duration::ZERO,
            Execution::Threads => Duration::from_secs(30),
        }
    }

    /// # Panics
    /// If `done` does not come true.
    fn wait_until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            if begin.elapsed() > self.patience() {
                panic!("{what} takes too long");
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Reads a register of the common configuration.
    pub fn common_read(&self, offset: u64, bytes: usize) -> u64 {
        let mut data = [0; 8];
        let at = self.slot.window(MODERN_BAR) + COMMON_OFFSET + offset;
        self.slot.memory.read(at, &mut data[..bytes]);
        u64::from_le_bytes(data)
    }

    /// Writes a register of the common configuration.
    pub fn common_write(&self, offset: u64, value: u64, bytes: usize) {
        let at = self.slot.window(MODERN_BAR) + COMMON_OFFSET + offset;
        self.slot.memory.write(at, &value.to_le_bytes()[..bytes]);
    }

    /// Reads a legacy register.
    pub fn legacy_read(&self, offset: u64, bytes: usize) -> u64 {
        let mut data = [0; 8];
        let at = self.slot.window(LEGACY_BAR) + offset;
        self.slot.ports.read(at, &mut data[..bytes]);
        u64::from_le_bytes(data)
    }

    /// Writes a legacy register.
    pub fn legacy_write(&self, offset: u64, data: &[u8]) {
        self.slot
            .ports
            .write(self.slot.window(LEGACY_BAR) + offset, data);
    }
}

impl DriverQueue {
    fn new(size: u16, descriptors: u64, available: u64, used: u64) -> Self {
        Self {
            size,
            descriptors,
            available,
            used,
            next: 0,
            offered: 0,
            seen: 0,
        }
    }

    /// Enters a head into the available ring.
    fn publish(&mut self, pages: &Pages, head: u16) {
        let at = self.available + 4 + 2 * u64::from(self.offered % self.size);
        pages.write(at, &head.to_le_bytes());
        self.offered = self.offered.wrapping_add(1);
        pages.write(self.available + 2, &self.offered.to_le_bytes());
    }
}

fn put_descriptor(pages: &Pages, table: u64, slot: u16, buffer: &Buffer, next: Option<u16>) {
    let flags = u16::from(next.is_some()) | u16::from(buffer.writable) << 1;
    let at = table + 16 * u64::from(slot);
    let next = next.unwrap_or(0);
    put_raw(pages, at, buffer.address, buffer.length, flags, next);
}

/// Writes a descriptor, right or wrong.
pub fn put_raw(pages: &Pages, at: u64, address: u64, length: u32, flags: u16, next: u16) {
    pages.write_u64(at, address);
    pages.write_u32(at + 8, length);
    pages.write_u32(at + 12, u32::from(flags) | u32::from(next) << 16);
}

/// A block device and its driver.
#[derive(Debug)]
pub struct BlockRig {
    /// The device and the driver's rings.
    pub rig: VirtioRig,
    /// The driver puts chains into tables, if the device takes them.
    pub indirect: bool,
    header: u64,
    data: u64,
}

/// Bytes of the data buffer of a [`BlockRig`].
pub const DATA_BYTES: u64 = 1 << 20;

/// What is in the status byte before a request.
pub const NO_STATUS: u8 = 0xee;

impl BlockRig {
    /// A started driver with all queues set up.
    ///
    /// # Panics
    /// If the device cannot be set up.
    pub fn new(disk: &Disk, options: RigOptions) -> Self {
        let mut this = Self::cold(disk, options);
        this.rig.start(options.queues);
        this
    }

    /// A device that no driver has touched.
    ///
    /// # Panics
    /// If the device's declaration is wrong.
    pub fn cold(disk: &Disk, options: RigOptions) -> Self {
        let mut rig = VirtioRig::new(options, |ports| {
            let config = BlockConfig {
                queues: options.queues,
                interface: Interface::Transitional,
                ..BlockConfig::new("vblk0", "TRIVET-TEST-SERIAL-0001")
            };
            Virtio::block(ports, disk, &config).unwrap()
        });
        let header = rig.pages.take(4096);
        let data = rig.pages.take(DATA_BYTES);
        Self {
            rig,
            indirect: false,
            header,
            data,
        }
    }

    /// Where the data buffer is.
    pub const fn data(&self) -> u64 {
        self.data
    }

    /// One request on queue `queue`: `out` goes to the device, `in_bytes` come from it. Status, and what
    /// came.
    pub fn request(
        &mut self,
        queue: u16,
        kind: u32,
        sector: u64,
        out: &[u8],
        in_bytes: u32,
    ) -> (u8, Vec<u8>) {
        let pages = &self.rig.pages;
        pages.write_u32(self.header, kind);
        pages.write_u32(self.header + 4, 0);
        pages.write_u64(self.header + 8, sector);
        let status = self.header + 64;
        pages.write(status, &[NO_STATUS]);
        let mut chain = vec![Buffer {
            address: self.header,
            length: 16,
            writable: false,
        }];
        if !out.is_empty() {
            pages.write(self.data, out);
            chain.push(Buffer {
                address: self.data,
                length: out.len() as u32,
                writable: false,
            });
        }
        if in_bytes > 0 {
            chain.push(Buffer {
                address: self.data,
                length: in_bytes,
                writable: true,
            });
        }
        chain.push(Buffer {
            address: status,
            length: 1,
            writable: true,
        });
        let indirect = self.indirect && self.rig.features & feature::RING_INDIRECT_DESC != 0;
        let head = self.rig.offer(queue, &chain, indirect);
        self.rig.notify(queue);
        let answers = self.rig.wait_for(queue, 1);
        assert_eq!(answers.first().map(|answer| answer.0), Some(head));
        let status = self.rig.pages.read(status, 1)[0];
        (status, self.rig.pages.read(self.data, in_bytes as usize))
    }

    /// Reads `bytes` from `sector`.
    pub fn read(&mut self, sector: u64, bytes: u32) -> (u8, Vec<u8>) {
        self.request(0, 0, sector, &[], bytes)
    }

    /// Writes `bytes` at `sector`; the status.
    pub fn write(&mut self, sector: u64, bytes: &[u8]) -> u8 {
        self.request(0, 1, sector, bytes, 0).0
    }
}
