//! Lane-wise integer operations, as types: the same function on both halves of an XMM register and on MMX.

use super::Xmm;
use super::lanes::{
    bytes, dwords, from_dwords, from_signed_words, halves, join, signed_bytes, signed_dwords,
    signed_words, words, zip_i8, zip_i16, zip_i32, zip_u8, zip_u16, zip_u32,
};
use crate::exec::mmx::Mmx;

/// Operations on 64 bits at a time.
macro_rules! vertical {
    ($($name:ident($a:ident, $b:ident) = $value:expr;)*) => {$(
        #[doc = concat!(stringify!($name), " on both register files.")]
        pub(crate) struct $name;

        impl $name {
            #[inline(always)]
            fn half($a: u64, $b: u64) -> u64 {
                $value
            }
        }

        impl Mmx for $name {
            #[inline(always)]
            fn mmx(a: u64, b: u64) -> u64 {
                Self::half(a, b)
            }
        }

        impl Xmm for $name {
            #[inline(always)]
            fn xmm(a: u128, b: u128) -> u128 {
                let ((a0, a1), (b0, b1)) = (halves(a), halves(b));
                join(Self::half(a0, b0), Self::half(a1, b1))
            }
        }
    )*};
}

vertical! {
    Pand(a, b) = a & b;
    Pandn(a, b) = !a & b;
    Por(a, b) = a | b;
    Pxor(a, b) = a ^ b;

    Paddb(a, b) = add_swar(a, b, BYTES);
    Paddw(a, b) = add_swar(a, b, WORDS);
    Paddd(a, b) = add_swar(a, b, DWORDS);
    Paddq(a, b) = a.wrapping_add(b);
    Psubb(a, b) = sub_swar(a, b, BYTES);
    Psubw(a, b) = sub_swar(a, b, WORDS);
    Psubd(a, b) = sub_swar(a, b, DWORDS);
    Psubq(a, b) = a.wrapping_sub(b);
    Paddsb(a, b) = zip_i8(a, b, i8::saturating_add);
    Paddsw(a, b) = zip_i16(a, b, i16::saturating_add);
    Paddusb(a, b) = add_saturated(a, b, BYTES);
    Paddusw(a, b) = add_saturated(a, b, WORDS);
    Psubsb(a, b) = zip_i8(a, b, i8::saturating_sub);
    Psubsw(a, b) = zip_i16(a, b, i16::saturating_sub);
    Psubusb(a, b) = sub_swar(a, b, BYTES) & !below(a, b, BYTES);
    Psubusw(a, b) = sub_swar(a, b, WORDS) & !below(a, b, WORDS);

    Pcmpeqb(a, b) = equal(a, b, BYTES);
    Pcmpeqw(a, b) = equal(a, b, WORDS);
    Pcmpeqd(a, b) = equal(a, b, DWORDS);
    Pcmpeqq(a, b) = if a == b { u64::MAX } else { 0 };
    Pcmpgtb(a, b) = below(b ^ BYTES.tops, a ^ BYTES.tops, BYTES);
    Pcmpgtw(a, b) = below(b ^ WORDS.tops, a ^ WORDS.tops, WORDS);
    Pcmpgtd(a, b) = zip_i32(a, b, |x, y| if x > y { -1 } else { 0 });
    Pcmpgtq(a, b) = if a as i64 > b as i64 { u64::MAX } else { 0 };

    Pmaxub(a, b) = choose(below(a, b, BYTES), b, a);
    Pmaxsb(a, b) = choose(below(a ^ BYTES.tops, b ^ BYTES.tops, BYTES), b, a);
    Pmaxuw(a, b) = choose(below(a, b, WORDS), b, a);
    Pmaxsw(a, b) = choose(below(a ^ WORDS.tops, b ^ WORDS.tops, WORDS), b, a);
    Pmaxud(a, b) = zip_u32(a, b, Ord::max);
    Pmaxsd(a, b) = zip_i32(a, b, Ord::max);
    Pminub(a, b) = choose(below(a, b, BYTES), a, b);
    Pminsb(a, b) = choose(below(a ^ BYTES.tops, b ^ BYTES.tops, BYTES), a, b);
    Pminuw(a, b) = choose(below(a, b, WORDS), a, b);
    Pminsw(a, b) = choose(below(a ^ WORDS.tops, b ^ WORDS.tops, WORDS), a, b);
    Pminud(a, b) = zip_u32(a, b, Ord::min);
    Pminsd(a, b) = zip_i32(a, b, Ord::min);
    Pavgb(a, b) = average(a, b, BYTES);
    Pavgw(a, b) = average(a, b, WORDS);
    Pabsb(_a, b) = zip_u8(b, b, |x, _| (x as i8).unsigned_abs());
    Pabsw(_a, b) = zip_u16(b, b, |x, _| (x as i16).unsigned_abs());
    Pabsd(_a, b) = zip_u32(b, b, |x, _| (x as i32).unsigned_abs());
    Psignb(a, b) = zip_i8(a, b, |x, y| signed(x.into(), y.into()) as i8);
    Psignw(a, b) = zip_i16(a, b, |x, y| signed(x.into(), y.into()) as i16);
    Psignd(a, b) = zip_i32(a, b, |x, y| signed(x.into(), y.into()) as i32);

    Pmullw(a, b) = zip_u16(a, b, u16::wrapping_mul);
    Pmulld(a, b) = zip_u32(a, b, u32::wrapping_mul);
    Pmulhw(a, b) = zip_i16(a, b, |x, y| ((i32::from(x) * i32::from(y)) >> 16) as i16);
    Pmulhuw(a, b) = zip_u16(a, b, |x, y| ((u32::from(x) * u32::from(y)) >> 16) as u16);
    Pmulhrsw(a, b) = zip_i16(a, b, |x, y| {
        ((((i32::from(x) * i32::from(y)) >> 14) + 1) >> 1) as i16
    });
    Pmuludq(a, b) = (a & 0xffff_ffff) * (b & 0xffff_ffff);
    Pmuldq(a, b) = (i64::from(a as i32) * i64::from(b as i32)) as u64;
    Pmaddwd(a, b) = multiply_add_words(a, b);
    Pmaddubsw(a, b) = multiply_add_bytes(a, b);
    Psadbw(a, b) = sum_of_differences(a, b);
}

