//! What a region server of the simulation keeps its region in: the store on a disk that crashes, or a model that
//! does the same faster.

mod model;
mod store;

pub use model::ModelDisk;
pub use store::StoreDisk;

use crucible_downstairs::core::{Operation, Outcome};
use crucible_protocol::{CrucibleError, ExtentId, ReadBlockContext};

/// How a region server comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The process ends; what it has written is still there.
    Process,
    /// The power goes; what was not synced is kept, lost or torn as this seed says.
    Power(u64),
}

/// How disk operations fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// So many operations fail, after so many that do not.
    Errors {
        /// These succeed.
        skip: u64,
        /// These fail.
        count: u64,
    },
    /// No room until [`Storage::heal`].
    Full,
}

/// Blocks with their contexts, in order, as reads give them.
pub type Contents = Vec<Result<(ReadBlockContext, Vec<u8>), CrucibleError>>;

/// One region on one disk. Everything happens at once here; the world adds the time that it takes.
pub trait Storage {
    /// Opens the region after a start; with what was left. The highest generation that was ever promoted.
    fn start(&mut self, read_only: bool) -> Result<u64, String>;
    /// Performs anything but [`Operation::Repair`]. The power may go after so many steps on the disk
    /// (`power_after`); what comes of the operation then is never told to anybody.
    fn run(&mut self, operation: Operation, power_after: Option<u64>) -> Outcome;
    /// All that is in memory goes to its place, as at an orderly end.
    fn settle(&mut self);
    /// What a snapshot has; `None` if there is no such snapshot.
    fn snapshot(&self, name: &str) -> Result<Option<Contents>, String>;
    /// Ends the process that has the region open.
    fn stop(&mut self, death: Death);
    /// Whether an extent is closed.
    fn is_closed(&self, extent: ExtentId) -> bool;
    /// Length of an extent's file in bytes, for who copies it.
    fn file_length(&self, extent: ExtentId) -> Result<u64, CrucibleError>;
    /// A piece of an extent's file.
    fn read_file(
        &self,
        extent: ExtentId,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, CrucibleError>;
    /// Puts a file from elsewhere in the place of a closed extent.
    fn replace(&mut self, extent: ExtentId, file: &[u8]) -> Result<(), CrucibleError>;
    /// From now on disk operations fail like this.
    fn trouble(&mut self, trouble: Trouble);
    /// Disk operations succeed again.
    fn heal(&mut self);
    /// Flips bits of one byte of what is kept for a block, its data or its context, behind everybody's back. False
    /// if there was nothing to flip.
    fn rot(&mut self, extent: ExtentId, block: u32, context: bool, mask: u8) -> bool;
    /// All blocks as they are now, each by itself.
    fn contents(&self) -> Contents;
}
