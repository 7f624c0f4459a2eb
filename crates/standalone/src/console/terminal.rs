//! `standalone console PATH`: this terminal as the machine's console, in raw mode.
//!
//! `Ctrl-]` is the escape key: then `q` leaves, `Ctrl-]` sends itself, `?` shows the keys. The terminal's
//! mode is changed by `stty`, which every system has: the same program that a person would use to repair
//! it, and no system call of ours has to be trusted with it.

use std::io::{IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The escape key, Ctrl-].
const ESCAPE: u8 = 0x1d;

const KEYS: &[u8] = b"\r\n[Ctrl-] q: leave, Ctrl-] Ctrl-]: send Ctrl-], Ctrl-] ?: this text]\r\n";

/// What a typed byte means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Send it.
    Send(u8),
    /// Wait for the next one.
    Escape,
    /// Leave.
    Leave,
    /// Show the keys.
    Help,
}

/// Finds escape sequences in what is typed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Escapes {
    escaped: bool,
}

impl Escapes {
    /// Takes the next byte.
    pub fn take(&mut self, byte: u8) -> Key {
        let escaped = std::mem::take(&mut self.escaped);
        match (escaped, byte) {
            (false, ESCAPE) => {
                self.escaped = true;
                Key::Escape
            }
            (true, b'q' | b'Q' | b'.') => Key::Leave,
            (true, b'?') => Key::Help,
            (_, byte) => Key::Send(byte),
        }
    }
}

/// Connects this terminal to the console at `path` until the machine ends or the user leaves.
///
/// Errors: a text that says what to do.
pub fn run(path: &Path) -> Result<(), String> {
    let stream = UnixStream::connect(path).map_err(|error| {
        format!("{path:?}: {error}; is the machine running, and is this its [main] \"serial\"?")
    })?;
    let clone = || stream.try_clone().map_err(|error| error.to_string());
    let (typing, ending) = (clone()?, clone()?);
    let raw = RawMode::enter();
    if raw.is_some() {
        show(KEYS);
    }
    // In raw mode Ctrl-C is a byte like others; these come from outside.
    if let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) {
        std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                ending.shutdown(std::net::Shutdown::Both).ok();
            }
        });
    }
    // The thread ends with the process: nothing else interrupts a read of the terminal.
    std::thread::spawn(move || type_into(typing));
    let ended = copy_out(stream);
    drop(raw);
    ended
}

/// Sends what is typed.
fn type_into(mut stream: UnixStream) {
    let mut escapes = Escapes::default();
    let mut buffer = [0; 256];
    let interactive = std::io::stdin().is_terminal();
    loop {
        let count = match std::io::stdin().read(&mut buffer) {
            Ok(count) if count > 0 => count,
            // The end of piped input is no end of the output.
            _ => {
                let half = match interactive {
                    true => std::net::Shutdown::Both,
                    false => std::net::Shutdown::Write,
                };
                stream.shutdown(half).ok();
                return;
            }
        };
        let mut bytes = Vec::with_capacity(count);
        for byte in &buffer[..count] {
            let key = match interactive {
                true => escapes.take(*byte),
                false => Key::Send(*byte),
            };
            match key {
                Key::Send(byte) => bytes.push(byte),
                Key::Escape => {}
                Key::Help => show(KEYS),
                Key::Leave => {
                    stream.shutdown(std::net::Shutdown::Both).ok();
                    return;
                }
            }
        }
        if stream.write_all(&bytes).is_err() {
            return;
        }
    }
}

fn copy_out(mut stream: UnixStream) -> Result<(), String> {
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                let mut out = std::io::stdout();
                let written = out.write_all(&buffer[..count]).and_then(|()| out.flush());
                written.map_err(|error| format!("cannot write: {error}"))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("the console was lost: {error}")),
        }
    }
}

fn show(text: &[u8]) {
    let mut out = std::io::stdout();
    // Without a working output there is nobody to read this.
    out.write_all(text).and_then(|()| out.flush()).ok();
}

/// The terminal in raw mode; as it was before when dropped.
struct RawMode {
    saved: String,
}

impl RawMode {
    /// `None` if there is no terminal, or it cannot be changed.
    fn enter() -> Option<Self> {
        if !std::io::stdin().is_terminal() {
            return None;
        }
        let output = Command::new("stty")
            .arg("-g")
            .stdin(Stdio::inherit())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let saved = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        if !output.status.success() || saved.is_empty() {
            return None;
        }
        let raw = Self { saved };
        raw.stty(&["raw", "-echo"]).then_some(raw)
    }

    fn stty(&self, arguments: &[&str]) -> bool {
        let status = Command::new("stty")
            .args(arguments)
            .stdin(Stdio::inherit())
            .status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.stty(&[&self.saved]);
        show(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(typed: &[u8], expected: &[Key]) {
        let mut escapes = Escapes::default();
        let keys: Vec<Key> = typed.iter().map(|byte| escapes.take(*byte)).collect();
        assert_eq!(keys, expected, "{typed:?}");
    }

    #[test]
    fn the_escape_key_and_what_follows() {
        check(b"a", &[Key::Send(b'a')]);
        check(&[ESCAPE, b'q'], &[Key::Escape, Key::Leave]);
        check(
            &[ESCAPE, ESCAPE, b'q'],
            &[Key::Escape, Key::Send(ESCAPE), Key::Send(b'q')],
        );
        check(
            &[ESCAPE, b'?', b'q'],
            &[Key::Escape, Key::Help, Key::Send(b'q')],
        );
        check(&[ESCAPE, b'x'], &[Key::Escape, Key::Send(b'x')]);
        check(b"q.\x03", &[Key::Send(b'q'), Key::Send(b'.'), Key::Send(3)]);
    }
}
