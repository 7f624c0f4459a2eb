//! Long runs of blocks that were never written go to their place at once, without the journal. The module above says
//! why that is safe.

use std::io::{self, IoSlice};
use std::sync::{Arc, PoisonError};

use crucible_protocol::CrucibleError;
use crucible_protocol::context::hash;
use crucible_protocol::geometry::ExtentRun;
use crucible_protocol::layout::{ActiveSlots, ExtentLayout, SLOT_LEN, Slot, StoredContext};

use super::commit::Aim;
use super::contexts::CachedContext;
use super::extent::{Extent, HOLE_BYTES, out_of_range};
use super::inner::Inner;
use super::recover::is_zero;

/// Blocks behind each other whose contexts all went into the same of the two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlacedRun {
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) slot: Slot,
}

impl PlacedRun {
    /// The blocks; `None` when there are no such blocks in an extent.
    pub(super) fn blocks(&self, layout: &ExtentLayout) -> Option<std::ops::Range<u32>> {
        let end = self.first.checked_add(self.count)?;
        (end <= layout.blocks()).then_some(self.first..end)
    }
}

/// What is in its place and no record speaks of yet.
#[derive(Debug, Default)]
pub(super) struct Placed {
    runs: Vec<PlacedRun>,
}

impl Placed {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(super) fn runs(&self) -> &[PlacedRun] {
        &self.runs
    }

    pub(super) fn clear(&mut self) {
        self.runs = Vec::new();
    }

    fn add(&mut self, run: PlacedRun) {
        if let Some(last) = self.runs.last_mut()
            && last.slot == run.slot
            && last.first.checked_add(last.count) == Some(run.first)
        {
            last.count += run.count;
        } else {
            self.runs.push(run);
        }
    }

    /// Lets a bitmap say that the blocks are written.
    pub(super) fn overlay(&self, active: &mut ActiveSlots) {
        for run in &self.runs {
            for block in run.first..run.first.saturating_add(run.count) {
                active.set(block, run.slot);
            }
        }
    }
}

/// So many commits of its extent a long run waits for before it goes through the journal itself.
const COMMITS_WAITED_FOR: usize = 4;

