//! A disk in memory with a volatile cache, that writes down what it is asked to do.

#![expect(
    clippy::unwrap_used,
    reason = "a test driver stops at the first surprise"
)]

use std::sync::{Arc, Mutex};

use block::{
    Backend, Batch, Completion, Disk, DiskInfo, Engine, EngineSetup, Medium, MemoryDisk, Outcome,
    Token,
};
use vm_types::{GuestMemory, GuestSlice};

/// What the disk was asked to do. Offsets and lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A read of this many bytes.
    Read(u64, u64),
    /// A write, durable or not.
    Write(u64, u64, bool),
    /// A flush.
    Flush,
    /// A discard.
    Discard(u64, u64),
    /// Zeroing; the flag says whether the space may be freed.
    Zero(u64, u64, bool),
}

/// The calls so far. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    /// Takes the calls since the last time, oldest first.
    ///
    /// # Panics
    /// If the disk panicked before.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn note(&self, call: Call) {
        self.0.lock().unwrap().push(call);
    }
}

#[derive(Debug)]
struct Recorder {
    inner: MemoryDisk,
    info: DiskInfo,
    calls: Calls,
}

/// A zeroed writable disk that announces a volatile cache, discard and zeroing, and the list of its calls.
///
/// # Panics
/// If the host has no memory.
pub fn recording(block_size: u32, size_bytes: u64) -> (Disk, Calls) {
    let inner = MemoryDisk::new(block_size, size_bytes).unwrap();
    let mut info = DiskInfo::new(block_size, size_bytes);
    info.discard = true;
    info.write_zeroes = true;
    info.volatile_cache = true;
    let calls = Calls::default();
    let recorder = Recorder {
        inner,
        info,
        calls: calls.clone(),
    };
    (Disk::direct(recorder), calls)
}

fn total(slices: &[GuestSlice<'_>]) -> u64 {
    slices.iter().map(|slice| slice.len() as u64).sum()
}

impl Medium for Recorder {
    fn info(&self) -> DiskInfo {
        self.info
    }

    fn read(&self, offset: u64, into: &[GuestSlice<'_>]) -> Result<(), Outcome> {
        self.calls.note(Call::Read(offset, total(into)));
        self.inner.read(offset, into)
    }

    fn write(&self, offset: u64, from: &[GuestSlice<'_>], durable: bool) -> Result<(), Outcome> {
        self.calls.note(Call::Write(offset, total(from), durable));
        self.inner.write(offset, from, durable)
    }

    fn flush(&self) -> Result<(), Outcome> {
        self.calls.note(Call::Flush);
        self.inner.flush()
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Outcome> {
        self.calls.note(Call::Discard(offset, length));
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> Result<(), Outcome> {
        self.calls.note(Call::Zero(offset, length, may_unmap));
        self.inner.write_zeroes(offset, length, may_unmap)
    }
}

/// A disk that answers nothing for ever, and lets go of everything when asked: one in another place that is away.
pub fn hanging(block_size: u32, size_bytes: u64) -> Disk {
    Disk::new(Arc::new(Hanging(DiskInfo::new(block_size, size_bytes))))
}

#[derive(Debug)]
struct Hanging(DiskInfo);

impl Backend for Hanging {
    fn info(&self) -> DiskInfo {
        self.0
    }

    fn engine(&self, _setup: EngineSetup) -> std::io::Result<Box<dyn Engine>> {
        Ok(Box::new(HangingEngine::default()))
    }
}

#[derive(Default)]
struct HangingEngine(Vec<Token>);

impl Engine for HangingEngine {
    fn submit(&mut self, batch: &Batch, _memory: &GuestMemory, _done: &mut Vec<Completion>) {
        self.0.extend(batch.requests.iter().map(|it| it.token));
    }

    fn give_up(&mut self, done: &mut Vec<Completion>) {
        let abandoned = |token| Completion {
            token,
            outcome: Outcome::Abandoned,
        };
        done.extend(self.0.drain(..).map(abandoned));
    }
}
