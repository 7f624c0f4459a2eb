//! Where other threads leave interrupts for one processor.
//!
//! Senders only set bits; nobody takes a lock and nobody waits. The processor looks at one word
//! ([`Mailbox::attention`], a plain load) between blocks of instructions and empties the box into its
//! local APIC. The first bit in an empty box calls the waker, so that a halted processor runs again.
//!
//! Order of the writes: what a flag stands for is written before the flag (release), the processor takes
//! the flags (acquire) before what they stand for. A bit set in between is found now or with its own flag.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::destination::Identity;
use super::local::LocalApic;
use super::message::Trigger;

/// Called on a sender's thread when an empty mailbox gets its first bit. Must be quick and not block.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

const VECTORS: u32 = 1 << 0;
const NMI: u32 = 1 << 1;
const INIT: u32 = 1 << 2;
const STARTUP: u32 = 1 << 3;
const EXTERNAL: u32 = 1 << 4;
const LINT0: u32 = 1 << 5;
const LINT0_ROSE: u32 = 1 << 6;
const LINT1: u32 = 1 << 7;
const KICK: u32 = 1 << 8;
const CODE: u32 = 1 << 9;

/// One processor's mailbox. Shared with all senders.
#[derive(Default)]
#[repr(align(128))] // Two lines: neighbours' senders do not disturb this processor's polling.
pub struct Mailbox {
    flags: AtomicU32,
    startup_page: AtomicU8,
    lint0: AtomicBool,
    requests: [AtomicU64; 4],
    level: [AtomicU64; 4],
    identity: AtomicU64,
    waker: OnceLock<Waker>,
}

/// What [`Mailbox::collect`] found besides vectors, which went to the APIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// A non-maskable interrupt, by message or by LINT1.
    pub nmi: bool,
    /// An INIT. To be obeyed before `startup`.
    pub init: bool,
    /// A start-up message with this page number; ignored by a processor that does not wait for one.
    pub startup: Option<u8>,
    /// Somebody wants [`crate`]'s caller to have the processor back.
    pub kick: bool,
}

impl Mailbox {
    /// An empty mailbox of an absent processor.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the waker; the first one stays.
    pub fn set_waker(&self, waker: Waker) {
        // A second waker would be a second owner of the same processor; the first is the one that runs it.
        let _first_stays = self.waker.set(waker);
    }

    /// Whether there is anything to collect. One relaxed load.
    pub fn attention(&self) -> bool {
        self.flags.load(Ordering::Relaxed) != 0
    }

    /// Leaves a fixed interrupt.
    pub fn post_vector(&self, vector: u8, trigger: Trigger) {
        let word = usize::from(vector >> 6);
        let bit = 1u64 << (vector & 63);
        match trigger {
            Trigger::Level => self.level[word].fetch_or(bit, Ordering::Relaxed),
            Trigger::Edge => self.level[word].fetch_and(!bit, Ordering::Relaxed),
        };
        self.requests[word].fetch_or(bit, Ordering::Release);
        self.raise(VECTORS);
    }

    /// Leaves an NMI.
    pub fn post_nmi(&self) {
        self.raise(NMI);
    }

    /// Leaves an INIT.
    pub fn post_init(&self) {
        self.raise(INIT);
    }

    /// Leaves a start-up message; a later one replaces the page of an earlier one not yet collected.
    pub fn post_startup(&self, page: u8) {
        self.startup_page.store(page, Ordering::Release);
        self.raise(STARTUP);
    }

    /// Leaves an ExtINT message: the processor shall ask the 8259 for a vector.
    pub fn post_external(&self) {
        self.raise(EXTERNAL);
    }

    /// Asks the processor to return to its caller.
    pub fn kick(&self) {
        self.raise(KICK);
    }

    /// Says that there is a note about code pages for the processor.
    pub(crate) fn post_code(&self) {
        self.raise(CODE);
    }

    /// Drives LINT0 (the 8259's INTR).
    pub fn set_lint0(&self, level: bool) {
        if self.lint0.swap(level, Ordering::AcqRel) != level {
            self.raise(if level { LINT0 | LINT0_ROSE } else { LINT0 });
        }
    }

    /// Notes the level of LINT0 that the APIC has been restored with.
    pub(crate) fn restore_lint0(&self, level: bool) {
        self.lint0.store(level, Ordering::Release);
    }

    /// One edge on LINT1 (the machine's NMI).
    pub fn pulse_lint1(&self) {
        self.raise(LINT1);
    }

    /// What senders know of the processor.
    pub fn identity(&self) -> Identity {
        Identity::from_bits(self.identity.load(Ordering::Acquire))
    }

    /// Tells senders what the APIC says of itself; call it after each write that can change it.
    pub fn publish(&self, identity: Identity) {
        self.identity.store(identity.bits(), Ordering::Release);
    }

