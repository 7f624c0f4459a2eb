//! Whether a key opens what is on the volume: asked at start, so that a wrong key is a refusal and no broken disk.

use crucible_protocol::BlockIndex;
use crucible_upstairs::core::{BadData, VolumeError};
use crucible_upstairs::store::Shape;
use crucible_upstairs::volume::Volume;

/// Blocks at either end that are looked at: where partition tables and file systems keep their heads.
const ENDS: u64 = 8;
/// Blocks in between.
const BETWEEN: u64 = 48;

/// What a look at some blocks showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyFits {
    /// A block was opened, or nothing was ever written where we looked.
    Perhaps,
    /// Blocks were written, and not one of them opens.
    No,
}

/// Looks at some blocks. Reads that fail for other reasons say nothing of the key.
pub(super) fn key_fits(volume: &Volume, shape: Shape) -> KeyFits {
    let mut bad = false;
    for block in places(shape.blocks) {
        match volume.read_blocking(BlockIndex(block), 1) {
            Ok(plain) if plain.written.has(0) => return KeyFits::Perhaps,
            Ok(_) => {}
            Err(VolumeError::BadData {
                bad: BadData::Tag, ..
            }) => bad = true,
            Err(_) => return KeyFits::Perhaps,
        }
    }
    if bad { KeyFits::No } else { KeyFits::Perhaps }
}

/// Both ends, and some between at equal distances; ascending, none twice.
fn places(blocks: u64) -> Vec<u64> {
    let head = 0..ENDS.min(blocks);
    let step = (blocks / (BETWEEN + 1)).max(1);
    let between = (1..=BETWEEN).map(|n| n.saturating_mul(step));
    let tail = blocks.saturating_sub(ENDS)..blocks;
    let mut places: Vec<u64> = head.chain(between).chain(tail).collect();
    places.retain(|place| *place < blocks);
    places.sort_unstable();
    places.dedup();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_within_the_volume_and_few() {
        for blocks in [0, 1, 7, 8, 15, 64, 1000, 1 << 40, u64::MAX] {
            let places = places(blocks);
            assert!(places.len() <= 64 && places.iter().all(|place| *place < blocks));
            assert_eq!(places.contains(&0), blocks > 0);
            assert_eq!(places.contains(&(blocks.wrapping_sub(1))), blocks > 0);
        }
    }
}
