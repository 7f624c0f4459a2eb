//! Copying a read-only parent into the volume above it, until nothing shows through any more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use crucible_protocol::BlockIndex;

use super::Volume;
use super::composite::{Composite, Parent};
use crate::core::{Command, Plain, Request, VolumeError};
use crate::store::{Ask, Outcome, Reply, Store, Submission};

/// Bytes that are copied at a time.
const STEP_BYTES: u64 = 128 << 10;
/// Attempts to read one step of the parent.
const ATTEMPTS: u32 = 5;
/// Between two attempts, and while the last reads of the parent come in.
const PAUSE: Duration = Duration::from_millis(100);

/// How a scrub goes about its work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Before the first step.
    pub delay: Duration,
    /// After each step, so that guests are not held up.
    pub pause: Duration,
}

/// How far a scrub is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubProgress {
    /// Blocks that were copied, or found written.
    pub done: u64,
    /// Blocks of the parent that lie below the volume.
    pub total: u64,
}

impl Volume {
    /// Copies what the read-only parent holds into blocks that were never written, then flushes and lets the
    /// parent go. Without a parent there is nothing to do. May be broken off at any time; the next one begins anew,
    /// and finds most of it written.
    pub async fn scrub(
        &self,
        options: ScrubOptions,
        mut progress: impl FnMut(ScrubProgress),
    ) -> Result<(), VolumeError> {
        let Some((composite, parent)) = self
            .composite
            .as_ref()
            .and_then(|composite| Some((composite, composite.parent()?)))
        else {
            return Ok(());
        };
        tokio::time::sleep(options.delay).await;
        let shape = composite.shape().ok_or(VolumeError::Inactive)?;
        let blocks = parent.store.shape().ok_or(VolumeError::Inactive)?.blocks;
        let total = blocks.min(shape.blocks);
        let step = (STEP_BYTES / u64::from(shape.block_size)).max(1);
        let mut done = parent.copied.load(Ordering::SeqCst).min(total);
        while done < total {
            let count = step.min(total - done);
            let plain = read_patiently(parent, BlockIndex(done), count).await?;
            self.copy(BlockIndex(done), &plain, shape.block_size as usize)
                .await?;
            done += count;
            parent.copied.store(done, Ordering::SeqCst);
            progress(ScrubProgress { done, total });
            if !options.pause.is_zero() {
                tokio::time::sleep(options.pause).await;
            }
        }
        self.flush(None).await?;
        // No new read asks the parent now; those that did are waited for.
        parent.copied.store(u64::MAX, Ordering::SeqCst);
        while parent.reading.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        ask(&*parent.store, Ask::Command(Command::Deactivate)).await?;
        Ok(())
    }

    /// Writes what the parent has, run by run: what it never had written stays unwritten.
    async fn copy(&self, start: BlockIndex, plain: &Plain, size: usize) -> Result<(), VolumeError> {
        let count = plain.data.len() / size;
        let mut at = 0;
        while at < count {
            let end = (at..count)
                .find(|index| plain.written.has(*index) != plain.written.has(at))
                .unwrap_or(count);
            if plain.written.has(at) {
                let data = BytesMut::from(&plain.data[at * size..end * size]);
                self.write_unwritten(BlockIndex(start.0 + at as u64), data)
                    .await?;
            }
            at = end;
        }
        Ok(())
    }
}

impl Composite {
    /// Blocks of the parent that have been copied, and how many there are; `None` without a parent.
    pub fn copied(&self) -> Option<ScrubProgress> {
        let parent = self.parent()?;
        let total = parent.store.shape()?.blocks;
        let done = parent.copied.load(Ordering::SeqCst).min(total);
        Some(ScrubProgress { done, total })
    }
}

async fn read_patiently(
    parent: &Arc<Parent>,
    start: BlockIndex,
    count: u64,
) -> Result<Plain, VolumeError> {
    let mut attempt = 1;
    loop {
        let read = Ask::Request(Request::Read { start, count });
        match ask(&*parent.store, read).await {
            Ok(crate::core::Answer::Read(plain)) => return Ok(plain),
            Ok(other) => return Err(super::unexpected(&other)),
            Err(error) if attempt >= ATTEMPTS => return Err(error),
            Err(error) => tracing::warn!(%error, attempt, "scrub: the parent cannot be read"),
        }
        attempt += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(store: &dyn Store, ask: Ask) -> Outcome {
    let (reply, answer) = Reply::channel(None);
    store.submit(&mut vec![Submission { ask, reply }]);
    answer.await.unwrap_or(Err(VolumeError::ShutDown))
}
