//! The steps of two drivers in the field: a small polling one as in UEFI firmware, and a large one with
//! interrupts, many queues, shadow doorbells and events as in an operating system.

#![expect(clippy::panic, reason = "a test driver stops at the first surprise")]

use std::time::{Duration, Instant};

use super::memory::PAGE;
use super::nvme::{
    Answer, NvmeRig, create_cq, create_sq, get_log_page, identify, reg, set_feature,
};
use crate::nvme::command::{Command, admin, io};

/// What a driver learned about the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Serial number, spaces trimmed.
    pub serial: String,
    /// Bytes of a logical block.
    pub block_size: u32,
    /// Logical blocks.
    pub blocks: u64,
    /// The I/O queues that were made, beginning with 1.
    pub queues: u16,
}

impl Found {
    fn of(controller: &[u8], namespace: &[u8], queues: u16) -> Self {
        let text = controller.get(4..24).unwrap_or_default();
        let size = namespace.get(..8).and_then(|bytes| bytes.try_into().ok());
        let capacity = namespace.get(8..16).and_then(|bytes| bytes.try_into().ok());
        if capacity.map_or(0, u64::from_le_bytes) == 0 {
            panic!("the namespace has no capacity");
        }
        let format = usize::from(namespace.get(26).copied().unwrap_or(0) & 0xf);
        let shift = namespace.get(128 + format * 4 + 2).copied().unwrap_or(0);
        Self {
            serial: String::from_utf8_lossy(text).trim_end().to_owned(),
            block_size: 1 << shift,
            blocks: size.map_or(0, u64::from_le_bytes),
            queues,
        }
    }
}

/// Polls without interrupts, with queues of two entries, as firmware does; leaves queue 1 in place.
///
/// # Panics
/// If the controller does anything else than such a driver needs.
pub fn firmware(rig: &mut NvmeRig) -> Found {
    let capabilities = u64::from(rig.read32(reg::CAP)) | u64::from(rig.read32(reg::CAP + 4)) << 32;
    assert_eq!(capabilities >> 37 & 0xff, 1, "CSS");
    assert_eq!(capabilities >> 48 & 0xf, 0, "MPSMIN");
    disable(rig);
    let (submission, completion) = (rig.pages.take(PAGE), rig.pages.take(PAGE));
    rig.write32(reg::AQA, 1 | 1 << 16);
    write_halves(rig, reg::ASQ, submission);
    write_halves(rig, reg::ACQ, completion);
    rig.write32(reg::CC, 0x0046_0001);
    rig.await_ready(true);
    rig.submissions.clear();
    rig.completions.clear();
    rig.shadows = None;
    rig.remember(0, 0, submission, 2, completion, 2);
    let controller = rig.identify(1, 0);
    let (cq, sq) = (rig.pages.take(PAGE), rig.pages.take(PAGE));
    done(rig.admin(create_cq(1, 2, cq, None)));
    done(rig.admin(create_sq(1, 2, sq, 1)));
    rig.remember(1, 1, sq, 2, cq, 2);
    let namespace = rig.identify(0, 1);
    let found = Found::of(&controller, &namespace, 1);
    transfer(rig, 1, io::READ, &found, 0, 0);
    found
}

