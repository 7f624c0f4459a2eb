//! What the manuals leave open, and where vendors are known to differ: rows with reasons, and nothing else is
//! excused.

use crate::generate::{Generated, address, selectors};
use iced_x86::{Code, MemorySize, Mnemonic, OpKind, Register, RflagsBits};

pub(crate) const CF: u64 = 1 << 0;
pub(crate) const PF: u64 = 1 << 2;
pub(crate) const AF: u64 = 1 << 4;
pub(crate) const ZF: u64 = 1 << 6;
pub(crate) const SF: u64 = 1 << 7;
pub(crate) const OF: u64 = 1 << 11;
/// All six.
pub(crate) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// DM of the x87 control word.
const DENORMAL: u16 = 1 << 1;
pub(crate) const C0: u16 = 1 << 8;
pub(crate) const C1: u16 = 1 << 9;
pub(crate) const C2: u16 = 1 << 10;
pub(crate) const C3: u16 = 1 << 14;

/// What may differ without being wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Open {
    /// Bits of RFLAGS.
    pub(crate) flags: u64,
    /// Bits of the x87 status word.
    pub(crate) status: u16,
    /// General registers, a bit each.
    pub(crate) registers: u16,
    /// General registers, when the instruction faults.
    pub(crate) registers_of_faults: bool,
    /// Single-precision lanes agree within the error that the manual allows.
    pub(crate) approximate: bool,
    /// The host may fault where we do not, and at another byte.
    pub(crate) host_may_fault: bool,
    /// TOP, tags and registers of the x87 after #XM.
    pub(crate) mmx_of_simd_fault: bool,
    /// Memory, when the instruction faults.
    pub(crate) memory_of_faults: bool,
    /// Offset in the window of a byte that tells which MXCSR bits exist.
    pub(crate) mxcsr_mask: Option<usize>,
    /// Condition codes and status flags, when an x87 exception is pending or invalid.
    pub(crate) codes_of_exception: bool,
    /// The base of FS or GS, when its selector is null.
    pub(crate) null_bases: bool,
    /// Which of two faulting operands is met first: RIP and registers must still agree.
    pub(crate) fault: bool,
    /// The whole case: its result is undefined.
    pub(crate) all: bool,
    /// Low bits of a floating-point result that need not agree, in units of the last place.
    pub(crate) ulps: u64,
}

