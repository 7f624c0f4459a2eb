//! What is said on a link before jobs are: greeting, promotion, what region it is, in what state.
//! Spec: negotiation 2.1 to 2.3.

use std::net::{IpAddr, SocketAddr};

use crucible_protocol::{ClientId, ExtentState, Geometry, Message, RegionDefinition, SessionKey};
use uuid::Uuid;

use super::action::{Actions, Mismatch, VolumeError};
use super::status::{Mode, Phase, ReplicaState, Step};
use super::upstairs::Upstairs;

impl Upstairs {
    /// Takes a message of the present link.
    pub(super) fn frame(&mut self, from: ClientId, message: Message, out: &mut Actions) {
        match message {
            Message::Imok => return self.is_there(from, out),
            Message::YouAreNoLongerActive {
                new_key,
                new_generation,
            } => return self.superseded(from, new_key, new_generation, out),
            Message::UuidMismatch { expected } => return self.disowned(from, expected, out),
            _ => {}
        }
        match self.clients[from].state() {
            ReplicaState::Idle => {}
            ReplicaState::Active | ReplicaState::LiveRepair => {
                if let Some(other) = self.reply(from, message, out) {
                    self.out_of_order(from, &other, out);
                }
            }
            ReplicaState::Connecting { mode, step } => {
                self.negotiate(from, mode, step, message, out);
            }
        }
    }

    fn negotiate(
        &mut self,
        from: ClientId,
        mode: Mode,
        step: Step,
        message: Message,
        out: &mut Actions,
    ) {
        match (step, message) {
            (
                Step::Start,
                Message::YesItsMe {
                    version,
                    repair_address,
                },
            ) => {
                if version != crucible_protocol::MESSAGE_VERSION {
                    return self.wrong_version(from, version, out);
                }
                let (key, generation) = (self.key, self.generation);
                let client = &mut self.clients[from];
                client.repair_address = Some(reachable(repair_address, client.address.ip()));
                client.say(Message::PromoteToActive { key, generation }, out);
                client.set_step(Step::WaitForPromote);
            }
            (Step::Start, Message::VersionMismatch { version }) => {
                self.wrong_version(from, version, out);
            }
            (Step::Start, Message::EncryptedMismatch { expected }) => {
                let mismatch = Mismatch::Encryption {
                    ours: self.config.encrypted,
                    theirs: expected,
                };
                self.mismatch(from, mismatch, out);
            }
            (Step::Start, Message::ReadOnlyMismatch { expected }) => {
                let mismatch = Mismatch::ReadOnly {
                    ours: self.config.read_only,
                    theirs: expected,
                };
                self.mismatch(from, mismatch, out);
            }
            (Step::WaitForPromote, Message::YouAreNowActive { key, generation }) => {
                if (key, generation) != (self.key, self.generation) {
                    let reason = format!(
                        "it promoted another session: {}, generation {generation}",
                        key.session
                    );
                    return self.lose(from, reason, out);
                }
                let client = &mut self.clients[from];
                client.fenced = false;
                client.refusals = 0;
                client.say(Message::RegionInfoPlease, out);
                client.set_step(Step::WaitForRegionInfo);
            }
            (Step::WaitForRegionInfo, Message::RegionInfo(region)) => {
                self.region_info(from, mode, region, out);
            }
            (
                Step::GetExtentVersions,
                Message::ExtentVersions {
                    generations,
                    flushes,
                    dirty,
                },
            ) => self.extent_versions(from, mode, &generations, &flushes, &dirty, out),
            (Step::Reconcile, Message::RepairAckId { repair }) => {
                self.reconciled(from, repair, out);
            }
            (
                Step::Reconcile,
                Message::ExtentError {
                    repair: _,
                    extent,
                    error,
                },
            ) => self.reconciliation_failed(from, extent, &error, out),
            (_, other) => self.out_of_order(from, &other, out),
        }
    }

    fn out_of_order(&mut self, from: ClientId, message: &Message, out: &mut Actions) {
        let reason = format!("it said {} out of order", name(message));
        self.lose(from, reason, out);
    }

    fn wrong_version(&mut self, from: ClientId, version: u32, out: &mut Actions) {
        let ours = crucible_protocol::MESSAGE_VERSION;
        let reason = format!("it speaks message version {version}, we speak {ours}");
        self.lose(from, reason, out);
    }

    /// A region that does not fit: activation fails, with both sides named. Once the volume is active, the other
    /// replicas go on, and this one is asked again, in case that it is mended.
    fn mismatch(&mut self, from: ClientId, mismatch: Mismatch, out: &mut Actions) {
        let is_elsewhere = matches!(mismatch, Mismatch::OtherRegion { .. });
        let error = VolumeError::Mismatch {
            client: from,
            address: self.clients[from].address,
            mismatch,
        };
        if self.phase == Phase::Activating {
            self.stop(error, out);
        } else {
            self.clients[from].is_elsewhere |= is_elsewhere;
            self.lose(from, error.to_string(), out);
        }
    }

    fn region_info(
        &mut self,
        from: ClientId,
        mode: Mode,
        region: RegionDefinition,
        out: &mut Actions,
    ) {
        let geometry = match self.check_region(from, mode, &region) {
            Ok(geometry) => geometry,
            Err(mismatch) => return self.mismatch(from, mismatch, out),
        };
        self.geometry = Some(geometry);
        let client = &mut self.clients[from];
        client.region = Some(region);
        client.is_elsewhere = false;
        if mode == Mode::Offline {
            return self.replay(from, out);
        }
        client.say(Message::ExtentVersionsPlease, out);
        client.set_step(Step::GetExtentVersions);
    }

