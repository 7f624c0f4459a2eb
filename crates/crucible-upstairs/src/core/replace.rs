//! Another region server takes the place of one. Spec: I/O semantics 3.9.

use std::net::SocketAddr;

use crucible_protocol::{ClientId, JobId};

use super::action::{Actions, Answer, ReplaceResult, VolumeError};
use super::client::{Client, Leaving};
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
        if self.phase == Phase::Deactivating {
            return Err(VolumeError::Deactivating);
        }
        if let Some((leaver, Leaving { new: next, .. })) = self.leaver() {
            if leaver == id && next == new {
                self.tell_of_leaver(id, out);
                return Ok(ReplaceResult::StartedAlready);
            }
            let address = self.clients[leaver].address;
            return refused(format!(
                "{next} is about to take the place of {address}; wait for that"
            ));
        }
        self.check_the_others(id)
            .map_err(VolumeError::ReplaceRefused)?;
        match self.jobs.newest_fence().map(|fence| fence.id) {
            Some(fence) if self.phase == Phase::Active => {
                self.clients[id].leaving = Some(Leaving { new, fence });
                self.finish_replacement(out);
                self.tell_of_leaver(id, out);
            }
            _ => self.leave(id, new, out),
        }
        Ok(ReplaceResult::Started)
    }

    /// Whether the others can do without a replica, as far as one knows; else why not, and what can be done.
    pub(super) fn check_the_others(&self, id: ClientId) -> Result<(), String> {
        let others = || self.clients.iter().filter(|other| other.id != id);
        let is_busy = |other: &Client| match other.state() {
            ReplicaState::LiveRepair => true,
            ReplicaState::Connecting { mode, .. } => mode != Mode::New,
            ReplicaState::Active | ReplicaState::Idle => false,
        };
        let Some(busy) = others().find(|other| is_busy(other)) else {
            return Ok(());
        };
        // When nobody is whole, nobody can be repaired before all three are there. What was flushed is on two of
        // them, so that two will do, unless one of these two never had it.
        let lacks = others().find(|other| other.newcomer || other.is_elsewhere);
        match (self.clients.count(Client::is_whole), lacks) {
            (0, None) => Ok(()),
            (0, Some(other)) => Err(format!(
                "it may be the only one that has what was flushed, since {} is not whole either; if it is gone for \
                 good, deactivate the volume, replace it then, and activate the volume again",
                other.address
            )),
            _ => Err(format!(
                "{} is not whole itself; wait until it is repaired, or, if it is gone for good, deactivate the \
                 volume, replace it then, and activate the volume again",
                busy.address
            )),
        }
    }

    /// Who is about to be replaced.
    fn leaver(&self) -> Option<(ClientId, Leaving)> {
        self.clients
            .iter()
            .find_map(|client| Some((client.id, client.leaving?)))
    }

    /// Says who will leave, and for whom it still stays.
    fn tell_of_leaver(&self, id: ClientId, out: &mut Actions) {
        let Some(Leaving { new, fence }) = self.clients[id].leaving else {
            return;
        };
        let late: Vec<String> = self
            .clients
            .iter()
            .filter(|other| other.id != id && !self.has_all_through(other, fence))
            .map(|other| format!("{} ({})", other.address, other.state().name()))
            .collect();
        let next = format!(
            "it stays until all that was flushed with its help is also on {}",
            late.join(" and ")
        );
        self.report(id, &format!("{new} will take its place"), &next, out);
    }

    /// Whether a replica is in use and has done all up to a fence.
    fn has_all_through(&self, client: &Client, fence: JobId) -> bool {
        let finished = |job: &Job| job.slots[client.id].state.is_finished();
        client.is_active() && self.jobs.get(fence).is_none_or(finished)
    }

    /// Lets a replica go that is to be replaced, when the others have all that was flushed with its help: a flush
    /// that two confirmed must not end up on one. Who is not whole itself may go at once, and so may one in whose
    /// place another region answers. While the volume is let go, all stay: the next activation dials the new one.
    pub(super) fn finish_replacement(&mut self, out: &mut Actions) {
        let Some((id, Leaving { new, fence })) = self.leaver() else {
            return;
        };
        if self.phase != Phase::Active {
            return;
        }
        let others_have = self
            .clients
            .iter()
            .all(|other| other.id == id || self.has_all_through(other, fence));
        if !self.clients[id].is_whole() || others_have {
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
        client.newcomer = true;
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
