//! Loads, stores and read-modify-writes by linear address and by operand.

use vm_types::{GuestAddress, RegionKind};

use super::host;
use super::tlb::{Filled, SIZE, View};
use super::walk::{Intent, Mapping, Privilege};
use crate::cpu::Cpu;
use crate::fault::{Exception, Trap, vector};
use crate::op::{Op, mode};
use crate::state::{Seg, Segment, Width, cr0, cr4, efer, flags};

const PAGE: u64 = 4096;

impl Cpu {
    /// Linear address of the memory operand of `op`, `size` bytes long, after segment checks.
    #[inline(always)]
    pub(crate) fn linear(&mut self, op: &Op, size: u64, intent: Intent) -> Result<u64, Trap> {
        let effective = self.effective(op);
        if op.mode & mode::COMPLEX == 0 {
            return Ok(effective);
        }
        self.linear_complex(op, effective, size, intent)
    }

    /// Base plus scaled index plus displacement, before the address size cuts it.
    #[inline(always)]
    pub(crate) fn effective(&self, op: &Op) -> u64 {
        self.regs
            .read(op.base)
            .wrapping_add(self.regs.read(op.index) << (op.mode & mode::SCALE))
            .wrapping_add(op.disp as u64)
    }

    /// The offset of the memory operand cut to its address size: what LEA gives.
    #[inline(always)]
    pub(crate) fn offset(&self, op: &Op) -> u64 {
        let effective = self.effective(op);
        if op.mode & mode::ADDRESS_32 != 0 {
            effective & 0xffff_ffff
        } else if op.mode & mode::ADDRESS_16 != 0 {
            effective & 0xffff
        } else {
            effective
        }
    }

    #[inline(never)]
    fn linear_complex(
        &mut self,
        op: &Op,
        effective: u64,
        size: u64,
        intent: Intent,
    ) -> Result<u64, Trap> {
        let offset = if op.mode & mode::ADDRESS_32 != 0 {
            effective & 0xffff_ffff
        } else if op.mode & mode::ADDRESS_16 != 0 {
            effective & 0xffff
        } else {
            effective
        };
        self.segmented(op.segment(), offset, size, intent)
    }

    /// Linear address of `offset` in segment `seg` for an access of `size` bytes, after the checks of
    /// SDM vol. 3A, 5.3 and 5.5 (64-bit mode: base of FS and GS only, canonical checks come later).
    pub(crate) fn segmented(
        &mut self,
        seg: Seg,
        offset: u64,
        size: u64,
        intent: Intent,
    ) -> Result<u64, Trap> {
        let segment = &self.segments[seg as usize];
        if self.is_64_bit() {
            return Ok(match seg {
                Seg::Fs | Seg::Gs => segment.base.wrapping_add(offset),
                Seg::Es | Seg::Cs | Seg::Ss | Seg::Ds => offset,
            });
        }
        if segment_allows(segment, offset, size, intent) {
            Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
        } else {
            let vector = if seg == Seg::Ss {
                vector::STACK
            } else {
                vector::PROTECTION
            };
            Err(self.raise(Exception::coded(vector, 0)))
        }
    }

    /// Loads from a linear address. `seg` only decides between #SS and #GP.
    #[inline(always)]
    pub(crate) fn load<W: Width>(&mut self, linear: u64, seg: Seg) -> Result<W, Trap> {
        let entry = self.tlb.entry(self.tlb_base, linear);
        // The page of the last byte: a load that crosses into the next page misses.
        if entry.load == linear.wrapping_add(W::BYTES - 1) & !(PAGE - 1) {
            let at = entry.addend.wrapping_add(linear as usize) as *const u8;
            // SAFETY: the tag says that this page is mapped memory that may be loaded from, and the
            // compare that the whole access lies in it.
            #[expect(unsafe_code, reason = "TLB hit path, see benches/interpreter")]
            return Ok(unsafe { host::read(at) });
        }
        self.load_slow(linear, W::BYTES, seg).map(W::truncate)
    }

    /// Stores to a linear address.
    #[inline(always)]
    pub(crate) fn store<W: Width>(&mut self, linear: u64, value: W, seg: Seg) -> Result<(), Trap> {
        let entry = self.tlb.entry(self.tlb_base, linear);
        if entry.store == linear.wrapping_add(W::BYTES - 1) & !(PAGE - 1) {
            let at = entry.addend.wrapping_add(linear as usize) as *mut u8;
            // SAFETY: the tag says that this page is mapped memory that may be stored to, and the
            // compare that the whole access lies in it.
            #[expect(unsafe_code, reason = "TLB hit path, see benches/interpreter")]
            unsafe {
                host::write(at, value);
            }
            return Ok(());
        }
        self.store_slow(linear, W::BYTES, value.zero_extend(), seg)
    }

