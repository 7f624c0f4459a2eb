//! Virtio over PCI: capabilities, the modern and the legacy registers, negotiation and reset.
//!
//! ```text
//!   BAR 0  legacy registers, then the device's configuration (ports)
//!   BAR 1  MSI-X
//!   BAR 2  0x0000 common   0x1000 interrupt status   0x2000 device   0x3000 notify, 4 bytes a queue
//! ```
//!
//! Source: Virtio 1.2, chapter 3 (initialisation), 4.1 (PCI).

use std::fmt;
use std::sync::{Arc, MutexGuard};

use vm_types::{Clock, Execution, GuestMemory, MsiSink, Timers};

use super::device::Device;
use super::queue::QueueState;
use super::registers::{COMMON, LEGACY, LEGACY_MSIX, Reg, feature, legacy_header, status};
use super::ring::Layout;
use super::shared::{Registers, Shared};
use crate::bus::RegisterFile;
use crate::pci::{Bar, Endpoint, Function, FunctionError, Identity, IntxPin, config};

/// Window of the legacy registers.
pub const LEGACY_BAR: usize = 0;
/// Window of MSI-X.
pub const MSIX_BAR: usize = 1;
/// Window of the modern registers.
pub const MODERN_BAR: usize = 2;
/// Parts of the modern window, each a page long.
pub const COMMON_OFFSET: u64 = 0x0000;
/// The interrupt status.
pub const ISR_OFFSET: u64 = 0x1000;
/// The device's own configuration.
pub const DEVICE_OFFSET: u64 = 0x2000;
/// The notification area.
pub const NOTIFY_OFFSET: u64 = 0x3000;
/// Bytes between the notification addresses of two queues.
pub const NOTIFY_STRIDE: u64 = 4;

const LEGACY_WINDOW: u64 = 128;
const MODERN_WINDOW: u64 = 0x4000;
const PAGE: u64 = 0x1000;
const VENDOR: u16 = 0x1af4;
/// Capability id: vendor-specific.
const CAP_VENDOR: u8 = 0x09;
/// In a capability, where the access through configuration space stands.
const ACCESS_DATA: u16 = 16;

/// Which interfaces a device offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interface {
    /// Both: drivers of any age work.
    #[default]
    Transitional,
    /// Virtio 1.0 and later only.
    Modern,
    /// Before 1.0 only, as some other monitors' block devices.
    Legacy,
}

/// The handles that a virtio device is given.
#[derive(Clone, Debug)]
pub struct VirtioPorts {
    /// Guest memory. Reached only while bus mastering is on.
    pub memory: GuestMemory,
    /// Where MSI-X messages go.
    pub msi: MsiSink,
    /// Latencies and rate limits.
    pub clock: Clock,
    /// The machine's timers, for disks with rate limits in inline execution.
    pub timers: Option<Timers>,
    /// A worker thread for each queue of a disk, or all work on the thread that notifies.
    pub execution: Execution,
}

/// What one kind of device is on PCI.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// Virtio device id: 2 for block.
    pub(super) id: u16,
    /// PCI device id of the transitional device.
    pub(super) transitional: u16,
    /// PCI class code.
    pub(super) class: u32,
}

/// A virtio device on PCI. [`Virtio::block`] and [`Virtio::entropy`] make one.
pub struct Virtio {
    pub(super) shared: Arc<Shared>,
    pub(super) device: Arc<dyn Device>,
    /// All features that the device offers.
    offered: u64,
    interface: Interface,
    /// Where in configuration space the capability for accesses from there stands.
    access: Option<u16>,
}

