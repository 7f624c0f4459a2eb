//! A child process with a watchdog and a bill: what it cost is known when it ends.

use std::fmt;
use std::io;
use std::process::{Child, ChildStdout, Command};
use std::time::{Duration, Instant};

use crate::run::not_started;

/// What a child process used, from start to end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Time on the clock.
    pub(crate) wall: Duration,
    /// Time on processors, in user mode and in the kernel, of all its threads.
    pub(crate) cpu: Duration,
    /// The most memory it held at once, in bytes.
    pub(crate) resident_bytes: u64,
}

impl fmt::Display for Cost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:.2} s of CPU, {:.2} s on the clock, {} MiB",
            self.cpu.as_secs_f64(),
            self.wall.as_secs_f64(),
            self.resident_bytes >> 20
        )
    }
}

/// A child process whose cost is known when it ends, and which does not outlive its owner.
#[derive(Debug)]
pub(crate) struct Measured {
    child: Child,
    started: Instant,
    ended: Option<(ExitCode, Cost)>,
}

/// How a process ended: its code, or the signal that killed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// It returned this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl fmt::Display for ExitCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitCode::Code(code) => write!(formatter, "exit code {code}"),
            ExitCode::Signal(signal) => write!(formatter, "killed by signal {signal}"),
        }
    }
}

impl Measured {
    /// Starts `command`.
    pub(crate) fn start(command: &mut Command) -> Result<Measured, String> {
        let child = command
            .spawn()
            .map_err(|error| not_started(command, &error))?;
        Ok(Measured {
            child,
            started: Instant::now(),
            ended: None,
        })
    }

    /// How it ended and what it cost, or `None` while it runs.
    pub(crate) fn poll(&mut self) -> Result<Option<(ExitCode, Cost)>, String> {
        self.collect(libc::WNOHANG)
    }

    /// Waits for its end, at most `limit`; after that it is killed and an error returned.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<(ExitCode, Cost), String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(ended) = self.poll()? {
                return Ok(ended);
            }
            if Instant::now() >= deadline {
                self.kill();
                return Err(format!("still running after {} s", limit.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Like [`Measured::wait`], for a child that leads a process group: the whole group is ended.
    pub(crate) fn wait_or_end_group(
        &mut self,
        limit: Duration,
    ) -> Result<(ExitCode, Cost), String> {
        let deadline = Instant::now() + limit;
        while self.poll()?.is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(ended) = self.poll()? {
            return Ok(ended);
        }
        if let Ok(group) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: the child leads the group and has not been waited for, so the number still
            // names its group; a signal to other processes touches no memory of ours.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        self.collect(0)?;
        Err(format!("still running after {} s", limit.as_secs()))
    }

    /// Its output, if it was piped and nobody has taken it yet.
    pub(crate) fn output(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// The process number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once and waits for that; nothing happens when it has ended already.
    pub(crate) fn kill(&mut self) {
        if matches!(self.poll(), Ok(None)) {
            // An error means that it is gone, which is what we want.
            let _gone = self.child.kill();
            let _cost = self.collect(0);
        }
    }

    fn collect(&mut self, flags: libc::c_int) -> Result<Option<(ExitCode, Cost)>, String> {
        if self.ended.is_some() {
            return Ok(self.ended);
        }
        let id = libc::pid_t::try_from(self.child.id()).map_err(|error| error.to_string())?;
        let mut status: libc::c_int = 0;
        // SAFETY: `rusage` consists of integers only, for which zero is a value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers come from references to live locals of the right type.
        let waited = unsafe { libc::wait4(id, &raw mut status, flags, &raw mut usage) };
        if waited == 0 {
            return Ok(None);
        }
        if waited < 0 {
            return Err(format!("wait for {id}: {}", io::Error::last_os_error()));
        }
        let code = if libc::WIFEXITED(status) {
            ExitCode::Code(libc::WEXITSTATUS(status))
        } else {
            ExitCode::Signal(libc::WTERMSIG(status))
        };
        let cost = Cost {
            wall: self.started.elapsed(),
            cpu: span(usage.ru_utime) + span(usage.ru_stime),
            // The kernel counts in KiB.
            resident_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10,
        };
        self.ended = Some((code, cost));
        Ok(self.ended)
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.kill();
    }
}

fn span(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_measured() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 7",
        ]);
        let mut child = Measured::start(&mut command).unwrap();
        let (code, cost) = child.wait(Duration::from_secs(20)).unwrap();
        assert_eq!(code, ExitCode::Code(7));
        assert!(cost.resident_bytes > 100_000);
        assert!(cost.wall >= cost.cpu / 2);
    }

    #[test]
    fn a_child_that_hangs_is_killed() {
        let mut child = Measured::start(Command::new("sleep").arg("30")).unwrap();
        assert!(child.wait(Duration::from_millis(20)).is_err());
        let (code, _cost) = child.poll().unwrap().unwrap();
        assert_eq!(code, ExitCode::Signal(libc::SIGKILL));
    }
}