/// Sets up `queues` I/O queues of `depth` entries with interrupts, shadow doorbells and event requests,
/// and scans for the namespace, as an operating system does.
///
/// # Panics
/// If the controller does anything else than such a driver needs.
pub fn operating_system(rig: &mut NvmeRig, queues: u16, depth: u32) -> Found {
    assert_ne!(rig.read32(reg::CSTS), u32::MAX);
    disable(rig);
    let capabilities = u64::from(rig.read32(reg::CAP)) | u64::from(rig.read32(reg::CAP + 4)) << 32;
    let depth = depth.min((capabilities & 0xffff) as u32 + 1);
    rig.program_admin_queues(32);
    // Settings first, EN in a second write.
    rig.write32(reg::CC, 0x0046_0000);
    rig.write32(reg::CC, 0x0046_0001);
    rig.await_ready(true);
    let controller = rig.identify(1, 0);
    if controller
        .get(261)
        .is_some_and(|log_pages| log_pages & 2 != 0)
    {
        let buffer = rig.pages.take(PAGE);
        done(rig.admin(get_log_page(5, 4096).with_prps(buffer, 0)));
    }
    let asked = u32::from(queues) - 1;
    let granted = done(rig.admin(set_feature(7, asked | asked << 16))).result;
    let queues = queues
        .min(granted as u16 + 1)
        .min((granted >> 16) as u16 + 1);
    for id in 1..=queues {
        rig.create_io_queue(id, depth);
    }
    if controller.get(257).is_some_and(|oacs| oacs & 1 != 0) {
        rig.use_shadow_doorbells();
    }
    let events = controller.get(92..96).and_then(|oaes| oaes.try_into().ok());
    done(rig.admin(set_feature(0x0b, events.map_or(0, u32::from_le_bytes))));
    rig.submit(0, Command::new(admin::ASYNC_EVENT, 0));
    let list = rig.identify(2, 0);
    assert_eq!(list.get(..8), Some(&[1, 0, 0, 0, 0, 0, 0, 0][..]));
    rig.identify(3, 1);
    let buffer = rig.pages.take(PAGE);
    done(rig.admin(identify(0, 1, buffer)));
    let namespace = rig.pages.read(buffer, PAGE as usize);
    rig.log_page(2, 512);
    Found::of(&controller, &namespace, queues)
}

/// Deletes all I/O queues and shuts the controller down normally.
///
/// # Panics
/// If it does not complete.
pub fn shut_down(rig: &mut NvmeRig) {
    let submissions: Vec<u16> = rig
        .submissions
        .keys()
        .copied()
        .filter(|id| *id != 0)
        .collect();
    for id in submissions {
        done(rig.admin(Command::new(admin::DELETE_SQ, 0).with_word(10, u32::from(id))));
        rig.submissions.remove(&id);
    }
    let completions: Vec<u16> = rig
        .completions
        .keys()
        .copied()
        .filter(|id| *id != 0)
        .collect();
    for id in completions {
        done(rig.admin(Command::new(admin::DELETE_CQ, 0).with_word(10, u32::from(id))));
        rig.completions.remove(&id);
    }
    rig.write32(reg::CC, rig.read32(reg::CC) & !(3 << 14) | 1 << 14);
    let start = Instant::now();
    while rig.read32(reg::CSTS) >> 2 & 3 != 2 {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "no end of shutdown"
        );
        std::thread::yield_now();
    }
}

/// Writes or reads one block whose bytes are all `byte`, and checks what was read.
///
/// # Panics
/// If the command fails or other bytes come back.
pub fn transfer(rig: &mut NvmeRig, queue: u16, opcode: u8, found: &Found, block: u64, byte: u8) {
    let length = found.block_size as usize;
    let buffer = rig.pages.take(length as u64);
    if opcode == io::WRITE {
        rig.pages.write(buffer, &vec![byte; length]);
    }
    let command = Command::new(opcode, 1)
        .with_prps(buffer, 0)
        .with_blocks(block, 1);
    done(rig.io(queue, command));
    assert_eq!(rig.pages.read(buffer, length), vec![byte; length]);
}

fn disable(rig: &NvmeRig) {
    rig.write32(reg::CC, rig.read32(reg::CC) & !1);
    rig.await_ready(false);
}

fn write_halves(rig: &NvmeRig, offset: u64, value: u64) {
    rig.write32(offset, value as u32);
    rig.write32(offset + 4, (value >> 32) as u32);
}

fn done(answer: Answer) -> Answer {
    assert!(answer.status.is_success(), "{answer:?}");
    answer
}
