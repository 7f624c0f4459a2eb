//! The front door: one machine, one way in, one deadline. The machine's parts are in the files beside this one,
//! each an `impl Upstairs` about one idea.

use crucible_protocol::{ClientId, Geometry, JobId, SessionId, SessionKey};
use vm_types::{Moment, Span};

use super::action::{Action, Actions, Answer, Report, VolumeError};
use super::activation::Activation;
use super::client::Client;
use super::clients::{PerClient, is_client};
use super::config::Config;
use super::dependencies::DependencyMap;
use super::dispatch::record;
use super::event::{Command, Event, Token};
use super::jobs::{Held, Jobs};
use super::live_repair::LiveRepair;
use super::merge::Growing;
use super::reads::Reads;
use super::reconcile::Reconcile;
use super::rot::Stuck;
use super::status::{
    Counters, JobStatus, Phase, Progress, ReplicaState, ReplicaStatus, Room, Status, Step,
};

/// How often one event may make another review of all replicas necessary. Each review brings at least one of
/// three replicas a step on, so this is never reached.
const REVIEWS_MAX: usize = 16;

/// One volume on three region servers.
///
/// Calling contract: hand each event to [`handle`](Self::handle) with the time, then perform the actions in their
/// order; several events may be handled before the actions are performed. Afterwards ask
/// [`deadline`](Self::deadline), and send [`Event::Time`] when it has come, at the latest. Time never goes
/// backwards. Nothing here blocks or fails: a peer that lies is hung up, a request that is wrong is answered so.
#[derive(Debug)]
pub struct Upstairs {
    pub(super) config: Config,
    pub(super) key: SessionKey,
    pub(super) now: Moment,
    pub(super) phase: Phase,
    /// Of the present activation or the last one.
    pub(super) generation: u64,
    pub(super) activation: Activation,
    /// As configured, or as learned from the first region.
    pub(super) geometry: Option<Geometry>,
    pub(super) clients: PerClient<Client>,
    pub(super) jobs: Jobs,
    pub(super) reads: Reads,
    pub(super) held: Held,
    pub(super) next_flush: u64,
    /// The write that the next one may be appended to.
    pub(super) growing: Option<Growing>,
    /// When a flush of our own is due.
    pub(super) flush_due: Option<Moment>,
    pub(super) reconcile: Option<Reconcile>,
    /// Extents done and to do, of the last reconciliation.
    pub(super) reconciled: (u64, u64),
    pub(super) live_repair: Option<LiveRepair>,
    /// A live repair that waits for a source.
    pub(super) stuck: Option<Stuck>,
    /// What was said last about what is awaited.
    pub(super) awaited: Option<String>,
    /// When requests that wait for region servers are looked at again.
    pub(super) patience_due: Option<Moment>,
    /// Requests wait for region servers, and that has been told.
    pub(super) waiting: bool,
    /// Some have waited too long, and that has been told.
    pub(super) failing: bool,
    /// A replica changed its state: everything that depends on who is there must be reviewed.
    pub(super) changed: bool,
    jitter: u64,
    pub(super) counters: Counters,
}

impl Upstairs {
    /// A volume that is not active. `session` is drawn anew for each start of the program.
    pub fn new(config: Config, session: SessionId, now: Moment) -> Self {
        let key = SessionKey {
            upstairs: config.upstairs,
            session,
        };
        let [first, second, third] = config.addresses;
        let clients = PerClient::new([
            Client::new(ClientId(0), first),
            Client::new(ClientId(1), second),
            Client::new(ClientId(2), third),
        ]);
        Self {
            key,
            now,
            phase: Phase::Inactive,
            generation: 0,
            activation: Activation::default(),
            geometry: config.geometry,
            clients,
            jobs: Jobs::new(),
            reads: Reads::default(),
            held: Held::default(),
            next_flush: 1,
            growing: None,
            flush_due: None,
            reconcile: None,
            reconciled: (0, 0),
            live_repair: None,
            stuck: None,
            awaited: None,
            patience_due: None,
            waiting: false,
            failing: false,
            changed: false,
            jitter: config.jitter_seed,
            counters: Counters::default(),
            config,
        }
    }

