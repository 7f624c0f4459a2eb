//! The software TLB: linear page to host page, with the rights in the tags.
//!
//! An entry answers "may this privilege load (store) here, is it plain memory, does it hold no decoded
//! code" with one compare: the tag is the linear page when all of that holds and an odd number
//! otherwise. There is one table for each [`View`]; the last is never filled and sends every access
//! down the slow path, for alignment checks and data breakpoints.

/// Which rights the current accesses have. Also the number of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum View {
    /// CPL 3.
    User = 0,
    /// CPL 0 to 2, kept from user pages (SMAP with AC clear).
    Supervisor = 1,
    /// CPL 0 to 2, may touch user pages.
    SupervisorAnywhere = 2,
    /// Every access is looked at.
    Checked = 3,
}

/// Entries a view has.
pub(crate) const SIZE: usize = 2048;
const VIEWS: usize = 4;
const FETCH_SIZE: usize = 256;
/// A tag that no page has.
const NO_TAG: u64 = 1;

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Entry {
    /// The linear page, if it may be loaded from.
    pub(crate) load: u64,
    /// The linear page, if it may be stored to.
    pub(crate) store: u64,
    /// Host address of the page minus its linear address.
    pub(crate) addend: usize,
    /// Guest physical page.
    pub(crate) physical: u64,
}

impl Entry {
    const EMPTY: Self = Self {
        load: NO_TAG,
        store: NO_TAG,
        addend: 0,
        physical: u64::MAX,
    };
}

/// A page that instructions have been fetched from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FetchEntry {
    pub(crate) page: u64,
    /// Value of the CPU's code key (generation and mode) under which the translation holds.
    pub(crate) key: u64,
    pub(crate) physical: u64,
}

/// All of one CPU's cached translations.
#[derive(Debug)]
pub(crate) struct Tlb {
    entries: Box<[Entry]>,
    /// Slots filled with a page that is not global, since the last flush. May name a slot twice.
    local: Vec<u16>,
    /// Slots filled with a global page, since the last full flush.
    global: Vec<u16>,
    /// Where large pages have been seen, lower and upper half: INVLPG there drops everything.
    large: [(u64, u64); 2],
    fetch: Box<[FetchEntry]>,
}

impl Tlb {
    pub(crate) fn new() -> Self {
        let no_fetch = FetchEntry {
            page: NO_TAG,
            key: 0,
            physical: 0,
        };
        Self {
            entries: vec![Entry::EMPTY; SIZE * VIEWS].into_boxed_slice(),
            local: Vec::new(),
            global: Vec::new(),
            large: [(u64::MAX, 0); 2],
            fetch: vec![no_fetch; FETCH_SIZE].into_boxed_slice(),
        }
    }

    /// The entry that would hold `linear`. `base` is the view times [`SIZE`].
    #[inline(always)]
    pub(crate) fn entry(&self, base: usize, linear: u64) -> &Entry {
        let slot = base + ((linear >> 12) as usize & (SIZE - 1));
        // `base` is at most 3 * SIZE, so the mask changes nothing and spares the bounds check.
        &self.entries[slot & (SIZE * VIEWS - 1)]
    }

    /// Notes a translation. With `store`, stores may use it too.
    pub(crate) fn fill(&mut self, base: usize, linear: u64, host: usize, filled: Filled) {
        let page = linear & !0xfff;
        let slot = base + ((page >> 12) as usize & (SIZE - 1));
        let Some(entry) = self.entries.get_mut(slot) else {
            return;
        };
        let fresh = entry.load != page && entry.store != page;
        *entry = Entry {
            load: page,
            store: if filled.store { page } else { NO_TAG },
            addend: host.wrapping_sub(page as usize),
            physical: filled.physical,
        };
        if fresh {
            let list = if filled.global {
                &mut self.global
            } else {
                &mut self.local
            };
            list.push(slot as u16);
            if list.len() > 4 * SIZE {
                self.flush_all();
                return;
            }
        }
        if filled.large {
            let (low, high) = &mut self.large[(page >> 63) as usize];
            *low = page.min(*low);
            *high = page.max(*high);
        }
    }

