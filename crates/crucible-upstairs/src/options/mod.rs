//! What a user says of a volume: `CrucibleOpts` and `VolumeConstructionRequest`, JSON as users of the reference
//! know it (spec: crucible 7), and every reason to refuse it, by name, before anything is dialled.
//!
//! Fields that are not known are ignored, as the reference ignores them.

mod compare;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crucible_protocol::{Geometry, GeometryError};

use crate::crypt::{Key, KeyError, KeyText};

pub use compare::{CompareError, TargetChange};

/// Levels of volumes within volumes. More is a mistake, not a disk.
const DEPTH_MAX: usize = 16;

/// How one set of three region servers is to be attached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrucibleOpts {
    /// The volume: the same at each attachment.
    pub id: Uuid,
    /// The three region servers.
    pub target: Vec<SocketAddr>,
    /// A test mode: what is sent to region servers is held back for a tenth of a second now and then.
    pub lossy: bool,
    /// Seconds without a flush of the guest's after which one is made. Default: half a second.
    #[serde(default)]
    pub flush_timeout: Option<f32>,
    /// Makes the volume an encrypted one: 32 bytes in standard base64.
    #[serde(default)]
    pub key: Option<KeyText>,
    /// TLS: path of our certificate chain.
    #[serde(default)]
    pub cert_pem: Option<String>,
    /// TLS: path of our private key.
    #[serde(default)]
    pub key_pem: Option<String>,
    /// TLS: path of the certificate that theirs must come from.
    #[serde(default)]
    pub root_cert_pem: Option<String>,
    /// Where to answer `GET /info`, `/work` and `/metrics`.
    #[serde(default)]
    pub control: Option<SocketAddr>,
    /// Only reads.
    pub read_only: bool,
    /// Activate with two of three; the third joins by repair. Not known to the reference, and off by default.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub degraded_activation: bool,
}

/// What a volume is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum VolumeConstructionRequest {
    /// Parts one after the other, over a read-only parent.
    Volume {
        /// Of this volume.
        id: Uuid,
        /// In bytes; the same everywhere in the volume.
        block_size: u64,
        /// In order of their blocks.
        sub_volumes: Vec<VolumeConstructionRequest>,
        /// What shows through where the parts were never written.
        #[serde(default)]
        read_only_parent: Option<Box<VolumeConstructionRequest>>,
    },
    /// An image behind HTTP; read-only.
    Url {
        /// Of this image.
        id: Uuid,
        /// In bytes.
        block_size: u64,
        /// `http://...`
        url: String,
    },
    /// Three region servers.
    Region {
        /// In bytes.
        block_size: u64,
        /// Blocks of one extent.
        blocks_per_extent: u64,
        /// How many extents.
        extent_count: u32,
        /// The rest.
        opts: CrucibleOpts,
        /// Of this attachment; the highest wins.
        #[serde(rename = "gen")]
        generation: u64,
    },
    /// A local file; read-only.
    File {
        /// Of this file.
        id: Uuid,
        /// In bytes.
        block_size: u64,
        /// Where it lies.
        path: String,
    },
}

/// Paths of the three files of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPaths {
    /// Our certificate chain.
    pub certificates: PathBuf,
    /// Our private key.
    pub key: PathBuf,
    /// What theirs must come from.
    pub root: PathBuf,
}

/// Why a configuration is refused. `place` tells where: `sub_volumes[1].opts.target`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OptionsError {
    /// Not three.
    #[error("{place}: three region servers are needed, {found} are given")]
    TargetCount {
        /// Where.
        place: String,
        /// How many.
        found: usize,
    },
    /// Three copies on one server are one copy.
    #[error("{place}: {target} is named twice")]
    TargetTwice {
        /// Where.
        place: String,
        /// Which.
        target: SocketAddr,
    },
    /// Not a time.
    #[error("{place}: expected more than 0 and at most 3600 seconds, found {found}")]
    FlushTimeout {
        /// Where.
        place: String,
        /// As given.
        found: f32,
    },
    /// No key.
    #[error("{place}: {error}")]
    Key {
        /// Where.
        place: String,
        /// What is wrong.
        error: KeyError,
    },
    /// TLS needs all three files.
    #[error("{place}: {missing} is missing: cert_pem, key_pem and root_cert_pem belong together")]
    Tls {
        /// Where.
        place: String,
        /// Which.
        missing: &'static str,
    },
    /// No geometry.
    #[error("{place}: {error}")]
    Geometry {
        /// Where.
        place: String,
        /// What is wrong.
        error: GeometryError,
    },
    /// Generations begin at 1.
    #[error(
        "{place}: generation 0 is not allowed: use 1 for a fresh region, one more at each attachment"
    )]
    GenerationZero {
        /// Where.
        place: String,
    },
    /// Parts of one volume differ.
    #[error("{place}: block size {found} within a volume of block size {expected}")]
    BlockSize {
        /// Where.
        place: String,
        /// Of the volume.
        expected: u64,
        /// Of the part.
        found: u64,
    },
    /// Nothing at all.
    #[error("{place}: neither sub-volumes nor a read-only parent")]
    Empty {
        /// Where.
        place: String,
    },
    /// Volumes in volumes in volumes.
    #[error("{place}: more than {DEPTH_MAX} volumes within each other")]
    TooDeep {
        /// Where.
        place: String,
    },
}

impl CrucibleOpts {
    /// Options for these targets with the defaults for everything else.
    pub fn new(id: Uuid, target: [SocketAddr; 3]) -> Self {
        Self {
            id,
            target: target.to_vec(),
            lossy: false,
            flush_timeout: None,
            key: None,
            cert_pem: None,
            key_pem: None,
            root_cert_pem: None,
            control: None,
            read_only: false,
            degraded_activation: false,
        }
    }

