//! The workspace on disk: its root, and the files that belong to it.

use std::fs;
use std::path::{Path, PathBuf};

/// Directories that hold nothing of ours.
const SKIPPED: &[&str] = &["target", ".git"];

/// The workspace's root directory.
///
/// `cargo` tells it at run time; a binary that is started by hand falls back to where it was built.
pub(crate) fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package
        .parent()
        .map_or_else(|| package.clone(), Path::to_path_buf)
}

/// Where cargo puts what it builds; caches of ours go there too.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(chosen) => root().join(chosen),
        None => root().join("target"),
    }
}

/// All files under `base`, relative to it, sorted; without build output and version control.
///
/// Errors: a directory that cannot be read, with its path.
pub(crate) fn files(base: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let directory = base.join(&relative);
        let entries = fs::read_dir(&directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        for entry in entries {
            let entry = entry.map_err(|error| format!("{}: {error}", directory.display()))?;
            let kind = entry.file_type().map_err(|error| error.to_string())?;
            let path = relative.join(entry.file_name());
            if kind.is_dir() {
                let name = entry.file_name();
                if !SKIPPED.iter().any(|skipped| name == *skipped) {
                    pending.push(path);
                }
            } else if kind.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The crates of the house: directory names under `crates/` that hold a manifest, sorted.
pub(crate) fn crates(base: &Path) -> Result<Vec<String>, String> {
    let directory = base.join("crates");
    let entries =
        fs::read_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_holds_this_file_and_no_build_output() {
        let files = files(&root()).unwrap();
        assert!(files.iter().any(|file| file.ends_with("xtask/src/tree.rs")));
        assert!(!files.iter().any(|file| file.starts_with("target")));
    }

    #[test]
    fn the_vocabulary_is_a_crate() {
        assert!(
            crates(&root())
                .unwrap()
                .iter()
                .any(|name| name == "vm-types")
        );
    }
}
