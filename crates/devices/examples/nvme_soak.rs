//! Runs the NVMe model, command and register steps on random bytes for some seconds (default 10).

use std::time::{Duration, Instant};

use devices::testkit::nvme_fuzz;

#[expect(clippy::print_stdout, reason = "a figure for a person to read")]
fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let limit = Duration::from_secs(seconds.unwrap_or(10));
    let start = Instant::now();
    let mut state = 0x1234_5678_9abc_def0u64;
    let mut rounds = 0u64;
    while start.elapsed() < limit {
        let bytes: Vec<u8> = (0..3000)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        nvme_fuzz::model(&bytes);
        nvme_fuzz::commands(&bytes);
        nvme_fuzz::registers(&bytes);
        rounds += 1;
    }
    println!("{rounds} rounds of 3 inputs, no surprise");
}
