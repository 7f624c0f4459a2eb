//! Bytes as steps against an NVMe controller: what fuzz targets and property tests call.
//!
//! Each function takes any bytes and returns; it panics when the controller breaks a promise.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test driver stops at the first surprise"
)]

use std::collections::BTreeMap;

use block::{Disk, Fault, Faults, Rule};

use super::nvme::{NvmeRig, RigOptions, create_cq, create_sq, reg};
use crate::lifecycle::Lifecycle;
use crate::nvme::Status;
use crate::nvme::command::{Command, SQE_BYTES, admin, io};

/// Steps of one run, so that a long input does not run for ever.
const STEPS_MAX: usize = 2_000;
/// I/O queues of the controller.
const QUEUES: u16 = 8;
/// Blocks of the disk, of 512 bytes.
const BLOCKS: u64 = 64;

/// Bytes, taken from the front; zero when they are used up.
struct Steps<'a>(&'a [u8]);

impl Steps<'_> {
    fn more(&self) -> bool {
        !self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        u64::from(self.byte()) % limit
    }

    fn wide(&mut self) -> u64 {
        let mut bytes = [0; 8];
        bytes.fill_with(|| self.byte());
        u64::from_le_bytes(bytes)
    }
}

fn small_rig(faults: &Faults) -> NvmeRig {
    let disk = Disk::memory(512, BLOCKS * 512).unwrap().faulty(faults);
    NvmeRig::with_options(RigOptions {
        disk,
        memory_bytes: 48 << 20,
        ..RigOptions::default()
    })
}

/// Arbitrary reads and writes of registers, doorbells, the MSI-X table and configuration space. After a
/// function level reset the controller must work as new.
pub fn registers(bytes: &[u8]) {
    let mut rig = small_rig(&Faults::new());
    rig.enable();
    let mut steps = Steps(bytes);
    for _ in 0..STEPS_MAX {
        if !steps.more() {
            break;
        }
        let kind = steps.byte();
        let length = 1usize << (kind >> 4 & 3);
        let value = steps.wide().to_le_bytes();
        let near = u64::from(steps.byte());
        let far = u64::from(steps.byte()) << 8;
        // Mostly where something is.
        let (window, offset) = match kind & 7 {
            0 | 1 => (0, near % 0x40),
            2 => (0, 0x1000 + near % 0x60),
            3 => (0, (near | far) % 0x4000),
            4 => (4, (near | far) % 0x2000),
            5 => (4, near % 0x100),
            _ => {
                let offset = near as u16 & 0xfc;
                // The windows stay where the driver has put them, decoded.
                if kind & 0x80 != 0 && !matches!(offset, 0x04 | 0x10..0x28) {
                    let value = steps.wide() as u32;
                    rig.slot.config_write(offset, value);
                    if rig.slot.config_read(0x04) & 2 == 0 {
                        // A function level reset: firmware would begin again.
                        rig.slot.set_up();
                    }
                } else {
                    rig.slot.config_read(offset);
                }
                continue;
            }
        };
        let at = rig.slot.window(window) + offset;
        if kind & 0x80 != 0 {
            rig.slot.memory.write(at, &value[..length]);
        } else {
            let mut data = [0; 8];
            rig.slot.memory.read(at, &mut data[..length]);
        }
        assert_ne!(rig.read32(reg::VS), u32::MAX);
    }
    let reset = rig.slot.capability(0x13).unwrap();
    rig.slot.config_write(reset + 4, 1);
    rig.slot.set_up();
    rig.enable();
    rig.create_io_queue(1, 8);
    assert!(rig.io(1, Command::new(io::FLUSH, 1)).status.is_success());
}

