//! The 8254 interval timer at ports 0x40 to 0x43, and port 0x61 with the gate of its third channel.
//!
//! Channel 0 is interrupt 0, channel 2 the speaker, whose output kernels poll at port 0x61 to measure
//! the processor's clock. Channel 1, the memory refresh of old, counts and does nothing.
//!
//! Linux measures by reading its clock after each poll that is still low. If the host takes the CPU
//! away during that loop and the count ends meanwhile, the last such reading lies before the gap, and
//! the result is a processor that is too slow by as much. So a poll that comes late after a low one
//! stays low once more: the loop then sees the gap, and throws that measurement away.

use std::sync::{Arc, Mutex, Weak};

use serde::{Deserialize, Serialize};
use vm_types::{Clock, Gate, IrqLine, Moment, Span, Task, Timer, Timers};

use super::bounded_deadline;
use super::pit_channel::{Channel, Mode};
use crate::bus::{AddressSpace, BusDevice, SpaceError};
use crate::lifecycle::{Lifecycle, RestoreError, Snapshot};
use crate::sync::lock;

/// Ticks a second.
pub const PIT_HZ: u64 = 1_193_182;

/// The ports: start and length.
pub const PIT_PORTS: [(u64, u64); 2] = [(0x40, 4), (0x61, 1)];

/// How often the refresh bit of port 0x61 changes, in nanoseconds.
const REFRESH_NS: u64 = 15_085;

/// A poll of port 0x61 this long after the one before is a late one.
const LATE: Span = Span::from_micros(10);

const KIND: &str = "pit";

/// What the PIT is connected to.
#[derive(Clone, Debug)]
pub struct PitPorts {
    /// The machine's time.
    pub clock: Clock,
    /// Where to arm for the next tick.
    pub timers: Timers,
    /// Interrupt 0.
    pub irq: IrqLine,
    /// Ticks reach `irq` while it is open; the HPET closes it.
    pub legacy: Gate,
}

/// The PIT.
#[derive(Debug)]
pub struct Pit {
    clock: Clock,
    irq: IrqLine,
    legacy: Gate,
    timer: Timer,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    channels: [Channel; 3],
    /// Low four bits of port 0x61: gate of channel 2, speaker, two checks that do nothing.
    control: u8,
    /// When port 0x61 was last polled, if the speaker's one-time count was not over then.
    #[serde(skip)]
    low_polled: Option<Moment>,
    #[serde(skip)]
    paused: bool,
}

impl State {
    fn new() -> Self {
        Self {
            channels: [
                Channel::with_gate(true),
                Channel::with_gate(true),
                Channel::with_gate(false),
            ],
            control: 0,
            low_polled: None,
            paused: false,
        }
    }

    /// The speaker's output as port 0x61 shows it.
    fn speaker(&mut self, now: Moment) -> bool {
        let channel = &self.channels[2];
        let high = channel.output(now);
        if channel.mode() != Mode::Terminal {
            return high;
        }
        if !high {
            self.low_polled = Some(now);
            return false;
        }
        let last = self.low_polled.take();
        last.is_none_or(|last| now.since(last) <= LATE)
    }

    fn read(&mut self, now: Moment, port: u64) -> u8 {
        match port {
            0x40..=0x42 => self.channels[(port - 0x40) as usize].read(now),
            0x61 => {
                let refresh = (now.as_nanos() / REFRESH_NS) as u8 & 1;
                let speaker = u8::from(self.speaker(now));
                self.control | refresh << 4 | speaker << 5
            }
            // The control word cannot be read.
            _ => 0xff,
        }
    }

    /// Returns whether channel 0 has changed.
    fn write(&mut self, now: Moment, port: u64, value: u8) -> bool {
        match port {
            0x40 => self.channels[0].write(now, value),
            0x41 | 0x42 => {
                self.channels[(port - 0x40) as usize].write(now, value);
                false
            }
            0x43 if value >> 6 == 3 => {
                for (index, channel) in self.channels.iter_mut().enumerate() {
                    if value & (2 << index) != 0 {
                        channel.read_back(now, value & 0x20 == 0, value & 0x10 == 0);
                    }
                }
                false
            }
            0x43 => {
                let index = usize::from(value >> 6);
                self.channels[index].control(now, value);
                // A latch command leaves the channel as it is.
                index == 0 && value & 0x30 != 0
            }
            0x61 => {
                self.control = value & 0x0f;
                self.channels[2].set_gate(now, value & 1 != 0);
                false
            }
            _ => false,
        }
    }
}

impl Pit {
    /// A PIT whose channels wait for their first count.
    pub fn new(ports: PitPorts) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            clock: ports.clock,
            irq: ports.irq,
            legacy: ports.legacy,
            timer: ports.timers.register(this.clone()),
            state: Mutex::new(State::new()),
        })
    }

    /// Claims its ports.
    pub fn attach(self: &Arc<Self>, ports: &AddressSpace) -> Result<(), SpaceError> {
        ports.claim_all(self.name(), &PIT_PORTS, self.clone())
    }

    fn arm(&self, state: &State, now: Moment) {
        match state.channels[0].next_rise(now) {
            Some(due) if !state.paused => self.timer.arm(bounded_deadline(now, due)),
            _ => self.timer.disarm(),
        }
    }
}

