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

    Paddb(a, b) = add_swar(a, b, 0x8080_8080_8080_8080);
    Paddw(a, b) = add_swar(a, b, 0x8000_8000_8000_8000);
    Paddd(a, b) = add_swar(a, b, 0x8000_0000_8000_0000);
    Paddq(a, b) = a.wrapping_add(b);
    Psubb(a, b) = sub_swar(a, b, 0x8080_8080_8080_8080);
    Psubw(a, b) = sub_swar(a, b, 0x8000_8000_8000_8000);
    Psubd(a, b) = sub_swar(a, b, 0x8000_0000_8000_0000);
    Psubq(a, b) = a.wrapping_sub(b);
    Paddsb(a, b) = zip_i8(a, b, i8::saturating_add);
    Paddsw(a, b) = zip_i16(a, b, i16::saturating_add);
    Paddusb(a, b) = zip_u8(a, b, u8::saturating_add);
    Paddusw(a, b) = zip_u16(a, b, u16::saturating_add);
    Psubsb(a, b) = zip_i8(a, b, i8::saturating_sub);
    Psubsw(a, b) = zip_i16(a, b, i16::saturating_sub);
    Psubusb(a, b) = zip_u8(a, b, u8::saturating_sub);
    Psubusw(a, b) = zip_u16(a, b, u16::saturating_sub);

    Pcmpeqb(a, b) = equal_bytes(a, b);
    Pcmpeqw(a, b) = zip_u16(a, b, |x, y| if x == y { u16::MAX } else { 0 });
    Pcmpeqd(a, b) = zip_u32(a, b, |x, y| if x == y { u32::MAX } else { 0 });
    Pcmpeqq(a, b) = if a == b { u64::MAX } else { 0 };
    Pcmpgtb(a, b) = zip_i8(a, b, |x, y| if x > y { -1 } else { 0 });
    Pcmpgtw(a, b) = zip_i16(a, b, |x, y| if x > y { -1 } else { 0 });
    Pcmpgtd(a, b) = zip_i32(a, b, |x, y| if x > y { -1 } else { 0 });
    Pcmpgtq(a, b) = if a as i64 > b as i64 { u64::MAX } else { 0 };

    Pmaxub(a, b) = zip_u8(a, b, Ord::max);
    Pmaxsb(a, b) = zip_i8(a, b, Ord::max);
    Pmaxuw(a, b) = zip_u16(a, b, Ord::max);
    Pmaxsw(a, b) = zip_i16(a, b, Ord::max);
    Pmaxud(a, b) = zip_u32(a, b, Ord::max);
    Pmaxsd(a, b) = zip_i32(a, b, Ord::max);
    Pminub(a, b) = zip_u8(a, b, Ord::min);
    Pminsb(a, b) = zip_i8(a, b, Ord::min);
    Pminuw(a, b) = zip_u16(a, b, Ord::min);
    Pminsw(a, b) = zip_i16(a, b, Ord::min);
    Pminud(a, b) = zip_u32(a, b, Ord::min);
    Pminsd(a, b) = zip_i32(a, b, Ord::min);
    Pavgb(a, b) = zip_u8(a, b, |x, y| ((u16::from(x) + u16::from(y) + 1) >> 1) as u8);
    Pavgw(a, b) = zip_u16(a, b, |x, y| ((u32::from(x) + u32::from(y) + 1) >> 1) as u16);
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
    Psadbw(a, b) = {
        let (a, b) = (bytes(a), bytes(b));
        (0..8).map(|lane| u64::from(a[lane].abs_diff(b[lane]))).sum()
    };
}

/// Adds lanes whose top bits are `tops`.
#[inline(always)]
fn add_swar(a: u64, b: u64, tops: u64) -> u64 {
    ((a & !tops).wrapping_add(b & !tops)) ^ ((a ^ b) & tops)
}

/// Subtracts lanes whose top bits are `tops`.
#[inline(always)]
fn sub_swar(a: u64, b: u64, tops: u64) -> u64 {
    ((a | tops).wrapping_sub(b & !tops)) ^ ((a ^ !b) & tops)
}

/// Ones in each byte where `a` and `b` agree.
#[inline(always)]
fn equal_bytes(a: u64, b: u64) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let difference = a ^ b;
    // Bit 7 of each byte: set where the difference is zero.
    let zero = !((difference & LOW).wrapping_add(LOW) | difference | LOW);
    (zero >> 7).wrapping_mul(0xff)
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

    #[test]
    fn lanes_do_not_disturb_each_other() {
        let (a, b) = (0xff80_7f01_00fe_0280, 0x0180_0101_ff01_fe80);
        assert_eq!(Paddb::mmx(a, b), zip_u8(a, b, u8::wrapping_add));
        assert_eq!(Psubb::mmx(a, b), zip_u8(a, b, u8::wrapping_sub));
        assert_eq!(Paddw::mmx(a, b), zip_u16(a, b, u16::wrapping_add));
        assert_eq!(Psubw::mmx(a, b), zip_u16(a, b, u16::wrapping_sub));
        assert_eq!(Pcmpeqb::mmx(a, b), 0x00ff_00ff_0000_00ff);
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
