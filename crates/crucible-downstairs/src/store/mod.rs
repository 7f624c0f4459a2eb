//! Regions on disk.

mod close;
mod commit;
mod contexts;
mod create;
mod error;
mod extent;
mod inner;
mod io;
mod journal;
mod legacy;
mod open;
mod pending;
mod promoted;
mod recover;
mod region;
mod replace;
mod snapshot;
mod tools;
mod worker;

pub use error::StoreError;
pub use region::{Mode, Options, Overwrite, Progress, Region, WriteJob};
pub use replace::{ExtentFile, Replacement};
pub use snapshot::{SNAPSHOTS, snapshots};
pub use tools::VerifyReport;
