//! NVMe conformance, group R: registers and controller state. One test a row of `CONFORMANCE.md`.

use block::{Disk, Faults};
use devices::nvme::command::{Command, io};
use devices::testkit::disk::{Call, recording};
use devices::testkit::nvme::{ENABLE, NvmeRig, RigOptions, get_feature, reg, set_feature};

fn bare() -> NvmeRig {
    NvmeRig::with_options(RigOptions::default())
}

const READY: u32 = 1;
const FATAL: u32 = 2;
const SHUTDOWN_COMPLETE: u32 = 2 << 2;

#[test]
fn r01_wide_registers_work_as_two_halves() {
    let rig = bare();
    let whole = rig.read64(reg::CAP);
    let halves = u64::from(rig.read32(reg::CAP)) | u64::from(rig.read32(reg::CAP + 4)) << 32;
    assert_eq!(whole, halves);
    for register in [reg::ASQ, reg::ACQ] {
        rig.write32(register, 0x1234_5000);
        rig.write32(register + 4, 0x9);
        assert_eq!(rig.read64(register), 0x9_1234_5000);
        rig.write64(register, 0x7_0000_1000);
        assert_eq!(rig.read32(register), 0x1000);
        assert_eq!(rig.read32(register + 4), 7);
    }
}

#[test]
fn r02_status_and_version_are_never_all_ones() {
    let mut rig = bare();
    assert_eq!(rig.read32(reg::VS), 0x0001_0400);
    assert_eq!(rig.read32(reg::CSTS), 0);
    rig.enable();
    assert_eq!(rig.read32(reg::CSTS), READY);
    assert_eq!(rig.read32(reg::VS), 0x0001_0400);
}

#[test]
fn r03_capabilities_offer_the_nvm_command_set_and_nothing_else() {
    assert_eq!(bare().read64(reg::CAP) >> 37 & 0xff, 1);
}

#[test]
fn r04_pages_are_4_kib_and_ready_comes_at_once() {
    let mut rig = bare();
    let capabilities = rig.read64(reg::CAP);
    assert_eq!(capabilities >> 48 & 0xf, 0, "MPSMIN");
    assert_ne!(capabilities >> 24 & 0xff, 0, "TO");
    rig.program_admin_queues(8);
    rig.write32(reg::CC, ENABLE);
    assert_eq!(rig.read32(reg::CSTS), READY);
}

#[test]
fn r05_disabling_drops_queues_and_keeps_the_admin_registers() {
    let mut rig = NvmeRig::new().with_io_queue(1, 8);
    let kept = (
        rig.read32(reg::AQA),
        rig.read64(reg::ASQ),
        rig.read64(reg::ACQ),
    );
    rig.disable();
    assert_eq!(rig.read32(reg::CSTS), 0);
    let now = (
        rig.read32(reg::AQA),
        rig.read64(reg::ASQ),
        rig.read64(reg::ACQ),
    );
    assert_eq!(now, kept);
    rig.enable();
    // The queue's number is free again.
    rig.create_io_queue(1, 8);
    assert!(rig.io(1, Command::new(io::FLUSH, 1)).status.is_success());
}

#[test]
fn r06_admin_queue_registers_read_back_while_enabled() {
    let mut rig = bare();
    rig.program_admin_queues(16);
    let programmed = (
        rig.read32(reg::AQA),
        rig.read64(reg::ASQ),
        rig.read64(reg::ACQ),
    );
    assert_eq!(programmed.0, 0x000f_000f);
    rig.write32(reg::CC, ENABLE);
    let enabled = (
        rig.read32(reg::AQA),
        rig.read64(reg::ASQ),
        rig.read64(reg::ACQ),
    );
    assert_eq!(enabled, programmed);
}

