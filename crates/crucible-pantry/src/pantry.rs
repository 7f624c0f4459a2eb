//! The volumes of a pantry, by the names that were given to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crucible_upstairs::core::{Phase, ReplaceResult, VolumeError};
use crucible_upstairs::options::{CompareError, VolumeConstructionRequest};
use crucible_upstairs::volume::Volume;
use tokio::sync::watch;

use crate::api::{NAME_MAX, PantryStatus, VolumeStatus};
use crate::error::PantryError;
use crate::jobs::Jobs;

/// Volumes at once.
const VOLUMES_MAX: usize = 256;

/// How far a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Activating,
    Active,
    /// It is no longer in the pantry.
    Failed(PantryError),
}

/// One volume.
#[derive(Debug)]
struct Entry {
    request: tokio::sync::Mutex<VolumeConstructionRequest>,
    volume: Volume,
    state: watch::Sender<State>,
}

impl Entry {
    async fn wait(&self) -> Result<(), PantryError> {
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| *state != State::Activating).await;
        match settled.map(|state| state.clone()) {
            Ok(State::Failed(error)) => Err(error),
            Ok(_) => Ok(()),
            Err(_) => Err(PantryError::NotNow("the volume was let go".to_owned())),
        }
    }
}

/// All volumes, and the jobs on them. Cheap to clone; must be used within a tokio runtime.
#[derive(Clone, Debug, Default)]
pub struct Pantry {
    volumes: Arc<Mutex<BTreeMap<String, Arc<Entry>>>>,
    /// What was begun and goes on.
    pub jobs: Jobs,
}

/// A name may be any short text: uuids, mostly.
fn check_name(what: &str, name: &str) -> Result<(), PantryError> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(PantryError::Bad(format!(
            "{what}: expected 1 to {NAME_MAX} bytes, found {}",
            name.len()
        )));
    }
    Ok(())
}

