//! Fixed seeds, seeds that once failed, and many seeds when there is time.

use std::sync::Mutex;

use sim::{DiskKind, Fault, Faults, Scenario, Table, run};

/// Seeds of the quick tests, for each kind of disk.
const QUICK: u64 = 40;
/// Seeds of the slow test.
const SLOW: u64 = 10_000;

fn scenario(seed: u64, disk: DiskKind) -> Scenario {
    Scenario {
        disk,
        ..Scenario::new(seed)
    }
}

fn run_all(scenarios: impl Iterator<Item = Scenario>) -> Table {
    let mut table = Table::default();
    for scenario in scenarios {
        table.add(&run(&scenario));
    }
    assert!(table.violations.is_empty(), "{}", table.text());
    table
}

#[test]
fn fixed_seeds_hold_all_promises_on_the_store() {
    let table = run_all((0..QUICK).map(|seed| scenario(seed, DiskKind::Store)));
    assert!(table.sum("requests that succeeded") > QUICK * 20);
}

#[test]
fn fixed_seeds_hold_all_promises_on_the_model() {
    let table = run_all((0..QUICK).map(|seed| scenario(seed, DiskKind::Model)));
    assert!(table.sum("requests that succeeded") > QUICK * 20);
}

#[test]
fn every_kind_of_fault_comes_and_everything_is_repaired() {
    let scenarios = (QUICK..2 * QUICK).map(|seed| scenario(seed, DiskKind::Model));
    let table = run_all(scenarios);
    for kind in Fault::ALL {
        assert!(table.fault(*kind) > 0, "{} never came", kind.name());
    }
    for sum in [
        "replays",
        "live repairs",
        "live repairs broken off",
        "snapshots",
        "read-only with two missing",
        "read-only with one missing",
        "read-only with all three",
    ] {
        assert!(table.sum(sum) > 0, "no {sum}");
    }
}

#[test]
fn in_fair_weather_no_request_fails() {
    for seed in 0..8 {
        let outcome = run(&Scenario {
            faults: Faults::NONE,
            ..scenario(seed, DiskKind::Store)
        });
        assert_eq!(outcome.violation, None, "{}", outcome.scenario);
        assert_eq!(outcome.refused, 0, "{}", outcome.scenario);
        assert_eq!(outcome.activations, 1, "{}", outcome.scenario);
        assert!(outcome.answered > outcome.scenario.steps);
    }
}

#[test]
fn rot_of_one_replica_is_found_and_repaired() {
    let mut table = Table::default();
    for seed in 0..10 {
        let outcome = run(&Scenario {
            faults: Faults::NONE.with(Fault::Rot).with(Fault::Delay),
            ..scenario(seed, DiskKind::Store)
        });
        assert_eq!(outcome.violation, None, "{}", outcome.scenario);
        table.add(&outcome);
    }
    assert!(table.sum("reports of bad data") > 0);
    assert!(table.sum("live repairs") > 0);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for disk in [DiskKind::Model, DiskKind::Store] {
        for seed in 0..6 {
            let (one, two) = (run(&scenario(seed, disk)), run(&scenario(seed, disk)));
            assert_eq!(one.hash, two.hash, "{}", one.scenario);
            assert_eq!(one.events, two.events, "{}", one.scenario);
            let other = run(&scenario(seed + 100, disk));
            assert_ne!(one.hash, other.hash);
        }
    }
}

#[test]
fn what_once_failed_does_not_fail_again() {
    for (scenario, reason) in sim::seeds::kept().unwrap() {
        let outcome = run(&scenario);
        assert_eq!(outcome.violation, None, "{scenario} ({reason})");
    }
}

#[test]
fn slow_ten_thousand_seeds_hold_all_promises() {
    // Minutes of work: only when TRIVET_SLOW is set.
    if std::env::var_os("TRIVET_SLOW").is_none() {
        return;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let all = Mutex::new(Table::default());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let all = &all;
            scope.spawn(move || {
                let mut table = Table::default();
                for seed in (thread..SLOW).step_by(threads as usize) {
                    let disk = if seed % 2 == 0 {
                        DiskKind::Store
                    } else {
                        DiskKind::Model
                    };
                    table.add(&run(&scenario(10_000 + seed, disk)));
                }
                all.lock().unwrap().join(table);
            });
        }
    });
    let all = all.into_inner().unwrap();
    println!("{}", all.text());
    assert!(all.violations.is_empty(), "{}", all.text());
    assert_eq!(all.seeds, SLOW);
}