/// Arbitrary commands on the admin queue and one I/O queue. Each is answered exactly once, but for parked
/// event requests.
pub fn commands(bytes: &[u8]) {
    let mut rig = small_rig(&Faults::new());
    rig.enable();
    rig.create_io_queue(1, 16);
    let mut steps = Steps(bytes);
    let mut parked = 0;
    for _ in 0..STEPS_MAX {
        if !steps.more() {
            break;
        }
        let shape = steps.byte();
        let mut raw = [0; SQE_BYTES];
        raw.fill_with(|| steps.byte());
        let mut command = Command::from_bytes(&raw);
        let queue = u16::from(shape & 1);
        if shape & 2 != 0 {
            command.dwords[0] &= 0xffff_00ff;
        }
        if shape & 4 != 0 {
            command.dwords[1] = 1;
        }
        if shape & 8 != 0 {
            // PRP entries somewhere in memory, far from the driver's own queues.
            command.dwords[6] = 0x0200_0000 | command.dwords[6] & 0x00ff_fffc;
            command.dwords[8] = 0x0100_0000 | command.dwords[8] & 0x00ff_fff8;
            (command.dwords[7], command.dwords[9]) = (0, 0);
        }
        if shape & 16 != 0 {
            command.dwords[10] &= 0x3f;
            command.dwords[11] = 0;
            command.dwords[12] &= 0x4200_0007;
        }
        if queue == 0 && disturbs(&command) {
            continue;
        }
        let id = rig.submit(queue, command);
        match rig.poll(queue) {
            Some(answer) => assert_eq!((answer.id, answer.queue), (id, queue)),
            None if queue == 0 && command.opcode() == admin::ASYNC_EVENT => parked += 1,
            None => panic!("no answer to {command:?}"),
        }
        assert_eq!(rig.poll(queue), None, "one answer a command");
        assert!(parked <= 4);
        assert_eq!(rig.read32(reg::CSTS), 1);
    }
    rig.disable();
    rig.enable();
}

/// Commands that would take away what the driver counts on: its queue, its memory, order of answers.
fn disturbs(command: &Command) -> bool {
    match command.opcode() {
        // These reach memory of their choice long after they were given.
        admin::CREATE_CQ | admin::CREATE_SQ | admin::DOORBELL_BUFFER => true,
        admin::DELETE_SQ | admin::DELETE_CQ => command.dwords[10] as u16 == 1,
        // Answers a parked request too, before its own.
        admin::ABORT => command.dwords[10] as u16 == 0,
        // The temperature threshold and its event, answers likewise.
        admin::SET_FEATURES => matches!(command.dwords[10] as u8, 0x04 | 0x0b),
        // Data anywhere would overwrite the driver's queues.
        admin::IDENTIFY | admin::GET_LOG_PAGE => {
            command.dwords[6] >> 24 != 2
                || command.dwords[8] >> 24 != 1
                || command.dwords[7] != 0
                || command.dwords[9] != 0
        }
        _ => false,
    }
}

/// Creating and deleting queues, I/O, stalls, aborts, resets, shadow doorbells, saving and restoring, all
/// against an oracle of queues and of the disk's content.
pub fn model(bytes: &[u8]) {
    let faults = Faults::new();
    let mut world = World {
        rig: small_rig(&faults),
        faults,
        completions: BTreeMap::new(),
        submissions: BTreeMap::new(),
        blocks: vec![0; BLOCKS as usize],
        buffer: 0,
    };
    world.buffer = world.rig.pages.take(4096);
    world.rig.enable();
    let mut steps = Steps(bytes);
    for _ in 0..STEPS_MAX {
        if !steps.more() {
            break;
        }
        world.step(&mut steps);
    }
    world.check_content();
}

struct World {
    rig: NvmeRig,
    faults: Faults,
    /// Entries by id.
    completions: BTreeMap<u16, u32>,
    /// Completion queue and entries by id.
    submissions: BTreeMap<u16, (u16, u32)>,
    /// The byte that fills each block.
    blocks: Vec<u8>,
    buffer: u64,
}

impl World {
    fn step(&mut self, steps: &mut Steps<'_>) {
        match steps.below(12) {
            0 => self.create_completion(steps),
            1 | 2 => self.create_submission(steps),
            3 => self.delete_submission(steps),
            4 => self.delete_completion(steps),
            5 | 6 => self.transfer(steps),
            7 => self.burst(steps),
            8 => self.stall(steps),
            9 if steps.below(4) == 0 => self.reset(),
            10 if steps.below(4) == 0 => self.save_and_restore(),
            11 if self.rig.shadows.is_none() => self.rig.use_shadow_doorbells(),
            _ => {}
        }
    }

