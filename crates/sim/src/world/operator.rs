//! The operator: starts upstairs, activates, replaces, takes over; and sees when all is well again.

use std::collections::VecDeque;

use crucible_upstairs::core::{Command, Phase, ReplicaState, Status, VolumeError};
use vm_types::{Moment, Span};

use super::hosts::Life;
use super::nodes::{Power, address_of};
use super::{Stage, What, World};
use crate::oracle::Asked;
use crate::setup::NODES;

/// The operator looks after things this often.
const ROUND: Span = Span::from_millis(50);
/// A volume that is not active for so long while a region server is lost gets a new configuration.
const IMPATIENCE: Span = Span::from_secs(5);
/// A lost region server that the upstairs does not let go of for so long makes the operator start another upstairs.
const HOPELESS: Span = Span::from_secs(60);
/// Trouble that is found late may disturb the rest this often.
const RESTS_MAX: u32 = 100;

/// What the operator knows and wants.
#[derive(Debug)]
pub(crate) struct Operator {
    /// The upstairs that should have the volume.
    pub(crate) newest: Option<usize>,
    /// The region servers of the volume, by client number.
    pub(crate) targets: [usize; 3],
    /// Machines that can take the place of one.
    spares: Vec<usize>,
    /// A region server of the volume that is gone, until the volume is whole again.
    pub(crate) lost: Option<usize>,
    /// Since when.
    pub(super) lost_since: Moment,
    /// A region server has been exchanged, and the new one does not have everything yet. Two of three that do not
    /// include the one that has everything are not enough now, so nobody may begin with two.
    pub(super) incomplete: bool,
    /// The next upstairs begins no earlier.
    pub(crate) not_before: Moment,
    /// Nothing turns everything over earlier.
    pub(crate) next_upheaval: Moment,
    /// Deactivate the volume, and activate it again.
    pub(crate) wants_pause: bool,
    /// Highest generation used.
    generation: u64,
    /// The next block to be verified.
    pub(super) verified: u64,
    /// What is served read-only was read with some of three; now it is with all.
    pub(super) reread: bool,
    rests: u32,
    /// Flushes that failed in the end.
    pub(super) late_failures: u32,
    /// Since when the volume is not whole though no fault is left.
    unwell: Option<Moment>,
    /// Blocks that are to be written anew.
    pub(super) anew: VecDeque<u64>,
}

impl Default for Operator {
    fn default() -> Self {
        Self {
            newest: None,
            targets: [0, 1, 2],
            spares: (3..NODES).collect(),
            lost: None,
            lost_since: Moment::START,
            incomplete: false,
            not_before: Moment::START,
            next_upheaval: Moment::START,
            wants_pause: false,
            generation: 0,
            verified: 0,
            reread: false,
            rests: 0,
            late_failures: 0,
            unwell: None,
            anew: VecDeque::new(),
        }
    }
}

impl World {
    /// One round.
    pub(super) fn operate(&mut self) {
        if self.stage != Stage::Done {
            self.at(ROUND, What::Operate);
        }
        self.look_after_upstairs();
        self.look_after_predecessors();
        self.look_after_loss();
        match self.stage {
            Stage::Chaos if self.issued >= self.scenario.steps || self.is_over_time() => {
                self.calm_down();
            }
            Stage::Chaos | Stage::Done => {}
            _ if self.is_over_time() => self.give_up(),
            _ => self.wind_up(),
        }
    }

    fn give_up(&mut self) {
        let status = self
            .operator
            .newest
            .and_then(|host| self.hosts.get(host))
            .map(super::hosts::Host::status);
        let stage = self.stage;
        let oldest = self
            .operator
            .newest
            .map(|host| format!("{:?}", self.answers.oldest(host)));
        self.fail(|| {
            let told = status.map(|status| {
                let replicas: Vec<String> = status
                    .replicas
                    .iter()
                    .map(|replica| {
                        let loss = replica.last_loss.as_deref().unwrap_or("-");
                        format!("{:?} ({loss})", replica.state)
                    })
                    .collect();
                format!(
                    "{:?}, stopped {:?}, jobs {}, requests {}, replicas {replicas:?}",
                    status.phase, status.stopped, status.jobs, status.guest_jobs
                )
            });
            format!("no rest: stage {stage:?}, {told:?}, oldest request {oldest:?}")
        });
    }

