//! The program `dsc`; everything it does is in the library of the same name.
#![deny(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use dsc::args::{Arguments, Command, CreateArgs, PerfArgs, StartArgs};
use dsc::drive::{Options, Supervisor};
use dsc::plan::{self, Plan, PlanError, Seat, Shape};
use dsc::{cmd, http, perf, process, regions};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Create(args) => create(&args).map(drop),
        Command::Start(args) => start(&args),
        Command::RegionPerf(args) => region_perf(&args),
        Command::Cmd(args) => cmd::run(&args).map(|text| say(text.trim_end())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            // Where would a failure to complain be told?
            writeln!(io::stderr(), "dsc: {reason}").ok();
            ExitCode::FAILURE
        }
    }
}

/// A line for the user. That nobody reads any more is no reason to stop serving.
fn say(line: &str) {
    if !line.is_empty() {
        writeln!(io::stdout(), "{line}").ok();
    }
}

fn own_path() -> Option<PathBuf> {
    std::env::current_exe().ok()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn create(args: &CreateArgs) -> Result<(), String> {
    let plan = Plan::new(args, own_path().as_deref()).map_err(text)?;
    let shape = Shape::new(args).map_err(text)?;
    process::check_program(&plan.ds_bin)?;
    if args.cleanup {
        check_ports(&plan, std::net::Ipv4Addr::LOCALHOST.into())?;
        regions::clean(&plan).map_err(text)?;
    }
    make_regions(&plan, shape)
}

/// Before regions are removed or served: whether nobody serves them already.
fn check_ports(plan: &Plan, bind: std::net::IpAddr) -> Result<(), String> {
    for seat in &plan.seats {
        process::check_port(bind, seat.port)?;
    }
    Ok(())
}

fn make_regions(plan: &Plan, shape: Shape) -> Result<(), String> {
    let bar = ProgressBar::new(plan.seats.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("creating regions {bar:30} {pos}/{len}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let begin = Instant::now();
    let made = regions::create_all(plan, shape, |seat: &Seat| {
        bar.suspend(|| {
            say(&format!(
                "created {} ({})",
                seat.region.display(),
                seat.uuid
            ))
        });
        bar.inc(1);
    });
    bar.finish_and_clear();
    made.map_err(text)?;
    let geometry = shape.geometry;
    say(&format!(
        "{} regions of {} extents, {} blocks each, {} bytes a block{}: {} MiB, in {:.2} s",
        plan.seats.len(),
        geometry.extent_count(),
        geometry.blocks_per_extent(),
        geometry.block_size(),
        if shape.encrypted { ", encrypted" } else { "" },
        geometry.bytes() >> 20,
        begin.elapsed().as_secs_f64(),
    ));
    Ok(())
}

fn start(args: &StartArgs) -> Result<(), String> {
    let create_args = &args.create_args;
    if create_args.cleanup && !args.create {
        return Err(PlanError::CleanupWithoutCreate.to_string());
    }
    let plan = Plan::new(create_args, own_path().as_deref()).map_err(text)?;
    process::check_program(&plan.ds_bin)?;
    check_ports(&plan, args.bind)?;
    let control = std::net::TcpListener::bind(args.control).map_err(|error| {
        let control = args.control;
        format!("--control {control}: {error}; is another dsc running there?")
    })?;
    if args.create {
        let shape = Shape::new(create_args).map_err(text)?;
        if create_args.cleanup {
            regions::clean(&plan).map_err(text)?;
        }
        for seat in &plan.seats {
            regions::remove(&seat.region).map_err(text)?;
        }
        make_regions(&plan, shape)?;
    }
    let regions = regions::read_all(&plan).map_err(text)?;
    let output_dir = plan.output_dir.display();
    std::fs::create_dir_all(&plan.output_dir).map_err(|error| format!("{output_dir}: {error}"))?;
    let options = Options {
        bind: args.bind,
        read_only: args.read_only,
        seed: getrandom::u64().map_err(text)?,
    };
    let (supervisor, handle) = Supervisor::new(&plan, &regions, options, say);
    // One thread: children end with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(text)?;
    runtime.block_on(async move {
        control.set_nonblocking(true).map_err(text)?;
        let listener = tokio::net::TcpListener::from_std(control).map_err(text)?;
        let address = listener.local_addr().map_err(text)?;
        say(&format!("control server at http://{address}"));
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async {
            stopped.await.ok();
        };
        let server = tokio::spawn(http::serve(listener, handle, stopped));
        let interrupts = interrupts().map_err(text)?;
        supervisor.run(interrupts).await;
        stop.send(()).ok();
        // Whoever holds a connection open does not hold us.
        tokio::time::timeout(Duration::from_secs(1), server)
            .await
            .ok();
        say("all downstairs have ended");
        Ok(())
    })
}

/// Yields once for each Ctrl-C and each request to end.
fn interrupts() -> io::Result<mpsc::Receiver<()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => say("stopping; once more kills"),
                _ = terminate.recv() => {}
            }
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

fn region_perf(args: &PerfArgs) -> Result<(), String> {
    let ds_bin = plan::ds_bin(args.place.ds_bin.as_deref(), own_path().as_deref());
    process::check_program(&ds_bin)?;
    let directory = args.place.region_dir.first();
    let directory = directory.map_or_else(|| Path::new("."), PathBuf::as_path);
    let mut csv = match &args.csv_out {
        None => None,
        Some(path) => {
            let in_file = |error: io::Error| format!("--csv-out {}: {error}", path.display());
            let file = File::create(path).map_err(in_file)?;
            Some(perf::Csv::new(file).map_err(in_file)?)
        }
    };
    say(perf::TEXT_HEAD);
    perf::run(&ds_bin, directory, &perf::shapes(args.long), |row| {
        say(&row.text());
        csv.as_mut().map_or(Ok(()), |csv| csv.row(row))
    })
}
