//! NVMe conformance, group D: what happens over time. One test a row of `CONFORMANCE.md`.

use block::{Class, Disk, Fault, Faults, Outcome, Rule};
use devices::lifecycle::Lifecycle;
use devices::nvme::command::{Command, admin, io};
use devices::nvme::{Nvme, Status};
use devices::testkit::disk::{hanging, recording};
use devices::testkit::nvme::{NvmeRig, RigOptions, reg, set_feature};
use devices::testkit::nvme_flows::{firmware, operating_system, shut_down, transfer};
use vm_types::Execution;

fn memory_disk() -> Disk {
    Disk::memory(512, 8 << 20).unwrap_or_else(|error| unreachable!("{error}"))
}

fn bare(disk: Disk, execution: Execution) -> NvmeRig {
    NvmeRig::with_options(RigOptions {
        disk,
        execution,
        ..RigOptions::default()
    })
}

#[test]
fn d01_removed_and_rescanned_during_commands() {
    let faults = Faults::new();
    let mut rig = NvmeRig::on(memory_disk().faulty(&faults)).with_io_queue(1, 16);
    faults.add(Rule::next(Fault::Stall));
    rig.submit(1, Command::new(io::FLUSH, 1));
    // Unbinding: decoding and bus mastering go, then the slot is set up anew.
    rig.slot.set_command(0);
    rig.slot.config_write(0x10, 0);
    faults.release();
    rig.slot.set_up();
    let found = operating_system(&mut rig, 4, 32);
    transfer(&mut rig, 2, io::WRITE, &found, 5, 0x77);
    transfer(&mut rig, 2, io::READ, &found, 5, 0x77);
}

#[test]
fn d02_time_out_then_abort_then_reset_then_recovery() {
    let faults = Faults::new();
    let mut rig = NvmeRig::on(memory_disk().faulty(&faults)).with_io_queue(1, 16);
    let buffer = rig.pages.take(4096);
    rig.pages.write(buffer, &[0x11; 4096]);
    faults.add(Rule::next(Fault::Stall));
    let read = Command::new(io::READ, 1)
        .with_prps(buffer, 0)
        .with_blocks(0, 8);
    let hung = rig.submit(1, read);
    let abort = Command::new(admin::ABORT, 0).with_word(10, 1 | u32::from(hung) << 16);
    assert_eq!(rig.admin(abort).result & 1, 1, "the disk has it");
    // Next the driver resets. The disk may still move data, so RDY stays until it has let go.
    rig.write32(reg::CC, rig.read32(reg::CC) & !1);
    assert_eq!(rig.read32(reg::CSTS) & 1, 1);
    rig.slot.interrupts();
    faults.release();
    assert_eq!(rig.read32(reg::CSTS) & 1, 0);
    assert!(
        rig.slot.interrupts().is_empty(),
        "no answer of an earlier life"
    );
    rig.enable();
    rig.create_io_queue(1, 16);
    assert!(rig.io(1, read).status.is_success());
    assert_eq!(rig.pages.read(buffer, 4096), [0; 4096]);
}

#[test]
fn d02_enabling_before_the_reset_is_over_works_in_the_end() {
    let faults = Faults::new();
    let mut rig = NvmeRig::on(memory_disk().faulty(&faults)).with_io_queue(1, 16);
    faults.add(Rule::next(Fault::Stall));
    rig.submit(1, Command::new(io::FLUSH, 1));
    rig.write32(reg::CC, rig.read32(reg::CC) & !1);
    rig.program_admin_queues(16);
    // An impatient driver does not wait for RDY to go.
    rig.write32(reg::CC, devices::testkit::nvme::ENABLE);
    rig.write32(reg::DOORBELLS, 1);
    faults.release();
    rig.await_ready(true);
    rig.create_io_queue(1, 16);
    assert!(rig.io(1, Command::new(io::FLUSH, 1)).status.is_success());
}

#[test]
fn d02_a_disk_that_hangs_for_ever_holds_up_neither_reset_nor_deletion() {
    let mut rig = NvmeRig::on(hanging(512, 8 << 20)).with_io_queue(1, 16);
    let hung = [(); 5].map(|()| rig.submit(1, Command::new(io::FLUSH, 1)));
    let deletion = rig.admin(Command::new(admin::DELETE_SQ, 0).with_word(10, 1));
    assert!(deletion.status.is_success());
    for id in hung {
        let answer = rig.wait(1);
        let aborted = Status::ABORTED_QUEUE_DELETED.code();
        assert_eq!((answer.id, answer.status.code()), (id, aborted));
    }
    for execution in [Execution::Inline, Execution::Threads] {
        let rig = bare(hanging(512, 8 << 20), execution).enabled();
        let mut rig = rig.with_io_queue(1, 16);
        rig.submit(1, Command::new(io::FLUSH, 1));
        rig.disable();
        rig.enable();
        rig.create_io_queue(1, 16);
    }
}

