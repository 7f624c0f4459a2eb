//! `dump`: what one region holds, or how up to three differ.

use std::io::IsTerminal;

use bytes::BytesMut;
use crucible_downstairs::store::{Mode, Region};
use crucible_protocol::{BlockIndex, ExtentId, ExtentState, ReadBlockContext};
use serde_json::{Value, json};

use crate::args::DumpArguments;
use crate::output::{Done, Failure, open, say};

/// What is shown of one block of one region.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    /// Hash of the bytes as they are stored.
    data: u64,
    context: ReadBlockContext,
    head: [u8; 16],
}

/// How to make differences visible.
struct Paint {
    color: bool,
}

impl Paint {
    fn mark(&self, text: &str, differs: bool) -> String {
        if differs && self.color {
            format!("\x1b[31m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

pub(crate) fn dump(arguments: &DumpArguments) -> Done {
    let regions = arguments
        .data
        .iter()
        .map(|directory| open(directory, Mode::ReadOnly))
        .collect::<Result<Vec<_>, _>>()?;
    let Some(first) = regions.first() else {
        return Ok(());
    };
    if regions.len() > 3 {
        return Err(Failure::new("--data: expected one to three regions"));
    }
    let geometry = first.geometry();
    for (region, directory) in regions.iter().zip(&arguments.data) {
        if region.geometry() != geometry {
            return Err(Failure::new(format!(
                "{}: its geometry is not that of the first region; they cannot be compared",
                directory.display()
            )));
        }
    }
    let paint = Paint {
        color: !arguments.no_color && std::io::stdout().is_terminal(),
    };
    if let Some(block) = arguments.block {
        let Some((extent, within)) = geometry.locate(BlockIndex(block)) else {
            return Err(Failure::new(format!(
                "--block {block}: the regions have {} blocks",
                geometry.block_count()
            )));
        };
        if let Some(other) = arguments.extent.filter(|other| *other != extent.0) {
            return Err(Failure::new(format!(
                "--extent {other} --block {block}: the block is in extent {extent}"
            )));
        }
        return one_block(&regions, block, extent, within, arguments, &paint);
    }
    match arguments.extent {
        Some(extent) if extent >= geometry.extent_count() => Err(Failure::new(format!(
            "--extent {extent}: the regions have {} extents",
            geometry.extent_count()
        ))),
        Some(extent) => one_extent(&regions, ExtentId(extent), arguments, &paint),
        None => all_extents(&regions, arguments, &paint),
    }
}

fn all_the_same<T: PartialEq>(values: &[T]) -> bool {
    values.windows(2).all(|pair| pair.first() == pair.last())
}

fn all_extents(regions: &[Region], arguments: &DumpArguments, paint: &Paint) -> Done {
    let states: Vec<Vec<ExtentState>> = regions.iter().map(Region::extent_states).collect();
    let per_extent = u64::from(
        regions
            .first()
            .map_or(0, |r| r.geometry().blocks_per_extent()),
    );
    let count = states.first().map_or(0, Vec::len);
    let mut rows = Vec::new();
    let mut differing = 0;
    if !arguments.json {
        for (index, (region, directory)) in regions.iter().zip(&arguments.data).enumerate() {
            say(format_args!(
                "region {index}: {} {}",
                region.definition().uuid,
                directory.display()
            ))?;
        }
        say(format_args!(
            "{:>6} {:>21} {:>width$} {:>width$} {:>dirty$}",
            "extent",
            "blocks",
            "generation",
            "flush",
            "dirty",
            width = 11 * regions.len(),
            dirty = 6 * regions.len()
        ))?;
    }
    for extent in 0..count {
        let of: Vec<ExtentState> = states
            .iter()
            .filter_map(|region| region.get(extent).copied())
            .collect();
        let differs = !all_the_same(&of);
        differing += u64::from(differs);
        if arguments.only_show_differences && !differs {
            continue;
        }
        if arguments.json {
            let states: Vec<_> = of
                .iter()
                .map(|s| json!({ "generation": s.generation, "flush": s.flush, "dirty": s.dirty }))
                .collect();
            rows.push(json!({ "extent": extent, "differs": differs, "regions": states }));
            continue;
        }
        let first = extent as u64 * per_extent;
        let column = |values: Vec<String>, width: usize| {
            let differs = !all_the_same(&values);
            let text: String = values.iter().map(|v| format!("{v:>width$}")).collect();
            paint.mark(&text, differs)
        };
        say(format_args!(
            "{extent:>6} {:>21} {} {} {}{}",
            format!("{first}-{}", first + per_extent - 1),
            column(of.iter().map(|s| s.generation.to_string()).collect(), 11),
            column(of.iter().map(|s| s.flush.to_string()).collect(), 11),
            column(
                of.iter()
                    .map(|s| String::from(if s.dirty { "yes" } else { "no" }))
                    .collect(),
                6
            ),
            if differs { "  <-- differs" } else { "" }
        ))?;
    }
    if arguments.json {
        return say(json!({ "differing": differing, "extents": rows }));
    }
    if regions.len() > 1 {
        say(format_args!("{differing} of {count} extents differ"))?;
    }
    Ok(())
}

fn one_extent(
    regions: &[Region],
    extent: ExtentId,
    arguments: &DumpArguments,
    paint: &Paint,
) -> Done {
    let per_extent = regions
        .first()
        .map_or(0, |r| r.geometry().blocks_per_extent());
    let mut differing = 0;
    let mut rows = Vec::new();
    if !arguments.json {
        for (index, region) in regions.iter().enumerate() {
            let state = region
                .extent_state(extent)
                .map_err(|error| Failure::new(error.to_string()))?;
            say(format_args!(
                "region {index}: {} extent {extent}: generation {}, flush {}, dirty: {}",
                region.definition().uuid,
                state.generation,
                state.flush,
                if state.dirty { "yes" } else { "no" }
            ))?;
        }
        say(format_args!(
            "{:>8} {:<width$} context",
            "block",
            "data",
            width = 17 * regions.len()
        ))?;
    }
    for within in 0..per_extent {
        let number = u64::from(extent.0) * u64::from(per_extent) + u64::from(within);
        let of = read_block(regions, number)?;
        let differs = !all_the_same(&of);
        differing += u64::from(differs);
        if arguments.only_show_differences && !differs {
            continue;
        }
        if arguments.json {
            let blocks: Vec<_> = of.iter().map(block_json).collect();
            rows.push(json!({ "block": number, "differs": differs, "regions": blocks }));
            continue;
        }
        let data: Vec<_> = of.iter().map(|b| format!("{:016x}", b.data)).collect();
        let contexts: Vec<_> = of.iter().map(|b| short(&b.context)).collect();
        say(format_args!(
            "{number:>8} {} {}{}",
            paint.mark(&data.join(" "), !all_the_same(&data)),
            paint.mark(&contexts.join(" "), !all_the_same(&contexts)),
            if differs { "  <-- differs" } else { "" }
        ))?;
    }
    if arguments.json {
        return say(json!({ "extent": extent.0, "differing": differing, "blocks": rows }));
    }
    if regions.len() > 1 {
        say(format_args!("{differing} of {per_extent} blocks differ"))?;
    }
    Ok(())
}

fn one_block(
    regions: &[Region],
    number: u64,
    extent: ExtentId,
    within: u32,
    arguments: &DumpArguments,
    paint: &Paint,
) -> Done {
    let of = read_block(regions, number)?;
    let differs = !all_the_same(&of);
    if arguments.json {
        let blocks: Vec<_> = of.iter().map(block_json).collect();
        return say(json!({
            "block": number,
            "extent": extent.0,
            "block_in_extent": within,
            "differs": differs,
            "regions": blocks,
        }));
    }
    say(format_args!(
        "block {number}: extent {extent}, block {within} of it"
    ))?;
    let line = |name: &str, values: Vec<String>| {
        let differs = !all_the_same(&values);
        for (index, value) in values.iter().enumerate() {
            say(format_args!(
                "  region {index} {name:<8} {}",
                paint.mark(value, differs)
            ))?;
        }
        Ok(())
    };
    line(
        "hash",
        of.iter().map(|b| format!("{:016x}", b.data)).collect(),
    )?;
    line("begins", of.iter().map(|b| hex(&b.head)).collect())?;
    line("context", of.iter().map(|b| long(&b.context)).collect())?;
    if regions.len() > 1 {
        say(if differs {
            "the regions differ"
        } else {
            "the regions agree"
        })?;
    }
    Ok(())
}

fn read_block(regions: &[Region], number: u64) -> Result<Vec<Block>, Failure> {
    let mut data = BytesMut::new();
    let mut contexts = Vec::new();
    regions
        .iter()
        .map(|region| {
            data.clear();
            contexts.clear();
            region
                .read(BlockIndex(number), 1, &mut data, &mut contexts)
                .map_err(Failure::about(format!("block {number}")))?;
            let mut head = [0; 16];
            for (to, from) in head.iter_mut().zip(&data) {
                *to = *from;
            }
            Ok(Block {
                data: crucible_protocol::context::hash(&data),
                context: contexts.first().copied().unwrap_or(ReadBlockContext::Empty),
                head,
            })
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn short(context: &ReadBlockContext) -> String {
    match context {
        ReadBlockContext::Empty => String::from("never written   "),
        ReadBlockContext::Unencrypted(hash) => format!("{hash:016x}"),
        ReadBlockContext::Encrypted(sealed) => {
            hex(sealed.tag.first_chunk::<8>().unwrap_or(&[0; 8]))
        }
    }
}

fn long(context: &ReadBlockContext) -> String {
    match context {
        ReadBlockContext::Empty => String::from("never written"),
        ReadBlockContext::Unencrypted(hash) => format!("plain, hash {hash:016x}"),
        ReadBlockContext::Encrypted(sealed) => format!(
            "sealed, nonce {}, tag {}",
            hex(&sealed.nonce),
            hex(&sealed.tag)
        ),
    }
}

fn block_json(block: &Block) -> Value {
    let context = match &block.context {
        ReadBlockContext::Empty => json!(null),
        ReadBlockContext::Unencrypted(hash) => json!({ "hash": format!("{hash:016x}") }),
        ReadBlockContext::Encrypted(sealed) => {
            json!({ "nonce": hex(&sealed.nonce), "tag": hex(&sealed.tag) })
        }
    };
    json!({ "data_hash": format!("{:016x}", block.data), "context": context })
}
