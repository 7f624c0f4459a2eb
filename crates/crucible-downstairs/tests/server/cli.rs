//! The program itself, as it is typed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crucible_protocol::Message;

use crate::support::{Directory, Peer, blocks, flush, key, read, write};

const UUID: &str = "12345678-0000-0000-0000-000000008810";
const OTHER: &str = "12345678-0000-0000-0000-000000008820";

fn command(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_crucible-downstairs"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap()
}

pub(crate) fn run(arguments: &[&str], directory: &Path) -> String {
    let output = command(arguments, directory);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn fails(arguments: &[&str], directory: &Path) -> String {
    let output = command(arguments, directory);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A child that dies with the test.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    repair: SocketAddr,
}

impl Running {
    pub(crate) fn start(arguments: &[&str], directory: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_crucible-downstairs"))
            .args(["run", "-a", "127.0.0.1", "-p", "0"])
            .args(arguments)
            .current_dir(directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        // "serving UUID (rw) on ADDRESS, repair on ADDRESS"
        let addresses: Vec<SocketAddr> = line
            .split([' ', ',', '\n'])
            .filter_map(|word| word.parse().ok())
            .collect();
        assert!(line.starts_with("serving "), "{line:?}");
        Self {
            child,
            address: addresses[0],
            repair: addresses[1],
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn terminate(mut self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: `kill` touches no memory; the child is ours and has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_region_is_filled_checked_and_written_out_again() {
    let directory = Directory::new();
    let here = directory.path();
    let content: Vec<u8> = (0..10_000u32).map(|n| (n * 7 % 251) as u8).collect();
    std::fs::write(directory.join("in"), &content).unwrap();
    let sizes = ["--extent-size", "8", "--extent-count", "2"];
    run(
        &[
            &["create", "-d", "region", "-u", UUID, "-i", "in"],
            &sizes[..],
        ]
        .concat(),
        here,
    );
    let report = run(&["verify", "-d", "region", "--json"], here);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["bad_count"], 0);
    assert_eq!(report["written"], 20);
    run(&["export", "-d", "region", "-e", "out"], here);
    let exported = std::fs::read(directory.join("out")).unwrap();
    assert_eq!(exported[..content.len()], content[..]);
    assert!(exported[content.len()..].iter().all(|byte| *byte == 0));
    run(
        &[
            "export", "-d", "region", "-e", "part", "-s", "2", "--count", "3",
        ],
        here,
    );
    let part = std::fs::read(directory.join("part")).unwrap();
    assert_eq!(part, content[1024..1024 + 3 * 512]);
    let again = fails(&["create", "-d", "region", "-u", UUID], here);
    assert!(again.contains("region"), "{again}");
    let past = fails(&["export", "-d", "region", "-e", "x", "-s", "1000"], here);
    assert!(past.contains("24 blocks"), "{past}");
}

#[test]
fn what_was_never_written_is_neither_read_nor_written_out() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let directory = Directory::new();
    let at = directory.path();
    // 8 GiB, of which one block is written.
    std::fs::write(at.join("one"), [7; 4096]).unwrap();
    let sizes = ["--block-size", "4096", "--extent-size", "65536"];
    let what = [
        "create",
        "-u",
        UUID,
        "-d",
        "r",
        "-i",
        "one",
        "--extent-count",
        "32",
    ];
    run(&[&what[..], &sizes[..]].concat(), at);
    let said = run(&["verify", "-d", "r"], at);
    assert_eq!(said, "2097152 blocks, 1 written, 0 bad\n");
    run(&["export", "-d", "r", "-e", "out"], at);
    let out = std::fs::File::open(at.join("out")).unwrap();
    let metadata = out.metadata().unwrap();
    assert_eq!(metadata.len(), 8 << 30);
    assert!(metadata.blocks() * 512 < 8 << 20, "{}", metadata.blocks());
    let mut block = [0; 4096];
    out.read_exact_at(&mut block, 0).unwrap();
    assert_eq!(block, [7; 4096]);
    out.read_exact_at(&mut block, 4 << 30).unwrap();
    assert_eq!(block, [0; 4096]);

    // What has come into a hole without a context is found all the same.
    let path = at.join("r/00/000/005");
    let extent = std::fs::File::options().write(true).open(path).unwrap();
    extent.write_all_at(&[1], 100 << 20).unwrap();
    let output = command(&["verify", "-d", "r"], at);
    assert!(!output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("extent 5 block 25600:"), "{said}");
}

#[test]
fn a_region_whose_server_was_killed_is_finished_by_who_looks_at_it() {
    let directory = Directory::new();
    let here = directory.path();
    let sizes = ["--extent-size", "8", "--extent-count", "3"];
    run(
        &[&["create", "-d", "r", "-u", UUID], &sizes[..]].concat(),
        here,
    );
    let extent = directory.join("r/00/000/000");
    let untouched = std::fs::read(&extent).unwrap();
    let mut server = Running::start(&["-d", "r"], here);
    let own = key(1, 1);
    let mut peer = Peer::connect(server.address);
    peer.activate(own, 1, false);
    peer.ask(&write(own, 1000, &[], 6, &blocks(3, 2)));
    peer.ask(&flush(own, 1001, &[1000], 1));
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    // Killed before what the journal has came to its place.
    std::fs::write(&extent, untouched).unwrap();

    let lock = std::fs::File::open(directory.join("r/region.json")).unwrap();
    lock.lock().unwrap();
    let served = fails(&["verify", "-d", "r"], here);
    assert!(served.contains("stop that process"), "{served}");
    drop(lock);
    let output = command(&["verify", "-d", "r"], here);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.contains("finished now"),
        "{said}"
    );
    assert_eq!(output.stdout, b"24 blocks, 2 written, 0 bad\n");
    let again = command(&["verify", "-d", "r"], here);
    assert!(again.status.success() && again.stderr.is_empty());
}

#[test]
fn a_block_that_was_changed_on_disk_is_found() {
    let directory = Directory::new();
    let here = directory.path();
    std::fs::write(directory.join("in"), vec![1; 4096]).unwrap();
    run(
        &[
            "create",
            "-d",
            "region",
            "-u",
            UUID,
            "-i",
            "in",
            "--extent-size",
            "8",
            "--extent-count",
            "1",
        ],
        here,
    );
    let file = directory.join("region/00/000/000");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[700] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let output = command(&["verify", "-d", "region"], here);
    assert!(!output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("extent 0 block 1"), "{text}");
    assert!(text.contains("1 bad"), "{text}");
}

#[test]
fn a_region_is_served_until_it_is_told_to_end_and_then_cloned() {
    let directory = Directory::new();
    let here = directory.path();
    let sizes = ["--extent-size", "8", "--extent-count", "3"];
    run(
        &[&["create", "-d", "one", "-u", UUID], &sizes[..]].concat(),
        here,
    );
    let server = Running::start(&["-d", "one"], here);
    let own = key(1, 1);
    let mut peer = Peer::connect(server.address);
    peer.activate(own, 1, false);
    let data = blocks(3, 4);
    peer.ask(&write(own, 1000, &[], 6, &data));
    peer.ask(&flush(own, 1001, &[1000], 1));
    // Two processes must not write to one region.
    let taken = fails(&["run", "-d", "one", "-a", "127.0.0.1", "-p", "0"], here);
    assert!(taken.contains("in use"), "{taken}");
    server.terminate();
    run(&["verify", "-d", "one"], here);
    // Everything is in its place, for programs that know nothing of ours.
    let extent = std::fs::read(directory.join("one/00/000/000")).unwrap();
    assert_eq!(extent[6 * 512..8 * 512], data[..1024]);
    assert_eq!(extent[extent.len() - 32..][..1], [0], "clean");

    let source = Running::start(&["-d", "one", "--mode", "ro"], here);
    let at = source.repair.to_string();
    run(
        &["create", "-d", "two", "-u", OTHER, "--clone-source", &at],
        here,
    );
    run(
        &[&["create", "-d", "three", "-u", OTHER], &sizes[..]].concat(),
        here,
    );
    run(&["clone", "-d", "three", "-s", &at], here);
    let same = run(&["repair-dynamometer", "--clone-source", &at], here);
    assert!(same.contains("MB/s"));
    run(
        &[
            &["create", "-d", "four", "-u", OTHER],
            &["--extent-size", "9"][..],
        ]
        .concat(),
        here,
    );
    let unfit = fails(&["clone", "-d", "four", "-s", &at], here);
    assert!(unfit.contains("do not fit"), "{unfit}");
    drop(source);
    for copy in ["two", "three"] {
        run(&["verify", "-d", copy], here);
        run(&["export", "-d", copy, "-e", "out"], here);
        let exported = std::fs::read(directory.join("out")).unwrap();
        assert_eq!(exported[6 * 512..10 * 512], data[..]);
        let dump = run(&["dump", "-d", "one", "-d", copy, "--json"], here);
        let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
        assert_eq!(dump["differing"], 0);
    }
    let server = Running::start(&["-d", "two"], here);
    let mut peer = Peer::connect(server.address);
    peer.activate(own, 2, false);
    let Message::ReadResponse { data: got, .. } = peer.ask(&read(own, 1000, &[], 6, 4)) else {
        panic!("no blocks");
    };
    assert_eq!(got, data);
}

#[test]
fn differences_are_shown() {
    let directory = Directory::new();
    let here = directory.path();
    std::fs::write(directory.join("in"), vec![1; 4096 * 2]).unwrap();
    std::fs::write(
        directory.join("other"),
        [vec![1; 4096], vec![2; 512], vec![1; 3584]].concat(),
    )
    .unwrap();
    for (region, uuid, file) in [("a", UUID, "in"), ("b", OTHER, "other")] {
        run(
            &[
                "create",
                "-d",
                region,
                "-u",
                uuid,
                "-i",
                file,
                "--extent-size",
                "8",
                "--extent-count",
                "2",
            ],
            here,
        );
    }
    let extents = run(&["dump", "-d", "a", "-d", "b", "--no-color"], here);
    assert!(extents.contains("0 of 2 extents differ"), "{extents}");
    let blocks = run(&["dump", "-d", "a", "-d", "b", "-e", "1", "-o"], here);
    assert_eq!(blocks.matches("<-- differs").count(), 1, "{blocks}");
    assert!(blocks.contains("1 of 8 blocks differ"));
    let block = run(&["dump", "-d", "a", "-d", "b", "-b", "8"], here);
    assert!(block.contains("the regions differ"), "{block}");
    // The extent may be named beside the block, if it is the right one.
    let both = ["dump", "-d", "a", "-d", "b", "-e", "1", "-b", "8"];
    assert_eq!(run(&both, here), block);
    let elsewhere = fails(&["dump", "-d", "a", "-e", "0", "-b", "8"], here);
    assert!(elsewhere.contains("is in extent 1"), "{elsewhere}");
    let unknown = fails(&["dump", "-d", "a", "-b", "16"], here);
    assert!(unknown.contains("16 blocks"), "{unknown}");
}

#[test]
fn places_and_versions_are_told() {
    let directory = Directory::new();
    let here = directory.path();
    run(
        &["create", "-d", "r", "-u", UUID, "--extent-size", "100"],
        here,
    );
    let info = run(&["extent-info", "-d", "r", "-b", "1-2", "--json"], here);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["file_length"], 60845);
    assert_eq!(info["parts"]["context_slots_A"]["offset"], 51200);
    assert_eq!(info["parts"]["metadata"]["offset"], 60813);
    assert_eq!(info["blocks"][1]["slot_b"], 56000 + 96);
    assert!(run(&["version"], here).contains("Message Version: 13"));
    assert!(run(&["--help"], here).contains("dynamometer"));
    let wrong = fails(
        &["create", "-d", "x", "-u", UUID, "--block-size", "513"],
        here,
    );
    assert!(wrong.contains("513"), "{wrong}");
    let missing = fails(
        &["run", "-d", "nowhere", "-a", "127.0.0.1", "-p", "0"],
        here,
    );
    assert!(missing.contains("nowhere"), "{missing}");
    let measured = run(
        &[
            "dynamometer",
            "-d",
            "m",
            "-s",
            "1",
            "--flush-per-iops",
            "100",
        ],
        here,
    );
    assert!(measured.contains("mean:"), "{measured}");
}
