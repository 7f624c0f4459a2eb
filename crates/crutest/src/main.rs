//! The program `crutest`; everything it does is in the library of the same name.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use crutest::args::Arguments;
use crutest::{program, session};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    program::start_log();
    let stop = match program::stop_flag() {
        Ok(stop) => stop,
        Err(error) => return complain(&error.to_string()),
    };
    let outcome = match session::run(&arguments, &stop) {
        Ok(outcome) => outcome,
        Err(reason) => return complain(&reason),
    };
    let text = if arguments.options.json {
        match serde_json::to_string(&outcome) {
            Ok(json) => json,
            Err(error) => return complain(&error.to_string()),
        }
    } else {
        let texts: Vec<String> = outcome.runs.iter().map(|summary| summary.text()).collect();
        texts.join("\n")
    };
    if let Err(error) = writeln!(io::stdout(), "{text}") {
        return complain(&error.to_string());
    }
    if outcome.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn complain(reason: &str) -> ExitCode {
    // Where would a failure to complain be told?
    writeln!(io::stderr(), "crutest: {reason}").ok();
    ExitCode::FAILURE
}
