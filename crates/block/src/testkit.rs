//! The other side of a disk, for tests and benchmarks: a source that plays the device.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use vm_types::{GuestAddress, GuestMemory};

use crate::request::{Batch, Completion, Operation, Outcome, Request, Segment, Source, Token};

/// One request of a script; its segments go to the arena that the script is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What to do.
    pub operation: Operation,
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes on the disk.
    pub length: u64,
    /// Force unit access.
    pub durable: bool,
}

/// Makes request number `n`, pushing its segments; `None` ends the script.
pub type Script = Box<dyn FnMut(u64, &mut Vec<Segment>) -> Option<Planned> + Send>;

/// A source that works off a script as fast as it is fetched, checks that each request is answered
/// exactly once, and keeps the outcomes.
///
/// The depth is the attachment's. Ring the attachment once to start it.
///
/// ```
/// use block::testkit::ScriptedSource;
/// use block::{AttachOptions, Disk, Operation};
/// use vm_types::{Execution, GuestMemory};
///
/// let disk = Disk::memory(512, 1 << 20)?;
/// let memory = GuestMemory::flat(1 << 20)?;
/// let source = ScriptedSource::sequential(memory, Operation::Read, 4096, 1 << 20, 256);
/// let queue = disk.attach(source.weak(), AttachOptions::new("doc", Execution::Inline, 32))?;
/// queue.kick();
/// assert!(source.finished().iter().all(|outcome| *outcome == block::Outcome::Ok));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ScriptedSource {
    memory: GuestMemory,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    script: Script,
    ended: bool,
    /// One entry for each request handed out.
    outcomes: Vec<Option<Outcome>>,
    answered: usize,
    /// Tokens in order of their answers.
    order: Vec<u32>,
    /// What went against the contract.
    faults: Vec<String>,
}

impl ScriptedSource {
    /// A source over `memory` that follows `script`.
    pub fn new(memory: GuestMemory, script: Script) -> Arc<Self> {
        Arc::new(Self {
            memory,
            state: Mutex::new(State {
                script,
                ended: false,
                outcomes: Vec::new(),
                answered: 0,
                order: Vec::new(),
                faults: Vec::new(),
            }),
            changed: Condvar::new(),
        })
    }

    /// `count` requests of `length` bytes one after the other over `span` bytes of disk, round and
    /// round, each with one segment; guest memory is used from address 0, round and round too.
    pub fn sequential(
        memory: GuestMemory,
        operation: Operation,
        length: u32,
        span: u64,
        count: u64,
    ) -> Arc<Self> {
        Self::with_offsets(memory, operation, length, count, move |n| {
            n % (span / u64::from(length)).max(1)
        })
    }

    /// As [`ScriptedSource::sequential`], at pseudo-random places that are the same in each run.
    pub fn random(
        memory: GuestMemory,
        operation: Operation,
        length: u32,
        span: u64,
        count: u64,
    ) -> Arc<Self> {
        Self::with_offsets(memory, operation, length, count, move |n| {
            // The finaliser of splitmix64: good enough to scatter, and stateless.
            let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (x ^ (x >> 31)) % (span / u64::from(length)).max(1)
        })
    }

    fn with_offsets(
        memory: GuestMemory,
        operation: Operation,
        length: u32,
        count: u64,
        index: impl Fn(u64) -> u64 + Send + 'static,
    ) -> Arc<Self> {
        let bytes: u64 = memory.regions().map(|r| r.length).next().unwrap_or(0);
        let buffers = (bytes / u64::from(length.max(1))).max(1);
        let script = move |n: u64, segments: &mut Vec<Segment>| {
            if n >= count {
                return None;
            }
            if !matches!(
                operation,
                Operation::Flush | Operation::Discard | Operation::Verify
            ) {
                segments.push(Segment {
                    address: GuestAddress((n % buffers) * u64::from(length)),
                    length,
                });
            }
            Some(Planned {
                operation,
                offset: index(n) * u64::from(length),
                length: u64::from(length),
                durable: false,
            })
        };
        Self::new(memory, Box::new(script))
    }

    /// The handle that [`crate::Disk::attach`] takes.
    pub fn weak(self: &Arc<Self>) -> Weak<dyn Source> {
        let weak: Weak<Self> = Arc::downgrade(self);
        weak
    }

