//! A wire by which a device tells the machine that something is to happen: reset, power off.

use std::fmt;
use std::sync::Arc;

/// A handle that a device fires. Firing must not block; the machine acts on it elsewhere.
#[derive(Clone)]
pub struct Signal(Arc<dyn Fn() + Send + Sync>);

impl Signal {
    /// A signal that calls `action` each time.
    pub fn new(action: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(action))
    }

    /// A signal that nobody hears.
    pub fn unconnected() -> Self {
        Self::new(|| {})
    }

    /// Tells the other end.
    pub fn fire(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signal").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A signal that counts, and its count.
    pub(crate) fn counting() -> (Signal, Arc<AtomicU32>) {
        let count = Arc::new(AtomicU32::new(0));
        let seen = count.clone();
        let signal = Signal::new(move || {
            seen.fetch_add(1, Ordering::SeqCst);
        });
        (signal, count)
    }

    #[test]
    fn each_fire_is_heard() {
        let (signal, count) = counting();
        let other = signal.clone();
        signal.fire();
        other.fire();
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }
}
