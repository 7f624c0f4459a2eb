//! The upstairs against real region servers: processes, files, kill -9.
//!
//! The program is looked for beside this test's own; where it is missing, cargo is asked to build it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests; a failure is the finding, and a skipped test says so"
)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use crucible_protocol::BlockIndex;
use crucible_upstairs::core::ReplicaState;
use crucible_upstairs::drive::Setup;
use crucible_upstairs::options::CrucibleOpts;
use crucible_upstairs::volume::{Volume, block_on};
use uuid::Uuid;

const WITHIN: Duration = Duration::from_secs(60);
const BLOCKS: u64 = 512;

/// The program, or `None` after having said so.
fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let test = std::env::current_exe().ok()?;
        let folder = test.parent()?.parent()?;
        let program = folder.join("crucible-downstairs");
        if !program.exists() {
            let mut cargo = Command::new(std::env::var_os("CARGO")?);
            cargo.args(["build", "--quiet", "--package", "crucible-downstairs"]);
            if folder.ends_with("release") {
                cargo.arg("--release");
            }
            cargo
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .ok()?;
        }
        program.exists().then_some(program)
    });
    if program.is_none() {
        println!("SKIPPED: no program crucible-downstairs, and none could be built");
    }
    program.as_deref()
}

/// One region and its server. Both end with the test.
struct Server {
    program: &'static Path,
    folder: PathBuf,
    child: Child,
    address: SocketAddr,
    /// Its certificate, with TLS.
    certificate: Option<&'static str>,
}

impl Server {
    fn new(program: &'static Path, encrypted: bool, certificate: Option<&'static str>) -> Self {
        let id = Uuid::new_v4();
        let folder = std::env::temp_dir().join(format!("region-{id}"));
        let mut create = Command::new(program);
        create.arg("create").arg("--data").arg(&folder);
        create.args(["--uuid", &id.to_string(), "--block-size", "4096"]);
        create.args(["--extent-size", "64", "--extent-count", "8"]);
        if encrypted {
            create.arg("--encrypted");
        }
        let made = create.stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(made.unwrap().success());
        let (child, address) = run(program, &folder, 0, certificate);
        Self {
            program,
            folder,
            child,
            address,
            certificate,
        }
    }

    fn three(encrypted: bool) -> Option<[Self; 3]> {
        let program = program()?;
        Some([(); 3].map(|()| Self::new(program, encrypted, None)))
    }

    /// As a power cut would, for the process.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        let (child, address) = run(
            self.program,
            &self.folder,
            self.address.port(),
            self.certificate,
        );
        assert_eq!(address, self.address);
        self.child = child;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// Starts a server and waits until it says where it serves.