    /// Loads the memory operand of `op`.
    #[inline(always)]
    pub(crate) fn load_operand<W: Width>(&mut self, op: &Op) -> Result<W, Trap> {
        let linear = self.linear(op, W::BYTES, Intent::Load)?;
        self.load(linear, op.segment())
    }

    /// Stores to the memory operand of `op`.
    #[inline(always)]
    pub(crate) fn store_operand<W: Width>(&mut self, op: &Op, value: W) -> Result<(), Trap> {
        let linear = self.linear(op, W::BYTES, Intent::Store)?;
        self.store(linear, value, op.segment())
    }

    /// Replaces the memory operand of `op` by `change` of it and returns the old value. With `locked`,
    /// atomically; `change` may then run more than once.
    #[inline(always)]
    pub(crate) fn modify_operand<W: Width>(
        &mut self,
        op: &Op,
        locked: bool,
        change: impl FnMut(W) -> W,
    ) -> Result<W, Trap> {
        let linear = self.linear(op, W::BYTES, Intent::Store)?;
        self.modify(linear, op.segment(), locked, change)
    }

    /// As [`Cpu::modify_operand`], by linear address.
    #[inline(always)]
    pub(crate) fn modify<W: Width>(
        &mut self,
        linear: u64,
        seg: Seg,
        locked: bool,
        mut change: impl FnMut(W) -> W,
    ) -> Result<W, Trap> {
        let entry = self.tlb.entry(self.tlb_base, linear);
        if entry.store == linear.wrapping_add(W::BYTES - 1) & !(PAGE - 1) {
            let at = entry.addend.wrapping_add(linear as usize) as *mut u8;
            // SAFETY: the tag says that this page is mapped memory that may be stored to, and the
            // compare that the whole access lies in it.
            #[expect(unsafe_code, reason = "TLB hit path, see benches/interpreter")]
            return Ok(unsafe { host::modify(at, locked && self.shares_memory, change) });
        }
        self.modify_slow(linear, W::BYTES, seg, locked, &mut |old| {
            change(W::truncate(old)).zero_extend()
        })
        .map(W::truncate)
    }

    /// Loads 16 bytes.
    #[inline(always)]
    pub(crate) fn load_16(&mut self, linear: u64, seg: Seg) -> Result<u128, Trap> {
        let entry = self.tlb.entry(self.tlb_base, linear);
        if entry.load == linear.wrapping_add(15) & !(PAGE - 1) {
            let at = entry.addend.wrapping_add(linear as usize) as *const u8;
            // SAFETY: the tag says that this page is mapped memory that may be loaded from, and the
            // compare that all 16 bytes lie in it.
            #[expect(unsafe_code, reason = "TLB hit path, see benches/interpreter")]
            return Ok(unsafe { host::read_16(at) });
        }
        self.check_ends(linear, 16, seg)?;
        let low = self.load_slow(linear, 8, seg)?;
        let high = self.load_slow(linear.wrapping_add(8), 8, seg)?;
        Ok(u128::from(high) << 64 | u128::from(low))
    }

    /// Stores 16 bytes; all of them or, with a fault, none.
    #[inline(always)]
    pub(crate) fn store_16(&mut self, linear: u64, value: u128, seg: Seg) -> Result<(), Trap> {
        let entry = self.tlb.entry(self.tlb_base, linear);
        if entry.store == linear.wrapping_add(15) & !(PAGE - 1) {
            let at = entry.addend.wrapping_add(linear as usize) as *mut u8;
            // SAFETY: the tag says that this page is mapped memory that may be stored to, and the
            // compare that all 16 bytes lie in it.
            #[expect(unsafe_code, reason = "TLB hit path, see benches/interpreter")]
            unsafe {
                host::write_16(at, value);
            }
            return Ok(());
        }
        self.check_ends(linear, 16, seg)?;
        self.probe_store(linear, 16, seg)?;
        self.store_slow(linear, 8, value as u64, seg)?;
        self.store_slow(linear.wrapping_add(8), 8, (value >> 64) as u64, seg)
    }

