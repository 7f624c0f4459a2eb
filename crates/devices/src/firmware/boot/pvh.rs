//! The PVH entry of an ELF image: 32-bit, with a start info structure (Xen's x86/HVM direct boot ABI).

use super::elf::Elf;
use super::state::BootMode;
use super::{
    BootError, BootImage, BootInput, BootProtocol, BootState, COMMAND_LINE_AT, INFO_AT, Placement,
};
use crate::firmware::e820;

/// Type of the note that holds the entry point.
const PHYS32_ENTRY: u32 = 18;
const MAGIC: u32 = 0x336e_c578;

const MODULES_AT: u64 = INFO_AT + 0x100;
const MEMORY_MAP_AT: u64 = INFO_AT + 0x200;

/// The image's PVH entry point, if it has one.
pub fn entry(image: &Elf<'_>) -> Result<Option<u64>, BootError> {
    let Some(body) = image.note(b"Xen\0", PHYS32_ENTRY)? else {
        return Ok(None);
    };
    // Four bytes or eight, by the class of the image; either way an address below 4 GiB.
    let mut bytes = [0; 8];
    let length = body.len().min(8);
    bytes[..length].copy_from_slice(&body[..length]);
    let entry = u64::from_le_bytes(bytes);
    if body.len() < 4 || entry > u64::from(u32::MAX) {
        return Err(BootError::Field {
            image: "ELF",
            field: "the note XEN_ELFNOTE_PHYS32_ENTRY",
            found: entry,
            expected: "an address below 4 GiB",
        });
    }
    Ok(Some(entry))
}

/// Loads the segments and makes the start info, version 1.
pub fn load<'a>(
    input: &BootInput<'a>,
    image: &Elf<'a>,
    entry: u64,
) -> Result<BootImage<'a>, BootError> {
    let mut memory = Placement::new(input.layout);
    memory.segments(image)?;
    memory.command_line(input.command_line, u64::MAX)?;
    let mut modules = 0u32;
    if let Some(data) = input.initrd {
        let at = memory.initrd(data, 1 << 32)?;
        // Address, length, command line (none), reserved.
        let module = [at, data.len() as u64, 0, 0];
        let bytes: Vec<u8> = module.into_iter().flat_map(u64::to_le_bytes).collect();
        memory.bytes(MODULES_AT, bytes);
        modules = 1;
    }
    let entries = e820::map(input.layout);
    let map: Vec<u8> = entries
        .iter()
        .flat_map(|entry| entry.to_bytes().into_iter().chain([0; 4]))
        .collect();
    memory.bytes(MEMORY_MAP_AT, map);
    let mut info = Vec::with_capacity(56);
    for word in [MAGIC, 1, 0, modules] {
        info.extend_from_slice(&word.to_le_bytes());
    }
    let modules_at = if modules > 0 { MODULES_AT } else { 0 };
    let rsdp_at = input.rsdp_at.unwrap_or(0);
    for address in [modules_at, COMMAND_LINE_AT, rsdp_at, MEMORY_MAP_AT] {
        info.extend_from_slice(&address.to_le_bytes());
    }
    info.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    info.extend_from_slice(&[0; 4]);
    memory.bytes(INFO_AT, info);
    let mut state = BootState::new(BootMode::Protected, entry, &mut memory);
    state.rbx = INFO_AT;
    Ok(memory.finish(BootProtocol::Pvh, state))
}