    /// Empties the box: vectors and pins into `apic`, the rest as the return value.
    pub fn collect(&self, apic: &mut LocalApic) -> Signals {
        let flags = self.flags.swap(0, Ordering::AcqRel);
        if flags & VECTORS != 0 {
            for (word, (requests, level)) in self.requests.iter().zip(&self.level).enumerate() {
                let requests = requests.swap(0, Ordering::AcqRel);
                apic.accept_word(word, requests, level.load(Ordering::Relaxed));
            }
        }
        if flags & EXTERNAL != 0 {
            apic.accept_external();
        }
        if flags & LINT0_ROSE != 0 {
            // The pin may have fallen and risen unseen: that was an edge.
            apic.set_lint0(false);
            apic.set_lint0(true);
        }
        if flags & LINT0 != 0 {
            apic.set_lint0(self.lint0.load(Ordering::Acquire));
        }
        if flags & LINT1 != 0 {
            apic.set_lint1(true);
            apic.set_lint1(false);
        }
        Signals {
            nmi: flags & NMI != 0 || apic.take_nmi(),
            init: flags & INIT != 0,
            startup: (flags & STARTUP != 0).then(|| self.startup_page.load(Ordering::Acquire)),
            kick: flags & KICK != 0,
        }
    }

    /// Throws away what has been left, as a machine reset does. The pin's level stays.
    pub fn clear(&self) {
        self.flags.store(0, Ordering::Release);
        for requests in &self.requests {
            requests.store(0, Ordering::Release);
        }
        if self.lint0.load(Ordering::Acquire) {
            self.raise(LINT0);
        }
    }

    fn raise(&self, flags: u32) {
        let first = self.flags.fetch_or(flags, Ordering::AcqRel) == 0;
        if first && let Some(waker) = self.waker.get() {
            waker();
        }
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox")
            .field("flags", &self.flags.load(Ordering::Relaxed))
            .field("identity", &self.identity())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apic::local::{LocalApicConfig, Pending};
    use std::sync::atomic::AtomicUsize;
    use vm_types::Moment;

    fn enabled_apic() -> LocalApic {
        let mut apic = LocalApic::new(LocalApicConfig {
            id: 0,
            bootstrap: true,
            timer_hz: 1_000_000_000,
            tsc_hz: 1_000_000_000,
            physical_address_bits: 40,
        });
        let _none = apic.write(Moment::START, 0xf0, 0x1ff);
        apic
    }

    #[test]
    fn vectors_and_signals_arrive_once() {
        let mailbox = Mailbox::new();
        let mut apic = enabled_apic();
        mailbox.post_vector(0x31, Trigger::Edge);
        mailbox.post_vector(0xf1, Trigger::Level);
        mailbox.post_startup(0x9a);
        mailbox.post_init();
        mailbox.post_nmi();
        assert!(mailbox.attention());
        let signals = mailbox.collect(&mut apic);
        assert!(!mailbox.attention());
        assert_eq!(
            signals,
            Signals {
                nmi: true,
                init: true,
                startup: Some(0x9a),
                kick: false
            }
        );
        assert_eq!(apic.acknowledge(), 0xf1);
        assert_eq!(apic.end_of_interrupt(), Some(0xf1));
        assert_eq!(apic.acknowledge(), 0x31);
        assert_eq!(apic.end_of_interrupt(), None);
        assert_eq!(mailbox.collect(&mut apic), Signals::default());
        assert_eq!(apic.pending(), None);
    }

    #[test]
    fn the_waker_is_called_for_the_first_bit_only() {
        let mailbox = Mailbox::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let seen = calls.clone();
        mailbox.set_waker(Arc::new(move || {
            seen.fetch_add(1, Ordering::SeqCst);
        }));
        mailbox.post_vector(0x40, Trigger::Edge);
        mailbox.kick();
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        assert!(mailbox.collect(&mut enabled_apic()).kick);
        mailbox.kick();
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn the_8259_reaches_the_bootstrap_processor_and_leaves_with_its_level() {
        let mailbox = Mailbox::new();
        let mut apic = enabled_apic();
        mailbox.set_lint0(true);
        let _signals = mailbox.collect(&mut apic);
        assert_eq!(apic.pending(), Some(Pending::External));
        mailbox.set_lint0(false);
        let _signals = mailbox.collect(&mut apic);
        assert_eq!(apic.pending(), None);
    }

    #[test]
    fn lint1_is_an_nmi_when_the_table_says_so() {
        let mailbox = Mailbox::new();
        let mut apic = enabled_apic();
        mailbox.pulse_lint1();
        assert!(!mailbox.collect(&mut apic).nmi);
        let _none = apic.write(Moment::START, 0x360, 0x400);
        mailbox.pulse_lint1();
        assert!(mailbox.collect(&mut apic).nmi);
    }

    #[test]
    fn many_senders_lose_nothing() {
        let mailbox = Mailbox::new();
        let mut apic = enabled_apic();
        std::thread::scope(|scope| {
            for sender in 0..4u8 {
                let mailbox = &mailbox;
                scope.spawn(move || {
                    for vector in 0..32u8 {
                        mailbox.post_vector(0x40 + sender * 32 + vector, Trigger::Edge);
                    }
                });
            }
        });
        let _signals = mailbox.collect(&mut apic);
        let mut taken = 0;
        while let Some(Pending::Vector(_)) = apic.pending() {
            apic.acknowledge();
            let _edge = apic.end_of_interrupt();
            taken += 1;
        }
        assert_eq!(taken, 128);
    }
}
