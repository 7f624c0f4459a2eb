//! `[cpuid.NAME]`: CPUID leaves, whose keys are numbers instead of names.

use std::collections::BTreeMap;

use vmm::machine::config::{CpuidProfile, CpuidVendor};

use super::document::{Entry, Raw};
use super::error::Problem;
use super::read::{Findings, read_table};
use super::schema::{CPUID, nearest};

/// A table of leaves, understood.
#[derive(Clone, Debug)]
pub struct Table {
    /// Full name, such as `cpuid.plain`.
    pub name: String,
    /// What it says.
    pub profile: CpuidProfile,
}

/// Most leaves that a table may have; bhyve takes no more.
const LEAVES_MAX: usize = 256;

pub(super) fn read(
    short_name: &str,
    line: u32,
    entries: &BTreeMap<String, Entry>,
    findings: &mut Findings,
) -> Option<Table> {
    let name = format!("cpuid.{short_name}");
    let (named, numbered): (BTreeMap<_, _>, BTreeMap<_, _>) = entries
        .iter()
        .map(|(word, entry)| (word.clone(), entry.clone()))
        .partition(|(word, _)| CPUID.iter().any(|key| key.name == word));
    let table = read_table(&name, line, &named, CPUID, findings);
    let mut leaves = BTreeMap::new();
    for (word, entry) in &numbered {
        let Some(leaf) = parse_leaf(word) else {
            let problem = match nearest(word, CPUID.iter().map(|key| key.name)) {
                Some(nearest) => Problem::UnknownKey {
                    nearest: Some(nearest.to_owned()),
                    belongs_to: Vec::new(),
                },
                None => Problem::Invalid(
                    "unknown key; expected a leaf in hexadecimal, \"LEAF\" or \"LEAF-INDEX\""
                        .to_owned(),
                ),
            };
            findings.in_key(entry.line, &name, word, problem);
            continue;
        };
        match registers(&entry.node.value) {
            None => {
                let problem = Problem::WrongType {
                    expected: "an array of four 32-bit integers: eax, ebx, ecx, edx".to_owned(),
                    found: entry.node.value.describe(),
                };
                findings.in_key(entry.line, &name, word, problem);
            }
            Some(registers) => {
                if leaves.insert(leaf, registers).is_some() {
                    let problem = Problem::Invalid("this leaf is given twice".to_owned());
                    findings.in_key(entry.line, &name, word, problem);
                }
            }
        }
    }
    if leaves.len() > LEAVES_MAX {
        let problem = Problem::Invalid(format!(
            "it has {} leaves, at most {LEAVES_MAX} fit",
            leaves.len()
        ));
        findings.in_table(line, &name, problem);
    }
    let vendor = match table.text("vendor")? {
        "amd" => CpuidVendor::Amd,
        _ => CpuidVendor::Intel,
    };
    Some(Table {
        name,
        profile: CpuidProfile { vendor, leaves },
    })
}

fn parse_leaf(word: &str) -> Option<(u32, Option<u32>)> {
    let hex = |digits: &str| {
        let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        valid
            .then(|| u32::from_str_radix(digits, 16).ok())
            .flatten()
    };
    match word.split_once('-') {
        Some((leaf, index)) => Some((hex(leaf)?, Some(hex(index)?))),
        None => Some((hex(word)?, None)),
    }
}

fn registers(value: &Raw) -> Option<[u32; 4]> {
    let Raw::Array(items) = value else {
        return None;
    };
    let numbers: Option<Vec<u32>> = items
        .iter()
        .map(|item| match item.value {
            Raw::Integer(number) => u32::try_from(number).ok(),
            _ => None,
        })
        .collect();
    numbers?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves() {
        for (word, leaf) in [
            ("0", Some((0, None))),
            ("8000001e", Some((0x8000_001e, None))),
            ("B-1", Some((0xb, Some(1)))),
            ("", None),
            ("-1", None),
            ("B-", None),
            ("1-2-3", None),
            ("+1", None),
            ("100000000", None),
            ("vendr", None),
        ] {
            assert_eq!(parse_leaf(word), leaf, "{word}");
        }
    }
}
