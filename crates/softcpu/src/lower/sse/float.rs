//! Floating-point arithmetic, comparisons and conversions.

use iced_x86::{Instruction, Mnemonic, Register};

use super::{Context, F32, F64, pair};
use crate::exec::sse::{convert, float};
use crate::lower::operand_bits;
use crate::op::{Exec, Op};

/// Lowers what this file knows.
pub(super) fn lower(instruction: &Instruction, context: &Context) -> Option<Op> {
    let forms = arithmetic(instruction)
        .or_else(|| conversion(instruction))
        .or_else(|| integer_conversion(instruction))?;
    Some(pair(instruction, context, forms))
}

fn arithmetic(instruction: &Instruction) -> Option<(Exec, Exec)> {
    macro_rules! packed {
        ($format:ident, $function:ident) => {
            (
                float::reg::<float::Packed<$format, float::$function>> as Exec,
                float::mem::<float::Packed<$format, float::$function>> as Exec,
            )
        };
    }
    macro_rules! single {
        ($function:ident) => {
            (
                float::reg::<float::Scalar<F32, float::$function>> as Exec,
                float::mem_low::<float::Scalar<F32, float::$function>, u32> as Exec,
            )
        };
    }
    macro_rules! double {
        ($function:ident) => {
            (
                float::reg::<float::Scalar<F64, float::$function>> as Exec,
                float::mem_low::<float::Scalar<F64, float::$function>, u64> as Exec,
            )
        };
    }
    macro_rules! whole {
        ($($type:tt)+) => {
            (float::reg::<float::$($type)+> as Exec, float::mem::<float::$($type)+> as Exec)
        };
    }
    Some(match instruction.mnemonic() {
        Mnemonic::Addps => packed!(F32, Add),
        Mnemonic::Addpd => packed!(F64, Add),
        Mnemonic::Addss => single!(Add),
        Mnemonic::Addsd => double!(Add),
        Mnemonic::Subps => packed!(F32, Subtract),
        Mnemonic::Subpd => packed!(F64, Subtract),
        Mnemonic::Subss => single!(Subtract),
        Mnemonic::Subsd => double!(Subtract),
        Mnemonic::Mulps => packed!(F32, Multiply),
        Mnemonic::Mulpd => packed!(F64, Multiply),
        Mnemonic::Mulss => single!(Multiply),
        Mnemonic::Mulsd => double!(Multiply),
        Mnemonic::Divps => packed!(F32, Divide),
        Mnemonic::Divpd => packed!(F64, Divide),
        Mnemonic::Divss => single!(Divide),
        Mnemonic::Divsd => double!(Divide),
        Mnemonic::Sqrtps => packed!(F32, SquareRoot),
        Mnemonic::Sqrtpd => packed!(F64, SquareRoot),
        Mnemonic::Sqrtss => single!(SquareRoot),
        Mnemonic::Sqrtsd => double!(SquareRoot),
        Mnemonic::Minps => packed!(F32, Minimum),
        Mnemonic::Minpd => packed!(F64, Minimum),
        Mnemonic::Minss => single!(Minimum),
        Mnemonic::Minsd => double!(Minimum),
        Mnemonic::Maxps => packed!(F32, Maximum),
        Mnemonic::Maxpd => packed!(F64, Maximum),
        Mnemonic::Maxss => single!(Maximum),
        Mnemonic::Maxsd => double!(Maximum),
        Mnemonic::Roundps => packed!(F32, Round),
        Mnemonic::Roundpd => packed!(F64, Round),
        Mnemonic::Roundss => single!(Round),
        Mnemonic::Roundsd => double!(Round),
        Mnemonic::Rcpps => packed!(F32, Reciprocal),
        Mnemonic::Rcpss => single!(Reciprocal),
        Mnemonic::Rsqrtps => packed!(F32, ReciprocalRoot),
        Mnemonic::Rsqrtss => single!(ReciprocalRoot),
        Mnemonic::Cmpps => packed!(F32, Compare),
        Mnemonic::Cmppd => packed!(F64, Compare),
        Mnemonic::Cmpss => single!(Compare),
        // The string instruction has the same name.
        Mnemonic::Cmpsd if instruction.op0_register().is_xmm() => double!(Compare),
        Mnemonic::Addsubps => whole!(AddSubtract<F32>),
        Mnemonic::Addsubpd => whole!(AddSubtract<F64>),
        Mnemonic::Haddps => whole!(Horizontal<F32, float::Add>),
        Mnemonic::Haddpd => whole!(Horizontal<F64, float::Add>),
        Mnemonic::Hsubps => whole!(Horizontal<F32, float::Subtract>),
        Mnemonic::Hsubpd => whole!(Horizontal<F64, float::Subtract>),
        Mnemonic::Dpps => whole!(DotProduct<F32>),
        Mnemonic::Dppd => whole!(DotProduct<F64>),
        Mnemonic::Comiss => (
            float::relate_reg::<F32, true>,
            float::relate_mem::<F32, u32, true>,
        ),
        Mnemonic::Ucomiss => (
            float::relate_reg::<F32, false>,
            float::relate_mem::<F32, u32, false>,
        ),
        Mnemonic::Comisd => (
            float::relate_reg::<F64, true>,
            float::relate_mem::<F64, u64, true>,
        ),
        Mnemonic::Ucomisd => (
            float::relate_reg::<F64, false>,
            float::relate_mem::<F64, u64, false>,
        ),
        _ => return None,
    })
}

