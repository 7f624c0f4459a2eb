//! Cases: an instruction drawn from the templates, and a state in which it has something to do.

pub(crate) mod address;
pub(crate) mod operands;
mod registers;
pub(crate) mod selectors;
pub(crate) mod sequence;

use crate::layout::{CODE, CODE_LEN, CS32, CS64, DATA_LEN, DS};
use crate::native::PATTERNS;
use crate::prng::Prng;
use crate::segments;
use crate::state::{Case, CpuState};
use crate::templates::{self, Extra, Map, Shape, Template};
use crate::undefined::Open;
use crate::values::{self, Style};
use iced_x86::{Code, Instruction, InstructionInfoFactory, Mnemonic, OpKind};
use std::collections::BTreeMap;

/// Single-step flag.
pub(crate) const TF: u64 = 1 << 8;

/// A case and the instructions it consists of.
#[derive(Clone)]
pub(crate) struct Generated {
    pub(crate) case: Case,
    pub(crate) instruction: Instruction,
    /// 64, or 32 or 16 for compatibility mode.
    pub(crate) bitness: u32,
    /// Several instructions run, and this is what they leave open; `instruction` is the first.
    pub(crate) sequence: Option<Open>,
}

/// What all cases are drawn from.
pub(crate) struct Generator {
    long: Vec<Template>,
    compatibility: Vec<Template>,
    /// Of 16-bit code.
    small: Vec<Template>,
    info: InstructionInfoFactory,
    /// Which cases are wanted, when it is not empty.
    filter: String,
}

/// The data window's possible contents. They follow from nothing but their number.
pub(crate) fn patterns() -> Box<[[u8; DATA_LEN as usize]; PATTERNS]> {
    let mut all = Box::new([[0u8; DATA_LEN as usize]; PATTERNS]);
    let styles = [
        Style::Noise,
        Style::Integers,
        Style::Singles,
        Style::Doubles,
        Style::Extended,
        Style::Integers,
        Style::Decimal,
        Style::Noise,
    ];
    for (index, pattern) in all.iter_mut().enumerate() {
        let mut rng = Prng::new(0x7061_7474_0000 + index as u64);
        // Pieces of one style, so that wide operands find consistent lanes; some repeat, for the string scans.
        for piece in pattern.chunks_mut(64) {
            if rng.one_in(5) {
                piece.fill(rng.pick(&[0, 0xff, b'a']));
            } else {
                values::fill(&mut rng, styles[index % styles.len()], piece);
            }
        }
    }
    all
}

impl Generator {
    /// Walks the opcode maps. `filter` restricts cases; see [`wanted`].
    pub(crate) fn new(filter: &str) -> Self {
        let filter = filter.to_lowercase();
        let keep = |bitness| {
            let mut found = templates::all(bitness);
            found.retain(|template| {
                operands::ready(template.code) && wanted(&filter, template.code)
            });
            found
        };
        Self {
            long: keep(64),
            compatibility: keep(32),
            small: keep(16),
            info: InstructionInfoFactory::new(),
            filter,
        }
    }

