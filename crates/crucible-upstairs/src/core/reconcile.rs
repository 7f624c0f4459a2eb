//! Making the replicas equal before the volume is used. Spec: negotiation 2.4.
//!
//! For each extent that differs: flush it at the source, close it everywhere, copy it to the others, open it
//! again; each step when all who take part have answered the one before. Several extents are in flight at once;
//! the region servers do each step as it comes, and only echo its number.
//!
//! The source is stamped with the generation of this activation and a flush number that is then never used again: a
//! replica that misses the first flush of the new session cannot look equal to those that have it, nor can one that
//! was there when an earlier attempt broke off.
//!
//! Where all is equal already, each is asked once more whether it is there: one that another upstairs has taken over
//! meanwhile does not answer, and what it said of itself before need not be true any more.

use std::collections::VecDeque;

use crucible_protocol::{
    ClientId, CrucibleError, ExtentId, ExtentState, Message, ReconciliationId,
};

use super::action::{Actions, VolumeError};
use super::clients::PerClient;
use super::rot::blames_the_source;
use super::status::{Mode, Phase, ReplicaState, Step};
use super::upstairs::Upstairs;

/// A reconciliation that is going on.
#[derive(Debug)]
pub(super) struct Reconcile {
    who: PerClient<bool>,
    todo: VecDeque<Plan>,
    flight: Vec<Repair>,
    /// Where nothing differs: how many pings each has still to answer.
    unsure: PerClient<u32>,
    next: ReconciliationId,
    /// What the sources are stamped with.
    flush: u64,
    generation: u64,
}

/// Which replica's extent is taken for which others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) extent: ExtentId,
    pub(super) source: ClientId,
    pub(super) destinations: PerClient<bool>,
}

/// An extent that is being made equal.
#[derive(Debug)]
struct Repair {
    plan: Plan,
    stage: Stage,
    id: ReconciliationId,
    /// Who has not answered this step.
    waiting: PerClient<bool>,
}

/// What is done to it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Flush,
    Close,
    Copy,
    Reopen,
}

/// What must be done about one extent, given its state on those who take part, and on whom it is known to be `bad`;
/// `None` if nothing. An error names who has the newest state of it, with bad blocks, as the only one. If that one
/// is dirty, it may know its bad blocks itself, and is asked all the same: others take these when nobody has better.
pub(super) fn plan(
    extent: ExtentId,
    states: &PerClient<Option<ExtentState>>,
    bad: &PerClient<bool>,
) -> Result<Option<Plan>, ClientId> {
    // The first of the highest: a tie goes to the lowest client.
    let highest = |may: &dyn Fn(ClientId, ExtentState) -> bool| {
        ClientId::ALL
            .into_iter()
            .filter_map(|id| Some((id, states[id]?)))
            .filter(|&(id, state)| may(id, state))
            .rev()
            .max_by_key(|&(_, state)| state)
    };
    let Some((newest, best)) = highest(&|_, _| true) else {
        return Ok(None);
    };
    // What is newer only in being dirty has no flush, and may be lost.
    let stamp = |state: ExtentState| (state.generation, state.flush);
    let good = highest(&|id, state| !bad[id] && stamp(state) == stamp(best));
    let (source, best) = good.unwrap_or((newest, best));
    let differs = |id: ClientId| states[id].is_some_and(|state| best.dirty || state != best);
    let mend = |id: ClientId| good.is_some() && bad[id] && states[id].is_some();
    let destinations = PerClient::from_fn(|id| id != source && (differs(id) || mend(id)));
    let any_dirty = states.iter().flatten().any(|state| state.dirty);
    let copied = destinations.count(|&is| is) > 0;
    if copied && good.is_none() && !best.dirty {
        return Err(newest);
    }
    Ok((any_dirty || copied).then_some(Plan {
        extent,
        source,
        destinations,
    }))
}

