//! A case as one line of text, so that a failure can be run again: `DIFF_CASE='code=48ffc0 bits=64 rax=1'`.
//!
//! Fields that have the value of a quiet processor are left out. Numbers are hexadecimal.

use crate::layout::{CODE, CS32, CS64};
use crate::state::{CODE_MAX, Case, CpuState, PATCH_MAX};
use std::fmt::Write as _;

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// Name of a general register by its number.
pub(crate) fn register_name(index: usize) -> &'static str {
    NAMES[index]
}

/// The line for a case.
pub(crate) fn print(case: &Case, bitness: u32) -> String {
    let mut line = String::from("code=");
    for byte in case.bytes() {
        let _ = write!(line, "{byte:02x}");
    }
    let quiet = CpuState::quiet();
    let state = &case.state;
    let mut number = |name: &str, value: u64, default: u64| {
        if value != default {
            let _ = write!(line, " {name}={value:x}");
        }
    };
    number("bits", u64::from(bitness), 0x40);
    number("rip", state.rip(), CODE);
    number("flags", state.rflags(), quiet.rflags());
    for (index, name) in NAMES.iter().enumerate() {
        number(name, state.gpr[index], 0);
    }
    let cs = if bitness == 64 { CS64 } else { CS32 };
    number("cs", state.cs().into(), cs.into());
    number("ss", state.ss().into(), quiet.ss().into());
    number("ds", state.ds, quiet.ds);
    number("es", state.es, quiet.es);
    number("fs", state.fs, 0);
    number("gs", state.gs, 0);
    number("fsbase", state.fs_base, 0);
    number("gsbase", state.gs_base, 0);
    number("fcw", u64::from(state.fcw()), u64::from(quiet.fcw()));
    number("fsw", u64::from(state.fsw()), 0);
    number("ftw", u64::from(state.ftw()), 0);
    number("mxcsr", u64::from(state.mxcsr()), u64::from(quiet.mxcsr()));
    let (opcode, ip, dp) = state.fpu_pointers();
    number("fop", u64::from(opcode), 0);
    number("fip", ip, 0);
    number("fdp", dp, 0);
    number("mem", u64::from(case.pattern), 0);
    for index in 0..8 {
        let (significand, sign_exponent) = state.st(index);
        if (significand, sign_exponent) != (0, 0) {
            let _ = write!(line, " st{index}={sign_exponent:04x}{significand:016x}");
        }
    }
    for index in 0..16 {
        if state.xmm(index) != 0 {
            let _ = write!(line, " xmm{index}={:x}", state.xmm(index));
        }
    }
    if case.patch_len != 0 {
        let _ = write!(line, " patch={:x}:", case.patch_at);
        for byte in &case.patch[..case.patch_len as usize] {
            let _ = write!(line, "{byte:02x}");
        }
    }
    line
}

/// The case of a line, with its code size in bits.
///
/// # Errors
/// The word that makes no sense.
pub(crate) fn parse(line: &str) -> Result<(Case, u32), String> {
    let mut case = Case::empty();
    let mut bitness = 64;
    case.state.set_rip(CODE);
    for word in line.split_whitespace() {
        let wrong = || format!("cannot read {word:?}");
        let (name, value) = word.split_once('=').ok_or_else(wrong)?;
        let number = || u64::from_str_radix(value, 16).map_err(|_| wrong());
        let wide = || u128::from_str_radix(value, 16).map_err(|_| wrong());
        let state = &mut case.state;
        match name {
            "code" => {
                let bytes = hex(value)
                    .filter(|bytes| bytes.len() <= CODE_MAX)
                    .ok_or_else(wrong)?;
                case.code[..bytes.len()].copy_from_slice(&bytes);
                case.code_len = bytes.len() as u32;
            }
            "patch" => {
                let (at, bytes) = value.split_once(':').ok_or_else(wrong)?;
                let bytes = hex(bytes)
                    .filter(|bytes| bytes.len() <= PATCH_MAX)
                    .ok_or_else(wrong)?;
                case.patch_at = u32::from_str_radix(at, 16).map_err(|_| wrong())?;
                case.patch[..bytes.len()].copy_from_slice(&bytes);
                case.patch_len = bytes.len() as u32;
            }
            "bits" => {
                bitness = number()? as u32;
                state.set_cs(if bitness == 64 { CS64 } else { CS32 });
            }
            "cs" => state.set_cs(number()? as u16),
            "ss" => state.set_ss(number()? as u16),
            "ds" => state.ds = number()?,
            "es" => state.es = number()?,
            "fs" => state.fs = number()?,
            "gs" => state.gs = number()?,
            "rip" => state.set_rip(number()?),
            "flags" => state.set_rflags(number()?),
            "fsbase" => state.fs_base = number()?,
            "gsbase" => state.gs_base = number()?,
            "fcw" => state.set_fcw(number()? as u16),
            "fsw" => state.set_fsw(number()? as u16),
            "ftw" => state.set_ftw(number()? as u8),
            "mxcsr" => state.set_mxcsr(number()? as u32),
            "fop" => {
                let (_, ip, dp) = state.fpu_pointers();
                state.set_fpu_pointers(number()? as u16, ip, dp);
            }
            "fip" => {
                let (opcode, _, dp) = state.fpu_pointers();
                state.set_fpu_pointers(opcode, number()?, dp);
            }
            "fdp" => {
                let (opcode, ip, _) = state.fpu_pointers();
                state.set_fpu_pointers(opcode, ip, number()?);
            }
            "mem" => case.pattern = number()? as u32,
            _ => {
                if let Some(index) = NAMES.iter().position(|known| *known == name) {
                    state.set_gpr(index, number()?);
                } else if let Some(index) = name.strip_prefix("xmm") {
                    state.set_xmm(index.parse().map_err(|_| wrong())?, wide()?);
                } else if let Some(index) = name.strip_prefix("st") {
                    let value = wide()?;
                    state.set_st(
                        index.parse().map_err(|_| wrong())?,
                        value as u64,
                        (value >> 64) as u16,
                    );
                } else {
                    return Err(wrong());
                }
            }
        }
    }
    let bitness = match bitness {
        64 => 64,
        0x20 => 32,
        0x10 => 16,
        other => return Err(format!("no code of {other:#x} bits")),
    };
    Ok((case, bitness))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}
