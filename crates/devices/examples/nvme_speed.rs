//! Times 4 KiB NVMe reads to a disk that answers at once: the cost of the controller itself.

use std::time::Instant;

use block::{Disk, NullReads};
use devices::testkit::nvme_bench::ReadLoad;
use vm_types::Execution;

#[expect(clippy::print_stdout, reason = "a figure for a person to read")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (name, reads, execution) in [
        ("inline, untouched", NullReads::Untouched, Execution::Inline),
        ("inline, zeroes", NullReads::Zero, Execution::Inline),
        (
            "threads, untouched",
            NullReads::Untouched,
            Execution::Threads,
        ),
    ] {
        let mut load = ReadLoad::on(Disk::null(512, 1 << 40, reads)?, 64, execution);
        load.run(200_000);
        let start = Instant::now();
        let done = load.run(2_000_000);
        let each = start.elapsed().as_nanos() as f64 / done as f64;
        println!(
            "{name}: {each:.0} ns a command, {:.2} million a second",
            1e3 / each
        );
    }
    Ok(())
}
