//! What the command line does with regions.

use crucible_protocol::ExtentId;

/// What [`super::Region::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blocks looked at.
    pub blocks: u64,
    /// Those of them that have been written.
    pub written: u64,
    /// Those that do not fit their context: extent, and block within it. At most a thousand of them are listed.
    pub bad: Vec<(ExtentId, u32)>,
    /// How many do not.
    pub bad_count: u64,
}

/// Where things of a block lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockReport;
/// What an extent says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentDetails;
