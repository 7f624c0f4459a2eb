//! `export`, `verify`, `extent-info`, `version`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Mutex;

use crucible_downstairs::store::{Exported, Mode};
use crucible_protocol::MESSAGE_VERSION;
use crucible_protocol::layout::{ExtentLayout, Slot};
use serde_json::json;

use crate::args::{ExportArguments, ExtentInfoArguments, VerifyArguments};
use crate::output::{Bar, Done, Failure, open, say};

pub(crate) fn export(arguments: &ExportArguments) -> Done {
    let about = || Failure::about(arguments.export_path.display());
    let region = open(&arguments.data, Mode::ReadOnly)?;
    let blocks = region.geometry().block_count();
    let end = arguments.skip.checked_add(arguments.count);
    if arguments.skip > blocks || end.is_none_or(|end| end > blocks) {
        return Err(Failure::new(format!(
            "--skip {} --count {}: the region has {blocks} blocks",
            arguments.skip, arguments.count
        )));
    }
    let file = File::create(&arguments.export_path).map_err(about())?;
    let mut target = Target::new(file).map_err(about())?;
    let bar = Bar::new("exporting", "bytes");
    let bytes = region
        .export(
            &mut |piece| target.take(piece),
            arguments.skip,
            arguments.count,
            &mut |done, all| {
                bar.set(done, all);
            },
        )
        .map_err(Failure::about(arguments.data.display()))?;
    target.finish().map_err(about())?;
    drop(bar);
    say(format_args!(
        "exported {bytes} bytes to {}",
        arguments.export_path.display()
    ))
}

/// Where an export goes. In a regular file, blocks that were never written are holes.
struct Target {
    file: File,
    is_regular: bool,
    /// Zeros that have not been written.
    owed: u64,
}

impl Target {
    fn new(file: File) -> io::Result<Self> {
        let is_regular = file.metadata()?.is_file();
        Ok(Self {
            file,
            is_regular,
            owed: 0,
        })
    }

    fn take(&mut self, piece: Exported<'_>) -> io::Result<()> {
        match piece {
            Exported::Zeros(count) if self.is_regular => {
                self.owed = self.owed.saturating_add(count);
                Ok(())
            }
            Exported::Zeros(count) => {
                io::copy(&mut io::repeat(0).take(count), &mut self.file).map(|_| ())
            }
            Exported::Data(data) => {
                if let Ok(owed @ 1..) = i64::try_from(std::mem::take(&mut self.owed)) {
                    self.file.seek(SeekFrom::Current(owed))?;
                }
                self.file.write_all(data)
            }
        }
    }

    fn finish(mut self) -> io::Result<()> {
        if self.owed > 0 {
            let end = self.file.stream_position()?.saturating_add(self.owed);
            self.file.set_len(end)?;
        }
        Ok(())
    }
}

pub(crate) fn verify(arguments: &VerifyArguments) -> Done {
    let region = open(&arguments.data, Mode::ReadOnly)?;
    let bar = Mutex::new(Bar::new("verifying", "extents"));
    let report = region
        .verify(arguments.threads.unwrap_or(0), &|done, all| {
            if let Ok(bar) = bar.lock() {
                bar.set(done, all);
            }
        })
        .map_err(Failure::about(arguments.data.display()))?;
    drop(bar);
    if arguments.json {
        let bad: Vec<_> = report
            .bad
            .iter()
            .map(|(extent, block)| json!({ "extent": extent.0, "block": block }))
            .collect();
        say(json!({
            "uuid": region.definition().uuid,
            "blocks": report.blocks,
            "written": report.written,
            "bad_count": report.bad_count,
            "bad": bad,
        }))?;
    } else {
        for (extent, block) in &report.bad {
            say(format_args!(
                "extent {extent} block {block}: does not fit its context"
            ))?;
        }
        let listed = report.bad.len() as u64;
        if report.bad_count > listed {
            say(format_args!("and {} more", report.bad_count - listed))?;
        }
        say(format_args!(
            "{} blocks, {} written, {} bad",
            report.blocks, report.written, report.bad_count
        ))?;
    }
    if report.bad_count == 0 {
        Ok(())
    } else {
        Err(Failure::Quiet)
    }
}

