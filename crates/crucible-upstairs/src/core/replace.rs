//! Another region server takes the place of one. Spec: I/O semantics 3.9.

use std::net::SocketAddr;

use crucible_protocol::ClientId;

use super::action::{Actions, Answer, ReplaceResult, VolumeError};
use super::client::Leaving;
use super::event::Token;
use super::jobs::Job;
use super::latency::Latency;
use super::status::{Mode, Phase, ReplicaState, Step};
use super::upstairs::Upstairs;

impl Upstairs {
    pub(super) fn replace(
        &mut self,
        token: Token,
        old: SocketAddr,
        new: SocketAddr,
        out: &mut Actions,
    ) {
        let result = self.try_to_replace(old, new, out);
        self.answer(token, result.map(Answer::Replace), out);
    }

    fn try_to_replace(
        &mut self,
        old: SocketAddr,
        new: SocketAddr,
        out: &mut Actions,
    ) -> Result<ReplaceResult, VolumeError> {
        let at = |address: SocketAddr| {
            self.clients
                .iter()
                .find(|client| client.address == address)
                .map(|client| client.id)
        };
        if old == new {
            return Ok(ReplaceResult::VcrMatches);
        }
        let refused = |why: String| Err(VolumeError::ReplaceRefused(why));
        let id = match (at(old), at(new)) {
            (Some(_), Some(_)) => return refused(format!("both {old} and {new} are in use")),
            (None, None) => return Ok(ReplaceResult::Missing),
            (None, Some(id)) => {
                return Ok(match self.clients[id].state() {
                    ReplicaState::Connecting {
                        mode: Mode::Replaced | Mode::Faulted,
                        ..
                    }
                    | ReplicaState::LiveRepair => ReplaceResult::StartedAlready,
                    _ => ReplaceResult::CompletedAlready,
                });
            }
            (Some(id), None) => id,
        };
        for other in self.clients.iter().filter(|other| other.id != id) {
            let busy = match other.state() {
                ReplicaState::LiveRepair => true,
                ReplicaState::Connecting { mode, .. } => mode != Mode::New,
                ReplicaState::Active | ReplicaState::Idle => false,
            };
            if busy {
                return refused(format!(
                    "{} is not whole itself; wait until it is repaired",
                    other.address
                ));
            }
        }
        if self.phase == Phase::Deactivating {
            return Err(VolumeError::Deactivating);
        }
        if self.clients.count(|client| client.leaving.is_some()) > 0 {
            return match self.clients[id].leaving {
                Some(leaving) if leaving.new == new => Ok(ReplaceResult::StartedAlready),
                _ => refused("another replacement is about to begin".to_owned()),
            };
        }
        match self.jobs.newest_fence().map(|fence| fence.id) {
            Some(fence) if self.phase == Phase::Active => {
                self.clients[id].leaving = Some(Leaving { new, fence });
                self.finish_replacement(out);
                if self.clients[id].leaving.is_some() {
                    let reason = format!("{new} will take its place");
                    let next = "it stays until the others have all that was flushed with its help";
                    self.report(id, &reason, next, out);
                }
            }
            _ => self.leave(id, new, out),
        }
        Ok(ReplaceResult::Started)
    }

    /// Lets a replica go that is to be replaced, when the others have all that was flushed with its help: a flush
    /// that two confirmed must not end up on one. Who is not whole itself may go at once.
    pub(super) fn finish_replacement(&mut self, out: &mut Actions) {
        let leaver = self
            .clients
            .iter()
            .find_map(|client| Some((client.id, client.leaving?)));
        let Some((id, Leaving { new, fence })) = leaver else {
            return;
        };
        let client = &self.clients[id];
        let is_whole = client.is_active() || client.is_offline();
        let others_have = self.clients.iter().all(|other| {
            let finished = |job: &Job| job.slots[other.id].state.is_finished();
            other.id == id || (other.is_active() && self.jobs.get(fence).is_none_or(finished))
        });
        if !is_whole || others_have {
            self.leave(id, new, out);
        }
    }

    /// Leaves the old region server, and dials the new one.
    fn leave(&mut self, id: ClientId, new: SocketAddr, out: &mut Actions) {
        let was = self.clients[id].state();
        let old = self.clients[id].address;
        let reconciling = self.clients[id].is_at(Step::Reconcile);
        self.clients[id].disconnect(self.now, true, out);
        for job in self.jobs.iter_mut() {
            job.slots[id].skip();
        }
        let synced_through = self.jobs.retired_through();
        let client = &mut self.clients[id];
        client.reset(synced_through);
        client.address = new;
        client.region = None;
        client.repair_address = None;
        client.last_loss = None;
        client.latency = Latency::default();
        client.write_latency = Latency::default();
        client.flush_latency = Latency::default();
        self.changed = true;
        self.stuck = None;
        if was == ReplicaState::Idle {
            return;
        }
        let mode = match self.phase {
            Phase::Active => Mode::Replaced,
            _ => Mode::New,
        };
        self.clients[id].set_state(ReplicaState::Connecting {
            mode,
            step: Step::WaitConnect,
        });
        self.dial(id, out);
        self.forget_reads_of(id, out);
        self.report(
            id,
            &format!("it takes the place of {old}"),
            "it is dialed; it gets all data by live repair",
            out,
        );
        if reconciling {
            self.abort_reconciliation(out);
        }
    }
}
