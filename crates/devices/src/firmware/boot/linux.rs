//! Linux by its own boot protocol (Documentation/arch/x86/boot.rst): bzImage from version 2.06 on, and
//! `vmlinux` at its 64-bit entry.

use super::elf::{Class, Elf};
use super::state::BootMode;
use super::{
    BootError, BootImage, BootInput, BootProtocol, BootState, COMMAND_LINE_AT, COMMAND_LINE_MAX,
    Placement, ZERO_PAGE_AT, put,
};
use crate::firmware::e820;
use crate::firmware::layout::EXTENDED_START;

const IMAGE: &str = "bzImage";

/// Offsets in the setup header, which has the same place in the file and in the zero page.
mod header {
    pub(super) const SETUP_SECTORS: usize = 0x1f1;
    pub(super) const BOOT_FLAG: usize = 0x1fe;
    pub(super) const JUMP: usize = 0x200;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const LOADER: usize = 0x210;
    pub(super) const LOAD_FLAGS: usize = 0x211;
    pub(super) const RAMDISK: usize = 0x218;
    pub(super) const RAMDISK_SIZE: usize = 0x21c;
    pub(super) const COMMAND_LINE: usize = 0x228;
    pub(super) const RAMDISK_MAX: usize = 0x22c;
    pub(super) const ALIGNMENT: usize = 0x230;
    pub(super) const RELOCATABLE: usize = 0x234;
    pub(super) const EXTENDED_FLAGS: usize = 0x236;
    pub(super) const COMMAND_LINE_SIZE: usize = 0x238;
    pub(super) const PREFERRED: usize = 0x258;
    pub(super) const INIT_SIZE: usize = 0x260;
    /// End of the header of version 2.06, the oldest that is taken.
    pub(super) const END_2_06: usize = 0x23c;
}

/// Offsets in the zero page.
mod zero_page {
    pub(super) const RSDP: usize = 0x070;
    pub(super) const E820_COUNT: usize = 0x1e8;
    pub(super) const SETUP: usize = 0x1f1;
    pub(super) const E820_TABLE: usize = 0x2d0;
    pub(super) const BYTES: usize = 4096;
}

const MAGIC: [u8; 4] = *b"HdrS";
/// A loader without a number of its own.
const LOADER_UNKNOWN: u8 = 0xff;
const LOADED_HIGH: u8 = 1;
/// Extended flag: there is a 64-bit entry at 0x200.
const HAS_64_BIT_ENTRY: u16 = 1;
/// Where a kernel without a preference goes.
const DEFAULT_AT: u64 = EXTENDED_START;
/// Highest address of a RAM disk for kernels that do not say.
const RAMDISK_MAX: u32 = 0x37ff_ffff;

/// Whether the file has Linux's setup header.
pub fn is_bzimage(file: &[u8]) -> bool {
    file.get(header::MAGIC..header::MAGIC + 4) == Some(&MAGIC[..])
        && file.get(header::BOOT_FLAG..header::BOOT_FLAG + 2) == Some(&[0x55, 0xaa])
}

/// A field of the file; `None` if it lies past the end of the header.
fn get<const N: usize>(file: &[u8], end: usize, at: usize) -> Option<[u8; N]> {
    if at + N > end {
        return None;
    }
    file.get(at..at + N)?.try_into().ok()
}

fn field(field: &'static str, found: u64, expected: &'static str) -> BootError {
    BootError::Field {
        image: IMAGE,
        field,
        found,
        expected,
    }
}

/// Loads a bzImage.
pub fn load_bzimage<'a>(input: &BootInput<'a>) -> Result<BootImage<'a>, BootError> {
    let file = input.kernel;
    let truncated = |field, end: usize| BootError::Truncated {
        image: IMAGE,
        field,
        end: end as u64,
        length: file.len() as u64,
    };
    if file.len() < header::END_2_06 {
        return Err(truncated("the setup header", header::END_2_06));
    }
    let version = u16::from_le_bytes([file[header::VERSION], file[header::VERSION + 1]]);
    if version < 0x0206 {
        return Err(field("version", version.into(), "0x206 or later"));
    }
    if file[header::LOAD_FLAGS] & LOADED_HIGH == 0 {
        let found = file[header::LOAD_FLAGS].into();
        return Err(field("loadflags", found, "bit 0 (loaded high)"));
    }
    // The jump's displacement tells where the header ends, which is where the known fields end too.
    let header_end = header::MAGIC + usize::from(file[header::JUMP + 1]);
    let header_end = header_end.clamp(header::END_2_06, zero_page::E820_TABLE);
    let setup_sectors = match file[header::SETUP_SECTORS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let code_start = (setup_sectors + 1) * 512;
    let Some(code) = file.get(code_start..).filter(|code| !code.is_empty()) else {
        return Err(truncated("the setup sectors", code_start));
    };

    let read_u16 = |at| get(file, header_end, at).map_or(0, u16::from_le_bytes);
    let read_u32 = |at| get(file, header_end, at).map_or(0, u32::from_le_bytes);
    let preferred = get(file, header_end, header::PREFERRED).map_or(0, u64::from_le_bytes);
    let relocatable = get(file, header_end, header::RELOCATABLE).is_some_and(|[flag]| flag != 0);
    // From version 2.10 on the kernel says how much it needs to unpack itself; older ones do with
    // three times their size, rounded generously.
    let init_size = match (version >= 0x020a, read_u32(header::INIT_SIZE)) {
        (true, size) if size > 0 => u64::from(size),
        _ => (code.len() as u64) * 4,
    }
    .max(code.len() as u64);

    let mut memory = Placement::new(input.layout);
    let at = place_kernel(
        &memory,
        preferred,
        relocatable,
        u64::from(read_u32(header::ALIGNMENT)),
        init_size,
    )?;
    memory.take("the kernel", at, init_size)?;
    memory.bytes(at, code);

    let most = match read_u32(header::COMMAND_LINE_SIZE) {
        0 => 255,
        most => u64::from(most),
    };
    memory.command_line(input.command_line, most)?;

    let mut page = vec![0; zero_page::BYTES];
    put(
        &mut page,
        zero_page::SETUP,
        &file[zero_page::SETUP..header_end.min(file.len())],
    );
    let highest = match read_u32(header::RAMDISK_MAX) {
        0 => RAMDISK_MAX,
        highest => highest,
    };
    finish_zero_page(input, &mut page, &mut memory, u64::from(highest) + 1)?;
    memory.bytes(ZERO_PAGE_AT, page);

    let long = read_u16(header::EXTENDED_FLAGS) & HAS_64_BIT_ENTRY != 0 && version >= 0x020c;
    let (protocol, mode, entry) = if long {
        (BootProtocol::Linux64, BootMode::Long, at + 0x200)
    } else {
        (BootProtocol::Linux32, BootMode::Protected, at)
    };
    let mut state = BootState::new(mode, entry, &mut memory);
    state.rsi = ZERO_PAGE_AT;
    Ok(memory.finish(protocol, state))
}

