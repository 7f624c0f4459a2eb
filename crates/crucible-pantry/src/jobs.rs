//! Work that goes on after its request: found again by its id, waited for, forgotten once its result was told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::error::PantryError;

/// Jobs that are remembered at once: under way, or with a result that nobody has asked for.
pub const JOBS_MAX: usize = 1024;

/// How a job ended: well, or with these words.
type Ended = Option<Result<(), String>>;

#[derive(Debug)]
struct Job {
    volume: String,
    ended: watch::Receiver<Ended>,
    abort: AbortHandle,
}

/// All jobs.
#[derive(Clone, Debug, Default)]
pub struct Jobs(Arc<Mutex<BTreeMap<String, Job>>>);

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Job>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a job of a volume. It ends early when [`Jobs::drop_all_of`] its volume is called.
    ///
    /// Errors: the id is in use, or there are too many. Then `work` is not begun.
    pub fn begin(
        &self,
        id: &str,
        volume: &str,
        work: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> Result<(), PantryError> {
        let mut jobs = self.lock();
        if jobs.contains_key(id) {
            return Err(PantryError::Conflict(format!(
                "there is a job {id} already"
            )));
        }
        if jobs.len() >= JOBS_MAX {
            return Err(PantryError::NotNow(format!(
                "there are {JOBS_MAX} jobs; ask for the results of those that are finished"
            )));
        }
        let (tell, ended) = watch::channel(None);
        let name = id.to_owned();
        let task = tokio::spawn(async move {
            let result = work.await;
            match &result {
                Ok(()) => tracing::info!(job = name, "done"),
                Err(error) => tracing::warn!(job = name, error, "failed"),
            }
            tell.send_replace(Some(result));
        });
        let job = Job {
            volume: volume.to_owned(),
            ended,
            abort: task.abort_handle(),
        };
        jobs.insert(id.to_owned(), job);
        Ok(())
    }

    fn find(&self, id: &str) -> Result<watch::Receiver<Ended>, PantryError> {
        let jobs = self.lock();
        let job = jobs.get(id);
        job.map(|job| job.ended.clone())
            .ok_or_else(|| PantryError::Missing(format!("there is no job {id}")))
    }

    /// Whether it has ended, also if it was broken off.
    pub fn is_finished(&self, id: &str) -> Result<bool, PantryError> {
        let ended = self.find(id)?;
        let is = ended.borrow().is_some() || ended.has_changed().is_err();
        Ok(is)
    }

    /// Waits until it has ended, and forgets it.
    pub async fn result(&self, id: &str) -> Result<Result<(), String>, PantryError> {
        let mut ended = self.find(id)?;
        // An error: it was broken off, and nobody is left to say so.
        let result = match ended.wait_for(Option::is_some).await {
            Ok(result) => result.clone(),
            Err(_) => None,
        };
        self.lock().remove(id);
        Ok(result.unwrap_or_else(|| Err("it was broken off".to_owned())))
    }

    /// How many there are; of one volume, or of all.
    pub fn count(&self, volume: Option<&str>) -> usize {
        let jobs = self.lock();
        let of = |job: &&Job| volume.is_none_or(|volume| job.volume == volume);
        jobs.values().filter(of).count()
    }

    /// Breaks off all jobs of a volume. Their results can still be asked for.
    pub fn drop_all_of(&self, volume: &str) {
        for job in self.lock().values().filter(|job| job.volume == volume) {
            job.abort.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
    }

    #[test]
    fn a_result_is_told_once() {
        runtime().block_on(async {
            let jobs = Jobs::default();
            jobs.begin("a", "v", async { Ok(()) }).unwrap();
            jobs.begin("b", "v", async { Err("no".to_owned()) })
                .unwrap();
            assert_eq!(jobs.count(None), 2);
            assert_eq!(jobs.result("a").await, Ok(Ok(())));
            assert_eq!(jobs.result("b").await, Ok(Err("no".to_owned())));
            assert!(matches!(
                jobs.result("a").await,
                Err(PantryError::Missing(_))
            ));
            assert!(matches!(
                jobs.is_finished("a"),
                Err(PantryError::Missing(_))
            ));
            assert_eq!(jobs.count(Some("v")), 0);
        });
    }

    #[test]
    fn an_id_belongs_to_one_job() {
        runtime().block_on(async {
            let jobs = Jobs::default();
            jobs.begin("a", "v", std::future::pending()).unwrap();
            let again = jobs.begin("a", "w", async { Ok(()) });
            assert!(matches!(again, Err(PantryError::Conflict(_))), "{again:?}");
            assert_eq!(jobs.is_finished("a"), Ok(false));
        });
    }

    #[test]
    fn a_volume_that_goes_takes_its_jobs_along() {
        runtime().block_on(async {
            let jobs = Jobs::default();
            jobs.begin("a", "v", std::future::pending()).unwrap();
            jobs.begin("b", "w", std::future::pending()).unwrap();
            jobs.drop_all_of("v");
            assert_eq!(
                jobs.result("a").await,
                Ok(Err("it was broken off".to_owned()))
            );
            assert_eq!(jobs.is_finished("b"), Ok(false));
        });
    }

    #[test]
    fn there_are_never_too_many() {
        runtime().block_on(async {
            let jobs = Jobs::default();
            for number in 0..JOBS_MAX {
                jobs.begin(&number.to_string(), "v", async { Ok(()) })
                    .unwrap();
            }
            let more = jobs.begin("more", "v", async { Ok(()) });
            assert!(matches!(more, Err(PantryError::NotNow(_))), "{more:?}");
            jobs.result("0").await.unwrap().unwrap();
            jobs.begin("more", "v", async { Ok(()) }).unwrap();
        });
    }
}