/// Lanes side by side in 64 bits, worked on all at once.
#[derive(Clone, Copy)]
struct Lanes {
    /// The top bit of each lane.
    tops: u64,
    /// Bits in a lane.
    bits: u32,
}

const BYTES: Lanes = Lanes {
    tops: 0x8080_8080_8080_8080,
    bits: 8,
};
const WORDS: Lanes = Lanes {
    tops: 0x8000_8000_8000_8000,
    bits: 16,
};
const DWORDS: Lanes = Lanes {
    tops: 0x8000_0000_8000_0000,
    bits: 32,
};

impl Lanes {
    /// Ones in each lane whose top bit is set in `marks`, which has no other bits.
    #[inline(always)]
    fn spread(self, marks: u64) -> u64 {
        (marks >> (self.bits - 1)).wrapping_mul(u64::MAX >> (64 - self.bits))
    }

    /// The lowest bit of each lane.
    #[inline(always)]
    fn ones(self) -> u64 {
        self.tops >> (self.bits - 1)
    }
}

#[inline(always)]
fn add_swar(a: u64, b: u64, Lanes { tops, .. }: Lanes) -> u64 {
    ((a & !tops).wrapping_add(b & !tops)) ^ ((a ^ b) & tops)
}

#[inline(always)]
fn sub_swar(a: u64, b: u64, Lanes { tops, .. }: Lanes) -> u64 {
    ((a | tops).wrapping_sub(b & !tops)) ^ ((a ^ !b) & tops)
}

/// Ones in each lane where `a` is less than `b`, as unsigned numbers: where the subtraction borrows.
#[inline(always)]
fn below(a: u64, b: u64, lanes: Lanes) -> u64 {
    let difference = sub_swar(a, b, lanes);
    lanes.spread(((!a & b) | (!(a ^ b) & difference)) & lanes.tops)
}

