//! Direct boot with images made here: where everything goes, what the CPU starts with, and what is said
//! about broken ones.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use devices::firmware::boot::state::BootMode;
use devices::firmware::boot::{BootError, BootProtocol, load};
use devices::firmware::{BootImage, BootInput, MemoryLayout};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn input<'a>(kernel: &'a [u8], layout: &'a MemoryLayout) -> BootInput<'a> {
    BootInput {
        kernel,
        initrd: None,
        command_line: "console=ttyS0",
        layout,
        rsdp_at: Some(0xe0000),
    }
}

/// Guest memory after the loads, from `at`.
fn memory(image: &BootImage<'_>, at: u64, length: usize) -> Vec<u8> {
    use devices::firmware::Load;
    let mut bytes = vec![0xcc; length];
    for load in &image.loads {
        let (start, count) = load.range();
        for i in 0..count {
            let Some(index) = (start + i).checked_sub(at).filter(|i| *i < length as u64) else {
                continue;
            };
            bytes[index as usize] = match load {
                Load::Bytes { data, .. } => data[i as usize],
                Load::Zeroes { .. } => 0,
            };
        }
    }
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// A relocatable kernel of protocol 2.15 with one setup sector and 8 KiB of code.
fn bzimage() -> Vec<u8> {
    let mut file = vec![0; 1024 + 8192];
    file[1024..].fill(0x90);
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa]);
    put(0x200, &[0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x020fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x234, &[1]);
    put(0x236, &0x000fu16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x20_0000u32.to_le_bytes());
    file
}

#[test]
fn a_bzimage_starts_at_its_64_bit_entry() {
    let kernel = bzimage();
    let initrd = vec![0x11; 5000];
    let layout = MemoryLayout::of(512 * MIB);
    let input = BootInput {
        initrd: Some(&initrd),
        ..input(&kernel, &layout)
    };
    let image = load(&input).unwrap();
    assert_eq!(image.protocol, BootProtocol::Linux64);
    assert_eq!(image.state.mode, BootMode::Long);
    assert_eq!((image.state.rip, image.state.rsi), (0x100_0200, 0x7000));
    assert_eq!(memory(&image, 0x100_0000, 2), [0x90, 0x90]);
    assert_eq!(&memory(&image, 0x20000, 14), b"console=ttyS0\0");
    let page = memory(&image, 0x7000, 4096);
    assert_eq!(&page[0x202..0x206], b"HdrS");
    assert_eq!(page[0x210], 0xff);
    assert_eq!(u32_at(&page, 0x228), 0x20000);
    assert_eq!(u64_at(&page, 0x70), 0xe0000);
    let ramdisk = u64::from(u32_at(&page, 0x218));
    assert_eq!(ramdisk, 512 * MIB - 8192);
    assert_eq!(u32_at(&page, 0x21c), 5000);
    assert_eq!(memory(&image, ramdisk, 1), [0x11]);
    assert_eq!(page[0x1e8], 4);
    assert_eq!(u64_at(&page, 0x2d0 + 8), 0x9fc00);
}

#[test]
fn the_ram_disk_stays_below_the_kernel_s_limit() {
    let mut kernel = bzimage();
    kernel[0x22c..0x230].copy_from_slice(&0x0fff_ffffu32.to_le_bytes());
    let initrd = vec![0x11; 4096];
    let layout = MemoryLayout::of(512 * MIB);
    let image = load(&BootInput {
        initrd: Some(&initrd),
        ..input(&kernel, &layout)
    })
    .unwrap();
    let page = memory(&image, 0x7000, 4096);
    assert_eq!(u32_at(&page, 0x218), 0x0fff_f000);
}

#[test]
fn a_small_machine_gets_the_kernel_at_its_lowest_place() {
    let kernel = bzimage();
    let layout = MemoryLayout::of(8 * MIB);
    let image = load(&input(&kernel, &layout)).unwrap();
    assert_eq!(image.state.rip, 0x20_0200);
    let layout = MemoryLayout::of(3 * MIB);
    let error = load(&input(&kernel, &layout)).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the kernel needs 0x200000 bytes"),
        "{error}"
    );
}

#[test]
fn an_old_kernel_starts_at_its_32_bit_entry() {
    let mut kernel = bzimage();
    kernel[0x206] = 0x06;
    kernel[0x201] = 0x3a;
    kernel[0x234] = 0;
    let layout = MemoryLayout::of(64 * MIB);
    let image = load(&input(&kernel, &layout)).unwrap();
    assert_eq!(image.protocol, BootProtocol::Linux32);
    assert_eq!(
        (image.state.rip, image.state.cr0, image.state.cr3),
        (0x10_0000, 0x11, 0)
    );
}

