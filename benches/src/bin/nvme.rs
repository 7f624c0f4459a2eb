//! 4 KiB NVMe reads on one queue at depth 64, driven in process: to a disk that does nothing, and, with
//! the path of a file as second argument, to that file.

use std::error::Error;
use std::time::{Duration, Instant};

use benches::{Figure, report};
use block::{Disk, FileOptions};
use devices::testkit::nvme_bench::ReadLoad;
use vm_types::Execution;

const DEPTH: u32 = 64;
/// Time for one measurement.
const SPAN: Duration = Duration::from_secs(1);
/// Commands between two looks at the clock.
const STRIDE: u64 = 16_384;

fn main() -> Result<(), Box<dyn Error>> {
    let rounds = benches::rounds();
    report(&Figure {
        name: "NVMe 4K reads, null, depth 64".to_owned(),
        ours: thousands_a_second(&mut ReadLoad::null(DEPTH), rounds),
        theirs: None,
        unit: "k/s",
        at_least: Some(1000.0),
    });
    if let Some(path) = std::env::args().nth(2) {
        let disk = Disk::file(&FileOptions::new(path))?;
        report(&Figure {
            name: "NVMe 4K reads, file, depth 64".to_owned(),
            ours: thousands_a_second(&mut ReadLoad::on(disk, DEPTH, Execution::Threads), rounds),
            theirs: None,
            unit: "k/s",
            at_least: None,
        });
    }
    Ok(())
}

fn thousands_a_second(load: &mut ReadLoad, rounds: usize) -> f64 {
    let mut best = 0.0_f64;
    for _ in 0..rounds {
        let started = Instant::now();
        let mut commands = 0;
        while started.elapsed() < SPAN {
            commands += load.run(STRIDE);
        }
        best = best.max(commands as f64 / started.elapsed().as_secs_f64() / 1e3);
    }
    best
}
