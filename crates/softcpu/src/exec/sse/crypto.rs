//! AES (FIPS 197), PCLMULQDQ and CRC32.

use super::lanes::{all_dwords, from_all_dwords};
use super::{Xmm, XmmImmediate};
use crate::cpu::Cpu;
use crate::op::{Flow, Op};
use crate::state::Width;
use crate::tri;

/// Doubling in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
const fn double(x: u8) -> u8 {
    x << 1 ^ if x & 0x80 != 0 { 0x1b } else { 0 }
}

/// Product in the same field.
const fn multiply(a: u8, b: u8) -> u8 {
    let (mut product, mut a, mut b) = (0, a, b);
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = double(a);
        b >>= 1;
    }
    product
}

/// The substitution box, from its definition: the inverse in the field, then an affine map.
static SUBSTITUTE: [u8; 256] = {
    let mut table = [0; 256];
    // Powers of 3 run through all elements but zero; of its inverse (f6h), through their inverses.
    let (mut power, mut inverse) = (1u8, 1u8);
    let mut count = 0;
    while count < 255 {
        let rotated = inverse
            ^ inverse.rotate_left(1)
            ^ inverse.rotate_left(2)
            ^ inverse.rotate_left(3)
            ^ inverse.rotate_left(4);
        table[power as usize] = rotated ^ 0x63;
        power = multiply(power, 3);
        inverse = multiply(inverse, 0xf6);
        count += 1;
    }
    table[0] = 0x63;
    table
};

static UNSUBSTITUTE: [u8; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        table[SUBSTITUTE[index] as usize] = index as u8;
        index += 1;
    }
    table
};

/// What a byte of row 0 contributes to its column after substitution and mixing with the matrix whose first column is
/// `factors`; for row `r` it is rotated by `r` bytes.
const fn mixed(table: &[u8; 256], factors: [u8; 4]) -> [u32; 256] {
    let mut mixed = [0; 256];
    let mut index = 0;
    while index < 256 {
        let value = table[index];
        mixed[index] = u32::from_le_bytes([
            multiply(value, factors[0]),
            multiply(value, factors[1]),
            multiply(value, factors[2]),
            multiply(value, factors[3]),
        ]);
        index += 1;
    }
    mixed
}

static ENCRYPT: [u32; 256] = mixed(&SUBSTITUTE, [2, 1, 1, 3]);
static DECRYPT: [u32; 256] = mixed(&UNSUBSTITUTE, [14, 9, 13, 11]);

/// Whether rows move left (encryption) or right.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    Left,
    Right,
}

impl Rows {
    /// Place of the byte that comes to `row` of `column`.
    #[inline(always)]
    fn from(self, column: usize, row: usize) -> usize {
        let from = if self == Self::Left {
            column + row
        } else {
            column + 4 - row
        };
        from % 4 * 4 + row
    }
}

/// Moves rows and substitutes.
fn substitute(state: [u8; 16], table: &[u8; 256], rows: Rows) -> [u8; 16] {
    std::array::from_fn(|place| table[usize::from(state[rows.from(place / 4, place % 4)])])
}

/// Moves rows, substitutes and mixes columns.
fn round(state: [u8; 16], table: &[u32; 256], rows: Rows) -> u128 {
    from_all_dwords(std::array::from_fn(|column| {
        (0..4).fold(0, |sum, row| {
            let byte = state[rows.from(column, row)];
            sum ^ table[usize::from(byte)].rotate_left(8 * row as u32)
        })
    }))
}

macro_rules! aes {
    ($($name:ident($state:ident) = $value:expr;)*) => {$(
        #[doc = concat!(stringify!($name), ": the first operand is the state, the second the round key.")]
        pub(crate) struct $name;

        impl Xmm for $name {
            fn xmm(a: u128, b: u128) -> u128 {
                let $state = a.to_le_bytes();
                $value ^ b
            }
        }
    )*};
}

aes! {
    Aesenc(state) = round(state, &ENCRYPT, Rows::Left);
    Aesenclast(state) = u128::from_le_bytes(substitute(state, &SUBSTITUTE, Rows::Left));
    Aesdec(state) = round(state, &DECRYPT, Rows::Right);
    Aesdeclast(state) = u128::from_le_bytes(substitute(state, &UNSUBSTITUTE, Rows::Right));
}

/// AESIMC.
pub(crate) struct Aesimc;
/// AESKEYGENASSIST.
pub(crate) struct Aeskeygenassist;
/// PCLMULQDQ.
pub(crate) struct Pclmulqdq;

