//! Connections to an HTTP server: a bounded number, of which the one that has been idle for longest makes room for a
//! newcomer. Without that, whoever opens many and says nothing uses up the descriptors that the program needs for its
//! work, or keeps everybody else out.
//!
//! Over any listener of `axum`:
//!
//! ```no_run
//! # async fn example(router: axum::Router) -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! axum::serve(bounded_listener::Bounded::new(listener, 64), router).await
//! # }
//! ```

#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// Accepts every connection, and keeps so many.
#[derive(Debug)]
pub struct Bounded<L> {
    listener: L,
    most: usize,
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

impl<L> Bounded<L> {
    /// Room for `most`, at least one.
    pub fn new(listener: L, most: usize) -> Self {
        Self {
            listener,
            most: most.max(1),
            moves: Arc::default(),
            open: Vec::new(),
        }
    }

    fn admit<S>(&mut self, stream: S) -> Guest<S> {
        self.open.retain(|slot| !slot.end.is_closed());
        if self.open.len() >= self.most {
            let open = self.open.iter().enumerate();
            let longest = open.min_by_key(|(_, slot)| slot.last_move.load(Ordering::Relaxed));
            if let Some((index, _)) = longest {
                // It may have ended by itself meanwhile.
                let _ = self.open.swap_remove(index).end.send(());
            }
        }
        let (end, stay) = oneshot::channel();
        let guest = Guest {
            stream,
            moves: self.moves.clone(),
            last_move: Arc::default(),
            place: Place::May(stay),
        };
        guest.moved();
        self.open.push(Slot {
            last_move: guest.last_move.clone(),
            end,
        });
        guest
    }
}

impl<L> Listener for Bounded<L>
where
    L: Listener,
    L::Io: Unpin,
{
    type Io = Guest<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, from) = self.listener.accept().await;
        (self.admit(stream), from)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that may have to make room.
#[derive(Debug)]
pub struct Guest<S> {
    stream: S,
    moves: Arc<AtomicU64>,
    last_move: Arc<AtomicU64>,
    place: Place,
}

/// Whether a connection goes on.
#[derive(Debug)]
enum Place {
    /// Until somebody else needs the place.
    May(oneshot::Receiver<()>),
    /// As long as it likes: the listener is gone, and nobody comes any more.
    Stays,
    /// It does not.
    Gone,
}

impl<S> Guest<S> {
    fn moved(&self) {
        let now = self.moves.fetch_add(1, Ordering::Relaxed);
        self.last_move.store(now, Ordering::Relaxed);
    }

    /// Whether the connection has to make room. Asked before each step, so that whoever waits for one is woken.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Place::May(stay) = &mut self.place {
            self.place = match Pin::new(stay).poll(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => Place::Gone,
                Poll::Ready(Err(_)) => Place::Stays,
            };
        }
        match self.place {
            Place::Gone => Err(io::ErrorKind::ConnectionAborted.into()),
            Place::May(_) | Place::Stays => Ok(()),
        }
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.moved();
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guest<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        if into.filled().len() > before {
            self.moved();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guest<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, from);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, from);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Runs `test` with a listener of room for two and a way to come to it.
    fn with_room_for_two(test: impl AsyncFn(Bounded<TcpListener>, std::net::SocketAddr)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            test(Bounded::new(listener, 2), address).await;
        });
    }

    #[test]
    fn who_is_idle_for_longest_makes_room_and_who_talks_stays() {
        with_room_for_two(async |mut listener, address| {
            let mut talking = TcpStream::connect(address).await.unwrap();
            let (mut first, _) = listener.accept().await;
            let mut silent = TcpStream::connect(address).await.unwrap();
            let (mut second, _) = listener.accept().await;
            talking.write_all(b"x").await.unwrap();
            assert_eq!(first.read_u8().await.unwrap(), b'x');

            let _next = TcpStream::connect(address).await.unwrap();
            let _third = listener.accept().await;
            let error = second.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
            assert!(second.write_u8(0).await.is_err());
            drop(second);
            assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
            first.write_all(b"y").await.unwrap();
            assert_eq!(talking.read_u8().await.unwrap(), b'y');
        });
    }

    #[test]
    fn who_waits_for_a_word_is_woken_to_make_room() {
        with_room_for_two(async |mut listener, address| {
            let (mut peers, mut waiting) = (Vec::new(), Vec::new());
            for _ in 0..3 {
                peers.push(TcpStream::connect(address).await.unwrap());
                let (mut guest, _) = listener.accept().await;
                waiting.push(tokio::spawn(async move { guest.read_u8().await }));
                tokio::task::yield_now().await;
            }
            let first = waiting.swap_remove(0);
            let error = first.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        });
    }

    #[test]
    fn places_of_those_who_left_are_free_and_the_last_ones_may_finish() {
        with_room_for_two(async |mut listener, address| {
            let mut peer = TcpStream::connect(address).await.unwrap();
            let (mut guest, _) = listener.accept().await;
            for _ in 0..5 {
                let _passing = TcpStream::connect(address).await.unwrap();
                drop(listener.accept().await);
            }
            peer.write_all(b"x").await.unwrap();
            drop(listener);
            assert_eq!(guest.read_u8().await.unwrap(), b'x');
            guest.write_all(b"y").await.unwrap();
            assert_eq!(peer.read_u8().await.unwrap(), b'y');
        });
    }
}
