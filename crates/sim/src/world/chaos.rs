//! Trouble: what comes, upon whom, for how long.

use crucible_protocol::{JobId, MESSAGE_VERSION, Message};
use vm_types::Span;

use super::hosts::Life;
use super::nodes::Power;
use super::{What, World};
use crate::faults::Fault;
use crate::network::{Item, Machine, Way};
use crate::setup::NODES;
use crate::storage::{Death, Trouble};

/// The end of a trouble.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Relief {
    /// Links are quick again.
    Quick(Machine),
    /// Two machines reach each other again.
    Join(Machine, Machine),
    /// A process goes on.
    Thaw(Machine),
    /// A region server starts again.
    Boot(usize),
    /// A disk works again.
    Disk(usize),
    /// A connection that only pretended ends.
    Ghost(u64),
}

impl World {
    /// One trouble comes.
    pub(super) fn chaos(&mut self) {
        if !self.is_stormy() {
            return;
        }
        let pause = self
            .chance
            .chaos
            .span(Span::from_millis(5), self.setup.trouble);
        self.at(pause, What::Chaos);
        let kinds: Vec<Fault> = self.scenario.faults.iter().collect();
        let Some(kind) = self.chance.chaos.pick(&kinds) else {
            return;
        };
        // What begins everything anew comes seldom, or nothing ever gets far.
        let seldom = matches!(
            kind,
            Fault::TakeOver | Fault::Upstairs | Fault::Deactivate | Fault::Replace | Fault::Loss
        );
        if self.hosts.is_empty() || (seldom && self.now < self.operator.next_upheaval) {
            return;
        }
        let lasts = self
            .chance
            .chaos
            .span(Span::from_millis(1), self.setup.trouble_lasts);
        if self.inject(kind, lasts) {
            self.count(kind);
            if seldom {
                let pause = self
                    .chance
                    .chaos
                    .span(Span::from_millis(20), self.setup.upheaval);
                self.operator.next_upheaval = self.now.after(pause);
            }
            let ms = lasts.as_nanos() / 1_000_000;
            self.note(|| format!("!! {} ({ms} ms)", kind.name()));
        }
    }