#[test]
fn d03_resets_under_verified_writes() {
    let mut rig = bare(memory_disk(), Execution::Threads);
    for round in 0..6u8 {
        let found = operating_system(&mut rig, 2, 64);
        for block in 0..20 {
            transfer(&mut rig, 1, io::WRITE, &found, block, round);
        }
        // Leave some in flight.
        let buffer = rig.pages.take(4096);
        rig.pages.write(buffer, &[round; 512]);
        for block in 0..20 {
            let write = Command::new(io::WRITE, 1)
                .with_prps(buffer, 0)
                .with_blocks(block, 1);
            rig.push(2, write);
        }
        rig.ring(2);
        rig.disable();
        let found = operating_system(&mut rig, 1, 16);
        for block in 0..20 {
            transfer(&mut rig, 1, io::READ, &found, block, round);
        }
    }
}

#[test]
fn d05_reboot_in_the_middle_of_writes_leaves_nothing_behind() {
    let faults = Faults::new();
    let mut rig = bare(memory_disk().faulty(&faults), Execution::Inline);
    let found = operating_system(&mut rig, 4, 64);
    transfer(&mut rig, 3, io::WRITE, &found, 9, 0x42);
    let old = rig.shadows.map_or((0, 0), |s| (s.shadows, s.event_indexes));
    let buffer = rig.pages.take(4096);
    faults.add(Rule::every(Class::Read, Fault::Stall));
    let read = Command::new(io::READ, 1)
        .with_prps(buffer, 0)
        .with_blocks(9, 1);
    rig.submit(2, read);
    // The reset pin: paused, reset, resumed.
    faults.clear();
    faults.release();
    rig.nvme.pause();
    rig.nvme.reset();
    rig.nvme.resume();
    assert_eq!(rig.slot.config_read(4) & 7, 0);
    rig.slot.set_up();
    assert_eq!((rig.read32(reg::CC), rig.read32(reg::CSTS)), (0, 0));
    for page in [old.0, old.1, buffer] {
        rig.pages.write(page, &[0x5a; 4096]);
    }
    rig.slot.interrupts();
    let found = firmware(&mut rig);
    transfer(&mut rig, 1, io::READ, &found, 9, 0x42);
    for page in [old.0, old.1, buffer] {
        assert_eq!(rig.pages.read(page, 4096), [0x5a; 4096]);
    }
}

fn moved(rig: &NvmeRig, to: &mut NvmeRig) {
    rig.nvme.pause();
    let snapshot = rig.nvme.save();
    let Some(snapshot) = snapshot else {
        unreachable!("a controller has a state")
    };
    let text = serde_json::to_string(&snapshot).unwrap_or_default();
    let read = serde_json::from_str(&text);
    let snapshot = read.unwrap_or_else(|error| unreachable!("{error}"));
    to.pages.write(0, &rig.pages.read(0, 32 << 20));
    to.nvme
        .restore(&snapshot)
        .unwrap_or_else(|error| unreachable!("{error}"));
    to.slot.adopt(&rig.slot);
    to.pages = rig.pages.rebased(to.pages.memory());
    to.submissions = rig.submissions.clone();
    to.completions = rig.completions.clone();
    to.shadows = rig.shadows;
    to.nvme.start();
}

