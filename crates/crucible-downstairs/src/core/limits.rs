//! How much a peer may ask for at once, and how long things may take.

use vm_types::Span;

/// Of the limits on jobs and bytes, what ends a connection none of whose jobs can run. All that an upstairs may have
/// waiting behind one job (in a live repair, behind the opening of an extent) must find room: of the reference 75 MiB,
/// of ours 64 MiB and contexts.
pub(super) const STUCK_PERCENT: u64 = 400;

/// Bounds of the core. The defaults suit the reference upstairs, which keeps at most 1,500 jobs and 75 MiB in
/// flight for each region server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. A newcomer beyond that displaces the oldest that has not come to terms.
    pub connections: usize,
    /// Jobs of one connection before reading from it pauses. Four times as many end it, if none of them can run.
    pub jobs: usize,
    /// Bytes of data of those jobs (to be written, or asked for) before reading pauses; likewise.
    pub bytes: u64,
    /// The longest answer: what the frame of a read may hold.
    pub answer_bytes: u64,
    /// Entries kept about jobs that are gone.
    pub memory: usize,
    /// Nothing heard for this long ends a connection (spec: 3.5).
    pub silence: Span,
    /// A paused connection hears that we are alive this often; its own question may be stuck behind the pause.
    pub keepalive: Span,
    /// How often a job is tried before the peer is told that it failed for good.
    pub attempts: u32,
    /// Between the first try and the second; doubled each time.
    pub retry_delay: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            jobs: 4096,
            bytes: 24 << 20,
            answer_bytes: (100 << 20) - 4096,
            memory: 1 << 16,
            silence: Span::from_secs(45),
            keepalive: Span::from_secs(5),
            attempts: 9,
            retry_delay: Span::from_millis(2),
        }
    }
}

impl Limits {
    /// How long to wait after this many tries.
    pub(super) fn delay_after(&self, tries: u32) -> Span {
        let factor = 1u64 << tries.saturating_sub(1).min(16);
        Span::from_nanos(self.retry_delay.as_nanos().saturating_mul(factor))
    }
}
