//! A region server in memory. Spec: negotiation 2.2, I/O semantics 3.2.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use crucible_protocol::{
    ClientId, CrucibleError, ExtentId, ExtentState, JobId, Message, ReadBlockContext,
    ReadResponseHeader, RegionDefinition, SessionKey, WriteHeader,
};
use uuid::Uuid;

use super::{BLOCK, BLOCKS, EXTENTS, PER_EXTENT, dependencies, geometry, job, repair_address};

/// One block: its context and its data.
pub(crate) type Block = (ReadBlockContext, Bytes);
/// One extent: its blocks and its state.
pub(crate) type Content = (Vec<Block>, ExtentState);

/// What the world has to do for a replica.
#[derive(Debug)]
pub(crate) enum Reaction {
    Say(Message),
    Copy {
        extent: ExtentId,
        from: SocketAddr,
        then: Message,
    },
    Close,
}

#[derive(Debug)]
pub(crate) struct Replica {
    index: usize,
    pub(crate) region: RegionDefinition,
    pub(crate) read_only: bool,
    pub(crate) version: u32,
    pub(crate) is_down: bool,
    blocks: Vec<Block>,
    stable: Vec<Block>,
    pub(crate) states: Vec<ExtentState>,
    closed: BTreeSet<u32>,
    session: Session,
    /// Jobs of these kinds are answered by an error report, and not done.
    pub(crate) fails: Option<fn(&Message) -> bool>,
    /// How many jobs were done.
    pub(crate) done: Vec<JobId>,
}

#[derive(Debug, Default)]
struct Session {
    client: Option<ClientId>,
    key: Option<SessionKey>,
    generation: u64,
    step: u8,
    completed: BTreeSet<JobId>,
    pending: Vec<Message>,
    copying: bool,
}

fn empty() -> Block {
    (ReadBlockContext::Empty, Bytes::from_static(&[0; BLOCK]))
}

impl Replica {
    pub(crate) fn new(index: usize) -> Self {
        let blocks = vec![empty(); BLOCKS as usize];
        Self {
            index,
            region: RegionDefinition::new(geometry(), Uuid::from_u128(100 + index as u128), false),
            read_only: false,
            version: 13,
            is_down: false,
            stable: blocks.clone(),
            blocks,
            states: vec![ExtentState::default(); EXTENTS as usize],
            closed: BTreeSet::new(),
            session: Session::default(),
            fails: None,
            done: Vec::new(),
        }
    }

    pub(crate) fn connected(&mut self, client: ClientId) {
        self.session = Session {
            client: Some(client),
            ..Session::default()
        };
    }

    pub(crate) fn disconnected(&mut self, client: ClientId) {
        if self.session.client == Some(client) {
            self.session = Session::default();
        }
    }

    pub(crate) fn is_closed(&self, extent: ExtentId) -> bool {
        self.closed.contains(&extent.0)
    }

    pub(crate) fn content(&self, extent: ExtentId) -> Content {
        let start = extent.0 as usize * PER_EXTENT as usize;
        let blocks = self.blocks[start..start + PER_EXTENT as usize].to_vec();
        (blocks, self.states[extent.0 as usize])
    }

    /// Puts a copy in the place of an extent, if each block of it fits its context.
    pub(crate) fn take(
        &mut self,
        extent: ExtentId,
        (blocks, state): Content,
    ) -> Result<(), CrucibleError> {
        assert!(self.is_closed(extent), "a copy into an open extent");
        let fits = |(context, data): &Block| match context {
            ReadBlockContext::Unencrypted(hash) => *hash == crucible_protocol::context::hash(data),
            _ => true,
        };
        if !blocks.iter().all(fits) {
            return Err(CrucibleError::RepairFilesInvalid("a bad block".to_owned()));
        }
        let start = extent.0 as usize * PER_EXTENT as usize;
        for (place, block) in blocks.into_iter().enumerate() {
            self.stable[start + place] = block.clone();
            self.blocks[start + place] = block;
        }
        self.states[extent.0 as usize] = state;
        Ok(())
    }

    /// Puts a block there, as flushed long ago.
    pub(crate) fn set(&mut self, block: u64, fill: u8) {
        let data = Bytes::from(vec![fill; BLOCK]);
        let context = ReadBlockContext::Unencrypted(crucible_protocol::context::hash(&data));
        self.blocks[block as usize] = (context, data.clone());
        self.stable[block as usize] = (context, data);
    }

    /// Bits rot.
    pub(crate) fn rot(&mut self, block: u64) {
        self.blocks[block as usize].1 = Bytes::from(vec![0xee; BLOCK]);
    }

    pub(crate) fn fill(&self, block: u64) -> u8 {
        self.blocks[block as usize].1[0]
    }

    /// A crash: of what was not flushed, nothing remains but the dirty marks.
    pub(crate) fn lose_unflushed(&mut self) {
        self.blocks = self.stable.clone();
        self.closed.clear();
        self.session = Session::default();
    }