impl Virtio {
    /// Builds function, queues and device. Errors: a mistake in this module's declarations.
    pub(super) fn new(
        name: &str,
        ports: &VirtioPorts,
        kind: Kind,
        interface: Interface,
        queue_sizes: &[u16],
        device: impl FnOnce(&Arc<Shared>) -> Arc<dyn Device>,
    ) -> Result<Arc<Self>, FunctionError> {
        let modern_only = interface == Interface::Modern;
        let identity = Identity {
            vendor: VENDOR,
            device: if modern_only {
                0x1040 + kind.id
            } else {
                kind.transitional
            },
            class: kind.class,
            revision: u8::from(modern_only),
            subsystem_vendor: VENDOR,
            subsystem: kind.id,
        };
        let vectors = queue_sizes.len() as u16 + 1;
        let mut builder = Function::builder(identity).interrupt_pin(IntxPin::A).msix(
            MSIX_BAR,
            vectors,
            ports.msi.clone(),
        );
        let mut access = None;
        if !modern_only {
            builder = builder.bar(LEGACY_BAR, Bar::ports(LEGACY_WINDOW));
        }
        if interface != Interface::Legacy {
            builder = builder.bar(MODERN_BAR, Bar::memory32(MODERN_WINDOW));
            for (kind, offset) in [(1, COMMON_OFFSET), (3, ISR_OFFSET), (4, DEVICE_OFFSET)] {
                builder = builder.capability(CAP_VENDOR, &window(kind, offset), &[]);
            }
            let mut notify = window(2, NOTIFY_OFFSET).to_vec();
            notify.extend_from_slice(&(NOTIFY_STRIDE as u32).to_le_bytes());
            notify[0] = 20;
            builder = builder.capability(CAP_VENDOR, &notify, &[]);
            access = Some(builder.next_capability_offset());
            // Bar, offset, length and data are the driver's to write.
            let mut writable = [0; 18];
            writable[2] = 0xff;
            writable[6..].fill(0xff);
            let mut body = [0; 18];
            (body[0], body[1]) = (20, 5);
            builder = builder.capability(CAP_VENDOR, &body, &writable);
        }
        let memory = ports.memory.gated(&builder.dma_gate());
        let function = builder.build()?;
        let shared = Arc::new(Shared::new(name.to_owned(), function, memory, queue_sizes));
        let device = device(&shared);
        let mut offered = device.features() | feature::RING_INDIRECT_DESC | feature::RING_EVENT_IDX;
        if interface != Interface::Legacy {
            offered |= feature::VERSION_1 | feature::RING_RESET;
        }
        Ok(Arc::new(Self {
            shared,
            device,
            offered,
            interface,
            access,
        }))
    }

    /// All features that the device offers to a driver of the modern interface.
    pub fn offered_features(&self) -> u64 {
        self.offered
    }

    /// Whether every feature of `features` is one that was offered.
    pub(super) fn offers(&self, features: u64) -> bool {
        features & !self.offered == 0
    }

    fn registers(&self, legacy: bool) -> Access<'_> {
        Access {
            virtio: self,
            registers: self.shared.registers(),
            legacy,
            notify: Notify::Nobody,
        }
    }

    /// Back to what a driver finds first. In-flight requests end later and go nowhere.
    pub(super) fn reset_device(&self, registers: &mut Registers) {
        let before = registers.status | registers.status_before_reset;
        *registers = Registers {
            status_before_reset: before,
            ..Registers::POWER_ON
        };
        self.shared.set_running(false);
        self.shared.agree(0);
        for queue in &self.shared.queues {
            queue.lock().reset();
        }
        self.shared.set_interrupt_status(0);
        self.device.reset();
    }

    /// Tells the device of all queues: after a pause, or when memory can be reached again.
    pub(super) fn notify_all(&self) {
        for index in 0..self.shared.queues.len() as u16 {
            self.notify(index);
        }
    }

    fn notify(&self, index: u16) {
        if usize::from(index) < self.shared.queues.len() {
            self.device.notify(index);
        }
    }

    fn modern_read(&self, offset: u64, data: &mut [u8]) {
        let (part, at) = (offset & !(PAGE - 1), offset % PAGE);
        match part {
            COMMON_OFFSET => COMMON.read(&mut self.registers(false), at, data),
            ISR_OFFSET => {
                data.fill(0);
                if let (0, Some(first)) = (at, data.first_mut()) {
                    *first = self.shared.take_interrupt();
                }
            }
            DEVICE_OFFSET => self.device.config_read(at, data),
            _ => data.fill(0),
        }
    }

    fn modern_write(&self, offset: u64, data: &[u8]) {
        let (part, at) = (offset & !(PAGE - 1), offset % PAGE);
        match part {
            COMMON_OFFSET => {
                let mut access = self.registers(false);
                COMMON.write(&mut access, at, data);
                access.finish();
            }
            DEVICE_OFFSET => self.device.config_write(at, data),
            // The address says which queue; what is written says it again.
            NOTIFY_OFFSET if at % NOTIFY_STRIDE == 0 => self.notify((at / NOTIFY_STRIDE) as u16),
            _ => {}
        }
    }

    fn legacy_read(&self, offset: u64, data: &mut [u8]) {
        let msix = self.shared.uses_msix();
        let map = if msix { &LEGACY_MSIX } else { &LEGACY };
        map.read(&mut self.registers(true), offset, data);
        let (inside, skipped) = past(legacy_header(msix), offset, data.len());
        if let Some(rest) = data.get_mut(skipped..).filter(|rest| !rest.is_empty()) {
            self.device.config_read(inside, rest);
        }
    }

    fn legacy_write(&self, offset: u64, data: &[u8]) {
        let msix = self.shared.uses_msix();
        let map = if msix { &LEGACY_MSIX } else { &LEGACY };
        let mut access = self.registers(true);
        map.write(&mut access, offset, data);
        access.finish();
        let (inside, skipped) = past(legacy_header(msix), offset, data.len());
        if let Some(rest) = data.get(skipped..).filter(|rest| !rest.is_empty()) {
            self.device.config_write(inside, rest);
        }
    }

    /// The window access that the capability in configuration space describes: bar, offset, length.
    fn described_access(&self, capability: u16) -> Option<(usize, u64, usize)> {
        let byte = |at: u16| self.shared.function.config_u8(capability + at);
        let word =
            |at: u16| u32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]);
        let (bar, offset, length) = (usize::from(byte(4)), u64::from(word(8)), word(12));
        let window = match bar {
            LEGACY_BAR if self.interface != Interface::Modern => LEGACY_WINDOW,
            MODERN_BAR => MODERN_WINDOW,
            _ => return None,
        };
        let fits = matches!(length, 1 | 2 | 4) && offset + u64::from(length) <= window;
        (fits && offset % u64::from(length) == 0).then_some((bar, offset, length as usize))
    }
}

