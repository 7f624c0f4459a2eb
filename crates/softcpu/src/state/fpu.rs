//! x87, MMX and SSE registers.

use serde::{Deserialize, Serialize};

/// An 80-bit register as bits: 64 of significand, then sign and 15 of exponent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct St {
    /// Significand with its explicit leading bit; the MMX register of the same number.
    pub significand: u64,
    /// Sign (bit 15) and biased exponent.
    pub sign_exponent: u16,
}

/// State of the floating-point unit as FXSAVE and XSAVE see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fpu {
    /// Physical registers R0 to R7 (not relative to TOP).
    pub registers: [St; 8],
    /// Control word.
    pub control: u16,
    /// Status word, TOP (bits 11..14) included.
    pub status: u16,
    /// One bit a physical register: set when it is not empty.
    pub occupied: u8,
    /// Opcode of the last instruction, 11 bits.
    pub last_opcode: u16,
    /// Address of the last instruction.
    pub last_instruction: u64,
    /// Its code segment selector.
    pub last_instruction_selector: u16,
    /// Address of its memory operand.
    pub last_data: u64,
    /// The operand's segment selector.
    pub last_data_selector: u16,
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    /// SSE control and status.
    pub mxcsr: u32,
}

impl Fpu {
    /// As after reset (and after FNINIT, with MXCSR at its default).
    pub const fn new() -> Self {
        Self {
            registers: [St {
                significand: 0,
                sign_exponent: 0,
            }; 8],
            control: 0x037f,
            status: 0,
            occupied: 0,
            last_opcode: 0,
            last_instruction: 0,
            last_instruction_selector: 0,
            last_data: 0,
            last_data_selector: 0,
            xmm: [0; 16],
            mxcsr: 0x1f80,
        }
    }

    /// Number of the physical register that is ST(0).
    pub const fn top(&self) -> u8 {
        ((self.status >> 11) & 7) as u8
    }
}

impl Default for Fpu {
    fn default() -> Self {
        Self::new()
    }
}
