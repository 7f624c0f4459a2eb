//! What the volume waits for when nothing goes on by itself: said once, with the names of those who are awaited and
//! the way out if they never come.
//!
//! | who is there | what goes on |
//! |---|---|
//! | somebody is whole and in use | live repair of all who were given up (or `rot` says what is missing) |
//! | the only whole ones are away | nothing, before one is back: they have what the others miss |
//! | nobody is whole, all three are there | they are made equal as at activation |
//! | nobody is whole, one is missing | nothing, before it is back or replaced: two that were given up may both miss the same |
//! | two of three at activation, one of them new | nothing, before the third is back or replaced |
//!
//! A replica in whose place another region answers is not whole, and one that is to be replaced leaves as soon as
//! nothing depends on it: see `replace`.

use crucible_protocol::ClientId;

use super::action::Actions;
use super::client::Client;
use super::clients::PerClient;
use super::status::{Phase, Step};
use super::upstairs::Upstairs;

impl Upstairs {
    /// Says what is awaited, when that is something else than before.
    pub(super) fn tell_what_is_awaited(&mut self, out: &mut Actions) {
        let awaited = self.awaited();
        if let Some(what) = awaited
            .as_ref()
            .filter(|&what| self.awaited.as_ref() != Some(what))
        {
            Self::tell(what.clone(), out);
        }
        self.awaited = awaited;
    }

    fn awaited(&self) -> Option<String> {
        if self.config.read_only || self.reconcile.is_some() {
            return None;
        }
        match self.phase {
            Phase::Activating => self.awaited_for_activation(),
            Phase::Active if self.clients.count(Client::is_active) == 0 => {
                self.awaited_for_repair()
            }
            Phase::Active | Phase::Inactive | Phase::Deactivating => None,
        }
    }

    /// Two are there, and would do if one of them were not new.
    fn awaited_for_activation(&self) -> Option<String> {
        self.config.degraded_activation?;
        let who = PerClient::from_fn(|id| self.clients[id].is_at(Step::WaitQuorum));
        if who.count(|&ready| ready) != 2 {
            return None;
        }
        let newcomer = self.clients[self.newcomer(&who)?].address;
        let third = self.names(" and ", |client| !who[client.id]);
        Some(format!(
            "two region servers are not enough this time: {newcomer} is new to this volume and may lack what was \
             flushed, so that {third} is awaited; if it is gone for good, replace it"
        ))
    }

    /// Somebody was given up, and nobody is there to repair it from.
    fn awaited_for_repair(&self) -> Option<String> {
        let given_up = self.names(" and ", |client| !client.is_whole());
        if given_up.is_empty() {
            return None; // All will be back, and are brought up to date by replay.
        }
        let whole = self.names(" or ", Client::is_whole);
        if !whole.is_empty() {
            return Some(format!(
                "{given_up} cannot be made whole before {whole} is back, where everything is; if it is gone for \
                 good, deactivate the volume, replace it then, and activate the volume again: what no flush covered \
                 is lost in that case"
            ));
        }
        let missing = |client: &Client| !client.is_at(Step::LiveRepairReady);
        let awaited = self.names(" and ", missing);
        if awaited.is_empty() {
            return None;
        }
        let way_out = ClientId::ALL
            .into_iter()
            .filter(|&id| missing(&self.clients[id]))
            .find_map(|id| self.check_the_others(id).err())
            .unwrap_or_else(|| "if it is gone for good, replace it".to_owned());
        Some(format!(
            "no region server is whole: they are made equal when all three are there; missing: {awaited}; \
             {way_out}"
        ))
    }

    /// The addresses of some of the three.
    fn names(&self, between: &str, is: impl Fn(&Client) -> bool) -> String {
        let some = self.clients.iter().filter(|client| is(client));
        let names: Vec<String> = some.map(|client| client.address.to_string()).collect();
        names.join(between)
    }
}
