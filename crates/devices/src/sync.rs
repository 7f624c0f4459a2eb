//! The one way in which platform devices take their locks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A device's own state. A panic elsewhere in the process is no reason to panic here too: every change
/// under these locks is complete when it is visible.
pub(crate) fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
