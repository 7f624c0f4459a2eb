//! What an upstairs is told once, at its start.

use std::net::SocketAddr;

use crucible_protocol::{Geometry, UpstairsId};
use vm_types::Span;

/// The volume, its three region servers, and how much of what is allowed.
#[derive(Clone, Debug)]
pub struct Config {
    /// The volume.
    pub upstairs: UpstairsId,
    /// The region servers, by client number.
    pub addresses: [SocketAddr; 3],
    /// The geometry that the regions must have; `None` learns it from the first one.
    pub geometry: Option<Geometry>,
    /// Whether blocks come sealed. The regions must be made that way.
    pub encrypted: bool,
    /// Only reads. The regions must be served that way.
    pub read_only: bool,
    /// When two of three regions are there, how long to wait for the third before the volume is activated with
    /// two; the third joins by live repair. `None` waits for all three.
    pub degraded_activation: Option<Span>,
    /// A flush is made this long after the first I/O that no flush has covered, also under load.
    pub flush_interval: Span,
    /// How long requests wait while too few region servers are there, before they fail.
    pub patience: Span,
    /// What keeps the list of unflushed jobs short under load.
    pub relief: Relief,
    /// How much of everything.
    pub limits: Limits,
    /// Decides the jitter of reconnect delays, and nothing else.
    pub jitter_seed: u64,
}

/// What is sent when the jobs that no flush has covered become too many. Spec: I/O semantics 3.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relief {
    /// A flush: costs disk work, but a region server that goes away can still be brought up to date by replay.
    Flush,
    /// A barrier: costs no disk work, but until the next flush a lost connection means a live repair.
    Barrier,
}

/// Bounds. Jobs are counted, bytes are of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Jobs that may be known at once: unanswered, or kept for replay.
    pub jobs: usize,
    /// Data that may be kept or asked for at once.
    pub bytes: usize,
    /// [`Relief`] comes at so many jobs that wait for a flush.
    pub relief_jobs: usize,
    /// [`Relief`] comes at so much data that waits for a flush.
    pub relief_bytes: usize,
    /// A region server that is away is given up when so many jobs wait for it.
    pub offline_jobs: usize,
    /// A region server that is away is given up when so much data waits for it.
    pub offline_bytes: usize,
    /// What may lie in the transmit queue of one connection.
    pub transmit_bytes: usize,
    /// Jobs that one region server may have been sent without having answered them; the rest waits here. Region
    /// servers bound their queues, and hang up on who overruns them.
    pub sent_jobs: usize,
    /// The same for the data of those jobs.
    pub sent_bytes: usize,
    /// The largest read or write.
    pub request_bytes: usize,
    /// Extents that a live repair has in flight. Guest I/O on these waits.
    pub live_repair_extents: usize,
    /// Extents that a reconciliation has in flight.
    pub reconcile_extents: usize,
}

impl Config {
    /// The defaults of the reference where they are good, ours where they are not.
    pub fn new(upstairs: UpstairsId, addresses: [SocketAddr; 3]) -> Self {
        Self {
            upstairs,
            addresses,
            geometry: None,
            encrypted: false,
            read_only: false,
            degraded_activation: None,
            flush_interval: Span::from_millis(500),
            patience: Span::from_secs(60),
            relief: Relief::Flush,
            limits: Limits::default(),
            jitter_seed: 0,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            jobs: 10_000,
            bytes: 64 << 20,
            relief_jobs: 4_000,
            relief_bytes: 24 << 20,
            offline_jobs: 1_000,
            offline_bytes: 50 << 20,
            transmit_bytes: 4 << 20,
            sent_jobs: 3_000,
            sent_bytes: 24 << 20,
            request_bytes: 16 << 20,
            live_repair_extents: 3,
            reconcile_extents: 8,
        }
    }
}
