//! What this CPU announces, as tables.
//!
//! Two tables rule: [`FEATURES`] (a bit in a leaf, and the decoder's name for the instructions that hang
//! on it, so that what is not announced raises #UD) and the match in [`query`] for everything that is
//! not a feature bit.
//!
//! The name is AMD's, family 25, because guests choose by the name how system calls, topology and errata
//! are handled, and AMD's ways are the ones implemented. The brand string and the hypervisor leaf say
//! what this really is. Vulnerability bits ("not affected by...") are set where an interpreter that never
//! speculates cannot be affected, which spares guests their mitigations.

use iced_x86::{CpuidFeature, Instruction};

use crate::cpu::Cpu;
use crate::mmu::PHYSICAL_BITS;
use crate::state::cr4;

/// EAX of leaf 1: family 25, model 17, stepping 1. EDX after reset says the same.
pub(crate) const SIGNATURE: u32 = 0x00a1_0f11;

const BASIC_MAX: u32 = 0x16;
const HYPERVISOR_MAX: u32 = 0x4000_0010;
const EXTENDED_MAX: u32 = 0x8000_0021;

const VENDOR: &[u8; 12] = b"AuthenticAMD";
const HYPERVISOR: &[u8; 12] = b"TrivetTrivet";
const BRAND: &[u8; 48] = b"Trivet virtual x86-64 processor\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A register of a leaf's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reg {
    Eax = 0,
    Ebx = 1,
    Ecx = 2,
    Edx = 3,
}
use Reg::{Eax, Ebx, Ecx, Edx};

/// One announced feature: leaf, register, bit, name, and what the decoder calls its instructions.
struct Feature {
    leaf: u32,
    reg: Reg,
    bit: u8,
    name: &'static str,
    instructions: &'static [CpuidFeature],
}

const fn row(
    leaf: u32,
    reg: Reg,
    bit: u8,
    name: &'static str,
    instructions: &'static [CpuidFeature],
) -> Feature {
    Feature {
        leaf,
        reg,
        bit,
        name,
        instructions,
    }
}

