//! Virtio devices as drivers of both ages find them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use block::{Disk, Fault, Faults, Rule};
use devices::lifecycle::Lifecycle;
use devices::pci::Endpoint;
use devices::testkit::disk::{Call, hanging, recording};
use devices::testkit::virtio::{BlockRig, Buffer, NO_STATUS, RigOptions, VirtioRig, put_raw};
use devices::virtio::block::config::feature as blk;
use devices::virtio::registers::{feature, status};
use devices::virtio::{Entropy, Interface, NOTIFY_OFFSET, Virtio};
use vm_types::Execution;

const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

fn disk() -> Disk {
    Disk::memory(512, 1 << 20).unwrap()
}

fn both() -> [RigOptions; 2] {
    [false, true].map(|legacy| RigOptions {
        legacy,
        ..RigOptions::default()
    })
}

#[test]
fn a_disk_keeps_what_is_written_by_either_interface() {
    for options in both() {
        for (msix, execution) in [
            (true, Execution::Inline),
            (false, Execution::Inline),
            (true, Execution::Threads),
        ] {
            for accept in [u64::MAX, !feature::RING_EVENT_IDX] {
                let mut rig = BlockRig::new(
                    &disk(),
                    RigOptions {
                        msix,
                        execution,
                        accept,
                        ..options
                    },
                );
                for indirect in [false, true] {
                    rig.indirect = indirect;
                    let pattern: Vec<u8> = (0..8192_u32).map(|i| (i * 7) as u8).collect();
                    assert_eq!(rig.write(16, &pattern), 0);
                    assert_eq!(rig.request(0, 4, 0, &[], 0).0, 0);
                    assert_eq!(rig.read(16, 8192), (0, pattern));
                }
            }
        }
    }
}

#[test]
fn the_identity_is_that_of_a_transitional_block_device() {
    let rig = BlockRig::cold(&disk(), RigOptions::default());
    let slot = &rig.rig.slot;
    assert_eq!(slot.config_read(0), 0x1001_1af4);
    assert_eq!(slot.config_read(8), 0x0100_0000);
    assert_eq!(slot.config_read(0x2c), 0x0002_1af4);
    // Common, interrupt status, device, notify, access by configuration space; in pages of BAR 2.
    let mut kinds = Vec::new();
    let mut at = slot.config_read(0x34) as u16 & 0xfc;
    while at != 0 {
        let word = slot.config_read(at);
        if word & 0xff == 9 {
            kinds.push((word >> 24, slot.config_read(at + 8)));
        }
        at = (word >> 8) as u16 & 0xfc;
    }
    assert_eq!(
        kinds,
        [(1, 0), (3, 0x1000), (4, 0x2000), (2, 0x3000), (5, 0)]
    );
}

#[test]
fn the_configuration_describes_the_disk() {
    for options in both() {
        let disk = Disk::memory(4096, 1 << 20).unwrap();
        let rig = BlockRig::new(
            &disk,
            RigOptions {
                queues: 3,
                ..options
            },
        );
        let rig = &rig.rig;
        assert_eq!(rig.config(0, 8), 2048);
        assert_eq!(rig.config(12, 4), 254);
        assert_eq!(rig.config(20, 4), 4096);
        assert_eq!(rig.config(34, 2), 3);
        assert_eq!(rig.config(40, 4), 1);
        assert_eq!(rig.config(52, 4), 1);
        assert_eq!(rig.config(60, 4), 0);
        let wanted = blk::MQ | blk::FLUSH | blk::DISCARD | blk::WRITE_ZEROES | blk::CONFIG_WCE;
        assert_eq!(rig.features & wanted, wanted);
        assert_eq!(rig.features & blk::RO, 0);
        assert_eq!(rig.features & feature::VERSION_1 != 0, !options.legacy);
    }
}

#[test]
fn each_queue_interrupts_by_its_own_vector() {
    let mut rig = BlockRig::new(
        &disk(),
        RigOptions {
            queues: 4,
            ..RigOptions::default()
        },
    );
    for queue in [2, 0, 3] {
        assert_eq!(rig.request(queue, 4, 0, &[], 0).0, 0);
        assert_eq!(rig.rig.slot.interrupts(), [u32::from(queue) + 1]);
    }
}

