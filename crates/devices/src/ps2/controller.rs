//! The 8042 keyboard controller (IBM PS/2 technical reference; commands as PC software uses them).

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use vm_types::IrqLine;

use super::keyboard::{Key, Keyboard, to_set_1};
use super::mouse::Mouse;
use super::queue::Queue;
use crate::bus::{AddressSpace, BusDevice, SpaceError};
use crate::lifecycle::{Lifecycle, RestoreError, Snapshot};
use crate::misc::Signal;
use crate::sync::lock;

/// Its ports: start and length.
pub const PS2_PORTS: [(u64, u64); 2] = [(0x60, 1), (0x64, 1)];

const KIND: &str = "ps2";

/// What the controller is connected to.
#[derive(Clone, Debug)]
pub struct Ps2Ports {
    /// Interrupt 1.
    pub keyboard_irq: IrqLine,
    /// Interrupt 12.
    pub mouse_irq: IrqLine,
    /// The CPU's reset pin.
    pub reset: Signal,
}

/// Status register.
mod status {
    pub(super) const OUTPUT_FULL: u8 = 0x01;
    pub(super) const SYSTEM: u8 = 0x04;
    pub(super) const COMMAND: u8 = 0x08;
    pub(super) const UNLOCKED: u8 = 0x10;
    pub(super) const FROM_MOUSE: u8 = 0x20;
}

/// Configuration byte.
mod config {
    pub(super) const KEYBOARD_IRQ: u8 = 0x01;
    pub(super) const MOUSE_IRQ: u8 = 0x02;
    pub(super) const SYSTEM: u8 = 0x04;
    pub(super) const KEYBOARD_OFF: u8 = 0x10;
    pub(super) const MOUSE_OFF: u8 = 0x20;
    pub(super) const TRANSLATE: u8 = 0x40;
}

// The configuration's bit is shown at the same place in the status.
const _: () = assert!(config::SYSTEM == status::SYSTEM);

/// Output port: reset not pulled, A20 open.
const OUTPUT_PORT: u8 = 0x03;

/// Where the next byte at port 0x60 goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Target {
    #[default]
    Keyboard,
    Mouse,
    /// Byte of the controller's memory; 0 is the configuration.
    Memory(u8),
    OutputPort,
    KeyboardOutput,
    MouseOutput,
}

/// Who filled the output buffer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Source {
    Keyboard,
    Mouse,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    keyboard: Keyboard,
    mouse: Mouse,
    config: u8,
    memory: Vec<u8>,
    target: Target,
    /// The last write was a command.
    command: bool,
    /// The output buffer, and what is in it after it has been read.
    output: Option<(u8, Source)>,
    last_output: u8,
    /// Answers of the controller itself; they go before the devices' bytes.
    answers: Queue,
    mouse_answers: Queue,
    /// The keyboard has sent a break prefix that the translation still holds.
    breaking: bool,
}

impl State {
    fn new() -> Self {
        Self {
            config: config::SYSTEM | config::TRANSLATE | config::KEYBOARD_IRQ | config::MOUSE_IRQ,
            memory: vec![0; 32],
            ..Self::default()
        }
    }

    /// Moves the next byte into the output buffer, if that is free.
    fn refill(&mut self) {
        if self.output.is_some() {
            return;
        }
        self.output = if let Some(byte) = self.answers.pop() {
            Some((byte, Source::Keyboard))
        } else if let Some(byte) = self.mouse_answers.pop() {
            Some((byte, Source::Mouse))
        } else if let Some(byte) = self.keyboard_byte() {
            Some((byte, Source::Keyboard))
        } else if self.config & config::MOUSE_OFF == 0 {
            self.mouse.pop().map(|byte| (byte, Source::Mouse))
        } else {
            None
        };
    }

    fn keyboard_byte(&mut self) -> Option<u8> {
        if self.config & config::KEYBOARD_OFF != 0 {
            return None;
        }
        // A break prefix takes one more turn: it becomes the top bit of the code after it.
        for _ in 0..2 {
            let byte = self.keyboard.pop()?;
            if self.config & config::TRANSLATE == 0 {
                return Some(byte);
            }
            if byte == 0xf0 {
                self.breaking = true;
                continue;
            }
            let top = if std::mem::take(&mut self.breaking) {
                0x80
            } else {
                0
            };
            return Some(to_set_1(byte) | top);
        }
        None
    }

