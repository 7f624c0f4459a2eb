//! A long-mode guest whose kernel does nothing but halt: a program runs in user mode until an exception, and the
//! exception with the complete state is the result.
//!
//! Descriptor table and control registers are as Linux has them, so that a program sees here what it sees there.
//! Exceptions go through a real IDT to handlers that are one HLT each, on a stack that the TSS names: the frame is
//! read from there.

use vm_types::{Clock, GuestAddress, GuestMemory};

use crate::bus::NoBus;
use crate::cpu::{Cpu, Exit};
use crate::fault::vector;
use crate::package::{Package, PackageConfig, TimeBase, seeded_random};
use crate::state::registers::RSP;
use crate::state::{Fpu, Seg, Segment, Table, cr0, cr4, efer};
use std::sync::Arc;

const PAGE: u64 = 4096;
/// Where the kernel's pages appear: guest physical memory from 0, for the supervisor alone.
const KERNEL: u64 = 0xffff_c000_0000_0000;
const TABLES: u64 = 0x1_0000;
const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const TSS: u64 = 0x3000;
const HANDLERS: u64 = 0x4000;
const STACK_TOP: u64 = 0x6000;
const LDT: u64 = 0x7000;
const KERNEL_LENGTH: u64 = 0x4_0000;
/// Guest physical address of the first program page.
const PROGRAM: u64 = 0x10_0000;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const NO_EXECUTE: u64 = 1 << 63;

const KERNEL_CS: u16 = 0x10;
const TSS_SELECTOR: u16 = 0x40;
const LDT_SELECTOR: u16 = 0x50;
/// The flat descriptors of Linux: nothing, 32-bit kernel code, kernel code, kernel data, 32-bit user code, user
/// data, user code, nothing.
const DESCRIPTORS: [u64; 8] = [
    0,
    0x00cf_9b00_0000_ffff,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0,
];

const ALL_SEGMENTS: [Seg; 6] = [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs];

/// Some pages of the program: where they appear, what they allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// Linear address, page-aligned, in the lower half.
    pub linear: u64,
    /// First of the program's physical pages, counted from 0. Several rows may show the same page.
    pub page: u64,
    /// How many pages.
    pub pages: u64,
    /// Stores are allowed.
    pub writable: bool,
    /// Fetches are allowed.
    pub executable: bool,
}

/// What a program sees of the processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub general: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub flags: u64,
    /// FS base.
    pub fs_base: u64,
    /// GS base.
    pub gs_base: u64,
    /// Selectors of ES, CS, SS, DS, FS and GS.
    pub selectors: [u16; 6],
    /// x87, MMX and SSE.
    pub fpu: Fpu,
}

/// How a program's run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// An exception: vector, error code (zero for those without) and CR2.
    Exception {
        /// The vector.
        vector: u8,
        /// The error code.
        error: u64,
        /// CR2 as it is now: of meaning for a page fault only.
        cr2: u64,
    },
    /// It still ran when the budget was used up.
    Running,
    /// The CPU shut down.
    ShutDown,
}

/// The guest.
pub struct Seat {
    cpu: Cpu,
    memory: GuestMemory,
    local: Vec<u64>,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat")
            .field("cpu", &self.cpu)
            .finish_non_exhaustive()
    }
}

impl Seat {
    /// A guest with the program pages of `layout`. `None` when the host has no memory for it, or a row is not
    /// page-aligned in the lower half.
    pub fn new(layout: &[Pages]) -> Option<Self> {
        let pages = layout.iter().map(|row| row.page + row.pages).max()?;
        let memory = GuestMemory::flat(PROGRAM + pages * PAGE).ok()?;
        let config = PackageConfig {
            cpus: 1,
            memory: memory.clone(),
            bus: Arc::new(NoBus),
            clock: Clock::manual().0,
            time_base: TimeBase::Instructions,
            tsc_hz: 1_000_000_000,
            apic_hz: 1_000_000_000,
            random: seeded_random,
            random_seed: 1,
        };
        let (_, cpus) = Package::new(&config);
        let cpu = cpus.into_iter().next()?;
        let mut seat = Self {
            cpu,
            memory,
            local: Vec::new(),
        };
        seat.build_tables(layout)?;
        seat.build_descriptors()?;
        seat.build_control();
        Some(seat)
    }

