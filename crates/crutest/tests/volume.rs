//! The programs as a user types them: `dsc` with real region servers, and `crutest` on them.
//!
//! Uses the programs beside this test program, as `cargo build -p dsc -p crucible-downstairs` leaves them. When one
//! is missing it is built, which takes a while and is said.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "test helpers fail loudly"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

const KEY: &str = "tCw7zw0hAsPuxMOTWwnPEFYjBK9qJRtYyGdEXKEnrg0=";

/// The directory of the programs. Builds what is missing.
fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let crutest = Path::new(env!("CARGO_BIN_EXE_crutest"));
        let directory = crutest.parent().unwrap().to_owned();
        for name in ["dsc", "crucible-downstairs"] {
            if directory.join(name).exists() {
                continue;
            }
            eprintln!("{name} is not built yet: building it");
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--package", name, "--bin", name]);
            if directory.ends_with("release") {
                cargo.arg("--release");
            }
            let target = directory.parent().unwrap();
            cargo.arg("--target-dir").arg(target);
            assert!(cargo.status().unwrap().success(), "{name} cannot be built");
        }
        directory
    })
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn slow() -> bool {
    let wanted = std::env::var_os("TRIVET_SLOW").is_some();
    if !wanted {
        eprintln!("not run: set TRIVET_SLOW");
    }
    wanted
}

/// A directory, region servers on it, and the dsc that looks after them. All of it goes with the value.
struct Fleet {
    root: PathBuf,
    port: u16,
    control: String,
    dsc: Option<(Child, BufReader<ChildStdout>)>,
    generation: u64,
}

impl Fleet {
    fn new(name: &str, region_count: u32) -> Self {
        let root = std::env::temp_dir().join(format!("crutest-{name}-{}", std::process::id()));
        std::fs::remove_dir_all(&root).ok();
        std::fs::create_dir_all(&root).unwrap();
        let mut fleet = Self {
            root,
            port: free_ports(region_count),
            control: String::new(),
            dsc: None,
            generation: 0,
        };
        let create = [
            "--create",
            "--encrypted",
            "--extent-size",
            "32",
            "--extent-count",
            "12",
        ];
        fleet.start(region_count, &create);
        fleet
    }

    fn start(&mut self, region_count: u32, more: &[&str]) {
        let mut child = Command::new(programs().join("dsc"))
            .arg("start")
            .arg("--region-dir")
            .arg(self.root.join("regions"))
            .arg("--output-dir")
            .arg(self.root.join("out"))
            .args(["--port-base", &self.port.to_string()])
            .args(["--region-count", &region_count.to_string()])
            .args(["--control", "127.0.0.1:0"])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut heard = String::new();
        while !heard.contains("downstairs are running") {
            let mut line = String::new();
            assert!(out.read_line(&mut line).unwrap() > 0, "dsc ended:\n{heard}");
            if let Some((_, address)) = line.split_once("control server at http://") {
                self.control = address.trim().to_owned();
            }
            heard.push_str(&line);
        }
        self.dsc = Some((child, out));
    }

    fn address(&self, index: u16) -> String {
        format!("127.0.0.1:{}", self.port + index * 10)
    }

    fn command(&mut self, workload: &[&str]) -> Command {
        self.command_with_key(workload, KEY)
    }

    fn command_with_key(&mut self, workload: &[&str], key: &str) -> Command {
        self.generation += 1;
        let mut crutest = Command::new(env!("CARGO_BIN_EXE_crutest"));
        crutest.args(workload);
        for index in 0..3 {
            crutest.args(["-t", &self.address(index)]);
        }
        crutest.args(["-k", key, "-q", "-g", &self.generation.to_string()]);
        crutest.args(["--dsc", &self.control]);
        crutest
    }

    /// With the log of all that was written, which every call reads and writes.
    fn crutest(&mut self, workload: &[&str]) -> Output {
        let log = self.root.join("log.json");
        let mut crutest = self.command(workload);
        if log.exists() {
            crutest.arg("--verify-in").arg(&log);
        }
        crutest.arg("--verify-out").arg(&log).output().unwrap()
    }

    fn works(&mut self, workload: &[&str]) -> String {
        let output = self.crutest(workload);
        assert!(output.status.success(), "{workload:?}: {}", said(&output));
        said(&output)
    }

    fn dsc(&self, words: &[&str]) -> String {
        let mut dsc = Command::new(programs().join("dsc"));
        dsc.arg("cmd").args(words);
        dsc.args(["--server", &format!("http://{}", self.control)]);
        let output = dsc.output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", said(&output));
        said(&output).trim_end().to_owned()
    }