/// Announced features. Bits of leaf 0x8000_0001 EDX that repeat those of leaf 1 are copied by [`query`].
/// Subleaf 0 throughout, but for leaf 0xd, of which it is subleaf 1.
static FEATURES: &[Feature] = &[
    row(1, Ecx, 0, "sse3", &[CpuidFeature::SSE3]),
    row(1, Ecx, 1, "pclmulqdq", &[CpuidFeature::PCLMULQDQ]),
    row(1, Ecx, 9, "ssse3", &[CpuidFeature::SSSE3]),
    row(1, Ecx, 13, "cx16", &[CpuidFeature::CMPXCHG16B]),
    row(1, Ecx, 17, "pcid", &[]),
    row(1, Ecx, 19, "sse4_1", &[CpuidFeature::SSE4_1]),
    row(1, Ecx, 20, "sse4_2", &[CpuidFeature::SSE4_2]),
    row(1, Ecx, 21, "x2apic", &[]),
    row(1, Ecx, 22, "movbe", &[CpuidFeature::MOVBE]),
    row(1, Ecx, 23, "popcnt", &[CpuidFeature::POPCNT]),
    row(1, Ecx, 24, "tsc_deadline", &[]),
    row(1, Ecx, 25, "aes", &[CpuidFeature::AES]),
    row(1, Ecx, 26, "xsave", &[CpuidFeature::XSAVE]),
    row(1, Ecx, 30, "rdrand", &[CpuidFeature::RDRAND]),
    row(1, Ecx, 31, "hypervisor", &[]),
    row(
        1,
        Edx,
        0,
        "fpu",
        &[
            CpuidFeature::FPU,
            CpuidFeature::FPU287,
            CpuidFeature::FPU387,
        ],
    ),
    row(1, Edx, 2, "de", &[]),
    row(1, Edx, 3, "pse", &[]),
    row(1, Edx, 4, "tsc", &[CpuidFeature::TSC]),
    row(1, Edx, 5, "msr", &[CpuidFeature::MSR]),
    row(1, Edx, 6, "pae", &[]),
    row(1, Edx, 7, "mce", &[]),
    row(1, Edx, 8, "cx8", &[CpuidFeature::CX8]),
    row(1, Edx, 11, "sep", &[CpuidFeature::SEP]),
    row(1, Edx, 12, "mtrr", &[]),
    row(1, Edx, 13, "pge", &[]),
    row(1, Edx, 14, "mca", &[]),
    row(1, Edx, 15, "cmov", &[CpuidFeature::CMOV]),
    row(1, Edx, 16, "pat", &[]),
    row(1, Edx, 17, "pse36", &[]),
    row(1, Edx, 19, "clfsh", &[CpuidFeature::CLFSH]),
    row(1, Edx, 23, "mmx", &[CpuidFeature::MMX]),
    row(1, Edx, 24, "fxsr", &[CpuidFeature::FXSR]),
    row(1, Edx, 25, "sse", &[CpuidFeature::SSE]),
    row(1, Edx, 26, "sse2", &[CpuidFeature::SSE2]),
    row(6, Eax, 2, "arat", &[]),
    row(7, Ebx, 0, "fsgsbase", &[CpuidFeature::FSGSBASE]),
    row(7, Ebx, 1, "tsc_adjust", &[]),
    row(7, Ebx, 3, "bmi1", &[CpuidFeature::BMI1]),
    row(7, Ebx, 7, "smep", &[]),
    row(7, Ebx, 8, "bmi2", &[CpuidFeature::BMI2]),
    row(7, Ebx, 9, "erms", &[]),
    row(7, Ebx, 10, "invpcid", &[CpuidFeature::INVPCID]),
    row(7, Ebx, 18, "rdseed", &[CpuidFeature::RDSEED]),
    row(7, Ebx, 20, "smap", &[CpuidFeature::SMAP]),
    row(7, Ebx, 23, "clflushopt", &[CpuidFeature::CLFLUSHOPT]),
    row(7, Ebx, 24, "clwb", &[CpuidFeature::CLWB]),
    row(7, Ecx, 2, "umip", &[]),
    row(7, Edx, 4, "fsrm", &[]),
    row(0xd, Eax, 0, "xsaveopt", &[CpuidFeature::XSAVEOPT]),
    row(0xd, Eax, 1, "xsavec", &[CpuidFeature::XSAVEC]),
    row(0xd, Eax, 2, "xgetbv1", &[]),
    row(0x8000_0001, Ecx, 0, "lahf_lm", &[]),
    row(0x8000_0001, Ecx, 5, "abm", &[CpuidFeature::LZCNT]),
    row(
        0x8000_0001,
        Ecx,
        8,
        "3dnowprefetch",
        &[CpuidFeature::PREFETCHW],
    ),
    row(0x8000_0001, Ecx, 22, "topoext", &[]),
    row(0x8000_0001, Edx, 11, "syscall", &[CpuidFeature::SYSCALL]),
    row(0x8000_0001, Edx, 20, "nx", &[]),
    row(0x8000_0001, Edx, 22, "mmxext", &[]),
    row(0x8000_0001, Edx, 26, "pdpe1gb", &[]),
    row(0x8000_0001, Edx, 27, "rdtscp", &[CpuidFeature::RDTSCP]),
    row(0x8000_0001, Edx, 29, "lm", &[CpuidFeature::X64]),
    row(0x8000_0007, Edx, 8, "invariant_tsc", &[]),
    // FXSAVE and XSAVE always store the pointers of the last x87 instruction.
    row(0x8000_0008, Ebx, 2, "xsaveerptr", &[]),
    // Not affected by speculative store bypass, nor by branch type confusion.
    row(0x8000_0008, Ebx, 26, "ssb_no", &[]),
    row(0x8000_0008, Ebx, 29, "btc_no", &[]),
    row(0x8000_0021, Eax, 0, "no_nested_data_bp", &[]),
    row(0x8000_0021, Eax, 2, "lfence_always_serializing", &[]),
    row(0x8000_0021, Eax, 6, "null_selector_clears_base", &[]),
    row(0x8000_0021, Eax, 8, "automatic_ibrs", &[]),
    row(0x8000_0021, Eax, 29, "srso_no", &[]),
    row(0x8000_0021, Ecx, 1, "tsa_sq_no", &[]),
    row(0x8000_0021, Ecx, 2, "tsa_l1_no", &[]),
];

