//! All CPUs of one machine: what they share, and how they are made.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vm_types::memory::WriteListener;
use vm_types::{Clock, GuestAddress, GuestMemory, Moment};

use crate::apic::Interconnect;
use crate::bus::Bus;
use crate::cpu::Cpu;

/// Where a CPU's time comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeBase {
    /// The clock, read whenever the guest asks.
    Clock,
    /// The clock at the start of [`Cpu::run`] plus a nanosecond for each instruction since. Whoever
    /// calls `run` moves the clock on by what was executed: two runs see the same times.
    Instructions,
}

/// What the CPUs of a machine are made from.
#[derive(Clone)]
pub struct PackageConfig {
    /// How many CPUs, from 1.
    pub cpus: usize,
    /// Guest physical memory.
    pub memory: GuestMemory,
    /// Everything that is not memory.
    pub bus: Arc<dyn Bus>,
    /// The machine's clock.
    pub clock: Clock,
    /// How time passes for the guest.
    pub time_base: TimeBase,
    /// Rate of the time stamp counter in Hz.
    pub tsc_hz: u64,
    /// Rate of the local APIC timer before its divider, in Hz.
    pub apic_hz: u64,
    /// What RDRAND and RDSEED give, one source for each CPU by its number.
    pub random: fn(cpu: usize, state: u64) -> (u64, u64),
    /// Start of the random sources' state.
    pub random_seed: u64,
}

impl std::fmt::Debug for PackageConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackageConfig")
            .field("cpus", &self.cpus)
            .field("memory", &self.memory)
            .field("time_base", &self.time_base)
            .field("tsc_hz", &self.tsc_hz)
            .finish_non_exhaustive()
    }
}

/// The step of a small generator (SplitMix64): from a state, the next state and a value. For machines
/// whose runs must repeat; others pass a function that asks the operating system.
pub fn seeded_random(_cpu: usize, state: u64) -> (u64, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut value = state;
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state, value ^ (value >> 31))
}

/// What the CPUs of one machine share. Devices reach them through [`Package::interconnect`].
pub struct Package {
    interconnect: Arc<Interconnect>,
    memory: GuestMemory,
    cells: Box<[Cell]>,
}

/// One CPU as the others see it.
#[derive(Debug, Default)]
struct Cell {
    /// It is between the start and the end of `run`: its TLB may be used at any moment.
    running: AtomicBool,
    mail: Mutex<Vec<CodeMail>>,
    /// Mail sent and mail read, to wait for one another.
    sent: AtomicU64,
    read: AtomicU64,
}

/// A note about a guest page, for another CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodeMail {
    /// The page was written: drop what was lowered from it.
    Written(u64),
    /// The page holds lowered code from now on: stop storing to it unseen.
    Watched(u64),
}

impl Package {
    /// The shared part and the CPUs, number 0 being the bootstrap processor.
    pub fn new(config: &PackageConfig) -> (Arc<Self>, Vec<Cpu>) {
        let package = Arc::new(Self {
            interconnect: Interconnect::new(config.cpus),
            memory: config.memory.clone(),
            cells: (0..config.cpus).map(|_| Cell::default()).collect(),
        });
        config.memory.set_write_listener(package.clone());
        let cpus = (0..config.cpus)
            .map(|id| Cpu::new(id, config, package.clone()))
            .collect();
        (package, cpus)
    }

    /// Where interrupts for these CPUs go.
    pub fn interconnect(&self) -> &Arc<Interconnect> {
        &self.interconnect
    }

    /// A CPU starts to run.
    pub(crate) fn enter(&self, cpu: usize) {
        self.cells[cpu].running.store(true, Ordering::SeqCst);
    }

    /// A CPU has stopped running: it will look at its mail before it runs again.
    pub(crate) fn leave(&self, cpu: usize) {
        self.cells[cpu].running.store(false, Ordering::SeqCst);
    }

    /// Takes the mail of a CPU.
    pub(crate) fn take_mail(&self, cpu: usize) -> Vec<CodeMail> {
        let cell = &self.cells[cpu];
        if cell.sent.load(Ordering::SeqCst) == cell.read.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut mail = cell.mail.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *mail)
    }

    /// Says that `count` pieces of mail have been acted on.
    pub(crate) fn mail_done(&self, cpu: usize, count: usize) {
        self.cells[cpu]
            .read
            .fetch_add(count as u64, Ordering::SeqCst);
    }

    fn send(&self, cpu: usize, mail: CodeMail) -> u64 {
        let cell = &self.cells[cpu];
        let number = {
            let mut list = cell.mail.lock().unwrap_or_else(PoisonError::into_inner);
            list.push(mail);
            cell.sent.fetch_add(1, Ordering::SeqCst) + 1
        };
        if let Some(mailbox) = self.interconnect.mailbox(cpu) {
            mailbox.post_code();
        }
        number
    }

    /// Makes every other CPU store to `page` by the slow path, and returns when none that runs can
    /// still do otherwise. `while_waiting` handles the caller's own mail, so that two CPUs that wait
    /// for each other both go on.
    pub(crate) fn watch_page(&self, cpu: usize, page: u64, mut while_waiting: impl FnMut()) {
        if self.memory.watch_page(GuestAddress(page), true) {
            return;
        }
        let mut waiting = Vec::new();
        for other in (0..self.cells.len()).filter(|other| *other != cpu) {
            waiting.push((other, self.send(other, CodeMail::Watched(page))));
        }
        for (other, number) in waiting {
            let cell = &self.cells[other];
            while cell.running.load(Ordering::SeqCst) && cell.read.load(Ordering::SeqCst) < number {
                while_waiting();
                std::thread::yield_now();
            }
        }
    }
}

impl WriteListener for Package {
    fn page_written(&self, page: GuestAddress) {
        // Not watched any more: whoever lowers it again watches it again, before reading it.
        if self.memory.watch_page(page, false) {
            for cpu in 0..self.cells.len() {
                self.send(cpu, CodeMail::Written(page.0));
            }
        }
    }
}

impl std::fmt::Debug for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Package")
            .field("cpus", &self.cells.len())
            .finish_non_exhaustive()
    }
}

/// Until when a halted CPU may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Something is pending already.
    Awake,
    /// Until this moment, or until its mailbox is posted to.
    Until(Moment),
    /// Until its mailbox is posted to.
    Indefinitely,
}