    /// Loads bytes for the larger formats (FXSAVE areas, descriptors). At most a page.
    pub(crate) fn load_bytes(
        &mut self,
        linear: u64,
        into: &mut [u8],
        seg: Seg,
    ) -> Result<(), Trap> {
        self.check_ends(linear, into.len() as u64, seg)?;
        for (index, byte) in into.iter_mut().enumerate() {
            *byte = self.load::<u8>(linear.wrapping_add(index as u64), seg)?;
        }
        Ok(())
    }

    /// Stores bytes; all of them or, with a fault, none. At most a page.
    pub(crate) fn store_bytes(&mut self, linear: u64, from: &[u8], seg: Seg) -> Result<(), Trap> {
        self.check_ends(linear, from.len() as u64, seg)?;
        self.probe_store(linear, from.len() as u64, seg)?;
        for (index, byte) in from.iter().enumerate() {
            self.store::<u8>(linear.wrapping_add(index as u64), *byte, seg)?;
        }
        Ok(())
    }

    /// CMPXCHG16B on 16 aligned bytes: stores `new` if they are `old`; returns what was there.
    pub(crate) fn compare_exchange_16(
        &mut self,
        linear: u64,
        old: u128,
        new: u128,
        seg: Seg,
    ) -> Result<u128, Trap> {
        let physical = self.translate(linear, Intent::Store, seg)?;
        match self.memory.host_page(GuestAddress(physical)) {
            Some((page, RegionKind::Ram)) => {
                self.before_code_write(physical)?;
                let at = page.wrapping_add((physical & (PAGE - 1)) as usize);
                // SAFETY: `memory` keeps the page mapped; the caller has checked that the address is
                // a multiple of 16, so the bytes lie in the page.
                #[expect(unsafe_code, reason = "16-byte compare-and-swap on guest memory")]
                let seen = unsafe { host::compare_exchange_16(at, old, new) };
                self.memory.note_write(GuestAddress(physical), 16);
                Ok(seen)
            }
            _ => {
                let low = self.load_slow(linear, 8, seg)?;
                let high = self.load_slow(linear.wrapping_add(8), 8, seg)?;
                let seen = u128::from(high) << 64 | u128::from(low);
                let value = if seen == old { new } else { seen };
                self.store_slow(linear, 8, value as u64, seg)?;
                self.store_slow(linear.wrapping_add(8), 8, (value >> 64) as u64, seg)?;
                Ok(seen)
            }
        }
    }

    /// Raises what a store of `size` bytes would raise, without storing.
    pub(crate) fn probe_store(&mut self, linear: u64, size: u64, seg: Seg) -> Result<(), Trap> {
        self.probe(linear, size, Intent::Store, seg)
    }

    /// Raises what an access of `size` bytes would raise, without touching the bytes.
    pub(crate) fn probe(
        &mut self,
        linear: u64,
        size: u64,
        intent: Intent,
        seg: Seg,
    ) -> Result<(), Trap> {
        if size == 0 {
            return Ok(());
        }
        let mut at = linear;
        let last = linear.wrapping_add(size - 1);
        loop {
            let physical = self.translate(at, intent, seg)?;
            if intent == Intent::Store {
                self.before_code_write(physical)?;
            }
            if at & !(PAGE - 1) == last & !(PAGE - 1) {
                return Ok(());
            }
            at = (at & !(PAGE - 1)).wrapping_add(PAGE);
        }
    }

    /// Runs `body` with the rights of the CPU itself, as for descriptor tables and the TSS.
    pub(crate) fn as_system<T>(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<T, Trap>,
    ) -> Result<T, Trap> {
        let before = (self.view, self.tlb_base);
        if self.view == View::User {
            self.set_view(View::Supervisor);
        }
        self.implicit = true;
        let result = body(self);
        self.implicit = false;
        self.view = before.0;
        self.tlb_base = before.1;
        result
    }

    /// Selects the TLB table for the current privilege and flags.
    pub(crate) fn update_view(&mut self) {
        let user = self.cpl == 3;
        let smap = self.control.cr4 & cr4::SMAP != 0;
        let aligned = user && self.control.cr0 & cr0::AM != 0 && self.flags.has(flags::AC);
        let view = if aligned || self.data_breakpoints {
            View::Checked
        } else if user {
            View::User
        } else if smap && !self.flags.has(flags::AC) {
            View::Supervisor
        } else {
            View::SupervisorAnywhere
        };
        self.set_view(view);
    }

