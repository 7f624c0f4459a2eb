//! The handle that everybody uses, and what it may stand for.
//!
//! A [`Volume`] is cheap to clone. Its methods come as futures and, under `_blocking`, for threads that have no
//! runtime; devices use [`Volume::submit`] by batches. How much is under way is bounded by permits, for all clones
//! together; who asks for more waits.
//!
//! Reading order: this file, `wait`, `build` (from a construction request), `composite` and `join` (several stores
//! as one), `scrub`, then the leaves besides [`Region`]: `leaf` (what they share), `memory`, `file`, `url`; and
//! `as_file` (a volume as a file).

mod as_file;
mod build;
mod composite;
mod file;
mod join;
mod leaf;
mod memory;
mod scrub;
mod url;
mod wait;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use crucible_protocol::BlockIndex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::control::VolumeInfo;
use crate::core::{Answer, Command, Plain, ReplaceResult, Request, VolumeError};
use crate::drive::{Region, Setup, StartError};
use crate::store::{Ask, Insight, Outcome, Reply, Shape, Store, Submission};

pub use as_file::VolumeFile;
pub use build::BuildError;
pub use composite::Composite;
pub use file::FileLeaf;
pub use leaf::{Direct, Leaf, Threads};
pub use memory::MemoryLeaf;
pub use scrub::{ScrubOptions, ScrubProgress};
pub use url::{UrlError, UrlLeaf};
pub use wait::block_on;

/// Bytes that one unit of the permits stands for.
const UNIT: usize = 4 << 10;
/// Units of all requests together: 64 MiB, or 16384 requests that are no larger than one.
const UNITS: usize = (64 << 20) / UNIT;

/// Longest request that is passed on whole; a multiple of every block size.
const PIECE: usize = 4 << 20;

/// Blocks to read, write and flush.
#[derive(Clone)]
pub struct Volume {
    root: Arc<dyn Store>,
    regions: Arc<[Arc<Region>]>,
    /// What has a parent to be scrubbed, if anything has.
    composite: Option<Arc<Composite>>,
    gate: Arc<Semaphore>,
}

/// A request that is under way.
struct Begun(oneshot::Receiver<Outcome>);

impl Begun {
    async fn end(self) -> Outcome {
        self.0.await.unwrap_or(Err(VolumeError::ShutDown))
    }
}

/// Room for one more request; comes back when it is dropped.
#[derive(Debug)]
pub struct Permit(OwnedSemaphorePermit);

impl Permit {
    /// A reply that holds it.
    pub fn reply(self, sink: Arc<dyn crate::store::Sink>, tag: u64) -> Reply {
        Reply::sink(sink, tag, Some(self.0))
    }
}

impl Volume {
    /// One set of three region servers.
    pub fn region(setup: Setup) -> Result<Self, StartError> {
        let region = Region::start(setup)?;
        Ok(Self::over(region.clone(), vec![region]))
    }

    /// A volume in memory, for tests and for what nobody keeps.
    pub fn in_memory(leaf: MemoryLeaf) -> Self {
        Self::over(Arc::new(Direct(leaf)), Vec::new())
    }

    /// Parts under one roof.
    pub fn composed(composite: Composite, regions: Vec<Arc<Region>>) -> Self {
        let composite = Arc::new(composite);
        let mut volume = Self::over(composite.clone(), regions);
        volume.composite = Some(composite);
        volume
    }

    /// Any store, and the regions that are part of it.
    pub fn over(root: Arc<dyn Store>, regions: Vec<Arc<Region>>) -> Self {
        Self {
            root,
            regions: regions.into(),
            composite: None,
            gate: Arc::new(Semaphore::new(UNITS)),
        }
    }

    /// The sets of region servers in it, in the order of their blocks; those of a read-only parent come last.
    pub fn regions(&self) -> &[Arc<Region>] {
        &self.regions
    }

    /// Block size, number of blocks, whether it may be written. `None` before the first activation, where the
    /// configuration does not say.
    pub fn shape(&self) -> Option<Shape> {
        self.root.shape()
    }

    /// What each set of region servers tells of itself.
    pub async fn insights(&self) -> Vec<Insight> {
        let mut all = Vec::new();
        for region in self.regions.iter() {
            all.extend(region.insight().await.map(|insight| *insight));
        }
        all
    }

