//! Arbitrary bytes as the doings of a guest on a whole board, and as kernel images.

use vm_types::Span;
use vm_types::cursor::Reader;

use super::platform::PlatformRig;
use crate::firmware::boot::{BootInput, load};
use crate::firmware::layout::MemoryLayout;
use crate::lifecycle::Snapshot;
use crate::ps2::Key;

/// Steps of one input that count.
const STEPS_MAX: usize = 512;

/// Deadlines that are served in one step.
const DEADLINES_MAX: usize = 64;

/// Where there is something to meet; an access goes a few bytes further at most.
const PORTS: [u64; 34] = [
    0x20, 0x21, 0x40, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0x92, 0xa0, 0xa1, 0xb2, 0xf4,
    0x2e8, 0x2f8, 0x3e8, 0x3f8, 0x3f9, 0x3fa, 0x3fc, 0x402, 0x4d0, 0x505, 0x510, 0x511, 0x514,
    0x518, 0xcf8, 0xcf9, 0xcfc, 0xafe0, 0xb000,
];
const REGISTERS: [u64; 8] = [
    0xfec0_0000,
    0xfec0_0010,
    0xfec0_0040,
    0xfed0_0000,
    0xfed0_00f0,
    0xfed0_0100,
    0xfed0_0108,
    0xe000_0000,
];

/// Runs the steps in `data` on a board.
///
/// # Panics
/// When a device breaks a promise: it hangs the clock, or does not take back what it saved.
#[expect(
    clippy::expect_used,
    reason = "a test driver stops at the first surprise"
)]
pub fn platform(data: &[u8]) {
    let mut rig = PlatformRig::new();
    let mut reader = Reader::new(data);
    for _ in 0..STEPS_MAX {
        if step(&mut rig, &mut reader).is_none() {
            break;
        }
    }
    let saved: Vec<Option<Snapshot>> = rig.parts.iter().map(|part| part.save()).collect();
    let twin = PlatformRig::new();
    for ((part, saved), original) in twin.parts.iter().zip(&saved).zip(&rig.parts) {
        assert_eq!(part.name(), original.name());
        if let Some(saved) = saved {
            part.restore(saved).expect("a device takes back its state");
            assert_eq!(part.save().as_ref(), Some(saved), "{}", part.name());
        }
    }
    for part in &rig.parts {
        part.reset();
    }
    assert!(!rig.intr.level() || rig.pic.intr());
}

fn step(rig: &mut PlatformRig, reader: &mut Reader<'_>) -> Option<()> {
    let kind = reader.u8()?;
    let length = 1usize << (kind >> 4 & 3);
    match kind & 15 {
        0..=4 => {
            let port = pick(&PORTS, reader)?;
            let data = reader.take(length.min(4))?;
            rig.ports.write(port, data);
        }
        5 | 6 => {
            let port = pick(&PORTS, reader)?;
            rig.ports.read(port, &mut [0; 8][..length.min(4)]);
        }
        7 | 8 => {
            let address = pick(&REGISTERS, reader)?;
            rig.mmio.write(address, reader.take(length)?);
        }
        9 => {
            let address = pick(&REGISTERS, reader)?;
            rig.mmio.read(address, &mut [0; 8][..length]);
        }
        10 => {
            // From a nanosecond to a day.
            let bits = u32::from(reader.u8()?) % 47;
            rig.pass(Span::from_nanos(1 << bits), DEADLINES_MAX);
        }
        11 => {
            rig.pic.acknowledge();
            rig.ioapic.end_of_interrupt(reader.u8()?);
        }
        12 => {
            let bytes = reader.take(length)?;
            for uart in &rig.serial {
                uart.push_input(bytes);
            }
        }
        13 => {
            let code = reader.u8()?;
            let key = Key {
                code: code & 0x7f,
                extended: kind & 0x10 != 0,
            };
            rig.ps2.key(key, code & 0x80 != 0);
            rig.ps2.mouse([i32::from(code), -1, 1], code);
        }
        14 => {
            rig.power.press_power_button();
            rig.power.raise_event(kind >> 4);
        }
        _ => {
            let index = usize::from(reader.u8()?) % rig.parts.len();
            let part = &rig.parts[index];
            match kind >> 4 & 3 {
                0 => part.pause(),
                1 => part.resume(),
                _ => part.reset(),
            }
        }
    }
    Some(())
}

/// One of the places, or a few bytes after it.
fn pick(places: &[u64], reader: &mut Reader<'_>) -> Option<u64> {
    let [index, further] = reader.array()?;
    Some(places[usize::from(index) % places.len()] + u64::from(further & 0x1f))
}

/// Takes `data` for a kernel image, with a RAM disk if there is enough of it.
///
/// # Panics
/// If what is to be loaded is no memory of the machine.
pub fn boot_image(data: &[u8]) {
    let layout = MemoryLayout::of(64 << 20);
    let image = load(&BootInput {
        kernel: data,
        initrd: (data.len() > 512).then(|| &data[..512]),
        command_line: "console=ttyS0",
        layout: &layout,
        rsdp_at: Some(0xe0000),
    });
    for load in image.iter().flat_map(|image| &image.loads) {
        let (at, length) = load.range();
        assert!(layout.is_ram(at, length), "{at:#x}, {length:#x} bytes");
    }
}
