//! PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (SDM vol. 2B, 4.1).

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::op::{Flow, Op};
use crate::state::flags;
use crate::state::registers::{RAX, RCX, RDX};
use crate::tri;

/// How the immediate's bits 2 and 3 combine the comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aggregation {
    EqualAny,
    Ranges,
    EqualEach,
    EqualOrdered,
}

/// The elements of an operand as signed or unsigned numbers.
struct Elements {
    values: [i32; 16],
    /// How many count.
    length: usize,
}

/// Elements in a register.
fn capacity(immediate: u8) -> usize {
    if immediate & 1 == 0 { 16 } else { 8 }
}

fn elements(value: u128, immediate: u8) -> [i32; 16] {
    let signed = immediate & 2 != 0;
    std::array::from_fn(|index| match (immediate & 1 == 0, signed) {
        (true, false) => i32::from((value >> (8 * index)) as u8),
        (true, true) => i32::from((value >> (8 * index)) as i8),
        (false, _) if index >= 8 => 0,
        (false, false) => i32::from((value >> (16 * index)) as u16),
        (false, true) => i32::from((value >> (16 * index)) as i16),
    })
}

/// Up to the first zero.
fn implicit(value: u128, immediate: u8) -> Elements {
    let (values, capacity) = (elements(value, immediate), capacity(immediate));
    let length = values[..capacity]
        .iter()
        .position(|&v| v == 0)
        .unwrap_or(capacity);
    Elements { values, length }
}

/// As many as a register says, of either sign.
fn explicit(value: u128, immediate: u8, count: i64) -> Elements {
    let capacity = capacity(immediate);
    let length = count.unsigned_abs().min(capacity as u64) as usize;
    Elements {
        values: elements(value, immediate),
        length,
    }
}

/// One bit for each element of `b`, after negation.
fn compare(a: &Elements, b: &Elements, immediate: u8) -> u32 {
    let capacity = capacity(immediate);
    let aggregation = match immediate >> 2 & 3 {
        0 => Aggregation::EqualAny,
        1 => Aggregation::Ranges,
        2 => Aggregation::EqualEach,
        _ => Aggregation::EqualOrdered,
    };
    let bits = (0..capacity).fold(0, |bits, place| {
        bits | u32::from(holds(aggregation, a, b, place, capacity)) << place
    });
    let all = (1 << capacity) - 1;
    match immediate >> 4 & 3 {
        1 => !bits & all,
        // Masked: only elements of `b` that count are negated.
        3 => bits ^ ((1 << b.length) - 1),
        _ => bits,
    }
}

/// Whether the comparison holds for element `place` of `b`. What does not count is overridden as in SDM table 4-3.
fn holds(
    aggregation: Aggregation,
    a: &Elements,
    b: &Elements,
    place: usize,
    capacity: usize,
) -> bool {
    let counts = place < b.length;
    match aggregation {
        Aggregation::EqualAny => counts && a.values[..a.length].contains(&b.values[place]),
        Aggregation::Ranges => counts
            && a.values[..a.length & !1].chunks_exact(2).any(
                |range| matches!(range, &[low, high] if (low..=high).contains(&b.values[place])),
            ),
        Aggregation::EqualEach => {
            let other = place < a.length;
            if counts && other {
                a.values[place] == b.values[place]
            } else {
                counts == other
            }
        }
        Aggregation::EqualOrdered => (0..a.length.min(capacity - place)).all(|offset| {
            place + offset < b.length && a.values[offset] == b.values[place + offset]
        }),
    }
}

/// What differs between the four instructions.
pub(crate) trait Kind {
    /// Lengths stand in rAX and rDX.
    const EXPLICIT: bool;
    /// The result is a mask in XMM0 (else an index in ECX).
    const MASK: bool;
}

/// PCMPESTRI.
pub(crate) struct ExplicitIndex;
/// PCMPESTRM.
pub(crate) struct ExplicitMask;
/// PCMPISTRI.
pub(crate) struct ImplicitIndex;
/// PCMPISTRM.
pub(crate) struct ImplicitMask;

impl Kind for ExplicitIndex {
    const EXPLICIT: bool = true;
    const MASK: bool = false;
}

