//! What each step of a guest's 4 KiB write and read costs on its way through an encrypted volume.
//!
//! First the steps that can be had alone, on one thread. Then the whole way, with three region servers: latency,
//! and the processor time of everybody who takes part, as the system accounts it (Linux only). The guest is played by
//! a driver that does the least a driver can.
//!
//! The second argument is the directory of the program `crucible-downstairs`, the third one for regions.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use benches::{Figure, report};
use block::Disk;
use bytes::{Bytes, BytesMut};
use crucible_protocol::{BlockIndex, ReadBlockContext};
use crucible_upstairs::adapter::VolumeDisk;
use crucible_upstairs::core::{Answer, Plain, Request, Written};
use crucible_upstairs::crypt::{Envelope, Key, Nonces};
use crucible_upstairs::drive::Setup;
use crucible_upstairs::options::CrucibleOpts;
use crucible_upstairs::store::{Ask, Shape, Store, Submission};
use crucible_upstairs::volume::{Volume, block_on};
use devices::testkit::nvme_bench::ReadLoad;
use uuid::Uuid;
use vm_types::Execution;

type Failed = Box<dyn Error>;

const BLOCK: usize = 4096;
/// Commands between two looks at the clock.
const BATCH: u64 = 2048;
/// Time for one measurement of a step.
const SPAN: Duration = Duration::from_millis(300);
/// Time for one measurement of the whole way.
const WHOLE: Duration = Duration::from_secs(2);

fn main() -> Result<(), Failed> {
    let rounds = benches::rounds();
    steps(rounds)?;
    let programs = std::env::args_os().nth(2).map(PathBuf::from);
    let regions = std::env::args_os()
        .nth(3)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    match programs {
        Some(programs) => whole(&programs.join("crucible-downstairs"), &regions),
        None => Ok(()),
    }
}

fn figure(name: &str, ours: f64, unit: &'static str) {
    report(&Figure {
        name: format!("path: {name}"),
        ours,
        theirs: None,
        unit,
        at_least: None,
    });
}

/// Nanoseconds of each of `count` things in the best batch.
fn best(
    rounds: usize,
    count: u64,
    mut batch: impl FnMut() -> Result<(), Failed>,
) -> Result<f64, Failed> {
    let mut best = Duration::MAX;
    for _ in 0..rounds {
        let begin = Instant::now();
        while begin.elapsed() < SPAN {
            let started = Instant::now();
            batch()?;
            best = best.min(started.elapsed());
        }
    }
    Ok(best.as_secs_f64() * 1e9 / count as f64)
}

/// A store that answers on the spot: what remains is what a volume costs before its core.
#[derive(Debug)]
struct Instantly(Bytes);

impl Store for Instantly {
    fn submit(&self, batch: &mut Vec<Submission>) {
        for Submission { ask, reply } in batch.drain(..) {
            let answer = match ask {
                Ask::Request(Request::Read { .. }) => Answer::Read(Plain {
                    data: self.0.clone(),
                    written: Written::All,
                }),
                Ask::Request(Request::Flush { .. }) => Answer::Flushed,
                _ => Answer::Written,
            };
            reply.send(Ok(answer));
        }
    }

    fn shape(&self) -> Option<Shape> {
        Some(Shape {
            block_size: BLOCK as u32,
            blocks: 1 << 20,
            read_only: false,
            encrypted: true,
        })
    }
}

fn steps(rounds: usize) -> Result<(), Failed> {
    let nothing = || Disk::null(BLOCK as u32, 1 << 32, block::NullReads::Untouched);
    let adapter = || {
        let store = Arc::new(Instantly(Bytes::from_static(&[7; BLOCK])));
        let volume = Volume::over(store, Vec::new());
        VolumeDisk::new(volume).map(|disk| Disk::new(Arc::new(disk)))
    };
    for (name, disk) in [
        ("NVMe front", Some(nothing()?)),
        ("NVMe front and adapter", adapter()),
    ] {
        let disk = disk.ok_or("a disk without a size")?;
        let mut writes = ReadLoad::writes_on(disk.clone(), 32, Execution::Inline);
        let ns = best(rounds, BATCH, || {
            writes.run(BATCH);
            Ok(())
        })?;
        figure(&format!("{name}, write"), ns, "ns");
        let mut reads = ReadLoad::on(disk, 32, Execution::Inline);
        let ns = best(rounds, BATCH, || {
            reads.run(BATCH);
            Ok(())
        })?;
        figure(&format!("{name}, read"), ns, "ns");
    }
    let key = Key::from([9; 32]);
    let envelope = Envelope::new(Some(&key));
    let mut nonces = Nonces::default();
    let mut data = vec![5; BLOCK];
    let mut contexts = Vec::new();
    let seal = best(rounds, 64, || {
        for _ in 0..64 {
            contexts.clear();
            envelope.seal(BLOCK, &mut data, &mut nonces, &mut contexts)?;
        }
        Ok(())
    })?;
    figure("seal and hash", seal, "ns");
    let contexts: Vec<ReadBlockContext> = contexts.iter().map(|it| (*it).into()).collect();
    let mut plain = vec![0; BLOCK];
    let open = best(rounds, 64, || {
        for _ in 0..64 {
            let opened = envelope.open(BLOCK, &contexts, &data, &mut plain);
            opened.map_err(|_| "what was sealed does not open")?;
        }
        Ok(())
    })?;
    figure("check and open", open, "ns");
    Ok(())
}

