//! The volumes under a machine's disks: activated before the machine is built, let go after it has ended.
//!
//! Start at [`Volumes::new`] and [`Volumes::activate`]. Reading order: [`generation`] (numbers that rise from start to start), `activation`
//! (waiting for region servers, and whom to blame when it does not work), this file (the handles).

pub mod generation;

mod activation;

mod probe;

use std::collections::BTreeMap;
use std::sync::Arc;

use crucible_upstairs::adapter::VolumeDisk;
use crucible_upstairs::core::VolumeError;
use crucible_upstairs::drive::{Setup, StartError};
use crucible_upstairs::volume::{MemoryLeaf, Volume, block_on};
use thiserror::Error;
use vm_types::Span;
use vmm::machine::Backends;

use crate::config::volume::{CrucibleConfig, VolumeConfig};
use generation::{GenerationError, Generations};

/// Why a volume cannot be used. Each names the disk, and the key to change where there is one.
#[derive(Debug, Error)]
pub enum VolumesError {
    /// The options do not make a volume.
    #[error("[block_dev.{disk}]: {source}")]
    Start {
        /// The disk.
        disk: String,
        /// Why.
        source: StartError,
    },
    /// More memory than there is.
    #[error("[block_dev.{disk}] \"size\": more than this host can address")]
    Memory {
        /// The disk.
        disk: String,
    },
    /// No generation could be chosen.
    #[error("[block_dev.{disk}] \"generation\": {source}")]
    Generation {
        /// The disk.
        disk: String,
        /// Why.
        source: GenerationError,
    },
    /// The region servers, or we, refuse; `key` is what to look at.
    #[error("[block_dev.{disk}] \"{key}\": {reason}")]
    Refused {
        /// The disk.
        disk: String,
        /// The key.
        key: &'static str,
        /// In words.
        reason: String,
    },
    /// It ended in another way.
    #[error("[block_dev.{disk}]: {source}")]
    Failed {
        /// The disk.
        disk: String,
        /// Why.
        source: VolumeError,
    },
    /// No thread.
    #[error("activating volumes: {0}")]
    System(std::io::Error),
    /// Somebody wanted an end.
    #[error("interrupted while waiting for the downstairs of {}", .0.join(", "))]
    Interrupted(
        /// The disks that were waited for.
        Vec<String>,
    ),
}

/// The volumes of a machine. Clones are the same volumes.
#[derive(Clone, Debug, Default)]
pub struct Volumes(Arc<BTreeMap<String, Opened>>);

#[derive(Debug)]
struct Opened {
    volume: Volume,
    /// The guest hears of a request after this time, come what may.
    limit: Option<Span>,
}

/// The volume itself says first that a request has waited for too long, and for what.
const VOLUME_SAYS_FIRST: Span = Span::from_secs(2);

impl Volumes {
    /// Those of `configs`; nobody is dialled yet.
    ///
    /// Errors: options that make no volume.
    pub fn new(configs: &BTreeMap<String, VolumeConfig>) -> Result<Self, VolumesError> {
        let mut volumes = BTreeMap::new();
        for (disk, config) in configs {
            let opened = match config {
                VolumeConfig::Memory { block_size, blocks } => {
                    let leaf = MemoryLeaf::new(*block_size, *blocks);
                    let leaf = leaf.ok_or_else(|| VolumesError::Memory { disk: disk.clone() })?;
                    Opened {
                        volume: Volume::in_memory(leaf),
                        limit: None,
                    }
                }
                VolumeConfig::Crucible(config) => {
                    let volume = region(config).map_err(|source| VolumesError::Start {
                        disk: disk.clone(),
                        source,
                    })?;
                    let nanos = patience(config).as_nanos() + VOLUME_SAYS_FIRST.as_nanos();
                    Opened {
                        volume,
                        limit: Some(Span::from_nanos(nanos)),
                    }
                }
            };
            volumes.insert(disk.clone(), opened);
        }
        Ok(Self(Arc::new(volumes)))
    }

    /// Activates them; `configs` are those that they were made of. Waits for region servers as long as it takes, and
    /// says for which. `interrupted` is asked several times a second whether to give up.
    ///
    /// Errors: the first refusal; no volume is left active.
    pub fn activate(
        &self,
        configs: &BTreeMap<String, VolumeConfig>,
        generations: &Generations,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<(), VolumesError> {
        let dialled = configs.iter().filter_map(|(disk, config)| match config {
            VolumeConfig::Crucible(config) => {
                Some((disk.as_str(), &**config, self.get(disk)?.clone()))
            }
            VolumeConfig::Memory { .. } => None,
        });
        let dialled: Vec<_> = dialled.collect();
        activation::activate(&dialled, generations, interrupted).inspect_err(|_| {
            // Some may be active. Nothing was written, so there is nothing to flush.
            self.shut_down();
        })
    }

    /// The volumes by the names of their disks.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Volume)> {
        let all = self.0.iter();
        all.map(|(name, opened)| (name.as_str(), &opened.volume))
    }

    /// The volume under the disk of this name.
    pub fn get(&self, disk: &str) -> Option<&Volume> {
        self.0.get(disk).map(|opened| &opened.volume)
    }

    /// As backends of disks.
    pub fn backends(&self) -> Backends {
        let backend = |(name, opened): (&String, &Opened)| {
            let mut disk = VolumeDisk::named(name, opened.volume.clone())?;
            if let Some(limit) = opened.limit {
                disk = disk.with_limit(limit);
            }
            Some((name.clone(), Arc::new(disk) as _))
        };
        self.0.iter().filter_map(backend).collect()
    }

    /// Flushes all and lets go. Waits for region servers as long as it takes; [`Volumes::shut_down`], from another
    /// thread, ends that. Returns whether all that was written is where it belongs.
    pub fn close(&self) -> bool {
        let mut clean = true;
        for (disk, volume) in self.iter() {
            match volume.deactivate_blocking() {
                Ok(()) => tracing::info!(disk, "volume flushed and let go"),
                // It ended before, and that has been said.
                Err(VolumeError::Inactive) => {}
                Err(error) => {
                    clean = false;
                    tracing::error!(disk, %error, "volume not let go in good order; what no flush covered may be lost");
                }
            }
        }
        clean
    }

    /// Lets go of all at once, without a flush. What waits ends with an error.
    pub fn shut_down(&self) {
        for (_, volume) in self.iter() {
            // It was told; there is nobody to tell more.
            drop(block_on(volume.shut_down()));
        }
    }
}

/// A volume that is not dialled yet.
fn region(config: &CrucibleConfig) -> Result<Volume, StartError> {
    // Activation names the generation; this one is never used.
    let mut setup = Setup::new(&config.opts, config.shape.whole(), 1)?;
    setup.config.patience = patience(config);
    Volume::region(setup)
}

/// At most a day, as the configuration has checked.
fn patience(config: &CrucibleConfig) -> Span {
    Span::from_nanos(u64::try_from(config.request_timeout.as_nanos()).unwrap_or(u64::MAX / 2))
}
