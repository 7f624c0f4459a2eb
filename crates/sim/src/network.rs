//! Connections, as TCP makes them: in order within a direction, each with its own delay, and able to fail in all
//! the ways that TCP fails. Messages are not lost while a connection stands; they come late, or with it they go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crucible_protocol::{ClientId, Message};
use crucible_upstairs::core::LinkId;
use vm_types::{Moment, Span};

/// A machine of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Machine {
    /// One that runs an upstairs.
    Host(usize),
    /// One that runs a region server.
    Node(usize),
}

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From the upstairs.
    Up,
    /// To the upstairs.
    Down,
}

/// What travels.
#[derive(Debug)]
pub enum Item {
    /// A message.
    Message(Message),
    /// No more will come.
    End,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Pipe {
    /// In order; each is there at its moment.
    pub items: VecDeque<(Moment, Item)>,
    /// Nothing passes any more.
    pub silent: bool,
    bytes: usize,
    last: Moment,
}

/// A connection between an upstairs and a region server.
#[derive(Debug)]
pub struct Connection {
    /// Whose; `None` for one that only pretends to be of an upstairs.
    pub host: Option<(usize, ClientId, LinkId)>,
    /// With whom.
    pub node: usize,
    /// The upstairs has not closed it.
    pub host_open: bool,
    /// The dial has arrived.
    pub accepted: bool,
    /// The region server has accepted it and not closed it.
    pub node_open: bool,
    /// The region server reads from it.
    pub reading: bool,
    /// It has been given something since it last said that it was drained.
    pub undrained: bool,
    /// What the sending side takes before it pushes back, in bytes.
    pub buffer: usize,
    /// To the region server.
    pub up: Pipe,
    /// To the upstairs.
    pub down: Pipe,
}

/// All connections, and who cannot reach whom.
#[derive(Debug, Default)]
pub struct Network {
    next: u64,
    /// By number. Numbers are never used again.
    pub connections: BTreeMap<u64, Connection>,
    cuts: BTreeMap<(Machine, Machine), u32>,
    slow: BTreeSet<Machine>,
}

impl Pipe {
    /// Sends something that takes so long. When it is there.
    pub fn send(&mut self, now: Moment, delay: Span, item: Item) -> Moment {
        if let Item::Message(message) = &item {
            self.bytes += size_of(message);
        }
        self.last = self.last.max(now.after(delay));
        self.items.push_back((self.last, item));
        self.last
    }

    /// The next thing that is there.
    pub fn receive(&mut self, now: Moment) -> Option<Item> {
        if self.silent || self.items.front().is_none_or(|(at, _)| *at > now) {
            return None;
        }
        let (_, item) = self.items.pop_front()?;
        if let Item::Message(message) = &item {
            self.bytes -= size_of(message);
        }
        Some(item)
    }

    /// Bytes that are on their way.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is on its way is lost, but for the first so many items.
    pub fn lose_after(&mut self, kept: usize) {
        for (_, item) in self.items.drain(kept.min(self.items.len())..) {
            if let Item::Message(message) = item {
                self.bytes -= size_of(&message);
            }
        }
    }
}

impl Network {
    /// A connection that is being made.
    pub fn dial(
        &mut self,
        host: Option<(usize, ClientId, LinkId)>,
        node: usize,
        buffer: usize,
    ) -> u64 {
        self.next += 1;
        let connection = Connection {
            host,
            node,
            host_open: true,
            accepted: false,
            node_open: false,
            reading: true,
            undrained: false,
            buffer,
            up: Pipe::default(),
            down: Pipe::default(),
        };
        self.connections.insert(self.next, connection);
        self.next
    }

    /// The connection that an upstairs knows by this name.
    pub fn find(&self, host: usize, client: ClientId, link: LinkId) -> Option<u64> {
        self.connections
            .iter()
            .find(|(_, connection)| {
                connection.host == Some((host, client, link)) && connection.host_open
            })
            .map(|(number, _)| *number)
    }

    /// Connections that an end of which is this machine.
    pub fn of(&self, machine: Machine) -> Vec<u64> {
        self.connections
            .iter()
            .filter(|(_, connection)| match machine {
                Machine::Host(host) => connection.host.is_some_and(|(of, ..)| of == host),
                Machine::Node(node) => connection.node == node,
            })
            .map(|(number, _)| *number)
            .collect()
    }

    /// From now on nothing passes between the two; once more than it was healed.
    pub fn part(&mut self, one: Machine, other: Machine) {
        *self
            .cuts
            .entry((one.min(other), one.max(other)))
            .or_default() += 1;
    }

    /// Takes [`Network::part`] back.
    pub fn join(&mut self, one: Machine, other: Machine) {
        let key = (one.min(other), one.max(other));
        if let Some(count) = self.cuts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.cuts.remove(&key);
            }
        }
    }

    /// Whether what one sends comes to the other.
    pub fn reaches(&self, one: Machine, other: Machine) -> bool {
        !self.cuts.contains_key(&(one.min(other), one.max(other)))
    }

    /// The links of a machine become slow, or normal again.
    pub fn set_slow(&mut self, machine: Machine, slow: bool) {
        if slow {
            self.slow.insert(machine);
        } else {
            self.slow.remove(&machine);
        }
    }

    /// Whether the links of a machine are slow.
    pub fn is_slow(&self, machine: Machine) -> bool {
        self.slow.contains(&machine)
    }

    /// Forgets a connection that nobody has any more.
    pub fn tidy(&mut self, number: u64) {
        let gone = self.connections.get(&number).is_some_and(|connection| {
            let nothing_left = connection.up.items.is_empty() || !connection.accepted;
            !connection.host_open && !connection.node_open && nothing_left
        });
        if gone {
            self.connections.remove(&number);
        }
    }
}

impl Connection {
    /// One direction.
    pub const fn pipe(&mut self, way: Way) -> &mut Pipe {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    /// The two machines; a connection that pretends comes from nowhere.
    pub const fn ends(&self) -> (Option<Machine>, Machine) {
        let host = match self.host {
            Some((host, ..)) => Some(Machine::Host(host)),
            None => None,
        };
        (host, Machine::Node(self.node))
    }
}

/// How long a message is, about.
pub fn size_of(message: &Message) -> usize {
    64 + match message {
        Message::Write { data, .. }
        | Message::WriteUnwritten { data, .. }
        | Message::ReadResponse { data, .. } => data.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_keeps_the_order_whatever_the_delays() {
        let mut pipe = Pipe::default();
        pipe.send(
            Moment::START,
            Span::from_millis(9),
            Item::Message(Message::Ruok),
        );
        let at = pipe.send(Moment::START, Span::from_millis(1), Item::End);
        assert_eq!(at, Moment::START.after(Span::from_millis(9)));
        assert!(pipe.receive(Moment::START).is_none());
        assert!(matches!(pipe.receive(at), Some(Item::Message(_))));
        assert!(matches!(pipe.receive(at), Some(Item::End)));
    }

    #[test]
    fn machines_reach_each_other_when_all_partitions_have_healed() {
        let mut network = Network::default();
        let (one, two) = (Machine::Host(0), Machine::Node(1));
        network.part(one, two);
        network.part(two, one);
        network.join(one, two);
        assert!(!network.reaches(one, two));
        network.join(one, two);
        assert!(network.reaches(two, one));
    }
}