/// A region and its server; both end with the value.
struct Server {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Server {
    fn start(program: &Path, parent: &Path) -> Result<Self, Failed> {
        let id = Uuid::new_v4();
        let folder = parent.join(format!("path-{id}"));
        let made = Command::new(program)
            .args(["create", "--uuid", &id.to_string(), "--encrypted"])
            .args(["--block-size", "4096", "--extent-size", "4096"])
            .args(["--extent-count", "16", "--data"])
            .arg(&folder)
            .stdout(Stdio::null())
            .status()?;
        if !made.success() {
            return Err(format!("{} create: {made}", program.display()).into());
        }
        let mut child = Command::new(program)
            .args(["run", "--address", "127.0.0.1", "--port", "0"])
            .args(["--mode", "rw", "--data"])
            .arg(&folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let said = child.stdout.take().ok_or("no standard output")?;
        let mut server = Self {
            child,
            folder,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let mut lines = BufReader::new(said);
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 {
            let words = line.split(|c: char| c.is_whitespace() || c == ',');
            let found = words
                .filter_map(|word| word.parse::<SocketAddr>().ok())
                .find(|it| it.port() != 0);
            if let Some(address) = found {
                server.address = address;
                // What it says later must find a reader.
                std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
                return Ok(server);
            }
            line.clear();
        }
        Err("a region server said no address".into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn whole(program: &Path, regions: &Path) -> Result<(), Failed> {
    let servers: Vec<Server> = (0..3)
        .map(|_| Server::start(program, regions))
        .collect::<Result<_, _>>()?;
    let targets: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let targets: [SocketAddr; 3] = targets.try_into().map_err(|_| "three servers")?;
    let mut opts = CrucibleOpts::new(Uuid::new_v4(), targets);
    opts.key = Some(
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
            .to_owned()
            .into(),
    );
    let volume = Volume::region(Setup::new(&opts, None, 1)?)?;
    let shape = volume.activate_blocking(None)?;
    for block in (0..shape.blocks).step_by(256) {
        let data = BytesMut::from(&vec![3; 256 * BLOCK][..]);
        volume.write_blocking(BlockIndex(block), data)?;
    }
    volume.flush_blocking(None)?;
    let disk = VolumeDisk::named("path", volume.clone()).ok_or("no size")?;
    let disk = Disk::new(Arc::new(disk));
    for depth in [1, 32] {
        let mut writes = ReadLoad::writes_on(disk.clone(), depth, Execution::Threads);
        measure("write", depth, &mut writes, &servers)?;
        volume.flush_blocking(None)?;
        drop(writes);
        let mut reads = ReadLoad::on(disk.clone(), depth, Execution::Threads);
        measure("read", depth, &mut reads, &servers)?;
    }
    block_on(volume.deactivate())?;
    Ok(())
}

/// Processor time in nanoseconds of all threads of a process whose names begin with `name`.
fn processor_time(process: &str, name: &str) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else {
        return 0;
    };
    let time = |task: PathBuf| -> Option<u64> {
        let comm = fs::read_to_string(task.join("comm")).ok()?;
        if !comm.starts_with(name) {
            return None;
        }
        let text = fs::read_to_string(task.join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    tasks.flatten().filter_map(|task| time(task.path())).sum()
}

fn measure(what: &str, depth: u32, load: &mut ReadLoad, servers: &[Server]) -> Result<(), Failed> {
    load.run(BATCH);
    let look = || {
        let there = |server: &Server| processor_time(&server.child.id().to_string(), "");
        [
            processor_time("self", "load-q"),
            processor_time("self", "upstairs"),
            processor_time("self", "crypt"),
            servers.iter().map(there).sum(),
        ]
    };
    let before = look();
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < WHOLE {
        count += load.run(64);
    }
    let took = started.elapsed();
    let spent = look();
    let each = |ns: u64| ns as f64 / count as f64 / 1e3;
    let name = |part: &str| format!("4K {what}, depth {depth}, {part}");
    let latency = took.as_secs_f64() * 1e6 * f64::from(depth) / count as f64;
    figure(&name("until the answer"), latency, "us");
    for (part, (after, before)) in [
        "the queue's worker",
        "the upstairs thread",
        "cipher threads",
        "the three region servers together",
    ]
    .into_iter()
    .zip(spent.into_iter().zip(before))
    {
        figure(&name(part), each(after.saturating_sub(before)), "us CPU");
    }
    Ok(())
}
