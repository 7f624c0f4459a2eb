//! The world: everything that happens, in the order of its time.
//!
//! One queue of events, each at its moment; what happens at the same moment happens in the order it was asked for.
//! Nothing else decides the order, and chance comes from the seed alone: the same scenario is the same run.

mod afterwards;
mod chaos;
mod compare;
mod guest;
mod hosts;
mod links;
mod nodes;
mod operator;
mod repair;
mod rot;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};

use crucible_protocol::ClientId;
use crucible_upstairs::core::LinkId;
use vm_types::{Moment, Span};

use crate::dice::Dice;
use crate::faults::Fault;
use crate::network::{Machine, Network, Way};
use crate::oracle::{Answers, History};
use crate::outcome::Outcome;
use crate::scenario::Scenario;
use crate::setup::{NODES, Setup};
use crate::trace::Trace;

use self::chaos::Relief;
use self::hosts::Host;
use self::nodes::Node;
use self::operator::Operator;
use self::rot::Rot;
use self::snapshots::Kept;

/// More events than this at one moment: somebody turns in circles.
const EVENTS_AT_ONCE_MAX: u32 = 20_000;
/// More events than this in all: likewise, with time going on.
const EVENTS_MAX: u64 = 3_000_000;
/// When faults have stopped, everything is to be at rest within this time.
const REST_WITHIN: Span = Span::from_secs(600);
/// Trouble is made for no longer than this.
const CHAOS_MAX: Span = Span::from_secs(400);

/// Something that will happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// A dial arrives at the machine it is for.
    Dial(u64),
    /// A region server hears of a connection; of which start of it.
    Accept(u64, u64),
    /// The upstairs hears that the connection stands.
    Connected(u64),
    /// The upstairs hears that it does not.
    DialLost(u64),
    /// Something may be there in one direction of a connection.
    Deliver(u64, Way),
    /// The upstairs may send more.
    Drained(u64),
    /// A region server's deadline.
    Wake(usize),
    /// An operation begins on the disk of a region server: which, of which start, ticket.
    Execute(usize, u64, u64),
    /// It ends.
    Finish(usize, u64, u64),
    /// The next step of a copy.
    Copy(usize, u64, u64),
    /// A region server starts.
    Boot(usize),
    /// The deadline of an upstairs.
    Time(usize),
    /// Sealing or opening of this number is done.
    Cipher(usize, u64),
    /// The guest of an upstairs wants something.
    Guest(usize),
    /// The operator looks after things.
    Operate,
    /// Trouble comes.
    Chaos,
    /// Trouble ends.
    End(Relief),
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The guest works, faults come.
    Chaos,
    /// No faults come; everything is to recover.
    Rest,
    /// All is well; the guest reads everything.
    Verify,
    /// The guest flushes.
    Flush,
    /// The operator lets go.
    Deactivate,
    /// The regions are served read-only.
    ReadOnly,
    /// Done.
    Done,
}

/// All chance, by purpose.
#[derive(Debug)]
pub(crate) struct Chance {
    pub(crate) net: Dice,
    pub(crate) disk: Dice,
    pub(crate) guest: Dice,
    pub(crate) chaos: Dice,
    pub(crate) operator: Dice,
    pub(crate) cipher: Dice,
}

/// One run.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) setup: Setup,
    pub(crate) now: Moment,
    sequence: u64,
    queue: BTreeMap<(Moment, u64), What>,
    pub(crate) chance: Chance,
    pub(crate) network: Network,
    pub(crate) nodes: Vec<Node>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) operator: Operator,
    pub(crate) history: History,
    pub(crate) answers: Answers,
    pub(crate) trace: Trace,
    pub(crate) stage: Stage,
    pub(crate) stage_since: Moment,
    /// Requests that the guest has made.
    pub(crate) issued: u64,
    pub(crate) rot: Rot,
    /// Snapshots that the guest asked for, those that were made (of which region of which node), and those that the
    /// guest was told of.
    snapshots_asked: u64,
    snapshots_made: BTreeSet<(String, usize, u64)>,
    snapshots: Vec<Kept>,
    pub(crate) outcome: Outcome,
    pub(crate) violation: Option<String>,
}

