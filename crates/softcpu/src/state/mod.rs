//! What the manual calls the architectural state, one file a group.

pub mod control;
pub mod flags;
pub mod fpu;
pub mod registers;
pub mod segment;
pub mod whole;
pub mod width;

pub use control::{Control, Table, cr0, cr4, efer};
pub use flags::Flags;
pub use fpu::Fpu;
pub use registers::Registers;
pub use segment::{Seg, Segment};
pub use whole::CpuState;
pub use width::Width;
