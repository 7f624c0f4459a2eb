//! The vocabulary of the house: the words in which a device, a CPU and a hypervisor speak to each other.
//!
//! Nothing here knows a device, a hypervisor or a runtime. Reading order:
//!
//! * [`time`]: [`Moment`], [`Span`], [`Clock`], and [`Timers`] that wake tasks at a moment.
//! * [`memory`]: [`GuestMemory`], the only way to guest bytes for devices and backends.
//! * [`interrupt`]: [`IrqLine`] (level in) and [`MsiSink`] (messages).
//! * [`task`]: [`Task`] and [`Bell`], how a doorbell reaches a worker, on a thread or inline.
//! * [`cursor`]: reading and writing foreign bytes without a panic.
//!
//! Handles are cheap to clone at set-up and are borrowed afterwards. Each can be revoked or is inert by
//! itself, so that tear-down needs no order.

pub mod time;

pub mod memory;

pub mod interrupt;

pub mod task;

pub mod cursor;

pub use interrupt::{IrqLine, IrqSink, MsiMessage, MsiSink, RecordedMessages};
pub use memory::{Gate, GuestMemory, GuestSlice, MemoryError, MemoryRange, RegionKind};
pub use task::{Bell, Execution, Task};
pub use time::{Clock, ManualClock, Moment, Span, Timer, Timers};
pub use vm_memory::{Address, ByteValued, GuestAddress};
