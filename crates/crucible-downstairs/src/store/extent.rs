//! One extent: its file, its state, and what of it is in memory. Whoever has one has its lock.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use crucible_protocol::layout::{
    ActiveSlots, ExtentLayout, ExtentMetadata, METADATA_LEN, SLOT_LEN, Slot, StoredContext, names,
};
use crucible_protocol::{BlockIndex, CrucibleError, ExtentId, ExtentState, ReadBlockContext};

use super::StoreError;
use super::contexts::{CachedContext, ContextCache};
use super::direct::Placed;
use super::error::io_error;
use super::pending::Pending;
use super::recover::is_zero;
use crate::disk::DiskFile;

/// Generation and flush, in the order in which they count.
pub(super) const fn stamp_of(state: ExtentState) -> (u64, u64) {
    (state.generation, state.flush)
}

/// Blocks of zeros that are stored as a hole from so many bytes on. A shorter one would cut the file into pieces for
/// little gain.
pub(super) const HOLE_BYTES: u64 = 64 << 10;

/// What is written in one go from so many bytes on is a stream, and is not read again soon.
pub(super) const LONG_BYTES: u64 = 256 << 10;

/// Everything there is to know about one extent.
#[derive(Debug)]
pub(super) struct Extent {
    pub(super) id: ExtentId,
    /// As it is in the file, synced or not.
    pub(super) metadata: ExtentMetadata,
    /// The highest generation and flush that the file was ever stamped with, as far as is known.
    pub(super) highest: (u64, u64),
    pub(super) closed: bool,
    /// It should be open, but opening it has failed: who needs it next tries again.
    pub(super) ajar: bool,
    /// Dropped when too many are open.
    pub(super) file: Option<Arc<dyn DiskFile>>,
    /// As it is in the file, and what was placed; dropped with the contexts.
    pub(super) active: Option<ActiveSlots>,
    /// The file's own bitmap cannot be believed and cannot be changed: [`Extent::active`] must stay.
    pub(super) pinned: bool,
    pub(super) contexts: ContextCache,
    pub(super) pending: Pending,
    /// Written to its place since the last commit, without the journal.
    pub(super) placed: Placed,
    /// The file or a record says durably that this extent is dirty: something may be placed.
    pub(super) marked: bool,
    /// What a commit is about to put in place.
    pub(super) committing: Option<Arc<Pending>>,
    /// Blocks that fit neither of their contexts. They cannot be read until they are written.
    pub(super) damaged: BTreeSet<u32>,
    /// Writing the file again from the journal has failed, perhaps in the middle of a block: until it succeeds, only
    /// what waits in memory can be read.
    pub(super) unreadable: bool,
    /// Blocks that read as never written, whatever the file holds; in a read-only region only.
    pub(super) blank: BTreeSet<u32>,
}

impl Extent {
    pub(super) fn new(id: ExtentId, metadata: ExtentMetadata) -> Self {
        Self {
            id,
            metadata,
            highest: stamp_of(metadata.state),
            closed: false,
            ajar: false,
            file: None,
            active: None,
            pinned: false,
            contexts: ContextCache::default(),
            pending: Pending::default(),
            placed: Placed::default(),
            marked: false,
            committing: None,
            damaged: BTreeSet::new(),
            unreadable: false,
            blank: BTreeSet::new(),
        }
    }

    /// What is told to an upstairs.
    ///
    /// An extent with a damaged block says that it is one flush behind: the upstairs chooses the highest as the source
    /// of a repair, so every replica that has that flush without the damage goes before this one, and none that
    /// missed that flush does, unless it missed it by exactly one.
    pub(super) fn state(&self) -> ExtentState {
        let mut state = self.metadata.state;
        state.dirty |= !self.pending.is_empty() || self.committing.is_some();
        if !self.damaged.is_empty() {
            state.dirty = true;
            if state.flush > 0 {
                state.flush -= 1;
            } else {
                state.generation = state.generation.saturating_sub(1);
            }
        }
        state
    }

    /// Whether a flush has anything to do here.
    pub(super) fn needs_flush(&self) -> bool {
        self.metadata.state.dirty || !self.pending.is_empty() || self.committing.is_some()
    }

    pub(super) fn require_open(&self) -> Result<(), CrucibleError> {
        if self.closed {
            return Err(CrucibleError::GenericError(format!(
                "extent {} is closed for repair",
                self.id
            )));
        }
        Ok(())
    }

