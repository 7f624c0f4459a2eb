//! Arbitrary bytes as the doings of a guest that knows virtio and does not keep to it.
//!
//! The first byte chooses device and interface; then come steps. Half of the steps are well-meant (a
//! driver starts, a sound request), so that the others meet a device in use. Whatever happened, a reset
//! must bring the device back: that is checked at the end.

use block::Disk;
use vm_types::cursor::Reader;

use super::virtio::{BlockRig, RigOptions, VirtioRig, put_raw};
use crate::lifecycle::Lifecycle;
use crate::pci::Endpoint;
use crate::virtio::{Entropy, Interface, Virtio};

/// Steps of one input that count.
const STEPS_MAX: usize = 256;

/// Starts of a driver that count: each takes pages for its rings.
const STARTS_MAX: u32 = 16;

/// Runs the steps in `data` against a block device.
///
/// # Panics
/// When the device breaks a promise.
pub fn block(data: &[u8]) {
    let mut reader = Reader::new(data);
    let Some(flags) = reader.u8() else { return };
    let Ok(disk) = Disk::memory(512, 64 << 10) else {
        return;
    };
    let mut rig = BlockRig::cold(&disk, options(flags, 2));
    rig.indirect = flags & 4 != 0;
    let mut starts = 0;
    for _ in 0..STEPS_MAX {
        let Some(kind) = reader.u8() else { break };
        let done = match kind % 16 {
            0 if starts == STARTS_MAX => break,
            0 => {
                starts += 1;
                revive(&mut rig.rig, flags, 2);
                Some(())
            }
            1 if rig.rig.queues.len() == 2 && rig.rig.status() == well(flags) => {
                // A sound request on a queue that may have been scribbled on: no answer is expected.
                reader.u32_le().map(|word| offer_request(&mut rig, word))
            }
            _ => step(&mut rig.rig, kind, &mut reader),
        };
        if done.is_none() {
            break;
        }
    }
    rig.rig.device.resume();
    revive(&mut rig.rig, flags, 2);
    let (status, content) = rig.read(127, 512);
    assert_eq!((status, content.len()), (0, 512), "alive after a reset");
}

/// Runs the steps in `data` against an entropy device.
///
/// # Panics
/// When the device breaks a promise.
pub fn entropy(data: &[u8]) {
    let mut reader = Reader::new(data);
    let Some(flags) = reader.u8() else { return };
    let mut rig = VirtioRig::new(options(flags, 1), |ports| {
        match Virtio::entropy(ports, Entropy::seeded(1), "rng0", Interface::Transitional) {
            Ok(device) => device,
            Err(error) => unreachable!("{error}"),
        }
    });
    let mut starts = 0;
    for _ in 0..STEPS_MAX {
        let Some(kind) = reader.u8() else { break };
        let done = match kind % 16 {
            0 if starts == STARTS_MAX => break,
            0 => {
                starts += 1;
                revive(&mut rig, flags, 1);
                Some(())
            }
            _ => step(&mut rig, kind, &mut reader),
        };
        if done.is_none() {
            break;
        }
    }
    rig.device.resume();
    revive(&mut rig, flags, 1);
    let page = rig.pages.take(4096);
    let buffer = super::virtio::Buffer {
        address: page,
        length: 16,
        writable: true,
    };
    rig.offer(0, &[buffer], false);
    rig.notify(0);
    assert_eq!(rig.wait_for(0, 1), [(0, 16)], "alive after a reset");
}

/// Firmware places the windows again, a driver starts.
fn revive(rig: &mut VirtioRig, flags: u8, queues: u16) {
    rig.slot.set_up();
    if flags & 2 == 0 {
        rig.slot.set_msix_control(0);
    }
    rig.start(queues);
}

fn options(flags: u8, queues: u16) -> RigOptions {
    RigOptions {
        legacy: flags & 1 != 0,
        msix: flags & 2 != 0,
        accept: if flags & 8 != 0 { u64::MAX } else { !(1 << 29) },
        queue_size: 8,
        queues,
        ..RigOptions::default()
    }
}

