//! Region servers, an HTTP server of one image, and the pantry as a program: all of it goes with the value.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) const KEY: &str = "tCw7zw0hAsPuxMOTWwnPEFYjBK9qJRtYyGdEXKEnrg0=";
/// 8 extents of 32 blocks of 512 bytes.
pub(crate) const BYTES: usize = 8 * 32 * 512;

/// The region server beside this test program; built when it is missing.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let pantry = Path::new(env!("CARGO_BIN_EXE_crucible-pantry"));
        let folder = pantry.parent().unwrap();
        let program = folder.join("crucible-downstairs");
        if !program.exists() {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "--package", "crucible-downstairs"]);
            if folder.ends_with("release") {
                cargo.arg("--release");
            }
            cargo.arg("--target-dir").arg(folder.parent().unwrap());
            assert!(cargo.status().unwrap().success(), "cannot be built");
        }
        program
    })
}

/// A child that ends with the test, and what it says.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.out.read_line(&mut line).unwrap() > 0, "it has ended");
        line
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One region and its server.
pub(crate) struct Server {
    _running: Running,
    folder: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn new() -> Self {
        let id = Uuid::new_v4();
        let folder = std::env::temp_dir().join(format!("pantry-region-{id}"));
        let mut create = Command::new(program());
        create.args(["create", "--encrypted", "--uuid", &id.to_string()]);
        create.args(["--extent-size", "32", "--extent-count", "8", "--data"]);
        let made = create.arg(&folder).stdout(Stdio::null()).status().unwrap();
        assert!(made.success());
        let mut run = Command::new(program());
        run.args(["run", "--address", "127.0.0.1", "--port", "0", "--data"]);
        let mut running = Running::start(run.arg(&folder));
        let line = running.line();
        let (_, rest) = line.split_once(" on ").unwrap();
        let address = rest.split(',').next().unwrap().parse().unwrap();
        Self {
            _running: running,
            folder,
            address,
        }
    }

    pub(crate) fn three() -> [Self; 3] {
        [(); 3].map(|()| Self::new())
    }

    pub(crate) fn has_snapshot(&self, name: &str) -> bool {
        self.folder.join(".snapshots").join(name).is_dir()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// The construction request of a volume on these three.
pub(crate) fn region(servers: [&Server; 3], generation: u64) -> Value {
    let targets = servers.map(|server| server.address.to_string());
    json!({
        "type": "region", "block_size": 512, "blocks_per_extent": 32, "extent_count": 8, "gen": generation,
        "opts": {
            "id": "11111111-2222-3333-4444-555555555555", "target": targets, "key": KEY,
            "lossy": false, "read_only": false,
        },
    })
}

pub(crate) fn attach(request: &Value) -> Value {
    json!({ "volume_construction_request": request })
}

/// The pantry, running.
pub(crate) struct Pantry {
    running: Running,
    url: String,
    agent: ureq::Agent,
}

impl Pantry {
    pub(crate) fn new() -> Self {
        let mut run = Command::new(env!("CARGO_BIN_EXE_crucible-pantry"));
        let mut running = Running::start(run.args(["run", "--listen", "127.0.0.1:0"]));
        let line = running.line();
        let (_, url) = line.split_once("listening on ").unwrap();
        Self {
            url: format!("{}/crucible/pantry/0", url.trim()),
            running,
            agent: ureq::Agent::config_builder()
                .http_status_as_error(false)
                .timeout_global(Some(Duration::from_secs(60)))
                .build()
                .into(),
        }
    }

    fn answer(mut answer: ureq::http::Response<ureq::Body>) -> (u16, Value) {
        let status = answer.status().as_u16();
        let body = answer
            .body_mut()
            .with_config()
            .limit(4 << 20)
            .read_to_string();
        let body = body.unwrap();
        let value = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&body).unwrap()
        };
        (status, value)
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        Self::answer(
            self.agent
                .get(format!("{}{path}", self.url))
                .call()
                .unwrap(),
        )
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.try_post(path, body).unwrap()
    }

    /// `None`: the server hung up before it had all of it.
    pub(crate) fn try_post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let request = self.agent.post(format!("{}{path}", self.url));
        request.send(body.to_string()).ok().map(Self::answer)
    }

    pub(crate) fn delete(&self, path: &str) -> (u16, Value) {
        Self::answer(
            self.agent
                .delete(format!("{}{path}", self.url))
                .call()
                .unwrap(),
        )
    }

    /// Begins a job and waits for its result.
    pub(crate) fn job(&self, path: &str, body: &Value) -> bool {
        let (status, started) = self.post(path, body);
        assert_eq!(status, 200, "{started}");
        self.result(started["job_id"].as_str().unwrap())
    }

    pub(crate) fn result(&self, job: &str) -> bool {
        let (status, result) = self.get(&format!("/job/{job}/ok"));
        assert_eq!(status, 200, "{result}");
        let (status, gone) = self.get(&format!("/job/{job}/is-finished"));
        assert_eq!(status, 404, "{gone}");
        result["job_result_ok"].as_bool().unwrap()
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) -> bool {
        let pid = self.running.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(told.unwrap().success());
        self.running.child.wait().unwrap().success()
    }
}

/// Hands out `image` to whoever asks, once; or says nothing at all where there is none. Answers its URL.
pub(crate) fn image(image: Option<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else {
            return;
        };
        let mut head = [0; 4096];
        let _ = stream.read(&mut head);
        match image {
            Some(image) => {
                let length = image.len();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
                );
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(&image);
            }
            None => {
                let _ = stream.read(&mut head);
            }
        }
    });
    format!("http://{address}/disk.img")
}