    fn set_view(&mut self, view: View) {
        self.view = view;
        self.tlb_base = view as usize * SIZE;
    }

    /// Guest physical address of `linear`; raises what the access would raise.
    pub(crate) fn translate(&mut self, linear: u64, intent: Intent, seg: Seg) -> Result<u64, Trap> {
        let linear = self.checked_linear(linear, seg)?;
        let privilege = self.privilege();
        match self.walk(linear, intent, privilege) {
            Ok(mapping) => {
                self.fill(linear, intent, mapping);
                Ok(mapping.physical)
            }
            Err(exception) => Err(self.raise(exception)),
        }
    }

    /// On whose behalf data accesses are made now.
    fn privilege(&self) -> Privilege {
        let user = self.cpl == 3 && !self.implicit;
        Privilege {
            user,
            anywhere: self.flags.has(flags::AC) && !self.implicit,
        }
    }

    /// Both ends of an access are canonical: that is looked at before any page.
    fn check_ends(&mut self, linear: u64, size: u64, seg: Seg) -> Result<(), Trap> {
        self.checked_linear(linear, seg)?;
        self.checked_linear(linear.wrapping_add(size.saturating_sub(1)), seg)?;
        Ok(())
    }

    /// `linear` if it is canonical (64-bit), cut to 32 bits otherwise.
    fn checked_linear(&mut self, linear: u64, seg: Seg) -> Result<u64, Trap> {
        if self.control.efer & efer::LMA == 0 {
            return Ok(linear & 0xffff_ffff);
        }
        if is_canonical(linear) {
            return Ok(linear);
        }
        let vector = if seg == Seg::Ss {
            vector::STACK
        } else {
            vector::PROTECTION
        };
        Err(self.raise(Exception::coded(vector, 0)))
    }

    /// Puts a translation into the TLB, if loads and stores may go straight to host memory.
    fn fill(&mut self, linear: u64, intent: Intent, mapping: Mapping) {
        if intent == Intent::Fetch || self.view == View::Checked {
            return;
        }
        let physical = mapping.physical & !(PAGE - 1);
        if self.apic.covers(physical) {
            return;
        }
        let Some((page, kind)) = self.memory.host_page(GuestAddress(physical)) else {
            return;
        };
        let store = mapping.store_ready
            && kind == RegionKind::Ram
            && !self.memory.is_watched(GuestAddress(physical));
        if store {
            // The dirty map learns of a page when stores to it become fast.
            self.memory.note_write(GuestAddress(physical), 1);
        }
        let filled = Filled {
            physical,
            store,
            global: mapping.global,
            large: mapping.large,
        };
        self.tlb
            .fill(self.tlb_base, linear, page.expose_provenance(), filled);
    }

    #[cold]
    #[inline(never)]
    fn load_slow(&mut self, linear: u64, size: u64, seg: Seg) -> Result<u64, Trap> {
        self.check_ends(linear, size, seg)?;
        self.check_access(linear, size, Intent::Load)?;
        if crosses_page(linear, size) {
            self.probe(linear, size, Intent::Load, seg)?;
            let mut value = 0;
            for index in 0..size {
                let physical = self.translate(linear.wrapping_add(index), Intent::Load, seg)?;
                value |= self.load_physical(physical, 1) << (8 * index);
            }
            return Ok(value);
        }
        let physical = self.translate(linear, Intent::Load, seg)?;
        Ok(self.load_physical(physical, size))
    }

