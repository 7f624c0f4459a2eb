//! The controller: registers, doorbells, reset and shutdown.
//!
//! ```text
//!               CC.EN=1, settings fit            CC.EN=0
//!   Disabled ---------------------------> Ready ---------> Draining   RDY stays set until the disk has
//!      ^  |                                                  |        let go of the old commands
//!      |  +-- settings do not fit --> Failed (CSTS.CFS)      |
//!      +-------------------------------------<---------------+
//! ```
//!
//! A guest that sets CC.EN again without waiting for RDY to go is served when draining ends.

use std::io;
use std::sync::{Arc, MutexGuard, Weak};

use block::{AttachOptions, Attachment, Disk, Source};
use uuid::Uuid;
use vm_types::{Clock, Execution, GuestAddress, GuestMemory, MemoryError, MsiSink, Timers};

use super::admin::events::Event;
use super::admin::features::Features;
use super::admin::{Reply, execute, logs};
use super::command::{Command, SQE_BYTES};
use super::dbbuf::Register;
use super::namespace::Namespace;
use super::registers::{CAPABILITIES, Configuration, DOORBELLS, REGISTERS, Reg, VERSION, csts};
use super::shared::{Core, Failure, Shared};
use super::submission::SubmissionQueue;
use crate::bus::RegisterFile;
use crate::pci::{Bar, Endpoint, Function, FunctionError, Identity};

/// Bytes of BAR 0: registers, then room for 1,024 pairs of doorbells and more.
const REGISTER_WINDOW: u64 = 0x4000;
/// BAR of the registers, and of the MSI-X table.
const REGISTER_BAR: usize = 0;
const MSIX_BAR: usize = 4;
/// Mass storage, non-volatile memory, NVM Express.
const CLASS: u32 = 0x01_08_02;
/// Capability id of Advanced Features, which has function level reset.
const CAP_ADVANCED_FEATURES: u8 = 0x13;
/// The most I/O queues that the doorbells have room for.
const IO_QUEUES_MAX: u16 = 1023;

/// The handles that a controller is given.
#[derive(Clone, Debug)]
pub struct NvmePorts {
    /// Guest memory. Reached only while bus mastering is on.
    pub memory: GuestMemory,
    /// Where MSI-X messages go.
    pub msi: MsiSink,
    /// Power-on hours, latencies.
    pub clock: Clock,
    /// The machine's timers, for disks with rate limits in inline execution.
    pub timers: Option<Timers>,
    /// The namespace's content.
    pub disk: Disk,
    /// A worker thread for each I/O queue in use, or all work on the thread that rings.
    pub execution: Execution,
}

/// What a controller is called and how much of everything it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvmeConfig {
    /// Unique in the machine, for logs, threads and snapshots.
    pub name: String,
    /// Serial number; printable ASCII, the first 20 bytes count.
    pub serial: String,
    /// Model; the first 40 bytes count.
    pub model: String,
    /// Firmware revision; the first 8 bytes count.
    pub firmware: String,
    /// Names the namespace and the subsystem for ever: NGUID, EUI64, UUID and NQN follow from it.
    pub uuid: Uuid,
    /// PCI vendor id.
    pub vendor: u16,
    /// PCI device id.
    pub device: u16,
    /// PCI subsystem vendor id.
    pub subsystem_vendor: u16,
    /// PCI subsystem id.
    pub subsystem: u16,
    /// CNTLID.
    pub controller_id: u16,
    /// I/O queue pairs, 1 to 1023; there is a vector for each and one for the admin queue.
    pub io_queues: u16,
    /// Commands of one queue that the disk works on at a time, 1 to 4096. A queue may be deeper.
    pub queue_depth: u32,
}

