//! One question and its answer over a unix socket. The server closes after each answer, so there is nothing to reuse.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::CtlError;
use crate::control::api::Problem;

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Longest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// The server answers within less.
const WITHIN: Duration = Duration::from_secs(35);

/// The way to one control socket.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub code: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// What a refusal says.
    pub fn message(&self) -> String {
        match serde_json::from_slice::<Problem>(&self.body) {
            Ok(problem) => problem.message,
            Err(_) => format!("status {}", self.code),
        }
    }
}

impl Client {
    /// To the socket at `path`. Nothing is dialled yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// The socket, for messages.
    pub fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Sends a request and reads the whole answer.
    ///
    /// Errors: nobody is there, nobody answers, or the answer is not HTTP.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<Answer, CtlError> {
        let mut stream = self.connect()?;
        let broken = |error: &std::io::Error| match error.kind() {
            // It is there, and says nothing.
            ErrorKind::WouldBlock | ErrorKind::TimedOut => CtlError::Unreachable {
                path: self.path(),
                source: ErrorKind::TimedOut.into(),
            },
            _ => CtlError::Ended {
                path: self.path(),
                question: format!("{method} {path}"),
            },
        };
        let kind = if body.is_empty() {
            ""
        } else {
            "Content-Type: application/json\r\n"
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: machine\r\nConnection: close\r\n{kind}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let request = [head.as_bytes(), body.as_bytes()].concat();
        stream.write_all(&request).map_err(|error| broken(&error))?;
        let mut bytes = Vec::new();
        let limit = ANSWER_BYTES_MAX as u64 + 1;
        let read = stream.take(limit).read_to_end(&mut bytes);
        // Whoever resets the connection after a whole answer has answered all the same.
        match (parse(&bytes), read) {
            (Ok(answer), _) => Ok(answer),
            (Err(_), Err(error)) => Err(broken(&error)),
            (Err(_), Ok(0)) => Err(broken(&ErrorKind::UnexpectedEof.into())),
            (Err(reason), Ok(_)) => Err(CtlError::Foreign {
                path: self.path(),
                reason,
            }),
        }
    }

    fn connect(&self) -> Result<UnixStream, CtlError> {
        let path = self.path();
        let stream = UnixStream::connect(&self.path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => CtlError::Absent { path: path.clone() },
            ErrorKind::ConnectionRefused => CtlError::Stale { path: path.clone() },
            _ => CtlError::Unreachable {
                path: path.clone(),
                source,
            },
        })?;
        let unreachable = |source| CtlError::Unreachable {
            path: self.path(),
            source,
        };
        stream.set_read_timeout(Some(WITHIN)).map_err(unreachable)?;
        stream
            .set_write_timeout(Some(WITHIN))
            .map_err(unreachable)?;
        Ok(stream)
    }
}

/// Reads an answer of HTTP/1.1 that is there as a whole. Errors: what is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Answer, String> {
    if bytes.len() > ANSWER_BYTES_MAX {
        return Err("the answer is too long".to_owned());
    }
    let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let end = window.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or("the answer is not HTTP, or its head is too long")?;
    let head = std::str::from_utf8(&window[..end]).map_err(|_| "its head is no text")?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let version = first.next().unwrap_or_default();
    if version != "HTTP/1.1" && version != "HTTP/1.0" {
        return Err("the answer is not HTTP".to_owned());
    }
    let code = first.next().unwrap_or_default();
    let code: u16 = match code.parse() {
        Ok(code @ 100..=999) => code,
        _ => return Err(format!("status code {code:?}")),
    };
    let mut body = bytes.get(end + 4..).unwrap_or_default();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            return Err(format!("header {line:?}"));
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(format!("transfer encoding {value:?}"));
        }
        if name.eq_ignore_ascii_case("content-length") {
            let length: usize = value.parse().map_err(|_| format!("length {value:?}"))?;
            body = body
                .get(..length)
                .ok_or_else(|| format!("{} of {length} bytes", body.len()))?;
        }
    }
    Ok(Answer {
        code,
        body: body.to_vec(),
    })
}

/// A name as one segment of a path.
pub fn segment(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                text.push(char::from(byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_by_its_length() {
        let answer =
            parse(b"HTTP/1.1 409 Conflict\r\nX: y\r\ncontent-length: 3\r\n\r\n{}\n+").unwrap();
        assert_eq!((answer.code, answer.body.as_slice()), (409, &b"{}\n"[..]));
        let answer = parse(b"HTTP/1.0 200\r\n\r\nall of it").unwrap();
        assert_eq!(
            (answer.code, answer.body.as_slice()),
            (200, &b"all of it"[..])
        );
    }

    #[test]
    fn what_is_no_answer_is_refused_with_the_reason() {
        for (bytes, reason) in [
            (&b""[..], "not HTTP"),
            (b"login: ", "not HTTP"),
            (b"SSH-2.0-x\r\n\r\n", "not HTTP"),
            (b"HTTP/1.1 20\r\n\r\n", "status code"),
            (b"HTTP/1.1 two\r\n\r\n", "status code"),
            (b"HTTP/1.1 200 OK\r\nnothing\r\n\r\n", "header"),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{}",
                "2 of 4 bytes",
            ),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}", "length"),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                "transfer",
            ),
        ] {
            let error = parse(bytes).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn names_become_segments_of_a_path() {
        assert_eq!(segment("disk-0.a_B"), "disk-0.a_B");
        assert_eq!(segment("a/b ?ä"), "a%2Fb%20%3F%C3%A4");
    }
}
