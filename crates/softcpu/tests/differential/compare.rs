//! The comparison of two outcomes, field by field.

use crate::generate::Generated;
use crate::layout::DATA_WRITABLE;
use crate::segments::code_bits;
use crate::state::Outcome;
use crate::text::register_name;
use crate::undefined::{self, Open};
use iced_x86::Mnemonic;

/// RF: which exceptions save it set is visible only to the handler, and hosts' kernels touch it.
const RESUME: u64 = 1 << 16;
/// Linux pretends that kernel addresses are present when a user program touches them.
const PROTECTION_BIT: u64 = 1;
const USER_END: u64 = 0x7fff_ffff_f000;
/// ES of the x87 status word.
const EXCEPTION_SUMMARY: u16 = 1 << 7;
/// MM of AMD's MXCSR.
const MISALIGNED: u32 = 1 << 17;
/// IE of the x87 status word.
const INVALID: u16 = 1;
const PAGE_FAULT: u64 = 14;
/// ZF.
const ZERO: u64 = 1 << 6;

/// Everything in which the outcomes differ and must not, as text; empty when they agree.
pub(crate) fn differences(
    generated: &Generated,
    before: &[u8],
    host: &Outcome,
    soft: &Outcome,
) -> Vec<String> {
    let open = undefined::open(generated);
    let mut found = Vec::new();
    // AMD's bit for misaligned accesses, which an image in memory has brought along: an error on ours.
    if open.all || host.state.mxcsr() & MISALIGNED != 0 {
        return found;
    }
    // AMD pushes with the stack of the mode that a far call goes to, Intel with that of the mode it comes from.
    let changes_mode = [host, soft]
        .iter()
        .any(|outcome| code_bits(outcome.state.cs()) != generated.bitness);
    if generated.instruction.mnemonic() == Mnemonic::Call && changes_mode {
        return found;
    }
    if open.host_may_fault && matches!(host.vector, 12..=14) {
        return found;
    }
    // Linux has a segment whose limit is the processor's number; the guest's table has none at that place.
    let asks = matches!(
        generated.instruction.mnemonic(),
        Mnemonic::Lar | Mnemonic::Lsl | Mnemonic::Verr | Mnemonic::Verw
    );
    if asks && host.state.rflags() & !soft.state.rflags() & ZERO != 0 {
        return found;
    }
    let x87_open = open.mmx_of_simd_fault && host.vector == 19 && soft.vector == 19;
    let fault = |vector| matches!(vector, 12..=14 | 17);
    if open.fault && fault(host.vector) && fault(soft.vector) {
        // Any of them will do.
    } else if host.vector != soft.vector {
        found.push(format!("vector: host {} soft {}", host.vector, soft.vector));
    } else {
        compare_fault(host, soft, &mut found);
    }
    let mut number = |name: &str, host: u64, soft: u64, open: u64| {
        if (host ^ soft) & !open != 0 {
            found.push(format!("{name}: host {host:#x} soft {soft:#x}"));
        }
    };
    let (a, b) = (&host.state, &soft.state);
    number("rip", a.rip(), b.rip(), 0);
    // A fault of the instruction itself leaves the flags as they were, also those that it would have left
    // undefined; one of the fetch behind it does not.
    let undone = !matches!(host.vector, 1 | 3)
        && a.rip() == generated.case.state.rip()
        && generated.sequence.is_none();
    let mut flags_open = if undone { 0 } else { open.flags };
    if open.codes_of_exception && a.fsw() & EXCEPTION_SUMMARY != 0 {
        flags_open |= undefined::STATUS;
    }
    number("rflags", a.rflags(), b.rflags(), flags_open | RESUME);
    for index in 0..16 {
        let open = if open.registers >> index & 1 != 0 || (undone && open.registers_of_faults) {
            u64::MAX
        } else if generated.bitness == 64 && code_bits(a.cs()) != 64 {
            // "Undefined when leaving 64-bit mode" (SDM vol. 1, 3.4.1.1).
            !0xffff_ffff
        } else {
            0
        };
        number(register_name(index), a.gpr[index], b.gpr[index], open);
    }
    number("cs", u64::from(a.cs()), u64::from(b.cs()), 0);
    number("ss", u64::from(a.ss()), u64::from(b.ss()), 0);
    // The way back from the host's kernel makes all null selectors zero.
    for (name, host, soft) in [
        ("ds", a.ds, b.ds),
        ("es", a.es, b.es),
        ("fs", a.fs, b.fs),
        ("gs", a.gs, b.gs),
    ] {
        number(name, host, soft, if host == 0 { 3 } else { 0 });
    }
    // A null selector clears the base on some processors and leaves it on others.
    let base_open = |selector: u64| {
        if open.null_bases && selector & !3 == 0 {
            u64::MAX
        } else {
            0
        }
    };
    number("fs_base", a.fs_base, b.fs_base, base_open(a.fs));
    number("gs_base", a.gs_base, b.gs_base, base_open(a.gs));
    number("fcw", u64::from(a.fcw()), u64::from(b.fcw()), 0);
    let bad_operand = (a.fsw() & (EXCEPTION_SUMMARY | INVALID)) != 0;
    let codes = undefined::C0 | undefined::C1 | undefined::C2 | undefined::C3;
    let codes_open = if open.codes_of_exception && bad_operand {
        codes
    } else {
        0
    };
    let status_open = if x87_open {
        u64::MAX
    } else {
        u64::from(open.status | codes_open)
    };
    number("fsw", u64::from(a.fsw()), u64::from(b.fsw()), status_open);
    number(
        "ftw",
        u64::from(a.ftw()),
        u64::from(b.ftw()),
        if x87_open { u64::MAX } else { 0 },
    );
    number("mxcsr", u64::from(a.mxcsr()), u64::from(b.mxcsr()), 0);
    // AMD's save and restore instructions keep the pointers only while an exception is pending, so that is when
    // the frame tells them.
    if a.fsw() & EXCEPTION_SUMMARY != 0 {
        let (host_pointers, soft_pointers) = (a.fpu_pointers(), b.fpu_pointers());
        // Ours records no opcode, as Intel's without "fopcode compatibility mode".
        // How much of an address that is not canonical survives is the processor's affair.
        let high = !0xffff_ffff_ffff;
        number("fip", host_pointers.1, soft_pointers.1, high);
        number("fdp", host_pointers.2, soft_pointers.2, high);
    }
    if !x87_open {
        compare_stack(host, soft, &open, &mut found);
    }
    compare_vectors(host, soft, &open, &mut found);
    if !(undone && open.memory_of_faults) {
        compare_memory(before, host, soft, open.mxcsr_mask, &mut found);
    }
    found
}

