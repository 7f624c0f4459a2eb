//! A model of the store: what its contract says, with none of its files. A write is a version of a block until a
//! flush of its extent; a loss of power leaves any of the versions.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use crucible_downstairs::core::{Operation, Outcome, WriteOperation};
use crucible_protocol::{
    BlockContext, CrucibleError, EncryptionContext, ExtentId, ExtentState, Geometry,
    ReadBlockContext, RegionDefinition,
};

use super::{Contents, Death, Storage, Trouble};
use crate::dice::Dice;

/// Bytes of a block's context in the model's file: written or not, sealed or not, hash, nonce, tag.
const CONTEXT_LEN: usize = 2 + 8 + 12 + 16;
/// Bytes of the state at the end of the model's file.
const STATE_LEN: usize = 17;

/// A region in memory.
#[derive(Debug)]
pub struct ModelDisk {
    geometry: Geometry,
    extents: Vec<Extent>,
    promoted: u64,
    snapshots: BTreeMap<String, Vec<Cell>>,
    open: bool,
    errors: Option<(u64, u64)>,
    full: bool,
}

/// A block and what is kept beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cell {
    data: Bytes,
    context: Option<BlockContext>,
}

#[derive(Clone, Debug)]
struct Extent {
    state: ExtentState,
    /// The highest flush of the generation; a lower one is replayed, and leaves the extent dirty.
    newest: (u64, u64),
    closed: bool,
    /// Since the last flush, oldest first; the first is durable, the last is what is read.
    blocks: Vec<Vec<Cell>>,
}

impl Extent {
    fn now(&self, block: u32) -> Option<&Cell> {
        self.blocks.get(block as usize)?.last()
    }

    fn settle(&mut self) {
        for versions in &mut self.blocks {
            versions.drain(..versions.len() - 1);
        }
    }

    fn flush(&mut self, flush: u64, generation: u64) {
        if self.state.dirty {
            self.settle();
            let replayed = generation == self.newest.0 && flush < self.newest.1;
            self.newest = self.newest.max((generation, flush));
            self.state = ExtentState {
                generation,
                flush,
                dirty: replayed,
            };
        }
    }
}

impl ModelDisk {
    /// A new region.
    pub fn new(definition: &RegionDefinition) -> Result<Self, String> {
        let geometry = definition.geometry().map_err(|error| error.to_string())?;
        let empty = Cell {
            data: Bytes::from(vec![0; geometry.block_size() as usize]),
            context: None,
        };
        let extent = Extent {
            state: ExtentState::default(),
            newest: (0, 0),
            closed: false,
            blocks: vec![vec![empty]; geometry.blocks_per_extent() as usize],
        };
        Ok(Self {
            geometry,
            extents: vec![extent; geometry.extent_count() as usize],
            promoted: 0,
            snapshots: BTreeMap::new(),
            open: false,
            errors: None,
            full: false,
        })
    }

    /// All blocks, as they are read.
    fn cells(&self) -> impl Iterator<Item = &Cell> {
        let blocks = self.extents.iter().flat_map(|extent| &extent.blocks);
        blocks.filter_map(|versions| versions.last())
    }

    fn extent(&self, id: ExtentId) -> Result<&Extent, CrucibleError> {
        self.extents
            .get(id.0 as usize)
            .ok_or(CrucibleError::InvalidExtent)
    }

    fn extent_mut(&mut self, id: ExtentId) -> Result<&mut Extent, CrucibleError> {
        self.extents
            .get_mut(id.0 as usize)
            .ok_or(CrucibleError::InvalidExtent)
    }

    /// One operation of the disk.
    fn touch(&mut self, needs_room: bool) -> Result<(), CrucibleError> {
        if self.full && needs_room {
            return Err(CrucibleError::IoError("no space left".into()));
        }
        match &mut self.errors {
            Some((0, 0)) => self.errors = None,
            Some((0, count)) => {
                *count -= 1;
                return Err(CrucibleError::IoError("input/output error".into()));
            }
            Some((skip, _)) => *skip -= 1,
            None => {}
        }
        Ok(())
    }

    fn read(&mut self, start: u64, count: u64) -> Result<Outcome, CrucibleError> {
        self.touch(false)?;
        let mut contexts = Vec::new();
        let mut data = BytesMut::new();
        for run in self
            .geometry
            .runs(crucible_protocol::BlockIndex(start), count)
        {
            let extent = self.extent(run.extent)?;
            if extent.closed {
                return Err(closed(run.extent));
            }
            for block in run.first..run.first + run.count {
                let cell = extent.now(block).ok_or(CrucibleError::OffsetInvalid)?;
                contexts.push(
                    cell.context
                        .map_or(ReadBlockContext::Empty, ReadBlockContext::from),
                );
                data.extend_from_slice(&cell.data);
            }
        }
        Ok(Outcome::Blocks(contexts, data.freeze()))
    }