impl Pantry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Entry>>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Result<Arc<Entry>, PantryError> {
        let volumes = self.lock();
        let entry = volumes.get(id).cloned();
        entry.ok_or_else(|| PantryError::Missing(format!("there is no volume {id} here")))
    }

    /// The volume of this name; it need not be active yet.
    pub fn volume(&self, id: &str) -> Result<Volume, PantryError> {
        Ok(self.find(id)?.volume.clone())
    }

    /// Of all.
    pub fn status(&self) -> PantryStatus {
        PantryStatus {
            volumes: self.lock().keys().cloned().collect(),
            num_job_handles: self.jobs.count(None),
        }
    }

    /// Of one.
    pub async fn volume_status(&self, id: &str) -> Result<VolumeStatus, PantryError> {
        let entry = self.find(id)?;
        let seen_active = *entry.state.borrow() == State::Active;
        let insights = entry.volume.insights().await;
        let all = insights
            .iter()
            .all(|insight| insight.status.phase == Phase::Active);
        Ok(VolumeStatus {
            active: seen_active && all && insights.len() == entry.volume.regions().len(),
            seen_active,
            num_job_handles: self.jobs.count(Some(id)),
        })
    }

    /// Takes a volume in, and begins to activate it, unless it is here already.
    async fn enter(
        &self,
        id: &str,
        request: VolumeConstructionRequest,
    ) -> Result<Arc<Entry>, PantryError> {
        check_name("volume", id)?;
        if let Ok(entry) = self.find(id) {
            return same(id, entry, &request).await;
        }
        let wanted = request.clone();
        // Opens files, asks for the length of images.
        let built = tokio::task::spawn_blocking(move || Volume::build(&wanted));
        let volume = built
            .await
            .map_err(|error| PantryError::Failed(error.to_string()))?
            .map_err(|error| PantryError::Bad(error.to_string()))?;
        let entry = Arc::new(Entry {
            request: tokio::sync::Mutex::new(request.clone()),
            volume,
            state: watch::Sender::new(State::Activating),
        });
        let other = {
            let mut volumes = self.lock();
            if !volumes.contains_key(id) && volumes.len() >= VOLUMES_MAX {
                return Err(PantryError::NotNow(format!(
                    "there are {VOLUMES_MAX} volumes; detach some"
                )));
            }
            match volumes.get(id) {
                Some(other) => Some(other.clone()),
                None => {
                    volumes.insert(id.to_owned(), entry.clone());
                    None
                }
            }
        };
        // Somebody else was faster. Ours has connected to nobody yet.
        if let Some(other) = other {
            return same(id, other, &request).await;
        }
        let (pantry, name, new) = (self.clone(), id.to_owned(), entry.clone());
        tokio::spawn(async move { pantry.activate(&name, &new).await });
        Ok(entry)
    }

    async fn activate(&self, id: &str, entry: &Arc<Entry>) {
        let state = match entry.volume.activate(None).await {
            Ok(_) => {
                tracing::info!(volume = id, "attached");
                State::Active
            }
            Err(error) => {
                tracing::warn!(volume = id, %error, "not attached");
                let mut volumes = self.lock();
                if volumes
                    .get(id)
                    .is_some_and(|other| Arc::ptr_eq(other, entry))
                {
                    volumes.remove(id);
                }
                State::Failed(error.into())
            }
        };
        entry.state.send_replace(state);
    }

    /// Attaches a volume, and waits until it is active, however long that takes: also after its caller has gone, it
    /// goes on. The same request again is no error.
    pub async fn attach(
        &self,
        id: &str,
        request: VolumeConstructionRequest,
    ) -> Result<(), PantryError> {
        self.enter(id, request).await?.wait().await
    }

    /// The same as a job.
    pub fn attach_in_background(
        &self,
        id: &str,
        request: VolumeConstructionRequest,
        job: &str,
    ) -> Result<(), PantryError> {
        check_name("volume", id)?;
        check_name("job_id", job)?;
        request
            .validate()
            .map_err(|error| PantryError::Bad(error.to_string()))?;
        let (pantry, name) = (self.clone(), id.to_owned());
        self.jobs.begin(job, id, async move {
            let attached = pantry.attach(&name, request).await;
            attached.map_err(|error| error.to_string())
        })
    }

    /// Breaks off the jobs of a volume, flushes it, and lets it go. That there is none is no error: it may have been
    /// asked before.
    pub async fn detach(&self, id: &str) -> Result<(), PantryError> {
        let Some(entry) = self.lock().remove(id) else {
            tracing::info!(volume = id, "detached already");
            return Ok(());
        };
        self.jobs.drop_all_of(id);
        let let_go = entry.volume.deactivate().await;
        // Its threads end with it, whatever came of the flush.
        let ended = entry.volume.shut_down().await;
        tracing::info!(volume = id, ?let_go, ?ended, "detached");
        match let_go {
            Ok(()) | Err(VolumeError::Inactive) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Detaches all.
    pub async fn detach_all(&self) {
        let names: Vec<String> = self.lock().keys().cloned().collect();
        for name in names {
            if let Err(error) = self.detach(&name).await {
                tracing::error!(volume = name, %error, "let go with an error");
            }
        }
    }

    /// Puts a region server in the place of another: the one in which the new request differs.
    pub async fn replace(
        &self,
        id: &str,
        request: VolumeConstructionRequest,
    ) -> Result<ReplaceResult, PantryError> {
        let entry = self.find(id)?;
        let mut present = entry.request.lock().await;
        let change = match present.replaced_target(&request) {
            Ok(change) => change,
            Err(CompareError::Same) => return Ok(ReplaceResult::VcrMatches),
            Err(error) => return Err(PantryError::Bad(error.to_string())),
        };
        let result = entry.volume.replace(change.old, change.new).await?;
        if result != ReplaceResult::Missing {
            *present = request;
        }
        Ok(result)
    }
}

/// Whether what is here under this name is what is wanted.
async fn same(
    id: &str,
    entry: Arc<Entry>,
    request: &VolumeConstructionRequest,
) -> Result<Arc<Entry>, PantryError> {
    if *entry.request.lock().await == *request {
        return Ok(entry);
    }
    Err(PantryError::Conflict(format!(
        "volume {id} is attached with another construction request; detach it first"
    )))
}
