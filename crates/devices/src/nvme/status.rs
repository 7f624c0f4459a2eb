//! Status codes of completion queue entries.
//!
//! Source: NVM Express Base 1.4, 4.6.1 (figures 126 to 130) and the command-specific tables of
//! chapters 5 and 6.

use std::fmt;

use block::Outcome;

/// The 15 bits above the phase tag: code, type, retry delay, more, do not retry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Status(u16);

/// Do not retry: the same command would fail again.
const DO_NOT_RETRY: u16 = 1 << 14;
/// There is an entry in the error log.
const MORE: u16 = 1 << 13;

const GENERIC: u16 = 0;
const COMMAND_SPECIFIC: u16 = 1 << 8;
const MEDIA: u16 = 2 << 8;

impl Status {
    /// Done.
    pub const SUCCESS: Self = Self(GENERIC);
    /// Generic 01h: the opcode is not one of this controller's.
    pub const INVALID_OPCODE: Self = Self(GENERIC | 0x01 | DO_NOT_RETRY);
    /// Generic 02h: a reserved or unsupported value in a field.
    pub const INVALID_FIELD: Self = Self(GENERIC | 0x02 | DO_NOT_RETRY);
    /// Generic 04h: guest memory could not be reached.
    pub const DATA_TRANSFER_ERROR: Self = Self(GENERIC | 0x04);
    /// Generic 06h: our own failure.
    pub const INTERNAL_ERROR: Self = Self(GENERIC | 0x06);
    /// Generic 07h: an Abort command named it.
    pub const ABORT_REQUESTED: Self = Self(GENERIC | 0x07);
    /// Generic 08h: its submission queue is going.
    pub const ABORTED_QUEUE_DELETED: Self = Self(GENERIC | 0x08);
    /// Generic 0Bh: no such namespace.
    pub const INVALID_NAMESPACE: Self = Self(GENERIC | 0x0b | DO_NOT_RETRY);
    /// Generic 0Ch: not at this point of the initialisation.
    pub const SEQUENCE_ERROR: Self = Self(GENERIC | 0x0c | DO_NOT_RETRY);
    /// Generic 13h: a PRP entry is not aligned as its place demands.
    pub const PRP_OFFSET_INVALID: Self = Self(GENERIC | 0x13 | DO_NOT_RETRY);
    /// Generic 20h: the namespace is write protected.
    pub const WRITE_PROTECTED: Self = Self(GENERIC | 0x20 | DO_NOT_RETRY);
    /// Generic 80h: past the end of the namespace.
    pub const LBA_OUT_OF_RANGE: Self = Self(GENERIC | 0x80 | DO_NOT_RETRY);
    /// Generic 82h: cannot be done now; a retry may succeed.
    pub const NAMESPACE_NOT_READY: Self = Self(GENERIC | 0x82);

    /// Command-specific 00h: there is no such completion queue.
    pub const COMPLETION_QUEUE_INVALID: Self = Self(COMMAND_SPECIFIC | DO_NOT_RETRY);
    /// Command-specific 01h: the queue id is out of range, or taken, or absent.
    pub const INVALID_QUEUE_ID: Self = Self(COMMAND_SPECIFIC | 0x01 | DO_NOT_RETRY);
    /// Command-specific 02h: the queue size is out of range.
    pub const INVALID_QUEUE_SIZE: Self = Self(COMMAND_SPECIFIC | 0x02 | DO_NOT_RETRY);
    /// Command-specific 05h: enough event requests are parked.
    pub const EVENT_LIMIT_EXCEEDED: Self = Self(COMMAND_SPECIFIC | 0x05 | DO_NOT_RETRY);
    /// Command-specific 08h: the vector is past the end of the MSI-X table.
    pub const INVALID_VECTOR: Self = Self(COMMAND_SPECIFIC | 0x08 | DO_NOT_RETRY);
    /// Command-specific 09h: no such log page.
    pub const INVALID_LOG_PAGE: Self = Self(COMMAND_SPECIFIC | 0x09 | DO_NOT_RETRY);
    /// Command-specific 0Ch: a completion queue that a submission queue still uses.
    pub const INVALID_QUEUE_DELETION: Self = Self(COMMAND_SPECIFIC | 0x0c | DO_NOT_RETRY);
    /// Command-specific 0Dh: the feature cannot be saved.
    pub const FEATURE_NOT_SAVEABLE: Self = Self(COMMAND_SPECIFIC | 0x0d | DO_NOT_RETRY);
    /// Command-specific 0Eh: the feature cannot be changed.
    pub const FEATURE_NOT_CHANGEABLE: Self = Self(COMMAND_SPECIFIC | 0x0e | DO_NOT_RETRY);
    /// Command-specific 0Fh: the feature belongs to the controller, not to a namespace.
    pub const FEATURE_NOT_NAMESPACE_SPECIFIC: Self = Self(COMMAND_SPECIFIC | 0x0f | DO_NOT_RETRY);

