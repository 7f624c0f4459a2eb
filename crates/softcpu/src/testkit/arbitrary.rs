//! Arbitrary bytes as a guest: whatever they are, the CPU must come back, and nothing but guest RAM may change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_types::{Clock, GuestAddress, GuestMemory, Span};

use crate::bus::Bus;
use crate::cpu::{Cpu, Exit};
use crate::package::{Package, PackageConfig, TimeBase, seeded_random};
use crate::state::{Seg, Segment, Table, cr0, cr4, efer};

const RAM: u64 = 0x20_0000;
const CODE: u64 = 0x7c00;
const TABLES: u64 = 0x10_0000;
const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const TSS: u64 = 0x3000;

/// The mode that the guest starts in. It may well leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real-address mode.
    Real,
    /// Protected mode, 16-bit code, no paging.
    Protected16,
    /// Protected mode, 32-bit code, 32-bit paging.
    Protected32,
    /// 64-bit mode, supervisor.
    Long,
    /// 64-bit mode, user.
    LongUser,
    /// Compatibility mode, user.
    Compatibility,
    /// Virtual-8086 mode.
    Virtual8086,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Real,
        Self::Protected16,
        Self::Protected32,
        Self::Long,
        Self::LongUser,
        Self::Compatibility,
        Self::Virtual8086,
    ];
}

/// Answers every access with numbers from a generator, so that device memory is as arbitrary as the code.
struct NoiseBus(AtomicU64);

impl NoiseBus {
    fn fill(&self, data: &mut [u8]) {
        let (state, value) = seeded_random(0, self.0.load(Ordering::Relaxed));
        self.0.store(state, Ordering::Relaxed);
        for (byte, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = from;
        }
    }
}

impl Bus for NoiseBus {
    fn read_port(&self, _port: u16, data: &mut [u8]) {
        self.fill(data);
    }
    fn write_port(&self, _port: u16, _data: &[u8]) {}
    fn read_mmio(&self, _address: GuestAddress, data: &mut [u8]) {
        self.fill(data);
    }
    fn write_mmio(&self, _address: GuestAddress, _data: &[u8]) {}
    fn acknowledge_interrupt(&self) -> Option<u8> {
        Some(0x20)
    }
    fn end_of_interrupt(&self, _vector: u8) {}
}

/// Runs `bytes` as guest code in `mode` for about `budget` instructions, interrupts and time included, and gives the
/// number executed. The bytes stand where execution starts, and fill descriptor tables and registers as well.
///
/// `None` when the host has no memory for the guest.
pub fn run_arbitrary(mode: Mode, bytes: &[u8], budget: u64) -> Option<u64> {
    let memory = GuestMemory::flat(RAM).ok()?;
    let (clock, hand) = Clock::manual();
    let seed = bytes
        .iter()
        .fold(1u64, |sum, byte| sum.rotate_left(7) ^ u64::from(*byte));
    let config = PackageConfig {
        cpus: 1,
        memory: memory.clone(),
        bus: Arc::new(NoiseBus(AtomicU64::new(seed))),
        clock,
        time_base: TimeBase::Instructions,
        tsc_hz: 1_000_000_000,
        apic_hz: 1_000_000_000,
        random: seeded_random,
        random_seed: seed,
    };
    let (package, cpus) = Package::new(&config);
    let mut cpu = cpus.into_iter().next()?;
    lay_out(&memory, bytes);
    enter(&mut cpu, mode, bytes, seed);
    let start = cpu.executed();
    // In slices, with an interrupt now and then: what is halted must wake up again.
    for round in 0..16u64 {
        let exit = cpu.run(budget / 16 + 1);
        hand.advance(Span::from_nanos(1000));
        match exit {
            Exit::TripleFault => break,
            Exit::Budget | Exit::Interrupted | Exit::Halted => {
                package.interconnect().set_intr(round % 2 == 0);
                if round % 5 == 4 {
                    package.interconnect().pulse_nmi();
                }
            }
        }
    }
    Some(cpu.executed() - start)
}

