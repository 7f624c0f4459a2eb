//! The jobs and the reconciliation steps of one running connection: from message to work, from work to answer.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use crucible_protocol::{CrucibleError, ExtentId, JobId, Message, ReconciliationId, SessionKey};
use vm_types::Span;

use super::action::{Action, ConnectionId, Operation, Outcome, Reason, Ticket};
use super::negotiation::{Phase, stranger};
use super::request::{Kind, Plan, Request, Rules, refused_name};
use super::work::{Added, Ending, JobQueue};

/// What a piece of work is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The promotion of its connection to this generation.
    TakeOver(u64),
    /// The states of the extents.
    States,
    /// A job.
    Job(JobId),
    /// The first of the steps that wait for this extent.
    Step(ExtentId),
}

/// Work that is under way, of all connections.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    next: u64,
    running: BTreeMap<Ticket, (ConnectionId, Purpose)>,
}

impl Tickets {
    pub(super) fn take(&mut self, ticket: Ticket) -> Option<(ConnectionId, Purpose)> {
        self.running.remove(&ticket)
    }

    pub(super) fn of(&self, connection: ConnectionId) -> impl Iterator<Item = Ticket> + '_ {
        self.running
            .iter()
            .filter(move |(_, (owner, _))| *owner == connection)
            .map(|(ticket, _)| *ticket)
    }

    pub(super) fn len(&self) -> usize {
        self.running.len()
    }
}

/// The way out, for what one connection has to say and to do.
pub(super) struct Port<'a> {
    pub(super) connection: ConnectionId,
    /// How much work of this connection is under way.
    pub(super) active: &'a mut usize,
    pub(super) tickets: &'a mut Tickets,
    pub(super) out: &'a mut Vec<Action>,
}

impl Port<'_> {
    pub(super) fn send(&mut self, message: Message) {
        self.out.push(Action::Send(self.connection, message));
    }

    pub(super) fn run(&mut self, purpose: Purpose, operation: Operation) {
        let ticket = Ticket(self.tickets.next);
        self.tickets.next += 1;
        self.tickets
            .running
            .insert(ticket, (self.connection, purpose));
        *self.active += 1;
        self.out.push(Action::Run(ticket, operation));
    }
}

/// A write that has to wait is in a buffer with much else that came. A small one is copied out of it, so that a peer
/// cannot make us keep many buffers for little data.
const COPIED_BYTES: usize = 32 << 10;

/// A job to be tried again.
#[derive(Debug)]
pub(super) struct Retry {
    pub(super) delay: Span,
    pub(super) purpose: Purpose,
    pub(super) operation: Operation,
}

#[derive(Debug)]
struct Job {
    kind: Kind,
    plan: Option<Plan>,
    /// To be made when the flush is done.
    snapshot: Option<String>,
    cost: u64,
    tries: u32,
}

#[derive(Debug)]
struct Step {
    repair: ReconciliationId,
    plan: Option<Plan>,
}

/// A connection that sends jobs.
#[derive(Debug)]
pub(super) struct Session {
    key: SessionKey,
    queue: JobQueue<Job>,
    /// Jobs that can run and have not been looked at yet.
    ready: Vec<JobId>,
    bytes: u64,
    /// Steps of a reconciliation: in order on each extent, in parallel over extents.
    steps: HashMap<ExtentId, VecDeque<Step>>,
    step_count: usize,
}

impl Session {
    pub(super) fn new(key: SessionKey, last_flush: Option<JobId>) -> Self {
        Self {
            key,
            queue: JobQueue::new(last_flush),
            ready: Vec::new(),
            bytes: 0,
            steps: HashMap::new(),
            step_count: 0,
        }
    }

    /// Jobs and steps that are waiting or running.
    pub(super) fn jobs(&self) -> usize {
        self.queue.len() + self.step_count
    }

    /// Bytes that they hold, or that their answers will.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is remembered of jobs that are gone, in entries.
    pub(super) fn memory(&self) -> usize {
        self.queue.memory()
    }

