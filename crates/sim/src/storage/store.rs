//! The store itself, on a disk in memory that crashes and fails.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::BytesMut;
use crucible_downstairs::core::{Operation, Outcome};
use crucible_downstairs::disk::{Access, Choice, CrashDisk, Disk, Fault, FaultyDisk, NodeKind};
use crucible_downstairs::store::{ExtentFile, Mode, Options, Overwrite, Region, SNAPSHOTS};
use crucible_protocol::layout::names::extent_path;
use crucible_protocol::layout::{ExtentLayout, Slot};
use crucible_protocol::{BlockIndex, CrucibleError, ExtentId, RegionDefinition};

use super::{Contents, Death, Storage, Trouble};

/// A region of the real store.
#[derive(Debug)]
pub struct StoreDisk {
    layout: Option<ExtentLayout>,
    disk: CrashDisk,
    faulty: Option<Arc<FaultyDisk>>,
    region: Option<Arc<Region>>,
}

impl StoreDisk {
    /// Makes the files of a new region.
    pub fn new(definition: &RegionDefinition) -> Result<Self, String> {
        let disk = CrashDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        Region::create(&shared, definition, &mut |_, _| {}).map_err(|error| error.to_string())?;
        Ok(Self {
            layout: definition
                .geometry()
                .ok()
                .map(|geometry| ExtentLayout::new(&geometry)),
            disk,
            faulty: None,
            region: None,
        })
    }

    fn region(&self) -> Result<&Arc<Region>, CrucibleError> {
        self.region
            .as_ref()
            .ok_or_else(|| CrucibleError::IoError("the region is not open".into()))
    }

    fn perform(&self, operation: &Operation) -> Result<Outcome, CrucibleError> {
        let region = self.region()?;
        let done = |()| Outcome::Done;
        match operation {
            Operation::TakeOver { generation } => {
                region.note_promotion(*generation)?;
                // What cannot be opened stays closed until it is repaired, as with the driver.
                let _ = region.reopen_all();
                Ok(Outcome::Done)
            }
            Operation::States => Ok(Outcome::States(region.extent_states())),
            Operation::Read { start, count } => {
                let (mut data, mut contexts) = (BytesMut::new(), Vec::new());
                region.read(*start, *count, &mut data, &mut contexts)?;
                Ok(Outcome::Blocks(contexts, data.freeze()))
            }
            Operation::Write(write) => {
                let overwrite = if write.only_unwritten {
                    Overwrite::OnlyUnwritten
                } else {
                    Overwrite::All
                };
                region
                    .write(write.start, &write.contexts, &write.data, overwrite)
                    .map(done)
            }
            Operation::Flush {
                flush,
                generation,
                extent_limit,
            } => region.flush(*flush, *generation, *extent_limit).map(done),
            Operation::Snapshot { name } => region.snapshot(name, &mut |_, _| {}).map(done),
            Operation::FlushExtent {
                extent,
                flush,
                generation,
            } => region.flush_extent(*extent, *flush, *generation).map(done),
            Operation::Close { extent } => region.close(*extent).map(Outcome::State),
            Operation::FlushClose {
                extent,
                flush,
                generation,
            } => region
                .flush_and_close(*extent, *flush, *generation)
                .map(Outcome::State),
            Operation::Reopen { extent } => region.reopen(*extent).map(done),
            Operation::Repair { .. } => {
                Err(CrucibleError::Unsupported("the world makes repairs".into()))
            }
        }
    }
}

/// Small bounds, so that all of them are reached.
fn options() -> Options {
    Options {
        pending_bytes: 8 << 10,
        context_bytes: 4 << 10,
        open_files: 4,
        journal_bytes: 32 << 10,
        direct_bytes: 2 << 10,
        direct_after: 1,
        background: false,
    }
}

/// Copies what is in one directory to another.
fn copy_tree(from: &CrashDisk, source: &str, to: &CrashDisk, target: &str) -> io::Result<()> {
    let below = |directory: &str, name: &str| match directory {
        "" => name.to_owned(),
        directory => format!("{directory}/{name}"),
    };
    for entry in from.list(source)? {
        let (here, there) = (below(source, &entry.name), below(target, &entry.name));
        if entry.kind == NodeKind::Directory {
            to.create_directory(&there)?;
            copy_tree(from, &here, to, &there)?;
        } else {
            let file = from.open(&here, Access::Read)?;
            let mut content = vec![0; file.length()? as usize];
            file.read_at(&mut content, 0)?;
            let copy = to.open(&there, Access::Create)?;
            copy.write_at(&[IoSlice::new(&content)], 0)?;
        }
    }
    Ok(())
}

