//! From bytes to blocks, and the loop that runs them.
//!
//! [`decode`] reads guest bytes and lowers them to a block, [`cache`] keeps it, [`engine`] runs block
//! after block, looks at interrupts between two of them, and falls back to one instruction at a time
//! where the architecture wants a look after each (single step, interrupt shadow, code breakpoints).

pub(crate) mod cache;
mod decode;
mod engine;

pub(crate) use cache::Cache;
