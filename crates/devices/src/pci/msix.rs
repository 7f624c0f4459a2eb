//! MSI-X: the vector table, the pending bits, and delivery.
//!
//! Source: PCI Local Bus 3.0, 6.8.2 and 6.8.3. The table stands at the start of its window, the pending
//! bits at the next 4 KiB boundary behind it.
//!
//! Each vector has its own small lock, so that two queues of a device do not meet here. A vector that
//! fires while it or the whole function is masked becomes pending and is sent when the mask goes; both
//! sides look at the masks under the vector's lock, so that none is lost or sent twice.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::sync::lock;
use vm_types::{MsiMessage, MsiSink};

/// Bytes of a table entry.
const ENTRY_BYTES: u64 = 16;
/// The per-vector mask, bit 0 of an entry's last word.
const VECTOR_MASKED: u32 = 1;

/// The most vectors that the capability can announce.
pub const VECTORS_MAX: u16 = 2048;

/// One function's MSI-X state.
pub struct Msix {
    sink: MsiSink,
    enabled: AtomicBool,
    function_masked: AtomicBool,
    vectors: Box<[Mutex<Vector>]>,
}

/// One table entry and its pending bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Vector {
    address: u64,
    data: u32,
    control: u32,
    pending: bool,
}

impl Vector {
    const RESET: Self = Self {
        address: 0,
        data: 0,
        control: VECTOR_MASKED,
        pending: false,
    };

    fn message(&self) -> MsiMessage {
        MsiMessage {
            address: self.address,
            data: self.data,
        }
    }

    fn word(&self, index: u64) -> u32 {
        match index {
            0 => self.address as u32,
            1 => (self.address >> 32) as u32,
            2 => self.data,
            _ => self.control,
        }
    }

    fn set_word(&mut self, index: u64, value: u32) {
        match index {
            // The two lowest address bits are wired to zero.
            0 => self.address = self.address & !0xffff_ffff | u64::from(value & !3),
            1 => self.address = self.address & 0xffff_ffff | u64::from(value) << 32,
            2 => self.data = value,
            _ => self.control = value & VECTOR_MASKED,
        }
    }
}

/// The saved state of [`Msix`]: only vectors that differ from their reset state.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct MsixState {
    enabled: bool,
    function_masked: bool,
    vectors: Vec<(u16, Vector)>,
}

impl Msix {
    /// `vectors` (1 to [`VECTORS_MAX`], clamped) masked vectors that send through `sink`.
    pub fn new(vectors: u16, sink: MsiSink) -> Self {
        let count = usize::from(vectors.clamp(1, VECTORS_MAX));
        Self {
            sink,
            enabled: AtomicBool::new(false),
            function_masked: AtomicBool::new(false),
            vectors: (0..count).map(|_| Mutex::new(Vector::RESET)).collect(),
        }
    }

    /// Vectors in the table.
    pub fn vector_count(&self) -> u16 {
        self.vectors.len() as u16
    }

