//! Several instructions in a row, with forward jumps over some of them and sometimes a loop around them: what one
//! leaves behind (deferred flags, cached blocks, links between them) meets what the next reads.

use super::{Generated, Generator, set_code};
use crate::layout::{CODE, CS64, DATA, DATA_WRITABLE};
use crate::native::PATTERNS;
use crate::prng::Prng;
use crate::state::{CODE_MAX, Case};
use crate::templates::{self, Extra, Map, Shape};
use crate::undefined::{self, Open};
use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
    RflagsBits,
};

const RCX: usize = 1;
/// All flags and x87 condition bits, as the decoder numbers them.
const STATUS_WORD: u32 = RflagsBits::C0 | RflagsBits::C1 | RflagsBits::C2 | RflagsBits::C3;

/// What is open so far while a sequence grows.
#[derive(Clone, Copy, Default)]
struct Taint {
    now: u32,
    ever: u32,
}

impl Taint {
    /// Goes on behind `instruction`; false when it reads something open.
    fn pass(&mut self, instruction: &Instruction) -> bool {
        let reads = instruction.rflags_read() | reads_more(instruction);
        if reads & self.now != 0 {
            return false;
        }
        let open = instruction.rflags_undefined() | undefined_more(instruction);
        // A shift by zero leaves the flags, and with them what is open, as they were.
        let sure = if depends_on_count(instruction) {
            0
        } else {
            instruction.rflags_modified()
        };
        self.now = (self.now & !sure) | open;
        self.ever |= self.now;
        true
    }
}

fn depends_on_count(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Shl
            | Mnemonic::Sal
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Rcl
            | Mnemonic::Rcr
            | Mnemonic::Shld
            | Mnemonic::Shrd
    )
}

/// Flags that the decoder's table does not call undefined for every count.
fn undefined_more(instruction: &Instruction) -> u32 {
    match instruction.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Shld | Mnemonic::Shrd => {
            RflagsBits::OF | RflagsBits::AF | RflagsBits::CF
        }
        Mnemonic::Sar => RflagsBits::OF | RflagsBits::AF,
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr => RflagsBits::OF,
        _ => 0,
    }
}

/// What whole-state stores read.
fn reads_more(instruction: &Instruction) -> u32 {
    match instruction.mnemonic() {
        Mnemonic::Fnstsw
        | Mnemonic::Fstsw
        | Mnemonic::Fnstenv
        | Mnemonic::Fstenv
        | Mnemonic::Fnsave
        | Mnemonic::Fsave
        | Mnemonic::Fxsave
        | Mnemonic::Fxsave64 => STATUS_WORD,
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => u32::MAX,
        _ => 0,
    }
}

