//! NVMe conformance, group A: admin commands. One test a row of `CONFORMANCE.md`.

use block::{Disk, Fault, Faults, Rule};
use devices::nvme::command::{ALL_NAMESPACES, Command, admin, io};
use devices::nvme::{ERROR_ENTRIES, Status};
use devices::testkit::disk::{Call, recording};
use devices::testkit::nvme::{
    NvmeRig, RigOptions, create_cq, create_sq, get_feature, get_log_page, identify, reg,
    set_feature,
};

fn same(found: Status, expected: Status) {
    assert_eq!(found.code(), expected.code(), "{found:?} for {expected:?}");
    assert_eq!(found.is_final(), expected.is_final(), "{found:?}");
}

fn u16_at(page: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

fn u32_at(page: &[u8], at: usize) -> u32 {
    u32::from(u16_at(page, at)) | u32::from(u16_at(page, at + 2)) << 16
}

fn u64_at(page: &[u8], at: usize) -> u64 {
    u64::from(u32_at(page, at)) | u64::from(u32_at(page, at + 4)) << 32
}

fn memory_disk(block_size: u32) -> Disk {
    Disk::memory(block_size, 8 << 20).unwrap_or_else(|error| unreachable!("{error}"))
}

#[test]
fn a01_identify_controller() {
    let mut rig = NvmeRig::new();
    // Across a page boundary, as some drivers do.
    let buffer = rig.pages.take(0x3000);
    let split = Command::new(admin::IDENTIFY, 0)
        .with_prps(buffer + 0xe00, buffer + 0x2000)
        .with_word(10, 1);
    assert!(rig.admin(split).status.is_success());
    let mut page = rig.pages.read(buffer + 0xe00, 0x200);
    page.extend(rig.pages.read(buffer + 0x2000, 0xe00));
    assert_eq!(page, rig.identify(1, 0));

    assert_eq!((u16_at(&page, 0), u16_at(&page, 2)), (0x01de, 0x01de));
    assert_eq!(&page[4..24], b"SN-0001             ");
    assert_eq!(&page[24..64], b"Trivet NVMe disk                        ");
    assert_eq!(&page[64..72], b"1.0     ");
    assert_eq!(page[77], 8, "MDTS");
    assert_eq!(u32_at(&page, 80), rig.read32(reg::VS), "VER is VS");
    assert_eq!(page[111], 1, "I/O controller");
    assert_eq!(u16_at(&page, 256), 1 << 8, "OACS: doorbell buffer only");
    assert_eq!((page[258], page[259]), (3, 3), "ACL, AERL");
    assert_eq!(page[261], 6, "LPA");
    assert_eq!(usize::from(page[262]) + 1, ERROR_ENTRIES, "ELPE");
    assert_eq!((page[512], page[513]), (0x66, 0x44));
    assert_eq!(u32_at(&page, 516), 1, "NN");
    assert_eq!(u32_at(&page, 536), 0, "SGLS");
    let name = &page[768..1024];
    assert!(name.starts_with(b"nqn.2014-08.org.nvmexpress:uuid:"));
    assert_eq!(name[68], 0, "a UUID is 36 characters");
}

#[test]
fn a02_identify_namespace() {
    for block_size in [512, 4096] {
        let mut rig = NvmeRig::on(memory_disk(block_size));
        let page = rig.identify(0, 1);
        let blocks = (8 << 20) / u64::from(block_size);
        for size in [0, 8, 16] {
            assert_eq!(u64_at(&page, size), blocks);
        }
        assert_eq!((page[25], page[26]), (0, 0), "one format, in use");
        assert_eq!(u32_at(&page, 128), block_size.trailing_zeros() << 16);
        assert_eq!(page[33], 1 << 3, "DLFEAT");
        assert_eq!(page[99], 0, "NSATTR");
        assert_ne!(page[104..120], [0; 16], "NGUID");
        assert_ne!(page[120..128], [0; 8], "EUI64");
        let buffer = rig.pages.take(4096);
        for wrong in [0, 2, ALL_NAMESPACES] {
            let status = rig.admin(identify(0, wrong, buffer)).status;
            same(status, Status::INVALID_NAMESPACE);
        }
    }
    let mut rig = NvmeRig::on(memory_disk(512).read_only());
    assert_eq!(rig.identify(0, 1)[99], 1, "NSATTR.WP");
}

#[test]
fn a03_namespace_lists_and_descriptors() {
    let mut rig = NvmeRig::new();
    let list = rig.identify(2, 0);
    assert_eq!((u32_at(&list, 0), u32_at(&list, 4)), (1, 0));
    assert_eq!(u32_at(&rig.identify(2, 1), 0), 0);
    let buffer = rig.pages.take(4096);
    for wrong in [ALL_NAMESPACES, ALL_NAMESPACES - 1] {
        let status = rig.admin(identify(2, wrong, buffer)).status;
        same(status, Status::INVALID_NAMESPACE);
    }
    let namespace = rig.identify(0, 1);
    let page = rig.identify(3, 1);
    assert_eq!((page[0], page[1]), (1, 8));
    assert_eq!(page[4..12], namespace[120..128]);
    assert_eq!((page[12], page[13]), (2, 16));
    assert_eq!(page[16..32], namespace[104..120]);
    assert_eq!((page[32], page[33]), (3, 16));
    assert_eq!(&page[36..52], rig.nvme.config().uuid.as_bytes());
    assert_eq!(page[52..56], [0; 4]);
    same(
        rig.admin(identify(3, 2, buffer)).status,
        Status::INVALID_NAMESPACE,
    );
    // Pages of 2.0, of namespace management and of virtualisation.
    for absent in [5, 6, 8, 0x10, 0x11, 0x12, 0x13, 0x14, 0xff] {
        let status = rig.admin(identify(absent, 1, buffer)).status;
        same(status, Status::INVALID_FIELD);
    }
}

#[test]
fn a04_number_of_queues() {
    let mut rig = NvmeRig::new();
    let answer = rig.admin(set_feature(7, 0xfffe_fffe));
    assert!(answer.status.is_success());
    assert_eq!(
        answer.result, 0x0007_0007,
        "clamped to the 8 there are, from zero"
    );
    assert_eq!(rig.admin(set_feature(7, 0x0001_0000)).result, 0x0001_0000);
    assert_eq!(rig.admin(get_feature(7, 0, 0)).result, 0x0001_0000);
    same(
        rig.admin(set_feature(7, 0xffff)).status,
        Status::INVALID_FIELD,
    );
    same(
        rig.admin(set_feature(7, 0xffff_0000)).status,
        Status::INVALID_FIELD,
    );
    // One submission queue, two completion queues.
    let page = rig.pages.take(4096);
    let status = |rig: &mut NvmeRig, command| rig.admin(command).status;
    assert!(status(&mut rig, create_cq(2, 4, page, None)).is_success());
    same(
        status(&mut rig, create_cq(3, 4, page, None)),
        Status::INVALID_QUEUE_ID,
    );
    same(
        status(&mut rig, create_sq(2, 4, page, 2)),
        Status::INVALID_QUEUE_ID,
    );
    assert!(status(&mut rig, create_sq(1, 4, page, 2)).is_success());
    // Too late now.
    same(
        status(&mut rig, set_feature(7, 0x0003_0003)),
        Status::SEQUENCE_ERROR,
    );
}

#[test]
fn a05_get_features_current_default_saved_and_supported() {
    let (disk, _) = recording(512, 1 << 20);
    let mut rig = NvmeRig::on(disk);
    for id in [1, 2, 4, 5, 6, 7, 8, 9, 0xa, 0xb] {
        for select in 0..3 {
            let status = rig.admin(get_feature(id, select, 0)).status;
            assert!(
                status.is_success(),
                "feature {id:#x} select {select}: {status:?}"
            );
        }
        assert_eq!(rig.admin(get_feature(id, 3, 0)).result, 4, "changeable");
        same(
            rig.admin(get_feature(id, 4, 0)).status,
            Status::INVALID_FIELD,
        );
    }
    for unknown in [0, 3, 0x0c, 0x0d, 0x0e, 0x0f, 0x10, 0x80, 0xc0, 0xff] {
        for select in 0..4 {
            let status = rig.admin(get_feature(unknown, select, 0)).status;
            same(status, Status::INVALID_FIELD);
        }
    }
    rig.admin(set_feature(0x0a, 1));
    let value = |rig: &mut NvmeRig, select| rig.admin(get_feature(0x0a, select, 0)).result;
    assert_eq!(
        [value(&mut rig, 0), value(&mut rig, 1), value(&mut rig, 2)],
        [1, 0, 0]
    );
    assert_eq!(rig.admin(get_feature(9, 0, 3)).result, 3, "vector 3");
    same(
        rig.admin(get_feature(9, 0, 500)).status,
        Status::INVALID_FIELD,
    );
    assert_ne!(rig.admin(get_feature(4, 0, 0)).result, 0);
    assert_eq!(rig.admin(get_feature(4, 0, 1 << 20)).result, 0, "under");
    same(
        rig.admin(get_feature(4, 0, 2 << 20)).status,
        Status::INVALID_FIELD,
    );
    same(
        rig.admin(get_feature(4, 0, 1 << 16)).status,
        Status::INVALID_FIELD,
    );
}

#[test]
fn a05_write_cache_feature_exists_only_with_a_cache() {
    let mut rig = NvmeRig::on(memory_disk(512));
    let cache = rig.identify(1, 0)[525] & 1;
    assert_eq!(cache, 0);
    same(
        rig.admin(get_feature(6, 0, 0)).status,
        Status::INVALID_FIELD,
    );
    same(rig.admin(set_feature(6, 1)).status, Status::INVALID_FIELD);
}

#[test]
fn a06_set_features() {
    let (disk, calls) = recording(512, 1 << 20);
    let mut rig = NvmeRig::on(disk);
    for (id, value, back) in [
        (1, 0x0102_0307, 0x0102_0307),
        (2, 0, 0),
        (4, 350, 350),
        (5, 0x20, 0x20),
        (6, 0, 0),
        (8, 0x0203, 0x0203),
        (9, 0x0001_0002, 2 | 1 << 16),
        (0xa, 1, 1),
        (0xb, 0x1ff, 0x1ff),
    ] {
        let status = rig.admin(set_feature(id, value)).status;
        assert!(status.is_success(), "{id:#x}: {status:?}");
        let select = if id == 9 { 2 } else { 0 };
        assert_eq!(
            rig.admin(get_feature(id, 0, select)).result,
            back,
            "{id:#x}"
        );
    }
    for (id, value) in [
        (2, 1),
        (5, 1 << 16),
        (9, 0x1fff),
        (4, 3 << 16),
        (3, 0),
        (0x0c, 0),
    ] {
        same(
            rig.admin(set_feature(id, value)).status,
            Status::INVALID_FIELD,
        );
    }
    let save = set_feature(1, 0).with_word(10, 1 | 1 << 31);
    same(rig.admin(save).status, Status::FEATURE_NOT_SAVEABLE);
    let mut scoped = set_feature(1, 0);
    scoped.dwords[1] = 1;
    same(
        rig.admin(scoped).status,
        Status::FEATURE_NOT_NAMESPACE_SPECIFIC,
    );
    // With the cache off every write is durable.
    rig.create_io_queue(1, 8);
    let buffer = rig.pages.take(4096);
    let write = Command::new(io::WRITE, 1)
        .with_prps(buffer, 0)
        .with_blocks(4, 1);
    rig.io(1, write);
    rig.admin(set_feature(6, 1));
    rig.io(1, write);
    assert_eq!(
        calls.take(),
        [Call::Write(2048, 512, true), Call::Write(2048, 512, false)]
    );
}

fn event_request() -> Command {
    Command::new(admin::ASYNC_EVENT, 0)
}

#[test]
fn a07_event_requests_park_up_to_the_limit() {
    let mut rig = NvmeRig::new();
    let parked: Vec<u16> = (0..4).map(|_| rig.submit(0, event_request())).collect();
    assert_eq!(rig.peek(0), None);
    same(
        rig.admin(event_request()).status,
        Status::EVENT_LIMIT_EXCEEDED,
    );
    // Others go on meanwhile.
    assert!(rig.admin(get_feature(7, 0, 0)).status.is_success());
    // A doorbell of no queue: an error event, for the oldest request.
    rig.write32(reg::DOORBELLS + 8 * 7, 1);
    let answer = rig.wait(0);
    assert_eq!((answer.id, answer.result), (parked[0], 0x01_0000));
    // The type is masked until its log page is read.
    rig.create_io_queue(1, 4);
    rig.write32(reg::DOORBELLS + 8, 4);
    assert_eq!(rig.peek(0), None);
    let buffer = rig.pages.take(4096);
    let retain = get_log_page(1, 64).with_prps(buffer, 0);
    let retain = retain.with_word(10, retain.dwords[10] | 1 << 15);
    assert!(rig.admin(retain).status.is_success());
    assert_eq!(rig.peek(0), None);
    rig.submit(0, get_log_page(1, 64).with_prps(buffer, 0));
    let answers = [rig.wait(0), rig.wait(0)];
    let event = answers.iter().find(|answer| answer.id == parked[1]);
    assert_eq!(event.map(|answer| answer.result), Some(0x01_0100));
    // A reset drops what is parked; none is answered.
    rig.disable();
    rig.enable();
    for _ in 0..4 {
        rig.submit(0, event_request());
    }
    assert_eq!(rig.peek(0), None);
}

#[test]
fn a07_temperature_and_namespace_events() {
    let mut rig = NvmeRig::new();
    rig.admin(set_feature(0xb, 0x1ff));
    let first = rig.submit(0, event_request());
    let second = rig.submit(0, event_request());
    rig.submit(0, set_feature(4, 280));
    let answers = [rig.wait(0), rig.wait(0)];
    let event = answers.iter().find(|answer| answer.id == first);
    assert_eq!(event.map(|answer| answer.result), Some(0x02_0101));
    assert_eq!(rig.log_page(2, 512)[0] & 2, 2, "critical warning");
    rig.nvme.set_write_protected(true);
    let answer = rig.wait(0);
    assert_eq!((answer.id, answer.result), (second, 0x04_0002));
    assert_eq!(rig.identify(0, 1)[99], 1);
    assert_eq!(u32_at(&rig.log_page(4, 4096), 0), 1);
    assert_eq!(u32_at(&rig.log_page(4, 4096), 0), 0, "read once");
}

#[test]
fn a07_events_wait_for_a_slot_in_a_small_queue() {
    let options = RigOptions {
        admin_entries: 2,
        ..RigOptions::default()
    };
    let mut rig = NvmeRig::with_options(options).enabled();
    for _ in 0..4 {
        rig.submit(0, event_request());
    }
    // One slot: four parked requests hold none of it.
    rig.submit(0, get_feature(7, 0, 0));
    assert!(rig.peek(0).is_some());
    rig.write32(reg::DOORBELLS + 8 * 7, 1);
    assert_eq!(rig.peek(0), None, "the slot is still ours to acknowledge");
    rig.acknowledge(0);
    assert_eq!(rig.wait(0).result, 0x01_0000);
}

#[test]
fn a08_error_log_holds_what_went_wrong() {
    let mut rig = NvmeRig::new().with_io_queue(2, 8);
    assert_eq!(rig.log_page(1, 64), [0; 64]);
    let read = Command::new(io::READ, 1)
        .with_prps(0x1000, 0)
        .with_blocks(1 << 40, 1);
    let answer = rig.io(2, read);
    assert_ne!(answer.status.bits() & 1 << 13, 0, "more: look at the log");
    let failed = rig.admin(Command::new(0xc7, 0));
    let log = rig.log_page(1, 128);
    assert_eq!(u64_at(&log, 0), 2, "newest first");
    assert_eq!(u16_at(&log, 8), 0);
    assert_eq!(u16_at(&log, 10), failed.id);
    assert_eq!(u16_at(&log, 12), failed.status.bits() << 1);
    assert_eq!((u64_at(&log, 64), u16_at(&log, 72)), (1, 2));
    assert_eq!((u16_at(&log, 74), u64_at(&log, 80)), (answer.id, 1 << 40));
    assert_eq!(u32_at(&log, 88), 1, "namespace");
    let smart = rig.log_page(2, 512);
    assert_eq!(u64_at(&smart, 176), 2, "entries ever");
    // It outlives a reset.
    rig.disable();
    rig.enable();
    assert_eq!(u64_at(&rig.log_page(1, 64), 0), 2);
}

#[test]
fn a08_smart_counters_move() {
    let mut rig = NvmeRig::new().with_io_queue(1, 8);
    let before = rig.log_page(2, 512);
    assert!(u16_at(&before, 1) > 273, "warmer than ice");
    assert_eq!((before[3], before[4]), (100, 10));
    let buffer = rig.pages.take(1 << 20);
    let (prp1, prp2) = rig.prps(buffer, 1 << 20);
    for opcode in [io::WRITE, io::READ, io::READ] {
        let command = Command::new(opcode, 1)
            .with_prps(prp1, prp2)
            .with_blocks(0, 2048);
        assert!(rig.io(1, command).status.is_success());
    }
    rig.clock.advance(vm_types::Span::from_secs(7200));
    let after = rig.log_page(2, 512);
    assert_eq!(
        u64_at(&after, 32),
        5,
        "4,096 units of 512 bytes, in thousands, up"
    );
    assert_eq!(u64_at(&after, 48), 3);
    assert_eq!((u64_at(&after, 64), u64_at(&after, 80)), (2, 1));
    assert_eq!(u64_at(&after, 128), 2, "hours");
}

#[test]
fn a08_firmware_effects_offsets_and_unknown_pages() {
    let mut rig = NvmeRig::new();
    let firmware = rig.log_page(3, 512);
    assert_eq!(firmware[0], 1);
    assert_eq!(&firmware[8..16], b"1.0     ");
    let effects = rig.log_page(5, 4096);
    assert_eq!(u32_at(&effects, usize::from(admin::IDENTIFY) * 4), 1);
    assert_eq!(u32_at(&effects, 0x80 * 4), 0, "no Format");
    assert_eq!(u32_at(&effects, 1024 + usize::from(io::WRITE) * 4), 3);
    assert_eq!(u32_at(&effects, 1024 + usize::from(io::READ) * 4), 1);
    let buffer = rig.pages.take(8192);
    let at = |offset: u32| {
        get_log_page(5, 64)
            .with_prps(buffer, 0)
            .with_word(12, offset)
    };
    assert!(rig.admin(at(1024)).status.is_success());
    assert_eq!(rig.pages.read(buffer, 64), effects[1024..1088]);
    assert!(rig.admin(at(4096)).status.is_success(), "the end itself");
    for wrong in [4100, 2, u32::MAX] {
        same(rig.admin(at(wrong)).status, Status::INVALID_FIELD);
    }
    // Longer than the page: zeroes behind it.
    rig.pages.write(buffer + 512, &[0xee; 64]);
    let long = get_log_page(2, 576).with_prps(buffer, 0);
    assert!(rig.admin(long).status.is_success());
    assert_eq!(rig.pages.read(buffer + 512, 64), [0; 64]);
    for unknown in [0, 6, 7, 8, 0x0d, 0x70, 0x80, 0xc0] {
        let command = get_log_page(unknown, 64).with_prps(buffer, 0);
        same(rig.admin(command).status, Status::INVALID_LOG_PAGE);
    }
    let mut scoped = get_log_page(2, 512).with_prps(buffer, 0);
    scoped.dwords[1] = 1;
    same(rig.admin(scoped).status, Status::INVALID_FIELD);
    let huge = get_log_page(1, 64).with_word(11, 0xffff);
    same(rig.admin(huge).status, Status::INVALID_FIELD);
}

fn abort(queue: u16, id: u16) -> Command {
    Command::new(admin::ABORT, 0).with_word(10, u32::from(queue) | u32::from(id) << 16)
}

#[test]
fn a09_abort_of_waiting_running_and_absent_commands() {
    let faults = Faults::new();
    let mut options = RigOptions {
        disk: memory_disk(512).faulty(&faults),
        ..RigOptions::default()
    };
    options.config.queue_depth = 1;
    let mut rig = NvmeRig::with_options(options)
        .enabled()
        .with_io_queue(1, 16);
    faults.add(Rule::next(Fault::Stall));
    let running = rig.submit(1, Command::new(io::FLUSH, 1));
    let waiting = rig.submit(1, Command::new(io::FLUSH, 1));
    let last = rig.submit(1, Command::new(io::FLUSH, 1));
    assert_eq!(rig.peek(1), None);
    assert_eq!(rig.admin(abort(1, running)).result & 1, 1, "not aborted");
    let answer = rig.admin(abort(1, waiting));
    assert!(answer.status.is_success());
    assert_eq!(answer.result & 1, 0, "aborted");
    let aborted = rig.wait(1);
    assert_eq!(aborted.id, waiting);
    same(aborted.status, Status::ABORT_REQUESTED);
    assert_eq!(rig.admin(abort(1, waiting)).result & 1, 1, "only once");
    assert_eq!(rig.admin(abort(1, 0x7777)).result & 1, 1, "no such command");
    faults.release();
    assert_eq!(rig.wait(1).id, running);
    assert_eq!(rig.wait(1).id, last, "the aborted one is passed over");
    assert_eq!(rig.peek(1), None);
    same(rig.admin(abort(99, 0)).status, Status::INVALID_FIELD);
}

#[test]
fn a09_abort_of_an_event_request() {
    let mut rig = NvmeRig::new();
    let parked = rig.submit(0, event_request());
    rig.submit(0, abort(0, parked));
    let aborted = rig.wait(0);
    assert_eq!(aborted.id, parked);
    same(aborted.status, Status::ABORT_REQUESTED);
    assert_eq!(rig.wait(0).result & 1, 0);
}

#[test]
fn a10_create_completion_queue() {
    let mut rig = NvmeRig::new();
    let page = rig.pages.take(1 << 20);
    let refused = |rig: &mut NvmeRig, command, expected| {
        same(rig.admin(command).status, expected);
    };
    refused(
        &mut rig,
        create_cq(0, 8, page, None),
        Status::INVALID_QUEUE_ID,
    );
    refused(
        &mut rig,
        create_cq(9, 8, page, None),
        Status::INVALID_QUEUE_ID,
    );
    refused(
        &mut rig,
        create_cq(0xffff, 8, page, None),
        Status::INVALID_QUEUE_ID,
    );
    refused(
        &mut rig,
        create_cq(1, 1, page, None),
        Status::INVALID_QUEUE_SIZE,
    );
    refused(
        &mut rig,
        create_cq(1, 8, page + 8, None),
        Status::PRP_OFFSET_INVALID,
    );
    refused(
        &mut rig,
        create_cq(1, 8, page, Some(9)),
        Status::INVALID_VECTOR,
    );
    let scattered = create_cq(1, 8, page, None).with_word(11, 0);
    refused(&mut rig, scattered, Status::INVALID_FIELD);
    // All 65,536 entries that CAP offers.
    assert!(
        rig.admin(create_cq(2, 0x1_0000, page, None))
            .status
            .is_success()
    );
    refused(
        &mut rig,
        create_cq(2, 8, page, None),
        Status::INVALID_QUEUE_ID,
    );
    // Before CC says how large entries are.
    let mut bare = NvmeRig::with_options(RigOptions::default());
    bare.program_admin_queues(8);
    bare.write32(reg::CC, 1);
    bare.await_ready(true);
    refused(
        &mut bare,
        create_cq(1, 8, 0x10_0000, None),
        Status::INVALID_QUEUE_SIZE,
    );
}

#[test]
fn a10_a_queue_without_interrupts_is_polled() {
    let mut rig = NvmeRig::new();
    let (cq, sq) = (rig.pages.take(4096), rig.pages.take(4096));
    assert!(rig.admin(create_cq(1, 8, cq, None)).status.is_success());
    assert!(rig.admin(create_sq(1, 8, sq, 1)).status.is_success());
    rig.remember(1, 1, sq, 8, cq, 8);
    rig.slot.interrupts();
    assert!(rig.io(1, Command::new(io::FLUSH, 1)).status.is_success());
    assert!(rig.slot.interrupts().is_empty());
}

#[test]
fn a11_create_submission_queue() {
    let mut rig = NvmeRig::new();
    let page = rig.pages.take(1 << 20);
    assert!(
        rig.admin(create_cq(1, 8, page, Some(1)))
            .status
            .is_success()
    );
    let refused = |rig: &mut NvmeRig, command, expected| {
        same(rig.admin(command).status, expected);
    };
    refused(
        &mut rig,
        create_sq(1, 8, page, 2),
        Status::COMPLETION_QUEUE_INVALID,
    );
    refused(&mut rig, create_sq(1, 8, page, 0), Status::INVALID_QUEUE_ID);
    refused(
        &mut rig,
        create_sq(1, 8, page, 99),
        Status::INVALID_QUEUE_ID,
    );
    refused(&mut rig, create_sq(0, 8, page, 1), Status::INVALID_QUEUE_ID);
    refused(&mut rig, create_sq(9, 8, page, 1), Status::INVALID_QUEUE_ID);
    refused(
        &mut rig,
        create_sq(1, 1, page, 1),
        Status::INVALID_QUEUE_SIZE,
    );
    refused(
        &mut rig,
        create_sq(1, 8, page | 4, 1),
        Status::PRP_OFFSET_INVALID,
    );
    let scattered = create_sq(1, 8, page, 1).with_word(11, 1 << 16);
    refused(&mut rig, scattered, Status::INVALID_FIELD);
    // Priority means nothing in round robin.
    let urgent = create_sq(1, 8, page, 1);
    let urgent = urgent.with_word(11, urgent.dwords[11] | 3 << 1);
    assert!(rig.admin(urgent).status.is_success());
    refused(&mut rig, create_sq(1, 8, page, 1), Status::INVALID_QUEUE_ID);
    // Several may share a completion queue.
    assert!(rig.admin(create_sq(2, 8, page, 1)).status.is_success());
}

fn delete(opcode: u8, id: u16) -> Command {
    Command::new(opcode, 0).with_word(10, u32::from(id))
}

#[test]
fn a12_delete_queues_in_the_right_order() {
    let mut rig = NvmeRig::new().with_io_queue(1, 8);
    let mut status = |opcode, id| rig.admin(delete(opcode, id)).status;
    same(status(admin::DELETE_CQ, 1), Status::INVALID_QUEUE_DELETION);
    same(status(admin::DELETE_SQ, 2), Status::INVALID_QUEUE_ID);
    same(status(admin::DELETE_SQ, 0), Status::INVALID_QUEUE_ID);
    same(status(admin::DELETE_CQ, 0), Status::INVALID_QUEUE_ID);
    same(status(admin::DELETE_CQ, 3), Status::INVALID_QUEUE_ID);
    assert!(status(admin::DELETE_SQ, 1).is_success());
    same(status(admin::DELETE_SQ, 1), Status::INVALID_QUEUE_ID);
    assert!(status(admin::DELETE_CQ, 1).is_success());
    rig.create_io_queue(1, 16);
    assert!(rig.io(1, Command::new(io::FLUSH, 1)).status.is_success());
}

#[test]
fn a12_deletion_waits_for_commands_at_the_disk() {
    let faults = Faults::new();
    let mut rig = NvmeRig::on(memory_disk(512).faulty(&faults)).with_io_queue(1, 8);
    faults.add(Rule::next(Fault::Stall));
    let running = rig.submit(1, Command::new(io::FLUSH, 1));
    let deletion = rig.submit(0, delete(admin::DELETE_SQ, 1));
    assert_eq!(rig.peek(0), None);
    // The number is in use until then, and the completion queue too.
    let page = rig.pages.take(4096);
    rig.submit(0, create_sq(1, 8, page, 1));
    same(rig.wait(0).status, Status::INVALID_QUEUE_ID);
    rig.submit(0, delete(admin::DELETE_CQ, 1));
    same(rig.wait(0).status, Status::INVALID_QUEUE_DELETION);
    faults.release();
    let answer = rig.wait(1);
    assert_eq!(answer.id, running);
    assert!(answer.status.is_success());
    let answer = rig.wait(0);
    assert_eq!(answer.id, deletion);
    assert!(answer.status.is_success());
}

#[test]
fn a13_doorbell_buffer_config() {
    let mut rig = NvmeRig::new();
    let page = rig.pages.take(8192);
    for (shadows, events) in [
        (page + 4, page + 4096),
        (page, page + 4100),
        (page, 1 << 40),
        (!0xfff, page),
    ] {
        let command = Command::new(admin::DOORBELL_BUFFER, 0).with_prps(shadows, events);
        same(rig.admin(command).status, Status::INVALID_FIELD);
    }
    rig.use_shadow_doorbells();
    rig.create_io_queue(1, 64);
    for _ in 0..200 {
        assert!(rig.io(1, Command::new(io::FLUSH, 1)).status.is_success());
    }
    // Heads need no ring while the queue is not full.
    let saved = rig.shadows.map_or(0, |shadows| shadows.saved);
    assert!(saved >= 190, "{saved}");
}

#[test]
fn a13_event_index_asks_for_a_ring_before_the_queue_sleeps() {
    let mut rig = NvmeRig::new();
    rig.use_shadow_doorbells();
    rig.create_io_queue(1, 4);
    let events = rig.shadows.map_or(0, |shadows| shadows.event_indexes);
    for turn in 1..20 {
        rig.io(1, Command::new(io::FLUSH, 1));
        assert_eq!(rig.pages.read_u32(events + 8), turn % 4, "tail seen");
    }
}

#[test]
fn a13_a_full_completion_queue_wakes_through_the_shadow_head() {
    let mut rig = NvmeRig::new();
    rig.use_shadow_doorbells();
    let (cq, sq) = (rig.pages.take(4096), rig.pages.take(4096));
    assert!(rig.admin(create_cq(1, 3, cq, Some(1))).status.is_success());
    assert!(rig.admin(create_sq(1, 16, sq, 1)).status.is_success());
    rig.remember(1, 1, sq, 16, cq, 3);
    for round in 0..40 {
        let ids: Vec<u16> = (0..9)
            .map(|_| rig.push(1, Command::new(io::FLUSH, 1)))
            .collect();
        rig.ring(1);
        let answers: Vec<u16> = ids.iter().map(|_| rig.wait(1).id).collect();
        assert_eq!(answers, ids, "round {round}");
    }
}

#[test]
fn a13_enabled_while_commands_run() {
    let mut rig = NvmeRig::new().with_io_queue(1, 8);
    for _ in 0..5 {
        rig.io(1, Command::new(io::FLUSH, 1));
    }
    let (shadows, events) = (rig.pages.take(4096), rig.pages.take(4096));
    // The command is under way; the driver still rings the register.
    rig.push(
        0,
        Command::new(admin::DOORBELL_BUFFER, 0).with_prps(shadows, events),
    );
    let early = rig.push(1, Command::new(io::FLUSH, 1));
    rig.ring(0);
    assert_eq!(rig.pages.read_u32(shadows + 8), 5, "begins with our value");
    rig.ring(1);
    assert_eq!(rig.wait(1).id, early);
    assert!(rig.wait(0).status.is_success());
    rig.shadows = Some(devices::testkit::nvme::DriverShadows {
        shadows,
        event_indexes: events,
        saved: 0,
    });
    for _ in 0..30 {
        rig.io(1, Command::new(io::FLUSH, 1));
    }
}

#[test]
fn a13_a_reset_forgets_the_buffer() {
    let mut rig = NvmeRig::new();
    rig.use_shadow_doorbells();
    rig.create_io_queue(1, 8);
    rig.io(1, Command::new(io::FLUSH, 1));
    let old = rig.shadows.map_or((0, 0), |s| (s.shadows, s.event_indexes));
    rig.disable();
    // The pages belong to the guest again.
    for page in [old.0, old.1] {
        rig.pages.write(page, &[0x5a; 4096]);
    }
    rig.enable();
    rig.create_io_queue(1, 8);
    for _ in 0..20 {
        assert!(rig.io(1, Command::new(io::FLUSH, 1)).status.is_success());
    }
    for page in [old.0, old.1] {
        assert_eq!(rig.pages.read(page, 4096), [0x5a; 4096]);
    }
}

#[test]
fn a14_unknown_opcodes_and_reserved_bits() {
    let mut rig = NvmeRig::new().with_io_queue(1, 8);
    for opcode in [0x03, 0x07, 0x0b, 0x0e, 0x7f, 0xc0, 0xff] {
        same(
            rig.admin(Command::new(opcode, 0)).status,
            Status::INVALID_OPCODE,
        );
    }
    for opcode in [0x03, 0x06, 0x0a, 0x80, 0xff] {
        same(
            rig.io(1, Command::new(opcode, 1)).status,
            Status::INVALID_OPCODE,
        );
    }
    // Fused (bits 9:8), reserved (13:10), SGL (15:14).
    for bit in 8..16 {
        let mut command = get_feature(7, 0, 0);
        command.dwords[0] |= 1 << bit;
        same(rig.admin(command).status, Status::INVALID_FIELD);
        let mut command = Command::new(io::FLUSH, 1);
        command.dwords[0] |= 1 << bit;
        same(rig.io(1, command).status, Status::INVALID_FIELD);
    }
}

#[test]
fn a15_optional_commands_are_absent_and_refused() {
    let mut rig = NvmeRig::new();
    let page = rig.identify(1, 0);
    assert_eq!(u16_at(&page, 256) & !(1 << 8), 0, "OACS");
    assert_eq!(u32_at(&page, 328), 0, "SANICAP");
    assert_eq!(u32_at(&page, 272), 0, "HMPRE");
    // Firmware commit and download, self-test, namespace management and attachment, directives,
    // virtualisation, format, security, sanitize.
    for opcode in [
        0x10, 0x11, 0x14, 0x0d, 0x15, 0x19, 0x1a, 0x1c, 0x80, 0x81, 0x82, 0x84,
    ] {
        same(
            rig.admin(Command::new(opcode, 1)).status,
            Status::INVALID_OPCODE,
        );
    }
}

#[test]
fn a16_keep_alive_timestamp_and_power_transitions_are_refused() {
    let mut rig = NvmeRig::new();
    let page = rig.identify(1, 0);
    assert_eq!(u16_at(&page, 320), 0, "KAS");
    assert_eq!(page[265], 0, "APSTA");
    assert_eq!(u16_at(&page, 520) & 1 << 6, 0, "ONCS: timestamp");
    same(
        rig.admin(Command::new(0x18, 0)).status,
        Status::INVALID_OPCODE,
    );
    for id in [0x0c, 0x0d, 0x0e, 0x0f, 0x16] {
        same(rig.admin(set_feature(id, 0)).status, Status::INVALID_FIELD);
    }
}
