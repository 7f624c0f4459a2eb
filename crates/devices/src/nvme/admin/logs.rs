//! Log pages: errors that happened, SMART, firmware slots, changed namespaces, supported commands.
//!
//! Source: NVM Express Base 1.4, 5.14.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::command::{ALL_NAMESPACES, Command, admin, io};
use super::super::controller::NvmeConfig;
use super::super::namespace::NAMESPACE;
use super::super::shared::{Core, Failure, Shared};
use super::super::status::Status;
use super::super::submission::SubmissionQueue;
use super::events::NAMESPACE_NOTICES;

/// Error Information.
pub(in super::super) const ERROR: u8 = 0x01;
/// SMART / Health Information.
pub(in super::super) const SMART: u8 = 0x02;
/// Firmware Slot Information.
const FIRMWARE: u8 = 0x03;
/// Changed Namespace List.
pub(in super::super) const CHANGED_NAMESPACES: u8 = 0x04;
/// Commands Supported and Effects.
const EFFECTS: u8 = 0x05;

/// Entries of the error log.
pub const ERROR_ENTRIES: usize = 64;
const ERROR_ENTRY_BYTES: usize = 64;

/// The composite temperature in kelvin: a disk without one reports room temperature.
pub(in super::super) const TEMPERATURE: u16 = 300;
/// WCTEMP in kelvin.
pub(in super::super) const WARNING_TEMPERATURE: u16 = 343;
/// CCTEMP in kelvin.
pub(in super::super) const CRITICAL_TEMPERATURE: u16 = 353;

/// SMART's critical warning of a temperature outside the thresholds.
pub(super) const TEMPERATURE_WARNING: u8 = 1 << 1;
/// SMART's critical warning of media in read-only mode.
const READ_ONLY_WARNING: u8 = 1 << 3;

/// The commands that failed, newest first.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(in super::super) struct ErrorLog {
    /// Failures so far; also the newest entry's number.
    count: u64,
    entries: VecDeque<ErrorEntry>,
}

#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct ErrorEntry {
    number: u64,
    queue: u16,
    command: u16,
    status: Status,
    block: u64,
    namespace: u32,
}

impl ErrorLog {
    pub(in super::super) fn record(&mut self, failure: &Failure) {
        self.count += 1;
        if self.entries.len() >= ERROR_ENTRIES {
            self.entries.pop_back();
        }
        self.entries.push_front(ErrorEntry {
            number: self.count,
            queue: failure.queue,
            command: failure.command,
            status: failure.status.logged(),
            block: failure.block,
            namespace: failure.namespace,
        });
    }

    pub(in super::super) fn is_sane(&self) -> bool {
        self.entries.len() <= ERROR_ENTRIES
    }

    fn page(&self) -> Vec<u8> {
        let mut page = vec![0; ERROR_ENTRIES * ERROR_ENTRY_BYTES];
        for (slot, entry) in page.chunks_exact_mut(ERROR_ENTRY_BYTES).zip(&self.entries) {
            put(slot, 0, &entry.number.to_le_bytes());
            put(slot, 8, &entry.queue.to_le_bytes());
            put(slot, 10, &entry.command.to_le_bytes());
            put(slot, 12, &(entry.status.bits() << 1).to_le_bytes());
            // The parameter in error is not told apart.
            put(slot, 14, &[0xff; 2]);
            put(slot, 16, &entry.block.to_le_bytes());
            put(slot, 24, &entry.namespace.to_le_bytes());
        }
        page
    }
}

/// What Get Log Page returns, and how long the guest asked for it to be.
pub(in super::super) fn page(
    shared: &Shared,
    core: &mut Core,
    config: &NvmeConfig,
    queues: &[Arc<SubmissionQueue>],
    command: &Command,
) -> Result<Vec<u8>, Status> {
    let id = command.dwords[10] as u8;
    let retain_event = command.dwords[10] & 1 << 15 != 0;
    let dwords = u64::from(command.dwords[10] >> 16) | u64::from(command.dwords[11] & 0xffff) << 16;
    let length = (dwords + 1) * 4;
    let offset = command.pair(12);
    let mut page = match id {
        ERROR => core.errors.page(),
        SMART => smart(shared, core, queues),
        FIRMWARE => firmware(config),
        CHANGED_NAMESPACES => changed_namespaces(core),
        EFFECTS => effects(shared),
        _ => return Err(Status::INVALID_LOG_PAGE),
    };
    // No page is kept for each namespace.
    if !matches!(command.namespace(), 0 | ALL_NAMESPACES) {
        return Err(Status::INVALID_FIELD);
    }
    if length > shared.namespace.transfer_bytes_max()
        || !offset.is_multiple_of(4)
        || offset > page.len() as u64
    {
        return Err(Status::INVALID_FIELD);
    }
    if id == CHANGED_NAMESPACES {
        core.namespace_changed = false;
    }
    if !retain_event {
        core.events.log_page_read(id);
        shared.deliver_events(core);
    }
    // Past the end there are zeroes. Both numbers are small now.
    page.drain(..offset as usize);
    page.resize(length as usize, 0);
    Ok(page)
}