    pub(crate) fn receive(&mut self, client: ClientId, message: Message) -> Vec<Reaction> {
        if self.session.client != Some(client) {
            return Vec::new();
        }
        match message {
            Message::Ruok => vec![Reaction::Say(Message::Imok)],
            message if self.session.step < 4 => self.negotiate(message),
            message => self.run(message),
        }
    }

    fn negotiate(&mut self, message: Message) -> Vec<Reaction> {
        let say = |message| vec![Reaction::Say(message)];
        let refuse = |message| vec![Reaction::Say(message), Reaction::Close];
        match (self.session.step, message) {
            (
                0,
                Message::HereIAm {
                    version,
                    key,
                    read_only,
                    encrypted,
                    ..
                },
            ) => {
                let ours = self.version;
                if version != ours {
                    return refuse(Message::VersionMismatch { version: ours });
                }
                if read_only != self.read_only {
                    let expected = self.read_only;
                    return refuse(Message::ReadOnlyMismatch { expected });
                }
                if encrypted != self.region.encrypted {
                    let expected = self.region.encrypted;
                    return refuse(Message::EncryptedMismatch { expected });
                }
                self.session.key = Some(key);
                self.session.step = 1;
                say(Message::YesItsMe {
                    version,
                    repair_address: repair_address(self.index),
                })
            }
            (1, Message::PromoteToActive { key, generation }) => {
                assert_eq!(self.session.key, Some(key));
                self.session.generation = generation;
                self.session.step = 2;
                self.closed.clear();
                say(Message::YouAreNowActive { key, generation })
            }
            (2, Message::RegionInfoPlease) => {
                self.session.step = 3;
                say(Message::RegionInfo(self.region))
            }
            (3, Message::ExtentVersionsPlease) => {
                self.session.step = 4;
                say(Message::ExtentVersions {
                    generations: self.states.iter().map(|state| state.generation).collect(),
                    flushes: self.states.iter().map(|state| state.flush).collect(),
                    dirty: self.states.iter().map(|state| state.dirty).collect(),
                })
            }
            (3, Message::LastFlush { last }) => {
                self.session.step = 4;
                self.session.completed.extend(last);
                Vec::new()
            }
            (step, message) => panic!("{message:?} at step {step}"),
        }
    }

    fn run(&mut self, message: Message) -> Vec<Reaction> {
        let extent_of = |extent: ExtentId| {
            assert!(extent.0 < EXTENTS, "an extent that does not exist");
            extent.0
        };
        match message {
            Message::ExtentFlush {
                repair,
                extent,
                flush,
                generation,
                ..
            } => {
                let extent = extent_of(extent);
                self.flush_extent(extent, generation, flush);
                vec![Reaction::Say(Message::RepairAckId { repair })]
            }
            Message::ExtentClose { repair, extent } => {
                assert!(self.closed.insert(extent_of(extent)), "closed twice");
                vec![Reaction::Say(Message::RepairAckId { repair })]
            }
            Message::ExtentReopen { repair, extent } => {
                assert!(self.closed.remove(&extent_of(extent)), "opened twice");
                vec![Reaction::Say(Message::RepairAckId { repair })]
            }
            Message::ExtentRepair {
                repair,
                extent,
                source_address,
                ..
            } => vec![Reaction::Copy {
                extent,
                from: source_address,
                then: Message::RepairAckId { repair },
            }],
            other => {
                assert!(job(&other).is_some(), "{other:?} while running");
                self.session.pending.push(other);
                self.work()
            }
        }
    }

    /// Does every job whose dependencies are complete.
    fn work(&mut self) -> Vec<Reaction> {
        let mut reactions = Vec::new();
        while !self.session.copying {
            let fails = self.fails;
            let ready = self.session.pending.iter().position(|message| {
                dependencies(message)
                    .iter()
                    .all(|id| self.session.completed.contains(id))
                    && fails.is_none_or(|fails| !fails(message))
            });
            let Some(ready) = ready else {
                break;
            };
            let message = self.session.pending.remove(ready);
            let id = job(&message).unwrap();
            let fence = matches!(message, Message::Flush { .. } | Message::Barrier { .. });
            match self.execute(message) {
                copy @ Reaction::Copy { .. } => {
                    self.session.copying = true;
                    reactions.push(copy);
                }
                other => reactions.push(other),
            }
            if fence {
                self.session.completed.clear();
            }
            self.session.completed.insert(id);
            self.done.push(id);
        }
        if let (Some(fails), Some(key)) = (self.fails, self.session.key) {
            for message in &self.session.pending {
                if fails(message) {
                    reactions.push(Reaction::Say(Message::ErrorReport {
                        key,
                        job: job(message).unwrap(),
                        error: CrucibleError::IoError("injected".to_owned()),
                    }));
                }
            }
        }
        reactions
    }

