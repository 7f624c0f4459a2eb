//! Properties of the disk format: what is written is read; what is not sound is refused; places do not overlap.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use crucible_protocol::layout::{
    ActiveSlots, ExtentLayout, ExtentMetadata, METADATA_LEN, SLOT_LEN, Slot, StoredContext,
    decode_region, encode_region, names,
};
use crucible_protocol::{
    BlockContext, EncryptionContext, ExtentId, ExtentState, Geometry, RegionDefinition,
};
use proptest::array;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

fn geometry() -> impl Strategy<Value = Geometry> {
    (9_u32..=15)
        .prop_flat_map(|shift| {
            (
                Just(1_u64 << shift),
                1_u64..=(1 << (29 - shift)),
                any::<u32>(),
            )
        })
        .prop_map(|(block_size, blocks, extents)| {
            Geometry::new(block_size, blocks, extents).unwrap()
        })
}

fn stored() -> impl Strategy<Value = StoredContext> {
    let encryption =
        any::<([u8; 12], [u8; 16])>().prop_map(|(nonce, tag)| EncryptionContext { nonce, tag });
    (any::<(u64, u64, u16)>(), option::of(encryption)).prop_map(
        |((hash, on_disk_hash, flush_id), encryption)| StoredContext {
            context: BlockContext { hash, encryption },
            on_disk_hash,
            flush_id,
        },
    )
}

