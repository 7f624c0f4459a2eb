//! Real region servers for tests: processes on loopback, with files that go with them.
//!
//! The program is looked for beside the test's own; where it is missing, cargo is asked to build it.
#![allow(dead_code, reason = "each test program uses a part")]
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

use uuid::Uuid;

/// Of every region here.
pub(crate) const BLOCK: u64 = 4096;
/// In blocks.
pub(crate) const EXTENT: u64 = 64;
/// Of every region here.
pub(crate) const EXTENTS: u64 = 8;

/// The program, or `None` after having said so.
fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let test = std::env::current_exe().ok()?;
        let folder = test.parent()?.parent()?;
        let program = folder.join("crucible-downstairs");
        if !program.exists() {
            println!("crucible-downstairs is not built yet: building it");
            let mut cargo = Command::new(std::env::var_os("CARGO")?);
            cargo.args(["build", "--quiet", "--package", "crucible-downstairs"]);
            if folder.ends_with("release") {
                cargo.arg("--release");
            }
            cargo
                .arg("--target-dir")
                .arg(folder.parent()?)
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

/// One region and its server. Both end with the value.
pub(crate) struct Server {
    program: &'static Path,
    folder: PathBuf,
    child: Child,
    /// Where it serves, also after a restart.
    pub(crate) address: SocketAddr,
}

impl Server {
    fn new(program: &'static Path, encrypted: bool) -> Self {
        let id = Uuid::new_v4();
        let folder = std::env::temp_dir().join(format!("trivet-region-{id}"));
        let mut create = Command::new(program);
        create.arg("create").arg("--data").arg(&folder);
        create.args(["--uuid", &id.to_string()]);
        create.args(["--block-size", &BLOCK.to_string()]);
        create.args(["--extent-size", &EXTENT.to_string()]);
        create.args(["--extent-count", &EXTENTS.to_string()]);
        if encrypted {
            create.arg("--encrypted");
        }
        let made = create.stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(made.unwrap().success());
        let (child, address) = serve(program, &folder, 0);
        Self {
            program,
            folder,
            child,
            address,
        }
    }

    /// Three fresh regions, or `None` after having said that there is no program.
    pub(crate) fn three(encrypted: bool) -> Option<[Self; 3]> {
        let program = program()?;
        Some([(); 3].map(|()| Self::new(program, encrypted)))
    }

    /// Another region, for somebody's place.
    pub(crate) fn another(&self, encrypted: bool) -> Self {
        Self::new(self.program, encrypted)
    }

    /// Holds the process, as a machine that hangs would: connections stay, and nobody answers.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status();
        assert!(status.unwrap().success());
    }

    /// As a power cut would, for the process.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Serves the same region at the same address again.
    pub(crate) fn restart(&mut self) {
        let (child, address) = serve(self.program, &self.folder, self.address.port());
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
fn serve(program: &Path, folder: &Path, port: u16) -> (Child, SocketAddr) {
    let mut child = Command::new(program)
        .args(["run", "--address", "127.0.0.1", "--port", &port.to_string()])
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