    /// Whether it could be done.
    fn inject(&mut self, kind: Fault, lasts: Span) -> bool {
        match kind {
            Fault::Delay => {
                let machine = self.any_machine();
                self.network.set_slow(machine, true);
                self.at(lasts, What::End(Relief::Quick(machine)));
                true
            }
            Fault::Cut => match self.any_connection() {
                Some(number) => {
                    self.cut(number);
                    true
                }
                None => false,
            },
            Fault::HalfOpen => {
                let way = self
                    .chance
                    .chaos
                    .pick(&[Way::Up, Way::Down])
                    .unwrap_or(Way::Up);
                match self
                    .any_connection()
                    .and_then(|number| self.network.connections.get_mut(&number))
                {
                    Some(connection) => {
                        connection.pipe(way).silent = true;
                        true
                    }
                    None => false,
                }
            }
            Fault::Partition => {
                let one = self.any_machine();
                let other = Machine::Node(self.chance.chaos.index(NODES));
                if one == other {
                    return false;
                }
                self.network.part(one, other);
                self.at(lasts, What::End(Relief::Join(one, other)));
                true
            }
            Fault::Duplicate => self.pretend(lasts),
            Fault::Pause => {
                let machine = self.any_machine();
                let frozen = match machine {
                    Machine::Host(host) => self
                        .hosts
                        .get_mut(host)
                        .filter(|host| host.is_alive())
                        .map(|host| &mut host.frozen),
                    Machine::Node(node) => {
                        let free = self.may_trouble(node);
                        self.nodes
                            .get_mut(node)
                            .filter(|node| node.is_up() && free)
                            .map(|node| {
                                if node.frozen.is_none() {
                                    node.troubles += 1;
                                }
                                &mut node.frozen
                            })
                    }
                };
                match frozen {
                    Some(frozen @ None) => {
                        *frozen = Some(Vec::new());
                        self.at(lasts, What::End(Relief::Thaw(machine)));
                        true
                    }
                    _ => false,
                }
            }
            Fault::Clock => {
                let jump = self
                    .chance
                    .chaos
                    .span(Span::from_millis(10), Span::from_secs(120));
                match self.any_machine() {
                    Machine::Host(index) => {
                        if let Some(host) = self.hosts.get_mut(index) {
                            host.ahead = sum(host.ahead, jump);
                            self.at(Span::ZERO, What::Time(index));
                        }
                    }
                    Machine::Node(index) => {
                        if let Some(node) = self.nodes.get_mut(index) {
                            node.ahead = sum(node.ahead, jump);
                            self.at(Span::ZERO, What::Wake(index));
                        }
                    }
                }
                true
            }
            Fault::Kill | Fault::Power | Fault::Tear => self.fell(kind, lasts),
            Fault::DiskError | Fault::DiskFull | Fault::SlowDisk | Fault::Repeat => {
                self.spoil(kind, lasts)
            }
            Fault::Snapshot => self.ask_for_snapshot(),
            Fault::Rot => self.rot(),
            Fault::Loss => {
                let node = self.any_target();
                // Who takes a whole replica away before the new one has its data has lost one already.
                let allowed = self.operator.lost.is_none()
                    && !self.operator.incomplete
                    && self.rot.node.is_none_or(|rotten| rotten == node)
                    && self
                        .nodes
                        .get(node)
                        .is_some_and(|node| node.power != Power::Lost);
                if allowed {
                    self.lose_node(node);
                }
                allowed
            }
            Fault::Replace => self.wish_replacement(),
            Fault::TakeOver => self.take_over(),
            Fault::Upstairs => match self.operator.newest {
                Some(host)
                    if self
                        .hosts
                        .get(host)
                        .is_some_and(super::hosts::Host::is_alive) =>
                {
                    let dark = self.chance.chaos.percent(50);
                    self.kill_host(host, dark);
                    let pause = lasts.min(Span::from_secs(3));
                    self.operator.not_before = self.now.after(pause);
                    true
                }
                _ => false,
            },
            Fault::Deactivate => {
                let free = !self.operator.wants_pause;
                self.operator.wants_pause = true;
                free
            }
        }
    }

    /// Whether one more region server may get into trouble.
    fn may_trouble(&self, node: usize) -> bool {
        let troubled = self
            .nodes
            .iter()
            .filter(|node| node.troubles > 0 && self.operator.targets.contains(&node.index));
        let more = !self.operator.targets.contains(&node)
            || self.nodes.get(node).is_some_and(|node| node.troubles > 0);
        more || troubled.count() < self.setup.troubled_max
    }

    fn any_machine(&mut self) -> Machine {
        let alive: Vec<usize> = (0..self.hosts.len())
            .filter(|host| self.hosts[*host].is_alive())
            .collect();
        match self.chance.chaos.pick(&alive) {
            Some(host) if self.chance.chaos.percent(25) => Machine::Host(host),
            _ => Machine::Node(self.any_node()),
        }
    }

    /// Mostly one that serves the volume.
    fn any_node(&mut self) -> usize {
        if self.chance.chaos.percent(80) {
            self.any_target()
        } else {
            self.chance.chaos.index(NODES)
        }
    }

    pub(super) fn any_target(&mut self) -> usize {
        self.chance.chaos.pick(&self.operator.targets).unwrap_or(0)
    }

    fn any_connection(&mut self) -> Option<u64> {
        let open: Vec<u64> = self
            .network
            .connections
            .iter()
            .filter(|(_, connection)| connection.host_open && connection.node_open)
            .map(|(number, _)| *number)
            .collect();
        self.chance.chaos.pick(&open)
    }

    /// A second connection says what the upstairs says first, and perhaps more.
    fn pretend(&mut self, lasts: Span) -> bool {
        let Some(host) = self.operator.newest.and_then(|host| self.hosts.get(host)) else {
            return false;
        };
        if host.life != Life::Active {
            return false;
        }
        let (key, generation) = (host.status().key, host.generation);
        let node = self.any_target();
        let mut words = vec![
            Message::HereIAm {
                version: MESSAGE_VERSION,
                key,
                generation,
                read_only: false,
                encrypted: self.setup.encrypted,
                alternate_versions: Vec::new(),
            },
            Message::PromoteToActive { key, generation },
            Message::RegionInfoPlease,
        ];
        words.push(if self.chance.chaos.percent(50) {
            Message::ExtentVersionsPlease
        } else {
            Message::LastFlush {
                last: Some(JobId::FIRST),
            }
        });
        let said = 1 + self.chance.chaos.index(words.len());
        let number = self.dial(None, node, self.now);
        for word in words.into_iter().take(said) {
            self.send(number, Way::Up, Item::Message(word));
        }
        let lasts = lasts.min(Span::from_secs(30));
        self.at(lasts, What::End(Relief::Ghost(number)));
        true
    }

