//! Register maps as data: a device lists its registers in a table, and the table does the splitting,
//! widening and masking of whatever access a guest invents.
//!
//! ```
//! use devices::bus::{Access, RegisterFile, RegisterMap, Width, row};
//!
//! #[derive(Clone, Copy, Debug, PartialEq)]
//! enum Reg { Ident, Control, Status }
//!
//! static MAP: RegisterMap<Reg> = RegisterMap::new(&[
//!     row(Reg::Ident,   0x00, Width::U32, Access::ReadOnly),
//!     row(Reg::Control, 0x04, Width::U16, Access::ReadWrite { mask: 0x0003 }),
//!     row(Reg::Status,  0x06, Width::U16, Access::WriteOneToClear { mask: 0x8000 }),
//! ]);
//!
//! struct Thing { control: u64, status: u64 }
//! impl RegisterFile<Reg> for Thing {
//!     fn read(&mut self, register: Reg) -> u64 {
//!         match register {
//!             Reg::Ident => 0x1234_5678,
//!             Reg::Control => self.control,
//!             Reg::Status => self.status,
//!         }
//!     }
//!     fn write(&mut self, register: Reg, value: u64) {
//!         match register {
//!             Reg::Ident => {}
//!             Reg::Control => self.control = value,
//!             Reg::Status => self.status &= !value,
//!         }
//!     }
//! }
//!
//! let mut thing = Thing { control: 0, status: 0x8000 };
//! MAP.write(&mut thing, 0x04, &[0xff, 0xff, 0x00, 0x80]); // one access over two registers
//! assert_eq!((thing.control, thing.status), (3, 0));
//! let mut half = [0; 2];
//! MAP.read(&mut thing, 0x02, &mut half);
//! assert_eq!(half, [0x34, 0x12]);
//! ```

use std::fmt::{self, Write as _};

/// How wide a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    U8,
    /// Two bytes.
    U16,
    /// Four bytes.
    U32,
    /// Eight bytes.
    U64,
}

impl Width {
    /// The width in bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
            Self::U32 => 4,
            Self::U64 => 8,
        }
    }
}

/// What a guest may do with a register, and what an access to a part of it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads have no side effect; writes are ignored.
    ReadOnly,
    /// Reads have an effect (read to clear, pop a FIFO); writes are ignored. A read of any part of
    /// it has the whole effect.
    ReadVolatile,
    /// Bits of `mask` can be written, the others keep their value. Reads have no side effect. A
    /// write of a part leaves the other bytes as they are.
    ReadWrite {
        /// The bits that a write changes.
        mask: u64,
    },
    /// Writing a one to a bit of `mask` clears it: the device gets the bits to clear. Bytes that a
    /// partial write does not touch count as zero. Reads have no side effect.
    WriteOneToClear {
        /// The bits that can be cleared.
        mask: u64,
    },
    /// Reads as zero. The device gets what is written; bytes that a partial write does not touch
    /// count as zero.
    WriteOnly,
    /// Both directions have effects, or read and write reach different things. The device gets what
    /// is written; bytes that a partial write does not touch count as zero.
    Volatile,
}

/// One register of a map.
#[derive(Clone, Copy, Debug)]
pub struct Row<R> {
    /// The device's name for it.
    pub register: R,
    /// Bytes from the window's start; a multiple of the width.
    pub offset: u64,
    /// Its width.
    pub width: Width,
    /// What can be done with it.
    pub access: Access,
}

impl<R> Row<R> {
    const fn end(&self) -> u64 {
        self.offset + self.width.bytes()
    }
}

/// One row of a [`RegisterMap`].
pub const fn row<R: Copy>(register: R, offset: u64, width: Width, access: Access) -> Row<R> {
    Row {
        register,
        offset,
        width,
        access,
    }
}

/// The device behind a map: two matches over its registers.
pub trait RegisterFile<R> {
    /// The register's value, in its low bits.
    ///
    /// Called for guest reads, and for partial writes of [`Access::ReadWrite`] registers, which must
    /// not mind being read.
    fn read(&mut self, register: R) -> u64;

    /// A write, already widened and masked as the row's [`Access`] says.
    fn write(&mut self, register: R, value: u64);
}

/// A device's registers in order of their offsets.
///
/// Bytes between the rows read as zero (or what [`RegisterMap::with_filler`] says) and ignore writes.
pub struct RegisterMap<R: 'static> {
    rows: &'static [Row<R>],
    filler: u8,
}

