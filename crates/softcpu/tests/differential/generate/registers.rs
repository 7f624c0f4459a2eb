//! The state before operands are fitted: every register holds something worth computing with.

use crate::layout::{CS64, DATA};
use crate::prng::Prng;
use crate::segments::base_of;
use crate::state::{CpuState, RSP};
use crate::values::{self, Style};
use iced_x86::Instruction;

const STATUS_FLAGS: u64 = 0x8d5;
const ALWAYS_FLAGS: u64 = 0x202;
const DIRECTION: u64 = 1 << 10;
const ALIGNMENT_CHECK: u64 = 1 << 18;
const IDENTIFICATION: u64 = 1 << 21;

/// Fills the state.
pub(super) fn draw(rng: &mut Prng, instruction: &Instruction, state: &mut CpuState) {
    for index in 0..16 {
        let value = values::integer(rng);
        state.set_gpr(index, value);
    }
    let rsp = DATA + 0x800 + rng.below(0x100) * 8;
    let offset = rsp - base_of(state.ss());
    state.set_gpr(
        RSP,
        if rng.one_in(40) {
            values::integer(rng)
        } else {
            offset
        },
    );
    let mut flags = ALWAYS_FLAGS | (rng.next() & STATUS_FLAGS);
    if rng.one_in(if instruction.is_string_instruction() {
        2
    } else {
        16
    }) {
        flags |= DIRECTION;
    }
    if rng.one_in(32) {
        flags |= IDENTIFICATION;
    }
    if rng.one_in(48) && may_check_alignment(instruction) {
        flags |= ALIGNMENT_CHECK;
    }
    state.set_rflags(flags);
    if state.cs() == CS64 {
        state.fs_base = small_base(rng);
        state.gs_base = small_base(rng);
    } else {
        state.fs_base = base_of(state.fs as u16);
        state.gs_base = base_of(state.gs as u16);
    }
    draw_sse(rng, instruction, state);
    draw_x87(rng, state);
}

fn small_base(rng: &mut Prng) -> u64 {
    rng.pick(&[
        0,
        0x1000,
        0x1234_5678,
        0x7f00_1234_5678,
        0xffff_9000_0000_0000,
    ])
}

/// The manuals leave it to the processor which vector and x87 accesses check alignment.
fn may_check_alignment(instruction: &Instruction) -> bool {
    use iced_x86::CpuidFeature as F;
    instruction.cpuid_features().iter().all(|feature| {
        matches!(
            feature,
            F::INTEL8086
                | F::INTEL186
                | F::INTEL286
                | F::INTEL386
                | F::INTEL486
                | F::X64
                | F::MOVBE
                | F::CX8
        )
    })
}

/// Which numbers an instruction computes with, by its name.
pub(super) fn style_of(rng: &mut Prng, instruction: &Instruction) -> Style {
    if rng.one_in(6) {
        return Style::Noise;
    }
    let name = format!("{:?}", instruction.mnemonic()).to_lowercase();
    if name.ends_with("ps")
        || name.ends_with("ss")
        || name.starts_with("cvtps")
        || name.starts_with("cvtss")
        || name.starts_with("cvttps")
        || name.starts_with("cvttss")
    {
        Style::Singles
    } else if name.ends_with("pd")
        || name.ends_with("sd")
        || name.contains("pd2")
        || name.contains("sd2")
    {
        Style::Doubles
    } else if rng.one_in(4) {
        Style::Noise
    } else {
        Style::Integers
    }
}

fn draw_sse(rng: &mut Prng, instruction: &Instruction, state: &mut CpuState) {
    let style = style_of(rng, instruction);
    for index in 0..16 {
        let mut bytes = [0u8; 16];
        values::fill(rng, style, &mut bytes);
        state.set_xmm(index, u128::from_le_bytes(bytes));
    }
    let masks = 0x1f80;
    let mut mxcsr = masks;
    if rng.one_in(2) {
        mxcsr |= (rng.below(4) as u32) << 13;
        mxcsr |= rng.next() as u32 & 0x3f;
        if rng.one_in(3) {
            mxcsr |= 1 << 15;
        }
        if rng.one_in(3) {
            mxcsr |= 1 << 6;
        }
        if rng.one_in(4) {
            mxcsr &= !(rng.next() as u32 & masks);
        }
    }
    state.set_mxcsr(mxcsr);
}

fn draw_x87(rng: &mut Prng, state: &mut CpuState) {
    for index in 0..8 {
        let (significand, sign_exponent) = values::extended(rng);
        state.set_st(index, significand, sign_exponent);
    }
    let mut control = 0x37f;
    if rng.one_in(2) {
        let precision = rng.pick(&[0, 2, 3, 3]);
        control = 0x7f & !0x40 | 0x40 | precision << 8 | (rng.below(4) as u16) << 10;
        if rng.one_in(8) {
            control |= 1 << 12;
        }
        if rng.one_in(4) {
            control &= !(rng.next() as u16 & 0x3f);
        }
    }
    state.set_fcw(control);
    let mut status = (rng.next() as u16) & 0x7f7f;
    if !rng.one_in(3) {
        status &= !0x7f;
    }
    // Nothing pending that is not masked, but for some cases that want to see #MF.
    if !rng.one_in(8) {
        status &= !(!control & 0x3f);
    }
    if status & !control & 0x3f != 0 {
        status |= 0x8080;
    }
    state.set_fsw(status);
    let tags = match rng.below(4) {
        0 => rng.byte(),
        1 => rng.byte() | rng.byte() | rng.byte(),
        _ => 0xff,
    };
    state.set_ftw(tags);
}