/// Where the kernel goes: where it would like to be, or as low as it may.
fn place_kernel(
    memory: &Placement<'_, '_>,
    preferred: u64,
    relocatable: bool,
    alignment: u64,
    init_size: u64,
) -> Result<u64, BootError> {
    let mut candidates = vec![];
    if preferred >= EXTENDED_START {
        candidates.push(preferred);
    }
    if relocatable {
        if !alignment.is_power_of_two() {
            return Err(field("kernel_alignment", alignment, "a power of two"));
        }
        candidates.push(EXTENDED_START.next_multiple_of(alignment));
    } else if candidates.is_empty() {
        candidates.push(DEFAULT_AT);
    }
    // 32-bit entries and the identity map reach to 4 GiB.
    let fits = |at: &u64| at.saturating_add(init_size) <= 1 << 32 && memory.is_free(*at, init_size);
    candidates
        .iter()
        .copied()
        .find(fits)
        .ok_or_else(|| BootError::NoRoom {
            what: "the kernel",
            at: candidates.first().copied().unwrap_or(DEFAULT_AT),
            bytes: init_size,
        })
}

/// Loads a `vmlinux` without a PVH entry, at its 64-bit entry.
pub fn load_vmlinux<'a>(
    input: &BootInput<'a>,
    image: &Elf<'a>,
) -> Result<BootImage<'a>, BootError> {
    if image.class != Class::Elf64 {
        return Err(BootError::Field {
            image: "ELF",
            field: "e_ident[EI_CLASS]",
            found: 1,
            expected: "2 in an image without PVH note or multiboot header",
        });
    }
    let mut memory = Placement::new(input.layout);
    memory.segments(image)?;
    memory.command_line(input.command_line, COMMAND_LINE_MAX)?;
    let mut page = vec![0; zero_page::BYTES];
    put(&mut page, header::BOOT_FLAG, &[0x55, 0xaa]);
    put(&mut page, header::MAGIC, &MAGIC);
    put(&mut page, header::VERSION, &0x020cu16.to_le_bytes());
    put(&mut page, header::LOAD_FLAGS, &[LOADED_HIGH]);
    put(&mut page, header::ALIGNMENT, &0x20_0000u32.to_le_bytes());
    finish_zero_page(input, &mut page, &mut memory, 1 << 32)?;
    memory.bytes(ZERO_PAGE_AT, page);
    let mut state = BootState::new(BootMode::Long, image.entry, &mut memory);
    state.rsi = ZERO_PAGE_AT;
    Ok(memory.finish(BootProtocol::Linux64, state))
}

/// Puts into the zero page what the loader knows.
fn finish_zero_page<'a>(
    input: &BootInput<'a>,
    page: &mut [u8],
    memory: &mut Placement<'a, '_>,
    ramdisk_limit: u64,
) -> Result<(), BootError> {
    put(page, header::LOADER, &[LOADER_UNKNOWN]);
    put(
        page,
        header::COMMAND_LINE,
        &(COMMAND_LINE_AT as u32).to_le_bytes(),
    );
    if let Some(data) = input.initrd {
        // Below 4 GiB by its limit.
        let at = memory.initrd(data, ramdisk_limit)? as u32;
        put(page, header::RAMDISK, &at.to_le_bytes());
        put(
            page,
            header::RAMDISK_SIZE,
            &(data.len() as u32).to_le_bytes(),
        );
    }
    if let Some(rsdp_at) = input.rsdp_at {
        put(page, zero_page::RSDP, &rsdp_at.to_le_bytes());
    }
    let entries = e820::map(input.layout);
    put(page, zero_page::E820_COUNT, &[entries.len() as u8]);
    for (index, entry) in entries.iter().enumerate() {
        put(page, zero_page::E820_TABLE + index * 20, &entry.to_bytes());
    }
    Ok(())
}
