//! The listening side: accepts clients up to a number, and ends them in order.

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::connection::{Connection, Shared};
use super::socket::Socket;

/// Where clients come from. Bind it as you like; [`crate::nbd::export`] does the rest.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket. Whoever made its path removes it.
    Unix(UnixListener),
    /// TCP. There is no authentication: bind to a loopback address unless the network is trusted.
    Tcp(TcpListener),
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl Listener {
    /// Makes accepting return at once, so that a client that goes away in between holds up nobody.
    pub(super) fn prepare(&self) -> std::io::Result<()> {
        match self {
            Self::Unix(listener) => listener.set_nonblocking(true),
            Self::Tcp(listener) => listener.set_nonblocking(true),
        }
    }

    fn descriptor(&self) -> RawFd {
        match self {
            Self::Unix(listener) => listener.as_raw_fd(),
            Self::Tcp(listener) => listener.as_raw_fd(),
        }
    }

    fn accept(&self) -> std::io::Result<Socket> {
        let socket = match self {
            Self::Unix(listener) => {
                let (stream, _): (UnixStream, _) = listener.accept()?;
                Socket::from(stream)
            }
            Self::Tcp(listener) => {
                let (stream, _): (TcpStream, _) = listener.accept()?;
                Socket::try_from(stream)?
            }
        };
        socket.set_blocking()?;
        Ok(socket)
    }
}

/// A client and the thread that serves it.
struct Client {
    connection: Arc<Connection>,
    thread: JoinHandle<()>,
}

/// The part that the acceptor and the handle share.
pub(super) struct Server {
    shared: Arc<Shared>,
    connections_max: usize,
    clients: Mutex<Vec<Client>>,
    stopping: AtomicBool,
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>, connections_max: usize) -> Self {
        Self {
            shared,
            connections_max,
            clients: Mutex::default(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Clients that are connected.
    pub(super) fn connections(&self) -> usize {
        let clients = self.lock();
        clients.iter().filter(|c| !c.thread.is_finished()).count()
    }

    /// Accepts until [`Server::stop`] and a byte (or the end) on `wake`.
    pub(super) fn accept(&self, listener: &Listener, wake: &UnixStream) {
        let mut number = 0_u64;
        while !self.stopping.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok(socket) => {
                    number += 1;
                    self.welcome(socket, number);
                }
                Err(error) => {
                    let timeout = match error.kind() {
                        std::io::ErrorKind::WouldBlock => None,
                        std::io::ErrorKind::Interrupted | std::io::ErrorKind::ConnectionAborted => {
                            continue;
                        }
                        _ => {
                            // Out of descriptors, most likely: the listener stays readable.
                            tracing::warn!(%error, "cannot accept an NBD client");
                            Some(Duration::from_millis(200))
                        }
                    };
                    let listened = timeout.is_none().then(|| listener.descriptor());
                    wait(listened, wake, timeout);
                }
            }
        }
    }

    /// Starts a client's thread.
    fn welcome(&self, socket: Socket, number: u64) {
        let mut clients = self.lock();
        clients.retain(|client| !client.thread.is_finished());
        if clients.len() >= self.connections_max {
            tracing::warn!(
                most = self.connections_max,
                "NBD client sent away: too many connections"
            );
            return;
        }
        let name = format!("nbd-{number}");
        let started = Connection::new(self.shared.clone(), socket).and_then(|connection| {
            let connection = Arc::new(connection);
            let served = connection.clone();
            let queue = format!("{name}-io");
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                match served.serve(&queue) {
                    Ok(()) => tracing::debug!(number, "NBD client has left"),
                    Err(error) => tracing::info!(number, %error, "NBD connection ended"),
                }
            })?;
            Ok(Client { connection, thread })
        });
        match started {
            Ok(client) => clients.push(client),
            Err(error) => tracing::warn!(%error, "cannot serve an NBD client"),
        }
    }

    /// Accepts nobody more. The acceptor must be woken.
    pub(super) fn begin_stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Ends all clients, each with what it has in flight. The acceptor has ended before.
    pub(super) fn end_clients(&self) {
        let clients = std::mem::take(&mut *self.lock());
        for client in &clients {
            client.connection.begin_stop();
        }
        for client in clients {
            // A thread that panicked has already said so on its own.
            drop(client.thread.join());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until one of the descriptors can be read, or for `timeout`.
fn wait(listened: Option<RawFd>, wake: &UnixStream, timeout: Option<Duration>) {
    let entry = |fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // A negative descriptor is passed over.
    let mut entries = [entry(listened.unwrap_or(-1)), entry(wake.as_raw_fd())];
    let timeout = timeout.map_or(-1, |timeout| timeout.as_millis() as libc::c_int);
    // SAFETY: the entries are ours and their number is right; waking early for a signal does no harm.
    unsafe { libc::poll(entries.as_mut_ptr(), 2, timeout) };
}
