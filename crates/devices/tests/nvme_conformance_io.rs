//! NVMe conformance, group I: I/O commands. One test a row of `CONFORMANCE.md`.

use block::{Chance, Disk, Fault, Faults, Outcome, Rule};
use devices::nvme::command::{ALL_NAMESPACES, Command, io};
use devices::nvme::{Status, TRANSFER_BYTES_MAX};
use devices::testkit::disk::{Call, recording};
use devices::testkit::nvme::{NvmeRig, RigOptions, create_cq, create_sq, reg};
use vm_types::Execution;

const DISK_BYTES: u64 = 8 << 20;

fn same(found: Status, expected: Status) {
    assert_eq!(found.code(), expected.code(), "{found:?} for {expected:?}");
    assert_eq!(found.is_final(), expected.is_final(), "{found:?}");
}

fn memory_disk(block_size: u32) -> Disk {
    Disk::memory(block_size, DISK_BYTES).unwrap_or_else(|error| unreachable!("{error}"))
}

fn rig_on(disk: Disk) -> NvmeRig {
    NvmeRig::on(disk).with_io_queue(1, 16)
}

/// A transfer of `length` bytes between `buffer` and the disk from `block` on.
fn transfer(
    rig: &mut NvmeRig,
    opcode: u8,
    buffer: u64,
    length: u64,
    block: u64,
    block_size: u64,
) -> Status {
    let (prp1, prp2) = rig.prps(buffer, length);
    let command = Command::new(opcode, 1)
        .with_prps(prp1, prp2)
        .with_blocks(block, (length / block_size) as u32);
    rig.io(1, command).status
}

fn pattern(length: u64, seed: u8) -> Vec<u8> {
    (0..length)
        .map(|i| (i as u8).wrapping_mul(7) ^ (i >> 8) as u8 ^ seed)
        .collect()
}

#[test]
fn i01_reads_and_writes_of_every_size_keep_the_data() {
    for block_size in [512u64, 4096] {
        let mut rig = rig_on(memory_disk(block_size as u32));
        let buffer = rig.pages.take(TRANSFER_BYTES_MAX);
        for (turn, length) in [block_size, 8192, 12_288, 65_536, TRANSFER_BYTES_MAX]
            .into_iter()
            .enumerate()
        {
            let data = pattern(length, turn as u8);
            let block = turn as u64 * 3;
            rig.pages.write(buffer, &data);
            let written = transfer(&mut rig, io::WRITE, buffer, length, block, block_size);
            assert!(written.is_success(), "{length}: {written:?}");
            rig.pages.write(buffer, &vec![0; length as usize]);
            let read = transfer(&mut rig, io::READ, buffer, length, block, block_size);
            assert!(read.is_success());
            assert!(rig.pages.read(buffer, length as usize) == data, "{length}");
        }
    }
}

#[test]
fn i01_limits_of_size_and_range() {
    for block_size in [512u64, 4096] {
        let mut rig = rig_on(memory_disk(block_size as u32));
        let blocks = DISK_BYTES / block_size;
        let buffer = rig.pages.take(2 * TRANSFER_BYTES_MAX);
        let mut check = |opcode, block, length, expected: Option<Status>| {
            let found = transfer(&mut rig, opcode, buffer, length, block, block_size);
            match expected {
                None => assert!(found.is_success(), "{found:?}"),
                Some(expected) => same(found, expected),
            }
        };
        for opcode in [io::READ, io::WRITE, io::COMPARE] {
            check(opcode, blocks - 1, block_size, None);
            check(opcode, blocks, block_size, Some(Status::LBA_OUT_OF_RANGE));
            check(
                opcode,
                blocks - 1,
                2 * block_size,
                Some(Status::LBA_OUT_OF_RANGE),
            );
            check(opcode, u64::MAX, block_size, Some(Status::LBA_OUT_OF_RANGE));
            check(
                opcode,
                u64::MAX - 1,
                2 * block_size,
                Some(Status::LBA_OUT_OF_RANGE),
            );
            check(opcode, 0, TRANSFER_BYTES_MAX, None);
            let more = TRANSFER_BYTES_MAX + block_size;
            check(opcode, 0, more, Some(Status::INVALID_FIELD));
        }
    }
}

