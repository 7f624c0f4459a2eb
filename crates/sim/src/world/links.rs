//! Connections come and go, and messages arrive.

use crucible_downstairs::core::{ConnectionId, Event as ServerEvent};
use crucible_protocol::Message;
use crucible_upstairs::core::{Event, LinkLoss};
use vm_types::{Moment, Span};

use super::{LinkName, What, World};
use crate::network::{Item, Machine, Way};

/// A dial into nothing is given up by the system after this.
const DIAL_TIMEOUT: Span = Span::from_secs(20);

impl World {
    /// How long a message takes now between these.
    fn delay(&mut self, ends: (Option<Machine>, Machine)) -> Span {
        let most = self.setup.delay;
        let delay = self.chance.net.span(Span::from_micros(20), most);
        let slow =
            ends.0.is_some_and(|end| self.network.is_slow(end)) || self.network.is_slow(ends.1);
        if slow {
            Span::from_nanos(delay.as_nanos().saturating_mul(100))
        } else {
            delay
        }
    }

    /// An upstairs (or who pretends to be one) dials a region server.
    pub(crate) fn dial(&mut self, name: Option<LinkName>, node: usize, not_before: Moment) -> u64 {
        let buffer = self
            .chance
            .net
            .pick(&[0, 4 << 10, 64 << 10])
            .unwrap_or(4 << 10);
        let number = self.network.dial(name, node, buffer);
        let ends = (
            name.map(|(host, ..)| Machine::Host(host)),
            Machine::Node(node),
        );
        let delay = self.delay(ends);
        self.at_moment(not_before.max(self.now).after(delay), What::Dial(number));
        number
    }

    pub(super) fn dial_arrives(&mut self, number: u64) {
        let Some(connection) = self.network.connections.get(&number) else {
            return;
        };
        let ends = connection.ends();
        let reached = ends.0.is_none_or(|end| self.network.reaches(end, ends.1));
        let node = connection.node;
        let Some(server) = self.nodes.get(node) else {
            return;
        };
        if !reached || server.is_dark() {
            self.at(DIAL_TIMEOUT, What::DialLost(number));
        } else if server.is_up() {
            let start = server.start;
            self.at(Span::ZERO, What::Accept(number, start));
            let delay = self.delay(ends);
            self.at(delay, What::Connected(number));
        } else {
            let delay = self.delay(ends);
            self.at(delay, What::DialLost(number));
        }
    }

    pub(super) fn accept(&mut self, number: u64, start: u64) {
        let Some(connection) = self.network.connections.get_mut(&number) else {
            return;
        };
        let node = connection.node;
        connection.accepted = true;
        self.at(Span::ZERO, What::Deliver(number, Way::Up));
        if self
            .nodes
            .get(node)
            .is_some_and(|server| server.is_up() && server.start == start)
            && let Some(connection) = self.network.connections.get_mut(&number)
        {
            connection.node_open = true;
            self.tell_node(node, ServerEvent::Opened(ConnectionId(number)));
        }
    }

    pub(super) fn connected(&mut self, number: u64) {
        if let Some(connection) = self.network.connections.get(&number)
            && connection.host_open
            && let Some((host, client, link)) = connection.host
        {
            self.tell_host(host, Event::LinkUp { client, link });
        }
    }

    pub(super) fn dial_lost(&mut self, number: u64) {
        let Some(connection) = self.network.connections.remove(&number) else {
            return;
        };
        if connection.host_open
            && let Some((host, client, link)) = connection.host
        {
            let loss = LinkLoss::Failed("could not connect".into());
            self.tell_host(host, Event::LinkDown { client, link, loss });
        }
    }

    /// Sends over a connection.
    pub(crate) fn send(&mut self, number: u64, way: Way, item: Item) {
        let Some(connection) = self.network.connections.get(&number) else {
            return;
        };
        let delay = self.delay(connection.ends());
        if let Some(connection) = self.network.connections.get_mut(&number) {
            let at = connection.pipe(way).send(self.now, delay, item);
            self.at_moment(at, What::Deliver(number, way));
        }
    }

    /// Takes in all that is there in one direction.
    pub(super) fn deliver(&mut self, number: u64, way: Way) {
        loop {
            let Some(connection) = self.network.connections.get_mut(&number) else {
                return;
            };
            let ends = connection.ends();
            if ends.0.is_some_and(|end| !self.network.reaches(end, ends.1)) {
                return;
            }
            let Some(connection) = self.network.connections.get_mut(&number) else {
                return;
            };
            let reads = connection.accepted && (connection.reading || !connection.node_open);
            if way == Way::Up && !reads {
                return;
            }
            let Some(item) = connection.pipe(way).receive(self.now) else {
                break;
            };
            match way {
                Way::Up => self.arrive_up(number, item),
                Way::Down => self.arrive_down(number, item),
            }
            if self.violation.is_some() {
                return;
            }
        }
        if let Some(connection) = self.network.connections.get_mut(&number)
            && connection.undrained
            && connection.up.bytes() <= connection.buffer
        {
            connection.undrained = false;
            self.at(Span::from_micros(5), What::Drained(number));
        }
        self.network.tidy(number);
    }

