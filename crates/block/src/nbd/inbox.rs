//! What has come from a client and is not yet understood.

use std::io::Result as IoResult;

use vm_types::GuestSlice;

use super::socket::Socket;

/// Room for many requests, so that one system call brings a batch of them; more than the longest option
/// of a handshake.
const ROOM: usize = 128 << 10;

/// A buffer between the socket and whoever takes messages from its front.
#[derive(Debug)]
pub(super) struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; ROOM],
            start: 0,
            end: 0,
        }
    }

    /// The bytes at hand.
    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Takes up to `count` bytes from the front; returns how many.
    pub(super) fn consume(&mut self, count: usize) -> usize {
        let count = count.min(self.end - self.start);
        self.start += count;
        count
    }

    /// Waits for more bytes. `false`: there will be none.
    pub(super) fn fill(&mut self, socket: &Socket) -> IoResult<bool> {
        self.make_room();
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let count = socket.read(None, room)?;
        self.end += count;
        Ok(count > 0)
    }

    /// Fills `into`, first from here, then from the socket, reading on into this buffer. `false`: the
    /// client has gone before. `before_waiting` is called before the socket is asked.
    pub(super) fn receive(
        &mut self,
        socket: &Socket,
        into: &GuestSlice<'_>,
        before_waiting: impl FnOnce(),
    ) -> IoResult<bool> {
        let wanted = into.len();
        let mut done = wanted.min(self.end - self.start);
        into.copy_from(self.bytes().get(..done).unwrap_or_default());
        self.start += done;
        if done < wanted {
            before_waiting();
        }
        while done < wanted {
            // Nothing is at hand any more.
            self.make_room();
            let Ok(rest) = into.subslice(done, wanted - done) else {
                return Ok(false);
            };
            let count = socket.read(Some(&rest), &mut self.buffer)?;
            if count == 0 {
                return Ok(false);
            }
            let taken = count.min(rest.len());
            done += taken;
            self.end = count - taken;
        }
        Ok(true)
    }

    /// Throws away `count` bytes. `false`: the client has gone before.
    pub(super) fn skip(&mut self, socket: &Socket, mut count: usize) -> IoResult<bool> {
        loop {
            count -= self.consume(count);
            if count == 0 {
                return Ok(true);
            }
            if !self.fill(socket)? {
                return Ok(false);
            }
        }
    }

    /// Moves what is at hand to the front: little, as whole messages have been taken before.
    fn make_room(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
    }
}