impl<R: Copy + 'static> RegisterMap<R> {
    /// A map of `rows`, which must be in ascending order.
    ///
    /// # Panics
    /// At compile time when it makes a `static` or `const`, as every map does: rows that overlap,
    /// are out of order, misaligned, or whose mask is wider than the register.
    #[expect(
        clippy::panic,
        reason = "evaluated at compile time: a wrong table does not build"
    )]
    pub const fn new(rows: &'static [Row<R>]) -> Self {
        let mut i = 0;
        let mut free_from = 0;
        while i < rows.len() {
            let row = &rows[i];
            let bytes = row.width.bytes();
            if !row.offset.is_multiple_of(bytes) {
                panic!("a register is not aligned to its width");
            }
            if row.offset < free_from {
                panic!("registers overlap or are out of order");
            }
            if let Access::ReadWrite { mask } | Access::WriteOneToClear { mask } = row.access
                && bytes < 8
                && mask >> (bytes * 8) != 0
            {
                panic!("a register's mask is wider than the register");
            }
            free_from = row.end();
            i += 1;
        }
        Self { rows, filler: 0 }
    }

    /// The same map, whose unlisted bytes read as `filler`.
    #[must_use]
    pub const fn with_filler(self, filler: u8) -> Self {
        Self {
            rows: self.rows,
            filler,
        }
    }

    /// The rows, for property tests and listings.
    pub const fn rows(&self) -> &'static [Row<R>] {
        self.rows
    }

    /// The row that covers the byte at `offset`.
    pub fn at(&self, offset: u64) -> Option<&'static Row<R>> {
        let next = self.rows.partition_point(|row| row.end() <= offset);
        self.rows.get(next).filter(|row| row.offset <= offset)
    }

    /// Performs a guest's read of any length at any offset.
    pub fn read(&self, file: &mut impl RegisterFile<R>, offset: u64, data: &mut [u8]) {
        data.fill(self.filler);
        for row in self.touched(offset, data.len()) {
            let value = match row.access {
                Access::WriteOnly => 0,
                _ => file.read(row.register),
            };
            let part = Part::of(row, offset, data.len());
            let bytes = value.to_le_bytes();
            data[part.data..part.data + part.length]
                .copy_from_slice(&bytes[part.register..part.register + part.length]);
        }
    }

    /// Performs a guest's write of any length at any offset.
    pub fn write(&self, file: &mut impl RegisterFile<R>, offset: u64, data: &[u8]) {
        for row in self.touched(offset, data.len()) {
            let part = Part::of(row, offset, data.len());
            let mut bytes = [0; 8];
            bytes[part.register..part.register + part.length]
                .copy_from_slice(&data[part.data..part.data + part.length]);
            let written = u64::from_le_bytes(bytes);
            let value = match row.access {
                Access::ReadOnly | Access::ReadVolatile => continue,
                Access::ReadWrite { mask } => {
                    let mask = mask & part.mask();
                    if mask == row.whole_mask() {
                        written
                    } else {
                        (file.read(row.register) & !mask) | (written & mask)
                    }
                }
                Access::WriteOneToClear { mask } => written & mask,
                Access::WriteOnly | Access::Volatile => written,
            };
            file.write(row.register, value);
        }
    }

    fn touched(&self, offset: u64, length: usize) -> &'static [Row<R>] {
        if length == 0 {
            return &[];
        }
        let end = offset.saturating_add(length as u64);
        let first = self.rows.partition_point(|row| row.end() <= offset);
        let rest = &self.rows[first..];
        let count = rest.partition_point(|row| row.offset < end);
        &rest[..count]
    }
}

impl<R> Row<R> {
    const fn whole_mask(&self) -> u64 {
        match self.width {
            Width::U8 => 0xff,
            Width::U16 => 0xffff,
            Width::U32 => 0xffff_ffff,
            Width::U64 => u64::MAX,
        }
    }
}

/// Where an access and a register meet.
struct Part {
    /// First common byte, counted from the start of the access.
    data: usize,
    /// The same byte, counted from the start of the register.
    register: usize,
    /// How many bytes they share.
    length: usize,
}

impl Part {
    /// Of a row that `touched` has selected, so that at least one byte is common.
    fn of<R>(row: &Row<R>, offset: u64, length: usize) -> Self {
        let end = offset.saturating_add(length as u64).min(row.end());
        let start = offset.max(row.offset);
        Self {
            data: (start - offset) as usize,
            register: (start - row.offset) as usize,
            length: (end - start) as usize,
        }
    }