    fn put(&self, at: u64, value: u64) -> Option<()> {
        self.memory
            .write(GuestAddress(at), &value.to_le_bytes())
            .ok()
    }

    fn get(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        match self.memory.read(GuestAddress(at), &mut bytes) {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(_) => 0,
        }
    }

    fn build_tables(&self, layout: &[Pages]) -> Option<()> {
        let mut next = TABLES + PAGE;
        for page in 0..KERNEL_LENGTH / PAGE {
            let physical = page * PAGE;
            self.map(&mut next, KERNEL + physical, physical | PRESENT | WRITABLE)?;
        }
        for row in layout {
            if row.linear % PAGE != 0 || row.linear >> 47 != 0 {
                return None;
            }
            for page in 0..row.pages {
                let mut entry = (PROGRAM + (row.page + page) * PAGE) | PRESENT | USER;
                if row.writable {
                    entry |= WRITABLE;
                }
                if !row.executable {
                    entry |= NO_EXECUTE;
                }
                self.map(&mut next, row.linear + page * PAGE, entry)?;
            }
        }
        Some(())
    }

    /// Writes one leaf entry; tables are taken from `next` as needed.
    fn map(&self, next: &mut u64, linear: u64, entry: u64) -> Option<()> {
        let mut table = TABLES;
        for shift in [39, 30, 21] {
            let at = table + ((linear >> shift) & 0x1ff) * 8;
            let mut below = self.get(at);
            if below == 0 {
                below = *next | PRESENT | WRITABLE | USER;
                *next += PAGE;
                if *next > KERNEL_LENGTH {
                    return None;
                }
                self.put(at, below)?;
            }
            table = below & !0xfff;
        }
        self.put(table + ((linear >> 12) & 0x1ff) * 8, entry)
    }

    fn build_descriptors(&self) -> Option<()> {
        for (index, descriptor) in DESCRIPTORS.iter().enumerate() {
            self.put(GDT + 8 * index as u64, *descriptor)?;
        }
        let base = KERNEL + TSS;
        let low = 0x67 | (base & 0xff_ffff) << 16 | 0x8b << 40 | ((base >> 24) & 0xff) << 56;
        self.put(GDT + u64::from(TSS_SELECTOR), low)?;
        self.put(GDT + u64::from(TSS_SELECTOR) + 8, base >> 32)?;
        // RSP0, and an I/O bitmap beyond the limit.
        self.memory
            .write(GuestAddress(TSS + 4), &(KERNEL + STACK_TOP).to_le_bytes())
            .ok()?;
        self.memory
            .write(GuestAddress(TSS + 102), &0x68u16.to_le_bytes())
            .ok()?;
        self.memory.fill(GuestAddress(HANDLERS), 0xf4, 256).ok()?;
        for index in 0..256u64 {
            let handler = KERNEL + HANDLERS + index;
            // Programs may use INT3 and INTO, nothing else.
            let kind: u64 =
                if index == u64::from(vector::BREAKPOINT) || index == u64::from(vector::OVERFLOW) {
                    0xee
                } else {
                    0x8e
                };
            let low = (handler & 0xffff)
                | u64::from(KERNEL_CS) << 16
                | kind << 40
                | ((handler >> 16) & 0xffff) << 48;
            self.put(IDT + 16 * index, low)?;
            self.put(IDT + 16 * index + 8, handler >> 32)?;
        }
        Some(())
    }

    fn build_control(&mut self) {
        let control = &mut self.cpu.control;
        control.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
        control.cr3 = TABLES;
        control.cr4 = cr4::PAE
            | cr4::PGE
            | cr4::OSFXSR
            | cr4::OSXMMEXCPT
            | cr4::FSGSBASE
            | cr4::OSXSAVE
            | cr4::SMEP
            | cr4::SMAP;
        control.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        control.xcr0 = 3;
        control.gdt = Table {
            base: KERNEL + GDT,
            limit: 0x7f,
        };
        control.idt = Table {
            base: KERNEL + IDT,
            limit: 0xfff,
        };
        self.cpu.tr = Segment {
            selector: TSS_SELECTOR,
            attributes: 0x8b,
            limit: 0x67,
            base: KERNEL + TSS,
        };
        self.cpu.ldtr = Segment::default();
        self.cpu.flush_translations();
    }

