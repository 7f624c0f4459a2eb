//! Conversions between formats, integers, and register files.

use super::float::{Float, Vector};
use super::lanes::{all_dwords, dwords, from_all_dwords, from_dwords, halves, join};
use crate::cpu::Cpu;
use crate::op::{Flow, Op};
use crate::softfloat::format::{F32, F64};
use crate::softfloat::sse::{self, Environment};
use crate::state::Width;
use crate::tri;

/// Conversions of XMM or memory to XMM.
macro_rules! conversions {
    ($($name:ident($env:ident, $a:ident, $b:ident) = $value:expr;)*) => {$(
        #[doc = concat!(stringify!($name), ".")]
        pub(crate) struct $name;

        impl Float for $name {
            #[inline(always)]
            fn apply($env: &mut Environment, $a: u128, $b: u128, _immediate: u8) -> u128 {
                $value
            }
        }
    )*};
}

const LOW: u128 = u64::MAX as u128;

conversions! {
    Cvtdq2ps(env, _a, b) = map_dwords(b, |lane| sse::from_i32::<F32>(env, lane as i32) as u32);
    Cvtps2dq(env, _a, b) = map_dwords(b, |lane| sse::to_i32::<F32>(env, lane.into()) as u32);
    Cvttps2dq(env, _a, b) = {
        map_dwords(b, |lane| sse::to_i32_truncating::<F32>(env, lane.into()) as u32)
    };
    Cvtdq2pd(env, _a, b) = spread(b as u64, |lane| sse::from_i32::<F64>(env, lane as i32));
    Cvtpd2dq(env, _a, b) = gather(b, |lane| sse::to_i32::<F64>(env, lane) as u32).into();
    Cvttpd2dq(env, _a, b) = {
        gather(b, |lane| sse::to_i32_truncating::<F64>(env, lane) as u32).into()
    };
    Cvtps2pd(env, _a, b) = spread(b as u64, |lane| sse::widen(env, lane.into()));
    Cvtpd2ps(env, _a, b) = gather(b, |lane| sse::narrow(env, lane) as u32).into();
    Cvtss2sd(env, a, b) = a & !LOW | u128::from(sse::widen(env, u64::from(b as u32)));
    Cvtsd2ss(env, a, b) = a & !0xffff_ffff | u128::from(sse::narrow(env, b as u64));

    Cvtpi2ps(env, a, b) = {
        let lanes = dwords(b as u64).map(|lane| sse::from_i32::<F32>(env, lane as i32) as u32);
        a & !LOW | u128::from(from_dwords(lanes))
    };
    Cvtps2pi(env, _a, b) = {
        from_dwords(dwords(b as u64).map(|lane| sse::to_i32::<F32>(env, lane.into()) as u32)).into()
    };
    Cvttps2pi(env, _a, b) = {
        let convert = |lane: u32| sse::to_i32_truncating::<F32>(env, lane.into()) as u32;
        from_dwords(dwords(b as u64).map(convert)).into()
    };
}

#[inline(always)]
fn map_dwords(value: u128, function: impl FnMut(u32) -> u32) -> u128 {
    from_all_dwords(all_dwords(value).map(function))
}

/// Two lanes of 32 bits to two of 64.
#[inline(always)]
fn spread(value: u64, mut function: impl FnMut(u32) -> u64) -> u128 {
    let low = function(value as u32);
    join(low, function((value >> 32) as u32))
}

/// Two lanes of 64 bits to two of 32.
#[inline(always)]
fn gather(value: u128, mut function: impl FnMut(u64) -> u32) -> u64 {
    let (low, high) = halves(value);
    let low = function(low);
    from_dwords([low, function(high)])
}

/// CVTSI2SS, CVTSI2SD from an integer of width `I`.
#[inline(always)]
fn from_integer<F: Vector, I: Width>(cpu: &mut Cpu, op: &Op, value: I) -> Flow {
    let mut env = Environment::new(cpu.fpu.mxcsr);
    let lane = sse::from_i64::<F>(&mut env, value.sign_extend() as i64);
    tri!(cpu.commit_sse(&env));
    let value = cpu.xmm(op.a) & !u128::from(F::ALL) | u128::from(lane);
    cpu.set_xmm(op.a, value);
    Flow::Next
}

/// CVTSI2SS, CVTSI2SD from a register.
pub(crate) fn from_integer_reg<F: Vector, I: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = I::get(&cpu.regs, op.b);
    from_integer::<F, I>(cpu, op, value)
}