impl Task for Pit {
    /// The output of channel 0 rises.
    fn run(&self) {
        let state = lock(&self.state);
        if state.paused {
            return;
        }
        let now = self.clock.now();
        if self.legacy.is_open() {
            // Only the rise matters to an edge-triggered pin; where between two rises the periodic
            // modes fall is not shown.
            self.irq.set(false);
            self.irq.set(true);
        }
        self.arm(&state, now);
    }
}

impl BusDevice for Pit {
    /// `offset` is the port.
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = lock(&self.state);
        let now = self.clock.now();
        for (port, byte) in (offset..).zip(data) {
            *byte = state.read(now, port);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = lock(&self.state);
        let now = self.clock.now();
        for (port, byte) in (offset..).zip(data) {
            if state.write(now, port, *byte) {
                let rests_high = state.channels[0].mode() != Mode::Terminal;
                if !rests_high {
                    self.irq.set(false);
                }
                self.arm(&state, now);
            }
        }
    }
}

impl Lifecycle for Pit {
    fn name(&self) -> &str {
        KIND
    }

    fn pause(&self) {
        lock(&self.state).paused = true;
        self.timer.disarm();
    }

    fn resume(&self) {
        let mut state = lock(&self.state);
        state.paused = false;
        self.arm(&state, self.clock.now());
    }

    fn reset(&self) {
        let mut state = lock(&self.state);
        *state = State {
            paused: state.paused,
            ..State::new()
        };
        self.timer.disarm();
        self.irq.set(false);
    }

    fn halt(&self) {
        self.pause();
    }

