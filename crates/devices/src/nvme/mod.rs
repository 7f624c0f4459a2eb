//! An NVM Express 1.4 controller on PCI with one namespace, whose content is a [`block::Disk`].
//!
//! Start at [`Nvme`]. Reading order: `registers` (the table), `controller` (registers, doorbells, reset),
//! `admin/` (commands of the admin queue), `submission` and `fetch` (an I/O queue as the disk's worker sees it), `io`
//! (what a command asks of the disk), `prp` (where its data lies), `completion` (slots set aside, answers,
//! phase), `dbbuf` (shadow doorbells), `shared` (what queues and controller share), `snapshot`.
//!
//! ```text
//!  doorbell write -> SubmissionQueue::kick -> worker: fetch      (slots of the completion queue set aside,
//!                                                                 entries read in runs, PRPs walked once)
//!                 <- MSI-X, once a batch <- complete (answers posted in runs) <- block backend
//! ```
//!
//! Never here: INTx, SGLs, metadata, more than one namespace. `CONFORMANCE.md` lists what is promised and
//! the test that holds it.
//!
//! Promises: a command is fetched only when its answer has a place; each fetched command is answered once,
//! or its queue has gone; after CSTS.RDY has gone, no data of an earlier life reaches guest memory; nothing
//! that a guest does panics, and what it can make us loop over is bounded by its own queue.

pub mod registers;

pub mod status;

pub mod command;

mod controller;

mod shared;

mod admin;

mod submission;

mod fetch;

mod completion;

mod dbbuf;

mod io;

mod prp;

mod namespace;

mod snapshot;

pub use admin::events::EVENT_REQUESTS_MAX;
pub use admin::logs::ERROR_ENTRIES;
pub use controller::{Nvme, NvmeConfig, NvmePorts};
pub use io::{MDTS, TRANSFER_BYTES_MAX};
pub use namespace::NAMESPACE;
pub use status::Status;
