//! What every device does when the machine starts, pauses, resets and stops.

use thiserror::Error;

/// Why a saved state could not be taken back.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The state is of another kind or version of device.
    #[error("{device}: saved state is {found}, expected {expected}")]
    Kind {
        /// The device that was asked.
        device: String,
        /// What it can restore.
        expected: String,
        /// What it was given.
        found: String,
    },
    /// The state does not parse or contradicts itself.
    #[error("{device}: saved state is damaged: {reason}")]
    Damaged {
        /// The device that was asked.
        device: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A device's state as saved: kind, version, content.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Snapshot {
    /// What kind of device this is the state of.
    pub kind: String,
    /// Version of the content's layout, from 1.
    pub version: u32,
    /// The state itself.
    pub data: serde_json::Value,
}

impl Snapshot {
    /// The state of a device of `kind`, in version `version` of its layout.
    ///
    /// A state that JSON cannot hold (a map with keys that are no strings) is saved as null, which
    /// [`Snapshot::open`] refuses; devices save plain structures.
    pub fn of(kind: &str, version: u32, state: &impl serde::Serialize) -> Self {
        Self {
            kind: kind.to_owned(),
            version,
            data: serde_json::to_value(state).unwrap_or_default(),
        }
    }

    /// The state inside, if it is of `kind` and `version` and parses. `device` names the asker.
    pub fn open<T: serde::de::DeserializeOwned>(
        &self,
        device: &str,
        kind: &str,
        version: u32,
    ) -> Result<T, RestoreError> {
        if self.kind != kind || self.version != version {
            return Err(RestoreError::Kind {
                device: device.to_owned(),
                expected: format!("{kind} {version}"),
                found: format!("{} {}", self.kind, self.version),
            });
        }
        T::deserialize(&self.data).map_err(|error| RestoreError::Damaged {
            device: device.to_owned(),
            reason: error.to_string(),
        })
    }
}

/// A part of the machine that lives and dies with it.
///
/// Order: `start` once; then `pause` and `resume` in turn; `reset` and `halt` only while paused (or
/// never started). A paused device keeps taking register accesses but starts no work and raises no
/// interrupt, and `pause` returns when its outstanding work is done.
pub trait Lifecycle: Send + Sync {
    /// A name that is unique in the machine, for logs and snapshots.
    fn name(&self) -> &str;

    /// The machine is about to run for the first time.
    fn start(&self) {}

    /// Stop working; returns when nothing is outstanding.
    fn pause(&self) {}

    /// Work again after `pause`.
    fn resume(&self) {}

    /// Back to the power-on state, as by the reset pin.
    fn reset(&self) {}

    /// The machine will not run again: let go of threads and files.
    fn halt(&self) {}

    /// The state, if this device has any beyond its configuration.
    fn save(&self) -> Option<Snapshot> {
        None
    }

    /// Takes back a state that `save` made, on a device of the same configuration.
    ///
    /// Errors leave the device as after `reset`.
    fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        Err(RestoreError::Kind {
            device: self.name().to_owned(),
            expected: "no state".to_owned(),
            found: format!("{} {}", snapshot.kind, snapshot.version),
        })
    }
}
