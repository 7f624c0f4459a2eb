//! `dynamometer` and `repair-dynamometer`: how fast things go, without an upstairs.

use std::time::{Duration, Instant};

use crucible_downstairs::repair::Source;
use crucible_downstairs::store::{Mode, Overwrite, Region};
use crucible_protocol::{BlockContext, BlockIndex, ExtentId, RegionDefinition};
use uuid::Uuid;

use crate::args::{DynamometerArguments, RepairDynamometerArguments};
use crate::create::{geometry, make};
use crate::output::{Done, Failure, open, say};

/// When to flush.
enum Schedule {
    Never,
    Writes(u64),
    Blocks(u64),
    Time(Duration),
}

pub(crate) fn writes(arguments: &DynamometerArguments) -> Done {
    let geometry = geometry(&arguments.geometry)?;
    let blocks = u64::from(arguments.num_writes.max(1));
    if blocks > geometry.block_count() {
        return Err(Failure::new(format!(
            "--num-writes {blocks}: the region has {} blocks",
            geometry.block_count()
        )));
    }
    let definition = RegionDefinition::new(geometry, Uuid::new_v4(), arguments.geometry.encrypted);
    make(&arguments.data, &definition)?;
    let region = open(&arguments.data, Mode::ReadWrite)?;
    let schedule = match (
        arguments.flush_per_iops,
        arguments.flush_per_blocks,
        arguments.flush_per_ms,
    ) {
        (Some(count), _, _) => Schedule::Writes(count.max(1)),
        (_, Some(count), _) => Schedule::Blocks(count.max(1)),
        (_, _, Some(ms)) => Schedule::Time(Duration::from_millis(ms.max(1))),
        _ => Schedule::Never,
    };
    measure(&region, blocks, arguments.samples.max(1), &schedule)
}

fn measure(region: &Region, blocks: u64, samples: u32, schedule: &Schedule) -> Done {
    let failed = || Failure::about("the region failed");
    let block_size = region.geometry().block_size() as usize;
    let mut data = vec![0; block_size * blocks as usize];
    let (mut next, mut flush_number, mut since_flush) = (0, 0, 0);
    let mut flushed = Instant::now();
    let mut rates = Vec::new();
    for sample in 0..samples {
        let began = Instant::now();
        let mut writes = 0u64;
        while began.elapsed() < Duration::from_secs(1) {
            for (index, block) in data.chunks_mut(block_size).enumerate() {
                if let Some(word) = block.first_chunk_mut::<8>() {
                    *word = (next + index as u64 + writes).to_le_bytes();
                }
            }
            let contexts: Vec<_> = data.chunks(block_size).map(BlockContext::plain).collect();
            region
                .write(BlockIndex(next), &contexts, &data, Overwrite::All)
                .map_err(failed())?;
            writes += 1;
            since_flush += 1;
            next += blocks;
            if next + blocks > region.geometry().block_count() {
                next = 0;
            }
            let due = match schedule {
                Schedule::Never => false,
                Schedule::Writes(count) => since_flush >= *count,
                Schedule::Blocks(count) => since_flush * blocks >= *count,
                Schedule::Time(span) => flushed.elapsed() >= *span,
            };
            if due {
                flush_number += 1;
                region.flush(flush_number, 1, None).map_err(failed())?;
                since_flush = 0;
                flushed = Instant::now();
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let rate = writes as f64 / seconds;
        rates.push(rate);
        say(format_args!(
            "{:>4}: {rate:>10.0} writes/s {:>10.1} MB/s",
            sample + 1,
            rate * data.len() as f64 / 1e6
        ))?;
    }
    region.flush(flush_number + 1, 1, None).map_err(failed())?;
    let mean = rates.iter().sum::<f64>() / rates.len().max(1) as f64;
    say(format_args!(
        "mean: {mean:>10.0} writes/s {:>10.1} MB/s",
        mean * data.len() as f64 / 1e6
    ))
}

pub(crate) fn repairs(arguments: &RepairDynamometerArguments) -> Done {
    let source = Source::new(arguments.clone_source);
    let about = || Failure::about("clone source");
    let definition = source.region_info().map_err(about())?;
    let began = Instant::now();
    let mut total = 0;
    for extent in (0..definition.extent_count).map(ExtentId) {
        let extent_began = Instant::now();
        let bytes = source.download(&definition, extent).map_err(about())?;
        total += bytes;
        let seconds = extent_began.elapsed().as_secs_f64().max(1e-9);
        say(format_args!(
            "extent {extent}: {bytes} bytes, {:.1} MB/s",
            bytes as f64 / seconds / 1e6
        ))?;
    }
    let seconds = began.elapsed().as_secs_f64().max(1e-9);
    say(format_args!(
        "{total} bytes in {seconds:.3} s, {:.1} MB/s",
        total as f64 / seconds / 1e6
    ))
}
