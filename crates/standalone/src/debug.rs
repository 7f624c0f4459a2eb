//! The debug console's lines in the log: what firmware says on port 0x402.

use std::sync::{Mutex, PoisonError};

use devices::serial::SerialPeer;

/// Longest line; a longer one is cut into several.
const LINE_BYTES_MAX: usize = 512;

/// Gathers bytes to lines and logs them.
#[derive(Debug, Default)]
pub struct DebugLines {
    line: Mutex<Vec<u8>>,
}

impl SerialPeer for DebugLines {
    fn write(&self, bytes: &[u8]) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in bytes {
            match byte {
                b'\r' => {}
                b'\n' => say(&mut line),
                byte => {
                    line.push(*byte);
                    if line.len() >= LINE_BYTES_MAX {
                        say(&mut line);
                    }
                }
            }
        }
    }
}

fn say(line: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(line);
    tracing::debug!(text = text.as_ref(), "debug console");
    line.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded() {
        let lines = DebugLines::default();
        lines.write(b"one\r\ntw");
        assert_eq!(*lines.line.lock().unwrap(), b"tw");
        lines.write(&[b'x'; 3 * LINE_BYTES_MAX]);
        assert!(lines.line.lock().unwrap().len() < LINE_BYTES_MAX);
    }
}