    /// Whether contexts of these blocks, the bitmap and the file are all at hand.
    pub(super) fn is_ready(&self, first: u32, count: u32, layout: &ExtentLayout) -> bool {
        self.file.is_some()
            && self.active.is_some()
            && self
                .contexts
                .missing(first, count, layout.blocks())
                .is_none()
    }

    /// Reads the bitmap, if it is not there.
    pub(super) fn load_active(&mut self, layout: &ExtentLayout) -> io::Result<&mut ActiveSlots> {
        if self.active.is_none() {
            let file = self.file()?;
            let range = layout.bitmap();
            let mut bytes = vec![0; (range.end - range.start) as usize];
            file.read_at(&mut bytes, range.start)?;
            self.active = ActiveSlots::from_bytes(&bytes, layout.blocks());
            if let Some(active) = &mut self.active {
                self.placed.overlay(active);
            }
        }
        self.active
            .as_mut()
            .ok_or_else(|| io::Error::other("no bitmap"))
    }

    /// Reads what [`Extent::is_ready`] finds missing; the file must be there.
    pub(super) fn load(&mut self, first: u32, count: u32, layout: &ExtentLayout) -> io::Result<()> {
        self.load_active(layout)?;
        while let Some(range) = self.contexts.missing(first, count, layout.blocks()) {
            let contexts = self.read_contexts(&range, layout)?;
            self.contexts.load(&range, contexts);
        }
        Ok(())
    }

    fn read_contexts(
        &self,
        range: &Range<u32>,
        layout: &ExtentLayout,
    ) -> io::Result<Box<[CachedContext]>> {
        let active = self.active.as_ref();
        let a = self.read_slots(Slot::A, range, layout)?;
        let b = self.read_slots(Slot::B, range, layout)?;
        let contexts = range
            .clone()
            .zip(a.iter().zip(b.iter()))
            .map(|(block, (a, b))| {
                if self.blank.contains(&block) {
                    return CachedContext::Empty;
                }
                if *a == [0; SLOT_LEN] && *b == [0; SLOT_LEN] {
                    return CachedContext::Untouched;
                }
                match active.and_then(|active| active.get(block)) {
                    Some(Slot::B) => CachedContext::decode(b),
                    _ => CachedContext::decode(a),
                }
            })
            .collect();
        Ok(contexts)
    }

