//! A job finds its way: who gets it, what it waits for there, when it is sent, and as which message.

use crucible_protocol::{ClientId, ExtentId, Geometry, JobId, Message, SessionKey, WriteHeader};

use super::action::Actions;
use super::client::Client;
use super::clients::PerClient;
use super::dependencies::DependencyMap;
use super::jobs::{Job, Kind, Payload};
use super::status::JobState;
use super::upstairs::Upstairs;

/// About what a message takes beside its data, its contexts and its dependencies.
const MESSAGE_BYTES: usize = 96;
/// What the context of a block takes at most.
const CONTEXT_BYTES: usize = 37;

impl Upstairs {
    /// Gives a job its place in the order: on each replica, after all that it must wait for.
    pub(super) fn place(&mut self, mut job: Job) {
        let Some(geometry) = self.geometry else {
            return;
        };
        if job.is_fence() {
            self.flush_due = None;
        } else {
            self.arm_flush();
        }
        let (id, ready) = (job.id, job.is_ready());
        for client in self.clients.iter_mut() {
            let slot = &mut job.slots[client.id];
            if client.takes_jobs() {
                slot.limit = client.extent_limit;
                if is_beyond(client, &job.kind, geometry) {
                    slot.state = JobState::Skipped;
                    continue;
                }
                slot.waits = record(&mut client.map, id, &job.kind, geometry);
                if ready {
                    slot.queued = true;
                    client.enqueue(id);
                }
            } else if !client.is_offline() || self.config.read_only {
                slot.state = JobState::Skipped;
                continue;
            }
            client.jobs += 1;
            client.bytes += job.bytes;
        }
        self.jobs.push(job);
    }

    /// A job got its payload: it can be sent to all whose turn it is.
    pub(super) fn release(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        for client in self.clients.iter_mut().filter(|client| client.takes_jobs()) {
            let slot = &mut job.slots[client.id];
            if slot.state == JobState::Waiting && !slot.queued {
                slot.queued = true;
                client.enqueue(id);
            }
        }
    }

    /// Sends what waits for its turn, as far as the link and the region server take it. What does not go stays here
    /// as a number, so a slow replica costs no memory.
    pub(super) fn pump(&mut self, id: ClientId, out: &mut Actions) {
        while self.clients[id].has_way(self.config.limits.transmit_bytes) {
            let Some(next) = self.clients[id].next_in_turn(&self.config.limits) else {
                break;
            };
            let Some(job) = self.jobs.get_mut(next) else {
                continue;
            };
            let slot = &mut job.slots[id];
            if slot.state != JobState::Waiting {
                continue;
            }
            slot.state = JobState::Sent;
            self.clients[id].sends(next, job.bytes);
            let waits = std::mem::take(&mut slot.waits);
            let size = MESSAGE_BYTES + 8 * waits.len() + job.bytes + CONTEXT_BYTES * job.blocks();
            let sender = Sender {
                key: self.key,
                generation: self.generation,
                clients: &self.clients,
            };
            if let Some(message) = sender.message(job, id, waits) {
                self.clients[id].hand(message, size, out);
            }
        }
    }
}

/// Enters a job into the map of a connection, and tells what it waits for there.
pub(super) fn record(
    map: &mut DependencyMap,
    id: JobId,
    kind: &Kind,
    geometry: Geometry,
) -> Vec<JobId> {
    match *kind {
        Kind::Write { start, count, .. } => map.write(id, start.0, start.0 + count),
        Kind::Flush { .. } | Kind::Barrier => map.fence(id, geometry.block_count()),
        Kind::Close { extent, .. } => {
            // The four jobs of a repair come in a row. What comes later must wait for the last of them.
            let per_extent = u64::from(geometry.blocks_per_extent());
            let start = u64::from(extent.0) * per_extent;
            map.write(JobId(id.0 + 3), start, start + per_extent)
        }
        Kind::Repair { .. } | Kind::NoOp | Kind::Reopen { .. } => vec![JobId(id.0 - 1)],
    }
}

/// Whether a job is not for a replica under repair, since it begins in an extent that is still to be repaired.
fn is_beyond(client: &Client, kind: &Kind, geometry: Geometry) -> bool {
    if !client.is_repairing() {
        return false;
    }
    match *kind {
        Kind::Write { start, .. } => {
            let first = geometry.locate(start).map(|(extent, _)| extent);
            first > client.extent_limit
        }
        _ => false,
    }
}

/// What is needed to say a job.
struct Sender<'a> {
    key: SessionKey,
    generation: u64,
    clients: &'a PerClient<Client>,
}

impl Sender<'_> {
    fn message(&self, job: &Job, to: ClientId, dependencies: Vec<JobId>) -> Option<Message> {
        let Self {
            key, generation, ..
        } = *self;
        let slot = &job.slots[to];
        let id = job.id;
        Some(match &job.kind {
            Kind::Write {
                start, unwritten, ..
            } => {
                let Payload::Sealed { contexts, data } = &job.payload else {
                    return None;
                };
                let header = WriteHeader {
                    key,
                    job: id,
                    dependencies,
                    start: *start,
                    contexts: contexts.clone(),
                };
                let data = data.clone();
                if *unwritten {
                    Message::WriteUnwritten { header, data }
                } else {
                    Message::Write { header, data }
                }
            }
            Kind::Flush {
                number, snapshot, ..
            } => Message::Flush {
                key,
                job: id,
                dependencies,
                flush: *number,
                generation,
                snapshot: snapshot.clone().filter(|_| !slot.sent_before),
                extent_limit: slot.limit,
            },
            Kind::Barrier => Message::Barrier {
                key,
                job: id,
                dependencies,
            },
            Kind::Close { extent, flush } => {
                let extent = *extent;
                if slot.limit.is_some() {
                    Message::ExtentLiveClose {
                        key,
                        job: id,
                        dependencies,
                        extent,
                    }
                } else {
                    Message::ExtentLiveFlushClose {
                        key,
                        job: id,
                        dependencies,
                        extent,
                        flush: *flush,
                        generation,
                    }
                }
            }
            Kind::Repair {
                extent,
                source: Some(source),
                needy,
            } if needy[to] => Message::ExtentLiveRepair {
                key,
                job: id,
                dependencies,
                extent: *extent,
                source: *source,
                source_address: self.clients[*source].repair_address?,
            },
            Kind::Repair { .. } | Kind::NoOp => Message::ExtentLiveNoOp {
                key,
                job: id,
                dependencies,
            },
            Kind::Reopen { extent } => Message::ExtentLiveReopen {
                key,
                job: id,
                dependencies,
                extent: *extent,
            },
        })
    }
}

impl Job {
    /// How many blocks it carries.
    fn blocks(&self) -> usize {
        match &self.payload {
            Payload::Sealed { contexts, .. } => contexts.len(),
            Payload::Pending | Payload::Empty => 0,
        }
    }
}

/// The last extent of `start..start + count`; the first if there are no blocks.
pub(super) fn last_extent(geometry: Geometry, start: u64, count: u64) -> ExtentId {
    let last = start + count.max(1) - 1;
    ExtentId((last / u64::from(geometry.blocks_per_extent())) as u32)
}
