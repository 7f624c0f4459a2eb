//! Operand widths as types, so that one function serves 8, 16, 32 and 64 bits.

use crate::state::registers::Registers;

/// An operand of 8, 16, 32 or 64 bits.
pub trait Width: Copy + Eq + Default + Send + Sync + std::fmt::Debug + 'static {
    /// Bits in the operand.
    const BITS: u32;
    /// Bytes in the operand.
    const BYTES: u64;
    /// All ones.
    const MASK: u64;

    /// The low bits of `value`.
    fn truncate(value: u64) -> Self;
    /// Zero-extended to 64 bits.
    fn zero_extend(self) -> u64;
    /// Sign-extended to 64 bits.
    fn sign_extend(self) -> u64;
    /// Reads register `index` (as an [`Op`](crate::op::Op) numbers it).
    fn get(registers: &Registers, index: u8) -> Self;
    /// Writes register `index`: 32 bits clear the upper half, 8 and 16 leave the rest alone.
    fn set(self, registers: &mut Registers, index: u8);

    /// The sign bit.
    #[inline(always)]
    fn sign(self) -> bool {
        self.sign_extend() >> 63 != 0
    }
    /// Addition that wraps.
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self::truncate(self.zero_extend().wrapping_add(other.zero_extend()))
    }
    /// Subtraction that wraps.
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self::truncate(self.zero_extend().wrapping_sub(other.zero_extend()))
    }
}

macro_rules! width {
    ($unsigned:ty, $signed:ty, get: $get:expr, set: $set:expr) => {
        impl Width for $unsigned {
            const BITS: u32 = <$unsigned>::BITS;
            const BYTES: u64 = <$unsigned>::BITS as u64 / 8;
            const MASK: u64 = <$unsigned>::MAX as u64;

            #[inline(always)]
            fn truncate(value: u64) -> Self {
                value as $unsigned
            }
            #[inline(always)]
            fn zero_extend(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn sign_extend(self) -> u64 {
                self as $signed as i64 as u64
            }
            #[inline(always)]
            fn get(registers: &Registers, index: u8) -> Self {
                let get: fn(&Registers, u8) -> $unsigned = $get;
                get(registers, index)
            }
            #[inline(always)]
            fn set(self, registers: &mut Registers, index: u8) {
                let set: fn(&mut Registers, u8, $unsigned) = $set;
                set(registers, index, self);
            }
        }
    };
}

// An 8-bit register number with bit 4 set is AH, CH, DH or BH: bits 8..16 of the register below it.
width!(u8, i8,
get: |registers, index| {
    (registers.read(index & 15) >> ((index & 16) >> 1)) as u8
},
set: |registers, index, value| {
    let shift = (index & 16) >> 1;
    let rest = registers.read(index & 15) & !(0xff << shift);
    registers.write(index & 15, rest | (u64::from(value) << shift));
});
width!(u16, i16,
get: |registers, index| registers.read(index) as u16,
set: |registers, index, value| {
    let rest = registers.read(index) & !0xffff;
    registers.write(index, rest | u64::from(value));
});
width!(u32, i32,
    get: |registers, index| registers.read(index) as u32,
    set: |registers, index, value| registers.write(index, u64::from(value)));
width!(u64, i64,
    get: |registers, index| registers.read(index),
    set: |registers, index, value| registers.write(index, value));
