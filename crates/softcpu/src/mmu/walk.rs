//! Page walks: linear to guest physical, in all four paging modes (SDM vol. 3A, chapter 4).

use vm_types::GuestAddress;

use super::host;
use crate::cpu::Cpu;
use crate::fault::Exception;
use crate::state::{cr0, cr4, efer};

/// Physical address bits that exist; CPUID leaf 0x8000_0008 says the same.
pub(crate) const PHYSICAL_BITS: u32 = 46;
const PHYSICAL_MASK: u64 = (1 << PHYSICAL_BITS) - 1;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;

/// What an access wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Load data.
    Load,
    /// Store data.
    Store,
    /// Fetch an instruction.
    Fetch,
}

/// On whose behalf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Privilege {
    /// CPL 3 and not an implicit access of the CPU to its tables.
    pub(crate) user: bool,
    /// A supervisor that may touch user pages although SMAP is on (AC set).
    pub(crate) anywhere: bool,
}

/// Where a linear page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// Guest physical address of the byte asked for.
    pub(crate) physical: u64,
    /// A store would succeed and find the dirty bit set.
    pub(crate) store_ready: bool,
    /// Global, and global pages are on.
    pub(crate) global: bool,
    /// Part of a page larger than 4 KiB.
    pub(crate) large: bool,
}

impl Cpu {
    /// Translates `linear` (canonical or 32-bit, as the mode wants) and sets accessed and dirty bits.
    pub(crate) fn walk(
        &mut self,
        linear: u64,
        intent: Intent,
        privilege: Privilege,
    ) -> Result<Mapping, Exception> {
        let control = &self.control;
        if control.cr0 & cr0::PG == 0 {
            return Ok(Mapping {
                physical: linear,
                store_ready: true,
                global: true,
                large: false,
            });
        }
        if control.efer & efer::LMA != 0 {
            self.walk_8_byte(linear, intent, privilege, 4)
        } else if control.cr4 & cr4::PAE != 0 {
            self.walk_8_byte(linear, intent, privilege, 3)
        } else {
            self.walk_4_byte(linear, intent, privilege)
        }
    }

    /// Four-level (`levels` 4) and PAE (3) paging.
    fn walk_8_byte(
        &mut self,
        linear: u64,
        intent: Intent,
        privilege: Privilege,
        levels: u32,
    ) -> Result<Mapping, Exception> {
        let control = &self.control;
        let no_execute_on = control.efer & efer::NXE != 0;
        let mut reserved = !PHYSICAL_MASK & 0x000f_ffff_ffff_f000;
        if !no_execute_on {
            reserved |= NO_EXECUTE;
        }
        let pae = levels == 3;
        let mut table = if pae {
            control.cr3 & 0xffff_ffe0
        } else {
            control.cr3 & PHYSICAL_MASK & !0xfff
        };
        let mut rights = Rights {
            writable: true,
            user: true,
            no_execute: false,
        };
        for level in (1..=levels).rev() {
            let shift = 12 + 9 * (level - 1);
            let at = table + ((linear >> shift) & 0x1ff) * 8;
            let entry = self.read_entry_8(at);
            if entry & PRESENT == 0 {
                return Err(self.page_fault(linear, intent, privilege, PageFault::NotPresent));
            }
            if pae && level == 3 {
                // A PDPTE has no rights of its own.
                if entry & (reserved | NO_EXECUTE | 0x1e6) != 0 {
                    return Err(self.page_fault(linear, intent, privilege, PageFault::Reserved));
                }
                table = entry & PHYSICAL_MASK & !0xfff;
                continue;
            }
            let large = level > 1 && entry & LARGE != 0;
            let mut forbidden = reserved;
            if large {
                // The frame must be aligned; bit 12 of a large page is its PAT bit. No 512 GiB pages.
                forbidden |= ((1 << shift) - 1) & !0x1fff;
                if level == 4 {
                    forbidden |= LARGE;
                }
            } else if level == 4 {
                forbidden |= LARGE;
            }
            if entry & forbidden != 0 {
                return Err(self.page_fault(linear, intent, privilege, PageFault::Reserved));
            }
            rights.narrow(entry, entry & NO_EXECUTE != 0);
            if level > 1 && !large {
                if entry & ACCESSED == 0 {
                    self.set_entry_bits_8(at, ACCESSED);
                }
                table = entry & PHYSICAL_MASK & !0xfff;
                continue;
            }
            if !self.allows(rights, intent, privilege) {
                return Err(self.page_fault(linear, intent, privilege, PageFault::Protection));
            }
            let mut bits = ACCESSED;
            if intent == Intent::Store {
                bits |= DIRTY;
            }
            if entry & bits != bits {
                self.set_entry_bits_8(at, bits);
            }
            let offset = (1u64 << shift) - 1;
            return Ok(Mapping {
                physical: (entry & PHYSICAL_MASK & !offset & !0xfff) | (linear & offset),
                store_ready: (entry | bits) & DIRTY != 0
                    && self.allows(rights, Intent::Store, privilege),
                global: entry & GLOBAL != 0 && self.control.cr4 & cr4::PGE != 0,
                large,
            });
        }
        // Level 1 always returns.
        Err(self.page_fault(linear, intent, privilege, PageFault::NotPresent))
    }

