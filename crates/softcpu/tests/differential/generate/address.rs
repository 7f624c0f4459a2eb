//! Memory operands that lie where something is mapped, or just beside it.

use super::Generated;
use crate::layout::{CS64, DATA, DATA_HIGH, DATA_LEN, DATA_WRITABLE, PAGE};
use crate::prng::Prng;
use crate::segments::base_of;
use crate::state::CpuState;
use crate::templates;
use iced_x86::{CodeSize, Instruction, InstructionInfoFactory, OpKind, Register, UsedMemory};

/// Number of a general register in the order of the encodings, whatever part of it is named.
pub(super) fn number(register: Register) -> Option<usize> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

/// A place for an operand of `size` bytes. `far` allows addresses beyond 4 GiB.
fn draw(rng: &mut Prng, size: u64, far: bool) -> u64 {
    let size = size.clamp(1, 512);
    let base = if far && rng.one_in(8) {
        DATA_HIGH
    } else {
        DATA
    };
    let inside = rng.below(DATA_WRITABLE - size);
    let aligned = inside & !(size.next_power_of_two().min(16) - 1);
    let edge = rng.below(size + 8);
    match rng.below(64) {
        0..40 => base + aligned,
        40..50 => base + inside,
        50..53 => base + PAGE - edge,
        53..55 => base + DATA_WRITABLE - edge,
        55 => base + DATA_WRITABLE + rng.below(PAGE - size),
        56 => base - edge,
        57 => base + DATA_LEN - edge,
        58 => base - 0x4000 + inside,
        59 if far => 0x8000_0000_0000 - edge,
        60 if far => 0xffff_8800_0000_0000 + inside,
        61 if far => rng.next(),
        62 if far => 0xffff_8000_0000_0000 - edge,
        _ => base + aligned,
    }
}

/// Sets registers, bases and displacements so that every operand lies at a place of our choice. `None` when the
/// encoding leaves no room for that.
pub(super) fn fix(
    rng: &mut Prng,
    factory: &mut InstructionInfoFactory,
    generated: &mut Generated,
) -> Option<()> {
    if generated.instruction.is_invalid() {
        return Some(());
    }
    let instruction = generated.instruction;
    let used: Vec<UsedMemory> = factory.info(&instruction).used_memory().to_vec();
    for (index, memory) in used.iter().enumerate() {
        let size = memory.memory_size().size() as u64;
        let wide = generated.bitness == 64 && memory.address_size() != CodeSize::Code32;
        let target = draw(rng, size, wide);
        let placed = fix_one(rng, generated, memory, target)?;
        // The patch belongs to the explicit operand; without one, to the first.
        let explicit =
            (0..instruction.op_count()).any(|op| instruction.op_kind(op) == OpKind::Memory);
        let this = memory.base() == instruction.memory_base()
            && memory.index() == instruction.memory_index();
        if placed && if explicit { this } else { index == 0 } {
            aim_patch(generated, target);
        }
    }
    Some(())
}

/// The patch begins at the operand when that lies in the window.
fn aim_patch(generated: &mut Generated, target: u64) {
    for base in [DATA, DATA_HIGH] {
        let offset = target.wrapping_sub(base);
        if offset < DATA_LEN - 128 {
            generated.case.patch_at = offset as u32;
            generated.case.patch_len = 64;
        }
    }
}

fn fix_one(
    rng: &mut Prng,
    generated: &mut Generated,
    memory: &UsedMemory,
    target: u64,
) -> Option<bool> {
    let base = memory.base();
    let index = number(memory.index());
    let scale = memory.scale() as u64;
    let segment_base = draw_segment_base(rng, generated, memory.segment());
    let bitness = generated.bitness;
    let state = &mut generated.case.state;
    let mut wanted = target.wrapping_sub(segment_base);
    if bitness != 64 {
        wanted &= 0xffff_ffff;
    }
    if memory.address_size() == CodeSize::Code16 {
        return fix_16(generated, memory, wanted);
    }
    if matches!(base, Register::RIP | Register::EIP) {
        let next = state.rip() + generated.instruction.len() as u64;
        return set_displacement(generated, wanted.wrapping_sub(next));
    }
    let index_value = |state: &CpuState| match (memory.index(), index) {
        (Register::AL, _) => state.gpr[0] & 0xff,
        (_, Some(index)) => state.gpr[index],
        _ => 0,
    };
    match (number(base), index) {
        (Some(base), Some(index)) if base == index && memory.index() != Register::AL => {
            let sum = wanted.wrapping_sub(memory.displacement());
            state.set_gpr(base, sum / (scale + 1));
        }
        (Some(base), _) => {
            let offset = index_value(state).wrapping_mul(scale);
            let value = wanted
                .wrapping_sub(memory.displacement())
                .wrapping_sub(offset);
            state.set_gpr(base, value);
            if memory.address_size() == CodeSize::Code32 && generated.bitness == 64 {
                let low = value & 0xffff_ffff;
                state.set_gpr(base, low | rng.next() << 32);
            }
        }
        (None, Some(index)) => {
            state.set_gpr(index, rng.below(64));
            let offset = index_value(state).wrapping_mul(scale);
            return set_displacement(generated, wanted.wrapping_sub(offset));
        }
        (None, None) => return set_displacement(generated, wanted),
    }
    Some(true)
}

