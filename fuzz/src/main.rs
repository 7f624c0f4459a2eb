//! `cargo run --release -p fuzz -- NAME`: runs one target on seeded inputs, or on files.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use fuzz::{TARGETS, campaign};

const USAGE: &str = "usage: fuzz NAME [--seed N] [--seconds N] [--only N] [FILE...]";

/// What the command line says.
struct Wanted {
    name: String,
    seed: u64,
    seconds: u64,
    only: Option<u64>,
    files: Vec<PathBuf>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Wanted> {
    let mut wanted = Wanted {
        name: words.next()?,
        seed: 1,
        seconds: 60,
        only: None,
        files: Vec::new(),
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seed" => wanted.seed = words.next()?.parse().ok()?,
            "--seconds" => wanted.seconds = words.next()?.parse().ok()?,
            "--only" => wanted.only = Some(words.next()?.parse().ok()?),
            flag if flag.starts_with('-') => return None,
            file => wanted.files.push(PathBuf::from(file)),
        }
    }
    Some(wanted)
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program"
)]
fn main() -> ExitCode {
    let Some(wanted) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        for target in TARGETS {
            eprintln!("    {:<12} {}", target.name, target.about);
        }
        return ExitCode::from(2);
    };
    let Some(target) = TARGETS.iter().find(|target| target.name == wanted.name) else {
        eprintln!(
            "no target \"{}\"; without a name, this program lists them",
            wanted.name
        );
        return ExitCode::from(2);
    };
    for file in &wanted.files {
        match fs::read(file) {
            Ok(bytes) => (target.run)(&bytes),
            Err(error) => {
                eprintln!("{}: {error}", file.display());
                return ExitCode::FAILURE;
            }
        }
    }
    if let Some(number) = wanted.only {
        (target.run)(&campaign::input(target, wanted.seed, number));
    } else if wanted.files.is_empty() {
        let limit = Duration::from_secs(wanted.seconds);
        let done = campaign::run(target, wanted.seed, u64::MAX, limit);
        println!(
            "{}: {} inputs in {:.0} s, none failed",
            target.name,
            done.inputs,
            done.took.as_secs_f64()
        );
    }
    ExitCode::SUCCESS
}
