//! Submission and completion queue entries.
//!
//! Source: NVM Express Base 1.4, 4.2 (figure 104) and 4.6 (figure 121).

use super::status::Status;

/// Bytes of a submission queue entry.
pub const SQE_BYTES: usize = 64;
/// Bytes of a completion queue entry.
pub const CQE_BYTES: usize = 16;

/// Every namespace, in commands that allow it.
pub const ALL_NAMESPACES: u32 = 0xffff_ffff;

/// Opcodes of the admin queue.
pub mod admin {
    /// Delete I/O Submission Queue.
    pub const DELETE_SQ: u8 = 0x00;
    /// Create I/O Submission Queue.
    pub const CREATE_SQ: u8 = 0x01;
    /// Get Log Page.
    pub const GET_LOG_PAGE: u8 = 0x02;
    /// Delete I/O Completion Queue.
    pub const DELETE_CQ: u8 = 0x04;
    /// Create I/O Completion Queue.
    pub const CREATE_CQ: u8 = 0x05;
    /// Identify.
    pub const IDENTIFY: u8 = 0x06;
    /// Abort.
    pub const ABORT: u8 = 0x08;
    /// Set Features.
    pub const SET_FEATURES: u8 = 0x09;
    /// Get Features.
    pub const GET_FEATURES: u8 = 0x0a;
    /// Asynchronous Event Request.
    pub const ASYNC_EVENT: u8 = 0x0c;
    /// Doorbell Buffer Config.
    pub const DOORBELL_BUFFER: u8 = 0x7c;
}

/// Opcodes of I/O queues (NVM command set).
pub mod io {
    /// Flush.
    pub const FLUSH: u8 = 0x00;
    /// Write.
    pub const WRITE: u8 = 0x01;
    /// Read.
    pub const READ: u8 = 0x02;
    /// Compare.
    pub const COMPARE: u8 = 0x05;
    /// Write Zeroes.
    pub const WRITE_ZEROES: u8 = 0x08;
    /// Dataset Management.
    pub const DATASET_MANAGEMENT: u8 = 0x09;
    /// Verify.
    pub const VERIFY: u8 = 0x0c;
}

/// A submission queue entry: sixteen little-endian words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// The words, as numbered in the specification.
    pub dwords: [u32; 16],
}

impl Command {
    /// A command with everything but opcode and namespace zero.
    pub fn new(opcode: u8, namespace: u32) -> Self {
        let mut command = Self::default();
        command.dwords[0] = u32::from(opcode);
        command.dwords[1] = namespace;
        command
    }

    /// The same with word `index` (below 16, else nothing changes) set to `value`.
    #[must_use]
    pub fn with_word(mut self, index: usize, value: u32) -> Self {
        if let Some(word) = self.dwords.get_mut(index) {
            *word = value;
        }
        self
    }

    /// The same with these PRP entries.
    #[must_use]
    pub fn with_prps(self, prp1: u64, prp2: u64) -> Self {
        self.with_word(6, prp1 as u32)
            .with_word(7, (prp1 >> 32) as u32)
            .with_word(8, prp2 as u32)
            .with_word(9, (prp2 >> 32) as u32)
    }

    /// The same about `count` blocks from `first` on (words 10 to 12; other bits of word 12 stay).
    #[must_use]
    pub fn with_blocks(self, first: u64, count: u32) -> Self {
        let word = self.dwords[12] & !0xffff | count.wrapping_sub(1) & 0xffff;
        self.with_word(10, first as u32)
            .with_word(11, (first >> 32) as u32)
            .with_word(12, word)
    }

    /// The same with command identifier `id`.
    #[must_use]
    pub fn with_id(self, id: u16) -> Self {
        let word = self.dwords[0] & 0xffff | u32::from(id) << 16;
        self.with_word(0, word)
    }

    /// From the bytes of a queue.
    pub fn from_bytes(bytes: &[u8; SQE_BYTES]) -> Self {
        let mut dwords = [0; 16];
        for (dword, chunk) in dwords.iter_mut().zip(bytes.chunks_exact(4)) {
            *dword = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        }
        Self { dwords }
    }

    /// As the bytes of a queue.
    pub fn to_bytes(&self) -> [u8; SQE_BYTES] {
        let mut bytes = [0; SQE_BYTES];
        for (chunk, dword) in bytes.chunks_exact_mut(4).zip(self.dwords) {
            chunk.copy_from_slice(&dword.to_le_bytes());
        }
        bytes
    }

    /// The opcode.
    pub const fn opcode(&self) -> u8 {
        self.dwords[0] as u8
    }

    /// The command identifier.
    pub const fn id(&self) -> u16 {
        (self.dwords[0] >> 16) as u16
    }

    /// The namespace identifier.
    pub const fn namespace(&self) -> u32 {
        self.dwords[1]
    }

    /// The first PRP entry.
    pub const fn prp1(&self) -> u64 {
        self.pair(6)
    }

    /// The second PRP entry, or the pointer to the list.
    pub const fn prp2(&self) -> u64 {
        self.pair(8)
    }

    /// Words `first` and `first + 1` as one value; `first` is below 15.
    pub const fn pair(&self, first: usize) -> u64 {
        self.dwords[first] as u64 | (self.dwords[first + 1] as u64) << 32
    }

    /// What no command of this controller may ask for: fusing (bits 9:8), reserved bits (13:10), and
    /// SGLs instead of PRPs (15:14).
    pub const fn check_common(&self) -> Result<(), Status> {
        if self.dwords[0] & 0xff00 == 0 {
            Ok(())
        } else {
            Err(Status::INVALID_FIELD)
        }
    }
}

/// What a completion queue entry says, but for the phase, which the queue knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) result: u32,
    pub(super) queue: u16,
    pub(super) queue_head: u16,
    pub(super) command: u16,
    pub(super) status: Status,
}

impl Answer {
    /// The entry's words with the phase tag `phase`.
    pub(super) const fn words(&self, phase: bool) -> [u32; 4] {
        [
            self.result,
            0,
            self.queue_head as u32 | (self.queue as u32) << 16,
            self.command as u32 | (phase as u32) << 16 | (self.status.bits() as u32) << 17,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_from_their_words() {
        let mut bytes = [0; SQE_BYTES];
        bytes[0] = 0x7c;
        bytes[2..4].copy_from_slice(&0xbeefu16.to_le_bytes());
        bytes[4] = 9;
        bytes[24..32].copy_from_slice(&0x1_0000_2000u64.to_le_bytes());
        bytes[32..40].copy_from_slice(&0x3_0000_4000u64.to_le_bytes());
        let command = Command::from_bytes(&bytes);
        assert_eq!(command.opcode(), admin::DOORBELL_BUFFER);
        assert_eq!((command.id(), command.namespace()), (0xbeef, 9));
        assert_eq!(command.prp1(), 0x1_0000_2000);
        assert_eq!(command.prp2(), 0x3_0000_4000);
        assert_eq!(command.to_bytes(), bytes);
        assert!(command.check_common().is_ok());
        bytes[1] = 0x40;
        assert!(Command::from_bytes(&bytes).check_common().is_err());
    }

    #[test]
    fn the_status_sits_above_the_phase() {
        let answer = Answer {
            result: 7,
            queue: 2,
            queue_head: 5,
            command: 0x1234,
            status: Status::INVALID_OPCODE,
        };
        assert_eq!(answer.words(true), [7, 0, 0x0002_0005, 0x8003_1234]);
    }
}
