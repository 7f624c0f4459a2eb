//! Connections to the repair server: a bounded number, of which the one that has been idle for longest makes room for
//! a newcomer. Without that, whoever opens many and says nothing uses up the descriptors that extents need.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// Connections at once.
const CONNECTIONS: usize = 64;
/// After an error of the system.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections for `axum`.
#[derive(Debug)]
pub(super) struct Bounded {
    listener: TcpListener,
    /// Counts what moves on all connections: a time without a clock.
    moves: Arc<AtomicU64>,
    open: Vec<Slot>,
}

/// What the listener knows of a connection.
#[derive(Debug)]
struct Slot {
    last_move: Arc<AtomicU64>,
    end: oneshot::Sender<()>,
}

/// A connection that may be told to end.
#[derive(Debug)]
pub(super) struct Guest {
    stream: TcpStream,
    moves: Arc<AtomicU64>,
    last_move: Arc<AtomicU64>,
    /// `None` once it has to.
    ended: Option<oneshot::Receiver<()>>,
}

impl Bounded {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            moves: Arc::default(),
            open: Vec::new(),
        }
    }

    fn admit(&mut self, stream: TcpStream) -> Guest {
        self.open.retain(|slot| !slot.end.is_closed());
        if self.open.len() >= CONNECTIONS {
            let idle = self.open.iter().enumerate();
            let longest = idle.min_by_key(|(_, slot)| slot.last_move.load(Ordering::Relaxed));
            if let Some((index, _)) = longest {
                // It may have ended by itself meanwhile.
                let _ = self.open.swap_remove(index).end.send(());
            }
        }
        let (end, ended) = oneshot::channel();
        let guest = Guest {
            stream,
            moves: Arc::clone(&self.moves),
            last_move: Arc::default(),
            ended: Some(ended),
        };
        guest.moved();
        self.open.push(Slot {
            last_move: Arc::clone(&guest.last_move),
            end,
        });
        guest
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => return (self.admit(stream), peer),
                Err(error) => {
                    tracing::warn!(%error, "accept failed on the repair port");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Guest {
    fn moved(&self) {
        let now = self.moves.fetch_add(1, Ordering::Relaxed);
        self.last_move.store(now, Ordering::Relaxed);
    }

    /// Whether the connection has to make room. Asked before each step, so that whoever waits for one is woken.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(ended) = &mut self.ended
            && Pin::new(ended).poll(context).is_pending()
        {
            return Ok(());
        }
        self.ended = None;
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.moved();
        }
        polled
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(polled, Poll::Ready(Ok(1..))) {
            self.moved();
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        if matches!(polled, Poll::Ready(Ok(1..))) {
            self.moved();
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
