//! One region server as the upstairs sees it: where it stands, its link, and what was said on it.
//!
//! ```text
//!              activate                    quorum, equal
//!   Idle ──────────────► Connecting(New) ───────────────► Active ◄──────────┐
//!                             ▲  WaitQuorum, Reconcile      │  ▲            │
//!                             │                   link lost │  │ replayed   │ repaired
//!                             │ all faulted                 ▼  │            │
//!                             │                 Connecting(Offline)         │
//!                             │                             │ too much      │
//!                             │                             ▼ to replay     │
//!                        LiveRepairReady ◄──── Connecting(Faulted, Replaced)│
//!                             │                     ▲                       │
//!                             └────────► LiveRepair ┴───────────────────────┘
//! ```

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;

use crucible_protocol::{ClientId, ExtentId, ExtentState, JobId, Message, RegionDefinition};
use vm_types::{Moment, Span};

use super::action::{Action, Actions};
use super::config::Limits;
use super::dependencies::DependencyMap;
use super::event::LinkId;
use super::latency::Latency;
use super::status::{Mode, ReplicaCounters, ReplicaState, ReplicaStatus, Step};

/// A ping goes out so often. Spec: limits 3.5.
pub(super) const PING_INTERVAL: Span = Span::from_secs(5);
/// A link on which nothing was heard for so long is dead. Spec: limits 3.5.
pub(super) const SILENCE: Span = Span::from_secs(45);
/// One for which much waits is dead earlier: at least one ping has had no answer for 2 s.
const MUTE: Span = Span::from_secs(7);
/// A dial that takes longer has failed. Spec: limits 3.5.
const CONNECT_TIMEOUT: Span = Span::from_secs(10);
/// The first reconnect comes after this, each further one after twice as long.
const BACKOFF_FIRST: Span = Span::from_millis(100);
/// No reconnect waits longer.
const BACKOFF_MAX: Span = Span::from_secs(10);
/// A link that lasted so long was good; the next reconnect is quick again.
const GOOD_LINK: Span = Span::from_secs(10);

/// One region server.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) address: SocketAddr,
    state: ReplicaState,
    link: LinkId,
    line: Line,
    /// Reconnects since the last good link.
    attempts: u32,
    pub(super) last_loss: Option<String>,
    /// How often in a row it closed when it was to promote us.
    pub(super) refusals: u32,
    /// Its region, as it said last.
    pub(super) region: Option<RegionDefinition>,
    pub(super) repair_address: Option<SocketAddr>,
    /// The state of its extents when it connected; taken by activation or repair.
    pub(super) extents: Vec<ExtentState>,
    /// Another will take its place, as soon as the others have what it has.
    pub(super) leaving: Option<Leaving>,
    /// It took the place of another, or was never written to, and was not made whole since: it may lack what was
    /// flushed.
    pub(super) newcomer: bool,
    /// Another region answered there, when it was dialed last: what it had is gone, or is somewhere else.
    pub(super) is_elsewhere: bool,
    /// It says that another has taken over.
    pub(super) fenced: bool,
    /// What was sent over the present link.
    pub(super) map: DependencyMap,
    /// Jobs whose turn has come; the lowest is sent first.
    pub(super) queue: BinaryHeap<Reverse<JobId>>,
    /// Sent over the present link and not answered: jobs, and their data.
    sent_jobs: usize,
    sent_bytes: usize,
    /// The highest that was sent over the present link.
    sent_through: JobId,
    /// Handed to the link since it was last drained, in bytes.
    handed: usize,
    /// Pings that were sent over the present link and not answered.
    pings: u32,
    /// Jobs that it has not finished, and their data.
    pub(super) jobs: usize,
    pub(super) bytes: usize,
    /// The last flush that it acknowledged in this activation.
    pub(super) last_flush: Option<JobId>,
    /// It needs none of the jobs up to this one any more.
    pub(super) synced_through: JobId,
    /// The last extent that writes go to while it is repaired.
    pub(super) extent_limit: Option<ExtentId>,
    /// A job that it could not do at once, and until when it may go on trying.
    pub(super) failing: Option<(JobId, Moment)>,
    /// Reads it was asked, oldest first; some may be done.
    pub(super) reads: VecDeque<(JobId, Moment)>,
    /// Reads it has not answered.
    pub(super) reads_open: usize,
    /// When it last answered a read, or was first asked one since it owed none.
    pub(super) read_heard: Moment,
    pub(super) latency: Latency,
    pub(super) write_latency: Latency,
    pub(super) flush_latency: Latency,
    /// Extents in which it gave bad data: a repair copies them whatever they say of themselves.
    pub(super) suspects: Suspects,
    /// Extents of which a copy was refused once. That may have been the receiver's own fault.
    pub(super) doubts: Suspects,
    pub(super) counters: ReplicaCounters,
}