fn compare_fault(host: &Outcome, soft: &Outcome, found: &mut Vec<String>) {
    let mut error_open = 0;
    if host.vector == PAGE_FAULT {
        if host.cr2 != soft.cr2 {
            found.push(format!("cr2: host {:#x} soft {:#x}", host.cr2, soft.cr2));
        }
        if host.cr2 >= USER_END {
            error_open = PROTECTION_BIT;
        }
    }
    // Only these push one; for the others the host's kernel reports whatever it had last.
    let coded = matches!(host.vector, 8 | 10..=14 | 17);
    if coded && (host.error_code ^ soft.error_code) & !error_open != 0 {
        found.push(format!(
            "error code: host {:#x} soft {:#x}",
            host.error_code, soft.error_code
        ));
    }
}

fn compare_stack(host: &Outcome, soft: &Outcome, open: &Open, found: &mut Vec<String>) {
    for index in 0..8 {
        let (a, b) = (host.state.st(index), soft.state.st(index));
        let same_sign = (a.1 ^ b.1) & 0x8000 == 0;
        let near = same_sign && place(a).abs_diff(place(b)) <= u128::from(open.ulps);
        if a != b && !near {
            found.push(format!(
                "st{index}: host {:04x}{:016x} soft {:04x}{:016x}",
                a.1, a.0, b.1, b.0
            ));
        }
    }
}

/// Where a value stands among the values of its sign, so that neighbours on both sides of a power of two
/// are neighbours here.
fn place((significand, sign_exponent): (u64, u16)) -> u128 {
    u128::from(sign_exponent & 0x7fff) << 63 | u128::from(significand & !(1 << 63))
}

fn compare_vectors(host: &Outcome, soft: &Outcome, open: &Open, found: &mut Vec<String>) {
    for index in 0..16 {
        let (a, b) = (host.state.xmm(index), soft.state.xmm(index));
        if a != b && !(open.approximate && near(a, b)) {
            found.push(format!("xmm{index}: host {a:#034x} soft {b:#034x}"));
        }
    }
}

/// Whether all single-precision lanes agree within the sum of two errors of 1.5 * 2^-12.
fn near(a: u128, b: u128) -> bool {
    (0..4).all(|lane| {
        let [a, b] = [a, b].map(|value| f32::from_bits((value >> (32 * lane)) as u32));
        let allowed = a.abs() * (3.0 / 4096.0);
        a.to_bits() == b.to_bits() || (a - b).abs() <= allowed
    })
}

fn compare_memory(
    before: &[u8],
    host: &Outcome,
    soft: &Outcome,
    mxcsr_mask: Option<usize>,
    found: &mut Vec<String>,
) {
    let view = |outcome: &Outcome| -> Vec<u8> {
        if outcome.memory_changed != 0 {
            outcome.memory.to_vec()
        } else {
            before[..DATA_WRITABLE as usize].to_vec()
        }
    };
    if host.memory_changed == 0 && soft.memory_changed == 0 {
        return;
    }
    let (a, b) = (view(host), view(soft));
    let same = |index: usize| a[index] == b[index] || mxcsr_mask == Some(index);
    if let Some(first) = (0..a.len()).find(|index| !same(*index)) {
        let end = (first + 16).min(a.len());
        found.push(format!(
            "memory at {first:#x}: host {} soft {} (before {})",
            hex(&a[first..end]),
            hex(&b[first..end]),
            hex(&before[first..end])
        ));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
