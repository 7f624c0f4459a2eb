//! Guest physical memory: the handle through which devices, backends and CPUs reach it.
//!
//! Guest bytes are shared with running vCPUs, so no reference to them ever exists: copies are volatile,
//! by way of `vm-memory`. Every write through this handle is noted twice: in the dirty map (snapshots,
//! display) and, where a CPU has cached decoded instructions of a page, with that CPU's
//! [`WriteListener`].

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use thiserror::Error;
use vm_memory::bitmap::BS;
use vm_memory::{Address, ByteValued, GuestAddress, MmapRegion, VolatileMemory, VolatileSlice};

/// Bytes in a page, the unit of the dirty map and of watched pages.
pub const PAGE_SIZE: u64 = 4096;

/// Why guest memory could not be reached. All of these are the guest's doing, except `Map`.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// Some byte of the range is not memory, or the range leaves its region.
    #[error("no guest memory at {at:#x} for {length:#x} bytes")]
    Unmapped {
        /// First byte asked for.
        at: u64,
        /// Bytes asked for.
        length: u64,
    },
    /// A write to a read-only region.
    #[error("guest memory at {at:#x} is read-only")]
    ReadOnly {
        /// First byte asked for.
        at: u64,
    },
    /// The handle was revoked: bus mastering is off, or the machine is being torn down.
    #[error("access to guest memory is closed")]
    Closed,
    /// The host could not give the memory.
    #[error("cannot map {length:#x} bytes of guest memory at {at:#x}: {reason}")]
    Map {
        /// Guest address of the region.
        at: u64,
        /// Its length in bytes.
        length: u64,
        /// What the system said.
        reason: String,
    },
    /// Two regions overlap, or one is empty, unaligned or wraps.
    #[error(
        "guest memory region at {at:#x} of {length:#x} bytes overlaps another or is not page-aligned"
    )]
    Layout {
        /// Guest address of the region.
        at: u64,
        /// Its length in bytes.
        length: u64,
    },
}

/// What a region is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionKind {
    /// Read, write, execute.
    Ram,
    /// Read and execute; writes by guest and devices do not reach it.
    Rom,
}

/// One region to be mapped: page-aligned start, non-zero page-aligned length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First guest physical address.
    pub start: GuestAddress,
    /// Length in bytes.
    pub length: u64,
    /// RAM or ROM.
    pub kind: RegionKind,
}

/// Is told of writes to watched pages.
pub trait WriteListener: Send + Sync {
    /// Something wrote to the page at `page` (page-aligned); the write is already visible.
    fn page_written(&self, page: GuestAddress);
}

/// A switch that opens or closes handles derived from it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    /// A gate that lets everything through.
    pub fn open() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// A gate that lets nothing through.
    pub fn closed() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    /// Opens (`true`) or closes it.
    pub fn set(&self, open: bool) {
        self.0.store(open, Ordering::SeqCst);
    }

    /// `gates` and one more.
    pub(crate) fn also(gates: &[Self], gate: &Self) -> Arc<[Self]> {
        gates.iter().chain([gate]).cloned().collect()
    }

    /// Whether accesses pass.
    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// One region as mapped on the host.
struct Region {
    range: MemoryRange,
    mapping: MmapRegion,
    /// One bit a page: written since the last `take_dirty`.
    dirty: Box<[AtomicU64]>,
    /// One bit a page: tell the listener of writes.
    watched: Box<[AtomicU64]>,
}

impl Region {
    fn offset(&self, at: GuestAddress, length: u64) -> Option<usize> {
        let offset = at.checked_offset_from(self.range.start)?;
        let end = offset.checked_add(length)?;
        if end <= self.range.length {
            usize::try_from(offset).ok()
        } else {
            None
        }
    }
}

struct Inner {
    regions: Vec<Region>,
    listener: OnceLock<Arc<dyn WriteListener>>,
}

/// A handle to guest physical memory. Clones share it; [`GuestMemory::gated`] makes one that can be
/// revoked by itself.
#[derive(Clone)]
pub struct GuestMemory {
    inner: Arc<Inner>,
    /// All of them must be open.
    gates: Arc<[Gate]>,
}

/// A run of guest bytes inside one region, for copies and for the host's vectored I/O.
pub type GuestSlice<'a> = VolatileSlice<'a, BS<'a, ()>>;