/// Unsigned sums, ones where they carry.
#[inline(always)]
fn add_saturated(a: u64, b: u64, lanes: Lanes) -> u64 {
    let sum = add_swar(a, b, lanes);
    sum | lanes.spread(((a & b) | ((a | b) & !sum)) & lanes.tops)
}

/// Ones in each lane where `a` and `b` agree.
#[inline(always)]
fn equal(a: u64, b: u64, lanes: Lanes) -> u64 {
    // Not an exclusive or: compilers load both halves for it at once, and wait for the stores that filled them.
    let (difference, rest) = (sub_swar(a, b, lanes), !lanes.tops);
    lanes.spread(!(((difference & rest) + rest) | difference | rest))
}

/// Bits of `a` where `mask` is set, else of `b`.
#[inline(always)]
fn choose(mask: u64, a: u64, b: u64) -> u64 {
    (a & mask) | (b & !mask)
}

/// Averages, rounded up.
#[inline(always)]
fn average(a: u64, b: u64, lanes: Lanes) -> u64 {
    (a | b) - (((a ^ b) & !lanes.ones()) >> 1)
}

/// The sum of the absolute differences of bytes.
#[inline(always)]
fn sum_of_differences(a: u64, b: u64) -> u64 {
    const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
    let negative = below(a, b, BYTES);
    let difference = sub_swar(a, b, BYTES) ^ negative;
    let absolute = add_swar(difference, negative & BYTES.ones(), BYTES);
    let pairs = (absolute & EVEN) + ((absolute >> 8) & EVEN);
    pairs.wrapping_mul(0x0001_0001_0001_0001) >> 48
}

/// `x` with the sign of `y` applied.
#[inline(always)]
fn signed(x: i64, y: i64) -> i64 {
    x * y.signum()
}

#[inline(always)]
fn multiply_add_words(a: u64, b: u64) -> u64 {
    let (a, b) = (signed_words(a), signed_words(b));
    let product = |lane: usize| i32::from(a[lane]) * i32::from(b[lane]);
    let sum = |lane: usize| product(lane).wrapping_add(product(lane + 1)) as u32;
    from_dwords([sum(0), sum(2)])
}

/// Unsigned bytes of `a` with signed bytes of `b`.
#[inline(always)]
fn multiply_add_bytes(a: u64, b: u64) -> u64 {
    let (a, b) = (bytes(a), signed_bytes(b));
    let product = |lane: usize| i32::from(a[lane]) * i32::from(b[lane]);
    from_signed_words(std::array::from_fn(|lane| {
        saturate(product(2 * lane) + product(2 * lane + 1))
    }))
}

