//! The highest generation that was ever promoted here, kept in a file that the reference ignores: a restart must not
//! let an older upstairs in again.

use std::sync::atomic::Ordering;

use crucible_protocol::CrucibleError;

use super::StoreError;
use super::create::{kind, read_small, rename_synced, write_synced};
use super::inner::Inner;
use crate::disk::Disk;

const FILE: &str = "trivet.generation";
const NEXT_FILE: &str = "trivet.generation.next";

/// 0 when nobody was promoted yet.
pub(super) fn load(disk: &dyn Disk) -> Result<u64, StoreError> {
    if kind(disk, FILE)?.is_none() {
        return Ok(0);
    }
    let bytes = read_small(disk, FILE)?;
    std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| text.trim_end().parse().ok())
        .ok_or_else(|| {
            StoreError::Invalid(format!(
                "{FILE} holds no number; remove it to forget who was promoted last"
            ))
        })
}

impl Inner {
    pub(super) fn note_promotion(&self, generation: u64) -> Result<(), CrucibleError> {
        self.require_writable()?;
        // The log's lock keeps two promotions from being written in the wrong order.
        let log = self.lock_log();
        if generation > self.promoted.load(Ordering::Acquire) {
            write_synced(&*self.disk, NEXT_FILE, format!("{generation}\n").as_bytes())?;
            rename_synced(&*self.disk, NEXT_FILE, FILE)?;
            self.promoted.store(generation, Ordering::Release);
        }
        drop(log);
        Ok(())
    }
}