/// Writes the bytes to where code, tables and stacks are; what cannot be written stays zero.
fn lay_out(memory: &GuestMemory, bytes: &[u8]) {
    let put = |at: u64, bytes: &[u8]| {
        // All of these lie in RAM; a failure would only make the guest emptier.
        let _ = memory.write(GuestAddress(at), bytes);
    };
    for (at, length) in [
        (0u64, 0x400usize),
        (TSS, 0x100),
        (IDT + 0x200, 0x400),
        (GDT + 0x80, 0x100),
    ] {
        put(at, &bytes[..bytes.len().min(length)]);
    }
    // A plausible table first: flat code and data for both levels, a TSS.
    let descriptors: [u64; 12] = [
        0,
        0x00cf_9b00_0000_ffff,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x0000_9b00_0000_ffff,
        0x0000_8b00_3000_0fff,
        0,
        0x0000_9300_0000_ffff,
        0x0000_fb00_0000_ffff,
    ];
    for (index, descriptor) in descriptors.iter().enumerate() {
        put(GDT + 8 * index as u64, &descriptor.to_le_bytes());
    }
    // Page tables that serve 32-bit and long mode: 4 MiB and 2 MiB pages of identity, all rights.
    for entry in 0..1024u32 {
        put(
            TABLES + u64::from(entry) * 4,
            &((entry << 22) | 0x87).to_le_bytes(),
        );
    }
    let long = TABLES + 0x1000;
    put(long, &((long + 0x1000) | 7).to_le_bytes());
    put(long + 0xff8, &((long + 0x1000) | 7).to_le_bytes());
    put(long + 0x1000, &((long + 0x2000) | 7).to_le_bytes());
    put(long + 0x1ff8, &((long + 0x2000) | 7).to_le_bytes());
    for entry in 0..512u64 {
        put(
            long + 0x2000 + entry * 8,
            &((entry << 21) | 0x87).to_le_bytes(),
        );
    }
    put(CODE, &bytes[..bytes.len().min(0x8000)]);
}

fn enter(cpu: &mut Cpu, mode: Mode, bytes: &[u8], seed: u64) {
    let mut state = seed;
    for index in 0..16 {
        let (next, value) = seeded_random(0, state);
        state = next;
        // Addresses that exist, often.
        let value = if value & 3 == 0 {
            value
        } else {
            value >> 16 & 0x1f_ffff
        };
        cpu.regs.write(index, value);
    }
    let flags = u64::from(bytes.first().copied().unwrap_or(0)) << 8 & 0x700;
    cpu.flags.set_bits(flags | 0x2);
    cpu.rip = CODE;
    let code: u16 = 0x9b | Segment::GRANULAR;
    let data = 0x93 | Segment::GRANULAR | Segment::BIG;
    let user = 3 << 5;
    let (cs, ss, level) = match mode {
        Mode::Real => ((0, 0x93), (0, 0x93), 0),
        Mode::Protected16 => ((0x38, 0x9b), (0x50, 0x93), 0),
        Mode::Protected32 => ((0x08, code | Segment::BIG), (0x18, data), 0),
        Mode::Long => ((0x10, code | Segment::LONG), (0x18, data), 0),
        Mode::LongUser => ((0x33, code | Segment::LONG | user), (0x2b, data | user), 3),
        Mode::Compatibility => ((0x23, code | Segment::BIG | user), (0x2b, data | user), 3),
        Mode::Virtual8086 => ((0, 0xf3), (0, 0xf3), 3),
    };
    let segment = |(selector, attributes): (u16, u16)| Segment {
        selector,
        attributes,
        limit: if attributes & Segment::GRANULAR != 0 {
            u32::MAX
        } else {
            0xffff
        },
        base: 0,
    };
    for seg in [Seg::Es, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs] {
        cpu.segments[seg as usize] = segment(ss);
    }
    cpu.segments[Seg::Cs as usize] = segment(cs);
    cpu.cpl = level;
    let control = &mut cpu.control;
    control.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::FSGSBASE | cr4::VME;
    control.cr0 = cr0::ET | cr0::NE;
    control.gdt = Table {
        base: GDT,
        limit: 0x17f,
    };
    control.idt = Table {
        base: IDT,
        limit: 0xfff,
    };
    match mode {
        Mode::Real => {
            control.idt = Table {
                base: 0,
                limit: 0x3ff,
            }
        }
        Mode::Protected16 => control.cr0 |= cr0::PE,
        Mode::Protected32 | Mode::Virtual8086 => {
            control.cr0 |= cr0::PE | cr0::PG | cr0::WP;
            control.cr4 |= cr4::PSE;
            control.cr3 = TABLES;
        }
        Mode::Long | Mode::LongUser | Mode::Compatibility => {
            control.cr0 |= cr0::PE | cr0::PG | cr0::WP;
            control.cr4 |= cr4::PAE;
            control.cr3 = TABLES + 0x1000;
            control.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        }
    }
    if mode == Mode::Virtual8086 {
        cpu.flags.set_bits(flags | 0x2 | crate::state::flags::VM);
    }
    cpu.tr = Segment {
        selector: 0x40,
        attributes: 0x8b,
        limit: 0xfff,
        base: TSS,
    };
    cpu.ldtr = Segment::default();
    cpu.flush_translations();
    cpu.update_mode();
}
