//! The upstairs as a machine without I/O: every decision about three region servers, and nothing that touches a
//! socket, a file, a clock, a thread or a random number. Events and time go in, actions come out.
//!
//! Reading order:
//!
//! 1. The border: `config`, `event`, `action`, and `status`, what can be seen from outside.
//! 2. The front door and the calling contract: [`Upstairs`].
//! 3. What there is: `client` (one region server), `jobs` (what is kept for all three), `dependencies` (what a job
//!    waits for), `latency`.
//! 4. The life of a volume: `activation`, `negotiation`, `links` (loss, replay, giving up), `replace`, `awaits` (what is
//!    missing, and the way out).
//! 5. The life of a job: `guest` (taken), `merge` (joined), `dispatch` (sent), `acks` (answered), `flush`, `reads`.
//! 6. Making replicas equal: `reconcile` (before use), `live_repair` (during use), `rot` (what is bad is not copied).
//!
//! Invariants, each of which a property test tries to break:
//!
//! * Every token is answered exactly once.
//! * A dependency list names only jobs that were sent over the same link since its last fence, or are on their way.
//! * A write is kept until a flush or barrier at or after it is finished on all three.
//! * A replica that missed a job is not read from before it was repaired.
//! * Nothing grows beyond [`Limits`], whatever a peer does or does not do.

mod acks;
mod action;
mod activation;
mod awaits;
mod client;
mod clients;
mod config;
mod dependencies;
mod dispatch;
mod event;
mod flush;
mod guest;
mod jobs;
mod latency;
mod links;
mod live_repair;
mod merge;
mod negotiation;
mod reads;
mod reconcile;
mod replace;
mod rot;
mod status;
mod upstairs;

pub use action::{Action, Actions, Answer, Mismatch, ReplaceResult, Report, VolumeError};
pub use config::{Config, Limits, Relief};
pub use event::{BadData, Command, Event, LinkId, LinkLoss, Plain, Request, Token, Written};
pub use status::{
    Counters, JobState, JobStatus, JobType, Mode, Phase, Progress, ReplicaCounters, ReplicaState,
    ReplicaStatus, Room, Status, Step,
};
pub use upstairs::Upstairs;