    fn wait(&self, words: &[&str], expected: &str) {
        let begin = std::time::Instant::now();
        loop {
            let found = self.dsc(words);
            if found == expected {
                return;
            }
            assert!(
                begin.elapsed().as_secs() < 60,
                "{words:?}: {found}, not {expected}"
            );
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some((mut child, _)) = self.dsc.take() {
            // Its region servers die with it.
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking() {
            for index in 0..4 {
                let log = format!("out/downstairs-{}.txt", self.port + index * 10);
                let text = std::fs::read_to_string(self.root.join(&log)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(15)..].join("\n");
                eprintln!("--- {log}\n{last}");
            }
        }
        std::fs::remove_dir_all(&self.root).ok();
    }
}

/// The first of so many ports, 10 apart, that nobody uses now; nor those 4000 above, for repair.
fn free_ports(count: u32) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..200 {
        let step = NEXT.fetch_add(1, Ordering::SeqCst);
        let base = 20_000 + (std::process::id() as u16 % 50) * 200 + (step % 40) * 47 % 3_900;
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        let mut ports = (0..count as u16).map(|index| base + index * 10);
        if ports.all(|port| free(port) && free(port + 4000)) {
            return base;
        }
    }
    panic!("no free ports");
}

#[test]
fn fill_verify_stop_one_write_start_it_and_verify() {
    let mut fleet = Fleet::new("story", 3);
    let text = fleet.works(&["fill"]);
    assert!(
        text.contains("verified 384 blocks, 0 wrong, 0 of unknown content"),
        "{text}"
    );
    assert!(text.contains("final flush of"), "{text}");
    let text = fleet.works(&["verify"]);
    assert!(
        text.contains("verified 384 blocks, 0 wrong, 0 of unknown content"),
        "{text}"
    );

    // One replica restarts between two calls.
    fleet.dsc(&["stop", "-c", "1"]);
    fleet.wait(&["state", "-c", "1"], "exit");
    fleet.dsc(&["start", "-c", "1"]);
    fleet.wait(&["all-running"], "true");
    fleet.works(&[
        "generic",
        "-n",
        "300",
        "--verify-at-start",
        "--verify-at-end",
        "--stable",
    ]);

    // A crash: what was not flushed may be there or not, everything else is.
    fleet.works(&["dirty"]);
    let text = fleet.works(&["verify"]);
    assert!(text.contains("verified 384 blocks, 0 wrong"), "{text}");
}

#[test]
fn replay_after_a_short_absence() {
    let mut fleet = Fleet::new("replay", 3);
    fleet.works(&["fast-fill"]);
    let text = fleet.works(&["replay", "-n", "1", "--seed", "1"]);
    assert!(
        text.contains("lap 1: ") && text.contains("was away and"),
        "{text}"
    );
    assert!(text.contains(" 0 wrong"), "{text}");
    assert_eq!(fleet.dsc(&["all-running"]), "true");
}

#[test]
fn repair_after_a_long_absence() {
    let mut fleet = Fleet::new("repair", 3);
    fleet.works(&["fast-fill"]);
    let text = fleet.works(&["repair", "-n", "1", "--verify-at-end"]);
    assert!(text.contains("was away and repaired"), "{text}");
}

#[test]
fn replacements_under_load_until_the_first_one_is_back() {
    let mut fleet = Fleet::new("replace", 4);
    fleet.works(&["fast-fill"]);
    let spare = fleet.address(3);
    // Each lap the one that was replaced becomes the spare one; after four laps the first is the spare one again.
    let text = fleet.works(&[
        "replace",
        "--replacement",
        &spare,
        "-n",
        "4",
        "--verify-at-end",
    ]);
    assert!(text.contains("lap 4: "), "{text}");
}

#[test]
fn errors_say_what_to_do() {
    let mut fleet = Fleet::new("errors", 3);
    fleet.works(&["fast-fill"]);
    // A generation that was used already.
    fleet.generation = 0;
    let output = fleet.command(&["one"]).output().unwrap();
    assert!(said(&output).contains("too low"), "{}", said(&output));
    let mut refused = |words: &[&str], more: &[&str], expected: &str| {
        let output = fleet.command(words).args(more).output().unwrap();
        assert!(!output.status.success());
        assert!(
            said(&output).contains(expected),
            "{expected:?} not in {}",
            said(&output)
        );
    };
    refused(
        &["verify"],
        &["--verify-in", "/nowhere/log"],
        "--verify-in /nowhere/log",
    );
    refused(
        &["one"],
        &["-t", "127.0.0.1:1"],
        "three region servers are needed, found 4",
    );
    refused(&["one"], &["--io-size", "x"], "number of blocks");
    refused(
        &["rand-read", "-n", "1"],
        &["--io-size", "100b"],
        "blocks of 4096 bytes",
    );
    // Another key.
    fleet.generation = 50;
    let other_key = KEY.replace('t', "u");
    let mut other = fleet.command_with_key(&["generic-read", "-n", "10"], &other_key);
    let output = other.output().unwrap();
    assert!(!output.status.success());
    assert!(said(&output).contains("FAILED Read"), "{}", said(&output));
}

#[test]
fn json_is_for_programs_and_a_construction_request_names_the_volume() {
    let mut fleet = Fleet::new("json", 3);
    let output = fleet
        .command(&["rand-write", "-n", "500", "--io-size", "4k", "--json"])
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["ok"], true);
    assert_eq!(json["blocks"], 384);
    assert_eq!(json["runs"][0]["writes"]["count"], 500);
    assert!(json["runs"][0]["final_flush_ms"].as_f64().unwrap() > 0.0);