#[test]
fn r07_admin_queue_registers_do_not_move_while_enabled() {
    let mut rig = NvmeRig::new();
    let before = (
        rig.read32(reg::AQA),
        rig.read64(reg::ASQ),
        rig.read64(reg::ACQ),
    );
    rig.write32(reg::AQA, 0);
    rig.write64(reg::ASQ, 0x1_0000);
    rig.write32(reg::ACQ + 4, 1);
    let after = (
        rig.read32(reg::AQA),
        rig.read64(reg::ASQ),
        rig.read64(reg::ACQ),
    );
    assert_eq!(after, before);
    assert!(rig.admin(get_feature(7, 0, 0)).status.is_success());
}

#[test]
fn r08_settings_that_cap_does_not_offer_are_fatal() {
    for wrong in [1 << 4, 6 << 4, 1 << 7, 0xf << 7, 1 << 11, 7 << 11] {
        let mut rig = bare();
        rig.program_admin_queues(8);
        rig.write32(reg::CC, ENABLE | wrong);
        assert_eq!(rig.read32(reg::CSTS), FATAL, "CC {wrong:#x}");
        // A reset clears it, and the right settings work.
        rig.write32(reg::CC, 0);
        assert_eq!(rig.read32(reg::CSTS), 0);
        rig.enable();
    }
    // An admin queue needs two entries.
    let rig = bare();
    rig.write32(reg::CC, ENABLE);
    assert_eq!(rig.read32(reg::CSTS), FATAL);
}

#[test]
fn r09_settings_first_and_enable_in_a_second_write() {
    let mut rig = bare();
    rig.program_admin_queues(8);
    rig.write32(reg::CC, ENABLE & !1);
    assert_eq!(rig.read32(reg::CSTS), 0);
    rig.write32(reg::CC, ENABLE);
    assert_eq!(rig.read32(reg::CSTS), READY);
    assert_eq!(rig.read32(reg::CC), ENABLE);
    // The same once more changes nothing.
    rig.write32(reg::CC, ENABLE);
    assert!(rig.admin(get_feature(7, 0, 0)).status.is_success());
}

#[test]
fn r10_shutdown_completes_when_the_data_are_flushed() {
    for notification in [1, 2] {
        let (disk, calls) = recording(512, 1 << 20);
        let mut rig = NvmeRig::on(disk).with_io_queue(1, 8);
        let buffer = rig.pages.take(4096);
        let write = Command::new(io::WRITE, 1)
            .with_prps(buffer, 0)
            .with_blocks(0, 8);
        assert!(rig.io(1, write).status.is_success());
        rig.write32(reg::CC, ENABLE | notification << 14);
        assert_eq!(rig.read32(reg::CSTS), READY | SHUTDOWN_COMPLETE);
        assert_eq!(calls.take(), [Call::Write(0, 4096, false), Call::Flush]);
    }
}

#[test]
fn r10_shutdown_waits_for_a_slow_flush() {
    let faults = Faults::new();
    let (disk, _calls) = recording(512, 1 << 20);
    let rig = NvmeRig::on(disk.faulty(&faults)).with_io_queue(1, 8);
    let stall = block::Rule::next(block::Fault::Stall);
    faults.add(stall);
    rig.write32(reg::CC, ENABLE | 1 << 14);
    assert_eq!(rig.read32(reg::CSTS), READY | 1 << 2, "occurring");
    faults.release();
    assert_eq!(rig.read32(reg::CSTS), READY | SHUTDOWN_COMPLETE);
}

#[test]
fn r10_shutdown_without_queues_has_nothing_to_flush() {
    let rig = NvmeRig::new();
    rig.write32(reg::CC, ENABLE | 1 << 14);
    assert_eq!(rig.read32(reg::CSTS), READY | SHUTDOWN_COMPLETE);
}

