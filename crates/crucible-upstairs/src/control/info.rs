//! The JSON of `GET /info` and `GET /work`, by the names that users of the reference know.

use serde::Serialize;

use crate::core::{JobStatus, Mode, ReplicaState, Status, Step};
use crate::store::Insight;

/// `GET /info`.
#[derive(Debug, Serialize)]
pub struct Info {
    state: &'static str,
    ds_state: [Client; 3],
    up_jobs: usize,
    ds_jobs: usize,
    reconcile_done: u64,
    reconcile_needed: u64,
    extents_repaired: [u64; 3],
    extents_confirmed: [u64; 3],
    extent_limit: [Option<u32>; 3],
    live_repair_completed: [u64; 3],
    live_repair_aborted: [u64; 3],
}

/// State of one region server: a type and, for some, a value.
#[derive(Debug, Serialize)]
struct Client {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Connecting>,
}

#[derive(Debug, Serialize)]
struct Connecting {
    state: Tagged,
    mode: &'static str,
}

#[derive(Debug, Serialize)]
struct Tagged {
    #[serde(rename = "type")]
    kind: &'static str,
}

/// `GET /work`.
#[derive(Debug, Serialize)]
pub struct Work {
    jobs: Vec<Job>,
    completed: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct Job {
    id: u64,
    replay: bool,
    job_type: &'static str,
    num_blocks: u64,
    deps: Vec<u64>,
    ack_status: &'static str,
    state: [&'static str; 3],
}

impl From<ReplicaState> for Client {
    fn from(state: ReplicaState) -> Self {
        let connecting = |mode: Mode, step: Step| Self {
            kind: "connecting",
            value: Some(Connecting {
                state: Tagged { kind: step.name() },
                mode: mode.name(),
            }),
        };
        match state {
            ReplicaState::Idle => connecting(Mode::New, Step::WaitConnect),
            ReplicaState::Connecting { mode, step } => connecting(mode, step),
            ReplicaState::Active => Self {
                kind: "active",
                value: None,
            },
            ReplicaState::LiveRepair => Self {
                kind: "live_repair",
                value: None,
            },
        }
    }
}

impl From<&Status> for Info {
    fn from(status: &Status) -> Self {
        let replicas = || status.replicas.each_ref();
        let (reconcile_done, reconcile_needed) = status.reconcile;
        Self {
            state: status.phase.name(),
            ds_state: replicas().map(|replica| replica.state.into()),
            up_jobs: status.guest_jobs,
            ds_jobs: status.jobs,
            reconcile_done,
            reconcile_needed,
            extents_repaired: replicas().map(|replica| replica.counters.extents_repaired),
            extents_confirmed: replicas().map(|replica| replica.counters.extents_confirmed),
            extent_limit: replicas().map(|replica| replica.extent_limit.map(|extent| extent.0)),
            live_repair_completed: replicas().map(|r| r.counters.live_repairs_completed),
            live_repair_aborted: replicas().map(|r| r.counters.live_repairs_aborted),
        }
    }
}

impl From<&JobStatus> for Job {
    fn from(job: &JobStatus) -> Self {
        Self {
            id: job.id.0,
            replay: job.replay,
            job_type: job.kind.name(),
            num_blocks: job.blocks,
            deps: job.dependencies.iter().map(|job| job.0).collect(),
            ack_status: if job.acked { "acked" } else { "not_acked" },
            state: job.states.map(|state| state.name()),
        }
    }
}

impl From<&Insight> for Work {
    fn from(insight: &Insight) -> Self {
        Self {
            jobs: insight.work.iter().map(Job::from).collect(),
            completed: insight.retired.iter().map(|job| job.0).collect(),
        }
    }
}
