//! A load to be timed: 4 KiB reads on one queue of a virtio block device.
//!
//! ```
//! use devices::testkit::virtio_bench::ReadLoad;
//!
//! let mut load = ReadLoad::null(64);
//! assert_eq!(load.run(1_000), 1_024); // whole batches of the depth
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test driver stops at the first surprise"
)]

use block::{Disk, NullReads};
use vm_types::Execution;

use super::virtio::{BlockRig, RigOptions, put_raw};

/// Bytes of each read.
pub const READ_BYTES: u32 = 4096;
/// Entries of the queue.
const ENTRIES: u16 = 256;

/// A queue whose chains are all written beforehand as indirect tables, as drivers make them. What is timed
/// is the device, the block layer, and an index, a notification and a look at the used ring a batch.
#[derive(Debug)]
pub struct ReadLoad {
    rig: BlockRig,
    depth: u16,
    offered: u16,
}

impl ReadLoad {
    /// Reads of `depth` at a time (1 to 256) from a disk that answers at once and moves nothing, on the
    /// thread that notifies.
    ///
    /// # Panics
    /// If the host has no memory.
    pub fn null(depth: u16) -> Self {
        let disk = Disk::null(512, 1 << 40, NullReads::Untouched).unwrap();
        Self::on(&disk, depth, Execution::Inline)
    }

    /// Reads of `depth` at a time from the first MiB of `disk`, which is not smaller.
    ///
    /// # Panics
    /// If the host has no memory.
    pub fn on(disk: &Disk, depth: u16, execution: Execution) -> Self {
        let depth = depth.clamp(1, ENTRIES);
        let options = RigOptions {
            queue_size: ENTRIES,
            execution,
            ..RigOptions::default()
        };
        let mut rig = BlockRig::new(disk, options);
        let data = rig.data();
        let queue = rig.rig.queues[0].clone();
        let pages = &mut rig.rig.pages;
        // For each entry of the queue: header, table of three descriptors, status.
        let headers = pages.take(u64::from(ENTRIES) * 128);
        for entry in 0..ENTRIES {
            let header = headers + u64::from(entry) * 128;
            let (table, status) = (header + 16, header + 64);
            pages.write_u32(header, 0);
            pages.write_u64(header + 8, u64::from(entry) * 8);
            let buffer = data + u64::from(entry % 64) * u64::from(READ_BYTES);
            put_raw(pages, table, header, 16, 1, 1);
            put_raw(pages, table + 16, buffer, READ_BYTES, 3, 2);
            put_raw(pages, table + 32, status, 1, 2, 0);
            let at = queue.descriptors + 16 * u64::from(entry);
            put_raw(pages, at, table, 48, 4, 0);
            let slot = queue.available + 4 + 2 * u64::from(entry);
            pages.write(slot, &entry.to_le_bytes());
        }
        Self {
            rig,
            depth,
            offered: 0,
        }
    }

    /// Runs at least `reads` reads, in whole batches; how many it were.
    ///
    /// # Panics
    /// If a read fails.
    pub fn run(&mut self, reads: u64) -> u64 {
        let mut done = 0;
        let queue = self.rig.rig.queues[0].clone();
        while done < reads {
            self.offered = self.offered.wrapping_add(self.depth);
            let pages = &self.rig.rig.pages;
            pages.write(queue.available + 2, &self.offered.to_le_bytes());
            // The event index: an interrupt for the last of the batch.
            let event = self.offered.wrapping_sub(1);
            let place = queue.available + 4 + 2 * u64::from(ENTRIES);
            pages.write(place, &event.to_le_bytes());
            self.rig.rig.notify(0);
            let pages = &self.rig.rig.pages;
            while (pages.read_u32(queue.used) >> 16) as u16 != self.offered {
                std::hint::spin_loop();
            }
            done += u64::from(self.depth);
            if self.rig.rig.slot.interrupts() != [1] && self.rig.rig.inline() {
                panic!("a batch without its one interrupt");
            }
        }
        done
    }
}
