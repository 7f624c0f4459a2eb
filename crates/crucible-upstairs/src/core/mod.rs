//! The upstairs as a machine without I/O: every decision about three region servers, and nothing that touches a
//! socket, a file, a clock, a thread or a random number. Events and time go in, actions come out.
//!
//! Reading order: [`config`], [`event`] and [`action`] (the border), [`status`] (what can be seen from outside),
//! [`Upstairs`] (the front door and the calling contract).

pub mod action;
pub mod config;
pub mod event;
pub mod status;
mod upstairs;

pub use action::{Action, Actions, Answer, Mismatch, ReplaceResult, Report, VolumeError};
pub use config::{Config, Limits, Relief};
pub use event::{BadData, Command, Event, LinkId, LinkLoss, Plain, Request, Token, Written};
pub use status::{
    Counters, JobState, JobStatus, JobType, Mode, Phase, ReplicaCounters, ReplicaState,
    ReplicaStatus, Room, Status, Step,
};
pub use upstairs::Upstairs;
