//! `crucible-downstairs`: one region server, and what there is to do with its region.

mod args;
mod create;
mod dump;
mod dynamometer;
mod output;
mod run;
mod serve;
mod tools;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};
use output::Failure;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Create(arguments) => create::create(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Clone(arguments) => create::clone(&arguments),
        Command::Dump(arguments) => dump::dump(&arguments),
        Command::Export(arguments) => tools::export(&arguments),
        Command::Verify(arguments) => tools::verify(&arguments),
        Command::ExtentInfo(arguments) => tools::extent_info(&arguments),
        Command::Serve(arguments) => serve::serve(&arguments),
        Command::Dynamometer(arguments) => dynamometer::writes(&arguments),
        Command::RepairDynamometer(arguments) => dynamometer::repairs(&arguments),
        Command::Version => tools::version(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Quiet) => ExitCode::FAILURE,
        Err(Failure::Message(message)) => {
            output::complain(&message);
            ExitCode::FAILURE
        }
    }
}