    fn read_data(&mut self) -> u8 {
        if let Some((byte, _)) = self.output.take() {
            self.last_output = byte;
        }
        self.last_output
    }

    fn status(&self) -> u8 {
        let mut status = status::UNLOCKED | (self.config & config::SYSTEM);
        if self.command {
            status |= status::COMMAND;
        }
        match self.output {
            Some((_, Source::Keyboard)) => status |= status::OUTPUT_FULL,
            Some((_, Source::Mouse)) => status |= status::OUTPUT_FULL | status::FROM_MOUSE,
            None => {}
        }
        status
    }

    /// A command at port 0x64; returns whether it pulls the reset pin.
    fn command(&mut self, command: u8) -> bool {
        self.command = true;
        self.target = Target::Keyboard;
        match command {
            0x20 => self.answers.answer(&[self.config]),
            0x21..=0x3f => {
                let byte = self.memory.get(usize::from(command & 0x1f)).copied();
                self.answers.answer(&[byte.unwrap_or(0)]);
            }
            0x60..=0x7f => self.target = Target::Memory(command & 0x1f),
            0xa7 => self.config |= config::MOUSE_OFF,
            0xa8 => self.config &= !config::MOUSE_OFF,
            0xa9 | 0xab => self.answers.answer(&[0x00]),
            0xaa => {
                // The self test leaves both interfaces off and the system flag on.
                self.config = config::SYSTEM
                    | config::KEYBOARD_OFF
                    | config::MOUSE_OFF
                    | (self.config & config::TRANSLATE);
                self.output = None;
                self.mouse_answers.clear();
                self.answers.answer(&[0x55]);
            }
            0xad => self.config |= config::KEYBOARD_OFF,
            0xae => self.config &= !config::KEYBOARD_OFF,
            // Input port: keyboard not locked, colour display.
            0xc0 => self.answers.answer(&[0x80]),
            0xd0 => {
                let full = match self.output {
                    Some((_, Source::Keyboard)) => 0x10,
                    Some((_, Source::Mouse)) => 0x20,
                    None => 0,
                };
                self.answers.answer(&[OUTPUT_PORT | full]);
            }
            0xd1 => self.target = Target::OutputPort,
            0xd2 => self.target = Target::KeyboardOutput,
            0xd3 => self.target = Target::MouseOutput,
            0xd4 => self.target = Target::Mouse,
            // A clear bit pulses its line; line 0 is the reset pin.
            0xf0..=0xff => return command & 1 == 0,
            // Unknown, or without meaning here (test inputs, passwords): no answer, as the chip.
            _ => {}
        }
        false
    }

    /// A byte at port 0x60; returns whether it pulls the reset pin.
    fn write_data(&mut self, value: u8) -> bool {
        self.command = false;
        match std::mem::take(&mut self.target) {
            Target::Keyboard => {
                // Speaking to the keyboard turns its interface on.
                self.config &= !config::KEYBOARD_OFF;
                self.breaking = false;
                self.keyboard.write(value);
            }
            Target::Mouse => self.mouse.write(value),
            Target::Memory(0) => self.config = value & 0x77,
            Target::Memory(index) => {
                if let Some(byte) = self.memory.get_mut(usize::from(index)) {
                    *byte = value;
                }
            }
            Target::OutputPort => return value & 1 == 0,
            Target::KeyboardOutput => self.answers.answer(&[value]),
            Target::MouseOutput => self.mouse_answers.answer(&[value]),
        }
        false
    }
}

/// The controller and what is plugged into it.
#[derive(Debug)]
pub struct Ps2 {
    ports: Ps2Ports,
    state: Mutex<State>,
}

impl Ps2 {
    /// A controller as firmware leaves it: both devices on, interrupts enabled, scan codes translated.
    pub fn new(ports: Ps2Ports) -> Arc<Self> {
        Arc::new(Self {
            ports,
            state: Mutex::new(State::new()),
        })
    }