/// A capability that names a page of the modern window, without id and link.
fn window(kind: u8, offset: u64) -> [u8; 14] {
    let mut body = [0; 14];
    (body[0], body[1], body[2]) = (16, kind, MODERN_BAR as u8);
    body[6..10].copy_from_slice(&(offset as u32).to_le_bytes());
    body[10..].copy_from_slice(&(PAGE as u32).to_le_bytes());
    body
}

/// Of an access at `offset`, the part from `header` on: its offset behind the header, and how many
/// bytes of the access come before it.
fn past(header: u64, offset: u64, length: usize) -> (u64, usize) {
    let skipped = header.saturating_sub(offset).min(length as u64);
    ((offset + skipped).saturating_sub(header), skipped as usize)
}

impl Endpoint for Virtio {
    fn function(&self) -> &Function {
        &self.shared.function
    }

    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        match bar {
            LEGACY_BAR => self.legacy_read(offset, data),
            MODERN_BAR => self.modern_read(offset, data),
            _ => data.fill(0xff),
        }
    }

    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) {
        match bar {
            LEGACY_BAR => self.legacy_write(offset, data),
            MODERN_BAR => self.modern_write(offset, data),
            _ => {}
        }
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) {
        if let Some(capability) = self.access.filter(|at| at + ACCESS_DATA == offset)
            && let Some((bar, at, length)) = self.described_access(capability)
        {
            let mut bytes = [0; 4];
            self.bar_read(bar, at, &mut bytes[..length]);
            for (to, from) in data.iter_mut().zip(bytes) {
                *to = from;
            }
            return;
        }
        self.shared.function.config_read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let before = self.shared.function.command();
        self.shared.function.config_write(offset, data);
        if let Some(capability) = self.access.filter(|at| at + ACCESS_DATA == offset)
            && let Some((bar, at, length)) = self.described_access(capability)
            && let Some(data) = data.get(..length)
        {
            self.bar_write(bar, at, data);
        }
        let opened = self.shared.function.command() & !before;
        if opened & config::command::BUS_MASTER != 0 {
            // What was notified while memory was closed has not been looked at.
            self.notify_all();
        }
    }
}

/// Whom to notify when the registers are unlocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notify {
    Nobody,
    Queue(u16),
    All,
    /// The device: what it has in flight is wanted no more.
    GiveUp,
}

/// The registers, locked, as one of the interfaces shows them.
struct Access<'a> {
    virtio: &'a Virtio,
    registers: MutexGuard<'a, Registers>,
    legacy: bool,
    notify: Notify,
}