fn smart(shared: &Shared, core: &Core, queues: &[Arc<SubmissionQueue>]) -> Vec<u8> {
    let mut page = vec![0; 512];
    let sum = |of: fn(&SubmissionQueue) -> u64| -> u64 {
        queues.iter().map(|q| of(q)).fold(0, u64::saturating_add)
    };
    // Thousands of 512-byte units, rounded up.
    let units = |bytes: u64| bytes.div_ceil(512 * 1000);
    let mut warnings = 0;
    if core.features.temperature_alarm() {
        warnings |= TEMPERATURE_WARNING;
    }
    if shared.namespace.is_write_protected() {
        warnings |= READ_ONLY_WARNING;
    }
    put(&mut page, 0, &[warnings]);
    put(&mut page, 1, &TEMPERATURE.to_le_bytes());
    // Available spare and its threshold, in percent.
    put(&mut page, 3, &[100, 10]);
    let read = sum(|q| q.counters.bytes_read.load(Ordering::Relaxed));
    let written = sum(|q| q.counters.bytes_written.load(Ordering::Relaxed));
    put(&mut page, 32, &units(read).to_le_bytes());
    put(&mut page, 48, &units(written).to_le_bytes());
    let reads = sum(|q| q.counters.read_commands.load(Ordering::Relaxed));
    let writes = sum(|q| q.counters.write_commands.load(Ordering::Relaxed));
    put(&mut page, 64, &reads.to_le_bytes());
    put(&mut page, 80, &writes.to_le_bytes());
    // Power cycles: this machine's one.
    put(&mut page, 112, &1u64.to_le_bytes());
    let hours = shared.clock.now().as_nanos() / 3_600_000_000_000;
    put(&mut page, 128, &hours.to_le_bytes());
    put(&mut page, 160, &core.media_errors.to_le_bytes());
    put(&mut page, 176, &core.errors.count.to_le_bytes());
    page
}

fn firmware(config: &NvmeConfig) -> Vec<u8> {
    let mut page = vec![0; 512];
    // Slot 1 is active.
    put(&mut page, 0, &[1]);
    put(&mut page, 8, &[b' '; 8]);
    let revision: Vec<u8> = config.firmware.bytes().take(8).collect();
    put(&mut page, 8, &revision);
    page
}

fn changed_namespaces(core: &Core) -> Vec<u8> {
    let mut page = vec![0; 4096];
    if core.namespace_changed {
        put(&mut page, 0, &NAMESPACE.to_le_bytes());
    }
    page
}

/// Commands Supported and Effects: which opcodes there are, and which of them change data.
fn effects(shared: &Shared) -> Vec<u8> {
    const SUPPORTED: u32 = 1 << 0;
    const CHANGES_DATA: u32 = 1 << 1;
    let mut page = vec![0; 4096];
    let admin_commands = [
        admin::DELETE_SQ,
        admin::CREATE_SQ,
        admin::GET_LOG_PAGE,
        admin::DELETE_CQ,
        admin::CREATE_CQ,
        admin::IDENTIFY,
        admin::ABORT,
        admin::SET_FEATURES,
        admin::GET_FEATURES,
        admin::ASYNC_EVENT,
        admin::DOORBELL_BUFFER,
    ];
    for opcode in admin_commands {
        put(&mut page, usize::from(opcode) * 4, &SUPPORTED.to_le_bytes());
    }
    let mut io_commands = vec![
        (io::FLUSH, SUPPORTED),
        (io::WRITE, SUPPORTED | CHANGES_DATA),
        (io::READ, SUPPORTED),
        (io::COMPARE, SUPPORTED),
        (io::WRITE_ZEROES, SUPPORTED | CHANGES_DATA),
        (io::VERIFY, SUPPORTED),
    ];
    if shared.namespace.info().discard {
        io_commands.push((io::DATASET_MANAGEMENT, SUPPORTED | CHANGES_DATA));
    }
    for (opcode, effects) in io_commands {
        put(
            &mut page,
            1024 + usize::from(opcode) * 4,
            &effects.to_le_bytes(),
        );
    }
    page
}

/// Whether the guest wants to be told of changed namespaces.
pub(in super::super) const fn wants_namespace_notices(core: &Core) -> bool {
    core.features.async_events & NAMESPACE_NOTICES != 0
}

/// Offsets are this file's own; a value past the end would be left out.
fn put(page: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(place) = page.get_mut(offset..offset + value.len()) {
        place.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_the_newest_failures() {
        let mut log = ErrorLog::default();
        for command in 0..100 {
            log.record(&Failure {
                queue: 3,
                command,
                status: Status::LBA_OUT_OF_RANGE,
                block: 7,
                namespace: 1,
            });
        }
        let page = log.page();
        assert_eq!(page.len(), 4096);
        assert_eq!(page[0], 100);
        assert_eq!(&page[8..12], [3, 0, 99, 0]);
        assert_eq!(page[63 * 64], 37);
        // Do not retry, more, type 0, code 80h, above a zero phase tag.
        assert_eq!(u16::from_le_bytes([page[12], page[13]]), 0xc100);
    }
}
