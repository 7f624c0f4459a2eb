//! Deterministic simulation of the replicated store: region servers, upstairs, network, disks and clocks in one
//! world of one seed, with faults, and oracles that say what may not be.
//!
//! Reading order: [`scenario`] (a run and how it is asked for), [`faults`] (what can go wrong), [`setup`] (what a
//! world is made of), `world` (what happens: one queue of events, and a file for each kind of inhabitant),
//! [`network`], [`storage`] (what regions are kept in), [`cipher`] (blocks that tell their story), [`oracle`] (who
//! judges), [`outcome`] (numbers and tables), [`dice`] and [`trace`].
//!
//! The cores under test are those that the programs run: `crucible_upstairs::core`, `crucible_downstairs::core`,
//! `crucible_downstairs::store`. Only sockets, threads, clocks and the cipher are replaced.

#![forbid(unsafe_code)]

pub mod cipher;
pub mod dice;
pub mod faults;
pub mod network;
pub mod oracle;
pub mod outcome;
pub mod scenario;
pub mod seeds;
pub mod setup;
pub mod storage;
pub mod trace;
mod world;

pub use faults::{Fault, Faults};
pub use outcome::{Outcome, Table};
pub use scenario::{DiskKind, Scenario, run, shrink};
