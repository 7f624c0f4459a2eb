//! `cargo xtask tidy`: the house rules that no compiler knows, each with the way out.
//!
//! Every rule is a function from text to findings, so that its test needs no files. [`check`] walks
//! the tree once and hands each file to the rules that concern it; an ordinary test runs it on this
//! very workspace.

mod arrows;
mod docs;
mod lexer;
mod manifest;
mod source;
mod text;
mod words;

use std::fmt;
use std::fs;
use std::path::Path;

use crate::tree;

/// One breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Path from the root of the workspace, with `/` between its parts.
    pub(crate) file: String,
    /// Line number from 1; 0 speaks of the whole file.
    pub(crate) line: usize,
    /// What is wrong.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) way_out: String,
}

impl Finding {
    fn new(
        file: &str,
        line: usize,
        what: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Finding {
        Finding {
            file: file.to_owned(),
            line,
            what: what.into(),
            way_out: way_out.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding {
            file,
            line,
            what,
            way_out,
        } = self;
        if *line == 0 {
            write!(formatter, "{file}: {what}; {way_out}")
        } else {
            write!(formatter, "{file}:{line}: {what}; {way_out}")
        }
    }
}

/// Outcome of a whole check.
#[derive(Debug)]
pub(crate) struct Report {
    /// Files that were read.
    pub(crate) files: usize,
    /// Lines of Rust among them.
    pub(crate) rust_lines: usize,
    /// Breaches, sorted by place.
    pub(crate) findings: Vec<Finding>,
}

/// Checks the tree under `root`.
///
/// Errors: a file or directory that cannot be read.
pub(crate) fn check(root: &Path) -> Result<Report, String> {
    let files = tree::files(root)?;
    let crates = tree::crates(root)?;
    let mut report = Report {
        files: 0,
        rust_lines: 0,
        findings: Vec::new(),
    };
    let findings = &mut report.findings;
    for path in &files {
        let name = path.to_string_lossy().replace('\\', "/");
        if !text::is_ours(&name) {
            continue;
        }
        let bytes = fs::read(root.join(path)).map_err(|error| format!("{name}: {error}"))?;
        let Ok(content) = String::from_utf8(bytes) else {
            findings.push(Finding::new(&name, 0, "not UTF-8", "save it as UTF-8"));
            continue;
        };
        report.files += 1;
        text::check(&name, &content, findings);
        words::check(&name, &content, findings);
        if name.ends_with(".rs") {
            report.rust_lines += content.lines().count();
            source::check(&name, &content, findings);
        }
        if name.ends_with("Cargo.toml") {
            arrows::check(&name, &content, &crates, findings);
        }
        if name.ends_with(".md") {
            docs::check_links(
                &name,
                &content,
                |target| root.join(target).exists(),
                findings,
            );
        }
    }
    docs::check_presence(root, &crates, findings);
    findings.sort();
    findings.dedup();
    Ok(report)
}

/// Runs the check on this workspace and prints what it found.
///
/// Errors: the number of findings, when there are any.
pub(crate) fn command() -> Result<(), String> {
    let report = check(&tree::root())?;
    for finding in &report.findings {
        println!("{finding}");
    }
    match report.findings.len() {
        0 => {
            println!(
                "tidy: ok ({} files, {} lines of Rust)",
                report.files, report.rust_lines
            );
            Ok(())
        }
        1 => Err("tidy: 1 finding".to_owned()),
        count => Err(format!("tidy: {count} findings")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let report = check(&tree::root()).unwrap();
        let listed: Vec<String> = report.findings.iter().map(Finding::to_string).collect();
        assert!(listed.is_empty(), "{}", listed.join("\n"));
        assert!(
            report.files > 20,
            "only {} files were looked at",
            report.files
        );
    }

    #[test]
    fn a_finding_names_place_fault_and_way_out() {
        let finding = Finding::new("a/b.rs", 3, "a tab", "use spaces");
        assert_eq!(finding.to_string(), "a/b.rs:3: a tab; use spaces");
        let whole = Finding::new("a/b.rs", 0, "missing", "write it");
        assert_eq!(whole.to_string(), "a/b.rs: missing; write it");
    }
}
