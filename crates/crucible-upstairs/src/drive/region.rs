//! The handle of one set of three region servers, and the thread behind it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crucible_protocol::{Geometry, SessionId, UpstairsId};
use tokio::sync::oneshot;
use uuid::Uuid;
use vm_types::{Clock, Span};

use super::desk::{Desk, Turns};
use super::driver::Driver;
use super::intake::Intake;
use super::tls::{TlsClient, TlsError};
use crate::control;
use crate::core::{Command, Config, Upstairs};
use crate::crypt::{Crypt, Envelope, Key};
use crate::options::{CrucibleOpts, OptionsError};
use crate::store::{Ask, Insight, Outline, Shape, Store, Submission};

/// A set of three region servers in use. Ends, without a flush, when it is dropped: deactivate first.
pub struct Region {
    intake: Arc<Intake>,
    known: Arc<Known>,
    desk: Arc<Desk>,
    generation: u64,
    control: Option<SocketAddr>,
}

/// What a region is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// For the machine inside.
    pub config: Config,
    /// Of an encrypted volume.
    pub key: Option<Key>,
    /// Connections are TLS.
    pub tls: Option<TlsClient>,
    /// The generation that it is activated with when it is told none (that is, 0).
    pub generation: u64,
    /// Where to answer HTTP.
    pub control: Option<SocketAddr>,
    /// A test mode: what is sent to region servers is held back now and then.
    pub lossy: bool,
}

/// Why a region cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The options are wrong.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The files of TLS are wrong.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No thread, no runtime, or no port to listen on.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// The words of the system.
        error: std::io::Error,
    },
}

/// What the driver has learned and handles want to know without asking it.
#[derive(Debug)]
pub(super) struct Known {
    read_only: bool,
    encrypted: bool,
    geometry: Mutex<Option<Geometry>>,
}

impl Known {
    pub(super) fn activated(&self, geometry: Geometry) {
        *self.geometry.lock().unwrap_or_else(PoisonError::into_inner) = Some(geometry);
    }
}

impl Setup {
    /// From options as users write them. Without a geometry, that of the regions will do.
    pub fn new(
        opts: &CrucibleOpts,
        geometry: Option<Geometry>,
        generation: u64,
    ) -> Result<Self, StartError> {
        opts.validate()?;
        let key = opts.key()?;
        let mut config = Config::new(UpstairsId(opts.id), opts.targets()?);
        config.geometry = geometry;
        config.encrypted = key.is_some();
        config.read_only = opts.read_only;
        if opts.degraded_activation {
            config.degraded_activation = Some(DEGRADED_AFTER);
        }
        if let Some(after) = opts.flush_after() {
            let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
            config.flush_interval = Span::from_nanos(nanos);
        }
        Ok(Self {
            config,
            key,
            tls: opts
                .tls()
                .map(|paths| TlsClient::load(&paths))
                .transpose()?,
            generation,
            control: opts.control,
            lossy: opts.lossy,
        })
    }
}

/// How long a volume that may be activated with two regions waits for the third.
const DEGRADED_AFTER: Span = Span::from_secs(3);

impl Region {
    /// Starts the thread. Nothing is dialled before the volume is activated.
    pub fn start(setup: Setup) -> Result<Arc<Self>, StartError> {
        let Setup {
            mut config,
            key,
            tls,
            generation,
            control,
            lossy,
        } = setup;
        config.encrypted = key.is_some();
        let system = |what: &str| {
            let what = what.to_owned();
            move |error| StartError::System { what, error }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(system("starting the runtime"))?;
        let listener = match control {
            None => None,
            Some(address) => {
                let what = format!("listening for control on {address}");
                let listener = std::net::TcpListener::bind(address).map_err(system(&what))?;
                listener.set_nonblocking(true).map_err(system(&what))?;
                Some(listener)
            }
        };
        let intake = Arc::new(Intake::default());
        let known = Arc::new(Known {
            read_only: config.read_only,
            encrypted: config.encrypted,
            geometry: Mutex::new(config.geometry),
        });
        let clock = Clock::monotonic();
        let session = SessionId(Uuid::new_v4());
        config.jitter_seed = session.0.as_u64_pair().0;
        let bounds = (config.limits.bytes, config.patience);
        let core = Upstairs::new(config, session, clock.now());
        let nudge = intake.clone();
        let envelope = Envelope::new(key.as_ref());
        let crypt = Crypt::new(envelope, Box::new(move || nudge.nudge()));
        let entered = runtime.enter();
        let parts = (intake.clone(), known.clone());
        let driver = Driver::new(core, clock, parts, (tls, lossy), crypt, bounds);
        drop(entered);
        let desk = Arc::new(Desk::new(driver, runtime.handle().clone()));
        let region = Arc::new(Self {
            intake,
            known,
            desk: desk.clone(),
            generation,
            control: listener.as_ref().and_then(|l| l.local_addr().ok()),
        });
        let observer = Arc::downgrade(&region);
        let work = move || {
            runtime.block_on(async move {
                if let Some(listener) = listener {
                    tokio::spawn(control::serve(listener, observer));
                }
                Turns(desk).await;
            });
        };
        std::thread::Builder::new()
            .name("upstairs".to_owned())
            .spawn(work)
            .map_err(system("starting the upstairs thread"))?;
        Ok(region)
    }

    /// The generation that it was made with.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Where it answers HTTP: the port that was given, or found if that was 0.
    pub const fn control(&self) -> Option<SocketAddr> {
        self.control
    }

    /// All that it tells of itself; `None` when it has ended.
    pub async fn insight(&self) -> Option<Box<Insight>> {
        self.question().await.ok()
    }

    fn question(&self) -> oneshot::Receiver<Box<Insight>> {
        let (sender, receiver) = oneshot::channel();
        self.intake.ask(sender);
        receiver
    }
}

impl Store for Region {
    fn submit(&self, batch: &mut Vec<Submission>) {
        for submission in batch.iter_mut() {
            if let Ask::Command(Command::Activate {
                generation: generation @ 0,
            }) = &mut submission.ask
            {
                *generation = self.generation;
            }
        }
        let share = Desk::share_of_caller(batch);
        if let Some(sleeper) = self.intake.submit(batch) {
            self.desk.take_turn(share, &sleeper);
        }
    }

    fn shape(&self) -> Option<Shape> {
        let geometry = *self
            .known
            .geometry
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        geometry.map(|geometry| Shape {
            block_size: geometry.block_size(),
            blocks: geometry.block_count(),
            read_only: self.known.read_only,
            encrypted: self.known.encrypted,
        })
    }

    fn outline(&self) -> Outline {
        Outline::Region(self.question())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.intake.abandon();
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("known", &self.known)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}
