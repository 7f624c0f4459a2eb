//! What single instructions need so that something happens: divisors that fit, counts that end, targets that
//! exist, images that may be loaded.

use super::Generated;
use super::address::number;
use super::registers::style_of;
use super::selectors;
use crate::layout::{CODE, CODE_LEN};
use crate::prng::Prng;
use crate::segments::base_of;
use crate::state::PATCH_MAX;
use crate::values::{self, Style};
use iced_x86::{Code, FlowControl, MemorySize, Mnemonic, OpKind, Register};

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RSP: usize = 4;

/// Instructions whose state the two sides do not share, with the reason.
pub(crate) const NOT_READY: &[(Mnemonic, &str)] = &[
    (
        Mnemonic::Xsave,
        "the host enables more state than we announce",
    ),
    (
        Mnemonic::Xsave64,
        "the host enables more state than we announce",
    ),
    (
        Mnemonic::Xrstor,
        "the host enables more state than we announce",
    ),
    (
        Mnemonic::Xrstor64,
        "the host enables more state than we announce",
    ),
];

/// Whether cases of this code can be compared.
pub(super) fn ready(code: Code) -> bool {
    !NOT_READY
        .iter()
        .any(|(mnemonic, _)| *mnemonic == code.mnemonic())
}

/// Fits registers and patch to the instruction.
pub(super) fn fit(rng: &mut Prng, generated: &mut Generated) -> Option<()> {
    fill_patch(rng, generated);
    let instruction = generated.instruction;
    let case = &mut generated.case;
    match instruction.mnemonic() {
        Mnemonic::Div | Mnemonic::Idiv => fit_division(rng, generated),
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
            if instruction.op0_kind() == OpKind::Memory
                && instruction.op1_kind() == OpKind::Register
                && !rng.one_in(8) =>
        {
            let register = number(instruction.op1_register())?;
            let conflict = register == RSP
                || Some(register) == number(instruction.memory_base())
                || Some(register) == number(instruction.memory_index());
            if !conflict {
                case.state
                    .set_gpr(register, rng.below(4096).wrapping_sub(2048));
            }
        }
        Mnemonic::Cmpxchg if rng.one_in(2) => {
            let value = if instruction.op0_kind() == OpKind::Register {
                case.state.gpr[number(instruction.op0_register())?]
            } else {
                patch_u64(case, 0)
            };
            free_register(generated, RAX, value);
        }
        Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b if rng.one_in(2) => {
            let wide = instruction.mnemonic() == Mnemonic::Cmpxchg16b;
            let (low, high) = if wide {
                (patch_u64(case, 0), patch_u64(case, 8))
            } else {
                (patch_u64(case, 0) & 0xffff_ffff, patch_u64(case, 0) >> 32)
            };
            free_register(generated, RAX, low);
            free_register(generated, RDX, high);
        }
        Mnemonic::Enter => {
            // Frame size and nesting level that stay in the window, mostly.
            let at = instruction.len() - 3;
            if !rng.one_in(8) {
                case.code[at..at + 2].copy_from_slice(&(rng.below(256) as u16).to_le_bytes());
                case.code[at + 2] = rng.pick(&[0, 0, 1, 2, 3, 31, 32, 7]);
                if rng.one_in(2) {
                    let rsp = case.state.gpr[RSP];
                    case.state.set_gpr(5, rsp.wrapping_add(rng.below(64) * 8));
                }
            }
        }
        Mnemonic::Wrfsbase | Mnemonic::Wrgsbase if !rng.one_in(4) => {
            let register = number(instruction.op0_register())?;
            if register != RSP {
                case.state
                    .set_gpr(register, values::integer(rng) & 0x7fff_ffff_ffff);
            }
        }
        // Bit 17 exists on AMD only.
        Mnemonic::Ldmxcsr => {
            keep_bits(rng, generated, 0, 4, 0xffff);
            generated.case.patch[2] &= !2;
        }
        Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => {
            keep_bits(rng, generated, 24, 4, 0xffff);
            generated.case.patch[26] &= !2;
            valid_status(generated, 0, 2);
        }
        Mnemonic::Fldcw => {}
        Mnemonic::Fldenv => valid_status(
            generated,
            0,
            if instruction.memory_size() == MemorySize::FpuEnv14 {
                2
            } else {
                4
            },
        ),
        Mnemonic::Frstor => valid_status(
            generated,
            0,
            if instruction.memory_size() == MemorySize::FpuState94 {
                2
            } else {
                4
            },
        ),
        Mnemonic::Rcl
        | Mnemonic::Rcr
        | Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Shl
        | Mnemonic::Sal
        | Mnemonic::Shr
        | Mnemonic::Sar
        | Mnemonic::Shld
        | Mnemonic::Shrd
            if !rng.one_in(4) =>
        {
            free_register(generated, RCX, rng.below(70));
        }
        _ => {}
    }
    if instruction.is_string_instruction() && !rng.one_in(12) {
        let count = rng.below(24);
        let keep = if rng.one_in(4) {
            rng.next() & 0xffff_ffff_0000_0000
        } else {
            0
        };
        let narrow = uses_ecx(generated);
        generated
            .case
            .state
            .set_gpr(RCX, if narrow { count | keep } else { count });
    }
    fit_branch(rng, generated);
    selectors::fit(rng, generated);
    Some(())
}

