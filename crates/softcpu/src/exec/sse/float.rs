//! Floating-point arithmetic and comparisons, packed and scalar.

use std::marker::PhantomData;

use super::lanes::{all_dwords, from_all_dwords, halves, join};
use crate::cpu::Cpu;
use crate::fault::{Exception, Trap, vector};
use crate::op::{Flow, Op};
use crate::softfloat::env::Relation;
use crate::softfloat::format::{F32, F64};
use crate::softfloat::sse::{self, Environment, Lane, Predicate, Signal};
use crate::state::{Width, cr4, flags};
use crate::tri;

/// A floating-point instruction on XMM registers.
pub(crate) trait Float {
    /// The new value of the first operand.
    fn apply(env: &mut Environment, a: u128, b: u128, immediate: u8) -> u128;
}

/// A function of two lanes.
pub(crate) trait LaneFunction {
    fn lane<F: Lane>(env: &mut Environment, a: u64, b: u64, immediate: u8) -> u64;
}

/// A format with its place in XMM registers.
pub(crate) trait Vector: Lane {
    /// The low lane.
    fn low(value: u128) -> u64;
    /// `function` of each pair of lanes.
    fn zip(a: u128, b: u128, function: impl FnMut(u64, u64) -> u64) -> u128;
}

impl Vector for F32 {
    #[inline(always)]
    fn low(value: u128) -> u64 {
        u64::from(value as u32)
    }

    #[inline(always)]
    fn zip(a: u128, b: u128, mut function: impl FnMut(u64, u64) -> u64) -> u128 {
        // Written out: the closure is large, and would be called.
        let [a0, a1, a2, a3] = all_dwords(a).map(u64::from);
        let [b0, b1, b2, b3] = all_dwords(b).map(u64::from);
        let low = function(a0, b0) & 0xffff_ffff | function(a1, b1) << 32;
        let high = function(a2, b2) & 0xffff_ffff | function(a3, b3) << 32;
        join(low, high)
    }
}

impl Vector for F64 {
    #[inline(always)]
    fn low(value: u128) -> u64 {
        value as u64
    }

    #[inline(always)]
    fn zip(a: u128, b: u128, mut function: impl FnMut(u64, u64) -> u64) -> u128 {
        let ((a0, a1), (b0, b1)) = (halves(a), halves(b));
        let low = function(a0, b0);
        join(low, function(a1, b1))
    }
}

/// All lanes.
pub(crate) struct Packed<F, A>(PhantomData<(F, A)>);
/// The low lane; the others stay.
pub(crate) struct Scalar<F, A>(PhantomData<(F, A)>);

impl<F: Vector, A: LaneFunction> Float for Packed<F, A> {
    #[inline(always)]
    fn apply(env: &mut Environment, a: u128, b: u128, immediate: u8) -> u128 {
        F::zip(a, b, |a, b| A::lane::<F>(env, a, b, immediate))
    }
}

impl<F: Vector, A: LaneFunction> Float for Scalar<F, A> {
    #[inline(always)]
    fn apply(env: &mut Environment, a: u128, b: u128, immediate: u8) -> u128 {
        let value = A::lane::<F>(env, F::low(a), F::low(b), immediate) & F::ALL;
        a & !u128::from(F::ALL) | u128::from(value)
    }
}

macro_rules! lane_functions {
    ($($name:ident<$format:ident>($env:ident, $a:ident, $b:ident, $immediate:ident) = $value:expr;)*) => {$(
        #[doc = concat!(stringify!($name), " of two lanes.")]
        pub(crate) struct $name;

        impl LaneFunction for $name {
            #[inline(always)]
            fn lane<$format: Lane>($env: &mut Environment, $a: u64, $b: u64, $immediate: u8) -> u64 {
                $value
            }
        }
    )*};
}

lane_functions! {
    Add<F>(env, a, b, _i) = F::add(env, a, b);
    Subtract<F>(env, a, b, _i) = F::subtract(env, a, b);
    Multiply<F>(env, a, b, _i) = F::multiply(env, a, b);
    Divide<F>(env, a, b, _i) = F::divide(env, a, b);
    SquareRoot<F>(env, _a, b, _i) = F::square_root(env, b);
    Minimum<F>(env, a, b, _i) = sse::minimum::<F>(env, a, b);
    Maximum<F>(env, a, b, _i) = sse::maximum::<F>(env, a, b);
    Round<F>(env, _a, b, immediate) = sse::round_to_integer::<F>(env, b, immediate);
    Reciprocal<F>(_env, _a, b, _i) = sse::reciprocal(b);
    ReciprocalRoot<F>(_env, _a, b, _i) = sse::reciprocal_square_root(b);
    Compare<F>(env, a, b, immediate) = {
        if sse::compare::<F>(env, a, b, Predicate::from_immediate(immediate)) { F::ALL } else { 0 }
    };
}

/// ADDSUBPS, ADDSUBPD: even lanes are subtracted, odd ones added.
pub(crate) struct AddSubtract<F>(PhantomData<F>);
/// HADDPS, HADDPD, HSUBPS, HSUBPD: neighbours of the first operand, then of the second.
pub(crate) struct Horizontal<F, A>(PhantomData<(F, A)>);
/// DPPS, DPPD.
pub(crate) struct DotProduct<F>(PhantomData<F>);

impl<F: Vector> Float for AddSubtract<F> {
    fn apply(env: &mut Environment, a: u128, b: u128, _immediate: u8) -> u128 {
        let mut odd = false;
        F::zip(a, b, |a, b| {
            odd = !odd;
            if odd {
                F::subtract(env, a, b)
            } else {
                F::add(env, a, b)
            }
        })
    }
}

