//! From what was typed to an active volume.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crucible_upstairs::core::{ReplicaState, VolumeError};
use crucible_upstairs::drive::Setup;
use crucible_upstairs::options::{CrucibleOpts, VolumeConstructionRequest};
use crucible_upstairs::store::Insight;
use crucible_upstairs::volume::{Volume, block_on};
use uuid::Uuid;

use crate::args::VolumeOptions;
use crate::core::Field;
use crate::dsc::Dsc;

/// After so long a user is told what activation waits for, and then again.
const TELL_AFTER: Duration = Duration::from_secs(3);
/// The pause before activation is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A volume that can be activated.
#[derive(Debug)]
pub struct Attachment {
    /// Not active yet.
    pub volume: Volume,
    /// To activate it with.
    pub generation: u64,
}

/// Builds the volume. Errors are texts for the user.
pub fn attach(options: &VolumeOptions, dsc: Option<&Dsc>) -> Result<Attachment, String> {
    if let Some(path) = &options.vcr {
        let at = |error: &dyn std::fmt::Display| format!("--vcr {}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(|error| at(&error))?;
        let request: VolumeConstructionRequest =
            serde_json::from_str(&text).map_err(|error| at(&error))?;
        let volume = Volume::build(&request).map_err(|error| at(&error))?;
        let regions = request.regions();
        let highest = regions.iter().map(|(_, generation)| *generation).max();
        return Ok(Attachment {
            volume,
            generation: options.generation.or(highest).unwrap_or(1),
        });
    }
    let targets = match (options.target.as_slice(), dsc) {
        ([], Some(dsc)) => dsc
            .ports()?
            .into_iter()
            .take(3)
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .collect(),
        (targets, _) => targets.to_vec(),
    };
    let targets: [SocketAddr; 3] = targets.try_into().map_err(|found: Vec<SocketAddr>| {
        format!(
            "three region servers are needed, found {}: give --target three times, or --vcr, or --dsc",
            found.len()
        )
    })?;
    let mut opts = CrucibleOpts::new(options.id.unwrap_or_else(Uuid::new_v4), targets);
    opts.lossy = options.lossy;
    opts.flush_timeout = options.flush_timeout;
    opts.key.clone_from(&options.key);
    opts.cert_pem.clone_from(&options.cert_pem);
    opts.key_pem.clone_from(&options.key_pem);
    opts.root_cert_pem.clone_from(&options.root_cert_pem);
    opts.control = options.control;
    opts.read_only = options.read_only;
    opts.degraded_activation = options.degraded_activation;
    let generation = options.generation.unwrap_or(1);
    let setup = Setup::new(&opts, None, generation).map_err(|error| error.to_string())?;
    let volume = Volume::region(setup).map_err(|error| error.to_string())?;
    Ok(Attachment { volume, generation })
}

/// Activates, and tells `notice` what it waits for when it takes long. `stop` gives up.
pub fn activate(
    attachment: &Attachment,
    retry: bool,
    stop: &AtomicBool,
    notice: &mut dyn FnMut(&str),
) -> Result<(), String> {
    let Attachment { volume, generation } = attachment;
    loop {
        let outcome = watched_activation(volume, *generation, stop, notice);
        match outcome {
            Ok(()) => return Ok(()),
            Err(error) if retry && !stop.load(Ordering::Relaxed) => {
                notice(&format!("activation failed: {error}; trying again"));
                std::thread::sleep(RETRY_AFTER);
            }
            Err(error) => return Err(format!("activation failed: {error}")),
        }
    }
}

fn watched_activation(
    volume: &Volume,
    generation: u64,
    stop: &AtomicBool,
    notice: &mut dyn FnMut(&str),
) -> Result<(), VolumeError> {
    let active = {
        let volume = volume.clone();
        std::thread::spawn(move || volume.activate_blocking(Some(generation)))
    };
    let mut told = Instant::now();
    while !active.is_finished() {
        std::thread::sleep(Duration::from_millis(2));
        if stop.load(Ordering::Relaxed) {
            block_on(volume.shut_down())?;
            break;
        }
        if told.elapsed() > TELL_AFTER {
            told = Instant::now();
            notice("waiting for region servers:");
            for line in describe(volume) {
                notice(&format!("  {line}"));
            }
        }
    }
    active
        .join()
        .unwrap_or(Err(VolumeError::ShutDown))
        .map(drop)
}

/// The size of an active volume. A volume that is not made of extents counts as one.
pub fn field(volume: &Volume) -> Result<Field, String> {
    let shape = volume.shape().ok_or("the volume is not active")?;
    if shape.blocks == 0 {
        return Err("the volume has no blocks".to_owned());
    }
    let insights = block_on(volume.insights());
    let geometry = insights.first().and_then(|insight| insight.status.geometry);
    Ok(Field {
        block_size: shape.block_size,
        blocks: shape.blocks,
        blocks_per_extent: geometry.map_or(shape.blocks, |g| g.blocks_per_extent().into()),
    })
}

/// Where each region server stands, in words.
pub fn describe(volume: &Volume) -> Vec<String> {
    let insights = block_on(volume.insights());
    let replicas = insights.iter().flat_map(|insight| &insight.status.replicas);
    replicas
        .map(|replica| {
            let state = match replica.state {
                ReplicaState::Idle => "idle".to_owned(),
                ReplicaState::Connecting { mode, step } => {
                    format!("{} ({})", step.name(), mode.name())
                }
                ReplicaState::Active => "active".to_owned(),
                ReplicaState::LiveRepair => "live_repair".to_owned(),
            };
            match &replica.last_loss {
                Some(loss) if replica.state != ReplicaState::Active => {
                    format!("{}: {state}, {loss}", replica.address)
                }
                _ => format!("{}: {state}", replica.address),
            }
        })
        .collect()
}

/// Waits until `done` says so of all sets of region servers.
///
/// Errors: after `patience`, what they are in; or that `stop` was set.
pub fn wait_until(
    volume: &Volume,
    patience: Duration,
    stop: &AtomicBool,
    what: &str,
    done: impl Fn(&Insight) -> bool,
) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        let insights = block_on(volume.insights());
        if insights.iter().all(&done) {
            return Ok(());
        }
        if stop.load(Ordering::Relaxed) {
            return Err(format!("stopped while waiting until {what}"));
        }
        if begin.elapsed() > patience {
            let states = describe(volume).join("; ");
            let seconds = patience.as_secs();
            return Err(format!("waited {seconds} s until {what}: {states}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether all three are in use.
pub fn all_active(insight: &Insight) -> bool {
    let replicas = &insight.status.replicas;
    replicas.iter().all(|r| r.state == ReplicaState::Active)
}

/// Whether all three are in use and have done everything.
pub fn is_stable(insight: &Insight) -> bool {
    let idle = |jobs: &[_; 3]| {
        jobs.iter()
            .all(|state: &crucible_upstairs::core::JobState| state.is_finished())
    };
    all_active(insight) && insight.work.iter().all(|job| idle(&job.states))
}
