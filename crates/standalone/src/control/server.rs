//! The server on the unix socket: who connects may ask one thing, within a time, and never keeps others out.
//!
//! There are [`CONNECTIONS_MAX`] connections at a time; one more, and the one that has been idle for longest is cut off.
//! So a client that says nothing costs nothing, and nobody else notices.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use bounded_listener::Bounded;
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use super::router::{Handles, router};
use crate::console::socket::{BoundSocket, Purpose, SocketError};

/// Connections at a time.
pub const CONNECTIONS_MAX: usize = 64;

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
    let listener = Bounded::new(listener, CONNECTIONS_MAX);
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = axum::serve(listener, router).with_graceful_shutdown(async {
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
