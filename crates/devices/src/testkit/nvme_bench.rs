//! A load to be timed: 4 KiB reads, or writes, on one I/O queue.
//!
//! ```
//! use devices::testkit::nvme_bench::ReadLoad;
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
use vm_types::{Execution, GuestAddress, GuestSlice};

use super::memory::PAGE;
use super::nvme::{NvmeRig, RigOptions, reg};
use crate::nvme::NvmeConfig;
use crate::nvme::command::{Command, io};

/// Bytes of each read.
pub const READ_BYTES: u32 = 4096;
/// Entries of the queue.
const ENTRIES: u32 = 1024;

/// A queue whose entries are all written beforehand, so that what is timed is the controller, the block
/// layer and the least that a driver has to do: two doorbells a batch and a look at each answer.
#[derive(Debug)]
pub struct ReadLoad {
    rig: NvmeRig,
    depth: u32,
    tail: u32,
    head: u32,
    phase: bool,
    completions: u64,
}

impl ReadLoad {
    /// Reads of `depth` at a time (1 to 512) from a disk that answers at once and moves nothing, on the
    /// thread that rings.
    ///
    /// # Panics
    /// If the host has no memory.
    pub fn null(depth: u32) -> Self {
        let disk = Disk::null(512, 1 << 40, NullReads::Untouched).unwrap();
        Self::on(disk, depth, Execution::Inline)
    }

    /// Reads of `depth` at a time from the start of `disk`.
    ///
    /// # Panics
    /// If the disk is smaller than 4 MiB or the host has no memory.
    pub fn on(disk: Disk, depth: u32, execution: Execution) -> Self {
        Self::with(disk, depth, execution, io::READ)
    }

    /// As [`ReadLoad::on`], but writes.
    ///
    /// # Panics
    /// As that.
    pub fn writes_on(disk: Disk, depth: u32, execution: Execution) -> Self {
        Self::with(disk, depth, execution, io::WRITE)
    }

    fn with(disk: Disk, depth: u32, execution: Execution, opcode: u8) -> Self {
        assert!(disk.info().size_bytes >= u64::from(ENTRIES * READ_BYTES));
        let depth = depth.clamp(1, ENTRIES / 2);
        let blocks = READ_BYTES / disk.info().block_size;
        let config = NvmeConfig {
            queue_depth: depth,
            io_queues: 1,
            ..NvmeConfig::new("load", "LOAD", NvmeConfig::uuid_from_seed("load"))
        };
        let options = RigOptions {
            disk,
            execution,
            config,
            ..RigOptions::default()
        };
        let mut rig = NvmeRig::with_options(options).enabled();
        // The record of messages would grow for ever: the vector stays masked.
        rig.create_io_queue(1, ENTRIES);
        rig.slot.mask_vector(1, true);
        let buffers = rig.pages.take(u64::from(depth) * PAGE);
        for entry in 0..ENTRIES {
            let buffer = buffers + u64::from(entry % depth) * PAGE;
            let command = Command::new(opcode, 1)
                .with_prps(buffer, 0)
                .with_blocks(u64::from(entry * blocks), blocks);
            rig.push_as(1, command, entry as u16);
        }
        let completions = rig.completions.get(&1).unwrap().base;
        Self {
            rig,
            depth,
            tail: 0,
            head: 0,
            phase: true,
            completions,
        }
    }

    /// Does at least `commands` of them, in batches of the depth; returns how many.
    ///
    /// # Panics
    /// If one fails.
    pub fn run(&mut self, commands: u64) -> u64 {
        let memory = self.rig.pages.memory().clone();
        let bytes = u64::from(ENTRIES) * 16;
        let entries = memory.slice(GuestAddress(self.completions), bytes).unwrap();
        let mut done = 0;
        while done < commands {
            self.tail = (self.tail + self.depth) % ENTRIES;
            self.rig.write32(reg::DOORBELLS + 8, self.tail);
            for _ in 0..self.depth {
                self.take_answer(&entries);
            }
            self.rig.write32(reg::DOORBELLS + 12, self.head);
            done += u64::from(self.depth);
        }
        done
    }

    fn take_answer(&mut self, entries: &GuestSlice<'_>) {
        let last = entries.subslice(self.head as usize * 16 + 12, 4).unwrap();
        let word = loop {
            let mut word = [0u32; 1];
            last.copy_to(&mut word);
            if (word[0] >> 16 & 1 != 0) == self.phase {
                break word[0];
            }
            std::thread::yield_now();
        };
        if word >> 17 != 0 {
            panic!("a command failed: {word:#x}");
        }
        self.head += 1;
        if self.head == ENTRIES {
            self.head = 0;
            self.phase = !self.phase;
        }
    }
}
