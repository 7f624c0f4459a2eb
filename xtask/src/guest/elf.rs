//! Reads two facts from a 64-bit little-endian ELF file: the libraries it needs, and, of a kernel
//! module, its `.modinfo` strings. Source: System V ABI, chapters 4 and 5.

use std::ops::Range;

const DYNAMIC: u32 = 6;
const TAG_END: u64 = 0;
const TAG_NEEDED: u64 = 1;

/// The sections of an ELF file.
#[derive(Debug)]
pub(crate) struct Elf<'a> {
    bytes: &'a [u8],
    sections: Vec<Section>,
}

#[derive(Clone, Debug)]
struct Section {
    name_at: usize,
    kind: u32,
    place: Range<usize>,
    link: usize,
}

impl<'a> Elf<'a> {
    /// Reads the section table, or `None` if this is no such file.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Elf<'a>> {
        // Magic, 64 bits, little-endian.
        if bytes.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let table = number(bytes, 0x28, 8)?;
        let entry_size = number(bytes, 0x3a, 2)?;
        let count = number(bytes, 0x3c, 2)?;
        let mut sections = Vec::new();
        for index in 0..count {
            let at = index.checked_mul(entry_size)?.checked_add(table)?;
            let start = number(bytes, at.checked_add(0x18)?, 8)?;
            let length = number(bytes, at.checked_add(0x20)?, 8)?;
            sections.push(Section {
                name_at: number(bytes, at, 4)?,
                kind: u32::try_from(number(bytes, at.checked_add(4)?, 4)?).ok()?,
                place: start..start.checked_add(length)?,
                link: number(bytes, at.checked_add(0x28)?, 4)?,
            });
        }
        Some(Elf { bytes, sections })
    }

    /// Names of the shared libraries that the dynamic loader must find (`DT_NEEDED`).
    pub(crate) fn needed(&self) -> Vec<String> {
        self.needed_or_none().unwrap_or_default()
    }

    fn needed_or_none(&self) -> Option<Vec<String>> {
        let dynamic = self
            .sections
            .iter()
            .find(|section| section.kind == DYNAMIC)?;
        let strings = self
            .bytes
            .get(self.sections.get(dynamic.link)?.place.clone())?;
        let mut names = Vec::new();
        for entry in self.bytes.get(dynamic.place.clone())?.chunks_exact(16) {
            let (tag, value) = entry.split_at(8);
            let tag = u64::from_le_bytes(tag.try_into().ok()?);
            let value = u64::from_le_bytes(value.try_into().ok()?);
            match tag {
                TAG_END => break,
                TAG_NEEDED => names.push(string_at(strings, usize::try_from(value).ok()?)?),
                _ => {}
            }
        }
        Some(names)
    }

    /// The program interpreter (`.interp`), if the file names one.
    pub(crate) fn interpreter(&self) -> Option<String> {
        string_at(self.section(".interp")?, 0)
    }

    /// The `key=value` strings of a kernel module.
    pub(crate) fn module_info(&self) -> Vec<(String, String)> {
        let Some(section) = self.section(".modinfo") else {
            return Vec::new();
        };
        section
            .split(|byte| *byte == 0)
            .filter_map(|text| {
                let text = String::from_utf8_lossy(text).into_owned();
                let (key, value) = text.split_once('=')?;
                Some((key.to_owned(), value.to_owned()))
            })
            .collect()
    }

    fn section(&self, name: &str) -> Option<&'a [u8]> {
        let names_index = number(self.bytes, 0x3e, 2)?;
        let names = self
            .bytes
            .get(self.sections.get(names_index)?.place.clone())?;
        let found = self
            .sections
            .iter()
            .find(|section| string_at(names, section.name_at).is_some_and(|found| found == name))?;
        self.bytes.get(found.place.clone())
    }
}

fn number(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(width)?)?;
    let value = field
        .iter()
        .rev()
        .fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
    usize::try_from(value).ok()
}

