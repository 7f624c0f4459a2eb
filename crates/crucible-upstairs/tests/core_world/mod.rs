//! A world for the core: model replicas that do what region servers do (by the rules of the specification, in
//! memory), links between, and a driver without a cipher. Everything happens when the test says so.

#![allow(dead_code, reason = "each test file uses its own part of the world")]

pub(crate) mod replica;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use crucible_protocol::{
    BlockContext, BlockIndex, ClientId, CrucibleError, ExtentId, ExtentState, Geometry, JobId,
    Message, ReadBlockContext, SessionId, UpstairsId,
};
use crucible_upstairs::core::{
    Action, Actions, Answer, BadData, Command, Config, Event, LinkId, LinkLoss, Plain,
    ReplicaState, Report, Request, Token, Upstairs, VolumeError, Written,
};
use uuid::Uuid;
use vm_types::{Moment, Span};

use replica::{Reaction, Replica};

pub(crate) const BLOCK: usize = 512;
pub(crate) const PER_EXTENT: u64 = 8;
pub(crate) const EXTENTS: u32 = 4;
pub(crate) const BLOCKS: u64 = PER_EXTENT * EXTENTS as u64;

pub(crate) fn geometry() -> Geometry {
    Geometry::new(BLOCK as u64, PER_EXTENT, EXTENTS).unwrap()
}

pub(crate) fn address(replica: usize) -> SocketAddr {
    format!("127.0.0.1:{}", 3810 + 10 * replica)
        .parse()
        .unwrap()
}

pub(crate) fn repair_address(replica: usize) -> SocketAddr {
    let mut address = address(replica);
    address.set_port(address.port() + 4000);
    address
}

pub(crate) fn config() -> Config {
    let upstairs = UpstairsId(Uuid::from_u128(7));
    Config::new(upstairs, [address(0), address(1), address(2)])
}

/// A connection, or the wish for one.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) replica: usize,
    pub(crate) not_before: Moment,
    pub(crate) is_up: bool,
    pub(crate) to_replica: VecDeque<Message>,
    pub(crate) to_upstairs: VecDeque<Message>,
}

/// Work for the cipher.
#[derive(Debug)]
pub(crate) enum Cipher {
    Seal(JobId, BytesMut),
    Open(JobId, ClientId, Vec<ReadBlockContext>, Bytes),
}

