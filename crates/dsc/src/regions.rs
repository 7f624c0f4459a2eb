//! Region directories: made by the region server's program, read, and removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crucible_protocol::Geometry;
use crucible_protocol::layout::names::REGION_FILE;
use crucible_protocol::layout::{RegionFileError, decode_region};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::plan::{Plan, Seat, Shape, log_name};
use crate::process::bound_command;

/// What went wrong with a region.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// `start` without regions.
    #[error(
        "{}: no region there; make it with `dsc create --region-dir {}`, or start with --create",
        region.display(), parent(region).display()
    )]
    Missing {
        /// Its directory.
        region: PathBuf,
    },
    /// `create` over regions.
    #[error("{}: there is a region already; --cleanup removes it first", region.display())]
    Present {
        /// Its directory.
        region: PathBuf,
    },
    /// A file or directory cannot be used.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// region.json is not one.
    #[error("{}: {error}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: RegionFileError,
    },
    /// The region was left half-way by whoever made it.
    #[error("{}: it has no extents, its creation did not finish; remove it and create it again", region.display())]
    Unfinished {
        /// Its directory.
        region: PathBuf,
    },
    /// Regions that cannot belong to one volume.
    #[error("{} has {found}, {} has {expected}: regions of one volume have the same shape", region.display(), first.display())]
    Differ {
        /// The first one's directory.
        first: PathBuf,
        /// What it has.
        expected: String,
        /// The other one's directory.
        region: PathBuf,
        /// What that has.
        found: String,
    },
    /// The program that makes regions did not.
    #[error("{}: {program} create: {said}", region.display())]
    Create {
        /// The region's directory.
        region: PathBuf,
        /// The program.
        program: String,
        /// The last it said, or how it ended.
        said: String,
    },
}

fn parent(region: &Path) -> &Path {
    region.parent().unwrap_or(region)
}

fn in_file(path: &Path) -> impl FnOnce(io::Error) -> RegionError {
    let path = path.to_owned();
    move |error| RegionError::File { path, error }
}

/// A region that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its sizes and whether it is encrypted.
    pub shape: Shape,
    /// Its own.
    pub uuid: Uuid,
}

/// What `/regioninfo` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionInfo {
    /// In bytes.
    pub block_size: u64,
    /// In blocks.
    pub blocks_per_extent: u64,
    /// How many.
    pub extent_count: u32,
}

impl From<Geometry> for RegionInfo {
    fn from(geometry: Geometry) -> Self {
        Self {
            block_size: geometry.block_size().into(),
            blocks_per_extent: geometry.blocks_per_extent().into(),
            extent_count: geometry.extent_count(),
        }
    }
}

fn describe(shape: Shape) -> String {
    let geometry = shape.geometry;
    format!(
        "{} extents of {} blocks of {} bytes, {}",
        geometry.extent_count(),
        geometry.blocks_per_extent(),
        geometry.block_size(),
        if shape.encrypted {
            "encrypted"
        } else {
            "not encrypted"
        }
    )
}

/// Reads what a region is.
pub fn read(region: &Path) -> Result<Region, RegionError> {
    let path = region.join(REGION_FILE);
    let text = fs::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => RegionError::Missing {
            region: region.to_owned(),
        },
        _ => in_file(&path)(error),
    })?;
    let malformed = |error| RegionError::Malformed {
        path: path.clone(),
        error,
    };
    let definition = decode_region(&text).map_err(malformed)?;
    let geometry = definition
        .geometry()
        .map_err(|error| malformed(error.into()))?;
    if geometry.extent_count() == 0 {
        return Err(RegionError::Unfinished {
            region: region.to_owned(),
        });
    }
    Ok(Region {
        shape: Shape {
            geometry,
            encrypted: definition.encrypted,
        },
        uuid: definition.uuid,
    })
}

