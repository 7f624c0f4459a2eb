//! An address space: which device answers at which port or physical address.
//!
//! Two kinds of window. **Fixed** ones (the chipset, legacy ports) may not overlap each other; `claim`
//! refuses. **Movable** ones (BARs) go wherever the guest puts them, also on top of something, because
//! a guest that sizes or misprograms a BAR is no reason to fail: where windows overlap, a fixed one
//! wins over a movable one, and among movable ones the one created first wins. The loser answers at
//! the bytes that are left.
//!
//! Reads far outnumber changes. Each change builds a new immutable table of disjoint pieces; a
//! [`SpaceView`], one for each vCPU, keeps the table and only compares a generation number, so an
//! access takes no lock and writes no shared cache line.
//!
//! ```
//! use devices::bus::AddressSpace;
//! use devices::misc::PostCode;
//!
//! let ports = AddressSpace::ports();
//! let post = PostCode::new();
//! post.attach(&ports)?;
//! let mut view = ports.view();                // one for each vCPU
//! view.write(0x80, &[0x5a]);
//! let mut data = [0; 2];
//! view.read(0x80, &mut data);                 // the second byte has no owner
//! assert_eq!(data, [0x5a, 0xff]);
//! # Ok::<(), devices::bus::SpaceError>(())
//! ```

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use thiserror::Error;

use super::BusDevice;

/// Why a window cannot be where it was asked to be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpaceError {
    /// Two fixed windows would overlap.
    #[error(
        "{space}: {name} at {start:#x}..={last:#x} overlaps {other} at {other_start:#x}..={other_last:#x}"
    )]
    Overlap {
        /// Name of the space.
        space: &'static str,
        /// The new window.
        name: String,
        /// Its first address.
        start: u64,
        /// Its last address.
        last: u64,
        /// The window that is there already.
        other: String,
        /// Its first address.
        other_start: u64,
        /// Its last address.
        other_last: u64,
    },
    /// The window is empty or leaves the space.
    #[error("{space}: {name} at {start:#x} with {length:#x} bytes is empty or leaves the space")]
    Range {
        /// Name of the space.
        space: &'static str,
        /// The window.
        name: String,
        /// Its first address.
        start: u64,
        /// Its length in bytes.
        length: u64,
    },
}

/// A space of ports or of memory-mapped registers. Clones share it.
#[derive(Clone)]
pub struct AddressSpace(Arc<Inner>);

struct Inner {
    name: &'static str,
    /// Last address of the space.
    last: u64,
    windows: Mutex<Windows>,
    table: RwLock<Arc<Table>>,
    /// Counts the tables; a view whose number is old takes the new one.
    generation: AtomicU64,
    unclaimed_reads: AtomicU64,
    unclaimed_writes: AtomicU64,
}

#[derive(Default)]
struct Windows {
    next_id: u64,
    list: Vec<Placed>,
}

/// A window as it was asked for.
struct Placed {
    id: u64,
    name: String,
    fixed: bool,
    /// First and last address, if it is mapped.
    range: Option<(u64, u64)>,
    /// Offsets count from the start of the space instead of the window's own.
    absolute: bool,
    device: Arc<dyn BusDevice>,
}

/// The pieces that answer, disjoint and in order.
#[derive(Default)]
struct Table {
    pieces: Vec<Piece>,
}

#[derive(Clone)]
struct Piece {
    start: u64,
    last: u64,
    /// Where the piece's offsets count from; less than `start` if the window's head is hidden.
    origin: u64,
    device: Arc<dyn BusDevice>,
}

