//! The 16550A (PC16550D data sheet).
//!
//! Characters take no time: what is written to the transmitter has left when the write returns, so the
//! transmitter is always empty, and a receiver below its trigger level times out at once. The interrupt
//! output is not gated by OUT2, because small systems forget to set it.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use vm_types::{Clock, IrqLine, Timers};

use super::fifo::ReceiveFifo;
use super::{Batch, SerialPeer, UART_LENGTH};
use crate::bus::{AddressSpace, BusDevice, SpaceError};
use crate::lifecycle::{Lifecycle, RestoreError, Snapshot};
use crate::sync::lock;

const KIND: &str = "uart-16550a";

/// What a UART is connected to.
#[derive(Clone)]
pub struct UartPorts {
    /// The machine's time, for batches of output.
    pub clock: Clock,
    /// Where they arm.
    pub timers: Timers,
    /// The interrupt.
    pub irq: IrqLine,
    /// The other end of the line.
    pub peer: Arc<dyn SerialPeer>,
}

impl std::fmt::Debug for UartPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UartPorts")
            .field("irq", &self.irq)
            .finish_non_exhaustive()
    }
}

/// How it is set up.
#[derive(Clone, Debug)]
pub struct UartConfig {
    /// Its name in the machine: `com1`.
    pub name: String,
}

/// Interrupt enable register.
mod enable {
    pub(super) const RECEIVED: u8 = 0x01;
    pub(super) const TRANSMITTER: u8 = 0x02;
    pub(super) const LINE: u8 = 0x04;
    pub(super) const MODEM: u8 = 0x08;
}

/// Interrupt identification register.
mod ident {
    pub(super) const NONE: u8 = 0x01;
    pub(super) const MODEM: u8 = 0x00;
    pub(super) const TRANSMITTER: u8 = 0x02;
    pub(super) const RECEIVED: u8 = 0x04;
    pub(super) const LINE: u8 = 0x06;
    pub(super) const TIMEOUT: u8 = 0x0c;
    pub(super) const FIFOS: u8 = 0xc0;
}

/// Line control register.
mod line_control {
    pub(super) const BREAK: u8 = 0x40;
    pub(super) const DIVISOR: u8 = 0x80;
}

/// Modem control register.
mod modem_control {
    pub(super) const DTR: u8 = 0x01;
    pub(super) const RTS: u8 = 0x02;
    pub(super) const OUT1: u8 = 0x04;
    pub(super) const OUT2: u8 = 0x08;
    pub(super) const LOOPBACK: u8 = 0x10;
}

/// Line status register.
mod line_status {
    pub(super) const READY: u8 = 0x01;
    pub(super) const OVERRUN: u8 = 0x02;
    pub(super) const BREAK: u8 = 0x10;
    pub(super) const EMPTY: u8 = 0x60;
    pub(super) const FIFO_ERROR: u8 = 0x80;
}

/// Modem status register: the levels; the low half has their changes.
mod modem_status {
    pub(super) const CTS: u8 = 0x10;
    pub(super) const DSR: u8 = 0x20;
    pub(super) const RING: u8 = 0x40;
    pub(super) const CARRIER: u8 = 0x80;
    pub(super) const RING_ENDED: u8 = 0x04;
}

/// One serial port.
#[derive(Debug)]
pub struct Uart {
    name: String,
    irq: IrqLine,
    output: Arc<Batch>,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    receive: ReceiveFifo,
    /// Receive trigger level.
    trigger: u8,
    interrupt_enable: u8,
    line_control: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    divisor: u16,
    /// A character found the receiver full.
    overrun: bool,
    /// The transmitter has become empty and nobody has been told.
    transmitter_empty: bool,
    /// Input was refused; the peer is told when there is room.
    refused: bool,
}

/// What an access asks for beyond the registers.
#[derive(Default)]
struct Effects {
    sent: Option<u8>,
    input_wanted: bool,
}

impl State {
    fn new() -> Self {
        let mut state = Self {
            trigger: 1,
            divisor: 12,
            ..Self::default()
        };
        state.modem_status = state.modem_levels();
        state
    }

    fn is_loopback(&self) -> bool {
        self.modem_control & modem_control::LOOPBACK != 0
    }

    /// What the modem lines say: a peer that is always there, or our own outputs.
    fn modem_levels(&self) -> u8 {
        if !self.is_loopback() {
            return modem_status::CTS | modem_status::DSR | modem_status::CARRIER;
        }
        let wires = [
            (modem_control::RTS, modem_status::CTS),
            (modem_control::DTR, modem_status::DSR),
            (modem_control::OUT1, modem_status::RING),
            (modem_control::OUT2, modem_status::CARRIER),
        ];
        let high = wires
            .iter()
            .filter(|(output, _)| self.modem_control & output != 0);
        high.fold(0, |levels, (_, input)| levels | input)
    }