fn welcome(instruction: &Instruction) -> bool {
    let code = instruction.code();
    let info = code.op_code();
    let stays = instruction.flow_control() == FlowControl::Next && info.cpl3() && info.cpl0();
    let plain = !instruction.is_string_instruction()
        && !matches!(
            instruction.mnemonic(),
            Mnemonic::In
                | Mnemonic::Out
                | Mnemonic::Popf
                | Mnemonic::Popfd
                | Mnemonic::Popfq
                | Mnemonic::Enter
                | Mnemonic::Leave
                | Mnemonic::Fldcw
                | Mnemonic::Fldenv
                | Mnemonic::Frstor
                | Mnemonic::Ldmxcsr
                | Mnemonic::Fxrstor
                | Mnemonic::Fxrstor64
                | Mnemonic::Fxsave
                | Mnemonic::Fxsave64
                | Mnemonic::Cli
                | Mnemonic::Sti
                | Mnemonic::Xlatb
                | Mnemonic::Wrfsbase
                | Mnemonic::Wrgsbase
                | Mnemonic::Maskmovq
                | Mnemonic::Maskmovdqu
                | Mnemonic::Rcpps
                | Mnemonic::Lar
                | Mnemonic::Lsl
                | Mnemonic::Verr
                | Mnemonic::Verw
                | Mnemonic::Fnstenv
                | Mnemonic::Fnsave
                | Mnemonic::Fld
                | Mnemonic::F2xm1
                | Mnemonic::Fsin
                | Mnemonic::Fcos
                | Mnemonic::Fsincos
                | Mnemonic::Fptan
                | Mnemonic::Fpatan
                | Mnemonic::Fyl2x
                | Mnemonic::Fyl2xp1
                | Mnemonic::Fstpnce
                | Mnemonic::Fcom
                | Mnemonic::Fcomp
                | Mnemonic::Fcompp
                | Mnemonic::Ficom
                | Mnemonic::Ficomp
                | Mnemonic::Ftst
                | Mnemonic::Fcomi
                | Mnemonic::Fcomip
                | Mnemonic::Fucom
                | Mnemonic::Fucomp
                | Mnemonic::Fucompp
                | Mnemonic::Fucomi
                | Mnemonic::Fucomip
                | Mnemonic::Rcpss
                | Mnemonic::Rsqrtps
                | Mnemonic::Rsqrtss
                | Mnemonic::Cvtps2pi
                | Mnemonic::Cvttps2pi
                | Mnemonic::Cvtpd2pi
                | Mnemonic::Cvttpd2pi
                | Mnemonic::Cvtpi2ps
                | Mnemonic::Cvtpi2pd
        );
    let wide_enough = !matches!(
        code,
        Code::Bswap_r16
            | Code::Shld_rm16_r16_CL
            | Code::Shld_rm16_r16_imm8
            | Code::Shrd_rm16_r16_CL
            | Code::Shrd_rm16_r16_imm8
    );
    // Memory operands are RIP-relative: their place does not hang on registers that change on the way.
    let reachable = !(0..instruction.op_count())
        .any(|op| instruction.op_kind(op) == OpKind::Memory)
        || matches!(instruction.memory_base(), Register::RIP);
    let plain = plain && !super::selectors::loads_segment(code);
    stays && plain && wide_enough && reachable
}

/// One instruction with a RIP-relative operand or none in memory, placed at `rip`.
fn draw(rng: &mut Prng, generator: &Generator, rip: u64) -> Option<(Vec<u8>, Instruction)> {
    let template = &generator.long[rng.below(generator.long.len() as u64) as usize];
    let mut shape: Shape = rng.pick(&template.shapes);
    shape.modrm = if shape.modrm >= 0xc0 {
        0xc0 | rng.byte()
    } else {
        (rng.byte() & 0x38) | 5
    };
    let extra = Extra {
        rxb: if rng.one_in(3) { rng.below(8) as u8 } else { 0 },
        force_rex: rng.one_in(6),
        vvvv: rng.below(16) as u8,
        ..Extra::default()
    };
    let mut bytes = Vec::new();
    templates::encode(&shape, extra, &mut bytes);
    if matches!(shape.map, Map::OneByte) && !super::has_modrm(shape.opcode) {
        bytes.pop();
    }
    super::tail(rng, &mut bytes);
    let mut decoder =
        iced_x86::Decoder::with_ip(64, &bytes[..15], rip, iced_x86::DecoderOptions::NONE);
    let instruction = decoder.decode();
    if !templates::testable(&instruction)
        || !super::operands::ready(instruction.code())
        || !welcome(&instruction)
    {
        return None;
    }
    if super::vendors_differ(&instruction, 64, &bytes) {
        return None;
    }
    let offsets = decoder.get_constant_offsets(&instruction);
    bytes.truncate(instruction.len());
    if instruction.memory_base() == Register::RIP {
        let size = (instruction.memory_size().size() as u64).max(1);
        let alignment = size.next_power_of_two().min(16);
        let place = (DATA + rng.below(DATA_WRITABLE - size)) & !(alignment - 1);
        let displacement = place.wrapping_sub(rip + instruction.len() as u64) as u32;
        let at = offsets.displacement_offset();
        bytes[at..at + 4].copy_from_slice(&displacement.to_le_bytes());
    }
    let instruction = templates::decode(64, &bytes, rip);
    Some((bytes, instruction))
}

