//! A vCPU's registers as all backends understand them: enough to start a kernel, and to look around.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentState {
    /// What software sees.
    pub selector: u16,
    /// First linear address.
    pub base: u64,
    /// Last valid offset in bytes.
    pub limit: u32,
    /// Bytes 5 and 6 of a descriptor: type in bits 0 to 3, S 4, DPL 5 and 6, P 7, AVL 12, L 13, D/B 14,
    /// G 15.
    pub attributes: u16,
}

/// A descriptor table register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    /// First linear address.
    pub base: u64,
    /// Last valid offset.
    pub limit: u16,
}

/// General registers, segments, control registers. What is not here (FPU, debug registers, most MSRs,
/// APIC) keeps its power-on value when a state is set on a vCPU that was just reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: the order of their encodings.
    pub general: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS: the order of their encodings.
    pub segments: [SegmentState; 6],
    /// Local descriptor table.
    pub ldtr: SegmentState,
    /// Task.
    pub tr: SegmentState,
    /// Global descriptor table.
    pub gdt: TableState,
    /// Interrupt descriptor table.
    pub idt: TableState,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// Waiting for an interrupt (HLT).
    pub halted: bool,
}

/// A state that a vCPU cannot take on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("vCPU {vcpu} cannot take this state: {reason}")]
pub struct VcpuStateError {
    /// Its number.
    pub vcpu: u32,
    /// What is wrong.
    pub reason: String,
}
