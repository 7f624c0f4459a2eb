//! A region in a temporary directory, a server over it, and a peer that says what it is told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use crucible_downstairs::disk::{Disk, FileDisk};
use crucible_downstairs::drive::{self, Config, Serving};
use crucible_downstairs::store::{Mode, Options, Region};
use crucible_protocol::wire::Decoder;
use crucible_protocol::{
    BlockContext, BlockIndex, Geometry, JobId, Message, RegionDefinition, SessionId, SessionKey,
    UpstairsId, WriteHeader,
};
use tokio::runtime::Runtime;
use uuid::Uuid;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A directory that goes when this does, also when the test fails.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "crucible-downstairs-test-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// 4 extents of 8 blocks of 512 bytes: what the recordings have.
pub(crate) fn small() -> RegionDefinition {
    definition(512, 8, 4, false)
}

pub(crate) fn definition(
    block_size: u64,
    blocks: u64,
    extents: u32,
    encrypted: bool,
) -> RegionDefinition {
    let geometry = Geometry::new(block_size, blocks, extents).unwrap();
    RegionDefinition::new(geometry, Uuid::from_u128(0x1234), encrypted)
}

pub(crate) fn create(directory: &Path, definition: &RegionDefinition) {
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(directory));
    Region::create(&disk, definition, &mut |_, _| {}).unwrap();
}

pub(crate) fn open(directory: &Path, mode: Mode) -> Region {
    Region::open(Arc::new(FileDisk::new(directory)), mode, Options::default()).unwrap()
}

/// A region that is being served.
pub(crate) struct Server {
    serving: Option<Serving>,
    runtime: Option<Runtime>,
    pub(crate) address: SocketAddr,
    pub(crate) repair: SocketAddr,
    pub(crate) directory: Arc<Directory>,
}

impl Server {
    pub(crate) fn fresh(definition: &RegionDefinition) -> Self {
        let directory = Arc::new(Directory::new());
        create(&directory.join("region"), definition);
        Self::over(directory, Mode::ReadWrite)
    }

    pub(crate) fn over(directory: Arc<Directory>, mode: Mode) -> Self {
        let config = Config::at("127.0.0.1:0".parse().unwrap());
        Self::with(directory, mode, config)
    }

    pub(crate) fn with(directory: Arc<Directory>, mode: Mode, config: Config) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let region = Arc::new(open(&directory.join("region"), mode));
        let serving = runtime.block_on(drive::serve(region, config)).unwrap();
        Self {
            address: serving.address(),
            repair: serving.repair_address(),
            serving: Some(serving),
            runtime: Some(runtime),
            directory,
        }
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer::connect(self.address)
    }

    /// A peer that may send jobs.
    pub(crate) fn active(&self, key: SessionKey, generation: u64) -> Peer {
        let mut peer = self.peer();
        peer.activate(key, generation, false);
        peer
    }

    /// Stops serving; the directory stays.
    pub(crate) fn stop(mut self) -> Arc<Directory> {
        let (serving, runtime) = (self.serving.take().unwrap(), self.runtime.take().unwrap());
        runtime.block_on(serving.stop());
        runtime.shutdown_timeout(PATIENCE);
        Arc::clone(&self.directory)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.serving.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(PATIENCE);
        }
    }
}

/// The other side.
pub(crate) struct Peer {
    stream: TcpStream,
    buffer: BytesMut,
    queued: BytesMut,
}