#[test]
fn without_msix_the_pin_is_raised_until_the_status_is_read() {
    for options in both() {
        let mut rig = BlockRig::new(
            &disk(),
            RigOptions {
                msix: false,
                ..options
            },
        );
        assert!(!rig.rig.pin());
        rig.request(0, 4, 0, &[], 0);
        assert!(rig.rig.pin());
        assert_eq!(rig.rig.take_isr(), 1);
        assert!(!rig.rig.pin());
        assert_eq!(rig.rig.take_isr(), 0);
        assert_eq!(rig.rig.slot.interrupts(), [0; 0]);
    }
}

#[test]
fn zeroes_discards_and_the_name() {
    let mut rig = BlockRig::new(&disk(), RigOptions::default());
    assert_eq!(rig.write(0, &[0xff; 4096]), 0);
    let range = |sector: u64, sectors: u32, flags: u32| {
        let mut bytes = sector.to_le_bytes().to_vec();
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes
    };
    assert_eq!(rig.request(0, 13, 0, &range(1, 1, 1), 0).0, 0);
    assert_eq!(rig.request(0, 11, 0, &range(3, 1, 0), 0).0, 0);
    let (_, content) = rig.read(0, 4096);
    for (sector, byte) in [(0, 0xff), (1, 0), (2, 0xff), (3, 0), (4, 0xff)] {
        assert_eq!(content[sector * 512], byte, "sector {sector}");
    }
    assert_eq!(rig.request(0, 13, 0, &range(0, 1, 2), 0).0, UNSUPPORTED);
    assert_eq!(rig.request(0, 11, 0, &range(0, 1, 1), 0).0, UNSUPPORTED);
    assert_eq!(rig.request(0, 11, 0, &range(2048, 1, 0), 0).0, IO_ERROR);
    let (status, name) = rig.request(0, 8, 0, &[], 20);
    assert_eq!((status, &*name), (0, &b"TRIVET-TEST-SERIAL-0"[..]));
    assert_eq!(rig.request(0, 8, 0, &[], 10).0, IO_ERROR);
}

#[test]
fn bad_requests_get_a_status_and_the_device_goes_on() {
    let mut rig = BlockRig::new(&disk(), RigOptions::default());
    assert_eq!(rig.read(2048, 512).0, IO_ERROR);
    assert_eq!(rig.read(2047, 1024).0, IO_ERROR);
    assert_eq!(rig.read(u64::MAX, 512).0, IO_ERROR);
    assert_eq!(rig.read(0, 511).0, IO_ERROR);
    assert_eq!(rig.request(0, 2, 0, &[], 0).0, UNSUPPORTED);
    assert_eq!(rig.request(0, 0x8000_0000, 0, &[], 512).0, UNSUPPORTED);
    assert_eq!(rig.read(0, 512).0, 0);
    let mut rig = BlockRig::new(&disk().read_only(), RigOptions::default());
    assert_ne!(rig.rig.features & blk::RO, 0);
    assert_eq!(rig.write(0, &[1; 512]), IO_ERROR);
    assert_eq!(rig.read(0, 512).0, 0);
}

#[test]
fn data_outside_guest_memory_is_an_io_error() {
    let mut rig = BlockRig::new(&disk(), RigOptions::default());
    let header = rig.data();
    rig.rig.pages.write(header, &[0; 32]);
    rig.rig.pages.write(header + 64, &[NO_STATUS]);
    let buffer = |address, length, writable| Buffer {
        address,
        length,
        writable,
    };
    let chain = [
        buffer(header, 16, false),
        buffer(1 << 40, 512, true),
        buffer(header + 64, 1, true),
    ];
    rig.rig.offer(0, &chain, false);
    rig.rig.notify(0);
    assert_eq!(rig.rig.wait_for(0, 1), [(0, 1)]);
    assert_eq!(rig.rig.pages.read(header + 64, 1), [IO_ERROR]);
}

#[test]
fn a_broken_ring_needs_a_reset_and_gets_well_by_it() {
    for options in both() {
        let mut rig = BlockRig::new(&disk(), options);
        let table = rig.rig.queues[0].descriptors;
        rig.rig.offer(
            0,
            &[Buffer {
                address: 0x1000,
                length: 16,
                writable: false,
            }],
            false,
        );
        put_raw(&rig.rig.pages, table, 0x1000, 16, 1, 0);
        rig.rig.slot.interrupts();
        rig.rig.notify(0);
        assert_ne!(rig.rig.status() & status::NEEDS_RESET, 0);
        assert_eq!(rig.rig.slot.interrupts(), [0]);
        rig.rig.notify(0);
        rig.rig.start(1);
        assert_eq!(rig.rig.status() & status::NEEDS_RESET, 0);
        assert_eq!(rig.read(0, 512).0, 0);
    }
}