impl GuestMemory {
    /// Maps anonymous zeroed memory for `ranges`, which must be page-aligned and disjoint.
    pub fn anonymous(ranges: &[MemoryRange]) -> Result<Self, MemoryError> {
        let mut regions: Vec<Region> = Vec::with_capacity(ranges.len());
        for range in ranges {
            let (at, length) = (range.start.raw_value(), range.length);
            let layout = MemoryError::Layout { at, length };
            let aligned = at % PAGE_SIZE == 0 && length % PAGE_SIZE == 0 && length > 0;
            let Some(end) = at.checked_add(length) else {
                return Err(layout);
            };
            let overlaps = regions.iter().any(|other| {
                let start = other.range.start.raw_value();
                at < start + other.range.length && start < end
            });
            if !aligned || overlaps {
                return Err(layout);
            }
            let map_error = |reason: String| MemoryError::Map { at, length, reason };
            let size = usize::try_from(length).map_err(|e| map_error(e.to_string()))?;
            let mapping = MmapRegion::new(size).map_err(|e| map_error(e.to_string()))?;
            let words = size.div_ceil(PAGE_SIZE as usize).div_ceil(64);
            let bits = || (0..words).map(|_| AtomicU64::new(0)).collect();
            regions.push(Region {
                range: *range,
                mapping,
                dirty: bits(),
                watched: bits(),
            });
        }
        regions.sort_by_key(|region| region.range.start);
        Ok(Self {
            inner: Arc::new(Inner {
                regions,
                listener: OnceLock::new(),
            }),
            gates: Arc::default(),
        })
    }

    /// `length` bytes of RAM from address 0, rounded up to a page: what most tests need.
    pub fn flat(length: u64) -> Result<Self, MemoryError> {
        let length = length.next_multiple_of(PAGE_SIZE);
        Self::anonymous(&[MemoryRange {
            start: GuestAddress(0),
            length,
            kind: RegionKind::Ram,
        }])
    }

    /// The same memory behind `gate` as well: accesses fail with [`MemoryError::Closed`] while it, or one
    /// that this handle stands behind already, is closed.
    #[must_use]
    pub fn gated(&self, gate: &Gate) -> Self {
        Self {
            inner: self.inner.clone(),
            gates: Gate::also(&self.gates, gate),
        }
    }

