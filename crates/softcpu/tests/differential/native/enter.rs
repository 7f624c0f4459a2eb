//! Entry into a case and the way back, in assembly: the states in between belong to no compiler.

use super::Shared;
use crate::state::CpuState;
use std::mem::offset_of;

unsafe extern "C" {
    /// Loads every register from `state` and continues there. Segments first, flags and RIP last.
    pub(super) fn trivet_diff_enter(state: *const CpuState) -> !;
    /// Handler of all signals: puts a sane state in order and calls `trivet_diff_signal`.
    pub(super) fn trivet_diff_signal_entry();
    /// FS base that the handler's Rust code needs; set before the first case.
    pub(super) static mut TRIVET_DIFF_HOST_FS: u64;
}

core::arch::global_asm!(
    ".globl trivet_diff_enter, trivet_diff_signal_entry, TRIVET_DIFF_HOST_FS",
    ".hidden trivet_diff_enter, trivet_diff_signal_entry, TRIVET_DIFF_HOST_FS",
    ".text",
    ".p2align 4",
    "trivet_diff_enter:",
    "mov rax, [rdi + {ds}]",
    "mov ds, eax",
    "mov rax, [rdi + {es}]",
    "mov es, eax",
    "mov rax, [rdi + {fs}]",
    "mov fs, eax",
    "mov rax, [rdi + {gs}]",
    "mov gs, eax",
    "mov rax, [rdi + {fs_base}]",
    "wrfsbase rax",
    "mov rax, [rdi + {gs_base}]",
    "wrgsbase rax",
    "fxrstor64 [rdi + {fx}]",
    "lea rsp, [rdi + {iret}]",
    "mov rax, [rdi + {gpr}]",
    "mov rcx, [rdi + {gpr} + 8]",
    "mov rdx, [rdi + {gpr} + 16]",
    "mov rbx, [rdi + {gpr} + 24]",
    "mov rbp, [rdi + {gpr} + 40]",
    "mov rsi, [rdi + {gpr} + 48]",
    "mov r8, [rdi + {gpr} + 64]",
    "mov r9, [rdi + {gpr} + 72]",
    "mov r10, [rdi + {gpr} + 80]",
    "mov r11, [rdi + {gpr} + 88]",
    "mov r12, [rdi + {gpr} + 96]",
    "mov r13, [rdi + {gpr} + 104]",
    "mov r14, [rdi + {gpr} + 112]",
    "mov r15, [rdi + {gpr} + 120]",
    "mov rdi, [rdi + {gpr} + 56]",
    "iretq",
    ".p2align 4",
    "trivet_diff_signal_entry:",
    // The kernel clears only DF, RF and TF: AC and NT may still be set.
    "push 0x202",
    "popfq",
    "rdfsbase rcx",
    "rdgsbase r8",
    "mov r9d, gs",
    "shl r9, 16",
    "mov eax, fs",
    "or r9, rax",
    "shl r9, 16",
    "mov eax, es",
    "or r9, rax",
    "shl r9, 16",
    "mov eax, ds",
    "or r9, rax",
    "xor eax, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov rax, [rip + TRIVET_DIFF_HOST_FS]",
    "wrfsbase rax",
    "mov eax, 0x2b",
    "mov ds, eax",
    "mov es, eax",
    "sub rsp, 8",
    "call {signal}",
    "ud2",
    ".bss",
    ".p2align 3",
    "TRIVET_DIFF_HOST_FS: .skip 8",
    ".text",
    ds = const offset_of!(CpuState, ds),
    es = const offset_of!(CpuState, es),
    fs = const offset_of!(CpuState, fs),
    gs = const offset_of!(CpuState, gs),
    fs_base = const offset_of!(CpuState, fs_base),
    gs_base = const offset_of!(CpuState, gs_base),
    fx = const offset_of!(CpuState, fx),
    iret = const offset_of!(CpuState, iret),
    gpr = const offset_of!(CpuState, gpr),
    signal = sym super::child::on_signal,
);

const _: () = assert!(
    offset_of!(Shared, data) == 4096,
    "the child maps the data from the second page on"
);