#[test]
fn a_request_without_a_place_for_its_status_needs_a_reset() {
    let mut rig = BlockRig::new(&disk(), RigOptions::default());
    let buffer = Buffer {
        address: 0x1000,
        length: 16,
        writable: false,
    };
    rig.rig.offer(0, &[buffer], false);
    rig.rig.notify(0);
    assert_ne!(rig.rig.status() & status::NEEDS_RESET, 0);
    rig.rig.start(1);
    assert_eq!(rig.read(0, 512).0, 0);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let rig = BlockRig::cold(&disk(), RigOptions::default());
    let rig = &rig.rig;
    for (low, high) in [(1 << 31, 1), (0, 0), (0, 3)] {
        rig.set_status(0);
        rig.set_status(status::ACKNOWLEDGE | status::DRIVER);
        for (select, value) in [(0, low), (1, high)] {
            rig.common_write(8, select, 4);
            rig.common_write(12, value, 4);
        }
        rig.set_status(rig.status() | status::FEATURES_OK);
        assert_eq!(rig.status() & status::FEATURES_OK, 0, "{low:#x} {high:#x}");
    }
    assert_eq!(rig.offered_features() >> 41, 0);
}

#[test]
fn a_reset_is_over_when_the_disk_has_let_go() {
    let faults = Faults::new();
    let disk = disk().faulty(&faults);
    for options in both() {
        faults.add(Rule::next(Fault::Stall));
        let mut rig = BlockRig::new(&disk, options);
        let data = rig.data();
        let chain = [
            (data, 16, false),
            (data + 512, 512, true),
            (data + 64, 1, true),
        ]
        .map(|(address, length, writable)| Buffer {
            address,
            length,
            writable,
        });
        rig.rig.pages.write(data, &[0; 32]);
        rig.rig.pages.write(data + 64, &[NO_STATUS]);
        rig.rig.offer(0, &chain, false);
        rig.rig.notify(0);
        assert_eq!(rig.rig.answers(0), []);
        rig.rig.set_status(0);
        assert_ne!(rig.rig.status(), 0);
        faults.release();
        assert_eq!(rig.rig.status(), 0);
        assert_eq!(rig.rig.answers(0), []);
        assert_eq!(rig.rig.pages.read(data + 64, 1), [NO_STATUS]);
        rig.rig.start(1);
        assert_eq!(rig.read(0, 512).0, 0);
    }
}

#[test]
fn a_disk_that_hangs_for_ever_holds_up_no_reset() {
    for options in both() {
        let mut rig = BlockRig::new(&hanging(512, 1 << 20), options);
        let data = rig.data();
        let chain =
            [(data, 16, false), (data + 64, 1, true)].map(|(address, length, writable)| Buffer {
                address,
                length,
                writable,
            });
        // A flush.
        rig.rig.pages.write(data, &[0; 32]);
        rig.rig.pages.write(data, &[4]);
        rig.rig.offer(0, &chain, false);
        rig.rig.notify(0);
        assert_eq!(rig.rig.answers(0), []);
        rig.rig.set_status(0);
        assert_eq!(rig.rig.status(), 0);
    }
}

#[test]
fn a_queue_can_be_reset_by_itself() {
    let mut rig = BlockRig::new(&disk(), RigOptions::default());
    assert_eq!(rig.read(0, 512).0, 0);
    rig.rig.common_write(0x16, 0, 2);
    assert_eq!(rig.rig.common_read(0x1c, 2), 1);
    rig.rig.common_write(0x3a, 1, 2);
    assert_eq!(rig.rig.common_read(0x3a, 2), 0);
    assert_eq!(rig.rig.common_read(0x1c, 2), 0);
    rig.rig.queues.clear();
    rig.rig.set_up_queue(0);
    assert_eq!(rig.read(0, 512).0, 0);
}

