//! The 80-bit number of the x87: layout, classes (with the encodings no unit has produced since the 80387), packing.
//!
//! Source: SDM vol. 1, 4.2.2 and 8.2, tables 4-3 and 8-3.

use super::real::Real;

/// An x87 register or `m80fp` operand. All 2^80 encodings are representable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct F80 {
    /// Bits 64 to 79: sign (bit 15) and biased exponent.
    pub sign_exponent: u16,
    /// Bits 0 to 63: significand with its explicit integer bit.
    pub significand: u64,
}

/// Largest biased exponent: infinities and NaNs.
const EXPONENT_SPECIAL: u16 = 0x7fff;
/// Distance of a biased from a true exponent.
const BIAS: i32 = 16383;
/// Integer bit.
const INTEGER: u64 = 1 << 63;
/// Bit that tells quiet from signalling NaNs.
const QUIET: u64 = 1 << 62;

/// What an encoding stands for. The sign is [`F80::negative`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Plus or minus zero.
    Zero,
    /// A finite number; `denormal` also for pseudo-denormals, whose value is that of the smallest normal exponent.
    Finite {
        /// The number.
        real: Real,
        /// Whether its use raises DE.
        denormal: bool,
    },
    /// Plus or minus infinity.
    Infinity,
    /// A quiet NaN.
    Quiet,
    /// A signalling NaN.
    Signaling,
    /// Unnormal, pseudo-infinity or pseudo-NaN: any arithmetic use is invalid.
    Unsupported,
}

impl F80 {
    /// Plus zero.
    pub const ZERO: Self = Self::new(0, 0);
    /// Plus one.
    pub const ONE: Self = Self::new(0x3fff, INTEGER);
    /// The quiet NaN that masked invalid operations deliver ("real indefinite").
    pub const INDEFINITE: Self = Self::new(0xffff, INTEGER | QUIET);
    /// Plus infinity.
    pub const INFINITY: Self = Self::new(EXPONENT_SPECIAL, INTEGER);

    /// The number with these fields.
    #[inline]
    pub const fn new(sign_exponent: u16, significand: u64) -> Self {
        Self {
            sign_exponent,
            significand,
        }
    }

    /// From the low 80 bits of `bits`.
    #[inline]
    pub const fn from_bits(bits: u128) -> Self {
        Self::new((bits >> 64) as u16, bits as u64)
    }

    /// The 80 bits, zero-extended.
    #[inline]
    pub const fn to_bits(self) -> u128 {
        (self.sign_exponent as u128) << 64 | self.significand as u128
    }

    /// Zero of the given sign.
    #[inline]
    pub const fn zero(negative: bool) -> Self {
        Self::ZERO.with_sign(negative)
    }

    /// Infinity of the given sign.
    #[inline]
    pub const fn infinity(negative: bool) -> Self {
        Self::INFINITY.with_sign(negative)
    }

    /// Whether the sign bit is set.
    #[inline]
    pub const fn negative(self) -> bool {
        self.sign_exponent >> 15 != 0
    }

    /// The same magnitude with the given sign bit.
    #[inline]
    pub const fn with_sign(self, negative: bool) -> Self {
        Self::new(
            self.sign_exponent & 0x7fff | (negative as u16) << 15,
            self.significand,
        )
    }

    /// The biased exponent.
    #[inline]
    pub const fn exponent_field(self) -> u16 {
        self.sign_exponent & 0x7fff
    }

    /// What the encoding stands for.
    #[inline]
    pub fn classify(self) -> Class {
        let field = self.exponent_field();
        if field == EXPONENT_SPECIAL {
            return self.classify_special();
        }
        if field == 0 {
            return self.classify_denormal();
        }
        if self.significand & INTEGER == 0 {
            return Class::Unsupported;
        }
        let real = Real {
            negative: self.negative(),
            exponent: i32::from(field) - BIAS,
            significand: self.significand,
        };
        Class::Finite {
            real,
            denormal: false,
        }
    }

    fn classify_special(self) -> Class {
        if self.significand & INTEGER == 0 {
            Class::Unsupported
        } else if self.significand == INTEGER {
            Class::Infinity
        } else if self.significand & QUIET != 0 {
            Class::Quiet
        } else {
            Class::Signaling
        }
    }

    fn classify_denormal(self) -> Class {
        match Real::from_integer(self.negative(), self.significand, 1 - BIAS - 63) {
            None => Class::Zero,
            Some(real) => Class::Finite {
                real,
                denormal: true,
            },
        }
    }

    /// The same NaN, made quiet.
    #[inline]
    pub const fn quieted(self) -> Self {
        Self::new(self.sign_exponent, self.significand | INTEGER | QUIET)
    }

    /// The encoding of a rounded result: `exponent` is that of bit 63, which is clear in denormals and zero.
    /// Exponents beyond the format give infinity or zero; only a twice wrapped result gets there.
    #[inline]
    pub fn pack(negative: bool, exponent: i32, significand: u64) -> Self {
        let field = if significand & INTEGER == 0 {
            0
        } else {
            exponent.saturating_add(BIAS)
        };
        if field > 0x7ffe {
            Self::infinity(negative)
        } else if field < 0 || (field == 0 && significand & INTEGER != 0) {
            Self::zero(negative)
        } else {
            Self::new(field as u16, significand).with_sign(negative)
        }
    }

    /// An exactly representable number.
    #[inline]
    pub fn from_real(real: Real) -> Self {
        Self::pack(real.negative, real.exponent, real.significand)
    }

    /// An integer, always exact.
    pub fn from_i64(value: i64) -> Self {
        match Real::from_integer(value < 0, value.unsigned_abs(), 0) {
            None => Self::ZERO,
            Some(real) => Self::from_real(real),
        }
    }
}
