//! What can go wrong with a region as a whole. What a job can get back is a `CrucibleError`; see [`io_error`].

use std::io;

use crucible_protocol::{CrucibleError, ExtentId, GeometryError};

/// Why a region could not be made, opened or worked on.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// Relative to the region.
        path: String,
        /// What it said.
        source: io::Error,
    },
    /// There is a region already.
    #[error("there is a region here already: {0}")]
    Exists(String),
    /// There is no region.
    #[error("no region here: {0}")]
    Missing(String),
    /// region.json says something that cannot be.
    #[error("region.json: {0}")]
    Definition(String),
    /// The same, about sizes.
    #[error("region.json: {0}")]
    Geometry(#[from] GeometryError),
    /// An extent file is not what it should be.
    #[error("extent {extent}: {reason}")]
    Extent {
        /// Which.
        extent: ExtentId,
        /// What is wrong, and the way out where there is one.
        reason: String,
    },
    /// A region whose making was broken off.
    #[error("the region was not made to its end: {0}")]
    Incomplete(String),
    /// The journal cannot be used.
    #[error("journal: {0}")]
    Journal(String),
    /// Another process has the region.
    #[error("the region is in use by another process")]
    InUse,
    /// Not without read-write access.
    #[error("the region is read-only: {0}")]
    ReadOnly(String),
    /// Read-only, a crash has left something that has to be finished first; opening it read-write does that.
    #[error("the region was not closed in good order: {0}; open it read-write once")]
    Unfinished(String),
    /// The request itself makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl StoreError {
    /// For `map_err`: names the file.
    pub(crate) fn io(path: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

impl From<StoreError> for CrucibleError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io { .. } => Self::IoError(error.to_string()),
            StoreError::ReadOnly(_) | StoreError::Unfinished(_) => Self::ModifyingReadOnlyRegion,
            other => Self::GenericError(other.to_string()),
        }
    }
}

/// How a failed disk operation is told to a peer.
pub(crate) fn io_error(what: &str, error: &io::Error) -> CrucibleError {
    CrucibleError::IoError(format!("{what}: {error}"))
}