/// All blocks, each by itself.
fn contents_of(region: &Region) -> Contents {
    let (mut data, mut contexts) = (BytesMut::new(), Vec::new());
    (0..region.geometry().block_count())
        .map(|block| {
            data.clear();
            contexts.clear();
            region.read(BlockIndex(block), 1, &mut data, &mut contexts)?;
            let context = contexts.first().copied();
            let context = context.ok_or(CrucibleError::MissingBlockContext)?;
            Ok((context, data.to_vec()))
        })
        .collect()
}

impl Storage for StoreDisk {
    fn start(&mut self, read_only: bool) -> Result<u64, String> {
        let faulty = Arc::new(FaultyDisk::new(Arc::new(self.disk.clone())));
        let mode = if read_only {
            Mode::ReadOnly
        } else {
            Mode::ReadWrite
        };
        let shared: Arc<dyn Disk> = faulty.clone();
        let region = Region::open(shared, mode, options()).map_err(|error| error.to_string())?;
        let promoted = region.promoted_generation();
        self.faulty = Some(faulty);
        self.region = Some(Arc::new(region));
        Ok(promoted)
    }

    fn run(&mut self, operation: Operation, power_after: Option<u64>) -> Outcome {
        if let Some(steps) = power_after {
            self.disk.power_until(Some(self.disk.operations() + steps));
        }
        match self.perform(&operation) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed(error, operation),
        }
    }

    fn settle(&mut self) {
        // What could not be settled is settled by the next start.
        if let Ok(region) = self.region() {
            let _ = region.settle();
        }
    }

    fn snapshot(&self, name: &str) -> Result<Option<Contents>, String> {
        let from = format!("{SNAPSHOTS}/{name}");
        if !matches!(self.disk.kind(&from), Ok(Some(NodeKind::Directory))) {
            return Ok(None);
        }
        let copy = CrashDisk::new();
        copy_tree(&self.disk, &from, &copy, "").map_err(|error| error.to_string())?;
        let region = Region::open(Arc::new(copy), Mode::ReadOnly, options())
            .map_err(|error| error.to_string())?;
        Ok(Some(contents_of(&region)))
    }

    fn stop(&mut self, death: Death) {
        let next = match death {
            Death::Process => self.disk.duplicate(),
            Death::Power(seed) => self.disk.crash(Choice::Seeded(seed)),
        };
        // What still has the old disk in its hands can do nothing with it any more.
        self.disk.power_until(Some(0));
        self.region = None;
        self.faulty = None;
        self.disk = next;
    }

    fn is_closed(&self, extent: ExtentId) -> bool {
        self.region()
            .and_then(|region| region.is_closed(extent))
            .unwrap_or(false)
    }

    fn file_length(&self, extent: ExtentId) -> Result<u64, CrucibleError> {
        let file = self.region()?.open_extent_file(extent, ExtentFile::Data)?;
        file.length()
            .map_err(|error| CrucibleError::IoError(error.to_string()))
    }

    fn read_file(
        &self,
        extent: ExtentId,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, CrucibleError> {
        let file = self.region()?.open_extent_file(extent, ExtentFile::Data)?;
        let mut piece = vec![0; length];
        file.read_at(&mut piece, offset)
            .map_err(|error| CrucibleError::IoError(error.to_string()))?;
        Ok(piece)
    }

    fn replace(&mut self, extent: ExtentId, file: &[u8]) -> Result<(), CrucibleError> {
        let mut replacement = self.region()?.begin_replacement(extent)?;
        replacement.write(ExtentFile::Data, file)?;
        replacement.finish()
    }

    fn trouble(&mut self, trouble: Trouble) {
        if let Some(faulty) = &self.faulty {
            match trouble {
                Trouble::Errors { skip, count } => faulty.fail(Fault::Io, skip, count),
                Trouble::Full => faulty.fail(Fault::NoSpace, 0, u64::MAX),
            }
        }
    }

    fn heal(&mut self) {
        if let Some(faulty) = &self.faulty {
            faulty.heal();
        }
    }

    fn rot(&mut self, extent: ExtentId, block: u32, context: bool, mask: u8) -> bool {
        let Some(layout) = &self.layout else {
            return false;
        };
        let slot = if mask & 1 == 0 { Slot::A } else { Slot::B };
        let range = if context {
            layout.slots(slot, block, 1)
        } else {
            layout.data(block, 1)
        };
        range.is_some_and(|range| {
            let offset = range.start + u64::from(mask) % (range.end - range.start);
            self.disk.rot(&extent_path(extent), offset, mask)
        })
    }

    fn contents(&self) -> Contents {
        let region = self.region();
        region.map(|region| contents_of(region)).unwrap_or_default()
    }
}
