//! Closing extents for repair, and opening them again.

use crucible_protocol::layout::names;
use crucible_protocol::{CrucibleError, ExtentId, ExtentState};

use super::commit::Aim;
use super::error::io_error;
use super::extent::{Extent, read_metadata, stamp_of};
use super::inner::Inner;
use super::open::load_dirty;
use super::region::Mode;
use super::{StoreError, replace};

impl Inner {
    /// Closes an extent whose file then has everything, durably, and which the journal no longer speaks of.
    pub(super) fn close(&self, id: ExtentId, aim: Aim) -> Result<ExtentState, CrucibleError> {
        // What is known of it may be of another file than it has now.
        self.open_again(id)?;
        if self.mode == Mode::ReadOnly {
            let mut extent = self.hold(id)?;
            extent.closed = true;
            return Ok(extent.state());
        }
        let mut log = self.lock_log();
        let was_closed = {
            let mut extent = self.hold(id)?;
            // Nothing new comes in while what is there is written out.
            std::mem::replace(&mut extent.closed, true)
        };
        let settled = self.commit_held(&mut log, &[id.0], aim).and_then(|()| {
            self.settle_extent(&mut log, id)
                .map_err(|error| io_error("sync of an extent", &error))
        });
        let mut extent = self.hold(id)?;
        if let Err(error) = settled {
            extent.closed = was_closed;
            return Err(error);
        }
        self.release(&mut extent);
        Ok(extent.state())
    }

    /// Opens a closed extent from its file, which may be another one than before. When that fails, the next job that
    /// needs the extent tries again: the peer may have been told before that it is open, or may never ask again.
    pub(super) fn reopen(&self, id: ExtentId) -> Result<(), CrucibleError> {
        let mut extent = self.hold(id)?;
        if !extent.closed {
            return Ok(());
        }
        let opened = self.open_held(&mut extent);
        extent.ajar = opened.is_err();
        extent.closed = opened.is_err();
        opened
    }

    /// Opens an extent whose opening has failed before.
    pub(super) fn open_again(&self, id: ExtentId) -> Result<(), CrucibleError> {
        if self.look(id)?.ajar {
            self.reopen(id)?;
        }
        Ok(())
    }

    fn open_held(&self, extent: &mut Extent) -> Result<(), CrucibleError> {
        let id = extent.id;
        self.release(extent);
        // A replacement that failed half-way is finished first.
        replace::recover(&*self.disk, id, self.mode, &self.geometry)?;
        let failed = |error: std::io::Error| StoreError::io(names::extent_path(id))(error);
        self.ensure_file(extent).map_err(failed)?;
        let metadata = {
            let file = extent.file().map_err(failed)?;
            read_metadata(&**file, &self.layout).map_err(|error| error.of_extent(id))?
        };
        extent.pinned = false;
        extent.active = None;
        extent.metadata = metadata;
        extent.highest = stamp_of(metadata.state);
        extent.damaged.clear();
        extent.blank.clear();
        extent.placed.clear();
        extent.marked = false;
        if metadata.state.dirty {
            load_dirty(self, extent).map_err(failed)?;
        }
        let mut dirty = self.lock_dirty();
        if extent.needs_flush() {
            dirty.insert(id.0);
        } else {
            dirty.remove(&id.0);
        }
        Ok(())
    }

    /// Commits what waits and empties the journal.
    pub(super) fn settle(&self) -> Result<(), CrucibleError> {
        self.require_writable()?;
        let dirty: Vec<u32> = self.lock_dirty().iter().copied().collect();
        let mut log = self.lock_log();
        self.commit_held(&mut log, &dirty, Aim::Rest)?;
        self.settle_held(&mut log)
            .map_err(|error| io_error("sync of the region", &error))
    }
}
