//! One connection: a task that reads and a task that writes what nobody else could.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use crucible_protocol::Message;
use crucible_protocol::wire::Decoder;
use tokio::net::TcpStream;

use super::hub::Hub;
use super::link::{Link, Sent};
use super::spares::Spares;
use crate::core::ConnectionId;

/// Room for what one read brings.
const READ_BYTES: usize = 128 << 10;
/// Of a frame that was only announced, so much room is made before it comes.
const BELIEVED_BYTES: usize = 4 << 20;
/// The longest frame of a peer that has not come to terms yet: the first words are short.
const FIRST_FRAME_BYTES: u32 = 1 << 20;
/// A peer that takes none of its answers for so long is gone.
const STALLED: Duration = Duration::from_secs(45);
/// How long a peer may take to see that a connection has ended.
const DRAINED: Duration = Duration::from_secs(1);
/// What is left to be sent on a connection that ends may take so long.
const FAREWELL: Duration = Duration::from_secs(5);

/// Serves a plain connection until it ends.
pub(super) async fn serve_plain(hub: Arc<Hub>, stream: TcpStream) {
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
        return;
    };
    let stream = Arc::new(stream);
    let link = Arc::new(Link::new(peer, local, Some(Arc::clone(&stream))));
    let Some(id) = hub.open(&link) else {
        return;
    };
    tracing::debug!(%peer, "connected");
    let writer = tokio::spawn(write_plain(Arc::clone(&link), Arc::clone(&stream)));
    let mut intake = Intake::new(id, Arc::clone(&hub), Arc::clone(&link));
    loop {
        if !intake.wait_for_room().await {
            break;
        }
        let ready = tokio::select! {
            ready = stream.readable() => ready,
            () = link.reader.notified() => continue,
        };
        if ready.is_err() {
            break;
        }
        intake.make_room();
        match stream.try_read_buf(&mut intake.buffer) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => break,
        }
        if !intake.take_frames() {
            break;
        }
    }
    hub.close(id);
    link.end();
    let _ = writer.await;
    drain(&stream).await;
    tracing::debug!(%peer, "gone");
}

async fn write_plain(link: Arc<Link>, stream: Arc<TcpStream>) {
    loop {
        match link.send_from_own_task(&stream) {
            Sent::All => {
                if link.is_ending() {
                    break;
                }
                link.writer.notified().await;
            }
            Sent::Blocked => {
                let patience = if link.is_ending() { FAREWELL } else { STALLED };
                let room = tokio::select! {
                    room = tokio::time::timeout(patience, stream.writable()) => room,
                    () = link.writer.notified() => continue,
                };
                if !matches!(room, Ok(Ok(()))) {
                    break;
                }
            }
            Sent::Failed => break,
        }
    }
    let _ = say_goodbye(&stream);
    link.end();
}

/// Reads and forgets what the peer still sends, until it has seen the end. Closing a socket with something unread
/// in it would take back the last words that were sent on it: why it was refused.
async fn drain(stream: &TcpStream) {
    let mut bin = [0; 4096];
    let drained = async {
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut bin) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    };
    let _ = tokio::time::timeout(DRAINED, drained).await;
}

