//! The general registers, in one flat array that the lowered operations index without a check.

use serde::{Deserialize, Serialize};

/// RAX, AX, AL.
pub const RAX: u8 = 0;
/// RCX, CX, CL.
pub const RCX: u8 = 1;
/// RDX, DX, DL.
pub const RDX: u8 = 2;
/// RBX, BX, BL.
pub const RBX: u8 = 3;
/// RSP, SP.
pub const RSP: u8 = 4;
/// RBP, BP.
pub const RBP: u8 = 5;
/// RSI, SI.
pub const RSI: u8 = 6;
/// RDI, DI.
pub const RDI: u8 = 7;
/// R11.
pub const R11: u8 = 11;
/// AH as an 8-bit register number; CH, DH and BH follow.
pub const AH: u8 = 16;
/// Always zero: stands in for a missing base or index.
pub const ZERO: u8 = 16;
/// RIP at the start of the block that runs: the base of RIP-relative operands.
pub const BLOCK_RIP: u8 = 17;

/// RAX to R15, then the two slots that address computation reads ([`ZERO`], [`BLOCK_RIP`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers([u64; 32]);

impl Registers {
    /// All zero.
    pub const fn new() -> Self {
        Self([0; 32])
    }

    /// Register `index`; only the low five bits count.
    #[inline(always)]
    pub fn read(&self, index: u8) -> u64 {
        self.0[usize::from(index & 31)]
    }

    /// Writes register `index`; only the low five bits count.
    #[inline(always)]
    pub fn write(&mut self, index: u8, value: u64) {
        self.0[usize::from(index & 31)] = value;
    }
}

impl Default for Registers {
    fn default() -> Self {
        Self::new()
    }
}
