//! When all is well, the three regions are equal.

use crucible_downstairs::core::Operation;

use super::World;

impl World {
    /// Compares the regions of the volume, block by block, with their contexts.
    pub(super) fn compare(&mut self, when: &str) {
        let mut known = Vec::new();
        for index in self.operator.targets {
            let Some(node) = self.nodes.get_mut(index) else {
                return;
            };
            if node.storage.contents().is_err() {
                // An extent whose opening a fault prevented stays closed until somebody wants it.
                node.storage
                    .run(Operation::TakeOver { generation: 0 }, None);
            }
            match node.storage.contents() {
                Ok(contents) => known.push((index, contents)),
                Err(_) if !self.rotted.is_empty() => {}
                Err(error) => {
                    return self.fail(|| format!("{when}, region {index} is not read: {error}"));
                }
            }
        }
        let per_extent = self.setup.geometry.blocks_per_extent() as usize;
        for (one, other) in [(0, 1), (1, 2), (0, 2)] {
            let (Some((left, ours)), Some((right, theirs))) = (known.get(one), known.get(other))
            else {
                continue;
            };
            // What has rotted and was not read since is not known to be bad; but no copy of it may be elsewhere.
            let rots = [*left, *right].map(Some).contains(&self.rotten);
            let differs = (0..ours.len().max(theirs.len())).find(|block| {
                let extent = (block / per_extent) as u32;
                let excused = rots && self.rotted.contains(&extent);
                ours.get(*block) != theirs.get(*block) && !excused
            });
            let Some(block) = differs else {
                continue;
            };
            let (left, right) = (*left, *right);
            let told = format!(
                "{:?} and {:?}",
                ours.get(block).map(|b| b.0),
                theirs.get(block).map(|b| b.0)
            );
            return self.fail(|| {
                format!("{when}, block {block} differs between regions {left} and {right}: {told}")
            });
        }
    }
}
