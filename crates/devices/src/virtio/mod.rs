//! Virtio devices over PCI: block and entropy, for drivers before and after version 1.0.
//!
//! Start at [`Virtio`]. Reading order: `registers` (both interfaces as tables) → `transport` (BARs,
//! negotiation, reset) → `ring` (the split virtqueue in guest memory) → `queue` (its life), `shared` (what
//! device and transport share: serving a queue, interrupts) → `block/`, `entropy` → `snapshot`.
//!
//! ```text
//!  notify -> Device::notify -> block worker: fetch -> serve: pop chains -> parse -> block::Request
//!            interrupt, once a batch <- serve: used ring, index <- complete <- block backend
//! ```
//!
//! Never here: packed rings, sound, graphics; what a driver may not do is answered by a status or by the
//! device's need of a reset, never by a panic.
//! Promises: every walk of guest structures is bounded; a chain is answered once, or its queue has gone;
//! a reset reads as done when no data of an earlier life can arrive any more.

pub mod registers;

mod transport;

mod ring;

mod queue;

mod shared;

mod device;

pub mod block;

mod entropy;

mod snapshot;

pub use block::BlockConfig;
pub use entropy::Entropy;
pub use transport::{
    COMMON_OFFSET, DEVICE_OFFSET, ISR_OFFSET, Interface, LEGACY_BAR, MODERN_BAR, MSIX_BAR,
    NOTIFY_OFFSET, NOTIFY_STRIDE, Virtio, VirtioPorts,
};
