//! The host processor as the reference: a child process that runs cases and reports how each one ended.
//!
//! The child needs no debugger interface. It loads a state and enters it with IRETQ; whatever exception ends the
//! run (the INT3 behind the code, the trap flag, a fault) comes back as a signal whose frame holds the complete
//! state with vector, error code and CR2. Cases and outcomes lie in memory that both processes share, a batch at
//! a time, so that a case costs a few microseconds and no copies through the kernel.

mod child;
mod enter;

use crate::layout::{CODE_LEN, DATA_LEN};
use crate::state::{Case, Outcome};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Most cases of one batch.
pub(crate) const BATCH: usize = 64;
/// How many patterns for the data window exist.
pub(crate) const PATTERNS: usize = 16;
/// A batch that takes longer hangs in one of its cases.
const PATIENCE_MS: i32 = 2000;

/// What parent and child both see. Only one of them runs at any time: the pipes hand it over.
#[repr(C, align(4096))]
struct Shared {
    code: [u8; CODE_LEN as usize],
    data: [u8; DATA_LEN as usize],
    patterns: [[u8; DATA_LEN as usize]; PATTERNS],
    /// The data before the current run.
    before: [u8; DATA_LEN as usize],
    count: u32,
    current: AtomicU32,
    cases: [Case; BATCH],
    outcomes: [Outcome; BATCH],
}

/// How the native run of a case ended.
pub(crate) enum Native<'a> {
    /// With an exception.
    Ended(&'a Outcome),
    /// Not at all within the time a batch may take, or the child died of it: a case of no use.
    Lost,
}

/// The running child. It dies with the thread that made it.
pub(crate) struct Host {
    shared: NonNull<Shared>,
    memory: i32,
    child: Option<child::Child>,
    lost: [bool; BATCH],
}

impl Host {
    /// Starts a child.
    ///
    /// # Errors
    /// Whatever the host refuses: shared memory, fixed mappings, FSGSBASE.
    pub(crate) fn start(patterns: &[[u8; DATA_LEN as usize]; PATTERNS]) -> io::Result<Self> {
        if !fsgsbase_usable() {
            return Err(io::Error::other(
                "this host does not let programs write FS and GS bases",
            ));
        }
        let memory = child::memory_file(size_of::<Shared>())?;
        let shared = child::map_shared(memory, size_of::<Shared>())?.cast::<Shared>();
        let mut host = Self {
            shared,
            memory,
            child: None,
            lost: [false; BATCH],
        };
        host.shared_mut().patterns.copy_from_slice(patterns);
        host.child = Some(child::Child::start(host.shared, memory)?);
        // One batch of a NOP shows whether all of that really works here.
        let mut probe = Case::empty();
        probe.code[0] = 0x90;
        probe.code_len = 1;
        probe.state.set_rip(crate::layout::CODE);
        host.run(&[probe])?;
        match host.outcome(0) {
            Native::Ended(outcome) if outcome.vector == 3 => Ok(host),
            Native::Ended(outcome) => Err(io::Error::other(format!(
                "a NOP ended with vector {} at {:#x}",
                outcome.vector,
                outcome.state.rip()
            ))),
            Native::Lost => Err(io::Error::other("the child died of a NOP")),
        }
    }

    /// Runs up to `BATCH` cases; `outcome` tells of each.
    ///
    /// # Errors
    /// When no child can be started again after one was lost.
    pub(crate) fn run(&mut self, cases: &[Case]) -> io::Result<()> {
        assert!(cases.len() <= BATCH, "a batch of {} cases", cases.len());
        self.lost = [false; BATCH];
        let shared = self.shared_mut();
        shared.cases[..cases.len()].copy_from_slice(cases);
        shared.count = cases.len() as u32;
        shared.current.store(0, Ordering::Relaxed);
        loop {
            if self.child.is_none() {
                self.child = Some(child::Child::start(self.shared, self.memory)?);
            }
            let Some(child) = &mut self.child else {
                continue;
            };
            if child.run_batch(PATIENCE_MS) {
                return Ok(());
            }
            // The case that it was at is lost; the rest goes to a new child.
            self.child = None;
            let current = self.shared_mut().current.load(Ordering::Relaxed) as usize;
            self.lost[current.min(BATCH - 1)] = true;
            if current + 1 >= cases.len() {
                return Ok(());
            }
            self.shared_mut()
                .current
                .store(current as u32 + 1, Ordering::Relaxed);
        }
    }

    /// How case `index` of the last batch ended.
    pub(crate) fn outcome(&self, index: usize) -> Native<'_> {
        if self.lost[index] {
            return Native::Lost;
        }
        // SAFETY: the mapping lives as long as `self`, and the child waits on its pipe while nobody is in `run`.
        let shared = unsafe { self.shared.as_ref() };
        Native::Ended(&shared.outcomes[index])
    }

    fn shared_mut(&mut self) -> &mut Shared {
        // SAFETY: as in `outcome`; the only other mapping of these bytes is the child's.
        unsafe { self.shared.as_mut() }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.child = None;
        child::unmap(self.shared.cast(), size_of::<Shared>());
        child::close(self.memory);
    }
}

/// Whether user code may use RDFSBASE and its siblings (AT_HWCAP2 bit 1).
fn fsgsbase_usable() -> bool {
    // SAFETY: reads the auxiliary vector of this process.
    let capabilities = unsafe { libc::getauxval(libc::AT_HWCAP2) };
    capabilities & 2 != 0
}