pub(crate) fn extent_info(arguments: &ExtentInfoArguments) -> Done {
    let region = open(&arguments.data, Mode::ReadOnly)?;
    let definition = region.definition();
    let layout = ExtentLayout::new(&region.geometry());
    let blocks = layout.blocks();
    let whole = |slot| layout.slots(slot, 0, blocks).unwrap_or_default();
    let parts = [
        ("data", layout.data(0, blocks).unwrap_or_default()),
        ("context slots A", whole(Slot::A)),
        ("context slots B", whole(Slot::B)),
        ("active slots", layout.bitmap()),
        ("metadata", layout.metadata()),
    ];
    let chosen = match &arguments.block {
        Some(text) => Some(block_range(text, blocks)?),
        None => None,
    };
    let offsets = |block: u32| {
        let start = |range: Option<std::ops::Range<u64>>| range.map_or(0, |range| range.start);
        (
            start(layout.data(block, 1)),
            start(layout.slots(Slot::A, block, 1)),
            start(layout.slots(Slot::B, block, 1)),
        )
    };
    if arguments.json {
        let places: serde_json::Map<_, _> = parts
            .iter()
            .map(|(name, range)| {
                let place = json!({ "offset": range.start, "length": range.end - range.start });
                ((*name).replace(' ', "_"), place)
            })
            .collect();
        let listed: Vec<_> = chosen
            .into_iter()
            .flatten()
            .map(|block| {
                let (data, a, b) = offsets(block);
                json!({ "block": block, "data": data, "slot_a": a, "slot_b": b })
            })
            .collect();
        return say(json!({
            "uuid": definition.uuid,
            "block_size": definition.block_size,
            "blocks_per_extent": blocks,
            "extent_count": definition.extent_count,
            "encrypted": definition.encrypted,
            "file_length": layout.file_len(),
            "parts": places,
            "blocks": listed,
        }));
    }
    say(format_args!("region            {}", definition.uuid))?;
    say(format_args!("block size        {}", definition.block_size))?;
    say(format_args!("blocks per extent {blocks}"))?;
    say(format_args!(
        "extents           {}",
        definition.extent_count
    ))?;
    say(format_args!("file length       {}", layout.file_len()))?;
    for (name, range) in parts {
        let length = range.end - range.start;
        say(format_args!(
            "{name:<17} at {:>12} ({:#x}), {length} bytes",
            range.start, range.start
        ))?;
    }
    if let Some(range) = chosen {
        say(format_args!(
            "{:>8} {:>12} {:>12} {:>12}",
            "block", "data", "slot A", "slot B"
        ))?;
        for block in range {
            let (data, a, b) = offsets(block);
            say(format_args!("{block:>8} {data:>12} {a:>12} {b:>12}"))?;
        }
    }
    Ok(())
}

/// `N` or `N-M`, both within an extent.
fn block_range(text: &str, blocks: u32) -> Result<std::ops::RangeInclusive<u32>, Failure> {
    let wrong = || {
        Failure::new(format!(
            "--block {text}: expected N or N-M, from 0 to {}",
            blocks.saturating_sub(1)
        ))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first: u32 = first.trim().parse().map_err(|_| wrong())?;
    let last: u32 = last.trim().parse().map_err(|_| wrong())?;
    if first > last || last >= blocks {
        return Err(wrong());
    }
    Ok(first..=last)
}

pub(crate) fn version() -> Done {
    say(format_args!(
        "crucible-downstairs {} ({}, {})",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    ))?;
    say(format_args!(
        "Upstairs <-> Downstairs Message Version: {MESSAGE_VERSION}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_blocks_are_one_or_two_numbers_within_the_extent() {
        for (text, expected) in [
            ("0", Some(0..=0)),
            ("3-5", Some(3..=5)),
            ("7-7", Some(7..=7)),
            ("8", None),
            ("5-3", None),
            ("0-8", None),
            ("", None),
            ("-", None),
            ("a", None),
            ("1-2-3", None),
        ] {
            assert_eq!(block_range(text, 8).ok(), expected, "{text}");
        }
    }
}