    /// A copy came to its end.
    pub(crate) fn copied(
        &mut self,
        client: ClientId,
        extent: ExtentId,
        then: Message,
        copied: Result<(), CrucibleError>,
    ) -> Vec<Reaction> {
        if self.session.client != Some(client) {
            return Vec::new();
        }
        self.session.copying = false;
        match (then, copied) {
            (then, Ok(())) => {
                let mut reactions = vec![Reaction::Say(then)];
                reactions.extend(self.work());
                reactions
            }
            (Message::ExtentLiveRepairAckId { key, job, .. }, Err(error)) => vec![
                Reaction::Say(Message::ErrorReport { key, job, error }),
                Reaction::Close,
            ],
            (Message::RepairAckId { repair }, Err(error)) => {
                vec![Reaction::Say(Message::ExtentError {
                    repair,
                    extent,
                    error,
                })]
            }
            (other, _) => panic!("{other:?} after a copy"),
        }
    }

    fn execute(&mut self, message: Message) -> Reaction {
        Reaction::Say(match message {
            Message::Write { header, data } => {
                self.write(&header, &data, false);
                let (key, job) = (header.key, header.job);
                let result = Ok(());
                Message::WriteAck { key, job, result }
            }
            Message::WriteUnwritten { header, data } => {
                self.write(&header, &data, true);
                let (key, job) = (header.key, header.job);
                let result = Ok(());
                Message::WriteUnwrittenAck { key, job, result }
            }
            Message::ReadRequest {
                key,
                job,
                start,
                count,
                ..
            } => {
                self.assert_open(start.0, count);
                let blocks = &self.blocks[start.0 as usize..(start.0 + count) as usize];
                let mut data = BytesMut::new();
                for (_, block) in blocks {
                    data.extend_from_slice(block);
                }
                Message::ReadResponse {
                    header: ReadResponseHeader {
                        key,
                        job,
                        blocks: Ok(blocks.iter().map(|(context, _)| *context).collect()),
                    },
                    data: data.freeze(),
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
                let last = extent_limit.map_or(EXTENTS - 1, |limit| limit.0);
                for extent in 0..=last {
                    self.flush_extent(extent, generation, flush);
                }
                let result = Ok(());
                Message::FlushAck { key, job, result }
            }
            Message::Barrier { key, job, .. } => {
                let result = Ok(());
                Message::BarrierAck { key, job, result }
            }
            Message::ExtentLiveClose {
                key, job, extent, ..
            } => self.close(key, job, extent),
            Message::ExtentLiveFlushClose {
                key,
                job,
                extent,
                flush,
                generation,
                ..
            } => {
                self.flush_extent(extent.0, generation, flush);
                self.close(key, job, extent)
            }
            Message::ExtentLiveRepair {
                key,
                job,
                extent,
                source_address,
                ..
            } => {
                let result = Ok(());
                return Reaction::Copy {
                    extent,
                    from: source_address,
                    then: Message::ExtentLiveRepairAckId { key, job, result },
                };
            }
            Message::ExtentLiveReopen {
                key, job, extent, ..
            } => {
                assert!(self.closed.remove(&extent.0), "opened twice");
                let result = Ok(());
                Message::ExtentLiveAckId { key, job, result }
            }
            Message::ExtentLiveNoOp { key, job, .. } => {
                let result = Ok(());
                Message::ExtentLiveAckId { key, job, result }
            }
            other => panic!("{other:?} is not a job"),
        })
    }

    fn close(&mut self, key: SessionKey, job: JobId, extent: ExtentId) -> Message {
        assert!(self.closed.insert(extent.0), "closed twice");
        let result = Ok(self.states[extent.0 as usize]);
        Message::ExtentLiveCloseAck { key, job, result }
    }

    fn write(&mut self, header: &WriteHeader, data: &Bytes, unwritten: bool) {
        self.assert_open(header.start.0, header.contexts.len() as u64);
        for (place, context) in header.contexts.iter().enumerate() {
            let index = header.start.0 as usize + place;
            let block = data.slice(place * BLOCK..(place + 1) * BLOCK);
            assert!(context.fits(&block), "a write with a wrong hash");
            if unwritten && self.blocks[index].0 != ReadBlockContext::Empty {
                continue;
            }
            self.blocks[index] = ((*context).into(), block);
            self.states[index / PER_EXTENT as usize].dirty = true;
        }
    }

    fn assert_open(&self, start: u64, count: u64) {
        assert!(start + count <= BLOCKS, "blocks that do not exist");
        for block in start..start + count {
            let extent = (block / PER_EXTENT) as u32;
            assert!(!self.closed.contains(&extent), "I/O on a closed extent");
        }
    }

    fn flush_extent(&mut self, extent: u32, generation: u64, flush: u64) {
        let state = &mut self.states[extent as usize];
        let blocks =
            extent as usize * PER_EXTENT as usize..(extent as usize + 1) * PER_EXTENT as usize;
        if state.dirty {
            *state = ExtentState {
                generation,
                flush,
                dirty: false,
            };
            self.stable[blocks.clone()].clone_from_slice(&self.blocks[blocks]);
        }
    }
}