#[test]
fn i01_the_largest_count_does_not_overflow() {
    let mut rig = rig_on(memory_disk(512));
    for opcode in [io::READ, io::WRITE, io::COMPARE] {
        let command = Command::new(opcode, 1).with_word(12, 0xffff);
        same(rig.io(1, command).status, Status::INVALID_FIELD);
    }
    // Without data MDTS does not count: 65,536 blocks are past this disk's 16,384.
    for opcode in [io::WRITE_ZEROES, io::VERIFY] {
        let command = Command::new(opcode, 1).with_word(12, 0xffff);
        same(rig.io(1, command).status, Status::LBA_OUT_OF_RANGE);
    }
}

#[test]
fn i01_namespaces_that_are_not_there() {
    let mut rig = rig_on(recording(512, 1 << 20).0);
    for opcode in [
        io::READ,
        io::WRITE,
        io::COMPARE,
        io::WRITE_ZEROES,
        io::VERIFY,
        io::DATASET_MANAGEMENT,
    ] {
        for namespace in [0, 2, ALL_NAMESPACES] {
            let status = rig.io(1, Command::new(opcode, namespace)).status;
            same(status, Status::INVALID_NAMESPACE);
        }
    }
}

#[test]
fn i02_prp_entries_in_all_their_shapes() {
    let mut rig = rig_on(memory_disk(512));
    let buffer = rig.pages.take(4 << 20);
    // Offset in the first page; two pages; a list; a list that is chained.
    for (start, length) in [
        (buffer + 0x200, 512),
        (buffer + 0xe00, 1024),
        (buffer + 0xe04, 4096),
        (buffer + 0x10, 3 * 4096),
        (buffer + 0x800, 1 << 20),
    ] {
        let data = pattern(length, start as u8);
        rig.pages.write(start, &data);
        assert!(transfer(&mut rig, io::WRITE, start, length, 0, 512).is_success());
        rig.pages.write(start - 1, &vec![0x77; length as usize + 2]);
        assert!(transfer(&mut rig, io::READ, start, length, 0, 512).is_success());
        assert!(
            rig.pages.read(start, length as usize) == data,
            "{length:#x}"
        );
        let around = [
            rig.pages.read(start - 1, 1),
            rig.pages.read(start + length, 1),
        ];
        assert_eq!(around, [[0x77], [0x77]], "nothing before or behind it");
    }
}

#[test]
fn i02_a_list_that_begins_in_the_middle_of_its_page_and_goes_on_in_another() {
    let mut rig = rig_on(memory_disk(512));
    let data = rig.pages.take(8 * 4096);
    let lists = rig.pages.take(2 * 4096);
    let page = |n: u64| data + n * 4096;
    // Backwards, so that no neighbours can be joined.
    let write = |rig: &NvmeRig, at: u64, entries: &[u64]| {
        for (index, entry) in entries.iter().enumerate() {
            rig.pages.write_u64(at + index as u64 * 8, *entry);
        }
    };
    write(&rig, lists + 4096 - 24, &[page(6), page(5), lists + 4096]);
    write(&rig, lists + 4096, &[page(4), page(3)]);
    for n in 0..8 {
        rig.pages.write(page(n), &[n as u8; 4096]);
    }
    let command = Command::new(io::WRITE, 1)
        .with_prps(page(7), lists + 4096 - 24)
        .with_blocks(0, 40);
    assert!(rig.io(1, command).status.is_success());
    let flat = rig.pages.take(5 * 4096);
    assert!(transfer(&mut rig, io::READ, flat, 5 * 4096, 0, 512).is_success());
    for (index, n) in [7u8, 6, 5, 4, 3].into_iter().enumerate() {
        let at = flat + index as u64 * 4096;
        assert_eq!(rig.pages.read(at, 4096), [n; 4096]);
    }
}

