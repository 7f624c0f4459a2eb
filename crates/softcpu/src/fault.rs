//! Exceptions as values.

use serde::{Deserialize, Serialize};

/// Exception and interrupt vectors that the architecture defines.
pub mod vector {
    /// Divide error, #DE.
    pub const DIVIDE: u8 = 0;
    /// Debug, #DB.
    pub const DEBUG: u8 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// Breakpoint, #BP.
    pub const BREAKPOINT: u8 = 3;
    /// Overflow, #OF.
    pub const OVERFLOW: u8 = 4;
    /// BOUND range exceeded, #BR.
    pub const BOUND: u8 = 5;
    /// Invalid opcode, #UD.
    pub const INVALID_OPCODE: u8 = 6;
    /// Device not available, #NM.
    pub const NO_DEVICE: u8 = 7;
    /// Double fault, #DF.
    pub const DOUBLE_FAULT: u8 = 8;
    /// Invalid TSS, #TS.
    pub const INVALID_TSS: u8 = 10;
    /// Segment not present, #NP.
    pub const NOT_PRESENT: u8 = 11;
    /// Stack fault, #SS.
    pub const STACK: u8 = 12;
    /// General protection, #GP.
    pub const PROTECTION: u8 = 13;
    /// Page fault, #PF.
    pub const PAGE: u8 = 14;
    /// x87 floating point, #MF.
    pub const X87: u8 = 16;
    /// Alignment check, #AC.
    pub const ALIGNMENT: u8 = 17;
    /// SIMD floating point, #XM.
    pub const SIMD: u8 = 19;
}

/// An exception that an instruction raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// Its vector.
    pub vector: u8,
    /// The error code, for those that push one.
    pub error: Option<u32>,
    /// For #PF the linear address (CR2); for #DB the bits to set in DR6; else zero.
    pub detail: u64,
}

impl Exception {
    /// One without an error code.
    pub const fn plain(vector: u8) -> Self {
        Self {
            vector,
            error: None,
            detail: 0,
        }
    }

    /// One with an error code.
    pub const fn coded(vector: u8, error: u32) -> Self {
        Self {
            vector,
            error: Some(error),
            detail: 0,
        }
    }

    /// #GP with an error code.
    pub const fn protection(error: u32) -> Self {
        Self::coded(vector::PROTECTION, error)
    }

    /// #UD.
    pub const fn invalid_opcode() -> Self {
        Self::plain(vector::INVALID_OPCODE)
    }

    /// #PF at `address` with the error code of SDM vol. 3A, 4.7.
    pub const fn page(address: u64, error: u32) -> Self {
        Self {
            vector: vector::PAGE,
            error: Some(error),
            detail: address,
        }
    }
}

/// Says that an access or check failed; the exception itself stands in `cpu.fault`.
///
/// Empty, so that a `Result` of a loaded value travels in registers and costs one test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Trap;

/// Unwraps a `Result<_, Trap>` in a function that returns [`Flow`](crate::op::Flow).
#[macro_export]
macro_rules! tri {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err($crate::fault::Trap) => return $crate::op::Flow::Fault,
        }
    };
}
