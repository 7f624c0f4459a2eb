//! How long regions of several shapes take to make: `dsc region-perf`.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use crucible_protocol::Geometry;

use crate::plan::{Shape, region_uuid};
use crate::regions;

/// The block size of all measured regions, in bytes.
const BLOCK_SIZE: u64 = 4096;
const MIB: u64 = 1 << 20;
const EXTENT_MIB: [u64; 4] = [4, 16, 64, 256];
const REGION_MIB: [u64; 3] = [256, 1024, 4096];
const REGION_MIB_LONG: [u64; 3] = [16384, 65536, 262_144];

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// In bytes.
    pub region_bytes: u64,
    /// In bytes.
    pub block_size: u64,
    /// In blocks.
    pub blocks_per_extent: u64,
    /// How many.
    pub extent_count: u32,
    /// Time to make it, in seconds.
    pub create_s: f64,
}

/// The first line of the file for `--csv-out`.
pub const CSV_HEAD: &str = "region_bytes,block_size,blocks_per_extent,extent_count,create_s";

impl Row {
    /// One line of the file for `--csv-out`.
    pub fn csv(&self) -> String {
        format!(
            "{},{},{},{},{:.6}",
            self.region_bytes,
            self.block_size,
            self.blocks_per_extent,
            self.extent_count,
            self.create_s
        )
    }

    /// One line of the table for people.
    pub fn text(&self) -> String {
        format!(
            "{:>8} MiB  {:>4} MiB  {:>7}  {:>9.3} s  {:>8.0}/s",
            self.region_bytes / MIB,
            self.block_size * self.blocks_per_extent / MIB,
            self.extent_count,
            self.create_s,
            f64::from(self.extent_count) / self.create_s.max(1e-9),
        )
    }
}

/// The first line of the table for people.
pub const TEXT_HEAD: &str = "      region    extent  extents       create   extents";

/// The shapes that are measured: region and extent size in bytes.
pub fn shapes(long: bool) -> Vec<(u64, u64)> {
    let more: &[u64] = if long { &REGION_MIB_LONG } else { &[] };
    REGION_MIB
        .iter()
        .chain(more)
        .flat_map(|region| EXTENT_MIB.map(|extent| (region * MIB, extent * MIB)))
        .collect()
}

/// Makes, times and removes one region after the other below `directory`; `report` gets each row at once.
///
/// Errors: a text for the user.
pub fn run(
    ds_bin: &Path,
    directory: &Path,
    shapes: &[(u64, u64)],
    mut report: impl FnMut(&Row) -> std::io::Result<()>,
) -> Result<(), String> {
    let region = directory.join(format!("region-perf-{}", std::process::id()));
    for (region_bytes, extent_bytes) in shapes {
        let blocks_per_extent = extent_bytes / BLOCK_SIZE;
        let extent_count = u32::try_from(region_bytes / extent_bytes).unwrap_or(u32::MAX);
        let geometry = Geometry::new(BLOCK_SIZE, blocks_per_extent, extent_count)
            .map_err(|error| error.to_string())?;
        let shape = Shape {
            geometry,
            encrypted: false,
        };
        let start = Instant::now();
        let made = regions::create_one(ds_bin, &region, region_uuid(0), shape);
        let create_s = start.elapsed().as_secs_f64();
        let removed = regions::remove(&region);
        made.and(removed).map_err(|error| error.to_string())?;
        let row = Row {
            region_bytes: geometry.bytes(),
            block_size: BLOCK_SIZE,
            blocks_per_extent,
            extent_count,
            create_s,
        };
        report(&row).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Writes rows as comma-separated values.
#[derive(Debug)]
pub struct Csv<W>(W);

impl<W: Write> Csv<W> {
    /// Writes the head.
    pub fn new(mut out: W) -> std::io::Result<Self> {
        writeln!(out, "{CSV_HEAD}")?;
        Ok(Self(out))
    }

    /// Writes a row through to the file, so that an interrupted run leaves what it has.
    pub fn row(&mut self, row: &Row) -> std::io::Result<()> {
        writeln!(self.0, "{}", row.csv())?;
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_can_be_made() {
        assert!(shapes(true).len() > shapes(false).len());
        for (region, extent) in shapes(true) {
            assert_eq!(region % extent, 0);
            let count = u32::try_from(region / extent).unwrap();
            Geometry::new(BLOCK_SIZE, extent / BLOCK_SIZE, count).unwrap();
        }
    }

    #[test]
    fn a_row_has_the_columns_of_the_head() {
        let row = Row {
            region_bytes: 4 * MIB,
            block_size: 4096,
            blocks_per_extent: 1024,
            extent_count: 1,
            create_s: 0.25,
        };
        let mut out = Vec::new();
        Csv::new(&mut out).unwrap().row(&row).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!("{CSV_HEAD}\n4194304,4096,1024,1,0.250000\n")
        );
    }
}
