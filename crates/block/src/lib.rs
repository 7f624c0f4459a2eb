//! Block requests and the backends that carry them out.
//!
//! A device owns the guest's queue; a backend owns the worker. The worker *pulls*: rung by a doorbell
//! it fetches a batch of [`Request`]s from the device's [`Source`], carries them out, and hands each
//! token back with an [`Outcome`]. A full backend fetches less, so the guest's own queue is the only
//! place where requests wait, and nothing is lost when a machine stops.
//!
//! Start at [`Disk`]. Reading order: `request` (the contract with devices) → `disk`, `attach` (handles)
//! → `pump` (one turn of a queue), `slots`, `doorbell` → `engine` (what a backend offers), `transfer` →
//! the backends → `limit`, `stats`; `nbd` is a consumer that comes with the house.
//!
//! Never here: a device's registers or status codes; a runtime; the volume's protocol, which comes as
//! one more [`Backend`] from above.
//! Promises: each fetched token is answered exactly once; no request leaves its disk or grows a file;
//! detaching ends in bounded time; guest pages that data landed in are noted as written.

pub mod request;

mod disk;

mod info;

mod attach;

mod pump;

mod slots;

mod doorbell;

mod engine;

mod transfer;

mod memory;

mod null;

mod file;

mod faulty;

mod limit;

mod stats;

pub mod nbd;

pub mod testkit;

pub use attach::{AttachOptions, Attachment};
pub use disk::{Disk, OpenError};
pub use doorbell::Doorbell;
pub use engine::{Backend, Direct, Engine, EngineSetup, Medium};
pub use faulty::{Chance, Fault, Faults, Rule};
pub use file::{FileDisk, FileEngine, FileOptions, try_lock_file};
pub use info::DiskInfo;
pub use limit::{Limit, Rate};
pub use memory::MemoryDisk;
pub use null::{NullDisk, NullReads};
pub use request::{Batch, Completion, Operation, Outcome, Request, Segment, Source, Token};
pub use stats::{Class, ClassSnapshot, Histogram, StatsSnapshot};