    fn expect(&mut self, command: Command, expected: Status) -> bool {
        let status = self.rig.admin(command).status;
        assert_eq!(status.code(), expected.code(), "{command:?}");
        status.is_success()
    }

    fn create_completion(&mut self, steps: &mut Steps<'_>) {
        let id = steps.below(u64::from(QUEUES) + 2) as u16;
        let entries = [1, 2, 3, 5, 16][steps.below(5) as usize];
        let base = self.rig.pages.take(4096);
        let bad_id = id == 0 || id > QUEUES || self.completions.contains_key(&id);
        let expected = match (bad_id, entries) {
            (true, _) => Status::INVALID_QUEUE_ID,
            (_, 1) => Status::INVALID_QUEUE_SIZE,
            _ => Status::SUCCESS,
        };
        if self.expect(create_cq(id, entries, base, Some(id.min(QUEUES))), expected) {
            self.completions.insert(id, entries);
            self.rig.completions.remove(&id);
            // The driver's notes of both sides are made together; an unused one does no harm.
            self.rig.remember(id + 100, id, base, 2, base, entries);
        }
    }

    fn create_submission(&mut self, steps: &mut Steps<'_>) {
        let id = steps.below(u64::from(QUEUES) + 2) as u16;
        let completion = steps.below(u64::from(QUEUES) + 2) as u16;
        let entries = [1, 2, 3, 8, 33][steps.below(5) as usize];
        let base = self.rig.pages.take(4096);
        let bad_id = id == 0 || id > QUEUES || self.submissions.contains_key(&id);
        let bad_target = completion == 0 || completion > QUEUES;
        let expected = if bad_id || bad_target {
            Status::INVALID_QUEUE_ID
        } else if !self.completions.contains_key(&completion) {
            Status::COMPLETION_QUEUE_INVALID
        } else if entries == 1 {
            Status::INVALID_QUEUE_SIZE
        } else {
            Status::SUCCESS
        };
        if self.expect(create_sq(id, entries, base, completion), expected) {
            self.submissions.insert(id, (completion, entries));
            self.rig.remember(id, completion, base, entries, 0, 0);
        }
    }

    fn delete_submission(&mut self, steps: &mut Steps<'_>) {
        let id = steps.below(u64::from(QUEUES) + 2) as u16;
        let expected = match self.submissions.remove(&id) {
            Some(_) => Status::SUCCESS,
            None => Status::INVALID_QUEUE_ID,
        };
        self.expect(delete(admin::DELETE_SQ, id), expected);
    }

    fn delete_completion(&mut self, steps: &mut Steps<'_>) {
        let id = steps.below(u64::from(QUEUES) + 2) as u16;
        let used = self.submissions.values().any(|(target, _)| *target == id);
        let expected = if !self.completions.contains_key(&id) {
            Status::INVALID_QUEUE_ID
        } else if used {
            Status::INVALID_QUEUE_DELETION
        } else {
            self.completions.remove(&id);
            Status::SUCCESS
        };
        self.expect(delete(admin::DELETE_CQ, id), expected);
    }

    fn pick(&self, steps: &mut Steps<'_>) -> Option<(u16, u16, u32)> {
        let count = self.submissions.len() as u64;
        let index = steps.below(count.max(1)) as usize;
        let (id, (completion, entries)) = self.submissions.iter().nth(index)?;
        Some((*id, *completion, *entries))
    }

    fn transfer(&mut self, steps: &mut Steps<'_>) {
        let Some((id, _, _)) = self.pick(steps) else {
            return;
        };
        let block = steps.below(BLOCKS + 2);
        let value = steps.byte();
        let inside = block < BLOCKS;
        let now = self.blocks.get(block as usize).copied().unwrap_or(0);
        let opcode = [io::WRITE, io::READ, io::COMPARE, io::WRITE_ZEROES][steps.below(4) as usize];
        self.rig.pages.write(self.buffer, &[value; 512]);
        let command = Command::new(opcode, 1)
            .with_prps(self.buffer, 0)
            .with_blocks(block, 1);
        let status = self.rig.io(id, command).status;
        let expected = match opcode {
            _ if !inside => Status::LBA_OUT_OF_RANGE,
            io::COMPARE if now != value => Status::COMPARE_FAILURE,
            _ => Status::SUCCESS,
        };
        assert_eq!(status.code(), expected.code(), "{command:?}");
        if let Some(content) = self.blocks.get_mut(block as usize) {
            match opcode {
                io::WRITE => *content = value,
                io::WRITE_ZEROES => *content = 0,
                io::READ => assert_eq!(self.rig.pages.read(self.buffer, 512), [now; 512]),
                _ => {}
            }
        }
    }