/// The status of a started device that is well.
const fn well(flags: u8) -> u8 {
    if flags & 1 != 0 { 7 } else { 15 }
}

fn offer_request(rig: &mut BlockRig, word: u32) {
    let [kind, sector, length, queue] = word.to_le_bytes();
    let data = rig.data();
    let pages = &rig.rig.pages;
    pages.write_u32(data, u32::from(kind % 14));
    pages.write_u64(data + 8, u64::from(sector));
    let writes = kind % 14 == 0 || kind % 14 == 8;
    let buffer = |address, length, writable| super::virtio::Buffer {
        address,
        length,
        writable,
    };
    let chain = [
        buffer(data, 16, false),
        buffer(data + 4096, u32::from(length) * 128, writes),
        buffer(data + 64, 1, true),
    ];
    let indirect = rig.indirect;
    rig.rig.offer(u16::from(queue % 2), &chain, indirect);
    rig.rig.notify(u16::from(queue % 2));
}

/// One step; `None` when the bytes run out.
fn step(rig: &mut VirtioRig, kind: u8, reader: &mut Reader<'_>) -> Option<()> {
    let device = rig.device.clone();
    match kind % 16 {
        // Any access to the windows. Offsets are near what is there.
        2..=4 => {
            let length = 1 << (kind >> 4 & 3);
            let offset = u64::from(reader.u8()?) % 64;
            let value = reader.u64_le()?.to_le_bytes();
            device.bar_write(2, offset, &value[..length]);
        }
        5 => {
            let length = 1 << (kind >> 4 & 3);
            let offset = u64::from(reader.u16_le()? % 0x4000).min(0x4000 - 8);
            let mut data = [0; 8];
            device.bar_read(2, offset, &mut data[..length]);
            device.bar_read(0, offset % 120, &mut data[..length.min(4)]);
        }
        6 => {
            let length = 1 << (kind >> 4 & 1);
            let offset = u64::from(reader.u8()?) % 100;
            let value = reader.u32_le()?.to_le_bytes();
            device.bar_write(0, offset, &value[..length]);
        }
        7 => {
            let offset = u64::from(reader.u16_le()? % 0x3fff);
            device.bar_write(2, offset, &[reader.u8()?]);
        }
        8 => {
            let offset = u16::from(reader.u8()? & 0xfc);
            rig.slot.config_write(offset, reader.u32_le()?);
            rig.slot.config_read(offset);
        }
        // A descriptor, right or wrong.
        9..=10 => {
            let word = reader.u64_le()?;
            let queue = rig.queues.get((word >> 60) as usize % 2)?.clone();
            let at = queue.descriptors + 16 * (word >> 56 & 7);
            let (flags, next) = ((word >> 40 & 7) as u16, (word >> 44 & 15) as u16);
            let address = 0x1000 * (word >> 16 & 0xff) + (word & 0xf);
            put_raw(
                &rig.pages,
                at,
                address,
                (word >> 24 & 0xffff) as u32,
                flags,
                next,
            );
        }
        // The available ring: flags, index, entries.
        11..=12 => {
            let (at, value) = (reader.u8()?, reader.u16_le()?);
            let queue = rig.queues.get(usize::from(at >> 7))?.clone();
            let place = queue.available + 2 * u64::from(at & 15);
            rig.pages.write(place, &(value % 32).to_le_bytes());
        }
        13 => {
            let at = u64::from(reader.u16_le()?) * 8;
            rig.pages.write_u64(at, reader.u64_le()?);
        }
        14 => rig.notify(u16::from(reader.u8()? % 4)),
        _ => match reader.u8()? % 4 {
            0 => device.pause(),
            1 => device.resume(),
            2 => {
                device.pause();
                if let Some(saved) = device.save() {
                    let restored = device.restore(&saved);
                    assert!(restored.is_ok(), "{restored:?}");
                    assert_eq!(device.save(), Some(saved));
                }
                device.resume();
            }
            _ => {
                rig.take_isr();
                rig.slot.interrupts();
            }
        },
    }
    Some(())
}
