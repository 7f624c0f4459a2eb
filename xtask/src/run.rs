//! Child processes: running them and reading what they say.

use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

/// How a command reads on a shell's line, for messages.
pub(crate) fn spelled(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| quoted(&word.to_string_lossy())),
    );
    words.join(" ")
}

/// Quotes a word for a POSIX shell when it needs it.
pub(crate) fn quoted(word: &str) -> String {
    let plain =
        |character: char| character.is_ascii_alphanumeric() || "-_./=:,+@%".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Runs a command with our own output and waits for it.
///
/// Errors: it could not start, or ended with anything but 0.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let status = command
        .status()
        .map_err(|error| not_started(command, &error))?;
    succeeded(command, status, "")
}

/// Runs a command, and shows its output only if it fails.
///
/// Returns its standard output. Errors: as [`run`], with both outputs in the message.
pub(crate) fn quiet(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| not_started(command, &error))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let shown = format!("\n{text}{}", String::from_utf8_lossy(&output.stderr));
    succeeded(command, output.status, shown.trim_end())?;
    Ok(text)
}

/// The message for a command that did not start.
pub(crate) fn not_started(command: &Command, error: &io::Error) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    if error.kind() == io::ErrorKind::NotFound {
        format!("`{program}` is not installed")
    } else {
        format!("`{program}`: {error}")
    }
}

fn succeeded(command: &Command, status: ExitStatus, shown: &str) -> Result<(), String> {
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{}` failed: {status}{shown}", spelled(command)))
    }
}

/// Where a program lies on the search path, if it is there.
///
/// Looks into the system administrator's directories too, which a user's path may lack.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Whether we are the system administrator, and so may install packages.
pub(crate) fn is_root() -> bool {
    // SAFETY: `geteuid` has no arguments, touches no memory and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_when_a_shell_would_change_them() {
        assert_eq!(quoted("a-b=c"), "a-b=c");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_failure_shows_command_and_output() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let message = quiet(&mut command).unwrap_err();
        assert!(message.contains("exit status: 3"), "{message}");
        assert!(message.contains("out\nerr"), "{message}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let message = run(&mut Command::new("no-such-program-here")).unwrap_err();
        assert_eq!(message, "`no-such-program-here` is not installed");
    }

    #[test]
    fn programs_are_found_on_the_path() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
    }
}
