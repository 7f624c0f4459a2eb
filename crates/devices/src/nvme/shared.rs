//! What the controller and its queues share, and what queues report to the controller.
//!
//! Locks are taken in this order: core, submission queue, completion queue, MSI-X vector. A queue's worker
//! reports with no lock held.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, Weak};

use block::Outcome;
use vm_types::{Clock, GuestMemory};

use super::admin::events::{Event, Events};
use super::admin::features::Features;
use super::admin::logs::ErrorLog;
use super::command::Answer;
use super::completion::CompletionQueue;
use super::dbbuf::Pages;
use super::namespace::Namespace;
use super::registers::{Configuration, csts};
use super::status::Status;
use super::submission::{Notes, SubmissionQueue};
use crate::pci::Function;
use crate::sync::lock;

/// The part of the controller that queues reach.
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) function: Function,
    /// Guest memory, closed while bus mastering is off.
    pub(super) memory: GuestMemory,
    pub(super) clock: Clock,
    pub(super) namespace: Namespace,
    /// By id; the admin queue's is the first.
    pub(super) completions: Box<[CompletionQueue]>,
    core: Mutex<Core>,
    fatal: AtomicBool,
    write_through: AtomicBool,
    /// All I/O submission queues' places.
    pub(super) submissions: OnceLock<Box<[Weak<SubmissionQueue>]>>,
    /// Queues whose requests of earlier lives the disk still holds. Each changes it under its own lock.
    stale_queues: AtomicU32,
}

/// The controller's registers and admin state.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) configuration: Configuration,
    pub(super) status: u32,
    pub(super) admin_attributes: u32,
    pub(super) admin_submission: u64,
    pub(super) admin_completion: u64,
    /// The admin submission queue while the controller is enabled.
    pub(super) admin: Option<AdminRing>,
    pub(super) features: Features,
    pub(super) events: Events,
    pub(super) errors: ErrorLog,
    /// Media and integrity errors, as SMART counts them.
    pub(super) media_errors: u64,
    /// Doorbell Buffer Config.
    pub(super) pages: Option<Pages>,
    /// Delete I/O Submission Queue commands that wait for their queue to empty.
    pub(super) deletions: Vec<Deletion>,
    /// A reset waits for the disk to let go of requests of the life before.
    pub(super) draining: bool,
    /// What is to be done when the lock is free.
    pub(super) after: After,
    /// Namespace 1 has changed since the log page was read.
    pub(super) namespace_changed: bool,
    pub(super) paused: bool,
}

/// Work that may call back into the controller, and so waits until its lock is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct After {
    /// Wake all queues' workers.
    pub(super) kick: bool,
    /// Flush the disk and then report the shutdown as complete.
    pub(super) flush: bool,
    /// What the disk holds of queues before a reset is wanted no more.
    pub(super) give_up: bool,
    /// The same for one queue, which is being deleted.
    pub(super) give_up_of: Option<u16>,
}

/// The admin submission queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct AdminRing {
    pub(super) base: u64,
    pub(super) entries: u32,
    pub(super) head: u32,
}

/// A queue on its way out, and the command that waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deletion {
    pub(super) queue: u16,
    pub(super) generation: u32,
    pub(super) command: u16,
}

/// A command that failed, for the error log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) queue: u16,
    pub(super) command: u16,
    pub(super) status: Status,
    pub(super) block: u64,
    pub(super) namespace: u32,
}