impl Xmm for Aesimc {
    fn xmm(_a: u128, b: u128) -> u128 {
        // The table substitutes backwards first.
        from_all_dwords(all_dwords(b).map(|column| {
            column
                .to_le_bytes()
                .into_iter()
                .enumerate()
                .fold(0, |sum, (row, byte)| {
                    let index = SUBSTITUTE[usize::from(byte)];
                    sum ^ DECRYPT[usize::from(index)].rotate_left(8 * row as u32)
                })
        }))
    }
}

impl XmmImmediate for Aeskeygenassist {
    fn xmm(_a: u128, b: u128, immediate: u8) -> u128 {
        let substitute = |word: u32| {
            u32::from_le_bytes(word.to_le_bytes().map(|byte| SUBSTITUTE[usize::from(byte)]))
        };
        let words = all_dwords(b);
        let (low, high) = (substitute(words[1]), substitute(words[3]));
        let constant = u32::from(immediate);
        from_all_dwords([
            low,
            low.rotate_right(8) ^ constant,
            high,
            high.rotate_right(8) ^ constant,
        ])
    }
}

impl XmmImmediate for Pclmulqdq {
    fn xmm(a: u128, b: u128, immediate: u8) -> u128 {
        let left = if immediate & 0x01 == 0 {
            a as u64
        } else {
            (a >> 64) as u64
        };
        let right = if immediate & 0x10 == 0 {
            b as u64
        } else {
            (b >> 64) as u64
        };
        carryless(left, right)
    }
}

/// Product of polynomials over GF(2), four bits of `b` at a time.
fn carryless(a: u64, b: u64) -> u128 {
    let a = u128::from(a);
    let mut multiples = [0u128; 16];
    for digit in 1..16usize {
        multiples[digit] = multiples[digit >> 1] << 1 ^ if digit & 1 != 0 { a } else { 0 };
    }
    (0..16).rev().fold(0, |product, place| {
        product << 4 ^ multiples[(b >> (4 * place) & 15) as usize]
    })
}

/// CRC-32C of one byte, reflected.
static CASTAGNOLI: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = value >> 1 ^ if value & 1 != 0 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

#[inline(always)]
fn crc<W: Width>(start: u32, data: W) -> u32 {
    let mut rest = data.zero_extend();
    (0..W::BYTES).fold(start, |crc, _| {
        let index = (crc ^ rest as u32) & 0xff;
        rest >>= 8;
        crc >> 8 ^ CASTAGNOLI[index as usize]
    })
}

/// CRC32 of a register of width `W`.
pub(crate) fn crc_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = crc(cpu.regs.read(op.a) as u32, W::get(&cpu.regs, op.b));
    cpu.regs.write(op.a, value.into());
    Flow::Next
}

/// CRC32 of memory of width `W`.
pub(crate) fn crc_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let data = tri!(cpu.load_operand::<W>(op));
    let value = crc(cpu.regs.read(op.a) as u32, data);
    cpu.regs.write(op.a, value.into());
    Flow::Next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(hex: u128) -> u128 {
        hex.swap_bytes()
    }

    #[test]
    fn one_round_is_that_of_the_standard() {
        // FIPS 197, appendix B: the state at the start of round 1, and what round 1 makes of it.
        let state = block(0x193d_e3be_a0f4_e22b_9ac6_8d2a_e9f8_4808);
        let key = block(0xa0fa_fe17_8854_2cb1_23a3_3939_2a6c_7605);
        let next = block(0xa49c_7ff2_689f_352b_6b5b_ea43_026a_5049);
        assert_eq!(Aesenc::xmm(state, key), next);
    }

    #[test]
    fn decryption_undoes_encryption() {
        let state = 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210;
        assert_eq!(Aesdeclast::xmm(Aesenclast::xmm(state, 0), 0), state);
        let mixed = Aesenc::xmm(state, 0);
        // The equivalent inverse cipher undoes the mixing after the substitution.
        assert_eq!(Aesdeclast::xmm(Aesimc::xmm(0, mixed), 0), state);
    }

    #[test]
    fn carryless_products() {
        assert_eq!(carryless(3, 3), 5);
        assert_eq!(carryless(u64::MAX, 2), u128::from(u64::MAX) << 1);
        assert_eq!(carryless(1 << 63, 1 << 63), 1 << 126);
    }

    #[test]
    fn crc_of_the_check_string() {
        let crc = b"123456789"
            .iter()
            .fold(u32::MAX, |sum, &byte| crc(sum, byte));
        assert_eq!(!crc, 0xe306_9283);
    }
}
