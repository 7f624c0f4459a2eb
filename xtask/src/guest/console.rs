//! The guest's serial line, read against a clock: what is waited for, and for how long at most.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::measured::Measured;

/// Lines that end every wait at once.
const DISASTERS: &[&str] = &["Kernel panic - not syncing", "guest: failed: "];

/// How long the socket may take to appear: the program reads files and maps memory before.
const SOCKET_LIMIT: Duration = Duration::from_secs(60);

/// How much of the past a search looks at again, so that a text that comes in two pieces is found.
const OVERLAP_BYTES: usize = 4096;

/// How often to look for the rest of a line that has begun, a fiftieth of a second each.
const REST_OF_LINE_TRIES: u32 = 10;

/// A connected console.
#[derive(Debug)]
pub(crate) struct Console {
    stream: UnixStream,
    chunks: Receiver<Vec<u8>>,
    /// Everything received.
    transcript: String,
    /// Start of what has not been searched yet.
    searched: usize,
    /// Start of what has not been shown yet.
    shown: usize,
    show: Show,
}

/// Whether the guest's lines go to our own output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// Each line, indented.
    Lines,
    /// None.
    Nothing,
}

impl Console {
    /// Connects to the socket at `path`, as soon as `machine` has made it.
    ///
    /// Errors: the machine ends before that, or takes too long.
    pub(crate) fn connect(
        path: &Path,
        machine: &mut Measured,
        show: Show,
    ) -> Result<Console, String> {
        let deadline = Instant::now() + SOCKET_LIMIT;
        let stream = loop {
            match connect_near(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => {
                    return Err(format!("{}: {error}", path.display()));
                }
                Err(_not_yet) => {}
            }
            if let Some((code, _)) = machine.poll()? {
                return Err(format!(
                    "the machine ended before its console was there: {code}"
                ));
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Console::over(stream, show)
    }

    fn over(stream: UnixStream, show: Show) -> Result<Console, String> {
        let mut source = stream.try_clone().map_err(|error| error.to_string())?;
        let (sender, chunks) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0_u8; 4096];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Console {
            stream,
            chunks,
            transcript: String::new(),
            searched: 0,
            shown: 0,
            show,
        })
    }

    /// Types `text` into the guest.
    pub(crate) fn send(&mut self, text: &str) -> Result<(), String> {
        self.stream
            .write_all(text.as_bytes())
            .map_err(|error| format!("the console takes no input: {error}"))
    }

    /// Waits until the guest has printed `text`, for at most `limit`.
    ///
    /// Returns the line that holds it, up to what has arrived. Errors: a disaster in the guest, the
    /// end of the machine, or the limit.
    pub(crate) fn wait_for(
        &mut self,
        text: &str,
        limit: Duration,
        machine: &mut Measured,
    ) -> Result<String, String> {
        let deadline = Instant::now() + limit;
        let mut ended = None;
        loop {
            if let Some(found) = self.search(text) {
                return self.whole_line(found);
            }
            if let Some(code) = ended {
                return Err(format!(
                    "the machine ended ({code}) before it printed \"{text}\""
                ));
            }
            if Instant::now() >= deadline {
                let seconds = limit.as_secs();
                return Err(format!("no \"{text}\" on the console within {seconds} s"));
            }
            // What the machine printed last is still to be read when it has ended.
            if self.receive(Duration::from_millis(50)) == Received::Closed {
                std::thread::sleep(Duration::from_millis(10));
                ended = machine.poll()?.map(|(code, _)| code);
            }
        }
    }

    /// Reads until the machine has ended and all its output has arrived.
    ///
    /// Errors: it does not end within `limit`, and is killed.
    pub(crate) fn drain(&mut self, limit: Duration, machine: &mut Measured) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        while self.receive(Duration::from_millis(20)) == Received::Something
            || machine.poll()?.is_none()
        {
            if Instant::now() >= deadline {
                machine.kill();
                return Err(format!(
                    "the machine still runs after {} s",
                    limit.as_secs()
                ));
            }
        }
        self.show_lines();
        Ok(())
    }

    /// Takes in what comes within `limit`; says whether something came.
    pub(crate) fn listen(&mut self, limit: Duration) -> bool {
        match self.receive(limit) {
            Received::Something => true,
            Received::Nothing => false,
            Received::Closed => {
                // Nothing will come any more; whoever asks in a loop should not spin.
                std::thread::sleep(limit);
                false
            }
        }
    }

    /// Hangs up.
    pub(crate) fn close(self) {
        // A machine that has hung up before is no worse.
        let _closed = self.stream.shutdown(Shutdown::Both);
    }

    /// Everything that the guest has printed so far.
    pub(crate) fn transcript(&self) -> &str {
        &self.transcript
    }

    fn receive(&mut self, limit: Duration) -> Received {
        match self.chunks.recv_timeout(limit) {
            Ok(chunk) => {
                self.transcript.push_str(&String::from_utf8_lossy(&chunk));
                self.show_lines();
                Received::Something
            }
            Err(RecvTimeoutError::Timeout) => Received::Nothing,
            Err(RecvTimeoutError::Disconnected) => Received::Closed,
        }
    }

    /// Looks for `text` or a disaster in what is new.
    fn search(&mut self, text: &str) -> Option<Found> {
        let fresh = self.transcript.get(self.searched..).unwrap_or_default();
        let disaster = DISASTERS.iter().find_map(|disaster| fresh.find(disaster));
        if let Some(at) = disaster {
            return Some(Found {
                at: self.searched + at,
                good: false,
            });
        }
        if let Some(at) = fresh.find(text) {
            let at = self.searched + at;
            self.searched = at + text.len();
            return Some(Found { at, good: true });
        }
        let mut next = self
            .transcript
            .len()
            .saturating_sub(OVERLAP_BYTES)
            .max(self.searched);
        while !self.transcript.is_char_boundary(next) {
            next += 1;
        }
        self.searched = next;
        None
    }

    /// The line of a find, after a moment for its end to arrive: a prompt has none.
    fn whole_line(&mut self, found: Found) -> Result<String, String> {
        for _ in 0..REST_OF_LINE_TRIES {
            if self.transcript[found.at..].contains('\n') {
                break;
            }
            if self.receive(Duration::from_millis(20)) == Received::Closed {
                break;
            }
        }
        let line = line_around(&self.transcript, found.at);
        if found.good {
            Ok(line)
        } else {
            Err(format!("the guest says: {line}"))
        }
    }

    fn show_lines(&mut self) {
        while let Some(length) = self
            .transcript
            .get(self.shown..)
            .and_then(|rest| rest.find('\n'))
        {
            let end = self.shown + length + 1;
            if self.show == Show::Lines {
                println!(
                    "    | {}",
                    printable(self.transcript[self.shown..end].trim_end())
                );
            }
            self.shown = end;
        }
    }
}