    /// Claims its ports.
    pub fn attach(self: &Arc<Self>, ports: &AddressSpace) -> Result<(), SpaceError> {
        ports.claim_all(self.name(), &PS2_PORTS, self.clone())
    }

    /// A key goes down or up. Returns whether it was taken: not while the keyboard is off or its
    /// queue full.
    pub fn key(&self, key: Key, pressed: bool) -> bool {
        let mut state = lock(&self.state);
        let taken = state.keyboard.key(key, pressed);
        self.update(&mut state);
        taken
    }

    /// The mouse moves by (right, up, wheel down) steps; `buttons` are left, right, middle from bit 0.
    pub fn mouse(&self, by: [i32; 3], buttons: u8) {
        let mut state = lock(&self.state);
        state.mouse.moved(by, buttons);
        self.update(&mut state);
    }

    /// Fills the output buffer and brings the interrupts in step with it. A line that goes up again
    /// after a byte was read has been down in between, which edge-triggered pins need.
    fn update(&self, state: &mut State) {
        state.refill();
        let (keyboard, mouse) = match state.output {
            Some((_, Source::Keyboard)) => (state.config & config::KEYBOARD_IRQ != 0, false),
            Some((_, Source::Mouse)) => (false, state.config & config::MOUSE_IRQ != 0),
            None => (false, false),
        };
        self.ports.keyboard_irq.set(keyboard);
        self.ports.mouse_irq.set(mouse);
    }

    fn lower(&self) {
        self.ports.keyboard_irq.set(false);
        self.ports.mouse_irq.set(false);
    }
}

impl BusDevice for Ps2 {
    /// `offset` is the port.
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = lock(&self.state);
        data.fill(0xff);
        if let Some(byte) = data.first_mut() {
            *byte = match offset {
                0x60 => {
                    let byte = state.read_data();
                    self.lower();
                    self.update(&mut state);
                    byte
                }
                _ => state.status(),
            };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(value) = data.first() else {
            return;
        };
        let reset = {
            let mut state = lock(&self.state);
            let reset = match offset {
                0x60 => state.write_data(*value),
                _ => state.command(*value),
            };
            self.update(&mut state);
            reset
        };
        if reset {
            self.ports.reset.fire();
        }
    }
}

impl Lifecycle for Ps2 {
    fn name(&self) -> &str {
        KIND
    }

    fn reset(&self) {
        *lock(&self.state) = State::new();
        self.lower();
    }

