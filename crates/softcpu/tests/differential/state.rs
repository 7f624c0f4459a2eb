//! A processor state and a case as they lie in the memory that the child shares with us.

use crate::layout::{CODE, CODE_LEN, CS64, DATA_WRITABLE, DS};
use crate::segments::base_of;

/// Bytes of an FXSAVE image.
pub(crate) const FX_LEN: usize = 512;

/// User-mode state of a processor. The layout is read by the entry code of `native`.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct CpuState {
    /// x87, MMX and SSE state as the 64-bit form of FXSAVE stores it.
    pub(crate) fx: [u8; FX_LEN],
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub(crate) gpr: [u64; 16],
    pub(crate) fs_base: u64,
    pub(crate) gs_base: u64,
    /// What IRETQ pops: RIP, CS, RFLAGS, RSP (a copy of `gpr[4]`), SS.
    pub(crate) iret: [u64; 5],
    pub(crate) ds: u64,
    pub(crate) es: u64,
    pub(crate) fs: u64,
    pub(crate) gs: u64,
}

pub(crate) const RSP: usize = 4;
const IRET_RIP: usize = 0;
const IRET_CS: usize = 1;
const IRET_RFLAGS: usize = 2;
const IRET_RSP: usize = 3;
const IRET_SS: usize = 4;

impl CpuState {
    /// All zero but for what a processor needs to run at all.
    pub(crate) fn quiet() -> Self {
        let mut state = Self {
            fx: [0; FX_LEN],
            gpr: [0; 16],
            fs_base: 0,
            gs_base: 0,
            iret: [0, u64::from(CS64), 0x202, 0, u64::from(DS)],
            ds: u64::from(DS),
            es: u64::from(DS),
            fs: 0,
            gs: 0,
        };
        state.set_fcw(0x37f);
        state.set_mxcsr(0x1f80);
        state
    }

    pub(crate) fn rip(&self) -> u64 {
        self.iret[IRET_RIP]
    }
    pub(crate) fn set_rip(&mut self, rip: u64) {
        self.iret[IRET_RIP] = rip;
    }
    pub(crate) fn rflags(&self) -> u64 {
        self.iret[IRET_RFLAGS]
    }
    pub(crate) fn set_rflags(&mut self, rflags: u64) {
        self.iret[IRET_RFLAGS] = rflags;
    }
    pub(crate) fn cs(&self) -> u16 {
        self.iret[IRET_CS] as u16
    }
    pub(crate) fn set_cs(&mut self, cs: u16) {
        self.iret[IRET_CS] = u64::from(cs);
    }
    pub(crate) fn ss(&self) -> u16 {
        self.iret[IRET_SS] as u16
    }
    pub(crate) fn set_ss(&mut self, ss: u16) {
        self.iret[IRET_SS] = u64::from(ss);
    }
    pub(crate) fn set_gpr(&mut self, index: usize, value: u64) {
        self.gpr[index] = value;
        if index == RSP {
            self.iret[IRET_RSP] = value;
        }
    }

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.fx[at], self.fx[at + 1]])
    }
    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.fx[at..at + 4].try_into().unwrap())
    }
    fn u64_at(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.fx[at..at + 8].try_into().unwrap())
    }

    pub(crate) fn fcw(&self) -> u16 {
        self.u16_at(0)
    }
    pub(crate) fn set_fcw(&mut self, value: u16) {
        self.fx[0..2].copy_from_slice(&value.to_le_bytes());
    }
    pub(crate) fn fsw(&self) -> u16 {
        self.u16_at(2)
    }
    pub(crate) fn set_fsw(&mut self, value: u16) {
        self.fx[2..4].copy_from_slice(&value.to_le_bytes());
    }
    /// One bit a physical register: set when it is not empty.
    pub(crate) fn ftw(&self) -> u8 {
        self.fx[4]
    }
    pub(crate) fn set_ftw(&mut self, value: u8) {
        self.fx[4] = value;
    }
    /// Last x87 opcode, its instruction pointer and its data pointer.
    pub(crate) fn fpu_pointers(&self) -> (u16, u64, u64) {
        (self.u16_at(6) & 0x7ff, self.u64_at(8), self.u64_at(16))
    }
    pub(crate) fn set_fpu_pointers(&mut self, opcode: u16, ip: u64, dp: u64) {
        self.fx[6..8].copy_from_slice(&(opcode & 0x7ff).to_le_bytes());
        self.fx[8..16].copy_from_slice(&ip.to_le_bytes());
        self.fx[16..24].copy_from_slice(&dp.to_le_bytes());
    }
    pub(crate) fn mxcsr(&self) -> u32 {
        self.u32_at(24)
    }
    pub(crate) fn set_mxcsr(&mut self, value: u32) {
        self.fx[24..28].copy_from_slice(&value.to_le_bytes());
    }
    /// ST(i): significand and then sign with exponent.
    pub(crate) fn st(&self, index: usize) -> (u64, u16) {
        (self.u64_at(32 + 16 * index), self.u16_at(40 + 16 * index))
    }
    pub(crate) fn set_st(&mut self, index: usize, significand: u64, sign_exponent: u16) {
        let at = 32 + 16 * index;
        self.fx[at..at + 8].copy_from_slice(&significand.to_le_bytes());
        self.fx[at + 8..at + 10].copy_from_slice(&sign_exponent.to_le_bytes());
    }
    pub(crate) fn xmm(&self, index: usize) -> u128 {
        let at = 160 + 16 * index;
        u128::from_le_bytes(self.fx[at..at + 16].try_into().unwrap())
    }
    pub(crate) fn set_xmm(&mut self, index: usize, value: u128) {
        let at = 160 + 16 * index;
        self.fx[at..at + 16].copy_from_slice(&value.to_le_bytes());
    }
}