    let targets: Vec<String> = (0..3).map(|index| fleet.address(index)).collect();
    let request = serde_json::json!({
        "type": "volume", "id": "11111111-2222-3333-4444-555555555555", "block_size": 4096,
        "sub_volumes": [{
            "type": "region", "block_size": 4096, "blocks_per_extent": 32, "extent_count": 12, "gen": 9,
            "opts": {
                "id": "11111111-2222-3333-4444-555555555555", "target": targets, "key": KEY,
                "lossy": false, "read_only": false,
            },
        }],
        "read_only_parent": null,
    });
    let vcr = fleet.root.join("vcr.json");
    std::fs::write(&vcr, request.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_crutest"))
        .args(["wfr", "-n", "5", "--vcr"])
        .arg(&vcr)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("at generation 9"),
        "{}",
        said(&output)
    );
}

#[test]
fn all_region_servers_of_dsc_are_one_volume_three_after_three() {
    let mut fleet = Fleet::new("sets", 7);
    let control = fleet.control.clone();
    let mut crutest = |words: &[&str]| {
        fleet.generation += 10;
        let output = Command::new(env!("CARGO_BIN_EXE_crutest"))
            .args(words)
            .args(["-k", KEY, "--dsc", &control])
            .args(["-g", &fleet.generation.to_string()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    let text = crutest(&["rand-read", "--fill", "-n", "300", "--verify-at-end"]);
    assert!(
        text.contains("768 blocks of 4096 bytes, extents of 32 blocks"),
        "{text}"
    );
    assert!(text.contains("fill first: "), "{text}");
    assert!(
        text.contains("verified 768 blocks, 0 wrong, 0 of unknown content"),
        "{text}"
    );
    crutest(&["span", "--verify-at-end"]);
    // In each lap, any of the six is away.
    let text = crutest(&["replay", "-n", "2", "--seed", "5"]);
    assert!(text.contains("lap 2: "), "{text}");
}

#[test]
fn the_console_takes_commands() {
    let mut fleet = Fleet::new("console", 3);
    let mut child = fleet
        .command(&["cli"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines =
        "write 3 2\nflush\nread 3 2\nexpected 3\nfly\ngeneric 50\ninfo\nreplace a b\nquit\n";
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = said(&output);
    for expected in [
        "verified 2 blocks, 0 wrong",
        "write 1\n",
        "\"fly\" is no command",
        "384 blocks of 4096 bytes, extents of 32 blocks",
        "IP:PORT",
    ] {
        assert!(text.contains(expected), "{expected:?} not in {text}");
    }
}

#[test]
fn slow_every_workload_passes_on_real_region_servers() {
    if !slow() {
        return;
    }
    let mut fleet = Fleet::new("all", 3);
    for line in [
        "one",
        "span",
        "big",
        "biggest -n 2",
        "balloon",
        "burst -n 2",
        "bufferbloat -n 10",
        "dep -n 20",
        "deactivate -n 3",
        "demo",
        "generic -n 1000",
        "generic-read -n 1000",
        "wfr -n 20",
        "yolo -n 200",
        "rand-write --time 1",
        "rand-read --time 1",
        "fast-fill",
        "fill --skip-verify",
        "fill",
        "dirty",
        "verify",
        "replay -n 3",
        "repair -n 3",
    ] {
        let mut words: Vec<&str> = line.split(' ').collect();
        words.push("--verify-at-end");
        fleet.works(&words);
        // Activations within the call have used further generations.
        fleet.generation += 10;
    }
}

#[test]
fn slow_replacements_before_and_during_activation() {
    if !slow() {
        return;
    }
    for story in ["replace-before-active", "replace-reconcile"] {
        let mut fleet = Fleet::new(story, 4);
        fleet.works(&["fast-fill"]);
        let spare = fleet.address(3);
        let text = fleet.works(&[story, "--replacement", &spare, "-n", "4", "--verify-at-end"]);
        assert!(text.contains("lap 4: "), "{text}");
    }
}

#[test]
fn slow_kill_9_of_any_at_random_under_verified_load() {
    if !slow() {
        return;
    }
    let mut fleet = Fleet::new("kill", 3);
    fleet.works(&["fast-fill"]);
    fleet.dsc(&["enable-restart-all"]);
    let log = fleet.root.join("log.json");
    let mut load = fleet
        .command(&[
            "generic",
            "-n",
            "1000000000",
            "--time",
            "40",
            "--verify-at-end",
        ])
        .arg("--verify-in")
        .arg(&log)
        .arg("--verify-out")
        .arg(&log)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut kills = 0_usize;
    while load.try_wait().unwrap().is_none() {
        let cid = (kills * 7 % 3).to_string();
        let pid = fleet.dsc(&["pid", "-c", &cid]);
        let killed = Command::new("kill").args(["-9", &pid]).status().unwrap();
        assert!(killed.success());
        kills += 1;
        std::thread::sleep(std::time::Duration::from_millis(300));
        fleet.wait(&["all-running"], "true");
        std::thread::sleep(std::time::Duration::from_millis(2500));
    }
    let output = load.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(kills > 5, "{kills}");
    fleet.works(&["verify"]);
}