    /// Brings the modem status in step with the lines, noting what has changed.
    fn update_modem(&mut self) {
        let (old, new) = (self.modem_status & 0xf0, self.modem_levels());
        let mut changes = ((old ^ new) >> 4) & !modem_status::RING_ENDED;
        if old & !new & modem_status::RING != 0 {
            changes |= modem_status::RING_ENDED;
        }
        self.modem_status = new | (self.modem_status & 0x0f) | changes;
    }

    fn line_status(&self) -> u8 {
        let mut status = line_status::EMPTY | self.receive.errors();
        if !self.receive.is_empty() {
            status |= line_status::READY;
        }
        if self.overrun {
            status |= line_status::OVERRUN;
        }
        if self.receive.enabled && self.receive.any_errors() {
            status |= line_status::FIFO_ERROR;
        }
        status
    }

    /// The most urgent interrupt.
    fn interrupt(&self) -> u8 {
        let enabled = |bit: u8| self.interrupt_enable & bit != 0;
        if enabled(enable::LINE) && (self.overrun || self.receive.errors() != 0) {
            ident::LINE
        } else if enabled(enable::RECEIVED) && !self.receive.is_empty() {
            if !self.receive.enabled || self.receive.len() >= usize::from(self.trigger) {
                ident::RECEIVED
            } else {
                ident::TIMEOUT
            }
        } else if enabled(enable::TRANSMITTER) && self.transmitter_empty {
            ident::TRANSMITTER
        } else if enabled(enable::MODEM) && self.modem_status & 0x0f != 0 {
            ident::MODEM
        } else {
            ident::NONE
        }
    }

    fn receive(&mut self, byte: u8, errors: u8) {
        if !self.receive.push(byte, errors) {
            self.overrun = true;
        }
    }

    /// Whether a peer that was refused can be told to try again.
    fn wants_input(&mut self) -> bool {
        let wants = self.refused && self.receive.is_empty() && !self.is_loopback();
        if wants {
            self.refused = false;
        }
        wants
    }

    fn read(&mut self, offset: u64, effects: &mut Effects) -> u8 {
        let divisor = self.line_control & line_control::DIVISOR != 0;
        match offset {
            0 if divisor => self.divisor as u8,
            1 if divisor => (self.divisor >> 8) as u8,
            0 => {
                let byte = self.receive.pop().unwrap_or(0);
                effects.input_wanted |= self.wants_input();
                byte
            }
            1 => self.interrupt_enable,
            2 => {
                let interrupt = self.interrupt();
                if interrupt == ident::TRANSMITTER {
                    self.transmitter_empty = false;
                }
                interrupt
                    | if self.receive.enabled {
                        ident::FIFOS
                    } else {
                        0
                    }
            }
            3 => self.line_control,
            4 => self.modem_control,
            5 => {
                let status = self.line_status();
                self.overrun = false;
                self.receive.clear_errors();
                status
            }
            6 => {
                let status = self.modem_status;
                self.modem_status &= 0xf0;
                status
            }
            7 => self.scratch,
            _ => 0xff,
        }
    }

    fn write(&mut self, offset: u64, value: u8, effects: &mut Effects) {
        let divisor = self.line_control & line_control::DIVISOR != 0;
        match offset {
            0 if divisor => self.divisor = (self.divisor & 0xff00) | u16::from(value),
            1 if divisor => self.divisor = (self.divisor & 0x00ff) | (u16::from(value) << 8),
            0 => {
                if self.is_loopback() {
                    self.receive(value, 0);
                } else {
                    effects.sent = Some(value);
                }
                self.transmitter_empty = true;
            }
            1 => {
                let was = self.interrupt_enable;
                self.interrupt_enable = value & 0x0f;
                if self.interrupt_enable & !was & enable::TRANSMITTER != 0 {
                    // Drivers start sending by enabling this on an empty transmitter.
                    self.transmitter_empty = true;
                }
            }
            2 => self.write_fifo_control(value, effects),
            3 => {
                let begins = value & !self.line_control & line_control::BREAK != 0;
                self.line_control = value;
                if begins && self.is_loopback() {
                    self.receive(0, line_status::BREAK);
                }
            }
            4 => {
                self.modem_control = value & 0x1f;
                self.update_modem();
                effects.input_wanted |= self.wants_input();
            }
            7 => self.scratch = value,
            // Both status registers are for the factory to write.
            _ => {}
        }
    }

