//! Files of an extent from elsewhere.

use std::sync::Arc;

use crucible_protocol::CrucibleError;

use super::Region;

/// Which file of an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExtentFile {
    /// `CCC`.
    Data,
    /// `CCC.db`, of the old format.
    Db,
    /// `CCC.db-shm`.
    DbShm,
    /// `CCC.db-wal`.
    DbWal,
}

/// A replacement that is going on; dropped before [`Replacement::finish`], it leaves the extent as it was.
#[derive(Debug)]
pub struct Replacement {
    region: Arc<Region>,
}

#[expect(
    clippy::unused_self,
    unused_variables,
    reason = "the signatures come first"
)]
impl Replacement {
    /// Appends to a file; the first chunk (it may be empty) makes it.
    pub fn write(&mut self, file: ExtentFile, chunk: &[u8]) -> Result<(), CrucibleError> {
        Ok(())
    }

    /// Checks what came and puts it in place, durably. The extent stays closed.
    pub fn finish(self) -> Result<(), CrucibleError> {
        Ok(())
    }
}
