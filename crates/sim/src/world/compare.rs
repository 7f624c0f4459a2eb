//! When all is well, the three regions are equal.

use super::World;

impl World {
    /// Compares the regions of the volume, block by block, with their contexts.
    pub(super) fn compare(&mut self, when: &str) {
        let mut known = Vec::new();
        for index in self.operator.targets {
            let Some(node) = self.nodes.get(index) else {
                return;
            };
            match node.storage.contents() {
                Ok(contents) => known.push((index, contents)),
                Err(_) if self.rot.iter().any(|(node, _)| *node == index) => {}
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
            let differs = ours
                .iter()
                .zip(theirs)
                .position(|(ours, theirs)| ours != theirs);
            let Some(block) = differs.or((ours.len() != theirs.len()).then_some(0)) else {
                continue;
            };
            let extent = (block / per_extent) as u32;
            let rotten = |node: usize| {
                self.rot
                    .iter()
                    .any(|(rotten, at)| *rotten == node && *at == extent)
            };
            if rotten(*left) || rotten(*right) {
                continue;
            }
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