#[test]
fn broken_kernels_are_refused_by_field() {
    let layout = MemoryLayout::of(64 * MIB);
    let check = |kernel: &[u8], expected: &str| {
        let error = load(&input(kernel, &layout)).unwrap_err().to_string();
        assert_eq!(error, expected);
    };
    check(
        b"not a kernel",
        "the kernel is no bzImage, ELF image or multiboot image",
    );
    check(
        &bzimage()[..0x210],
        "bzImage: the file ends in the setup header (at byte 0x23c of 0x210)",
    );
    check(
        &bzimage()[..1024],
        "bzImage: the file ends in the setup sectors (at byte 0x400 of 0x400)",
    );
    let mut old = bzimage();
    old[0x206] = 0x05;
    check(&old, "bzImage: version is 0x205, expected 0x206 or later");
    let mut low = bzimage();
    low[0x211] = 0;
    check(
        &low,
        "bzImage: loadflags is 0x0, expected bit 0 (loaded high)",
    );
    let mut odd = bzimage();
    odd[0x230] = 3;
    check(
        &odd,
        "bzImage: kernel_alignment is 0x200003, expected a power of two",
    );
    check(
        b"\x7fELF\x02\x02",
        "ELF: the file ends in e_ident (at byte 0x10 of 0x6)",
    );
    let mut elf = elf64(&[], 0x100_0000);
    elf[18] = 40;
    check(
        &elf,
        "ELF: e_machine is 0x28, expected 3 (386) or 62 (x86-64)",
    );
    let mut elf = elf64(&[], 0x100_0000);
    elf.truncate(100);
    check(
        &elf,
        "ELF: the file ends in the program headers (at byte 0xb0 of 0x64)",
    );
    let elf = elf64(&[], 0x9_e000);
    check(
        &elf,
        "an ELF segment needs 0x3000 bytes at 0x9e000, which are not free memory of this machine",
    );
}

#[test]
fn the_command_line_has_the_kernel_s_length_at_most() {
    let kernel = bzimage();
    let layout = MemoryLayout::of(64 * MIB);
    let long = "x".repeat(2048);
    let error = load(&BootInput {
        command_line: &long,
        ..input(&kernel, &layout)
    })
    .unwrap_err();
    assert_eq!(
        error,
        BootError::CommandLine {
            bytes: 2048,
            most: 2047
        }
    );
    let fits = "x".repeat(2047);
    load(&BootInput {
        command_line: &fits,
        ..input(&kernel, &layout)
    })
    .unwrap();
}

/// A 64-bit executable with a segment of 0x1000 file and 0x3000 memory bytes at `physical`, and a
/// segment of notes.
fn elf64(notes: &[u8], physical: u64) -> Vec<u8> {
    let mut file = vec![0; 64 + 2 * 56];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(24, &(physical + 0x10).to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &2u16.to_le_bytes());
    let header = |kind: u32, offset: u64, file_bytes: u64, memory_bytes: u64| {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&7u32.to_le_bytes());
        for word in [
            offset,
            0xffff_ffff_8000_0000 + physical,
            physical,
            file_bytes,
            memory_bytes,
            8,
        ] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes
    };
    put(64, &header(1, 0x1000, 0x1000, 0x3000));
    put(120, &header(4, 176, notes.len() as u64, notes.len() as u64));
    file.extend_from_slice(notes);
    file.resize(0x1000, 0);
    file.resize(0x2000, 0xab);
    file
}

