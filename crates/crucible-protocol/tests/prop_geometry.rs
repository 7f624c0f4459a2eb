//! Properties of geometries: what is accepted, where blocks lie, how ranges are cut.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use crucible_protocol::geometry::{EXTENT_BYTES_MAX, ExtentRun};
use crucible_protocol::{BlockIndex, ExtentId, Geometry, GeometryError, RegionDefinition};
use proptest::prelude::*;
use uuid::Uuid;

/// Small ones, so that ranges cross borders and ends.
fn small() -> impl Strategy<Value = Geometry> {
    (9_u32..=15, 1_u64..20, 0_u32..10)
        .prop_map(|(shift, blocks, extents)| Geometry::new(1 << shift, blocks, extents).unwrap())
}

proptest! {
    #[test]
    fn a_geometry_is_accepted_when_it_can_be(
        block_size in prop_oneof![(0_u32..64).prop_map(|shift| 1_u64 << shift), any::<u64>()],
        blocks in prop_oneof![0_u64..5, any::<u64>(), (0_u64..3).prop_map(|more| (1 << 20) - 1 + more)],
        extents in any::<u32>(),
    ) {
        let sound_block = block_size.is_power_of_two() && (512..=32768).contains(&block_size);
        let sound_extent = sound_block
            && blocks > 0
            && blocks.checked_mul(block_size).is_some_and(|bytes| bytes <= EXTENT_BYTES_MAX);
        match Geometry::new(block_size, blocks, extents) {
            Ok(geometry) => {
                prop_assert!(sound_extent);
                prop_assert_eq!(geometry.block_count(), blocks * u64::from(extents));
                prop_assert_eq!(geometry.bytes(), block_size * blocks * u64::from(extents));
            }
            Err(GeometryError::BlockSize(_)) => prop_assert!(!sound_block),
            Err(_) => prop_assert!(sound_block && !sound_extent),
        }
    }

    #[test]
    fn a_definition_is_accepted_when_all_its_numbers_agree(
        geometry in small(),
        shift in 8_u32..17,
        read in 0_u64..3,
        write in 0_u64..3,
    ) {
        let mut region = RegionDefinition::new(geometry, Uuid::nil(), true);
        prop_assert_eq!(region.geometry(), Ok(geometry));
        region.extent_size.shift = shift;
        region.database_read_version = read;
        region.database_write_version = write;
        let sound = 1 << shift == geometry.block_size() && (read, write) == (1, 1);
        prop_assert_eq!(region.geometry().is_ok(), sound);
    }

    #[test]
    fn runs_are_the_blocks_of_the_range_one_by_one(
        geometry in small(),
        start in 0_u64..250,
        count in 0_u64..250,
    ) {
        let blocks: Option<Vec<_>> = (start..start + count)
            .map(|block| geometry.locate(BlockIndex(block)))
            .collect();
        let inside = start + count <= geometry.block_count();
        prop_assert_eq!(geometry.contains(BlockIndex(start), count), inside);
        prop_assert_eq!(blocks.is_some() || count == 0, inside || count == 0);

        let runs: Vec<ExtentRun> = geometry.runs(BlockIndex(start), count).collect();
        let from_runs: Vec<_> = runs
            .iter()
            .flat_map(|run| (run.first..run.first + run.count).map(|block| (run.extent, block)))
            .collect();
        prop_assert_eq!(from_runs, if inside { blocks.unwrap() } else { vec![] });
        for pair in runs.windows(2) {
            prop_assert!(pair[0].extent < pair[1].extent, "as few runs as there are extents");
        }
    }

    #[test]
    fn ranges_near_the_end_of_all_numbers_overflow_nowhere(
        geometry in small(),
        start in (u64::MAX - 5)..=u64::MAX,
        count in prop_oneof![0_u64..10, any::<u64>()],
    ) {
        prop_assert!(!geometry.contains(BlockIndex(start), count));
        prop_assert!(!geometry.contains(BlockIndex(count), start));
        prop_assert_eq!(geometry.locate(BlockIndex(start)), None);
        prop_assert_eq!(geometry.runs(BlockIndex(start), count).next(), None);
    }
}

#[test]
fn the_largest_region_has_room_for_its_numbers() {
    let geometry = Geometry::new(512, 1 << 20, u32::MAX).unwrap();
    let last = BlockIndex(geometry.block_count() - 1);
    assert_eq!(geometry.bytes(), (1 << 29) * u64::from(u32::MAX));
    assert_eq!(
        geometry.locate(last),
        Some((ExtentId(u32::MAX - 1), (1 << 20) - 1))
    );
}
