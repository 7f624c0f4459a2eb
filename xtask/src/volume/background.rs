//! A process beside a trial, with its output in a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::measured::{ExitCode, Measured};
use crate::run;

const LIMIT: Duration = Duration::from_secs(120);

/// The process; ended when dropped.
pub(super) struct Background {
    child: Measured,
    log: PathBuf,
}

impl Background {
    pub(super) fn start(command: &mut Command, log: &Path) -> Result<Self, String> {
        let file = fs::File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let copy = file.try_clone().map_err(|error| error.to_string())?;
        command.stdin(Stdio::null()).stdout(file).stderr(copy);
        Ok(Self {
            child: Measured::start(command)?,
            log: log.to_owned(),
        })
    }

    pub(super) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for its good end.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        match self.child.wait(LIMIT)? {
            (ExitCode::Code(0), _) => Ok(()),
            (code, _) => Err(format!("{code}: {}", self.said().trim_end())),
        }
    }

    /// Waits for its bad end, and returns what it said.
    pub(super) fn fails(mut self) -> Result<String, String> {
        match self.child.wait(LIMIT)? {
            (ExitCode::Code(0), _) => Err(format!("it did not fail: {}", self.said().trim_end())),
            _ => Ok(self.said()),
        }
    }

    /// Ends it in order.
    pub(super) fn stop(&mut self) -> Result<(), String> {
        run::quiet(Command::new("kill").arg(self.child.id().to_string()))?;
        match self.child.wait(LIMIT)? {
            (ExitCode::Code(0), _) => Ok(()),
            (code, _) => Err(format!("{code}: {}", self.said().trim_end())),
        }
    }
}