fn pvh_note(entry: u32) -> Vec<u8> {
    let mut notes = Vec::new();
    for (name, kind, body) in [
        (&b"GNU\0"[..], 3u32, &[1u8, 2, 3][..]),
        (b"Xen\0", 18, &entry.to_le_bytes()),
    ] {
        notes.extend_from_slice(&(name.len() as u32).to_le_bytes());
        notes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        notes.extend_from_slice(&kind.to_le_bytes());
        notes.extend_from_slice(name);
        notes.extend_from_slice(body);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
    notes
}

#[test]
fn an_elf_with_a_pvh_note_gets_start_info() {
    let kernel = elf64(&pvh_note(0x100_0040), 0x100_0000);
    let initrd = vec![0x22; 100];
    let layout = MemoryLayout::of(5 << 30);
    let image = load(&BootInput {
        initrd: Some(&initrd),
        ..input(&kernel, &layout)
    })
    .unwrap();
    assert_eq!(image.protocol, BootProtocol::Pvh);
    assert_eq!(image.state.mode, BootMode::Protected);
    assert_eq!((image.state.rip, image.state.rbx), (0x100_0040, 0x6000));
    assert_eq!(memory(&image, 0x100_0fff, 2), [0xab, 0]);
    let info = memory(&image, 0x6000, 56);
    assert_eq!(
        (u32_at(&info, 0), u32_at(&info, 4), u32_at(&info, 12)),
        (0x336e_c578, 1, 1)
    );
    assert_eq!(u64_at(&info, 24), 0x20000);
    assert_eq!(u64_at(&info, 32), 0xe0000);
    let module = memory(&image, u64_at(&info, 16), 32);
    assert_eq!((u64_at(&module, 0), u64_at(&module, 8)), (0xbfff_f000, 100));
    let entries = u32_at(&info, 48) as usize;
    let map = memory(&image, u64_at(&info, 40), entries * 24);
    let last = &map[(entries - 1) * 24..];
    assert_eq!(
        (u64_at(last, 0), u64_at(last, 8), u32_at(last, 16)),
        (4 << 30, 2 << 30, 1)
    );
}

#[test]
fn a_vmlinux_without_a_note_starts_in_long_mode() {
    let kernel = elf64(&[], 0x100_0000);
    let layout = MemoryLayout::of(64 * MIB);
    let image = load(&input(&kernel, &layout)).unwrap();
    assert_eq!(image.protocol, BootProtocol::Linux64);
    assert_eq!((image.state.rip, image.state.rsi), (0x100_0010, 0x7000));
    let page = memory(&image, 0x7000, 4096);
    assert_eq!(&page[0x1fe..0x200], [0x55, 0xaa]);
    assert_eq!(&page[0x202..0x206], b"HdrS");
}

fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let magic = 0x1bad_b002u32;
    let mut words = vec![magic, flags, 0u32.wrapping_sub(magic).wrapping_sub(flags)];
    words.extend_from_slice(addresses);
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

#[test]
fn a_multiboot_image_goes_where_its_header_says() {
    let mut kernel = vec![0x44; 16];
    kernel.extend(multiboot_header(
        0x1_0003,
        &[0x10_0010, 0x10_0000, 0, 0x10_2000, 0x10_0020],
    ));
    kernel.resize(0x200, 0x55);
    let layout = MemoryLayout::of(64 * MIB);
    let image = load(&BootInput {
        initrd: Some(b"module"),
        ..input(&kernel, &layout)
    })
    .unwrap();
    assert_eq!(image.protocol, BootProtocol::Multiboot);
    let state = &image.state;
    assert_eq!(
        (state.rip, state.rax, state.rbx),
        (0x10_0020, 0x2bad_b002, 0x6000)
    );
    assert_eq!(memory(&image, 0x10_0000, 1), [0x44]);
    assert_eq!(memory(&image, 0x10_01ff, 2), [0x55, 0]);
    let info = memory(&image, 0x6000, 120);
    assert_eq!(u32_at(&info, 0), 0x24d);
    assert_eq!((u32_at(&info, 4), u32_at(&info, 8)), (639, 63 * 1024));
    assert_eq!(
        &memory(&image, u64::from(u32_at(&info, 16)), 8),
        b"console="
    );
    let module = memory(&image, u64::from(u32_at(&info, 24)), 16);
    assert_eq!(u32_at(&module, 4) - u32_at(&module, 0), 6);
    assert_eq!(memory(&image, u64::from(u32_at(&module, 0)), 6), b"module");
    let map = memory(
        &image,
        u64::from(u32_at(&info, 48)),
        u32_at(&info, 44) as usize,
    );
    assert_eq!(u32_at(&map, 0), 20);
    assert_eq!(map.len() % 24, 0);
}

#[test]
fn an_elf_with_a_multiboot_header_is_loaded_by_segments() {
    let mut kernel = elf64(&[], 0x10_0000);
    kernel[0x1000..0x100c].copy_from_slice(&multiboot_header(2, &[]));
    let layout = MemoryLayout::of(64 * MIB);
    let image = load(&input(&kernel, &layout)).unwrap();
    assert_eq!(image.protocol, BootProtocol::Multiboot);
    assert_eq!(image.state.rip, 0x10_0010);
    kernel[0x1000..0x100c].copy_from_slice(&multiboot_header(8, &[]));
    let error = load(&input(&kernel, &layout)).unwrap_err().to_string();
    assert_eq!(
        error,
        "multiboot: flags is 0x8, expected no required feature above bit 2"
    );
}

fn seeds() -> impl Strategy<Value = Vec<u8>> {
    let mut mb = vec![0x44; 16];
    mb.extend(multiboot_header(
        0x1_0003,
        &[0x10_0010, 0x10_0000, 0, 0x10_2000, 0x10_0020],
    ));
    prop::sample::select(vec![
        bzimage(),
        elf64(&pvh_note(0x100_0040), 0x100_0000),
        elf64(&[], 0x10_0000),
        mb,
    ])
}

proptest! {
    #[test]
    fn whatever_the_image_loads_are_memory_and_disjoint(
        mut kernel in seeds(),
        pokes in prop::collection::vec((0usize..0x280, any::<u8>()), 0..12),
        cut in prop::option::of(0usize..0x2000),
        megabytes in 1u64..6000,
        initrd in prop::option::of(1usize..100_000),
    ) {
        for (at, value) in pokes {
            if let Some(byte) = kernel.get_mut(at) {
                *byte = value;
            }
        }
        kernel.truncate(cut.unwrap_or(usize::MAX));
        let layout = MemoryLayout::of(megabytes * MIB);
        let initrd = initrd.map(|length| vec![1; length]);
        let input = BootInput { initrd: initrd.as_deref(), ..input(&kernel, &layout) };
        if let Ok(image) = load(&input) {
            let mut ranges: Vec<_> = image.loads.iter().map(|load| load.range()).collect();
            ranges.sort_unstable();
            for (at, length) in &ranges {
                prop_assert!(layout.is_ram(*at, *length), "{at:#x} {length:#x}");
            }
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{:x?}", pair);
            }
        }
    }
}
