//! What stands behind a virtio transport.

use serde_json::Value;

/// A kind of virtio device, on any transport.
///
/// All methods may be called from any vCPU's thread. None is called with a queue locked.
pub(super) trait Device: Send + Sync {
    /// For snapshots: `virtio-block`, say.
    fn kind(&self) -> &'static str;

    /// Features of this kind of device (bits 0 to 23 and 50 up).
    fn features(&self) -> u64;

    /// Reads the device's configuration; what is not there reads as zero.
    fn config_read(&self, offset: u64, data: &mut [u8]);

    /// Writes the device's configuration.
    fn config_write(&self, _offset: u64, _data: &[u8]) {}

    /// There may be chains in queue `queue`.
    fn notify(&self, queue: u16);

    /// The driver has reset the device: forget what it has set. Called with the registers locked; must
    /// not reach for the transport.
    fn reset(&self) {}

    /// The driver has reset the device or a queue while requests were in flight: those of queues that drain are wanted
    /// no more. Called without a lock.
    fn give_up(&self) {}

    /// Finish what is in flight, start nothing.
    fn pause(&self) {}

    /// Work again.
    fn resume(&self) {}

    /// Let go of threads and files.
    fn halt(&self) {}

    /// What the driver has set, beyond the transport's registers.
    fn save(&self) -> Value {
        Value::Null
    }

    /// Takes back what `save` gave. Errors say what is wrong.
    fn restore(&self, _saved: &Value) -> Result<(), String> {
        Ok(())
    }
}