/// Instructions that need no bit: the base, and encodings that are NOPs where their feature is absent.
const ALWAYS: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL8086_ONLY,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::CPUID,
    CpuidFeature::RDPMC,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::CET_IBT,
    CpuidFeature::CET_SS,
    CpuidFeature::MPX,
];

/// Whether everything that `instruction` needs is announced.
pub(crate) fn announces(instruction: &Instruction) -> bool {
    instruction.cpuid_features().iter().all(|wanted| {
        ALWAYS.contains(wanted)
            || FEATURES
                .iter()
                .any(|feature| feature.instructions.contains(wanted))
    })
}

/// Names of all announced features, in the order of leaves.
pub fn features() -> impl Iterator<Item = &'static str> {
    FEATURES.iter().map(|feature| feature.name)
}

/// The feature bits of one register of a leaf.
fn bits(leaf: u32, reg: Reg) -> u32 {
    FEATURES
        .iter()
        .filter(|feature| feature.leaf == leaf && feature.reg == reg)
        .fold(0, |bits, feature| bits | 1 << feature.bit)
}

/// EAX, EBX, ECX and EDX for `leaf` and `subleaf` on `cpu`. Leaves out of range are zero, as on AMD.
pub(crate) fn query(cpu: &Cpu, leaf: u32, subleaf: u32) -> [u32; 4] {
    let of = |reg| bits(leaf, reg);
    let id = cpu.id as u32;
    let cpus = cpu.cpus as u32;
    match leaf {
        0 => named(BASIC_MAX, VENDOR, [0, 2, 1]),
        1 => {
            let mut ecx = of(Ecx);
            if cpu.control.cr4 & cr4::OSXSAVE != 0 {
                ecx |= 1 << 27;
            }
            let mut edx = of(Edx);
            if cpu.apic.is_present() {
                edx |= 1 << 9;
            }
            if cpus > 1 {
                edx |= 1 << 28;
            }
            // Cache line of 8 quadwords, processors in the package, APIC identifier.
            let ebx = 8 << 8 | cpus.min(255) << 16 | (id & 0xff) << 24;
            [SIGNATURE, ebx, ecx, edx]
        }
        6 => [of(Eax), 0, 0, 0],
        7 if subleaf == 0 => [0, of(Ebx), of(Ecx), of(Edx)],
        0xb => topology(subleaf, id, cpus),
        0xd => extended_state(subleaf),
        0x15 => crystal(cpu.apic_hz, cpu.tsc_hz),
        0x16 => {
            let mhz = (cpu.tsc_hz / 1_000_000).min(0xffff) as u32;
            [mhz, mhz, 100, 0]
        }
        0x4000_0000 => named(HYPERVISOR_MAX, HYPERVISOR, [0, 1, 2]),
        0x4000_0010 => [khz(cpu.tsc_hz), khz(cpu.apic_hz), 0, 0],
        0x8000_0000 => named(EXTENDED_MAX, VENDOR, [0, 2, 1]),
        0x8000_0001 => {
            let mut ecx = of(Ecx);
            if cpus > 1 {
                // Several cores, one thread each.
                ecx |= 1 << 1;
            }
            // Bits 9 to 0, 17 to 12, 24 and 23 repeat leaf 1.
            let repeated = query(cpu, 1, 0)[3] & 0x0183_f3ff;
            [SIGNATURE, 0, ecx, of(Edx) | repeated]
        }
        0x8000_0002..=0x8000_0004 => brand((leaf - 0x8000_0002) as usize * 16),
        // TLBs and caches: L1 of 32 KiB, L2 of 512 KiB, L3 of 16 MiB.
        0x8000_0005 => [0xff40_ff40, 0xff40_ff40, 0x2008_0140, 0x2008_0140],
        0x8000_0006 => [0x5c00_4200, 0x6c00_6200, 0x0200_6140, 0x0080_9140],
        0x8000_0007 => [0, 0, 0, of(Edx)],
        0x8000_0008 => {
            let size = ceil_log2(cpus);
            let eax = 48 << 8 | PHYSICAL_BITS;
            [eax, of(Ebx), size << 12 | (cpus.min(256) - 1), 0]
        }
        0x8000_001d => cache(subleaf, cpus),
        // One thread a core, all in node 0.
        0x8000_001e => [id, id & 0xff, 0, 0],
        0x8000_0021 => [of(Eax), 0, of(Ecx), 0],
        _ => [0; 4],
    }
}

