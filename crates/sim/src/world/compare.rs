//! When all is well, the three regions are equal, and no block is bad that need not be.

use bytes::Bytes;
use crucible_downstairs::core::Operation;

use super::World;
use crate::cipher;
use crate::storage::Contents;

impl World {
    /// Compares the regions of the volume, block by block, with their contexts.
    pub(super) fn compare(&mut self, when: &str) {
        let targets = self.operator.targets;
        let regions = targets.map(|index| self.contents(index));
        for block in 0..self.setup.geometry.block_count() {
            let cells = [0, 1, 2].map(|place| self.check_cell(&regions[place], block));
            let everywhere = cells.iter().all(Result::is_err);
            let newest = self.operator.newest;
            for (node, cell) in targets.into_iter().zip(&cells) {
                if let Err(bad) = cell
                    && let Some(why) = self.rot.accuses(node, block, everywhere, newest)
                {
                    return self
                        .fail(|| format!("{when}, block {block} is bad at {node}: {bad}; {why}"));
                }
            }
            let mut good = targets
                .into_iter()
                .zip(&cells)
                .filter_map(|(node, cell)| Some((node, cell.as_ref().ok()?)));
            let Some((one, ours)) = good.next() else {
                continue;
            };
            if let Some((other, theirs)) = good.find(|(_, theirs)| *theirs != ours) {
                let told = format!("{:?} and {:?}", ours.0, theirs.0);
                return self.fail(|| {
                    format!(
                        "{when}, block {block} differs between regions {one} and {other}: {told}"
                    )
                });
            }
        }
    }

    /// All blocks of a region. An extent whose opening a fault prevented stays closed until somebody wants it.
    fn contents(&mut self, index: usize) -> Contents {
        let Some(node) = self.nodes.get_mut(index) else {
            return Contents::new();
        };
        let contents = node.storage.contents();
        if contents.iter().all(Result::is_ok) {
            return contents;
        }
        node.storage
            .run(Operation::TakeOver { generation: 0 }, None);
        node.storage.contents()
    }

    /// A block with its context, if the context says that this is the block.
    fn check_cell<'a>(
        &self,
        region: &'a Contents,
        block: u64,
    ) -> Result<&'a (crucible_protocol::ReadBlockContext, Vec<u8>), String> {
        let cell = region
            .get(block as usize)
            .ok_or_else(|| "it is missing".to_owned())?
            .as_ref()
            .map_err(ToString::to_string)?;
        let (context, data) = cell;
        let size = self.setup.geometry.block_size() as usize;
        let data = Bytes::copy_from_slice(data);
        cipher::open(&[*context], &data, size, self.setup.encrypted)
            .map_err(|bad| format!("{bad:?}"))?;
        Ok(cell)
    }

    /// Whether no region has all of these blocks in good state.
    pub(super) fn is_bad_everywhere(&mut self, start: u64, count: u64) -> bool {
        let regions = self.operator.targets.map(|index| self.contents(index));
        regions.iter().all(|region| {
            (start..start + count).any(|block| self.check_cell(region, block).is_err())
        })
    }
}
