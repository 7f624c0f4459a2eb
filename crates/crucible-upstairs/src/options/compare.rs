//! Whether one construction request may take the place of another (spec: crucible 7): when a machine moves, and
//! when one region server is replaced by another.

use std::net::SocketAddr;

use super::{CrucibleOpts, VolumeConstructionRequest};

/// One region server gives way to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetChange {
    /// The one that goes.
    pub old: SocketAddr,
    /// The one that comes.
    pub new: SocketAddr,
}

/// Why one request cannot take the place of the other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    /// Something differs that may not.
    #[error("{place}: {what} differs")]
    Differs {
        /// Where in the tree.
        place: String,
        /// Which field.
        what: &'static str,
    },
    /// The new generation must be higher, or at least not lower.
    #[error("{place}: generation {new} after {old}")]
    Generation {
        /// Where in the tree.
        place: String,
        /// Of the present request.
        old: u64,
        /// Of the new one.
        new: u64,
    },
    /// At most one target may differ.
    #[error("{place}: a second region server differs; they are replaced one at a time")]
    SecondTarget {
        /// Where in the tree.
        place: String,
    },
    /// None differs.
    #[error("no region server differs")]
    Same,
}

/// What may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The machine moves: generations rise, a read-only parent that has been copied may be gone.
    Migration,
    /// One region server is replaced.
    Replacement,
}

/// The walk over both trees, and what it has found.
struct Walk {
    purpose: Purpose,
    change: Option<TargetChange>,
}

impl VolumeConstructionRequest {
    /// Whether a machine may move from this request to `new`: all is equal, but that generations of sub-volumes
    /// are higher and the read-only parent may be gone.
    pub fn may_migrate_to(&self, new: &Self) -> Result<(), CompareError> {
        let purpose = Purpose::Migration;
        Walk {
            purpose,
            change: None,
        }
        .compare("volume", self, new, false)
    }

    /// The one region server in which `new` differs from this request; all else must be equal, but that
    /// generations may have risen.
    pub fn replaced_target(&self, new: &Self) -> Result<TargetChange, CompareError> {
        let purpose = Purpose::Replacement;
        let mut walk = Walk {
            purpose,
            change: None,
        };
        walk.compare("volume", self, new, false)?;
        walk.change.ok_or(CompareError::Same)
    }
}

impl Walk {
    fn compare(
        &mut self,
        place: &str,
        old: &VolumeConstructionRequest,
        new: &VolumeConstructionRequest,
        in_parent: bool,
    ) -> Result<(), CompareError> {
        use VolumeConstructionRequest::{File, Region, Url, Volume};
        let same = |what, equal: bool| {
            let place = place.to_owned();
            equal
                .then_some(())
                .ok_or(CompareError::Differs { place, what })
        };
        same("block_size", old.block_size() == new.block_size())?;
        match (old, new) {
            (
                Volume {
                    id,
                    sub_volumes,
                    read_only_parent,
                    ..
                },
                Volume {
                    id: new_id,
                    sub_volumes: new_sub_volumes,
                    read_only_parent: new_parent,
                    ..
                },
            ) => {
                same("id", id == new_id)?;
                same(
                    "number of sub_volumes",
                    sub_volumes.len() == new_sub_volumes.len(),
                )?;
                for (at, (old, new)) in sub_volumes.iter().zip(new_sub_volumes).enumerate() {
                    self.compare(&format!("{place}.sub_volumes[{at}]"), old, new, in_parent)?;
                }
                match (read_only_parent, new_parent) {
                    (Some(old), Some(new)) => {
                        self.compare(&format!("{place}.read_only_parent"), old, new, true)
                    }
                    (Some(_), None) if self.purpose == Purpose::Migration => Ok(()),
                    (old, new) => same("read_only_parent", old.is_none() && new.is_none()),
                }
            }
            (
                Region {
                    blocks_per_extent,
                    extent_count,
                    opts,
                    generation,
                    ..
                },
                Region {
                    blocks_per_extent: new_blocks,
                    extent_count: new_count,
                    opts: new_opts,
                    generation: new_generation,
                    ..
                },
            ) => {
                same("blocks_per_extent", blocks_per_extent == new_blocks)?;
                same("extent_count", extent_count == new_count)?;
                let allowed = match self.purpose {
                    // What is only read needs no new generation.
                    Purpose::Migration if in_parent => new_generation == generation,
                    Purpose::Migration => new_generation > generation,
                    Purpose::Replacement => new_generation >= generation,
                };
                if !allowed {
                    return Err(CompareError::Generation {
                        place: place.to_owned(),
                        old: *generation,
                        new: *new_generation,
                    });
                }
                self.targets(place, opts, new_opts)?;
                let mut alike = new_opts.clone();
                alike.target.clone_from(&opts.target);
                same("opts", alike == *opts)
            }
            (
                Url { id, url, .. },
                Url {
                    id: new_id,
                    url: new_url,
                    ..
                },
            ) => {
                same("id", id == new_id)?;
                same("url", url == new_url)
            }
            (
                File { id, path, .. },
                File {
                    id: new_id,
                    path: new_path,
                    ..
                },
            ) => {
                same("id", id == new_id)?;
                same("path", path == new_path)
            }
            _ => same("type", false),
        }
    }

    fn targets(
        &mut self,
        place: &str,
        old: &CrucibleOpts,
        new: &CrucibleOpts,
    ) -> Result<(), CompareError> {
        let place = || format!("{place}.opts");
        if old.target.len() != new.target.len() {
            let (place, what) = (place(), "number of targets");
            return Err(CompareError::Differs { place, what });
        }
        for (old, new) in old.target.iter().zip(&new.target) {
            if old == new {
                continue;
            }
            if self.purpose == Purpose::Migration {
                let (place, what) = (place(), "target");
                return Err(CompareError::Differs { place, what });
            }
            let change = TargetChange {
                old: *old,
                new: *new,
            };
            if self.change.replace(change).is_some() {
                let place = place();
                return Err(CompareError::SecondTarget { place });
            }
        }
        Ok(())
    }
}
