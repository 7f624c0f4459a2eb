//! Shifts of lanes by one count for all, and of whole registers by bytes.

use super::lanes::{halves, join, zip_i16, zip_i32, zip_u16, zip_u32};
use super::{Xmm, XmmImmediate};
use crate::cpu::Cpu;
use crate::exec::mmx::Mmx;
use crate::op::{Flow, Op};
use crate::tri;

/// Shifts of 64 bits' worth of lanes by `$count`, which may be any 64-bit number.
macro_rules! shifts {
    ($($name:ident($value:ident, $count:ident) = $result:expr;)*) => {$(
        #[doc = concat!(stringify!($name), " on both register files.")]
        pub(crate) struct $name;

        impl $name {
            #[inline(always)]
            fn half($value: u64, $count: u64) -> u64 {
                $result
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
                let (low, high) = halves(a);
                join(Self::half(low, b as u64), Self::half(high, b as u64))
            }
        }
    )*};
}

/// A count that fits a shift, or all ones, which no lane survives.
#[inline(always)]
fn cut(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

shifts! {
    Psllw(value, count) = zip_u16(value, 0, |x, _| x.checked_shl(cut(count)).unwrap_or(0));
    Pslld(value, count) = zip_u32(value, 0, |x, _| x.checked_shl(cut(count)).unwrap_or(0));
    Psllq(value, count) = value.checked_shl(cut(count)).unwrap_or(0);
    Psrlw(value, count) = zip_u16(value, 0, |x, _| x.checked_shr(cut(count)).unwrap_or(0));
    Psrld(value, count) = zip_u32(value, 0, |x, _| x.checked_shr(cut(count)).unwrap_or(0));
    Psrlq(value, count) = value.checked_shr(cut(count)).unwrap_or(0);
    Psraw(value, count) = zip_i16(value, 0, |x, _| x >> cut(count).min(15));
    Psrad(value, count) = zip_i32(value, 0, |x, _| x >> cut(count).min(31));
}

/// PSLLDQ.
pub(crate) struct Pslldq;
/// PSRLDQ.
pub(crate) struct Psrldq;

impl XmmImmediate for Pslldq {
    fn xmm(a: u128, _b: u128, immediate: u8) -> u128 {
        a.checked_shl(8 * u32::from(immediate)).unwrap_or(0)
    }
}

impl XmmImmediate for Psrldq {
    fn xmm(a: u128, _b: u128, immediate: u8) -> u128 {
        a.checked_shr(8 * u32::from(immediate)).unwrap_or(0)
    }
}

/// Shifts of an XMM register by an immediate.
pub(crate) fn immediate<O: Xmm>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = O::xmm(cpu.xmm(op.a), u128::from(op.imm & 0xff));
    cpu.set_xmm(op.a, value);
    Flow::Next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_counts_empty_the_lanes_or_fill_them_with_the_sign() {
        for count in [16, 32, 64, 1 << 32, u64::MAX] {
            assert_eq!(Psllw::mmx(u64::MAX, count), 0);
            assert_eq!(Psrlw::mmx(u64::MAX, count), 0);
            assert_eq!(
                Psraw::mmx(0x8000_7fff_8000_0001, count),
                0xffff_0000_ffff_0000
            );
        }
        assert_eq!(Psllq::mmx(1, 63), 1 << 63);
        assert_eq!(Psllq::mmx(1, 64), 0);
        assert_eq!(Psrad::mmx(0x8000_0000_0000_0000, 31), 0xffff_ffff_0000_0000);
    }
}
