//! The real program on volumes, with a guest that writes: servers that are late, that all go away, and a second
//! program that wants the same volume.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod guest;
mod regions;

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use guest::{Code, Machine};
use regions::Server;

/// Far more than anything here needs, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine that writes without end on a volume on these.
fn on_volume(name: &str, servers: &[Server], arguments: &[&str]) -> Machine {
    let targets: Vec<String> = servers
        .iter()
        .map(|server| format!("\"{}\"", server.address))
        .collect();
    let main = format!(
        "\n[block_dev.root]\ntype = \"crucible\"\ntargets = [{}]\n\
         [dev.disk0]\ndriver = \"pci-nvme\"\nblock_dev = \"root\"\npci-path = \"0.4.0\"",
        targets.join(", ")
    );
    Machine::start(
        name,
        Code::writer(),
        &main,
        &[arguments, &["--no-wait"]].concat(),
    )
}

/// Reads what the guest says until it has said `wanted` as often as that.
fn hear(console: &mut UnixStream, wanted: u8, count: usize) -> Vec<u8> {
    let end = Instant::now() + PATIENCE;
    console
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut said = Vec::new();
    while said.iter().filter(|byte| **byte == wanted).count() < count {
        let so_far = String::from_utf8_lossy(&said).into_owned();
        assert!(Instant::now() < end, "the guest said only {so_far:?}");
        let mut buffer = [0; 4096];
        match console.read(&mut buffer) {
            Ok(more) => said.extend_from_slice(&buffer[..more]),
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                "{error}"
            ),
        }
    }
    said
}

#[test]
fn a_start_says_for_whom_it_waits_can_be_ended_and_goes_on_by_itself() {
    let Some(mut servers) = Server::three(false) else {
        return;
    };
    servers[1].kill();
    let missing = servers[1].address.to_string();
    let mut ended = on_volume("crucible-ended", &servers, &[]);
    ended.wait_for_log("waiting for this downstairs");
    assert!(ended.log().contains(&missing), "{}", ended.log());
    ended.signal("-INT");
    assert_eq!(ended.code(), 1, "{}", ended.log());
    let words = "interrupted while waiting for the downstairs of [block_dev.root]";
    assert!(ended.log().contains(words), "{}", ended.log());

    let mut patient = on_volume("crucible-patient", &servers, &[]);
    patient.wait_for_log("waiting for this downstairs");
    servers[1].restart();
    hear(&mut patient.connect(), b'.', 3);
}

#[test]
fn all_servers_at_once_may_go_and_come_back_under_a_guest() {
    let Some(mut servers) = Server::three(false) else {
        return;
    };
    let mut machine = on_volume("crucible-all", &servers, &[]);
    let mut console = machine.connect();
    hear(&mut console, b'.', 3);
    servers.iter_mut().for_each(Server::kill);
    std::thread::sleep(Duration::from_millis(300));
    servers.iter_mut().for_each(Server::restart);
    // More than can have been on its way.
    let said = hear(&mut console, b'.', 50);
    assert!(!said.contains(&b'E'), "{}", machine.log());
}

#[test]
fn the_second_program_gets_the_volume_and_the_first_says_that_its_disk_has_ended() {
    let Some(servers) = Server::three(false) else {
        return;
    };
    let mut first = on_volume("crucible-first", &servers, &[]);
    let mut console = first.connect();
    hear(&mut console, b'.', 3);
    let mut second = on_volume("crucible-second", &servers, &[]);
    hear(&mut second.connect(), b'.', 3);
    hear(&mut console, b'E', 1);
    first.wait_for_log("this disk has ended");
    let log = first.log();
    assert!(log.contains("has taken the volume over"), "{log}");
    // It can still be stopped in good order.
    first.signal("-TERM");
    assert_eq!(first.code(), 0, "{}", first.log());
    hear(&mut second.connect(), b'.', 3);
    let kept = std::fs::read_to_string(second.directory.join("vm.toml.generations")).unwrap();
    assert!(kept.contains("root = "), "{kept}");
}