impl Shared {
    pub(super) fn new(
        name: String,
        function: Function,
        memory: GuestMemory,
        clock: Clock,
        namespace: Namespace,
        io_queues: u16,
        features: Features,
    ) -> Self {
        Self {
            name,
            function,
            memory,
            clock,
            namespace,
            completions: (0..=io_queues).map(CompletionQueue::new).collect(),
            core: Mutex::new(Core {
                configuration: Configuration::default(),
                status: 0,
                admin_attributes: 0,
                admin_submission: 0,
                admin_completion: 0,
                admin: None,
                features,
                events: Events::default(),
                errors: ErrorLog::default(),
                media_errors: 0,
                pages: None,
                deletions: Vec::new(),
                draining: false,
                after: After::default(),
                namespace_changed: false,
                paused: false,
            }),
            fatal: AtomicBool::new(false),
            write_through: AtomicBool::new(false),
            submissions: OnceLock::new(),
            stale_queues: AtomicU32::new(0),
        }
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    pub(super) fn completion(&self, id: u16) -> Option<&CompletionQueue> {
        self.completions.get(usize::from(id))
    }

    /// CSTS.CFS is set: nothing is fetched.
    pub(super) fn is_fatal(&self) -> bool {
        self.fatal.load(Ordering::Relaxed)
    }

    /// The guest has turned the volatile write cache off.
    pub(super) fn write_through(&self) -> bool {
        self.write_through.load(Ordering::Relaxed)
    }

    pub(super) fn set_write_through(&self, on: bool) {
        self.write_through.store(on, Ordering::SeqCst);
    }

    /// One queue more, or less, waits for requests of an earlier life.
    pub(super) fn count_stale_queue(&self, more: bool) {
        if more {
            self.stale_queues.fetch_add(1, Ordering::SeqCst);
        } else {
            self.stale_queues.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The disk may still move data of a life that is over.
    pub(super) fn holds_stale_requests(&self) -> bool {
        self.stale_queues.load(Ordering::SeqCst) != 0
    }

    pub(super) fn fire(&self, vector: Option<u16>) {
        if let Some(vector) = vector {
            self.function.fire(vector);
        }
    }

    /// A queue reports. Costs nothing when there is nothing to say.
    pub(super) fn take_notes(&self, queue: u16, notes: Notes) {
        if let Some(completion_queue) = notes.freed {
            self.kick_users_of(completion_queue);
        }
        let quiet = notes.failures.is_empty()
            && !notes.fatal
            && !notes.drained
            && notes.deleted.is_none()
            && notes.flushed.is_none();
        if quiet {
            return;
        }
        let mut core = self.core();
        for failure in &notes.failures {
            core.record(failure);
        }
        if notes.fatal {
            self.fail(&mut core, "a queue lies outside guest memory");
        }
        if let Some(generation) = notes.deleted {
            let waiting = core
                .deletions
                .iter()
                .position(|d| d.queue == queue && d.generation == generation);
            if let Some(index) = waiting {
                let deletion = core.deletions.swap_remove(index);
                self.answer_admin(&mut core, deletion.command, Status::SUCCESS, 0);
            }
        }
        if let Some(outcome) = notes.flushed {
            self.shutdown_flushed(&mut core, outcome);
        }
        if notes.drained && core.draining && !self.holds_stale_requests() {
            self.reset_done(&mut core);
        }
    }

    /// Wakes the submission queues that post to completion queue `id`.
    pub(super) fn kick_users_of(&self, id: u16) {
        let queues = self.submissions.get().map_or(&[][..], |queues| queues);
        for queue in queues.iter().filter_map(Weak::upgrade) {
            if queue.completion_queue() == id {
                queue.kick();
            }
        }
    }

    /// The controller cannot go on until it is reset.
    pub(super) fn fail(&self, core: &mut Core, reason: &str) {
        if core.status & csts::FATAL == 0 {
            tracing::warn!(device = self.name, reason, "controller failed");
            core.status |= csts::FATAL;
            self.fatal.store(true, Ordering::SeqCst);
        }
    }

    pub(super) fn clear_failure(&self, core: &mut Core) {
        core.status &= !csts::FATAL;
        self.fatal.store(false, Ordering::SeqCst);
    }

    /// Posts the answer of an admin command, for which a slot has been set aside.
    pub(super) fn answer_admin(&self, core: &mut Core, command: u16, status: Status, result: u32) {
        let head = core.admin.map_or(0, |ring| ring.head as u16);
        let answer = Answer {
            result,
            queue: 0,
            queue_head: head,
            command,
            status,
        };
        let Some(queue) = self.completion(0) else {
            return;
        };
        match queue.post(&self.memory, &[answer]) {
            Ok(vector) => self.fire(vector),
            Err(_) => self.fail(core, "the admin completion queue lies outside guest memory"),
        }
    }

    /// Something happened that the guest may want to know of.
    pub(super) fn announce(&self, core: &mut Core, event: Event) {
        core.events.add(event);
        self.deliver_events(core);
    }

    /// Answers parked event requests as far as there are events for them.
    pub(super) fn deliver_events(&self, core: &mut Core) {
        if core.paused || core.status & csts::READY == 0 {
            return;
        }
        let Some(queue) = self.completion(0) else {
            return;
        };
        while core.events.can_deliver() {
            // A parked request holds no slot, or four of them would fill a small queue.
            if queue.reserve(&self.memory, 1) == 0 {
                return;
            }
            match core.events.deliver() {
                Some((command, result)) => {
                    self.answer_admin(core, command, Status::SUCCESS, result);
                }
                None => {
                    queue.release(1);
                }
            }
        }
    }

    /// The guest wrote to a doorbell of no queue, or a value of no entry.
    pub(super) fn bad_doorbell(&self, event: Event) {
        let mut core = self.core();
        if core.status & csts::READY != 0 {
            self.announce(&mut core, event);
        }
    }

    /// The backend has flushed on behalf of a shutdown.
    pub(super) fn shutdown_flushed(&self, core: &mut Core, outcome: Outcome) {
        if core.status & csts::SHUTDOWN_OCCURRING != 0 {
            if outcome != Outcome::Ok {
                tracing::error!(device = self.name, ?outcome, "flush at shutdown failed");
            }
            core.status = core.status & !csts::SHUTDOWN_OCCURRING | csts::SHUTDOWN_COMPLETE;
        }
    }

    /// The disk holds nothing of an earlier life any more: the reset that waited for that is over.
    pub(super) fn reset_done(&self, core: &mut Core) {
        core.draining = false;
        core.status &= !csts::READY;
        if core.configuration.enabled() {
            // The guest did not wait for RDY to go; then it comes back by itself.
            self.enable(core);
        }
    }

    /// CC.EN is set: sets the admin queues up, or fails.
    pub(super) fn enable(&self, core: &mut Core) {
        let attributes = core.admin_attributes;
        let (submission, completion) = (attributes & 0xfff, attributes >> 16 & 0xfff);
        if !core.configuration.is_supported() {
            return self.fail(core, "CC asks for what CAP does not offer");
        }
        // Sizes count from zero and a queue has at least two entries.
        if submission == 0 || completion == 0 {
            return self.fail(core, "AQA: an admin queue of one entry");
        }
        if let Some(queue) = self.completion(0) {
            queue.create(core.admin_completion, completion + 1, Some(0));
        }
        core.admin = Some(AdminRing {
            base: core.admin_submission,
            entries: submission + 1,
            head: 0,
        });
        core.status |= csts::READY;
    }
}

impl Core {
    /// Enters a failed command into the error log.
    pub(super) fn record(&mut self, failure: &Failure) {
        self.errors.record(failure);
        if failure.status.is_media_error() {
            self.media_errors += 1;
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("name", &self.name)
            .field("function", &self.function)
            .field("fatal", &self.fatal)
            .finish_non_exhaustive()
    }
}