    pub(super) fn receive(
        &mut self,
        message: Message,
        rules: &Rules<'_>,
        port: &mut Port<'_>,
    ) -> Result<(), Reason> {
        if let Some(reason) = rules.forbids(&message) {
            return Err(reason);
        }
        match rules.request(message)? {
            Ok(request) => self.job(request, port),
            Err(message) => self.step(message, rules, port),
        }
    }

    fn job(&mut self, request: Request, port: &mut Port<'_>) -> Result<(), Reason> {
        if let Some(answer) = stranger(self.key, request.key) {
            port.send(answer);
            return Ok(());
        }
        let id = request.job;
        let (plan, snapshot) = match request.plan {
            Plan::FlushAndSnapshot(operation, name) => (Plan::Run(operation), Some(name)),
            plan => (plan, None),
        };
        let job = Job {
            kind: request.kind,
            plan: Some(plan),
            snapshot,
            cost: request.cost,
            tries: 0,
        };
        match self.queue.add(id, &request.dependencies, job) {
            Ok(Added::Ready) => {
                self.ready.push(id);
                self.start_ready(port);
            }
            Ok(Added::Waiting) => {
                if let Some(Plan::Run(Operation::Write(write))) =
                    self.queue.get_mut(id).and_then(|job| job.plan.as_mut())
                    && write.data.len() <= COPIED_BYTES
                {
                    write.data = Bytes::copy_from_slice(&write.data);
                }
            }
            Err(_) => return Err(Reason::DuplicateJob(id.0)),
        }
        self.bytes += request.cost;
        Ok(())
    }

    /// Hands out what can run, and settles what takes no work, until nothing is left to look at.
    fn start_ready(&mut self, port: &mut Port<'_>) {
        let mut looked_at = 0;
        while let Some(&id) = self.ready.get(looked_at) {
            looked_at += 1;
            let blame = self.queue.blame(id).cloned();
            let Some(job) = self.queue.get_mut(id) else {
                continue;
            };
            let kind = job.kind;
            let plan = job.plan.take();
            if let Some(error) = blame {
                self.settle(id, Err(error.clone()), Ending::Failed(error), port);
                continue;
            }
            match plan {
                Some(Plan::Run(operation)) => port.run(Purpose::Job(id), operation),
                Some(Plan::Fail(error)) => {
                    let ending = ending_of_failure(kind, &error);
                    self.settle(id, Err(error), ending, port);
                }
                _ => self.settle(id, Ok(Outcome::Done), ending_of_success(kind), port),
            }
        }
        self.ready.clear();
    }

    /// Answers a job and takes it out of the queue; those it held up are put in `ready`.
    fn settle(
        &mut self,
        id: JobId,
        outcome: Result<Outcome, CrucibleError>,
        ending: Ending,
        port: &mut Port<'_>,
    ) {
        if let Some(job) = self.queue.finish(id, ending, &mut self.ready) {
            self.bytes = self.bytes.saturating_sub(job.cost);
            port.send(job.kind.answer(self.key, id, outcome));
        }
    }

    /// Work for a job is done.
    pub(super) fn job_finished(
        &mut self,
        id: JobId,
        outcome: Outcome,
        rules: &Rules<'_>,
        port: &mut Port<'_>,
    ) -> Result<Option<Retry>, Reason> {
        let Some(job) = self.queue.get_mut(id) else {
            return Ok(None);
        };
        let kind = job.kind;
        match outcome {
            Outcome::Failed(error, operation) => {
                job.tries += 1;
                let tries = job.tries;
                if kind == Kind::Repair {
                    port.send(report(self.key, id, &error));
                    return Err(Reason::RepairFailed(error));
                }
                if may_pass(&error) && tries < rules.limits.attempts {
                    if tries == 1 {
                        port.send(report(self.key, id, &error));
                    }
                    return Ok(Some(Retry {
                        delay: rules.limits.delay_after(tries),
                        purpose: Purpose::Job(id),
                        operation,
                    }));
                }
                // A snapshot that failed comes after a flush that did not: what was written is safe.
                let ending = if matches!(operation, Operation::Snapshot { .. }) {
                    ending_of_success(kind)
                } else {
                    ending_of_failure(kind, &error)
                };
                self.settle(id, Err(error), ending, port);
            }
            outcome => {
                let result = match job.snapshot.take().map(|name| (refused_name(&name), name)) {
                    Some((None, name)) => {
                        job.tries = 0;
                        port.run(Purpose::Job(id), Operation::Snapshot { name });
                        return Ok(None);
                    }
                    // Its name may be bad; the flush is done.
                    Some((Some(refused), _)) => Err(refused),
                    None => Ok(outcome),
                };
                self.settle(id, result, ending_of_success(kind), port);
            }
        }
        self.start_ready(port);
        Ok(None)
    }