    /// Whether the guest has turned MSI-X on.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::SeqCst)
    }

    /// Sends vector `index`, or notes it as pending while it is masked. Without MSI-X enabled, or for a
    /// vector that does not exist, nothing happens.
    pub fn fire(&self, index: u16) {
        let Some(mut vector) = self.vector(u64::from(index)) else {
            return;
        };
        if !self.is_enabled() {
            return;
        }
        if self.function_masked.load(Ordering::SeqCst) || vector.control & VECTOR_MASKED != 0 {
            vector.pending = true;
        } else {
            // Sent under the lock: a guest that masks the vector sees none of it afterwards.
            self.sink.send(vector.message());
        }
    }

    /// Offset of the pending bits in the window.
    pub fn pending_offset(&self) -> u64 {
        (self.vectors.len() as u64 * ENTRY_BYTES).next_multiple_of(4096)
    }

    /// Bytes of the window that holds table and pending bits, a power of two.
    pub fn window_size(&self) -> u64 {
        (self.pending_offset() + self.pending_bytes()).next_power_of_two()
    }

    fn pending_bytes(&self) -> u64 {
        (self.vectors.len() as u64).div_ceil(64) * 8
    }

    /// Reads the window; what is neither table nor pending bits reads as zero.
    pub fn bar_read(&self, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            let word = self.read_word(at & !3);
            *byte = word.to_le_bytes()[(at & 3) as usize];
        }
    }

    fn read_word(&self, offset: u64) -> u32 {
        if let Some(vector) = self.vector(offset / ENTRY_BYTES) {
            return vector.word(offset % ENTRY_BYTES / 4);
        }
        match offset.checked_sub(self.pending_offset()) {
            Some(pending) if pending < self.pending_bytes() => {
                let first = pending * 8;
                (0..32)
                    .filter(|bit| self.vector(first + bit).is_some_and(|v| v.pending))
                    .fold(0, |word, bit| word | 1 << bit)
            }
            _ => 0,
        }
    }

    /// Writes the window. Only whole aligned words count (the specification asks for 4- and 8-byte
    /// accesses); everything else and the pending bits ignore writes.
    pub fn bar_write(&self, offset: u64, data: &[u8]) {
        if !offset.is_multiple_of(4) {
            return;
        }
        for (index, bytes) in data.chunks_exact(4).enumerate() {
            let at = offset + index as u64 * 4;
            let value = bytes.try_into().map_or(0, u32::from_le_bytes);
            if let Some(mut vector) = self.vector(at / ENTRY_BYTES) {
                vector.set_word(at % ENTRY_BYTES / 4, value);
                self.deliver_pending(&mut vector);
            }
        }
    }

    /// The guest wrote the enable and function mask bits of the capability.
    pub(super) fn set_control(&self, enabled: bool, function_masked: bool) {
        self.enabled.store(enabled, Ordering::SeqCst);
        self.function_masked
            .store(function_masked, Ordering::SeqCst);
        if enabled && !function_masked {
            for index in 0..self.vectors.len() as u64 {
                if let Some(mut vector) = self.vector(index) {
                    self.deliver_pending(&mut vector);
                }
            }
        }
    }

    pub(super) fn function_masked(&self) -> bool {
        self.function_masked.load(Ordering::SeqCst)
    }

    fn deliver_pending(&self, vector: &mut Vector) {
        let open = self.is_enabled() && !self.function_masked.load(Ordering::SeqCst);
        if vector.pending && open && vector.control & VECTOR_MASKED == 0 {
            vector.pending = false;
            self.sink.send(vector.message());
        }
    }

    /// Back to the power-on state: disabled, all vectors masked, nothing pending.
    pub(super) fn reset(&self) {
        self.enabled.store(false, Ordering::SeqCst);
        self.function_masked.store(false, Ordering::SeqCst);
        for index in 0..self.vectors.len() as u64 {
            if let Some(mut vector) = self.vector(index) {
                *vector = Vector::RESET;
            }
        }
    }

    pub(super) fn save(&self) -> MsixState {
        let vectors = (0..self.vector_count())
            .filter_map(|index| {
                let vector = *self.vector(u64::from(index))?;
                (vector != Vector::RESET).then_some((index, vector))
            })
            .collect();
        MsixState {
            enabled: self.is_enabled(),
            function_masked: self.function_masked(),
            vectors,
        }
    }

    /// Takes back a saved state. Fails, with nothing changed, if it names a vector that is not here.
    pub(super) fn restore(&self, state: &MsixState) -> Result<(), String> {
        if let Some((index, _)) = state
            .vectors
            .iter()
            .find(|(index, _)| *index >= self.vector_count())
        {
            return Err(format!("MSI-X vector {index} of {}", self.vector_count()));
        }
        self.reset();
        for (index, saved) in &state.vectors {
            if let Some(mut vector) = self.vector(u64::from(*index)) {
                *vector = *saved;
                vector.control &= VECTOR_MASKED;
                vector.address &= !3;
            }
        }
        self.function_masked
            .store(state.function_masked, Ordering::SeqCst);
        self.enabled.store(state.enabled, Ordering::SeqCst);
        Ok(())
    }

    fn vector(&self, index: u64) -> Option<MutexGuard<'_, Vector>> {
        let vector = self.vectors.get(usize::try_from(index).ok()?)?;
        Some(lock(vector))
    }
}

