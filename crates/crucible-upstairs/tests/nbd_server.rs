//! `crucible-nbd-server` as a process: what it says, what it serves, how it ends.

#![cfg(feature = "tools")]
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a failure is the finding"
)]

mod drive_peer;

use std::io::{BufRead, BufReader, Lines, Read};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use crucible_protocol::Geometry;
use drive_peer::Peer;
use serde_json::Value;
use uuid::Uuid;

const KEY: &str = "tCw7zw0hAsPuxMOTWwnPEFYjBK9qJRtYyGdEXKEnrg0=";

/// A server that ends with the test, and its lines.
struct Server {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    socket: PathBuf,
}

impl Server {
    fn start(targets: [String; 3], more: &[&str]) -> Self {
        let socket = std::env::temp_dir().join(format!("nbd-{}", Uuid::new_v4()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_crucible-nbd-server"));
        for target in targets {
            command.args(["-t", &target]);
        }
        command.arg("--json").arg("--unix").arg(&socket).args(more);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            lines,
            socket,
        }
    }

    fn line(&mut self) -> Value {
        let line = self.lines.next().unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn terminate(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").arg(id).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_file(&self.socket));
    }
}

fn peers(encrypted: bool) -> [Peer; 3] {
    Peer::three(Geometry::new(4096, 64, 8).unwrap(), encrypted)
}

fn targets(peers: &[Peer; 3]) -> [String; 3] {
    peers.each_ref().map(|peer| peer.address.to_string())
}

#[test]
fn it_serves_says_so_and_ends_in_order() {
    let peers = peers(true);
    let mut server = Server::start(targets(&peers), &["-k", KEY, "-g", "5"]);
    assert_eq!(server.line()["state"], "activating");
    let serving = server.line();
    assert_eq!(serving["state"], "serving");
    assert_eq!(serving["bytes"], 512 * 4096);
    assert_eq!(serving["encrypted"], true);
    let mut greeting = [0; 8];
    let mut client = UnixStream::connect(&server.socket).unwrap();
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"NBDMAGIC");
    server.terminate();
    assert_eq!(server.line()["state"], "ending");
    assert_eq!(server.line()["state"], "done");
    assert!(server.child.wait().unwrap().success());
    assert!(!server.socket.exists());
}

#[test]
fn it_can_be_ended_while_it_waits_for_region_servers() {
    // Ports where nobody answers: taken, and never accepted from.
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let targets = listeners
        .each_ref()
        .map(|l| l.local_addr().unwrap().to_string());
    let mut server = Server::start(targets, &[]);
    assert_eq!(server.line()["state"], "activating");
    server.terminate();
    assert_eq!(server.line()["state"], "done");
    assert!(server.child.wait().unwrap().success());
}

#[test]
fn what_is_wrong_is_said_without_the_key() {
    let peers = peers(false);
    let mut server = Server::start(targets(&peers), &["-k", &KEY[4..]]);
    let failed = server.line();
    assert_eq!(failed["state"], "failed");
    let text = failed.to_string();
    assert!(text.contains("key") && !text.contains(&KEY[4..]), "{text}");
    assert!(!server.child.wait().unwrap().success());

    let mut server = Server::start(targets(&peers), &["-k", KEY]);
    assert_eq!(server.line()["state"], "activating");
    let failed = server.line();
    assert!(
        failed["error"].as_str().unwrap().contains("encryption"),
        "{failed}"
    );
}
