//! What is wrong with a configuration file, said so that the line to change can be found at once.
//!
//! Form: `vm.toml:14: [block_dev.root] "worker": unknown key; the nearest known one is "workers"`.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file as the user named it.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
}

/// One mistake in a configuration file. Everybody to blame is the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it stands.
    pub place: Place,
    /// The table, without brackets; `None` for the file as a whole.
    pub table: Option<String>,
    /// The key, if it is about one.
    pub key: Option<String>,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.place.file, self.place.line)?;
        if let Some(table) = &self.table {
            write!(f, "[{table}]")?;
            if let Some(key) = &self.key {
                write!(f, " \"{key}\"")?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{}", self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// What can be wrong. Texts state what was expected and found, then the way out where there is one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// The file does not parse.
    #[error("not valid TOML: {0}")]
    Syntax(String),
    /// A table that does not exist.
    #[error("unknown table{}", hint_table(.nearest))]
    UnknownTable {
        /// The table that was probably meant.
        nearest: Option<String>,
    },
    /// A table is not there.
    #[error("the table is missing; it needs at least {needs}")]
    MissingTable {
        /// Its required keys.
        needs: String,
    },
    /// A plain value where a table belongs, or the other way round.
    #[error("expected a table, found {found}")]
    NotTable {
        /// What stands there.
        found: String,
    },
    /// A key that does not exist in this table.
    #[error("unknown key{}{}", hint_key(.nearest), hint_owners(.belongs_to))]
    UnknownKey {
        /// The key that was probably meant.
        nearest: Option<String>,
        /// Variants that do have the key.
        belongs_to: Vec<String>,
    },
    /// A required key is not there.
    #[error("missing: {doc}")]
    MissingKey {
        /// Its meaning.
        doc: String,
    },
    /// A value of the wrong type.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A number outside its range.
    #[error("expected {min}..={max}, found {found}")]
    OutOfRange {
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
        /// As written.
        found: String,
    },
    /// A string that is none of the allowed ones.
    #[error("expected one of {allowed}, found {found:?}{}", hint_key(.nearest))]
    UnknownChoice {
        /// The allowed ones, quoted.
        allowed: String,
        /// As written.
        found: String,
        /// The one that was probably meant.
        nearest: Option<String>,
    },
    /// Known, but this build cannot do it.
    #[error("{what:?} is not in this build yet; it has {built}")]
    NotYet {
        /// What was asked for.
        what: String,
        /// What can be used instead.
        built: String,
    },
    /// A name that refers to no table.
    #[error("there is no [{family}.{name}]{}", hint_key(.nearest))]
    NoSuchTable {
        /// Family of the table.
        family: &'static str,
        /// Name as written.
        name: String,
        /// The one that was probably meant.
        nearest: Option<String>,
    },
    /// A file that cannot be used.
    #[error("cannot {action} {path:?}: {reason}")]
    File {
        /// `read`, `open for writing`, ...
        action: &'static str,
        /// As written.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// A file whose content cannot be what it is given as.
    #[error("{path:?} is no {what}: {reason}")]
    Content {
        /// As written.
        path: String,
        /// What it should be.
        what: &'static str,
        /// Why it is not.
        reason: String,
    },
    /// Any other contradiction, in words.
    #[error("{0}")]
    Invalid(String),
}

fn hint_key(nearest: &Option<String>) -> String {
    match nearest {
        Some(nearest) => format!("; the nearest known one is \"{nearest}\""),
        None => String::new(),
    }
}

fn hint_table(nearest: &Option<String>) -> String {
    match nearest {
        Some(nearest) => format!("; the nearest known one is [{nearest}]"),
        None => String::new(),
    }
}

fn hint_owners(owners: &[String]) -> String {
    if owners.is_empty() {
        return String::new();
    }
    format!("; it belongs to {}", owners.join(", "))
}