    #[cold]
    #[inline(never)]
    fn store_slow(&mut self, linear: u64, size: u64, value: u64, seg: Seg) -> Result<(), Trap> {
        self.check_ends(linear, size, seg)?;
        self.check_access(linear, size, Intent::Store)?;
        if crosses_page(linear, size) {
            self.probe(linear, size, Intent::Store, seg)?;
            for index in 0..size {
                let physical = self.translate(linear.wrapping_add(index), Intent::Store, seg)?;
                self.store_physical(physical, 1, value >> (8 * index) & 0xff);
            }
            return Ok(());
        }
        let physical = self.translate(linear, Intent::Store, seg)?;
        self.before_code_write(physical)?;
        self.store_physical(physical, size, value);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn modify_slow(
        &mut self,
        linear: u64,
        size: u64,
        seg: Seg,
        locked: bool,
        change: &mut dyn FnMut(u64) -> u64,
    ) -> Result<u64, Trap> {
        self.check_ends(linear, size, seg)?;
        self.check_access(linear, size, Intent::Store)?;
        if !crosses_page(linear, size) {
            let physical = self.translate(linear, Intent::Store, seg)?;
            self.before_code_write(physical)?;
            if let Some((page, RegionKind::Ram)) = self.memory.host_page(GuestAddress(physical))
                && !self.apic.covers(physical & !(PAGE - 1))
            {
                let at = page.wrapping_add((physical & (PAGE - 1)) as usize);
                let locked = locked && self.shares_memory;
                let old = modify_sized(at, size, locked, change);
                self.memory.note_write(GuestAddress(physical), size);
                return Ok(old);
            }
        } else {
            self.probe(linear, size, Intent::Store, seg)?;
        }
        let old = self.load_slow(linear, size, seg)?;
        self.store_slow(linear, size, change(old), seg)?;
        Ok(old)
    }

    /// Alignment check (#AC) and data breakpoints, which only the checked view needs.
    pub(crate) fn check_access(
        &mut self,
        linear: u64,
        size: u64,
        intent: Intent,
    ) -> Result<(), Trap> {
        if self.view != View::Checked || self.implicit {
            return Ok(());
        }
        let aligned = linear.is_multiple_of(size);
        let checked = self.cpl == 3 && self.control.cr0 & cr0::AM != 0 && self.flags.has(flags::AC);
        if checked && !aligned {
            return Err(self.raise(Exception::coded(vector::ALIGNMENT, 0)));
        }
        if self.data_breakpoints {
            self.note_data_breakpoint(linear, size, intent);
        }
        Ok(())
    }

    /// DR0 to DR3 against one data access: a hit traps after the instruction.
    fn note_data_breakpoint(&mut self, linear: u64, size: u64, intent: Intent) {
        for index in 0..4 {
            let control = self.control.dr7 >> (16 + 4 * index);
            let kind = control & 3;
            let wanted = kind == 3 || (kind == 1 && intent == Intent::Store);
            if !wanted {
                continue;
            }
            let length = [1, 2, 8, 4][(control >> 2 & 3) as usize];
            let start = self.control.breakpoints[index as usize] & !(length - 1);
            let before_end = linear.wrapping_sub(start) < length;
            let after_start = start.wrapping_sub(linear) < size;
            if before_end || after_start {
                self.pending_debug |= 1 << index;
            }
        }
    }

    /// A load from guest physical memory or from a device, inside one page.
    pub(crate) fn load_physical(&mut self, physical: u64, size: u64) -> u64 {
        if self.apic.covers(physical & !(PAGE - 1)) {
            return self.load_apic((physical & (PAGE - 1)) as u32, size);
        }
        let mut bytes = [0; 8];
        let data = &mut bytes[..size as usize];
        if let Some((page, _)) = self.memory.host_page(GuestAddress(physical)) {
            let at = page.wrapping_add((physical & (PAGE - 1)) as usize);
            return load_sized(at, size);
        }
        self.bus.read_mmio(GuestAddress(physical), data);
        u64::from_le_bytes(bytes)
    }

    /// A store to guest physical memory or to a device, inside one page.
    pub(crate) fn store_physical(&mut self, physical: u64, size: u64, value: u64) {
        if self.apic.covers(physical & !(PAGE - 1)) {
            self.store_apic((physical & (PAGE - 1)) as u32, size, value);
            return;
        }
        if let Some((page, RegionKind::Ram)) = self.memory.host_page(GuestAddress(physical)) {
            let at = page.wrapping_add((physical & (PAGE - 1)) as usize);
            store_sized(at, size, value);
            self.memory.note_write(GuestAddress(physical), size);
            return;
        }
        let bytes = value.to_le_bytes();
        self.bus
            .write_mmio(GuestAddress(physical), &bytes[..size as usize]);
    }

    /// A store into the page that is being executed ends the block first: the instruction is run again
    /// by itself, and what follows it is decoded afresh.
    fn before_code_write(&mut self, physical: u64) -> Result<(), Trap> {
        if self.running_page == physical & !(PAGE - 1)
            && !self.alone
            && self.memory.is_watched(GuestAddress(physical))
        {
            self.alone_wanted = true;
            return Err(Trap);
        }
        Ok(())
    }

    /// How many bytes from `linear` lie in memory that loads (stores) reach directly, at most `limit`,
    /// with the host address. `None` sends the caller to the byte-wise way.
    pub(crate) fn direct_run(&mut self, linear: u64, limit: u64, intent: Intent) -> Option<Run> {
        let entry = *self.tlb.entry(self.tlb_base, linear);
        let tag = if intent == Intent::Store {
            entry.store
        } else {
            entry.load
        };
        if tag != linear & !(PAGE - 1) {
            return None;
        }
        let length = limit.min(PAGE - (linear & (PAGE - 1)));
        Some(Run {
            host: entry.addend.wrapping_add(linear as usize),
            length,
        })
    }

    /// Copies inside guest memory, forwards, as whole runs; how many bytes. None when the target begins
    /// inside the source: then each element must see the ones before it.
    pub(crate) fn copy_run(&mut self, source: Run, target: Run) -> u64 {
        let length = source.length.min(target.length);
        if target.host != source.host && target.host.wrapping_sub(source.host) < length as usize {
            return 0;
        }
        let (from, to) = (source.host as *const u8, target.host as *mut u8);
        // SAFETY: `direct_run` found both runs in mapped memory of that length; they may overlap.
        #[expect(unsafe_code, reason = "string moves by whole pages")]
        unsafe {
            std::ptr::copy(from, to, length as usize);
        }
        length
    }

    /// Fills a run of guest memory with a repeated little-endian pattern of `size` bytes.
    pub(crate) fn fill_run(&mut self, target: Run, pattern: u64, size: u64) -> u64 {
        let count = target.length / size;
        if size == 1 || pattern == 0 {
            let to = target.host as *mut u8;
            // SAFETY: `direct_run` found the run in mapped, writable memory of that length.
            #[expect(unsafe_code, reason = "string stores by whole pages")]
            unsafe {
                std::ptr::write_bytes(to, pattern as u8, (count * size) as usize);
            }
        } else {
            for index in 0..count {
                let at = (target.host as *mut u8).wrapping_add((index * size) as usize);
                store_sized(at, size, pattern);
            }
        }
        count * size
    }
}

/// Part of a guest page in host memory, as [`Cpu::direct_run`] found it. Used at once, never kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    host: usize,
    /// Bytes.
    pub(crate) length: u64,
}

