//! Whether a copy of an extent may take the place of what is here.
//!
//! A source may have let blocks go bad. In a clean extent nobody would look for them again, so a copy with such a
//! block is refused. In a dirty one they are found when it is opened, and their server says so; it may be that it is
//! all there is of the extent. So of a dirty extent:
//!
//! * A bad block is taken when this region has nothing better for it: its own is bad too, or was never written.
//! * Otherwise the copy is refused, so that the upstairs asks another replica. What is here is older, and must not be
//!   given out as if it were not; but as long as somebody may have the block, nothing is put over it.
//! * Who is offered the same bad blocks for more than [`REFUSALS_MAX`] times is told that there is nobody else. Then
//!   one block is lost, and all others have one copy more; without that, the repair would begin anew for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::{Arc, PoisonError};

use crucible_protocol::context::hash;
use crucible_protocol::layout::names;
use crucible_protocol::{CrucibleError, ExtentId};

use super::error::io_error;
use super::extent::{Extent, NoMetadata, read_metadata};
use super::inner::Inner;
use super::recover::{first_misfit, is_good, recover_dirty};
use crate::disk::{Access, DiskFile};

/// So often a dirty copy is refused. An upstairs believes that a source is bad after the second time, and then asks
/// the others; it may have been started anew in between.
const REFUSALS_MAX: u32 = 3;

/// What was refused of each extent: the bad blocks (a hash of their numbers), and how often.
#[derive(Debug, Default)]
pub(super) struct Refusals(BTreeMap<u32, (u64, u32)>);

impl Refusals {
    /// Notes that a copy with these bad blocks is here. False when it was refused often enough.
    fn refuse(&mut self, extent: ExtentId, bad: &BTreeSet<u32>) -> bool {
        let numbers: Vec<[u8; 4]> = bad.iter().map(|block| block.to_le_bytes()).collect();
        let which = hash(numbers.as_flattened());
        let known = self.0.entry(extent.0).or_insert((which, 0));
        if known.0 != which {
            *known = (which, 0);
        }
        known.1 += 1;
        known.1 <= REFUSALS_MAX
    }
}

impl Inner {
    /// Refuses a copy of an extent: `RepairFilesInvalid` when it is none or bad, `IoError` when it cannot be read here.
    /// The extent must be closed.
    pub(super) fn vet(&self, id: ExtentId, file: Arc<dyn DiskFile>) -> Result<(), CrucibleError> {
        let failed = |error: io::Error| io_error("read of the copy", &error);
        let metadata = read_metadata(&*file, &self.layout).map_err(|error| match error {
            NoMetadata::Io(error) => failed(error),
            NoMetadata::Wrong(reason) => CrucibleError::RepairFilesInvalid(reason),
        })?;
        let mut copy = Extent::new(id, metadata);
        copy.file = Some(file);
        let misfit = if metadata.state.dirty {
            let found = recover_dirty(&copy, &self.geometry, &self.layout).map_err(failed)?;
            let bad = [found.damaged, found.blank, found.unsound];
            let bad = bad.into_iter().flatten().collect();
            self.first_loss(id, &bad)
                .map_err(|error| io_error("read of what is to be replaced", &error))?
        } else {
            first_misfit(&mut copy, &self.geometry, &self.layout).map_err(failed)?
        };
        match misfit {
            None => {
                self.lock_refusals().0.remove(&id.0);
                Ok(())
            }
            Some(block) => Err(CrucibleError::RepairFilesInvalid(format!(
                "block {block} of extent {id} is not what its context says: the source has a bad copy"
            ))),
        }
    }

    /// The first of these blocks that is worth more here, unless they were refused too often.
    fn first_loss(&self, id: ExtentId, bad: &BTreeSet<u32>) -> io::Result<Option<u32>> {
        if bad.is_empty() {
            return Ok(None);
        }
        let mut own = match self.disk.open(&names::extent_path(id), Access::Read) {
            Ok(file) => {
                let metadata = match read_metadata(&*file, &self.layout) {
                    Ok(metadata) => metadata,
                    Err(NoMetadata::Io(error)) => return Err(error),
                    Err(NoMetadata::Wrong(_)) => return Ok(None),
                };
                let mut own = Extent::new(id, metadata);
                own.file = Some(file);
                own
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        for block in bad {
            if is_good(&mut own, *block, &self.geometry, &self.layout)? {
                let refused = self.lock_refusals().refuse(id, bad);
                return Ok(refused.then_some(*block));
            }
        }
        Ok(None)
    }

    fn lock_refusals(&self) -> std::sync::MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bad_blocks_are_refused_three_times_and_others_anew() {
        let mut refusals = Refusals::default();
        let (one, two) = (BTreeSet::from([5]), BTreeSet::from([5, 6]));
        for bad in [&one, &two, &one] {
            for _ in 0..REFUSALS_MAX {
                assert!(refusals.refuse(ExtentId(0), bad));
            }
            assert!(refusals.refuse(ExtentId(1), bad));
            assert!(!refusals.refuse(ExtentId(0), bad));
        }
    }
}