/// A replacement that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    /// Who comes.
    pub(super) new: SocketAddr,
    /// What the others must have finished before.
    pub(super) fence: JobId,
}

/// The present connection.
#[derive(Clone, Copy, Debug)]
enum Line {
    None,
    Dialing {
        give_up: Moment,
    },
    Up {
        since: Moment,
        heard: Moment,
        ping: Moment,
    },
}

/// Extents that are not to be believed. Bounded: past the bound, all of them.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    some: Vec<ExtentId>,
    all: bool,
}

/// How many extents are remembered by number.
const SUSPECTS_MAX: usize = 256;

impl Suspects {
    pub(super) fn add(&mut self, extent: ExtentId) {
        if self.has(extent) {
            return;
        }
        if self.some.len() == SUSPECTS_MAX {
            self.all = true;
        } else {
            self.some.push(extent);
        }
    }

    pub(super) fn has(&self, extent: ExtentId) -> bool {
        self.all || self.some.contains(&extent)
    }

    /// Whether something is true of each. Of all extents, nothing is known.
    pub(super) fn all(&self, mut is: impl FnMut(ExtentId) -> bool) -> bool {
        !self.all && self.some.iter().all(|&extent| is(extent))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.some.is_empty() && !self.all
    }

    pub(super) fn clear(&mut self) {
        self.some.clear();
        self.all = false;
    }
}

impl Client {
    pub(super) fn new(id: ClientId, address: SocketAddr) -> Self {
        Self {
            id,
            address,
            state: ReplicaState::Idle,
            link: LinkId(0),
            line: Line::None,
            attempts: 0,
            last_loss: None,
            refusals: 0,
            region: None,
            repair_address: None,
            extents: Vec::new(),
            leaving: None,
            newcomer: false,
            is_elsewhere: false,
            fenced: false,
            map: DependencyMap::default(),
            queue: BinaryHeap::new(),
            sent_jobs: 0,
            sent_bytes: 0,
            sent_through: JobId(0),
            handed: 0,
            pings: 0,
            jobs: 0,
            bytes: 0,
            last_flush: None,
            synced_through: JobId(0),
            extent_limit: None,
            failing: None,
            reads: VecDeque::new(),
            reads_open: 0,
            read_heard: Moment::START,
            latency: Latency::default(),
            write_latency: Latency::default(),
            flush_latency: Latency::default(),
            suspects: Suspects::default(),
            doubts: Suspects::default(),
            counters: ReplicaCounters::default(),
        }
    }

    pub(super) const fn state(&self) -> ReplicaState {
        self.state
    }

    pub(super) fn set_state(&mut self, state: ReplicaState) {
        self.state = state;
    }