impl Access<'_> {
    fn finish(self) {
        let Self {
            virtio,
            registers,
            notify,
            ..
        } = self;
        drop(registers);
        match notify {
            Notify::Nobody => {}
            Notify::Queue(index) => virtio.notify(index),
            Notify::All => virtio.notify_all(),
            Notify::GiveUp => virtio.device.give_up(),
        }
    }

    /// Reads from, or writes to, the selected queue. A queue that does not exist reads as zero.
    fn queue(&self, body: impl FnOnce(&mut QueueState) -> u64) -> u64 {
        match self.virtio.shared.queue(self.registers.queue_select) {
            Some(queue) => body(&mut queue.lock()),
            None => 0,
        }
    }

    /// Changes the selected queue's layout, which is fixed while the queue is in use.
    fn place(&self, change: impl FnOnce(&mut QueueState)) {
        self.queue(|queue| {
            if !queue.is_enabled() {
                change(queue);
            }
            0
        });
    }

    fn set_driver_features(&mut self, value: u32) {
        if self.registers.status & status::FEATURES_OK != 0 {
            return;
        }
        let registers = &mut *self.registers;
        let shift = match (self.legacy, registers.driver_feature_select) {
            (true, _) | (_, 0) => 0,
            (_, 1) => 32,
            _ => return,
        };
        registers.driver_features &= !(0xffff_ffff << shift);
        registers.driver_features |= u64::from(value) << shift;
        if self.legacy {
            // There is no bit by which a legacy driver says that it is done: what it may use, it has.
            let features = registers.driver_features & self.virtio.offered & 0xffff_ffff;
            self.virtio.shared.agree(features);
        }
    }

    fn set_status(&mut self, value: u8) {
        let virtio = self.virtio;
        if value == 0 {
            virtio.reset_device(&mut self.registers);
            if virtio.shared.is_draining() {
                self.notify = Notify::GiveUp;
            }
            return;
        }
        let legacy = self.legacy;
        let registers = &mut *self.registers;
        registers.legacy = legacy;
        let mut added = value & !registers.status & !status::NEEDS_RESET;
        if added & status::FEATURES_OK != 0 {
            let features = registers.driver_features;
            let good = virtio.offers(features) && features & feature::VERSION_1 != 0;
            if legacy || !good {
                added &= !status::FEATURES_OK;
            } else {
                virtio.shared.agree(features);
            }
        }
        registers.status |= added;
        let ready = legacy || registers.status & status::FEATURES_OK != 0;
        if added & status::DRIVER_OK != 0 && ready {
            let well = registers.status & (status::NEEDS_RESET | status::FAILED) == 0;
            virtio.shared.set_running(well);
            self.notify = Notify::All;
        }
        if added & status::FAILED != 0 {
            virtio.shared.set_running(false);
        }
    }

    /// The driver puts the selected queue into use.
    fn enable(&mut self) {
        if self.registers.status & status::FEATURES_OK == 0 {
            return;
        }
        let index = self.registers.queue_select;
        let Some(queue) = self.virtio.shared.queue(index) else {
            return;
        };
        let enabled = queue.lock().enable();
        match enabled {
            Ok(()) => self.notify = Notify::Queue(index),
            Err(reason) => self.virtio.shared.need_reset(&mut self.registers, reason),
        }
    }

    /// A legacy driver gives the selected queue its place; page zero takes it out of use.
    fn set_page(&mut self, page: u32) {
        let Some(queue) = self.virtio.shared.queue(self.registers.queue_select) else {
            return;
        };
        let enabled = {
            let mut queue = queue.lock();
            queue.disable();
            queue.page = page;
            queue.layout = Layout::legacy(queue.size_max(), page);
            if page == 0 { Ok(()) } else { queue.enable() }
        };
        match enabled {
            Err(reason) => self.virtio.shared.need_reset(&mut self.registers, reason),
            Ok(()) if page != 0 => {
                // Some legacy drivers use queues before they say DRIVER_OK (3.1.2).
                let well = self.registers.status & (status::NEEDS_RESET | status::FAILED) == 0;
                self.virtio.shared.set_running(well);
            }
            Ok(()) => {}
        }
    }
}

