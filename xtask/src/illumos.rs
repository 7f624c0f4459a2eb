//! `cargo xtask illumos`: type-checks the workspace for the system it is meant for.
//!
//! No illumos machine is needed: Debian's web compiler comes with the sources of `std`, which cargo
//! checks for the target first. Linking is not possible this way, type errors and a wrong `cfg` show.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use clap::Args;

use crate::{run, tree};

const TARGET: &str = "x86_64-unknown-illumos";

/// Debian's packages: compiler, cargo, and the sources of `std`.
const PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

const COMPILER: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
const SOURCES: &str = "/usr/lib/rustlib/src/rust/library/std/Cargo.toml";

/// Let chains need this one; Debian's ordinary `rustc` can be older.
const MINOR_VERSION_MIN: u32 = 88;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Check only these crates.
    #[arg(short, long = "package", value_name = "CRATE")]
    packages: Vec<String>,
}

/// Installs what is missing, if it may, and runs the check.
///
/// Errors: a missing compiler that we may not install, or the check's own failure.
pub(crate) fn command(options: &Options) -> Result<(), String> {
    provide_compiler()?;
    let root = tree::root();
    let packages = if options.packages.is_empty() {
        tree::crates(&root)?
    } else {
        options.packages.clone()
    };
    let mut check = Command::new(CARGO);
    check
        .current_dir(&root)
        .env("RUSTC", COMPILER)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", tree::target().join("illumos"))
        .env("PATH", system_first())
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTFLAGS")
        // What builds C is a default feature; there is no C compiler for the target here.
        .args([
            "check",
            "-Zbuild-std=std,panic_abort",
            "--no-default-features",
        ])
        .args(["--target", TARGET]);
    for package in &packages {
        check.args(["--package", package]);
    }
    run::run(&mut check)?;
    println!(
        "illumos: ok, {} crates type-check for {TARGET}",
        packages.len()
    );
    Ok(())
}

/// The search path with the system's own tools before those of the user.
fn system_first() -> OsString {
    let mut path = OsString::from("/usr/bin:");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    path
}

fn provide_compiler() -> Result<(), String> {
    if compiler_is_there() {
        return Ok(());
    }
    let install = format!(
        "apt-get install --no-install-recommends {}",
        PACKAGES.join(" ")
    );
    if !run::is_root() {
        return Err(format!(
            "Debian's web compiler is missing; install it: {install}"
        ));
    }
    println!("illumos: {install}");
    crate::debian::install(PACKAGES)?;
    if compiler_is_there() {
        Ok(())
    } else {
        Err(format!(
            "{COMPILER} is still too old or {SOURCES} missing after: {install}"
        ))
    }
}

fn compiler_is_there() -> bool {
    let version = run::quiet(Command::new(COMPILER).arg("--version")).unwrap_or_default();
    minor_version(&version).is_some_and(|minor| minor >= MINOR_VERSION_MIN)
        && Path::new(CARGO).is_file()
        && Path::new(SOURCES).is_file()
}

/// 96 of `rustc 1.96.0 (...)`.
fn minor_version(text: &str) -> Option<u32> {
    text.split_whitespace()
        .nth(1)?
        .split('.')
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_says_how_old_it_is() {
        assert_eq!(
            minor_version("rustc 1.96.0 (ac68faa20 2026-05-25)"),
            Some(96)
        );
        assert_eq!(minor_version("rustc 1.63.0"), Some(63));
        assert_eq!(minor_version(""), None);
    }

    #[test]
    fn the_system_comes_first() {
        assert!(system_first().to_string_lossy().starts_with("/usr/bin:"));
    }
}
