//! What control needs of a running machine, as two traits: tests and fuzzers have machines of their own.

use std::future::Future;
use std::pin::Pin;

use super::api::{
    DiskStatus, MachineState, MachineStatus, ReplaceAnswer, ReplaceRequest, StopRequest,
};

/// A future that says when it is done.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Something that the machine is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Stand still.
    Pause,
    /// Run on.
    Resume,
    /// Start afresh.
    Reset,
    /// Press the power button, and no more.
    Power,
    /// Stop in good order.
    Stop(StopRequest),
}

/// Why something was not done. The text says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing has that name.
    Unknown(String),
    /// It does not fit what the machine or the disk is at now.
    Conflict(String),
    /// Who should have done it does not answer.
    Late(String),
}

/// What changes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Where the machine stands.
    pub state: MachineState,
    /// How often the guest has been started.
    pub boots: u64,
}

/// The machine. No method blocks.
pub trait Machine: Send + Sync + 'static {
    /// All that is told of it.
    fn status(&self) -> MachineStatus;

    /// Its state, to be waited on.
    fn seen(&self) -> tokio::sync::watch::Receiver<Seen>;

    /// Begins to carry out `order`.
    fn order(&self, order: Order) -> Result<(), Refusal>;
}

/// The disks. No method blocks; answers may be late when storage is.
pub trait Disks: Send + Sync + 'static {
    /// All of them, by name.
    fn all(&self) -> Later<'_, Vec<DiskStatus>>;

    /// One of them.
    fn one<'a>(&'a self, name: &'a str) -> Later<'a, Option<DiskStatus>>;

    /// Puts a region server in the place of another.
    fn replace<'a>(
        &'a self,
        name: &'a str,
        request: ReplaceRequest,
    ) -> Later<'a, Result<ReplaceAnswer, Refusal>>;

    /// What volumes count, as Prometheus text.
    fn volume_metrics(&self) -> Later<'_, String>;
}