    /// Takes in what happened, and appends what is to be done.
    pub fn handle(&mut self, now: Moment, event: Event, out: &mut Actions) {
        self.now = self.now.max(now);
        match event {
            Event::Request { token, request } => self.request(token, request, out),
            Event::Sealed {
                write,
                contexts,
                data,
            } => self.sealed(write, contexts, data, out),
            Event::SealFailed { write, reason } => {
                if self.jobs.get(write).is_some_and(|job| !job.is_ready()) {
                    self.stop(VolumeError::SealFailed(reason), out);
                }
            }
            Event::Opened {
                job,
                client,
                result,
            } => self.opened(job, client, result, out),
            Event::LinkUp { client, link } => {
                if is_client(client) && self.clients[client].is_link(link) {
                    self.link_up(client, out);
                }
            }
            Event::LinkDown { client, link, loss } => {
                if is_client(client) && self.clients[client].is_link(link) {
                    self.link_down(client, loss, out);
                }
            }
            Event::Frame {
                client,
                link,
                message,
            } => {
                if is_client(client) && self.clients[client].is_link(link) {
                    self.clients[client].heard(self.now);
                    self.frame(client, message, out);
                }
            }
            Event::Drained { client, link } => {
                if is_client(client) && self.clients[client].is_link(link) {
                    self.clients[client].drained();
                }
            }
            Event::Time => {}
            Event::Command { token, command } => match command {
                Command::Activate { generation } => self.activate(token, generation, out),
                Command::Deactivate => self.deactivate(token, out),
                Command::Replace { old, new } => self.replace(token, old, new, out),
                Command::ShutDown => {
                    self.stop(VolumeError::ShutDown, out);
                    self.answer(token, Ok(Answer::ShutDown), out);
                }
            },
        }
        self.settle(out);
    }

