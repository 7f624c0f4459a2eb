//! `crucible-pantry`: keeps volumes that no machine uses, and works on them when asked over HTTP.
#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use crucible_pantry::http;
use crucible_pantry::pantry::Pantry;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

const EXAMPLE: &str = r#"Example, with the region servers of `dsc start --create`:

    crucible-pantry run &
    URL=http://127.0.0.1:17000/crucible/pantry/0
    curl $URL/volume/a -d '{"volume_construction_request": {"type": "region", "block_size": 4096,
        "blocks_per_extent": 100, "extent_count": 15, "gen": 1, "opts": {"id": "'$(uuidgen)'", "lossy": false,
        "read_only": false, "target": ["127.0.0.1:8810", "127.0.0.1:8820", "127.0.0.1:8830"]}}}'
    curl $URL/volume/a/import-from-url -d '{"url": "http://127.0.0.1:8000/disk.img"}'   # answers with a job_id
    curl $URL/job/JOB_ID/ok
    curl -X DELETE $URL/volume/a"#;

/// Keeps Crucible volumes that no machine uses, and works on them when asked over HTTP: import, snapshot, bulk reads
/// and writes, scrub, validation.
#[derive(Debug, Parser)]
#[command(name = "crucible-pantry", version, disable_help_subcommand = true, after_help = EXAMPLE)]
struct Arguments {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT; then flush all volumes and let them go
    Run {
        /// Where to listen. Whoever reaches it can write to every volume in it: keep it on loopback
        #[arg(short, long, value_name = "IP:PORT", default_value = "127.0.0.1:17000")]
        listen: SocketAddr,
    },
}

fn main() -> ExitCode {
    let Command::Run { listen } = Arguments::parse().command;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let served = runtime.and_then(|runtime| {
        let served = runtime.block_on(run(listen));
        // A thread that waits for an image's server is not waited for.
        runtime.shutdown_timeout(Duration::from_secs(1));
        served
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where would a failure to complain be told?
            writeln!(io::stderr(), "crucible-pantry: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

async fn run(listen: SocketAddr) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| io::Error::other(format!("--listen {listen}: {error}")))?;
    // Scripts and tests wait for this line.
    writeln!(
        io::stdout(),
        "listening on http://{}",
        listener.local_addr()?
    )?;
    let pantry = Pantry::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(http::serve(listener, pantry.clone(), async {
        stopped.await.ok();
    }));
    either(&mut terminate, &mut interrupt).await;
    tracing::info!("letting all volumes go; once more does not wait for them");
    tokio::select! {
        () = pantry.detach_all() => {}
        () = either(&mut terminate, &mut interrupt) => {}
    }
    stop.send(()).ok();
    // Whoever waits for a job or holds a connection open does not hold us.
    tokio::time::timeout(Duration::from_secs(1), server)
        .await
        .ok();
    Ok(())
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
