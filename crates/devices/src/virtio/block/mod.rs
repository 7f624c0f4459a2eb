//! The block device: a [`block::Disk`] behind virtio queues.
//!
//! `command` (what a chain asks), `config` (what the driver reads), `queue` (fetching and answering).

mod command;

pub mod config;

mod queue;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use block::{AttachOptions, Attachment, Disk, Source};
use serde_json::Value;
use vm_types::{Clock, Execution, Timers};

pub use command::Status;

use self::config::BlockConfiguration;
use self::queue::BlockQueue;
use super::device::Device;
use super::transport::{Interface, Kind, Virtio, VirtioPorts};
use crate::pci::FunctionError;

const BLOCK: Kind = Kind {
    id: 2,
    transitional: 0x1001,
    class: 0x01_00_00,
};

/// What a block device is called and how much of everything it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockConfig {
    /// Unique in the machine, for logs, threads and snapshots.
    pub name: String,
    /// The disk's name to the guest; ASCII, the first 20 bytes count.
    pub serial: String,
    /// Request queues, 1 to 64.
    pub queues: u16,
    /// Entries of each: a power of two from 2 to 1024.
    pub queue_size: u16,
    /// Which interfaces are offered.
    pub interface: Interface,
}

impl BlockConfig {
    /// One queue of 256 entries, both interfaces.
    pub fn new(name: &str, serial: &str) -> Self {
        Self {
            name: name.to_owned(),
            serial: serial.to_owned(),
            queues: 1,
            queue_size: 256,
            interface: Interface::Transitional,
        }
    }
}

struct BlockDevice {
    name: String,
    queues: Box<[Arc<BlockQueue>]>,
    config: Arc<BlockConfiguration>,
    disk: Disk,
    execution: Execution,
    clock: Clock,
    timers: Option<Timers>,
    depth: u32,
    paused: AtomicBool,
}

impl Virtio {
    /// A block device over `disk`. Numbers out of range are brought into it. Errors: a mistake in this
    /// module's own declarations.
    pub fn block(
        ports: &VirtioPorts,
        disk: &Disk,
        config: &BlockConfig,
    ) -> Result<Arc<Self>, FunctionError> {
        let count = config.queues.clamp(1, 64);
        let size = config.queue_size.clamp(2, 1024).next_power_of_two();
        let configuration = Arc::new(BlockConfiguration::new(disk.info(), count, size));
        let sizes = vec![size; usize::from(count)];
        Self::new(
            &config.name,
            ports,
            BLOCK,
            config.interface,
            &sizes,
            |shared| {
                let queue = |index| {
                    Arc::new(BlockQueue::new(
                        shared.clone(),
                        index,
                        configuration.clone(),
                        &config.serial,
                        u32::from(size),
                    ))
                };
                Arc::new(BlockDevice {
                    name: config.name.clone(),
                    queues: (0..count).map(queue).collect(),
                    config: configuration.clone(),
                    disk: disk.clone(),
                    execution: ports.execution,
                    clock: ports.clock.clone(),
                    timers: ports.timers.clone(),
                    depth: u32::from(size),
                    paused: AtomicBool::new(false),
                })
            },
        )
    }
}

impl BlockDevice {
    fn attachments(&self) -> impl Iterator<Item = &Attachment> + Clone {
        self.queues.iter().filter_map(|queue| queue.attachment())
    }

    fn attach(&self, index: u16, queue: &Arc<BlockQueue>) -> std::io::Result<Attachment> {
        let options = AttachOptions {
            clock: Some(self.clock.clone()),
            timers: self.timers.clone(),
            ..AttachOptions::new(
                &format!("{}-q{index}", self.name),
                self.execution,
                self.depth,
            )
        };
        let source: Weak<dyn Source> = Arc::<BlockQueue>::downgrade(queue);
        self.disk.attach(source, options)
    }
}

impl Device for BlockDevice {
    fn kind(&self) -> &'static str {
        "virtio-block"
    }

    fn features(&self) -> u64 {
        self.config.features()
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_write(&self, offset: u64, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn notify(&self, index: u16) {
        // A queue that is attached is paused itself; one that is not must not come to life now.
        if self.paused.load(Ordering::SeqCst) {
            return;
        }
        if let Some(queue) = self.queues.get(usize::from(index)) {
            queue.kick(|| self.attach(index, queue));
        }
    }

    fn reset(&self) {
        self.config.reset();
    }

    fn give_up(&self) {
        for queue in &self.queues {
            if let (true, Some(attachment)) = (queue.is_draining(), queue.attachment()) {
                attachment.give_up();
            }
        }
    }

    fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
        if !Attachment::pause_all(self.attachments()) {
            tracing::warn!(device = self.name, "paused with requests at the disk");
        }
    }

    fn resume(&self) {
        self.paused.store(false, Ordering::SeqCst);
        self.attachments().for_each(Attachment::resume);
    }

    fn halt(&self) {
        Attachment::detach_all(self.attachments());
    }

    fn save(&self) -> Value {
        Value::Bool(self.config.writeback())
    }

    fn restore(&self, saved: &Value) -> Result<(), String> {
        let writeback = saved
            .as_bool()
            .ok_or("the write cache is neither on nor off")?;
        self.config.set_writeback(writeback);
        Ok(())
    }
}
