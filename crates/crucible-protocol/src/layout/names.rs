//! The names in a region directory (spec: disk 5.1).

use crate::ids::ExtentId;

/// The file that says what region this is.
pub const REGION_FILE: &str = "region.json";
/// A left-over of the old format; of no use.
pub const SEED_DATABASE: &str = "seed.db";

/// What stands beside each other for one extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// The extent itself.
    Data,
    /// A directory: copies that are still being fetched. Worthless after a crash.
    Copy,
    /// A directory: copies that are complete; opening the extent puts them into its place.
    Replace,
    /// A directory: copies that are in their place already.
    Completed,
    /// The contexts of an extent of the old format: its mark.
    Database,
    /// A part of that.
    DatabaseLog,
    /// A part of that.
    DatabaseShared,
}

impl EntryKind {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::Data,
        Self::Copy,
        Self::Replace,
        Self::Completed,
        Self::Database,
        Self::DatabaseLog,
        Self::DatabaseShared,
    ];

    /// What follows the three digits in the name.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Data => "",
            Self::Copy => ".copy",
            Self::Replace => ".replace",
            Self::Completed => ".completed",
            Self::Database => ".db",
            Self::DatabaseLog => ".db-wal",
            Self::DatabaseShared => ".db-shm",
        }
    }

    /// The name of this entry of an extent in [`extent_directory`].
    pub fn name(self, extent: ExtentId) -> String {
        format!("{:03X}{}", extent.0 & 0xfff, self.suffix())
    }
}

/// The directory of an extent, from the region directory: `AA/BBB`.
pub fn extent_directory(extent: ExtentId) -> String {
    format!("{:02X}/{:03X}", extent.0 >> 24, extent.0 >> 12 & 0xfff)
}

/// The file of an extent, from the region directory: `AA/BBB/CCC`.
pub fn extent_path(extent: ExtentId) -> String {
    format!(
        "{}/{}",
        extent_directory(extent),
        EntryKind::Data.name(extent)
    )
}

/// What the path of an entry, from the region directory, stands for; `None` for everything that is none of ours.
pub fn parse_path(path: &str) -> Option<(ExtentId, EntryKind)> {
    let mut parts = path.split('/');
    let (high, middle, name) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let (low, suffix) = name.split_at_checked(3)?;
    let kind = EntryKind::ALL
        .into_iter()
        .find(|kind| kind.suffix() == suffix)?;
    let extent = digits(high, 2)? << 24 | digits(middle, 3)? << 12 | digits(low, 3)?;
    Some((ExtentId(extent), kind))
}

/// Upper-case hexadecimal digits, just so many.
fn digits(text: &str, count: usize) -> Option<u32> {
    let sound = text.len() == count
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    sound.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_lie_where_the_reference_puts_them() {
        for (extent, path) in [
            (0, "00/000/000"),
            (0x1a, "00/000/01A"),
            (4095, "00/000/FFF"),
            (4096, "00/001/000"),
            (0xff_ffff, "00/FFF/FFF"),
            (0x100_0000, "01/000/000"),
            (u32::MAX, "FF/FFF/FFF"),
        ] {
            assert_eq!(extent_path(ExtentId(extent)), path);
            assert_eq!(parse_path(path), Some((ExtentId(extent), EntryKind::Data)));
        }
    }

    #[test]
    fn every_entry_is_known_by_its_name() {
        let extent = ExtentId(0x0123_4abc);
        for kind in EntryKind::ALL {
            let path = format!("{}/{}", extent_directory(extent), kind.name(extent));
            assert_eq!(parse_path(&path), Some((extent, kind)), "{path}");
        }
    }

    #[test]
    fn other_names_are_nobodys() {
        for path in [
            "",
            "/",
            "00/000",
            "00/000/",
            "00/000/00",
            "00/000/0000",
            "00/000/00a",
            "0/000/000",
            "00/000/000/",
            "00/000/000/000",
            "00/000/000.",
            "00/000/000.tmp",
            "00/000/000.copy2",
            "+0/000/000",
            "00/000/00\u{e9}",
            "00/000/\u{20ac}",
            "region.json",
        ] {
            assert_eq!(parse_path(path), None, "{path}");
        }
    }
}
