//! What one region server's store can do, without network and without its threads: 1 GiB in extents of 64 MiB, sealed
//! blocks of 4 KiB. Beside the sequential writes, the same bytes go to one plain file with a sync at the end.
//!
//! The directory is the second argument, or the system's for temporary files; it must lie on a disk, not in memory.

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use benches::{Figure, report};
use crucible_downstairs::disk::{Disk, FileDisk};
use crucible_downstairs::store::{Mode, Options, Overwrite, Region, WriteJob};
use crucible_protocol::context::integrity_hash;
use crucible_protocol::{BlockContext, BlockIndex, EncryptionContext, Geometry, RegionDefinition};
use uuid::Uuid;

const BLOCK: usize = 4096;
const EXTENT_BLOCKS: u64 = 16384;
const EXTENTS: u32 = 16;
const BLOCKS: u64 = EXTENT_BLOCKS * EXTENTS as u64;
const MIB: usize = 1 << 20;
/// Between two flushes of a stream: what an upstairs leaves at most.
const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// Random writes between two flushes, and in all.
const RANDOM_BATCH: u64 = 4096;
const RANDOM: u64 = 16 * RANDOM_BATCH;

type Failed = Box<dyn Error>;

fn main() -> Result<(), Failed> {
    let rounds = benches::rounds();
    let parent = std::env::args_os()
        .nth(2)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let scratch = Scratch::new(&parent)?;
    let payload = Payload::new();
    let (mut first, mut again, mut plain) = (0.0f64, 0.0f64, 0.0f64);
    let (mut random, mut cpu) = (0.0f64, f64::INFINITY);
    let (mut first_cpu, mut again_cpu) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..rounds {
        plain = plain.max(plain_file(&scratch.0.join("plain"), &payload)?);
        let region = region(&scratch.0.join("region"))?;
        let (rate, each) = sequential(&region, &payload, 1)?;
        first = first.max(rate);
        first_cpu = first_cpu.min(each);
        let (rate, each) = sequential(&region, &payload, 1000)?;
        again = again.max(rate);
        again_cpu = again_cpu.min(each);
        let (rate, each) = random_writes(&region, &payload)?;
        random = random.max(rate);
        cpu = cpu.min(each);
    }
    figure(
        "store: 1 MiB sequential write, fresh, durable",
        first,
        Some(plain),
        "MB/s",
    );
    figure("store:   processor time a MiB", first_cpu, None, "us");
    figure(
        "store: 1 MiB sequential write, over old blocks, durable",
        again,
        Some(plain),
        "MB/s",
    );
    figure("store:   processor time a MiB", again_cpu, None, "us");
    figure("store: 4K random write, durable", random, None, "k/s");
    figure("store:   processor time a write", cpu, None, "us");
    Ok(())
}

fn figure(name: &str, ours: f64, theirs: Option<f64>, unit: &'static str) {
    report(&Figure {
        name: name.to_owned(),
        ours,
        theirs,
        unit,
        at_least: None,
    });
}

fn region(path: &Path) -> Result<Region, Failed> {
    if path.exists() {
        std::fs::remove_dir_all(path)?;
    }
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(path));
    let geometry = Geometry::new(BLOCK as u64, EXTENT_BLOCKS, EXTENTS)?;
    let definition = RegionDefinition::new(geometry, Uuid::from_u128(1), true);
    Region::create(&disk, &definition, &mut |_, _| {})?;
    Ok(Region::open(disk, Mode::ReadWrite, Options::default())?)
}

/// One mebibyte of blocks that no file system can make smaller, with their contexts.
struct Payload {
    data: Vec<u8>,
    contexts: Vec<BlockContext>,
}

impl Payload {
    fn new() -> Self {
        let mut state = 1u64;
        let mut data = vec![0; MIB];
        for word in data.chunks_exact_mut(8) {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            word.copy_from_slice(&(state ^ state >> 29).to_le_bytes());
        }
        let contexts = data
            .chunks_exact(BLOCK)
            .map(|block| {
                let encryption = EncryptionContext {
                    nonce: [1; 12],
                    tag: [2; 16],
                };
                BlockContext {
                    hash: integrity_hash(Some(&encryption), block),
                    encryption: Some(encryption),
                }
            })
            .collect();
        Self { data, contexts }
    }
}

/// In MB/s, and microseconds of processor time each.
fn sequential(region: &Region, payload: &Payload, flushes: u64) -> Result<(f64, f64), Failed> {
    let mut flush = flushes;
    let (started, spent) = (Instant::now(), processor_time()?);
    let mut flushed = started;
    for start in (0..BLOCKS).step_by(payload.contexts.len()) {
        region.write(
            BlockIndex(start),
            &payload.contexts,
            &payload.data,
            Overwrite::All,
        )?;
        if flushed.elapsed() >= FLUSH_EVERY {
            flush += 1;
            region.flush(flush, 1, None)?;
            flushed = Instant::now();
        }
    }
    region.flush(flush + 1, 1, None)?;
    let bytes = BLOCKS as f64 * BLOCK as f64;
    let rate = bytes / 1e6 / started.elapsed().as_secs_f64();
    let cpu = (processor_time()? - spent).as_secs_f64();
    Ok((rate, 1e6 * cpu / (bytes / MIB as f64)))
}

fn plain_file(path: &Path, payload: &Payload) -> Result<f64, Failed> {
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    let file = File::create(path)?;
    let started = Instant::now();
    let bytes = BLOCKS * BLOCK as u64;
    for at in (0..bytes).step_by(MIB) {
        file.write_all_at(&payload.data, at)?;
    }
    file.sync_data()?;
    Ok(bytes as f64 / 1e6 / started.elapsed().as_secs_f64())
}

/// In thousands a second, and microseconds of processor time each.
fn random_writes(region: &Region, payload: &Payload) -> Result<(f64, f64), Failed> {
    let mut state = 7u64;
    let mut results = Vec::new();
    let (started, spent) = (Instant::now(), processor_time()?);
    for batch in 0..RANDOM / RANDOM_BATCH {
        for _ in 0..RANDOM_BATCH / 32 {
            let jobs: Vec<WriteJob<'_>> = payload
                .contexts
                .chunks_exact(1)
                .zip(payload.data.chunks_exact(BLOCK))
                .take(32)
                .map(|(contexts, data)| {
                    state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    WriteJob {
                        start: BlockIndex((state >> 33) % BLOCKS),
                        contexts,
                        data,
                        overwrite: Overwrite::All,
                    }
                })
                .collect();
            region.write_batch(&jobs, &mut results);
            for result in results.drain(..) {
                result?;
            }
        }
        region.flush(1_000_000 + batch, 1, None)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu = (processor_time()? - spent).as_secs_f64();
    Ok((RANDOM as f64 / 1e3 / seconds, 1e6 * cpu / RANDOM as f64))
}

/// Of this process, in and out of the kernel.
fn processor_time() -> Result<Duration, Failed> {
    let mut all = Duration::ZERO;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let nanoseconds = text
            .split_whitespace()
            .next()
            .and_then(|field| field.parse().ok())
            .unwrap_or(0);
        all += Duration::from_nanos(nanoseconds);
    }
    Ok(all)
}

/// A directory that goes away with the program.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path) -> Result<Self, Failed> {
        let path = parent.join(format!("trivet-bench-store-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