    /// Waits until the script has ended and all its requests are answered; whether that came about in
    /// time.
    pub fn wait(&self, within: Duration) -> bool {
        let busy = |state: &mut State| !state.ended || state.answered < state.outcomes.len();
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), within, busy)
            .unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out()
    }

    /// Outcomes of the requests so far, by number; those still in flight are left out at the end only.
    pub fn finished(&self) -> Vec<Outcome> {
        self.lock().outcomes.iter().map_while(|o| *o).collect()
    }

    /// The outcome of each request handed out.
    pub fn outcomes(&self) -> Vec<Option<Outcome>> {
        self.lock().outcomes.clone()
    }

    /// Numbers of the requests in order of their answers.
    pub fn order(&self) -> Vec<u32> {
        self.lock().order.clone()
    }

    /// How many requests have been fetched, and how many answered.
    pub fn progress(&self) -> (usize, usize) {
        let state = self.lock();
        (state.outcomes.len(), state.answered)
    }

    /// What the disk did against its contract: answers to nothing, or twice.
    pub fn faults(&self) -> Vec<String> {
        self.lock().faults.clone()
    }

    /// Wakes `wait` at the end, and only then: waking costs more than a request.
    fn tell(&self, state: MutexGuard<'_, State>) {
        let over = state.ended && state.answered == state.outcomes.len();
        drop(state);
        if over {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Life number of all tokens of a script.
const GENERATION: u32 = 0x5eed;

impl Source for ScriptedSource {
    fn fetch(&self, room: usize, batch: &mut Batch) -> usize {
        let mut state = self.lock();
        let mut fetched = 0;
        while fetched < room && !state.ended {
            let number = state.outcomes.len();
            let first = batch.segments.len() as u32;
            let Some(planned) = (state.script)(number as u64, &mut batch.segments) else {
                state.ended = true;
                break;
            };
            batch.requests.push(Request {
                operation: planned.operation,
                offset: planned.offset,
                length: planned.length,
                durable: planned.durable,
                token: Token {
                    slot: number as u32,
                    generation: GENERATION,
                },
                segments: first..batch.segments.len() as u32,
            });
            state.outcomes.push(None);
            fetched += 1;
        }
        self.tell(state);
        fetched
    }

    fn complete(&self, completions: &[Completion]) {
        let mut state = self.lock();
        for completion in completions {
            let slot = completion.token.slot;
            match state.outcomes.get_mut(slot as usize) {
                Some(place @ None) if completion.token.generation == GENERATION => {
                    *place = Some(completion.outcome);
                    state.answered += 1;
                    state.order.push(slot);
                }
                _ => state
                    .faults
                    .push(format!("unexpected answer {completion:?}")),
            }
        }
        self.tell(state);
    }

    fn memory(&self) -> &GuestMemory {
        &self.memory
    }
}

impl fmt::Debug for ScriptedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (fetched, answered) = self.progress();
        f.debug_struct("ScriptedSource")
            .field("fetched", &fetched)
            .field("answered", &answered)
            .finish_non_exhaustive()
    }
}

/// Turns arbitrary bytes into requests for a small memory disk and runs them inline: for fuzzing.
///
/// Returns how many requests were answered, which is all of them. Panics never; a broken promise shows
/// as a smaller number than was fetched, which callers assert on.
pub fn fuzz_requests(data: &[u8]) -> (usize, usize) {
    const RECORD: usize = 24;
    let (Ok(disk), Ok(memory)) = (
        crate::Disk::memory(512, 1 << 16),
        GuestMemory::flat(1 << 16),
    ) else {
        return (0, 0);
    };
    let records = data.to_vec();
    let script = move |n: u64, segments: &mut Vec<Segment>| {
        let start = usize::try_from(n).ok()?.checked_mul(RECORD)?;
        let mut reader = vm_types::cursor::Reader::new(records.get(start..)?);
        let operation = match reader.u8()? % 7 {
            0 => Operation::Read,
            1 => Operation::Write,
            2 => Operation::Flush,
            3 => Operation::Discard,
            4 => Operation::WriteZeroes { may_unmap: true },
            5 => Operation::Compare,
            _ => Operation::Verify,
        };
        let shape = reader.u8()?;
        let length = u64::from(reader.u16_le()?);
        // Half of the requests are near the truth, so that the fuzzer need not guess sizes.
        let tame = shape & 1 == 0;
        let length = if tame { length & !511 } else { length };
        let offset = reader.u64_le()?;
        let offset = if tame { offset & 0x1fe00 } else { offset };
        let parts = 1 + u32::from(shape >> 1 & 3);
        let mut left = length as u32;
        for part in 0..parts {
            let address = u64::from(reader.u16_le()?) + (u64::from(shape >> 6) << 15);
            let length = if part + 1 == parts { left } else { left / 2 };
            segments.push(Segment {
                address: GuestAddress(address),
                length,
            });
            left -= length;
        }
        Some(Planned {
            operation,
            offset,
            length,
            durable: shape & 8 != 0,
        })
    };
    let source = ScriptedSource::new(memory, Box::new(script));
    let options = crate::AttachOptions::new("fuzz", vm_types::Execution::Inline, 8);
    if let Ok(queue) = disk.attach(source.weak(), options) {
        queue.kick();
        queue.detach();
    }
    source.progress()
}

/// Plays the NBD server to arbitrary bytes, without sockets: for fuzzing. Returns how many requests were
/// understood. Errors: the promise of the protocol's rules that was broken.
pub fn fuzz_nbd(data: &[u8]) -> Result<usize, String> {
    crate::nbd::probe::converse(data)
}