    fn write_fifo_control(&mut self, value: u8, effects: &mut Effects) {
        let enabled = value & 0x01 != 0;
        if enabled != self.receive.enabled || (enabled && value & 0x02 != 0) {
            self.receive.clear();
            self.overrun = false;
        }
        self.receive.enabled = enabled;
        if enabled {
            self.trigger = [1, 4, 8, 14][usize::from(value >> 6)];
        }
        effects.input_wanted |= self.wants_input();
    }
}

impl Uart {
    /// A UART after its reset pin: no FIFOs, no interrupts.
    pub fn new(ports: UartPorts, config: UartConfig) -> Arc<Self> {
        Arc::new(Self {
            name: config.name,
            irq: ports.irq,
            output: Batch::new(ports.peer, ports.clock, &ports.timers),
            state: Mutex::new(State::new()),
        })
    }

    /// Claims eight ports from `base`.
    pub fn attach(self: &Arc<Self>, ports: &AddressSpace, base: u64) -> Result<(), SpaceError> {
        ports.claim(self.name(), base, UART_LENGTH, self.clone())
    }

    /// Characters for the guest; returns how many were taken. When there is room for the rest, the
    /// peer's [`SerialPeer::input_wanted`] is called.
    pub fn push_input(&self, bytes: &[u8]) -> usize {
        let mut state = lock(&self.state);
        let taken = if state.is_loopback() {
            0
        } else {
            state.receive.room().min(bytes.len())
        };
        for byte in &bytes[..taken] {
            state.receive(*byte, 0);
        }
        state.refused |= taken < bytes.len();
        self.update(&state);
        taken
    }

    /// A break condition on the line, which Linux takes as its magic request key.
    pub fn push_break(&self) {
        let mut state = lock(&self.state);
        if !state.is_loopback() {
            state.receive(0, line_status::BREAK);
        }
        self.update(&state);
    }

    /// Sends what is still gathered: before the console is looked at.
    pub fn flush(&self) {
        self.output.flush();
    }

    fn update(&self, state: &State) {
        self.irq.set(state.interrupt() != ident::NONE);
    }

    /// Outside the lock: the peer may call back.
    fn perform(&self, effects: &Effects) {
        if let Some(byte) = effects.sent {
            self.output.push(byte);
        }
        if effects.input_wanted {
            self.output.peer().input_wanted();
        }
    }
}

impl BusDevice for Uart {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut effects = Effects::default();
        {
            let mut state = lock(&self.state);
            for (at, byte) in (offset..).zip(data) {
                *byte = state.read(at, &mut effects);
            }
            self.update(&state);
        }
        self.perform(&effects);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut effects = Effects::default();
        {
            let mut state = lock(&self.state);
            for (at, byte) in (offset..).zip(data) {
                state.write(at, *byte, &mut effects);
            }
            self.update(&state);
        }
        self.perform(&effects);
    }
}

impl Lifecycle for Uart {
    fn name(&self) -> &str {
        &self.name
    }

    fn pause(&self) {
        self.output.flush();
    }

    fn reset(&self) {
        self.output.flush();
        let wanted = {
            let mut state = lock(&self.state);
            let refused = state.refused;
            *state = State::new();
            self.update(&state);
            refused
        };
        if wanted {
            self.output.peer().input_wanted();
        }
    }

    fn halt(&self) {
        self.output.flush();
    }

