//! What every operation shares: rounding directions and exception flags, in the bit positions that the x87 status
//! word and MXCSR have in common (SDM vol. 1, 4.8.4, 4.9.1).

/// Invalid operation.
pub const IE: u32 = 1 << 0;
/// Denormal operand.
pub const DE: u32 = 1 << 1;
/// Division of a finite number by zero, or another exact infinity from finite operands.
pub const ZE: u32 = 1 << 2;
/// Overflow.
pub const OE: u32 = 1 << 3;
/// Underflow.
pub const UE: u32 = 1 << 4;
/// Inexact result ("precision").
pub const PE: u32 = 1 << 5;
/// All six exception flags.
pub const ALL: u32 = 0x3f;
/// Exceptions that are found before a result exists; when one of them is not masked, nothing is computed.
pub const BEFORE: u32 = IE | DE | ZE;

/// A rounding direction, numbered as in the RC fields of the x87 control word and of MXCSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest value, ties to the even one.
    Nearest = 0,
    /// Towards minus infinity.
    Down = 1,
    /// Towards plus infinity.
    Up = 2,
    /// Towards zero.
    Zero = 3,
}

impl Rounding {
    /// The direction that the two low bits of `field` name.
    #[inline]
    pub const fn from_field(field: u32) -> Self {
        match field & 3 {
            0 => Self::Nearest,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }

    /// Whether a magnitude that is too large for the format becomes infinity (else the largest finite number).
    #[inline]
    pub(crate) const fn overflows_to_infinity(self, negative: bool) -> bool {
        match self {
            Self::Nearest => true,
            Self::Down => negative,
            Self::Up => !negative,
            Self::Zero => false,
        }
    }

    /// Whether a kept magnitude has to grow by one unit. `odd`: its last bit. `above_half`, `half`: how the dropped
    /// part compares with half a unit. `some`: whether anything was dropped.
    #[inline]
    pub(crate) const fn grows(
        self,
        negative: bool,
        odd: bool,
        above_half: bool,
        half: bool,
        some: bool,
    ) -> bool {
        match self {
            Self::Nearest => above_half || (half && odd),
            Self::Down => negative && some,
            Self::Up => !negative && some,
            Self::Zero => false,
        }
    }
}

/// How two numbers relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The first is smaller.
    Less,
    /// Both are equal (zeros of either sign are).
    Equal,
    /// The first is greater.
    Greater,
    /// At least one is not a number.
    Unordered,
}