    /// As many commands as the queue holds, some of them wrong, through a completion queue that may be
    /// much smaller.
    fn burst(&mut self, steps: &mut Steps<'_>) {
        let Some((id, completion, entries)) = self.pick(steps) else {
            return;
        };
        let wrong_every = 1 + steps.below(7);
        let commands: Vec<u16> = (1..u64::from(entries))
            .map(|n| {
                let opcode = if n % wrong_every == 0 {
                    0xff
                } else {
                    io::FLUSH
                };
                self.rig.push(id, Command::new(opcode, 1))
            })
            .collect();
        self.rig.ring(id);
        let mut answers: Vec<u16> = commands
            .iter()
            .map(|_| self.rig.wait(completion).id)
            .collect();
        // Commands refused at once overtake those at the disk.
        answers.sort_unstable();
        let mut expected = commands;
        expected.sort_unstable();
        assert_eq!(answers, expected);
    }

    /// A command hangs at the disk; then the disk recovers, or the queue is deleted, or the controller
    /// reset, or the command aborted.
    fn stall(&mut self, steps: &mut Steps<'_>) {
        let Some((id, completion, _)) = self.pick(steps) else {
            return;
        };
        self.faults.add(Rule::next(Fault::Stall));
        let hung = self.rig.submit(id, Command::new(io::FLUSH, 1));
        assert_eq!(self.rig.peek(completion), None);
        match steps.below(4) {
            0 => self.faults.release(),
            1 => {
                self.rig.write32(reg::CC, self.rig.read32(reg::CC) & !1);
                assert_eq!(self.rig.read32(reg::CSTS) & 1, 1, "still draining");
                self.faults.release();
                self.rig.await_ready(false);
                assert_eq!(self.rig.peek(completion), None);
                self.forget();
                return;
            }
            2 => {
                let deletion = self.rig.submit(0, delete(admin::DELETE_SQ, id));
                assert_eq!(self.rig.peek(0), None);
                self.submissions.remove(&id);
                self.faults.release();
                assert_eq!(self.rig.wait(0).id, deletion);
            }
            _ => {
                let word = u32::from(id) | u32::from(hung) << 16;
                let abort = Command::new(admin::ABORT, 0).with_word(10, word);
                assert_eq!(self.rig.admin(abort).result & 1, 1);
                self.faults.release();
            }
        }
        assert_eq!(self.rig.wait(completion).id, hung);
    }

    fn reset(&mut self) {
        self.rig.disable();
        self.forget();
    }

    fn forget(&mut self) {
        self.submissions.clear();
        self.completions.clear();
        self.rig.enable();
    }

    fn save_and_restore(&mut self) {
        let nvme = self.rig.nvme.clone();
        nvme.pause();
        let state = nvme.save().unwrap();
        nvme.restore(&state).unwrap();
        assert!(nvme.save().unwrap() == state, "saved twice, differently");
        nvme.resume();
    }

    fn check_content(&mut self) {
        self.reset();
        self.rig.create_io_queue(1, 8);
        for (block, value) in (0..).zip(self.blocks.clone()) {
            let read = Command::new(io::READ, 1)
                .with_prps(self.buffer, 0)
                .with_blocks(block, 1);
            assert!(self.rig.io(1, read).status.is_success());
            assert_eq!(self.rig.pages.read(self.buffer, 512), [value; 512]);
        }
    }
}

fn delete(opcode: u8, id: u16) -> Command {
    Command::new(opcode, 0).with_word(10, u32::from(id))
}