    /// Two-level paging with 4 KiB and 4 MiB pages.
    fn walk_4_byte(
        &mut self,
        linear: u64,
        intent: Intent,
        privilege: Privilege,
    ) -> Result<Mapping, Exception> {
        let mut table = self.control.cr3 & 0xffff_f000;
        let mut rights = Rights {
            writable: true,
            user: true,
            no_execute: false,
        };
        for level in [2u32, 1] {
            let shift = 12 + 10 * (level - 1);
            let at = table + ((linear >> shift) & 0x3ff) * 4;
            let entry = u64::from(self.read_entry_4(at));
            if entry & PRESENT == 0 {
                return Err(self.page_fault(linear, intent, privilege, PageFault::NotPresent));
            }
            let large = level == 2 && entry & LARGE != 0 && self.control.cr4 & cr4::PSE != 0;
            // Bit 21 is reserved in a 4 MiB page; bits 13 to 20 are address bits 32 to 39.
            if large && entry & (1 << 21) != 0 {
                return Err(self.page_fault(linear, intent, privilege, PageFault::Reserved));
            }
            rights.narrow(entry, false);
            if level == 2 && !large {
                if entry & ACCESSED == 0 {
                    self.set_entry_bits_4(at, ACCESSED);
                }
                table = entry & 0xffff_f000;
                continue;
            }
            if !self.allows(rights, intent, privilege) {
                return Err(self.page_fault(linear, intent, privilege, PageFault::Protection));
            }
            let mut bits = ACCESSED;
            if intent == Intent::Store {
                bits |= DIRTY;
            }
            if entry & bits != bits {
                self.set_entry_bits_4(at, bits);
            }
            let physical = if large {
                (entry & 0xffc0_0000) | ((entry >> 13 & 0xff) << 32) | (linear & 0x3f_ffff)
            } else {
                (entry & 0xffff_f000) | (linear & 0xfff)
            };
            return Ok(Mapping {
                physical,
                store_ready: (entry | bits) & DIRTY != 0
                    && self.allows(rights, Intent::Store, privilege),
                global: entry & GLOBAL != 0 && self.control.cr4 & cr4::PGE != 0,
                large,
            });
        }
        // Level 1 always returns.
        Err(self.page_fault(linear, intent, privilege, PageFault::NotPresent))
    }