#[test]
fn r11_enable_again_after_shutdown_and_reset_with_other_sizes() {
    let mut rig = NvmeRig::new().with_io_queue(1, 4);
    rig.write32(reg::CC, ENABLE | 1 << 14);
    rig.write32(reg::CC, 0);
    assert_eq!(rig.read32(reg::CSTS), 0, "no ready, no shutdown status");
    for entries in [2, 64, 4096] {
        rig.program_admin_queues(entries);
        rig.write32(reg::CC, ENABLE);
        rig.await_ready(true);
        rig.create_io_queue(1, entries);
        for _ in 0..entries.min(70) + 3 {
            assert!(rig.io(1, Command::new(io::FLUSH, 1)).status.is_success());
        }
        rig.disable();
    }
}

#[test]
fn r12_doorbells_that_mean_nothing_are_ignored_and_reported() {
    let mut rig = bare();
    // Disabled: nothing is there.
    rig.write32(reg::DOORBELLS, 1);
    rig.write32(reg::DOORBELLS + 8, 1);
    rig.enable();
    rig.create_io_queue(1, 8);
    for value in [8, 0xffff, 0x1_0000, u32::MAX] {
        rig.write32(reg::DOORBELLS + 8, value);
        rig.write32(reg::DOORBELLS + 12, value);
    }
    // Spacing: queue 1's tail is at 8, its head at 12; nothing is in between or beyond.
    for offset in [16, 20, 8 * 8, 8 * 500, 0x2ff8] {
        rig.write32(reg::DOORBELLS + offset, 1);
        assert_eq!(rig.read32(reg::DOORBELLS + offset), 0);
    }
    assert_eq!(rig.read64(reg::DOORBELLS), 0);
    // A head past the tail frees nothing and breaks nothing.
    rig.write32(reg::DOORBELLS + 12, 5);
    assert!(rig.io(1, Command::new(io::FLUSH, 1)).status.is_success());
    assert_eq!(rig.read32(reg::CSTS), READY);
}

#[test]
fn r13_accesses_of_every_size_and_alignment_are_survived() {
    let mut rig = NvmeRig::new();
    let base = rig.slot.window(0);
    for offset in (0..0x60).chain(0xff8..0x1040).chain(0x3ff0..0x4000) {
        for length in [1usize, 2, 4, 8] {
            let mut data = vec![0xee; length];
            rig.slot.memory.read(base + offset, &mut data);
            // Bytes read alone agree with bytes read together.
            let mut bytes = Vec::new();
            for at in offset..offset + length as u64 {
                let mut byte = [0xee];
                rig.slot.memory.read(base + at, &mut byte);
                bytes.push(byte[0]);
            }
            assert_eq!(data, bytes, "{offset:#x} {length}");
        }
    }
    rig.disable();
    for offset in (0..0x60).chain(0xff8..0x1040) {
        for length in [1usize, 2, 4, 8] {
            rig.slot.memory.write(base + offset, &vec![0xff; length]);
            rig.slot.memory.write(base + offset, &vec![0; length]);
        }
    }
    rig.write32(reg::CC, 0);
    rig.enable();
}

#[test]
fn r14_interrupt_mask_registers_read_zero_without_pin_interrupts() {
    let mut rig = NvmeRig::new();
    assert_eq!(rig.slot.config_read(0x3c) >> 8 & 0xff, 0, "no pin");
    rig.write32(reg::INTMS, u32::MAX);
    assert_eq!(rig.read32(reg::INTMS), 0);
    assert_eq!(rig.read32(reg::INTMC), 0);
    rig.admin(get_feature(7, 0, 0));
    assert_eq!(rig.slot.interrupts(), [0], "MSI-X is not masked by them");
}

#[test]
fn r15_pci_identity_windows_and_vectors() {
    let rig = bare();
    assert_eq!(rig.slot.config_read(0), 0x0000_01de);
    assert_eq!(rig.slot.config_read(8) >> 8, 0x01_08_02);
    rig.slot.config_write(0x10, u32::MAX);
    assert_eq!(rig.slot.config_read(0x10), 0xffff_c004, "64-bit, 16 KiB");
    let msix = rig.slot.capability(0x11).unwrap_or_default();
    let vectors = (rig.slot.config_read(msix) >> 16 & 0x7ff) + 1;
    assert!(vectors > 8, "a vector for each queue");
    assert_eq!(rig.slot.config_read(msix + 4) & 7, 4, "table in BAR 4");
}