/// Longest code of a case, in bytes.
pub(crate) const CODE_MAX: usize = 64;
/// Longest patch of a case, in bytes.
pub(crate) const PATCH_MAX: usize = 64;

/// A start: state, code, memory. Everything that one run needs.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) state: CpuState,
    pub(crate) code: [u8; CODE_MAX],
    pub(crate) patch: [u8; PATCH_MAX],
    pub(crate) code_len: u32,
    /// Which of the memory patterns fills the data window.
    pub(crate) pattern: u32,
    /// Where in the data window the patch lies.
    pub(crate) patch_at: u32,
    pub(crate) patch_len: u32,
}

impl Case {
    /// A case of no code at all in a quiet state.
    pub(crate) fn empty() -> Self {
        Self {
            state: CpuState::quiet(),
            code: [0; CODE_MAX],
            patch: [0; PATCH_MAX],
            code_len: 0,
            pattern: 0,
            patch_at: 0,
            patch_len: 0,
        }
    }

    /// Offset of the code in its page, and how many of its bytes lie before the page's end.
    pub(crate) fn code_place(&self) -> (usize, usize) {
        let linear = self.state.rip().wrapping_add(base_of(self.state.cs()));
        let at = (linear.wrapping_sub(CODE)).min(CODE_LEN) as usize;
        (at, self.bytes().len().min(CODE_LEN as usize - at))
    }

    /// The bytes of its instructions.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.code[..self.code_len as usize]
    }

    /// Writes pattern and patch into a data window.
    pub(crate) fn patch_into(&self, window: &mut [u8]) {
        let at = self.patch_at as usize;
        let len = self.patch_len as usize;
        window[at..at + len].copy_from_slice(&self.patch[..len]);
    }
}

/// How a run ended: the state at the exception that ended it, and which one that was.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) state: CpuState,
    pub(crate) vector: u64,
    pub(crate) error_code: u64,
    /// Address of a page fault; means nothing for other vectors.
    pub(crate) cr2: u64,
    /// Not zero when `memory` holds the writable part of the window after the run; else it is as it was before.
    pub(crate) memory_changed: u64,
    pub(crate) memory: [u8; DATA_WRITABLE as usize],
}

impl Outcome {
    pub(crate) fn empty() -> Self {
        Self {
            state: CpuState::quiet(),
            vector: 0,
            error_code: 0,
            cr2: 0,
            memory_changed: 0,
            memory: [0; DATA_WRITABLE as usize],
        }
    }
}