impl Table {
    /// Lays the windows over each other, the strongest first.
    fn build(windows: &[Placed]) -> Self {
        let mut pieces: Vec<Piece> = Vec::with_capacity(windows.len());
        let by_strength = windows
            .iter()
            .filter(|window| window.fixed)
            .chain(windows.iter().filter(|window| !window.fixed));
        for window in by_strength {
            let Some((window_start, last)) = window.range else {
                continue;
            };
            let mut start = window_start;
            let mut found = Vec::new();
            // The pieces so far are sorted and disjoint: the new one takes the gaps between them.
            let first = pieces.partition_point(|piece| piece.last < start);
            let mut covered = false;
            for piece in &pieces[first..] {
                if piece.start > last {
                    break;
                }
                if piece.start > start {
                    found.push((start, piece.start - 1));
                }
                match piece.last.checked_add(1) {
                    Some(next) if next <= last => start = next,
                    _ => {
                        covered = true;
                        break;
                    }
                }
            }
            if !covered {
                found.push((start, last));
            }
            let origin = if window.absolute { 0 } else { window_start };
            pieces.extend(found.into_iter().map(|(start, last)| Piece {
                start,
                last,
                origin,
                device: window.device.clone(),
            }));
            pieces.sort_by_key(|piece| piece.start);
        }
        Self { pieces }
    }

    /// The piece at `address`, or how far it is to the next one (`None`: there is none).
    fn find(&self, address: u64) -> Result<&Piece, Option<u64>> {
        let index = self.pieces.partition_point(|piece| piece.last < address);
        match self.pieces.get(index) {
            Some(piece) if piece.start <= address => Ok(piece),
            Some(piece) => Err(Some(piece.start - address)),
            None => Err(None),
        }
    }
}

impl AddressSpace {
    /// The 65,536 ports.
    pub fn ports() -> Self {
        Self::with_last("port space", 0xffff)
    }

    /// Guest physical addresses that are not memory.
    pub fn mmio() -> Self {
        Self::with_last("MMIO space", u64::MAX)
    }

    fn with_last(name: &'static str, last: u64) -> Self {
        Self(Arc::new(Inner {
            name,
            last,
            windows: Mutex::default(),
            table: RwLock::default(),
            generation: AtomicU64::new(0),
            unclaimed_reads: AtomicU64::new(0),
            unclaimed_writes: AtomicU64::new(0),
        }))
    }

    /// Gives `length` bytes from `start` to `device` for as long as the space lives.
    ///
    /// Errors: another fixed window has some of them, or they leave the space.
    pub fn claim(
        &self,
        name: &str,
        start: u64,
        length: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), SpaceError> {
        self.place(name, &[(start, length)], false, device)
    }

    /// Gives several ranges (start, length in bytes) to one device, which sees the addresses
    /// themselves as offsets: a chip with ports here and there.
    ///
    /// Errors as for [`AddressSpace::claim`]; nothing is claimed then.
    pub fn claim_all(
        &self,
        name: &str,
        ranges: &[(u64, u64)],
        device: Arc<dyn BusDevice>,
    ) -> Result<(), SpaceError> {
        self.place(name, ranges, true, device)
    }

    fn place(
        &self,
        name: &str,
        ranges: &[(u64, u64)],
        absolute: bool,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), SpaceError> {
        let mut windows = self.0.windows();
        for &(start, length) in ranges {
            let (start, last) = self.0.range(name, start, length)?;
            for other in windows.list.iter().filter(|other| other.fixed) {
                if let Some((other_start, other_last)) = other.range
                    && start <= other_last
                    && other_start <= last
                {
                    return Err(SpaceError::Overlap {
                        space: self.0.name,
                        name: name.to_owned(),
                        start,
                        last,
                        other: other.name.clone(),
                        other_start,
                        other_last,
                    });
                }
            }
        }
        for &(start, length) in ranges {
            let range = self.0.range(name, start, length)?;
            windows.add(name, Some(range), absolute, device.clone());
        }
        self.0.publish(&windows);
        Ok(())
    }

    /// A window for `device` that is nowhere yet and goes where [`Window::map`] says: a BAR.
    pub fn window(&self, name: &str, device: Arc<dyn BusDevice>) -> Window {
        let id = self.0.windows().add(name, None, false, device);
        Window {
            space: Arc::downgrade(&self.0),
            id,
        }
    }

    /// Takes all windows out, so that the devices can go: the end of the machine.
    pub fn clear(&self) {
        let mut windows = self.0.windows();
        let gone = std::mem::take(&mut windows.list);
        self.0.publish(&windows);
        drop(windows);
        // Devices may own windows of this space, whose drop takes the lock again.
        drop(gone);
    }

