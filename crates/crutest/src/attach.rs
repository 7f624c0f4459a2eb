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
use crate::dsc::{Dsc, RegionInfo};

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
    let sets = match (options.target.as_slice(), dsc) {
        ([], Some(dsc)) => sets(&dsc.ports()?)?,
        (targets, _) => vec![three(targets)?],
    };
    let generation = options.generation.unwrap_or(1);
    let volume = match (sets.as_slice(), dsc) {
        ([targets], _) => {
            let opts = opts_for(options, 0, *targets);
            let setup = Setup::new(&opts, None, generation);
            let setup = setup.map_err(|error| as_typed(&error.to_string()))?;
            Volume::region(setup).map_err(|error| as_typed(&error.to_string()))?
        }
        (sets, Some(dsc)) => {
            let request = chain_of(options, sets, dsc.region_info()?, generation);
            Volume::build(&request).map_err(|error| as_typed(&error.to_string()))?
        }
        (_, None) => return Err(wrong_count(options.target.len())),
    };
    Ok(Attachment { volume, generation })
}

/// The region servers of dsc, three by three; one or two that are left over are spare ones.
fn sets(ports: &[u16]) -> Result<Vec<[SocketAddr; 3]>, String> {
    let (sets, _spare) = ports.as_chunks::<3>();
    if sets.is_empty() {
        return Err(wrong_count(ports.len()));
    }
    let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok(sets.iter().map(|ports| ports.map(at)).collect())
}

fn three(targets: &[SocketAddr]) -> Result<[SocketAddr; 3], String> {
    targets.try_into().map_err(|_| wrong_count(targets.len()))
}

fn wrong_count(found: usize) -> String {
    format!(
        "three region servers are needed, found {found}: give --target three times, or --vcr, or --dsc"
    )
}

/// What was typed, for one set of region servers.
fn opts_for(options: &VolumeOptions, place: usize, targets: [SocketAddr; 3]) -> CrucibleOpts {
    // Each set is a volume of its own for its region servers.
    let id = options.id.filter(|_| place == 0);
    let mut opts = CrucibleOpts::new(id.unwrap_or_else(Uuid::new_v4), targets);
    opts.lossy = options.lossy;
    opts.flush_timeout = options.flush_timeout;
    opts.key.clone_from(&options.key);
    opts.cert_pem.clone_from(&options.cert_pem);
    opts.key_pem.clone_from(&options.key_pem);
    opts.root_cert_pem.clone_from(&options.root_cert_pem);
    // Two cannot answer at one address.
    opts.control = options.control.filter(|_| place == 0);
    opts.read_only = options.read_only;
    opts.degraded_activation = options.degraded_activation;
    opts
}

/// Several sets one after the other.
fn chain_of(
    options: &VolumeOptions,
    sets: &[[SocketAddr; 3]],
    region: RegionInfo,
    generation: u64,
) -> VolumeConstructionRequest {
    let part = |(place, targets): (usize, &[SocketAddr; 3])| VolumeConstructionRequest::Region {
        block_size: region.block_size,
        blocks_per_extent: region.blocks_per_extent,
        extent_count: region.extent_count,
        opts: opts_for(options, place, *targets),
        generation,
    };
    VolumeConstructionRequest::Volume {
        id: Uuid::new_v4(),
        block_size: region.block_size,
        sub_volumes: sets.iter().enumerate().map(part).collect(),
        read_only_parent: None,
    }
}

/// An error about a field of the options, about the flag that it came from.
fn as_typed(error: &str) -> String {
    let fields = [
        ("opts.target: ", "--target: "),
        ("opts.flush_timeout: ", "--flush-timeout: "),
        ("opts.key: ", "--key: "),
        ("opts: ", "--cert-pem, --key-pem, --root-cert-pem: "),
        ("gen: ", "--gen: "),
    ];
    for (field, flag) in fields {
        if let Some((_, what)) = error.split_once(field) {
            return format!("{flag}{what}");
        }
    }
    error.to_owned()
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Arguments;

    fn options(line: &str) -> VolumeOptions {
        let words = ["crutest", "one"]
            .into_iter()
            .chain(line.split_whitespace());
        Arguments::try_parse_from(words).unwrap().options.volume
    }

    fn refused(line: &str) -> String {
        attach(&options(line), None).unwrap_err()
    }

    #[test]
    fn region_servers_go_three_by_three_and_the_rest_is_spare() {
        let ports = |count: u16| (0..count).map(|at| 100 + 10 * at).collect::<Vec<_>>();
        let found = |count| sets(&ports(count)).map(|sets| sets.len());
        assert_eq!(found(3), Ok(1));
        assert_eq!(found(4), Ok(1));
        assert_eq!(found(7), Ok(2));
        assert_eq!(
            sets(&ports(6)).unwrap()[1].map(|address| address.port()),
            [130, 140, 150]
        );
        assert!(found(2).unwrap_err().contains("found 2"));
    }

    #[test]
    fn several_sets_are_one_volume_and_each_has_an_id_of_its_own() {
        let options = options("--id 11111111-2222-3333-4444-555555555555 --control 127.0.0.1:7777");
        let region = RegionInfo {
            block_size: 512,
            blocks_per_extent: 8,
            extent_count: 4,
        };
        let sets = sets(&[1, 2, 3, 4, 5, 6]).unwrap();
        let request = chain_of(&options, &sets, region, 9);
        request.validate().unwrap();
        let regions = request.regions();
        let [(first, 9), (second, 9)] = regions[..] else {
            panic!("{regions:?}");
        };
        assert_eq!(Some(first.id), options.id);
        assert_ne!(first.id, second.id);
        assert!(first.control.is_some() && second.control.is_none());
        assert_eq!(second.target[0].port(), 4);
    }

    #[test]
    fn what_is_wrong_is_called_by_its_flag() {
        let three = "-t 127.0.0.1:1 -t 127.0.0.1:2 -t 127.0.0.1:3";
        for (line, start) in [
            (format!("{three} -k short"), "--key: the key is not"),
            (
                "-t 127.0.0.1:1 -t 127.0.0.1:2 -t 127.0.0.1:2".to_owned(),
                "--target: 127.0.0.1:2 is named twice",
            ),
            (format!("{three} --flush-timeout 0"), "--flush-timeout: "),
            (
                format!("{three} --cert-pem x"),
                "--cert-pem, --key-pem, --root-cert-pem: key_pem is missing",
            ),
            ("-t 127.0.0.1:1".to_owned(), "three region servers"),
        ] {
            let text = refused(&line);
            assert!(text.starts_with(start), "{text}");
        }
    }
}
