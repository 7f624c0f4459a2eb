//! `serve`: region servers that are started over HTTP, by the program itself.

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use crucible_protocol::Message;
use serde_json::{Value, json};

use crate::cli::run;
use crate::support::{Directory, PATIENCE, Peer, blocks, http_get, key, read, write};

const UUID: &str = "12345678-0000-0000-0000-000000008810";
const OTHER: &str = "12345678-0000-0000-0000-000000008820";

/// The program; it dies with the test.
struct Admin {
    child: Child,
    address: SocketAddr,
    log: Lines<BufReader<ChildStderr>>,
}

impl Admin {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_crucible-downstairs"))
            .args(["serve", "--bind-addr", "127.0.0.1:0"])
            .current_dir(directory)
            .env("RUST_LOG", "info")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self {
            child,
            address,
            log,
        }
    }

    /// Asks for a region server. Answers status and body.
    fn ask(&self, uuid: &str, body: &str) -> (u16, Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        let url = format!("http://{}/regions/{uuid}/downstairs", self.address);
        let mut response = agent
            .post(url)
            .header("api-version", "1.0.0")
            .header("content-type", "application/json")
            .send(body)
            .unwrap();
        let body = response.body_mut().read_to_vec().unwrap();
        let json = serde_json::from_slice(&body).unwrap_or_default();
        (response.status().as_u16(), json)
    }

    /// Where the region server that was started last listens: the log says it.
    fn serving(&mut self) -> SocketAddr {
        let line = self
            .log
            .find_map(|line| line.ok().filter(|line| line.contains("serving")))
            .unwrap();
        let (_, rest) = line.split_once("address=").unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn request(data: &str) -> Value {
    json!({
        "address": "127.0.0.1", "data": data, "lossy": false, "port": 0, "rport": 0, "read_errors": false,
        "write_errors": false, "flush_errors": false, "read_only": false,
    })
}

#[test]
fn region_servers_are_started_by_requests_and_end_with_the_program() {
    let directory = Directory::new();
    let here = directory.path();
    for (region, uuid) in [("one", UUID), ("two", OTHER)] {
        let sizes = ["--extent-size", "8", "--extent-count", "2"];
        let create = ["create", "-d", region, "-u", uuid];
        run(&[&create[..], &sizes[..]].concat(), here);
    }
    let mut admin = Admin::start(here);

    let (status, answer) = admin.ask(UUID, &request("one").to_string());
    assert_eq!((status, &answer), (201, &json!({ "uuid": UUID })));
    let mut peer = Peer::connect(admin.serving());
    let own = key(1, 1);
    peer.activate(own, 1, false);
    let data = blocks(3, 2);
    peer.ask(&write(own, 1000, &[], 6, &data));
    let Message::ReadResponse { data: got, .. } = peer.ask(&read(own, 1001, &[1000], 6, 2)) else {
        panic!("no blocks");
    };
    assert_eq!(got, data);

    // A second one beside it, and nothing twice.
    let (status, _) = admin.ask(OTHER, &request("two").to_string());
    assert_eq!(status, 201);
    let _beside = Peer::connect(admin.serving());
    let (status, answer) = admin.ask(UUID, &request("one").to_string());
    assert_eq!(status, 400);
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("being served already")
    );

    let pid = i32::try_from(admin.child.id()).unwrap();
    // SAFETY: `kill` touches no memory; the child is ours and has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    assert!(admin.child.wait().unwrap().success());
    run(&["verify", "-d", "one"], here);
}

#[test]
fn requests_that_make_no_sense_are_refused_with_a_reason_and_start_nothing() {
    let directory = Directory::new();
    let here = directory.path();
    run(&["create", "-d", "one", "-u", UUID], here);
    let admin = Admin::start(here);
    let with = |field: &str, value: Value| {
        let mut request = request("one");
        request[field] = value;
        request.to_string()
    };
    let without = |field: &str| {
        let mut request = request("one");
        request.as_object_mut().unwrap().remove(field);
        request.to_string()
    };
    for (uuid, body, reason) in [
        ("x", with("port", json!(0)), "uuid"),
        (OTHER, with("port", json!(0)), "expected region"),
        (UUID, String::new(), "body"),
        (UUID, String::from("{"), "body"),
        (UUID, String::from("[]"), "body"),
        (UUID, without("data"), "data"),
        (UUID, with("port", json!(70_000)), "body"),
        (UUID, with("address", json!("nowhere")), "body"),
        (UUID, with("data", json!("none")), "no region here"),
        (UUID, with("cert_pem", json!("c.pem")), "all three or none"),
    ] {
        let (status, answer) = admin.ask(uuid, &body);
        let message = answer["message"].as_str().unwrap_or_default();
        assert_eq!(status, 400, "{body}: {message}");
        assert!(message.contains(reason), "{body}: {message}");
        assert!(answer["request_id"].is_string());
    }
    let (status, _) = http_get(admin.address, &format!("/regions/{UUID}/downstairs"));
    assert_eq!(status, 405);
    // Nobody has the region.
    run(&["verify", "-d", "one"], here);
    let (status, _) = admin.ask(UUID, &with("read_only", json!(true)));
    assert_eq!(status, 201);
}
