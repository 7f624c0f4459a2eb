//! A volume as a disk for devices and exports: a [`block::Backend`].
//!
//! The queue's worker copies guest bytes into the buffer that they are sealed in and sent from, and hands whole
//! batches over; answers gather until the worker is rung, once a turn. Requests are cut into parts, which wait here,
//! uncopied, while the volume has no room.
//!
//! Discard is advice. Plain blocks take it as zeroes, which region servers keep as holes. Sealed blocks do not: sealed
//! zeroes are bytes like all others, so the answer is "done" and nothing is.
//!
//! A guest that resets its device is not held up by region servers that are away: nothing outside of this file refers
//! to its memory, so what is under way can be let go at any time.
//!
//! Reading order: [`VolumeDisk`], `engine` (one queue: what begins, what has ended), `request` (one request and its
//! parts), `inbox` (where answers gather).

mod engine;
mod inbox;
mod request;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use block::request::{Operation, Outcome};
use block::{Backend, DiskInfo, Engine, EngineSetup};
use vm_types::Span;

use self::engine::VolumeEngine;
use crate::core::VolumeError;
use crate::store::Shape;
use crate::volume::Volume;

/// An active volume as a disk. Size and block size are those of its activation.
#[derive(Debug)]
pub struct VolumeDisk {
    volume: Volume,
    shape: Shape,
    limit: Option<Span>,
    ended: Arc<Ended>,
}

/// Whether the volume has ended under the disk: a thing to be said once, whichever queue notices.
#[derive(Debug)]
struct Ended {
    name: String,
    said: AtomicBool,
}

impl VolumeDisk {
    /// A disk over `volume`, which has been activated. `None`: it has not, and nothing says how large it is.
    pub fn new(volume: Volume) -> Option<Self> {
        Self::named("volume", volume)
    }

    /// The same, with a name for logs.
    pub fn named(name: &str, volume: Volume) -> Option<Self> {
        let shape = volume.shape()?;
        let ended = Arc::new(Ended {
            name: name.to_owned(),
            said: AtomicBool::new(false),
        });
        Some(Self {
            volume,
            shape,
            limit: None,
            ended,
        })
    }

    /// The same, where the guest hears "try again" of every request that has no answer after `limit`, whatever the
    /// volume does meanwhile.
    #[must_use]
    pub fn with_limit(mut self, limit: Span) -> Self {
        self.limit = Some(limit);
        self
    }
}

impl Backend for VolumeDisk {
    fn info(&self) -> DiskInfo {
        DiskInfo {
            read_only: self.shape.read_only,
            discard: true,
            write_zeroes: true,
            volatile_cache: true,
            ..DiskInfo::new(self.shape.block_size, self.shape.bytes())
        }
    }

    fn engine(&self, setup: EngineSetup) -> io::Result<Box<dyn Engine>> {
        Ok(Box::new(VolumeEngine::new(self, setup)))
    }
}

impl Ended {
    fn look_at(&self, error: &VolumeError) {
        if matches!(
            error,
            VolumeError::Stopped(_) | VolumeError::TakenOver { .. }
        ) && !self.said.swap(true, Ordering::Relaxed)
        {
            tracing::error!(
                disk = self.name,
                %error,
                "this disk has ended; every request of the guest fails from now on"
            );
        }
    }
}

/// What a guest learns of an error.
fn outcome_of(error: &VolumeError, operation: Operation) -> Outcome {
    match error {
        VolumeError::ReadOnly => Outcome::ReadOnly,
        VolumeError::OutOfRange { .. } | VolumeError::NotWholeBlocks { .. } => Outcome::OutOfRange,
        // Region servers may come back.
        error if error.is_transient() => Outcome::Retry,
        _ if matches!(
            operation,
            Operation::Read | Operation::Compare | Operation::Verify
        ) =>
        {
            Outcome::ReadFailed
        }
        _ => Outcome::WriteFailed,
    }
}