impl fmt::Debug for Msix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Msix")
            .field("vectors", &self.vectors.len())
            .field("enabled", &self.enabled)
            .field("function_masked", &self.function_masked)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programmed() -> (Msix, vm_types::RecordedMessages) {
        let (sink, record) = MsiSink::recording();
        let msix = Msix::new(70, sink);
        for vector in 0..70u64 {
            msix.bar_write(vector * 16, &0xfee0_1000u64.to_le_bytes());
            msix.bar_write(vector * 16 + 8, &(0x40 + vector as u32).to_le_bytes());
            msix.bar_write(vector * 16 + 12, &0u32.to_le_bytes());
        }
        msix.set_control(true, false);
        (msix, record)
    }

    fn data_of(record: &vm_types::RecordedMessages) -> Vec<u32> {
        record.take().iter().map(|message| message.data).collect()
    }

    #[test]
    fn a_masked_vector_pends_and_is_sent_once_on_unmask() {
        let (msix, record) = programmed();
        msix.bar_write(65 * 16 + 12, &1u32.to_le_bytes());
        msix.fire(65);
        msix.fire(65);
        assert!(record.take().is_empty());
        let mut pending = [0; 8];
        msix.bar_read(msix.pending_offset() + 8, &mut pending);
        assert_eq!(u64::from_le_bytes(pending), 2);
        msix.bar_write(65 * 16 + 12, &0u32.to_le_bytes());
        assert_eq!(data_of(&record), [0x40 + 65]);
        msix.bar_read(msix.pending_offset() + 8, &mut pending);
        assert_eq!(pending, [0; 8]);
    }

    #[test]
    fn the_function_mask_holds_all_vectors_back() {
        let (msix, record) = programmed();
        msix.set_control(true, true);
        msix.fire(3);
        msix.fire(0);
        assert!(record.take().is_empty());
        msix.set_control(true, false);
        assert_eq!(data_of(&record), [0x40, 0x43]);
    }

    #[test]
    fn nothing_is_sent_or_noted_while_disabled() {
        let (msix, record) = programmed();
        msix.set_control(false, false);
        msix.fire(1);
        msix.fire(4000);
        msix.set_control(true, false);
        assert!(record.take().is_empty());
    }

    #[test]
    fn table_words_read_back_in_pieces() {
        let (msix, _record) = programmed();
        let mut byte = [0];
        msix.bar_read(16 + 8, &mut byte);
        assert_eq!(byte, [0x41]);
        let mut wide = [0; 8];
        msix.bar_read(16 + 2, &mut wide);
        assert_eq!(wide, [0xe0, 0xfe, 0, 0, 0, 0, 0x41, 0]);
        // Byte writes are not defined and change nothing.
        msix.bar_write(16 + 8, &[9]);
        msix.bar_read(16 + 8, &mut byte);
        assert_eq!(byte, [0x41]);
    }

    #[test]
    fn state_survives_save_and_restore() {
        let (msix, _record) = programmed();
        msix.bar_write(5 * 16 + 12, &1u32.to_le_bytes());
        msix.fire(5);
        let state = msix.save();
        let (sink, record) = MsiSink::recording();
        let other = Msix::new(70, sink.clone());
        other.restore(&state).unwrap();
        assert_eq!(other.save(), state);
        other.bar_write(5 * 16 + 12, &0u32.to_le_bytes());
        assert_eq!(data_of(&record), [0x45]);
        assert!(Msix::new(8, sink).restore(&state).is_err());
    }
}