impl Upstairs {
    /// Compares all extents of those who take part, and begins to make them equal; they may be so already.
    pub(super) fn begin_reconciliation(&mut self, who: &PerClient<bool>, out: &mut Actions) {
        let Some(geometry) = self.geometry else {
            return;
        };
        let mut todo = VecDeque::new();
        for index in 0..geometry.extent_count() {
            let states = PerClient::from_fn(|id| {
                who[id]
                    .then(|| self.clients[id].extents.get(index as usize).copied())
                    .flatten()
            });
            let extent = ExtentId(index);
            let bad = PerClient::from_fn(|id| self.clients[id].suspects.has(extent));
            match plan(extent, &states, &bad) {
                Ok(plan) => todo.extend(plan),
                Err(client) => {
                    let address = self.clients[client].address;
                    return self.stop(VolumeError::BadExtent { extent, address }, out);
                }
            }
        }
        self.reconciled = (0, todo.len() as u64);
        let mut unsure = PerClient::default();
        for id in ClientId::ALL.into_iter().filter(|&id| who[id]) {
            self.clients[id].set_step(Step::Reconcile);
            if todo.is_empty() {
                unsure[id] = self.clients[id].ping(out);
            }
        }
        if !todo.is_empty() {
            let count = todo.len();
            Self::tell(format!("{count} extents differ: making them equal"), out);
            self.activation.stamped = true;
        }
        let flush = if todo.is_empty() {
            0 // Nothing is stamped.
        } else {
            self.next_flush_number()
        };
        self.reconcile = Some(Reconcile {
            who: who.clone(),
            todo,
            flight: Vec::new(),
            unsure,
            next: ReconciliationId(0),
            flush,
            generation: self.generation,
        });
        self.advance_reconciliation(out);
    }

    /// A ping was answered.
    pub(super) fn is_there(&mut self, from: ClientId, out: &mut Actions) {
        self.clients[from].pong();
        if let Some(reconcile) = &mut self.reconcile
            && reconcile.unsure[from] > 0
        {
            reconcile.unsure[from] -= 1;
            self.advance_reconciliation(out);
        }
    }

    /// Whether the volume is about to be used with it, and only waits for it to say that it is still there.
    pub(super) fn is_unsure_of(&self, id: ClientId) -> bool {
        self.reconcile
            .as_ref()
            .is_some_and(|reconcile| reconcile.unsure[id] > 0)
    }

    /// A replica has done a step.
    pub(super) fn reconciled(&mut self, from: ClientId, id: ReconciliationId, out: &mut Actions) {
        let known = self.reconcile.as_mut().and_then(|reconcile| {
            reconcile
                .flight
                .iter_mut()
                .find(|repair| repair.id == id && repair.waiting[from])
        });
        match known {
            Some(repair) => repair.waiting[from] = false,
            None => {
                let reason = format!("it answered reconciliation step {id}, which it was not sent");
                return self.lose(from, reason, out);
            }
        }
        self.advance_reconciliation(out);
    }

    /// A replica could not do a step: all begin anew. Where a copy was refused, from another source.
    pub(super) fn reconciliation_failed(
        &mut self,
        from: ClientId,
        extent: ExtentId,
        error: &CrucibleError,
        out: &mut Actions,
    ) {
        let source = self.reconcile.as_ref().and_then(|reconcile| {
            let is_copy = |repair: &&Repair| {
                repair.plan.extent == extent && repair.stage == Stage::Copy && repair.waiting[from]
            };
            Some(reconcile.flight.iter().find(is_copy)?.plan.source)
        });
        if let Some(source) = source.filter(|_| blames_the_source(error)) {
            self.copy_refused(from, source, extent, error, out);
        }
        let reason = format!("reconciliation of extent {extent} failed there: {error}");
        self.lose(from, reason, out);
    }