    fn save(&self) -> Option<Snapshot> {
        Some(Snapshot::of(KIND, 1, &*lock(&self.state)))
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        match snapshot.open::<State>(self.name(), KIND, 1) {
            Ok(mut saved) => {
                saved.memory.resize(32, 0);
                saved.keyboard = saved.keyboard.sane();
                saved.mouse = saved.mouse.sane();
                saved.answers = saved.answers.sane();
                saved.mouse_answers = saved.mouse_answers.sane();
                let mut state = lock(&self.state);
                *state = saved;
                self.update(&mut state);
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
    use crate::misc::signal::tests::counting;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Rig {
        ps2: Arc<Ps2>,
        keyboard_irq: IrqLine,
        mouse_irq: IrqLine,
        resets: Arc<AtomicU32>,
    }

    impl Rig {
        fn new() -> Self {
            let (reset, resets) = counting();
            let (keyboard_irq, mouse_irq) = (IrqLine::unconnected(), IrqLine::unconnected());
            let ps2 = Ps2::new(Ps2Ports {
                keyboard_irq: keyboard_irq.clone(),
                mouse_irq: mouse_irq.clone(),
                reset,
            });
            Self {
                ps2,
                keyboard_irq,
                mouse_irq,
                resets,
            }
        }

        fn command(&self, command: u8) {
            self.ps2.write(0x64, &[command]);
        }

        fn data(&self, value: u8) {
            self.ps2.write(0x60, &[value]);
        }

        fn status(&self) -> u8 {
            let mut data = [0];
            self.ps2.read(0x64, &mut data);
            data[0]
        }

        /// Everything that is to be read, with whether it came from the mouse.
        fn drain(&self) -> Vec<(u8, bool)> {
            let mut bytes = Vec::new();
            while self.status() & 1 != 0 {
                let from_mouse = self.status() & 0x20 != 0;
                let mut data = [0];
                self.ps2.read(0x60, &mut data);
                bytes.push((data[0], from_mouse));
            }
            bytes
        }
    }

    #[test]
    fn the_controller_passes_linux_s_probing() {
        let rig = Rig::new();
        rig.command(0xaa);
        assert_eq!(rig.drain(), [(0x55, false)]);
        assert_eq!(rig.status() & 0x04, 0x04);
        rig.command(0x60);
        rig.data(0x74);
        rig.command(0xd3);
        rig.data(0x5a);
        assert_eq!(rig.drain(), [(0x5a, true)]);
        rig.command(0xa9);
        assert_eq!(rig.drain(), [(0x00, false)]);
        rig.command(0xa8);
        rig.command(0xa7);
        rig.command(0x20);
        assert_eq!(rig.drain(), [(0x74, false)]);
        rig.command(0xa8);
        rig.command(0x20);
        assert_eq!(rig.drain(), [(0x54, false)]);
    }

    #[test]
    fn the_loop_back_byte_interrupts_when_enabled() {
        let rig = Rig::new();
        rig.command(0x60);
        rig.data(0x47);
        rig.command(0xd3);
        rig.data(0xa5);
        assert!(rig.mouse_irq.level());
        assert!(!rig.keyboard_irq.level());
        assert_eq!(rig.drain(), [(0xa5, true)]);
        assert!(!rig.mouse_irq.level());
    }

    #[test]
    fn both_devices_answer_through_their_ways() {
        let rig = Rig::new();
        rig.data(0xf2);
        assert!(rig.keyboard_irq.level());
        // Translated, as everything the keyboard says.
        assert_eq!(rig.drain(), [(0xfa, false), (0xab, false), (0x41, false)]);
        rig.command(0xd4);
        rig.data(0xff);
        assert!(rig.mouse_irq.level());
        assert_eq!(rig.drain(), [(0xfa, true), (0xaa, true), (0x00, true)]);
    }

    #[test]
    fn keys_arrive_in_set_one() {
        let rig = Rig::new();
        let delete = Key {
            code: 0x53,
            extended: true,
        };
        assert!(rig.ps2.key(delete, true));
        assert!(rig.ps2.key(delete, false));
        let bytes: Vec<u8> = rig.drain().into_iter().map(|(byte, _)| byte).collect();
        assert_eq!(bytes, [0xe0, 0x53, 0xe0, 0xd3]);
    }

    #[test]
    fn an_interface_that_is_off_keeps_its_bytes() {
        let rig = Rig::new();
        rig.command(0xad);
        let a = Key {
            code: 0x1e,
            extended: false,
        };
        assert!(rig.ps2.key(a, true));
        assert!(rig.drain().is_empty());
        rig.command(0xae);
        assert_eq!(rig.drain(), [(0x1e, false)]);
    }

    #[test]
    fn three_ways_to_reset() {
        let rig = Rig::new();
        rig.command(0xfe);
        rig.command(0xd1);
        rig.data(0xdd & !1);
        rig.command(0xfc);
        rig.command(0xff);
        rig.command(0xd1);
        rig.data(0xdf);
        assert_eq!(rig.resets.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_full_keyboard_refuses_whole_keys() {
        let rig = Rig::new();
        rig.command(0xad);
        let a = Key {
            code: 0x1e,
            extended: false,
        };
        let taken = (0..100).filter(|_| rig.ps2.key(a, false)).count();
        assert_eq!(taken, 16);
        rig.command(0xae);
        assert_eq!(rig.drain(), [(0x9e, false); 16]);
    }

    #[test]
    fn a_saved_state_comes_back() {
        let rig = Rig::new();
        rig.data(0xff);
        let saved = rig.ps2.save().unwrap();
        let other = Rig::new();
        other.ps2.restore(&saved).unwrap();
        assert_eq!(other.ps2.save(), Some(saved));
        assert!(other.keyboard_irq.level());
        assert_eq!(other.drain(), [(0xfa, false), (0xaa, false)]);
    }
}