    fn check_region(
        &self,
        from: ClientId,
        mode: Mode,
        region: &RegionDefinition,
    ) -> Result<Geometry, Mismatch> {
        let theirs = region
            .geometry()
            .map_err(|error| Mismatch::Impossible(error.to_string()))?;
        if region.extent_count == 0 {
            return Err(Mismatch::Impossible("it has no extents".to_owned()));
        }
        if region.encrypted != self.config.encrypted {
            return Err(Mismatch::Encryption {
                ours: self.config.encrypted,
                theirs: region.encrypted,
            });
        }
        if let Some(ours) = self.geometry.filter(|&ours| ours != theirs) {
            return Err(Mismatch::Geometry { ours, theirs });
        }
        let uuid = region.uuid;
        for other in self.clients.iter().filter(|other| other.id != from) {
            if other.region.is_some_and(|region| region.uuid == uuid) {
                let other = other.id;
                return Err(Mismatch::SameRegion { uuid, other });
            }
        }
        match self.clients[from].region {
            Some(known) if known.uuid != uuid && !matches!(mode, Mode::Replaced | Mode::New) => {
                Err(Mismatch::OtherRegion {
                    ours: known.uuid,
                    theirs: uuid,
                })
            }
            _ => Ok(theirs),
        }
    }

    fn extent_versions(
        &mut self,
        from: ClientId,
        mode: Mode,
        generations: &[u64],
        flushes: &[u64],
        dirty: &[bool],
        out: &mut Actions,
    ) {
        let count = self
            .geometry
            .map_or(0, |geometry| geometry.extent_count() as usize);
        if [generations.len(), flushes.len(), dirty.len()] != [count; 3] {
            let reason = format!(
                "it told the state of {}, {} and {} extents where there are {count}",
                generations.len(),
                flushes.len(),
                dirty.len()
            );
            return self.lose(from, reason, out);
        }
        let client = &mut self.clients[from];
        client.extents = generations
            .iter()
            .zip(flushes)
            .zip(dirty)
            .map(|((&generation, &flush), &dirty)| ExtentState {
                generation,
                flush,
                dirty,
            })
            .collect();
        let step = match (mode, self.phase) {
            (Mode::New, Phase::Activating) if self.reconcile.is_none() => Step::WaitQuorum,
            _ => Step::LiveRepairReady,
        };
        if step == Step::LiveRepairReady && mode == Mode::New {
            // It comes too late for the activation that two others made.
            client.set_state(ReplicaState::Connecting {
                mode: Mode::Faulted,
                step,
            });
        }
        self.clients[from].set_step(step);
        let next = match step {
            Step::WaitQuorum => "it waits for the others",
            _ => "it waits for live repair",
        };
        self.report(from, "it is connected", next, out);
        self.changed = true;
    }

    /// A region server says that another has taken over. With a higher generation that is how it should be, and
    /// we are done. Otherwise one region server may have been confused, or restarted; two are not by chance.
    fn superseded(
        &mut self,
        from: ClientId,
        new_key: SessionKey,
        new_generation: u64,
        out: &mut Actions,
    ) {
        if new_generation > self.generation {
            let taken = VolumeError::TakenOver {
                upstairs: new_key.upstairs.0,
                generation: Some(new_generation),
            };
            return self.stop(taken, out);
        }
        if new_key == self.key {
            // A second connection of our own: one that came late, or whose end has not been noticed.
            let reason = "another connection of ours took its place".to_owned();
            return self.lose(from, reason, out);
        }
        let reason = format!(
            "it gave its region to session {}, generation {new_generation}",
            new_key.session
        );
        self.fenced_by(from, new_key.upstairs.0, Some(new_generation), &reason, out);
    }

    fn disowned(&mut self, from: ClientId, expected: Uuid, out: &mut Actions) {
        let reason = format!("it belongs to {expected} now");
        self.fenced_by(from, expected, None, &reason, out);
    }

    fn fenced_by(
        &mut self,
        from: ClientId,
        upstairs: Uuid,
        generation: Option<u64>,
        reason: &str,
        out: &mut Actions,
    ) {
        self.clients[from].fenced = true;
        if self.clients.count(|client| client.fenced) >= 2 {
            return self.stop(
                VolumeError::TakenOver {
                    upstairs,
                    generation,
                },
                out,
            );
        }
        // Another may have written there: a replay would not be enough.
        match self.clients[from].state() {
            ReplicaState::Connecting {
                mode: Mode::New | Mode::Faulted | Mode::Replaced,
                ..
            } => self.lose(from, reason.to_owned(), out),
            _ => self.fault(from, reason, out),
        }
    }
}

/// Where other region servers reach the repair server. One that listens on all addresses says so; then it is
/// found where we found it.
fn reachable(repair: SocketAddr, peer: IpAddr) -> SocketAddr {
    if repair.ip().is_unspecified() {
        SocketAddr::new(peer, repair.port())
    } else {
        repair
    }
}

/// What a message is called, for reports.
const fn name(message: &Message) -> &'static str {
    match message {
        Message::YesItsMe { .. } => "YesItsMe",
        Message::VersionMismatch { .. } => "VersionMismatch",
        Message::ReadOnlyMismatch { .. } => "ReadOnlyMismatch",
        Message::EncryptedMismatch { .. } => "EncryptedMismatch",
        Message::YouAreNowActive { .. } => "YouAreNowActive",
        Message::RegionInfo(_) => "RegionInfo",
        Message::ExtentVersions { .. } => "ExtentVersions",
        Message::RepairAckId { .. } => "RepairAckId",
        Message::ExtentError { .. } => "ExtentError",
        Message::Unknown { .. } => "an unknown message",
        _ => "something",
    }
}
