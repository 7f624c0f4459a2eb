//! ELF images, as far as a loader needs them: segments and notes (System V ABI, chapters 4 and 5).

use vm_types::cursor::Reader;

use super::BootError;

/// Program headers and notes that are looked at; more is no kernel.
const HEADERS_MAX: u64 = 128;
const NOTES_MAX: usize = 1024;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

const IMAGE: &str = "ELF";

/// Whether the file starts as an ELF image does.
pub fn is_elf(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
}

/// 32 or 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 32-bit.
    Elf32,
    /// 64-bit.
    Elf64,
}

/// A checked ELF header over its file.
#[derive(Clone, Debug)]
pub struct Elf<'a> {
    file: &'a [u8],
    /// Its class.
    pub class: Class,
    /// Entry point.
    pub entry: u64,
    headers: Vec<ProgramHeader>,
}

#[derive(Clone, Copy, Debug)]
struct ProgramHeader {
    kind: u32,
    offset: u64,
    physical: u64,
    file_bytes: u64,
    memory_bytes: u64,
}

/// A loadable segment.
#[derive(Clone, Copy, Debug)]
pub struct LoadSegment<'a> {
    /// Physical address.
    pub at: u64,
    /// Its bytes in the file.
    pub data: &'a [u8],
    /// Bytes in memory, no fewer; the rest is zero.
    pub memory_bytes: u64,
}

fn field(field: &'static str, found: u64, expected: &'static str) -> BootError {
    BootError::Field {
        image: IMAGE,
        field,
        found,
        expected,
    }
}

fn slice<'a>(
    file: &'a [u8],
    name: &'static str,
    offset: u64,
    length: u64,
) -> Result<&'a [u8], BootError> {
    let end = offset.saturating_add(length);
    let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
    range
        .and_then(|(start, end)| file.get(start..end))
        .ok_or(BootError::Truncated {
            image: IMAGE,
            field: name,
            end,
            length: file.len() as u64,
        })
}

impl<'a> Elf<'a> {
    /// Checks the header and reads the program headers.
    ///
    /// Errors: not a little-endian x86 executable, or cut off.
    pub fn parse(file: &'a [u8]) -> Result<Self, BootError> {
        let ident = slice(file, "e_ident", 0, 16)?;
        let class = match ident[4] {
            1 => Class::Elf32,
            2 => Class::Elf64,
            other => return Err(field("e_ident[EI_CLASS]", other.into(), "1 or 2")),
        };
        if ident[5] != 1 {
            return Err(field(
                "e_ident[EI_DATA]",
                ident[5].into(),
                "1 (little-endian)",
            ));
        }
        let wide = class == Class::Elf64;
        let header = slice(file, "the ELF header", 0, if wide { 64 } else { 52 })?;
        let read_u16 = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let read_word = |narrow_at: usize, wide_at: usize| {
            if wide {
                read_u64(header, wide_at)
            } else {
                read_u32(header, narrow_at)
            }
        };
        let machine = read_u16(18);
        if !matches!(machine, 3 | 62) {
            return Err(field("e_machine", machine, "3 (386) or 62 (x86-64)"));
        }
        let entry = read_word(24, 24);
        let table = read_word(28, 32);
        let (entry_bytes, count) = if wide {
            (read_u16(54), read_u16(56))
        } else {
            (read_u16(42), read_u16(44))
        };
        let least = if wide { 56 } else { 32 };
        if entry_bytes < least {
            return Err(field("e_phentsize", entry_bytes, "at least 32 or 56"));
        }
        if count == 0 || count > HEADERS_MAX {
            return Err(field("e_phnum", count, "1 to 128"));
        }
        let table = slice(file, "the program headers", table, entry_bytes * count)?;
        let headers = table
            .chunks_exact(entry_bytes as usize)
            .map(|header| ProgramHeader::read(header, class))
            .collect();
        Ok(Self {
            file,
            class,
            entry,
            headers,
        })
    }

    /// The segments to load, in the order of the table. Empty ones are left out.
    pub fn segments(&self) -> Result<Vec<LoadSegment<'a>>, BootError> {
        let mut segments = Vec::new();
        for header in self.headers.iter().filter(|header| header.kind == PT_LOAD) {
            if header.memory_bytes < header.file_bytes {
                return Err(field(
                    "p_memsz",
                    header.memory_bytes,
                    "no less than p_filesz",
                ));
            }
            if header.memory_bytes == 0 {
                continue;
            }
            segments.push(LoadSegment {
                at: header.physical,
                data: slice(self.file, "a segment", header.offset, header.file_bytes)?,
                memory_bytes: header.memory_bytes,
            });
        }
        if segments.is_empty() {
            return Err(field(
                "e_phnum",
                self.headers.len() as u64,
                "a PT_LOAD segment",
            ));
        }
        Ok(segments)
    }

    /// The descriptor of the first note with this name (with its zero) and type.
    pub fn note(&self, name: &[u8], kind: u32) -> Result<Option<&'a [u8]>, BootError> {
        for header in self.headers.iter().filter(|header| header.kind == PT_NOTE) {
            let notes = slice(self.file, "the notes", header.offset, header.file_bytes)?;
            let mut reader = Reader::new(notes);
            for _ in 0..NOTES_MAX {
                let Some((name_bytes, body_bytes, note_kind)) = note_header(&mut reader) else {
                    break;
                };
                let Some(found) = padded(&mut reader, name_bytes) else {
                    break;
                };
                let Some(body) = padded(&mut reader, body_bytes) else {
                    break;
                };
                if note_kind == kind && found == name {
                    return Ok(Some(body));
                }
            }
        }
        Ok(None)
    }
}

fn note_header(reader: &mut Reader<'_>) -> Option<(u32, u32, u32)> {
    Some((reader.u32_le()?, reader.u32_le()?, reader.u32_le()?))
}

/// A field that is followed by padding to a multiple of 4; the last one may lack it.
fn padded<'a>(reader: &mut Reader<'a>, length: u32) -> Option<&'a [u8]> {
    let bytes = reader.take(usize::try_from(length).ok()?)?;
    let padding = (4 - bytes.len() % 4) % 4;
    reader.take(padding.min(reader.remaining()))?;
    Some(bytes)
}

impl ProgramHeader {
    /// From a chunk that is as long as the class wants.
    fn read(header: &[u8], class: Class) -> Self {
        let word = |at: usize| match class {
            Class::Elf64 => read_u64(header, at),
            Class::Elf32 => read_u32(header, at),
        };
        match class {
            Class::Elf64 => Self {
                kind: read_u32(header, 0) as u32,
                offset: word(8),
                physical: word(24),
                file_bytes: word(32),
                memory_bytes: word(40),
            },
            Class::Elf32 => Self {
                kind: read_u32(header, 0) as u32,
                offset: word(4),
                physical: word(12),
                file_bytes: word(16),
                memory_bytes: word(20),
            },
        }
    }
}

fn read_u32(bytes: &[u8], at: usize) -> u64 {
    Reader::new(bytes.get(at..).unwrap_or(&[]))
        .u32_le()
        .map_or(0, u64::from)
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    Reader::new(bytes.get(at..).unwrap_or(&[]))
        .u64_le()
        .unwrap_or(0)
}
