//! A shell on a guest's serial line: a machine that runs, somebody logged in, commands with their outcomes.

use std::path::Path;
use std::time::Duration;

use super::console::{Console, Show};
use super::machine::{Engine, Machine, SOCKET};
use crate::measured::{Cost, ExitCode, Measured};

/// What the shell of a login prints when it is ready.
const PROMPT: &str = "root@trivet:~# ";
/// Ends the output of each command; typed in two pieces, so that an echo of the command is not taken for its end.
const MARK: &str = "@@done:";

/// A machine and a shell in its guest.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) console: Console,
    pub(crate) child: Measured,
}

impl Session {
    /// Starts the machine that `directory` was prepared for, and its console.
    pub(crate) fn start(
        machine: &Machine,
        engine: &Engine,
        directory: &Path,
        show: Show,
    ) -> Result<Session, String> {
        let mut child = machine.start(engine, directory)?;
        let console = Console::connect(&directory.join(SOCKET), &mut child, show)?;
        Ok(Session { console, child })
    }

    /// Waits for a line of the guest's.
    pub(crate) fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String, String> {
        self.console.wait_for(text, limit, &mut self.child)
    }

    /// Waits for the shell of the automatic login and makes it quiet: no prompt, no echo.
    pub(crate) fn log_in(&mut self, limit: Duration) -> Result<(), String> {
        self.wait_for(PROMPT, limit)?;
        // A plain shell has no line editor that would echo by itself.
        self.console
            .send("exec sh -c 'stty -echo; PS1= exec sh'\n")?;
        self.run("true", Duration::from_secs(60)).map(drop)
    }

    /// Runs a command and returns what it printed, on both outputs.
    ///
    /// Errors: it ended with anything but 0, not in time, or the machine ended.
    pub(crate) fn run(&mut self, command: &str, limit: Duration) -> Result<String, String> {
        let start = self.console.transcript().len();
        self.console
            .send(&format!("{command}; echo \"@\"@done:$?:\n"))?;
        let said = self.wait_for(MARK, limit);
        let transcript = self.console.transcript();
        let output = transcript.get(start..).unwrap_or_default();
        let line = said.map_err(|error| {
            let lines: Vec<&str> = output.lines().collect();
            let last = &lines[lines.len().saturating_sub(5)..];
            format!("`{command}` in the guest: {error}: {}", last.join(" / "))
        })?;
        let output = output.split(MARK).next().unwrap_or_default();
        let output = output.replace('\r', "");
        match line.split(MARK).nth(1) {
            Some("0:") => Ok(output),
            code => Err(format!(
                "`{command}` in the guest ended with {}: {}",
                code.unwrap_or("?").trim_end_matches(':'),
                output.trim()
            )),
        }
    }

    /// Starts the guest anew from inside and waits for its shell.
    pub(crate) fn reboot(&mut self, limit: Duration) -> Result<(), String> {
        self.console.send("reboot\n")?;
        self.log_in(limit)
    }

    /// Switches the guest off from inside and waits until the machine has ended.
    pub(crate) fn power_off(&mut self, limit: Duration) -> Result<Cost, String> {
        self.console.send("poweroff\n")?;
        self.ends(limit)
    }

    /// Leaves the console to somebody else, and waits until the machine has ended, however long that takes.
    pub(crate) fn leave(self) -> Result<(), String> {
        let Session { console, mut child } = self;
        console.close();
        while child.poll()?.is_none() {
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Waits until the machine has ended well.
    pub(crate) fn ends(&mut self, limit: Duration) -> Result<Cost, String> {
        self.console.drain(limit, &mut self.child)?;
        match self.child.wait(limit)? {
            (ExitCode::Code(0), cost) => Ok(cost),
            (code, _) => Err(format!("the machine ended with {code}")),
        }
    }
}
