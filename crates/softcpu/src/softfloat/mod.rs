//! IEEE 754 and x87 arithmetic as pure functions: operands and environment in, result and flags out.
//!
//! * [`env`]: rounding directions and exception flags, shared by both units.
//! * [`real`]: finite numbers taken apart; add, multiply, divide, square root, rounding.
//! * [`mod@format`]: the formats of 32 and 64 bits; [`f80`]: the 80-bit format with all its encodings.
//! * [`x87`]: everything an x87 instruction computes.
//! * [`sse`]: everything an SSE instruction computes on floating-point lanes, with a path through the host's own
//!   arithmetic where that gives the same bits and flags.
//!
//! Never here: CPU state, memory, stacks of registers, host floating-point state.

pub mod env;

pub mod real;

pub mod format;

pub mod f80;

pub mod x87;

pub mod sse;
