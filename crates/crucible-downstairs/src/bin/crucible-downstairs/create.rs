//! `create` and `clone`.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crucible_downstairs::disk::{Disk, FileDisk};
use crucible_downstairs::repair::{Source, clone_extent};
use crucible_downstairs::store::{Mode, Region};
use crucible_protocol::{ExtentId, Geometry, RegionDefinition};

use crate::args::{CloneArguments, CreateArguments, GeometryArguments};
use crate::output::{Bar, Done, Failure, open, say};

pub(crate) fn create(arguments: &CreateArguments) -> Done {
    let source = arguments
        .clone_source
        .map(|address| (address, Source::new(address)));
    let mut definition = match &source {
        Some((address, source)) => source_definition(*address, source)?,
        None => RegionDefinition::new(
            geometry(&arguments.geometry)?,
            arguments.uuid,
            arguments.geometry.encrypted,
        ),
    };
    definition.uuid = arguments.uuid;
    if arguments.import_path.is_some() && definition.encrypted {
        return Err(Failure::new(
            "--import-path: a file has no contexts, so that its blocks can only be plain; leave out --encrypted",
        ));
    }
    make(&arguments.data, &definition)?;
    if let Some(path) = &arguments.import_path {
        import(&arguments.data, path)?;
    }
    if let Some((_, source)) = &source {
        fill(&arguments.data, source)?;
    }
    say(format_args!(
        "created {} in {}",
        definition.uuid,
        arguments.data.display()
    ))
}

pub(crate) fn geometry(arguments: &GeometryArguments) -> Result<Geometry, Failure> {
    if arguments.extent_count == 0 {
        return Err(Failure::new("--extent-count 0: expected at least 1"));
    }
    Geometry::new(
        arguments.block_size,
        arguments.extent_size,
        arguments.extent_count,
    )
    .map_err(|error| Failure::new(error.to_string()))
}

pub(crate) fn make(directory: &Path, definition: &RegionDefinition) -> Done {
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(directory));
    let bar = Bar::new("creating", "extents");
    Region::create(&disk, definition, &mut |done, all| bar.set(done, all))
        .map_err(Failure::about(directory.display()))
}

fn import(directory: &Path, path: &Path) -> Done {
    let about = || Failure::about(path.display());
    let mut file = File::open(path).map_err(about())?;
    let length = file.metadata().map_err(about())?.len();
    let mut region = open(directory, Mode::ReadWrite)?;
    let bar = Bar::new("importing", "bytes");
    region
        .import(&mut file, &mut |done, all| bar.set(done, all.max(length)))
        .map_err(Failure::about(directory.display()))?;
    Ok(())
}

fn source_definition(address: SocketAddr, source: &Source) -> Result<RegionDefinition, Failure> {
    let about = || Failure::about("clone source");
    if !source.is_read_only().map_err(about())? {
        return Err(Failure::new(format!(
            "clone source {address} is served read-write: serve it with --mode ro, so that it holds still"
        )));
    }
    source.region_info().map_err(about())
}

pub(crate) fn clone(arguments: &CloneArguments) -> Done {
    let source = Source::new(arguments.source);
    let theirs = source_definition(arguments.source, &source)?;
    let ours = *open(&arguments.data, Mode::ReadOnly)?.definition();
    if theirs.uuid == ours.uuid {
        return Err(Failure::new(format!(
            "the clone source has the same uuid {}: it is this region, or a copy of it",
            ours.uuid
        )));
    }
    let same = RegionDefinition {
        uuid: ours.uuid,
        ..theirs
    };
    if same != ours {
        return Err(Failure::new(format!(
            "the regions do not fit: expected {} extents of {} blocks of {} bytes, encrypted: {}; \
             the source has {} of {} of {}, encrypted: {}",
            ours.extent_count,
            ours.extent_size.value,
            ours.block_size,
            ours.encrypted,
            theirs.extent_count,
            theirs.extent_size.value,
            theirs.block_size,
            theirs.encrypted
        )));
    }
    fill(&arguments.data, &source)?;
    say(format_args!(
        "cloned {} into {}",
        theirs.uuid,
        arguments.data.display()
    ))
}

/// Copies every extent of `source` into a region of the same geometry.
fn fill(directory: &Path, source: &Source) -> Done {
    let region = Arc::new(open(directory, Mode::ReadWrite)?);
    let count = region.geometry().extent_count();
    let bar = Bar::new("cloning", "extents");
    let never = AtomicBool::new(false);
    for extent in (0..count).map(ExtentId) {
        bar.set(u64::from(extent.0), u64::from(count));
        let about = || format!("extent {extent}");
        region.close(extent).map_err(Failure::about(about()))?;
        clone_extent(&region, extent, source, &never).map_err(Failure::about(about()))?;
        region.reopen(extent).map_err(Failure::about(about()))?;
    }
    Ok(())
}