#[test]
fn i02_misaligned_entries_and_absent_memory() {
    let mut rig = rig_on(memory_disk(512));
    let page = rig.pages.take(4096);
    let at = |prp1, prp2, blocks| {
        Command::new(io::READ, 1)
            .with_prps(prp1, prp2)
            .with_blocks(0, blocks)
    };
    let mut status = |command| rig.io(1, command).status;
    same(status(at(page + 1, 0, 1)), Status::PRP_OFFSET_INVALID);
    same(status(at(page, page + 8, 16)), Status::PRP_OFFSET_INVALID);
    same(status(at(page, page + 4, 32)), Status::PRP_OFFSET_INVALID);
    same(status(at(1 << 40, 0, 1)), Status::DATA_TRANSFER_ERROR);
    same(status(at(page, 1 << 40, 16)), Status::DATA_TRANSFER_ERROR);
    same(status(at(page, 1 << 40, 32)), Status::DATA_TRANSFER_ERROR);
    same(status(at(!0xfff, 0, 8)), Status::DATA_TRANSFER_ERROR);
    assert_eq!(rig.read32(reg::CSTS), 1, "none of it is fatal");
}

#[test]
fn i03_sgls_are_not_offered_and_refused() {
    let mut rig = rig_on(memory_disk(512));
    for psdt in [1, 2, 3] {
        let mut command = Command::new(io::READ, 1).with_blocks(0, 1);
        command.dwords[0] |= psdt << 14;
        same(rig.io(1, command).status, Status::INVALID_FIELD);
    }
}

#[test]
fn i04_flush_of_the_namespace_and_of_all() {
    let (disk, calls) = recording(512, 1 << 20);
    let mut rig = rig_on(disk);
    let page = rig.identify(1, 0);
    assert_eq!(page[525], 0b111, "VWC: cache, and flush takes all-ones");
    for namespace in [1, ALL_NAMESPACES] {
        assert!(
            rig.io(1, Command::new(io::FLUSH, namespace))
                .status
                .is_success()
        );
    }
    for namespace in [0, 2] {
        let status = rig.io(1, Command::new(io::FLUSH, namespace)).status;
        same(status, Status::INVALID_NAMESPACE);
    }
    assert_eq!(calls.take(), [Call::Flush, Call::Flush]);
}

#[test]
fn i04_a_flush_comes_after_the_writes_before_it() {
    let (disk, calls) = recording(512, 1 << 20);
    let mut rig = rig_on(disk);
    let buffer = rig.pages.take(4096);
    for block in 0..4 {
        let write = Command::new(io::WRITE, 1)
            .with_prps(buffer, 0)
            .with_blocks(block, 1);
        rig.push(1, write);
    }
    rig.push(1, Command::new(io::FLUSH, 1));
    rig.ring(1);
    for _ in 0..5 {
        assert!(rig.wait(1).status.is_success());
    }
    assert_eq!(calls.take().last(), Some(&Call::Flush));
}

#[test]
fn i04_forced_unit_access_is_durable() {
    let (disk, calls) = recording(512, 1 << 20);
    let mut rig = rig_on(disk);
    let buffer = rig.pages.take(4096);
    let write = Command::new(io::WRITE, 1).with_prps(buffer, 0);
    rig.io(1, write.with_word(12, 1 << 30));
    rig.io(1, write);
    let made = calls.take();
    assert_eq!(
        made,
        [Call::Write(0, 512, true), Call::Write(0, 512, false)]
    );
}

fn dataset(rig: &mut NvmeRig, ranges: &[(u64, u32)], attributes: u32) -> Status {
    let buffer = rig.pages.take(4096);
    for (index, (start, length)) in ranges.iter().enumerate() {
        let at = buffer + index as u64 * 16;
        rig.pages.write_u32(at, 0x0000_0101);
        rig.pages.write_u32(at + 4, *length);
        rig.pages.write_u64(at + 8, *start);
    }
    let command = Command::new(io::DATASET_MANAGEMENT, 1)
        .with_prps(buffer, 0)
        .with_word(10, ranges.len().wrapping_sub(1) as u32 & 0xff)
        .with_word(11, attributes);
    rig.io(1, command).status
}

#[test]
fn i05_deallocate_one_range_to_256() {
    let (disk, calls) = recording(512, 1 << 20);
    let mut rig = rig_on(disk);
    for count in [1u64, 2, 64, 65, 128, 129, 255, 256] {
        let ranges: Vec<(u64, u32)> = (0..count).map(|n| (n * 4, 2)).collect();
        assert!(dataset(&mut rig, &ranges, 4).is_success(), "{count}");
        let expected: Vec<Call> = (0..count).map(|n| Call::Discard(n * 2048, 1024)).collect();
        assert_eq!(calls.take(), expected);
    }
    // Overlapping ranges are the guest's business.
    assert!(dataset(&mut rig, &[(0, 8), (4, 8), (0, 8)], 4).is_success());
    assert_eq!(calls.take().len(), 3);
}