    /// SDM vol. 3A, 4.6.
    fn allows(&self, rights: Rights, intent: Intent, privilege: Privilege) -> bool {
        let control = &self.control;
        if privilege.user {
            return rights.user
                && match intent {
                    Intent::Load => true,
                    Intent::Store => rights.writable,
                    Intent::Fetch => !rights.no_execute,
                };
        }
        let kept_out = rights.user && control.cr4 & cr4::SMAP != 0 && !privilege.anywhere;
        match intent {
            Intent::Load => !kept_out,
            Intent::Store => !kept_out && (rights.writable || control.cr0 & cr0::WP == 0),
            Intent::Fetch => {
                let kept_out = rights.user && control.cr4 & cr4::SMEP != 0;
                !rights.no_execute && !kept_out
            }
        }
    }

    /// #PF with the error code of SDM vol. 3A, 4.7.
    fn page_fault(
        &self,
        linear: u64,
        intent: Intent,
        privilege: Privilege,
        reason: PageFault,
    ) -> Exception {
        let mut code = match reason {
            PageFault::NotPresent => 0,
            PageFault::Protection => 1,
            PageFault::Reserved => 1 | 1 << 3,
        };
        if intent == Intent::Store {
            code |= 1 << 1;
        }
        if privilege.user {
            code |= 1 << 2;
        }
        let control = &self.control;
        let no_execute_on = control.efer & efer::NXE != 0 && control.cr4 & cr4::PAE != 0;
        if intent == Intent::Fetch && (no_execute_on || control.cr4 & cr4::SMEP != 0) {
            code |= 1 << 4;
        }
        Exception::page(linear, code)
    }

    /// Page tables that are not in memory read as not present.
    fn read_entry_8(&self, at: u64) -> u64 {
        match self.memory.host_page(GuestAddress(at)) {
            Some((page, _)) => {
                let entry = page.wrapping_add(at as usize & 0xff8);
                // SAFETY: eight aligned bytes inside the page that `memory` keeps mapped.
                #[expect(unsafe_code, reason = "page tables are guest memory")]
                unsafe {
                    host::read(entry)
                }
            }
            None => 0,
        }
    }

    fn read_entry_4(&self, at: u64) -> u32 {
        match self.memory.host_page(GuestAddress(at)) {
            Some((page, _)) => {
                let entry = page.wrapping_add(at as usize & 0xffc);
                // SAFETY: four aligned bytes inside the page that `memory` keeps mapped.
                #[expect(unsafe_code, reason = "page tables are guest memory")]
                unsafe {
                    host::read(entry)
                }
            }
            None => 0,
        }
    }

    fn set_entry_bits_8(&mut self, at: u64, bits: u64) {
        if let Some((page, vm_types::RegionKind::Ram)) = self.memory.host_page(GuestAddress(at)) {
            let entry = page.wrapping_add(at as usize & 0xff8);
            // SAFETY: eight aligned bytes inside the page that `memory` keeps mapped.
            #[expect(unsafe_code, reason = "page tables are guest memory")]
            unsafe {
                host::set_bits_8(entry, bits);
            }
            self.memory.note_write(GuestAddress(at), 8);
        }
    }

    fn set_entry_bits_4(&mut self, at: u64, bits: u64) {
        if let Some((page, vm_types::RegionKind::Ram)) = self.memory.host_page(GuestAddress(at)) {
            let entry = page.wrapping_add(at as usize & 0xffc);
            // SAFETY: four aligned bytes inside the page that `memory` keeps mapped.
            #[expect(unsafe_code, reason = "page tables are guest memory")]
            unsafe {
                host::set_bits_4(entry, bits as u32);
            }
            self.memory.note_write(GuestAddress(at), 4);
        }
    }
}

/// What all levels of a walk together allow.
#[derive(Clone, Copy)]
struct Rights {
    writable: bool,
    user: bool,
    no_execute: bool,
}

impl Rights {
    fn narrow(&mut self, entry: u64, no_execute: bool) {
        self.writable &= entry & WRITABLE != 0;
        self.user &= entry & USER != 0;
        self.no_execute |= no_execute;
    }
}

enum PageFault {
    NotPresent,
    Protection,
    Reserved,
}
