//! A disk for clients of the NBD protocol: `qemu-img`, `nbdcopy`, fio, the kernel's own client.
//!
//! Start at [`export`]. Reading order: `wire` (numbers), `facts` (what a client is told), `handshake` and
//! `request` (bytes in, answers out, no I/O) → `arena`, `inbox`, `socket` (memory and transfers) →
//! `connection` (one client) → `server` (all of them).
//!
//! Offered: fixed newstyle, structured replies, flush, FUA, trim, write zeroes, several connections, block
//! size constraints. Reads may begin and end at any byte; writes keep to the disk's blocks, or are refused.
//! Not offered: TLS, metadata contexts, resizing.
//!
//! Bounds: connections, requests and bytes of each, time of a handshake, time of an end.

mod wire;

mod facts;

mod handshake;

mod request;

mod arena;

mod inbox;

mod socket;

mod connection;

mod server;

pub(crate) mod probe;

use std::fmt;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;

use crate::disk::Disk;

use connection::Shared;
use facts::Facts;
use server::Server;

pub use server::Listener;

/// Longest request of the protocol's default constraints, in bytes.
const REQUEST_MAX: u32 = 32 << 20;
/// Longest name or description, in bytes.
const TEXT_MAX: usize = 4096;

/// How a disk is exported.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The export's name. The empty name leads to it as well.
    pub name: String,
    /// A text for people, for clients that ask.
    pub description: String,
    /// Most clients at a time, 1 to 256; each costs two threads. More are sent away.
    pub connections_max: usize,
    /// Most requests of one connection that wait or are in flight, 1 to 4096.
    pub depth: u32,
    /// Longest transfer in bytes, 64 KiB to 32 MiB. A connection keeps that much memory, and touches
    /// what it needs of it.
    pub request_max: u32,
    /// How long a client may take to read its last replies; and how long requests in flight may take
    /// when the export stops, before they are given up. While it does not stop, they may take as long as
    /// they like, and count as a connection.
    pub drain_within: Duration,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            name: String::new(),
            description: String::new(),
            connections_max: 16,
            depth: 128,
            request_max: REQUEST_MAX,
            drain_within: Duration::from_secs(5),
        }
    }
}

/// Why a disk could not be exported.
#[derive(Debug, Error)]
pub enum ExportError {
    /// Name or description do not fit into the protocol.
    #[error("export {what}: expected at most {TEXT_MAX} bytes, found {found}")]
    Text {
        /// Which of the two.
        what: &'static str,
        /// Its length in bytes.
        found: usize,
    },
    /// A number out of its range.
    #[error("{what}: expected {least} to {most}, found {found}")]
    OutOfRange {
        /// The option.
        what: &'static str,
        /// Least value.
        least: u64,
        /// Greatest value.
        most: u64,
        /// What was asked for.
        found: u64,
    },
    /// The system refuses a thread or a socket.
    #[error("cannot start the NBD server: {0}")]
    System(#[from] std::io::Error),
}

/// Serves `disk` to the clients of `listener` until the handle is stopped or dropped.
///
/// ```
/// use block::{Disk, nbd};
/// use std::net::TcpListener;
///
/// let disk = Disk::memory(512, 1 << 20)?;
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let export = nbd::export(&disk, listener, nbd::ExportOptions::default())?;
/// assert_eq!(export.connections(), 0);
/// export.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn export(
    disk: &Disk,
    listener: impl Into<Listener>,
    options: ExportOptions,
) -> Result<Export, ExportError> {
    let within = |what, found: u64, least: u64, most: u64| {
        if (least..=most).contains(&found) {
            Ok(())
        } else {
            Err(ExportError::OutOfRange {
                what,
                least,
                most,
                found,
            })
        }
    };
    within("connections_max", options.connections_max as u64, 1, 256)?;
    within("depth", options.depth.into(), 1, 4096)?;
    within(
        "request_max",
        options.request_max.into(),
        64 << 10,
        REQUEST_MAX.into(),
    )?;
    for (what, text) in [
        ("name", &options.name),
        ("description", &options.description),
    ] {
        if text.len() > TEXT_MAX {
            let found = text.len();
            return Err(ExportError::Text { what, found });
        }
    }
    let info = disk.info();
    let shared = Shared {
        disk: disk.clone(),
        facts: Facts::new(
            &info,
            &options.name,
            &options.description,
            options.request_max - options.request_max % info.block_size,
        ),
        depth: options.depth,
        drain_within: options.drain_within,
    };
    let server = Arc::new(Server::new(Arc::new(shared), options.connections_max));
    let listener = listener.into();
    let (wake, woken) = UnixStream::pair()?;
    let acceptor = {
        let server = server.clone();
        listener.prepare()?;
        std::thread::Builder::new()
            .name("nbd-accept".to_owned())
            .spawn(move || server.accept(&listener, &woken))?
    };
    Ok(Export {
        server,
        wake,
        acceptor: Mutex::new(Some(acceptor)),
    })
}

/// A disk that is being exported. Dropping it stops the export.
pub struct Export {
    server: Arc<Server>,
    wake: UnixStream,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

impl Export {
    /// Clients that are connected.
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// Closes the listener, lets each client's requests in flight come to their end (for twice
    /// [`ExportOptions::drain_within`] and some seconds at most), answers them and hangs up. A second
    /// call does nothing.
    pub fn stop(&self) {
        let acceptor = self
            .acceptor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(acceptor) = acceptor else {
            return;
        };
        self.server.begin_stop();
        // Room for one byte there always is.
        drop((&self.wake).write(&[0]));
        drop(acceptor.join());
        self.server.end_clients();
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}