#[test]
fn r15_masked_vectors_pend_and_come_on_unmask() {
    let mut rig = NvmeRig::new().with_io_queue(1, 8);
    rig.slot.mask_vector(1, true);
    for _ in 0..3 {
        rig.io(1, Command::new(io::FLUSH, 1));
    }
    assert!(rig.slot.interrupts().is_empty());
    rig.slot.mask_vector(1, false);
    assert_eq!(rig.slot.interrupts(), [1]);
    rig.slot.set_msix_control(0xc000);
    rig.io(1, Command::new(io::FLUSH, 1));
    assert!(rig.slot.interrupts().is_empty());
    rig.slot.set_msix_control(0x8000);
    assert_eq!(rig.slot.interrupts(), [1]);
}

#[test]
fn r15_without_bus_mastering_nothing_is_fetched_answered_or_signalled() {
    let mut rig = NvmeRig::new().with_io_queue(1, 8);
    rig.slot.set_command(2);
    rig.submit(1, Command::new(io::FLUSH, 1));
    let id = rig.submit(0, get_feature(7, 0, 0));
    assert_eq!(rig.peek(1), None);
    assert_eq!(rig.peek(0), None);
    assert!(rig.slot.interrupts().is_empty());
    assert_eq!(rig.read32(reg::CSTS), READY, "that is no failure");
    rig.slot.set_command(6);
    // The next doorbells find what waits.
    rig.ring(0);
    rig.ring(1);
    assert_eq!(rig.wait(0).id, id);
    assert!(rig.wait(1).status.is_success());
}

#[test]
fn r16_function_level_reset_through_advanced_features() {
    let mut rig = NvmeRig::new().with_io_queue(1, 8);
    let offset = rig.slot.capability(0x13).unwrap_or_default();
    assert_eq!(rig.slot.config_read(offset) >> 16 & 0xff, 6, "length");
    assert_eq!(rig.slot.config_read(offset) >> 24 & 3, 3, "TP and FLR");
    rig.slot.config_write(offset + 4, 1);
    assert_eq!(rig.slot.config_read(4) & 7, 0, "command register");
    assert_eq!(rig.slot.config_read(0x10), 4, "window");
    rig.slot.set_up();
    assert_eq!(rig.read32(reg::CSTS), 0);
    assert_eq!((rig.read32(reg::CC), rig.read64(reg::ASQ)), (0, 0));
    rig.enable();
    rig.create_io_queue(1, 8);
    assert!(rig.io(1, Command::new(io::FLUSH, 1)).status.is_success());
}

#[test]
fn r17_memory_buffer_and_persistent_region_are_absent() {
    let rig = bare();
    assert_eq!(rig.read64(reg::CAP) >> 56, 0);
    for offset in [0x38, 0x3c, 0x40, 0x44, 0x48, 0x50, 0xe00, 0xe04, 0xe08] {
        rig.write32(offset, u32::MAX);
        assert_eq!(rig.read32(offset), 0, "{offset:#x}");
    }
}

#[test]
fn r05_features_return_to_their_defaults_with_a_reset() {
    let disk = Disk::memory(512, 1 << 20).unwrap_or_else(|error| unreachable!("{error}"));
    let mut rig = NvmeRig::on(disk);
    rig.admin(set_feature(0x0a, 1));
    assert_eq!(rig.admin(get_feature(0x0a, 0, 0)).result, 1);
    rig.disable();
    rig.enable();
    assert_eq!(rig.admin(get_feature(0x0a, 0, 0)).result, 0);
}
