//! Activating volumes: waiting for region servers, with news of whom and why; refusals in terms of the keys to change.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crucible_upstairs::core::{Mismatch, ReplicaState, VolumeError};
use crucible_upstairs::store::Shape;
use crucible_upstairs::volume::{Volume, block_on};

use super::VolumesError;
use super::generation::Generations;
use super::probe::{KeyFits, key_fits};
use crate::config::volume::CrucibleConfig;

/// A wait that is over before this is not worth a word.
const FIRST_WORD: Duration = Duration::from_secs(2);
/// Then, this often it is said for whom and why.
const NEXT_WORD: Duration = Duration::from_secs(15);
/// How often a generation of ours is raised, by steps that double. Regions name the number that they were last flushed
/// with; what they have promised since, they only keep to.
const RAISES_MAX: u32 = 16;
/// How often somebody who wants an end is listened to.
const LISTEN_EVERY: Duration = Duration::from_millis(100);

/// A disk with the volume under it.
type Dialled<'a> = (&'a str, &'a CrucibleConfig, Volume);

/// How one activation ended.
struct News {
    at: usize,
    generation: u64,
    result: Result<Shape, VolumeError>,
}

/// Activates all side by side.
pub(super) fn activate(
    volumes: &[Dialled<'_>],
    generations: &Generations,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<(), VolumesError> {
    let (sender, news) = mpsc::channel();
    let begin = |at: usize, generation: u64| {
        let Some((_, _, volume)) = volumes.get(at) else {
            return Ok(());
        };
        let (volume, sender) = (volume.clone(), sender.clone());
        let work = move || {
            let result = volume.activate_blocking(Some(generation));
            let done = News {
                at,
                generation,
                result,
            };
            // When nobody listens any more, the volume has been shut down.
            drop(sender.send(done));
        };
        let thread = std::thread::Builder::new().name("activate".to_owned());
        thread.spawn(work).map(drop).map_err(VolumesError::System)
    };
    let mut waiting: Vec<bool> = vec![true; volumes.len()];
    let mut raised: Vec<u32> = vec![0; volumes.len()];
    for (at, (disk, config, _)) in volumes.iter().enumerate() {
        let generation = match config.generation {
            Some(generation) => generation,
            // Reading takes nothing from anybody, and leaves no trace.
            None if config.opts.read_only => 1,
            None => next(generations, disk, 0)?,
        };
        begin(at, generation)?;
    }
    let mut next_word = Instant::now() + FIRST_WORD;
    while waiting.iter().any(|it| *it) {
        let News {
            at,
            generation,
            result,
        } = match news.recv_timeout(LISTEN_EVERY) {
            Ok(news) => news,
            Err(RecvTimeoutError::Timeout) => {
                let open = || volumes.iter().zip(&waiting).filter(|(_, it)| **it);
                if interrupted() {
                    let names = open().map(|((disk, ..), _)| format!("[block_dev.{disk}]"));
                    return Err(VolumesError::Interrupted(names.collect()));
                }
                if Instant::now() >= next_word {
                    next_word = Instant::now() + NEXT_WORD;
                    open().for_each(|((disk, _, volume), _)| announce(disk, volume));
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let Some((disk, config, volume)) = volumes.get(at) else {
            continue;
        };
        let ours_to_choose = config.generation.is_none();
        match result {
            Ok(shape) => {
                check(disk, config, volume, shape)?;
                tracing::info!(
                    disk,
                    generation,
                    bytes = shape.bytes(),
                    block_size = shape.block_size,
                    encrypted = shape.encrypted,
                    read_only = shape.read_only,
                    "volume active"
                );
                if let Some(it) = waiting.get_mut(at) {
                    *it = false;
                }
            }
            Err(VolumeError::GenerationTooLow { requested, found })
                if ours_to_choose && raised.get(at).is_some_and(|it| *it < RAISES_MAX) =>
            {
                let times = raised.get(at).copied().unwrap_or(RAISES_MAX);
                if let Some(it) = raised.get_mut(at) {
                    *it = times + 1;
                }
                // Who refuses does not always say what it knows; then the steps grow.
                let above = found.max(requested.saturating_add((1 << times) - 1));
                let higher = next(generations, disk, above)?;
                tracing::info!(
                    disk,
                    refused = requested,
                    generation = higher,
                    "the downstairs know a later generation than this configuration; passing it"
                );
                begin(at, higher)?;
            }
            Err(error) => return Err(refusal(disk, config, error)),
        }
    }
    Ok(())
}

fn next(generations: &Generations, disk: &str, above: u64) -> Result<u64, VolumesError> {
    let number = generations.next(disk, above);
    number.map_err(|source| VolumesError::Generation {
        disk: disk.to_owned(),
        source,
    })
}

/// Says who is missing, and why as far as one knows.
fn announce(disk: &str, volume: &Volume) {
    for insight in block_on(volume.insights()) {
        for replica in &insight.status.replicas {
            let address = replica.address;
            match replica.state {
                ReplicaState::Connecting { step, .. } if step.name() == "wait_quorum" => {
                    tracing::info!(disk, %address, "this downstairs is ready and waits for the others");
                }
                ReplicaState::Connecting { step, .. } => {
                    let reason = replica.last_loss.as_deref().unwrap_or("no answer yet");
                    tracing::warn!(disk, %address, reason, step = step.name(), "waiting for this downstairs; it is tried again and again");
                }
                ReplicaState::Idle | ReplicaState::Active | ReplicaState::LiveRepair => {}
            }
        }
    }
}

/// What can only be known of an active volume: a geometry of which not all was given, and whether the key fits.
fn check(
    disk: &str,
    config: &CrucibleConfig,
    volume: &Volume,
    shape: Shape,
) -> Result<(), VolumesError> {
    let refused = |key, reason| VolumesError::Refused {
        disk: disk.to_owned(),
        key,
        reason,
    };
    let insights = block_on(volume.insights());
    let regions = insights.iter().find_map(|it| it.status.geometry);
    if let Some((key, given, found)) = regions.and_then(|it| config.shape.differs_from(&it)) {
        return Err(refused(key, differs(given, found)));
    }
    if shape.encrypted && key_fits(volume, shape) == KeyFits::No {
        let reason =
            "this key opens none of the blocks that were written; it is not the volume's key";
        return Err(refused("encryption_key", reason.to_owned()));
    }
    Ok(())
}

fn differs(given: u64, found: u64) -> String {
    format!("{given} is given, the regions have {found}; correct the key or leave it out")
}

/// A failed activation in terms of the key to change.
fn refusal(disk: &str, config: &CrucibleConfig, error: VolumeError) -> VolumesError {
    let (key, reason) = match &error {
        VolumeError::GenerationTooLow { requested, found } if found > requested => (
            "generation",
            format!(
                "{requested} is too low: the regions were used at {found}; use {} or more, or leave the key out",
                found.saturating_add(1)
            ),
        ),
        VolumeError::GenerationTooLow { requested, .. } => (
            "generation",
            format!(
                "the downstairs refuse {requested}: they know a higher one, of a program that has the volume or had it; \
                 end that program, and give a higher number here to take the volume over"
            ),
        ),
        VolumeError::Mismatch {
            address, mismatch, ..
        } => match mismatch {
            Mismatch::Encryption { theirs: true, .. } => (
                "encryption_key",
                format!("the region of {address} is encrypted; its key is needed"),
            ),
            Mismatch::Encryption { .. } => (
                "encryption_key",
                format!("the region of {address} is not encrypted; leave the key out"),
            ),
            Mismatch::ReadOnly { theirs, .. } => (
                "read_only",
                format!("{address} serves its region with read-only {theirs}; say the same here"),
            ),
            Mismatch::Geometry { theirs, .. } => match config.shape.differs_from(theirs) {
                Some((key, given, found)) => (key, differs(given, found)),
                None => ("targets", error.to_string()),
            },
            _ => ("targets", error.to_string()),
        },
        _ => {
            return VolumesError::Failed {
                disk: disk.to_owned(),
                source: error,
            };
        }
    };
    VolumesError::Refused {
        disk: disk.to_owned(),
        key,
        reason,
    }
}
