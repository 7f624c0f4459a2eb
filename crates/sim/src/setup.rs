//! What a world is made of, drawn from its seed: sizes, delays, limits, habits.

use crucible_downstairs::core::Limits as ServerLimits;
use crucible_protocol::Geometry;
use crucible_upstairs::core::{Limits, Relief};
use vm_types::Span;

use crate::dice::Dice;

/// Region servers that serve the volume at first, and spare ones.
pub const NODES: usize = 5;

/// The constants of one world.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Of the regions.
    pub geometry: Geometry,
    /// Whether blocks are sealed.
    pub encrypted: bool,
    /// Of the upstairs.
    pub limits: Limits,
    /// Of the region servers.
    pub server_limits: ServerLimits,
    /// How soon a flush comes by itself.
    pub flush_interval: Span,
    /// How long requests wait for region servers.
    pub patience: Span,
    /// How long activation waits for the third.
    pub degraded: Option<Span>,
    /// What keeps the list of unflushed jobs short.
    pub relief: Relief,
    /// Requests that the guest has in flight.
    pub depth: usize,
    /// The guest thinks for about so long at most.
    pub think: Span,
    /// The largest request of the guest, in blocks.
    pub blocks_max: u64,
    /// Of a hundred requests of the guest, so many are reads.
    pub reads: u64,
    /// Of a hundred requests of the guest, so many are flushes.
    pub flushes: u64,
    /// A message takes about so long at most.
    pub delay: Span,
    /// An operation on a disk takes about so long at most.
    pub disk: Span,
    /// Trouble comes about so often.
    pub trouble: Span,
    /// Between two things that turn everything over there is about so much time at most.
    pub upheaval: Span,
    /// Trouble lasts about so long at most.
    pub trouble_lasts: Span,
    /// Region servers that may be in trouble at once.
    pub troubled_max: usize,
}

impl Setup {
    /// The world of this seed.
    pub fn new(seed: u64) -> Result<Self, String> {
        let mut dice = Dice::new(seed, 100);
        // What came later, so that it leaves the rest of each world as it was.
        let mut more = Dice::new(seed, 101);
        let block_size = dice.pick(&[512, 512, 1024, 4096]).unwrap_or(512);
        let per_extent = dice.pick(&[2, 5, 8]).unwrap_or(8);
        let extents = 3 + dice.below(6) as u32;
        let geometry = Geometry::new(block_size, per_extent, extents)
            .map_err(|error| format!("seed {seed}: {error}"))?;
        let jobs = dice.pick(&[24, 64, 200]).unwrap_or(64);
        let bytes = jobs * block_size as usize * 2;
        let limits = Limits {
            jobs,
            bytes,
            relief_jobs: jobs / dice.pick(&[2, 4]).unwrap_or(2),
            relief_bytes: bytes / 2,
            offline_jobs: jobs / dice.pick(&[2, 3, 6]).unwrap_or(2),
            offline_bytes: bytes / 2,
            sent_jobs: more.pick(&[8, 64, 3_000]).unwrap_or(64),
            sent_bytes: block_size as usize * more.pick(&[20, 100, 6_000]).unwrap_or(100),
            transmit_bytes: dice.pick(&[2 << 10, 16 << 10, 1 << 20]).unwrap_or(1 << 20),
            request_bytes: block_size as usize * 16,
            live_repair_extents: 1 + dice.index(4),
            reconcile_extents: 1 + dice.index(4),
        };
        let server_limits = ServerLimits {
            jobs: dice.pick(&[512, 4096]).unwrap_or(4096),
            bytes: dice.pick(&[bytes as u64, 32 << 20]).unwrap_or(32 << 20),
            ..ServerLimits::default()
        };
        Ok(Self {
            geometry,
            encrypted: dice.percent(50),
            limits,
            server_limits,
            flush_interval: dice.span(Span::from_millis(20), Span::from_secs(2)),
            patience: dice.span(Span::from_secs(1), Span::from_secs(60)),
            degraded: dice
                .percent(50)
                .then(|| dice.span(Span::from_millis(100), Span::from_secs(10))),
            relief: if dice.percent(70) {
                Relief::Flush
            } else {
                Relief::Barrier
            },
            depth: dice.pick(&[1, 4, 16, 32]).unwrap_or(4),
            think: dice.span(Span::from_millis(1), Span::from_secs(2)),
            blocks_max: dice.pick(&[1, 3, 10]).unwrap_or(3),
            reads: 20 + dice.below(40),
            flushes: 1 + dice.below(15),
            delay: dice.span(Span::from_micros(100), Span::from_millis(20)),
            disk: dice.span(Span::from_micros(50), Span::from_millis(10)),
            trouble: dice.span(Span::from_millis(30), Span::from_secs(5)),
            upheaval: dice.span(Span::from_millis(200), Span::from_secs(20)),
            trouble_lasts: dice.span(Span::from_millis(50), Span::from_secs(100)),
            troubled_max: dice.pick(&[1, 1, 1, 2, 3]).unwrap_or(1),
        })
    }
}