    /// Every code that can be drawn, for the coverage table.
    pub(crate) fn codes(&self) -> impl Iterator<Item = Code> + '_ {
        let templates = self
            .long
            .iter()
            .chain(&self.compatibility)
            .chain(&self.small);
        let codes: BTreeMap<usize, Code> = templates
            .map(|template| (template.code as usize, template.code))
            .collect();
        codes.into_values()
    }

    /// The case that belongs to a seed, or `None` when nothing could be made of it.
    pub(crate) fn case(&mut self, seed: u64) -> Option<Generated> {
        let mut rng = Prng::new(seed);
        let whole_family = self.filter.is_empty() || self.filter.starts_with('@');
        if whole_family && rng.one_in(5) {
            return self.sequence(&mut rng);
        }
        let bitness = match rng.below(12) {
            0 | 1 => 32,
            2 | 3 => 16,
            _ => 64,
        };
        let local = bitness == 16 || (bitness == 32 && rng.one_in(2));
        let mut case = Case::empty();
        draw_segments(&mut rng, bitness, local, &mut case.state);
        let noise = self.filter.is_empty() && rng.one_in(12);
        let instruction = if noise {
            noise_instruction(&mut rng, bitness, &mut case)?
        } else {
            let from = match bitness {
                64 => &self.long,
                32 => &self.compatibility,
                _ => &self.small,
            };
            if from.is_empty() {
                return None;
            }
            let template = &from[rng.below(from.len() as u64) as usize];
            draw_instruction(&mut rng, bitness, template, &mut case)?
        };
        case.pattern = rng.below(PATTERNS as u64) as u32;
        let linear = place(&mut rng, &mut case);
        registers::draw(&mut rng, &instruction, &mut case.state);
        if noise && instruction.is_invalid() && linear + 15 > CODE + CODE_LEN {
            // Whether the bytes behind an unknown opcode are fetched.
            return None;
        }
        let mut generated = Generated {
            case,
            instruction,
            bitness,
            sequence: None,
        };
        address::fix(&mut rng, &mut self.info, &mut generated)?;
        operands::fit(&mut rng, &mut generated)?;
        if bitness != 64 {
            narrow(&mut generated);
        }
        single_step(&mut rng, &mut generated);
        // The bytes may have changed on the way: what runs must still be what was drawn.
        let Generated {
            case, instruction, ..
        } = &mut generated;
        let again = templates::decode(bitness, case.bytes(), case.state.rip());
        if again.code() != instruction.code() || (!noise && !templates::testable(&again)) {
            return None;
        }
        // AMD's UD0 and UD1 have no ModRM byte to fetch.
        let bare = matches!(again.mnemonic(), Mnemonic::Ud0 | Mnemonic::Ud1);
        if (bare && linear + again.len() as u64 > CODE + CODE_LEN)
            || vendors_differ(&again, bitness, case.bytes())
            || address::offset_alone_faults(&again, &case.state)
        {
            return None;
        }
        Some(generated)
    }
}

/// In compatibility mode the upper halves and the upper registers keep what they hold or not, as the processor
/// likes: they start as zero and are compared no further.
fn narrow(generated: &mut Generated) {
    let state = &mut generated.case.state;
    for index in 0..16 {
        let value = if index < 8 {
            state.gpr[index] & 0xffff_ffff
        } else {
            0
        };
        state.set_gpr(index, value);
    }
    for index in 8..16 {
        state.set_xmm(index, 0);
    }
}

/// Whether a filter lets a code through: nothing, a mnemonic, the beginning of one with `*`, or a family: `@integer`,
/// `@x87`, `@sse`.
fn wanted(filter: &str, code: Code) -> bool {
    let name = format!("{:?}", code.mnemonic()).to_lowercase();
    if let Some(family) = filter.strip_prefix('@') {
        let feature = |known: &[&str]| {
            let named = |name: &String| known.iter().any(|prefix| name.starts_with(prefix));
            code.cpuid_features()
                .iter()
                .map(|feature| format!("{feature:?}"))
                .any(|name| named(&name))
        };
        let x87 = feature(&["FPU"]);
        let sse = feature(&["SSE", "SSSE", "MMX", "AES", "PCLMUL", "FXSR"]);
        return match family {
            "x87" => x87,
            "sse" => sse,
            _ => !x87 && !sse,
        };
    }
    filter.is_empty()
        || name == filter
        || (filter.ends_with('*') && name.starts_with(filter.trim_end_matches('*')))
}

/// Flat segments, or those of the local table.
fn draw_segments(rng: &mut Prng, bitness: u32, local: bool, state: &mut CpuState) {
    state.set_cs(match bitness {
        64 => CS64,
        32 if local => rng.pick(&segments::CODE_32),
        32 => CS32,
        _ => rng.pick(&segments::CODE_16),
    });
    if !local {
        return;
    }
    let draw = |rng: &mut Prng| {
        if rng.one_in(6) {
            DS
        } else {
            rng.pick(&segments::DATA_LOADABLE)
        }
    };
    state.ds = draw(rng).into();
    state.es = draw(rng).into();
    state.fs = draw(rng).into();
    state.gs = if rng.one_in(4) { 0 } else { draw(rng).into() };
    state.set_ss(if rng.one_in(6) {
        DS
    } else {
        rng.pick(&segments::STACKS)
    });
}

/// Mostly somewhere inside the page; sometimes up to its end or over it. Returns the linear address.
fn place(rng: &mut Prng, case: &mut Case) -> u64 {
    let len = case.bytes().len() as u64;
    let rip = match rng.below(64) {
        0 => CODE + CODE_LEN - 1 - rng.below(len),
        1 | 2 => CODE + CODE_LEN - len,
        _ => CODE + 0x400 + rng.below(0x800),
    };
    case.state.set_rip(rip - segments::base_of(case.state.cs()));
    rip
}

