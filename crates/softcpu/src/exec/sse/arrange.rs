//! Operations that move lanes: pack, unpack, shuffle, align, blend, extend; and the few that look at all lanes at
//! once (MPSADBW, PHMINPOSUW).

use super::lanes::{
    all_bytes, all_dwords, all_words, bytes, from_all_bytes, from_all_dwords, from_all_words,
    from_bytes, from_dwords, from_words, halves, join, signed_dwords, signed_words, words,
};
use super::{Xmm, XmmImmediate};
use crate::exec::mmx::{Mmx, MmxImmediate};

/// Packs: lanes of the first operand, then of the second, narrowed. `$narrow` packs 64 bits into the low 32.
macro_rules! packs {
    ($($name:ident($value:ident) = $narrow:expr;)*) => {$(
        #[doc = concat!(stringify!($name), " on both register files.")]
        pub(crate) struct $name;

        impl $name {
            #[inline(always)]
            fn narrow($value: u64) -> u64 {
                $narrow
            }
        }

        impl Mmx for $name {
            fn mmx(a: u64, b: u64) -> u64 {
                Self::narrow(a) | Self::narrow(b) << 32
            }
        }

        impl Xmm for $name {
            fn xmm(a: u128, b: u128) -> u128 {
                let ((a0, a1), (b0, b1)) = (halves(a), halves(b));
                join(
                    Self::narrow(a0) | Self::narrow(a1) << 32,
                    Self::narrow(b0) | Self::narrow(b1) << 32,
                )
            }
        }
    )*};
}

packs! {
    Packsswb(value) = narrow_words(value, |word| word.clamp(-128, 127) as u8);
    Packuswb(value) = clamp_words(value);
    Packssdw(value) = narrow_dwords(value, |dword| dword.clamp(-32768, 32767) as u16);
    Packusdw(value) = narrow_dwords(value, |dword| dword.clamp(0, 65535) as u16);
}

/// Four signed words to four bytes from 0 to 255, all at once.
#[inline(always)]
fn clamp_words(value: u64) -> u64 {
    const ONES: u64 = 0x0001_0001_0001_0001;
    let negative = ((value >> 15) & ONES).wrapping_mul(0xffff);
    let positive = value & !negative;
    // Adding 7f00h to bits 8 to 14 carries into bit 15 where any of them is set.
    let large = (((positive & (ONES * 0x7f00)) + ONES * 0x7f00) >> 15) & ONES;
    let bytes = (positive | large.wrapping_mul(0xff)) & (ONES * 0xff);
    let pairs = (bytes | bytes >> 8) & 0x0000_ffff_0000_ffff;
    (pairs | pairs >> 16) & 0xffff_ffff
}

#[inline(always)]
fn narrow_words(value: u64, function: impl Fn(i16) -> u8) -> u64 {
    let words = signed_words(value);
    let byte = |lane: usize| words.get(lane).map_or(0, |&word| function(word));
    from_bytes(std::array::from_fn(byte))
}

#[inline(always)]
fn narrow_dwords(value: u64, function: impl Fn(i32) -> u16) -> u64 {
    let dwords = signed_dwords(value);
    let word = |lane: usize| dwords.get(lane).map_or(0, |&dword| function(dword));
    from_words(std::array::from_fn(word))
}

/// The low four bytes, each in a word of its own.
#[inline(always)]
fn spread_bytes(value: u64) -> u64 {
    let words = spread_words(value);
    (words | words << 8) & 0x00ff_00ff_00ff_00ff
}

/// The low two words, each in a doubleword of its own.
#[inline(always)]
fn spread_words(value: u64) -> u64 {
    let low = value & 0xffff_ffff;
    (low | low << 16) & 0x0000_ffff_0000_ffff
}

/// Interleaves the low 32 bits of `a` and `b`.
#[inline(always)]
fn interleave_bytes(a: u64, b: u64) -> u64 {
    spread_bytes(a) | spread_bytes(b) << 8
}

#[inline(always)]
fn interleave_words(a: u64, b: u64) -> u64 {
    spread_words(a) | spread_words(b) << 16
}

#[inline(always)]
fn interleave_dwords(a: u64, b: u64) -> u64 {
    from_dwords([a as u32, b as u32])
}