    /// The regions, lowest first.
    pub fn regions(&self) -> impl Iterator<Item = MemoryRange> + '_ {
        self.inner.regions.iter().map(|region| region.range)
    }

    /// The region that holds `at`, if any.
    pub fn region_at(&self, at: GuestAddress) -> Option<MemoryRange> {
        self.region(at, 1).map(|(region, _)| region.range)
    }

    /// Copies guest bytes from `at` into `into`.
    pub fn read(&self, at: GuestAddress, into: &mut [u8]) -> Result<(), MemoryError> {
        self.slice(at, into.len() as u64)?.copy_to(into);
        Ok(())
    }

    /// Copies `from` to the guest at `at`.
    pub fn write(&self, at: GuestAddress, from: &[u8]) -> Result<(), MemoryError> {
        self.writable_slice(at, from.len() as u64)?.copy_from(from);
        self.note_write(at, from.len() as u64);
        Ok(())
    }

    /// Writes to RAM or ROM: for loaders that fill a ROM before the guest runs.
    pub fn load(&self, at: GuestAddress, from: &[u8]) -> Result<(), MemoryError> {
        self.slice(at, from.len() as u64)?.copy_from(from);
        self.note_write(at, from.len() as u64);
        Ok(())
    }

    /// Fills `length` guest bytes from `at` with `byte`.
    pub fn fill(&self, at: GuestAddress, byte: u8, length: u64) -> Result<(), MemoryError> {
        let slice = self.writable_slice(at, length)?;
        let chunk = [byte; PAGE_SIZE as usize];
        let mut done = 0;
        while done < slice.len() {
            let count = chunk.len().min(slice.len() - done);
            if let Ok(part) = slice.subslice(done, count) {
                part.copy_from(&chunk[..count]);
            }
            done += count;
        }
        self.note_write(at, length);
        Ok(())
    }

    /// Reads a plain value (little-endian integers, packed structures of them).
    pub fn read_value<T: ByteValued>(&self, at: GuestAddress) -> Result<T, MemoryError> {
        let mut value = T::zeroed();
        self.read(at, value.as_mut_slice())?;
        Ok(value)
    }

    /// Writes a plain value.
    pub fn write_value<T: ByteValued>(
        &self,
        at: GuestAddress,
        value: T,
    ) -> Result<(), MemoryError> {
        self.write(at, value.as_slice())
    }

    /// `length` guest bytes at `at`, which must lie in one region. A caller that writes through the
    /// slice says so with [`GuestMemory::note_write`] afterwards, and takes
    /// [`GuestMemory::writable_slice`] instead.
    pub fn slice(&self, at: GuestAddress, length: u64) -> Result<GuestSlice<'_>, MemoryError> {
        if !self.gates.iter().all(Gate::is_open) {
            return Err(MemoryError::Closed);
        }
        let unmapped = || MemoryError::Unmapped {
            at: at.raw_value(),
            length,
        };
        let (region, offset) = self.region(at, length).ok_or_else(unmapped)?;
        let length = usize::try_from(length).map_err(|_| unmapped())?;
        region
            .mapping
            .get_slice(offset, length)
            .map_err(|_| unmapped())
    }

    /// As [`GuestMemory::slice`], refused for ROM.
    pub fn writable_slice(
        &self,
        at: GuestAddress,
        length: u64,
    ) -> Result<GuestSlice<'_>, MemoryError> {
        let slice = self.slice(at, length)?;
        match self.region_at(at) {
            Some(region) if region.kind == RegionKind::Rom => {
                Err(MemoryError::ReadOnly { at: at.raw_value() })
            }
            _ => Ok(slice),
        }
    }

    /// Records that `length` bytes at `at` have been written: marks them dirty and tells the listener
    /// of watched pages. Called after the bytes are visible.
    pub fn note_write(&self, at: GuestAddress, length: u64) {
        if length == 0 {
            return;
        }
        let Some((region, offset)) = self.region(at, length) else {
            return;
        };
        // A CPU that is about to decode this page first sets its bit, then reads the bytes. With this
        // fence between our bytes and our look at the bit, one of the two sees the other.
        std::sync::atomic::fence(Ordering::SeqCst);
        let first = offset / PAGE_SIZE as usize;
        let last = (offset + length as usize - 1) / PAGE_SIZE as usize;
        for page in first..=last {
            let bit = 1 << (page % 64);
            let dirty = &region.dirty[page / 64];
            // The plain look first keeps the line shared when the page is dirty already.
            if dirty.load(Ordering::Relaxed) & bit == 0 {
                dirty.fetch_or(bit, Ordering::Relaxed);
            }
            if region.watched[page / 64].load(Ordering::Relaxed) & bit != 0
                && let Some(listener) = self.inner.listener.get()
            {
                let address = region.range.start.unchecked_add(page as u64 * PAGE_SIZE);
                listener.page_written(address);
            }
        }
    }

    /// Takes the list of pages written since the last call, lowest first.
    pub fn take_dirty(&self) -> Vec<GuestAddress> {
        let mut pages = Vec::new();
        for region in &self.inner.regions {
            for (index, word) in region.dirty.iter().enumerate() {
                let mut bits = word.swap(0, Ordering::SeqCst);
                while bits != 0 {
                    let page = index as u64 * 64 + u64::from(bits.trailing_zeros());
                    pages.push(region.range.start.unchecked_add(page * PAGE_SIZE));
                    bits &= bits - 1;
                }
            }
        }
        pages
    }

    /// Sets who is told of writes to watched pages. The first call counts, later ones are ignored:
    /// there is one CPU package in a machine.
    pub fn set_write_listener(&self, listener: Arc<dyn WriteListener>) {
        self.inner.listener.get_or_init(|| listener);
    }

    /// Watches (or stops watching) the page that holds `at`. Returns whether it was watched before.
    pub fn watch_page(&self, at: GuestAddress, watch: bool) -> bool {
        let Some((region, offset)) = self.region(at, 1) else {
            return false;
        };
        let page = offset / PAGE_SIZE as usize;
        let bit = 1 << (page % 64);
        let word = &region.watched[page / 64];
        let before = if watch {
            word.fetch_or(bit, Ordering::SeqCst)
        } else {
            word.fetch_and(!bit, Ordering::SeqCst)
        };
        before & bit != 0
    }

    /// Whether the page that holds `at` is watched.
    pub fn is_watched(&self, at: GuestAddress) -> bool {
        self.region(at, 1).is_some_and(|(region, offset)| {
            let page = offset / PAGE_SIZE as usize;
            region.watched[page / 64].load(Ordering::SeqCst) & (1 << (page % 64)) != 0
        })
    }

    /// The host address of the page that holds `at`, valid while this handle or a clone lives, and its
    /// region's kind. For CPUs only: whoever writes there calls [`GuestMemory::note_write`].
    pub fn host_page(&self, at: GuestAddress) -> Option<(*mut u8, RegionKind)> {
        let page = at.mask(!(PAGE_SIZE - 1));
        let (region, offset) = self.region(GuestAddress(page), PAGE_SIZE)?;
        Some((
            region.mapping.as_ptr().wrapping_add(offset),
            region.range.kind,
        ))
    }

    fn region(&self, at: GuestAddress, length: u64) -> Option<(&Region, usize)> {
        // Two or three regions: a walk beats a search.
        self.inner
            .regions
            .iter()
            .find_map(|region| region.offset(at, length).map(|offset| (region, offset)))
    }
}