    /// Goes on to the next step of the same mode.
    pub(super) fn set_step(&mut self, next: Step) {
        if let ReplicaState::Connecting { step, .. } = &mut self.state {
            *step = next;
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.state == ReplicaState::Active
    }

    pub(super) fn is_repairing(&self) -> bool {
        self.state == ReplicaState::LiveRepair
    }

    /// New jobs are sent there.
    pub(super) fn takes_jobs(&self) -> bool {
        self.is_active() || self.is_repairing()
    }

    /// Away, but what it misses is kept for it.
    pub(super) fn is_offline(&self) -> bool {
        matches!(
            self.state,
            ReplicaState::Connecting {
                mode: Mode::Offline,
                ..
            }
        )
    }

    /// It has everything, but for what is kept for it here.
    pub(super) fn is_whole(&self) -> bool {
        self.is_active() || (self.is_offline() && !self.is_elsewhere)
    }

    pub(super) fn is_at(&self, wanted: Step) -> bool {
        matches!(self.state, ReplicaState::Connecting { step, .. } if step == wanted)
    }

    pub(super) const fn mode(&self) -> Option<Mode> {
        match self.state {
            ReplicaState::Connecting { mode, .. } => Some(mode),
            _ => None,
        }
    }

    pub(super) const fn is_up(&self) -> bool {
        matches!(self.line, Line::Up { .. })
    }

    /// Whether news of this link is about the present connection.
    pub(super) fn is_link(&self, link: LinkId) -> bool {
        self.link == link && !matches!(self.line, Line::None)
    }

    /// Dials a new link. The first at once, further ones after a delay that grows; `jitter` (any number) takes up
    /// to half of it away, so that many who lost the same peer do not come back as one.
    pub(super) fn dial(&mut self, now: Moment, jitter: u64, out: &mut Actions) {
        let delay = match self.attempts {
            0 => 0,
            attempts => {
                let doublings = (attempts - 1).min(16);
                let full = (BACKOFF_FIRST.as_nanos() << doublings).min(BACKOFF_MAX.as_nanos());
                full - jitter % (full / 2)
            }
        };
        self.attempts = self.attempts.saturating_add(1);
        let not_before = now.after(Span::from_nanos(delay));
        self.link = LinkId(self.link.0 + 1);
        self.line = Line::Dialing {
            give_up: not_before.after(CONNECT_TIMEOUT),
        };
        self.set_step(Step::WaitConnect);
        out.push(Action::Dial {
            client: self.id,
            link: self.link,
            address: self.address,
            not_before,
        });
    }

    /// The dialed link is there.
    pub(super) fn connected(&mut self, now: Moment) {
        self.line = Line::Up {
            since: now,
            heard: now,
            ping: now.after(PING_INTERVAL),
        };
        self.handed = 0;
        self.pings = 0;
        self.counters.connected += 1;
        self.set_step(Step::Start);
    }

    /// The link is gone, or shall go: forgets it, and what was sent over it. Says so to the driver if `hang_up`.
    pub(super) fn disconnect(&mut self, now: Moment, hang_up: bool, out: &mut Actions) {
        if hang_up && !matches!(self.line, Line::None) {
            out.push(Action::HangUp {
                client: self.id,
                link: self.link,
            });
        }
        if let Line::Up { since, .. } = self.line
            && now.since(since) >= GOOD_LINK
        {
            self.attempts = 1;
        }
        self.line = Line::None;
        self.queue.clear();
        self.sent_jobs = 0;
        self.sent_bytes = 0;
        self.sent_through = JobId(0);
        self.map = DependencyMap::default();
        self.handed = 0;
        self.failing = None;
        self.extents = Vec::new();
    }

    /// Something came over the link.
    pub(super) fn heard(&mut self, now: Moment) {
        if let Line::Up { heard, .. } = &mut self.line {
            *heard = now;
        }
    }

    /// When it is to be given up if it goes on saying nothing, where much waits for it.
    pub(super) fn mute_deadline(&self) -> Option<Moment> {
        match self.line {
            Line::Up { heard, .. } => Some(heard.after(MUTE)),
            Line::None | Line::Dialing { .. } => None,
        }
    }

    /// Sends at once. For the few messages that are not jobs.
    pub(super) fn say(&mut self, message: Message, out: &mut Actions) {
        self.hand(message, 64, out);
    }

    /// Asks whether it is there. How many answers are owed now.
    pub(super) fn ping(&mut self, out: &mut Actions) -> u32 {
        self.say(Message::Ruok, out);
        self.pings = self.pings.saturating_add(1);
        self.pings
    }

    /// It has answered one.
    pub(super) const fn pong(&mut self) {
        self.pings = self.pings.saturating_sub(1);
    }

    /// Hands a message of about `size` bytes to the link.
    pub(super) fn hand(&mut self, message: Message, size: usize, out: &mut Actions) {
        if self.is_up() {
            self.handed = self.handed.saturating_add(size);
            out.push(Action::Send {
                client: self.id,
                link: self.link,
                message,
            });
        }
    }

    /// Whether the link takes more jobs.
    pub(super) fn has_way(&self, transmit_bytes: usize) -> bool {
        self.is_up() && self.handed < transmit_bytes
    }

    /// A job waits for its turn.
    pub(super) fn enqueue(&mut self, id: JobId) {
        self.queue.push(Reverse(id));
    }

    /// The next job to send. A region server holds only so many, and may hold them for jobs that come before them
    /// and were not ready to be sent then: these always go.
    pub(super) fn next_in_turn(&mut self, limits: &Limits) -> Option<JobId> {
        let &Reverse(lowest) = self.queue.peek()?;
        let is_full = self.sent_jobs >= limits.sent_jobs || self.sent_bytes >= limits.sent_bytes;
        if is_full && lowest > self.sent_through {
            return None;
        }
        self.queue.pop();
        Some(lowest)
    }

    /// A job is sent.
    pub(super) fn sends(&mut self, id: JobId, bytes: usize) {
        self.sent_jobs += 1;
        self.sent_bytes += bytes;
        self.sent_through = self.sent_through.max(id);
    }

    /// A job that was sent is finished.
    pub(super) fn answered(&mut self, bytes: usize) {
        self.sent_jobs = self.sent_jobs.saturating_sub(1);
        self.sent_bytes = self.sent_bytes.saturating_sub(bytes);
    }

    /// All that was handed to the link is on its way.
    pub(super) fn drained(&mut self) {
        self.handed = 0;
    }

    /// When something is due on the link.
    pub(super) fn link_deadline(&self) -> Option<Moment> {
        match self.line {
            Line::None => None,
            Line::Dialing { give_up } => Some(give_up),
            Line::Up { heard, ping, .. } => Some(ping.min(heard.after(SILENCE))),
        }
    }

    /// Sends the ping that is due. Says why the link must be given up, if it must.
    pub(super) fn tick(&mut self, now: Moment, out: &mut Actions) -> Option<&'static str> {
        match &mut self.line {
            Line::None => None,
            Line::Dialing { give_up } => (*give_up <= now).then_some("no connection in time"),
            Line::Up { heard, ping, .. } => {
                if heard.after(SILENCE) <= now {
                    return Some("nothing was heard for 45 s");
                }
                if *ping <= now {
                    *ping = now.after(PING_INTERVAL);
                    self.ping(out);
                }
                None
            }
        }
    }

    /// Forgets what belongs to one activation.
    pub(super) fn reset(&mut self, synced_through: JobId) {
        self.attempts = 0;
        if let Some(leaving) = self.leaving.take() {
            self.address = leaving.new;
            self.region = None;
            self.newcomer = true;
        }
        self.is_elsewhere = false;
        self.fenced = false;
        self.jobs = 0;
        self.bytes = 0;
        self.last_flush = None;
        self.synced_through = synced_through;
        self.extent_limit = None;
        self.reads.clear();
        self.reads_open = 0;
        self.suspects.clear();
        self.doubts.clear();
    }

    /// All but what only the volume knows.
    pub(super) fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            address: self.address,
            leaving_for: self.leaving.map(|leaving| leaving.new),
            region: self.region.map(|region| region.uuid),
            repair_address: self.repair_address,
            state: self.state,
            last_loss: self.last_loss.clone(),
            repair: None,
            jobs: self.jobs,
            bytes: self.bytes,
            queued: self.queue.len(),
            reads: self.reads_open,
            extent_limit: self.extent_limit,
            read_latency: self.latency.mean(),
            write_latency: self.write_latency.mean(),
            flush_latency: self.flush_latency.mean(),
            counters: self.counters,
        }
    }
}