/// Reads the regions of all seats, which must have one shape. There is at least one seat.
pub fn read_all(plan: &Plan) -> Result<Vec<Region>, RegionError> {
    let regions: Vec<Region> = plan
        .seats
        .iter()
        .map(|seat| read(&seat.region))
        .collect::<Result<_, _>>()?;
    for (seat, region) in plan.seats.iter().zip(&regions) {
        if region.shape != regions[0].shape {
            return Err(RegionError::Differ {
                first: plan.seats[0].region.clone(),
                expected: describe(regions[0].shape),
                region: seat.region.clone(),
                found: describe(region.shape),
            });
        }
    }
    Ok(regions)
}

/// Removes a region if it is there.
pub fn remove(region: &Path) -> Result<(), RegionError> {
    match fs::remove_dir_all(region) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(in_file(region)(error)),
        _ => Ok(()),
    }
}

/// Removes all that dsc has ever put into the output directory and the region directories: regions and logs named
/// by a port. Other files stay, and with them their directory.
pub fn clean(plan: &Plan) -> Result<(), RegionError> {
    for directory in &plan.region_dirs {
        for name in names(directory)? {
            let path = directory.join(&name);
            if name.parse::<u16>().is_ok() && path.is_dir() {
                remove(&path)?;
            }
        }
    }
    for name in names(&plan.output_dir)? {
        let port = name
            .strip_prefix("downstairs-")
            .and_then(|rest| rest.strip_suffix(".txt"))
            .and_then(|port| port.parse().ok());
        if port.is_some_and(|port| log_name(port) == name) {
            let path = plan.output_dir.join(&name);
            fs::remove_file(&path).map_err(in_file(&path))?;
        }
    }
    Ok(())
}

fn names(directory: &Path) -> Result<Vec<String>, RegionError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(in_file(directory)(error)),
        Ok(entries) => entries,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(in_file(directory))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// Makes one region with the region server's program.
pub fn create_one(
    ds_bin: &Path,
    region: &Path,
    uuid: Uuid,
    shape: Shape,
) -> Result<(), RegionError> {
    if region.join(REGION_FILE).exists() {
        return Err(RegionError::Present {
            region: region.to_owned(),
        });
    }
    fs::create_dir_all(parent(region)).map_err(in_file(parent(region)))?;
    let failed = |said: String| RegionError::Create {
        region: region.to_owned(),
        program: ds_bin.display().to_string(),
        said,
    };
    let geometry = shape.geometry;
    let mut command = bound_command(ds_bin);
    command
        .arg("create")
        .arg("-d")
        .arg(region)
        .args(["-u", &uuid.to_string()])
        .args(["--block-size", &geometry.block_size().to_string()])
        .args(["--extent-size", &geometry.blocks_per_extent().to_string()])
        .args(["--extent-count", &geometry.extent_count().to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if shape.encrypted {
        command.arg("--encrypted");
    }
    let output = command
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [&output.stderr, &output.stdout].map(|text| String::from_utf8_lossy(text));
    let last = said
        .iter()
        .find_map(|text| text.lines().rev().find(|line| !line.trim().is_empty()));
    Err(failed(
        last.map_or_else(|| output.status.to_string(), str::to_owned),
    ))
}

/// Makes all regions, some at a time. `progress` hears of each that is done.
pub fn create_all(
    plan: &Plan,
    shape: Shape,
    progress: impl Fn(&Seat) + Sync,
) -> Result<(), RegionError> {
    if let Some(seat) = plan
        .seats
        .iter()
        .find(|seat| seat.region.join(REGION_FILE).exists())
    {
        return Err(RegionError::Present {
            region: seat.region.clone(),
        });
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let first_error = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..cores.clamp(2, 8).min(plan.seats.len()) {
            scope.spawn(|| {
                while let Some(seat) = plan.seats.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match create_one(&plan.ds_bin, &seat.region, seat.uuid, shape) {
                        Ok(()) => progress(seat),
                        Err(error) => {
                            if let Ok(mut first) = first_error.lock() {
                                first.get_or_insert(error);
                            }
                            return;
                        }
                    }
                }
            });
        }
    });
    match first_error.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error),
        Err(poisoned) => poisoned.into_inner().map_or(Ok(()), Err),
    }
}