    fn write(
        &mut self,
        write: &WriteOperation,
        power_after: Option<u64>,
    ) -> Result<Outcome, CrucibleError> {
        self.touch(true)?;
        let size = self.geometry.block_size() as usize;
        let blocks = write.contexts.iter().zip(write.data.chunks(size));
        if !blocks.clone().all(|(context, data)| context.fits(data)) {
            return Err(CrucibleError::HashMismatch);
        }
        for run in self.geometry.runs(write.start, write.contexts.len() as u64) {
            if self.extent(run.extent)?.closed {
                return Err(closed(run.extent));
            }
        }
        for (index, (context, data)) in blocks.enumerate() {
            if power_after.is_some_and(|steps| index as u64 >= steps) {
                break;
            }
            let block = crucible_protocol::BlockIndex(write.start.0 + index as u64);
            let (id, block) = self
                .geometry
                .locate(block)
                .ok_or(CrucibleError::OffsetInvalid)?;
            let extent = self.extent_mut(id)?;
            extent.state.dirty = true;
            let written = extent.now(block).is_some_and(|cell| cell.context.is_some());
            if let Some(versions) = extent.blocks.get_mut(block as usize)
                && !(written && write.only_unwritten)
            {
                versions.push(Cell {
                    data: Bytes::copy_from_slice(data),
                    context: Some(*context),
                });
            }
        }
        Ok(Outcome::Done)
    }

    fn perform(
        &mut self,
        operation: &Operation,
        power_after: Option<u64>,
    ) -> Result<Outcome, CrucibleError> {
        if !self.open {
            return Err(CrucibleError::IoError("the region is not open".into()));
        }
        match operation {
            Operation::TakeOver { generation } => {
                self.touch(true)?;
                self.promoted = self.promoted.max(*generation);
                for extent in &mut self.extents {
                    extent.closed = false;
                }
                Ok(Outcome::Done)
            }
            Operation::States => Ok(Outcome::States(
                self.extents.iter().map(|extent| extent.state).collect(),
            )),
            Operation::Read { start, count } => self.read(start.0, *count),
            Operation::Write(write) => self.write(write, power_after),
            Operation::Flush {
                flush,
                generation,
                extent_limit,
            } => {
                self.touch(true)?;
                let limit = extent_limit.map_or(usize::MAX, |limit| limit.0 as usize);
                let steps = power_after.map_or(usize::MAX, |steps| steps as usize);
                for (id, extent) in self.extents.iter_mut().enumerate() {
                    if id <= limit && id < steps {
                        extent.flush(*flush, *generation);
                    }
                }
                Ok(Outcome::Done)
            }
            Operation::Snapshot { name } => {
                self.touch(true)
                    .map_err(|error| CrucibleError::SnapshotFailed(error.to_string()))?;
                let cells = self.cells().cloned().collect();
                self.snapshots.entry(name.clone()).or_insert(cells);
                Ok(Outcome::Done)
            }
            Operation::FlushExtent {
                extent,
                flush,
                generation,
            } => {
                self.touch(true)?;
                self.extent_mut(*extent)?.flush(*flush, *generation);
                Ok(Outcome::Done)
            }
            Operation::Close { extent } => {
                self.touch(true)?;
                let extent = self.extent_mut(*extent)?;
                extent.closed = true;
                Ok(Outcome::State(extent.state))
            }
            Operation::FlushClose {
                extent,
                flush,
                generation,
            } => {
                self.touch(true)?;
                let extent = self.extent_mut(*extent)?;
                extent.flush(*flush, *generation);
                extent.closed = true;
                Ok(Outcome::State(extent.state))
            }
            Operation::Reopen { extent } => {
                self.touch(false)?;
                self.extent_mut(*extent)?.closed = false;
                Ok(Outcome::Done)
            }
            Operation::Repair { .. } => {
                Err(CrucibleError::Unsupported("the world makes repairs".into()))
            }
        }
    }

    fn file(&self, id: ExtentId) -> Result<Vec<u8>, CrucibleError> {
        let extent = self.extent(id)?;
        let mut file = Vec::new();
        for versions in &extent.blocks {
            if let Some(cell) = versions.last() {
                let mut context = [0; CONTEXT_LEN];
                if let Some(known) = cell.context {
                    context[0] = 1;
                    context[2..10].copy_from_slice(&known.hash.to_le_bytes());
                    if let Some(sealed) = known.encryption {
                        context[1] = 1;
                        context[10..22].copy_from_slice(&sealed.nonce);
                        context[22..38].copy_from_slice(&sealed.tag);
                    }
                }
                file.extend_from_slice(&cell.data);
                file.extend_from_slice(&context);
            }
        }
        file.extend_from_slice(&extent.state.generation.to_le_bytes());
        file.extend_from_slice(&extent.state.flush.to_le_bytes());
        file.push(u8::from(extent.state.dirty));
        Ok(file)
    }

