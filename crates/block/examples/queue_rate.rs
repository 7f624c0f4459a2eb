//! How many requests a second one queue carries: to the null disk, or to a file with
//! `queue_rate PATH [direct]` (reads only).

use std::time::{Duration, Instant};

use block::testkit::ScriptedSource;
use block::{AttachOptions, Class, Disk, FileEngine, FileOptions, NullReads, Operation};
use vm_types::{Execution, GuestMemory};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next() {
        None => {
            for reads in [NullReads::Untouched, NullReads::Zero] {
                let disk = Disk::null(512, 1 << 34, reads)?;
                for execution in [Execution::Threads, Execution::Inline] {
                    measure(&format!("null, {reads:?}"), &disk, execution, 64, 4_000_000)?;
                }
            }
        }
        Some(path) => {
            let direct = arguments.next().is_some();
            for engine in [FileEngine::Auto, FileEngine::Threads] {
                let disk = Disk::file(&FileOptions {
                    engine,
                    direct,
                    read_only: true,
                    ..FileOptions::new(&path)
                })?;
                for depth in [1, 4, 64] {
                    let name = format!("{path}, {engine:?}");
                    measure(&name, &disk, Execution::Threads, depth, 300_000)?;
                }
            }
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "an example talks to its user")]
fn measure(
    name: &str,
    disk: &Disk,
    execution: Execution,
    depth: u32,
    count: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    let memory = GuestMemory::flat(16 << 20)?;
    let span = disk.info().size_bytes;
    let source = ScriptedSource::random(memory, Operation::Read, 4096, span, count);
    let queue = disk.attach(source.weak(), AttachOptions::new("rate", execution, depth))?;
    let begin = Instant::now();
    queue.kick();
    source.wait(Duration::from_secs(60));
    let rate = source.progress().1 as f64 / begin.elapsed().as_secs_f64();
    let latency = &queue.stats().class(Class::Read).latency.clone();
    println!(
        "{name}, {execution:?}, depth {depth}: {rate:.0} reads of 4 KiB a second, median {} ns",
        latency.percentile(50.0).as_nanos()
    );
    Ok(())
}