fn string_at(strings: &[u8], at: usize) -> Option<String> {
    let rest = strings.get(at..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&rest[..end]).into_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Builds a file with the named sections; `.dynamic` is linked to the section after it.
    pub(crate) fn file_with(sections: &[(&str, u32, Vec<u8>)]) -> Vec<u8> {
        let mut names = vec![0_u8];
        let mut bodies = Vec::new();
        let mut headers = vec![0_u8; 64];
        let mut at = 64;
        for (index, (name, kind, body)) in sections.iter().enumerate() {
            let name_at = names.len();
            names.extend_from_slice(name.as_bytes());
            names.push(0);
            headers.extend(header(name_at, *kind, at, body.len(), index + 2));
            bodies.extend_from_slice(body);
            at += body.len();
        }
        let name_at = names.len();
        names.extend_from_slice(b".shstrtab\0");
        headers.extend(header(name_at, 3, at, names.len(), 0));
        bodies.extend_from_slice(&names);

        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64, 0);
        let table = u64::try_from(64 + bodies.len()).unwrap();
        file[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        file[0x3a..0x3c].copy_from_slice(&64_u16.to_le_bytes());
        let count = u16::try_from(sections.len() + 2).unwrap();
        file[0x3c..0x3e].copy_from_slice(&count.to_le_bytes());
        file[0x3e..0x40].copy_from_slice(&(count - 1).to_le_bytes());
        file.extend(bodies);
        file.extend(headers);
        file
    }

    fn header(name: usize, kind: u32, at: usize, length: usize, link: usize) -> Vec<u8> {
        let mut header = vec![0_u8; 64];
        header[0..4].copy_from_slice(&u32::try_from(name).unwrap().to_le_bytes());
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        header[0x18..0x20].copy_from_slice(&u64::try_from(at).unwrap().to_le_bytes());
        header[0x20..0x28].copy_from_slice(&u64::try_from(length).unwrap().to_le_bytes());
        header[0x28..0x2c].copy_from_slice(&u32::try_from(link).unwrap().to_le_bytes());
        header
    }

    #[test]
    fn needed_libraries_are_listed() {
        let mut dynamic = Vec::new();
        for (tag, value) in [(TAG_NEEDED, 1_u64), (5, 9), (TAG_NEEDED, 7), (TAG_END, 0)] {
            dynamic.extend(tag.to_le_bytes());
            dynamic.extend(value.to_le_bytes());
        }
        let file = file_with(&[
            (".dynamic", DYNAMIC, dynamic),
            (".dynstr", 3, b"\0a.so.1\0b.so\0".to_vec()),
        ]);
        // Offset 7 lies at the terminator of the first name: an empty string is a string too.
        assert_eq!(Elf::parse(&file).unwrap().needed(), ["a.so.1", ""]);
    }

    #[test]
    fn module_strings_are_split() {
        let file = file_with(&[(".modinfo", 1, b"depends=a,b\0alias=c\0".to_vec())]);
        let elf = Elf::parse(&file).unwrap();
        assert_eq!(
            elf.module_info()[0],
            ("depends".to_owned(), "a,b".to_owned())
        );
        assert_eq!(elf.module_info()[1], ("alias".to_owned(), "c".to_owned()));
        assert!(elf.needed().is_empty());
    }

    #[test]
    fn the_interpreter_is_named() {
        let file = file_with(&[(".interp", 1, b"/lib64/loader\0".to_vec())]);
        assert_eq!(
            Elf::parse(&file).unwrap().interpreter().as_deref(),
            Some("/lib64/loader")
        );
    }

    #[test]
    fn foreign_and_cut_files_are_refused() {
        assert!(Elf::parse(b"#!/bin/sh\n").is_none());
        let file = file_with(&[(".modinfo", 1, b"a=b\0".to_vec())]);
        for length in 0..file.len() {
            // Any prefix must be refused or read without a panic.
            if let Some(elf) = Elf::parse(&file[..length]) {
                elf.module_info();
                elf.needed();
            }
        }
    }
}
