//! A seeded run of one target, with a watchdog that ends the process when an input hangs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Target;
use crate::breed::{self, Random};

/// No input may take longer.
const HANG: Duration = Duration::from_secs(20);

/// What a campaign did.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Inputs that were run.
    pub inputs: u64,
    /// Time that took.
    pub took: Duration,
}

/// The input with number `number` of the campaign with `seed`.
pub fn input(target: &Target, seed: u64, number: u64) -> Vec<u8> {
    let mut random = Random::new(seed ^ number.rotate_left(32).wrapping_add(number));
    breed::input(&mut random, target.seeds)
}

/// Runs inputs from number 0 on, until `inputs` of them are done or `limit` is over.
///
/// A bad input panics, or, if it hangs, ends the process; its number is printed before.
pub fn run(target: &Target, seed: u64, inputs: u64, limit: Duration) -> Done {
    let started = Instant::now();
    let number = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watchdog = scope.spawn(|| watch(target, seed, &number, &done));
        let _stop = StopOnDrop(&done, watchdog.thread().clone());
        while number.load(Ordering::Relaxed) < inputs && started.elapsed() < limit {
            let current = number.load(Ordering::Relaxed);
            let mut report = ReportOnPanic {
                target,
                seed,
                number: current,
                armed: true,
            };
            (target.run)(&input(target, seed, current));
            report.armed = false;
            number.store(current + 1, Ordering::Relaxed);
        }
    });
    Done {
        inputs: number.load(Ordering::Relaxed),
        took: started.elapsed(),
    }
}

fn watch(target: &Target, seed: u64, number: &AtomicU64, done: &AtomicBool) {
    let (mut last, mut since) = (u64::MAX, Instant::now());
    while !done.load(Ordering::Relaxed) {
        thread::park_timeout(Duration::from_millis(200));
        let current = number.load(Ordering::Relaxed);
        if current != last {
            (last, since) = (current, Instant::now());
        } else if since.elapsed() > HANG {
            report("hangs", target, seed, current);
            std::process::abort();
        }
    }
}

/// Lets the watchdog go when the campaign ends, well or not.
struct StopOnDrop<'a>(&'a AtomicBool, thread::Thread);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.unpark();
    }
}

/// Says which input was bad while its panic unwinds.
struct ReportOnPanic<'a> {
    target: &'a Target,
    seed: u64,
    number: u64,
    armed: bool,
}

impl Drop for ReportOnPanic<'_> {
    fn drop(&mut self) {
        if self.armed {
            report("fails", self.target, self.seed, self.number);
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the process is about to end; nobody else can say it"
)]
fn report(what: &str, target: &Target, seed: u64, number: u64) {
    eprintln!(
        "{} {what}; repeat with: cargo run -p fuzz -- {} --seed {seed} --only {number}",
        target.name, target.name
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Target = Target {
        name: "calm",
        about: "takes everything",
        seeds: &[b"seed"],
        run: |_| {},
    };

    #[test]
    fn a_campaign_ends_at_its_number() {
        assert_eq!(run(&CALM, 1, 50, Duration::from_secs(10)).inputs, 50);
    }

    #[test]
    fn a_campaign_ends_at_its_limit() {
        assert!(run(&CALM, 1, u64::MAX, Duration::from_millis(50)).took < Duration::from_secs(5));
    }

    #[test]
    fn inputs_are_named_by_seed_and_number() {
        assert_eq!(input(&CALM, 1, 2), input(&CALM, 1, 2));
        let distinct: std::collections::BTreeSet<Vec<u8>> =
            (0..50).map(|number| input(&CALM, 1, number)).collect();
        assert!(distinct.len() > 40);
    }

    #[test]
    fn a_bad_input_stops_the_campaign() {
        let picky = Target {
            run: |bytes| assert!(bytes.len() < 3, "too long"),
            ..CALM
        };
        let outcome = std::panic::catch_unwind(|| run(&picky, 1, 1000, Duration::from_secs(10)));
        assert!(outcome.is_err());
    }
}
