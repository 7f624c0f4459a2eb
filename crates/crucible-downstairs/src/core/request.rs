//! Messages about jobs, taken apart: what is asked, whether it fits the region, how it is answered.

use bytes::Bytes;
use crucible_protocol::{
    CrucibleError, ExtentId, Geometry, JobId, Message, ReadResponseHeader, SessionKey,
};

use super::action::{Operation, Outcome, Reason, WriteOperation};
use super::limits::Limits;

/// What kind of job it is: decides about the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    WriteUnwritten,
    Flush,
    Barrier,
    Close,
    Repair,
    Reopen,
    NoOp,
}

/// What a job takes.
#[derive(Debug)]
pub(super) enum Plan {
    /// Work on the region.
    Run(Operation),
    /// A flush, and a snapshot of this name after it.
    FlushAndSnapshot(Operation, String),
    /// Nothing but its place in the order.
    Nothing,
    /// It cannot be done; say so in its turn.
    Fail(CrucibleError),
}

/// A job as it came.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) key: SessionKey,
    pub(super) job: JobId,
    pub(super) dependencies: Vec<JobId>,
    pub(super) kind: Kind,
    pub(super) plan: Plan,
    /// Bytes that it holds, or that its answer will.
    pub(super) cost: u64,
}

/// What the request is judged by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) geometry: Geometry,
    pub(super) read_only: bool,
    pub(super) limits: &'a Limits,
}

/// Each entry of a list of contexts, in memory and on the wire, takes no more than this.
const CONTEXT_BYTES: u64 = 48;
/// A job with nothing in it.
const JOB_BYTES: u64 = 256;
/// What it takes to remember that a job waits for another.
const DEPENDENCY_BYTES: u64 = 96;
/// The longest list: the reference has at most some ten thousand jobs that it remembers.
const DEPENDENCIES_MAX: usize = 100_000;

impl Rules<'_> {
    /// Whether a message can only be a mistake for a read-only region (spec: 2.2).
    pub(super) fn forbids(&self, message: &Message) -> Option<Reason> {
        let modifies = matches!(
            message,
            Message::Write { .. }
                | Message::WriteUnwritten { .. }
                | Message::ExtentClose { .. }
                | Message::ExtentReopen { .. }
                | Message::ExtentFlush { .. }
                | Message::ExtentRepair { .. }
                | Message::ExtentLiveClose { .. }
                | Message::ExtentLiveFlushClose { .. }
                | Message::ExtentLiveRepair { .. }
                | Message::ExtentLiveReopen { .. }
                | Message::ExtentLiveNoOp { .. }
        );
        (self.read_only && modifies).then(|| Reason::ReadOnly {
            message: message.name(),
        })
    }

    /// Takes a message about a job apart. `Ok(Err(message))` gives back one that is not about a job.
    pub(super) fn request(&self, message: Message) -> Result<Result<Request, Message>, Reason> {
        let request = |key, job, dependencies, kind, plan, cost| Request {
            key,
            job,
            dependencies,
            kind,
            plan,
            cost,
        };
        let request = match message {
            Message::ReadRequest {
                key,
                job,
                dependencies,
                start,
                count,
            } => {
                let bytes = u64::from(self.geometry.block_size()).saturating_add(CONTEXT_BYTES);
                let cost = count.saturating_mul(bytes);
                let (plan, cost) = if !self.geometry.contains(start, count) {
                    (Plan::Fail(CrucibleError::OffsetInvalid), 0)
                } else if cost > self.limits.answer_bytes {
                    let most = self.limits.answer_bytes / bytes;
                    let text = format!("{count} blocks in one read; at most {most} fit an answer");
                    (Plan::Fail(CrucibleError::InvalidNumberOfBlocks(text)), 0)
                } else {
                    (Plan::Run(Operation::Read { start, count }), cost)
                };
                request(key, job, dependencies, Kind::Read, plan, cost)
            }
            Message::Write { header, data } => {
                let (plan, cost) = self.write(header.start, header.contexts, data, false)?;
                let (key, job) = (header.key, header.job);
                request(key, job, header.dependencies, Kind::Write, plan, cost)
            }
            Message::WriteUnwritten { header, data } => {
                let (plan, cost) = self.write(header.start, header.contexts, data, true)?;
                let (key, job) = (header.key, header.job);
                let kind = Kind::WriteUnwritten;
                request(key, job, header.dependencies, kind, plan, cost)
            }
            Message::Flush {
                key,
                job,
                dependencies,
                flush,
                generation,
                snapshot,
                extent_limit,
            } => {
                let plan = self.flush(flush, generation, snapshot, extent_limit);
                request(key, job, dependencies, Kind::Flush, plan, 0)
            }
            Message::Barrier {
                key,
                job,
                dependencies,
            } => request(key, job, dependencies, Kind::Barrier, Plan::Nothing, 0),
            Message::ExtentLiveClose {
                key,
                job,
                dependencies,
                extent,
            } => {
                let plan = self.on_extent(extent, Operation::Close { extent });
                request(key, job, dependencies, Kind::Close, plan, 0)
            }
            Message::ExtentLiveFlushClose {
                key,
                job,
                dependencies,
                extent,
                flush,
                generation,
            } => {
                let operation = Operation::FlushClose {
                    extent,
                    flush,
                    generation,
                };
                let plan = self.on_extent(extent, operation);
                request(key, job, dependencies, Kind::Close, plan, 0)
            }
            Message::ExtentLiveRepair {
                key,
                job,
                dependencies,
                extent,
                source_address,
                ..
            } => {
                let operation = Operation::Repair {
                    extent,
                    source: source_address,
                };
                let plan = self.on_extent(extent, operation);
                request(key, job, dependencies, Kind::Repair, plan, 0)
            }
            Message::ExtentLiveReopen {
                key,
                job,
                dependencies,
                extent,
            } => {
                let plan = self.on_extent(extent, Operation::Reopen { extent });
                request(key, job, dependencies, Kind::Reopen, plan, 0)
            }
            Message::ExtentLiveNoOp {
                key,
                job,
                dependencies,
            } => request(key, job, dependencies, Kind::NoOp, Plan::Nothing, 0),
            other => return Ok(Err(other)),
        };
        let dependencies = request.dependencies.len();
        if dependencies > DEPENDENCIES_MAX {
            return Err(Reason::TooManyDependencies(dependencies));
        }
        let cost = request.cost + JOB_BYTES + DEPENDENCY_BYTES * dependencies as u64;
        Ok(Ok(Request { cost, ..request }))
    }

    fn write(
        &self,
        start: crucible_protocol::BlockIndex,
        contexts: Vec<crucible_protocol::BlockContext>,
        data: Bytes,
        only_unwritten: bool,
    ) -> Result<(Plan, u64), Reason> {
        let blocks = contexts.len() as u64;
        let bytes = data.len() as u64;
        if blocks.checked_mul(u64::from(self.geometry.block_size())) != Some(bytes) {
            return Err(Reason::MalformedWrite {
                contexts: contexts.len(),
                bytes: data.len(),
            });
        }
        if !self.geometry.contains(start, blocks) {
            return Ok((Plan::Fail(CrucibleError::OffsetInvalid), 0));
        }
        let operation = Operation::Write(Box::new(WriteOperation {
            start,
            contexts,
            data,
            only_unwritten,
        }));
        Ok((Plan::Run(operation), bytes + blocks * CONTEXT_BYTES))
    }

    fn flush(
        &self,
        flush: u64,
        generation: u64,
        snapshot: Option<String>,
        extent_limit: Option<ExtentId>,
    ) -> Plan {
        // The reference lets the limit be one more than the last extent.
        if extent_limit.is_some_and(|limit| limit.0 > self.geometry.extent_count()) {
            return Plan::Fail(CrucibleError::InvalidExtent);
        }
        let operation = Operation::Flush {
            flush,
            generation,
            extent_limit,
        };
        match snapshot {
            Some(_) if self.read_only => Plan::Fail(CrucibleError::ModifyingReadOnlyRegion),
            Some(name) => Plan::FlushAndSnapshot(operation, name),
            None if self.read_only => Plan::Nothing,
            None => Plan::Run(operation),
        }
    }

    /// The operation if there is such an extent.
    pub(super) fn on_extent(&self, extent: ExtentId, operation: Operation) -> Plan {
        if extent.0 < self.geometry.extent_count() {
            Plan::Run(operation)
        } else {
            Plan::Fail(CrucibleError::InvalidExtent)
        }
    }
}

