//! The replicated volume, encrypted, 4 KiB blocks: client and three region servers share this machine.
//!
//! "Durable" counts the final flush in. Beside the random writes runs fio on an ordinary file of the same size, with
//! its final sync; beside the reads, fio on the same file in the page cache. Beside the large writes stands what the
//! machine can do at best with three files at once: alone, and with the sealing and the sockets of a volume.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::accounts::{peak_bytes, processor_time};
use super::{Bound, Options, Row, inside};
use crate::measured::Cost;
use crate::volume::fleet::{Fleet, Programs, Shape};
use crate::volume::trials::make_again;
use crate::{debian, run};

/// 1 GiB in extents of 64 MiB.
const LARGE: Shape = Shape {
    block_size: 4096,
    extent_size: 16384,
    extent_count: 16,
    encrypted: true,
    servers: 3,
};
const SECONDS: &str = "5";
/// Into regions that nobody has written to.
const FILL: &str = "1 MiB sequential write, depth 16, durable";
/// Over blocks that are there.
const AGAIN: &str = "1 MiB sequential write again, depth 16, durable";

/// Measures each figure of the volume.
pub(super) fn measure(options: &Options) -> Result<Vec<Row>, String> {
    let programs = Programs::provide(options.programs.as_deref())?;
    let mut rows = Vec::new();
    let rounds = options.rounds();
    let mut fleet = sequential(&programs, rounds, &mut rows)?;

    let (depths, aim) = (["1", "32", "128"], 30.0);
    random(&mut fleet, rounds, "write", &depths, aim, &mut rows)?;
    // Large writes go past the page cache; reads are measured from there.
    fleet.run("verify", &["--io-size", "1m", "--io-depth", "16"])?;
    let (depths, aim) = (["1", "8", "32", "128"], 60.0);
    random(&mut fleet, rounds, "read", &depths, aim, &mut rows)?;

    let one = least(&mut fleet, rounds, "one", &["--count", "500"], |said| {
        mean(said, "writes") + mean(said, "flushes")
    })?;
    rows.push(plain(
        "4K write + flush, mean",
        one / 1e3,
        "ms",
        Bound::AtMost(0.7),
    ));
    let flags = ["--count", "256", "--io-size", "4k", "--io-depth", "256"];
    let flush = least(&mut fleet, rounds.max(5), "rand-write", &flags, |said| {
        said["final_flush_ms"].as_f64().unwrap_or(f64::INFINITY)
    })?;
    rows.push(plain(
        "flush after 256 random 4K writes",
        flush,
        "ms",
        Bound::AtMost(15.0),
    ));
    let flags = ["--count", "50", "--io-size", "4k"];
    let behind = least(&mut fleet, rounds, "bufferbloat", &flags, |said| {
        mean(said, "reads")
    })?;
    rows.push(plain(
        "one read behind 64 queued writes, mean",
        behind / 1e3,
        "ms",
        Bound::AtMost(5.0),
    ));

    let bill = bill(&fleet)?;
    rows.push(plain(
        "most memory of a downstairs",
        mebibytes(bill.resident_bytes),
        "MiB",
        Bound::AtMost(64.0),
    ));
    let (_, cost) = fleet.run_measured("fast-fill", &["--io-size", "1m", "--io-depth", "16"])?;
    rows.push(plain(
        "most memory of the upstairs, 1M writes",
        mebibytes(cost.resident_bytes),
        "MiB",
        Bound::AtMost(128.0),
    ));
    rows.push(repair(&programs, &mut fleet)?);
    beside(fleet.directory(), &mut rows)?;
    limits(fleet.directory(), rounds, &mut rows)?;
    fleet.end()?;
    std::fs::remove_dir_all(fleet.directory()).map_err(|error| error.to_string())?;
    Ok(rows)
}