#[test]
fn writes_are_durable_when_the_driver_cannot_flush_or_turns_the_cache_off() {
    let (disk, calls) = recording(512, 1 << 20);
    let wrote = |durable| Call::Write(512, 512, durable);
    for options in both() {
        let mut rig = BlockRig::new(&disk, options);
        assert_eq!(rig.rig.config(32, 1), 1);
        assert_eq!(rig.write(1, &[7; 512]), 0);
        assert_eq!(calls.take(), [wrote(false)]);
        assert_eq!(rig.request(0, 4, 0, &[], 0).0, 0);
        assert_eq!(calls.take(), [Call::Flush]);
        rig.rig.set_config(32, 0);
        assert_eq!(rig.rig.config(32, 1), 0);
        assert_eq!(rig.write(1, &[7; 512]), 0);
        assert_eq!(calls.take(), [wrote(true)]);
        rig.rig.reset();
        assert_eq!(rig.rig.config(32, 1), 1);
        let accept = !(blk::FLUSH | blk::CONFIG_WCE);
        let mut rig = BlockRig::new(&disk, RigOptions { accept, ..options });
        assert_eq!(rig.write(1, &[7; 512]), 0);
        assert_eq!(calls.take(), [wrote(true)]);
    }
}

#[test]
fn registers_are_reached_through_configuration_space_too() {
    let rig = BlockRig::cold(&disk(), RigOptions::default());
    let slot = &rig.rig.slot;
    let mut at = slot.config_read(0x34) as u16 & 0xfc;
    while slot.config_read(at) >> 24 != 5 || slot.config_read(at) & 0xff != 9 {
        at = (slot.config_read(at) >> 8) as u16 & 0xfc;
    }
    let describe = |bar: u32, offset, length| {
        slot.config_write(at + 4, bar);
        slot.config_write(at + 8, offset);
        slot.config_write(at + 12, length);
    };
    describe(2, 0x12, 2);
    assert_eq!(slot.config_read(at + 16) & 0xffff, 1);
    describe(2, 0x14, 1);
    slot.config_write(at + 16, 1);
    assert_eq!(rig.rig.status(), 1);
    assert_eq!(slot.config_read(at + 16) & 0xff, 1);
    for (bar, offset, length) in [
        (1, 0, 4),
        (2, 0x4000, 4),
        (2, 0, 3),
        (2, 0x3fff, 2),
        (7, 0, 1),
    ] {
        describe(bar, offset, length);
        slot.config_write(at + 16, 0xffff_ffff);
        slot.config_read(at + 16);
    }
    assert_eq!(rig.rig.status(), 1);
}

#[test]
fn a_saved_device_goes_on_in_another() {
    for options in both() {
        let disk = disk();
        let mut rig = BlockRig::new(&disk, options);
        assert_eq!(rig.write(4, &[9; 512]), 0);
        rig.rig.set_config(32, 0);
        rig.rig.device.pause();
        // Offered while it is paused: it is found after the restore.
        let saved = rig.rig.device.save().unwrap();
        let other = BlockRig::cold(&disk, options);
        other.rig.device.restore(&saved).unwrap();
        assert_eq!(other.rig.device.save().unwrap(), saved);
        assert_eq!(other.rig.status(), rig.rig.status());
        assert_eq!(other.rig.config(32, 1), 0);
        rig.rig.device.resume();
        assert_eq!(rig.read(4, 512), (0, vec![9; 512]));
    }
}

#[test]
fn damaged_states_are_refused_and_leave_a_device_that_works() {
    let disk = disk();
    let mut rig = BlockRig::new(&disk, RigOptions::default());
    rig.rig.device.pause();
    let saved = rig.rig.device.save().unwrap();
    let mut other_kind = saved.clone();
    other_kind.kind = "nvme".to_owned();
    assert!(rig.rig.device.restore(&other_kind).is_err());
    for (field, value) in [
        ("queues", serde_json::json!([])),
        ("agreed", serde_json::json!(1_u64 << 63)),
        ("device", serde_json::json!("on")),
        ("registers", serde_json::json!(null)),
    ] {
        let mut damaged = saved.clone();
        damaged.data[field] = value;
        assert!(rig.rig.device.restore(&damaged).is_err(), "{field}");
    }
    let mut misplaced = saved;
    misplaced.data["queues"][0]["ring"]["layout"]["used"] = serde_json::json!(3);
    assert!(rig.rig.device.restore(&misplaced).is_err());
    rig.rig.device.resume();
    rig.rig.slot.set_up();
    rig.rig.start(1);
    assert_eq!(rig.read(0, 512).0, 0);
}

