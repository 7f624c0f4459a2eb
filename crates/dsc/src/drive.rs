//! The supervisor on real processes and timers: one loop that hands events to the [`Fleet`] and performs what it
//! orders. Runs on one thread, because children are bound to the life of the thread that started them.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;
use vm_types::Clock;

use crate::core::{Action, ChildId, Event, ExitKind, Fleet, State};
use crate::plan::Plan;
use crate::process::{self, Launch, Signal};
use crate::regions::{Region, RegionInfo};

/// How the children are started.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The address that they listen on.
    pub bind: IpAddr,
    /// Whether they serve for reading only.
    pub read_only: bool,
    /// Decides all stops at random.
    pub seed: u64,
}

/// What is known of one child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildStatus {
    /// What it is in.
    pub state: State,
    /// Its process, if there is one.
    pub pid: Option<u32>,
    /// The port for data.
    pub port: u16,
    /// Of its region.
    pub uuid: Uuid,
    /// Whether it is started again when it has ended.
    pub restart: bool,
}

/// What is known of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// In order.
    pub children: Vec<ChildStatus>,
    /// Of every region.
    pub region: RegionInfo,
    /// Whether all answer on their ports.
    pub all_running: bool,
    /// Whether there is no process and none about to come back.
    pub all_stopped: bool,
    /// Whether they serve for reading only.
    pub read_only: bool,
}

/// A command for the loop, and who waits until it has been carried out.
#[derive(Debug)]
pub struct Request {
    /// The command.
    pub event: Event,
    /// Told when [`Status`] shows what came of it.
    pub done: oneshot::Sender<()>,
}

/// Where the loop is reached.
#[derive(Clone, Debug)]
pub struct Handle {
    /// For commands.
    pub requests: mpsc::Sender<Request>,
    /// What is known, always of now.
    pub status: watch::Receiver<Status>,
}

/// The supervisor.
pub struct Supervisor<'a> {
    plan: &'a Plan,
    regions: &'a [Region],
    options: Options,
    clock: Clock,
    fleet: Fleet,
    /// One for each child: its process and the way to it.
    lives: Vec<Life>,
    reports: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    requests: mpsc::Receiver<Request>,
    status: watch::Sender<Status>,
    notice: Box<dyn FnMut(&str) + 'a>,
}

impl std::fmt::Debug for Supervisor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor")
            .field("fleet", &self.fleet)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Life {
    pid: Option<u32>,
    signals: Option<mpsc::Sender<Signal>>,
    /// Why the last launch did not succeed, or how the last process ended.
    reason: Option<String>,
}

impl<'a> Supervisor<'a> {
    /// Over regions that exist, one for each seat. `notice` hears what a user may want to know, line by line.
    pub fn new(
        plan: &'a Plan,
        regions: &'a [Region],
        options: Options,
        notice: impl FnMut(&str) + 'a,
    ) -> (Self, Handle) {
        let count = plan.seats.len().min(regions.len());
        let fleet = Fleet::new(count, options.seed);
        let (request_sender, requests) = mpsc::channel(16);
        let lives: Vec<Life> = (0..count).map(|_| Life::default()).collect();
        let first = status_of(plan, regions, options, &fleet, &lives);
        let (status, status_receiver) = watch::channel(first);
        let supervisor = Self {
            plan,
            regions,
            options,
            clock: Clock::monotonic(),
            fleet,
            lives,
            reports: mpsc::channel(64),
            requests,
            status,
            notice: Box::new(notice),
        };
        let handle = Handle {
            requests: request_sender,
            status: status_receiver,
        };
        (supervisor, handle)
    }

    /// Starts all children and looks after them until a shutdown has been asked for and all have ended.
    ///
    /// `interrupt` yields once for each Ctrl-C: the first stops the children, the second kills them.
    pub async fn run(mut self, mut interrupt: mpsc::Receiver<()>) {
        self.step(Event::StartAll);
        loop {
            let deadline = self.fleet.deadline();
            let now = self.clock.now();
            let wait = deadline.map(|at| Duration::from_nanos(at.since(now).as_nanos()));
            let (event, done) = tokio::select! {
                Some(request) = self.requests.recv() => (request.event, Some(request.done)),
                Some(event) = self.reports.1.recv() => (event, None),
                Some(()) = interrupt.recv() => (Event::Shutdown, None),
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {
                    (Event::Wake, None)
                }
            };
            let quit = self.step(event);
            if let Some(done) = done {
                // Who asked may have gone away.
                done.send(()).ok();
            }
            if quit {
                return;
            }
        }
    }

