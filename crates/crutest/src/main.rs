//! The program `crutest`; everything it does is in the library of the same name.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use crutest::args::Arguments;
use crutest::session;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second one does not wait for an orderly end.
        let twice = flag::register_conditional_shutdown(signal, 1, stop.clone());
        if let Err(error) = twice.and_then(|_| flag::register(signal, stop.clone())) {
            return complain(&error.to_string());
        }
    }
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