impl NvmeConfig {
    /// The defaults for a controller of this name, serial number and identity.
    pub fn new(name: &str, serial: &str, uuid: Uuid) -> Self {
        Self {
            name: name.to_owned(),
            serial: serial.to_owned(),
            model: "Trivet NVMe disk".to_owned(),
            firmware: "1.0".to_owned(),
            uuid,
            vendor: 0x01de,
            device: 0x0000,
            subsystem_vendor: 0x01de,
            subsystem: 0x0000,
            controller_id: 0,
            io_queues: 64,
            queue_depth: 256,
        }
    }

    /// A UUID that is always the same for `seed`: for disks that are named, but have no UUID of their
    /// own. Not secret, and as unique as the seed is.
    pub fn uuid_from_seed(seed: &str) -> Uuid {
        let half = |start: u64| {
            // FNV-1a, then a finaliser so that short seeds differ in all bits.
            let hash = seed.bytes().fold(start, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            let hash = (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
            hash ^ hash >> 32
        };
        let (high, low) = (half(0xcbf2_9ce4_8422_2325), half(0x8422_2325_cbf2_9ce4));
        let bits = u128::from(high) << 64 | u128::from(low);
        uuid::Builder::from_custom_bytes(bits.to_be_bytes()).into_uuid()
    }
}

/// An NVM Express controller with one namespace.
pub struct Nvme {
    shared: Arc<Shared>,
    submissions: Box<[Arc<SubmissionQueue>]>,
    admin_tail: Register,
    config: NvmeConfig,
    defaults: Features,
    disk: Disk,
    execution: Execution,
    timers: Option<Timers>,
    /// Configuration space offset of the function level reset register.
    reset_register: u16,
}

impl Nvme {
    /// A controller in its power-on state. Errors: a mistake in this file's own declarations.
    pub fn new(ports: NvmePorts, mut config: NvmeConfig) -> Result<Arc<Self>, FunctionError> {
        config.io_queues = config.io_queues.clamp(1, IO_QUEUES_MAX);
        config.queue_depth = config.queue_depth.clamp(1, 4096);
        let identity = Identity {
            vendor: config.vendor,
            device: config.device,
            class: CLASS,
            revision: 1,
            subsystem_vendor: config.subsystem_vendor,
            subsystem: config.subsystem,
        };
        let builder = Function::builder(identity)
            .bar(REGISTER_BAR, Bar::memory64(REGISTER_WINDOW))
            .msix(MSIX_BAR, config.io_queues + 1, ports.msi);
        let advanced = builder.next_capability_offset();
        // Length, "transactions pending" and function level reset; control and status.
        let builder = builder.capability(CAP_ADVANCED_FEATURES, &[6, 3, 0, 0], &[]);
        let memory = ports.memory.gated(&builder.dma_gate());
        let defaults = Features::new(config.io_queues);
        let shared = Arc::new(Shared::new(
            config.name.clone(),
            builder.build()?,
            memory,
            ports.clock,
            Namespace::new(ports.disk.info(), config.uuid),
            config.io_queues,
            defaults.clone(),
        ));
        let submissions: Box<[_]> = (1..=config.io_queues)
            .map(|id| {
                let queue = SubmissionQueue::new(id, config.queue_depth, shared.clone());
                Arc::new(queue)
            })
            .collect();
        shared
            .submissions
            .get_or_init(|| submissions.iter().map(Arc::downgrade).collect());
        Ok(Arc::new(Self {
            shared,
            submissions,
            admin_tail: Register::default(),
            config,
            defaults,
            disk: ports.disk,
            execution: ports.execution,
            timers: ports.timers,
            reset_register: advanced + 4,
        }))
    }

    /// The configuration, clamped to what the controller can do.
    pub fn config(&self) -> &NvmeConfig {
        &self.config
    }

    /// Forbids or allows writes, for an operator who freezes a disk. The guest sees it in NSATTR, and is
    /// told if it has asked for namespace notices. A disk that is read-only stays so.
    pub fn set_write_protected(&self, protect: bool) {
        if self.shared.namespace.set_write_protected(protect) {
            let mut core = self.shared.core();
            core.namespace_changed = true;
            if logs::wants_namespace_notices(&core) {
                self.shared.announce(&mut core, Event::NamespaceAttributes);
            }
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn defaults(&self) -> &Features {
        &self.defaults
    }

    pub(super) fn submissions(&self) -> &[Arc<SubmissionQueue>] {
        &self.submissions
    }

    /// The place of I/O submission queue `id`.
    pub(super) fn submission(&self, id: u16) -> Option<&Arc<SubmissionQueue>> {
        self.submissions.get(usize::from(id.checked_sub(1)?))
    }

    /// The joins with the disk of all places that were ever used.
    pub(super) fn attachments(&self) -> impl Iterator<Item = &Attachment> + Clone {
        self.submissions
            .iter()
            .filter_map(|queue| queue.attachment())
    }

    pub(super) fn admin_tail(&self) -> &Register {
        &self.admin_tail
    }

    /// Joins a queue's place to the disk, once.
    pub(super) fn attach(&self, id: u16, queue: &Arc<SubmissionQueue>) -> io::Result<()> {
        if queue.attachment().is_some() {
            return Ok(());
        }
        let name = format!("{}-q{id}", self.config.name);
        let options = AttachOptions {
            clock: Some(self.shared.clock.clone()),
            timers: self.timers.clone(),
            ..AttachOptions::new(&name, self.execution, self.config.queue_depth)
        };
        let source: Weak<dyn Source> = Arc::<SubmissionQueue>::downgrade(queue);
        queue.set_attachment(self.disk.attach(source, options)?);
        Ok(())
    }

    /// Frees the controller's lock and does what had to wait for that.
    pub(super) fn unlock(&self, mut core: MutexGuard<'_, Core>) {
        let after = std::mem::take(&mut core.after);
        drop(core);
        if after.flush {
            // Without a queue that was ever attached, nothing was written and nothing is to be flushed.
            match self.submissions.iter().find(|q| q.attachment().is_some()) {
                Some(queue) => queue.flush_for_controller(),
                None => {
                    let mut core = self.shared.core();
                    self.shared.shutdown_flushed(&mut core, block::Outcome::Ok);
                }
            }
        }
        if after.give_up {
            self.attachments().for_each(Attachment::give_up);
        }
        let deleted = after.give_up_of.and_then(|id| self.submission(id));
        if let Some(attachment) = deleted.and_then(|queue| queue.attachment()) {
            attachment.give_up();
        }
        if after.kick {
            for queue in &self.submissions {
                queue.kick();
            }
        }
    }

    /// A guest's write to CC.
    fn configure(&self, core: &mut Core, value: u32) {
        let old = core.configuration;
        let new = Configuration(value);
        core.configuration = new;
        match (old.enabled(), new.enabled()) {
            // While draining, enabling waits for its end.
            (false, true) if !core.draining => self.shared.enable(core),
            (true, false) => self.disable(core),
            _ => {}
        }
        if new.shutdown_asked() && !old.shutdown_asked() {
            let others = core.status & !(3 << 2);
            core.status = others | csts::SHUTDOWN_OCCURRING;
            core.after.flush = true;
        }
    }

    /// CC.EN has gone: all queues, parked requests, features and shadows with it.
    fn disable(&self, core: &mut Core) {
        core.admin = None;
        self.admin_tail.reset(0);
        for queue in &self.submissions {
            queue.retire();
        }
        for queue in &self.shared.completions {
            queue.delete();
        }
        core.deletions.clear();
        core.events = Default::default();
        core.pages = None;
        core.features = self.defaults.clone();
        self.shared.set_write_through(false);
        self.shared.clear_failure(core);
        core.status &= csts::READY;
        if self.shared.holds_stale_requests() {
            // Their data may still arrive in guest memory; until then the guest must not reuse it.
            core.draining = true;
            core.status |= csts::READY;
            core.after.give_up = true;
        } else {
            self.shared.reset_done(core);
        }
    }

    /// Back to the power-on state, registers included: the reset pin, or function level reset.
    pub(super) fn power_on(&self) {
        let mut core = self.shared.core();
        core.configuration = Configuration(0);
        self.disable(&mut core);
        core.admin_attributes = 0;
        core.admin_submission = 0;
        core.admin_completion = 0;
        self.unlock(core);
        self.shared.function.reset();
    }

    /// Carries out admin commands that wait.
    pub(super) fn serve_admin(&self, core: &mut Core) {
        let shared = &*self.shared;
        let Some(queue) = shared.completion(0) else {
            return;
        };
        let entries = core.admin.map_or(0, |ring| ring.entries);
        // As many as the ring can hold: later ones come with a doorbell of their own.
        for _ in 0..entries {
            let tail = u32::from(self.admin_tail.value());
            let served = core.paused || shared.is_fatal() || core.status & csts::READY == 0;
            let Some(mut ring) = core.admin.filter(|ring| !served && ring.head != tail) else {
                break;
            };
            if queue.reserve(&shared.memory, 1) == 0 {
                break;
            }
            let at = ring
                .base
                .wrapping_add(u64::from(ring.head) * SQE_BYTES as u64);
            let mut bytes = [0; SQE_BYTES];
            if let Err(error) = shared.memory.read(GuestAddress(at), &mut bytes) {
                queue.release(1);
                if !matches!(error, MemoryError::Closed) {
                    shared.fail(core, "the admin submission queue lies outside guest memory");
                }
                break;
            }
            ring.head = (ring.head + 1) % ring.entries;
            core.admin = Some(ring);
            self.serve(core, &Command::from_bytes(&bytes));
        }
        if let (Some(pages), Some(ring)) = (core.pages, core.admin) {
            // Whatever the guest's next tail is, it passes this one.
            let at = GuestAddress(pages.event_indexes);
            drop(shared.memory.write_value(at, ring.head));
        }
    }

    fn serve(&self, core: &mut Core, command: &Command) {
        let shared = &*self.shared;
        match execute(self, core, command) {
            Ok(Reply::Done(result)) => {
                let status = super::status::Status::SUCCESS;
                shared.answer_admin(core, command.id(), status, result);
            }
            Ok(Reply::Later) => {}
            Ok(Reply::Parked) => {
                if let Some(queue) = shared.completion(0) {
                    queue.release(1);
                }
                shared.deliver_events(core);
            }
            Err(status) => {
                core.record(&Failure {
                    queue: 0,
                    command: command.id(),
                    status,
                    block: 0,
                    namespace: command.namespace(),
                });
                shared.answer_admin(core, command.id(), status.logged(), 0);
            }
        }
    }

    /// A write to doorbell `index`, counted from the first.
    fn doorbell(&self, index: u64, value: u32) {
        let (Ok(queue), is_head) = (u16::try_from(index / 2), index % 2 == 1) else {
            return;
        };
        let shared = &*self.shared;
        let entries = match (queue, is_head) {
            (0, false) => shared.core().admin.map_or(0, |ring| ring.entries),
            (_, false) => self.submission(queue).map_or(0, |queue| queue.entries()),
            (_, true) => shared.completion(queue).map_or(0, |queue| queue.entries()),
        };
        if entries == 0 {
            return shared.bad_doorbell(Event::InvalidDoorbellRegister);
        }
        let value = match u16::try_from(value) {
            Ok(value) if u32::from(value) < entries => value,
            _ => return shared.bad_doorbell(Event::InvalidDoorbellValue),
        };
        match (queue, is_head) {
            (0, false) => {
                self.admin_tail.write(value);
                let mut core = shared.core();
                self.serve_admin(&mut core);
                self.unlock(core);
            }
            (_, false) => {
                if let Some(queue) = self.submission(queue) {
                    queue.register.write(value);
                    queue.kick();
                }
            }
            (0, true) => {
                if shared.completion(0).is_some_and(|q| q.head_moved(value)) {
                    let mut core = shared.core();
                    shared.deliver_events(&mut core);
                    self.serve_admin(&mut core);
                    self.unlock(core);
                }
            }
            (_, true) => {
                let starved = shared
                    .completion(queue)
                    .is_some_and(|q| q.head_moved(value));
                if starved {
                    shared.kick_users_of(queue);
                }
            }
        }
    }
}

impl Endpoint for Nvme {
    fn function(&self) -> &Function {
        &self.shared.function
    }

    fn bar_read(&self, _bar: usize, offset: u64, data: &mut [u8]) {
        if offset >= DOORBELLS {
            // Doorbells are for writing.
            return data.fill(0);
        }
        let core = self.shared.core();
        REGISTERS.read(&mut Access { nvme: self, core }, offset, data);
    }

    fn bar_write(&self, _bar: usize, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(DOORBELLS) {
            // A doorbell is written whole. Narrower or unaligned accesses are undefined and do nothing.
            if offset % 4 == 0 {
                for (index, bytes) in (offset / 4..).zip(data.chunks_exact(4)) {
                    let value = bytes.try_into().map_or(0, u32::from_le_bytes);
                    self.doorbell(index, value);
                }
            }
            return;
        }
        let core = self.shared.core();
        let mut access = Access { nvme: self, core };
        REGISTERS.write(&mut access, offset, data);
        self.unlock(access.core);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let register = self.reset_register;
        let reset = (offset..)
            .zip(data)
            .any(|(at, byte)| at == register && byte & 1 != 0);
        if reset {
            self.power_on();
        } else {
            self.shared.function.config_write(offset, data);
        }
    }
}

/// The registers of a locked controller.
struct Access<'a> {
    nvme: &'a Nvme,
    core: MutexGuard<'a, Core>,
}

impl RegisterFile<Reg> for Access<'_> {
    fn read(&mut self, register: Reg) -> u64 {
        let core = &*self.core;
        match register {
            Reg::Capabilities => CAPABILITIES,
            Reg::Version => u64::from(VERSION),
            Reg::InterruptMaskSet | Reg::InterruptMaskClear => 0,
            Reg::Configuration => u64::from(core.configuration.0),
            Reg::Status => u64::from(core.status),
            Reg::AdminQueueAttributes => u64::from(core.admin_attributes),
            Reg::AdminSubmissionQueue => core.admin_submission,
            Reg::AdminCompletionQueue => core.admin_completion,
        }
    }

    fn write(&mut self, register: Reg, value: u64) {
        // The admin queues cannot move while they are in use.
        let fixed = self.core.configuration.enabled();
        match register {
            Reg::Configuration => self.nvme.configure(&mut self.core, value as u32),
            Reg::AdminQueueAttributes if !fixed => self.core.admin_attributes = value as u32,
            Reg::AdminSubmissionQueue if !fixed => self.core.admin_submission = value,
            Reg::AdminCompletionQueue if !fixed => self.core.admin_completion = value,
            _ => {}
        }
    }
}

impl std::fmt::Debug for Nvme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nvme")
            .field("config", &self.config)
            .field("disk", &self.disk)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_uuid_each_time_and_others_another() {
        let root = NvmeConfig::uuid_from_seed("root");
        assert_eq!(root, NvmeConfig::uuid_from_seed("root"));
        assert_ne!(root, NvmeConfig::uuid_from_seed("data"));
        assert_eq!(root.get_version_num(), 8);
    }

    #[test]
    fn the_doorbells_of_all_queues_fit_into_the_window() {
        assert!(DOORBELLS + 8 * (u64::from(IO_QUEUES_MAX) + 1) <= REGISTER_WINDOW);
    }
}
