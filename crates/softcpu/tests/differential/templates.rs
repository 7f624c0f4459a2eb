//! Which instructions exist: the opcode maps are walked with every mandatory prefix and ModRM byte, the decoder
//! names what it finds, and what a user program may run and our processor announces is kept.

use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, Instruction, Mnemonic};
use std::collections::BTreeMap;

/// Opcode map of an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Map {
    OneByte,
    TwoByte,
    Three38,
    Three3a,
    /// VEX with this map number: only the general-purpose instructions of BMI are ours.
    Vex(u8),
}

/// One way to encode an instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) map: Map,
    /// 0, 0x66, 0xf3 or 0xf2.
    pub(crate) mandatory: u8,
    pub(crate) wide: bool,
    pub(crate) opcode: u8,
    /// A ModRM byte with which the encoding means this instruction.
    pub(crate) modrm: u8,
}

/// An instruction with all its shapes.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    pub(crate) code: Code,
    pub(crate) shapes: Vec<Shape>,
}

/// Every instruction that may be tested in code of `bitness` bits, ordered by its code.
pub(crate) fn all(bitness: u32) -> Vec<Template> {
    let mut found = BTreeMap::new();
    for map in [
        Map::OneByte,
        Map::TwoByte,
        Map::Three38,
        Map::Three3a,
        Map::Vex(2),
        Map::Vex(3),
    ] {
        for opcode in 0..=255 {
            for mandatory in [0, 0x66, 0xf3, 0xf2] {
                for wide in [false, true] {
                    walk_modrm(
                        bitness,
                        Shape {
                            map,
                            mandatory,
                            wide,
                            opcode,
                            modrm: 0,
                        },
                        &mut found,
                    );
                }
            }
        }
    }
    found.into_values().collect()
}

fn walk_modrm(bitness: u32, shape: Shape, found: &mut BTreeMap<usize, Template>) {
    if shape.wide && bitness != 64 && !matches!(shape.map, Map::Vex(_)) {
        return;
    }
    for modrm in 0..=255 {
        let shape = Shape { modrm, ..shape };
        let mut bytes = Vec::with_capacity(24);
        encode(&shape, Extra::default(), &mut bytes);
        bytes.resize(15, 0);
        let instruction = decode(bitness, &bytes, 0x1000_0000);
        if !testable(&instruction) {
            continue;
        }
        let code = instruction.code();
        let entry = found.entry(code as usize).or_insert_with(|| Template {
            code,
            shapes: Vec::new(),
        });
        // One shape a ModRM form is plenty: the fields are drawn anew for each case.
        let form = |modrm: u8| (modrm >= 0xc0, if modrm >= 0xc0 { modrm & 0x38 } else { 0 });
        let known = entry.shapes.iter().any(|old| {
            (old.map, old.mandatory, old.wide, old.opcode)
                == (shape.map, shape.mandatory, shape.wide, shape.opcode)
                && form(old.modrm) == form(modrm)
        });
        if !known {
            entry.shapes.push(shape);
        }
    }
}

/// What stands before and inside an encoding besides its shape.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extra {
    /// Legacy prefixes, written first.
    pub(crate) legacy: [u8; 4],
    pub(crate) legacy_len: usize,
    /// R, X and B of REX or VEX, as bits 2, 1 and 0.
    pub(crate) rxb: u8,
    /// An REX prefix even where all its bits are zero.
    pub(crate) force_rex: bool,
    /// The register that VEX names in its own field.
    pub(crate) vvvv: u8,
}