/// Branches run with the trap flag, for they might never meet an INT3; repeated string instructions mostly
/// without, for the trap comes after each step.
fn single_step(rng: &mut Prng, generated: &mut Generated) {
    let instruction = &generated.instruction;
    let branches = instruction.flow_control() != iced_x86::FlowControl::Next;
    if branches || rng.one_in(16) {
        let state = &mut generated.case.state;
        state.set_rflags(state.rflags() | TF);
    }
}

const SEGMENTS: [u8; 6] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65];

fn draw_extra(rng: &mut Prng, bitness: u32, template: &Template) -> Extra {
    let mut extra = Extra::default();
    let mut add = |prefix: u8| {
        extra.legacy[extra.legacy_len] = prefix;
        extra.legacy_len += 1;
    };
    if rng.one_in(8) {
        // Null selectors in FS and GS make every such access of compatibility mode a fault.
        let count = if bitness != 32 || rng.one_in(4) { 6 } else { 4 };
        add(SEGMENTS[rng.below(count) as usize]);
    }
    if rng.one_in(10) {
        add(0x67);
    }
    let lockable = template.code.op_code().can_use_lock_prefix();
    if (lockable && rng.one_in(4)) || rng.one_in(80) {
        add(0xf0);
    }
    let rep = template.code.op_code().can_use_rep_prefix()
        || template.code.op_code().can_use_repne_prefix();
    if (rep && rng.one_in(2)) || rng.one_in(60) {
        add(rng.pick(&[0xf2, 0xf3]));
    }
    if bitness == 64 {
        extra.rxb = if rng.one_in(2) { rng.below(8) as u8 } else { 0 };
        extra.force_rex = rng.one_in(4);
        extra.vvvv = rng.below(16) as u8;
    } else {
        extra.vvvv = rng.below(8) as u8;
    }
    extra
}

fn draw_instruction(
    rng: &mut Prng,
    bitness: u32,
    template: &Template,
    case: &mut Case,
) -> Option<Instruction> {
    for attempt in 0..12 {
        let mut shape: Shape = rng.pick(&template.shapes);
        let drawn = if shape.modrm >= 0xc0 {
            0xc0 | rng.byte()
        } else {
            ((rng.below(3) as u8) << 6) | (rng.byte() & 0x3f)
        };
        shape.modrm = match attempt {
            0..4 => drawn,
            4..8 => (drawn & !0x38) | (shape.modrm & 0x38),
            _ => shape.modrm,
        };
        let mut extra = draw_extra(rng, bitness, template);
        if attempt == 11 {
            extra = Extra::default();
        }
        let mut bytes = Vec::with_capacity(40);
        templates::encode(&shape, extra, &mut bytes);
        if matches!(shape.map, Map::OneByte) && !has_modrm(shape.opcode) {
            bytes.pop();
        }
        tail(rng, &mut bytes);
        let instruction = templates::decode(bitness, &bytes[..15], CODE);
        if instruction.code() == template.code && templates::testable(&instruction) {
            set_code(case, &bytes[..instruction.len()]);
            return Some(instruction);
        }
    }
    None
}

/// Whether a one-byte opcode is followed by ModRM; where it is not, the byte in its place is free to be drawn.
fn has_modrm(opcode: u8) -> bool {
    match opcode {
        0x00..0x40 => opcode & 7 < 4,
        0x62
        | 0x63
        | 0x69
        | 0x6b
        | 0x80..0x90
        | 0xc0
        | 0xc1
        | 0xc4..0xc8
        | 0xd0..0xd4
        | 0xd8..0xe0
        | 0xf6
        | 0xf7
        | 0xfe
        | 0xff => true,
        _ => false,
    }
}

fn set_code(case: &mut Case, bytes: &[u8]) {
    case.code[..bytes.len()].copy_from_slice(bytes);
    case.code_len = bytes.len() as u32;
}

/// SIB, displacement and immediate: anything, with a liking for small numbers.
fn tail(rng: &mut Prng, bytes: &mut Vec<u8>) {
    let style = rng.below(4);
    for _ in 0..16 {
        bytes.push(match style {
            0 => rng.pick(&[0, 0, 0, 1, 0xff, 0x7f, 0x80]),
            _ => rng.byte(),
        });
    }
}