    /// What the volume is made of, and how each set of region servers is. A single one is told as a volume of one
    /// part, as the reference does.
    pub async fn info(&self) -> VolumeInfo {
        match VolumeInfo::ask(self.root.outline()).await {
            info @ VolumeInfo::Volume { .. } => info,
            part => VolumeInfo::Volume {
                sub_volumes: vec![part],
                read_only_parent: None,
            },
        }
    }

    fn units(bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT).clamp(1, UNITS)).unwrap_or(1)
    }

    /// Room for a request of this many bytes, if there is any now.
    pub fn try_permit(&self, bytes: usize) -> Option<Permit> {
        let permit = self.gate.clone().try_acquire_many_owned(Self::units(bytes));
        permit.ok().map(Permit)
    }

    /// Room for a request of this many bytes.
    pub async fn permit(&self, bytes: usize) -> Result<Permit, VolumeError> {
        let permit = self.gate.clone().acquire_many_owned(Self::units(bytes));
        permit.await.map(Permit).map_err(|_| VolumeError::ShutDown)
    }

    /// Takes all of `batch`, in order; answers go to the sinks, in any order. Each submission should hold a
    /// [`Permit`].
    pub fn submit(&self, batch: &mut Vec<Submission>) {
        self.root.submit(batch);
    }

    /// Submits; the answer comes later. Waits for room.
    async fn begin(&self, ask: Ask, bytes: usize) -> Result<Begun, VolumeError> {
        let permit = match &ask {
            Ask::Request(_) => Some(self.permit(bytes).await?.0),
            Ask::Command(_) => None,
        };
        let (reply, answer) = Reply::channel(permit);
        self.root.submit(&mut vec![Submission { ask, reply }]);
        Ok(Begun(answer))
    }

    async fn ask(&self, ask: Ask, bytes: usize) -> Outcome {
        self.begin(ask, bytes).await?.end().await
    }

    /// Reads `count` blocks from `start` on. A long read is cut into pieces that are under way side by side.
    pub async fn read(&self, start: BlockIndex, count: u64) -> Result<Plain, VolumeError> {
        let size = self
            .root
            .shape()
            .map_or(0, |shape| shape.block_size as usize);
        let per_piece = (PIECE.checked_div(size)).unwrap_or(PIECE) as u64;
        if count > per_piece {
            let shape = self.root.shape().ok_or(VolumeError::Inactive)?;
            shape.check(start, count)?;
        }
        let mut begun = Vec::new();
        let mut done = 0;
        while done < count || begun.is_empty() {
            let piece = per_piece.min(count - done);
            let request = Request::Read {
                start: BlockIndex(start.0.saturating_add(done)),
                count: piece,
            };
            let bytes = usize::try_from(piece)
                .unwrap_or(usize::MAX)
                .saturating_mul(size);
            begun.push((
                done as usize,
                self.begin(Ask::Request(request), bytes).await?,
            ));
            done += piece;
        }
        let mut pieces = Vec::with_capacity(begun.len());
        for (at, begun) in begun {
            match begun.end().await? {
                Answer::Read(plain) => pieces.push((at, plain)),
                other => return Err(unexpected(&other)),
            }
        }
        match pieces.as_mut_slice() {
            [(_, _)] => Ok(pieces.remove(0).1),
            _ if size == 0 => Err(VolumeError::Inactive),
            _ => Ok(join::lay_over(size, count as usize, None, &pieces)),
        }
    }

    /// Writes whole blocks from `start` on. When this returns, every later read sees them; they are durable after
    /// the next flush. `data` is sealed where it is, without a copy.
    pub async fn write(&self, start: BlockIndex, data: BytesMut) -> Result<(), VolumeError> {
        self.write_pieces(start, data, |start, data| Request::Write { start, data })
            .await
    }

    /// Writes those of these blocks that were never written.
    pub async fn write_unwritten(
        &self,
        start: BlockIndex,
        data: BytesMut,
    ) -> Result<(), VolumeError> {
        self.write_pieces(start, data, |start, data| Request::WriteUnwritten {
            start,
            data,
        })
        .await
    }

    /// A long write is cut into pieces. Checked as a whole first, so that none of it is done or all of it.
    async fn write_pieces(
        &self,
        start: BlockIndex,
        mut data: BytesMut,
        request: impl Fn(BlockIndex, BytesMut) -> Request,
    ) -> Result<(), VolumeError> {
        let mut begun = Vec::new();
        let mut at = start;
        if data.len() > PIECE
            && let Some(shape) = self.root.shape()
        {
            shape.check(start, shape.whole_blocks(data.len())?)?;
            while data.len() > PIECE {
                // The largest block divides the length of a piece.
                let piece = data.split_to(PIECE);
                begun.push(self.begin(Ask::Request(request(at, piece)), PIECE).await?);
                at.0 += PIECE as u64 / u64::from(shape.block_size);
            }
        }
        let bytes = data.len();
        begun.push(self.begin(Ask::Request(request(at, data)), bytes).await?);
        for begun in begun {
            begun.end().await?;
        }
        Ok(())
    }

    /// Makes all durable that was written before; with a name, also makes a snapshot of it.
    pub async fn flush(&self, snapshot: Option<String>) -> Result<(), VolumeError> {
        self.ask(Ask::Request(Request::Flush { snapshot }), 0)
            .await
            .map(drop)
    }

    /// Connects, and takes the volume over from whoever has it with a lower generation. `None`: the generation
    /// that the volume was made with.
    pub async fn activate(&self, generation: Option<u64>) -> Result<Shape, VolumeError> {
        let generation = generation.unwrap_or(0);
        self.ask(Ask::Command(Command::Activate { generation }), 0)
            .await?;
        self.root.shape().ok_or(VolumeError::Inactive)
    }

    /// Flushes, and lets go.
    pub async fn deactivate(&self) -> Result<(), VolumeError> {
        self.ask(Ask::Command(Command::Deactivate), 0)
            .await
            .map(drop)
    }

    /// Puts the region server `new` in the place of `old`, and brings it up to date.
    pub async fn replace(
        &self,
        old: SocketAddr,
        new: SocketAddr,
    ) -> Result<ReplaceResult, VolumeError> {
        match self
            .ask(Ask::Command(Command::Replace { old, new }), 0)
            .await?
        {
            Answer::Replace(result) => Ok(result),
            other => Err(unexpected(&other)),
        }
    }

    /// Lets go at once, without a flush. What has no answer yet gets an error.
    pub async fn shut_down(&self) -> Result<(), VolumeError> {
        self.ask(Ask::Command(Command::ShutDown), 0).await.map(drop)
    }

    /// [`Volume::read`], for threads without a runtime.
    pub fn read_blocking(&self, start: BlockIndex, count: u64) -> Result<Plain, VolumeError> {
        block_on(self.read(start, count))
    }

    /// [`Volume::write`], for threads without a runtime.
    pub fn write_blocking(&self, start: BlockIndex, data: BytesMut) -> Result<(), VolumeError> {
        block_on(self.write(start, data))
    }

    /// [`Volume::write_unwritten`], for threads without a runtime.
    pub fn write_unwritten_blocking(
        &self,
        start: BlockIndex,
        data: BytesMut,
    ) -> Result<(), VolumeError> {
        block_on(self.write_unwritten(start, data))
    }

    /// [`Volume::flush`], for threads without a runtime.
    pub fn flush_blocking(&self, snapshot: Option<String>) -> Result<(), VolumeError> {
        block_on(self.flush(snapshot))
    }

    /// [`Volume::activate`], for threads without a runtime.
    pub fn activate_blocking(&self, generation: Option<u64>) -> Result<Shape, VolumeError> {
        block_on(self.activate(generation))
    }

    /// [`Volume::deactivate`], for threads without a runtime.
    pub fn deactivate_blocking(&self) -> Result<(), VolumeError> {
        block_on(self.deactivate())
    }

    /// [`Volume::replace`], for threads without a runtime.
    pub fn replace_blocking(
        &self,
        old: SocketAddr,
        new: SocketAddr,
    ) -> Result<ReplaceResult, VolumeError> {
        block_on(self.replace(old, new))
    }
}

/// A store that answers something else than it was asked has a fault; the request may be made again.
fn unexpected(answer: &Answer) -> VolumeError {
    tracing::error!(?answer, "an answer to another question");
    VolumeError::Full
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}
