//! Bits that flip: which blocks may be bad, where, and what must have become of them.
//!
//! One region server of a world rots, always the same, so that no two copies of a block rot on their own. A block may
//! be bad there until it is written or copied anew, or until the upstairs that has the volume knows of it. Elsewhere it
//! may be bad only when nobody has it in good state: rot that struck the only newest copy is spread by repair in the
//! end, since otherwise all other blocks would have no second copy.

use std::collections::BTreeSet;

use crucible_protocol::{BlockIndex, ExtentId};

use super::World;
use super::nodes::node_at;
use crate::faults::{Fault, Faults};

/// What is known of rot.
#[derive(Debug, Default)]
pub(crate) struct Rot {
    /// The one region server that may rot.
    pub(crate) node: Option<usize>,
    /// Blocks of the volume that have rotted there.
    blocks: BTreeSet<u64>,
    /// Of these, those that may be bad there now.
    struck: BTreeSet<u64>,
    /// Of these, those that an upstairs has found to be bad since: by upstairs.
    found: BTreeSet<(usize, u64)>,
}

impl Rot {
    /// Whether anything has rotted.
    pub(crate) fn is_none(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Blocks that have rotted.
    pub(crate) const fn blocks(&self) -> &BTreeSet<u64> {
        &self.blocks
    }

    fn strikes(&mut self, block: u64) {
        self.blocks.insert(block);
        self.struck.insert(block);
        self.found.retain(|(_, known)| *known != block);
    }

    /// Blocks of a region server are written or copied anew.
    pub(crate) fn heals(&mut self, node: usize, start: u64, count: u64) {
        if self.node == Some(node) {
            let is_new = |block: &u64| (start..start + count).contains(block);
            self.struck.retain(|block| !is_new(block));
            self.found.retain(|(_, block)| !is_new(block));
        }
    }

    /// An upstairs begins anew, and knows nothing.
    pub(crate) fn host_begins(&mut self, host: usize) {
        self.found.retain(|(known, _)| *known != host);
    }

    /// A region server ends. What was written there may be forgotten again.
    pub(crate) fn node_ends(&mut self, node: usize) {
        if self.node == Some(node) {
            self.struck.clone_from(&self.blocks);
        }
    }

    /// Why a block must not be bad there (now, that all is well), if it must not.
    pub(crate) fn accuses(
        &self,
        node: usize,
        block: u64,
        everywhere: bool,
        newest: Option<usize>,
    ) -> Option<&'static str> {
        if !self.blocks.contains(&block) {
            Some("it has not rotted")
        } else if everywhere {
            None
        } else if self.node != Some(node) {
            Some("another has it in good state")
        } else if !self.struck.contains(&block) {
            Some("it was written or copied anew since it rotted")
        } else if newest.is_some_and(|host| self.found.contains(&(host, block))) {
            Some("the upstairs knows of it, and another has it in good state")
        } else {
            None
        }
    }
}

impl World {
    /// Bits flip. False if there were none.
    pub(super) fn rot(&mut self) -> bool {
        let target = self.any_target();
        let index = *self.rot.node.get_or_insert(target);
        if self.operator.lost.is_some_and(|lost| lost != index) || self.operator.incomplete {
            return false;
        }
        let geometry = self.setup.geometry;
        let extent = self.chance.chaos.below(u64::from(geometry.extent_count())) as u32;
        let per_extent = u64::from(geometry.blocks_per_extent());
        let block = self.chance.chaos.below(per_extent);
        let context = self.chance.chaos.percent(30);
        let mask = 1 + self.chance.chaos.below(255) as u8;
        let Some(node) = self.nodes.get_mut(index) else {
            return false;
        };
        let done = node
            .storage
            .rot(ExtentId(extent), block as u32, context, mask);
        if done {
            self.rot.strikes(u64::from(extent) * per_extent + block);
            self.note(|| format!("n{index}: block {block} of extent {extent} rots"));
        }
        done
    }

    /// An upstairs says that blocks are bad there.
    pub(super) fn found_bad(
        &mut self,
        host: usize,
        address: std::net::SocketAddr,
        start: BlockIndex,
        count: u64,
    ) {
        if node_at(address) == self.rot.node {
            let struck = self.rot.struck.range(start.0..start.0 + count);
            self.rot.found.extend(struck.map(|block| (host, *block)));
        }
    }

    /// Whether some block of these may be bad everywhere: it has rotted, and there were reasons to copy it from
    /// where it had.
    pub(super) fn may_be_bad(&self, start: u64, count: u64) -> bool {
        let gentle = Faults::NONE.with(Fault::Rot).with(Fault::Delay);
        self.scenario.faults.iter().any(|kind| !gentle.has(kind))
            && self.rot.blocks.range(start..start + count).next().is_some()
    }

    /// Whether an extent of this region server may have blocks that it alone had in their newest state, and bad.
    pub(super) fn may_be_bad_at(&self, node: Option<usize>, extent: ExtentId) -> bool {
        let per_extent = u64::from(self.setup.geometry.blocks_per_extent());
        let start = u64::from(extent.0) * per_extent;
        let mut rotted = self.rot.blocks.range(start..start + per_extent);
        node == self.rot.node && rotted.next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_may_be_bad_only_where_it_rotted_and_until_it_is_written_or_known() {
        let mut rot = Rot {
            node: Some(1),
            ..Rot::default()
        };
        assert!(rot.accuses(1, 7, true, None).is_some(), "nothing rotted");
        rot.strikes(7);
        assert_eq!(rot.accuses(1, 7, false, Some(0)), None);
        assert!(rot.accuses(2, 7, false, Some(0)).is_some(), "spread");
        assert_eq!(rot.accuses(2, 7, true, Some(0)), None, "nobody has it");
        rot.found.insert((0, 7));
        assert!(rot.accuses(1, 7, false, Some(0)).is_some(), "known");
        assert_eq!(rot.accuses(1, 7, false, Some(1)), None, "by another");
        rot.heals(2, 0, 10);
        rot.strikes(7);
        assert_eq!(rot.accuses(1, 7, false, Some(0)), None, "it rots again");
        rot.heals(1, 7, 1);
        assert!(rot.accuses(1, 7, false, Some(0)).is_some(), "written anew");
        rot.node_ends(1);
        assert_eq!(rot.accuses(1, 7, false, Some(0)), None, "forgotten");
    }
}