    fn decode(&self, file: &[u8]) -> Option<Extent> {
        let size = self.geometry.block_size() as usize;
        let blocks = self.geometry.blocks_per_extent() as usize;
        if file.len() != blocks * (size + CONTEXT_LEN) + STATE_LEN {
            return None;
        }
        let number = |at: usize| {
            let bytes = file.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let mut cells = Vec::with_capacity(blocks);
        for block in 0..blocks {
            let at = block * (size + CONTEXT_LEN);
            let data = Bytes::copy_from_slice(file.get(at..at + size)?);
            let context = file.get(at + size..at + size + CONTEXT_LEN)?;
            let encryption = (context[1] == 1).then(|| EncryptionContext {
                nonce: context[10..22].try_into().unwrap_or_default(),
                tag: context[22..38].try_into().unwrap_or_default(),
            });
            let context = (context[0] == 1).then_some(BlockContext {
                hash: number(at + size + 2)?,
                encryption,
            });
            cells.push(vec![Cell { data, context }]);
        }
        let at = file.len() - STATE_LEN;
        let state = ExtentState {
            generation: number(at)?,
            flush: number(at + 8)?,
            dirty: file.last() == Some(&1),
        };
        Some(Extent {
            state,
            newest: (state.generation, state.flush),
            closed: true,
            blocks: cells,
        })
    }
}

fn content(cell: &Cell) -> (ReadBlockContext, Vec<u8>) {
    let context = cell
        .context
        .map_or(ReadBlockContext::Empty, ReadBlockContext::from);
    (context, cell.data.to_vec())
}

fn closed(extent: ExtentId) -> CrucibleError {
    CrucibleError::GenericError(format!("extent {extent} is closed for repair"))
}

impl Storage for ModelDisk {
    fn settle(&mut self) {}

    fn snapshot(&self, name: &str) -> Result<Option<Contents>, String> {
        let cells = self.snapshots.get(name);
        Ok(cells.map(|cells| cells.iter().map(|cell| Ok(content(cell))).collect()))
    }

    fn start(&mut self, _read_only: bool) -> Result<u64, String> {
        self.open = true;
        self.errors = None;
        self.full = false;
        Ok(self.promoted)
    }

    fn run(&mut self, operation: Operation, power_after: Option<u64>) -> Outcome {
        match self.perform(&operation, power_after) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed(error, operation),
        }
    }

    fn stop(&mut self, death: Death) {
        self.open = false;
        for extent in &mut self.extents {
            extent.closed = false;
            extent.newest = (extent.state.generation, extent.state.flush);
        }
        if let Death::Power(seed) = death {
            let mut dice = Dice::new(seed, 0);
            for extent in &mut self.extents {
                for versions in &mut extent.blocks {
                    let kept = dice.index(versions.len());
                    versions.truncate(kept + 1);
                    versions.drain(..kept);
                }
            }
        }
    }

    fn is_closed(&self, extent: ExtentId) -> bool {
        self.open && self.extent(extent).is_ok_and(|extent| extent.closed)
    }

    fn file_length(&self, extent: ExtentId) -> Result<u64, CrucibleError> {
        self.file(extent).map(|file| file.len() as u64)
    }

    fn read_file(
        &self,
        extent: ExtentId,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, CrucibleError> {
        let file = self.file(extent)?;
        let begin = offset as usize;
        file.get(begin..begin.saturating_add(length))
            .map(<[u8]>::to_vec)
            .ok_or_else(|| CrucibleError::IoError("past the end".into()))
    }

    fn replace(&mut self, extent: ExtentId, file: &[u8]) -> Result<(), CrucibleError> {
        if !self.is_closed(extent) {
            return Err(CrucibleError::GenericError("not closed".into()));
        }
        self.touch(true)?;
        let new = self
            .decode(file)
            .ok_or_else(|| CrucibleError::RepairFilesInvalid("the wrong length".into()))?;
        let cells = new.blocks.iter().filter_map(|versions| versions.last());
        for (block, cell) in cells.enumerate() {
            let bad = match cell.context {
                Some(context) => !context.fits(&cell.data),
                None => cell.data.iter().any(|byte| *byte != 0),
            };
            if bad {
                let why = format!("block {block} does not match its context");
                return Err(CrucibleError::RepairFilesInvalid(why));
            }
        }
        *self.extent_mut(extent)? = new;
        Ok(())
    }

    fn trouble(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Errors { skip, count } => self.errors = Some((skip, count)),
            Trouble::Full => self.full = true,
        }
    }

    fn heal(&mut self) {
        self.errors = None;
        self.full = false;
    }

    fn rot(&mut self, extent: ExtentId, block: u32, context: bool, mask: u8) -> bool {
        let Ok(extent) = self.extent_mut(extent) else {
            return false;
        };
        let Some(cell) = extent
            .blocks
            .get_mut(block as usize)
            .and_then(|versions| versions.last_mut())
        else {
            return false;
        };
        if mask == 0 {
            return false;
        }
        if let (true, Some(known)) = (context, &mut cell.context) {
            known.hash ^= u64::from(mask);
            if let Some(sealed) = &mut known.encryption {
                sealed.tag[0] ^= mask;
            }
            return true;
        }
        let mut data = cell.data.to_vec();
        if let Some(byte) = data.get_mut(usize::from(mask)) {
            *byte ^= mask;
        }
        cell.data = data.into();
        true
    }

    fn contents(&self) -> Contents {
        self.cells().map(|cell| Ok(content(cell))).collect()
    }
}