    /// Checks all that can be checked without the network.
    pub fn validate(&self) -> Result<(), OptionsError> {
        self.check("opts")
    }

    fn check(&self, place: &str) -> Result<(), OptionsError> {
        self.targets_at(place)?;
        let at = |field: &str| format!("{place}.{field}");
        if let Some(found) = self.flush_timeout
            && !(found > 0.0 && found <= 3600.0)
        {
            let place = at("flush_timeout");
            return Err(OptionsError::FlushTimeout { place, found });
        }
        if let Some(Err(error)) = self.key.as_ref().map(KeyText::key) {
            let place = at("key");
            return Err(OptionsError::Key { place, error });
        }
        let files = [
            ("cert_pem", self.cert_pem.is_some()),
            ("key_pem", self.key_pem.is_some()),
            ("root_cert_pem", self.root_cert_pem.is_some()),
        ];
        match files.iter().find(|(_, given)| !given) {
            Some((missing, _)) if files.iter().any(|(_, given)| *given) => Err(OptionsError::Tls {
                place: place.to_owned(),
                missing,
            }),
            _ => Ok(()),
        }
    }

    fn targets_at(&self, place: &str) -> Result<[SocketAddr; 3], OptionsError> {
        let targets: [SocketAddr; 3] =
            self.target
                .as_slice()
                .try_into()
                .map_err(|_| OptionsError::TargetCount {
                    place: format!("{place}.target"),
                    found: self.target.len(),
                })?;
        let [a, b, c] = targets;
        match [(a, b), (a, c), (b, c)]
            .iter()
            .find(|(one, other)| one == other)
        {
            Some((target, _)) => Err(OptionsError::TargetTwice {
                place: format!("{place}.target"),
                target: *target,
            }),
            None => Ok(targets),
        }
    }

    /// The three region servers.
    pub fn targets(&self) -> Result<[SocketAddr; 3], OptionsError> {
        self.targets_at("opts")
    }

    /// The key, if the volume is encrypted.
    pub fn key(&self) -> Result<Option<Key>, OptionsError> {
        let key = self.key.as_ref().map(KeyText::key).transpose();
        key.map_err(|error| OptionsError::Key {
            place: "opts.key".to_owned(),
            error,
        })
    }

    /// The files of TLS, if connections are to use it.
    pub fn tls(&self) -> Option<TlsPaths> {
        Some(TlsPaths {
            certificates: self.cert_pem.as_ref()?.into(),
            key: self.key_pem.as_ref()?.into(),
            root: self.root_cert_pem.as_ref()?.into(),
        })
    }

    /// Time without a flush after which one is made; `None`: the default.
    pub fn flush_after(&self) -> Option<Duration> {
        Duration::try_from_secs_f32(self.flush_timeout?).ok()
    }
}

impl VolumeConstructionRequest {
    /// Checks all that can be checked without the network.
    pub fn validate(&self) -> Result<(), OptionsError> {
        self.check("", 0)
    }

    /// In bytes.
    pub const fn block_size(&self) -> u64 {
        match self {
            Self::Volume { block_size, .. }
            | Self::Url { block_size, .. }
            | Self::Region { block_size, .. }
            | Self::File { block_size, .. } => *block_size,
        }
    }

    /// All sets of region servers in the tree, each with its generation.
    pub fn regions(&self) -> Vec<(&CrucibleOpts, u64)> {
        match self {
            Self::Region {
                opts, generation, ..
            } => vec![(opts, *generation)],
            Self::Volume {
                sub_volumes,
                read_only_parent,
                ..
            } => {
                let parts = sub_volumes.iter().chain(read_only_parent.as_deref());
                parts.flat_map(Self::regions).collect()
            }
            Self::Url { .. } | Self::File { .. } => Vec::new(),
        }
    }

    fn check(&self, place: &str, depth: usize) -> Result<(), OptionsError> {
        let named = |part: &str| match place {
            "" => part.to_owned(),
            _ => format!("{place}.{part}"),
        };
        if depth >= DEPTH_MAX {
            let place = place.to_owned();
            return Err(OptionsError::TooDeep { place });
        }
        // The checks of a block size are those of a geometry.
        let geometry = |blocks, count| {
            Geometry::new(self.block_size(), blocks, count).map_err(|error| {
                let place = match place {
                    "" => "volume".to_owned(),
                    _ => place.to_owned(),
                };
                OptionsError::Geometry { place, error }
            })
        };
        match self {
            Self::Url { .. } | Self::File { .. } => geometry(1, 1).map(drop),
            Self::Region {
                blocks_per_extent,
                extent_count,
                opts,
                generation,
                ..
            } => {
                geometry(*blocks_per_extent, *extent_count)?;
                if *generation == 0 && !opts.read_only {
                    let place = named("gen");
                    return Err(OptionsError::GenerationZero { place });
                }
                opts.check(&named("opts"))
            }
            Self::Volume {
                block_size,
                sub_volumes,
                read_only_parent,
                ..
            } => {
                geometry(1, 1)?;
                if sub_volumes.is_empty() && read_only_parent.is_none() {
                    let place = named("sub_volumes");
                    return Err(OptionsError::Empty { place });
                }
                let parts = sub_volumes.iter().enumerate();
                let parts = parts.map(|(at, part)| (named(&format!("sub_volumes[{at}]")), part));
                let parent = read_only_parent.as_deref();
                let parent = parent.map(|parent| (named("read_only_parent"), parent));
                for (place, part) in parts.chain(parent) {
                    if part.block_size() != *block_size {
                        return Err(OptionsError::BlockSize {
                            place,
                            expected: *block_size,
                            found: part.block_size(),
                        });
                    }
                    part.check(&place, depth + 1)?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