impl Generator {
    /// A sequence, when the instructions drawn go together.
    pub(super) fn sequence(&mut self, rng: &mut Prng) -> Option<Generated> {
        let mut case = Case::empty();
        case.state.set_cs(CS64);
        let rip = CODE + 0x400 + rng.below(0x800);
        case.state.set_rip(rip);
        let looped = rng.one_in(4);
        let mut bytes: Vec<u8> = Vec::new();
        let mut instructions = Vec::new();
        let wanted = 2 + rng.below(5) as usize;
        let mut tries = 0;
        while instructions.len() < wanted && tries < 60 {
            tries += 1;
            // A jump over the next instruction, one time of four.
            let jump = rng.one_in(4);
            let at = rip + bytes.len() as u64 + if jump { 2 } else { 0 };
            let Some((code, instruction)) = draw(rng, self, at) else {
                continue;
            };
            if bytes.len() + code.len() + 8 > CODE_MAX
                || (looped && writes_counter(&mut self.info, &instruction))
            {
                continue;
            }
            let mut next = instructions.clone();
            let jump = jump.then(|| [0x70 | rng.below(16) as u8, code.len() as u8]);
            if let Some(condition) = jump {
                next.push(templates::decode(64, &condition, at - 2));
            }
            next.push(instruction);
            if taint_of(&next, looped).is_none() {
                continue;
            }
            if let Some(condition) = jump {
                bytes.extend_from_slice(&condition);
            }
            instructions = next;
            bytes.extend_from_slice(&code);
        }
        if instructions.len() < 2 {
            return None;
        }
        super::registers::draw(rng, &instructions[0], &mut case.state);
        if looped {
            // LOOP back to the start: RCX is written by nothing else.
            let back = -(bytes.len() as i64 + 2);
            bytes.extend_from_slice(&[0xe2, i8::try_from(back).ok()? as u8]);
            case.state.set_gpr(RCX, 2 + rng.below(3));
        }
        let state = &mut case.state;
        state.set_rflags(state.rflags() & !(1 << 18));
        set_code(&mut case, &bytes);
        case.pattern = rng.below(PATTERNS as u64) as u32;
        let open = taint_of(&instructions, looped)?;
        let instruction = instructions[0];
        Some(Generated {
            case,
            instruction,
            bitness: 64,
            sequence: Some(open),
        })
    }
}

fn writes_counter(info: &mut InstructionInfoFactory, instruction: &Instruction) -> bool {
    info.info(instruction).used_registers().iter().any(|used| {
        used.register().full_register() == Register::RCX
            && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead)
    })
}

/// Whether no instruction of a printed or shortened sequence reads what another leaves open.
pub(crate) fn sound(case: &Case) -> bool {
    let decoder = iced_x86::Decoder::with_ip(
        64,
        case.bytes(),
        case.state.rip(),
        iced_x86::DecoderOptions::NONE,
    );
    let instructions: Vec<_> = decoder.into_iter().collect();
    let looped = instructions.iter().any(|instruction| instruction.is_loop());
    taint_of(&instructions, looped).is_some()
}

/// What is open after (and anywhere within) the instructions, or `None` when one of them reads it.
fn taint_of(instructions: &[Instruction], looped: bool) -> Option<Open> {
    let mut taint = Taint::default();
    for _ in 0..if looped { 2 } else { 1 } {
        let mut skippable = false;
        for instruction in instructions {
            let before = taint.now;
            if !taint.pass(instruction) {
                return None;
            }
            // It may be jumped over: what was open stays open.
            if skippable {
                taint.now |= before;
            }
            skippable = instruction.is_jcc_short();
        }
    }
    Some(undefined::from_decoder(taint.ever))
}
