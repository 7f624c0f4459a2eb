//! Region servers: the core, its region, and what happens to the machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crucible_downstairs::core::{
    Action, ConnectionId, Event, Facts, Mode, Operation, Outcome, Server, Ticket,
};
use crucible_protocol::{Message, REPAIR_PORT_OFFSET, RegionDefinition};
use uuid::Uuid;
use vm_types::{Moment, Span};

use super::repair::Copy;
use super::{What, World};
use crate::network::{Item, Machine, Way};
use crate::scenario::DiskKind;
use crate::setup::Setup;
use crate::storage::{Death, ModelDisk, Storage, StoreDisk};

/// So often is an error reported once more.
const REPEATS: usize = 9;
/// Where a region server listens.
const PORT: u16 = 3810;

/// How a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    /// The region server runs.
    Up,
    /// It does not, but the machine does: who dials is told.
    Down,
    /// Nobody answers.
    Dark,
    /// Nobody will ever answer.
    Lost,
}

/// Work of a region server.
pub(crate) enum Work {
    /// Not begun.
    Operation(Operation),
    /// Going on.
    Copy(Box<Copy>),
    /// Done, not told yet.
    Done(Outcome),
}

/// A machine with a region server and its region.
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) definition: RegionDefinition,
    pub(crate) power: Power,
    pub(crate) mode: Mode,
    /// How often it was started.
    pub(crate) start: u64,
    server: Option<Server>,
    pub(crate) storage: Box<dyn Storage>,
    pub(crate) works: BTreeMap<u64, Work>,
    /// Its clock is ahead by this.
    pub(crate) ahead: Span,
    wake: Option<Moment>,
    pub(crate) frozen: Option<Vec<What>>,
    pub(crate) slow_disk: bool,
    /// It reports each error many times.
    pub(crate) repeats: bool,
    /// The power goes so many steps into the next operation.
    pub(crate) tear: Option<u64>,
    /// Faults that are upon it.
    pub(crate) troubles: u32,
    /// How many regions it has had.
    pub(crate) regions: u64,
}

impl Node {
    pub(crate) fn new(index: usize, setup: &Setup, disk: DiskKind) -> Result<Self, String> {
        let (definition, storage) = region(index, 0, setup, disk)?;
        Ok(Self {
            index,
            definition,
            power: Power::Down,
            mode: Mode::ReadWrite,
            start: 0,
            server: None,
            storage,
            works: BTreeMap::new(),
            ahead: Span::ZERO,
            wake: None,
            frozen: None,
            slow_disk: false,
            repeats: false,
            tear: None,
            troubles: 0,
            regions: 0,
        })
    }

    /// A new, empty region in the place of the old one.
    pub(crate) fn renew(&mut self, setup: &Setup, disk: DiskKind) -> Result<(), String> {
        self.regions += 1;
        (self.definition, self.storage) = region(self.index, self.regions, setup, disk)?;
        Ok(())
    }

    pub(crate) fn is_up(&self) -> bool {
        self.power == Power::Up
    }

    pub(crate) fn is_dark(&self) -> bool {
        matches!(self.power, Power::Dark | Power::Lost)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        address_of(self.index)
    }

    fn repair_address(&self) -> SocketAddr {
        SocketAddr::new(self.address().ip(), PORT + REPAIR_PORT_OFFSET)
    }
}

fn region(
    index: usize,
    count: u64,
    setup: &Setup,
    disk: DiskKind,
) -> Result<(RegionDefinition, Box<dyn Storage>), String> {
    let uuid = Uuid::from_u64_pair(0x7269_7665_7401, index as u64 | count << 8);
    let definition = RegionDefinition::new(setup.geometry, uuid, setup.encrypted);
    let storage: Box<dyn Storage> = match disk {
        DiskKind::Model => Box::new(ModelDisk::new(&definition)?),
        DiskKind::Store => Box::new(StoreDisk::new(&definition)?),
    };
    Ok((definition, storage))
}

fn name_of(operation: &Operation) -> String {
    match operation {
        Operation::Write(write) => format!("Write {}+{}", write.start, write.contexts.len()),
        other => format!("{other:?}"),
    }
}

/// Where the region server of a node listens.
pub(crate) fn address_of(node: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, node as u8 + 1)), PORT)
}

/// The node whose region server listens there (or its repair server).
pub(crate) fn node_at(address: SocketAddr) -> Option<usize> {
    match address.ip() {
        IpAddr::V4(ip) => usize::from(ip.octets()[3]).checked_sub(1),
        IpAddr::V6(_) => None,
    }
}