    fn save(&self) -> Option<Snapshot> {
        let state = lock(&self.state);
        let now = self.clock.now();
        let frozen = State {
            channels: [0, 1, 2].map(|index| state.channels[index].frozen(now)),
            low_polled: None,
            ..*state
        };
        Some(Snapshot::of(KIND, 1, &(frozen, self.irq.level())))
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        match snapshot.open::<(State, bool)>(self.name(), KIND, 1) {
            Ok((saved, level)) => {
                let mut state = lock(&self.state);
                let now = self.clock.now();
                state.channels = saved.channels.map(|channel| channel.thawed(now));
                state.control = saved.control & 0x0f;
                self.irq.set(level);
                self.arm(&state, now);
                Ok(())
            }
            Err(error) => {
                self.reset();
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use vm_types::{IrqSink, ManualClock};

    #[derive(Default)]
    struct Edges(AtomicU32);
    impl IrqSink for Edges {
        fn raise(&self, _: u32) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        fn lower(&self, _: u32) {}
    }

    struct Rig {
        pit: Arc<Pit>,
        hand: ManualClock,
        timers: Timers,
        edges: Arc<Edges>,
        legacy: Gate,
    }

    impl Rig {
        fn new() -> Self {
            let (clock, hand) = Clock::manual();
            let (timers, edges) = (Timers::new(), Arc::new(Edges::default()));
            let legacy = Gate::open();
            let pit = Pit::new(PitPorts {
                clock,
                timers: timers.clone(),
                irq: IrqLine::new(edges.clone(), 0),
                legacy: legacy.clone(),
            });
            Self {
                pit,
                hand,
                timers,
                edges,
                legacy,
            }
        }

        fn out(&self, port: u64, value: u8) {
            self.pit.write(port, &[value]);
        }

        fn port(&self, port: u64) -> u8 {
            let mut data = [0];
            self.pit.read(port, &mut data);
            data[0]
        }

        /// Lets `ticks` pass, serving each deadline at its moment; returns the interrupts.
        fn pass(&self, ticks: u64) -> u32 {
            let before = self.edges.0.load(Ordering::SeqCst);
            let clock = &self.pit.clock;
            let end = clock.now().after(Span::of_ticks(ticks, PIT_HZ));
            while let Some(due) = self.timers.next_deadline().filter(|due| *due <= end) {
                self.hand.advance_to(due);
                self.timers.fire_due(due);
            }
            self.hand.advance_to(end);
            self.edges.0.load(Ordering::SeqCst) - before
        }

        fn count(&self, channel: u8) -> u16 {
            self.out(0x43, channel << 6);
            let port = 0x40 + u64::from(channel);
            u16::from_le_bytes([self.port(port), self.port(port)])
        }
    }

    #[test]
    fn a_rate_generator_interrupts_each_period() {
        let rig = Rig::new();
        rig.out(0x43, 0x34);
        rig.out(0x40, 0xe8);
        assert_eq!(rig.timers.next_deadline(), None);
        rig.out(0x40, 0x03);
        assert_eq!(rig.pass(999), 0);
        assert_eq!(rig.pass(2), 1);
        assert_eq!(rig.pass(9999), 10);
        let left = rig.count(0);
        assert!((1..=1000).contains(&left), "{left}");
    }

    #[test]
    fn periods_that_nobody_served_are_one_interrupt() {
        let rig = Rig::new();
        rig.out(0x43, 0x36);
        rig.out(0x40, 0);
        rig.out(0x40, 0x10);
        rig.hand.advance(Span::from_secs(5));
        let now = rig.pit.clock.now();
        assert_eq!(rig.timers.fire_due(now), 1);
        assert_eq!(rig.timers.fire_due(now), 0);
        assert!(rig.timers.next_deadline().unwrap() > now);
    }

    #[test]
    fn a_terminal_count_interrupts_once_and_counts_on() {
        let rig = Rig::new();
        rig.out(0x43, 0x30);
        rig.out(0x40, 100);
        rig.out(0x40, 0);
        assert_eq!(rig.pass(50), 0);
        assert_eq!(rig.count(0), 50);
        assert_eq!(rig.pass(60), 1);
        assert_eq!(rig.count(0), 0x1_0000u32.wrapping_sub(10) as u16);
        assert_eq!(rig.pass(200_000), 0);
    }

    #[test]
    fn the_speaker_channel_can_be_polled_as_kernels_do() {
        let rig = Rig::new();
        rig.out(0x61, 0x01);
        rig.out(0x43, 0xb0);
        rig.out(0x42, 0xff);
        rig.out(0x42, 0x2f);
        assert_eq!(rig.port(0x61) & 0x2f, 0x01);
        rig.pass(0x2ffa);
        assert_eq!(rig.port(0x61) & 0x2f, 0x01);
        rig.pass(5);
        assert_eq!(rig.port(0x61) & 0x2f, 0x21);
    }

    #[test]
    fn a_poll_after_a_gap_stays_low_once() {
        let rig = Rig::new();
        let start = || {
            rig.out(0x61, 1);
            rig.out(0x43, 0xb0);
            rig.out(0x42, 0xe8);
            rig.out(0x42, 0x03);
        };
        let is_high = || rig.port(0x61) & 0x20 != 0;
        start();
        assert!(!is_high());
        rig.pass(5000);
        assert!(!is_high());
        assert!(is_high());
        start();
        rig.pass(995);
        assert!(!is_high());
        rig.pass(6);
        assert!(is_high());
        // Somebody who looks for the first time is not told stories.
        start();
        rig.pass(5000);
        assert!(is_high());
    }

    #[test]
    fn a_closed_gate_stops_the_count() {
        let rig = Rig::new();
        rig.out(0x61, 1);
        rig.out(0x43, 0xb0);
        rig.out(0x42, 100);
        rig.out(0x42, 0);
        rig.pass(40);
        rig.out(0x61, 0);
        rig.pass(1000);
        assert_eq!(rig.count(2), 60);
        rig.out(0x61, 1);
        rig.pass(20);
        assert_eq!(rig.count(2), 40);
    }

    #[test]
    fn read_back_latches_status_and_count() {
        let rig = Rig::new();
        rig.out(0x43, 0x36);
        rig.out(0x43, 0xc2);
        // No count yet: null count, both bytes, mode 3, output high.
        assert_eq!(rig.port(0x40), 0xf6);
        rig.port(0x40);
        rig.port(0x40);
        rig.out(0x40, 0x00);
        rig.out(0x40, 0x10);
        rig.out(0x43, 0xc2);
        rig.pass(100);
        assert_eq!(rig.port(0x40), 0xb6);
        assert_eq!([rig.port(0x40), rig.port(0x40)], [0x00, 0x10]);
    }

    #[test]
    fn decimal_counts_are_decimal() {
        let rig = Rig::new();
        rig.out(0x43, 0x31);
        rig.out(0x40, 0x00);
        rig.out(0x40, 0x10);
        rig.pass(1);
        assert_eq!(rig.count(0), 0x0999);
    }

    #[test]
    fn while_the_hpet_replaces_it_nothing_is_raised() {
        let rig = Rig::new();
        rig.legacy.set(false);
        rig.out(0x43, 0x34);
        rig.out(0x40, 0);
        rig.out(0x40, 1);
        assert_eq!(rig.pass(10_000), 0);
        rig.legacy.set(true);
        assert!(rig.pass(1000) > 0);
    }

    #[test]
    fn a_tiny_period_does_not_hold_the_host() {
        let rig = Rig::new();
        rig.out(0x43, 0x14);
        rig.out(0x40, 1);
        let interrupts = rig.pass(PIT_HZ / 100);
        assert!(interrupts <= 1001, "{interrupts}");
    }

    #[test]
    fn a_saved_state_goes_on_on_another_clock() {
        let rig = Rig::new();
        rig.out(0x43, 0x34);
        rig.out(0x40, 0);
        rig.out(0x40, 0x10);
        rig.pass(1000);
        let saved = rig.pit.save().unwrap();
        let other = Rig::new();
        other.hand.advance(Span::from_secs(100));
        other.pit.restore(&saved).unwrap();
        assert_eq!(other.count(0), rig.count(0));
        assert_eq!(other.pass(0x1000 - 1001), 0);
        assert_eq!(other.pass(2), 1);
    }
}