#[test]
fn d06_saved_and_restored_with_full_queues_shadows_and_parked_events() {
    let options = || RigOptions {
        memory_bytes: 32 << 20,
        ..RigOptions::default()
    };
    let disk = memory_disk();
    let mut rig = NvmeRig::with_options(RigOptions {
        disk: disk.clone(),
        ..options()
    });
    let found = operating_system(&mut rig, 2, 16);
    transfer(&mut rig, 1, io::WRITE, &found, 3, 0x99);
    rig.admin(set_feature(0x0a, 1));
    let failed = rig.admin(Command::new(0xc7, 0)).status;
    assert!(!failed.is_success());
    // Fill the completion queue, so that commands wait in the ring.
    for _ in 0..15 {
        rig.push(2, Command::new(io::FLUSH, 1));
    }
    rig.ring(2);
    let answered: Vec<u16> = (0..15).filter_map(|_| rig.peek(2).map(|a| a.id)).collect();
    assert_eq!(answered.len(), 15);
    let waiting: Vec<u16> = (0..5)
        .map(|_| rig.push(2, Command::new(io::FLUSH, 1)))
        .collect();
    rig.ring(2);
    assert_eq!(rig.peek(2), None);

    let mut copy = NvmeRig::with_options(RigOptions { disk, ..options() });
    moved(&rig, &mut copy);
    assert_eq!(copy.peek(2), None);
    copy.acknowledge(2);
    let rest: Vec<u16> = (0..5).map(|_| copy.wait(2).id).collect();
    assert_eq!(rest, waiting);
    transfer(&mut copy, 1, io::READ, &found, 3, 0x99);
    let atomicity = devices::testkit::nvme::get_feature(0x0a, 0, 0);
    assert_eq!(copy.admin(atomicity).result, 1);
    assert_eq!(copy.log_page(1, 64)[0], 1, "the error log came along");
    // The event request parked by the driver is still there.
    copy.write32(reg::DOORBELLS + 8 * 8, 1);
    assert_eq!(copy.wait(0).result, 0x01_0000);
    // Saving changes nothing.
    copy.nvme.pause();
    let first = copy.nvme.save();
    assert!(first == copy.nvme.save());
}

#[test]
fn d06_a_controller_with_commands_at_the_disk_is_not_saved() {
    let faults = Faults::new();
    let mut options = RigOptions {
        disk: memory_disk().faulty(&faults),
        ..RigOptions::default()
    };
    // Fewer than the ranges below, so that the command goes to the disk in several turns.
    options.config.queue_depth = 4;
    let mut rig = NvmeRig::with_options(options)
        .enabled()
        .with_io_queue(1, 16);
    let buffer = rig.pages.take(4096);
    let ranges: Vec<u8> = (0..16_u64)
        .flat_map(|block| [1_u64 << 32, block].map(u64::to_le_bytes))
        .flatten()
        .collect();
    rig.pages.write(buffer, &ranges);
    faults.add(Rule::every(Class::Discard, Fault::Stall));
    let discard = Command::new(io::DATASET_MANAGEMENT, 1)
        .with_prps(buffer, 0)
        .with_word(10, 15)
        .with_word(11, 1 << 2);
    rig.submit(1, discard);
    rig.nvme.pause();
    assert!(rig.nvme.save().is_none(), "ranges are at the disk");
    faults.clear();
    faults.release();
    assert!(rig.nvme.save().is_none(), "ranges have not got there yet");
    assert_eq!(rig.peek(1), None);
    rig.nvme.resume();
    assert!(rig.wait(1).status.is_success());
    rig.nvme.pause();
    assert!(rig.nvme.save().is_some());
}

#[test]
fn d06_states_that_are_damaged_are_refused() {
    let rig = NvmeRig::new().with_io_queue(1, 8);
    rig.nvme.pause();
    let Some(good) = rig.nvme.save() else {
        unreachable!("a controller has a state")
    };
    let restored = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut snapshot = good.clone();
        change(&mut snapshot.data);
        rig.nvme.restore(&snapshot).is_ok()
    };
    assert!(restored(&|_| {}));
    assert!(!restored(&|data| data["admin"]["entries"] = 0.into()));
    assert!(!restored(&|data| data["admin_tail"] = 4000.into()));
    assert!(!restored(&|data| data["submissions"][0][0] = 99.into()));
    assert!(!restored(
        &|data| data["submissions"][0][1]["ring"]["head"] = 9.into()
    ));
    assert!(!restored(
        &|data| data["completions"][0][1]["ring"]["entries"] = 0.into()
    ));
    assert!(!restored(
        &|data| data["features"]["submission_queues"] = 0.into()
    ));
    assert!(!restored(&|data| data["errors"] = 1.into()));
    let mut other = good.clone();
    other.version = 9;
    assert!(rig.nvme.restore(&other).is_err());
    // After all that it works as new.
    assert_eq!(rig.read32(reg::CSTS), u32::MAX, "windows are not mapped");
}

