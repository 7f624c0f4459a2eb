//! Debian packages by name: installed when we may, or only fetched and unpacked, which needs no root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run;

/// Installs packages; only root may.
///
/// Errors: whatever `apt-get` says.
pub(crate) fn install(packages: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "--yes", "--quiet=2", "--no-install-recommends"])
        .args(packages);
    if run::quiet(&mut command).is_ok() {
        return Ok(());
    }
    // The lists may be old or missing; a second failure is then the real one.
    refresh_lists()?;
    run::quiet(&mut command).map(drop)
}

/// Makes sure that `program` is there, from `package`.
///
/// Returns its path. Errors: it is missing and we may not install it, with the command that would.
pub(crate) fn provide(program: &str, package: &str) -> Result<PathBuf, String> {
    if let Some(path) = run::find(program) {
        return Ok(path);
    }
    if !run::is_root() {
        return Err(format!(
            "`{program}` is missing; install it: apt-get install --no-install-recommends {package}"
        ));
    }
    println!("installing {package} for `{program}`");
    install(&[package])?;
    run::find(program)
        .ok_or_else(|| format!("`{program}` is still missing after installing {package}"))
}

/// Fetches the lists of packages; only root may.
fn refresh_lists() -> Result<(), String> {
    if !run::is_root() {
        return Err(
            "the lists of packages are old or missing; run as root: apt-get update".to_owned(),
        );
    }
    run::quiet(Command::new("apt-get").args(["update", "--quiet=2"])).map(drop)
}

/// The host's own sources of Debian packages, as lines of a `sources.list`; empty where it has none.
pub(crate) fn mirrors() -> String {
    let mut command = Command::new("apt-get");
    command.args([
        "indextargets",
        "--format",
        "$(ORIGIN)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    ]);
    run::quiet(&mut command).map_or_else(|_| String::new(), |text| parse_mirrors(&text))
}

/// Keeps Debian's own of the lines `ORIGIN|deb ...`.
fn parse_mirrors(text: &str) -> String {
    text.lines()
        .filter_map(|line| line.strip_prefix("Debian|"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// What `package` depends on directly, in its candidate version: package names.
///
/// Errors: the package is unknown even with fresh lists.
fn ask_dependencies(package: &str) -> Result<Vec<String>, String> {
    let mut command = Command::new("apt-cache");
    command.args(["depends", "--important", package]);
    let known = run::quiet(Command::new("apt-cache").args(["show", "--no-all-versions", package]));
    if known.is_err() {
        refresh_lists()?;
    }
    Ok(parse_depends(&run::quiet(&mut command)?))
}

/// Reads `  Depends: name` lines; virtual packages stand in angle brackets and are left out.
fn parse_depends(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim().trim_start_matches('|');
            line.strip_prefix("Depends: ")
                .or_else(|| line.strip_prefix("PreDepends: "))
        })
        .filter(|name| !name.starts_with('<'))
        .map(str::to_owned)
        .collect()
}

/// A directory of packages, fetched once and unpacked once.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// Opens the cache in `directory`, which is made if need be.
    pub(crate) fn open(directory: &Path) -> Result<Cache, String> {
        fs::create_dir_all(directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        Ok(Cache {
            directory: directory.to_path_buf(),
        })
    }

    /// The tree of files of `package`, fetched and unpacked if it is not yet there.
    ///
    /// Errors: the package cannot be fetched or unpacked.
    pub(crate) fn unpacked(&self, package: &str) -> Result<PathBuf, String> {
        let place = self.directory.join(package);
        if place.is_dir() {
            return Ok(place);
        }
        let archive = self.fetch(package)?;
        // Unpacked under another name first, so that an interrupted run leaves no half tree.
        let partial = self.directory.join(format!("{package}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial)
                .map_err(|error| format!("{}: {error}", partial.display()))?;
        }
        run::quiet(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(&archive)
                .arg(&partial),
        )?;
        fs::rename(&partial, &place).map_err(|error| format!("{}: {error}", place.display()))?;
        // The tree is what we want; the archive would only double the space.
        fs::remove_file(&archive).map_err(|error| format!("{}: {error}", archive.display()))?;
        Ok(place)
    }

    /// What `package` depends on directly. The answer is remembered, so that a second run needs
    /// neither lists nor network.
    pub(crate) fn dependencies(&self, package: &str) -> Result<Vec<String>, String> {
        let note = self.note(package);
        if let Ok(text) = fs::read_to_string(&note) {
            return Ok(text.lines().map(str::to_owned).collect());
        }
        let names = ask_dependencies(package)?;
        fs::write(&note, names.join("\n"))
            .map_err(|error| format!("{}: {error}", note.display()))?;
        Ok(names)
    }

    /// Forgets what `package` depends on, because it may have changed.
    pub(crate) fn forget(&self, package: &str) {
        // A note that is not there is forgotten already.
        let _gone = fs::remove_file(self.note(package));
    }

    fn note(&self, package: &str) -> PathBuf {
        self.directory.join(format!("{package}.depends"))
    }

    fn fetch(&self, package: &str) -> Result<PathBuf, String> {
        if let Some(found) = self.archive(package)? {
            return Ok(found);
        }
        let mut command = Command::new("apt-get");
        command
            .current_dir(&self.directory)
            .args(["download", "--quiet=2"]);
        if run::is_root() {
            // Root would switch to a user of its own that may not write here, and warn about it.
            command.args(["--option", "APT::Sandbox::User=root"]);
        }
        command.arg(package);
        if run::quiet(&mut command).is_err() {
            refresh_lists()?;
            run::quiet(&mut command)?;
        }
        self.archive(package)?
            .ok_or_else(|| format!("`apt-get download {package}` left no archive"))
    }

    /// The fetched archive `package_version_arch.deb`, if there is one.
    fn archive(&self, package: &str) -> Result<Option<PathBuf>, String> {
        let entries = fs::read_dir(&self.directory)
            .map_err(|error| format!("{}: {error}", self.directory.display()))?;
        let prefix = format!("{package}_");
        Ok(entries
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| {
                path.file_name().is_some_and(|name| {
                    let name = name.to_string_lossy();
                    name.starts_with(&prefix) && name.ends_with(".deb")
                })
            }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_and_virtual_ones_left_out() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-9-cloud-amd64\n\
            \x20PreDepends: a\n |Depends: b\n  Depends: <c>\n    d\n  Suggests: e\n";
        assert_eq!(
            parse_depends(text),
            ["linux-image-6.1.0-9-cloud-amd64", "a", "b"]
        );
    }

    #[test]
    fn only_debian_s_own_sources_are_taken() {
        let text = "Debian|deb http://mirror/debian stable main\nOther|deb http://x/ y z\n";
        assert_eq!(
            parse_mirrors(text),
            "deb http://mirror/debian stable main\n"
        );
    }

    #[test]
    fn a_tree_that_is_there_is_not_fetched_again() {
        let directory = std::env::temp_dir().join(format!("trivet-cache-{}", std::process::id()));
        fs::create_dir_all(directory.join("some-package")).unwrap();
        let cache = Cache::open(&directory).unwrap();
        assert_eq!(
            cache.unpacked("some-package").unwrap(),
            directory.join("some-package")
        );
        fs::remove_dir_all(&directory).unwrap();
    }
}