pub(crate) struct World {
    pub(crate) up: Upstairs,
    pub(crate) now: Moment,
    /// Three that are in use at first, and a spare one.
    pub(crate) replicas: Vec<Replica>,
    pub(crate) links: [Option<Link>; 3],
    pub(crate) cipher: VecDeque<Cipher>,
    pub(crate) answers: BTreeMap<Token, Result<Answer, VolumeError>>,
    pub(crate) reports: Vec<Report>,
    /// All that was sent to each client, in order.
    pub(crate) sent: [Vec<Message>; 3],
    /// Messages to these replicas stay in their links.
    pub(crate) paused: [bool; 4],
    next_token: u64,
    pub(crate) tokens: Vec<Token>,
    /// Actions that are not performed yet, while events are taken in a row.
    batch: Option<Actions>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: Config) -> Self {
        let session = SessionId(Uuid::from_u128(8));
        Self {
            up: Upstairs::new(config, session, Moment::START),
            now: Moment::START,
            replicas: (0..4).map(Replica::new).collect(),
            links: [None, None, None],
            cipher: VecDeque::new(),
            answers: BTreeMap::new(),
            reports: Vec::new(),
            sent: [Vec::new(), Vec::new(), Vec::new()],
            paused: [false; 4],
            next_token: 1,
            tokens: Vec::new(),
            batch: None,
        }
    }

    /// A world whose volume is active.
    pub(crate) fn active() -> Self {
        Self::active_with(config())
    }

    pub(crate) fn active_with(config: Config) -> Self {
        let mut world = Self::with(config);
        let token = world.activate(1);
        world.run();
        assert_eq!(world.answer(token), Ok(Answer::Activated(geometry())));
        world.forget();
        world
    }

    /// Forgets what was sent and reported so far.
    pub(crate) fn forget(&mut self) {
        self.sent = [Vec::new(), Vec::new(), Vec::new()];
        self.reports.clear();
    }

    /// Forgets what was reported so far.
    pub(crate) fn forget_reports(&mut self) {
        self.reports.clear();
    }

    pub(crate) fn token(&mut self) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.tokens.push(token);
        token
    }

    pub(crate) fn event(&mut self, event: Event) {
        if let Some(batch) = &mut self.batch {
            return self.up.handle(self.now, event, batch);
        }
        let mut actions = Actions::new();
        self.up.handle(self.now, event, &mut actions);
        for action in actions {
            self.perform(action);
        }
    }

    /// Several events, and then all their actions.
    pub(crate) fn batch<T>(&mut self, events: impl FnOnce(&mut Self) -> T) -> T {
        self.batch = Some(Actions::new());
        let result = events(self);
        for action in self.batch.take().into_iter().flatten() {
            self.perform(action);
        }
        result
    }

    pub(crate) fn request(&mut self, request: Request) -> Token {
        let token = self.token();
        self.event(Event::Request { token, request });
        token
    }

    pub(crate) fn command(&mut self, command: Command) -> Token {
        let token = self.token();
        self.event(Event::Command { token, command });
        token
    }

    pub(crate) fn activate(&mut self, generation: u64) -> Token {
        self.command(Command::Activate { generation })
    }

    pub(crate) fn write(&mut self, start: u64, count: u64, fill: u8) -> Token {
        let mut data = BytesMut::new();
        data.resize(count as usize * BLOCK, fill);
        let start = BlockIndex(start);
        self.request(Request::Write { start, data })
    }

    pub(crate) fn write_unwritten(&mut self, start: u64, count: u64, fill: u8) -> Token {
        let mut data = BytesMut::new();
        data.resize(count as usize * BLOCK, fill);
        let start = BlockIndex(start);
        self.request(Request::WriteUnwritten { start, data })
    }

    pub(crate) fn read(&mut self, start: u64, count: u64) -> Token {
        let start = BlockIndex(start);
        self.request(Request::Read { start, count })
    }

    pub(crate) fn flush(&mut self) -> Token {
        self.request(Request::Flush { snapshot: None })
    }

    pub(crate) fn answer(&self, token: Token) -> Result<Answer, VolumeError> {
        self.answers
            .get(&token)
            .unwrap_or_else(|| panic!("{token:?} is not answered"))
            .clone()
    }

    pub(crate) fn is_answered(&self, token: Token) -> bool {
        self.answers.contains_key(&token)
    }

    pub(crate) fn state(&self, client: u8) -> ReplicaState {
        self.up.status().replicas[client as usize].state
    }

    pub(crate) fn all_active(&self) -> bool {
        (0..3).all(|client| self.state(client) == ReplicaState::Active)
    }

    /// The first bytes of the blocks of a read that was answered; 0 where nothing was written.
    pub(crate) fn fills(&self, token: Token) -> Vec<u8> {
        match self.answer(token) {
            Ok(Answer::Read(plain)) => plain.data.chunks(BLOCK).map(|block| block[0]).collect(),
            other => panic!("not a read: {other:?}"),
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Dial {
                client,
                link,
                address: to,
                not_before,
            } => {
                let replica = (0..4).find(|&index| address(index) == to).unwrap();
                let old = self.links[client.0 as usize].replace(Link {
                    id: link,
                    replica,
                    not_before,
                    is_up: false,
                    to_replica: VecDeque::new(),
                    to_upstairs: VecDeque::new(),
                });
                assert!(old.is_none(), "dialed while another link is there");
            }
            Action::HangUp { client, link } => {
                let old = self.links[client.0 as usize].take().unwrap();
                assert_eq!(old.id, link);
                self.replicas[old.replica].disconnected(client);
            }
            Action::Send {
                client,
                link,
                message,
            } => {
                let line = self.links[client.0 as usize].as_mut().unwrap();
                assert!(line.id == link && line.is_up, "sent over a dead link");
                self.sent[client.0 as usize].push(message.clone());
                line.to_replica.push_back(message);
            }
            Action::Seal { write, data } => self.cipher.push_back(Cipher::Seal(write, data)),
            Action::Open {
                job,
                client,
                contexts,
                data,
                ..
            } => self
                .cipher
                .push_back(Cipher::Open(job, client, contexts, data)),
            Action::Cancel { .. } => {}
            Action::Answer { token, result } => {
                assert!(self.tokens.contains(&token), "an answer for nobody");
                let earlier = self.answers.insert(token, result);
                assert!(earlier.is_none(), "{token:?} is answered twice");
            }
            Action::Report(report) => self.reports.push(report),
        }
    }

    /// The dial succeeds or fails, if it is time. False when there is nothing to do.
    pub(crate) fn step_dial(&mut self, client: usize) -> bool {
        let Some(link) = &mut self.links[client] else {
            return false;
        };
        if link.is_up || link.not_before > self.now {
            return false;
        }
        let id = link.id;
        let client = ClientId(client as u8);
        if self.replicas[link.replica].is_down {
            self.links[client.0 as usize] = None;
            let loss = LinkLoss::Failed("connection refused".to_owned());
            self.event(Event::LinkDown {
                client,
                link: id,
                loss,
            });
        } else {
            link.is_up = true;
            let replica = link.replica;
            self.replicas[replica].connected(client);
            self.event(Event::LinkUp { client, link: id });
        }
        true
    }

    /// One message reaches a replica, which does what it can.
    pub(crate) fn step_replica(&mut self, client: usize) -> bool {
        let Some(link) = &mut self.links[client] else {
            return false;
        };
        if self.paused[link.replica] {
            return false;
        }
        let Some(message) = link.to_replica.pop_front() else {
            return false;
        };
        let (id, replica, empty) = (link.id, link.replica, link.to_replica.is_empty());
        let client_id = ClientId(client as u8);
        let reactions = self.replicas[replica].receive(client_id, message);
        self.react(client, reactions);
        if empty
            && self.links[client]
                .as_ref()
                .is_some_and(|link| link.id == id)
        {
            self.event(Event::Drained {
                client: client_id,
                link: id,
            });
        }
        true
    }

    fn react(&mut self, client: usize, reactions: Vec<Reaction>) {
        let mut reactions = VecDeque::from(reactions);
        while let Some(reaction) = reactions.pop_front() {
            let Some(link) = &mut self.links[client] else {
                return;
            };
            let replica = link.replica;
            match reaction {
                Reaction::Say(message) => link.to_upstairs.push_back(message),
                Reaction::Copy { extent, from, then } => {
                    let source = (0..4).find(|&index| repair_address(index) == from).unwrap();
                    let found = &self.replicas[source];
                    let copied = if !found.is_down && found.is_closed(extent) {
                        let content = found.content(extent);
                        self.replicas[replica].take(extent, content)
                    } else {
                        Err(CrucibleError::RepairRequestError("not closed".to_owned()))
                    };
                    let to = ClientId(client as u8);
                    let more = self.replicas[replica].copied(to, extent, then, copied);
                    reactions.extend(more);
                }
                Reaction::Close => {
                    self.cut_after_delivery(client);
                    return;
                }
            }
        }
    }

    /// The replica closes the link, but what it said still arrives.
    fn cut_after_delivery(&mut self, client: usize) {
        let id = self.links[client].as_ref().unwrap().id;
        loop {
            match &self.links[client] {
                Some(link) if link.id == id && !link.to_upstairs.is_empty() => {
                    self.step_upstairs(client);
                }
                Some(link) if link.id == id => break self.cut(client),
                _ => break,
            }
        }
    }

    /// One message reaches the upstairs.
    pub(crate) fn step_upstairs(&mut self, client: usize) -> bool {
        let Some(link) = &mut self.links[client] else {
            return false;
        };
        let Some(message) = link.to_upstairs.pop_front() else {
            return false;
        };
        let id = link.id;
        self.event(Event::Frame {
            client: ClientId(client as u8),
            link: id,
            message,
        });
        true
    }

    /// The cipher does one thing.
    pub(crate) fn step_cipher(&mut self, index: usize) -> bool {
        match self.cipher.remove(index) {
            None => false,
            Some(Cipher::Seal(write, data)) => {
                let contexts = data.chunks(BLOCK).map(BlockContext::plain).collect();
                let data = data.freeze();
                self.event(Event::Sealed {
                    write,
                    contexts,
                    data,
                });
                true
            }
            Some(Cipher::Open(job, client, contexts, data)) => {
                let result = open(&contexts, data);
                self.event(Event::Opened {
                    job,
                    client,
                    result,
                });
                true
            }
        }
    }

    /// The link breaks; what is on it is lost.
    pub(crate) fn cut(&mut self, client: usize) {
        if let Some(link) = self.links[client].take() {
            if link.is_up {
                self.replicas[link.replica].disconnected(ClientId(client as u8));
            }
            self.event(Event::LinkDown {
                client: ClientId(client as u8),
                link: link.id,
                loss: LinkLoss::Closed,
            });
        }
    }

    /// The replica stops; what it had not flushed is lost.
    pub(crate) fn crash(&mut self, replica: usize) {
        self.replicas[replica].is_down = true;
        self.replicas[replica].lose_unflushed();
        for client in 0..3 {
            if self.links[client]
                .as_ref()
                .is_some_and(|link| link.replica == replica && link.is_up)
            {
                self.cut(client);
            }
        }
    }

    pub(crate) fn restart(&mut self, replica: usize) {
        self.replicas[replica].is_down = false;
    }

    /// Everything that can happen without time passing.
    pub(crate) fn run(&mut self) {
        for _ in 0..100_000 {
            let mut any = self.step_cipher(0);
            for client in 0..3 {
                any |= self.step_dial(client);
                any |= self.step_replica(client);
                any |= self.step_upstairs(client);
            }
            if !any {
                return;
            }
        }
        panic!("no end of events");
    }

    /// Time passes; what is due happens when it is due.
    pub(crate) fn advance(&mut self, span: Span) {
        let end = self.now.after(span);
        for _ in 0..100_000 {
            self.run();
            let dials = self
                .links
                .iter()
                .flatten()
                .filter(|link| !link.is_up)
                .map(|link| link.not_before);
            let next = self.up.deadline().into_iter().chain(dials).min();
            match next {
                Some(next) if next <= end => {
                    self.now = self.now.max(next);
                    self.event(Event::Time);
                }
                _ => {
                    self.now = end;
                    self.event(Event::Time);
                    return self.run();
                }
            }
        }
        panic!("deadlines do not move on");
    }

    /// Time passes, and nothing else happens.
    pub(crate) fn pass(&mut self, span: Span) {
        self.now = self.now.after(span);
        self.event(Event::Time);
    }

    /// Sends what a client would say.
    pub(crate) fn say(&mut self, client: usize, message: Message) {
        let link = self.links[client].as_ref().unwrap().id;
        self.event(Event::Frame {
            client: ClientId(client as u8),
            link,
            message,
        });
    }

    /// Whether all replicas in use hold the same.
    pub(crate) fn assert_equal(&self) {
        let used: Vec<usize> = self
            .links
            .iter()
            .flatten()
            .map(|link| link.replica)
            .collect();
        for pair in used.windows(2) {
            for extent in 0..EXTENTS {
                let [one, other] = [pair[0], pair[1]].map(|index| {
                    let (blocks, _) = self.replicas[index].content(ExtentId(extent));
                    blocks
                        .iter()
                        .map(|(context, data)| (*context, data[0]))
                        .collect::<Vec<_>>()
                });
                assert_eq!(one, other, "replicas {pair:?} differ in extent {extent}");
            }
        }
    }
}

