//! The registers of both interfaces as tables, feature bits and status bits.
//!
//! Source: Virtio 1.2, 4.1.4.3 (modern), 4.1.4.10 (legacy), 2.1 (status), 6 (features).

use crate::bus::{Access, RegisterMap, Width, row};

/// Bits of the device status.
pub mod status {
    /// The guest has found the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest has a driver for it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// Features are agreed on.
    pub const FEATURES_OK: u8 = 8;
    /// The device has met an error and waits for a reset.
    pub const NEEDS_RESET: u8 = 0x40;
    /// The driver has given up.
    pub const FAILED: u8 = 0x80;
}

/// Feature bits of rings and transport.
pub mod feature {
    /// Chains may be tables elsewhere in memory.
    pub const RING_INDIRECT_DESC: u64 = 1 << 28;
    /// Both sides say which event they want to hear of.
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    /// Not a legacy device.
    pub const VERSION_1: u64 = 1 << 32;
    /// Queues can be reset one by one.
    pub const RING_RESET: u64 = 1 << 40;
}

/// In the ISR status: a queue has answers.
pub const ISR_QUEUE: u8 = 1;
/// In the ISR status: the device's configuration, or its need of a reset, has changed.
pub const ISR_CONFIG: u8 = 2;

/// No MSI-X vector.
pub const NO_VECTOR: u16 = 0xffff;

/// Registers of the common configuration and of the legacy interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    /// Which 32 of the device's features are shown.
    DeviceFeatureSelect,
    /// The device's features.
    DeviceFeature,
    /// Which 32 of the driver's features are set.
    DriverFeatureSelect,
    /// The driver's features.
    DriverFeature,
    /// Vector of configuration changes.
    ConfigVector,
    /// Number of queues.
    QueueCount,
    /// Device status.
    Status,
    /// Changes whenever the device's configuration does.
    ConfigGeneration,
    /// The queue that the registers below are of.
    QueueSelect,
    /// Its size.
    QueueSize,
    /// Its vector.
    QueueVector,
    /// Whether it is in use.
    QueueEnable,
    /// Where it is notified.
    QueueNotifyOffset,
    /// Its descriptor table.
    QueueDescriptors,
    /// Its available ring.
    QueueAvailable,
    /// Its used ring.
    QueueUsed,
    /// What to write when notifying it; without `NOTIF_CONFIG_DATA`, its index.
    QueueNotifyData,
    /// Resets it.
    QueueReset,
    /// Legacy: the queue's size, fixed.
    LegacyQueueSize,
    /// Legacy: the page where the queue lies.
    LegacyQueuePage,
    /// Legacy: write a queue's index to notify it.
    LegacyNotify,
    /// Legacy: interrupt status, cleared by reading.
    LegacyInterrupt,
}

const ALL16: Access = Access::ReadWrite { mask: 0xffff };
const ALL32: Access = Access::ReadWrite { mask: 0xffff_ffff };
const ALL64: Access = Access::ReadWrite { mask: u64::MAX };

/// The common configuration of the modern interface.
pub static COMMON: RegisterMap<Reg> = RegisterMap::new(&[
    row(Reg::DeviceFeatureSelect, 0x00, Width::U32, ALL32),
    row(Reg::DeviceFeature, 0x04, Width::U32, Access::ReadOnly),
    row(Reg::DriverFeatureSelect, 0x08, Width::U32, ALL32),
    row(Reg::DriverFeature, 0x0c, Width::U32, ALL32),
    row(Reg::ConfigVector, 0x10, Width::U16, ALL16),
    row(Reg::QueueCount, 0x12, Width::U16, Access::ReadOnly),
    row(
        Reg::Status,
        0x14,
        Width::U8,
        Access::ReadWrite { mask: 0xff },
    ),
    row(Reg::ConfigGeneration, 0x15, Width::U8, Access::ReadOnly),
    row(Reg::QueueSelect, 0x16, Width::U16, ALL16),
    row(Reg::QueueSize, 0x18, Width::U16, ALL16),
    row(Reg::QueueVector, 0x1a, Width::U16, ALL16),
    row(Reg::QueueEnable, 0x1c, Width::U16, ALL16),
    row(Reg::QueueNotifyOffset, 0x1e, Width::U16, Access::ReadOnly),
    row(Reg::QueueDescriptors, 0x20, Width::U64, ALL64),
    row(Reg::QueueAvailable, 0x28, Width::U64, ALL64),
    row(Reg::QueueUsed, 0x30, Width::U64, ALL64),
    row(Reg::QueueNotifyData, 0x38, Width::U16, Access::ReadOnly),
    row(Reg::QueueReset, 0x3a, Width::U16, ALL16),
]);

/// The legacy interface while MSI-X is off: the device's own configuration follows at 20.
pub static LEGACY: RegisterMap<Reg> = RegisterMap::new(&[
    row(Reg::DeviceFeature, 0x00, Width::U32, Access::ReadOnly),
    row(Reg::DriverFeature, 0x04, Width::U32, ALL32),
    row(Reg::LegacyQueuePage, 0x08, Width::U32, ALL32),
    row(Reg::LegacyQueueSize, 0x0c, Width::U16, Access::ReadOnly),
    row(Reg::QueueSelect, 0x0e, Width::U16, ALL16),
    row(Reg::LegacyNotify, 0x10, Width::U16, Access::Volatile),
    row(
        Reg::Status,
        0x12,
        Width::U8,
        Access::ReadWrite { mask: 0xff },
    ),
    row(Reg::LegacyInterrupt, 0x13, Width::U8, Access::ReadVolatile),
]);

/// The legacy interface while MSI-X is on: two vectors more, the device's configuration at 24.
pub static LEGACY_MSIX: RegisterMap<Reg> = RegisterMap::new(&[
    row(Reg::DeviceFeature, 0x00, Width::U32, Access::ReadOnly),
    row(Reg::DriverFeature, 0x04, Width::U32, ALL32),
    row(Reg::LegacyQueuePage, 0x08, Width::U32, ALL32),
    row(Reg::LegacyQueueSize, 0x0c, Width::U16, Access::ReadOnly),
    row(Reg::QueueSelect, 0x0e, Width::U16, ALL16),
    row(Reg::LegacyNotify, 0x10, Width::U16, Access::Volatile),
    row(
        Reg::Status,
        0x12,
        Width::U8,
        Access::ReadWrite { mask: 0xff },
    ),
    row(Reg::LegacyInterrupt, 0x13, Width::U8, Access::ReadVolatile),
    row(Reg::ConfigVector, 0x14, Width::U16, ALL16),
    row(Reg::QueueVector, 0x16, Width::U16, ALL16),
]);

/// Bytes of the legacy registers before the device's own configuration.
pub const fn legacy_header(msix: bool) -> u64 {
    if msix { 24 } else { 20 }
}
