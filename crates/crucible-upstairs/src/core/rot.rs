//! Extents that are bad on one replica: they are copied from another, and their replica is made whole from one that
//! has them in good state.
//!
//! Two things tell: a read whose data did not fit its tag while another replica's did, and a copy that its receiver
//! refused because a block did not fit its context. Neither is proof that all of the replica is bad, so it stays in
//! use for as long as the others are not whole.

use crucible_protocol::{BlockIndex, ClientId, CrucibleError, ExtentId};
use vm_types::{Moment, Span};

use super::action::{Action, Actions, Report};
use super::client::Client;
use super::clients::PerClient;
use super::event::BadData;
use super::jobs::Kind;
use super::status::Step;
use super::upstairs::Upstairs;

/// An extent that nobody has in good state may have been written anew meanwhile: so often a copy is tried again.
const TRY_AGAIN: Span = Span::from_secs(600);

/// After the extent was written to.
const TRY_SOON: Span = Span::from_secs(2);

/// A live repair that cannot be done: nobody who is whole has the extent in good state.
#[derive(Clone, Debug)]
pub(super) struct Stuck {
    extent: ExtentId,
    /// Who refused a copy since.
    refused: PerClient<bool>,
    /// When it is tried again all the same.
    until: Moment,
}

/// Whether an error says that the copy, and not the copying, was bad.
pub(super) const fn blames_the_source(error: &CrucibleError) -> bool {
    matches!(
        error,
        CrucibleError::RepairFilesInvalid(_) | CrucibleError::HashMismatch
    )
}

impl Upstairs {
    /// A copy of an extent was refused as bad: the second time, the extent is not to be believed where it came from.
    /// (The first time it may have been the receiver's disk that could not read what it had been given.)
    pub(super) fn copy_refused(
        &mut self,
        by: ClientId,
        source: ClientId,
        extent: ExtentId,
        error: &CrucibleError,
        out: &mut Actions,
    ) {
        let receiver = self.clients[by].address;
        let address = self.clients[source].address;
        Self::tell(
            format!(
                "region server {receiver} (client {by}) refused a copy of extent {extent} from {address}: {error}"
            ),
            out,
        );
        let doubts = &mut self.clients[source].doubts;
        if !doubts.has(extent) {
            doubts.add(extent);
            return;
        }
        let per_extent = self
            .geometry
            .map_or(1, |geometry| u64::from(geometry.blocks_per_extent()));
        self.clients[source].suspects.add(extent);
        self.clients[source].counters.bad_reads += 1;
        out.push(Action::Report(Report::Integrity {
            client: source,
            address,
            start: BlockIndex(u64::from(extent.0) * per_extent),
            count: per_extent,
            bad: BadData::Hash,
        }));
    }

    /// The source of the live repair that a replica could not do, if this job is one.
    pub(super) fn copied_from(
        &self,
        id: crucible_protocol::JobId,
        by: ClientId,
    ) -> Option<(ClientId, ExtentId)> {
        match &self.jobs.get(id)?.kind {
            Kind::Repair {
                extent,
                source: Some(source),
                needy,
            } if needy[by] => Some((*source, *extent)),
            _ => None,
        }
    }

    /// Whether somebody who is in use has the extent in good state, as far as one knows.
    fn has_source(&self, extent: ExtentId) -> bool {
        self.clients
            .iter()
            .any(|client| client.is_active() && !client.suspects.has(extent))
    }

    /// After a copy was refused: if nobody else has the extent, live repair waits, and that is told with all names.
    pub(super) fn stop_without_source(
        &mut self,
        by: ClientId,
        extent: ExtentId,
        out: &mut Actions,
    ) {
        if self.has_source(extent) {
            return;
        }
        let named = |is: fn(&Client) -> bool| {
            let who = self.clients.iter().filter(|client| is(client));
            let names: Vec<String> = who.map(|client| client.address.to_string()).collect();
            names.join(" and ")
        };
        let bad = named(Client::is_active);
        let out_of_use = named(|client| !client.is_active());
        let minutes = TRY_AGAIN.as_nanos() / 60_000_000_000;
        Self::tell(
            format!(
                "extent {extent} is bad on {bad}, and no other region server in use has it: {out_of_use} cannot be \
                 made whole, so nothing is read from there; it is tried again when another is back or the extent is written to, and every {minutes} minutes, \
                 since blocks that are written anew are good again"
            ),
            out,
        );
        let until = self.now.after(TRY_AGAIN);
        let known = self.stuck.take().map(|stuck| stuck.refused);
        let mut refused = known.unwrap_or_default();
        refused[by] = true;
        self.stuck = Some(Stuck {
            extent,
            refused,
            until,
        });
    }

    /// Whether live repair of those who are ready has to wait for a source. Who has refused nothing may be equal
    /// without a copy, and become a source itself.
    pub(super) fn is_stuck(&mut self, ready: &PerClient<bool>) -> bool {
        let Some(stuck) = &self.stuck else {
            return false;
        };
        if self.has_source(stuck.extent) {
            self.stuck = None;
            return false;
        }
        let tried = |id: ClientId| !ready[id] || stuck.refused[id];
        ClientId::ALL.into_iter().all(tried)
    }

    /// Lets live repair begin again when its time has come.
    pub(super) fn try_stuck_again(&mut self) {
        if self.stuck_deadline().is_some_and(|until| until <= self.now) {
            self.stuck = None;
            self.changed = true;
        }
    }

    /// Whether a replica waits for a source only: writes go on meanwhile, since they may be what makes one.
    pub(super) fn waits_for_source(&self, id: ClientId) -> bool {
        self.stuck.is_some() && self.clients[id].is_at(Step::LiveRepairReady)
    }

    /// Blocks were written on a replica that is in use: the extent that nobody could give may be good again.
    pub(super) fn written_anew(&mut self, start: BlockIndex, count: u64) {
        let Some(geometry) = self.geometry else {
            return;
        };
        let soon = self.now.after(TRY_SOON);
        if let Some(stuck) = &mut self.stuck
            && geometry
                .runs(start, count)
                .any(|run| run.extent == stuck.extent)
        {
            stuck.until = stuck.until.min(soon);
        }
    }

    /// When live repair is tried again without a better source.
    pub(super) fn stuck_deadline(&self) -> Option<Moment> {
        self.stuck.as_ref().map(|stuck| stuck.until)
    }

    /// A replica with bad extents is made whole as soon as both others are whole: then it is not needed meanwhile.
    pub(super) fn mend_suspects(&mut self, out: &mut Actions) {
        if self.config.read_only || self.clients.count(|client| client.is_active()) < 3 {
            return;
        }
        // Where another has the same extents bad, there is nothing to be won.
        let suspect = ClientId::ALL.into_iter().find(|&id| {
            let suspects = &self.clients[id].suspects;
            !suspects.is_empty() && suspects.all(|extent| self.has_source(extent))
        });
        if let Some(id) = suspect {
            self.fault(
                id,
                "it has bad extents, and the others have them in good state",
                out,
            );
        }
    }
}
