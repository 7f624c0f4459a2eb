//! A region server in a few hundred lines: keeps blocks in memory and carries jobs out as they come. What a test
//! can do to it: kill it, start it again with what it had, spoil its blocks, hold its answers back.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a failure is the finding"
)]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part of this"
)]

use std::collections::{HashMap, HashSet};
use std::io::{Error, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use crucible_protocol::{
    CrucibleError, Decoder, ExtentId, ExtentState, Geometry, JobId, Message, ReadBlockContext,
    ReadResponseHeader, RegionDefinition, SessionKey, WriteHeader,
};
use uuid::Uuid;

/// What a region keeps: it outlives the server.
pub struct Region {
    pub definition: RegionDefinition,
    pub blocks: Vec<(Vec<u8>, ReadBlockContext)>,
    pub extents: Vec<ExtentState>,
    pub flushes: u64,
}

/// Makes a connection encrypted, or leaves it as it is.
pub type Wrap = Arc<dyn Fn(TcpStream) -> std::io::Result<Box<dyn Stream>> + Send + Sync>;

pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// One region server.
pub struct Peer {
    pub address: SocketAddr,
    pub region: Arc<Mutex<Region>>,
    shared: Arc<Shared>,
    wrap: Option<Wrap>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
    /// Each read of a socket waits this long first.
    delay_us: AtomicU64,
    reads: AtomicU64,
    /// Where live repair finds the other regions.
    others: Mutex<HashMap<SocketAddr, Arc<Mutex<Region>>>>,
}

impl Region {
    pub fn new(geometry: Geometry, encrypted: bool) -> Self {
        let block = vec![0; geometry.block_size() as usize];
        let count = geometry.block_count() as usize;
        Self {
            definition: RegionDefinition::new(geometry, Uuid::new_v4(), encrypted),
            blocks: vec![(block, ReadBlockContext::Empty); count],
            extents: vec![ExtentState::default(); geometry.extent_count() as usize],
            flushes: 0,
        }
    }

    fn extent_of(&self, block: u64) -> usize {
        (block / self.definition.extent_size.value) as usize
    }

    fn write(&mut self, header: &WriteHeader, data: &[u8], unwritten: bool) {
        let size = self.definition.block_size as usize;
        assert_eq!(data.len(), header.contexts.len() * size);
        let blocks = data.chunks(size).zip(&header.contexts);
        for (at, (block, context)) in (header.start.0..).zip(blocks) {
            assert!(context.fits(block), "the hash fits the block");
            let extent = self.extent_of(at);
            let place = &mut self.blocks[at as usize];
            if !(unwritten && place.1 != ReadBlockContext::Empty) {
                *place = (block.to_vec(), (*context).into());
                self.extents[extent].dirty = true;
            }
        }
    }

    fn flush(&mut self, generation: u64, flush: u64, limit: Option<ExtentId>) {
        self.flushes += 1;
        let limit = limit.map_or(usize::MAX, |extent| extent.0 as usize);
        for (_, state) in self
            .extents
            .iter_mut()
            .enumerate()
            .filter(|(at, _)| *at <= limit)
        {
            if state.dirty {
                *state = ExtentState {
                    generation,
                    flush,
                    dirty: false,
                };
            }
        }
    }

    fn copy_extent(&mut self, from: &Self, extent: ExtentId) {
        let per_extent = self.definition.extent_size.value as usize;
        let first = extent.0 as usize * per_extent;
        let range = first..first + per_extent;
        self.blocks[range.clone()].clone_from_slice(&from.blocks[range]);
        self.extents[extent.0 as usize] = from.extents[extent.0 as usize];
    }
}

impl Peer {
    /// A server of a fresh region on a free port.
    pub fn new(geometry: Geometry, encrypted: bool) -> Self {
        Self::with(geometry, encrypted, None)
    }

    pub fn with(geometry: Geometry, encrypted: bool, wrap: Option<Wrap>) -> Self {
        let region = Arc::new(Mutex::new(Region::new(geometry, encrypted)));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = Self {
            address: listener.local_addr().unwrap(),
            region,
            shared: Arc::default(),
            wrap,
        };
        peer.serve(listener);
        peer
    }

    /// Three of them that know each other.
    pub fn three(geometry: Geometry, encrypted: bool) -> [Self; 3] {
        let peers = [(); 3].map(|()| Self::new(geometry, encrypted));
        Self::introduce(&peers);
        peers
    }

    pub fn introduce(peers: &[Self]) {
        let all: HashMap<_, _> = peers
            .iter()
            .map(|peer| (peer.address, peer.region.clone()))
            .collect();
        for peer in peers {
            *peer.shared.others.lock().unwrap() = all.clone();
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Region> {
        self.region.lock().unwrap()
    }

    pub fn reads(&self) -> u64 {
        self.shared.reads.load(Ordering::SeqCst)
    }

    pub fn delay(&self, delay: Duration) {
        let micros = delay.as_micros() as u64;
        self.shared.delay_us.store(micros, Ordering::SeqCst);
    }

    /// Closes the listener and all connections.
    pub fn kill(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.hang_up();
        // Wakes the one that accepts.
        drop(TcpStream::connect(self.address));
    }

    /// Closes all connections.
    pub fn hang_up(&self) {
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            drop(stream.shutdown(std::net::Shutdown::Both));
        }
    }

    /// After a kill: the same region at the same place.
    pub fn restart(&mut self) {
        let others = self.shared.others.lock().unwrap().clone();
        self.shared = Arc::default();
        *self.shared.others.lock().unwrap() = others;
        let listener = self.place();
        self.serve(listener);
    }

    /// After a kill: the place where it listened, for somebody else.
    pub fn place(&self) -> TcpListener {
        loop {
            match TcpListener::bind(self.address) {
                Ok(listener) => return listener,
                // The old listener is about to go.
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    fn serve(&mut self, listener: TcpListener) {
        let (shared, region) = (self.shared.clone(), self.region.clone());
        let (wrap, address) = (self.wrap.clone(), self.address);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { return };
                stream.set_nodelay(true).unwrap();
                shared
                    .streams
                    .lock()
                    .unwrap()
                    .push(stream.try_clone().unwrap());
                let (shared, region, wrap) = (shared.clone(), region.clone(), wrap.clone());
                let raw = stream.try_clone().unwrap();
                std::thread::spawn(move || {
                    let stream = match &wrap {
                        None => Box::new(stream),
                        Some(wrap) => match wrap(stream) {
                            Ok(stream) => stream,
                            Err(_) => return,
                        },
                    };
                    // An end of the connection is no failure.
                    let _ = Session::new(shared, region, address).run(stream);
                    let _ = raw.shutdown(std::net::Shutdown::Both);
                });
            }
        });
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Session {
    shared: Arc<Shared>,
    region: Arc<Mutex<Region>>,
    address: SocketAddr,
}

impl Session {
    fn new(shared: Arc<Shared>, region: Arc<Mutex<Region>>, address: SocketAddr) -> Self {
        Self {
            shared,
            region,
            address,
        }
    }

    fn run(&self, mut stream: Box<dyn Stream>) -> std::io::Result<()> {
        let (decoder, mut buffer) = (Decoder::default(), BytesMut::new());
        let (mut waiting, mut completed) = (Vec::new(), HashSet::new());
        let mut piece = vec![0; 256 << 10];
        loop {
            let count = stream.read(&mut piece)?;
            if count == 0 {
                return Ok(());
            }
            let delay = self.shared.delay_us.load(Ordering::SeqCst);
            if delay > 0 {
                std::thread::sleep(Duration::from_micros(delay));
            }
            buffer.extend_from_slice(&piece[..count]);
            let mut out = BytesMut::new();
            while let Some(message) = decoder.decode(&mut buffer).map_err(Error::other)? {
                waiting.push(message);
                // Jobs may come before those that they depend on.
                while let Some(at) = waiting
                    .iter()
                    .position(|message| ready(message, &completed))
                {
                    let message = waiting.remove(at);
                    if let Message::LastFlush { last } = &message {
                        completed.extend(last);
                    }
                    if matches!(message, Message::Flush { .. } | Message::Barrier { .. }) {
                        completed.clear();
                    }
                    completed.extend(job_of(&message).map(|(job, _)| job));
                    if let Some(answer) = self.answer(message) {
                        answer.encode_into(&mut out);
                    }
                }
            }
            stream.write_all(&out)?;
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each message")]
    fn answer(&self, message: Message) -> Option<Message> {
        let mut region = self.region.lock().unwrap();
        Some(match message {
            Message::HereIAm { encrypted, .. } if encrypted != region.definition.encrypted => {
                Message::EncryptedMismatch {
                    expected: region.definition.encrypted,
                }
            }
            Message::HereIAm { version, .. } => Message::YesItsMe {
                version,
                repair_address: self.address,
            },
            Message::PromoteToActive { key, generation } => {
                Message::YouAreNowActive { key, generation }
            }
            Message::RegionInfoPlease => Message::RegionInfo(region.definition),
            Message::ExtentVersionsPlease => Message::ExtentVersions {
                generations: region.extents.iter().map(|e| e.generation).collect(),
                flushes: region.extents.iter().map(|e| e.flush).collect(),
                dirty: region.extents.iter().map(|e| e.dirty).collect(),
            },
            Message::LastFlush { .. } => return None,
            Message::Ruok => Message::Imok,
            Message::Write { header, data } => {
                region.write(&header, &data, false);
                Message::WriteAck {
                    key: header.key,
                    job: header.job,
                    result: Ok(()),
                }
            }
            Message::WriteUnwritten { header, data } => {
                region.write(&header, &data, true);
                Message::WriteUnwrittenAck {
                    key: header.key,
                    job: header.job,
                    result: Ok(()),
                }
            }
            Message::Flush {
                key,
                job,
                flush,
                generation,
                extent_limit,
                ..
            } => {
                region.flush(generation, flush, extent_limit);
                let result = Ok(());
                Message::FlushAck { key, job, result }
            }
            Message::Barrier { key, job, .. } => Message::BarrierAck {
                key,
                job,
                result: Ok(()),
            },
            Message::ReadRequest {
                key,
                job,
                start,
                count,
                ..
            } => {
                self.shared.reads.fetch_add(1, Ordering::SeqCst);
                let range = start.0 as usize..(start.0 + count) as usize;
                let blocks = &region.blocks[range];
                let data: Vec<u8> = blocks.iter().flat_map(|block| block.0.clone()).collect();
                let header = ReadResponseHeader {
                    key,
                    job,
                    blocks: Ok(blocks.iter().map(|block| block.1).collect()),
                };
                Message::ReadResponse {
                    header,
                    data: Bytes::from(data),
                }
            }
            Message::ExtentClose { repair, .. } | Message::ExtentReopen { repair, .. } => {
                Message::RepairAckId { repair }
            }
            Message::ExtentFlush { repair, .. } => Message::RepairAckId { repair },
            Message::ExtentRepair {
                repair,
                extent,
                source_address,
                ..
            } => {
                drop(region);
                match self.repair(extent, source_address) {
                    Ok(()) => Message::RepairAckId { repair },
                    Err(error) => Message::ExtentError {
                        repair,
                        extent,
                        error,
                    },
                }
            }
            Message::ExtentLiveClose {
                key, job, extent, ..
            } => close_ack(key, job, region.extents[extent.0 as usize]),
            Message::ExtentLiveFlushClose {
                key,
                job,
                extent,
                flush,
                generation,
                ..
            } => {
                let state = &mut region.extents[extent.0 as usize];
                if state.dirty {
                    *state = ExtentState {
                        generation,
                        flush,
                        dirty: false,
                    };
                }
                close_ack(key, job, *state)
            }
            Message::ExtentLiveRepair {
                key,
                job,
                extent,
                source_address,
                ..
            } => {
                drop(region);
                Message::ExtentLiveRepairAckId {
                    key,
                    job,
                    result: self.repair(extent, source_address),
                }
            }
            Message::ExtentLiveReopen { key, job, .. }
            | Message::ExtentLiveNoOp { key, job, .. } => Message::ExtentLiveAckId {
                key,
                job,
                result: Ok(()),
            },
            other => unreachable!("{other:?}"),
        })
    }

    fn repair(&self, extent: ExtentId, source: SocketAddr) -> Result<(), CrucibleError> {
        let others = self.shared.others.lock().unwrap();
        let source = others
            .get(&source)
            .ok_or_else(|| CrucibleError::RepairRequestError("unknown source".to_owned()))?;
        let from = source.lock().unwrap();
        let copy = Region {
            definition: from.definition,
            blocks: from.blocks.clone(),
            extents: from.extents.clone(),
            flushes: 0,
        };
        drop(from);
        self.region.lock().unwrap().copy_extent(&copy, extent);
        Ok(())
    }
}

/// The number of a job, and what it depends on.
fn job_of(message: &Message) -> Option<(JobId, &[JobId])> {
    match message {
        Message::Write { header, .. } | Message::WriteUnwritten { header, .. } => {
            Some((header.job, &header.dependencies))
        }
        Message::ReadRequest {
            job, dependencies, ..
        }
        | Message::Flush {
            job, dependencies, ..
        }
        | Message::Barrier {
            job, dependencies, ..
        }
        | Message::ExtentLiveClose {
            job, dependencies, ..
        }
        | Message::ExtentLiveFlushClose {
            job, dependencies, ..
        }
        | Message::ExtentLiveRepair {
            job, dependencies, ..
        }
        | Message::ExtentLiveReopen {
            job, dependencies, ..
        }
        | Message::ExtentLiveNoOp {
            job, dependencies, ..
        } => Some((*job, dependencies)),
        _ => None,
    }
}

fn ready(message: &Message, completed: &HashSet<JobId>) -> bool {
    job_of(message).is_none_or(|(_, needs)| needs.iter().all(|need| completed.contains(need)))
}

fn close_ack(key: SessionKey, job: JobId, state: ExtentState) -> Message {
    Message::ExtentLiveCloseAck {
        key,
        job,
        result: Ok(state),
    }
}
