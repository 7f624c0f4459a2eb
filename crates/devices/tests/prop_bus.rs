//! The address space against a naive map of bytes, and the register map against plain memory.

use std::sync::{Arc, Mutex};

use devices::bus::{Access, AddressSpace, BusDevice, RegisterFile, RegisterMap, Width, row};
use proptest::prelude::*;

/// Answers each byte with its tag and the byte's offset, mixed, so that a wrong offset shows.
struct Echo(u8);

fn byte_of(tag: u8, offset: u64) -> u8 {
    tag.wrapping_mul(31).wrapping_add(offset as u8)
}

impl BusDevice for Echo {
    fn read(&self, offset: u64, data: &mut [u8]) {
        assert!(matches!(data.len(), 1 | 2 | 4 | 8));
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = byte_of(self.0, offset + i as u64);
        }
    }
    fn write(&self, _: u64, data: &[u8]) {
        assert!(matches!(data.len(), 1 | 2 | 4 | 8));
    }
}

proptest! {
    #[test]
    fn the_space_answers_as_a_byte_map_would(
        windows in prop::collection::vec((0u64..200, 1u64..60, any::<bool>()), 0..12),
        reads in prop::collection::vec((0u64..270, prop::sample::select(vec![1usize, 2, 4, 8])), 0..40),
    ) {
        let space = AddressSpace::mmio();
        let mut view = space.view();
        let mut held = Vec::new();
        // The model: fixed windows that were accepted, then movable ones, in order of creation.
        let (mut fixed, mut movable) = (Vec::new(), Vec::new());
        for (tag, (start, length, is_fixed)) in windows.into_iter().enumerate() {
            let device = Arc::new(Echo(tag as u8));
            if is_fixed {
                let clash = fixed.iter().any(|(_, s, l)| start < s + l && *s < start + length);
                prop_assert_eq!(space.claim("fixed", start, length, device).is_err(), clash);
                if !clash {
                    fixed.push((tag as u8, start, length));
                }
            } else {
                let window = space.window("movable", device);
                window.map(start, length).unwrap();
                held.push(window);
                movable.push((tag as u8, start, length));
            }
        }
        for (address, length) in reads {
            let mut data = vec![0u8; length];
            let claimed = view.read(address, &mut data);
            let mut all = true;
            for (i, byte) in data.iter().enumerate() {
                let at = address + i as u64;
                let owner = fixed
                    .iter()
                    .chain(&movable)
                    .find(|(_, start, length)| (*start..start + length).contains(&at));
                all &= owner.is_some();
                let expected = owner.map_or(0xff, |(tag, start, _)| byte_of(*tag, at - start));
                prop_assert_eq!(*byte, expected, "at {}", at);
            }
            prop_assert_eq!(claimed, all);
            prop_assert_eq!(view.write(address, &data), all);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Reg {
    A,
    B,
    C,
    D,
}

static MAP: RegisterMap<Reg> = RegisterMap::new(&[
    row(
        Reg::A,
        0,
        Width::U32,
        Access::ReadWrite {
            mask: u32::MAX as u64,
        },
    ),
    row(Reg::B, 4, Width::U16, Access::ReadWrite { mask: 0xffff }),
    row(Reg::C, 7, Width::U8, Access::ReadWrite { mask: 0xff }),
    row(Reg::D, 8, Width::U64, Access::ReadWrite { mask: u64::MAX }),
]);

#[derive(Default)]
struct Plain([u64; 4]);

impl RegisterFile<Reg> for Plain {
    fn read(&mut self, register: Reg) -> u64 {
        self.0[register as usize]
    }
    fn write(&mut self, register: Reg, value: u64) {
        self.0[register as usize] = value;
    }
}

proptest! {
    #[test]
    fn plain_registers_behave_like_memory(
        accesses in prop::collection::vec((0u64..24, 0usize..=8, any::<u64>()), 0..60),
    ) {
        let file = Mutex::new(Plain::default());
        let mut memory = [0u8; 40];
        for (offset, length, value) in accesses {
            let mut file = file.lock().unwrap();
            let bytes = &value.to_le_bytes()[..length];
            MAP.write(&mut *file, offset, bytes);
            for (i, byte) in bytes.iter().enumerate() {
                let at = offset as usize + i;
                // Bytes 6 and 16.. belong to no row.
                if at != 6 && at < 16 {
                    memory[at] = *byte;
                }
            }
            let mut all = [0xee; 24];
            MAP.read(&mut *file, 0, &mut all);
            prop_assert_eq!(&all[..], &memory[..24]);
            let mut some = vec![0xee; length];
            MAP.read(&mut *file, offset, &mut some);
            prop_assert_eq!(&some[..], &memory[offset as usize..offset as usize + length]);
        }
    }
}
