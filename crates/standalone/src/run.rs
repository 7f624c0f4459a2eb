//! One machine from its file to its exit code.

use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use vmm::hypervisor::{Hypervisor, probe};
use vmm::lifecycle::state::FAILURE_CODE;
use vmm::lifecycle::{Event, EventSender, State, drive_watched, event_queue};
use vmm::machine::config::ClockMode;
use vmm::machine::{BuildPorts, Pc, PowerButton, build};

use crate::args::RunArguments;
use crate::config::{self, Config};
use crate::console::{ConsoleEvent, ConsoleServer};
use crate::control::router::Handles;
use crate::control::{About, ControlSocket, DiskHandles, MachineHandle};
use crate::debug::DebugLines;
use crate::logs;
use crate::stop::{Button, Stop, Stopper};
use crate::volumes::Volumes;
use crate::volumes::generation::Generations;

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
    let code = machine(config, &Generations::beside(path), arguments.no_wait)?;
    Ok((String::new(), code))
}

fn machine(config: Config, generations: &Generations, no_wait: bool) -> Result<u8, Refusal> {
    let hypervisor = probe::probe(config.machine.hypervisor).map_err(Refusal::one)?;
    let (sender, events) = event_queue();
    let start = sender.clone();
    let console = ConsoleServer::bind(&config.serial, move |event| match event {
        ConsoleEvent::FirstClient => start.send(Event::Start),
    })
    .map_err(Refusal::one)?;
    let socket = config.control.as_deref().map(ControlSocket::bind);
    let socket = socket.transpose().map_err(Refusal::one)?;
    let volumes = Volumes::new(&config.volumes).map_err(Refusal::one)?;

    // From here on there is somebody to talk to, and an orderly way to stop.
    let latch = Arc::new(OnceLock::<PowerButton>::new());
    let pressed = latch.clone();
    let button: Button = Arc::new(move || pressed.get().is_some_and(PowerButton::press));
    let stop = Stop::new(config.deadlines, button.clone(), sender.clone());
    let disks = DiskHandles::new(&config.machine, volumes.clone());
    stop.set_storage(Arc::new(disks.clone()));
    let about = about(&config, hypervisor.as_ref());
    let handle = MachineHandle::new(about, sender.clone(), button, stop.clone());
    let sockets = std::iter::once(&config.serial).chain(&config.control);
    let _stopper =
        Stopper::start(stop.clone(), sockets.cloned().collect()).map_err(Refusal::one)?;
    let handles = Handles {
        machine: Arc::new(handle.clone()),
        disks: Arc::new(disks.clone()),
    };
    let control = socket.map(|socket| socket.serve(handles));
    let _control = control.transpose().map_err(Refusal::one)?;

    let mut interrupted = || stop.status().is_some();
    volumes
        .activate(&config.volumes, generations, &mut interrupted)
        .map_err(Refusal::one)?;
    let ended = on_volumes(
        config,
        hypervisor.as_ref(),
        &console,
        &volumes,
        (sender, &events),
        |machine| {
            // Nobody set it before.
            latch.get_or_init(|| machine.power_button());
            disks.built(machine);
        },
        &handle,
        no_wait,
    );
    let clean = volumes.close();
    // What clients still have to read can wait; what a disk still has to write cannot.
    console.drain(LAST_WORDS);
    let code = ended?;
    Ok(if clean { code } else { FAILURE_CODE })
}

fn about(config: &Config, hypervisor: &dyn Hypervisor) -> About {
    let machine = &config.machine;
    About {
        name: machine.name.clone(),
        hypervisor: hypervisor.name().to_owned(),
        clock: if is_repeatable(config) {
            "virtual"
        } else {
            "host"
        },
        cpus: machine.cpus,
        memory_bytes: machine.memory_bytes,
        serial: config.serial.display().to_string(),
    }
}

fn is_repeatable(config: &Config) -> bool {
    config.machine.clock == ClockMode::Virtual
}

/// Builds the machine, shows it to `built`, and sees it to its end.
fn on_volumes(
    config: Config,
    hypervisor: &dyn Hypervisor,
    console: &ConsoleServer,
    volumes: &Volumes,
    (sender, events): (EventSender, &Receiver<Event>),
    built: impl FnOnce(&Pc),
    handle: &MachineHandle,
    no_wait: bool,
) -> Result<u8, Refusal> {
    let policy = config.machine.exits;
    let repeatable = is_repeatable(&config);
    let ports = BuildPorts {
        console: console.peer(),
        debug: Arc::new(DebugLines::default()),
        events: sender.clone(),
        backends: volumes.backends(),
    };
    let mut machine = build(hypervisor, config.machine, &ports).map_err(Refusal::one)?;
    drop(ports);
    let com1 = Arc::downgrade(machine.com1());
    console.connect(Box::new(move |bytes| {
        com1.upgrade().map_or(0, |com1| com1.push_input(bytes))
    }));
    built(&machine);
    handle.reached(State::Initialize);
    if no_wait {
        sender.send(Event::Start);
    } else {
        tracing::info!(path = %config.serial.display(), "waiting for a client on the serial console");
    }
    let code = drive_watched(&mut machine, events, policy, &mut |state| {
        handle.reached(state);
    });
    report(&machine, code, repeatable);
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