#[test]
fn d07_a_stalled_backend_loses_nothing() {
    let faults = Faults::new();
    let mut rig = NvmeRig::on(memory_disk().faulty(&faults)).with_io_queue(1, 64);
    let buffer = rig.pages.take(64 * 4096);
    faults.add(Rule::every(Class::Write, Fault::Stall));
    for block in 0..40u64 {
        let page = buffer + block * 4096;
        rig.pages.write(page, &[block as u8 + 1; 512]);
        let write = Command::new(io::WRITE, 1)
            .with_prps(page, 0)
            .with_blocks(block, 1);
        rig.push(1, write);
    }
    rig.ring(1);
    assert_eq!(rig.peek(1), None);
    assert_eq!(rig.read32(reg::CSTS), 1);
    // Admin commands go on meanwhile.
    assert_eq!(rig.identify(1, 0)[77], 8);
    faults.clear();
    faults.add(Rule {
        times: 10,
        ..Rule::every(Class::Write, Fault::Fail(Outcome::Retry))
    });
    faults.release();
    for _ in 0..40 {
        assert!(
            rig.wait(1).status.is_success(),
            "carried out before the stall"
        );
    }
    // Partial failure, then recovery: what is retried succeeds.
    let mut retries = 0;
    for block in 0..40u64 {
        loop {
            let write = Command::new(io::WRITE, 1)
                .with_prps(buffer + block * 4096, 0)
                .with_blocks(block, 1);
            let status = rig.io(1, write).status;
            if status.is_success() {
                break;
            }
            assert_eq!(status.code(), Status::NAMESPACE_NOT_READY.code());
            retries += 1;
        }
    }
    assert_eq!(retries, 10);
    let check = rig.pages.take(4096);
    for block in 0..40u64 {
        let read = Command::new(io::READ, 1)
            .with_prps(check, 0)
            .with_blocks(block, 1);
        assert!(rig.io(1, read).status.is_success());
        assert_eq!(rig.pages.read(check, 1), [block as u8 + 1]);
    }
}

#[test]
fn d08_random_sequences_agree_with_an_oracle() {
    // The long version is `tests/prop_nvme.rs`; these seeds have always been there.
    for seed in 0..20u64 {
        let bytes: Vec<u8> = (0..600u64)
            .map(|n| {
                let mixed = (seed << 32 | n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (mixed ^ mixed >> 29) as u8
            })
            .collect();
        devices::testkit::nvme_fuzz::model(&bytes);
    }
}

#[test]
fn d09_firmware_hands_over_to_an_operating_system() {
    let (disk, _calls) = recording(512, 8 << 20);
    for execution in [Execution::Inline, Execution::Threads] {
        let mut rig = bare(disk.clone(), execution);
        let seen = firmware(&mut rig);
        transfer(&mut rig, 1, io::WRITE, &seen, 1, 0x21);
        // Boot services end with a shutdown; some firmware just leaves.
        if execution == Execution::Inline {
            shut_down(&mut rig);
        }
        let found = operating_system(&mut rig, 8, 1024);
        assert_eq!(found.serial, seen.serial);
        assert_eq!((found.blocks, found.block_size), (16_384, 512));
        assert_eq!(found.queues, 8);
        for queue in 1..=8 {
            transfer(&mut rig, queue, io::READ, &found, 1, 0x21);
            transfer(
                &mut rig,
                queue,
                io::WRITE,
                &found,
                100 + u64::from(queue),
                7,
            );
        }
        shut_down(&mut rig);
        // And once more, as after kexec.
        let again = operating_system(&mut rig, 2, 4);
        transfer(&mut rig, 2, io::READ, &again, 101, 7);
    }
}

#[test]
fn d10_memory_that_is_not_there_fails_the_controller_until_it_is_reset() {
    let mut rig = NvmeRig::new();
    let cq = rig.pages.take(4096);
    let create_cq = devices::testkit::nvme::create_cq(1, 8, cq, None);
    let create_sq = devices::testkit::nvme::create_sq(1, 8, 1 << 40, 1);
    assert!(rig.admin(create_cq).status.is_success());
    assert!(rig.admin(create_sq).status.is_success());
    rig.write32(reg::DOORBELLS + 8, 1);
    assert_eq!(rig.read32(reg::CSTS), 3, "fatal");
    rig.disable();
    rig.enable();
    rig.create_io_queue(1, 8);
    assert!(rig.io(1, Command::new(io::FLUSH, 1)).status.is_success());
}

/// A controller can be dropped with workers running: nothing waits for ever, nothing panics.
#[test]
fn d10_dropped_while_commands_run() {
    let mut rig = bare(memory_disk(), Execution::Threads);
    operating_system(&mut rig, 4, 64);
    for id in 1..=4 {
        for _ in 0..50 {
            rig.push(id, Command::new(io::FLUSH, 1));
        }
        rig.ring(id);
    }
    let nvme: std::sync::Weak<Nvme> = std::sync::Arc::downgrade(&rig.nvme);
    rig.nvme.halt();
    drop(rig);
    assert!(nvme.upgrade().is_none());
}