/// Tells the peer that nothing more comes.
fn say_goodbye(stream: &TcpStream) -> io::Result<()> {
    use std::os::fd::{AsFd, AsRawFd};
    // SAFETY: `shutdown` takes any number and touches no memory; the descriptor is borrowed from `stream`, which
    // lives until after the call.
    let result = unsafe { libc::shutdown(stream.as_fd().as_raw_fd(), libc::SHUT_WR) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Serves a connection on which only one task may write: TLS.
#[cfg(feature = "tls")]
pub(super) async fn serve_sealed<S>(
    hub: Arc<Hub>,
    stream: S,
    peer: std::net::SocketAddr,
    local: std::net::SocketAddr,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    use tokio::io::AsyncReadExt;

    let link = Arc::new(Link::new(peer, local, None));
    let Some(id) = hub.open(&link) else {
        return;
    };
    let (mut reading, writing) = tokio::io::split(stream);
    let writer = tokio::spawn(write_sealed(Arc::clone(&link), writing));
    let mut intake = Intake::new(id, Arc::clone(&hub), Arc::clone(&link));
    loop {
        if !intake.wait_for_room().await {
            break;
        }
        intake.make_room();
        let read = tokio::select! {
            read = reading.read_buf(&mut intake.buffer) => read,
            () = link.reader.notified() => continue,
        };
        if !matches!(read, Ok(1..)) || !intake.take_frames() {
            break;
        }
    }
    hub.close(id);
    link.end();
    let _ = writer.await;
}

#[cfg(feature = "tls")]
async fn write_sealed<S>(link: Arc<Link>, mut stream: S)
where
    S: tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    use tokio::io::AsyncWriteExt;

    'sending: loop {
        while let Some(segment) = link.next_segment() {
            let patience = if link.is_ending() { FAREWELL } else { STALLED };
            let sent = tokio::time::timeout(patience, stream.write_all(&segment)).await;
            if !matches!(sent, Ok(Ok(()))) {
                break 'sending;
            }
            link.sent_segment(segment.len());
        }
        let flushed = tokio::time::timeout(STALLED, stream.flush()).await;
        if !matches!(flushed, Ok(Ok(()))) || (link.is_ending() && link.next_segment().is_none()) {
            break;
        }
        link.writer.notified().await;
    }
    let _ = tokio::time::timeout(FAREWELL, stream.shutdown()).await;
    link.end();
}

/// What has been read and not yet been handed to the core.
struct Intake {
    id: ConnectionId,
    hub: Arc<Hub>,
    link: Arc<Link>,
    buffer: BytesMut,
    spares: Spares,
    messages: VecDeque<Message>,
    decoder: Decoder,
}

impl Intake {
    fn new(id: ConnectionId, hub: Arc<Hub>, link: Arc<Link>) -> Self {
        Self {
            id,
            hub,
            link,
            buffer: BytesMut::new(),
            spares: Spares::default(),
            messages: VecDeque::new(),
            decoder: Decoder::with_limit(FIRST_FRAME_BYTES),
        }
    }

    /// Waits while the core has enough to do or the peer does not take its answers. False when the connection ends.
    async fn wait_for_room(&mut self) -> bool {
        loop {
            if self.link.is_ending() {
                return false;
            }
            if self.link.is_paused() || self.link.is_crowded() {
                self.link.reader.notified().await;
            } else if !self.messages.is_empty() {
                self.hand_over();
            } else {
                return true;
            }
        }
    }

    fn make_room(&mut self) {
        let missing = self.decoder.missing(&self.buffer).unwrap_or_default();
        let room = self.buffer.capacity() - self.buffer.len();
        // A long frame gets room for all of it at once, so that it is moved once; a very long one as it comes.
        if room < READ_BYTES / 8 {
            let believed = missing.min(self.buffer.len().max(BELIEVED_BYTES));
            self.spares
                .make_room(&mut self.buffer, believed.max(READ_BYTES));
        }
    }

    /// Hands over the frames that are complete. False when one of them cannot be.
    fn take_frames(&mut self) -> bool {
        loop {
            match self.decoder.decode(&mut self.buffer) {
                Ok(Some(message)) => {
                    // From here on the core decides what is too early; long frames are jobs.
                    if matches!(
                        message,
                        Message::LastFlush { .. } | Message::ExtentVersionsPlease
                    ) {
                        self.decoder = self.hub.decoder;
                    }
                    self.messages.push_back(message);
                }
                Ok(None) => break,
                Err(error) => {
                    self.hand_over();
                    tracing::warn!(peer = %self.link.peer, "connection closed: {error}");
                    return false;
                }
            }
        }
        self.hand_over();
        true
    }

    /// Gives the core all messages that it wants; the others stay here.
    fn hand_over(&mut self) {
        self.hub.receive(self.id, &self.link, &mut self.messages);
    }
}