    /// A handle for one thread that makes many accesses.
    pub fn view(&self) -> SpaceView {
        let generation = self.0.generation.load(Ordering::Acquire);
        SpaceView {
            table: self.0.table(),
            generation,
            space: self.clone(),
        }
    }

    /// One read, as [`SpaceView::read`]; for callers that make few.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let table = self.0.table();
        self.0.read(&table, address, data)
    }

    /// One write, as [`SpaceView::write`]; for callers that make few.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let table = self.0.table();
        self.0.write(&table, address, data)
    }

    /// Whether some window answers at `address`.
    pub fn is_claimed(&self, address: u64) -> bool {
        self.0.table().find(address).is_ok()
    }

    /// Reads and writes so far of which some byte had no owner.
    pub fn unclaimed(&self) -> (u64, u64) {
        (
            self.0.unclaimed_reads.load(Ordering::Relaxed),
            self.0.unclaimed_writes.load(Ordering::Relaxed),
        )
    }

    /// The mapped windows in order: name, first and last address. For listings and tests.
    pub fn windows(&self) -> Vec<(String, u64, u64)> {
        let windows = self.0.windows();
        let mut mapped: Vec<_> = windows
            .list
            .iter()
            .filter_map(|window| {
                let (start, last) = window.range?;
                Some((window.name.clone(), start, last))
            })
            .collect();
        mapped.sort_by_key(|(_, start, _)| *start);
        mapped
    }
}

impl Inner {
    fn windows(&self) -> std::sync::MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> Arc<Table> {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn range(&self, name: &str, start: u64, length: u64) -> Result<(u64, u64), SpaceError> {
        length
            .checked_sub(1)
            .and_then(|more| start.checked_add(more))
            .filter(|last| *last <= self.last)
            .map(|last| (start, last))
            .ok_or_else(|| SpaceError::Range {
                space: self.name,
                name: name.to_owned(),
                start,
                length,
            })
    }

    /// Makes the windows' new state visible. The caller holds their lock, so tables come in order.
    fn publish(&self, windows: &Windows) {
        let table = Arc::new(Table::build(&windows.list));
        let old = {
            let mut current = self.table.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, table)
        };
        self.generation.fetch_add(1, Ordering::Release);
        // The windows still hold every device that the old table holds, so nothing is destroyed here.
        drop(old);
    }

    fn read(&self, table: &Table, address: u64, data: &mut [u8]) -> bool {
        // The common case: one window has all of it.
        if let Ok(piece) = table.find(address)
            && whole(data.len())
            && data.len() as u64 - 1 <= piece.last - address
        {
            piece.device.read(address - piece.origin, data);
            return true;
        }
        let mut all = true;
        let mut done = 0;
        while done < data.len() {
            let at = address.wrapping_add(done as u64);
            let rest = data.len() - done;
            match table.find(at) {
                Ok(piece) => {
                    let count = part(rest, piece.last - at);
                    let into = &mut data[done..done + count];
                    piece.device.read(at - piece.origin, into);
                    done += count;
                }
                Err(gap) => {
                    let count = gap.map_or(rest, |gap| rest.min(clamp(gap)));
                    data[done..done + count].fill(0xff);
                    done += count;
                    all = false;
                }
            }
        }
        if !all {
            let length = data.len();
            self.note_unclaimed(&self.unclaimed_reads, "read", address, length);
        }
        all
    }

    fn write(&self, table: &Table, address: u64, data: &[u8]) -> bool {
        if let Ok(piece) = table.find(address)
            && whole(data.len())
            && data.len() as u64 - 1 <= piece.last - address
        {
            piece.device.write(address - piece.origin, data);
            return true;
        }
        let mut all = true;
        let mut done = 0;
        while done < data.len() {
            let at = address.wrapping_add(done as u64);
            let rest = data.len() - done;
            match table.find(at) {
                Ok(piece) => {
                    let count = part(rest, piece.last - at);
                    let from = &data[done..done + count];
                    piece.device.write(at - piece.origin, from);
                    done += count;
                }
                Err(gap) => {
                    done += gap.map_or(rest, |gap| rest.min(clamp(gap)));
                    all = false;
                }
            }
        }
        if !all {
            self.note_unclaimed(&self.unclaimed_writes, "write", address, data.len());
        }
        all
    }

