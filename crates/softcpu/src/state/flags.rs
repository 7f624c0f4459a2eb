//! RFLAGS, with the six status flags deferred.
//!
//! An arithmetic instruction stores its result and a *carry vector*: bit i says whether bit i of the
//! addition carried out (of the subtraction: borrowed). The flags are worked out when somebody asks:
//!
//! | flag | from |
//! |---|---|
//! | ZF | `result == 0` |
//! | SF | sign of `result`, flipped by `carries` bit 0 |
//! | PF | parity of the low byte of `result`, flipped by `carries` bit 1 |
//! | CF | `carries` bit 63 |
//! | OF | `carries` bit 63 xor bit 62 |
//! | AF | `carries` bit 3 |
//!
//! `result` is sign-extended and the top two carries are moved to bits 63 and 62, so that none of this
//! depends on the operand width. The two flip bits exist for combinations that no result has (POPF).

use serde::{Deserialize, Serialize};

use crate::state::width::Width;

/// Carry flag.
pub const CF: u64 = 1 << 0;
/// Parity flag.
pub const PF: u64 = 1 << 2;
/// Auxiliary carry flag.
pub const AF: u64 = 1 << 4;
/// Zero flag.
pub const ZF: u64 = 1 << 6;
/// Sign flag.
pub const SF: u64 = 1 << 7;
/// Trap flag: single step.
pub const TF: u64 = 1 << 8;
/// Interrupt enable flag.
pub const IF: u64 = 1 << 9;
/// Direction flag.
pub const DF: u64 = 1 << 10;
/// Overflow flag.
pub const OF: u64 = 1 << 11;
/// I/O privilege level, both bits.
pub const IOPL: u64 = 3 << 12;
/// Nested task.
pub const NT: u64 = 1 << 14;
/// Resume flag.
pub const RF: u64 = 1 << 16;
/// Virtual-8086 mode.
pub const VM: u64 = 1 << 17;
/// Alignment check, access control.
pub const AC: u64 = 1 << 18;
/// Virtual interrupt flag.
pub const VIF: u64 = 1 << 19;
/// Virtual interrupt pending.
pub const VIP: u64 = 1 << 20;
/// CPUID can be used.
pub const ID: u64 = 1 << 21;

/// The six status flags.
pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;
/// All flags that exist besides the status flags.
pub const SYSTEM: u64 = TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;
/// Bit 1 of RFLAGS always reads as one.
const FIXED: u64 = 1 << 1;

const CARRY_OUT: u64 = 1 << 63;
const CARRY_IN: u64 = 1 << 62;
const CARRY_AUX: u64 = 1 << 3;
const CARRIES: u64 = CARRY_OUT | CARRY_IN | CARRY_AUX;
const FLIP_SIGN: u64 = 1 << 0;
const FLIP_PARITY: u64 = 1 << 1;

/// RFLAGS. See the module text for the deferred form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flags {
    result: u64,
    carries: u64,
    /// The flags of [`SYSTEM`], in their places.
    pub system: u64,
}

impl Flags {
    /// After `sum = left + right (+ carry)`.
    #[inline(always)]
    pub fn after_add<W: Width>(&mut self, left: W, right: W, sum: W) {
        let (l, r, s) = (left.zero_extend(), right.zero_extend(), sum.zero_extend());
        self.result = sum.sign_extend();
        self.carries = place::<W>((l & r) | ((l | r) & !s));
    }

    /// After `difference = left - right (- borrow)`.
    #[inline(always)]
    pub fn after_sub<W: Width>(&mut self, left: W, right: W, difference: W) {
        let (l, r, d) = (
            left.zero_extend(),
            right.zero_extend(),
            difference.zero_extend(),
        );
        self.result = difference.sign_extend();
        self.carries = place::<W>((!l & r) | ((!l | r) & d));
    }

    /// After AND, OR, XOR, TEST: no carry, no overflow; AF (undefined) is clear as on all processors.
    #[inline(always)]
    pub fn after_logic<W: Width>(&mut self, result: W) {
        self.result = result.sign_extend();
        self.carries = 0;
    }

    /// After INC and DEC: as the addition or subtraction just noted, but CF as it was.
    #[inline(always)]
    pub fn keep_carry(&mut self, carry: bool) {
        let overflow = (self.carries ^ (self.carries << 1)) & CARRY_OUT;
        let carry = u64::from(carry) << 63;
        self.carries = (self.carries & CARRY_AUX) | carry | ((carry ^ overflow) >> 1);
    }

    /// Result flags from `result`, CF and OF as given, AF clear: shifts and multiplications.
    #[inline(always)]
    pub fn after_shift<W: Width>(&mut self, result: W, carry: bool, overflow: bool) {
        self.result = result.sign_extend();
        self.carries = carry_pair(carry, overflow);
    }

    /// CF and OF as given, the others as they were: rotates.
    #[inline(always)]
    pub fn set_carry_overflow(&mut self, carry: bool, overflow: bool) {
        self.carries = (self.carries & !(CARRY_OUT | CARRY_IN)) | carry_pair(carry, overflow);
    }

