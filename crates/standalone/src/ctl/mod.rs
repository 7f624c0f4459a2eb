//! `standalone ctl PATH ...`: a running machine from the command line, by its control socket.
//!
//! Reading order: [`arguments`] (what one can say) → [`http`] (the way to the socket) → [`run`] (what each command
//! asks) → `follow` (waiting, with progress) → `show` (tables). Results are on standard output, progress and
//! complaints on standard error.

pub mod arguments;

pub mod http;

mod follow;

mod show;

mod table;

use std::io::Write;
use std::time::Duration;

use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::control::api::{
    DiskStatus, MachineState, MachineStatus, ReplaceAnswer, ReplaceRequest, ReplaceResult,
    StopRequest,
};
use arguments::{Arguments, Command};
use http::{Answer, Client};

/// Why a command did not do what it was asked, and the exit code that says so.
#[derive(Debug, Error)]
pub enum CtlError {
    /// There is nothing at the path.
    #[error(
        "{path:?}: no socket there; is the machine running, and is this its [main] \"control\"?"
    )]
    Absent {
        /// The path.
        path: String,
    },
    /// Nobody listens on it any more.
    #[error(
        "{path:?}: nobody listens there any more; its machine has ended without taking it away"
    )]
    Stale {
        /// The path.
        path: String,
    },
    /// It cannot be reached in another way.
    #[error("{path:?}: {source}")]
    Unreachable {
        /// The path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection ended before the answer did.
    #[error("{path:?}: the machine has ended, or does not answer; no answer to {question}")]
    Ended {
        /// The path.
        path: String,
        /// What was asked.
        question: String,
    },
    /// An answer that is none of ours.
    #[error("{path:?}: this is no control socket of a machine: {reason}")]
    Foreign {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The machine says no.
    #[error("{message}")]
    Refused {
        /// Why, in its words.
        message: String,
    },
    /// Somebody waited for something that did not come.
    #[error("waited {} s: {what}", .within.as_secs())]
    Late {
        /// How long.
        within: Duration,
        /// For what.
        what: String,
    },
    /// What was waited for will not come.
    #[error("{0}")]
    Failed(
        /// Why.
        String,
    ),
    /// The result cannot be written.
    #[error("standard output: {0}")]
    Output(
        /// Why.
        std::io::Error,
    ),
}

impl CtlError {
    /// The process's exit code.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Refused { .. } | Self::Failed(_) | Self::Output(_) => 1,
            // 2 is the command line's.
            Self::Absent { .. }
            | Self::Stale { .. }
            | Self::Unreachable { .. }
            | Self::Ended { .. }
            | Self::Foreign { .. } => 3,
            Self::Late { .. } => 4,
        }
    }

    /// Nobody is behind the socket, or not any more.
    const fn is_gone(&self) -> bool {
        matches!(
            self,
            Self::Absent { .. } | Self::Stale { .. } | Self::Ended { .. }
        )
    }
}

/// A conversation with one machine.
pub(crate) struct Session {
    client: Client,
    json: bool,
}

impl Session {
    /// Asks; refusals of the machine are errors.
    fn ask(&self, method: &str, path: &str, body: &str) -> Result<Answer, CtlError> {
        let answer = self.client.ask(method, path, body)?;
        match answer.code {
            200..=299 => Ok(answer),
            _ => Err(CtlError::Refused {
                message: answer.message(),
            }),
        }
    }

    /// A typed question.
    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CtlError> {
        let answer = self.ask("GET", path, "")?;
        self.read(&answer)
    }

    fn read<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, CtlError> {
        serde_json::from_slice(&answer.body).map_err(|error| CtlError::Foreign {
            path: self.client.path(),
            reason: error.to_string(),
        })
    }

    pub(crate) fn machine(&self) -> Result<MachineStatus, CtlError> {
        self.get("/machine")
    }

    pub(crate) fn disks(&self) -> Result<Vec<DiskStatus>, CtlError> {
        self.get("/disks")
    }

    pub(crate) fn disk(&self, name: &str) -> Result<DiskStatus, CtlError> {
        self.get(&format!("/disks/{}", http::segment(name)))
    }

    /// An answer as it came, or its table.
    fn show(&self, answer: &Answer, table: impl FnOnce() -> Result<String, CtlError>) -> Done {
        if self.json {
            say(String::from_utf8_lossy(&answer.body).trim_end())
        } else {
            say(table()?.trim_end())
        }
    }

    /// Gives an order, and waits until the machine is where it leads.
    fn order(
        &self,
        order: &str,
        within: Duration,
        there: impl Fn(&MachineStatus, &MachineStatus) -> bool,
    ) -> Done {
        let before = self.machine()?;
        let mut answer = self.ask("POST", &format!("/machine/{order}"), "")?;
        if answer.code == 202 {
            let reached = |now: &MachineStatus| there(&before, now) || now.state.is_last();
            follow::machine(self, order, within, reached)?;
            answer = self.ask("GET", "/machine", "")?;
        }
        self.show(&answer, || {
            let status: MachineStatus = self.read(&answer)?;
            Ok(format!("{}: {}", status.name, status.state))
        })
    }

