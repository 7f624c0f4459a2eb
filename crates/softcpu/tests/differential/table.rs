//! The table of instructions covered.

use crate::campaign::{Results, Tally};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Markdown: totals, then one row a mnemonic.
pub(crate) fn print(results: &Results, processor: &str) -> String {
    let mut rows: BTreeMap<String, (u64, Tally)> = BTreeMap::new();
    let mut total = Tally::default();
    let mut codes = 0u64;
    for (code, tally) in results.tallies.values() {
        if code.mnemonic() == iced_x86::Mnemonic::INVALID || tally.cases == 0 {
            continue;
        }
        let row = rows
            .entry(format!("{:?}", code.mnemonic()).to_uppercase())
            .or_default();
        row.0 += 1;
        codes += 1;
        for sum in [&mut row.1, &mut total] {
            sum.cases += tally.cases;
            sum.faults += tally.faults;
            sum.mismatches += tally.mismatches;
        }
    }
    rows.insert("(several in a row)".to_owned(), (0, results.sequences));
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
        rows.len() - 1,
        total.cases,
        total.faults,
        total.mismatches,
    );
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