#[test]
fn i05_ranges_are_checked_before_any_is_discarded() {
    let (disk, calls) = recording(512, 1 << 20);
    let mut rig = rig_on(disk);
    let blocks = 2048;
    let bad = dataset(&mut rig, &[(0, 8), (blocks - 1, 2)], 4);
    same(bad, Status::LBA_OUT_OF_RANGE);
    same(
        dataset(&mut rig, &[(u64::MAX, 1)], 4),
        Status::LBA_OUT_OF_RANGE,
    );
    same(
        dataset(&mut rig, &[(0, u32::MAX)], 4),
        Status::LBA_OUT_OF_RANGE,
    );
    // Empty ranges, and hints without deallocation, ask for nothing.
    assert!(dataset(&mut rig, &[(7, 0)], 4).is_success());
    assert!(dataset(&mut rig, &[(0, 8)], 1).is_success());
    assert!(dataset(&mut rig, &[(0, 8)], 2).is_success());
    assert_eq!(calls.take(), []);
    let (prp1, blocks) = (1 << 40, 0);
    let unreachable = Command::new(io::DATASET_MANAGEMENT, 1)
        .with_prps(prp1, blocks)
        .with_word(11, 4);
    same(rig.io(1, unreachable).status, Status::DATA_TRANSFER_ERROR);
}

#[test]
fn i05_without_discard_the_command_is_not_offered() {
    let faults = Faults::new();
    let null = devices_disk_without_discard().faulty(&faults);
    let mut rig = rig_on(null);
    assert_eq!(rig.identify(1, 0)[520] & 4, 0, "ONCS");
    let status = rig.io(1, Command::new(io::DATASET_MANAGEMENT, 1)).status;
    same(status, Status::INVALID_OPCODE);
}

