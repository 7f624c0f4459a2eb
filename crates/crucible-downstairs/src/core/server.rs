//! The front door of the core: all connections of one region, and time.

use std::collections::{BTreeMap, VecDeque};

use crucible_protocol::{
    CrucibleError, Geometry, GeometryError, JobId, Message, NegotiationError, SessionId,
    SessionKey, UpstairsId,
};
use uuid::Uuid;
use vm_types::Moment;

use super::action::{Action, ConnectionId, Event, Operation, Outcome, Reason, Ticket};
use super::limits::{Limits, STUCK_PERCENT};
use super::negotiation::{Facts, Mode, Phase, Verdict};
use super::promotion::{Claim, Promotions};
use super::request::Rules;
use super::session::{Port, Purpose, Retry, Session, Tickets};

/// Who was promoted with the recorded generation is not recorded.
const SOMEBODY: SessionKey = SessionKey {
    upstairs: UpstairsId(Uuid::nil()),
    session: SessionId(Uuid::nil()),
};

/// Messages that came while an answer to an earlier one was being worked on.
const HELD_MESSAGES: usize = 256;

/// A region server without its disk and its sockets.
///
/// Calling contract: give every event to [`Server::handle`] and perform the actions in their order. Each
/// [`Action::Run`] is answered by exactly one [`Event::Finished`], also when its connection is gone by then. After
/// [`Action::HangUp`] the connection's events are ignored. Messages may still be handed in after
/// [`Action::Pause`], but their number is bounded and the connection ends when it is exceeded.
#[derive(Debug)]
pub struct Server {
    facts: Facts,
    geometry: Geometry,
    limits: Limits,
    connections: BTreeMap<ConnectionId, Connection>,
    promotions: Promotions,
    tickets: Tickets,
    /// Work under way for connections that are gone. Nobody is promoted to write before it has ended: a late
    /// write of an old session must not land on top of a new one's.
    orphans: usize,
    retries: BTreeMap<(Moment, u64), (ConnectionId, Retry)>,
    retry_count: u64,
    /// The earliest moment at which a wake was asked for.
    wake_at: Moment,
}

#[derive(Debug)]
struct Connection {
    phase: Phase,
    session: Option<Session>,
    heard: Moment,
    /// Work that is under way or to be tried again.
    active: usize,
    /// Of these, what waits to be tried again.
    retrying: usize,
    held: VecDeque<Message>,
    /// When it is to hear from us, while it is not read from.
    paused: Option<Moment>,
    /// It asked with a generation that is too low: that, and the one that is recorded.
    fenced: Option<Fence>,
}

/// Why a session gets no jobs.
#[derive(Clone, Copy, Debug)]
struct Fence {
    requested: u64,
    recorded: u64,
}

impl Fence {
    fn reason(self) -> Reason {
        Reason::Refused(NegotiationError::GenerationNumberTooLow {
            requested: self.requested,
            actual: self.recorded,
        })
    }
}

impl Server {
    /// A server of one region. `promoted`: the highest generation that was promoted before, 0 if none.
    pub fn new(facts: Facts, promoted: u64, limits: Limits) -> Result<Self, GeometryError> {
        Ok(Self {
            geometry: facts.definition.geometry()?,
            facts,
            limits,
            connections: BTreeMap::new(),
            promotions: Promotions::new(promoted),
            tickets: Tickets::default(),
            orphans: 0,
            retries: BTreeMap::new(),
            retry_count: 0,
            wake_at: Moment::NEVER,
        })
    }

