//! Identify: who the controller and its namespace say that they are.
//!
//! Source: NVM Express Base 1.4, 5.15. CNS 00h to 03h; the lists and pages of namespace management,
//! virtualisation and later versions are not there and are Invalid Field.

use super::super::command::{ALL_NAMESPACES, Command};
use super::super::controller::NvmeConfig;
use super::super::namespace::{NAMESPACE, Namespace};
use super::super::registers::VERSION;
use super::super::shared::Shared;
use super::super::status::Status;
use super::events::{EVENT_REQUESTS_MAX, NAMESPACE_NOTICES};
use super::logs;

/// Bytes of every Identify page.
pub(in super::super) const PAGE_BYTES: usize = 4096;

/// Abort commands at a time, from zero. Each is done at once, so the limit is never met.
const ABORT_LIMIT: u8 = 3;

/// The page that `command` asks for.
pub(in super::super) fn page(
    shared: &Shared,
    config: &NvmeConfig,
    command: &Command,
) -> Result<[u8; PAGE_BYTES], Status> {
    let id = command.namespace();
    let mut page = Page([0; PAGE_BYTES]);
    match command.dwords[10] & 0xff {
        0x00 => {
            // All-ones asks for what namespaces have in common, which namespace management would need.
            Namespace::check_id(id)?;
            namespace(&mut page, &shared.namespace);
        }
        0x01 => controller(&mut page, shared, config),
        0x02 => {
            // Identifiers above the given one; the two highest cannot be exceeded.
            if id >= ALL_NAMESPACES - 1 {
                return Err(Status::INVALID_NAMESPACE);
            }
            if id < NAMESPACE {
                page.u32(0, NAMESPACE);
            }
        }
        0x03 => {
            Namespace::check_id(id)?;
            descriptors(&mut page, &shared.namespace);
        }
        _ => return Err(Status::INVALID_FIELD),
    }
    Ok(page.0)
}

fn controller(page: &mut Page, shared: &Shared, config: &NvmeConfig) {
    let info = shared.namespace.info();
    page.u16(0, config.vendor);
    page.u16(2, config.subsystem_vendor);
    page.text(4, 20, &config.serial);
    page.text(24, 40, &config.model);
    page.text(64, 8, &config.firmware);
    page.u8(77, shared.namespace.mdts());
    page.u16(78, config.controller_id);
    page.u32(80, VERSION);
    page.u32(92, NAMESPACE_NOTICES);
    // CNTRLTYPE: I/O controller.
    page.u8(111, 1);
    // OACS: doorbell buffer config.
    page.u16(256, 1 << 8);
    page.u8(258, ABORT_LIMIT);
    page.u8(259, EVENT_REQUESTS_MAX as u8 - 1);
    // FRMW: one slot, read-only.
    page.u8(260, 1 << 1 | 1);
    // LPA: effects log, offsets and long lengths.
    page.u8(261, 1 << 2 | 1 << 1);
    page.u8(262, logs::ERROR_ENTRIES as u8 - 1);
    page.u16(266, logs::WARNING_TEMPERATURE);
    page.u16(268, logs::CRITICAL_TEMPERATURE);
    page.u8(512, 0x66);
    page.u8(513, 0x44);
    // NN.
    page.u32(516, 1);
    // ONCS: compare, dataset management, write zeroes, select and save fields, verify.
    let discard = u16::from(info.discard) << 2;
    page.u16(520, 1 | discard | 1 << 3 | 1 << 4 | 1 << 7);
    // VWC: there is a cache; flush takes all-ones (bits 2:1 = 3).
    page.u8(525, u8::from(info.volatile_cache) | 3 << 1);
    // AWUN, AWUPF, ACWU stay zero: one logical block is written whole, no more is promised.
    let name = format!(
        "nqn.2014-08.org.nvmexpress:uuid:{}",
        shared.namespace.uuid()
    );
    page.bytes(768, name.as_bytes());
    // The one power state draws at most 25 W, in units of 0.01 W.
    page.u16(2048, 2500);
}

fn namespace(page: &mut Page, namespace: &Namespace) {
    let info = namespace.info();
    let blocks = namespace.blocks();
    // NSZE, NCAP, NUSE.
    for offset in [0, 8, 16] {
        page.u64(offset, blocks);
    }
    // NSFEAT bit 4: the preferred sizes below are there.
    page.u8(24, 1 << 4);
    // DLFEAT: Write Zeroes may deallocate; what deallocated blocks read as is not said.
    page.u8(33, 1 << 3);
    let unit = (info.preferred_transfer / info.block_size).clamp(1, 0x1_0000) - 1;
    // NPWG, NPWA, NPDG, NPDA, NOWS, in blocks, from zero.
    for offset in [64, 66, 68, 70, 72] {
        page.u16(offset, unit as u16);
    }
    // NSATTR bit 0: write protected.
    page.u8(99, u8::from(namespace.is_write_protected()));
    page.bytes(104, &namespace.nguid());
    page.bytes(120, &namespace.eui64());
    // LBAF 0: no metadata.
    page.u8(128 + 2, namespace.block_shift() as u8);
}

/// EUI64, NGUID and UUID, each behind its type and length.
fn descriptors(page: &mut Page, namespace: &Namespace) {
    let uuid = namespace.uuid();
    let mut offset = 0;
    let mut add = |kind: u8, value: &[u8]| {
        page.u8(offset, kind);
        page.u8(offset + 1, value.len() as u8);
        page.bytes(offset + 4, value);
        offset += 4 + value.len();
    };
    add(1, &namespace.eui64());
    add(2, &namespace.nguid());
    add(3, uuid.as_bytes());
}

/// A page being filled. Offsets are this file's own constants; one past the end would be left out.
struct Page([u8; PAGE_BYTES]);

impl Page {
    fn bytes(&mut self, offset: usize, value: &[u8]) {
        if let Some(place) = self.0.get_mut(offset..offset + value.len()) {
            place.copy_from_slice(value);
        }
    }

    fn u8(&mut self, offset: usize, value: u8) {
        self.bytes(offset, &[value]);
    }

    fn u16(&mut self, offset: usize, value: u16) {
        self.bytes(offset, &value.to_le_bytes());
    }

    fn u32(&mut self, offset: usize, value: u32) {
        self.bytes(offset, &value.to_le_bytes());
    }

    fn u64(&mut self, offset: usize, value: u64) {
        self.bytes(offset, &value.to_le_bytes());
    }

    /// Printable ASCII, cut to `length` or padded with spaces.
    fn text(&mut self, offset: usize, length: usize, text: &str) {
        let printable = text.bytes().map(|byte| match byte {
            b' '..=b'~' => byte,
            _ => b'?',
        });
        let padded = printable.chain(std::iter::repeat(b' '));
        for (index, byte) in padded.take(length).enumerate() {
            self.u8(offset + index, byte);
        }
    }
}