impl RegisterFile<Reg> for Access<'_> {
    fn read(&mut self, register: Reg) -> u64 {
        let shared = &*self.virtio.shared;
        let registers = &*self.registers;
        let offered = self.virtio.offered;
        match register {
            Reg::DeviceFeatureSelect => u64::from(registers.device_feature_select),
            Reg::DeviceFeature => match (self.legacy, registers.device_feature_select) {
                (true, _) | (_, 0) => offered & 0xffff_ffff,
                (_, 1) => offered >> 32,
                _ => 0,
            },
            Reg::DriverFeatureSelect => u64::from(registers.driver_feature_select),
            Reg::DriverFeature => match (self.legacy, registers.driver_feature_select) {
                (true, _) | (_, 0) => registers.driver_features & 0xffff_ffff,
                (_, 1) => registers.driver_features >> 32,
                _ => 0,
            },
            Reg::ConfigVector => u64::from(registers.config_vector),
            Reg::QueueCount => shared.queues.len() as u64,
            Reg::Status if registers.status == 0 && shared.is_draining() => {
                u64::from(registers.status_before_reset)
            }
            Reg::Status => u64::from(registers.status),
            // Nothing in the configurations that we show changes by itself.
            Reg::ConfigGeneration => 0,
            Reg::QueueSelect => u64::from(registers.queue_select),
            Reg::QueueSize => self.queue(|queue| u64::from(queue.layout.size)),
            Reg::QueueVector => self.queue(|queue| u64::from(queue.vector)),
            Reg::QueueEnable => self.queue(|queue| u64::from(queue.is_enabled())),
            Reg::QueueNotifyOffset | Reg::QueueNotifyData => {
                self.queue(|_| u64::from(registers.queue_select))
            }
            Reg::QueueDescriptors => self.queue(|queue| queue.layout.descriptors),
            Reg::QueueAvailable => self.queue(|queue| queue.layout.available),
            Reg::QueueUsed => self.queue(|queue| queue.layout.used),
            Reg::QueueReset => self.queue(|queue| u64::from(queue.is_draining())),
            Reg::LegacyQueueSize => self.queue(|queue| u64::from(queue.size_max())),
            Reg::LegacyQueuePage => self.queue(|queue| u64::from(queue.page)),
            Reg::LegacyNotify => 0,
            Reg::LegacyInterrupt => u64::from(shared.take_interrupt()),
        }
    }

    fn write(&mut self, register: Reg, value: u64) {
        let shared = &*self.virtio.shared;
        match register {
            Reg::DeviceFeatureSelect => self.registers.device_feature_select = value as u32,
            Reg::DriverFeatureSelect => self.registers.driver_feature_select = value as u32,
            Reg::DriverFeature => self.set_driver_features(value as u32),
            Reg::ConfigVector => {
                self.registers.config_vector = shared.usable_vector(value as u16);
            }
            Reg::Status => self.set_status(value as u8),
            Reg::QueueSelect => self.registers.queue_select = value as u16,
            Reg::QueueSize => self.place(|queue| queue.set_size(value as u16)),
            Reg::QueueVector => {
                let vector = shared.usable_vector(value as u16);
                self.queue(|queue| {
                    queue.vector = vector;
                    0
                });
            }
            Reg::QueueEnable if value == 1 => self.enable(),
            Reg::QueueDescriptors => self.place(|queue| queue.layout.descriptors = value),
            Reg::QueueAvailable => self.place(|queue| queue.layout.available = value),
            Reg::QueueUsed => self.place(|queue| queue.layout.used = value),
            Reg::QueueReset if value == 1 && shared.has(feature::RING_RESET) => {
                self.queue(|queue| {
                    queue.reset();
                    0
                });
                self.notify = Notify::GiveUp;
            }
            Reg::LegacyQueuePage => self.set_page(value as u32),
            Reg::LegacyNotify => self.notify = Notify::Queue(value as u16),
            Reg::QueueEnable
            | Reg::QueueReset
            | Reg::DeviceFeature
            | Reg::QueueCount
            | Reg::ConfigGeneration
            | Reg::QueueNotifyOffset
            | Reg::QueueNotifyData
            | Reg::LegacyQueueSize
            | Reg::LegacyInterrupt => {}
        }
    }
}

impl fmt::Debug for Virtio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Virtio")
            .field("kind", &self.device.kind())
            .field("shared", &self.shared)
            .field("interface", &self.interface)
            .finish_non_exhaustive()
    }
}
