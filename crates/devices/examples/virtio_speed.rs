//! How many 4 KiB reads a second one virtio block queue carries, to a disk that answers at once.

use std::time::Instant;

use block::{Disk, NullReads};
use devices::testkit::virtio_bench::ReadLoad;
use vm_types::Execution;

#[expect(clippy::print_stdout, reason = "an example talks to its user")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let disk = Disk::null(512, 1 << 40, NullReads::Untouched)?;
    for execution in [Execution::Inline, Execution::Threads] {
        for depth in [1, 64] {
            let mut load = ReadLoad::on(&disk, depth, execution);
            load.run(50_000);
            let begin = Instant::now();
            let reads = load.run(if depth == 1 { 200_000 } else { 2_000_000 });
            let rate = reads as f64 / begin.elapsed().as_secs_f64();
            println!(
                "virtio, null, {execution:?}, depth {depth}: {rate:.0} reads of 4 KiB a second"
            );
        }
    }
    Ok(())
}
