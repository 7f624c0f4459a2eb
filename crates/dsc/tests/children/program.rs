//! The program as a user types it, over fake region servers.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::fake::Site;

fn dsc(site: &Site, command: &str, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dsc"))
        .arg(command)
        .args(site.flags())
        .args(more)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A running `dsc start`; ended with the value, whatever happens.
struct Started {
    child: Child,
    out: BufReader<ChildStdout>,
    heard: String,
}

impl Started {
    fn new(site: &Site, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dsc"))
            .arg("start")
            .args(site.flags())
            .args(["--control", "127.0.0.1:0"])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            out,
            heard: String::new(),
        }
    }

    /// Reads on until a line holds `words`, and returns that line.
    fn hears(&mut self, words: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.out.read_line(&mut line).unwrap();
            assert!(read > 0, "no {words:?} in:\n{}", self.heard);
            self.heard.push_str(&line);
            if line.contains(words) {
                return line;
            }
        }
    }

    fn pids(&self) -> Vec<String> {
        let pids = self
            .heard
            .lines()
            .filter_map(|l| l.split_once("starting, pid "));
        pids.map(|(_, pid)| pid.trim().to_owned()).collect()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn lives(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status
        .rsplit_once(')')
        .map(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some(Some('Z')))
}

fn gone_soon(pids: &[String]) {
    let start = Instant::now();
    while pids.iter().any(|pid| lives(pid)) {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{pids:?} live on"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn create_then_start_then_ctrl_c() {
    let site = Site::new("program");
    let output = dsc(&site, "create", &["--encrypted"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output)
            .contains("3 regions of 15 extents, 100 blocks each, 4096 bytes a block, encrypted")
    );
    let output = dsc(&site, "create", &[]);
    assert!(!output.status.success());
    assert!(
        said(&output).contains("--cleanup removes it first"),
        "{}",
        said(&output)
    );
    let stranger = site.root.join("regions/notes.txt");
    std::fs::write(&stranger, "mine").unwrap();
    let output = dsc(&site, "create", &["--cleanup"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(stranger.exists(), "only what dsc made is removed");

    let mut started = Started::new(&site, &[]);
    started.hears("all 3 downstairs are running");
    let pids = started.pids();
    assert_eq!(pids.len(), 3, "{}", started.heard);
    let output = dsc(&site, "create", &["--cleanup"]);
    assert!(said(&output).contains("is in use"), "{}", said(&output));
    started.signal("-INT");
    started.hears("all downstairs have ended");
    assert!(started.child.wait().unwrap().success());
    gone_soon(&pids);
}

#[test]
fn children_die_with_dsc_even_when_it_is_killed() {
    let site = Site::new("killed");
    let mut started = Started::new(&site, &["--create"]);
    started.hears("all 3 downstairs are running");
    let pids = started.pids();
    assert!(pids.iter().all(|pid| lives(pid)));
    started.signal("-KILL");
    started.child.wait().unwrap();
    if cfg!(target_os = "linux") {
        gone_soon(&pids);
    }
}

#[test]
fn the_control_server_is_driven_by_cmd() {
    let site = Site::new("cmd");
    let mut started = Started::new(&site, &["--create", "--read-only"]);
    let line = started.hears("control server at ");
    let server = line.trim().rsplit(' ').next().unwrap().to_owned();
    let cmd = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dsc"));
        let output = command
            .arg("cmd")
            .args(words)
            .args(["--server", &server])
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    started.hears("all 3 downstairs are running");
    assert_eq!(cmd(&["read-only"]), "true\n");
    assert_eq!(cmd(&["state", "-c", "0"]), "running\n");
    assert_eq!(cmd(&["shutdown"]), "");
    started.hears("all downstairs have ended");
    assert!(started.child.wait().unwrap().success());
}

#[test]
fn errors_name_the_way_out() {
    let site = Site::new("errors");
    let refused = |command: &str, more: &[&str], words: &str| {
        let output = dsc(&site, command, more);
        assert!(!output.status.success());
        assert!(
            said(&output).contains(words),
            "{words:?} not in {}",
            said(&output)
        );
    };
    refused(
        "start",
        &["--control", "127.0.0.1:0"],
        "make it with `dsc create --region-dir ",
    );
    refused("start", &["--cleanup"], "needs --create");
    refused("create", &["--block-size", "513"], "power of two");
    refused("create", &["--region-count", "0"], "at least one region");
    let output = Command::new(env!("CARGO_BIN_EXE_dsc"))
        .args(["create", "--ds-bin", "/nowhere/ds"])
        .output()
        .unwrap();
    assert!(said(&output).contains("/nowhere/ds") && said(&output).contains("--ds-bin"));
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let control = holder.local_addr().unwrap().to_string();
    refused(
        "start",
        &["--create", "--control", &control],
        "is another dsc running there",
    );

    assert!(dsc(&site, "create", &[]).status.success());
    let region = site.root.join(format!("regions/{}", site.port_base + 10));
    let json = region.join("region.json");
    let good = std::fs::read_to_string(&json).unwrap();
    for (bad, words) in [
        (
            good.replace("\"extent_count\":15", "\"extent_count\":0"),
            "did not finish",
        ),
        (
            good.replace("\"extent_count\":15", "\"extent_count\":14"),
            "same shape",
        ),
        (
            good.replace("\"block_size\":4096", "\"block_size\":4095"),
            "power of two",
        ),
        (good.replace("\"encrypted\":false,", ""), "encrypted"),
    ] {
        assert_ne!(bad, good);
        std::fs::write(&json, bad).unwrap();
        refused("start", &["--control", "127.0.0.1:0"], words);
    }
}

#[test]
fn a_missing_reader_is_no_reason_to_stop_serving() {
    let site = Site::new("reader");
    let mut started = Started::new(&site, &["--create"]);
    let line = started.hears("control server at ");
    let server = line.trim().rsplit(' ').next().unwrap().to_owned();
    let Started { child, out, .. } = &mut started;
    // The pipe closes here; every further line fails.
    let (mut child, _) = (
        std::mem::replace(child, Command::new("true").spawn().unwrap()),
        out,
    );
    drop(started);
    let mut all_running = String::new();
    let start = Instant::now();
    while all_running != "true\n" && start.elapsed() < Duration::from_secs(20) {
        let mut cmd = Command::new(env!("CARGO_BIN_EXE_dsc"));
        let output = cmd
            .args(["cmd", "all-running", "--server", &server])
            .output()
            .unwrap();
        all_running = said(&output);
    }
    Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    let ended = child.wait().unwrap();
    assert_eq!(all_running, "true\n");
    assert!(ended.success());
}

#[test]
fn region_perf_without_a_program_says_so() {
    let output = Command::new(env!("CARGO_BIN_EXE_dsc"))
        .args(["region-perf", "--ds-bin", "/nowhere/ds"])
        .output()
        .unwrap();
    assert!(said(&output).contains("cargo build"), "{}", said(&output));
}

#[test]
fn region_perf_prints_a_table_and_writes_csv() {
    let site = Site::new("perf");
    let csv = site.root.join("perf.csv");
    let output = Command::new(env!("CARGO_BIN_EXE_dsc"))
        .args(["region-perf", "--ds-bin"])
        .arg(site.ds_bin())
        .arg("--region-dir")
        .arg(site.root.join("regions"))
        .arg("--csv-out")
        .arg(&csv)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let csv = std::fs::read_to_string(csv).unwrap();
    assert_eq!(csv.lines().count(), said(&output).lines().count());
    assert!(
        csv.lines()
            .nth(1)
            .unwrap()
            .starts_with("268435456,4096,1024,64,"),
        "{csv}"
    );
    let left = std::fs::read_dir(site.root.join("regions"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "measured regions are removed");
}