    fn save(&self) -> Option<Snapshot> {
        Some(Snapshot::of(KIND, 1, &*lock(&self.state)))
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        match snapshot.open::<State>(self.name(), KIND, 1) {
            Ok(saved) => {
                let mut state = lock(&self.state);
                *state = State {
                    receive: saved.receive.sane(),
                    trigger: saved.trigger.clamp(1, 14),
                    interrupt_enable: saved.interrupt_enable & 0x0f,
                    modem_control: saved.modem_control & 0x1f,
                    ..saved
                };
                self.update(&state);
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
    use super::super::batch::tests::Heard;
    use super::*;

    struct Rig {
        uart: Arc<Uart>,
        heard: Arc<Heard>,
        irq: IrqLine,
    }

    impl Rig {
        fn new() -> Self {
            let (heard, irq) = (Arc::new(Heard::default()), IrqLine::unconnected());
            let ports = UartPorts {
                clock: Clock::manual().0,
                timers: Timers::new(),
                irq: irq.clone(),
                peer: heard.clone(),
            };
            let config = UartConfig {
                name: "com1".to_owned(),
            };
            Self {
                uart: Uart::new(ports, config),
                heard,
                irq,
            }
        }

        fn out(&self, offset: u64, value: u8) {
            self.uart.write(offset, &[value]);
        }

        fn port(&self, offset: u64) -> u8 {
            let mut data = [0];
            self.uart.read(offset, &mut data);
            data[0]
        }
    }

    #[test]
    fn what_is_sent_is_heard_in_order() {
        let rig = Rig::new();
        for byte in b"hello" {
            assert_eq!(rig.port(5), 0x60);
            rig.out(0, *byte);
        }
        rig.uart.flush();
        assert_eq!(*lock(&rig.heard.calls), [b"hello"]);
    }

    #[test]
    fn a_driver_that_sends_by_interrupts_gets_one_for_each_round() {
        let rig = Rig::new();
        rig.out(1, 0x02);
        assert!(rig.irq.level());
        assert_eq!(rig.port(2), 0x02);
        assert!(!rig.irq.level());
        assert_eq!(rig.port(2), 0x01);
        rig.out(0, b'x');
        assert!(rig.irq.level());
        assert_eq!(rig.port(2), 0x02);
        rig.out(1, 0);
        assert_eq!(rig.port(2), 0x01);
    }

    #[test]
    fn the_fifo_takes_sixteen_and_asks_for_more_when_empty() {
        let rig = Rig::new();
        rig.out(2, 0x81);
        rig.out(1, 0x01);
        assert_eq!(rig.port(2), 0xc1);
        assert_eq!(rig.uart.push_input(b"0123456789abcdefXYZ"), 16);
        assert!(rig.irq.level());
        assert_eq!(rig.port(2), 0xc4);
        for expected in b"012345678" {
            assert_eq!(rig.port(0), *expected);
        }
        // Below the trigger level of eight: the timeout.
        assert_eq!(rig.port(2), 0xcc);
        for expected in b"9abcdef" {
            assert_eq!(*lock(&rig.heard.wanted), 0);
            assert_eq!(rig.port(0), *expected);
        }
        assert_eq!(*lock(&rig.heard.wanted), 1);
        assert!(!rig.irq.level());
        assert_eq!(rig.port(5), 0x60);
    }

    #[test]
    fn without_fifo_mode_there_is_room_for_one() {
        let rig = Rig::new();
        assert_eq!(rig.uart.push_input(b"ab"), 1);
        assert_eq!(rig.port(5), 0x61);
        assert_eq!(rig.port(0), b'a');
        assert_eq!(*lock(&rig.heard.wanted), 1);
    }

    #[test]
    fn loopback_hears_itself_and_shows_its_modem_lines() {
        let rig = Rig::new();
        assert_eq!(rig.port(6) & 0xf0, 0xb0);
        rig.out(4, 0x1a);
        assert_eq!(rig.port(6) & 0xf0, 0x90);
        rig.out(0, b'q');
        assert_eq!(rig.uart.push_input(b"no"), 0);
        assert_eq!(rig.port(0), b'q');
        rig.out(0, b'1');
        rig.out(0, b'2');
        assert_eq!(rig.port(5), 0x63);
        assert_eq!(rig.port(5), 0x61);
        rig.port(0);
        rig.out(4, 0);
        assert_eq!(*lock(&rig.heard.wanted), 1);
        assert_eq!(rig.port(6), 0xb2);
        rig.uart.flush();
        assert!(lock(&rig.heard.calls).is_empty());
    }

    #[test]
    fn a_break_is_an_error_of_its_character() {
        let rig = Rig::new();
        rig.out(2, 0x01);
        rig.out(1, 0x05);
        rig.uart.push_input(b"a");
        rig.uart.push_break();
        assert_eq!(rig.port(2), 0xc4);
        assert_eq!(rig.port(5), 0xe1);
        rig.port(0);
        assert_eq!(rig.port(2), 0xc6);
        assert_eq!(rig.port(5), 0xf1);
        assert_eq!(rig.port(0), 0);
        assert_eq!(rig.port(5), 0x60);
    }

    #[test]
    fn divisor_and_scratch_are_plain_storage() {
        let rig = Rig::new();
        rig.out(3, 0x83);
        rig.uart.write(0, &[0x34, 0x12]);
        assert_eq!([rig.port(0), rig.port(1)], [0x34, 0x12]);
        rig.out(3, 0x03);
        assert_eq!(rig.port(1), 0);
        rig.out(7, 0x5a);
        assert_eq!(rig.port(7), 0x5a);
    }

    #[test]
    fn a_saved_state_comes_back() {
        let rig = Rig::new();
        rig.out(2, 0xc1);
        rig.out(1, 0x0f);
        rig.uart.push_input(b"abc");
        let saved = rig.uart.save().unwrap();
        let other = Rig::new();
        other.uart.restore(&saved).unwrap();
        assert_eq!(other.uart.save(), Some(saved));
        assert!(other.irq.level());
        assert_eq!(other.port(0), b'a');
    }
}
