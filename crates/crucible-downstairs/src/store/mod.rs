//! Regions on disk.

mod error;
mod region;
mod replace;
mod tools;

pub use error::StoreError;
pub use region::{Mode, Options, Overwrite, Progress, Region, WriteJob};
pub use replace::{ExtentFile, Replacement};
pub use tools::{BlockReport, ExtentDetails, VerifyReport};
