//! PLACEHOLDER

use iced_x86::{Instruction, Mnemonic};

use super::Context;
use crate::op::Op;

/// Lowers the instructions of this family.
pub(super) fn lower(_instruction: &Instruction, _context: &Context) -> Option<Op> {
    None
}

/// Whether instructions with this mnemonic may change what the next one's lowering depends on.
pub(super) fn changes_context(_mnemonic: Mnemonic) -> bool {
    false
}