/// The same for 16-bit addresses, which reach the first 64 KiB of a segment. (Stacks are 32 bits wide in all cases.)
fn fix_16(generated: &mut Generated, memory: &UsedMemory, wanted: u64) -> Option<bool> {
    let state = &mut generated.case.state;
    let low = |value: u64, new: u64| value & !0xffff | new & 0xffff;
    let displacement = memory.displacement() as i16 as u64;
    match (number(memory.base()), number(memory.index())) {
        (Some(4), _) => state.set_gpr(4, wanted.wrapping_sub(displacement) & 0xffff_ffff),
        _ if wanted > 0xffff => return Some(false),
        (Some(base), index) => {
            let index = match (memory.index(), index) {
                (Register::AL, _) => state.gpr[0] & 0xff,
                (_, Some(index)) => state.gpr[index],
                _ => 0,
            };
            let value = wanted.wrapping_sub(displacement).wrapping_sub(index);
            state.set_gpr(base, low(state.gpr[base], value));
        }
        (None, Some(index)) => {
            let value = wanted.wrapping_sub(displacement);
            state.set_gpr(index, low(state.gpr[index], value));
        }
        (None, None) => return set_displacement(generated, wanted),
    }
    Some(true)
}

/// FS and GS get bases, mostly small ones, when an operand uses them.
fn draw_segment_base(rng: &mut Prng, generated: &mut Generated, segment: Register) -> u64 {
    let value = rng.pick(&[
        0,
        0x10,
        0x1000,
        DATA,
        DATA_HIGH,
        // Nothing is there on the host: not its stacks, which lie below the end of user addresses.
        0x2aaa_0000_0000,
        0xffff_ffff_ffff_f000,
        0xfff,
    ]);
    let state = &mut generated.case.state;
    match segment {
        Register::FS if generated.bitness == 64 => state.fs_base = value,
        Register::GS if generated.bitness == 64 => state.gs_base = value,
        _ if generated.bitness == 64 => return 0,
        _ => return base_of(selector_in(state, segment)),
    }
    value
}

/// Address of the explicit memory operand without its segment base, in 64 bits.
fn offset(instruction: &Instruction, state: &CpuState) -> u64 {
    let value = |register: Register| number(register).map_or(0, |index| state.gpr[index]);
    let displacement = instruction.memory_displacement64();
    if matches!(instruction.memory_base(), Register::RIP | Register::EIP) {
        return displacement;
    }
    let index = value(instruction.memory_index());
    displacement
        .wrapping_add(value(instruction.memory_base()))
        .wrapping_add(index.wrapping_mul(instruction.memory_index_scale().into()))
}

fn selector_in(state: &CpuState, segment: Register) -> u16 {
    match segment {
        Register::ES => state.es as u16,
        Register::CS => state.cs(),
        Register::SS => state.ss(),
        Register::FS => state.fs as u16,
        Register::GS => state.gs as u16,
        _ => state.ds as u16,
    }
}

/// Where in the data window the explicit memory operand begins.
pub(crate) fn window_offset(instruction: &Instruction, state: &CpuState) -> Option<usize> {
    let long = state.cs() == CS64;
    let base = match instruction.memory_segment() {
        Register::FS if long => state.fs_base,
        Register::GS if long => state.gs_base,
        _ if long => 0,
        segment => base_of(selector_in(state, segment)),
    };
    let width = instruction
        .memory_base()
        .size()
        .max(instruction.memory_index().size())
        .max(instruction.memory_displ_size() as usize);
    let mask = match width {
        1 | 2 if !long => 0xffff,
        4 => 0xffff_ffff,
        _ if !long => 0xffff_ffff,
        _ => u64::MAX,
    };
    let mut linear = (offset(instruction, state) & mask).wrapping_add(base);
    if !long {
        linear &= 0xffff_ffff;
    }
    [DATA, DATA_HIGH]
        .into_iter()
        .map(|window| linear.wrapping_sub(window))
        .find(|offset| *offset < DATA_LEN)
        .map(|offset| offset as usize)
}

/// Whether an operand in FS or GS has an offset that is not canonical by itself: AMD refuses that, Intel looks only
/// at the sum with the base.
pub(super) fn offset_alone_faults(instruction: &Instruction, state: &CpuState) -> bool {
    let segment = instruction.segment_prefix();
    if !matches!(segment, Register::FS | Register::GS) {
        return false;
    }
    let value = |register: Register| number(register).map_or(0, |index| state.gpr[index]);
    let canonical = |address: u64| (address as i64) << 16 >> 16 == address as i64;
    let address = offset(instruction, state);
    let mut offsets = vec![address, address.wrapping_add(16)];
    if instruction.is_string_instruction() {
        offsets.push(value(Register::RSI));
    }
    if let (OpKind::Memory, OpKind::Register) = (instruction.op0_kind(), instruction.op1_kind()) {
        // Bit offsets reach further.
        offsets.push(address.wrapping_add((value(instruction.op1_register()) as i64 >> 3) as u64));
    }
    !offsets.into_iter().all(canonical)
}

/// Writes a displacement into the code bytes. One that does not fit leaves the case as it is: a random address.
fn set_displacement(generated: &mut Generated, value: u64) -> Option<bool> {
    let case = &mut generated.case;
    let mut decoder = iced_x86::Decoder::with_ip(
        generated.bitness,
        &case.code[..case.code_len as usize],
        case.state.rip(),
        iced_x86::DecoderOptions::NONE,
    );
    let instruction = decoder.decode();
    let offsets = decoder.get_constant_offsets(&instruction);
    let at = offsets.displacement_offset();
    let size = offsets.displacement_size();
    let fits = match size {
        8 => true,
        4 => value as i32 as u64 == value || generated.bitness != 64,
        2 => value & 0xffff_ffff <= 0xffff,
        _ => false,
    };
    if fits {
        case.code[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        let again = templates::decode(generated.bitness, case.bytes(), case.state.rip());
        if again.code() != generated.instruction.code() {
            return None;
        }
        generated.instruction = again;
    }
    Some(fits)
}
