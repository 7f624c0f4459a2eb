//! `cargo xtask bench`: figures as ratios to something that runs in the same minute.

mod accounts;
mod boot;
mod crucible;
mod disk;
mod idle;
mod inside;
mod nvme;

use std::path::{Path, PathBuf};

use clap::Args;

use crate::tree;
use crate::volume::fleet::Programs;

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Only benches whose name contains this.
    name: Option<String>,
    /// Measure each this often; the best run counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A `standalone` that was built before, in place of this tree's.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// A directory with the volume's programs, built before, in place of this tree's.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// One JSON object a row in place of the table.
    #[arg(long)]
    json: bool,
}

impl Options {
    fn rounds(&self) -> usize {
        self.rounds.max(1)
    }
}

/// One figure of the table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// What was measured.
    figure: String,
    /// Our value, in `unit`.
    ours: f64,
    /// The value of what ran beside it, if anything did.
    theirs: Option<f64>,
    unit: String,
    /// What the figure must be, and whether of the ratio (with something beside it) or of our value.
    bound: Bound,
}

/// A promise about a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// Reported only.
    None,
}

impl Row {
    /// Ours divided by theirs.
    fn ratio(&self) -> Option<f64> {
        self.theirs
            .filter(|theirs| *theirs > 0.0)
            .map(|theirs| self.ours / theirs)
    }

    fn verdict(&self) -> &'static str {
        let value = self.ratio().unwrap_or(self.ours);
        match self.bound {
            Bound::AtMost(most) if value <= most => "kept",
            Bound::AtLeast(least) if value >= least => "kept",
            Bound::None => "",
            _ => "MISSED",
        }
    }

    fn bound_text(&self) -> String {
        match self.bound {
            Bound::AtMost(most) => format!("<= {most}"),
            Bound::AtLeast(least) => format!(">= {least}"),
            Bound::None => String::new(),
        }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "figure": self.figure,
            "unit": self.unit,
            "ours": self.ours,
            "theirs": self.theirs,
            "ratio": self.ratio(),
            "bound": self.bound_text(),
            "verdict": self.verdict(),
        })
    }
}

type Measure = fn(&Options) -> Result<Vec<Row>, String>;

const BENCHES: &[(&str, Measure)] = &[
    ("boot", boot::measure),
    ("idle", idle::measure),
    ("interpreter", |options| {
        inside::measure("interpreter", options.rounds(), &[])
    }),
    ("nvme", nvme::measure),
    ("crucible", crucible::measure),
    ("path", path),
    ("disk", disk::measure),
    ("protocol", |options| {
        inside::measure("protocol", options.rounds(), &[])
    }),
];

/// What each step of a guest's 4 KiB write and read costs on its way through a volume.
fn path(options: &Options) -> Result<Vec<Row>, String> {
    let programs = Programs::provide(options.programs.as_deref())?;
    let server = programs.command("crucible-downstairs");
    let directory = Path::new(server.get_program()).parent();
    let directory = directory.unwrap_or_else(|| Path::new("."));
    let regions = tree::target().join("bench");
    std::fs::create_dir_all(&regions).map_err(|error| format!("{}: {error}", regions.display()))?;
    let arguments = [directory.as_os_str(), regions.as_os_str()];
    inside::measure("path", options.rounds(), &arguments)
}

/// Runs the benches and prints their table.
///
/// Errors: a bench that could not measure. A missed bound is in the table and no error: figures of a
/// busy machine are for people to judge.
pub(crate) fn command(options: &Options) -> Result<(), String> {
    let mut failed = Vec::new();
    if !options.json {
        println!("{}", heading());
    }
    for (name, measure) in BENCHES {
        if options
            .name
            .as_ref()
            .is_some_and(|wanted| !name.contains(wanted.as_str()))
        {
            continue;
        }
        match measure(options) {
            Ok(rows) if options.json => rows.iter().for_each(|row| println!("{}", row.json())),
            Ok(rows) => rows.iter().for_each(|row| println!("{}", line(row))),
            Err(error) => {
                println!("{name}: {error}");
                failed.push(*name);
            }
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("bench: not measured: {}", failed.join(", ")))
    }
}

fn heading() -> String {
    format!(
        "{:<38} {:>12} {:>12} {:<10} {:>7} {:>8}",
        "figure", "ours", "beside it", "unit", "ratio", "bound"
    )
}

fn line(row: &Row) -> String {
    let optional =
        |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    format!(
        "{:<38} {:>12.2} {:>12} {:<10} {:>7} {:>8} {}",
        row.figure,
        row.ours,
        optional(row.theirs),
        row.unit,
        optional(row.ratio()),
        row.bound_text(),
        row.verdict()
    )
    .trim_end()
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: f64, theirs: Option<f64>, bound: Bound) -> Row {
        Row {
            figure: "boot".to_owned(),
            ours,
            theirs,
            unit: "s".to_owned(),
            bound,
        }
    }

    #[test]
    fn bounds_are_about_the_ratio_when_there_is_one() {
        assert_eq!(row(8.0, Some(2.0), Bound::AtMost(5.0)).verdict(), "kept");
        assert_eq!(row(8.0, Some(1.0), Bound::AtMost(5.0)).verdict(), "MISSED");
        assert_eq!(row(8.0, None, Bound::AtLeast(9.0)).verdict(), "MISSED");
        assert_eq!(row(8.0, None, Bound::None).verdict(), "");
    }

    #[test]
    fn lines_stand_under_the_heading() {
        let line = line(&row(8.0, Some(2.0), Bound::AtMost(5.0)));
        assert_eq!(line.find("s "), heading().find("unit"));
        assert!(line.ends_with("<= 5 kept"));
    }
}
