//! Gathers a guest's characters, so that the outside is called once for many.

use std::sync::{Arc, Mutex, Weak};

use vm_types::{Clock, Span, Task, Timer, Timers};

use super::SerialPeer;
use crate::sync::lock;

/// Characters that are gathered at most.
const CAPACITY: usize = 512;

/// How long the first of them waits at most.
const PATIENCE: Span = Span::from_millis(1);

/// Output on its way to a peer: full or a millisecond old, it goes.
pub struct Batch {
    peer: Arc<dyn SerialPeer>,
    clock: Clock,
    timer: Timer,
    gathered: Mutex<Vec<u8>>,
}

impl Batch {
    /// An empty batch for `peer`.
    pub fn new(peer: Arc<dyn SerialPeer>, clock: Clock, timers: &Timers) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            peer,
            clock,
            timer: timers.register(this.clone()),
            gathered: Mutex::new(Vec::with_capacity(CAPACITY)),
        })
    }

    /// Adds one character.
    pub fn push(&self, byte: u8) {
        let mut gathered = lock(&self.gathered);
        gathered.push(byte);
        match gathered.len() {
            1 => self.timer.arm(self.clock.now().after(PATIENCE)),
            // The lock is held over the call, so that characters stay in order.
            CAPACITY.. => self.send(&mut gathered),
            _ => {}
        }
    }

    /// Sends what there is.
    pub fn flush(&self) {
        let mut gathered = lock(&self.gathered);
        self.timer.disarm();
        self.send(&mut gathered);
    }

    /// The peer, for what is not output.
    pub fn peer(&self) -> &dyn SerialPeer {
        &*self.peer
    }

    fn send(&self, gathered: &mut Vec<u8>) {
        if !gathered.is_empty() {
            self.peer.write(gathered);
            gathered.clear();
        }
    }
}

impl Task for Batch {
    fn run(&self) {
        self.flush();
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.flush();
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A peer that remembers, one entry a call.
    #[derive(Default)]
    pub(crate) struct Heard {
        pub(crate) calls: Mutex<Vec<Vec<u8>>>,
        pub(crate) wanted: Mutex<u32>,
    }

    impl SerialPeer for Heard {
        fn write(&self, bytes: &[u8]) {
            lock(&self.calls).push(bytes.to_vec());
        }
        fn input_wanted(&self) {
            *lock(&self.wanted) += 1;
        }
    }

    #[test]
    fn characters_go_together_when_the_first_is_old_enough() {
        let (clock, hand) = Clock::manual();
        let (timers, heard) = (Timers::new(), Arc::new(Heard::default()));
        let batch = Batch::new(heard.clone(), clock.clone(), &timers);
        batch.push(b'a');
        hand.advance(Span::from_micros(900));
        batch.push(b'b');
        timers.fire_due(clock.now());
        assert!(lock(&heard.calls).is_empty());
        hand.advance(Span::from_micros(100));
        timers.fire_due(clock.now());
        assert_eq!(*lock(&heard.calls), [b"ab"]);
    }

    #[test]
    fn a_full_batch_goes_at_once_and_the_rest_at_the_end() {
        let (clock, _) = Clock::manual();
        let (timers, heard) = (Timers::new(), Arc::new(Heard::default()));
        let batch = Batch::new(heard.clone(), clock, &timers);
        for _ in 0..CAPACITY + 1 {
            batch.push(b'x');
        }
        assert_eq!(lock(&heard.calls)[0].len(), CAPACITY);
        drop(batch);
        assert_eq!(lock(&heard.calls)[1], b"x");
    }
}
