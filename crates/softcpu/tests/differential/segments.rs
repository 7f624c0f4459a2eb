//! Segments: what the global table of Linux offers a program, and a local table of our own with 16-bit code, bases,
//! limits, expand-down and read-only data. The child installs it, the guest gets the same descriptors.

use crate::layout::{CODE, CS32, CS64, DATA};

/// A descriptor, in the terms of Linux's `modify_ldt`.
#[derive(Clone, Copy)]
pub(crate) struct Local {
    base: u32,
    /// In bytes, or in pages when `pages` is set.
    limit: u32,
    /// Default size 32 instead of 16.
    big: bool,
    /// 0 data, 1 expand-down data, 2 code.
    contents: u32,
    /// Data that cannot be written, code that cannot be read.
    restricted: bool,
    pages: bool,
    absent: bool,
}

const fn data(base: u64, limit: u32, big: bool) -> Local {
    Local {
        base: base as u32,
        limit,
        big,
        contents: 0,
        restricted: false,
        pages: false,
        absent: false,
    }
}

const fn code(base: u64, limit: u32, big: bool) -> Local {
    Local {
        contents: 2,
        ..data(base, limit, big)
    }
}

/// The local table.
pub(crate) const LOCAL: [Local; 14] = [
    code(CODE, 0xfff, false),
    code(CODE, 0xfff, true),
    code(0, 0xf_ffff, true).in_pages(),
    code(CODE, 0xfff, false).restricted(),
    data(DATA, 0x2fff, true),
    data(DATA, 0x2fff, false),
    data(DATA, 0x1234, true),
    data(DATA + 0x1005, 0, true).in_pages(),
    data(DATA, 0x2fff, true).restricted(),
    data(DATA, 0x7ff, true).downwards(),
    data(DATA - 0x1000, 0x17ff, false).downwards(),
    data(DATA, 0x2fff, true).absent(),
    data(0, 0xf_ffff, true).in_pages(),
    code(CODE, 0xfff, true).absent(),
];

/// Selectors of local code segments that code can start in: 16-bit, then 32-bit.
pub(crate) const CODE_16: [u16; 2] = [selector(0), selector(3)];
pub(crate) const CODE_32: [u16; 2] = [selector(1), selector(2)];
/// Selectors of local data segments that can be loaded.
pub(crate) const DATA_LOADABLE: [u16; 9] = [
    selector(4),
    selector(4),
    selector(5),
    selector(6),
    selector(7),
    selector(8),
    selector(9),
    selector(10),
    selector(12),
];
/// Those of them that a 32-bit stack can lie in. (On the way to a 16-bit stack IRETQ loses half of ESP.)
pub(crate) const STACKS: [u16; 4] = [selector(4), selector(4), selector(6), selector(12)];

const fn selector(index: u16) -> u16 {
    index * 8 + 7
}

impl Local {
    const fn in_pages(self) -> Self {
        Self {
            pages: true,
            ..self
        }
    }
    const fn restricted(self) -> Self {
        Self {
            restricted: true,
            ..self
        }
    }
    const fn downwards(self) -> Self {
        Self {
            contents: 1,
            ..self
        }
    }
    const fn absent(self) -> Self {
        Self {
            absent: true,
            ..self
        }
    }

    /// The eight bytes that the processor reads.
    pub(crate) fn descriptor(self) -> u64 {
        let flag = |set: bool, bit: u32| u64::from(set) << bit;
        let (base, limit) = (u64::from(self.base), u64::from(self.limit));
        let kind = 1 | flag(!self.restricted, 1) | u64::from(self.contents) << 2;
        limit & 0xffff
            | (base & 0xff_ffff) << 16
            | kind << 40
            | 1 << 44
            | 3 << 45
            | flag(!self.absent, 47)
            | (limit >> 16 & 0xf) << 48
            | flag(self.big, 54)
            | flag(self.pages, 55)
            | (base >> 24) << 56
    }

    /// `struct user_desc` for entry `index`.
    pub(crate) fn user_description(self, index: usize) -> [u32; 4] {
        let flags = u32::from(self.big)
            | self.contents << 1
            | u32::from(self.restricted) << 3
            | u32::from(self.pages) << 4
            | u32::from(self.absent) << 5;
        [index as u32, self.base, self.limit, flags]
    }
}

fn local(selector: u16) -> Option<Local> {
    let names_local = selector & 4 != 0;
    LOCAL
        .get(usize::from(selector >> 3))
        .copied()
        .filter(|_| names_local)
}

/// The base of the segment that a selector names.
pub(crate) fn base_of(selector: u16) -> u64 {
    local(selector).map_or(0, |local| u64::from(local.base))
}

/// The size of code in a segment, in bits.
pub(crate) fn code_bits(selector: u16) -> u32 {
    match (selector, local(selector)) {
        (CS64, _) => 64,
        (CS32, _) => 32,
        (_, Some(local)) if !local.big => 16,
        _ => 32,
    }
}