/// Unpacks of the low and of the high half.
macro_rules! unpacks {
    ($($low:ident $high:ident $interleave:ident;)*) => {$(
        #[doc = concat!(stringify!($low), " on both register files.")]
        pub(crate) struct $low;
        #[doc = concat!(stringify!($high), " on both register files.")]
        pub(crate) struct $high;

        impl Mmx for $low {
            fn mmx(a: u64, b: u64) -> u64 {
                $interleave(a, b)
            }
        }

        impl Mmx for $high {
            fn mmx(a: u64, b: u64) -> u64 {
                $interleave(a >> 32, b >> 32)
            }
        }

        impl Xmm for $low {
            fn xmm(a: u128, b: u128) -> u128 {
                let (a, b) = (a as u64, b as u64);
                join($interleave(a, b), $interleave(a >> 32, b >> 32))
            }
        }

        impl Xmm for $high {
            fn xmm(a: u128, b: u128) -> u128 {
                $low::xmm(a >> 64, b >> 64)
            }
        }
    )*};
}

unpacks! {
    Punpcklbw Punpckhbw interleave_bytes;
    Punpcklwd Punpckhwd interleave_words;
    Punpckldq Punpckhdq interleave_dwords;
}

/// Operations on whole XMM registers.
macro_rules! whole {
    ($($name:ident($a:ident, $b:ident) = $value:expr;)*) => {$(
        #[doc = concat!(stringify!($name), ".")]
        pub(crate) struct $name;

        impl Xmm for $name {
            #[inline(always)]
            fn xmm($a: u128, $b: u128) -> u128 {
                $value
            }
        }
    )*};
}

/// Low 64 bits.
const LOW: u128 = u64::MAX as u128;

whole! {
    Punpcklqdq(a, b) = a & LOW | b << 64;
    Punpckhqdq(a, b) = a >> 64 | b & !LOW;
    Phminposuw(_a, b) = smallest_word(b);

    Pmovsxbw(_a, b) = extend(b, 8, 16, true);
    Pmovsxbd(_a, b) = extend(b, 8, 32, true);
    Pmovsxbq(_a, b) = extend(b, 8, 64, true);
    Pmovsxwd(_a, b) = extend(b, 16, 32, true);
    Pmovsxwq(_a, b) = extend(b, 16, 64, true);
    Pmovsxdq(_a, b) = extend(b, 32, 64, true);
    Pmovzxbw(_a, b) = extend(b, 8, 16, false);
    Pmovzxbd(_a, b) = extend(b, 8, 32, false);
    Pmovzxbq(_a, b) = extend(b, 8, 64, false);
    Pmovzxwd(_a, b) = extend(b, 16, 32, false);
    Pmovzxwq(_a, b) = extend(b, 16, 64, false);
    Pmovzxdq(_a, b) = extend(b, 32, 64, false);

    Movsldup(_a, b) = { let d = all_dwords(b); from_all_dwords([d[0], d[0], d[2], d[2]]) };
    Movshdup(_a, b) = { let d = all_dwords(b); from_all_dwords([d[1], d[1], d[3], d[3]]) };
    Movhlps(a, b) = a & !LOW | b >> 64;
    Movlhps(a, b) = a & LOW | b << 64;
    Movss(a, b) = a & !0xffff_ffff | b & 0xffff_ffff;
    Movsd(a, b) = a & !LOW | b & LOW;
}

/// Widens the lowest lanes of `from` bits to `to` bits.
#[inline(always)]
fn extend(value: u128, from: u32, to: u32, signed: bool) -> u128 {
    let mask = u64::MAX >> (64 - to);
    (0..128 / to).fold(0, |extended, lane| {
        let part = (value >> (lane * from)) as u64;
        let high = part << (64 - from);
        let part = if signed {
            ((high as i64) >> (64 - from)) as u64 & mask
        } else {
            high >> (64 - from)
        };
        extended | u128::from(part) << (lane * to)
    })
}

fn smallest_word(value: u128) -> u128 {
    let (index, word) = all_words(value)
        .into_iter()
        .enumerate()
        .min_by_key(|&(index, word)| (word, index))
        .unwrap_or((0, 0));
    u128::from(word) | (index as u128) << 16
}

/// PSHUFB: bytes of `a` picked by `b`; a set top bit gives zero.
pub(crate) struct Pshufb;

impl Mmx for Pshufb {
    fn mmx(a: u64, b: u64) -> u64 {
        let (a, b) = (bytes(a), bytes(b));
        from_bytes(b.map(|pick| {
            if pick & 0x80 == 0 {
                a[usize::from(pick & 7)]
            } else {
                0
            }
        }))
    }
}

impl Xmm for Pshufb {
    fn xmm(a: u128, b: u128) -> u128 {
        let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
        u128::from_le_bytes(b.map(|pick| {
            if pick & 0x80 == 0 {
                a[usize::from(pick & 15)]
            } else {
                0
            }
        }))
    }
}

