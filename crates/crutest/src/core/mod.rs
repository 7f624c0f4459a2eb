//! What needs no volume: which bytes a write puts where, what a read may therefore find, and which operations a
//! workload consists of. All of it follows from a seed.

pub mod draw;
pub mod latency;
pub mod log;
pub mod pattern;
pub mod workload;

pub use draw::Draws;
pub use latency::Latencies;
pub use log::{Expected, LogFile, LogFileError, WriteLog};
pub use pattern::{Found, Lineage};
pub use workload::{Demand, Field, Kind, Step};
