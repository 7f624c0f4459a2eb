//! The clocks under arbitrary accesses and arbitrary passing of time: nothing panics, deadlines make
//! progress, and a saved state is the state.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::Arc;

use devices::bus::BusDevice;
use devices::irq::IrqFabric;
use devices::lifecycle::{Lifecycle, Snapshot};
use devices::timer::{Hpet, HpetPorts, Pit, PitPorts, Rtc, RtcConfig, RtcPorts};
use proptest::prelude::*;
use vm_types::{Clock, Gate, IrqLine, ManualClock, MsiSink, Span, Timers};

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Read(u64, usize),
    Pass(u64),
    Pause(bool),
    Reset,
}

fn steps(offsets: std::ops::Range<u64>) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (offsets.clone(), prop::collection::vec(any::<u8>(), 1..=8)).prop_map(|(o, d)| Step::Write(o, d)),
        4 => (offsets, 1usize..=8).prop_map(|(o, n)| Step::Read(o, n)),
        4 => (0u32..45).prop_flat_map(|bits| 0..1u64 << bits).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Pause),
        1 => Just(Step::Reset),
    ];
    prop::collection::vec(step, 0..60)
}

struct World {
    clock: Clock,
    hand: ManualClock,
    timers: Timers,
}

impl World {
    fn new() -> Self {
        let (clock, hand) = Clock::manual();
        Self {
            clock,
            hand,
            timers: Timers::new(),
        }
    }

    fn play<D: BusDevice + Lifecycle + ?Sized>(&self, device: &D, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Write(offset, data) => device.write(offset, &data),
                Step::Read(offset, length) => device.read(offset, &mut vec![0; length]),
                Step::Pass(ns) => {
                    self.hand.advance(Span::from_nanos(ns));
                    let now = self.clock.now();
                    self.timers.fire_due(now);
                    // What is armed after that lies ahead, so that nobody spins.
                    if let Some(due) = self.timers.next_deadline() {
                        assert!(due > now);
                    }
                }
                Step::Pause(true) => device.pause(),
                Step::Pause(false) => device.resume(),
                Step::Reset => device.reset(),
            }
        }
    }
}

/// Restoring what was saved gives the same state.
fn assert_round_trip(device: &dyn Lifecycle, twin: &dyn Lifecycle) {
    let saved = device.save().unwrap();
    let text = serde_json::to_string(&saved).unwrap();
    let saved: Snapshot = serde_json::from_str(&text).unwrap();
    twin.restore(&saved).unwrap();
    assert_eq!(twin.save().unwrap(), saved);
}

proptest! {
    #[test]
    fn pit(steps in steps(0x40..0x44), control in steps(0x61..0x62)) {
        let world = World::new();
        let make = || {
            Pit::new(PitPorts {
                clock: world.clock.clone(),
                timers: world.timers.clone(),
                irq: IrqLine::unconnected(),
                legacy: Gate::open(),
            })
        };
        let pit = make();
        world.play(&*pit, control);
        world.play(&*pit, steps);
        assert_round_trip(&*pit, &*make());
    }

    #[test]
    fn rtc(steps in steps(0..2)) {
        let world = World::new();
        let make = || {
            let ports = RtcPorts {
                clock: world.clock.clone(),
                timers: world.timers.clone(),
                irq: IrqLine::unconnected(),
                legacy: Gate::open(),
            };
            Rtc::new(ports, RtcConfig { wall_start_ns: 1_700_000_000_000_000_000, ..RtcConfig::default() })
        };
        let rtc = make();
        world.play(&*rtc, steps);
        assert_round_trip(&*rtc, &*make());
    }

    #[test]
    fn rtc_registers_as_a_guest_picks_them(
        pairs in prop::collection::vec((0u8..0x40, any::<u8>(), 0u64..5_000_000_000), 0..60),
    ) {
        let world = World::new();
        let ports = RtcPorts {
            clock: world.clock.clone(),
            timers: world.timers.clone(),
            irq: IrqLine::unconnected(),
            legacy: Gate::open(),
        };
        let rtc = Rtc::new(ports, RtcConfig::default());
        for (index, value, ns) in pairs {
            world.play(&*rtc, vec![Step::Write(0, vec![index]), Step::Write(1, vec![value]), Step::Pass(ns)]);
            world.play(&*rtc, vec![Step::Write(0, vec![12]), Step::Read(1, 1)]);
        }
    }

    #[test]
    fn hpet(steps in steps(0..0x160)) {
        let world = World::new();
        let make = || {
            Hpet::new(HpetPorts {
                clock: world.clock.clone(),
                timers: world.timers.clone(),
                irq: Arc::new(IrqFabric::new(None, None)),
                msi: MsiSink::unconnected(),
                legacy: Gate::open(),
            })
        };
        let hpet = make();
        world.play(&*hpet, steps);
        assert_round_trip(&*hpet, &*make());
    }
}
