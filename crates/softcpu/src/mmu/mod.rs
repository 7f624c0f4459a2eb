//! Linear to physical to host: the TLB, page walks, and every access to guest memory.
//!
//! [`access`] is the front: loads, stores and read-modify-writes, a compare and an add when the TLB
//! hits, one slow path for everything else (misses, page crossings, device memory, pages with decoded
//! code, alignment checks, data breakpoints).

mod access;
mod host;
mod tlb;
mod walk;

pub(crate) use access::is_canonical;
pub(crate) use tlb::{SIZE as TLB_SIZE, Tlb, View};
pub(crate) use walk::{Intent, PHYSICAL_BITS, Privilege};