    pub(super) fn next_generation(&mut self) -> u64 {
        self.operator.generation += 1;
        self.operator.generation
    }

    /// The newest upstairs lives and is active.
    fn look_after_upstairs(&mut self) {
        let alive = self.operator.newest.filter(|host| {
            self.hosts
                .get(*host)
                .is_some_and(super::hosts::Host::is_alive)
        });
        let Some(index) = alive else {
            if self.now >= self.operator.not_before {
                let generation = self.next_generation();
                let host = self.new_host(self.operator.targets, generation);
                self.operator.newest = Some(host);
            }
            return;
        };
        let Some(host) = self.hosts.get_mut(index) else {
            return;
        };
        if host.frozen.is_some() {
            return;
        }
        let stormy = self.stage == Stage::Chaos;
        match host.life {
            Life::Idle => {
                if self.now < host.again || self.stage == Stage::Deactivate {
                    return;
                }
                host.life = Life::Activating;
                host.since = self.now;
                host.epoch = None;
                let least = self.operator.generation;
                host.generation = host.generation.max(least);
                let generation = host.generation;
                self.operator.generation = generation;
                self.command(index, Asked::Activate, Command::Activate { generation });
            }
            Life::Active => {
                let status = host.status();
                if status.phase == Phase::Inactive {
                    host.life = Life::Idle;
                    host.epoch = None;
                    host.generation += 1;
                    host.again = self.now.after(Span::from_millis(200));
                    let why = status.stopped;
                    self.note(|| format!("u{index} has stopped: {why:?}"));
                    if matches!(why, Some(VolumeError::TakenOver { .. })) {
                        self.fail(|| format!("upstairs {index} is fenced, but nobody is newer"));
                    }
                } else if self.operator.wants_pause
                    && stormy
                    && !self.operator.incomplete
                    && self.now >= host.again
                {
                    host.life = Life::Deactivating;
                    self.operator.wants_pause = false;
                    let before = self.history.next();
                    self.command(index, Asked::Deactivate { before }, Command::Deactivate);
                }
            }
            Life::Activating | Life::Deactivating | Life::Dead => {}
        }
    }

    /// Those that came before end when they notice, or when the storm is over.
    fn look_after_predecessors(&mut self) {
        for index in 0..self.hosts.len() {
            let Some(host) = self.hosts.get(index) else {
                return;
            };
            if Some(index) == self.operator.newest || !host.is_alive() || host.frozen.is_some() {
                continue;
            }
            let stopped = host.status().phase == Phase::Inactive;
            if stopped || !self.is_stormy() {
                self.command(index, Asked::ShutDown, Command::ShutDown);
                self.check_released(index);
                self.kill_host(index, false);
            }
        }
    }