/// Operations with an immediate on whole XMM registers.
macro_rules! with_immediate {
    ($($name:ident($a:ident, $b:ident, $immediate:ident) = $value:expr;)*) => {$(
        #[doc = concat!(stringify!($name), ".")]
        pub(crate) struct $name;

        impl XmmImmediate for $name {
            #[inline(always)]
            fn xmm($a: u128, $b: u128, $immediate: u8) -> u128 {
                $value
            }
        }
    )*};
}

/// Two bits of an immediate, as a lane number.
#[inline(always)]
fn pick(immediate: u8, lane: u32) -> usize {
    usize::from(immediate >> (2 * lane) & 3)
}

#[inline(always)]
fn shuffle_words(value: u64, immediate: u8) -> u64 {
    let lanes = words(value);
    from_words([0, 1, 2, 3].map(|lane| lanes[pick(immediate, lane)]))
}

with_immediate! {
    Pshufd(_a, b, immediate) = {
        let lanes = all_dwords(b);
        from_all_dwords([0, 1, 2, 3].map(|lane| lanes[pick(immediate, lane)]))
    };
    Pshuflw(_a, b, immediate) = b & !LOW | u128::from(shuffle_words(b as u64, immediate));
    Pshufhw(_a, b, immediate) = {
        b & LOW | u128::from(shuffle_words((b >> 64) as u64, immediate)) << 64
    };
    Shufps(a, b, immediate) = {
        let (x, y) = (all_dwords(a), all_dwords(b));
        from_all_dwords([
            x[pick(immediate, 0)],
            x[pick(immediate, 1)],
            y[pick(immediate, 2)],
            y[pick(immediate, 3)],
        ])
    };
    Shufpd(a, b, immediate) = {
        let low = if immediate & 1 == 0 { a & LOW } else { a >> 64 };
        let high = if immediate & 2 == 0 { b & LOW } else { b >> 64 };
        low | high << 64
    };
    Blendps(a, b, immediate) = {
        let (x, y) = (all_dwords(a), all_dwords(b));
        from_all_dwords(std::array::from_fn(|lane| {
            if immediate >> lane & 1 == 0 { x[lane] } else { y[lane] }
        }))
    };
    Blendpd(a, b, immediate) = {
        let low = if immediate & 1 == 0 { a } else { b };
        let high = if immediate & 2 == 0 { a } else { b };
        low & LOW | high & !LOW
    };
    Pblendw(a, b, immediate) = {
        let (x, y) = (all_words(a), all_words(b));
        from_all_words(std::array::from_fn(|lane| {
            if immediate >> lane & 1 == 0 { x[lane] } else { y[lane] }
        }))
    };
    Mpsadbw(a, b, immediate) = sums_of_differences(a, b, immediate);
}

/// INSERTPS from a register: the immediate picks the source lane too.
pub(crate) struct Insertps;

impl XmmImmediate for Insertps {
    fn xmm(a: u128, b: u128, immediate: u8) -> u128 {
        insert_single(a, all_dwords(b)[usize::from(immediate >> 6)], immediate)
    }
}

/// Puts `single` into the lane that bits 4 and 5 name, and zeros into the lanes of bits 0 to 3.
pub(crate) fn insert_single(a: u128, single: u32, immediate: u8) -> u128 {
    let mut lanes = all_dwords(a);
    lanes[usize::from(immediate >> 4 & 3)] = single;
    for (lane, value) in lanes.iter_mut().enumerate() {
        if immediate >> lane & 1 != 0 {
            *value = 0;
        }
    }
    from_all_dwords(lanes)
}

/// PSHUFW.
pub(crate) struct Pshufw;

impl MmxImmediate for Pshufw {
    fn mmx(_a: u64, b: u64, immediate: u8) -> u64 {
        shuffle_words(b, immediate)
    }
}

/// PALIGNR: `a` above `b`, shifted right by bytes.
pub(crate) struct Palignr;

impl MmxImmediate for Palignr {
    fn mmx(a: u64, b: u64, immediate: u8) -> u64 {
        join(b, a)
            .checked_shr(8 * u32::from(immediate))
            .unwrap_or(0) as u64
    }
}

impl XmmImmediate for Palignr {
    fn xmm(a: u128, b: u128, immediate: u8) -> u128 {
        let shift = 8 * u32::from(immediate);
        match shift {
            0 => b,
            1..128 => b >> shift | a << (128 - shift),
            _ => a.checked_shr(shift - 128).unwrap_or(0),
        }
    }
}

