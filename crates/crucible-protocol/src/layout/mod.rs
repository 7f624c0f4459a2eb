//! A region directory as bytes and back (spec: disk 5.1 to 5.7). Nothing here touches a file.
//!
//! Reading order: [`names`] (which file is what), `region` (region.json), `extent` (what lies where in an extent
//! file), `slot` (the context of a block as it is stored), `metadata` (the last bytes of an extent file).
//!
//! ```text
//! region.json
//! AA/BBB/CCC        one file an extent:
//!                   data | slots A | slots B | bitmap of active slots | metadata (32 bytes)
//! ```

mod extent;
mod metadata;
pub mod names;
mod region;
mod slot;

pub use extent::{ActiveSlots, ExtentLayout};
pub use metadata::{EXTENT_VERSION, ExtentMetadata, METADATA_LEN, MetadataError};
pub use region::{REGION_FILE_LEN_MAX, RegionFileError, decode_region, encode_region};
pub use slot::{SLOT_LEN, Slot, SlotError, StoredContext, active_after_crash};