    /// One event with all that follows from it at once. True when there is nothing left to do.
    fn step(&mut self, event: Event) -> bool {
        let mut quit = false;
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            if let Event::Exited(id, _, how) = event {
                let life = &mut self.lives[id.0];
                life.pid = None;
                life.signals = None;
                life.reason = Some(match how {
                    ExitKind::Code(code) => format!("exit code {code}"),
                    ExitKind::Signal(signal) => format!("signal {signal}"),
                });
            }
            let mut actions = Vec::new();
            self.fleet.handle(self.clock.now(), event, &mut actions);
            for action in actions {
                match action {
                    Action::Launch(id, run) => {
                        if let Err(reason) = self.launch(id, run) {
                            self.lives[id.0].reason = Some(reason);
                            events.push(Event::LaunchFailed(id, run));
                        }
                    }
                    Action::Terminate(id) => self.signal(id, Signal::Terminate),
                    Action::Kill(id) => self.signal(id, Signal::Kill),
                    Action::Quit => quit = true,
                }
            }
        }
        self.publish();
        quit
    }

    fn launch(&mut self, id: ChildId, run: u64) -> Result<(), String> {
        let seat = &self.plan.seats[id.0];
        let child = process::launch(Launch {
            ds_bin: &self.plan.ds_bin,
            seat,
            bind: self.options.bind,
            read_only: self.options.read_only,
            keep_log: run > 1,
        })?;
        let (sender, signals) = mpsc::channel(8);
        let life = &mut self.lives[id.0];
        life.pid = child.id();
        life.signals = Some(sender);
        life.reason = None;
        let port = process::reachable(self.options.bind, seat.port);
        let reports = self.reports.0.clone();
        tokio::spawn(process::keep(child, (id, run), port, signals, reports));
        Ok(())
    }

    fn signal(&self, id: ChildId, signal: Signal) {
        if let Some(signals) = &self.lives[id.0].signals {
            // Full only if many are under way already; then one more changes nothing.
            signals.try_send(signal).ok();
        }
    }

    fn publish(&mut self) {
        let next = status_of(
            self.plan,
            self.regions,
            self.options,
            &self.fleet,
            &self.lives,
        );
        let before = self.status.send_replace(next.clone());
        for (id, (old, new)) in before.children.iter().zip(&next.children).enumerate() {
            if old.state == new.state && old.pid == new.pid {
                continue;
            }
            let mut line = format!("downstairs {id} (port {}): {}", new.port, new.state.name());
            if let Some(pid) = new.pid {
                line.push_str(&format!(", pid {pid}"));
            } else if let Some(reason) = &self.lives[id].reason {
                line.push_str(&format!(", {reason}"));
            }
            if matches!(new.state, State::Failed | State::Error) {
                let log = &self.plan.seats[id].log;
                let words = process::last_words(log).filter(|_| new.state == State::Failed);
                match words {
                    Some(words) => line.push_str(&format!(": {words} ({})", shown(log))),
                    None => line.push_str(&format!("; see {}", shown(log))),
                }
            }
            if let Some(at) = self.fleet.children()[id].launch_at() {
                let ms = at.since(self.clock.now()).as_nanos() / 1_000_000;
                line.push_str(&format!(", restart in {ms} ms"));
            }
            (self.notice)(&line);
        }
        if next.all_running && !before.all_running {
            let count = next.children.len();
            (self.notice)(&format!("all {count} downstairs are running"));
        }
    }
}

fn shown(path: &Path) -> std::path::Display<'_> {
    path.display()
}

fn status_of(
    plan: &Plan,
    regions: &[Region],
    options: Options,
    fleet: &Fleet,
    lives: &[Life],
) -> Status {
    let children = fleet
        .children()
        .iter()
        .zip(plan.seats.iter().zip(regions.iter().zip(lives)))
        .map(|(child, (seat, (region, life)))| ChildStatus {
            state: child.state(),
            pid: life.pid,
            port: seat.port,
            uuid: region.uuid,
            restart: child.restart(),
        })
        .collect();
    Status {
        children,
        region: regions
            .first()
            .map(|region| region.shape.geometry.into())
            .unwrap_or(RegionInfo {
                block_size: 0,
                blocks_per_extent: 0,
                extent_count: 0,
            }),
        all_running: fleet.all_running(),
        all_stopped: fleet.all_stopped(),
        read_only: options.read_only,
    }
}
