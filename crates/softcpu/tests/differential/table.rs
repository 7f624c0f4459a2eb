//! The table of instructions covered.

use crate::campaign::{Results, Tally};
use crate::generate::operands;
use crate::templates;
use iced_x86::Mnemonic;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Row of the cases of several instructions.
const SEVERAL: &str = "(several in a row)";
/// Row of the cases whose bytes no decoder knows.
const NOT_INSTRUCTIONS: &str = "(no instruction)";

/// Markdown: totals, then one row a mnemonic.
pub(crate) fn print(results: &Results, processor: &str) -> String {
    let mut rows: BTreeMap<String, (u64, Tally)> = BTreeMap::new();
    let mut total = Tally::default();
    let mut codes = 0u64;
    for (code, tally) in results.tallies.values() {
        if tally.cases == 0 {
            continue;
        }
        let known = code.mnemonic() != Mnemonic::INVALID;
        let name = if known {
            format!("{:?}", code.mnemonic())
        } else {
            NOT_INSTRUCTIONS.to_owned()
        };
        let row = rows.entry(name.to_uppercase()).or_default();
        if known {
            row.0 += 1;
            codes += 1;
        }
        for sum in [&mut row.1, &mut total] {
            sum.cases += tally.cases;
            sum.faults += tally.faults;
            sum.mismatches += tally.mismatches;
        }
    }
    rows.insert(SEVERAL.to_owned(), (0, results.sequences));
    for (sum, add) in [
        (&mut total.cases, results.sequences.cases),
        (&mut total.faults, results.sequences.faults),
        (&mut total.mismatches, results.sequences.mismatches),
    ] {
        *sum += add;
    }
    let mut text = String::from("# Instructions compared with a real processor\n\n");
    let _ = writeln!(
        text,
        "Made by `cargo test -p softcpu --test differential` with `DIFF_TABLE` set. Host: {processor}.\n\n\
         {} instructions in {codes} encodings, {} cases, {} of which end in an exception on the host; mismatches: \
         {}.\n\nAn encoding is what the decoder tells apart: operand widths, memory or register forms with their own\n\
         opcodes, 32-bit and 64-bit code. Every case compares the complete user-visible state.\n",
        rows.keys().filter(|name| !name.starts_with('(')).count(),
        total.cases,
        total.faults,
        total.mismatches,
    );
    text.push_str("## Left out\n\n| instruction | why |\n|---|---|\n");
    for (mnemonic, reason) in templates::LEFT_OUT.iter().chain(operands::NOT_READY) {
        let _ = writeln!(
            text,
            "| {} | {reason} |",
            format!("{mnemonic:?}").to_uppercase()
        );
    }
    text.push_str("\nWhat the manuals leave undefined, and where vendors are known to differ, is excused by the rows of\n\
        `tests/differential/undefined.rs` and `vendors_differ` in `generate/mod.rs`, each with its reason.\n\n## Compared\n\n");
    text.push_str("| instruction | encodings | cases | exceptions | mismatches |\n|---|---:|---:|---:|---:|\n");
    for (name, (codes, tally)) in rows {
        let _ = writeln!(
            text,
            "| {name} | {codes} | {} | {} | {} |",
            tally.cases, tally.faults, tally.mismatches
        );
    }
    text
}