    /// Goes on with all extents whose step is done, and begins new ones.
    fn advance_reconciliation(&mut self, out: &mut Actions) {
        let Some(mut reconcile) = self.reconcile.take() else {
            return;
        };
        let mut index = 0;
        while let Some(repair) = reconcile.flight.get(index) {
            if repair.waiting.count(|&waits| waits) > 0 {
                index += 1;
                continue;
            }
            let repair = reconcile.flight.swap_remove(index);
            let next = match repair.stage {
                Stage::Flush => Stage::Close,
                Stage::Close if repair.plan.destinations.count(|&is| is) == 0 => Stage::Reopen,
                Stage::Close => Stage::Copy,
                Stage::Copy => Stage::Reopen,
                Stage::Reopen => {
                    self.reconciled.0 += 1;
                    continue;
                }
            };
            let begun = self.reconcile_step(&mut reconcile, repair.plan, next, out);
            reconcile.flight.push(begun);
        }
        while reconcile.flight.len() < self.config.limits.reconcile_extents.max(1) {
            let Some(plan) = reconcile.todo.pop_front() else {
                break;
            };
            let begun = self.reconcile_step(&mut reconcile, plan, Stage::Flush, out);
            reconcile.flight.push(begun);
        }
        let is_sure = reconcile.unsure.count(|&pings| pings > 0) == 0;
        if reconcile.flight.is_empty() && is_sure {
            self.become_active(&reconcile.who, out);
        } else {
            self.reconcile = Some(reconcile);
        }
    }

    /// Sends one step to those whom it concerns.
    fn reconcile_step(
        &mut self,
        reconcile: &mut Reconcile,
        plan: Plan,
        stage: Stage,
        out: &mut Actions,
    ) -> Repair {
        let repair = reconcile.next;
        reconcile.next = ReconciliationId(repair.0.saturating_add(1));
        let Plan {
            extent,
            source,
            ref destinations,
        } = plan;
        let waiting = match stage {
            Stage::Flush => PerClient::from_fn(|id| id == source),
            Stage::Close | Stage::Reopen => reconcile.who.clone(),
            Stage::Copy => destinations.clone(),
        };
        let source_address = self.clients[source]
            .repair_address
            .unwrap_or(self.clients[source].address);
        for id in ClientId::ALL.into_iter().filter(|&id| waiting[id]) {
            let message = match stage {
                Stage::Flush => Message::ExtentFlush {
                    repair,
                    extent,
                    client: source,
                    flush: reconcile.flush,
                    generation: reconcile.generation,
                },
                Stage::Close => Message::ExtentClose { repair, extent },
                Stage::Copy => Message::ExtentRepair {
                    repair,
                    extent,
                    source,
                    source_address,
                    destinations: ClientId::ALL
                        .into_iter()
                        .filter(|&id| destinations[id])
                        .collect(),
                },
                Stage::Reopen => Message::ExtentReopen { repair, extent },
            };
            self.clients[id].say(message, out);
        }
        Repair {
            plan,
            stage,
            id: repair,
            waiting,
        }
    }

    /// One who took part is gone: all who took part begin anew. Extents that were left closed are opened by the
    /// next promotion. Where nothing was done yet, the others stay where they were.
    pub(super) fn abort_reconciliation(&mut self, out: &mut Actions) {
        let Some(reconcile) = self.reconcile.take() else {
            return;
        };
        let is_begun = self.reconciled.1 > 0;
        for id in ClientId::ALL.into_iter().filter(|&id| reconcile.who[id]) {
            if !self.clients[id].is_at(Step::Reconcile) {
                continue;
            }
            if is_begun {
                self.lose(id, "reconciliation begins anew".to_owned(), out);
            } else {
                self.clients[id].set_step(match self.phase {
                    Phase::Activating => Step::WaitQuorum,
                    _ => Step::LiveRepairReady,
                });
            }
        }
        self.readmit_latecomers();
        self.changed = true;
    }

