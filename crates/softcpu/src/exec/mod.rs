//! What the operations do, a file for each family.
//!
//! Every function here is an [`Exec`](crate::op::Exec): it reads its operands as the
//! [`Op`](crate::op::Op) names them, may fault, and only then changes state. None of them looks at the
//! bytes of the instruction.

pub(crate) mod alu;
pub(crate) mod atomics;
pub(crate) mod bcd;
pub(crate) mod bits;
pub(crate) mod control;
pub(crate) mod inform;
pub(crate) mod io;
pub(crate) mod jump;
pub(crate) mod mmx;
pub(crate) mod moves;
pub(crate) mod muldiv;
pub(crate) mod privilege;
pub(crate) mod segments;
pub(crate) mod shift;
pub(crate) mod sse;
pub(crate) mod stack;
pub(crate) mod string;
pub(crate) mod system;
pub(crate) mod tables;
pub(crate) mod transfer;
pub(crate) mod x87;
pub(crate) mod xsave;
