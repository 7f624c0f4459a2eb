//! The first CPU's state at the kernel's entry, as plain data that every backend can apply.

use super::Placement;

/// Where the boot descriptors are.
const GDT_AT: u64 = 0x500;
/// Where the stack begins, downwards.
const STACK_AT: u64 = 0x8ff0;
/// Top-level page table; the next level and four directories follow.
const PML4_AT: u64 = 0x9000;
const PDPT_AT: u64 = 0xa000;
const DIRECTORIES_AT: u64 = 0xb000;

/// Selectors of the boot descriptors, as Linux's boot protocol wants them.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The visible part.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes, after granularity.
    pub limit: u32,
    /// Descriptor bits 40 to 47 in the low byte, 52 to 55 in bits 12 to 15: type, S, DPL, P; AVL, L,
    /// D/B, G (the format of VMX access rights, SDM vol. 3C, 25.4.1).
    pub access: u16,
}

impl Segment {
    const fn flat(selector: u16, access: u16) -> Self {
        Self {
            selector,
            base: 0,
            limit: u32::MAX,
            access,
        }
    }

    /// The segment's descriptor, for the table in memory.
    pub const fn descriptor(&self) -> u64 {
        let access = self.access as u64;
        let granular = access & 0x8000 != 0;
        let limit = if granular {
            (self.limit >> 12) as u64
        } else {
            self.limit as u64
        };
        (limit & 0xffff)
            | ((self.base & 0x00ff_ffff) << 16)
            | ((access & 0xff) << 40)
            | (((limit >> 16) & 0xf) << 48)
            | (((access >> 12) & 0xf) << 52)
            | (((self.base >> 24) & 0xff) << 56)
    }
}

/// Processor mode at the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootMode {
    /// 32-bit protected mode, paging off.
    Protected,
    /// 64-bit mode, the first 4 GiB mapped one to one.
    Long,
}

/// Everything that differs from a CPU after reset. Registers not named are zero; interrupts are off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootState {
    /// The mode, which the registers below amount to.
    pub mode: BootMode,
    /// Entry point.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// RAX: multiboot's magic.
    pub rax: u64,
    /// RBX: the address of the start info (PVH, multiboot).
    pub rbx: u64,
    /// RSI: the address of the zero page (Linux).
    pub rsi: u64,
    /// Flags.
    pub rflags: u64,
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// Base and limit of the GDT.
    pub gdt: (u64, u16),
    /// Base and limit of the IDT: empty, so that an early fault is seen.
    pub idt: (u64, u16),
    /// Code segment.
    pub cs: Segment,
    /// DS, ES, FS, GS and SS.
    pub data: Segment,
    /// Task register.
    pub tr: Segment,
    /// Local descriptor table: none.
    pub ldt: Segment,
}

mod bit {
    pub(super) const CR0_PE: u64 = 1;
    pub(super) const CR0_ET: u64 = 1 << 4;
    pub(super) const CR0_PG: u64 = 1 << 31;
    pub(super) const CR4_PAE: u64 = 1 << 5;
    pub(super) const EFER_LME: u64 = 1 << 8;
    pub(super) const EFER_LMA: u64 = 1 << 10;
    /// Present, writable.
    pub(super) const TABLE: u64 = 0x3;
    /// Present, writable, a large page.
    pub(super) const PAGE: u64 = 0x83;
}

/// Code, readable, accessed; present; 32-bit, granular.
const CODE_32: u16 = 0xc09b;
/// The same, 64-bit.
const CODE_64: u16 = 0xa09b;
/// Data, writable, accessed; present; 32-bit, granular.
const DATA_32: u16 = 0xc093;
/// Busy 32/64-bit task segment; present.
const TASK_BUSY: u16 = 0x008b;
/// An unusable local descriptor table.
const LDT_NONE: u16 = 0x0082;

impl BootState {
    /// The state in `mode` with entry point `rip`. Its descriptors and page tables go into `memory`.
    pub(super) fn new(mode: BootMode, rip: u64, memory: &mut Placement<'_, '_>) -> Self {
        let long = mode == BootMode::Long;
        let cs = Segment::flat(CODE, if long { CODE_64 } else { CODE_32 });
        let data = Segment::flat(DATA, DATA_32);
        let tr = Segment {
            limit: 0x67,
            ..Segment::flat(TASK, TASK_BUSY)
        };
        let table = [0, 0, cs.descriptor(), data.descriptor(), tr.descriptor()];
        memory.bytes(GDT_AT, little_endian(&table));
        let mut state = Self {
            mode,
            rip,
            rsp: STACK_AT,
            rax: 0,
            rbx: 0,
            rsi: 0,
            rflags: 2,
            cr0: bit::CR0_PE | bit::CR0_ET,
            cr3: 0,
            cr4: 0,
            efer: 0,
            gdt: (GDT_AT, table.len() as u16 * 8 - 1),
            idt: (0, 0),
            cs,
            data,
            tr,
            ldt: Segment {
                limit: 0,
                ..Segment::flat(0, LDT_NONE)
            },
        };
        if long {
            map_first_4_gib(memory);
            state.cr0 |= bit::CR0_PG;
            state.cr3 = PML4_AT;
            state.cr4 = bit::CR4_PAE;
            state.efer = bit::EFER_LME | bit::EFER_LMA;
        }
        state
    }
}

/// One to one, in pages of 2 MiB.
fn map_first_4_gib(memory: &mut Placement<'_, '_>) {
    let mut pml4 = [0; 512];
    pml4[0] = PDPT_AT | bit::TABLE;
    memory.bytes(PML4_AT, little_endian(&pml4));
    let mut pdpt = [0; 512];
    for (index, entry) in (0..4).zip(&mut pdpt) {
        *entry = (DIRECTORIES_AT + index * 0x1000) | bit::TABLE;
    }
    memory.bytes(PDPT_AT, little_endian(&pdpt));
    let pages: Vec<u64> = (0..4 * 512).map(|page| (page << 21) | bit::PAGE).collect();
    memory.bytes(DIRECTORIES_AT, little_endian(&pages));
}

fn little_endian(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firmware::MemoryLayout;

    #[test]
    fn descriptors_are_the_customary_ones() {
        assert_eq!(
            Segment::flat(CODE, CODE_64).descriptor(),
            0x00af_9b00_0000_ffff
        );
        assert_eq!(
            Segment::flat(CODE, CODE_32).descriptor(),
            0x00cf_9b00_0000_ffff
        );
        assert_eq!(
            Segment::flat(DATA, DATA_32).descriptor(),
            0x00cf_9300_0000_ffff
        );
        let odd = Segment {
            selector: 0,
            base: 0x1234_5678,
            limit: 0x67,
            access: TASK_BUSY,
        };
        assert_eq!(odd.descriptor(), 0x1200_8b34_5678_0067);
    }

    #[test]
    fn the_last_page_of_the_map_is_the_last_below_4_gib() {
        let layout = MemoryLayout::of(64 << 20);
        let mut memory = Placement::new(&layout);
        let state = BootState::new(BootMode::Long, 0x10_0200, &mut memory);
        assert_eq!(state.cr3, 0x9000);
        let directories = memory
            .loads
            .iter()
            .find_map(|load| match load {
                super::super::Load::Bytes { at: 0xb000, data } => Some(data),
                _ => None,
            })
            .unwrap();
        assert_eq!(directories.len(), 0x4000);
        assert_eq!(directories[0x3ff8..], 0xffe0_0083u64.to_le_bytes());
    }
}
