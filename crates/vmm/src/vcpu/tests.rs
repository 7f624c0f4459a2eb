//! Threads of vCPUs: held, released, kicked and ended, against a backend that plays back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use vm_types::{GuestAddress, ManualClock, Moment, Task};

use super::*;
use crate::hypervisor::fake::{Fake, Step};
use crate::hypervisor::{GuestIo, Hypervisor, NewVm, VcpuFailure, VmConfig};
use crate::lifecycle::event_queue;
use crate::machine::config::ClockMode;

/// Counts writes to ports.
#[derive(Default)]
struct Ports([AtomicU64; 4]);

impl GuestIo for Ports {
    fn port_in(&self, _port: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_out(&self, port: u16, _data: &[u8]) {
        self.0[usize::from(port)].fetch_add(1, Ordering::SeqCst);
    }
    fn mmio_read(&self, _address: GuestAddress, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _address: GuestAddress, _data: &[u8]) {}
    fn rdmsr(&self, _vcpu: u32, _msr: u32) -> Option<u64> {
        None
    }
    fn wrmsr(&self, _vcpu: u32, _msr: u32, _value: u64) -> bool {
        false
    }
    fn acknowledge_interrupt(&self) -> Option<u8> {
        None
    }
    fn end_of_interrupt(&self, _vector: u8) {}
}

struct Rig {
    crew: Crew,
    ports: Arc<Ports>,
    events: Receiver<Event>,
}

fn rig(scripts: Vec<Vec<Step>>, schedule: Schedule) -> Rig {
    let ports = Arc::new(Ports::default());
    let config = VmConfig {
        name: "test".to_owned(),
        cpus: scripts.len() as u32,
        memory: Vec::new(),
        io: ports.clone(),
        clock: Clock::monotonic(),
        clock_mode: ClockMode::Host,
        cpuid: None,
    };
    let fake = Fake {
        scripts,
        ..Fake::default()
    };
    let NewVm { vcpus, .. } = fake.create(&config).unwrap();
    let (sender, events) = event_queue();
    let crew = Crew::start(vcpus, schedule, &sender).unwrap();
    Rig {
        crew,
        ports,
        events,
    }
}

fn threads() -> Schedule {
    Schedule::Threads {
        clock: Clock::monotonic(),
    }
}

fn rounds() -> Schedule {
    Schedule::Rounds {
        clock: ManualClock::default(),
        timers: Timers::new(),
    }
}

const SECONDS: Duration = Duration::from_secs(20);

#[test]
fn nothing_runs_before_the_release() {
    for schedule in [threads(), rounds()] {
        let off = Step::Exit(Exit::Suspend(Suspend::PowerOff));
        let rig = rig(vec![vec![Step::Out(0, vec![1]), off]], schedule);
        rig.crew.hold();
        assert_eq!(rig.ports.0[0].load(Ordering::SeqCst), 0);
        rig.crew.release();
        let event = rig.events.recv_timeout(SECONDS).unwrap();
        assert_eq!(event, Event::Halt(Ending::PowerOff));
        assert_eq!(rig.ports.0[0].load(Ordering::SeqCst), 1);
    }
}

#[test]
fn spinning_and_halted_vcpus_are_held_and_released() {
    let rig = rig(vec![vec![Step::Spin], vec![], vec![Step::Spin]], threads());
    rig.crew.release();
    for _ in 0..20 {
        rig.crew.hold();
        let mut seen = Vec::new();
        rig.crew.with_each(|vcpu| seen.push(vcpu.id()));
        assert_eq!(seen, [0, 1, 2]);
        rig.crew.release();
        rig.crew.barrier();
    }
}

#[test]
fn a_reset_runs_the_scripts_again() {
    let script = vec![
        Step::Out(1, vec![0]),
        Step::Exit(Exit::Suspend(Suspend::TripleFault)),
    ];
    let rig = rig(vec![script], threads());
    rig.crew.release();
    for round in 1..=3 {
        assert_eq!(rig.events.recv_timeout(SECONDS), Ok(Event::Reset));
        rig.crew.hold();
        assert_eq!(rig.ports.0[1].load(Ordering::SeqCst), round);
        rig.crew.with_each(|vcpu| vcpu.reset());
        rig.crew.release();
    }
}

#[test]
fn a_failed_vcpu_is_an_event_and_does_not_run_on() {
    let failure = Exit::Failed(VcpuFailure {
        vcpu: 0,
        reason: "exit 9".to_owned(),
    });
    let mut rig = rig(
        vec![vec![Step::Exit(failure), Step::Out(2, vec![0])]],
        threads(),
    );
    rig.crew.release();
    let event = rig.events.recv_timeout(SECONDS).unwrap();
    assert_eq!(event, Event::Halt(Ending::Failure));
    rig.crew.barrier();
    assert_eq!(rig.ports.0[2].load(Ordering::SeqCst), 0);
    rig.crew.stop();
}

struct Note(EventSender);
impl Task for Note {
    fn run(&self) {
        self.0.send(Event::Start);
    }
}

#[test]
fn time_jumps_when_all_wait() {
    let clock = ManualClock::default();
    let timers = Timers::new();
    let (sender, events) = event_queue();
    let note: Arc<dyn Task> = Arc::new(Note(sender));
    let timer = timers.register(Arc::downgrade(&note));
    timer.arm(Moment::from_nanos(5_000_000_000));
    let schedule = Schedule::Rounds {
        clock: clock.clone(),
        timers,
    };
    let rig = rig(vec![vec![], vec![]], schedule);
    rig.crew.release();
    assert_eq!(events.recv_timeout(SECONDS), Ok(Event::Start));
    rig.crew.hold();
    let now = vm_types::time::TimeSource::now(&clock);
    assert_eq!(now, Moment::from_nanos(5_000_000_000));
}

#[test]
fn dropping_the_crew_ends_its_threads() {
    let rig = rig(vec![vec![Step::Spin], vec![]], threads());
    rig.crew.release();
    drop(rig);
}