    /// Takes in one event. Never blocks and never fails: a peer that breaks the rules becomes a
    /// [`Action::HangUp`], a job that cannot be done an answer that says so.
    pub fn handle(&mut self, now: Moment, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Opened(id) => self.opened(now, id, out),
            Event::Received(id, message) => self.received(now, id, message, out),
            Event::Closed(id) => {
                self.forget(id, out);
                self.start_take_over(out);
            }
            Event::Finished(ticket, outcome) => self.finished(now, ticket, outcome, out),
            Event::Wake => self.wake(now, out),
        }
    }

    /// How a connection stands, for whoever watches: jobs queued or running, and the bytes they hold.
    pub fn load(&self, id: ConnectionId) -> Option<(usize, u64)> {
        let session = self.connections.get(&id)?.session.as_ref()?;
        Some((session.jobs(), session.bytes()))
    }

    /// How many pieces of work are under way.
    pub fn running(&self) -> usize {
        self.tickets.len()
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    fn opened(&mut self, now: Moment, id: ConnectionId, out: &mut Vec<Action>) {
        self.connections.insert(
            id,
            Connection {
                phase: Phase::Open,
                session: None,
                heard: now,
                active: 0,
                retrying: 0,
                held: VecDeque::new(),
                paused: None,
                fenced: None,
            },
        );
        self.ask_for(now.after(self.limits.silence), out);
        if self.connections.len() > self.limits.connections {
            let idle = self
                .connections
                .iter()
                .find(|(_, connection)| !connection.phase.is_running());
            let victim = idle.map_or(id, |(victim, _)| *victim);
            self.hang_up(victim, Reason::TooManyConnections, out);
        }
    }

    fn received(&mut self, now: Moment, id: ConnectionId, message: Message, out: &mut Vec<Action>) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.heard = now;
        if message == Message::Ruok {
            out.push(Action::Send(id, Message::Imok));
            return;
        }
        if connection.phase.is_pending() || !connection.held.is_empty() {
            if connection.held.len() >= HELD_MESSAGES {
                self.hang_up(id, Reason::QueueFull, out);
                return;
            }
            connection.held.push_back(message);
        } else {
            self.dispatch(id, message, out);
        }
        self.balance(now, id, out);
    }

    /// One message to whoever it is for: the negotiation, or the jobs.
    fn dispatch(&mut self, id: ConnectionId, message: Message, out: &mut Vec<Action>) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let mut port = Port {
            connection: id,
            active: &mut connection.active,
            tickets: &mut self.tickets,
            out,
        };
        if let Some(session) = &mut connection.session {
            let rules = Rules {
                geometry: self.geometry,
                read_only: self.facts.mode == Mode::ReadOnly,
                limits: &self.limits,
            };
            if let Err(reason) = session.receive(message, &rules, &mut port) {
                self.hang_up(id, reason, out);
            }
            return;
        }
        if let (Phase::Running(key), Some(fence)) = (connection.phase, connection.fenced) {
            self.promotions.went_on(key);
            self.hang_up(id, fence.reason(), out);
            return;
        }
        let phase = &mut connection.phase;
        match phase.judge(&self.facts, &message) {
            Verdict::Reply(answer) => port.send(answer),
            Verdict::Refuse(answer, reason) => {
                if let Some(answer) = answer {
                    port.send(answer);
                }
                self.hang_up(id, reason, out);
            }
            Verdict::Ignore => {}
            Verdict::Promote(generation) => self.promote(id, generation, out),
            Verdict::List => port.run(Purpose::States, Operation::States),
            Verdict::Run(last) => match connection.fenced {
                None => self.begin(id, last),
                // It was active here before, so somebody has taken its place since.
                Some(fence) => {
                    port.send(Message::YouAreNoLongerActive {
                        new_key: SOMEBODY,
                        new_generation: fence.recorded,
                    });
                    self.hang_up(id, fence.reason(), out);
                }
            },
        }
    }

    fn begin(&mut self, id: ConnectionId, last: Option<JobId>) {
        if let Some(connection) = self.connections.get_mut(&id)
            && let Phase::Running(key) | Phase::Listing(key) = connection.phase
        {
            connection.phase = Phase::Running(key);
            if connection.fenced.is_none() {
                connection.session = Some(Session::new(key, last));
            }
        }
    }

    fn promote(&mut self, id: ConnectionId, generation: u64, out: &mut Vec<Action>) {
        let Some(Phase::Promoting(key)) = self.connections.get(&id).map(|c| c.phase) else {
            return;
        };
        let displaced = match self.facts.mode {
            Mode::ReadOnly => self.promotions.join(id, key.upstairs),
            Mode::ReadWrite => match self.promotions.claim(id, key, generation) {
                Ok(Claim::Taken(displaced)) => displaced,
                Ok(Claim::Fenced(recorded)) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.fenced = Some(Fence {
                            requested: generation,
                            recorded,
                        });
                    }
                    self.promoted(id, key, generation, out);
                    return;
                }
                Err(reason) => {
                    self.hang_up(id, reason, out);
                    return;
                }
            },
        };
        if let Some(old) = displaced
            && old != id
        {
            out.push(Action::Send(
                old,
                Message::YouAreNoLongerActive {
                    new_key: key,
                    new_generation: generation,
                },
            ));
            self.drop_connection(old, Reason::Superseded, out);
        }
        match self.facts.mode {
            Mode::ReadOnly => self.promoted(id, key, generation, out),
            Mode::ReadWrite => self.start_take_over(out),
        }
    }

    /// Records the promotion of whoever is waiting for it, once the region is free of its predecessors' work.
    fn start_take_over(&mut self, out: &mut Vec<Action>) {
        if self.orphans != 0 {
            return;
        }
        if let Some(active) = &mut self.promotions.active
            && !active.recording
            && let Some(connection) = self.connections.get_mut(&active.connection)
        {
            active.recording = true;
            let generation = active.generation;
            let mut port = Port {
                connection: active.connection,
                active: &mut connection.active,
                tickets: &mut self.tickets,
                out,
            };
            port.run(
                Purpose::TakeOver(generation),
                Operation::TakeOver { generation },
            );
        }
    }

    fn promoted(
        &mut self,
        id: ConnectionId,
        key: SessionKey,
        generation: u64,
        out: &mut Vec<Action>,
    ) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.phase = Phase::Promoted(key);
            out.push(Action::Send(
                id,
                Message::YouAreNowActive { key, generation },
            ));
        }
    }

    fn finished(&mut self, now: Moment, ticket: Ticket, outcome: Outcome, out: &mut Vec<Action>) {
        let Some((id, purpose)) = self.tickets.take(ticket) else {
            return;
        };
        if let Purpose::TakeOver(generation) = purpose
            && !matches!(outcome, Outcome::Failed(..))
        {
            self.promotions.recorded = self.promotions.recorded.max(generation);
        }
        let Some(connection) = self.connections.get_mut(&id) else {
            self.orphans = self.orphans.saturating_sub(1);
            self.start_take_over(out);
            return;
        };
        connection.active = connection.active.saturating_sub(1);
        let mut port = Port {
            connection: id,
            active: &mut connection.active,
            tickets: &mut self.tickets,
            out,
        };
        match (purpose, outcome) {
            (Purpose::TakeOver(_), Outcome::Failed(error, _)) => {
                self.hang_up(id, Reason::TakeOverFailed(error), out);
            }
            (Purpose::TakeOver(generation), _) => {
                if let Phase::Promoting(key) = connection.phase {
                    self.promoted(id, key, generation, out);
                }
            }
            (Purpose::States, Outcome::States(mut states)) => {
                if let (Some(fence), Some(first)) = (connection.fenced, states.first_mut()) {
                    first.generation = first.generation.max(fence.recorded);
                }
                port.send(Message::ExtentVersions {
                    generations: states.iter().map(|state| state.generation).collect(),
                    flushes: states.iter().map(|state| state.flush).collect(),
                    dirty: states.iter().map(|state| state.dirty).collect(),
                });
                self.begin(id, None);
            }
            (Purpose::States, outcome) => {
                let error = match outcome {
                    Outcome::Failed(error, _) => error,
                    _ => CrucibleError::GenericError("no states".into()),
                };
                self.hang_up(id, Reason::TakeOverFailed(error), out);
            }
            (Purpose::Step(extent), outcome) => {
                if let Some(session) = &mut connection.session {
                    session.step_finished(extent, outcome, &mut port);
                }
            }
            (Purpose::Job(job), outcome) => {
                let rules = Rules {
                    geometry: self.geometry,
                    read_only: self.facts.mode == Mode::ReadOnly,
                    limits: &self.limits,
                };
                if let Some(session) = &mut connection.session {
                    match session.job_finished(job, outcome, &rules, &mut port) {
                        Ok(None) => {}
                        Ok(Some(retry)) => {
                            connection.retrying += 1;
                            let at = now.after(retry.delay);
                            self.retry_count += 1;
                            self.retries.insert((at, self.retry_count), (id, retry));
                            self.ask_for(at, out);
                        }
                        Err(reason) => self.hang_up(id, reason, out),
                    }
                }
            }
        }
        self.release_held(id, out);
        self.balance(now, id, out);
    }

    /// Goes on with what came while an answer was being worked on.
    fn release_held(&mut self, id: ConnectionId, out: &mut Vec<Action>) {
        while let Some(connection) = self.connections.get_mut(&id)
            && !connection.phase.is_pending()
            && let Some(message) = connection.held.pop_front()
        {
            self.dispatch(id, message, out);
        }
    }

    /// Reads on, or not: back-pressure. A queue that is full of jobs which all wait for others must be read on,
    /// up to four times the limits, since those may be what comes next.
    fn balance(&mut self, now: Moment, id: ConnectionId, out: &mut Vec<Action>) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let (jobs, bytes, memory) = connection
            .session
            .as_ref()
            .map_or((0, 0, 0), |s| (s.jobs(), s.bytes(), s.memory()));
        let over = |percent: u64| {
            jobs as u64 * 100 >= self.limits.jobs as u64 * percent
                || bytes.saturating_mul(100) >= self.limits.bytes.saturating_mul(percent)
        };
        let progress = connection.active + connection.retrying > 0;
        if memory > self.limits.memory || (!progress && over(STUCK_PERCENT)) {
            self.hang_up(id, Reason::QueueFull, out);
            return;
        }
        // Reading resumes well below the limit, so that it is not switched for every job.
        let mark = if connection.paused.is_some() { 75 } else { 100 };
        let full = !connection.held.is_empty() || (progress && over(mark));
        if full && connection.paused.is_none() {
            let at = now.after(self.limits.keepalive);
            connection.paused = Some(at);
            out.push(Action::Pause(id));
            self.ask_for(at, out);
        } else if !full && connection.paused.is_some() {
            connection.paused = None;
            connection.heard = now;
            out.push(Action::Resume(id));
            self.ask_for(now.after(self.limits.silence), out);
        }
    }

    fn wake(&mut self, now: Moment, out: &mut Vec<Action>) {
        while let Some(entry) = self.retries.first_entry()
            && entry.key().0 <= now
        {
            let (id, retry) = entry.remove();
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            connection.retrying = connection.retrying.saturating_sub(1);
            let mut port = Port {
                connection: id,
                active: &mut connection.active,
                tickets: &mut self.tickets,
                out,
            };
            port.run(retry.purpose, retry.operation);
        }
        let mut next = self
            .retries
            .first_key_value()
            .map_or(Moment::NEVER, |((at, _), _)| *at);
        let mut silent = Vec::new();
        for (id, connection) in &mut self.connections {
            let at = match &mut connection.paused {
                Some(at) => {
                    if *at <= now {
                        // An answer to a question that may be stuck in what we do not read.
                        out.push(Action::Send(*id, Message::Imok));
                        *at = now.after(self.limits.keepalive);
                    }
                    *at
                }
                None => connection.heard.after(self.limits.silence),
            };
            if at <= now {
                silent.push(*id);
            } else {
                next = next.min(at);
            }
        }
        for id in silent {
            self.hang_up(id, Reason::Silent, out);
        }
        // Said also when there is none: whoever woke us would do so again and again.
        self.wake_at = next;
        out.push(Action::Deadline(next));
    }

    fn ask_for(&mut self, at: Moment, out: &mut Vec<Action>) {
        if at < self.wake_at {
            self.wake_at = at;
            out.push(Action::Deadline(at));
        }
    }

    /// Ends a connection, and lets the next one in if it was waited for.
    fn hang_up(&mut self, id: ConnectionId, reason: Reason, out: &mut Vec<Action>) {
        self.drop_connection(id, reason, out);
        self.start_take_over(out);
    }

    fn drop_connection(&mut self, id: ConnectionId, reason: Reason, out: &mut Vec<Action>) {
        if self.connections.contains_key(&id) {
            out.push(Action::HangUp(id, reason));
            self.forget(id, out);
        }
    }

    fn forget(&mut self, id: ConnectionId, out: &mut Vec<Action>) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        self.promotions.leave(id);
        if connection.active > 0 {
            self.orphans += connection.active;
            out.extend(self.tickets.of(id).map(Action::Cancel));
        }
        if connection.retrying > 0 {
            self.retries.retain(|_, (owner, _)| *owner != id);
        }
    }

    /// The highest generation that was promoted and recorded, this time or before.
    pub fn recorded_generation(&self) -> u64 {
        self.promotions.recorded
    }
}