impl fmt::Debug for GuestMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.regions()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn two_regions() -> GuestMemory {
        GuestMemory::anonymous(&[
            MemoryRange {
                start: GuestAddress(0),
                length: 0x4000,
                kind: RegionKind::Ram,
            },
            MemoryRange {
                start: GuestAddress(0xf000),
                length: 0x1000,
                kind: RegionKind::Rom,
            },
        ])
        .unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let memory = two_regions();
        memory.write(GuestAddress(0x1ffe), &[1, 2, 3, 4]).unwrap();
        assert_eq!(
            memory.read_value::<u32>(GuestAddress(0x1ffe)).unwrap(),
            0x0403_0201
        );
        assert_eq!(
            memory.take_dirty(),
            [GuestAddress(0x1000), GuestAddress(0x2000)]
        );
        assert_eq!(memory.take_dirty(), []);
    }

    #[test]
    fn ranges_outside_and_wrapping_are_refused() {
        let memory = two_regions();
        for (at, length) in [
            (0x3fff, 2),
            (0x4000, 1),
            (u64::MAX, 1),
            (0, u64::MAX),
            (0xffff, 2),
        ] {
            assert!(
                memory.slice(GuestAddress(at), length).is_err(),
                "{at:#x} {length:#x}"
            );
        }
    }

    #[test]
    fn rom_takes_loads_but_no_writes() {
        let memory = two_regions();
        assert!(matches!(
            memory.write(GuestAddress(0xf000), &[1]),
            Err(MemoryError::ReadOnly { at: 0xf000 })
        ));
        memory.load(GuestAddress(0xf000), &[7]).unwrap();
        assert_eq!(memory.read_value::<u8>(GuestAddress(0xf000)).unwrap(), 7);
    }

    #[test]
    fn a_closed_gate_stops_one_handle_only() {
        let memory = two_regions();
        let gate = Gate::open();
        let device = memory.gated(&gate);
        gate.set(false);
        assert!(matches!(
            device.write(GuestAddress(0), &[1]),
            Err(MemoryError::Closed)
        ));
        memory.write(GuestAddress(0), &[1]).unwrap();
        let second = Gate::open();
        let behind_both = device.gated(&second);
        assert!(behind_both.write(GuestAddress(0), &[1]).is_err());
        gate.set(true);
        behind_both.write(GuestAddress(0), &[1]).unwrap();
        second.set(false);
        assert!(behind_both.write(GuestAddress(0), &[1]).is_err());
        device.write(GuestAddress(0), &[1]).unwrap();
    }

    #[test]
    fn overlapping_and_unaligned_layouts_are_refused() {
        let range = |start, length| MemoryRange {
            start: GuestAddress(start),
            length,
            kind: RegionKind::Ram,
        };
        for bad in [
            vec![range(0, 0x2000), range(0x1000, 0x1000)],
            vec![range(0x10, 0x1000)],
            vec![range(0, 0)],
            vec![range(0xffff_ffff_ffff_f000, 0x2000)],
        ] {
            assert!(GuestMemory::anonymous(&bad).is_err(), "{bad:?}");
        }
    }

    #[derive(Default)]
    struct Pages(Mutex<Vec<GuestAddress>>);
    impl WriteListener for Pages {
        fn page_written(&self, page: GuestAddress) {
            self.0.lock().unwrap().push(page);
        }
    }

    #[test]
    fn writes_to_watched_pages_are_reported() {
        let memory = two_regions();
        let pages = Arc::new(Pages::default());
        memory.set_write_listener(pages.clone());
        memory.watch_page(GuestAddress(0x2010), true);
        memory.write(GuestAddress(0x1000), &[0; 0x2000]).unwrap();
        assert!(memory.watch_page(GuestAddress(0x2000), false));
        memory.write(GuestAddress(0x2000), &[0]).unwrap();
        assert_eq!(*pages.0.lock().unwrap(), [GuestAddress(0x2000)]);
    }
}