/// Large operations, first on regions that nobody has written to. Leaves the servers of the last of these running.
fn sequential<'a>(
    programs: &'a Programs,
    rounds: usize,
    rows: &mut Vec<Row>,
) -> Result<Fleet<'a>, String> {
    let flags = ["--io-size", "1m", "--io-depth", "16"];
    let mut fleet = Fleet::start(programs, "bench", LARGE)?;
    let mut fill: f64 = 0.0;
    for round in 0..rounds {
        if round > 0 {
            fleet.end()?;
            fleet = Fleet::start(programs, "bench", LARGE)?;
        }
        fill = fill.max(best(&mut fleet, 1, "fast-fill", &flags, "mb_per_s")?.0);
    }
    rows.push(plain(FILL, fill, "MB/s", Bound::AtLeast(800.0)));
    // What was written may have gone past the page cache; the next one reads from there.
    let first = best(&mut fleet, 1, "verify", &flags, "mb_per_s")?.0;
    let figure = "1 MiB sequential read, first after the fill";
    rows.push(plain(figure, first, "MB/s", Bound::None));
    let read = best(&mut fleet, rounds, "verify", &flags, "mb_per_s")?.0;
    let figure = "1 MiB sequential read, depth 16";
    rows.push(plain(figure, read, "MB/s", Bound::AtLeast(1500.0)));
    let again = best(&mut fleet, rounds, "fast-fill", &flags, "mb_per_s")?.0;
    rows.push(plain(AGAIN, again, "MB/s", Bound::None));
    Ok(fleet)
}

/// Random operations of 4 KiB at several depths; at depth 32 with an aim, in thousands a second, and with their cost.
fn random(
    fleet: &mut Fleet<'_>,
    rounds: usize,
    kind: &str,
    depths: &[&str],
    aim: f64,
    rows: &mut Vec<Row>,
) -> Result<(), String> {
    let durable = if kind == "write" { ", durable" } else { "" };
    for depth in depths {
        let before = bill(fleet)?;
        let flags = ["--io-size", "4k", "--io-depth", depth, "--time", SECONDS];
        let workload = format!("rand-{kind}");
        let (iops, cost, operations) = best(fleet, rounds, &workload, &flags, "iops")?;
        let spent = bill(fleet)?.cpu - before.cpu;
        let is_aim = *depth == "32";
        let bound = if is_aim {
            Bound::AtLeast(aim)
        } else {
            Bound::None
        };
        let figure = format!("4K random {kind}, depth {depth}{durable}");
        rows.push(plain(&figure, iops / 1e3, "k/s", bound));
        if is_aim {
            let each = 1e6 * cost.cpu.as_secs_f64() / operations;
            let figure = format!("  processor time a {kind}, upstairs");
            rows.push(plain(&figure, each, "us", Bound::None));
            // The rounds differ little in their number of operations.
            let each = 1e6 * spent.as_secs_f64() / (operations * rounds as f64);
            let figure = format!("  processor time a {kind}, all downstairs (about)");
            rows.push(plain(&figure, each, "us", Bound::None));
        }
    }
    Ok(())
}

fn plain(figure: &str, ours: f64, unit: &str, bound: Bound) -> Row {
    Row {
        figure: figure.to_owned(),
        ours,
        theirs: None,
        unit: unit.to_owned(),
        bound,
    }
}

/// The largest of a figure, the cost of all of its process, and its number of operations.
fn best(
    fleet: &mut Fleet<'_>,
    rounds: usize,
    workload: &str,
    flags: &[&str],
    figure: &str,
) -> Result<(f64, Cost, f64), String> {
    let mut best = (0.0, Cost::default(), 1.0);
    for _ in 0..rounds {
        let (said, cost) = fleet.run_measured(workload, flags)?;
        let value = number(&said[figure], figure)?;
        if value > best.0 {
            best = (value, cost, number(&said["operations"], "operations")?);
        }
    }
    Ok(best)
}

fn least(
    fleet: &mut Fleet<'_>,
    rounds: usize,
    workload: &str,
    flags: &[&str],
    figure: fn(&Value) -> f64,
) -> Result<f64, String> {
    let mut least = f64::INFINITY;
    for _ in 0..rounds {
        least = least.min(figure(&fleet.run(workload, flags)?));
    }
    Ok(least)
}