/// What instruction and state leave open.
pub(crate) fn open(generated: &Generated) -> Open {
    let instruction = &generated.instruction;
    if let Some(open) = generated.sequence {
        return open;
    }
    if instruction.is_invalid() {
        return Open::default();
    }
    let mut open = from_decoder(instruction.rflags_undefined());
    open.null_bases = selectors::loads_segment(instruction.code());
    // Of alignment and limit, which is looked at first.
    if generated.bitness != 64 && instruction.memory_size().size() >= 16 {
        open.fault = true;
    }
    match instruction.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Sar => {
            let (count, width) = shift(generated);
            open.flags = match count {
                0 => 0,
                1 => AF,
                // "CF is undefined for SHL and SHR where the count is at least the width" (SDM vol. 2B, SAL).
                _ if count >= width && instruction.mnemonic() != Mnemonic::Sar => AF | OF | CF,
                _ => AF | OF,
            };
        }
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr => {
            let (count, _) = shift(generated);
            open.flags = if count > 1 { OF } else { 0 };
        }
        Mnemonic::Shld | Mnemonic::Shrd => {
            let (count, width) = shift(generated);
            open.flags = match count {
                0 => 0,
                1 => AF,
                _ => AF | OF,
            };
            // "If the count is greater than the operand size, the result is undefined" (SDM vol. 2B, SHLD).
            open.all = count > width;
        }
        // Intel sets no condition codes when an exception is not masked, AMD does.
        Mnemonic::Fcom
        | Mnemonic::Fcomp
        | Mnemonic::Fcompp
        | Mnemonic::Ficom
        | Mnemonic::Ficomp
        | Mnemonic::Ftst
        | Mnemonic::Fucom
        | Mnemonic::Fucomp
        | Mnemonic::Fucompp => open.codes_of_exception = true,
        // The same; and Intel clears C1 where AMD leaves it.
        Mnemonic::Fcomi | Mnemonic::Fcomip | Mnemonic::Fucomi | Mnemonic::Fucomip => {
            open.codes_of_exception = true;
            open.status |= C1;
        }
        // Last places, and with them the direction of rounding, are the processor's own; so is C2 when the operand
        // is no number at all.
        Mnemonic::F2xm1
        | Mnemonic::Fsin
        | Mnemonic::Fcos
        | Mnemonic::Fsincos
        | Mnemonic::Fptan
        | Mnemonic::Fpatan
        | Mnemonic::Fyl2x
        | Mnemonic::Fyl2xp1 => {
            open.ulps = 2;
            open.status |= C1;
            open.codes_of_exception = true;
            // "The range of ST(0) is -(1 - sqrt(2)/2) to (1 - sqrt(2)/2); outside, the result is undefined" (SDM vol. 2A).
            let (significand, sign_exponent) = generated.case.state.st(0);
            let edge = (0x3ffd, 0x95f6_1998_0c43_36f7);
            let beyond = (sign_exponent & 0x7fff, significand) > edge;
            open.all = instruction.mnemonic() == Mnemonic::Fyl2xp1 && beyond;
        }
        // Ten bytes are accessed as eight and two.
        Mnemonic::Fbld | Mnemonic::Fbstp | Mnemonic::Fstp => {
            open.fault |= matches!(
                instruction.memory_size(),
                MemorySize::Bcd | MemorySize::Float80
            );
        }
        // AMD pushes a denormal number although its exception is not masked.
        Mnemonic::Fld => {
            open.fault |= instruction.memory_size() == MemorySize::Float80;
            open.all = instruction.memory_size() != MemorySize::Float80
                && instruction.op0_kind() == OpKind::Memory
                && generated.case.state.fcw() & DENORMAL == 0;
        }
        // Not documented; AMD does not look whether the register is empty.
        Mnemonic::Fstpnce => open.all = true,
        // No manual says which operand is looked at first.
        Mnemonic::Cmpsb
        | Mnemonic::Cmpsw
        | Mnemonic::Cmpsd
        | Mnemonic::Cmpsq
        | Mnemonic::Movsb
        | Mnemonic::Movsw
        | Mnemonic::Movsd
        | Mnemonic::Movsq => {
            open.fault = instruction.is_string_instruction();
        }
        // Approximations: every processor has its own table (SDM vol. 2B: relative error at most 1.5 * 2^-12).
        Mnemonic::Rcpps | Mnemonic::Rcpss | Mnemonic::Rsqrtps | Mnemonic::Rsqrtss => {
            open.approximate = true
        }
        // "A mask of all zeros ... faults are implementation-specific" (SDM vol. 2B, MASKMOVDQU): AMD checks all bytes.
        Mnemonic::Maskmovq | Mnemonic::Maskmovdqu => open.host_may_fault = true,
        // AMD has entered the MMX state when #XM is raised.
        Mnemonic::Cvtps2pi
        | Mnemonic::Cvttps2pi
        | Mnemonic::Cvtpd2pi
        | Mnemonic::Cvttpd2pi
        | Mnemonic::Cvtpi2ps
        | Mnemonic::Cvtpi2pd => open.mmx_of_simd_fault = true,
        // AMD pushes the return address before it looks at the target, Intel's pseudocode has it the other way; and
        // a far call that faults half-way may have written below the stack pointer.
        Mnemonic::Call => {
            open.fault = true;
            let far = instruction.code().is_call_far() || instruction.code().is_call_far_indirect();
            open.memory_of_faults = far;
        }
        // Which part of the frame or of the image is touched first.
        Mnemonic::Retf
        | Mnemonic::Iret
        | Mnemonic::Iretd
        | Mnemonic::Iretq
        | Mnemonic::Lds
        | Mnemonic::Les
        | Mnemonic::Lss
        | Mnemonic::Lfs
        | Mnemonic::Lgs => open.fault = true,
        Mnemonic::Fxrstor
        | Mnemonic::Fxrstor64
        | Mnemonic::Fnstenv
        | Mnemonic::Fldenv
        | Mnemonic::Fnsave
        | Mnemonic::Frstor => open.fault = true,
        Mnemonic::Fxsave | Mnemonic::Fxsave64 => {
            open.fault = true;
            open.memory_of_faults = true;
            // AMD's MXCSR has a bit for misaligned accesses (17) that we do not announce.
            open.mxcsr_mask =
                address::window_offset(instruction, &generated.case.state).map(|at| at + 0x1e);
        }
        // What AMD has popped when a later pop faults stays popped.
        Mnemonic::Popa | Mnemonic::Popad => open.registers_of_faults = true,
        // The result of a 16-bit operand is undefined (SDM vol. 2A, BSWAP).
        Mnemonic::Bswap => open.all = instruction.code() == Code::Bswap_r16,
        _ => {}
    }
    open
}

/// Masked count and width of a shift.
fn shift(generated: &Generated) -> (u32, u32) {
    let instruction = &generated.instruction;
    let last = instruction.op_count() - 1;
    let width = match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size() as u32 * 8,
        _ => instruction.memory_size().size() as u32 * 8,
    };
    let count = match instruction.op_kind(last) {
        OpKind::Register if instruction.op_register(last) == Register::CL => {
            generated.case.state.gpr[1] as u32
        }
        OpKind::Immediate8 => u32::from(instruction.immediate8()),
        _ => 1,
    };
    (count & if width == 64 { 63 } else { 31 }, width)
}

/// The decoder's names for flags as what may differ.
pub(crate) fn from_decoder(bits: u32) -> Open {
    let mut open = Open::default();
    for (bit, flag) in [
        (RflagsBits::CF, CF),
        (RflagsBits::PF, PF),
        (RflagsBits::AF, AF),
        (RflagsBits::ZF, ZF),
        (RflagsBits::SF, SF),
        (RflagsBits::OF, OF),
    ] {
        if bits & bit != 0 {
            open.flags |= flag;
        }
    }
    for (bit, flag) in [
        (RflagsBits::C0, C0),
        (RflagsBits::C1, C1),
        (RflagsBits::C2, C2),
        (RflagsBits::C3, C3),
    ] {
        if bits & bit != 0 {
            open.status |= flag;
        }
    }
    open
}