    fn fell(&mut self, kind: Fault, lasts: Span) -> bool {
        let index = self.any_node();
        if !self.may_trouble(index) {
            return false;
        }
        let steps = self.chance.chaos.below(14);
        let seed = self.chance.chaos.roll();
        let Some(node) = self.nodes.get_mut(index).filter(|node| node.is_up()) else {
            return false;
        };
        node.troubles += 1;
        match kind {
            Fault::Tear => node.tear = Some(steps),
            Fault::Power => self.kill(index, Death::Power(seed), Power::Dark),
            _ => self.kill(index, Death::Process, Power::Down),
        }
        self.at(lasts, What::End(Relief::Boot(index)));
        true
    }

    fn spoil(&mut self, kind: Fault, lasts: Span) -> bool {
        let index = self.any_node();
        if !self.may_trouble(index) {
            return false;
        }
        let skip = self.chance.chaos.below(20);
        let count = 1 + self.chance.chaos.below(8);
        let Some(node) = self.nodes.get_mut(index).filter(|node| node.is_up()) else {
            return false;
        };
        node.troubles += 1;
        match kind {
            Fault::DiskError => node.storage.trouble(Trouble::Errors { skip, count }),
            Fault::Repeat => {
                node.storage.trouble(Trouble::Errors { skip, count });
                node.repeats = true;
            }
            Fault::DiskFull => node.storage.trouble(Trouble::Full),
            _ => node.slow_disk = true,
        }
        self.at(lasts, What::End(Relief::Disk(index)));
        true
    }

    /// A region server and its disk are gone.
    pub(crate) fn lose_node(&mut self, index: usize) {
        let seed = self.chance.chaos.roll();
        self.kill(index, Death::Power(seed), Power::Lost);
        if let Some(node) = self.nodes.get_mut(index) {
            node.power = Power::Lost;
        }
        self.note(|| format!("n{index} is lost"));
        if self.operator.targets.contains(&index) {
            self.operator.lost = Some(index);
            self.operator.lost_since = self.now;
        } else {
            self.renew(index);
        }
    }

    /// Trouble ends.
    pub(super) fn relieve(&mut self, relief: Relief) {
        match relief {
            Relief::Quick(machine) => self.network.set_slow(machine, false),
            Relief::Join(one, other) => {
                self.network.join(one, other);
                self.look_again(one);
            }
            Relief::Thaw(machine) => {
                let frozen = match machine {
                    Machine::Host(host) => self.hosts.get_mut(host).map(|host| &mut host.frozen),
                    Machine::Node(node) => {
                        self.calm(node);
                        self.nodes.get_mut(node).map(|node| &mut node.frozen)
                    }
                };
                for what in frozen.and_then(Option::take).into_iter().flatten() {
                    self.at(Span::ZERO, what);
                }
            }
            Relief::Boot(node) => {
                self.calm(node);
                if let Some(node) = self.nodes.get_mut(node) {
                    node.tear = None;
                }
                self.at(Span::ZERO, What::Boot(node));
            }
            Relief::Disk(node) => {
                self.calm(node);
                if let Some(node) = self.nodes.get_mut(node) {
                    node.storage.heal();
                    node.slow_disk = false;
                    node.repeats = false;
                }
            }
            Relief::Ghost(number) => self.send(number, Way::Up, Item::End),
        }
    }

    fn calm(&mut self, node: usize) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.troubles = node.troubles.saturating_sub(1);
        }
    }
}

const fn sum(one: Span, other: Span) -> Span {
    Span::from_nanos(one.as_nanos().saturating_add(other.as_nanos()))
}