    /// When [`Event::Time`] is due. `None`: never.
    pub fn deadline(&self) -> Option<Moment> {
        let links = self.clients.iter().filter_map(Client::link_deadline).min();
        let failing = self.clients.iter().filter_map(|client| client.failing);
        [
            links,
            failing.map(|(_, due)| due).min(),
            self.late_deadline(),
            self.reports_deadline(),
            self.flush_due,
            self.patience_due,
            self.quorum_deadline(),
            self.stuck_deadline(),
            self.grace_deadline(),
            self.mute_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// How many more requests are taken now.
    pub fn room(&self) -> Room {
        let jobs = self.jobs.len() + self.reads.len() + self.held.list.len();
        let bytes = self.jobs.bytes() + self.reads.bytes() + self.held.bytes;
        Room {
            jobs: self.config.limits.jobs.saturating_sub(jobs),
            bytes: self.config.limits.bytes.saturating_sub(bytes),
        }
    }

    /// All that is told of the volume.
    pub fn status(&self) -> Status {
        let tokens = self.jobs.iter().filter(|job| job.token.is_some()).count();
        Status {
            phase: self.phase,
            key: self.key,
            generation: self.generation,
            geometry: self.geometry,
            read_only: self.config.read_only,
            encrypted: self.config.encrypted,
            replicas: ClientId::ALL.map(|id| ReplicaStatus {
                repair: self.repair_progress(id),
                ..self.clients[id].status()
            }),
            guest_jobs: tokens + self.reads.len() + self.held.list.len(),
            jobs: self.jobs.len() + self.reads.len(),
            bytes: self.jobs.bytes() + self.reads.bytes() + self.held.bytes,
            reconcile: self.reconciled,
            reconciling: self.reconcile.is_some(),
            live_repairing: self.live_repair.is_some(),
            next_flush: self.next_flush,
            stopped: self.activation.stopped.clone(),
            counters: self.counters,
        }
    }

    /// How far a replica is with being made equal to the others.
    fn repair_progress(&self, id: ClientId) -> Option<Progress> {
        let total = u64::from(self.geometry?.extent_count());
        match self.clients[id].state() {
            ReplicaState::LiveRepair => {
                let done = self.live_repair.as_ref().map_or(0, LiveRepair::done);
                Some(Progress { done, total })
            }
            ReplicaState::Connecting {
                step: Step::Reconcile,
                ..
            } => {
                let (done, total) = self.reconciled;
                Some(Progress { done, total })
            }
            _ => None,
        }
    }

    /// The jobs that are known, by id, and the ids of the last eight that were retired.
    pub fn work(&self) -> (Vec<JobStatus>, Vec<JobId>) {
        let block_size = self
            .geometry
            .map_or(1, |geometry| u64::from(geometry.block_size()));
        let mut jobs: Vec<JobStatus> = self
            .jobs
            .iter()
            .map(|job| job.status(block_size))
            .chain(self.reads.statuses())
            .collect();
        jobs.sort_by_key(|job| job.id);
        // The lists went away with their messages. They are made again, so that they cost nothing when nobody asks.
        let mut map = DependencyMap::default();
        for status in &mut jobs {
            let (id, start) = (status.id, status.start.0);
            status.dependencies = match (self.jobs.get(id), self.geometry) {
                (Some(job), Some(geometry)) => record(&mut map, id, &job.kind, geometry),
                _ => map.read(id, start, start.saturating_add(status.blocks)),
            };
        }
        (jobs, self.jobs.retired())
    }

    /// Draws every conclusion of what happened, until nothing changes any more.
    fn settle(&mut self, out: &mut Actions) {
        self.tick(out);
        let mut reviewed = false;
        for _ in 0..REVIEWS_MAX {
            self.give_up_laggards(out);
            if !std::mem::take(&mut self.changed) {
                break;
            }
            self.review(out);
            reviewed = true;
        }
        if reviewed {
            self.tell_what_is_awaited(out);
        }
        self.relieve();
        for client in ClientId::ALL {
            self.pump(client, out);
        }
        self.end_of_wait(out);
    }

    /// Does what time has made due.
    fn tick(&mut self, out: &mut Actions) {
        for id in ClientId::ALL {
            if let Some(reason) = self.clients[id].tick(self.now, out) {
                self.lose(id, reason.to_owned(), out);
            }
        }
        self.give_up_failing(out);
        self.hedge_late_reads(out);
        self.give_up_reported_reads(out);
        self.flush_if_due();
        if self.patience_due.is_some_and(|due| due <= self.now) {
            self.lose_patience(out);
        }
        if self.quorum_deadline().is_some_and(|due| due <= self.now) {
            self.changed = true;
        }
        self.try_stuck_again();
        self.finish_deactivation(out);
    }

    /// Reconsiders everything that depends on which replicas are there.
    fn review(&mut self, out: &mut Actions) {
        self.try_to_activate(out);
        self.answer_flushes(out);
        self.retire();
        self.advance_live_repair(out);
        self.start_live_repair(out);
        self.mend_suspects(out);
        self.finish_replacement(out);
        self.release_held(out);
        self.ask_parked_reads(out);
        self.finish_deactivation(out);
    }

    /// Answers a request or command.
    pub(super) fn answer(
        &mut self,
        token: Token,
        result: Result<Answer, VolumeError>,
        out: &mut Actions,
    ) {
        self.counters.failed += u64::from(result.is_err());
        out.push(Action::Answer { token, result });
    }

    /// Tells the operator what became of a replica, why, and what comes next.
    pub(super) fn report(&self, id: ClientId, reason: &str, next: &str, out: &mut Actions) {
        let client = &self.clients[id];
        out.push(Action::Report(Report::Replica {
            client: id,
            address: client.address,
            state: client.state(),
            reason: reason.to_owned(),
            next: next.to_owned(),
        }));
    }

    /// Tells the operator something about the volume.
    pub(super) fn tell(what: String, out: &mut Actions) {
        out.push(Action::Report(Report::Volume { what }));
    }

    /// The next of a sequence of numbers that looks random: splitmix64.
    pub(super) fn jitter(&mut self) -> u64 {
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Dials the region server again.
    pub(super) fn dial(&mut self, id: ClientId, out: &mut Actions) {
        let jitter = self.jitter();
        self.clients[id].dial(self.now, jitter, out);
    }

    /// When requests that wait are looked at next.
    pub(super) fn wait_patiently(&mut self) {
        if self.patience_due.is_none() {
            let step = Span::from_nanos(self.config.patience.as_nanos() / 8)
                .clamp(Span::from_millis(1), Span::from_secs(1));
            self.patience_due = Some(self.now.after(step));
        }
    }
}
