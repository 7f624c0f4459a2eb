//! One machine from its file to its exit code.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vmm::hypervisor::probe;
use vmm::lifecycle::{Event, drive, event_queue};
use vmm::machine::config::ClockMode;
use vmm::machine::{BuildPorts, Pc, build};

use crate::args::RunArguments;
use crate::config::{self, Config};
use crate::console::{ConsoleEvent, ConsoleServer};
use crate::debug::DebugLines;
use crate::logs;
use crate::stop::Stopper;

/// How long clients have to read the last output.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why there was nothing to run, line by line for the operator.
#[derive(Debug)]
pub struct Refusal(pub Vec<String>);

impl Refusal {
    fn one(error: impl std::fmt::Display) -> Self {
        Self(vec![format!("standalone: {error}")])
    }
}

/// Does what the command line asks for; returns text for standard output and the exit code.
pub fn run(arguments: &RunArguments) -> Result<(String, u8), Refusal> {
    let path = arguments
        .config
        .as_deref()
        .unwrap_or_else(|| Path::new("vm.toml"));
    if arguments.snapshot || arguments.restore {
        return Err(Refusal::one(
            "--snapshot and --restore are not in this build yet",
        ));
    }
    let config = config::load(path)
        .map_err(|errors| Refusal(errors.iter().map(ToString::to_string).collect()))?;
    if arguments.print_config {
        let text = if arguments.json {
            format!("{:#}\n", config::print_json(&config))
        } else {
            config::print_toml(&config)
        };
        return Ok((text, 0));
    }
    if arguments.check {
        probe::probe(config.machine.hypervisor).map_err(Refusal::one)?;
        let mut text: String = config
            .warnings
            .iter()
            .map(|warning| format!("{}: warning: {warning}\n", path.display()))
            .collect();
        text.push_str(&format!("{}: ok\n", path.display()));
        return Ok((text, 0));
    }
    logs::start(arguments.log_level.as_deref()).map_err(Refusal::one)?;
    for warning in &config.warnings {
        tracing::warn!(config = %path.display(), warning);
    }
    let code = machine(config, arguments.no_wait)?;
    Ok((String::new(), code))
}

fn machine(config: Config, no_wait: bool) -> Result<u8, Refusal> {
    let hypervisor = probe::probe(config.machine.hypervisor).map_err(Refusal::one)?;
    let (sender, events) = event_queue();
    let start = sender.clone();
    let console = ConsoleServer::bind(&config.serial, move |event| match event {
        ConsoleEvent::FirstClient => start.send(Event::Start),
    })
    .map_err(Refusal::one)?;
    let policy = config.machine.exits;
    let repeatable = config.machine.clock == ClockMode::Virtual;
    let ports = BuildPorts {
        console: console.peer(),
        debug: Arc::new(DebugLines::default()),
        events: sender.clone(),
    };
    let mut machine = build(hypervisor.as_ref(), config.machine, &ports).map_err(Refusal::one)?;
    drop(ports);
    let com1 = Arc::downgrade(machine.com1());
    console.connect(Box::new(move |bytes| {
        com1.upgrade().map_or(0, |com1| com1.push_input(bytes))
    }));
    let stopper = Stopper::start(
        machine.power_button(),
        sender.clone(),
        config.serial.clone(),
    )
    .map_err(Refusal::one)?;
    if no_wait {
        sender.send(Event::Start);
    } else {
        tracing::info!(path = %config.serial.display(), "waiting for a client on the serial console");
    }
    let code = drive(&mut machine, &events, policy);
    report(&machine, code, repeatable);
    console.drain(LAST_WORDS);
    drop(stopper);
    Ok(code)
}

fn report(machine: &Pc, code: u8, repeatable: bool) {
    let unclaimed = machine.unclaimed();
    tracing::debug!(
        instructions = machine.executed(),
        port_reads = unclaimed.port_reads,
        port_writes = unclaimed.port_writes,
        mmio_reads = unclaimed.mmio_reads,
        mmio_writes = unclaimed.mmio_writes,
        "executed, and accesses that found no device"
    );
    // Runs on a virtual clock can be compared by this.
    if repeatable {
        match machine.memory_hash() {
            Ok(hash) => tracing::info!(
                hash = format_args!("{hash:016x}"),
                instructions = machine.executed(),
                "guest memory at the end"
            ),
            Err(error) => tracing::warn!(%error, "guest memory cannot be hashed"),
        }
    }
    tracing::info!(code, "machine ended");
}
