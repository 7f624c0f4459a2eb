//! What is done to a volume, and what must come of it.

use std::process::Command;
use std::time::Duration;

use super::background::Background;
use super::fleet::{Fleet, Programs, Shape};
use super::nbd;

/// One row.
pub(super) struct Trial {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// Returns what is worth saying.
    pub(super) run: fn(&Programs) -> Result<String, String>,
}

pub(super) const TRIALS: &[Trial] = &[
    Trial {
        name: "fill-and-verify",
        about: "create, start, fill, verify, stop one, write, start it, replay, verify",
        run: fill_and_verify,
    },
    Trial {
        name: "reconcile",
        about: "a region that is lost while nobody uses the volume is made again from the others",
        run: reconcile,
    },
    Trial {
        name: "killed-at-random",
        about: "one region server after the other is killed under a verified load",
        run: killed_at_random,
    },
    Trial {
        name: "takeover",
        about: "a higher generation takes the volume over; the lower one is told so and stops",
        run: takeover,
    },
    Trial {
        name: "wrong-key",
        about: "a volume does not open with a key that is not its own, and is none the worse",
        run: wrong_key,
    },
    Trial {
        name: "nbd-qemu-img",
        about: "qemu-img copies an image to the NBD export and back",
        run: nbd::qemu_img,
    },
    Trial {
        name: "nbd-nbdcopy",
        about: "nbdcopy copies an image to the NBD export and back",
        run: nbd::nbdcopy,
    },
    Trial {
        name: "nbd-fio",
        about: "fio writes and verifies over the NBD export",
        run: nbd::fio,
    },
];

fn fill_and_verify(programs: &Programs) -> Result<String, String> {
    let mut fleet = Fleet::start(programs, "fill-and-verify", Shape::SMALL)?;
    let log = fleet.directory().join("log.json").display().to_string();
    fleet.run("fill", &["--verify-out", &log])?;
    verified(&mut fleet, &log)?;
    // Under way, one goes and comes back in time to be brought up to date by replay.
    fleet.run(
        "replay",
        &["--verify-in", &log, "--verify-out", &log, "--count", "3"],
    )?;
    // And for long enough that its extents are copied from another.
    fleet.run(
        "repair",
        &["--verify-in", &log, "--verify-out", &log, "--count", "2"],
    )?;
    let said = verified(&mut fleet, &log)?;
    settled(&mut fleet)?;
    Ok(said)
}

fn reconcile(programs: &Programs) -> Result<String, String> {
    let mut fleet = Fleet::start(programs, "reconcile", Shape::SMALL)?;
    let log = fleet.directory().join("log.json").display().to_string();
    fleet.run("fill", &["--verify-out", &log])?;
    fleet.end()?;
    let lost = fleet.region(1);
    let old = fleet.directory().join("lost");
    std::fs::rename(&lost, &old).map_err(|error| format!("{}: {error}", lost.display()))?;
    make_again(programs, &fleet, 1)?;
    fleet.serve()?;
    let said = verified(&mut fleet, &log)?;
    settled(&mut fleet)?;
    Ok(said)
}

/// Makes an empty region in the place of a lost one.
pub(crate) fn make_again(programs: &Programs, fleet: &Fleet<'_>, index: u16) -> Result<(), String> {
    let definition = fleet.region(0).join("region.json");
    let text = std::fs::read_to_string(&definition)
        .map_err(|error| format!("{}: {error}", definition.display()))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let mut command = programs.command("crucible-downstairs");
    command
        .arg("create")
        .arg("--data")
        .arg(fleet.region(index))
        .args(["--uuid", &format!("12345678-0000-0000-0001-{index:012}")])
        .args(["--block-size", &value["block_size"].to_string()])
        .args(["--extent-size", &value["extent_size"]["value"].to_string()])
        .args(["--extent-count", &value["extent_count"].to_string()]);
    if value["encrypted"] == true {
        command.arg("--encrypted");
    }
    programs.quiet(&mut command).map(drop)
}

fn killed_at_random(programs: &Programs) -> Result<String, String> {
    const ROUNDS: u16 = 6;
    let mut fleet = Fleet::start(programs, "killed-at-random", Shape::SMALL)?;
    let log = fleet.directory().join("log.json").display().to_string();
    fleet.run("fill", &["--verify-out", &log])?;
    let mut load = fleet.crutest("generic");
    load.args(["--json", "--quiet", "--time", "20", "--count", "100000000"])
        .args(["--verify-in", &log, "--verify-out", &log]);
    let mut load = Background::start(&mut load, &fleet.directory().join("load.txt"))?;
    for round in 0..ROUNDS {
        std::thread::sleep(Duration::from_millis(1500));
        fleet.kill(round % 3)?;
        std::thread::sleep(Duration::from_millis(300));
        fleet.restart(round % 3)?;
    }
    load.finish()?;
    let said = verified(&mut fleet, &log)?;
    settled(&mut fleet)?;
    Ok(format!("{ROUNDS} kills, {said}"))
}

fn takeover(programs: &Programs) -> Result<String, String> {
    let mut fleet = Fleet::start(programs, "takeover", Shape::SMALL)?;
    let mut first = fleet.crutest("rand-write");
    first.args(["--json", "--quiet", "--time", "30"]);
    let first = Background::start(&mut first, &fleet.directory().join("first.txt"))?;
    std::thread::sleep(Duration::from_secs(1));
    let log = fleet.directory().join("log.json").display().to_string();
    fleet.run("fill", &["--verify-out", &log])?;
    let complaint = first.fails()?;
    if !complaint.contains("has taken the volume over") {
        return Err(format!("the first one says only: {complaint}"));
    }
    verified(&mut fleet, &log)?;
    settled(&mut fleet)?;
    Ok("the older one stopped and said why".to_owned())
}

fn wrong_key(programs: &Programs) -> Result<String, String> {
    let mut fleet = Fleet::start(programs, "wrong-key", Shape::SMALL)?;
    let log = fleet.directory().join("log.json").display().to_string();
    fleet.run("fill", &["--verify-out", &log])?;
    let mut command: Command = programs.command("crutest");
    command.arg("verify").args(["--verify-in", &log]);
    for index in 0..3 {
        command.args(["-t", &fleet.address(index)]);
    }
    command
        .args([
            "--key",
            "//////////////////////////////////////////8=",
            "--gen",
            "50",
        ])
        .args(["--quiet"]);
    match programs.quiet(&mut command) {
        Ok(_) => return Err("a wrong key read the volume".to_owned()),
        Err(said) if said.contains("does not match its tag") => {}
        Err(said) => return Err(format!("not refused for its key: {said}")),
    }
    fleet.skip_generations(100);
    verified(&mut fleet, &log)?;
    fleet.end()?;
    fleet.verify_regions()?;
    Ok("refused, and the right key still reads all".to_owned())
}

/// Reads the volume, which was filled before: every block must be known and right.
fn verified(fleet: &mut Fleet<'_>, log: &str) -> Result<String, String> {
    let blocks = Shape::SMALL.bytes() / u64::from(Shape::SMALL.block_size);
    let said = fleet.run("verify", &["--verify-in", log])?;
    if said["good_blocks"].as_u64() != Some(blocks) {
        return Err(format!("of {blocks} blocks not all were verified: {said}"));
    }
    Ok(format!("{blocks} blocks verified"))
}

/// At the end of a trial: an orderly stop, sound regions, three times the same bytes.
pub(super) fn settled(fleet: &mut Fleet<'_>) -> Result<(), String> {
    fleet.end()?;
    fleet.verify_regions()?;
    fleet.regions_are_equal()
}
