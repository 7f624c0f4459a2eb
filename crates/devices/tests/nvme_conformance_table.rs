//! `CONFORMANCE.md` and the conformance tests name each other.

use std::collections::BTreeSet;

const TABLE: &str = include_str!("../src/nvme/CONFORMANCE.md");
const SUITES: [&str; 5] = [
    include_str!("nvme_conformance_registers.rs"),
    include_str!("nvme_conformance_admin.rs"),
    include_str!("nvme_conformance_doorbells.rs"),
    include_str!("nvme_conformance_io.rs"),
    include_str!("nvme_conformance_dynamic.rs"),
];
/// Rows of each group that must be there.
const ROWS: [(&str, &[u32]); 4] = [
    (
        "R",
        &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17],
    ),
    (
        "A",
        &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    ),
    ("I", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]),
    ("D", &[1, 2, 3, 5, 6, 7, 8, 9, 10]),
];

/// Row label and the tests named in it.
fn rows() -> Vec<(&'static str, Vec<&'static str>)> {
    TABLE
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let label = cells.next()?;
            let tests = cells.last()?;
            let digits = label.get(1..)?;
            digits.parse::<u32>().ok()?;
            Some((label, tests.split('`').skip(1).step_by(2).collect()))
        })
        .collect()
}

/// The names of all functions marked as tests.
fn tests() -> BTreeSet<&'static str> {
    SUITES
        .iter()
        .flat_map(|suite| suite.split("#[test]\nfn ").skip(1))
        .filter_map(|text| text.split('(').next())
        .collect()
}

#[test]
fn each_row_has_tests_and_their_names_begin_with_its_number() {
    let rows = rows();
    let mut expected = Vec::new();
    for (group, numbers) in ROWS {
        expected.extend(numbers.iter().map(|number| format!("{group}{number}")));
    }
    let labels: Vec<&str> = rows.iter().map(|(label, _)| *label).collect();
    assert_eq!(labels, expected);
    for (label, names) in rows {
        assert!(!names.is_empty(), "{label} has no test");
        let (group, number) = label.split_at(1);
        let prefix = format!("{}{number:0>2}_", group.to_lowercase());
        for name in names {
            assert!(name.starts_with(&prefix), "{name} in row {label}");
        }
    }
}

#[test]
fn each_named_test_exists_and_each_test_is_named() {
    let named: BTreeSet<&str> = rows().into_iter().flat_map(|(_, names)| names).collect();
    assert_eq!(named, tests());
}