    /// Counts and, at the first, second, fourth, eighth... time, logs: a guest that probes in a loop
    /// must not fill the log.
    fn note_unclaimed(&self, counter: &AtomicU64, what: &str, address: u64, length: usize) {
        let count = counter.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if count.is_power_of_two() {
            tracing::debug!(
                space = self.name,
                address = format_args!("{address:#x}"),
                length,
                count,
                "unclaimed {what}"
            );
        }
    }
}

impl Windows {
    fn add(
        &mut self,
        name: &str,
        range: Option<(u64, u64)>,
        absolute: bool,
        device: Arc<dyn BusDevice>,
    ) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.list.push(Placed {
            id,
            name: name.to_owned(),
            // Only movable windows begin nowhere.
            fixed: range.is_some(),
            range,
            absolute,
            device,
        });
        id
    }
}

/// Whether a device takes an access of `length` bytes in one piece.
const fn whole(length: usize) -> bool {
    matches!(length, 1 | 2 | 4 | 8)
}

/// The longest piece a device takes of an access with `rest` bytes to go, `room` bytes after the
/// first being its own.
fn part(rest: usize, room: u64) -> usize {
    let most = rest.min(clamp(room).saturating_add(1)).min(8);
    // 1, 2, 4 or 8: the highest bit of what fits.
    1 << most.ilog2()
}

fn clamp(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

impl fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace")
            .field("name", &self.0.name)
            .field("windows", &self.windows())
            .finish()
    }
}

/// One thread's way into a space: takes no lock until a window moves.
///
/// Keeps the devices alive that it has seen, so it goes with its thread.
pub struct SpaceView {
    space: AddressSpace,
    table: Arc<Table>,
    generation: u64,
}

impl SpaceView {
    /// Reads `data.len()` bytes at `address`; bytes without an owner read as all ones. Returns
    /// whether every byte had one.
    ///
    /// An access that crosses an edge between windows is split there, into pieces of 1, 2, 4 or 8
    /// bytes.
    #[inline]
    pub fn read(&mut self, address: u64, data: &mut [u8]) -> bool {
        self.refresh();
        self.space.0.read(&self.table, address, data)
    }

    /// Writes `data` at `address`; bytes without an owner are dropped. Splits as `read` does.
    /// Returns whether every byte had an owner.
    #[inline]
    pub fn write(&mut self, address: u64, data: &[u8]) -> bool {
        self.refresh();
        self.space.0.write(&self.table, address, data)
    }

    #[inline]
    fn refresh(&mut self) {
        let generation = self.space.0.generation.load(Ordering::Acquire);
        if generation != self.generation {
            // A table newer than the number is harmless: it is taken once more next time.
            self.generation = generation;
            self.table = self.space.0.table();
        }
    }
}

impl fmt::Debug for SpaceView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpaceView")
            .field("space", &self.space.0.name)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// A movable window, held by its owner; gone from the space when dropped.
///
/// Does not keep the space alive: a device may own windows of a space that owns the device.
pub struct Window {
    space: Weak<Inner>,
    id: u64,
}

impl Window {
    /// Puts the window at `start` for `length` bytes, from wherever it was. Overlap is no error (see
    /// the module's rule).
    ///
    /// Errors: the range is empty or leaves the space; the window is unmapped then.
    pub fn map(&self, start: u64, length: u64) -> Result<(), SpaceError> {
        let Some(space) = self.space.upgrade() else {
            return Ok(());
        };
        let name = {
            let windows = space.windows();
            let own = windows.list.iter().find(|window| window.id == self.id);
            own.map(|window| window.name.clone()).unwrap_or_default()
        };
        match space.range(&name, start, length) {
            Ok(range) => {
                self.set(&space, Some(range));
                Ok(())
            }
            Err(error) => {
                self.set(&space, None);
                Err(error)
            }
        }
    }