fn run(program: &Path, folder: &Path, port: u16, certificate: Option<&str>) -> (Child, SocketAddr) {
    let mut command = Command::new(program);
    command.args(["run", "--address", "127.0.0.1", "--port", &port.to_string()]);
    if let Some(name) = certificate {
        command.arg("--cert-pem").arg(tls(&format!("{name}.pem")));
        command.arg("--key-pem").arg(tls(&format!("{name}.key")));
        command.arg("--root-cert-pem").arg(tls("root.pem"));
    }
    let mut child = command
        .args(["--mode", "rw", "--data"])
        .arg(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let place = lines.map(Result::unwrap).find_map(|line| {
        let place = line.split(" on ").nth(1)?;
        place.split([',', ' ']).next()?.parse().ok()
    });
    (child, place.unwrap())
}

fn active(servers: &[Server; 3], encrypted: bool, generation: u64) -> Volume {
    let targets = servers.each_ref().map(|server| server.address);
    let mut opts = CrucibleOpts::new(Uuid::from_u128(7), targets);
    let key = "tCw7zw0hAsPuxMOTWwnPEFYjBK9qJRtYyGdEXKEnrg0=";
    opts.key = encrypted.then(|| key.to_owned().into());
    let volume = Volume::region(Setup::new(&opts, None, generation).unwrap()).unwrap();
    let shape = volume.activate_blocking(None).unwrap();
    assert_eq!((shape.block_size, shape.blocks), (4096, BLOCKS));
    volume
}

fn content(blocks: u64, seed: u64) -> BytesMut {
    let bytes = 0..blocks * 4096;
    bytes.map(|at| ((at / 3 + seed * 17) % 251) as u8).collect()
}

fn write(volume: &Volume, start: u64, blocks: u64, seed: u64) {
    volume
        .write_blocking(BlockIndex(start), content(blocks, seed))
        .unwrap();
}

fn check(volume: &Volume, start: u64, blocks: u64, seed: u64) {
    let plain = volume.read_blocking(BlockIndex(start), blocks).unwrap();
    assert!(
        plain.data == content(blocks, seed),
        "blocks {start}+{blocks}"
    );
}

fn wait_for_all_active(volume: &Volume) {
    let begin = Instant::now();
    loop {
        let status = block_on(volume.insights()).pop().unwrap().status;
        let states = status.replicas.each_ref().map(|replica| replica.state);
        if states == [ReplicaState::Active; 3] {
            return;
        }
        assert!(begin.elapsed() < WITHIN, "{:?}", status.replicas);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_was_flushed_is_there_after_all_three_were_killed() {
    for encrypted in [false, true] {
        let Some(mut servers) = Server::three(encrypted) else {
            return;
        };
        let volume = active(&servers, encrypted, 1);
        write(&volume, 0, BLOCKS, 1);
        write(&volume, 60, 8, 2);
        volume.flush_blocking(None).unwrap();
        check(&volume, 60, 8, 2);
        servers.iter_mut().for_each(Server::kill);
        drop(volume);
        servers.iter_mut().for_each(Server::restart);
        let volume = active(&servers, encrypted, 2);
        check(&volume, 0, 60, 1);
        check(&volume, 60, 8, 2);
        volume.deactivate_blocking().unwrap();
    }
}

#[test]
fn a_server_that_is_killed_under_load_comes_back() {
    let Some(mut servers) = Server::three(true) else {
        return;
    };
    let volume = active(&servers, true, 1);
    for round in 0..4 {
        write(&volume, round * 32, 64, round);
        let server = (round % 3) as usize;
        servers[server].kill();
        for part in 0..16 {
            write(&volume, 256 + part * 8, 8, round * 16 + part);
        }
        volume.flush_blocking(None).unwrap();
        check(&volume, 256, 8, round * 16);
        servers[server].restart();
        wait_for_all_active(&volume);
    }
    volume.deactivate_blocking().unwrap();
    // Each alone has all of it: the two others are gone one after the other.
    let volume = active(&servers, true, 2);
    for (gone, server) in servers.iter_mut().enumerate().take(2) {
        server.kill();
        check(&volume, 3 * 32, 64, 3);
        check(&volume, 256 + 15 * 8, 8, 3 * 16 + 15);
        println!("{} of 3 gone", gone + 1);
    }
}

#[test]
fn a_server_that_lost_all_is_replaced_and_repaired() {
    let Some(servers) = Server::three(true) else {
        return;
    };
    let volume = active(&servers, true, 1);
    write(&volume, 0, BLOCKS, 5);
    volume.flush_blocking(None).unwrap();
    let fresh = Server::new(servers[0].program, true, None);
    volume
        .replace_blocking(servers[0].address, fresh.address)
        .unwrap();
    write(&volume, 100, 50, 6);
    wait_for_all_active(&volume);
    volume.deactivate_blocking().unwrap();
    let [_, b, c] = servers;
    let mut servers = [fresh, b, c];
    let volume = active(&servers, true, 2);
    servers[1].kill();
    servers[2].kill();
    check(&volume, 0, 100, 5);
    check(&volume, 100, 50, 6);
}

#[test]
fn of_two_that_want_the_volume_the_higher_generation_has_it() {
    let Some(servers) = Server::three(true) else {
        return;
    };
    let first = active(&servers, true, 3);
    write(&first, 0, 64, 1);
    first.flush_blocking(None).unwrap();
    let second = active(&servers, true, 4);
    check(&second, 0, 64, 1);
    write(&second, 0, 64, 2);
    second.flush_blocking(None).unwrap();
    // The first one learns of it, and nothing of it gets through any more.
    let begin = Instant::now();
    let error = loop {
        let late = content(1, 9);
        let written = first.write_blocking(BlockIndex(0), late);
        if let Err(error) = written.and_then(|()| first.flush_blocking(None)) {
            break error;
        }
        assert!(begin.elapsed() < WITHIN, "two have the volume");
    };
    assert!(error.to_string().contains("taken"), "{error}");
    check(&second, 0, 64, 2);
    second.deactivate_blocking().unwrap();
    let later = active(&servers, true, 5);
    check(&later, 0, 64, 2);
    later.deactivate_blocking().unwrap();
}

/// Set `TRIVET_SLOW` to run it: about a minute of kills at random under verified load.
#[test]
fn slow_kills_at_random_lose_nothing() {
    if std::env::var_os("TRIVET_SLOW").is_none() {
        println!("SKIPPED: slow; set TRIVET_SLOW to run it");
        return;
    }
    let Some(mut servers) = Server::three(true) else {
        return;
    };
    let volume = active(&servers, true, 1);
    let mut seeds = [0; (BLOCKS / 8) as usize];
    write(&volume, 0, BLOCKS, 0);
    for (at, seed) in (0..).zip(&mut seeds) {
        // What `write` gave the whole volume is another content part by part.
        write(&volume, at * 8, 8, *seed);
    }
    let begin = Instant::now();
    let mut random = Uuid::new_v4().as_u64_pair().0 | 1;
    println!("random numbers from {random}");
    let mut draw = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let (mut down, mut kills) = (None, 0);
    for round in 1.. {
        if begin.elapsed() > Duration::from_secs(60) {
            break;
        }
        for _ in 0..draw(40) {
            let at = draw(BLOCKS / 8);
            seeds[at as usize] = round;
            write(&volume, at * 8, 8, round);
            let at = draw(BLOCKS / 8);
            check(&volume, at * 8, 8, seeds[at as usize]);
        }
        match down.take() {
            None => {
                let victim = draw(3) as usize;
                servers[victim].kill();
                kills += 1;
                down = Some(victim);
            }
            Some(victim) => {
                servers[victim].restart();
                wait_for_all_active(&volume);
            }
        }
        if draw(3) == 0 {
            volume.flush_blocking(None).unwrap();
        }
    }
    if let Some(victim) = down {
        servers[victim].restart();
        wait_for_all_active(&volume);
    }
    volume.deactivate_blocking().unwrap();
    // Each region alone must hold all of it.
    let volume = active(&servers, true, 2);
    for server in servers.iter_mut().take(2) {
        server.kill();
        for (at, seed) in (0..).zip(seeds) {
            check(&volume, at * 8, 8, seed);
        }
    }
    println!("{kills} kills");
}

/// A file of the tests' certificates.
fn tls(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "data", "tls", name]
        .iter()
        .collect()
}

#[test]
#[cfg(feature = "tls")]
fn over_tls_data_travels_and_a_wrong_certificate_is_refused_in_clear_words() {
    let Some(program) = program() else {
        return;
    };
    let servers = [(); 3].map(|()| Server::new(program, true, Some("server")));
    let opts = |client: &str, root: &str| {
        let targets = servers.each_ref().map(|server| server.address);
        let mut opts = CrucibleOpts::new(Uuid::from_u128(7), targets);
        opts.key = Some(
            "tCw7zw0hAsPuxMOTWwnPEFYjBK9qJRtYyGdEXKEnrg0="
                .to_owned()
                .into(),
        );
        let path = |name: String| Some(tls(&name).display().to_string());
        opts.cert_pem = path(format!("{client}.pem"));
        opts.key_pem = path(format!("{client}.key"));
        opts.root_cert_pem = path(format!("{root}.pem"));
        opts
    };
    let setup = Setup::new(&opts("client-pkcs8", "root"), None, 1).unwrap();
    let volume = Volume::region(setup).unwrap();
    volume.activate_blocking(None).unwrap();
    write(&volume, 0, BLOCKS, 3);
    volume.flush_blocking(None).unwrap();
    check(&volume, 0, BLOCKS, 3);
    volume.deactivate_blocking().unwrap();
    // Theirs is not from the root that we believe.
    let setup = Setup::new(&opts("client-pkcs8", "other-root"), None, 2).unwrap();
    let volume = Volume::region(setup).unwrap();
    let activating = std::thread::spawn({
        let volume = volume.clone();
        move || volume.activate_blocking(None)
    });
    let begin = Instant::now();
    let loss = loop {
        let status = block_on(volume.insights()).pop().unwrap().status;
        if let Some(loss) = status.replicas[0].last_loss.clone() {
            break loss;
        }
        assert!(begin.elapsed() < WITHIN);
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(loss.contains("certificate"), "{loss}");
    block_on(volume.shut_down()).unwrap();
    assert!(activating.join().unwrap().is_err());
    // Whoever comes without TLS gets nowhere, and the region servers serve on.
    let mut plain = opts("client-pkcs8", "root");
    (plain.cert_pem, plain.key_pem, plain.root_cert_pem) = (None, None, None);
    let volume = Volume::region(Setup::new(&plain, None, 3).unwrap()).unwrap();
    let activating = std::thread::spawn({
        let volume = volume.clone();
        move || volume.activate_blocking(None)
    });
    while block_on(volume.insights()).pop().unwrap().status.replicas[0]
        .last_loss
        .is_none()
    {
        assert!(begin.elapsed() < WITHIN);
        std::thread::sleep(Duration::from_millis(10));
    }
    block_on(volume.shut_down()).unwrap();
    assert!(activating.join().unwrap().is_err());
    let setup = Setup::new(&opts("client-pkcs1", "root"), None, 4).unwrap();
    let volume = Volume::region(setup).unwrap();
    volume.activate_blocking(None).unwrap();
    check(&volume, 0, BLOCKS, 3);
    volume.deactivate_blocking().unwrap();
}