/// Checks what was read as the driver of a plain volume does.
pub(crate) fn open(contexts: &[ReadBlockContext], data: Bytes) -> Result<Plain, BadData> {
    let mut marks = Vec::new();
    for (context, block) in contexts.iter().zip(data.chunks(BLOCK)) {
        match context {
            ReadBlockContext::Unencrypted(hash) => {
                if *hash != crucible_protocol::context::hash(block) {
                    return Err(BadData::Hash);
                }
                marks.push(true);
            }
            ReadBlockContext::Empty if block.iter().all(|&byte| byte == 0) => marks.push(false),
            _ => return Err(BadData::Context),
        }
    }
    let written = if marks.iter().all(|&mark| mark) {
        Written::All
    } else {
        Written::Some(marks.into())
    };
    Ok(Plain { data, written })
}

/// The state of an extent.
pub(crate) fn state(generation: u64, flush: u64, dirty: bool) -> ExtentState {
    ExtentState {
        generation,
        flush,
        dirty,
    }
}

/// The dependencies of a message that has any.
pub(crate) fn dependencies(message: &Message) -> &[JobId] {
    match message {
        Message::Write { header, .. } | Message::WriteUnwritten { header, .. } => {
            &header.dependencies
        }
        Message::Flush { dependencies, .. }
        | Message::Barrier { dependencies, .. }
        | Message::ReadRequest { dependencies, .. }
        | Message::ExtentLiveClose { dependencies, .. }
        | Message::ExtentLiveFlushClose { dependencies, .. }
        | Message::ExtentLiveRepair { dependencies, .. }
        | Message::ExtentLiveReopen { dependencies, .. }
        | Message::ExtentLiveNoOp { dependencies, .. } => dependencies,
        _ => &[],
    }
}

/// The job of a message that has one.
pub(crate) fn job(message: &Message) -> Option<JobId> {
    match message {
        Message::Write { header, .. } | Message::WriteUnwritten { header, .. } => Some(header.job),
        Message::Flush { job, .. }
        | Message::Barrier { job, .. }
        | Message::ReadRequest { job, .. }
        | Message::ExtentLiveClose { job, .. }
        | Message::ExtentLiveFlushClose { job, .. }
        | Message::ExtentLiveRepair { job, .. }
        | Message::ExtentLiveReopen { job, .. }
        | Message::ExtentLiveNoOp { job, .. } => Some(*job),
        _ => None,
    }
}