    /// CF as given, OF and the others as they were.
    #[inline(always)]
    pub fn set_carry(&mut self, carry: bool) {
        let overflow = self.overflow();
        self.set_carry_overflow(carry, overflow);
    }

    /// ZF as given, the others as they were.
    pub fn set_zero(&mut self, zero: bool) {
        let status = self.status() & !ZF;
        self.set_status(if zero { status | ZF } else { status });
    }

    /// CF.
    #[inline(always)]
    pub fn carry(&self) -> bool {
        self.carries >> 63 != 0
    }

    /// ZF.
    #[inline(always)]
    pub fn zero(&self) -> bool {
        self.result == 0
    }

    /// SF.
    #[inline(always)]
    pub fn sign(&self) -> bool {
        (self.result >> 63) ^ (self.carries & FLIP_SIGN) != 0
    }

    /// OF.
    #[inline(always)]
    pub fn overflow(&self) -> bool {
        (self.carries ^ (self.carries << 1)) >> 63 != 0
    }

    /// PF.
    #[inline(always)]
    pub fn parity(&self) -> bool {
        let even = (self.result as u8).count_ones() & 1 == 0;
        even ^ (self.carries & FLIP_PARITY != 0)
    }

    /// AF.
    #[inline(always)]
    pub fn auxiliary(&self) -> bool {
        self.carries & CARRY_AUX != 0
    }

    /// The six status flags in their places.
    pub fn status(&self) -> u64 {
        let bit = |set: bool, mask: u64| if set { mask } else { 0 };
        bit(self.carry(), CF)
            | bit(self.parity(), PF)
            | bit(self.auxiliary(), AF)
            | bit(self.zero(), ZF)
            | bit(self.sign(), SF)
            | bit(self.overflow(), OF)
    }

    /// Sets the six status flags from their places in `bits`; the rest of `bits` is ignored.
    pub fn set_status(&mut self, bits: u64) {
        // A result whose low byte is zero has even parity; its sign and zeroness are free to choose.
        let (zero, sign) = (bits & ZF != 0, bits & SF != 0);
        self.result = if zero {
            0
        } else if sign {
            1 << 63
        } else {
            1 << 8
        };
        self.carries = carry_pair(bits & CF != 0, bits & OF != 0);
        if bits & AF != 0 {
            self.carries |= CARRY_AUX;
        }
        if zero && sign {
            self.carries |= FLIP_SIGN;
        }
        if bits & PF == 0 {
            self.carries |= FLIP_PARITY;
        }
    }

    /// All of RFLAGS.
    pub fn bits(&self) -> u64 {
        self.status() | (self.system & SYSTEM) | FIXED
    }

    /// All of RFLAGS at once; bits that do not exist are ignored.
    pub fn set_bits(&mut self, bits: u64) {
        self.set_status(bits);
        self.system = bits & SYSTEM;
    }

    /// Whether system flag(s) `mask` are set.
    #[inline(always)]
    pub fn has(&self, mask: u64) -> bool {
        self.system & mask != 0
    }

    /// The I/O privilege level.
    pub fn iopl(&self) -> u8 {
        ((self.system & IOPL) >> 12) as u8
    }
}

/// Moves the carry vector of a `W`-wide operation to its place.
#[inline(always)]
fn place<W: Width>(carries: u64) -> u64 {
    ((carries << (64 - W::BITS)) | (carries & CARRY_AUX)) & CARRIES
}

#[inline(always)]
fn carry_pair(carry: bool, overflow: bool) -> u64 {
    (u64::from(carry) << 63) | (u64::from(carry ^ overflow) << 62)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_status_flags_survives() {
        for pattern in 0..64u64 {
            let places = [CF, PF, AF, ZF, SF, OF];
            let bits: u64 = (0..6)
                .filter(|i| pattern >> i & 1 == 1)
                .map(|i| places[i])
                .sum();
            let mut flags = Flags::default();
            flags.set_bits(bits | IF);
            assert_eq!(flags.bits(), bits | IF | FIXED);
            let carry = flags.carry();
            flags.set_carry(!carry);
            assert_eq!(flags.status(), bits ^ CF);
        }
    }

    #[test]
    fn eight_bit_additions_match_the_definition() {
        for left in 0..=255u8 {
            for right in 0..=255u8 {
                let sum = left.wrapping_add(right);
                let mut flags = Flags::default();
                flags.after_add(left, right, sum);
                assert_eq!(flags.carry(), u16::from(left) + u16::from(right) > 255);
                assert_eq!(
                    flags.overflow(),
                    (left as i8).checked_add(right as i8).is_none()
                );
                assert_eq!(flags.auxiliary(), (left & 15) + (right & 15) > 15);
                assert_eq!(flags.sign(), (sum as i8) < 0);
                let difference = left.wrapping_sub(right);
                flags.after_sub(left, right, difference);
                assert_eq!(flags.carry(), left < right);
                assert_eq!(
                    flags.overflow(),
                    (left as i8).checked_sub(right as i8).is_none()
                );
                assert_eq!(flags.auxiliary(), (left & 15) < (right & 15));
                assert_eq!(flags.parity(), difference.count_ones() % 2 == 0);
            }
        }
    }
}