/// A maximum and a twelve-character name; `order` says which third goes to EBX, ECX and EDX.
fn named(max: u32, name: &[u8; 12], order: [usize; 3]) -> [u32; 4] {
    let third = |index: usize| word(&name[index * 4..]);
    [max, third(order[0]), third(order[1]), third(order[2])]
}

fn brand(at: usize) -> [u32; 4] {
    [0, 4, 8, 12].map(|offset| word(&BRAND[at + offset..]))
}

/// Four characters as a register.
fn word(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .take(4)
        .rev()
        .fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn khz(hz: u64) -> u32 {
    u32::try_from(hz / 1000).unwrap_or(u32::MAX)
}

/// Bits that tell `count` processors apart.
fn ceil_log2(count: u32) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

/// Leaf 0xb: one thread a core, then all cores of the package.
fn topology(subleaf: u32, id: u32, cpus: u32) -> [u32; 4] {
    match subleaf {
        0 => [0, 1, 1 << 8, id],
        1 => [ceil_log2(cpus), cpus, 2 << 8 | 1, id],
        _ => [0, 0, subleaf & 0xff, id],
    }
}

/// Leaf 0xd: x87 and SSE live in the legacy area and header of 576 bytes; nothing extended follows.
fn extended_state(subleaf: u32) -> [u32; 4] {
    const AREA: u32 = 512 + 64;
    match subleaf {
        0 => [3, AREA, AREA, 0],
        1 => [bits(0xd, Eax), AREA, 0, 0],
        _ => [0; 4],
    }
}

/// Leaf 0x15: the counter's rate as a fraction of the APIC timer's input, which stands for the crystal.
fn crystal(apic_hz: u64, tsc_hz: u64) -> [u32; 4] {
    let (mut a, mut b) = (apic_hz, tsc_hz);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    let divisor = a.max(1);
    let parts = (
        u32::try_from(apic_hz / divisor),
        u32::try_from(tsc_hz / divisor),
        u32::try_from(apic_hz),
    );
    match parts {
        (Ok(denominator), Ok(numerator), Ok(rate)) => [denominator, numerator, rate, 0],
        // Rates that do not fit are not announced.
        _ => [0; 4],
    }
}

/// Leaf 0x8000_001d: the caches of leaves 5 and 6, L3 shared by all.
fn cache(index: u32, cpus: u32) -> [u32; 4] {
    // Type, level, sharers, ways, sets.
    let (kind, level, sharers, ways, sets) = match index {
        0 => (1, 1, 1, 8, 64),
        1 => (2, 1, 1, 8, 64),
        2 => (3, 2, 1, 8, 1024),
        3 => (3, 3, cpus, 16, 16384),
        _ => return [0; 4],
    };
    let eax = kind | level << 5 | 1 << 8 | (sharers - 1) << 14;
    [eax, (ways - 1) << 22 | 63, sets - 1, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelt_in_the_manual_s_order() {
        assert_eq!(
            named(1, VENDOR, [0, 2, 1]),
            [1, 0x6874_7541, 0x444d_4163, 0x6974_6e65]
        );
        assert_eq!(word(b"Triv"), 0x7669_7254);
    }

    #[test]
    fn no_feature_bit_is_announced_twice() {
        for (index, a) in FEATURES.iter().enumerate() {
            for b in &FEATURES[..index] {
                let same = (a.leaf, a.reg, a.bit) == (b.leaf, b.reg, b.bit);
                assert!(!same, "{} and {}", a.name, b.name);
            }
        }
    }

    #[test]
    fn the_counter_s_rate_is_a_fraction_of_the_crystal_s() {
        assert_eq!(
            crystal(1_000_000_000, 2_000_000_000),
            [1, 2, 1_000_000_000, 0]
        );
        assert_eq!(crystal(24_000_000, 2_100_000_000), [2, 175, 24_000_000, 0]);
        assert_eq!(crystal(0, 0), [0; 4]);
    }

    #[test]
    fn processors_are_told_apart_by_enough_bits() {
        for (cpus, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6)] {
            assert_eq!(ceil_log2(cpus), bits, "{cpus}");
        }
    }
}
