//! A NoCloud volume for cloud-init: a FAT12 image in memory, labelled `cidata`, with three files.
//!
//! All three files are always there, even when empty. One sector is one cluster, so that the content's
//! size in sectors is the volume's size but for 37: boot sector, two tables of two sectors, 32 sectors of
//! root directory. Source of the layout: Microsoft's "FAT: General Overview of On-Disk Format", 1.03.

use thiserror::Error;

/// Bytes in a sector and in a cluster.
pub const SECTOR: usize = 512;

/// Most sectors that the three files may take together.
pub const CONTENT_SECTORS_MAX: usize = 512;

const FAT_SECTORS: usize = 2;
const FAT_COUNT: usize = 2;
const ROOT_SECTORS: usize = 32;
const OVERHEAD_SECTORS: usize = 1 + FAT_COUNT * FAT_SECTORS + ROOT_SECTORS;
/// Less would be taken for a damaged volume by some readers.
const VOLUME_SECTORS_MIN: usize = 42;
const MEDIA_FIXED_DISK: u8 = 0xf8;
const FIRST_CLUSTER: usize = 2;
const END_OF_CHAIN: u16 = 0xfff;
const LABEL: &[u8; 11] = b"cidata     ";
/// 1 January 1980: images of equal content are equal.
const DATE: u16 = 0x0021;

/// What goes into the volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// `user-data`.
    pub user_data: Vec<u8>,
    /// `meta-data`.
    pub meta_data: Vec<u8>,
    /// `network-config`.
    pub network_config: Vec<u8>,
}

/// The files do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "user-data, meta-data and network-config take {sectors} sectors of 512 bytes together, at most {} fit",
    CONTENT_SECTORS_MAX
)]
pub struct TooLarge {
    /// What they take.
    pub sectors: usize,
}

/// The image, a whole number of sectors.
///
/// Errors: the files are too large together.
pub fn image(content: &Content) -> Result<Vec<u8>, TooLarge> {
    let files: [(&str, &[u8; 11], &[u8]); 3] = [
        ("meta-data", b"META-D~1   ", &content.meta_data),
        ("user-data", b"USER-D~1   ", &content.user_data),
        ("network-config", b"NETWOR~1   ", &content.network_config),
    ];
    let sectors: usize = files
        .iter()
        .map(|(_, _, data)| data.len().div_ceil(SECTOR))
        .sum();
    if sectors > CONTENT_SECTORS_MAX {
        return Err(TooLarge { sectors });
    }
    let total = VOLUME_SECTORS_MIN.max(sectors + OVERHEAD_SECTORS);
    let mut image = boot_sector(total as u16);

    let mut table = Table::new();
    let mut directory = label_entry().to_vec();
    let mut data_area = Vec::new();
    for (name, short, data) in files {
        let clusters = data.len().div_ceil(SECTOR);
        let first = table.chain(clusters);
        directory.extend(long_name_entries(name, short));
        directory.extend(file_entry(short, first, data.len() as u32));
        data_area.extend_from_slice(data);
        data_area.resize(data_area.len().next_multiple_of(SECTOR), 0);
    }
    for _ in 0..FAT_COUNT {
        image.extend(table.bytes());
    }
    directory.resize(ROOT_SECTORS * SECTOR, 0);
    image.extend(directory);
    image.extend(data_area);
    image.resize(total * SECTOR, 0);
    Ok(image)
}

