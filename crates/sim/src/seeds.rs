//! Runs that once failed, kept so that they do not fail again.

use crate::scenario::Scenario;

/// The file: a comment with the reason, then the arguments of the run.
const FILE: &str = include_str!("../seeds.txt");

/// All of them, with the reason of each. An error names the line.
pub fn kept() -> Result<Vec<(Scenario, String)>, String> {
    let mut kept = Vec::new();
    let mut reason = String::new();
    for (number, line) in FILE.lines().enumerate() {
        let line = line.trim();
        if let Some(comment) = line.strip_prefix('#') {
            reason = comment.trim().to_owned();
        } else if !line.is_empty() {
            let scenario = parse(line).map_err(|why| format!("line {}: {why}", number + 1))?;
            kept.push((scenario, reason.clone()));
        }
    }
    Ok(kept)
}

/// `--seed 7 --faults kill,cut --steps 40 --disk model`, as a failure prints it.
fn parse(line: &str) -> Result<Scenario, String> {
    let mut scenario = Scenario::new(0);
    let mut words = line.split_whitespace();
    while let Some(flag) = words.next() {
        let value = words.next().ok_or_else(|| format!("{flag} has no value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{flag} {value}: expected a number"))
        };
        match flag {
            "--seed" => scenario.seed = number()?,
            "--steps" => scenario.steps = number()?,
            "--faults" => scenario.faults = value.parse()?,
            "--disk" => scenario.disk = value.parse()?,
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    Ok(scenario)
}
