//! Multiboot 1 images, ELF or with addresses in their header (Multiboot Specification 0.6.96).

use vm_types::cursor::Reader;

use super::elf::{Elf, is_elf};
use super::state::BootMode;
use super::{
    BootError, BootImage, BootInput, BootProtocol, BootState, COMMAND_LINE_AT, INFO_AT, Placement,
    put,
};
use crate::firmware::e820;

const IMAGE: &str = "multiboot";
const HEADER_MAGIC: u32 = 0x1bad_b002;
const LOADER_MAGIC: u64 = 0x2bad_b002;
/// The header lies in this many bytes from the start of the file.
const SEARCH_BYTES: usize = 8192;

/// Header flags: the features below bit 16 must be understood. Page-aligned modules, memory
/// information and a video mode (which there is none of, as the information will say).
const UNDERSTOOD: u32 = 0x7;
const HAS_ADDRESSES: u32 = 1 << 16;

const MODULES_AT: u64 = INFO_AT + 0x100;
const NAME_AT: u64 = INFO_AT + 0x180;
const MEMORY_MAP_AT: u64 = INFO_AT + 0x200;
const NAME: &[u8] = b"trivet\0";

/// A multiboot header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where in the file it is.
    offset: u32,
    addresses: Option<Addresses>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Addresses {
    header: u32,
    load: u32,
    load_end: u32,
    bss_end: u32,
    entry: u32,
}

fn field(field: &'static str, found: u32, expected: &'static str) -> BootError {
    BootError::Field {
        image: IMAGE,
        field,
        found: found.into(),
        expected,
    }
}

impl Header {
    /// The header in `file`, if there is one.
    ///
    /// Errors: there is one, and it asks for what this loader does not do or is cut off.
    pub fn find(file: &[u8]) -> Result<Option<Self>, BootError> {
        let window = &file[..file.len().min(SEARCH_BYTES)];
        for offset in (0..window.len()).step_by(4) {
            let mut reader = Reader::new(&window[offset..]);
            let words = (reader.u32_le(), reader.u32_le(), reader.u32_le());
            let (Some(HEADER_MAGIC), Some(flags), Some(checksum)) = words else {
                continue;
            };
            if HEADER_MAGIC.wrapping_add(flags).wrapping_add(checksum) != 0 {
                continue;
            }
            if flags & 0xffff & !UNDERSTOOD != 0 {
                return Err(field("flags", flags, "no required feature above bit 2"));
            }
            let addresses = if flags & HAS_ADDRESSES != 0 {
                let addresses = Addresses::read(&mut Reader::new(&file[offset + 12..]));
                Some(addresses.ok_or(BootError::Truncated {
                    image: IMAGE,
                    field: "the addresses of the header",
                    end: offset as u64 + 32,
                    length: file.len() as u64,
                })?)
            } else {
                None
            };
            return Ok(Some(Self {
                offset: offset as u32,
                addresses,
            }));
        }
        Ok(None)
    }
}

impl Addresses {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            header: reader.u32_le()?,
            load: reader.u32_le()?,
            load_end: reader.u32_le()?,
            bss_end: reader.u32_le()?,
            entry: reader.u32_le()?,
        })
    }

    /// Loads the file as the addresses say.
    fn place<'a>(
        &self,
        offset: u32,
        file: &'a [u8],
        memory: &mut Placement<'a, '_>,
    ) -> Result<(), BootError> {
        let before = self.header.checked_sub(self.load);
        let start = before.and_then(|before| offset.checked_sub(before));
        let Some(start) = start else {
            return Err(field("load_addr", self.load, "no later than the header"));
        };
        let rest = &file[start as usize..];
        let data = match self.load_end {
            0 => rest,
            end => {
                let length = end.checked_sub(self.load);
                let length =
                    length.ok_or_else(|| field("load_end_addr", end, "after load_addr"))?;
                rest.get(..length as usize)
                    .ok_or_else(|| BootError::Truncated {
                        image: IMAGE,
                        field: "the text and data segment",
                        end: u64::from(start) + u64::from(length),
                        length: file.len() as u64,
                    })?
            }
        };
        let load = u64::from(self.load);
        let data_end = load + data.len() as u64;
        let end = match self.bss_end {
            0 => data_end,
            end => u64::from(end).max(data_end),
        };
        memory.take("the multiboot image", load, end - load)?;
        memory.bytes(load, data);
        memory.zeroes(data_end, end - data_end);
        Ok(())
    }
}

/// Loads the image and makes the boot information.
pub fn load<'a>(input: &BootInput<'a>, header: Header) -> Result<BootImage<'a>, BootError> {
    let mut memory = Placement::new(input.layout);
    let entry = match header.addresses {
        Some(addresses) => {
            addresses.place(header.offset, input.kernel, &mut memory)?;
            u64::from(addresses.entry)
        }
        None if is_elf(input.kernel) => {
            let image = Elf::parse(input.kernel)?;
            memory.segments(&image)?;
            image.entry
        }
        None => return Err(field("flags", 0, "bit 16 in an image that is no ELF")),
    };
    if entry > u64::from(u32::MAX) {
        return Err(BootError::Field {
            image: IMAGE,
            field: "the entry point",
            found: entry,
            expected: "an address below 4 GiB",
        });
    }
    memory.command_line(input.command_line, u64::MAX)?;
    let mut info = vec![0; 120];
    // Flags: memory sizes, command line, memory map, loader name.
    let mut flags = 1u32 | 1 << 2 | 1 << 6 | 1 << 9;
    let kib = |bytes: u64| u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
    put(&mut info, 4, &639u32.to_le_bytes());
    let above = input.layout.low_bytes.saturating_sub(1 << 20);
    put(&mut info, 8, &kib(above).to_le_bytes());
    put(&mut info, 16, &(COMMAND_LINE_AT as u32).to_le_bytes());
    if let Some(data) = input.initrd {
        let at = memory.initrd(data, 1 << 32)? as u32;
        flags |= 1 << 3;
        put(&mut info, 20, &1u32.to_le_bytes());
        put(&mut info, 24, &(MODULES_AT as u32).to_le_bytes());
        // Start, end, string (the empty one at the end of the loader's name), reserved.
        let no_string = NAME_AT as u32 + NAME.len() as u32 - 1;
        let module = [at, at.wrapping_add(data.len() as u32), no_string, 0];
        let bytes: Vec<u8> = module.into_iter().flat_map(u32::to_le_bytes).collect();
        memory.bytes(MODULES_AT, bytes);
    }
    // Each entry is preceded by its own size, which does not count itself.
    let map: Vec<u8> = e820::map(input.layout)
        .iter()
        .flat_map(|entry| 20u32.to_le_bytes().into_iter().chain(entry.to_bytes()))
        .collect();
    put(&mut info, 44, &(map.len() as u32).to_le_bytes());
    put(&mut info, 48, &(MEMORY_MAP_AT as u32).to_le_bytes());
    memory.bytes(MEMORY_MAP_AT, map);
    put(&mut info, 64, &(NAME_AT as u32).to_le_bytes());
    memory.bytes(NAME_AT, NAME);
    put(&mut info, 0, &flags.to_le_bytes());
    memory.bytes(INFO_AT, info);
    let mut state = BootState::new(BootMode::Protected, entry, &mut memory);
    state.rax = LOADER_MAGIC;
    state.rbx = INFO_AT;
    Ok(memory.finish(BootProtocol::Multiboot, state))
}
