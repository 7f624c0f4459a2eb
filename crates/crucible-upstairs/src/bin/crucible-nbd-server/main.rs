//! Serves a volume to NBD clients: `qemu-img`, `nbdcopy`, fio, the kernel.
//!
//! ```text
//! crucible-nbd-server -t 127.0.0.1:8810 -t 127.0.0.1:8820 -t 127.0.0.1:8830 -g 1 --unix /run/volume.sock
//! ```
//!
//! Ends on SIGINT or SIGTERM: clients' requests in flight come to their end, then the volume is flushed and let go.

mod arguments;
mod status;

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use block::Disk;
use block::nbd::{self, Export, ExportOptions, Listener};
use clap::Parser;
use crucible_upstairs::adapter::VolumeDisk;
use crucible_upstairs::store::Shape;
use crucible_upstairs::volume::Volume;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
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

fn run(arguments: &Arguments) -> Result<(), Failure> {
    // Before the first thread, so that none of them gets the signals.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    // A place that is taken is said before anybody is made to wait for region servers.
    let (listener, place) = listen(arguments)?;
    let volume = arguments.volume()?;
    status::activating(arguments.json);
    let shape = volume.activate_blocking(arguments.generation())?;
    let served = serve(arguments, &volume, shape, listener, &place, &mut signals);
    if let Some(path) = &arguments.unix {
        drop(std::fs::remove_file(path));
    }
    let left = volume.deactivate_blocking();
    served?;
    left?;
    status::done(arguments.json);
    Ok(())
}

fn serve(
    arguments: &Arguments,
    volume: &Volume,
    shape: Shape,
    listener: Listener,
    place: &str,
    signals: &mut Signals,
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
    // A second signal ends the wait for the volume as the system sees fit.
    let _ = signals.forever().next();
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
