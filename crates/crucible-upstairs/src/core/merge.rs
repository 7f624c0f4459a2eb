//! Writes that follow each other become one job: one frame to each replica instead of many, one list of
//! dependencies, one answer.
//!
//! It costs no waiting. Only a write whose [`Action::Seal`] is still among the actions that the driver has not
//! performed yet can grow, so this happens when several requests are taken in at once, and only there. It must be
//! the newest job of all, so that nothing was ordered after it, and stay within one extent, so that a replica under
//! repair wants all of it or nothing.

use bytes::BytesMut;
use crucible_protocol::{BlockIndex, Geometry, JobId};

use super::action::{Action, Actions};
use super::dispatch::last_extent;
use super::jobs::{Kind, Payload};
use super::upstairs::Upstairs;

/// A merged write gets no larger: beyond, there is little to gain, and the cipher could not use several cores.
const MERGED_BYTES_MAX: usize = 64 << 10;

/// Where the seal of the newest write is among the actions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growing {
    write: JobId,
    place: usize,
}

impl Upstairs {
    /// Notes that the last action seals the newest write.
    pub(super) fn may_grow(&mut self, write: JobId, out: &Actions) {
        self.growing = out
            .len()
            .checked_sub(1)
            .map(|place| Growing { write, place });
    }

    /// Appends a write to the newest one. Hands the data back if that is not possible.
    pub(super) fn merge(
        &mut self,
        start: BlockIndex,
        data: BytesMut,
        is_unwritten: bool,
        geometry: Geometry,
        out: &mut Actions,
    ) -> Result<(), BytesMut> {
        let Some(growing) = self.growing else {
            return Err(data);
        };
        let Some(Action::Seal {
            write,
            data: sealed,
        }) = out.get_mut(growing.place)
        else {
            return Err(data);
        };
        if *write != growing.write || !self.jobs.is_newest(growing.write) {
            return Err(data);
        }
        let Some(job) = self.jobs.get_mut(growing.write) else {
            return Err(data);
        };
        let Kind::Write {
            start: first,
            count,
            unwritten,
        } = &mut job.kind
        else {
            return Err(data);
        };
        let bytes = data.len();
        let more = bytes as u64 / u64::from(geometry.block_size());
        let follows = first.0 + *count == start.0 && *unwritten == is_unwritten;
        let is_in_one_extent =
            last_extent(geometry, first.0, 1) == last_extent(geometry, start.0, more);
        if !follows
            || !is_in_one_extent
            || job.bytes + bytes > MERGED_BYTES_MAX
            || !matches!(job.payload, Payload::Pending)
        {
            return Err(data);
        }
        *count += more;
        job.bytes += bytes;
        sealed.unsplit(data);
        for client in self.clients.iter_mut() {
            let slot = &mut job.slots[client.id];
            if slot.state.is_finished() {
                continue;
            }
            client.bytes += bytes;
            if client.takes_jobs() {
                let waits = client.map.write(growing.write, start.0, start.0 + more);
                slot.waits.extend(waits);
                slot.waits.sort_unstable();
                slot.waits.dedup();
            }
        }
        self.jobs.grown(bytes);
        self.counters.merged_writes += 1;
        Ok(())
    }
}