fn conversion(instruction: &Instruction) -> Option<(Exec, Exec)> {
    macro_rules! whole {
        ($name:ident) => {
            (
                float::reg::<convert::$name> as Exec,
                float::mem::<convert::$name> as Exec,
            )
        };
    }
    macro_rules! low {
        ($name:ident, $width:ident) => {
            (
                float::reg::<convert::$name> as Exec,
                float::mem_low::<convert::$name, $width> as Exec,
            )
        };
    }
    macro_rules! from_mmx {
        ($name:ident) => {
            // From memory no MMX register is touched.
            (
                convert::from_mmx::<convert::$name> as Exec,
                float::mem_low::<convert::$name, u64> as Exec,
            )
        };
    }
    macro_rules! to_mmx {
        ($name:ident, $mem:ident) => {
            (
                convert::to_mmx_reg::<convert::$name> as Exec,
                convert::$mem::<convert::$name> as Exec,
            )
        };
    }
    Some(match instruction.mnemonic() {
        Mnemonic::Cvtdq2ps => whole!(Cvtdq2ps),
        Mnemonic::Cvtps2dq => whole!(Cvtps2dq),
        Mnemonic::Cvttps2dq => whole!(Cvttps2dq),
        Mnemonic::Cvtpd2dq => whole!(Cvtpd2dq),
        Mnemonic::Cvttpd2dq => whole!(Cvttpd2dq),
        Mnemonic::Cvtpd2ps => whole!(Cvtpd2ps),
        Mnemonic::Cvtdq2pd => low!(Cvtdq2pd, u64),
        Mnemonic::Cvtps2pd => low!(Cvtps2pd, u64),
        Mnemonic::Cvtss2sd => low!(Cvtss2sd, u32),
        Mnemonic::Cvtsd2ss => low!(Cvtsd2ss, u64),
        Mnemonic::Cvtpi2ps => from_mmx!(Cvtpi2ps),
        Mnemonic::Cvtpi2pd => from_mmx!(Cvtdq2pd),
        Mnemonic::Cvtps2pi => to_mmx!(Cvtps2pi, to_mmx_mem_64),
        Mnemonic::Cvttps2pi => to_mmx!(Cvttps2pi, to_mmx_mem_64),
        Mnemonic::Cvtpd2pi => to_mmx!(Cvtpd2dq, to_mmx_mem_128),
        Mnemonic::Cvttpd2pi => to_mmx!(Cvttpd2dq, to_mmx_mem_128),
        _ => return None,
    })
}

fn integer_conversion(instruction: &Instruction) -> Option<(Exec, Exec)> {
    macro_rules! from {
        ($format:ident) => {
            if operand_bits(instruction, 1) == 64 {
                (
                    convert::from_integer_reg::<$format, u64> as Exec,
                    convert::from_integer_mem::<$format, u64> as Exec,
                )
            } else {
                (
                    convert::from_integer_reg::<$format, u32> as Exec,
                    convert::from_integer_mem::<$format, u32> as Exec,
                )
            }
        };
    }
    macro_rules! to {
        ($format:ident, $source:ident, $manner:ident) => {
            if is_wide(instruction.op0_register()) {
                (
                    convert::to_integer_reg::<$format, u64, convert::$manner> as Exec,
                    convert::to_integer_mem::<$format, $source, u64, convert::$manner> as Exec,
                )
            } else {
                (
                    convert::to_integer_reg::<$format, u32, convert::$manner> as Exec,
                    convert::to_integer_mem::<$format, $source, u32, convert::$manner> as Exec,
                )
            }
        };
    }
    Some(match instruction.mnemonic() {
        Mnemonic::Cvtsi2ss => from!(F32),
        Mnemonic::Cvtsi2sd => from!(F64),
        Mnemonic::Cvtss2si => to!(F32, u32, Rounding),
        Mnemonic::Cvtsd2si => to!(F64, u64, Rounding),
        Mnemonic::Cvttss2si => to!(F32, u32, Truncating),
        Mnemonic::Cvttsd2si => to!(F64, u64, Truncating),
        _ => return None,
    })
}

fn is_wide(register: Register) -> bool {
    register.size() == 8
}