proptest! {
    #[test]
    fn a_region_file_makes_the_round_trip(
        geometry in geometry(),
        uuid in any::<u128>(),
        encrypted in any::<bool>(),
    ) {
        let region = RegionDefinition::new(geometry, Uuid::from_u128(uuid), encrypted);
        let file = encode_region(&region);
        prop_assert_eq!(decode_region(file.as_bytes()).unwrap(), region);
        prop_assert_eq!(region.geometry(), Ok(geometry));
        prop_assert_eq!(serde_json::to_string_pretty(&region).unwrap() + "\n", file);
    }

    #[test]
    fn a_damaged_region_file_is_refused_or_still_describes_a_region(
        geometry in geometry(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let region = RegionDefinition::new(geometry, Uuid::nil(), false);
        let mut file = encode_region(&region).into_bytes();
        for (index, byte) in damage {
            let at = index.index(file.len());
            file[at] = byte;
        }
        match decode_region(&file) {
            Ok(region) => {
                prop_assert!(region.geometry().is_ok());
                prop_assert_eq!(decode_region(encode_region(&region).as_bytes()).unwrap(), region);
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn the_parts_of_an_extent_file_follow_each_other(geometry in geometry()) {
        let layout = ExtentLayout::new(&geometry);
        let blocks = layout.blocks();
        let (n, size) = (u64::from(blocks), u64::from(geometry.block_size()));
        let parts = [
            layout.data(0, blocks).unwrap(),
            layout.slots(Slot::A, 0, blocks).unwrap(),
            layout.slots(Slot::B, 0, blocks).unwrap(),
            layout.bitmap(),
            layout.metadata(),
        ];
        let lengths = [size * n, 48 * n, 48 * n, n.div_ceil(8), 32];
        let mut end = 0;
        for (part, length) in parts.into_iter().zip(lengths) {
            prop_assert_eq!(part.start, end);
            prop_assert_eq!(part.end - part.start, length);
            end = part.end;
        }
        prop_assert_eq!(layout.file_len(), end);
    }

    #[test]
    fn a_stretch_of_blocks_lies_within_its_part_or_nowhere(
        geometry in geometry(),
        first in any::<u32>(),
        count in any::<u32>(),
        near in any::<bool>(),
    ) {
        let layout = ExtentLayout::new(&geometry);
        let blocks = layout.blocks();
        let (first, count) = if near {
            (first % (blocks + 2), count % (blocks + 2))
        } else {
            (first, count)
        };
        let exists = u64::from(first) + u64::from(count) <= u64::from(blocks);
        for (whole, stretch, each) in [
            (layout.data(0, blocks), layout.data(first, count), u64::from(geometry.block_size())),
            (layout.slots(Slot::A, 0, blocks), layout.slots(Slot::A, first, count), 48),
            (layout.slots(Slot::B, 0, blocks), layout.slots(Slot::B, first, count), 48),
        ] {
            prop_assert_eq!(stretch.is_some(), exists);
            if let (Some(whole), Some(stretch)) = (whole, stretch) {
                prop_assert_eq!(stretch.start, whole.start + each * u64::from(first));
                prop_assert_eq!(stretch.end - stretch.start, each * u64::from(count));
                prop_assert!(stretch.end <= whole.end);
            }
        }
    }

    #[test]
    fn slots_make_the_round_trip(stored in option::of(stored())) {
        let bytes = StoredContext::encode(stored.as_ref());
        prop_assert_eq!(StoredContext::decode(&bytes), Ok(stored));
    }

    #[test]
    fn any_bytes_are_a_slot_or_refused(
        mut bytes in array::uniform::<_, SLOT_LEN>(any::<u8>()),
        flags in any::<[Option<bool>; 2]>(),
    ) {
        for (at, flag) in [0, 9].into_iter().zip(flags) {
            bytes[at] = flag.map_or(bytes[at], u8::from);
        }
        match StoredContext::decode(&bytes) {
            Ok(stored) => {
                let again = StoredContext::encode(stored.as_ref());
                prop_assert_eq!(StoredContext::decode(&again), Ok(stored));
                let used = match stored {
                    None => 1,
                    Some(stored) if stored.context.encryption.is_some() => SLOT_LEN,
                    Some(_) => 20,
                };
                prop_assert_eq!(&again[..used], &bytes[..used]);
                prop_assert!(again[used..].iter().all(|byte| *byte == 0));
            }
            Err(_) => prop_assert!(bytes[0] > 1 || bytes[9] > 1),
        }
    }

    #[test]
    fn metadata_makes_the_round_trip(
        numbers in any::<(u64, u64, bool, u32, u32)>(),
    ) {
        let (generation, flush, dirty, bonus_syncs, defragmentations) = numbers;
        let metadata = ExtentMetadata {
            state: ExtentState { generation, flush, dirty },
            bonus_syncs,
            defragmentations,
        };
        prop_assert_eq!(ExtentMetadata::decode(&metadata.encode()), Ok(metadata));
    }

    #[test]
    fn any_bytes_are_metadata_or_refused(
        mut bytes in array::uniform::<_, METADATA_LEN>(any::<u8>()),
        right_version in any::<bool>(),
        dirty in 0_u8..4,
    ) {
        bytes[ExtentMetadata::DIRTY_AT] = dirty;
        if right_version {
            bytes[17..21].copy_from_slice(&[2, 0, 0, 0]);
        }
        match ExtentMetadata::decode(&bytes) {
            Ok(metadata) => prop_assert_eq!(&metadata.encode()[..29], &bytes[..29]),
            Err(_) => prop_assert!(!right_version || dirty > 1),
        }
    }

    #[test]
    fn active_slots_are_a_list_of_slots(
        blocks in 1_u32..100,
        changes in vec((0_u32..110, any::<bool>()), 0..60),
    ) {
        let mut model = vec![Slot::A; blocks as usize];
        let mut active = ActiveSlots::new(blocks);
        for (block, b) in changes {
            let slot = if b { Slot::B } else { Slot::A };
            active.set(block, slot);
            if let Some(place) = model.get_mut(block as usize) {
                *place = slot;
            }
        }
        for block in 0..120 {
            prop_assert_eq!(active.get(block), model.get(block as usize).copied());
        }
        prop_assert_eq!(ActiveSlots::from_bytes(active.as_bytes(), blocks), Some(active));
    }

    #[test]
    fn the_path_of_an_extent_names_that_extent(extent in any::<u32>()) {
        let extent = ExtentId(extent);
        let path = names::extent_path(extent);
        prop_assert_eq!(names::parse_path(&path), Some((extent, names::EntryKind::Data)));
    }

    #[test]
    fn a_path_that_is_understood_is_the_one_that_is_written(path in "[0-9A-Fa-f]{2}/[0-9A-F]{3}/[0-9A-F]{3}(\\.copy|\\.db-wal|x)?") {
        if let Some((extent, kind)) = names::parse_path(&path) {
            let again = format!("{}/{}", names::extent_directory(extent), kind.name(extent));
            prop_assert_eq!(again, path);
        }
    }
}