    /// A lost region server is replaced by a spare one.
    fn look_after_loss(&mut self) {
        if self.operator.lost.is_none() && !self.operator.incomplete {
            return;
        }
        let Some(index) = self.operator.newest else {
            return;
        };
        let Some(host) = self.hosts.get(index).filter(|host| host.is_alive()) else {
            return;
        };
        let (life, since, again) = (host.life, host.since, host.again);
        let whole = life == Life::Active && self.all_serve(&host.status());
        if whole && self.operator.incomplete {
            self.operator.incomplete = false;
            self.note(|| "the volume is whole again".into());
        }
        let Some(lost) = self.operator.lost else {
            return;
        };
        let Some(slot) = self.operator.targets.iter().position(|node| *node == lost) else {
            if !self.operator.incomplete {
                self.operator.lost = None;
            }
            return;
        };
        let Some(spare) = self.operator.spares.first().copied() else {
            return;
        };
        let hopeless = self.now.since(self.operator.lost_since) > HOPELESS;
        match life {
            Life::Active if self.now >= again && !hopeless => {
                if let Some(host) = self.hosts.get_mut(index) {
                    host.again = self.now.after(Span::from_millis(500));
                }
                self.replace(index, slot, spare);
            }
            // Not active, and perhaps never so again with what is configured: another configuration. Or active, but
            // what only the lost one has keeps the others from being whole.
            Life::Activating | Life::Active
                if hopeless || (life == Life::Activating && self.now.since(since) > IMPATIENCE) =>
            {
                self.kill_host(index, false);
                self.exchange(slot, spare);
                let generation = self.next_generation();
                let host = self.new_host(self.operator.targets, generation);
                self.operator.newest = Some(host);
            }
            _ => {}
        }
    }

    /// Whether all that are configured are in use. Who is replaced may stay for a while.
    pub(super) fn all_serve(&self, status: &Status) -> bool {
        let mut pairs = status.replicas.iter().zip(self.operator.targets);
        pairs.all(|(replica, node)| {
            replica.state == ReplicaState::Active && replica.address == address_of(node)
        })
    }

    fn replace(&mut self, index: usize, slot: usize, spare: usize) {
        let Some(old) = self.operator.targets.get(slot).copied() else {
            return;
        };
        let command = Command::Replace {
            old: address_of(old),
            new: address_of(spare),
        };
        self.command(index, Asked::Replace { slot, spare }, command);
    }

    /// A replacement has begun.
    pub(super) fn replaced(&mut self, index: usize, slot: usize, spare: usize) {
        if self.operator.newest == Some(index) {
            self.exchange(slot, spare);
        }
    }

    fn exchange(&mut self, slot: usize, spare: usize) {
        let Some(target) = self.operator.targets.get_mut(slot) else {
            return;
        };
        let old = std::mem::replace(target, spare);
        self.end_outdated();
        self.operator.incomplete = true;
        self.operator.spares.retain(|node| *node != spare);
        self.operator.spares.push(old);
        self.renew(old);
    }

    /// Who is still to become active with an older configuration is ended before another is in force: it might find
    /// two machines that are no part of the volume any more, empty or with what was there once, and be content.
    fn end_outdated(&mut self) {
        for index in 0..self.hosts.len() {
            let outdated = self.hosts.get(index).is_some_and(|host| {
                Some(index) != self.operator.newest
                    && matches!(host.life, Life::Idle | Life::Activating)
            });
            if outdated {
                self.kill_host(index, false);
            }
        }
    }

    /// A new machine takes the name of one that is lost.
    pub(super) fn renew(&mut self, index: usize) {
        let disk = self.scenario.disk;
        let Some(node) = self
            .nodes
            .get_mut(index)
            .filter(|node| node.power == Power::Lost)
        else {
            return;
        };
        if let Err(why) = node.renew(&self.setup, disk) {
            return self.fail(|| why);
        }
        node.power = Power::Down;
        self.at(Span::ZERO, What::Boot(index));
    }

    /// Puts a spare in the place of a region server that works.
    pub(super) fn wish_replacement(&mut self) -> bool {
        let Some(index) = self.operator.newest else {
            return false;
        };
        let slot = self.chance.operator.index(3);
        let spare = self.chance.operator.pick(&self.operator.spares);
        let usable = self
            .hosts
            .get(index)
            .is_some_and(|host| host.life == Life::Active && host.frozen.is_none());
        // With a rotten disk beside it, a replica that leaves early may be the last that has a block in good state.
        let may_leave = self
            .rot
            .node
            .is_none_or(|rotten| self.operator.targets.get(slot) == Some(&rotten));
        match spare {
            Some(spare) if usable && may_leave && self.operator.lost.is_none() => {
                self.replace(index, slot, spare);
                true
            }
            _ => false,
        }
    }

