//! The program; everything it does is in the library of the same name.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use standalone::args::{Arguments, Command};
use standalone::console::terminal;
use standalone::ctl;
use standalone::run;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Console { path }) = &arguments.command {
        return match terminal::run(path) {
            Ok(()) => ExitCode::SUCCESS,
            Err(reason) => complain(&[format!("standalone: {reason}")]),
        };
    }
    if let Some(Command::Ctl(arguments)) = &arguments.command {
        return match ctl::run(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&[format!("standalone: {error}")]);
                ExitCode::from(error.code())
            }
        };
    }
    match run::run(&arguments.run) {
        Ok((text, code)) => {
            let mut out = std::io::stdout();
            match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                Ok(()) => ExitCode::from(code),
                Err(error) => complain(&[format!("standalone: standard output: {error}")]),
            }
        }
        Err(refusal) => complain(&refusal.0),
    }
}

fn complain(lines: &[String]) -> ExitCode {
    let mut out = std::io::stderr();
    for line in lines {
        // Where would a failure to complain be told?
        writeln!(out, "{line}").ok();
    }
    ExitCode::FAILURE
}
