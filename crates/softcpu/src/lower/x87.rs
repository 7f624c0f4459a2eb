//! PLACEHOLDER

use iced_x86::Instruction;

use super::Context;
use crate::op::Op;

/// Lowers the instructions of this family.
pub(super) fn lower(_instruction: &Instruction, _context: &Context) -> Option<Op> {
    None
}