    /// Whether nothing was ever written to these blocks, as far as that can be told without reading them.
    pub(super) fn is_untouched(
        &self,
        first: u32,
        count: u32,
        layout: &ExtentLayout,
    ) -> io::Result<bool> {
        let special = !self.damaged.is_empty() || !self.blank.is_empty() || self.unreadable;
        if special || !self.pending.is_empty() || self.committing.is_some() {
            return Ok(false);
        }
        let file = self.file()?;
        let places = [
            layout.slots(Slot::A, first, count),
            layout.slots(Slot::B, first, count),
            layout.data(first, count),
        ];
        for place in places {
            let place = place.ok_or_else(out_of_range)?;
            if !file.is_hole(place.start, place.end - place.start)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the slots of a range of blocks.
    pub(super) fn read_slots(
        &self,
        slot: Slot,
        range: &Range<u32>,
        layout: &ExtentLayout,
    ) -> io::Result<Vec<[u8; SLOT_LEN]>> {
        let count = range.end.saturating_sub(range.start);
        let place = layout
            .slots(slot, range.start, count)
            .ok_or_else(out_of_range)?;
        let mut bytes = vec![0; SLOT_LEN * count as usize];
        self.file()?.read_at(&mut bytes, place.start)?;
        let mut slots = Vec::with_capacity(count as usize);
        for chunk in bytes.chunks_exact(SLOT_LEN) {
            let mut slot = [0; SLOT_LEN];
            slot.copy_from_slice(chunk);
            slots.push(slot);
        }
        Ok(slots)
    }

    /// Reads blocks into `into` and appends their contexts. Everything must be ready.
    pub(super) fn read(
        &self,
        first: u32,
        count: u32,
        into: &mut [u8],
        contexts: &mut Vec<ReadBlockContext>,
        layout: &ExtentLayout,
    ) -> Result<(), CrucibleError> {
        self.require_open()?;
        let place = layout
            .data(first, count)
            .ok_or(CrucibleError::OffsetInvalid)?;
        let file = self.file().map_err(|error| io_error("read", &error))?;
        file.read_at(into, place.start)
            .map_err(|error| io_error("read of data", &error))?;
        self.complete(first, count, into, contexts)
    }

    /// The same if nothing has to be waited for; `None` if something has.
    pub(super) fn read_now(
        &self,
        first: u32,
        count: u32,
        into: &mut [u8],
        contexts: &mut Vec<ReadBlockContext>,
        layout: &ExtentLayout,
    ) -> Option<Result<(), CrucibleError>> {
        if self.closed || !self.is_ready(first, count, layout) {
            return None;
        }
        let place = layout.data(first, count)?;
        match self.file().ok()?.read_now(into, place.start) {
            Ok(true) => Some(self.complete(first, count, into, contexts)),
            Ok(false) | Err(_) => None,
        }
    }

    /// Puts what is newer over what the file has, and the contexts beside it.
    fn complete(
        &self,
        first: u32,
        count: u32,
        into: &mut [u8],
        contexts: &mut Vec<ReadBlockContext>,
    ) -> Result<(), CrucibleError> {
        let block_size = into.len() / count.max(1) as usize;
        let overlaid = !self.pending.is_empty() || self.committing.is_some();
        let special = !self.damaged.is_empty() || !self.blank.is_empty();
        for (block, target) in (first..).zip(into.chunks_exact_mut(block_size.max(1))) {
            if overlaid && let Some((stored, data)) = self.waiting(block, block_size) {
                target.copy_from_slice(data);
                contexts.push(stored.context.into());
                continue;
            }
            if self.unreadable {
                return Err(CrucibleError::IoError(format!(
                    "extent {} could not be written again after a disk error",
                    self.id
                )));
            }
            if special {
                if self.damaged.contains(&block) {
                    return Err(CrucibleError::MissingContextSlot {
                        block: BlockIndex(u64::from(block)),
                        extent: self.id,
                    });
                }
                if self.blank.contains(&block) {
                    target.fill(0);
                }
            }
            let context = self
                .contexts
                .get(block)
                .and_then(CachedContext::answer)
                .ok_or_else(|| {
                    CrucibleError::BadContextSlot(format!("block {block} of extent {}", self.id))
                })?;
            contexts.push(context);
        }
        Ok(())
    }

    /// The version of a block that is not in the file yet.
    pub(super) fn waiting(&self, block: u32, block_size: usize) -> Option<(&StoredContext, &[u8])> {
        self.pending.get(block, block_size).or_else(|| {
            self.committing
                .as_ref()
                .and_then(|committing| committing.get(block, block_size))
        })
    }

    /// Whether a block has ever been written. Its context must be ready.
    pub(super) fn is_written(&self, block: u32) -> bool {
        self.pending.contains(block)
            || self
                .committing
                .as_ref()
                .is_some_and(|committing| committing.contains(block))
            || self.damaged.contains(&block)
            || !self
                .contexts
                .get(block)
                .is_some_and(CachedContext::is_empty)
    }

    /// Writes blocks to their place with their contexts, then bitmap and metadata; syncs nothing.
    ///
    /// `blocks` are in ascending order and in `source`. The dirty mark comes first and the contexts before the data,
    /// so that after the end of the process alone (its writes are all in the page cache) the reference, too, finds a
    /// context for each block.
    pub(super) fn apply(
        &mut self,
        blocks: &[u32],
        source: &Pending,
        metadata: ExtentMetadata,
        block_size: usize,
        layout: &ExtentLayout,
    ) -> io::Result<()> {
        let file = Arc::clone(self.file()?);
        let mut active = self.load_active(layout)?.clone();
        if !self.metadata.state.dirty && !blocks.is_empty() {
            file.write_at(&[IoSlice::new(&[1])], layout.metadata().start)?;
        }
        let mut slots: Vec<[u8; SLOT_LEN]> = Vec::with_capacity(blocks.len().min(1024));
        for run in runs(blocks, |block| active.get(block)) {
            let Some(&first) = run.first() else { continue };
            let slot = active.get(first).unwrap_or_default().other();
            slots.clear();
            slots.extend(run.iter().filter_map(|block| {
                let (stored, _) = source.get(*block, block_size)?;
                Some(StoredContext::encode(Some(stored)))
            }));
            let place = layout
                .slots(slot, first, run.len() as u32)
                .ok_or_else(out_of_range)?;
            file.write_at(&[IoSlice::new(slots.as_flattened())], place.start)?;
        }
        // A sealed block is never zero.
        let zero = |block| {
            let found = source.get(block, block_size);
            found.is_some_and(|(_, data)| is_zero(data))
        };
        let mut slices: Vec<IoSlice<'_>> = Vec::new();
        for run in runs(blocks, zero) {
            let Some(&first) = run.first() else { continue };
            let place = layout
                .data(first, run.len() as u32)
                .ok_or_else(out_of_range)?;
            let length = place.end - place.start;
            if length >= HOLE_BYTES && zero(first) && file.punch(place.start, length)? {
                continue;
            }
            slices.clear();
            gather(run, source, block_size, &mut slices);
            if length >= LONG_BYTES {
                file.write_long(&slices, place.start)?;
            } else {
                file.write_at(&slices, place.start)?;
            }
        }
        for block in blocks {
            let slot = active.get(*block).unwrap_or_default();
            active.set(*block, slot.other());
        }
        write_tail(&*file, &active, &metadata, layout)?;
        self.active = Some(active);
        self.metadata = metadata;
        for block in blocks {
            self.damaged.remove(block);
            if let Some((stored, _)) = source.get(*block, block_size) {
                self.contexts.set(*block, CachedContext::new(Some(stored)));
            }
        }
        Ok(())
    }

    pub(super) fn file(&self) -> io::Result<&Arc<dyn DiskFile>> {
        self.file
            .as_ref()
            .ok_or_else(|| io::Error::other("the extent file is not open"))
    }
}

/// Writes bitmap and metadata, which lie behind each other.
pub(super) fn write_tail(
    file: &dyn DiskFile,
    active: &ActiveSlots,
    metadata: &ExtentMetadata,
    layout: &ExtentLayout,
) -> io::Result<()> {
    let metadata = metadata.encode();
    let slices = [IoSlice::new(active.as_bytes()), IoSlice::new(&metadata)];
    file.write_at(&slices, layout.bitmap().start)
}

/// Why an extent file has no metadata.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoMetadata {
    /// The disk has failed: it says nothing about the file.
    #[error("{0}")]
    Io(io::Error),
    /// The file is no extent.
    #[error("{0}")]
    Wrong(String),
}

impl NoMetadata {
    pub(super) fn of_extent(self, extent: ExtentId) -> StoreError {
        match self {
            Self::Io(error) => StoreError::io(names::extent_path(extent))(error),
            Self::Wrong(reason) => StoreError::Extent { extent, reason },
        }
    }
}

/// Reads the metadata of an extent file after checking its length.
pub(super) fn read_metadata(
    file: &dyn DiskFile,
    layout: &ExtentLayout,
) -> Result<ExtentMetadata, NoMetadata> {
    let length = file.length().map_err(NoMetadata::Io)?;
    if length != layout.file_len() {
        return Err(NoMetadata::Wrong(format!(
            "its file has {length} bytes where {} are expected",
            layout.file_len()
        )));
    }
    let mut bytes = [0; METADATA_LEN];
    file.read_at(&mut bytes, layout.metadata().start)
        .map_err(NoMetadata::Io)?;
    ExtentMetadata::decode(&bytes).map_err(|error| NoMetadata::Wrong(error.to_string()))
}

/// The data of these blocks as few slices: neighbours in memory become one.
pub(super) fn gather<'a>(
    blocks: &[u32],
    source: &'a Pending,
    block_size: usize,
    slices: &mut Vec<IoSlice<'a>>,
) {
    let mut held: Option<(usize, &'a [u8])> = None;
    for block in blocks {
        let Some((entry, data)) = source.place(*block, block_size) else {
            continue;
        };
        let longer = held.and_then(|(begin, data)| {
            let count = data.len() / block_size.max(1);
            (begin + count == entry)
                .then(|| source.stretch(begin, count + 1, block_size))?
                .map(|data| (begin, data))
        });
        if longer.is_none()
            && let Some((_, data)) = held
        {
            slices.push(IoSlice::new(data));
        }
        held = longer.or(Some((entry, data)));
    }
    if let Some((_, data)) = held {
        slices.push(IoSlice::new(data));
    }
}

/// Cuts ascending blocks into runs of neighbours of one kind.
pub(super) fn runs<'a, K: PartialEq>(
    blocks: &'a [u32],
    kind: impl Fn(u32) -> K + 'a,
) -> impl Iterator<Item = &'a [u32]> {
    blocks.chunk_by(move |one, next| one.checked_add(1) == Some(*next) && kind(*one) == kind(*next))
}

pub(super) fn out_of_range() -> io::Error {
    io::Error::other("a block beyond its extent")
}