impl World {
    /// A fresh world: region servers that start, and an operator.
    pub(crate) fn new(scenario: &Scenario) -> Result<Self, String> {
        let setup = Setup::new(scenario.seed)?;
        let seed = scenario.seed;
        let nodes = (0..NODES)
            .map(|index| Node::new(index, &setup, scenario.disk))
            .collect::<Result<Vec<Node>, String>>()?;
        let mut world = Self {
            now: Moment::START.after(Span::from_secs(1)),
            sequence: 0,
            queue: BTreeMap::new(),
            chance: Chance {
                net: Dice::new(seed, 1),
                disk: Dice::new(seed, 2),
                guest: Dice::new(seed, 3),
                chaos: Dice::new(seed, 4),
                operator: Dice::new(seed, 5),
                cipher: Dice::new(seed, 6),
            },
            network: Network::default(),
            nodes,
            hosts: Vec::new(),
            operator: Operator::default(),
            history: History::new(setup.geometry.block_count()),
            answers: Answers::default(),
            trace: Trace::new(scenario.trace),
            stage: Stage::Chaos,
            stage_since: Moment::START,
            issued: 0,
            rot: Rot::default(),
            snapshots_asked: 0,
            snapshots_made: BTreeSet::new(),
            snapshots: Vec::new(),
            outcome: Outcome::new(scenario),
            violation: None,
            setup,
            scenario: scenario.clone(),
        };
        world.note(|| format!("{:?}", Setup::new(seed)));
        for node in 0..NODES {
            world.at(Span::ZERO, What::Boot(node));
        }
        world.at(Span::from_millis(1), What::Operate);
        let first = world.setup.trouble;
        world.at(first, What::Chaos);
        Ok(world)
    }

    /// Lets things happen until all is done, or something is wrong.
    pub(crate) fn run(mut self) -> Outcome {
        let mut at_once = 0;
        while self.violation.is_none() && self.stage != Stage::Done {
            let Some(((moment, _), what)) = self.queue.pop_first() else {
                self.fail(|| "nothing will ever happen again".into());
                break;
            };
            at_once = if moment == self.now { at_once + 1 } else { 0 };
            self.now = moment;
            if at_once > EVENTS_AT_ONCE_MAX || self.trace.events() > EVENTS_MAX {
                self.fail(|| format!("events in circles: {what:?}"));
                break;
            }
            self.happen(what);
        }
        self.finish()
    }

    fn finish(mut self) -> Outcome {
        for host in 0..self.hosts.len() {
            self.gather(host);
        }
        self.outcome.hash = self.trace.hash();
        self.outcome.events = self.trace.events();
        self.outcome.virtual_time = self.now.since(Moment::START);
        self.outcome.violation = self.violation.take();
        self.outcome.trace = self.trace.into_lines();
        self.outcome
    }

    /// Something happens, unless its machine stands still: then it happens afterwards.
    fn happen(&mut self, what: What) {
        if let Some(machine) = self.owner(what)
            && let Some(frozen) = self.frozen_mut(machine)
        {
            frozen.push(what);
            return;
        }
        let (kind, who, more) = what.numbers();
        self.trace.event(self.now, kind, who, more);
        match what {
            What::Dial(connection) => self.dial_arrives(connection),
            What::Accept(connection, start) => self.accept(connection, start),
            What::Connected(connection) => self.connected(connection),
            What::DialLost(connection) => self.dial_lost(connection),
            What::Deliver(connection, way) => self.deliver(connection, way),
            What::Drained(connection) => self.drained(connection),
            What::Wake(node) => self.wake(node),
            What::Execute(node, start, ticket) => self.execute(node, start, ticket),
            What::Finish(node, start, ticket) => self.finish_operation(node, start, ticket),
            What::Copy(node, start, ticket) => self.copy(node, start, ticket),
            What::Boot(node) => self.boot(node),
            What::Time(host) => self.time(host),
            What::Cipher(host, number) => self.cipher_done(host, number),
            What::Guest(host) => self.guest(host),
            What::Operate => self.operate(),
            What::Chaos => self.chaos(),
            What::End(relief) => self.relieve(relief),
        }
    }

