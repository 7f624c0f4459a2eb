//! `run`: serves one region.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crucible_downstairs::drive::{self, Config, Faults, TlsSettings};
use crucible_downstairs::store::{Mode, Region};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{ModeArgument, RunArguments};
use crate::output::{Done, Failure, open, say, start_log};

pub(crate) fn run(arguments: &RunArguments) -> Done {
    start_log();
    bound_memory();
    for (flag, given) in [
        ("--oximeter", arguments.oximeter.is_some()),
        ("--trace-endpoint", arguments.trace_endpoint.is_some()),
    ] {
        if given {
            tracing::warn!("{flag} is accepted for compatibility; nothing is sent there");
        }
    }
    let mode = match arguments.mode {
        ModeArgument::Ro => Mode::ReadOnly,
        ModeArgument::Rw => Mode::ReadWrite,
    };
    let mut config = Config::at(SocketAddr::new(arguments.address, arguments.port));
    config.faults = Faults {
        lossy: arguments.lossy,
        read_errors: arguments.read_errors,
        write_errors: arguments.write_errors,
        flush_errors: arguments.flush_errors,
    };
    let tls = &arguments.tls;
    if let (Some(certificates), Some(key), Some(root)) =
        (&tls.cert_pem, &tls.key_pem, &tls.root_cert_pem)
    {
        config.tls = Some(tls_settings(certificates, key, root)?);
    }
    let region = Arc::new(open(&arguments.data, mode)?);
    runtime()?.block_on(serve_until_signal(region, config))
}

/// Keeps what is freed from staying ours. Each thread of glibc has a heap of its own, and a megabyte that one of
/// them read and another let go leaves a hole in it: measured with 16 writes of 1 MiB in flight, 100 MiB stay
/// resident without this and 48 MiB with it, at the same speed.
pub(crate) fn bound_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (what, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, 2 << 20),
        (libc::M_TRIM_THRESHOLD, 4 << 20),
    ] {
        // SAFETY: `mallopt` takes two numbers and may be called at any time; here no other thread runs yet. What it
        // does not know it refuses.
        unsafe { libc::mallopt(what, value) };
    }
}

/// Two threads for sockets: disk work has its own.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_name("socket")
        .enable_all()
        .build()
        .map_err(Failure::about("cannot start threads"))
}

#[cfg(feature = "tls")]
pub(crate) fn tls_settings(
    certificates: &Path,
    key: &Path,
    root: &Path,
) -> Result<TlsSettings, Failure> {
    TlsSettings::from_files(certificates, key, root).map_err(Failure::about("TLS"))
}

#[cfg(not(feature = "tls"))]
pub(crate) fn tls_settings(_: &Path, _: &Path, _: &Path) -> Result<TlsSettings, Failure> {
    Err(Failure::new(
        "TLS: this program was built without it; build with the feature `tls`",
    ))
}

async fn serve_until_signal(region: Arc<Region>, config: Config) -> Done {
    let about_signals = || Failure::about("cannot wait for signals");
    let mut terminate = signal(SignalKind::terminate()).map_err(about_signals())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(about_signals())?;
    let mode = match region.mode() {
        Mode::ReadWrite => "rw",
        Mode::ReadOnly => "ro",
    };
    let uuid = region.definition().uuid;
    let serving = drive::serve(region, config)
        .await
        .map_err(|error| Failure::new(error.to_string()))?;
    // Supervisors and tests wait for this line.
    say(format_args!(
        "serving {uuid} ({mode}) on {}, repair on {}",
        serving.address(),
        serving.repair_address()
    ))?;
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!("{name}: closing");
    serving.stop().await;
    Ok(())
}