impl World {
    /// A region server starts.
    pub(super) fn boot(&mut self, index: usize) {
        let limits = self.setup.server_limits;
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        if !matches!(node.power, Power::Down | Power::Dark) {
            return;
        }
        node.start += 1;
        node.power = Power::Up;
        let facts = Facts {
            definition: node.definition,
            mode: node.mode,
            repair_address: node.repair_address(),
        };
        let started = node
            .storage
            .start(node.mode == Mode::ReadOnly)
            .and_then(|promoted| {
                Server::new(facts, promoted, limits).map_err(|error| error.to_string())
            })
            .map(|server| node.server = Some(server));
        match started {
            Ok(()) => self.note(|| format!("n{index} starts")),
            Err(why) => {
                self.note(|| format!("n{index} does not start: {why}"));
                self.kill(index, Death::Process, Power::Down);
                if self.rot.node == Some(index) {
                    // A rotten region may be refused; then it is lost.
                    self.lose_node(index);
                } else {
                    self.fail(|| format!("region server {index} does not start: {why}"));
                }
            }
        }
    }

    /// A region server ends, with or without its machine.
    pub(crate) fn kill(&mut self, index: usize, death: Death, power: Power) {
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        if !node.is_up() {
            return;
        }
        node.power = power;
        node.server = None;
        node.works.clear();
        node.wake = None;
        node.tear = None;
        node.slow_disk = false;
        node.storage.stop(death);
        self.rot.node_ends(index);
        let frozen = node.frozen.take();
        self.note(|| format!("n{index} ends: {death:?}"));
        for what in frozen.into_iter().flatten() {
            self.at(Span::ZERO, what);
        }
        for number in self.network.of(Machine::Node(index)) {
            if let Some(connection) = self.network.connections.get_mut(&number) {
                let open = std::mem::replace(&mut connection.node_open, false);
                if open && power == Power::Down {
                    self.send(number, Way::Down, Item::End);
                }
                self.network.tidy(number);
            }
        }
    }