/// Prefixes, opcode and ModRM of a shape; SIB, displacement and immediate are up to the caller.
pub(crate) fn encode(shape: &Shape, extra: Extra, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&extra.legacy[..extra.legacy_len]);
    if let Map::Vex(map) = shape.map {
        let pp = match shape.mandatory {
            0x66 => 1,
            0xf3 => 2,
            0xf2 => 3,
            _ => 0,
        };
        bytes.extend_from_slice(&[
            0xc4,
            (!extra.rxb << 5) | map,
            (u8::from(shape.wide) << 7) | ((!extra.vvvv & 15) << 3) | pp,
            shape.opcode,
            shape.modrm,
        ]);
        return;
    }
    if shape.mandatory != 0 {
        bytes.push(shape.mandatory);
    }
    let rex = 0x40 | (u8::from(shape.wide) << 3) | extra.rxb;
    if rex != 0x40 || extra.force_rex {
        bytes.push(rex);
    }
    match shape.map {
        Map::TwoByte => bytes.push(0x0f),
        Map::Three38 => bytes.extend_from_slice(&[0x0f, 0x38]),
        Map::Three3a => bytes.extend_from_slice(&[0x0f, 0x3a]),
        Map::OneByte | Map::Vex(_) => {}
    }
    bytes.extend_from_slice(&[shape.opcode, shape.modrm]);
}

/// Decodes the first instruction of `bytes`, which lies at `rip`.
pub(crate) fn decode(bitness: u32, bytes: &[u8], rip: u64) -> Instruction {
    Decoder::with_ip(bitness, bytes, rip, DecoderOptions::NONE).decode()
}

/// Features that our processor announces and every host of these tests has.
const FEATURES: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL8086_ONLY,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::ADX,
    CpuidFeature::AES,
    CpuidFeature::BMI1,
    CpuidFeature::BMI2,
    CpuidFeature::CET_IBT,
    CpuidFeature::CLFSH,
    CpuidFeature::CMOV,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::CX8,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::FSGSBASE,
    CpuidFeature::FXSR,
    CpuidFeature::LZCNT,
    CpuidFeature::MMX,
    CpuidFeature::MOVBE,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::PCLMULQDQ,
    CpuidFeature::POPCNT,
    CpuidFeature::PREFETCHW,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::SSE3,
    CpuidFeature::SSE4_1,
    CpuidFeature::SSE4_2,
    CpuidFeature::SSSE3,
    CpuidFeature::CLFLUSHOPT,
    CpuidFeature::CLWB,
];

/// Instructions that are left out, with the reason.
pub(crate) const LEFT_OUT: &[(Mnemonic, &str)] = &[
    (Mnemonic::Syscall, "enters the host's kernel"),
    (Mnemonic::Sysenter, "enters the host's kernel"),
    (Mnemonic::Sysexit, "rare encodings differ by vendor"),
    (Mnemonic::Sysexitq, "rare encodings differ by vendor"),
    (Mnemonic::Cpuid, "tells of the host"),
    (Mnemonic::Rdtsc, "tells of the host"),
    (Mnemonic::Rdtscp, "tells of the host"),
    (Mnemonic::Rdpmc, "tells of the host"),
    (
        Mnemonic::Sgdt,
        "the host's kernel answers in its place (UMIP)",
    ),
    (
        Mnemonic::Sidt,
        "the host's kernel answers in its place (UMIP)",
    ),
    (
        Mnemonic::Sldt,
        "the host's kernel answers in its place (UMIP)",
    ),
    (
        Mnemonic::Str,
        "the host's kernel answers in its place (UMIP)",
    ),
    (
        Mnemonic::Smsw,
        "the host's kernel answers in its place (UMIP)",
    ),
    (Mnemonic::Jmpe, "Itanium"),
];

/// Features named above that the processor under test does not announce; kept apart so that one line changes.
const NOT_ANNOUNCED: &[CpuidFeature] = &[
    CpuidFeature::ADX,
    CpuidFeature::CLFLUSHOPT,
    CpuidFeature::CLWB,
];

/// Whether user code may run it here and ours must do the same.
pub(crate) fn testable(instruction: &Instruction) -> bool {
    let code = instruction.code();
    if instruction.is_invalid() || instruction.mnemonic() == Mnemonic::INVALID {
        return false;
    }
    if LEFT_OUT
        .iter()
        .any(|(mnemonic, _)| *mnemonic == instruction.mnemonic())
    {
        return false;
    }
    if code == Code::Int_imm8 && instruction.immediate8() == 0x80 {
        return false;
    }
    code.cpuid_features()
        .iter()
        .all(|feature| FEATURES.contains(feature) && !NOT_ANNOUNCED.contains(feature))
}
