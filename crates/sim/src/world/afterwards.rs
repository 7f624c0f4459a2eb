//! After the end: the same regions are served read-only. One, two or three of them are enough to read everything, and
//! the others join when they come.

use crucible_downstairs::core::Mode;

use super::hosts::Life;
use super::nodes::Power;
use super::{Stage, What, World};
use crate::storage::Death;

impl World {
    /// Serves the regions of the volume read-only, some of them at first.
    pub(super) fn serve_read_only(&mut self) {
        self.enter(Stage::ReadOnly);
        if let Some(index) = self.operator.newest {
            self.kill_host(index, false);
        }
        let targets = self.operator.targets;
        for index in targets {
            if let Some(node) = self.nodes.get_mut(index) {
                node.storage.settle();
                node.mode = Mode::ReadOnly;
            }
            self.kill(index, Death::Process, Power::Down);
        }
        let first = self.chance.operator.index(targets.len());
        let count = 1 + self.chance.operator.index(targets.len());
        for place in 0..count {
            let index = targets[(first + place) % targets.len()];
            self.at(vm_types::Span::ZERO, What::Boot(index));
        }
        self.operator.verified = 0;
        let generation = self.next_generation();
        let host = self.new_host(targets, generation);
        self.operator.newest = Some(host);
    }

    /// Reads all with those that are there, then again with all three, and ends.
    pub(super) fn read_all(&mut self, index: usize) {
        let all = self.setup.geometry.block_count();
        let Some(host) = self.hosts.get(index) else {
            return;
        };
        if host.life != Life::Active || host.busy > 0 {
            return;
        }
        if self.operator.verified < all {
            self.operator.verified = self.read_some(index, self.operator.verified);
            return;
        }
        let targets = self.operator.targets;
        let down = |node: &usize| self.nodes.get(*node).is_some_and(|node| !node.is_up());
        let missing = targets.iter().filter(|node| down(node)).count();
        if missing > 0 {
            self.outcome.read_only[2 - missing.min(2)] += 1;
            for index in targets {
                self.at(vm_types::Span::ZERO, What::Boot(index));
            }
        } else if self.all_serve(&host.status()) && !self.operator.reread {
            self.operator.reread = true;
            self.operator.verified = 0;
        } else if self.operator.reread {
            self.outcome.read_only[2] += 1;
            self.enter(Stage::Done);
        }
    }
}
