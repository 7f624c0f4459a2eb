//! Serves a volume to NBD clients: `qemu-img`, `nbdcopy`, fio, the kernel.
//!
//! ```text
//! crucible-nbd-server -t 127.0.0.1:8810 -t 127.0.0.1:8820 -t 127.0.0.1:8830 -g 1 --unix /run/volume.sock
//! ```
//!
//! Ends on SIGINT or SIGTERM: clients' requests in flight come to their end, then the volume is flushed and let go.
//! A second signal ends it at once.

mod arguments;
mod status;

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use block::Disk;
use block::nbd::{self, Export, ExportOptions, Listener};
use clap::Parser;
use crucible_upstairs::adapter::VolumeDisk;
use crucible_upstairs::core::VolumeError;
use crucible_upstairs::store::Shape;
use crucible_upstairs::volume::{Volume, block_on};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use tracing_subscriber::EnvFilter;

use arguments::Arguments;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Status goes to stdout, everything else to stderr.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            EnvFilter::builder()
                .with_default_directive(tracing::Level::WARN.into())
                .from_env_lossy(),
        )
        .init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            status::failed(arguments.json, &*failure);
            ExitCode::FAILURE
        }
    }
}

/// While region servers let us wait, this often it is said for which and why.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the main thread waits for.
enum News {
    Activated(Result<Shape, VolumeError>),
    /// Somebody wants an end.
    Signal,
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (sender, news) = mpsc::channel();
    // Before the first other thread, so that none of them gets the signals.
    watch_signals(sender.clone())?;
    // A place that is taken is said before anybody is made to wait for region servers.
    let (listener, place) = listen(arguments)?;
    let volume = arguments.volume()?;
    status::activating(arguments.json);
    let (activating, generation) = (volume.clone(), arguments.generation());
    std::thread::Builder::new()
        .name("activate".to_owned())
        .spawn(move || sender.send(News::Activated(activating.activate_blocking(generation))))?;
    let first = loop {
        match news.recv_timeout(PATIENCE) {
            Ok(first) => break first,
            Err(RecvTimeoutError::Timeout) => status::waiting(arguments.json, &volume),
            Err(error) => return Err(error.into()),
        }
    };
    let served = match first {
        News::Activated(shape) => {
            let served = shape
                .map_err(Failure::from)
                .and_then(|shape| serve(arguments, &volume, shape, listener, &place, &news));
            let left = volume.deactivate_blocking().map_err(Failure::from);
            served.and(left)
        }
        // Nothing was written, so there is nothing to flush.
        News::Signal => block_on(volume.shut_down()).map_err(Failure::from),
    };
    if let Some(path) = &arguments.unix {
        drop(std::fs::remove_file(path));
    }
    served?;
    status::done(arguments.json);
    Ok(())
}

/// Passes the first signal on. The second one ends the program at once: the first may wait for region servers that
/// never come back.
fn watch_signals(sender: mpsc::Sender<News>) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for (number, signal) in signals.forever().enumerate() {
                if number > 0 {
                    drop(emulate_default_handler(signal));
                }
                // When nobody listens any more, the end is near.
                drop(sender.send(News::Signal));
            }
        })?;
    Ok(())
}

fn serve(
    arguments: &Arguments,
    volume: &Volume,
    shape: Shape,
    listener: Listener,
    place: &str,
    news: &mpsc::Receiver<News>,
) -> Result<(), Failure> {
    let disk = VolumeDisk::new(volume.clone()).ok_or("the volume has no size")?;
    let disk = Disk::new(std::sync::Arc::new(disk));
    let disk = if arguments.read_only {
        disk.read_only()
    } else {
        disk
    };
    let options = ExportOptions {
        name: arguments.export_name.clone(),
        connections_max: arguments.connections,
        ..ExportOptions::default()
    };
    let export: Export = nbd::export(&disk, listener, options)?;
    status::serving(arguments.json, place, shape, volume);
    news.recv()?;
    status::ending(arguments.json);
    export.stop();
    Ok(())
}

fn listen(arguments: &Arguments) -> Result<(Listener, String), Failure> {
    match &arguments.unix {
        Some(path) => {
            let listener = UnixListener::bind(path)
                .map_err(|error| format!("--unix {}: {error}", path.display()))?;
            let place = format!("nbd+unix:///?socket={}", path.display());
            Ok((listener.into(), place))
        }
        None => {
            let listener = TcpListener::bind(arguments.listen)
                .map_err(|error| format!("--listen {}: {error}", arguments.listen))?;
            let place = format!("nbd://{}", listener.local_addr()?);
            Ok((listener.into(), place))
        }
    }
}