#[inline(always)]
fn saturate(value: i32) -> i16 {
    value.clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

/// Horizontal operations: neighbours of the first operand, then of the second.
macro_rules! horizontal {
    ($($name:ident $split:ident $half:literal $function:expr;)*) => {$(
        #[doc = concat!(stringify!($name), " on both register files.")]
        pub(crate) struct $name;

        impl $name {
            /// The results of one 64-bit operand, in the low half of the answer.
            #[inline(always)]
            fn pairs(value: u64) -> u64 {
                let lanes = $split(value);
                let mut packed = 0;
                for index in (0..$half).rev() {
                    let result: u64 = $function(lanes[2 * index], lanes[2 * index + 1]);
                    packed = packed << (32 / $half) | result;
                }
                packed
            }
        }

        impl Mmx for $name {
            fn mmx(a: u64, b: u64) -> u64 {
                Self::pairs(a) | Self::pairs(b) << 32
            }
        }

        impl Xmm for $name {
            fn xmm(a: u128, b: u128) -> u128 {
                let ((a0, a1), (b0, b1)) = (halves(a), halves(b));
                join(
                    Self::pairs(a0) | Self::pairs(a1) << 32,
                    Self::pairs(b0) | Self::pairs(b1) << 32,
                )
            }
        }
    )*};
}

horizontal! {
    Phaddw words 2 |x: u16, y: u16| u64::from(x.wrapping_add(y));
    Phsubw words 2 |x: u16, y: u16| u64::from(x.wrapping_sub(y));
    Phaddsw signed_words 2 |x: i16, y: i16| u64::from(x.saturating_add(y) as u16);
    Phsubsw signed_words 2 |x: i16, y: i16| u64::from(x.saturating_sub(y) as u16);
    Phaddd dwords 1 |x: u32, y: u32| u64::from(x.wrapping_add(y));
    Phsubd signed_dwords 1 |x: i32, y: i32| u64::from(x.wrapping_sub(y) as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs with carries, borrows, equal and extreme lanes.
    fn pairs() -> Vec<(u64, u64)> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state = state
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            state ^ (state >> 29)
        };
        let edges = [
            0,
            u64::MAX,
            0x8080_8080_8080_8080,
            0x7f80_ff01_0080_7fff,
            0x8000_7fff_0001_ffff,
        ];
        let mut pairs: Vec<_> = (0..2000).map(|_| (next(), next())).collect();
        pairs.extend(
            edges
                .iter()
                .flat_map(|&a| edges.iter().map(move |&b| (a, b))),
        );
        pairs.extend((0..200).map(|_| next()).map(|a| (a, a)));
        pairs
    }

    #[test]
    fn lanes_do_not_disturb_each_other() {
        fn ones(holds: bool) -> u8 {
            if holds { 0xff } else { 0 }
        }
        for (a, b) in pairs() {
            assert_eq!(Paddb::mmx(a, b), zip_u8(a, b, u8::wrapping_add));
            assert_eq!(Psubb::mmx(a, b), zip_u8(a, b, u8::wrapping_sub));
            assert_eq!(Paddw::mmx(a, b), zip_u16(a, b, u16::wrapping_add));
            assert_eq!(Psubw::mmx(a, b), zip_u16(a, b, u16::wrapping_sub));
            assert_eq!(Paddd::mmx(a, b), zip_u32(a, b, u32::wrapping_add));
            assert_eq!(Psubd::mmx(a, b), zip_u32(a, b, u32::wrapping_sub));
            assert_eq!(Paddusb::mmx(a, b), zip_u8(a, b, u8::saturating_add));
            assert_eq!(Psubusb::mmx(a, b), zip_u8(a, b, u8::saturating_sub));
            assert_eq!(Paddusw::mmx(a, b), zip_u16(a, b, u16::saturating_add));
            assert_eq!(Psubusw::mmx(a, b), zip_u16(a, b, u16::saturating_sub));
            assert_eq!(Pcmpeqb::mmx(a, b), zip_u8(a, b, |x, y| ones(x == y)));
            assert_eq!(
                Pcmpgtb::mmx(a, b),
                zip_u8(a, b, |x, y| ones(x as i8 > y as i8))
            );
            assert_eq!(Pcmpgtw::mmx(a, b), zip_i16(a, b, |x, y| -i16::from(x > y)));
            assert_eq!(Pcmpeqw::mmx(a, b), zip_i16(a, b, |x, y| -i16::from(x == y)));
            assert_eq!(Pcmpeqd::mmx(a, b), zip_i32(a, b, |x, y| -i32::from(x == y)));
            assert_eq!(Pmaxub::mmx(a, b), zip_u8(a, b, Ord::max));
            assert_eq!(Pminub::mmx(a, b), zip_u8(a, b, Ord::min));
            assert_eq!(Pmaxsw::mmx(a, b), zip_i16(a, b, Ord::max));
            assert_eq!(Pminsw::mmx(a, b), zip_i16(a, b, Ord::min));
            assert_eq!(
                Pavgb::mmx(a, b),
                zip_u8(a, b, |x, y| x.midpoint(y) + ((x ^ y) & 1))
            );
            let (x, y) = (a.to_le_bytes(), b.to_le_bytes());
            let sum: u64 = (0..8)
                .map(|lane| u64::from(x[lane].abs_diff(y[lane])))
                .sum();
            assert_eq!(Psadbw::mmx(a, b), sum);
        }
    }

    #[test]
    fn horizontal_results_are_first_then_second() {
        assert_eq!(
            Phaddw::mmx(0x0004_0003_0002_0001, 0x0040_0030_0020_0010),
            0x0070_0030_0007_0003
        );
        assert_eq!(
            Phsubd::mmx(0x0000_0001_0000_0003, 0x0000_0005_0000_0004),
            0xffff_ffff_0000_0002
        );
    }
}