/// Bytes of pure chance as an instruction. Those that no decoder knows are cases too, unless they begin like an
/// extension that the host may have and we do not.
fn noise_instruction(rng: &mut Prng, bitness: u32, case: &mut Case) -> Option<Instruction> {
    let mut bytes = [0u8; 15];
    let mut at = 0;
    while at < 4 && rng.one_in(3) {
        bytes[at] = rng.pick(&[
            0x66, 0xf2, 0xf3, 0x67, 0xf0, 0x2e, 0x3e, 0x48, 0x4f, 0x40, 0x64,
        ]);
        at += 1;
    }
    let start = at;
    for byte in &mut bytes[start..] {
        *byte = rng.byte();
    }
    if rng.one_in(3) {
        bytes[start] = 0x0f;
    }
    let instruction = templates::decode(bitness, &bytes, CODE);
    if instruction.is_invalid() {
        let opcode = bytes.iter().position(|byte| !is_prefix(*byte, bitness))?;
        let foreign = matches!(bytes[opcode], 0xc4 | 0xc5 | 0x62 | 0x8f)
            || (bytes[opcode] == 0x0f
                && matches!(
                    bytes.get(opcode + 1),
                    None | Some(
                        0x01 | 0x05 | 0x0f | 0x34
                            ..0x38 | 0x38 | 0x3a | 0x78 | 0x79 | 0xa6 | 0xa7 | 0xae | 0xc7
                    )
                ));
        // AMD looks at the operand of the instructions behind 0F 00 before it refuses a LOCK prefix, and with one
        // takes MOV CR0 for MOV CR8.
        let behind = bytes.get(opcode + 1).copied().unwrap_or(0);
        let locked =
            has_prefix(&bytes, 0xf0) && bytes[opcode] == 0x0f && matches!(behind, 0 | 0x20 | 0x22);
        // An unknown opcode may take a ModRM byte or not: fault, length and page are the same inside the page.
        if foreign || locked {
            return None;
        }
        set_code(case, &bytes);
        return Some(instruction);
    }
    if !templates::testable(&instruction) || !operands::ready(instruction.code()) {
        return None;
    }
    // Address size 16 reaches nothing that a process can map.
    set_code(case, &bytes[..instruction.len()]);
    Some(instruction)
}

fn is_prefix(byte: u8, bitness: u32) -> bool {
    matches!(
        byte,
        0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3 | 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65
    ) || (bitness == 64 && matches!(byte, 0x40..0x50))
}

/// Encodings that mean different things to different processors, or to processor and decoder.
pub(super) fn vendors_differ(instruction: &Instruction, bitness: u32, bytes: &[u8]) -> bool {
    // AMD honours an operand-size prefix before near branches in 64-bit code, Intel ignores it.
    let branches = instruction.flow_control() != iced_x86::FlowControl::Next;
    if bitness == 64 && branches && has_prefix(bytes, 0x66) {
        return true;
    }
    let repeat = has_prefix(bytes, 0xf2) || has_prefix(bytes, 0xf3);
    match instruction.code() {
        // AMD has no far pointers of ten bytes, whatever REX.W says.
        Code::Jmp_m1664
        | Code::Call_m1664
        | Code::Lss_r64_m1664
        | Code::Lfs_r64_m1664
        | Code::Lgs_r64_m1664 => return true,
        // AMD reads four bytes, Intel two.
        Code::Movsxd_r16_rm16 => return true,
        _ => {}
    }
    match instruction.mnemonic() {
        // A hypervisor below the host may re-inject the trap as a fault.
        Mnemonic::Int1 => true,
        // AMD lets a repeat prefix choose the condition, as the 8086 did; the manuals reserve that.
        Mnemonic::Loope | Mnemonic::Loopne => repeat,
        // AMD: #UD with a register operand. Intel: no operation.
        Mnemonic::Reservednop => {
            bytes.windows(2).any(|pair| pair == [0x0f, 0x0d])
                && instruction.op0_kind() == OpKind::Register
        }
        // With REX.B it exchanges R8 and RAX, whatever prefix stands before; the decoder says PAUSE.
        Mnemonic::Pause => bytes
            .iter()
            .any(|byte| matches!(byte, 0x40..0x50) && byte & 1 != 0),
        _ => false,
    }
}

/// Whether `wanted` is among the prefixes.
fn has_prefix(bytes: &[u8], wanted: u8) -> bool {
    bytes
        .iter()
        .take_while(|byte| is_prefix(**byte, 64))
        .any(|byte| *byte == wanted)
}