/// Why there can be no snapshot of this name. It becomes a directory: nothing that leads elsewhere.
pub(super) fn refused_name(name: &str) -> Option<CrucibleError> {
    let sound = (1..=255).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
    (!sound).then(|| {
        CrucibleError::SnapshotFailed(format!(
            "name {name:?}: expected 1 to 255 of a-z, A-Z, 0-9, '-', '_', '.', ':', not beginning with '.'"
        ))
    })
}

impl Kind {
    /// Whether those that depend on a job of this kind go on when it failed: a read changes nothing.
    pub(super) fn is_harmless(self) -> bool {
        self == Self::Read
    }

    /// Whether it makes the ids before it be forgotten.
    pub(super) fn forgets(self) -> bool {
        matches!(self, Self::Flush | Self::Barrier)
    }

    /// The answer to a job (spec: 11, ack types).
    pub(super) fn answer(
        self,
        key: SessionKey,
        job: JobId,
        outcome: Result<Outcome, CrucibleError>,
    ) -> Message {
        let outcome = match outcome {
            Ok(Outcome::Failed(error, _)) | Err(error) => Err(error),
            Ok(outcome) => Ok(outcome),
        };
        let plain = |outcome: Result<Outcome, CrucibleError>| outcome.map(|_| ());
        match self {
            Self::Read => {
                let (blocks, data) = match outcome {
                    Ok(Outcome::Blocks(contexts, data)) => (Ok(contexts), data),
                    Ok(_) => (Err(wrong_outcome()), Bytes::new()),
                    Err(error) => (Err(error), Bytes::new()),
                };
                let header = ReadResponseHeader { key, job, blocks };
                Message::ReadResponse { header, data }
            }
            Self::Write => Message::WriteAck {
                key,
                job,
                result: plain(outcome),
            },
            Self::WriteUnwritten => Message::WriteUnwrittenAck {
                key,
                job,
                result: plain(outcome),
            },
            Self::Flush => Message::FlushAck {
                key,
                job,
                result: plain(outcome),
            },
            Self::Barrier => Message::BarrierAck {
                key,
                job,
                result: plain(outcome),
            },
            Self::Close => Message::ExtentLiveCloseAck {
                key,
                job,
                result: match outcome {
                    Ok(Outcome::State(state)) => Ok(state),
                    Ok(_) => Err(wrong_outcome()),
                    Err(error) => Err(error),
                },
            },
            Self::Repair => Message::ExtentLiveRepairAckId {
                key,
                job,
                result: plain(outcome),
            },
            Self::Reopen | Self::NoOp => Message::ExtentLiveAckId {
                key,
                job,
                result: plain(outcome),
            },
        }
    }
}

/// Whoever runs operations mixed them up.
fn wrong_outcome() -> CrucibleError {
    CrucibleError::GenericError("the region server answered with something else".into())
}
