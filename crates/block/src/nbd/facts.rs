//! What a client is told of an export, and the rules that its requests are held to.

use crate::info::DiskInfo;

use super::wire::export_flag;

/// The properties of one export. Fixed for its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its name. The empty name means it, too: there is only one.
    pub(super) name: String,
    /// A text for people.
    pub(super) description: String,
    /// Bytes.
    pub(super) size: u64,
    /// Flags of `export_flag`.
    pub(super) flags: u16,
    /// Offsets and lengths of writes are multiples of it.
    pub(super) block_size: u32,
    /// Preferred unit of requests.
    pub(super) preferred: u32,
    /// Most bytes that a request may carry, or ask for.
    pub(super) request_max: u32,
    /// Writes are refused.
    pub(super) read_only: bool,
    /// Trim does something.
    pub(super) trim: bool,
}

impl Facts {
    /// What `disk` means to a client of the protocol.
    pub(super) fn new(disk: &DiskInfo, name: &str, description: &str, request_max: u32) -> Self {
        // The protocol has flushes of no effect, so both are offered by each disk that is written to.
        let mut flags = export_flag::HAS_FLAGS | export_flag::MULTI_CONNECTION | export_flag::FLUSH;
        if disk.read_only {
            flags |= export_flag::READ_ONLY;
        } else {
            flags |= export_flag::FUA | export_flag::WRITE_ZEROES;
            if disk.discard {
                flags |= export_flag::TRIM;
            }
        }
        Self {
            name: name.to_owned(),
            description: description.to_owned(),
            size: disk.size_bytes,
            flags,
            block_size: disk.block_size,
            // A power of two, not less than 4096, as the protocol has it; not more than a request.
            preferred: disk
                .preferred_transfer
                .max(disk.block_size)
                .max(4096)
                .checked_next_power_of_two()
                .unwrap_or(4096)
                .min(request_max),
            request_max,
            read_only: disk.read_only,
            trim: disk.discard && !disk.read_only,
        }
    }

    /// Whether a client that asks for `name` means this export.
    pub(super) fn is_called(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.name.as_bytes()
    }
}