    /// Media 80h: the medium failed on a write.
    pub const WRITE_FAULT: Self = Self(MEDIA | 0x80);
    /// Media 81h: the medium failed on a read.
    pub const UNRECOVERED_READ: Self = Self(MEDIA | 0x81);
    /// Media 85h: Compare found a difference.
    pub const COMPARE_FAILURE: Self = Self(MEDIA | 0x85 | DO_NOT_RETRY);

    /// The bits as they stand in the status field, phase tag not included.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// From the bits of a completion queue entry.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & 0x7fff)
    }

    /// Whether the command did what it was asked to.
    pub const fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Code and type only: what is left when two statuses mean the same failure.
    pub const fn code(self) -> u16 {
        self.0 & 0x7ff
    }

    /// Whether the guest should not try again.
    pub const fn is_final(self) -> bool {
        self.0 & DO_NOT_RETRY != 0
    }

    /// A medium's fault, as SMART counts them.
    pub const fn is_media_error(self) -> bool {
        self.0 & 0x700 == MEDIA && self.code() != Self::COMPARE_FAILURE.code()
    }

    /// The same status, which the error log tells more about.
    #[must_use]
    pub const fn logged(self) -> Self {
        Self(self.0 | MORE)
    }

    /// What a backend's answer means to the guest.
    ///
    /// Failures of the host's storage may pass, so the guest may try again; what the guest did wrong
    /// will stay wrong.
    pub const fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Ok => Self::SUCCESS,
            Outcome::OutOfRange => Self::LBA_OUT_OF_RANGE,
            Outcome::ReadOnly => Self::WRITE_PROTECTED,
            Outcome::Unsupported => Self::INVALID_OPCODE,
            Outcome::GuestMemory => Self::DATA_TRANSFER_ERROR,
            Outcome::Miscompare => Self::COMPARE_FAILURE,
            Outcome::ReadFailed => Self::UNRECOVERED_READ,
            Outcome::WriteFailed => Self::WRITE_FAULT,
            Outcome::Retry => Self::NAMESPACE_NOT_READY,
            Outcome::Abandoned => Self::INTERNAL_ERROR,
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}/{:02x}", self.0 >> 8 & 7, self.0 & 0xff)?;
        if self.is_final() {
            f.write_str(" do not retry")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passing_failures_can_be_retried_and_lasting_ones_cannot() {
        for outcome in [
            Outcome::ReadFailed,
            Outcome::WriteFailed,
            Outcome::Retry,
            Outcome::GuestMemory,
        ] {
            assert!(!Status::of(outcome).is_final(), "{outcome:?}");
        }
        for outcome in [Outcome::OutOfRange, Outcome::ReadOnly, Outcome::Miscompare] {
            assert!(Status::of(outcome).is_final(), "{outcome:?}");
        }
    }

    #[test]
    fn codes_and_types_are_where_the_specification_puts_them() {
        assert_eq!(Status::UNRECOVERED_READ.bits(), 0x0281);
        assert_eq!(Status::INVALID_QUEUE_ID.bits(), 0x4101);
        assert_eq!(Status::COMPARE_FAILURE.code(), 0x285);
        assert!(!Status::COMPARE_FAILURE.is_media_error());
        assert!(Status::WRITE_FAULT.is_media_error());
    }
}
