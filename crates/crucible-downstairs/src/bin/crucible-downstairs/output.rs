//! What the program says: results on standard output, progress and complaints on standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use crucible_downstairs::disk::FileDisk;
use crucible_downstairs::store::{Mode, Options, Region, StoreError};
use indicatif::{ProgressBar, ProgressStyle};
use tracing_subscriber::EnvFilter;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be said.
    Message(String),
    /// It has been said: in the result itself.
    Quiet,
}

impl Failure {
    /// For `map_err`: says what it was about.
    pub(crate) fn about<E: Display>(what: impl Display) -> impl FnOnce(E) -> Self {
        move |error| Self::Message(format!("{what}: {error}"))
    }

    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::Message(message.into())
    }
}

/// Whether a command did what it was asked.
pub(crate) type Done = Result<(), Failure>;

/// One line of the result.
pub(crate) fn say(line: impl Display) -> Done {
    match writeln!(io::stdout().lock(), "{line}") {
        Ok(()) => Ok(()),
        // `| head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Quiet),
        Err(error) => Err(Failure::new(format!("standard output: {error}"))),
    }
}

/// One line on standard error.
pub(crate) fn complain(message: &str) {
    // Nobody is left to be told if this fails.
    let _ = writeln!(io::stderr().lock(), "crucible-downstairs: {message}");
}

/// Sends the log to standard error. `RUST_LOG` says how much of it.
pub(crate) fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A second start is no start; the first one's log goes on.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}

/// Progress on standard error, if that is a terminal.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// `unit`: "extents", "bytes".
    pub(crate) fn new(what: &'static str, unit: &'static str) -> Self {
        let bar = ProgressBar::new(0);
        let template = if unit == "bytes" {
            "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}"
        } else {
            "{prefix} {wide_bar} {pos}/{len} {msg} {eta}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        bar.set_message(unit);
        Self(bar)
    }

    pub(crate) fn set(&self, done: u64, all: u64) {
        self.0.set_length(all);
        self.0.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Opens a region, or says which one could not be. Who only wants to look at one that a crash has left unfinished gets
/// it finished first, as a start of its server would; unless it is being served just now.
pub(crate) fn open(directory: &Path, mode: Mode) -> Result<Region, Failure> {
    let about = || Failure::about(directory.display());
    let open = |mode| Region::open(Arc::new(FileDisk::new(directory)), mode, Options::default());
    let unfinished = match open(mode) {
        Err(StoreError::Unfinished(reason)) => reason,
        opened => return opened.map_err(about()),
    };
    match open(Mode::ReadWrite) {
        Ok(region) => region
            .settle()
            .map_err(Failure::about(directory.display()))?,
        Err(StoreError::InUse) => {
            return Err(Failure::new(format!(
                "{}: it is being served by another process, and {unfinished}: stop that process first",
                directory.display()
            )));
        }
        Err(error) => return Err(about()(error)),
    }
    complain(&format!(
        "{}: the region was not closed in good order ({unfinished}); that is finished now",
        directory.display()
    ));
    open(mode).map_err(about())
}