impl<A: LaneFunction> Float for Horizontal<F32, A> {
    fn apply(env: &mut Environment, a: u128, b: u128, _immediate: u8) -> u128 {
        let (x, y) = (all_dwords(a), all_dwords(b));
        let pairs = [(x[0], x[1]), (x[2], x[3]), (y[0], y[1]), (y[2], y[3])];
        from_all_dwords(pairs.map(|(l, r)| A::lane::<F32>(env, l.into(), r.into(), 0) as u32))
    }
}

impl<A: LaneFunction> Float for Horizontal<F64, A> {
    fn apply(env: &mut Environment, a: u128, b: u128, _immediate: u8) -> u128 {
        let ((a0, a1), (b0, b1)) = (halves(a), halves(b));
        let low = A::lane::<F64>(env, a0, a1, 0);
        join(low, A::lane::<F64>(env, b0, b1, 0))
    }
}

/// The stages raise their exceptions one after the other; one that is not masked ends the instruction.
impl Float for DotProduct<F32> {
    fn apply(env: &mut Environment, a: u128, b: u128, immediate: u8) -> u128 {
        let (a, b) = (all_dwords(a), all_dwords(b));
        let products: [u64; 4] = std::array::from_fn(|lane| {
            if immediate >> (4 + lane) & 1 == 0 {
                0
            } else {
                F32::multiply(env, a[lane].into(), b[lane].into())
            }
        });
        if !env.settle() {
            return 0;
        }
        let low = F32::add(env, products[0], products[1]);
        let high = F32::add(env, products[2], products[3]);
        if !env.settle() {
            return 0;
        }
        let sum = F32::add(env, low, high) as u32;
        from_all_dwords(std::array::from_fn(|lane| {
            if immediate >> lane & 1 == 0 { 0 } else { sum }
        }))
    }
}

impl Float for DotProduct<F64> {
    fn apply(env: &mut Environment, a: u128, b: u128, immediate: u8) -> u128 {
        let ((a0, a1), (b0, b1)) = (halves(a), halves(b));
        let low = if immediate & 0x10 == 0 {
            0
        } else {
            F64::multiply(env, a0, b0)
        };
        let high = if immediate & 0x20 == 0 {
            0
        } else {
            F64::multiply(env, a1, b1)
        };
        if !env.settle() {
            return 0;
        }
        let sum = F64::add(env, low, high);
        let place = |bit: u8| if immediate & bit == 0 { 0 } else { sum };
        join(place(1), place(2))
    }
}

impl Cpu {
    /// Commits what an instruction raised in MXCSR; #XM (or #UD, without OSXMMEXCPT) if that is not masked.
    #[inline(always)]
    pub(crate) fn commit_sse(&mut self, env: &Environment) -> Result<(), Trap> {
        if env.raised == 0 {
            Ok(())
        } else {
            self.commit_raised(env)
        }
    }

    #[inline(never)]
    fn commit_raised(&mut self, env: &Environment) -> Result<(), Trap> {
        self.fpu.mxcsr = env.mxcsr();
        if env.stores() {
            return Ok(());
        }
        Err(self.raise(if self.control.cr4 & cr4::OSXMMEXCPT != 0 {
            Exception::plain(vector::SIMD)
        } else {
            Exception::invalid_opcode()
        }))
    }

    #[inline(always)]
    fn float<O: Float>(&mut self, op: &Op, b: u128) -> Flow {
        let mut env = Environment::new(self.fpu.mxcsr);
        let value = O::apply(&mut env, self.xmm(op.a), b, op.imm as u8);
        tri!(self.commit_sse(&env));
        self.set_xmm(op.a, value);
        Flow::Next
    }
}

/// XMM with XMM.
pub(crate) fn reg<O: Float>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let b = cpu.xmm(op.b);
    cpu.float::<O>(op, b)
}

/// XMM with 16 bytes of memory.
pub(crate) fn mem<O: Float>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let b = tri!(cpu.load_aligned(op));
    cpu.float::<O>(op, b)
}

/// XMM with a memory operand of width `W`.
pub(crate) fn mem_low<O: Float, W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let b = tri!(cpu.load_operand::<W>(op)).zero_extend();
    cpu.float::<O>(op, b.into())
}

/// COMISx (`ALWAYS`) and UCOMISx of two lanes, into the flags.
#[inline(always)]
fn relate<F: Vector, const ALWAYS: bool>(cpu: &mut Cpu, op: &Op, b: u64) -> Flow {
    let signal = if ALWAYS {
        Signal::Always
    } else {
        Signal::Signaling
    };
    let mut env = Environment::new(cpu.fpu.mxcsr);
    let relation = sse::relation::<F>(&mut env, F::low(cpu.xmm(op.a)), b, signal);
    tri!(cpu.commit_sse(&env));
    cpu.flags.set_status(status_of(relation));
    Flow::Next
}

/// ZF, PF and CF as COMISS and FCOMI set them; the other status flags are cleared.
pub(crate) fn status_of(relation: Relation) -> u64 {
    match relation {
        Relation::Greater => 0,
        Relation::Less => flags::CF,
        Relation::Equal => flags::ZF,
        Relation::Unordered => flags::ZF | flags::PF | flags::CF,
    }
}

/// COMISx, UCOMISx with a register.
pub(crate) fn relate_reg<F: Vector, const ALWAYS: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let b = F::low(cpu.xmm(op.b));
    relate::<F, ALWAYS>(cpu, op, b)
}

/// COMISx, UCOMISx with memory.
pub(crate) fn relate_mem<F: Vector, W: Width, const ALWAYS: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let b = tri!(cpu.load_operand::<W>(op)).zero_extend();
    relate::<F, ALWAYS>(cpu, op, b)
}
