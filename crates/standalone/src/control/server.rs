//! The server on the unix socket: who connects may ask one thing, within a time, and never keeps others out.
//!
//! A connection lives for [`CONNECTION_WITHIN`] at most. There are [`CONNECTIONS_MAX`] at a time; one more, and the
//! one that has been there longest is cut off. So a client that says nothing costs nothing, and nobody else notices.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::router::{Handles, router};
use crate::console::socket::{BoundSocket, Purpose, SocketError};

/// Connections at a time.
pub const CONNECTIONS_MAX: usize = 64;

/// From its first byte to its answer's last, a connection lives no longer than this.
pub const CONNECTION_WITHIN: Duration = Duration::from_secs(30);

/// What a socket that cannot accept (no descriptors left) waits before it tries again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How long answers that are being written have at the end.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// A control socket that is served until it is dropped.
pub struct ControlServer {
    path: PathBuf,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A control socket that is bound, and not served yet: whoever connects waits.
#[derive(Debug)]
pub struct ControlSocket(BoundSocket);

impl ControlSocket {
    /// Listens at `path`. A socket that nobody listens on any more is replaced.
    ///
    /// Errors: somebody listens there, something else is there, or the system refuses.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let system = |source| SocketError::System {
            purpose: Purpose::Control,
            path: path.to_owned(),
            source,
        };
        let socket = BoundSocket::bind(Purpose::Control, path)?;
        // Who may connect may stop the machine: that is its owner.
        let owner = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, owner).map_err(system)?;
        socket.listener.set_nonblocking(true).map_err(system)?;
        Ok(Self(socket))
    }

    /// Begins to answer.
    ///
    /// Errors: the system has no thread or no runtime to give.
    pub fn serve(self, handles: Handles) -> io::Result<ControlServer> {
        let path = self.0.path().to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (end, ended) = oneshot::channel();
        let work = move || {
            runtime.block_on(serve(self.0, router(handles), ended));
            // What hangs on storage is left behind.
            runtime.shutdown_timeout(Duration::ZERO);
        };
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(work)?;
        tracing::info!(path = %path.display(), "control socket");
        Ok(ControlServer {
            path,
            end: Some(end),
            thread: Some(thread),
        })
    }
}

impl ControlServer {
    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            drop(thread.join());
        }
    }
}

impl std::fmt::Debug for ControlServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlServer")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

async fn serve(socket: BoundSocket, router: Router, ended: oneshot::Receiver<()>) {
    let listener = socket.listener.try_clone().and_then(UnixListener::from_std);
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "no control socket");
            return;
        }
    };
    let doors = Doors {
        listener,
        open: VecDeque::new(),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = axum::serve(doors, router).with_graceful_shutdown(async {
        drop(stopped.await);
    });
    let ending = async {
        drop(ended.await);
        // The name goes first: who finds it, finds somebody behind it.
        drop(socket);
        drop(stop);
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    tokio::select! {
        // It ends only when it is told to.
        _ = serving.into_future() => {}
        () = ending => {}
    }
}

/// Accepts, and cuts off the oldest where there are too many.
struct Doors {
    listener: UnixListener,
    /// Dropping one cuts that connection off.
    open: VecDeque<oneshot::Sender<()>>,
}

impl Doors {
    fn admit(&mut self, stream: UnixStream) -> Visit {
        self.open.retain(|visit| !visit.is_closed());
        while self.open.len() >= CONNECTIONS_MAX {
            self.open.pop_front();
        }
        let (stay, cut) = oneshot::channel();
        self.open.push_back(stay);
        Visit {
            stream,
            cut,
            end: Box::pin(tokio::time::sleep(CONNECTION_WITHIN)),
        }
    }
}

impl Listener for Doors {
    type Io = Visit;
    type Addr = ();

    async fn accept(&mut self) -> (Visit, ()) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return (self.admit(stream), ()),
                Err(error) => {
                    tracing::warn!(%error, "control: cannot accept");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection that ends by itself.
struct Visit {
    stream: UnixStream,
    cut: oneshot::Receiver<()>,
    end: Pin<Box<Sleep>>,
}

impl Visit {
    /// An error once the connection is over; else whoever polls is woken when it is.
    fn over(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let cut = Pin::new(&mut self.cut).poll(cx).is_ready();
        if cut || self.end.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl AsyncRead for Visit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.over(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Visit {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.over(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.over(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.over(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