impl Run {
    /// The first `length` bytes of the run.
    pub(crate) fn cut(self, length: u64) -> Self {
        Self {
            host: self.host,
            length: self.length.min(length),
        }
    }
}

/// Whether bits 47 to 63 are equal.
#[inline(always)]
pub(crate) fn is_canonical(linear: u64) -> bool {
    ((linear << 16) as i64 >> 16) as u64 == linear
}

fn crosses_page(linear: u64, size: u64) -> bool {
    (linear & (PAGE - 1)) + size > PAGE
}

/// Type, rights and limit of a legacy-mode segment.
fn segment_allows(segment: &Segment, offset: u64, size: u64, intent: Intent) -> bool {
    if !segment.has(Segment::PRESENT) {
        return false;
    }
    let code = segment.has(Segment::CODE);
    let readable_or_writable = segment.has(Segment::READ_OR_WRITE);
    let right = match intent {
        Intent::Load => !code || readable_or_writable,
        Intent::Store => !code && readable_or_writable,
        Intent::Fetch => code,
    };
    let last = offset + (size - 1);
    let limit = u64::from(segment.limit);
    let inside = if !code && segment.has(Segment::CONFORMING_OR_DOWN) {
        let top = if segment.has(Segment::BIG) {
            0xffff_ffff
        } else {
            0xffff
        };
        offset > limit && last <= top
    } else {
        last <= limit
    };
    right && inside
}

fn load_sized(at: *const u8, size: u64) -> u64 {
    // SAFETY: callers pass an address inside a mapped page with `size` bytes left in it.
    #[expect(unsafe_code, reason = "guest memory by pointer, slow path")]
    unsafe {
        host::read_sized(at, size)
    }
}

fn store_sized(at: *mut u8, size: u64, value: u64) {
    // SAFETY: callers pass an address inside a mapped, writable page with `size` bytes left in it.
    #[expect(unsafe_code, reason = "guest memory by pointer, slow path")]
    unsafe {
        host::write_sized(at, size, value);
    }
}

fn modify_sized(at: *mut u8, size: u64, locked: bool, change: &mut dyn FnMut(u64) -> u64) -> u64 {
    // SAFETY: callers pass an address inside a mapped, writable page with `size` bytes left in it.
    #[expect(unsafe_code, reason = "guest memory by pointer, slow path")]
    unsafe {
        host::modify_sized(at, size, locked, change)
    }
}
