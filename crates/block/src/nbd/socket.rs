//! A connected socket of either kind, with vectored transfers between it and a connection's memory.

use std::io::{Error, ErrorKind, Result as IoResult};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vm_types::GuestSlice;

use crate::file::{advance, vector_of};

/// Most vectors of one system call; every system takes as many.
const VECTORS_MAX: usize = 1024;

/// A connected stream socket.
///
/// The type inside is a container only: what is called on it (shutdown, timeouts) is the same for all
/// stream sockets.
#[derive(Debug)]
pub(super) struct Socket(UnixStream);

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self(stream)
    }
}

impl TryFrom<TcpStream> for Socket {
    type Error = Error;

    fn try_from(stream: TcpStream) -> IoResult<Self> {
        // Replies are sent whole; waiting for more would only delay them.
        stream.set_nodelay(true)?;
        // A peer whose machine is gone would count as a connection for ever. Without it, so be it.
        let on: libc::c_int = 1;
        // SAFETY: the option's value is an `int` that lives across the call, of the length given.
        unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_KEEPALIVE,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        Ok(Self(UnixStream::from(OwnedFd::from(stream))))
    }
}

impl Socket {
    /// Ends reading, or both directions. One that is gone already is as good.
    pub(super) fn shutdown(&self, how: Shutdown) {
        drop(self.0.shutdown(how));
    }

    /// Reads block for at most this long.
    pub(super) fn set_read_timeout(&self, limit: Option<Duration>) -> IoResult<()> {
        self.0.set_read_timeout(limit)
    }

    /// Writes block for at most this long.
    pub(super) fn set_write_timeout(&self, limit: Option<Duration>) -> IoResult<()> {
        self.0.set_write_timeout(limit)
    }

    /// Makes reads and writes wait, whatever the listener was set to.
    pub(super) fn set_blocking(&self) -> IoResult<()> {
        self.0.set_nonblocking(false)
    }

    /// Fills `first` (if any), then `second`, with what has come; at least a byte. 0: the peer has
    /// closed.
    pub(super) fn read(
        &self,
        first: Option<&GuestSlice<'_>>,
        second: &mut [u8],
    ) -> IoResult<usize> {
        let second = libc::iovec {
            iov_base: second.as_mut_ptr().cast(),
            iov_len: second.len(),
        };
        let vectors = [first.map(vector_of).unwrap_or(EMPTY), second];
        loop {
            // SAFETY: the first vector is memory of the slice's mapping, which the slice keeps borrowed;
            // the second is exclusively ours during the call.
            let moved = unsafe { libc::readv(self.0.as_raw_fd(), vectors.as_ptr(), 2) };
            match usize::try_from(moved) {
                Ok(moved) => return Ok(moved),
                Err(_) => unless_interrupted()?,
            }
        }
    }

    /// Sends the bytes of `heads`, with each slice of `data` after the first so many of them. The places
    /// are in order.
    pub(super) fn write(&self, heads: &[u8], data: &[(usize, GuestSlice<'_>)]) -> IoResult<()> {
        let mut vectors = Vec::with_capacity(2 * data.len() + 1);
        let mut sent = 0;
        let head = |from: usize, to: usize| {
            let part = heads.get(from..to).unwrap_or_default();
            libc::iovec {
                iov_base: part.as_ptr().cast_mut().cast(),
                iov_len: part.len(),
            }
        };
        for (place, slice) in data {
            vectors.push(head(sent, *place));
            vectors.push(vector_of(slice));
            sent = *place;
        }
        vectors.push(head(sent, heads.len()));
        let mut rest = advance(&mut vectors, 0);
        while !rest.is_empty() {
            let count = rest.len().min(VECTORS_MAX) as libc::c_int;
            // SAFETY: the vectors are parts of `heads` and of the slices' mapping, all borrowed during the
            // call, which only reads them.
            let moved = unsafe { libc::writev(self.0.as_raw_fd(), rest.as_ptr(), count) };
            match usize::try_from(moved) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(moved) => rest = advance(rest, moved),
                Err(_) => unless_interrupted()?,
            }
        }
        Ok(())
    }
}

const EMPTY: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

fn unless_interrupted() -> IoResult<()> {
    let error = Error::last_os_error();
    if error.kind() == ErrorKind::Interrupted {
        Ok(())
    } else {
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use vm_types::{GuestAddress, GuestMemory};

    #[test]
    fn heads_and_data_arrive_in_order() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let memory = GuestMemory::flat(4096).unwrap();
        memory.write(GuestAddress(0), b"DATAdata").unwrap();
        let first = memory.slice(GuestAddress(0), 4).unwrap();
        let second = memory.slice(GuestAddress(4), 4).unwrap();
        let socket = Socket::from(ours);
        socket.write(b"<>[]!", &[(1, first), (3, second)]).unwrap();
        drop(socket);
        let mut all = String::new();
        theirs.read_to_string(&mut all).unwrap();
        assert_eq!(all, "<DATA>[data]!");
    }

    #[test]
    fn reading_fills_memory_first() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let memory = GuestMemory::flat(4096).unwrap();
        theirs.write_all(b"payloadnext").unwrap();
        let slice = memory.slice(GuestAddress(0), 7).unwrap();
        let mut rest = [0; 16];
        let socket = Socket::from(ours);
        assert_eq!(socket.read(Some(&slice), &mut rest).unwrap(), 11);
        assert_eq!(rest[..4], *b"next");
        let mut payload = [0; 7];
        memory.read(GuestAddress(0), &mut payload).unwrap();
        assert_eq!(payload, *b"payload");
        drop(theirs);
        assert_eq!(socket.read(None, &mut rest).unwrap(), 0);
    }

    #[test]
    fn a_client_that_takes_nothing_ends_a_write_with_a_limit() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let socket = Socket::from(ours);
        let limit = Some(Duration::from_millis(20));
        socket.set_write_timeout(limit).unwrap();
        let error = socket.write(&vec![0; 16 << 20], &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}