    fn stop(&self, deadline: Option<u64>, wait: bool, within: Option<u64>) -> Done {
        let request = StopRequest { deadline };
        let body = serde_json::to_string(&request).unwrap_or_default();
        let answer = self.ask("POST", "/machine/stop", &body)?;
        if !wait {
            return self.show(&answer, || {
                let status: MachineStatus = self.read(&answer)?;
                Ok(show::stopping(&status))
            });
        }
        let status: MachineStatus = self.read(&answer)?;
        follow::stop(self, within.map(Duration::from_secs))?;
        if self.json {
            let ended = MachineStatus {
                state: MachineState::Ended,
                stop: None,
                ..status
            };
            say(&serde_json::to_string(&ended).unwrap_or_default())
        } else {
            say(&format!("{}: ended", status.name))
        }
    }

    fn replace(
        &self,
        disk: &str,
        request: ReplaceRequest,
        wait: bool,
        within: Option<u64>,
    ) -> Done {
        let body = serde_json::to_string(&request).unwrap_or_default();
        let path = format!("/disks/{}/replace", http::segment(disk));
        let answer = self.ask("POST", &path, &body)?;
        let ReplaceAnswer { result } = self.read(&answer)?;
        let ReplaceRequest { old, new } = request;
        if wait {
            follow::replica(self, disk, new, within.map(Duration::from_secs))?;
            let answer = self.ask("GET", &format!("/disks/{}", http::segment(disk)), "")?;
            return self.show(&answer, || {
                Ok(format!("{disk}: {new} has all data and is in use"))
            });
        }
        self.show(&answer, || {
            Ok(match result {
                ReplaceResult::Started => format!(
                    "{disk}: {new} takes the place of {old}; `disks --watch` shows how far it is"
                ),
                ReplaceResult::StartedAlready => {
                    format!("{disk}: {new} is taking that place already")
                }
                ReplaceResult::CompletedAlready => {
                    format!("{disk}: {new} has taken that place already")
                }
                ReplaceResult::NoChange => format!("{disk}: nothing to change"),
            })
        })
    }
}

/// Every table that one disk is shown in; for tests and fuzzers, who only want it not to panic.
pub(crate) fn tables(status: &DiskStatus) -> String {
    let disks = std::slice::from_ref(status);
    [
        show::disks(disks),
        show::disk(status),
        show::replica_words(disks),
    ]
    .concat()
}

/// Whether a command did what it was asked.
pub(crate) type Done = Result<(), CtlError>;

/// One piece of the result, and a line's end.
fn say(text: &str) -> Done {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // `| head` has seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CtlError::Output(error))
        }
        _ => Ok(()),
    }
}

/// Does what the command line says.
pub fn run(arguments: &Arguments) -> Result<(), CtlError> {
    let session = Session {
        client: Client::new(&arguments.path),
        json: arguments.json,
    };
    let within = |timeout: &Option<u64>| Duration::from_secs(timeout.unwrap_or(60));
    match &arguments.command {
        Command::Status => {
            let answer = session.ask("GET", "/machine", "")?;
            session.show(&answer, || Ok(show::machine(&session.read(&answer)?)))
        }
        Command::Pause { timeout } => session.order("pause", within(timeout), |_, now| {
            now.state == MachineState::Paused
        }),
        Command::Resume { timeout } => session.order("resume", within(timeout), |_, now| {
            now.state == MachineState::Running
        }),
        Command::Reset { timeout } => session.order("reset", within(timeout), |before, now| {
            now.boots > before.boots
        }),
        Command::Power => session.order("power", Duration::ZERO, |_, _| true),
        Command::Stop {
            deadline,
            wait,
            timeout,
        } => session.stop(*deadline, *wait, *timeout),
        Command::Disks {
            name,
            watch: true,
            timeout,
        } => follow::repairs(&session, name.as_deref(), timeout.map(Duration::from_secs)),
        Command::Disks { name: None, .. } => {
            let answer = session.ask("GET", "/disks", "")?;
            session.show(&answer, || {
                Ok(show::disks(&session.read::<Vec<_>>(&answer)?))
            })
        }
        Command::Disks {
            name: Some(name), ..
        } => {
            let answer = session.ask("GET", &format!("/disks/{}", http::segment(name)), "")?;
            session.show(&answer, || Ok(show::disk(&session.read(&answer)?)))
        }
        Command::Replace {
            disk,
            old,
            new,
            wait,
            timeout,
        } => {
            let request = ReplaceRequest {
                old: *old,
                new: *new,
            };
            session.replace(disk, request, *wait, *timeout)
        }
        Command::Watch { interval, count } => {
            follow::watch(&session, Duration::from_secs_f64(*interval), *count)
        }
        Command::Metrics => plain(&session, "/metrics"),
        Command::Openapi => plain(&session, "/openapi.json"),
    }
}

fn plain(session: &Session, path: &str) -> Done {
    let answer = session.ask("GET", path, "")?;
    say(String::from_utf8_lossy(&answer.body).trim_end())
}