    fn arrive_up(&mut self, number: u64, item: Item) {
        let Some(connection) = self.network.connections.get_mut(&number) else {
            return;
        };
        let (node, open) = (connection.node, connection.node_open);
        match item {
            Item::Message(message) if open => {
                self.note(|| format!("n{node} <- c{number} {}", words(&message)));
                let event = ServerEvent::Received(ConnectionId(number), message);
                self.tell_node(node, event);
            }
            Item::Message(_) => {
                // The kernel knows of no such connection; but only a kernel that runs can say so.
                let answers = self.nodes.get(node).is_some_and(|node| !node.is_dark());
                if answers && connection.host_open {
                    self.send(number, Way::Down, Item::End);
                }
            }
            Item::End => {
                connection.node_open = false;
                if connection.host.is_none() {
                    connection.host_open = false; // Who only pretended does not wait for an answer.
                }
                if open {
                    self.note(|| format!("n{node} <- c{number} end"));
                    self.tell_node(node, ServerEvent::Closed(ConnectionId(number)));
                }
            }
        }
    }

    fn arrive_down(&mut self, number: u64, item: Item) {
        let Some(connection) = self.network.connections.get_mut(&number) else {
            return;
        };
        let Some((host, client, link)) = connection.host else {
            return;
        };
        match item {
            Item::Message(message) if connection.host_open => {
                self.note(|| format!("u{host} <- {client} c{number} {}", words(&message)));
                let event = Event::Frame {
                    client,
                    link,
                    message,
                };
                self.tell_host(host, event);
            }
            Item::Message(_) => {
                if connection.node_open {
                    self.send(number, Way::Up, Item::End);
                }
            }
            Item::End => {
                let open = std::mem::replace(&mut connection.host_open, false);
                if open {
                    self.note(|| format!("u{host} <- {client} c{number} end"));
                    let loss = LinkLoss::Closed;
                    self.tell_host(host, Event::LinkDown { client, link, loss });
                }
            }
        }
    }

    pub(super) fn drained(&mut self, number: u64) {
        if let Some(connection) = self.network.connections.get(&number)
            && connection.host_open
            && let Some((host, client, link)) = connection.host
        {
            self.tell_host(host, Event::Drained { client, link });
        }
    }

    /// The upstairs closes a connection. Some of what it sent may never leave.
    pub(crate) fn close_up(&mut self, number: u64) {
        let Some(connection) = self.network.connections.get_mut(&number) else {
            return;
        };
        connection.host_open = false;
        if self.chance.net.percent(50) {
            let kept = self.chance.net.index(connection.up.items.len() + 1);
            connection.up.lose_after(kept);
        }
        self.send(number, Way::Up, Item::End);
    }

    /// A connection breaks: both sides hear of it, and what was on its way is lost from some point on.
    pub(crate) fn cut(&mut self, number: u64) {
        let Some(connection) = self.network.connections.get_mut(&number) else {
            return;
        };
        for way in [Way::Up, Way::Down] {
            let pipe = connection.pipe(way);
            let kept = self.chance.net.index(pipe.items.len() + 1);
            pipe.lose_after(kept);
            pipe.silent = false;
        }
        self.send(number, Way::Up, Item::End);
        self.send(number, Way::Down, Item::End);
    }

    /// What was held up may pass again.
    pub(crate) fn look_again(&mut self, machine: Machine) {
        for number in self.network.of(machine) {
            for way in [Way::Up, Way::Down] {
                let connection = self.network.connections.get_mut(&number);
                if connection.is_some_and(|connection| !connection.pipe(way).items.is_empty()) {
                    self.at(Span::ZERO, What::Deliver(number, way));
                }
            }
        }
    }
}

/// A message in few words.
pub(crate) fn words(message: &Message) -> String {
    match message {
        Message::Write { header, .. } | Message::WriteUnwritten { header, .. } => format!(
            "{} {} {}+{} after {:?}",
            message.name(),
            header.job,
            header.start,
            header.contexts.len(),
            header.dependencies
        ),
        Message::ReadResponse { header, .. } => format!(
            "ReadResponse {} {}",
            header.job,
            if header.blocks.is_ok() {
                "ok"
            } else {
                "failed"
            }
        ),
        other => {
            let mut text = format!("{other:?}");
            if let (Some(from), Some(to)) = (text.find("key: "), text.find("}, ")) {
                text.replace_range(from..to + 3, "");
            }
            text.truncate(300);
            text
        }
    }
}