/// The least that a disk can be: no option at all.
fn devices_disk_without_discard() -> Disk {
    #[derive(Debug)]
    struct Plain;
    impl block::Medium for Plain {
        fn info(&self) -> block::DiskInfo {
            block::DiskInfo::new(512, 1 << 20)
        }
        fn read(&self, _: u64, _: &[vm_types::GuestSlice<'_>]) -> Result<(), Outcome> {
            Ok(())
        }
        fn write(&self, _: u64, _: &[vm_types::GuestSlice<'_>], _: bool) -> Result<(), Outcome> {
            Ok(())
        }
        fn flush(&self) -> Result<(), Outcome> {
            Ok(())
        }
    }
    Disk::direct(Plain)
}

#[test]
fn i06_write_zeroes_with_and_without_deallocation() {
    let (disk, calls) = recording(512, 1 << 20);
    let mut rig = rig_on(disk);
    let buffer = rig.pages.take(4096);
    rig.pages.write(buffer, &[0xaa; 4096]);
    assert!(transfer(&mut rig, io::WRITE, buffer, 4096, 0, 512).is_success());
    let zero = Command::new(io::WRITE_ZEROES, 1).with_blocks(1, 2);
    assert!(rig.io(1, zero).status.is_success());
    let freeing = zero.with_word(12, 1 << 25).with_blocks(5, 1);
    assert!(rig.io(1, freeing).status.is_success());
    assert!(transfer(&mut rig, io::READ, buffer, 4096, 0, 512).is_success());
    let expected: Vec<u8> = [0xaa, 0, 0, 0xaa, 0xaa, 0, 0xaa, 0xaa]
        .into_iter()
        .flat_map(|byte| [byte; 512])
        .collect();
    assert!(rig.pages.read(buffer, 4096) == expected);
    let zeroed = calls.take();
    assert!(zeroed.contains(&Call::Zero(512, 1024, false)));
    assert!(zeroed.contains(&Call::Zero(2560, 512, true)));
    let past = Command::new(io::WRITE_ZEROES, 1).with_blocks(2047, 2);
    same(rig.io(1, past).status, Status::LBA_OUT_OF_RANGE);
}

#[test]
fn i06_compare_tells_equal_from_different() {
    let mut rig = rig_on(memory_disk(512));
    let buffer = rig.pages.take(3 * 4096);
    let data = pattern(3 * 4096, 1);
    rig.pages.write(buffer, &data);
    assert!(transfer(&mut rig, io::WRITE, buffer, 3 * 4096, 9, 512).is_success());
    assert!(transfer(&mut rig, io::COMPARE, buffer, 3 * 4096, 9, 512).is_success());
    rig.pages
        .write(buffer + 3 * 4096 - 1, &[!data[3 * 4096 - 1]]);
    let different = transfer(&mut rig, io::COMPARE, buffer, 3 * 4096, 9, 512);
    same(different, Status::COMPARE_FAILURE);
}

#[test]
fn i06_verify_reads_without_moving_data() {
    let (disk, calls) = recording(512, 1 << 20);
    let mut rig = rig_on(disk);
    let verify = Command::new(io::VERIFY, 1).with_blocks(8, 16);
    assert!(rig.io(1, verify).status.is_success());
    assert_eq!(calls.take(), [Call::Read(4096, 8192)]);
    let faults = Faults::new();
    let mut rig = rig_on(memory_disk(512).faulty(&faults));
    faults.add(Rule::next(Fault::Fail(Outcome::ReadFailed)));
    same(rig.io(1, verify).status, Status::UNRECOVERED_READ);
}

#[test]
fn i06_write_uncorrectable_and_copy_are_absent() {
    let mut rig = rig_on(memory_disk(512));
    let supported = u16::from(rig.identify(1, 0)[520]);
    assert_eq!(supported & (1 << 1 | 1 << 8), 0);
    for opcode in [0x04, 0x19] {
        same(
            rig.io(1, Command::new(opcode, 1)).status,
            Status::INVALID_OPCODE,
        );
    }
}

#[test]
fn i07_a_read_only_namespace_refuses_what_changes_it() {
    let (disk, calls) = recording(512, 1 << 20);
    let mut rig = rig_on(disk.read_only());
    assert_eq!(rig.identify(0, 1)[99] & 1, 1);
    let buffer = rig.pages.take(4096);
    let on_page = |opcode| Command::new(opcode, 1).with_prps(buffer, 0);
    for opcode in [io::WRITE, io::WRITE_ZEROES] {
        same(rig.io(1, on_page(opcode)).status, Status::WRITE_PROTECTED);
    }
    same(dataset(&mut rig, &[(0, 1)], 4), Status::WRITE_PROTECTED);
    assert_eq!(calls.take(), []);
    for opcode in [io::READ, io::COMPARE, io::VERIFY, io::FLUSH] {
        assert!(rig.io(1, on_page(opcode)).status.is_success());
    }
    assert_eq!(rig.log_page(2, 512)[0] & 8, 8, "media is read-only");
}

#[test]
fn i08_no_more_atomicity_is_promised_than_one_block() {
    let mut rig = rig_on(memory_disk(4096));
    let controller = rig.identify(1, 0);
    assert_eq!(controller[526..530], [0; 4], "AWUN, AWUPF");
    assert_eq!(controller[532..534], [0; 2], "ACWU");
    let namespace = rig.identify(0, 1);
    assert_eq!(namespace[24] & 2, 0, "no numbers of its own");
    assert_eq!(namespace[34..46], [0; 12]);
}

#[test]
fn i09_metadata_and_protection_fields_are_ignored_as_advertised() {
    let mut rig = rig_on(memory_disk(512));
    let namespace = rig.identify(0, 1);
    assert_eq!(namespace[27..30], [0; 3], "MC, DPC, DPS");
    let buffer = rig.pages.take(4096);
    let read = Command::new(io::READ, 1)
        .with_prps(buffer, 0)
        .with_word(4, 0xdead_beef)
        .with_word(5, 0xffff_ffff)
        .with_word(12, 0xf << 26)
        .with_word(14, 0x1234_5678)
        .with_word(15, 0xffff_ffff);
    assert!(rig.io(1, read).status.is_success());
    // Directives are another matter: their types are not there.
    let write = Command::new(io::WRITE, 1)
        .with_prps(buffer, 0)
        .with_word(12, 1 << 20);
    same(rig.io(1, write).status, Status::INVALID_FIELD);
}

#[test]
fn i10_failures_of_the_medium_can_be_retried_and_are_not_fatal() {
    let faults = Faults::new();
    let mut rig = rig_on(memory_disk(512).faulty(&faults));
    let buffer = rig.pages.take(4096);
    for (outcome, opcode, expected) in [
        (Outcome::ReadFailed, io::READ, Status::UNRECOVERED_READ),
        (Outcome::WriteFailed, io::WRITE, Status::WRITE_FAULT),
        (Outcome::WriteFailed, io::FLUSH, Status::WRITE_FAULT),
        (Outcome::Retry, io::READ, Status::NAMESPACE_NOT_READY),
    ] {
        faults.add(Rule::next(Fault::Fail(outcome)));
        let command = Command::new(opcode, 1).with_prps(buffer, 0);
        let status = rig.io(1, command).status;
        same(status, expected);
        assert!(!status.is_final());
        assert!(rig.io(1, command).status.is_success(), "the next one works");
    }
    assert_eq!(rig.read32(reg::CSTS), 1);
    assert_eq!(rig.log_page(2, 512)[160], 3, "media errors");
}

#[test]
fn i10_one_failing_range_fails_the_whole_command() {
    let faults = Faults::new();
    let (disk, calls) = recording(512, 1 << 20);
    let mut rig = rig_on(disk.faulty(&faults));
    faults.add(Rule {
        after: 2,
        ..Rule::next(Fault::Fail(Outcome::WriteFailed))
    });
    let ranges: Vec<(u64, u32)> = (0..5).map(|n| (n * 8, 8)).collect();
    same(dataset(&mut rig, &ranges, 4), Status::WRITE_FAULT);
    assert_eq!(calls.take().len(), 4, "the others were carried out");
}

#[test]
fn i11_queues_wrap_and_phases_turn() {
    for entries in [2, 3, 5, 16] {
        let mut rig = NvmeRig::new().with_io_queue(3, entries);
        for turn in 0..entries * 7 + 1 {
            // The same identifier again and again.
            rig.push_as(3, Command::new(io::FLUSH, 1), 0xabcd);
            rig.ring(3);
            let answer = rig.wait(3);
            assert_eq!(answer.id, 0xabcd);
            assert_eq!(u32::from(answer.queue_head), (turn + 1) % entries);
        }
        assert_eq!(rig.peek(3), None);
    }
}

#[test]
fn i11_a_full_completion_queue_holds_commands_back() {
    let mut rig = NvmeRig::new();
    let (cq, sq) = (rig.pages.take(4096), rig.pages.take(4096));
    assert!(rig.admin(create_cq(1, 4, cq, Some(1))).status.is_success());
    assert!(rig.admin(create_sq(1, 32, sq, 1)).status.is_success());
    rig.remember(1, 1, sq, 32, cq, 4);
    let ids: Vec<u16> = (0..20)
        .map(|_| rig.push(1, Command::new(io::FLUSH, 1)))
        .collect();
    rig.ring(1);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.extend(rig.peek(1).map(|answer| answer.id));
    }
    assert_eq!(rig.peek(1), None, "three answers fit");
    rig.acknowledge(1);
    while seen.len() < 20 {
        seen.push(rig.wait(1).id);
    }
    assert_eq!(seen, ids);
}

#[test]
fn i11_the_deepest_queue() {
    let mut rig = NvmeRig::with_options(RigOptions {
        memory_bytes: 64 << 20,
        ..RigOptions::default()
    })
    .enabled()
    .with_io_queue(1, 0x1_0000);
    for _ in 0..0xffff {
        rig.push_as(1, Command::new(io::FLUSH, 1), 7);
    }
    rig.ring(1);
    let mut count = 0;
    while rig.peek(1).is_some() {
        count += 1;
    }
    assert_eq!(count, 0xffff);
    rig.acknowledge(1);
    assert!(rig.io(1, Command::new(io::FLUSH, 1)).status.is_success());
}

#[test]
fn i11_submission_queues_that_share_a_completion_queue() {
    let mut rig = NvmeRig::new();
    let cq = rig.pages.take(4096);
    assert!(rig.admin(create_cq(1, 4, cq, Some(1))).status.is_success());
    for id in 1..=3 {
        let sq = rig.pages.take(4096);
        assert!(rig.admin(create_sq(id, 16, sq, 1)).status.is_success());
        rig.remember(id, 1, sq, 16, cq, 4);
    }
    for _ in 0..10 {
        for id in 1..=3 {
            for _ in 0..5 {
                rig.push(id, Command::new(io::FLUSH, 1));
            }
            rig.ring(id);
        }
        let mut counts = [0; 3];
        for _ in 0..15 {
            counts[usize::from(rig.wait(1).queue) - 1] += 1;
        }
        assert_eq!(counts, [5, 5, 5]);
    }
}

#[test]
fn i12_one_interrupt_a_batch_on_the_queues_own_vector() {
    let mut rig = NvmeRig::new().with_io_queue(1, 64).with_io_queue(2, 64);
    for _ in 0..40 {
        rig.push(2, Command::new(io::FLUSH, 1));
    }
    rig.ring(2);
    assert_eq!(rig.slot.interrupts(), [2]);
    rig.submit(1, Command::new(io::FLUSH, 1));
    assert_eq!(rig.slot.interrupts(), [1]);
    rig.slot.mask_vector(1, true);
    rig.submit(1, Command::new(io::FLUSH, 1));
    rig.submit(2, Command::new(io::FLUSH, 1));
    assert_eq!(rig.slot.interrupts(), [2]);
    rig.slot.mask_vector(1, false);
    assert_eq!(rig.slot.interrupts(), [1]);
}

#[test]
fn i11_many_queues_at_once_from_worker_threads() {
    let faults = Faults::new();
    faults.set_chance(Chance {
        seed: 7,
        errors_per_million: 0,
        retries_per_million: 20_000,
        delay_max: vm_types::Span::ZERO,
    });
    let mut rig = NvmeRig::with_options(RigOptions {
        disk: memory_disk(512).faulty(&faults),
        execution: Execution::Threads,
        ..RigOptions::default()
    })
    .enabled();
    let buffer = rig.pages.take(8 * 4096);
    for id in 1..=8u16 {
        rig.create_io_queue(id, 64);
        rig.pages
            .write(buffer + u64::from(id - 1) * 4096, &[id as u8; 4096]);
    }
    for round in 0..30u64 {
        for id in 1..=8u16 {
            for n in 0..8 {
                let block = (u64::from(id) * 100 + n) * 8 + round % 3;
                let write = Command::new(io::WRITE, 1)
                    .with_prps(buffer + u64::from(id - 1) * 4096, 0)
                    .with_blocks(block, 8);
                rig.push(id, write);
            }
            rig.ring(id);
        }
        for id in 1..=8 {
            for _ in 0..8 {
                let status = rig.wait(id).status;
                let retry = status.code() == Status::NAMESPACE_NOT_READY.code();
                assert!(status.is_success() || retry, "{status:?}");
            }
        }
    }
    faults.clear();
    let check = rig.pages.take(4096);
    for id in 1..=8u16 {
        let read = Command::new(io::READ, 1)
            .with_prps(check, 0)
            .with_blocks(u64::from(id) * 800 + 2, 8);
        assert!(rig.io(id, read).status.is_success());
        let first = rig.pages.read(check, 1)[0];
        assert!(first == id as u8 || first == 0);
    }
}

#[test]
fn i13_commands_as_passthrough_sends_them() {
    // A queue that is polled, words that the block layer of a guest never sets, admin commands between.
    let mut rig = NvmeRig::new();
    let (cq, sq) = (rig.pages.take(4096), rig.pages.take(4096));
    assert!(rig.admin(create_cq(2, 8, cq, None)).status.is_success());
    assert!(rig.admin(create_sq(5, 8, sq, 2)).status.is_success());
    rig.remember(5, 2, sq, 8, cq, 8);
    rig.slot.interrupts();
    let buffer = rig.pages.take(4096);
    rig.pages.write(buffer, &[0x3c; 512]);
    for opcode in [io::WRITE, io::READ] {
        let command = Command::new(opcode, 1)
            .with_prps(buffer, 0)
            .with_word(2, 0x1111_1111)
            .with_word(3, 0x2222_2222)
            .with_word(13, 0x0101_0101);
        assert!(rig.io(5, command).status.is_success());
        assert_eq!(rig.identify(1, 0)[77], 8);
    }
    assert_eq!(rig.pages.read(buffer, 512), [0x3c; 512]);
    assert!(!rig.slot.interrupts().contains(&2));
}