    /// Drops everything.
    pub(crate) fn flush_all(&mut self) {
        self.flush_local();
        for slot in self.global.drain(..) {
            self.entries[usize::from(slot)] = Entry::EMPTY;
        }
        self.large = [(u64::MAX, 0); 2];
    }

    /// Drops what is not global.
    pub(crate) fn flush_local(&mut self) {
        for slot in self.local.drain(..) {
            self.entries[usize::from(slot)] = Entry::EMPTY;
        }
    }

    /// Drops the page of `linear`; with large pages near, everything.
    pub(crate) fn flush_page(&mut self, linear: u64) {
        let page = linear & !0xfff;
        let (low, high) = self.large[(page >> 63) as usize];
        // A fragment of a large page may lie up to its size away from the fragments seen.
        let slack = 1 << 30;
        if low <= high && page >= low.saturating_sub(slack) && page <= high.saturating_add(slack) {
            self.flush_all();
            return;
        }
        for view in 0..VIEWS {
            let slot = view * SIZE + ((page >> 12) as usize & (SIZE - 1));
            let entry = &mut self.entries[slot];
            if entry.load == page || entry.store == page {
                *entry = Entry::EMPTY;
            }
        }
    }

    /// Sends stores to the guest physical page down the slow path from now on.
    pub(crate) fn forbid_stores(&mut self, physical: u64) {
        for entry in &mut self.entries {
            if entry.physical == physical {
                entry.store = NO_TAG;
            }
        }
    }

    /// The physical page that `page` is fetched from under `key`, if known.
    #[inline(always)]
    pub(crate) fn fetch(&self, page: u64, key: u64) -> Option<u64> {
        let entry = &self.fetch[(page >> 12) as usize & (FETCH_SIZE - 1)];
        (entry.page == page && entry.key == key).then_some(entry.physical)
    }

    /// Notes where `page` is fetched from under `key`.
    pub(crate) fn fill_fetch(&mut self, page: u64, key: u64, physical: u64) {
        self.fetch[(page >> 12) as usize & (FETCH_SIZE - 1)] = FetchEntry {
            page,
            key,
            physical,
        };
    }
}

/// What [`Tlb::fill`] notes besides the addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filled {
    /// Guest physical page.
    pub(crate) physical: u64,
    /// Stores may go straight to the host page.
    pub(crate) store: bool,
    /// Survives a change of address space.
    pub(crate) global: bool,
    /// Part of a page larger than 4 KiB.
    pub(crate) large: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: Filled = Filled {
        physical: 0x5000,
        store: true,
        global: false,
        large: false,
    };

    #[test]
    fn a_local_flush_keeps_global_pages() {
        let mut tlb = Tlb::new();
        tlb.fill(0, 0x1000, 0x10_0000, LOCAL);
        tlb.fill(
            0,
            0x2000,
            0x20_0000,
            Filled {
                global: true,
                ..LOCAL
            },
        );
        tlb.flush_local();
        assert_eq!(tlb.entry(0, 0x1000).load, NO_TAG);
        assert_eq!(tlb.entry(0, 0x2000).load, 0x2000);
        tlb.flush_all();
        assert_eq!(tlb.entry(0, 0x2000).load, NO_TAG);
    }

    #[test]
    fn invalidating_near_a_large_page_drops_all_of_it() {
        let mut tlb = Tlb::new();
        let base = 0xffff_8880_0000_0000;
        tlb.fill(
            SIZE,
            base,
            0,
            Filled {
                large: true,
                ..LOCAL
            },
        );
        tlb.fill(
            SIZE,
            base + 0x1000,
            0,
            Filled {
                large: true,
                ..LOCAL
            },
        );
        tlb.flush_page(base + 0x3000);
        assert_eq!(tlb.entry(SIZE, base).load, NO_TAG);
    }

    #[test]
    fn forbidding_stores_leaves_loads_alone() {
        let mut tlb = Tlb::new();
        tlb.fill(0, 0x1000, 0x10_0000, LOCAL);
        tlb.forbid_stores(0x5000);
        assert_eq!(tlb.entry(0, 0x1000).load, 0x1000);
        assert_eq!(tlb.entry(0, 0x1000).store, NO_TAG);
    }
}
