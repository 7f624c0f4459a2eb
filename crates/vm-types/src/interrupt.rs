//! Interrupt handles: level-triggered lines and message-signalled interrupts.
//!
//! A device holds one of these and knows nothing of the chip that listens.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::memory::Gate;

/// The listening side of a set of interrupt lines.
///
/// Several devices may share a pin. Each [`IrqLine`] calls `raise` and `lower` in turn, beginning with
/// `raise`; the sink counts, and the pin is high while the count is above zero.
pub trait IrqSink: Send + Sync {
    /// One more source asserts `pin`.
    fn raise(&self, pin: u32);
    /// One source less asserts `pin`.
    fn lower(&self, pin: u32);
}

/// One source on one interrupt pin. Clones share the level.
#[derive(Clone)]
pub struct IrqLine(Arc<Line>);

struct Line {
    sink: Option<Arc<dyn IrqSink>>,
    pin: u32,
    level: AtomicBool,
}

impl IrqLine {
    /// A line into `pin` of `sink`, low at first.
    pub fn new(sink: Arc<dyn IrqSink>, pin: u32) -> Self {
        Self(Arc::new(Line {
            sink: Some(sink),
            pin,
            level: AtomicBool::new(false),
        }))
    }

    /// A line that nobody listens to; its level can still be read.
    pub fn unconnected() -> Self {
        Self(Arc::new(Line {
            sink: None,
            pin: 0,
            level: AtomicBool::new(false),
        }))
    }

    /// Drives the line high (`true`) or low. Only changes are passed on.
    pub fn set(&self, level: bool) {
        if self.0.level.swap(level, Ordering::SeqCst) != level
            && let Some(sink) = &self.0.sink
        {
            if level {
                sink.raise(self.0.pin)
            } else {
                sink.lower(self.0.pin)
            }
        }
    }

    /// Low, high and low again: one edge.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }

    /// The level that this source drives.
    pub fn level(&self) -> bool {
        self.0.level.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IrqLine")
            .field("pin", &self.0.pin)
            .field("level", &self.level())
            .finish()
    }
}

/// One message-signalled interrupt: a write of `data` to `address` in the interrupt range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MsiMessage {
    /// Where the write goes; `0xFEEx_xxxx` on a PC.
    pub address: u64,
    /// The 32 bits written: vector, delivery mode, trigger.
    pub data: u32,
}

/// Takes messages to the interrupt controllers. May be gated (bus master off), then it drops them.
#[derive(Clone)]
pub struct MsiSink {
    deliver: Arc<dyn Fn(MsiMessage) + Send + Sync>,
    /// All of them must be open.
    gates: Arc<[Gate]>,
}

impl MsiSink {
    /// A sink that calls `deliver` for each message, on the sender's thread.
    pub fn new(deliver: Arc<dyn Fn(MsiMessage) + Send + Sync>) -> Self {
        Self {
            deliver,
            gates: Arc::default(),
        }
    }

    /// A sink that drops everything.
    pub fn unconnected() -> Self {
        Self::new(Arc::new(|_| {}))
    }

    /// A sink for tests, and the list of what it was sent.
    pub fn recording() -> (Self, RecordedMessages) {
        let record = RecordedMessages::default();
        let sink = {
            let record = record.clone();
            Self::new(Arc::new(move |message| {
                record
                    .0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(message);
            }))
        };
        (sink, record)
    }

    /// The same sink behind `gate` as well: messages are dropped while it, or one before it, is closed.
    #[must_use]
    pub fn gated(&self, gate: &Gate) -> Self {
        Self {
            deliver: self.deliver.clone(),
            gates: Gate::also(&self.gates, gate),
        }
    }

    /// Sends one message, unless the gate is closed.
    pub fn send(&self, message: MsiMessage) {
        if self.gates.iter().all(Gate::is_open) {
            (self.deliver)(message);
        }
    }
}

impl fmt::Debug for MsiSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MsiSink")
            .field("gates", &self.gates)
            .finish_non_exhaustive()
    }
}

/// What a recording [`MsiSink`] has been sent.
#[derive(Clone, Debug, Default)]
pub struct RecordedMessages(Arc<Mutex<Vec<MsiMessage>>>);

impl RecordedMessages {
    /// Takes the messages so far, oldest first.
    pub fn take(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Edges(Mutex<Vec<(u32, bool)>>);
    impl IrqSink for Edges {
        fn raise(&self, pin: u32) {
            self.0.lock().unwrap().push((pin, true));
        }
        fn lower(&self, pin: u32) {
            self.0.lock().unwrap().push((pin, false));
        }
    }

    #[test]
    fn only_changes_of_level_are_passed_on() {
        let edges = Arc::new(Edges::default());
        let line = IrqLine::new(edges.clone(), 4);
        line.set(false);
        let clone = line.clone();
        line.set(true);
        clone.set(true);
        line.set(false);
        assert_eq!(*edges.0.lock().unwrap(), [(4, true), (4, false)]);
    }

    #[test]
    fn a_closed_gate_drops_messages() {
        let (sink, record) = MsiSink::recording();
        let gate = Gate::open();
        let sink = sink.gated(&gate);
        let message = MsiMessage {
            address: 0xfee0_0000,
            data: 0x31,
        };
        sink.send(message);
        gate.set(false);
        sink.send(message);
        assert_eq!(record.take(), [message]);
    }
}