impl Peer {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: BytesMut::new(),
            queued: BytesMut::new(),
        }
    }

    pub(crate) fn send(&mut self, message: &Message) {
        let mut bytes = BytesMut::new();
        message.encode_into(&mut bytes);
        self.send_bytes(&bytes);
    }

    /// To be sent with others by [`Peer::send_queued`].
    pub(crate) fn queue(&mut self, message: &Message) {
        message.encode_into(&mut self.queued);
    }

    pub(crate) fn send_queued(&mut self) {
        let bytes = self.queued.split();
        self.send_bytes(&bytes);
    }

    /// A message that has been read already.
    pub(crate) fn buffered(&mut self) -> Option<Message> {
        Decoder::default().decode(&mut self.buffer).unwrap()
    }

    /// The server may have hung up already; that is seen when reading.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next message, `None` when the connection has ended.
    pub(crate) fn receive(&mut self) -> Option<Message> {
        let mut chunk = [0; 64 << 10];
        loop {
            if let Some(message) = Decoder::default().decode(&mut self.buffer).unwrap() {
                return Some(message);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    panic!("nothing came")
                }
                Err(_) => return None,
            }
        }
    }

    pub(crate) fn ask(&mut self, message: &Message) -> Message {
        self.send(message);
        self.receive().expect("an answer")
    }

    pub(crate) fn is_closed(&mut self) -> bool {
        self.receive().is_none()
    }

    pub(crate) fn greet(&mut self, key: SessionKey, read_only: bool, encrypted: bool) -> Message {
        self.ask(&Message::HereIAm {
            version: 13,
            key,
            generation: 1,
            read_only,
            encrypted,
            alternate_versions: Vec::new(),
        })
    }

    pub(crate) fn activate(&mut self, key: SessionKey, generation: u64, read_only: bool) {
        let yes = self.greet(key, read_only, false);
        assert!(matches!(yes, Message::YesItsMe { .. }), "{yes:?}");
        let active = self.ask(&Message::PromoteToActive { key, generation });
        assert_eq!(active, Message::YouAreNowActive { key, generation });
        let info = self.ask(&Message::RegionInfoPlease);
        assert!(matches!(info, Message::RegionInfo(_)), "{info:?}");
        let versions = self.ask(&Message::ExtentVersionsPlease);
        assert!(matches!(versions, Message::ExtentVersions { .. }));
    }

    pub(crate) fn ping(&mut self) {
        assert_eq!(self.ask(&Message::Ruok), Message::Imok);
    }
}

pub(crate) fn key(upstairs: u128, session: u128) -> SessionKey {
    SessionKey {
        upstairs: UpstairsId(Uuid::from_u128(upstairs)),
        session: SessionId(Uuid::from_u128(session)),
    }
}

pub(crate) fn ids(numbers: &[u64]) -> Vec<JobId> {
    numbers.iter().copied().map(JobId).collect()
}

/// Blocks of 512 bytes, each full of `fill` and its number.
pub(crate) fn blocks(fill: u8, count: usize) -> Bytes {
    (0..count)
        .flat_map(|number| std::iter::repeat_n(fill.wrapping_add(number as u8), 512))
        .collect()
}

pub(crate) fn write(key: SessionKey, job: u64, after: &[u64], start: u64, data: &Bytes) -> Message {
    Message::Write {
        header: WriteHeader {
            key,
            job: JobId(job),
            dependencies: ids(after),
            start: BlockIndex(start),
            contexts: data.chunks(512).map(BlockContext::plain).collect(),
        },
        data: data.clone(),
    }
}

pub(crate) fn read(key: SessionKey, job: u64, after: &[u64], start: u64, count: u64) -> Message {
    Message::ReadRequest {
        key,
        job: JobId(job),
        dependencies: ids(after),
        start: BlockIndex(start),
        count,
    }
}

pub(crate) fn flush(key: SessionKey, job: u64, after: &[u64], number: u64) -> Message {
    Message::Flush {
        key,
        job: JobId(job),
        dependencies: ids(after),
        flush: number,
        generation: 1,
        snapshot: None,
        extent_limit: None,
    }
}

/// One HTTP request; status and body.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into();
    let mut response = agent.get(format!("http://{address}{path}")).call().unwrap();
    let bytes = response.body_mut().read_to_vec().unwrap();
    let body = String::from_utf8_lossy(&bytes).into_owned();
    (response.status().as_u16(), body)
}