    /// Gives the program a local descriptor table.
    pub fn set_local_table(&mut self, descriptors: &[u64]) -> bool {
        for (index, descriptor) in descriptors.iter().enumerate() {
            if self.put(LDT + 8 * index as u64, *descriptor).is_none() {
                return false;
            }
        }
        self.local = descriptors.to_vec();
        self.cpu.ldtr = Segment {
            selector: LDT_SELECTOR,
            attributes: 0x82,
            limit: (8 * descriptors.len() as u32).saturating_sub(1),
            base: KERNEL + LDT,
        };
        true
    }

    /// Writes program memory, counted from its first physical page. Code that was there is forgotten.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        self.memory
            .write(GuestAddress(PROGRAM + offset), bytes)
            .is_ok()
    }

    /// Reads program memory.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        self.memory
            .read(GuestAddress(PROGRAM + offset), into)
            .is_ok()
    }

    /// Starts the program in `state` and runs about `budget` instructions, or up to the first exception. The state
    /// that it ended in is left in `state`.
    pub fn run(&mut self, state: &mut UserState, budget: u64) -> End {
        self.enter(state);
        let exit = self.cpu.run(budget);
        self.leave(state);
        match exit {
            Exit::Halted => self.exception(state),
            Exit::TripleFault => End::ShutDown,
            Exit::Budget | Exit::Interrupted => End::Running,
        }
    }

    fn enter(&mut self, state: &UserState) {
        let cpu = &mut self.cpu;
        for (index, value) in state.general.iter().enumerate() {
            cpu.regs.write(index as u8, *value);
        }
        cpu.rip = state.rip;
        cpu.flags.set_bits(state.flags);
        for (index, seg) in ALL_SEGMENTS.into_iter().enumerate() {
            cpu.segments[seg as usize] = segment(&self.local, state.selectors[index]);
        }
        cpu.segments[Seg::Fs as usize].base = state.fs_base;
        cpu.segments[Seg::Gs as usize].base = state.gs_base;
        cpu.fpu = state.fpu.clone();
        cpu.control.cr2 = 0;
        cpu.control.dr6 = 0xffff_0ff0;
        cpu.cpl = 3;
        cpu.halted = false;
        cpu.shadow = None;
        cpu.pending_debug = 0;
        cpu.events = crate::event::State::default();
        cpu.update_mode();
    }

    fn leave(&self, state: &mut UserState) {
        let cpu = &self.cpu;
        for (index, value) in state.general.iter_mut().enumerate() {
            *value = cpu.regs.read(index as u8);
        }
        state.rip = cpu.rip;
        state.flags = cpu.flags.bits();
        for (index, seg) in ALL_SEGMENTS.into_iter().enumerate() {
            state.selectors[index] = cpu.segments[seg as usize].selector;
        }
        state.fs_base = cpu.segments[Seg::Fs as usize].base;
        state.gs_base = cpu.segments[Seg::Gs as usize].base;
        state.fpu = cpu.fpu.clone();
    }

    /// Reads vector and frame of the handler that has halted.
    fn exception(&self, state: &mut UserState) -> End {
        let number = state.rip.wrapping_sub(KERNEL + HANDLERS + 1) as u8;
        let mut frame = state.general[usize::from(RSP)].wrapping_sub(KERNEL);
        let mut error = 0;
        if matches!(number, 8 | 10..=14 | 17) {
            error = self.get(frame);
            frame += 8;
        }
        state.rip = self.get(frame);
        state.selectors[1] = self.get(frame + 8) as u16;
        state.flags = self.get(frame + 16);
        state.general[usize::from(RSP)] = self.get(frame + 24);
        state.selectors[2] = self.get(frame + 32) as u16;
        End::Exception {
            vector: number,
            error,
            cr2: self.cpu.control.cr2,
        }
    }
}

/// The segment that `selector` names in the tables. One that names none is null.
fn segment(local: &[u64], selector: u16) -> Segment {
    let table = if selector & 4 == 0 {
        &DESCRIPTORS
    } else {
        local
    };
    let descriptor = table.get(usize::from(selector >> 3)).copied().unwrap_or(0);
    if descriptor == 0 {
        return Segment {
            selector,
            ..Segment::default()
        };
    }
    let attributes = (descriptor >> 40) as u16 & 0xf0ff;
    let limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
    let limit = if attributes & Segment::GRANULAR == 0 {
        limit
    } else {
        limit << 12 | 0xfff
    };
    let base = descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000;
    Segment {
        selector,
        attributes,
        limit,
        base,
    }
}
