//! The front door: one machine, one way in, one deadline.

use crucible_protocol::{SessionId, SessionKey};
use vm_types::{Moment, Span};

use super::action::{Action, Actions, VolumeError};
use super::config::Config;
use super::event::Event;
use super::status::{
    Counters, JobStatus, Phase, ReplicaCounters, ReplicaState, ReplicaStatus, Room, Status,
};

/// One volume on three region servers.
///
/// Calling contract: hand each event to [`handle`](Self::handle) with the time, then perform the actions in their
/// order; several events may be handled before the actions are performed. Afterwards ask
/// [`deadline`](Self::deadline), and send [`Event::Time`] when it has come, at the latest. Time never goes
/// backwards. Nothing here blocks or fails: a peer that lies is hung up, a request that is wrong is answered so.
#[derive(Debug)]
pub struct Upstairs {
    config: Config,
    key: SessionKey,
}

impl Upstairs {
    /// A volume that is not active. `session` is drawn anew for each start of the program.
    pub fn new(config: Config, session: SessionId, now: Moment) -> Self {
        let key = SessionKey {
            upstairs: config.upstairs,
            session,
        };
        let _ = now;
        Self { config, key }
    }

    /// Takes in what happened, and appends what is to be done.
    pub fn handle(&mut self, now: Moment, event: Event, out: &mut Actions) {
        let _ = now;
        if let Event::Request { token, .. } | Event::Command { token, .. } = event {
            out.push(Action::Answer {
                token,
                result: Err(VolumeError::Inactive),
            });
        }
    }

    /// When [`Event::Time`] is due. `None`: never.
    pub fn deadline(&self) -> Option<Moment> {
        None
    }

    /// How many more requests are taken now.
    pub fn room(&self) -> Room {
        Room {
            jobs: self.config.limits.jobs,
            bytes: self.config.limits.bytes,
        }
    }

    /// All that is told of the volume.
    pub fn status(&self) -> Status {
        Status {
            phase: Phase::Inactive,
            key: self.key,
            generation: 0,
            geometry: self.config.geometry,
            read_only: self.config.read_only,
            encrypted: self.config.encrypted,
            replicas: self.config.addresses.map(|address| ReplicaStatus {
                address,
                region: None,
                repair_address: None,
                state: ReplicaState::Idle,
                last_loss: None,
                jobs: 0,
                bytes: 0,
                extent_limit: None,
                read_latency: Span::ZERO,
                counters: ReplicaCounters::default(),
            }),
            guest_jobs: 0,
            jobs: 0,
            bytes: 0,
            reconcile: (0, 0),
            reconciling: false,
            live_repairing: false,
            next_flush: 1,
            stopped: None,
            counters: Counters::default(),
        }
    }

    /// The jobs that are known, by id, and the ids of the last eight that were retired.
    pub fn work(&self) -> (Vec<JobStatus>, Vec<crucible_protocol::JobId>) {
        (Vec::new(), Vec::new())
    }
}