#[test]
fn a_paused_device_starts_nothing() {
    let mut rig = BlockRig::new(&disk(), RigOptions::default());
    rig.rig.device.pause();
    let data = rig.data();
    rig.rig.pages.write(data, &[0; 32]);
    rig.rig.pages.write_u32(data, 4);
    let chain =
        [(data, 16, false), (data + 64, 1, true)].map(|(address, length, writable)| Buffer {
            address,
            length,
            writable,
        });
    rig.rig.offer(0, &chain, false);
    rig.rig.notify(0);
    assert_eq!(rig.rig.answers(0), []);
    rig.rig.device.resume();
    assert_eq!(rig.rig.answers(0), [(0, 1)]);
}

#[test]
fn bus_mastering_off_stops_a_queue_and_on_wakes_it() {
    let mut rig = BlockRig::new(&disk(), RigOptions::default());
    rig.rig.slot.set_command(3);
    let data = rig.data();
    rig.rig.pages.write(data, &[0; 32]);
    rig.rig.pages.write_u32(data, 4);
    let chain =
        [(data, 16, false), (data + 64, 1, true)].map(|(address, length, writable)| Buffer {
            address,
            length,
            writable,
        });
    rig.rig.offer(0, &chain, false);
    rig.rig.notify(0);
    assert_eq!(rig.rig.answers(0), []);
    assert_eq!(rig.rig.status() & status::NEEDS_RESET, 0);
    rig.rig.slot.set_command(7);
    assert_eq!(rig.rig.answers(0), [(0, 1)]);
}

#[test]
fn notifications_of_no_queue_are_ignored() {
    let rig = BlockRig::new(&disk(), RigOptions::default());
    rig.rig.notify(1);
    rig.rig.notify(1000);
    let device = &rig.rig.device;
    device.bar_write(2, NOTIFY_OFFSET + 0xfff, &[1]);
    device.bar_write(2, NOTIFY_OFFSET + 2, &[1, 0]);
    assert_eq!(rig.rig.status() & status::NEEDS_RESET, 0);
}

#[test]
fn the_entropy_device_gives_what_its_source_gives() {
    for options in both() {
        let mut rig = VirtioRig::new(options, |ports| {
            Virtio::entropy(ports, Entropy::seeded(5), "rng0", Interface::Transitional).unwrap()
        });
        assert_eq!(rig.slot.config_read(0), 0x1005_1af4);
        rig.start(1);
        let page = rig.pages.take(8192);
        let buffer = |address, length| Buffer {
            address,
            length,
            writable: true,
        };
        rig.offer(0, &[buffer(page, 10), buffer(page + 100, 22)], false);
        rig.notify(0);
        assert_eq!(rig.answers(0), [(0, 32)]);
        assert_ne!(rig.pages.read(page + 100, 22), [0; 22]);
        assert_eq!(rig.pages.read(page + 10, 90), [0; 90]);
        rig.offer(0, &[buffer(page, 8192)], false);
        rig.notify(0);
        assert_eq!(rig.answers(0), [(2, 1024)]);
        let first = rig.pages.read(page, 32);
        rig.device.pause();
        rig.offer(0, &[buffer(page, 32)], false);
        rig.notify(0);
        assert_eq!(rig.answers(0), []);
        rig.device.resume();
        assert_eq!(rig.answers(0), [(3, 32)]);
        assert_ne!(rig.pages.read(page, 32), first);
    }
}

#[test]
fn a_legacy_only_device_shows_no_modern_part() {
    let options = RigOptions {
        legacy: true,
        ..RigOptions::default()
    };
    let mut rig = VirtioRig::new(options, |ports| {
        Virtio::entropy(ports, Entropy::seeded(5), "rng0", Interface::Legacy).unwrap()
    });
    assert_eq!(rig.slot.window(2), 0);
    rig.start(1);
    assert_eq!(rig.status(), 7);
    let modern = VirtioRig::new(RigOptions::default(), |ports| {
        Virtio::entropy(ports, Entropy::seeded(5), "rng0", Interface::Modern).unwrap()
    });
    assert_eq!(modern.slot.window(0), 0);
    assert_eq!(modern.slot.config_read(0), 0x1044_1af4);
    assert_eq!(modern.slot.config_read(8) & 0xff, 1);
}
