//! What this machine can do at best of what an encrypted volume on three region servers has to do with large writes:
//! three files filled at once, and the same with each block sealed and one trip over loopback for each file.
//!
//! The volume's figure belongs beside these. All rates are of the volume's bytes, of which each file gets a copy, and
//! count the final sync in. The second argument is the directory for the files, the third one the bytes of each.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use benches::{Figure, report};
use crucible_upstairs::crypt::{Envelope, Key, Nonces};

type Failed = Box<dyn Error + Send + Sync>;

/// As many as a volume has region servers.
const FILES: usize = 3;
/// Of a write.
const CHUNK: usize = 1 << 20;
const BLOCK: usize = 4096;
/// Threads that seal and send; the reference machine has two cores.
const LANES: usize = 2;
const BYTES: u64 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Failed> {
    let rounds = benches::rounds();
    let directory = std::env::args_os()
        .nth(2)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let wanted = std::env::args().nth(3).and_then(|text| text.parse().ok());
    let chunks = (wanted.unwrap_or(BYTES) / CHUNK as u64).max(LANES as u64);
    let files = Files {
        directory,
        paths: (0..FILES).map(|number| format!("limit-{number}")).collect(),
    };
    let measure = |name: &str, work: &dyn Fn() -> Result<Duration, Failed>| {
        let mut best = Duration::MAX;
        for _ in 0..rounds {
            best = best.min(work()?);
        }
        report(&Figure {
            name: format!("limit: {name}"),
            ours: (chunks * CHUNK as u64) as f64 / 1e6 / best.as_secs_f64(),
            theirs: None,
            unit: "MB/s",
            at_least: None,
        });
        Ok::<_, Failed>(())
    };
    measure("three new files", &|| {
        files.remove();
        files.write(chunks, false)
    })?;
    measure("three new files, past the page cache", &|| {
        files.remove();
        files.write(chunks, true)
    })?;
    measure("three new files, sealed, over loopback", &|| {
        files.remove();
        files.seal_and_send(chunks, true)
    })?;
    // Nobody was here before: the pages of the last files are not in the cache.
    files.remove();
    files.write(chunks, false)?;
    measure("three files written again", &|| files.write(chunks, false))?;
    measure("three files written again, sealed, over loopback", &|| {
        files.seal_and_send(chunks, false)
    })
}

/// The files, which go when this does.
struct Files {
    directory: PathBuf,
    paths: Vec<String>,
}

impl Files {
    fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.paths.iter().map(|name| self.directory.join(name))
    }

    fn remove(&self) {
        for path in self.paths() {
            // What is not there need not go.
            let _ = std::fs::remove_file(path);
        }
    }

    fn open(&self, direct: bool) -> Result<Vec<File>, Failed> {
        let open = |path: PathBuf| {
            open(&path, direct).map_err(|error| format!("{}: {error}", path.display()).into())
        };
        self.paths().map(open).collect()
    }

    /// A thread a file: chunk after chunk, and a sync.
    fn write(&self, chunks: u64, direct: bool) -> Result<Duration, Failed> {
        let files = self.open(direct)?;
        together(files.len(), |number| {
            let mut chunk = Chunk::new();
            let file = &files[number];
            for at in 0..chunks {
                chunk.stamp(at);
                file.write_all_at(chunk.bytes(), at * CHUNK as u64)?;
            }
            Ok(file.sync_data()?)
        })
    }

    /// Lanes that seal and send; behind each, a thread a file that receives and writes.
    fn seal_and_send(&self, chunks: u64, direct: bool) -> Result<Duration, Failed> {
        let files = self.open(direct)?;
        let envelope = Envelope::new(Some(&Key::random().map_err(|error| error.to_string())?));
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for _ in 0..LANES * FILES {
            let listener = TcpListener::bind(("127.0.0.1", 0))?;
            let sender = TcpStream::connect(listener.local_addr()?)?;
            sender.set_nodelay(true)?;
            let (receiver, _) = listener.accept()?;
            // Should one thread fail, the others do not wait for it for ever.
            sender.set_write_timeout(Some(PATIENCE))?;
            receiver.set_read_timeout(Some(PATIENCE))?;
            senders.push(sender);
            receivers.push(receiver);
        }
        together(LANES + receivers.len(), |number| {
            if let Some(number) = number.checked_sub(LANES) {
                let (lane, file) = (number / FILES, &files[number % FILES]);
                let mut chunk = Chunk::new();
                for at in lane_of(lane, chunks) {
                    (&receivers[number]).read_exact(chunk.bytes_mut())?;
                    file.write_all_at(chunk.bytes(), at * CHUNK as u64)?;
                }
                return Ok(file.sync_data()?);
            }
            let mut chunk = Chunk::new();
            let (mut nonces, mut contexts) = (Nonces::new(), Vec::new());
            for at in lane_of(number, chunks) {
                chunk.stamp(at);
                contexts.clear();
                envelope.seal(BLOCK, chunk.bytes_mut(), &mut nonces, &mut contexts)?;
                for mut sender in &senders[number * FILES..][..FILES] {
                    sender.write_all(chunk.bytes())?;
                }
            }
            Ok(())
        })
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The chunks of one lane.
fn lane_of(lane: usize, chunks: u64) -> impl Iterator<Item = u64> {
    (lane as u64..chunks).step_by(LANES)
}

/// Runs so many threads, and tells how long until the last was done.
fn together(
    count: usize,
    work: impl Fn(usize) -> Result<(), Failed> + Sync,
) -> Result<Duration, Failed> {
    let ready = Barrier::new(count + 1);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|number| {
                let (ready, work) = (&ready, &work);
                scope.spawn(move || {
                    ready.wait();
                    work(number)
                })
            })
            .collect();
        ready.wait();
        let started = Instant::now();
        for thread in threads {
            thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok(started.elapsed())
    })
}

fn open(path: &Path, direct: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(target_os = "linux")]
    if direct {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_DIRECT);
    }
    // Where there is no such flag, both ways are the same.
    let _ = direct;
    options.open(path)
}

/// Bytes at an address that direct writes accept.
struct Chunk {
    bytes: Vec<u8>,
    start: usize,
}

impl Chunk {
    fn new() -> Self {
        let bytes = vec![0x5a; CHUNK + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { bytes, start }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..][..CHUNK]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..CHUNK]
    }

    /// No two blocks are alike.
    fn stamp(&mut self, at: u64) {
        for (number, block) in self.bytes_mut().chunks_exact_mut(BLOCK).enumerate() {
            let stamp = at << 8 | number as u64;
            block[..8].copy_from_slice(&stamp.to_le_bytes());
        }
    }
}
