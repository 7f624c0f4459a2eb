//! Starting and stopping a region server.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crucible_protocol::wire::Decoder;
use crucible_protocol::{GeometryError, REPAIR_PORT_OFFSET};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use vm_types::Clock;

use super::connection::serve_plain;
use super::execute::{Executor, Faults};
use super::hub::Hub;
use super::pool::{Pool, Report};
use crate::core::{Event, Facts, Limits, Mode, Server};
use crate::repair;
use crate::store::{self, Region};

/// How a region is served.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where upstairs connect. With port 0 the system chooses one, and one for repairs.
    pub address: SocketAddr,
    /// Where other region servers fetch extents; by default [`REPAIR_PORT_OFFSET`] above.
    pub repair: Option<SocketAddr>,
    /// Bounds.
    pub limits: Limits,
    /// Threads for reads, writes and flushes.
    pub threads: usize,
    /// Threads for repairs and snapshots.
    pub copy_threads: usize,
    /// Errors made on purpose.
    pub faults: Faults,
    /// Only peers that show a certificate.
    pub tls: Option<TlsSettings>,
}

/// Who is let in, and as whom we answer.
#[derive(Clone)]
pub struct TlsSettings {
    #[cfg(feature = "tls")]
    pub(super) config: Arc<rustls::ServerConfig>,
    #[cfg(not(feature = "tls"))]
    never: std::convert::Infallible,
}

impl std::fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsSettings")
    }
}

/// Why a region cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// No port is left above this one.
    #[error(
        "data port {0}: the repair port is {REPAIR_PORT_OFFSET} above it and would be past 65535; choose a lower port"
    )]
    RepairPort(u16),
    /// The region cannot be.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// No threads.
    #[error("cannot start threads: {0}")]
    Threads(io::Error),
}

/// A region that is being served, until this is stopped or dropped.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    repair_address: SocketAddr,
    hub: Arc<Hub>,
    region: Arc<Region>,
    tasks: Vec<JoinHandle<()>>,
}

impl Config {
    /// The reference's defaults, at this address.
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            repair: None,
            limits: Limits::default(),
            threads: 4,
            copy_threads: 2,
            faults: Faults::default(),
            tls: None,
        }
    }

    fn repair_address(&self) -> Result<SocketAddr, ServeError> {
        if let Some(address) = self.repair {
            return Ok(address);
        }
        let mut address = self.address;
        if address.port() != 0 {
            let port = address.port();
            let above = port.checked_add(REPAIR_PORT_OFFSET);
            address.set_port(above.ok_or(ServeError::RepairPort(port))?);
        }
        Ok(address)
    }
}

/// Serves a region: upstairs on one port, other region servers on another. Returns when both listen.
///
/// To be called on a tokio runtime with several threads; disk work has threads of its own.
pub async fn serve(region: Arc<Region>, config: Config) -> Result<Serving, ServeError> {
    let repair_wanted = config.repair_address()?;
    let listener = listen(config.address).await?;
    let repair_listener = listen(repair_wanted).await?;
    let address = local(&listener, config.address)?;
    let repair_address = local(&repair_listener, repair_wanted)?;

    let facts = Facts {
        definition: *region.definition(),
        mode: match region.mode() {
            store::Mode::ReadWrite => Mode::ReadWrite,
            store::Mode::ReadOnly => Mode::ReadOnly,
        },
        repair_address,
    };
    let server = Server::new(facts, region.promoted_generation(), config.limits)?;
    let seed = RandomState::new().hash_one(address);
    let executor = Arc::new(Executor::new(Arc::clone(&region), config.faults, seed));
    let hub = Arc::new(Hub::new(
        server,
        Decoder::for_region(&region.geometry()),
        Clock::monotonic(),
        Arc::clone(&executor),
    ));
    let report: Arc<Report> = {
        // The hub owns the threads; they must not own it.
        let hub = Arc::downgrade(&hub);
        Arc::new(move |done| {
            if let Some(hub) = Weak::upgrade(&hub) {
                hub.report(done);
            }
        })
    };
    let pool = Pool::start(config.threads, config.copy_threads, &executor, &report);
    hub.set_pool(pool.map_err(ServeError::Threads)?);

    let tasks = vec![
        tokio::spawn(accept(Arc::clone(&hub), listener, config.tls)),
        tokio::spawn(keep_time(Arc::clone(&hub))),
        tokio::spawn(repair::serve(Arc::clone(&region), repair_listener)),
    ];
    Ok(Serving {
        address,
        repair_address,
        hub,
        region,
        tasks,
    })
}

impl Serving {
    /// Where upstairs connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where other region servers fetch extents.
    pub fn repair_address(&self) -> SocketAddr {
        self.repair_address
    }

    /// Ends all connections, waits for the work that has begun, and leaves the region's files in a state that any
    /// program can read. Flushes nothing that was not asked for: what is dirty stays dirty.
    pub async fn stop(mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        let (hub, region) = (Arc::clone(&self.hub), Arc::clone(&self.region));
        let stopped = tokio::task::spawn_blocking(move || {
            hub.stop();
            if region.mode() == store::Mode::ReadWrite
                && let Err(error) = region.settle()
            {
                tracing::warn!(%error, "closing: what is not in its place yet is found there next time");
            }
        });
        let _ = stopped.await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !self.tasks.is_empty() {
            for task in self.tasks.drain(..) {
                task.abort();
            }
            self.hub.stop();
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address, source })
}

fn local(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, ServeError> {
    listener
        .local_addr()
        .map_err(|source| ServeError::Listen { address, source })
}

/// Handshakes at once; a peer that takes its time holds up nobody else.
const HANDSHAKES: usize = 64;

async fn accept(hub: Arc<Hub>, listener: TcpListener, tls: Option<TlsSettings>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or a connection that died in the queue: neither ends the service.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        match &tls {
            None => {
                tokio::spawn(serve_plain(Arc::clone(&hub), stream));
            }
            Some(settings) => {
                spawn_sealed(&hub, stream, settings, &handshakes);
            }
        }
    }
}

#[cfg(feature = "tls")]
fn spawn_sealed(
    hub: &Arc<Hub>,
    stream: TcpStream,
    settings: &TlsSettings,
    handshakes: &Arc<Semaphore>,
) {
    let Ok(permit) = Arc::clone(handshakes).try_acquire_owned() else {
        tracing::warn!("too many handshakes at once: a connection was turned away");
        return;
    };
    let hub = Arc::clone(hub);
    let settings = settings.clone();
    tokio::spawn(async move {
        let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
            return;
        };
        match super::tls::shake_hands(&settings, stream).await {
            Ok(stream) => {
                drop(permit);
                super::connection::serve_sealed(hub, stream, peer, local).await;
            }
            Err(error) => tracing::warn!(%peer, "TLS handshake failed: {error}"),
        }
    });
}

#[cfg(not(feature = "tls"))]
fn spawn_sealed(
    _hub: &Arc<Hub>,
    _stream: TcpStream,
    settings: &TlsSettings,
    _handshakes: &Arc<Semaphore>,
) {
    match settings.never {}
}

/// Wakes the core when it wants to be woken.
async fn keep_time(hub: Arc<Hub>) {
    loop {
        let wait = hub.until_deadline();
        if wait.is_zero() {
            hub.tell([Event::Wake]);
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = hub.deadline_moved.notified() => {}
        }
    }
}