    /// Hands something to a region server, and does what it wants done.
    pub(crate) fn tell_node(&mut self, index: usize, event: Event) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        let local = now.after(node.ahead);
        let Some(server) = &mut node.server else {
            return;
        };
        let mut actions = Vec::new();
        server.handle(local, event, &mut actions);
        for action in actions {
            self.perform_for_node(index, action);
        }
        self.check_node(index);
    }

    fn perform_for_node(&mut self, index: usize, action: Action) {
        match action {
            Action::Send(ConnectionId(number), message) => {
                let repeats = self.nodes.get(index).is_some_and(|node| node.repeats);
                if repeats && matches!(message, Message::ErrorReport { .. }) {
                    for _ in 0..REPEATS {
                        self.send(number, Way::Down, Item::Message(message.clone()));
                    }
                }
                self.send(number, Way::Down, Item::Message(message));
            }
            Action::HangUp(ConnectionId(number), reason) => {
                self.note(|| format!("n{index} hangs up c{number}: {reason}"));
                if let Some(connection) = self.network.connections.get_mut(&number) {
                    connection.node_open = false;
                    self.send(number, Way::Down, Item::End);
                }
            }
            Action::Pause(ConnectionId(number)) => {
                if let Some(connection) = self.network.connections.get_mut(&number) {
                    connection.reading = false;
                }
            }
            Action::Resume(ConnectionId(number)) => {
                if let Some(connection) = self.network.connections.get_mut(&number) {
                    connection.reading = true;
                    self.at(Span::ZERO, What::Deliver(number, Way::Up));
                }
            }
            Action::Run(Ticket(ticket), operation) => self.begin(index, ticket, operation),
            Action::Cancel(Ticket(ticket)) => {
                if let Some(node) = self.nodes.get_mut(index)
                    && let Some(Work::Copy(copy)) = node.works.get_mut(&ticket)
                {
                    copy.cancelled = true;
                }
            }
            Action::Deadline(moment) => {
                let now = self.now;
                let Some(node) = self.nodes.get_mut(index) else {
                    return;
                };
                node.wake = Some(node.wake.map_or(moment, |wake| wake.min(moment)));
                let span = moment.since(now.after(node.ahead));
                self.at(span, What::Wake(index));
            }
        }
    }

    pub(super) fn wake(&mut self, index: usize) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        let local = now.after(node.ahead);
        if node.wake.is_some_and(|wake| wake <= local) {
            node.wake = None;
            self.tell_node(index, Event::Wake);
        }
    }

    fn begin(&mut self, index: usize, ticket: u64, operation: Operation) {
        let delay = self.disk_delay(index);
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        let start = node.start;
        if let Operation::Repair { extent, source } = operation {
            let copy = Copy::new(extent, source);
            node.works.insert(ticket, Work::Copy(Box::new(copy)));
            self.at(delay, What::Copy(index, start, ticket));
        } else {
            node.works.insert(ticket, Work::Operation(operation));
            self.at(delay, What::Execute(index, start, ticket));
        }
    }

    pub(super) fn disk_delay(&mut self, index: usize) -> Span {
        let delay = self
            .chance
            .disk
            .span(Span::from_micros(10), self.setup.disk);
        let slow = self.nodes.get(index).is_some_and(|node| node.slow_disk);
        Span::from_nanos(delay.as_nanos() * if slow { 200 } else { 1 })
    }

    pub(super) fn execute(&mut self, index: usize, start: u64, ticket: u64) {
        let delay = self.disk_delay(index);
        let Some(node) = self.nodes.get_mut(index).filter(|node| node.start == start) else {
            return;
        };
        let Some(Work::Operation(operation)) = node.works.remove(&ticket) else {
            return;
        };
        let tear = node.tear.take();
        let told = name_of(&operation);
        let snapshot = match &operation {
            Operation::Snapshot { name } => Some((name.clone(), index, node.regions)),
            _ => None,
        };
        let written = match &operation {
            Operation::Write(write) if !write.only_unwritten => {
                Some((write.start.0, write.contexts.len() as u64))
            }
            _ => None,
        };
        let outcome = node.storage.run(operation, tear);
        let failure = match &outcome {
            Outcome::Failed(error, _) => Some(error.to_string()),
            _ => None,
        };
        if failure.is_none() {
            self.snapshots_made.extend(snapshot);
        }
        if let (Some((start, count)), None) = (written, &failure) {
            self.rot.heals(index, start, count);
        }
        self.note(|| {
            format!(
                "n{index} does {told}: {}",
                failure.as_deref().unwrap_or("ok")
            )
        });
        if tear.is_some() {
            self.note(|| format!("n{index} loses its power in {told}"));
            let seed = self.chance.disk.roll();
            self.kill(index, Death::Power(seed), Power::Dark);
            return;
        }
        self.done(index, start, ticket, delay, outcome);
    }

    /// Work is done; the region server hears of it a little later.
    pub(super) fn done(
        &mut self,
        index: usize,
        start: u64,
        ticket: u64,
        delay: Span,
        outcome: Outcome,
    ) {
        if let Some(node) = self.nodes.get_mut(index) {
            node.works.insert(ticket, Work::Done(outcome));
            self.at(delay, What::Finish(index, start, ticket));
        }
    }

    pub(super) fn finish_operation(&mut self, index: usize, start: u64, ticket: u64) {
        let Some(node) = self.nodes.get_mut(index).filter(|node| node.start == start) else {
            return;
        };
        if let Some(Work::Done(outcome)) = node.works.remove(&ticket) {
            self.tell_node(index, Event::Finished(Ticket(ticket), outcome));
        }
    }

    /// The bounds of a region server's memory.
    fn check_node(&mut self, index: usize) {
        let limits = self.setup.server_limits;
        let Some(node) = self.nodes.get(index) else {
            return;
        };
        let Some(server) = &node.server else {
            return;
        };
        let mut worst = None;
        for number in self.network.of(Machine::Node(index)) {
            if let Some((jobs, bytes)) = server.load(ConnectionId(number)) {
                // A message on top of the limit is the one that ends the connection.
                let fits = jobs <= limits.jobs * 2 + 1 && bytes <= limits.bytes * 2 + (64 << 10);
                if !fits {
                    worst = Some((jobs, bytes));
                }
            }
        }
        if let Some((jobs, bytes)) = worst {
            self.fail(|| format!("region server {index} holds {jobs} jobs of {bytes} bytes"));
        }
    }

    /// Whether a region server has nothing to do and knows of nobody.
    pub(crate) fn is_node_idle(&self, index: usize) -> bool {
        self.nodes.get(index).is_some_and(|node| {
            node.works.is_empty()
                && node
                    .server
                    .as_ref()
                    .is_none_or(|server| server.running() == 0)
        })
    }
}