impl Inner {
    /// Writes a piece to its place if that may be done; false when it has to wait for a commit instead.
    pub(super) fn write_direct(
        &self,
        run: ExtentRun,
        stored: &[StoredContext],
        data: &[u8],
    ) -> Result<bool, CrucibleError> {
        if data.len() < self.options.direct_bytes {
            return Ok(false);
        }
        for _ in 0..COMMITS_WAITED_FOR {
            // Nobody copies the files just now. Whoever does has the log, so it is not asked for with this held.
            let Ok(gate) = self.direct_gate.try_read() else {
                return Ok(false);
            };
            let mut extent = self.hold(run.extent)?;
            extent.require_open()?;
            let is_stream = self.is_stream(&extent);
            if !is_stream || !self.is_fresh(&mut extent, run) {
                return Ok(false);
            }
            let is_committing = extent.committing.is_some();
            if extent.marked && !is_committing {
                // After an error the blocks may be there in part, which their slots do not say: what waits in memory
                // covers that, and the extent is marked.
                return Ok(self.place(&mut extent, run, stored, data).is_ok());
            }
            drop(extent);
            drop(gate);
            if is_committing {
                // Waiting in memory instead would make the next commit as long as this one.
                drop(self.lock_log());
            } else if self.commit(&[run.extent.0], Aim::Room).is_err() {
                // Whatever goes wrong here goes wrong again where somebody waits for it.
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Whether long runs may be placed in this extent, now or after a commit.
    fn is_stream(&self, extent: &Extent) -> bool {
        let committing = extent.committing.as_ref();
        let waiting =
            extent.pending.bytes() + committing.map_or(0, |committing| committing.bytes());
        extent.marked || waiting >= self.options.direct_after.max(1)
    }

    /// Whether nothing was ever written to these blocks, or tried to.
    fn is_fresh(&self, extent: &mut Extent, run: ExtentRun) -> bool {
        let waiting = |block| {
            extent.pending.contains(block)
                || extent
                    .committing
                    .as_ref()
                    .is_some_and(|committing| committing.contains(block))
                || extent.damaged.contains(&block)
        };
        let mut blocks = run.first..run.first.saturating_add(run.count);
        !blocks.any(waiting)
            && self.ensure(extent, run.first, run.count).is_ok()
            && blocks_of(run)
                .all(|block| extent.contexts.get(block) == Some(CachedContext::Untouched))
    }

    fn place(
        &self,
        extent: &mut Extent,
        run: ExtentRun,
        stored: &[StoredContext],
        data: &[u8],
    ) -> io::Result<()> {
        self.ensure_file(extent)?;
        let file = Arc::clone(extent.file()?);
        let flush_id = extent.metadata.state.flush as u16;
        let active = extent.load_active(&self.layout)?;
        let mut runs = Placed::default();
        for block in blocks_of(run) {
            runs.add(PlacedRun {
                first: block,
                count: 1,
                slot: active.get(block).unwrap_or_default().other(),
            });
        }
        let slots: Vec<[u8; SLOT_LEN]> = stored
            .iter()
            .map(|stored| {
                StoredContext::encode(Some(&StoredContext {
                    flush_id,
                    ..*stored
                }))
            })
            .collect();
        // Contexts before data, as always.
        for part in runs.runs() {
            let place = self
                .layout
                .slots(part.slot, part.first, part.count)
                .ok_or_else(out_of_range)?;
            let begin = (part.first - run.first) as usize;
            let slots = slots
                .get(begin..begin + part.count as usize)
                .ok_or_else(out_of_range)?;
            file.write_at(&[IoSlice::new(slots.as_flattened())], place.start)?;
        }
        let place = self
            .layout
            .data(run.first, run.count)
            .ok_or_else(out_of_range)?;
        let is_hole = data.len() as u64 >= HOLE_BYTES
            && is_zero(data)
            && file.punch(place.start, place.end - place.start)?;
        if !is_hole {
            file.write_long(&[IoSlice::new(data)], place.start)?;
        }
        for part in runs.runs() {
            extent.placed.add(*part);
        }
        if let Some(active) = &mut extent.active {
            runs.overlay(active);
        }
        for (block, stored) in blocks_of(run).zip(stored) {
            extent.contexts.set(block, CachedContext::new(Some(stored)));
        }
        Ok(())
    }

    /// After a sync that failed, the system may have dropped what was placed, or may yet: what can still be read is
    /// written once more, and what cannot is damaged.
    pub(super) fn place_again(&self, extent: &mut Extent) -> io::Result<()> {
        if extent.placed.is_empty() {
            return Ok(());
        }
        self.ensure_file(extent)?;
        let file = Arc::clone(extent.file()?);
        let mut data = vec![0; self.block_size()];
        for run in extent.placed.runs() {
            for block in run.blocks(&self.layout).ok_or_else(out_of_range)? {
                let (Some(slot_at), Some(data_at)) = (
                    self.layout.slots(run.slot, block, 1),
                    self.layout.data(block, 1),
                ) else {
                    return Err(out_of_range());
                };
                let mut slot = [0; SLOT_LEN];
                file.read_at(&mut slot, slot_at.start)?;
                file.read_at(&mut data, data_at.start)?;
                let fits = matches!(
                    StoredContext::decode(&slot),
                    Ok(Some(stored)) if stored.on_disk_hash == hash(&data)
                );
                if !fits {
                    extent.damaged.insert(block);
                    continue;
                }
                file.write_at(&[IoSlice::new(&slot)], slot_at.start)?;
                file.write_at(&[IoSlice::new(&data)], data_at.start)?;
            }
        }
        Ok(())
    }

    /// Keeps everybody from writing in place for as long as the answer lives; what is written meanwhile waits in
    /// memory.
    pub(super) fn hold_direct(&self) -> std::sync::RwLockWriteGuard<'_, ()> {
        self.direct_gate
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn blocks_of(run: ExtentRun) -> std::ops::Range<u32> {
    run.first..run.first.saturating_add(run.count)
}