    /// Takes the window out of the space; it can be mapped again.
    pub fn unmap(&self) {
        if let Some(space) = self.space.upgrade() {
            self.set(&space, None);
        }
    }

    /// Where the window is: first and last address.
    pub fn range(&self) -> Option<(u64, u64)> {
        let space = self.space.upgrade()?;
        let windows = space.windows();
        windows.list.iter().find(|w| w.id == self.id)?.range
    }

    fn set(&self, space: &Inner, range: Option<(u64, u64)>) {
        let mut windows = space.windows();
        let own = windows.list.iter_mut().find(|w| w.id == self.id);
        if let Some(own) = own
            && own.range != range
        {
            own.range = range;
            space.publish(&windows);
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let Some(space) = self.space.upgrade() else {
            return;
        };
        let mut windows = space.windows();
        let index = windows.list.iter().position(|w| w.id == self.id);
        let gone = index.map(|index| windows.list.remove(index));
        if gone.as_ref().is_some_and(|gone| gone.range.is_some()) {
            space.publish(&windows);
        }
        drop(windows);
        // Perhaps the device's last owner: its own windows must find the lock free.
        drop(gone);
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("range", &self.range())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as its tag; notes what it is asked.
    #[derive(Default)]
    struct Tag {
        tag: u8,
        seen: Mutex<Vec<(u64, usize)>>,
    }

    impl BusDevice for Tag {
        fn read(&self, offset: u64, data: &mut [u8]) {
            self.seen.lock().unwrap().push((offset, data.len()));
            data.fill(self.tag);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.seen.lock().unwrap().push((offset, data.len()));
        }
    }

    fn tag(tag: u8) -> Arc<Tag> {
        Arc::new(Tag {
            tag,
            ..Tag::default()
        })
    }

    fn read<const N: usize>(space: &AddressSpace, address: u64) -> [u8; N] {
        let mut data = [0; N];
        let mut again = [0; N];
        space.read(address, &mut data);
        space.view().read(address, &mut again);
        assert_eq!(data, again);
        data
    }

    #[test]
    fn fixed_windows_refuse_to_overlap() {
        let space = AddressSpace::ports();
        space.claim("first", 0x3f8, 8, tag(1)).unwrap();
        let error = space.claim("second", 0x3ff, 1, tag(2)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "port space: second at 0x3ff..=0x3ff overlaps first at 0x3f8..=0x3ff"
        );
        space.claim("third", 0x400, 1, tag(3)).unwrap();
    }

    #[test]
    fn windows_stay_inside_their_space() {
        let space = AddressSpace::ports();
        assert!(space.claim("empty", 0, 0, tag(0)).is_err());
        assert!(space.claim("long", 0xffff, 2, tag(0)).is_err());
        let mmio = AddressSpace::mmio();
        assert!(mmio.claim("wraps", u64::MAX, 2, tag(0)).is_err());
        mmio.claim("top", u64::MAX, 1, tag(7)).unwrap();
        assert_eq!(read::<2>(&mmio, u64::MAX), [7, 0xff]);
    }

    #[test]
    fn unclaimed_bytes_read_as_all_ones_and_are_counted() {
        let space = AddressSpace::ports();
        space.claim("one", 0x80, 1, tag(0)).unwrap();
        assert_eq!(read::<4>(&space, 0x7f), [0xff, 0, 0xff, 0xff]);
        assert!(!space.write(0x100, &[1]));
        assert!(space.write(0x80, &[1]));
        assert_eq!(space.unclaimed(), (2, 1));
    }

    #[test]
    fn an_access_is_split_at_the_edges_of_windows() {
        let space = AddressSpace::mmio();
        let (low, high) = (tag(1), tag(2));
        space.claim("low", 0x1000, 3, low.clone()).unwrap();
        space.claim("high", 0x1003, 0x10, high.clone()).unwrap();
        let mut data = [0; 8];
        assert!(space.read(0x1000, &mut data));
        assert_eq!(data, [1, 1, 1, 2, 2, 2, 2, 2]);
        assert_eq!(*low.seen.lock().unwrap(), [(0, 2), (2, 1)]);
        assert_eq!(*high.seen.lock().unwrap(), [(0, 4), (4, 1)]);
    }

    #[test]
    fn a_fixed_window_wins_over_a_movable_one_on_top_of_it() {
        let space = AddressSpace::ports();
        space.claim("fixed", 0x1010, 0x10, tag(1)).unwrap();
        let device = tag(2);
        let window = space.window("bar", device.clone());
        window.map(0x1000, 0x40).unwrap();
        assert_eq!(read::<1>(&space, 0x100f), [2]);
        assert_eq!(read::<1>(&space, 0x1010), [1]);
        assert_eq!(read::<1>(&space, 0x1020), [2]);
        // The tail still counts its offsets from the window's start.
        assert_eq!(device.seen.lock().unwrap().last(), Some(&(0x20, 1)));
        window.unmap();
        assert_eq!(read::<1>(&space, 0x1020), [0xff]);
    }

    #[test]
    fn among_movable_windows_the_older_wins_and_moving_away_uncovers() {
        let space = AddressSpace::mmio();
        let (old, new) = (space.window("old", tag(1)), space.window("new", tag(2)));
        new.map(0xc000_0000, 0x1000).unwrap();
        let mut view = space.view();
        let mut byte = [0];
        view.read(0xc000_0000, &mut byte);
        assert_eq!(byte, [2]);
        old.map(0xc000_0000, 0x1000).unwrap();
        view.read(0xc000_0000, &mut byte);
        assert_eq!(byte, [1]);
        drop(old);
        view.read(0xc000_0000, &mut byte);
        assert_eq!(byte, [2]);
        assert!(new.map(u64::MAX, 2).is_err());
        assert_eq!(new.range(), None);
    }

    #[test]
    fn a_window_on_top_of_the_whole_space_leaves_the_rest_to_others() {
        let space = AddressSpace::mmio();
        let window = space.window("bar", tag(1));
        window.map(0, u64::MAX).unwrap();
        space.claim("chip", 0, 0x1000, tag(2)).unwrap();
        space
            .claim("rom", u64::MAX - 0xfff, 0x1000, tag(3))
            .unwrap();
        assert_eq!(read::<1>(&space, 0xfff), [2]);
        assert_eq!(read::<1>(&space, 0x1000), [1]);
        assert_eq!(read::<1>(&space, u64::MAX), [3]);
    }

    #[test]
    fn a_device_with_several_ranges_sees_the_addresses() {
        let space = AddressSpace::ports();
        let chip = tag(1);
        let ranges = [(0x20, 2), (0xa0, 2), (0x4d0, 2)];
        space.claim_all("chip", &ranges, chip.clone()).unwrap();
        space.write(0xa1, &[0]);
        space.write(0x4d0, &[0, 0]);
        assert_eq!(*chip.seen.lock().unwrap(), [(0xa1, 1), (0x4d0, 2)]);
        let error = space.claim_all("other", &[(0x30, 1), (0xa0, 1)], tag(2));
        assert!(error.is_err());
        assert!(!space.is_claimed(0x30));
    }

    /// Moves its own window from inside an access, as a BAR behind port 0xcfc does.
    struct Mover(Mutex<Option<Window>>);
    impl BusDevice for Mover {
        fn read(&self, _: u64, data: &mut [u8]) {
            data.fill(0);
        }
        fn write(&self, _: u64, data: &[u8]) {
            if let Some(window) = &*self.0.lock().unwrap() {
                window.map(u64::from(data[0]) << 8, 4).unwrap();
            }
        }
    }

    #[test]
    fn a_device_may_move_its_own_window_during_an_access() {
        let space = AddressSpace::ports();
        let mover = Arc::new(Mover(Mutex::new(None)));
        let window = space.window("mover", mover.clone());
        window.map(0x100, 4).unwrap();
        *mover.0.lock().unwrap() = Some(window);
        let mut view = space.view();
        assert!(view.write(0x100, &[2]));
        assert!(!view.write(0x100, &[3]));
        assert!(view.write(0x200, &[3]));
        space.clear();
        assert!(!view.write(0x300, &[3]));
    }
}
