//! Making the replicas equal before the volume is used. Spec: negotiation 2.4.
//!
//! For each extent that differs: flush it at the source, close it everywhere, copy it to the others, open it
//! again; each step when all who take part have answered the one before. Several extents are in flight at once;
//! the region servers do each step as it comes, and only echo its number.
//!
//! The source is stamped with the generation of this activation and a flush number that is then never used again: a
//! replica that misses the first flush of the new session cannot look equal to those that have it, nor can one that
//! was there when an earlier attempt broke off.

use std::collections::VecDeque;

use crucible_protocol::{ClientId, ExtentId, ExtentState, Message, ReconciliationId};

use super::action::Actions;
use super::clients::PerClient;
use super::status::{ReplicaState, Step};
use super::upstairs::Upstairs;

/// A reconciliation that is going on.
#[derive(Debug)]
pub(super) struct Reconcile {
    who: PerClient<bool>,
    todo: VecDeque<Plan>,
    flight: Vec<Repair>,
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

/// What must be done about one extent, given its state on those who take part; `None` if nothing.
pub(super) fn plan(extent: ExtentId, states: &PerClient<Option<ExtentState>>) -> Option<Plan> {
    // The first of the highest: a tie goes to the lowest client.
    let (source, best) = ClientId::ALL
        .into_iter()
        .filter_map(|id| Some((id, states[id]?)))
        .rev()
        .max_by_key(|&(_, state)| state)?;
    let destinations = PerClient::from_fn(|id| {
        id != source && states[id].is_some_and(|state| best.dirty || state != best)
    });
    let any_dirty = states.iter().flatten().any(|state| state.dirty);
    let needed = any_dirty || destinations.count(|&is| is) > 0;
    needed.then_some(Plan {
        extent,
        source,
        destinations,
    })
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
            todo.extend(plan(ExtentId(index), &states));
        }
        self.reconciled = (0, todo.len() as u64);
        if todo.is_empty() {
            return self.become_active(who, out);
        }
        for id in ClientId::ALL.into_iter().filter(|&id| who[id]) {
            self.clients[id].set_step(Step::Reconcile);
        }
        Self::tell(
            format!("{} extents differ: making them equal", todo.len()),
            out,
        );
        self.activation.stamped = true;
        self.reconcile = Some(Reconcile {
            who: who.clone(),
            todo,
            flight: Vec::new(),
            next: ReconciliationId(0),
            flush: self.next_flush_number(),
            generation: self.generation,
        });
        self.advance_reconciliation(out);
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
        if reconcile.flight.is_empty() {
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
    /// next promotion.
    pub(super) fn abort_reconciliation(&mut self, out: &mut Actions) {
        let Some(reconcile) = self.reconcile.take() else {
            return;
        };
        for id in ClientId::ALL.into_iter().filter(|&id| reconcile.who[id]) {
            if matches!(
                self.clients[id].state(),
                ReplicaState::Connecting {
                    step: Step::Reconcile,
                    ..
                }
            ) {
                self.lose(id, "reconciliation begins anew".to_owned(), out);
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
        let found = plan(ExtentId(3), &PerClient::new(states)).map(|plan| {
            let destinations: Vec<u8> = ClientId::ALL
                .into_iter()
                .filter(|&id| plan.destinations[id])
                .map(|id| id.0)
                .collect();
            (plan.source.0, destinations)
        });
        let expected = expected.map(|(source, destinations)| (source, destinations.to_vec()));
        assert_eq!(found, expected, "{states:?}");
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
