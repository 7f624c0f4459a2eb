//! The last bytes of an extent file: its state and the version of its format (spec: disk 5.3).

use crate::message::ExtentState;

/// Bytes of the metadata, whatever the version.
pub const METADATA_LEN: usize = 32;
/// The format that this crate reads and writes. The one before kept contexts in a database beside the data file,
/// which had no metadata.
pub const EXTENT_VERSION: u32 = 2;

/// What an extent file says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtentMetadata {
    /// Last generation and flush, and whether writes came since. While dirty, the bitmap means nothing.
    pub state: ExtentState,
    /// How often a write had to wait for a sync of an earlier one; a statistic.
    pub bonus_syncs: u32,
    /// How often contexts were gathered in one half; a statistic.
    pub defragmentations: u32,
}

/// Metadata that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Another format, or no extent file at all.
    #[error("extent version {0}: only {EXTENT_VERSION} can be read")]
    Version(u32),
    /// Neither clean nor dirty.
    #[error("dirty flag of {0}: must be 0 or 1")]
    Dirty(u8),
}

impl ExtentMetadata {
    /// Where the dirty flag is; it alone is written before the first write to a clean extent.
    pub const DIRTY_AT: usize = 0;

    /// The bytes; those that are not used are zero.
    pub fn encode(&self) -> [u8; METADATA_LEN] {
        let mut bytes = [0; METADATA_LEN];
        bytes[Self::DIRTY_AT] = u8::from(self.state.dirty);
        bytes[1..9].copy_from_slice(&self.state.generation.to_le_bytes());
        bytes[9..17].copy_from_slice(&self.state.flush.to_le_bytes());
        bytes[17..21].copy_from_slice(&EXTENT_VERSION.to_le_bytes());
        bytes[21..25].copy_from_slice(&self.bonus_syncs.to_le_bytes());
        bytes[25..29].copy_from_slice(&self.defragmentations.to_le_bytes());
        bytes
    }

    /// What the bytes say. The version comes first: of another one, nothing else is believed.
    pub fn decode(bytes: &[u8; METADATA_LEN]) -> Result<Self, MetadataError> {
        let version = u32::from_le_bytes(part(bytes, 17));
        if version != EXTENT_VERSION {
            return Err(MetadataError::Version(version));
        }
        let dirty = match bytes[Self::DIRTY_AT] {
            0 => false,
            1 => true,
            other => return Err(MetadataError::Dirty(other)),
        };
        Ok(Self {
            state: ExtentState {
                generation: u64::from_le_bytes(part(bytes, 1)),
                flush: u64::from_le_bytes(part(bytes, 9)),
                dirty,
            },
            bonus_syncs: u32::from_le_bytes(part(bytes, 21)),
            defragmentations: u32::from_le_bytes(part(bytes, 25)),
        })
    }
}

fn part<const N: usize>(bytes: &[u8; METADATA_LEN], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_extent_is_all_zero_but_for_its_version() {
        let mut expected = [0; METADATA_LEN];
        expected[17] = 2;
        assert_eq!(ExtentMetadata::default().encode(), expected);
        assert_eq!(
            ExtentMetadata::decode(&expected),
            Ok(ExtentMetadata::default())
        );
    }

    #[test]
    fn every_field_has_its_place() {
        let metadata = ExtentMetadata {
            state: ExtentState {
                generation: 0x0102_0304_0506_0708,
                flush: 0x1112_1314_1516_1718,
                dirty: true,
            },
            bonus_syncs: 0x2122_2324,
            defragmentations: 0x3132_3334,
        };
        let expected = [
            1, 8, 7, 6, 5, 4, 3, 2, 1, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 2, 0, 0, 0,
            0x24, 0x23, 0x22, 0x21, 0x34, 0x33, 0x32, 0x31, 0, 0, 0,
        ];
        assert_eq!(metadata.encode(), expected);
        assert_eq!(ExtentMetadata::decode(&expected), Ok(metadata));
    }

    #[test]
    fn other_versions_and_flags_are_refused() {
        let mut bytes = ExtentMetadata::default().encode();
        bytes[0] = 2;
        assert_eq!(ExtentMetadata::decode(&bytes), Err(MetadataError::Dirty(2)));
        bytes[18] = 1;
        assert_eq!(
            ExtentMetadata::decode(&bytes),
            Err(MetadataError::Version(258))
        );
        assert_eq!(
            ExtentMetadata::decode(&[0; METADATA_LEN]),
            Err(MetadataError::Version(0))
        );
    }
}
