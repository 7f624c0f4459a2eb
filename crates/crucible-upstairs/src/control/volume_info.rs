//! `VolumeInfo`: what a volume is made of and how it is, as users of the reference know it (spec: crucible 7).

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use serde::Serialize;
use uuid::Uuid;

use crate::core::{ReplicaState, ReplicaStatus, Status};
use crate::store::{Outline, Shape};

/// A volume, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeInfo {
    /// Parts one after the other, over a read-only parent.
    Volume {
        /// In the order of their blocks.
        sub_volumes: Vec<VolumeInfo>,
        /// What shows through where the parts were never written.
        read_only_parent: Option<Box<VolumeInfo>>,
    },
    /// Three region servers.
    Upstairs(Box<UpstairsInfo>),
    /// A file, an image or memory. Not known to the reference, which leaves such out.
    Leaf {
        /// In bytes.
        block_size: u32,
        /// In blocks.
        blocks: u64,
        /// Only reads.
        read_only: bool,
    },
    /// It has ended, or does not know its size yet.
    Unknown,
}

/// A set of three region servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpstairsInfo {
    /// `initializing`, `active` or `deactivating`.
    pub state: &'static str,
    /// In bytes, once it is known.
    pub block_size: Option<u64>,
    /// The volume.
    pub upstairs_id: Uuid,
    /// This start of the program.
    pub session_id: Uuid,
    /// Of the present activation, or the last one.
    pub generation: u64,
    /// As configured.
    pub read_only: bool,
    /// As configured.
    pub encrypted: bool,
    /// Replicas are being made equal before the volume is used.
    pub reconcile_in_progress: bool,
    /// Replicas are being made equal while it is used.
    pub live_repair_in_progress: bool,
    /// The three.
    pub targets: [TargetInfo; 3],
}

/// One region server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TargetInfo {
    /// Its region, once it is known.
    pub region_id: Option<Uuid>,
    /// Where it is.
    pub target_addr: Option<SocketAddr>,
    /// Where it serves its extents, once it is known.
    pub repair_addr: Option<SocketAddr>,
    /// Where it stands.
    pub state: TargetState,
}

/// Where a region server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TargetState {
    /// On the way to be of use.
    Connecting {
        /// How far it is.
        state: &'static str,
        /// What it will have to catch up with.
        mode: &'static str,
    },
    /// In use.
    Active,
    /// In use for what is repaired already.
    LiveRepair,
}

impl VolumeInfo {
    /// Asks all sets of region servers of an outline.
    pub(crate) fn ask(outline: Outline) -> Pin<Box<dyn Future<Output = Self> + Send>> {
        // The volumes within a volume are few, and not deep: options are checked for that.
        Box::pin(async move {
            match outline {
                Outline::Volume { parts, parent } => {
                    let mut sub_volumes = Vec::with_capacity(parts.len());
                    for part in parts {
                        sub_volumes.push(Self::ask(part).await);
                    }
                    let read_only_parent = match parent {
                        Some(parent) => Some(Box::new(Self::ask(*parent).await)),
                        None => None,
                    };
                    Self::Volume {
                        sub_volumes,
                        read_only_parent,
                    }
                }
                Outline::Region(question) => match question.await {
                    Ok(insight) => Self::Upstairs(Box::new((&insight.status).into())),
                    Err(_) => Self::Unknown,
                },
                Outline::Leaf(shape) => shape.map_or(Self::Unknown, Self::leaf),
            }
        })
    }

    const fn leaf(shape: Shape) -> Self {
        Self::Leaf {
            block_size: shape.block_size,
            blocks: shape.blocks,
            read_only: shape.read_only,
        }
    }
}

impl From<&Status> for UpstairsInfo {
    fn from(status: &Status) -> Self {
        Self {
            state: status.phase.name(),
            block_size: status.geometry.map(|shape| u64::from(shape.block_size())),
            upstairs_id: status.key.upstairs.0,
            session_id: status.key.session.0,
            generation: status.generation,
            read_only: status.read_only,
            encrypted: status.encrypted,
            reconcile_in_progress: status.reconciling,
            live_repair_in_progress: status.live_repairing,
            targets: status.replicas.each_ref().map(TargetInfo::from),
        }
    }
}

impl From<&ReplicaStatus> for TargetInfo {
    fn from(replica: &ReplicaStatus) -> Self {
        Self {
            region_id: replica.region,
            target_addr: Some(replica.address),
            repair_addr: replica.repair_address,
            state: match replica.state {
                ReplicaState::Idle => TargetState::Connecting {
                    state: "wait_connect",
                    mode: "new",
                },
                ReplicaState::Connecting { mode, step } => TargetState::Connecting {
                    state: step.name(),
                    mode: mode.name(),
                },
                ReplicaState::Active => TargetState::Active,
                ReplicaState::LiveRepair => TargetState::LiveRepair,
            },
        }
    }
}