/// MPSADBW: sums of absolute differences of four bytes of `b` against eight places in `a`.
fn sums_of_differences(a: u128, b: u128, immediate: u8) -> u128 {
    let start = usize::from(immediate >> 2 & 1) * 4;
    let block = usize::from(immediate & 3) * 4;
    let (a, b) = (all_bytes(a), all_bytes(b));
    from_all_words(std::array::from_fn(|place| {
        (0..4)
            .map(|i| u16::from(a[start + place + i].abs_diff(b[block + i])))
            .sum()
    }))
}

/// Operations that pick lanes by the sign of a mask, which stands in XMM0.
pub(crate) trait Blend {
    /// Lanes of `b` where `mask` is negative, else of `a`.
    fn blend(a: u128, b: u128, mask: u128) -> u128;
}

/// PBLENDVB.
pub(crate) struct Pblendvb;
/// BLENDVPS.
pub(crate) struct Blendvps;
/// BLENDVPD.
pub(crate) struct Blendvpd;

impl Blend for Pblendvb {
    fn blend(a: u128, b: u128, mask: u128) -> u128 {
        let (a, b, mask) = (all_bytes(a), all_bytes(b), all_bytes(mask));
        from_all_bytes(std::array::from_fn(|lane| {
            if mask[lane] & 0x80 == 0 {
                a[lane]
            } else {
                b[lane]
            }
        }))
    }
}

impl Blend for Blendvps {
    fn blend(a: u128, b: u128, mask: u128) -> u128 {
        let (a, b, mask) = (all_dwords(a), all_dwords(b), all_dwords(mask));
        from_all_dwords(std::array::from_fn(|lane| {
            if mask[lane] >> 31 == 0 {
                a[lane]
            } else {
                b[lane]
            }
        }))
    }
}

impl Blend for Blendvpd {
    fn blend(a: u128, b: u128, mask: u128) -> u128 {
        let low = if mask >> 63 & 1 == 0 { a } else { b };
        let high = if mask >> 127 == 0 { a } else { b };
        low & LOW | high & !LOW
    }
}

/// One bit a byte: its sign.
#[inline(always)]
pub(crate) fn byte_signs(value: u128) -> u64 {
    const SIGNS: u64 = 0x8080_8080_8080_8080;
    // Gathers bit 7 of each byte in the top byte.
    let gather = |half: u64| ((half & SIGNS) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    gather(value as u64) | gather((value >> 64) as u64) << 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_signs_are_in_order() {
        for bit in 0..16 {
            assert_eq!(byte_signs(0x80 << (8 * bit)), 1 << bit);
        }
        assert_eq!(byte_signs(u128::MAX), 0xffff);
        assert_eq!(byte_signs(!0x8080_8080_8080_8080_8080_8080_8080_8080), 0);
    }

    #[test]
    fn packs_clamp_and_unpacks_interleave() {
        let a = 0xffff_0100_00fe_8000;
        let b = 0x7fff_0000_00ff_0101;
        assert_eq!(Packuswb::mmx(a, b), 0xff00_ffff_00ff_fe00);
        assert_eq!(Packsswb::mmx(a, b), 0x7f00_7f7f_ff7f_7f80);
        assert_eq!(
            Punpcklbw::mmx(0x8877_6655_4433_2211, 0xffee_ddcc_bbaa_9900),
            0xbb44_aa33_9922_0011
        );
        assert_eq!(
            Punpckhwd::mmx(0x8877_6655_4433_2211, 0xffee_ddcc_bbaa_9900),
            0xffee_8877_ddcc_6655
        );
    }

    #[test]
    fn aligning_past_both_operands_gives_zero() {
        let (a, b) = (0xa << 120, 0xb << 120);
        assert_eq!(<Palignr as XmmImmediate>::xmm(a, b, 0), b);
        assert_eq!(<Palignr as XmmImmediate>::xmm(a, b, 16), a);
        assert_eq!(<Palignr as XmmImmediate>::xmm(a, b, 31), 0xa);
        assert_eq!(<Palignr as XmmImmediate>::xmm(a, b, 32), 0);
        assert_eq!(<Palignr as MmxImmediate>::mmx(0xa << 56, 0, 15), 0xa);
        assert_eq!(<Palignr as MmxImmediate>::mmx(u64::MAX, 0, 16), 0);
    }

    #[test]
    fn the_first_of_equal_smallest_words_counts() {
        let words = [5, 3, 9, 3, 7, 8, 3, 4];
        assert_eq!(smallest_word(from_all_words(words)), 1 << 16 | 3);
    }
}