    /// A message that is not a job: a step of a reconciliation, or something that has no place here.
    fn step(
        &mut self,
        message: Message,
        rules: &Rules<'_>,
        port: &mut Port<'_>,
    ) -> Result<(), Reason> {
        let (repair, extent, operation) = match message {
            Message::ExtentClose { repair, extent } => {
                (repair, extent, Operation::Close { extent })
            }
            Message::ExtentReopen { repair, extent } => {
                (repair, extent, Operation::Reopen { extent })
            }
            Message::ExtentFlush {
                repair,
                extent,
                flush,
                generation,
                ..
            } => {
                let operation = Operation::FlushExtent {
                    extent,
                    flush,
                    generation,
                };
                (repair, extent, operation)
            }
            Message::ExtentRepair {
                repair,
                extent,
                source_address,
                ..
            } => {
                let operation = Operation::Repair {
                    extent,
                    source: source_address,
                };
                (repair, extent, operation)
            }
            other => return Err(Phase::Running(self.key).unexpected(&other)),
        };
        match rules.on_extent(extent, operation) {
            Plan::Run(operation) => {
                let waiting = self.steps.entry(extent).or_default();
                let first = waiting.is_empty();
                self.step_count += 1;
                let plan = if first {
                    port.run(Purpose::Step(extent), operation);
                    None
                } else {
                    Some(Plan::Run(operation))
                };
                waiting.push_back(Step { repair, plan });
            }
            _ => port.send(Message::ExtentError {
                repair,
                extent,
                error: CrucibleError::InvalidExtent,
            }),
        }
        Ok(())
    }

    /// Work for the first step on an extent is done. A step is not tried again: the peer starts over as a whole.
    pub(super) fn step_finished(
        &mut self,
        extent: ExtentId,
        outcome: Outcome,
        port: &mut Port<'_>,
    ) {
        let Some(waiting) = self.steps.get_mut(&extent) else {
            return;
        };
        if let Some(Step { repair, .. }) = waiting.pop_front() {
            self.step_count = self.step_count.saturating_sub(1);
            port.send(match outcome {
                Outcome::Failed(error, _) => Message::ExtentError {
                    repair,
                    extent,
                    error,
                },
                _ => Message::RepairAckId { repair },
            });
        }
        match waiting.front_mut() {
            Some(next) => {
                if let Some(Plan::Run(operation)) = next.plan.take() {
                    port.run(Purpose::Step(extent), operation);
                }
            }
            None => {
                self.steps.remove(&extent);
            }
        }
    }
}

fn report(key: SessionKey, job: JobId, error: &CrucibleError) -> Message {
    Message::ErrorReport {
        key,
        job,
        error: error.clone(),
    }
}

/// Whether trying again may help. What the peer did wrong stays wrong.
fn may_pass(error: &CrucibleError) -> bool {
    matches!(
        error,
        CrucibleError::IoError(_) | CrucibleError::GenericError(_)
    )
}

fn ending_of_success(kind: Kind) -> Ending {
    if kind.forgets() {
        Ending::DoneAndForget
    } else {
        Ending::Done
    }
}

fn ending_of_failure(kind: Kind, error: &CrucibleError) -> Ending {
    if *error == CrucibleError::ModifyingReadOnlyRegion {
        // There is nothing to flush, and so nothing that others would miss.
        ending_of_success(kind)
    } else if kind.is_harmless() {
        Ending::Done
    } else {
        Ending::Failed(error.clone())
    }
}
