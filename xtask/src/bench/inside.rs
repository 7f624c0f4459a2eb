//! Benches that run in one process: programs of the `benches` package that print a JSON object a
//! figure, with the keys `figure`, `ours`, `unit`, and, where they apply, `theirs`, `at_least`,
//! `at_most`.

use std::ffi::OsStr;
use std::process::Command;

use super::{Bound, Row};
use crate::{run, tree};

/// Runs the program `name` with the number of rounds and `arguments`, and reads its rows.
pub(super) fn measure(name: &str, rounds: usize, arguments: &[&OsStr]) -> Result<Vec<Row>, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(tree::root())
        .args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "benches",
            "--bin",
            name,
            "--",
        ])
        .arg(rounds.to_string())
        .args(arguments);
    run::quiet(&mut command)?.lines().map(read).collect()
}

fn read(line: &str) -> Result<Row, String> {
    let value: serde_json::Value =
        serde_json::from_str(line).map_err(|error| format!("\"{line}\": {error}"))?;
    let number = |key: &str| value.get(key).and_then(serde_json::Value::as_f64);
    let text = |key: &str| value.get(key).and_then(serde_json::Value::as_str);
    let bound = match (number("at_least"), number("at_most")) {
        (Some(least), _) => Bound::AtLeast(least),
        (_, Some(most)) => Bound::AtMost(most),
        _ => Bound::None,
    };
    let (Some(figure), Some(ours), Some(unit)) = (text("figure"), number("ours"), text("unit"))
    else {
        return Err(format!("\"{line}\" lacks figure, ours or unit"));
    };
    Ok(Row {
        figure: figure.to_owned(),
        ours,
        theirs: number("theirs"),
        unit: unit.to_owned(),
        bound,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read() {
        let row = read(r#"{"figure":"a","ours":2,"theirs":4.0,"unit":"M/s","at_least":0.8}"#);
        let row = row.unwrap();
        assert_eq!(
            (row.ours, row.theirs, row.bound),
            (2.0, Some(4.0), Bound::AtLeast(0.8))
        );
    }

    #[test]
    fn a_row_without_a_figure_is_refused() {
        assert!(
            read(r#"{"ours":2,"unit":"s"}"#)
                .unwrap_err()
                .contains("lacks")
        );
        assert!(read("2").is_err());
        assert!(read("").is_err());
    }
}