fn boot_sector(total: u16) -> Vec<u8> {
    let mut sector = Vec::with_capacity(SECTOR);
    sector.extend([0xeb, 0x3c, 0x90]);
    sector.extend(b"TRIVET  ");
    sector.extend((SECTOR as u16).to_le_bytes());
    sector.push(1); // Sectors in a cluster.
    sector.extend(1u16.to_le_bytes()); // Sectors before the first table.
    sector.push(FAT_COUNT as u8);
    sector.extend(((ROOT_SECTORS * SECTOR / 32) as u16).to_le_bytes());
    sector.extend(total.to_le_bytes());
    sector.push(MEDIA_FIXED_DISK);
    sector.extend((FAT_SECTORS as u16).to_le_bytes());
    sector.extend(total.to_le_bytes()); // Sectors in a track: one track holds all.
    sector.extend(1u16.to_le_bytes()); // Heads.
    sector.extend(0u32.to_le_bytes()); // Sectors before the volume.
    sector.extend(0u32.to_le_bytes()); // 32-bit total, unused.
    sector.extend([0x80, 0, 0x29]);
    sector.extend(0x1234_5678u32.to_le_bytes());
    sector.extend(LABEL);
    sector.extend(b"FAT12   ");
    sector.resize(SECTOR - 2, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

/// The allocation table: 12 bits a cluster.
struct Table(Vec<u16>);

impl Table {
    fn new() -> Self {
        Self(vec![0xf00 | u16::from(MEDIA_FIXED_DISK), END_OF_CHAIN])
    }

    /// Takes the next clusters as one chain and returns the first, or 0 for an empty file.
    fn chain(&mut self, clusters: usize) -> u16 {
        if clusters == 0 {
            return 0;
        }
        let first = self.0.len();
        assert!(first >= FIRST_CLUSTER, "the first two entries are reserved");
        let next = (first + 1..first + clusters).map(|cluster| cluster as u16);
        self.0.extend(next.chain([END_OF_CHAIN]));
        first as u16
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FAT_SECTORS * SECTOR);
        for pair in self.0.chunks(2) {
            let low = pair[0];
            let high = pair.get(1).copied().unwrap_or(0);
            bytes.push(low as u8);
            bytes.push((low >> 8) as u8 | ((high << 4) as u8));
            bytes.push((high >> 4) as u8);
        }
        bytes.resize(FAT_SECTORS * SECTOR, 0);
        bytes
    }
}

fn label_entry() -> [u8; 32] {
    let mut entry = [0; 32];
    entry[..11].copy_from_slice(LABEL);
    entry[11] = 0x08;
    entry[24..26].copy_from_slice(&DATE.to_le_bytes());
    entry
}

fn file_entry(short: &[u8; 11], cluster: u16, length: u32) -> [u8; 32] {
    let mut entry = [0; 32];
    entry[..11].copy_from_slice(short);
    entry[11] = 0x20;
    for at in [16, 18, 24] {
        entry[at..at + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    entry[26..28].copy_from_slice(&cluster.to_le_bytes());
    entry[28..32].copy_from_slice(&length.to_le_bytes());
    entry
}

/// The entries that hold the long name, last part first, as they stand before the short entry.
fn long_name_entries(name: &str, short: &[u8; 11]) -> Vec<u8> {
    const PLACES: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
    let checksum = short
        .iter()
        .fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let units: Vec<u16> = name.encode_utf16().collect();
    let mut entries = Vec::new();
    for (index, part) in units.chunks(PLACES.len()).enumerate().rev() {
        let last = (index + 1) * PLACES.len() >= units.len();
        let mut entry = [0u8; 32];
        entry[0] = (index as u8 + 1) | if last { 0x40 } else { 0 };
        entry[11] = 0x0f;
        entry[13] = checksum;
        for (position, place) in PLACES.iter().enumerate() {
            // The name ends with a zero, what follows is all ones.
            let unit = match part.get(position) {
                Some(unit) => *unit,
                None if position == part.len() => 0,
                None => 0xffff,
            };
            entry[*place..place + 2].copy_from_slice(&unit.to_le_bytes());
        }
        entries.extend(entry);
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn u16_at(image: &[u8], at: usize) -> usize {
        usize::from(u16::from_le_bytes([image[at], image[at + 1]]))
    }

    /// Reads the volume as an operating system does: by the numbers in its boot sector.
    fn files_of(image: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let fat_start = u16_at(image, 14) * SECTOR;
        let root = fat_start + usize::from(image[16]) * u16_at(image, 22) * SECTOR;
        let data = root + u16_at(image, 17) * 32;
        let next = |cluster: usize| {
            let pair = u16_at(image, fat_start + cluster * 3 / 2);
            if cluster.is_multiple_of(2) {
                pair & 0xfff
            } else {
                pair >> 4
            }
        };
        let mut files = BTreeMap::new();
        let mut name = String::new();
        for entry in image[root..data].chunks(32) {
            match entry[11] {
                0x0f => {
                    let places = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
                    let part: String = places
                        .iter()
                        .map(|at| entry[*at])
                        .take_while(|byte| *byte != 0 && *byte != 0xff)
                        .map(char::from)
                        .collect();
                    name.insert_str(0, &part);
                }
                0x20 => {
                    let mut content = Vec::new();
                    let mut cluster = u16_at(entry, 26);
                    while (2..0xff0).contains(&cluster) {
                        let at = data + (cluster - 2) * SECTOR;
                        content.extend(&image[at..at + SECTOR]);
                        cluster = next(cluster);
                    }
                    content.truncate(u16_at(entry, 28) | u16_at(entry, 30) << 16);
                    files.insert(std::mem::take(&mut name), content);
                }
                _ => {}
            }
        }
        files
    }

    #[test]
    fn the_three_files_can_be_read_back() {
        let content = Content {
            user_data: b"#cloud-config\n".repeat(100),
            meta_data: b"instance-id: x\n".to_vec(),
            network_config: Vec::new(),
        };
        let image = image(&content).unwrap();
        assert_eq!(image.len(), 42 * SECTOR);
        let files = files_of(&image);
        assert_eq!(files["user-data"], content.user_data);
        assert_eq!(files["meta-data"], content.meta_data);
        assert_eq!(files["network-config"], content.network_config);
        assert_eq!(&image[43..54], LABEL);
    }

    #[test]
    fn the_largest_content_fits_and_one_byte_more_is_refused() {
        let mut content = Content {
            user_data: vec![7; CONTENT_SECTORS_MAX * SECTOR],
            ..Content::default()
        };
        let volume = image(&content).unwrap();
        assert_eq!(volume.len(), (CONTENT_SECTORS_MAX + 37) * SECTOR);
        assert_eq!(files_of(&volume)["user-data"], content.user_data);
        content.meta_data.push(1);
        assert_eq!(image(&content), Err(TooLarge { sectors: 513 }));
    }
}