fn number(value: &Value, name: &str) -> Result<f64, String> {
    value
        .as_f64()
        .ok_or_else(|| format!("crutest reports no {name}"))
}

/// In microseconds.
fn mean(said: &Value, kind: &str) -> f64 {
    said[kind]["mean_us"].as_f64().unwrap_or(f64::INFINITY)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What the region servers have cost so far, together; of memory, the one that held most.
fn bill(fleet: &Fleet<'_>) -> Result<Cost, String> {
    let mut bill = Cost::default();
    for index in 0..3 {
        let id = fleet.pid(index)?;
        bill.cpu += processor_time(id)?;
        bill.resident_bytes = bill.resident_bytes.max(peak_bytes(id)?);
    }
    Ok(bill)
}

/// A region is lost while nobody uses the volume; the next activation makes it again from the others.
fn repair(programs: &Programs, fleet: &mut Fleet<'_>) -> Result<Row, String> {
    fleet.end()?;
    let lost = fleet.region(1);
    std::fs::remove_dir_all(&lost).map_err(|error| format!("{}: {error}", lost.display()))?;
    make_again(programs, fleet, 1)?;
    fleet.serve()?;
    let started = Instant::now();
    fleet.run("one", &[])?;
    let rate = LARGE.bytes() as f64 / 1e6 / started.elapsed().as_secs_f64();
    Ok(plain(
        "a lost region made again at activation",
        rate,
        "MB/s",
        Bound::AtLeast(500.0),
    ))
}

/// What the machine can do at best of what a volume does: its own rows, and our figures beside those that are like
/// them.
fn limits(directory: &Path, rounds: usize, rows: &mut Vec<Row>) -> Result<(), String> {
    let found = inside::measure("limits", rounds, &[directory.as_os_str()])?;
    let mut ratios = Vec::new();
    for limit in &found {
        let like = if limit.figure.contains("again") {
            AGAIN
        } else {
            FILL
        };
        let ours = rows.iter().find(|row| row.figure == like);
        ratios.extend(ours.map(|row| Row {
            figure: format!("{like}, to {}", limit.figure),
            theirs: Some(limit.ours),
            bound: Bound::None,
            ..row.clone()
        }));
    }
    rows.append(&mut ratios);
    Ok(())
}

/// What the machine itself can do: fio on an ordinary file.
fn beside(directory: &Path, rows: &mut Vec<Row>) -> Result<(), String> {
    let fio = debian::provide("fio", "fio")?;
    let file = directory.join("fio.img");
    let mut ratios = Vec::new();
    for row in rows.iter() {
        let (mode, size, key) = match row.figure.as_str() {
            "4K random write, depth 32, durable" => ("randwrite", "4k", "iops"),
            "4K random read, depth 32" => ("randread", "4k", "iops"),
            FILL => ("write", "1m", "bw_bytes"),
            "1 MiB sequential read, depth 16" => ("read", "1m", "bw_bytes"),
            _ => continue,
        };
        let mut command = Command::new(&fio);
        command
            .args([
                "--name=beside",
                "--ioengine=io_uring",
                "--iodepth=32",
                "--size=1g",
            ])
            .args([
                "--end_fsync=1",
                "--output-format=json",
                "--time_based",
                "--runtime=4",
            ])
            .args([format!("--rw={mode}"), format!("--bs={size}")])
            .arg(format!("--filename={}", file.display()));
        let text = run::quiet(&mut command)?;
        let start = text.find('{').unwrap_or(0);
        let said: Value =
            serde_json::from_str(&text[start..]).map_err(|error| format!("fio: {error}"))?;
        let half = if mode.ends_with("read") {
            "read"
        } else {
            "write"
        };
        let value = number(&said["jobs"][0][half][key], key)?;
        ratios.push(Row {
            figure: format!("{}, to fio on a file", row.figure),
            theirs: Some(value / if key == "iops" { 1e3 } else { 1e6 }),
            bound: Bound::None,
            ..row.clone()
        });
    }
    rows.append(&mut ratios);
    Ok(())
}