    /// Another upstairs takes over while the newest is running.
    pub(super) fn take_over(&mut self) -> bool {
        let alive = self.hosts.iter().filter(|host| host.is_alive()).count();
        if alive == 0 || alive > 2 {
            return false;
        }
        let more = self.chance.operator.below(3);
        self.operator.generation += more;
        let generation = self.next_generation();
        let host = self.new_host(self.operator.targets, generation);
        self.operator.newest = Some(host);
        true
    }

    /// All faults stop. What was broken by them is to recover by itself.
    fn calm_down(&mut self) {
        self.enter(Stage::Rest);
        self.operator.wants_pause = false;
        for node in &mut self.nodes {
            node.storage.heal();
            node.slow_disk = false;
            node.repeats = false;
            node.tear = None;
        }
    }

    fn is_well(&self, index: usize) -> bool {
        self.hosts.get(index).is_some_and(|host| {
            let status = host.status();
            host.life == Life::Active
                && host.frozen.is_none()
                && status.phase == Phase::Active
                && !status.live_repairing
                && !status.reconciling
                && self.all_serve(&status)
        }) && self.operator.lost.is_none()
            && !self.operator.incomplete
            && self.hosts.iter().filter(|host| host.is_alive()).count() == 1
    }

    /// From one stage of the end to the next.
    fn wind_up(&mut self) {
        let Some(index) = self.operator.newest else {
            return;
        };
        let Some(host) = self.hosts.get(index) else {
            return;
        };
        let (busy, jobs) = (host.busy, host.status().jobs);
        let well = self.is_well(index);
        if !well && matches!(self.stage, Stage::Verify | Stage::Flush) {
            // A connection that is dead may be found late, and so may rot.
            self.operator.rests += 1;
            if self.operator.rests > RESTS_MAX {
                return self.fail(|| "without a new fault, all is not well again and again".into());
            }
            return self.enter(Stage::Rest);
        }
        if well {
            self.operator.unwell = None;
        }
        match self.stage {
            // Bad blocks on the last whole replica, found late, keep the others from being made whole. Nobody has
            // them in good state any more; as the upstairs says, they have to be written anew.
            Stage::Rest if !well && !self.rot.is_none() && busy == 0 => {
                let since = *self.operator.unwell.get_or_insert(self.now);
                if self.now.since(since) > HOPELESS {
                    self.operator.unwell = Some(self.now);
                    self.operator.anew = self.rot.blocks().iter().copied().collect();
                }
                self.write_anew(index);
            }
            Stage::Rest if well && busy == 0 => {
                self.operator.verified = 0;
                self.enter(Stage::Verify);
            }
            Stage::Verify => {
                let all = self.setup.geometry.block_count();
                if busy > 0 {
                } else if self.operator.verified < all {
                    self.operator.verified = self.read_some(index, self.operator.verified);
                } else if self
                    .hosts
                    .get(index)
                    .is_some_and(|host| host.room().jobs > 0)
                {
                    self.enter(Stage::Flush);
                    self.flush_all(index);
                }
            }
            Stage::Flush if busy == 0 && jobs == 0 => {
                self.compare("after a flush");
                self.enter(Stage::Deactivate);
                if let Some(host) = self.hosts.get_mut(index) {
                    host.life = Life::Deactivating;
                }
                let before = self.history.next();
                self.command(index, Asked::Deactivate { before }, Command::Deactivate);
            }
            Stage::Deactivate => {
                let idle = (0..NODES).all(|node| self.is_node_idle(node));
                if idle
                    && self
                        .hosts
                        .get(index)
                        .is_some_and(|host| host.life == Life::Idle)
                {
                    self.compare("after deactivation");
                    self.check_snapshots();
                    // A region that has rotted may have to be opened read-write once.
                    if self.rot.is_none() {
                        self.serve_read_only();
                    } else {
                        self.enter(Stage::Done);
                    }
                }
            }
            Stage::ReadOnly => self.read_all(index),
            _ => {}
        }
    }
}