    /// The machine on which something happens.
    fn owner(&self, what: What) -> Option<Machine> {
        let connection = |number: u64| self.network.connections.get(&number);
        match what {
            What::Accept(number, _) | What::Deliver(number, Way::Up) => {
                Some(Machine::Node(connection(number)?.node))
            }
            What::Connected(number)
            | What::DialLost(number)
            | What::Drained(number)
            | What::Deliver(number, Way::Down) => connection(number)?
                .host
                .map(|(host, ..)| Machine::Host(host)),
            What::Wake(node)
            | What::Execute(node, ..)
            | What::Finish(node, ..)
            | What::Copy(node, ..) => Some(Machine::Node(node)),
            What::Time(host) | What::Cipher(host, _) | What::Guest(host) => {
                Some(Machine::Host(host))
            }
            What::Dial(_) | What::Boot(_) | What::Operate | What::Chaos | What::End(_) => None,
        }
    }

    pub(crate) fn frozen_mut(&mut self, machine: Machine) -> Option<&mut Vec<What>> {
        match machine {
            Machine::Host(host) => self.hosts.get_mut(host)?.frozen.as_mut(),
            Machine::Node(node) => self.nodes.get_mut(node)?.frozen.as_mut(),
        }
    }

    /// Something will happen after this span.
    pub(crate) fn at(&mut self, span: Span, what: What) {
        self.at_moment(self.now.after(span), what);
    }

    /// Something will happen at this moment.
    pub(crate) fn at_moment(&mut self, moment: Moment, what: What) {
        self.sequence += 1;
        self.queue
            .insert((moment.max(self.now), self.sequence), what);
    }

    /// What must not be has happened.
    pub(crate) fn fail(&mut self, why: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let why = why();
            self.note(|| format!("VIOLATION {why}"));
            self.violation = Some(why);
        }
    }

    /// A line for the trace.
    pub(crate) fn note(&mut self, words: impl FnOnce() -> String) {
        self.trace.line(self.now, words);
    }

    /// A fault was injected.
    pub(crate) fn count(&mut self, fault: Fault) {
        *self.outcome.faults.entry(fault).or_default() += 1;
    }

    pub(crate) fn enter(&mut self, stage: Stage) {
        self.note(|| format!("== {stage:?}"));
        self.stage = stage;
        self.stage_since = self.now;
    }

    /// Whether faults may come.
    pub(crate) fn is_stormy(&self) -> bool {
        self.stage == Stage::Chaos
    }

    pub(crate) fn is_over_time(&self) -> bool {
        match self.stage {
            Stage::Chaos => self.now.since(Moment::START) > CHAOS_MAX,
            _ => self.now.since(self.stage_since) > REST_WITHIN,
        }
    }
}

impl What {
    /// For the hash of the trace.
    fn numbers(self) -> (u64, u64, u64) {
        match self {
            Self::Dial(number) => (1, number, 0),
            Self::Accept(number, start) => (2, number, start),
            Self::Connected(number) => (3, number, 0),
            Self::DialLost(number) => (4, number, 0),
            Self::Deliver(number, way) => (5, number, way as u64),
            Self::Drained(number) => (6, number, 0),
            Self::Wake(node) => (7, node as u64, 0),
            Self::Execute(node, start, ticket) => (8, node as u64 | start << 8, ticket),
            Self::Finish(node, start, ticket) => (9, node as u64 | start << 8, ticket),
            Self::Copy(node, start, ticket) => (10, node as u64 | start << 8, ticket),
            Self::Boot(node) => (11, node as u64, 0),
            Self::Time(host) => (12, host as u64, 0),
            Self::Cipher(host, number) => (13, host as u64, number),
            Self::Guest(host) => (14, host as u64, 0),
            Self::Operate => (15, 0, 0),
            Self::Chaos => (16, 0, 0),
            Self::End(_) => (17, 0, 0),
        }
    }
}

/// Names a link of an upstairs.
pub(crate) type LinkName = (usize, ClientId, LinkId);
