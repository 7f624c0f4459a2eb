//! An extent travels from one region server to another, piece by piece, while both may change or go.

use std::net::SocketAddr;

use crucible_downstairs::core::{Operation, Outcome};
use crucible_protocol::{CrucibleError, ExtentId};
use vm_types::{Moment, Span};

use super::nodes::{Work, node_at};
use super::{What, World};
use crate::network::Machine;

/// A source that says nothing for so long is given up.
const PATIENCE: Span = Span::from_secs(15);

/// A copy that is going on.
pub(crate) struct Copy {
    extent: ExtentId,
    source: SocketAddr,
    /// The source and how often it had been started when the copy began, and the length of the file.
    from: Option<(usize, u64, u64)>,
    file: Vec<u8>,
    /// Since when nothing has come.
    waiting: Option<Moment>,
    pub(crate) cancelled: bool,
}

enum Step {
    More,
    Wait,
    Complete,
}

impl Copy {
    pub(crate) const fn new(extent: ExtentId, source: SocketAddr) -> Self {
        Self {
            extent,
            source,
            from: None,
            file: Vec::new(),
            waiting: None,
            cancelled: false,
        }
    }
}

impl World {
    /// The next step of a copy.
    pub(super) fn copy(&mut self, index: usize, start: u64, ticket: u64) {
        let Some(node) = self.nodes.get_mut(index).filter(|node| node.start == start) else {
            return;
        };
        let Some(Work::Copy(mut copy)) = node.works.remove(&ticket) else {
            return;
        };
        let step = self.copy_step(index, &mut copy);
        let delay = self.disk_delay(index);
        let result = match step {
            Ok(Step::More | Step::Wait) => {
                let wait = if copy.waiting.is_some() {
                    Span::from_millis(100)
                } else {
                    delay
                };
                if let Some(node) = self.nodes.get_mut(index) {
                    node.works.insert(ticket, Work::Copy(copy));
                }
                self.at(wait, What::Copy(index, start, ticket));
                return;
            }
            Ok(Step::Complete) => match self.nodes.get_mut(index) {
                Some(node) => node.storage.replace(copy.extent, &copy.file),
                None => return,
            },
            Err(error) => Err(error),
        };
        let (extent, source) = (copy.extent, copy.source);
        self.note(|| format!("n{index} copies extent {extent} from {source}: {result:?}"));
        let outcome = match result {
            Ok(()) => {
                self.outcome.copies += 1;
                let per_extent = u64::from(self.setup.geometry.blocks_per_extent());
                let start = u64::from(extent.0) * per_extent;
                self.rot.heals(index, start, per_extent);
                Outcome::Done
            }
            Err(error) => Outcome::Failed(error, Operation::Repair { extent, source }),
        };
        self.done(index, start, ticket, delay, outcome);
    }

    fn copy_step(&mut self, index: usize, copy: &mut Copy) -> Result<Step, CrucibleError> {
        let broken = |why: &str| CrucibleError::RepairRequestError(why.to_owned());
        if copy.cancelled {
            return Err(broken("nobody waits for it"));
        }
        let source = node_at(copy.source).ok_or_else(|| broken("nobody lives there"))?;
        let from = self
            .nodes
            .get(source)
            .ok_or_else(|| broken("nobody lives there"))?;
        let answers = self
            .network
            .reaches(Machine::Node(index), Machine::Node(source))
            && from.frozen.is_none()
            && !from.is_dark();
        if !answers {
            let since = *copy.waiting.get_or_insert(self.now);
            if self.now.since(since) > PATIENCE {
                return Err(broken("the source does not answer"));
            }
            return Ok(Step::Wait);
        }
        copy.waiting = None;
        if !from.is_up() {
            return Err(broken("connection refused"));
        }
        let Some((_, start, length)) = copy.from else {
            let length = from.storage.file_length(copy.extent)?;
            copy.from = Some((source, from.start, length));
            return Ok(Step::More);
        };
        if start != from.start {
            return Err(broken("the source has restarted"));
        }
        let have = copy.file.len() as u64;
        if have < length {
            let piece = (length - have).min(1500) as usize;
            let bytes = from.storage.read_file(copy.extent, have, piece)?;
            copy.file.extend_from_slice(&bytes);
            return Ok(Step::More);
        }
        if from.storage.is_closed(copy.extent) {
            Ok(Step::Complete)
        } else {
            Err(broken("the source has opened the extent meanwhile"))
        }
    }
}