/// CVTSI2SS, CVTSI2SD from memory.
pub(crate) fn from_integer_mem<F: Vector, I: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let value = tri!(cpu.load_operand::<I>(op));
    from_integer::<F, I>(cpu, op, value)
}

/// How CVTSx2SI and CVTTSx2SI round.
pub(crate) trait Manner {
    fn to_32<F: Vector>(env: &mut Environment, value: u64) -> i32;
    fn to_64<F: Vector>(env: &mut Environment, value: u64) -> i64;
}

/// By MXCSR.
pub(crate) struct Rounding;
/// Towards zero.
pub(crate) struct Truncating;

impl Manner for Rounding {
    #[inline(always)]
    fn to_32<F: Vector>(env: &mut Environment, value: u64) -> i32 {
        sse::to_i32::<F>(env, value)
    }

    #[inline(always)]
    fn to_64<F: Vector>(env: &mut Environment, value: u64) -> i64 {
        sse::to_i64::<F>(env, value)
    }
}

impl Manner for Truncating {
    #[inline(always)]
    fn to_32<F: Vector>(env: &mut Environment, value: u64) -> i32 {
        sse::to_i32_truncating::<F>(env, value)
    }

    #[inline(always)]
    fn to_64<F: Vector>(env: &mut Environment, value: u64) -> i64 {
        sse::to_i64_truncating::<F>(env, value)
    }
}

/// CVT(T)SS2SI, CVT(T)SD2SI to a register of width `I`.
#[inline(always)]
fn to_integer<F: Vector, I: Width, M: Manner>(cpu: &mut Cpu, op: &Op, lane: u64) -> Flow {
    let mut env = Environment::new(cpu.fpu.mxcsr);
    let value = if I::BITS == 64 {
        M::to_64::<F>(&mut env, lane) as u64
    } else {
        u64::from(M::to_32::<F>(&mut env, lane) as u32)
    };
    tri!(cpu.commit_sse(&env));
    cpu.regs.write(op.a, value);
    Flow::Next
}

/// CVT(T)SS2SI, CVT(T)SD2SI from a register.
pub(crate) fn to_integer_reg<F: Vector, I: Width, M: Manner>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let lane = F::low(cpu.xmm(op.b));
    to_integer::<F, I, M>(cpu, op, lane)
}

/// CVT(T)SS2SI, CVT(T)SD2SI from memory of width `S`.
pub(crate) fn to_integer_mem<F: Vector, S: Width, I: Width, M: Manner>(
    cpu: &mut Cpu,
    op: &Op,
) -> Flow {
    tri!(cpu.require_sse());
    let lane = tri!(cpu.load_operand::<S>(op)).zero_extend();
    to_integer::<F, I, M>(cpu, op, lane)
}

/// CVTPI2PS, CVTPI2PD from an MMX register.
pub(crate) fn from_mmx<O: Float>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    tri!(cpu.require_mmx());
    let mut env = Environment::new(cpu.fpu.mxcsr);
    let value = O::apply(&mut env, cpu.xmm(op.a), cpu.mmx(op.b).into(), 0);
    tri!(cpu.commit_sse(&env));
    cpu.enter_mmx();
    cpu.set_xmm(op.a, value);
    Flow::Next
}

/// CVT(T)PS2PI, CVT(T)PD2PI with the source operand given.
#[inline(always)]
fn to_mmx<O: Float>(cpu: &mut Cpu, op: &Op, b: u128) -> Flow {
    let mut env = Environment::new(cpu.fpu.mxcsr);
    let value = O::apply(&mut env, 0, b, 0) as u64;
    tri!(cpu.commit_sse(&env));
    cpu.enter_mmx();
    cpu.set_mmx(op.a, value);
    Flow::Next
}

/// CVT(T)PS2PI, CVT(T)PD2PI from a register.
pub(crate) fn to_mmx_reg<O: Float>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    tri!(cpu.require_mmx());
    let b = cpu.xmm(op.b);
    to_mmx::<O>(cpu, op, b)
}

/// CVT(T)PS2PI from memory.
pub(crate) fn to_mmx_mem_64<O: Float>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    tri!(cpu.require_mmx());
    let b = tri!(cpu.load_operand::<u64>(op));
    to_mmx::<O>(cpu, op, b.into())
}

/// CVT(T)PD2PI from memory.
pub(crate) fn to_mmx_mem_128<O: Float>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    tri!(cpu.require_mmx());
    let b = tri!(cpu.load_aligned(op));
    to_mmx::<O>(cpu, op, b)
}