impl Kind for ExplicitMask {
    const EXPLICIT: bool = true;
    const MASK: bool = true;
}

impl Kind for ImplicitIndex {
    const EXPLICIT: bool = false;
    const MASK: bool = false;
}

impl Kind for ImplicitMask {
    const EXPLICIT: bool = false;
    const MASK: bool = true;
}

/// Bit of `imm` that the lowering sets when the lengths are 64 bits wide (REX.W).
pub(crate) const WIDE_LENGTHS: u64 = 1 << 8;

fn length(cpu: &Cpu, register: u8, wide: bool) -> i64 {
    let value = cpu.regs.read(register);
    if wide {
        value as i64
    } else {
        i64::from(value as i32)
    }
}

fn run<K: Kind>(cpu: &mut Cpu, op: &Op, second: u128) {
    let immediate = op.imm as u8;
    let first = cpu.xmm(op.a);
    let (a, b) = if K::EXPLICIT {
        let wide = op.imm & WIDE_LENGTHS != 0;
        (
            explicit(first, immediate, length(cpu, RAX, wide)),
            explicit(second, immediate, length(cpu, RDX, wide)),
        )
    } else {
        (implicit(first, immediate), implicit(second, immediate))
    };
    let bits = compare(&a, &b, immediate);
    if K::MASK {
        cpu.set_xmm(0, mask(bits, immediate));
    } else {
        cpu.regs.write(RCX, index(bits, immediate));
    }
    let capacity = capacity(immediate);
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    cpu.flags.set_status(
        flag(bits != 0, flags::CF)
            | flag(b.length < capacity, flags::ZF)
            | flag(a.length < capacity, flags::SF)
            | flag(bits & 1 != 0, flags::OF),
    );
}

/// The lowest or highest set bit, or the capacity if there is none.
fn index(bits: u32, immediate: u8) -> u64 {
    if bits == 0 {
        capacity(immediate) as u64
    } else if immediate & 0x40 == 0 {
        u64::from(bits.trailing_zeros())
    } else {
        u64::from(31 - bits.leading_zeros())
    }
}

/// The bits themselves, or ones in the elements that they name.
fn mask(bits: u32, immediate: u8) -> u128 {
    if immediate & 0x40 == 0 {
        return bits.into();
    }
    let (capacity, width) = if immediate & 1 == 0 { (16, 8) } else { (8, 16) };
    let ones = (1u128 << width) - 1;
    (0..capacity)
        .filter(|place| bits >> place & 1 != 0)
        .fold(0, |all, place| all | ones << (place * width))
}

/// With a register.
pub(crate) fn reg<K: Kind>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let second = cpu.xmm(op.b);
    run::<K>(cpu, op, second);
    Flow::Next
}

/// With memory, which needs no alignment.
pub(crate) fn mem<K: Kind>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_sse());
    let second: Result<u128, Trap> = cpu.load_unaligned(op);
    let second = tri!(second);
    run::<K>(cpu, op, second);
    Flow::Next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(string: &str) -> u128 {
        let mut bytes = [0; 16];
        bytes[..string.len()].copy_from_slice(string.as_bytes());
        u128::from_le_bytes(bytes)
    }

    fn check(a: &str, b: &str, immediate: u8, wanted: u64) {
        let (a, b) = (implicit(text(a), immediate), implicit(text(b), immediate));
        assert_eq!(index(compare(&a, &b, immediate), immediate), wanted);
    }

    #[test]
    fn searches_give_the_place() {
        check("xyz", "look for z or y", 0x00, 9);
        check("09", "number 42", 0x04, 7);
        check("same", "samE", 0x18, 3);
        check("needle", "hay needle hay", 0x0c, 4);
        check("needle", "hay and a needl", 0x0c, 16);
        check("q", "no such letter", 0x00, 16);
    }

    #[test]
    fn masks_name_bits_or_elements() {
        assert_eq!(mask(0b101, 0x00), 0b101);
        assert_eq!(mask(0b101, 0x40), 0xff00ff);
        assert_eq!(mask(0b101, 0x41), 0xffff_0000_ffff);
    }
}
