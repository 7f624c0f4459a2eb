//! The NVMe controller under arbitrary accesses, commands and sequences. The same functions are fuzz
//! targets.

use devices::lifecycle::Lifecycle;
use devices::nvme::command::{Command, admin, io};
use devices::testkit::nvme::{NvmeRig, RigOptions, create_cq, create_sq};
use devices::testkit::nvme_fuzz;
use proptest::collection::vec;
use proptest::prelude::*;
use vm_types::Execution;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Accesses of 1, 2, 4 and 8 bytes at any offset of both windows and configuration space.
    #[test]
    fn arbitrary_register_accesses(bytes in vec(any::<u8>(), 0..1500)) {
        nvme_fuzz::registers(&bytes);
    }

    /// Arbitrary submission queue entries, some of them nearly right.
    #[test]
    fn arbitrary_commands(bytes in vec(any::<u8>(), 0..4000)) {
        nvme_fuzz::commands(&bytes);
    }

    /// Queues made and deleted, I/O, stalls, aborts, resets, saved states, against an oracle.
    #[test]
    fn random_sequences_agree_with_the_oracle(bytes in vec(any::<u8>(), 0..1500)) {
        nvme_fuzz::model(&bytes);
    }
}

/// Doorbells, configuration, resets and admin commands from four threads at once, with workers at the
/// disk: no deadlock, no panic, and a reset makes all well.
#[test]
fn accesses_from_many_threads_at_once() {
    let mut rig = NvmeRig::with_options(RigOptions {
        execution: Execution::Threads,
        ..RigOptions::default()
    })
    .enabled();
    for id in 1..=4 {
        rig.create_io_queue(id, 16);
        for n in 0..16u64 {
            let opcode = [io::READ, io::WRITE, io::FLUSH, io::COMPARE][(n % 4) as usize];
            let command = Command::new(opcode, 1)
                .with_prps(0x200_0000 + n * 4096, 0)
                .with_blocks(n * 8, 8);
            rig.push(id, command);
        }
    }
    let base = rig.slot.window(0);
    let admin = rig.submissions[&0].base;
    for n in 0..32u64 {
        let id = 1 + n as u16 % 4;
        let (cq, sq) = (rig.completions[&id].base, rig.submissions[&id].base);
        let command = [
            create_cq(id, 16, cq, Some(id)),
            create_sq(id, 16, sq, id),
            Command::new(admin::ABORT, 0).with_word(10, 3 | (n as u32) << 16),
            Command::new(admin::ASYNC_EVENT, 0),
            Command::new(admin::DELETE_SQ, 0).with_word(10, u32::from(id)),
        ][(n / 4 % 5) as usize];
        rig.pages
            .write(admin + n * 64, &command.with_id(n as u16).to_bytes());
    }
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let space = rig.slot.memory.clone();
            scope.spawn(move || {
                let mut state = 0x9e37_79b9_7f4a_7c15 ^ thread;
                for _ in 0..20_000 {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let value = (state >> 40) as u32;
                    let (offset, value) = match state % 64 {
                        0 => (0x14, 0x0046_0000),
                        1..=3 => (0x14, 0x0046_0001),
                        4 => (0x14, 0x0046_4001),
                        5..=12 => (0x1000, value % 32),
                        13..=16 => (0x1004, value % 32),
                        17..=40 => (0x1008 + u64::from(value >> 8) % 4 * 8, value % 16),
                        _ => (0x100c + u64::from(value >> 8) % 4 * 8, value % 16),
                    };
                    space.write(base + offset, &value.to_le_bytes());
                    space.read(base + 0x1c, &mut [0; 4]);
                }
            });
        }
    });
    rig.write32(0x14, 0);
    rig.await_ready(false);
    rig.enable();
    rig.create_io_queue(1, 16);
    assert!(rig.io(1, Command::new(io::FLUSH, 1)).status.is_success());
    rig.nvme.halt();
}
