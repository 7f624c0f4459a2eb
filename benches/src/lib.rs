//! In-process benchmarks, one small program each; `cargo xtask bench` runs them and shows the ratios.
//!
//! A program takes the number of rounds and prints one JSON object a figure ([`report`]). `flat` runs
//! a function of machine code on a bare `softcpu`; `programs` holds such functions.

pub mod flat;

#[cfg(target_arch = "x86_64")]
pub mod programs;

/// A figure and what it is to be.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The value, in `unit`.
    pub ours: f64,
    /// The value of what ran beside it.
    pub theirs: Option<f64>,
    /// `M/s`, `%` and the like.
    pub unit: &'static str,
    /// The least that the value (or the ratio, with something beside it) may be.
    pub at_least: Option<f64>,
}

impl Figure {
    /// The figure as `cargo xtask bench` reads it.
    pub fn json(&self) -> String {
        serde_json::json!({
            "figure": self.name,
            "ours": self.ours,
            "theirs": self.theirs,
            "unit": self.unit,
            "at_least": self.at_least,
        })
        .to_string()
    }
}

/// Prints the figure for `cargo xtask bench`.
#[expect(
    clippy::print_stdout,
    reason = "standard output is how figures leave a bench"
)]
pub fn report(figure: &Figure) {
    println!("{}", figure.json());
}

/// The number of rounds from the command line: the first argument, 3 without one.
pub fn rounds() -> usize {
    let wanted = std::env::args().nth(1).and_then(|text| text.parse().ok());
    wanted.unwrap_or(3_usize).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_without_a_bound_says_so() {
        let figure = Figure {
            name: "a".to_owned(),
            ours: 1.5,
            theirs: None,
            unit: "M/s",
            at_least: None,
        };
        let value: serde_json::Value = serde_json::from_str(&figure.json()).unwrap();
        assert_eq!(value["ours"], 1.5);
        assert!(value["at_least"].is_null());
    }
}