    /// Who came too late for an activation that two had begun takes part in the next attempt: one of the two may be
    /// gone for good.
    fn readmit_latecomers(&mut self) {
        if self.phase != Phase::Activating {
            return;
        }
        for client in self.clients.iter_mut() {
            if let ReplicaState::Connecting {
                mode: Mode::Faulted,
                step,
            } = client.state()
            {
                let step = match step {
                    Step::LiveRepairReady => Step::WaitQuorum,
                    other => other,
                };
                client.set_state(ReplicaState::Connecting {
                    mode: Mode::New,
                    step,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(generation: u64, flush: u64, dirty: bool) -> Option<ExtentState> {
        Some(ExtentState {
            generation,
            flush,
            dirty,
        })
    }

    /// Source and destinations for the states of three replicas.
    fn check(states: [Option<ExtentState>; 3], expected: Option<(u8, &[u8])>) {
        check_bad(states, [false; 3], Ok(expected));
    }

    /// The same where some have it bad.
    fn check_bad(
        states: [Option<ExtentState>; 3],
        bad: [bool; 3],
        expected: Result<Option<(u8, &[u8])>, u8>,
    ) {
        let found = plan(ExtentId(3), &PerClient::new(states), &PerClient::new(bad));
        let found = found.map_err(|client| client.0).map(|plan| {
            plan.map(|plan| {
                let destinations: Vec<u8> = ClientId::ALL
                    .into_iter()
                    .filter(|&id| plan.destinations[id])
                    .map(|id| id.0)
                    .collect();
                (plan.source.0, destinations)
            })
        });
        let expected =
            expected.map(|plan| plan.map(|(source, destinations)| (source, destinations.to_vec())));
        assert_eq!(found, expected, "{states:?} {bad:?}");
    }

    #[test]
    fn a_bad_one_is_no_source_and_is_mended() {
        let (low, high, dirty) = (state(1, 9, false), state(2, 1, false), state(2, 1, true));
        let first = [true, false, false];
        check_bad([high, high, low], first, Ok(Some((1, &[0, 2]))));
        check_bad([high; 3], first, Ok(Some((1, &[0]))));
        check_bad([dirty, high, high], first, Ok(Some((1, &[0]))));
        check_bad([dirty, dirty, high], first, Ok(Some((1, &[0, 2]))));
        check_bad([low, high, high], first, Ok(Some((1, &[0]))));
    }

    #[test]
    fn the_only_one_that_has_the_newest_state_has_no_substitute() {
        let (low, high) = (state(1, 9, false), state(2, 1, false));
        check_bad([high, low, low], [true, false, false], Err(0));
        check_bad([low, high, high], [false, true, true], Err(1));
        // One that may know what is bad is asked again.
        let dirty = state(2, 1, true);
        check_bad(
            [dirty, low, low],
            [true, false, false],
            Ok(Some((0, &[1, 2]))),
        );
        check_bad([high; 3], [true; 3], Ok(None));
    }

    #[test]
    fn equal_and_clean_extents_are_left_alone() {
        check([state(0, 0, false); 3], None);
        check([state(7, 9, false); 3], None);
        check([state(7, 9, false), None, state(7, 9, false)], None);
    }

    #[test]
    fn the_highest_generation_is_the_source() {
        let (low, high) = (state(1, 9, true), state(2, 1, false));
        check([low, high, high], Some((1, &[0])));
        check([high, low, low], Some((0, &[1, 2])));
        check([low, low, high], Some((2, &[0, 1])));
        check(
            [state(1, 1, false), state(2, 1, false), state(3, 1, false)],
            Some((2, &[0, 1])),
        );
    }

    #[test]
    fn then_the_highest_flush() {
        let (low, high) = (state(2, 1, true), state(2, 2, false));
        check([low, high, low], Some((1, &[0, 2])));
        check([high, high, low], Some((0, &[2])));
    }

    #[test]
    fn then_the_dirty_one_and_it_goes_to_all_others() {
        let (clean, dirty) = (state(2, 2, false), state(2, 2, true));
        check([clean, clean, dirty], Some((2, &[0, 1])));
        check([clean, dirty, dirty], Some((1, &[0, 2])));
        check([dirty, dirty, dirty], Some((0, &[1, 2])));
    }

    #[test]
    fn a_dirty_one_that_is_behind_is_a_destination() {
        check(
            [state(3, 3, false), state(3, 3, false), state(2, 2, true)],
            Some((0, &[2])),
        );
    }

    #[test]
    fn a_tie_goes_to_the_lowest_client() {
        check(
            [state(1, 1, false), state(2, 2, false), state(2, 2, false)],
            Some((1, &[0])),
        );
    }

    #[test]
    fn who_is_absent_takes_no_part() {
        check(
            [None, state(1, 1, false), state(2, 1, false)],
            Some((2, &[1])),
        );
        check([state(1, 1, true), None, None], Some((0, &[])));
    }
}