    fn mask(&self) -> u64 {
        let ones = u64::MAX >> (64 - 8 * self.length as u32);
        ones << (8 * self.register)
    }
}

/// The documentation page of the map, one line a register.
impl<R: fmt::Debug + Copy> fmt::Display for RegisterMap<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in self.rows {
            let mut name = String::new();
            write!(name, "{:?}", row.register)?;
            writeln!(
                f,
                "{:#06x} {} {name:<28} {:?}",
                row.offset,
                row.width.bytes(),
                row.access
            )?;
        }
        Ok(())
    }
}

impl<R: fmt::Debug> fmt::Debug for RegisterMap<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.rows).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Reg {
        Wide,
        Clear,
        Push,
        Pop,
        Fixed,
    }

    static MAP: RegisterMap<Reg> = RegisterMap::new(&[
        row(
            Reg::Wide,
            0,
            Width::U64,
            Access::ReadWrite {
                mask: 0x00ff_ffff_ffff_ffff,
            },
        ),
        row(
            Reg::Clear,
            8,
            Width::U16,
            Access::WriteOneToClear { mask: 0x0ff0 },
        ),
        row(Reg::Push, 10, Width::U8, Access::WriteOnly),
        row(Reg::Pop, 12, Width::U8, Access::ReadVolatile),
        row(Reg::Fixed, 16, Width::U32, Access::ReadOnly),
    ]);

    #[derive(Default)]
    struct File {
        wide: u64,
        clear: u64,
        pushed: Vec<u64>,
        popped: u64,
    }

    impl RegisterFile<Reg> for File {
        fn read(&mut self, register: Reg) -> u64 {
            match register {
                Reg::Wide => self.wide,
                Reg::Clear => self.clear,
                Reg::Push => 0xbad,
                Reg::Pop => {
                    self.popped += 1;
                    self.popped
                }
                Reg::Fixed => 0x0403_0201,
            }
        }
        fn write(&mut self, register: Reg, value: u64) {
            match register {
                Reg::Wide => self.wide = value,
                Reg::Clear => self.clear &= !value,
                Reg::Push => self.pushed.push(value),
                Reg::Pop | Reg::Fixed => unreachable!("read-only registers get no writes"),
            }
        }
    }

    #[test]
    fn a_partial_write_keeps_the_other_bytes() {
        let mut file = File {
            wide: 0x1122_3344_5566_7788,
            ..File::default()
        };
        MAP.write(&mut file, 2, &[0xaa, 0xbb]);
        assert_eq!(file.wide, 0x1122_3344_bbaa_7788);
        MAP.write(&mut file, 0, &[0xff; 8]);
        assert_eq!(file.wide, 0x11ff_ffff_ffff_ffff);
    }

    #[test]
    fn one_access_reaches_every_register_it_covers() {
        let mut file = File {
            clear: 0xffff,
            ..File::default()
        };
        MAP.write(&mut file, 8, &[0xff, 0xff, 7, 9, 1, 1, 1, 1]);
        assert_eq!(file.clear, 0xf00f);
        assert_eq!(file.pushed, [7]);
        let mut data = [0xee; 8];
        MAP.read(&mut file, 8, &mut data);
        assert_eq!(data, [0x0f, 0xf0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn offsets_past_the_end_and_near_the_top_of_the_range_are_harmless() {
        let mut file = File::default();
        let mut data = [0xee; 8];
        MAP.read(&mut file, u64::MAX - 3, &mut data);
        assert_eq!(data, [0; 8]);
        MAP.write(&mut file, u64::MAX, &[1; 8]);
        MAP.read(&mut file, 14, &mut data);
        assert_eq!(data, [0, 0, 1, 2, 3, 4, 0, 0]);
    }

    #[test]
    fn every_byte_of_a_row_finds_that_row() {
        for row in MAP.rows() {
            for offset in row.offset..row.end() {
                assert_eq!(MAP.at(offset).unwrap().register, row.register);
            }
        }
        assert!(MAP.at(11).is_none());
        assert!(MAP.at(20).is_none());
    }

    #[test]
    fn the_listing_names_each_register() {
        let page = MAP.to_string();
        assert_eq!(page.lines().count(), MAP.rows().len());
        assert!(page.contains("0x0010 4 Fixed"));
    }
}
