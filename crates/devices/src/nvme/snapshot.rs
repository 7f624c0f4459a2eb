//! Life cycle and saved state of a controller.
//!
//! A controller is saved while it is paused and its disk holds none of its commands. What the guest has
//! put into its queues and we have not fetched is in guest memory and stays there. Shadow doorbell pages
//! are not written at restore: the guest may have moved on.

use block::Attachment;

use super::admin::events::Events;
use super::admin::features::Features;
use super::admin::logs::ErrorLog;
use super::completion::CompletionState;
use super::controller::Nvme;
use super::dbbuf::Pages;
use super::registers::{Configuration, csts};
use super::shared::AdminRing;
use super::submission::SubmissionState;
use crate::lifecycle::{Lifecycle, RestoreError, Snapshot};
use crate::pci::FunctionState;

const KIND: &str = "nvme";
const VERSION: u32 = 1;

/// All that a guest can have changed.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct NvmeState {
    function: FunctionState,
    configuration: u32,
    status: u32,
    admin_attributes: u32,
    admin_submission: u64,
    admin_completion: u64,
    admin: Option<AdminRing>,
    admin_tail: u16,
    features: Features,
    events: Events,
    errors: ErrorLog,
    media_errors: u64,
    pages: Option<Pages>,
    namespace_changed: bool,
    write_protected: bool,
    /// Read and write commands, bytes read and written.
    counters: [u64; 4],
    completions: Vec<(u16, CompletionState)>,
    submissions: Vec<(u16, SubmissionState)>,
}

impl Lifecycle for Nvme {
    fn name(&self) -> &str {
        &self.config().name
    }

    fn start(&self) {
        // After a restore there may be commands that wait.
        self.go_on();
    }

    fn pause(&self) {
        self.shared().core().paused = true;
        // Not under the lock: the last answers may have something to report.
        if !Attachment::pause_all(self.attachments()) {
            tracing::warn!(device = self.name(), "paused with requests at the disk");
        }
    }

    fn resume(&self) {
        self.attachments().for_each(Attachment::resume);
        self.go_on();
    }

    fn reset(&self) {
        self.power_on();
    }

    fn halt(&self) {
        Attachment::detach_all(self.attachments());
    }

    fn save(&self) -> Option<Snapshot> {
        if !self.submissions().iter().all(|queue| queue.is_idle()) {
            tracing::warn!(device = self.name(), "not saved: commands are at the disk");
            return None;
        }
        Some(Snapshot::of(KIND, VERSION, &self.state()))
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        self.power_on();
        let state = snapshot.open::<NvmeState>(self.name(), KIND, VERSION)?;
        self.take_state(state).map_err(|reason| {
            self.power_on();
            RestoreError::Damaged {
                device: self.name().to_owned(),
                reason,
            }
        })
    }
}

impl Nvme {
    fn go_on(&self) {
        let shared = self.shared();
        let mut core = shared.core();
        core.paused = false;
        core.after.kick = true;
        self.serve_admin(&mut core);
        shared.deliver_events(&mut core);
        self.unlock(core);
    }

    fn state(&self) -> NvmeState {
        use std::sync::atomic::Ordering::Relaxed;
        let shared = self.shared();
        let mut counters = [0; 4];
        for queue in self.submissions() {
            let own = &queue.counters;
            let values = [
                &own.read_commands,
                &own.write_commands,
                &own.bytes_read,
                &own.bytes_written,
            ];
            for (sum, value) in counters.iter_mut().zip(values) {
                *sum += value.load(Relaxed);
            }
        }
        let core = shared.core();
        NvmeState {
            function: shared.function.save(),
            configuration: core.configuration.0,
            status: core.status,
            admin_attributes: core.admin_attributes,
            admin_submission: core.admin_submission,
            admin_completion: core.admin_completion,
            admin: core.admin,
            admin_tail: self.admin_tail().value(),
            features: core.features.clone(),
            events: core.events.clone(),
            errors: core.errors.clone(),
            media_errors: core.media_errors,
            pages: core.pages,
            namespace_changed: core.namespace_changed,
            write_protected: shared.namespace.is_write_protected(),
            counters,
            completions: (0..)
                .zip(&shared.completions)
                .filter_map(|(id, queue)| Some((id, queue.save()?)))
                .collect(),
            submissions: (1..)
                .zip(self.submissions())
                .filter_map(|(id, queue)| Some((id, queue.save()?)))
                .collect(),
        }
    }

    /// Errors leave a half-restored controller, which the caller resets.
    fn take_state(&self, state: NvmeState) -> Result<(), String> {
        use std::sync::atomic::Ordering::Relaxed;
        let shared = self.shared();
        let count = self.submissions().len() as u16;
        let admin_fits = state.admin.is_none_or(|ring| {
            (2..=4096).contains(&ring.entries)
                && ring.head < ring.entries
                && u32::from(state.admin_tail) < ring.entries
        });
        let features = &state.features;
        let queues_fit = (1..=count).contains(&features.submission_queues)
            && (1..=count).contains(&features.completion_queues);
        if !admin_fits || !queues_fit || !state.events.is_sane() || !state.errors.is_sane() {
            return Err("numbers out of range".to_owned());
        }
        shared.function.restore(&state.function)?;
        for (id, queue) in &state.completions {
            let place = shared.completion(*id).ok_or("too many completion queues")?;
            place.restore(queue)?;
        }
        for (id, saved) in &state.submissions {
            let queue = self.submission(*id).ok_or("too many submission queues")?;
            self.attach(*id, queue).map_err(|error| error.to_string())?;
            queue.restore(saved)?;
        }
        // All that was counted goes to the first queue; what this controller has counted is forgotten.
        let mut counters = state.counters;
        for queue in self.submissions() {
            let [reads, writes, bytes_read, bytes_written] = std::mem::take(&mut counters);
            queue.counters.read_commands.store(reads, Relaxed);
            queue.counters.write_commands.store(writes, Relaxed);
            queue.counters.bytes_read.store(bytes_read, Relaxed);
            queue.counters.bytes_written.store(bytes_written, Relaxed);
        }
        if shared.core().paused {
            // New joins, too, are to wait for `resume`.
            Attachment::pause_all(self.attachments());
        }
        let mut core = shared.core();
        core.configuration = Configuration(state.configuration);
        core.status = state.status & !csts::FATAL;
        if state.status & csts::FATAL != 0 {
            shared.fail(&mut core, "it had failed when it was saved");
        }
        if core.status & csts::SHUTDOWN_OCCURRING != 0 {
            core.after.flush = true;
        }
        core.admin_attributes = state.admin_attributes;
        core.admin_submission = state.admin_submission;
        core.admin_completion = state.admin_completion;
        core.admin = state.admin;
        self.admin_tail().reset(state.admin_tail);
        shared.set_write_through(!state.features.write_cache);
        core.features = state.features;
        core.events = state.events;
        core.errors = state.errors;
        core.media_errors = state.media_errors;
        core.pages = state.pages;
        core.namespace_changed = state.namespace_changed;
        shared.namespace.set_write_protected(state.write_protected);
        self.unlock(core);
        Ok(())
    }
}
