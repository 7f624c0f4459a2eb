//! From a TOML file to a machine: parse, check against the schema, lower to typed configuration.
//!
//! Start at [`load`]. Reading order: `schema` (every key as a row), `document` (values with their lines),
//! `read` (each key against its row), `lower` (references, files and contradictions; the typed result), `volume`
//! (the same for volumes), `print` (what was understood), `error` (the form of a complaint). Nothing here starts anything.

pub mod schema;

pub mod document;

pub mod read;

pub mod volume;

mod lower;

mod files;

mod cpuid;

mod print;

mod error;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmm::machine::config::MachineConfig;

use crate::stop::Deadlines;

pub use error::{ConfigError, Place, Problem};
pub use print::{print_json, print_toml, schema_text};

/// A configuration file, understood.
#[derive(Clone, Debug)]
pub struct Config {
    /// The machine to build.
    pub machine: MachineConfig,
    /// The volumes to open for it, by the names of their disks.
    pub volumes: BTreeMap<String, volume::VolumeConfig>,
    /// The serial console's socket.
    pub serial: PathBuf,
    /// The control socket, if there is to be one.
    pub control: Option<PathBuf>,
    /// How long a stop waits for the guest and for storage.
    pub deadlines: Deadlines,
    /// What is odd but no mistake: keys without effect, disks that nothing uses.
    pub warnings: Vec<String>,
    /// Every table and key as understood, in the order of the schema; for printing.
    pub tables: Vec<read::Table>,
    /// The leaves of `[cpuid.NAME]` tables as understood; for printing.
    pub cpuid: Vec<cpuid::Table>,
}

/// Reads and checks `path`.
///
/// Errors: all mistakes that were found, in the order of their lines.
pub fn load(path: &Path) -> Result<Config, Vec<ConfigError>> {
    let file: Arc<str> = path.to_string_lossy().into();
    match std::fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => parse(file, &text),
            Err(_) => Err(vec![whole_file(
                file,
                Problem::Syntax("it is not UTF-8".to_owned()),
            )]),
        },
        Err(error) => {
            let problem = Problem::File {
                action: "read",
                path: file.to_string(),
                reason: files::reason(&error),
            };
            Err(vec![whole_file(file, problem)])
        }
    }
}

/// Checks `text`, the content of `file`.
///
/// Errors: as [`load`].
pub fn parse(file: Arc<str>, text: &str) -> Result<Config, Vec<ConfigError>> {
    let document = document::parse(&file, text)?;
    lower::lower(file, &document)
}

fn whole_file(file: Arc<str>, problem: Problem) -> ConfigError {
    ConfigError {
        place: Place { file, line: 1 },
        table: None,
        key: None,
        problem,
    }
}