/// Whether a repeat count is ECX.
fn uses_ecx(generated: &Generated) -> bool {
    generated
        .case
        .bytes()
        .iter()
        .take(4)
        .any(|byte| *byte == 0x67)
}

/// Sets a register unless an address hangs on it.
fn free_register(generated: &mut Generated, register: usize, value: u64) {
    let instruction = &generated.instruction;
    let in_address = [instruction.memory_base(), instruction.memory_index()]
        .into_iter()
        .any(|used| used != Register::None && number(used) == Some(register));
    if !in_address {
        generated.case.state.set_gpr(register, value);
    }
}

fn patch_u64(case: &crate::state::Case, at: usize) -> u64 {
    u64::from_le_bytes(case.patch[at..at + 8].try_into().unwrap())
}

fn fill_patch(rng: &mut Prng, generated: &mut Generated) {
    let instruction = &generated.instruction;
    let style = match instruction.memory_size() {
        MemorySize::Float32 => Style::Singles,
        MemorySize::Float64 => Style::Doubles,
        MemorySize::Float80 => Style::Extended,
        MemorySize::Bcd => Style::Decimal,
        _ => style_of(rng, instruction),
    };
    let mut patch = [0u8; PATCH_MAX];
    values::fill(rng, style, &mut patch);
    if rng.one_in(4) {
        // Equal operands for the comparisons.
        let copy = generated.case.state.xmm(rng.below(16) as usize);
        patch[..16].copy_from_slice(&copy.to_le_bytes());
    }
    generated.case.patch = patch;
}

/// A dividend whose quotient fits, more often than chance gives.
fn fit_division(rng: &mut Prng, generated: &mut Generated) {
    let high = match rng.below(4) {
        0 => 0,
        1 => u64::MAX,
        2 => rng.below(16),
        _ => return,
    };
    free_register(generated, RDX, high);
    if rng.one_in(2) {
        let low = values::integer(rng);
        free_register(generated, RAX, if rng.one_in(2) { low & 0xff } else { low });
    }
}

/// Masks `len` bytes of the patch, seven times of eight.
fn keep_bits(rng: &mut Prng, generated: &mut Generated, at: usize, len: usize, mask: u32) {
    if !rng.one_in(8) {
        for (index, byte) in generated.case.patch[at..at + len].iter_mut().enumerate() {
            *byte &= mask.to_le_bytes()[index];
        }
    }
}

/// Status words in images keep ES and B consistent with the exceptions and masks beside them.
fn valid_status(generated: &mut Generated, control_at: usize, status_at: usize) {
    let patch = &mut generated.case.patch;
    let control = u16::from_le_bytes([patch[control_at], patch[control_at + 1]]);
    let mut status = u16::from_le_bytes([patch[status_at], patch[status_at + 1]]) & 0x7f7f;
    if status & !control & 0x3f != 0 {
        status |= 0x8080;
    }
    patch[status_at..status_at + 2].copy_from_slice(&status.to_le_bytes());
}

/// Indirect branches and returns mostly go into the code page.
fn fit_branch(rng: &mut Prng, generated: &mut Generated) {
    let instruction = generated.instruction;
    let flow = instruction.flow_control();
    let target = CODE + rng.below(CODE_LEN) - base_of(generated.case.state.cs());
    if rng.one_in(6) {
        return;
    }
    match flow {
        FlowControl::IndirectBranch | FlowControl::IndirectCall
            if instruction.op0_kind() == OpKind::Register =>
        {
            if let Some(register) =
                number(instruction.op0_register()).filter(|register| *register != RSP)
            {
                generated.case.state.set_gpr(register, target);
            }
        }
        FlowControl::IndirectBranch | FlowControl::IndirectCall | FlowControl::Return => {
            generated.case.patch[..8].copy_from_slice(&target.to_le_bytes());
        }
        _ => {}
    }
}