/// Where a wait ended, and whether well.
#[derive(Clone, Copy)]
struct Found {
    at: usize,
    good: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Received {
    Something,
    Nothing,
    Closed,
}

/// Connects even where the path is longer than a socket's name may be: through the directory's
/// descriptor, which has a short name.
fn connect_near(path: &Path) -> io::Result<UnixStream> {
    const NAME_MAX: usize = 100;
    if path.as_os_str().len() <= NAME_MAX || !cfg!(target_os = "linux") {
        return UnixStream::connect(path);
    }
    use std::os::fd::AsRawFd;
    let directory = std::fs::File::open(path.parent().unwrap_or_else(|| Path::new("/")))?;
    let name = path.file_name().unwrap_or_default();
    let short = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    UnixStream::connect(short)
}

/// The line of `text` that holds position `at`, without control characters.
fn line_around(text: &str, at: usize) -> String {
    let start = text[..at].rfind('\n').map_or(0, |before| before + 1);
    let end = text[at..]
        .find('\n')
        .map_or(text.len(), |length| at + length);
    printable(text[start..end].trim())
}

/// `text` without control characters and without the sequences that move a terminal's cursor.
fn printable(text: &str) -> String {
    let mut characters = text.chars().peekable();
    let mut kept = String::new();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' && characters.next_if_eq(&'[').is_some() {
            // Parameters, then one letter that ends the sequence.
            while characters
                .next_if(|next| !next.is_ascii_alphabetic())
                .is_some()
            {}
            characters.next();
        } else if !character.is_control() {
            kept.push(character);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn talk(script: &str) -> (Console, Measured) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new("sh");
        let input = std::os::fd::OwnedFd::from(theirs.try_clone().unwrap());
        let output = std::os::fd::OwnedFd::from(theirs);
        command.args(["-c", script]).stdin(input).stdout(output);
        let machine = Measured::start(&mut command).unwrap();
        drop(command);
        (Console::over(ours, Show::Nothing).unwrap(), machine)
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn lines_are_found_in_order() {
        let (mut console, mut machine) = talk("echo one; printf 'tw'; sleep 0.1; echo 'o 2'");
        assert_eq!(console.wait_for("one", SOON, &mut machine).unwrap(), "one");
        console.wait_for("two", SOON, &mut machine).unwrap();
        console.drain(SOON, &mut machine).unwrap();
        assert_eq!(console.transcript(), "one\ntwo 2\n");
    }

    #[test]
    fn the_other_side_hears_us() {
        let (mut console, mut machine) = talk("read word; echo heard $word");
        console.send("hello\n").unwrap();
        assert_eq!(
            console.wait_for("heard", SOON, &mut machine).unwrap(),
            "heard hello"
        );
    }

    #[test]
    fn a_guest_that_fails_ends_the_wait() {
        let (mut console, mut machine) = talk("echo 'guest: failed: disk: mount'; sleep 20");
        let message = console
            .wait_for("verified", SOON, &mut machine)
            .unwrap_err();
        assert_eq!(message, "the guest says: guest: failed: disk: mount");
    }

    #[test]
    fn a_machine_that_ends_early_is_no_success() {
        let (mut console, mut machine) = talk("echo a; exit 3");
        let message = console.wait_for("b", SOON, &mut machine).unwrap_err();
        assert!(message.contains("exit code 3"), "{message}");
    }

    #[test]
    fn the_whole_line_is_returned() {
        let (mut console, mut machine) = talk("printf 'sum: 42'; sleep 0.1; echo ', and more'");
        let line = console.wait_for("sum", SOON, &mut machine).unwrap();
        assert_eq!(line, "sum: 42, and more");
    }

    #[test]
    fn cursor_movements_are_not_shown() {
        assert_eq!(printable("a\u{1b}[6nb\u{1b}[1;31mc\r"), "abc");
    }

    #[test]
    fn silence_has_a_limit() {
        let (mut console, mut machine) = talk("sleep 20");
        let limit = Duration::from_millis(100);
        assert!(
            console
                .wait_for("a", limit, &mut machine)
                .unwrap_err()
                .contains("within 0 s")
        );
    }
}
