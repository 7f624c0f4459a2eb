//! From a construction request to a volume.

use std::path::Path;
use std::sync::Arc;

use crucible_protocol::Geometry;

use super::Volume;
use super::composite::Composite;
use super::file::FileLeaf;
use super::leaf::Threads;
use super::url::{UrlError, UrlLeaf};
use crate::drive::{Region, Setup, StartError};
use crate::options::{OptionsError, VolumeConstructionRequest};
use crate::store::Store;

/// Threads of one file or image: this many reads of it at a time.
const LEAF_THREADS: usize = 4;

/// Why a volume cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The request is wrong.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// A set of region servers cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A file cannot be used.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// The words of the system.
        error: std::io::Error,
    },
    /// An image cannot be used.
    #[error(transparent)]
    Url(#[from] UrlError),
}

impl Volume {
    /// Builds what `request` describes. Regions are not dialled before the volume is activated; files are opened
    /// and images asked for their length now, which may take a while: not within a runtime.
    pub fn build(request: &VolumeConstructionRequest) -> Result<Self, BuildError> {
        request.validate()?;
        let mut regions = Vec::new();
        let composite = match request {
            VolumeConstructionRequest::Volume { .. } => composite(request, &mut regions)?,
            // One leaf is a volume of one part.
            leaf => {
                let part = store(leaf, &mut regions)?;
                Composite::new(block_size(leaf), vec![part], None)
            }
        };
        Ok(match composite.only_part() {
            // Nothing to compose: requests go straight to it.
            Some(part) => Self::over(part, regions),
            None => Self::composed(composite, regions),
        })
    }
}

/// Has been validated to be a small power of two.
fn block_size(request: &VolumeConstructionRequest) -> u32 {
    u32::try_from(request.block_size()).unwrap_or(512)
}

fn composite(
    request: &VolumeConstructionRequest,
    regions: &mut Vec<Arc<Region>>,
) -> Result<Composite, BuildError> {
    let (mut parts, mut parent) = (Vec::new(), None);
    if let VolumeConstructionRequest::Volume {
        sub_volumes,
        read_only_parent,
        ..
    } = request
    {
        for part in sub_volumes {
            parts.push(store(part, regions)?);
        }
        if let Some(request) = read_only_parent {
            parent = Some(store(request, regions)?);
        }
    }
    Ok(Composite::new(block_size(request), parts, parent))
}

fn store(
    request: &VolumeConstructionRequest,
    regions: &mut Vec<Arc<Region>>,
) -> Result<Arc<dyn Store>, BuildError> {
    let file = |path: &str| {
        let path = path.to_owned();
        move |error| BuildError::File { path, error }
    };
    Ok(match request {
        VolumeConstructionRequest::Volume { .. } => Arc::new(composite(request, regions)?),
        VolumeConstructionRequest::Region {
            block_size,
            blocks_per_extent,
            extent_count,
            opts,
            generation,
        } => {
            let geometry = Geometry::new(*block_size, *blocks_per_extent, *extent_count);
            let geometry = geometry.map_err(|error| OptionsError::Geometry {
                place: "region".to_owned(),
                error,
            })?;
            let region = Region::start(Setup::new(opts, Some(geometry), *generation)?)?;
            regions.push(region.clone());
            region
        }
        VolumeConstructionRequest::File { path, .. } => {
            let leaf = FileLeaf::open(Path::new(path), block_size(request)).map_err(file(path))?;
            Arc::new(Threads::start(leaf, LEAF_THREADS, "file").map_err(file(path))?)
        }
        VolumeConstructionRequest::Url { url, .. } => {
            let leaf = UrlLeaf::open(url, block_size(request))?;
            Arc::new(Threads::start(leaf, LEAF_THREADS, "url").map_err(file(url))?)
        }
    })
}
