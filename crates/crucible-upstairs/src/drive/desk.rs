//! Where the driver lies, for whoever takes a turn: mostly the thread of the region, which the runtime wakes; but also
//! the thread that hands a single request over while that one is asleep.
//!
//! Waking a thread takes longer than such a turn does. Who asks for one read, or for one flush, will wait for it anyway,
//! and takes the whole turn. Who asks for one small write has its answer before anything is sent, so that thread decides
//! and seals, and the other one sends. Of many requests at once the other thread takes its part.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;

use super::driver::Driver;
use crate::core::Request;
use crate::crypt::INLINE_BYTES;
use crate::store::{Ask, Submission};

/// Most rounds of a turn of the region's thread, before the runtime has its turn.
const ROUNDS_MAX: usize = 32;
/// Most rounds of a turn of another thread: one for its request, one to find that there is nothing more.
const ROUNDS_OF_CALLER: usize = 2;

/// How much of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    Nothing,
    /// All but what concerns sockets.
    Beginning,
    All,
}

/// The driver, for one thread at a time.
pub(super) struct Desk {
    /// Not here during a turn: should that panic, the driver goes, and all who wait for it hear of that.
    driver: Mutex<Option<Box<Driver>>>,
    runtime: Handle,
}

impl Desk {
    /// `runtime`: where the driver's sockets and timers live.
    pub(super) fn new(driver: Driver, runtime: Handle) -> Self {
        Self {
            driver: Mutex::new(Some(Box::new(driver))),
            runtime,
        }
    }

    /// What of the turn for this is better done at once, by the thread that asks.
    pub(super) fn share_of_caller(batch: &[Submission]) -> Share {
        let [one] = batch else { return Share::Nothing };
        match &one.ask {
            Ask::Request(Request::Read { .. } | Request::Flush { .. }) => Share::All,
            Ask::Request(Request::Write { data, .. }) if data.len() <= INLINE_BYTES => {
                Share::Beginning
            }
            _ => Share::Nothing,
        }
    }

    /// This much of a turn on the calling thread, in place of the thread that `sleeper` wakes. That one is woken if this
    /// cannot be, or if more is to be done.
    pub(super) fn take_turn(&self, share: Share, sleeper: &Waker) {
        if share == Share::Nothing {
            return sleeper.wake_by_ref();
        }
        let mut place = match self.driver.try_lock() {
            Ok(place) => place,
            Err(TryLockError::Poisoned(place)) => place.into_inner(),
            Err(TryLockError::WouldBlock) => return sleeper.wake_by_ref(),
        };
        let Some(mut driver) = place.take() else {
            return;
        };
        let mut other = WakesWhenDropped(Some(sleeper));
        let _runtime = self.runtime.enter();
        let mut cx = Context::from_waker(sleeper);
        if share == Share::Beginning {
            driver.begin(&cx);
        } else if driver.turn(ROUNDS_OF_CALLER, &mut cx).is_pending() {
            other.0 = None;
        }
        *place = Some(driver);
    }
}

/// Turns on the thread of the region, until the last one.
pub(super) struct Turns(pub(super) Arc<Desk>);

impl Future for Turns {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut place = self.0.driver.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut driver) = place.take() else {
            return Poll::Ready(());
        };
        if driver.turn(ROUNDS_MAX, cx).is_pending() {
            *place = Some(driver);
            return Poll::Pending;
        }
        drop(place);
        // All that is left gets its answer as it goes.
        drop(driver);
        Poll::Ready(())
    }
}

/// The other thread is to see what became of the driver.
struct WakesWhenDropped<'a>(Option<&'a Waker>);

impl Drop for WakesWhenDropped<'_> {
    fn drop(&mut self) {
        if let Some(waker) = self.0 {
            waker.wake_by_ref();
        }
    }
}
