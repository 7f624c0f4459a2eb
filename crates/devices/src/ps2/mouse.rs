//! A PS/2 mouse with a wheel (IBM PS/2 technical reference, mouse section; the wheel by the customary
//! knock of sample rates 200, 100, 80).

use serde::{Deserialize, Serialize};

use super::queue::Queue;

const ACK: u8 = 0xfa;
const ERROR: u8 = 0xfc;
const TEST_PASSED: u8 = 0xaa;
/// Sample rates that turn a plain mouse into one with a wheel.
const WHEEL_KNOCK: [u8; 3] = [200, 100, 80];

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Expects {
    #[default]
    Command,
    Resolution,
    SampleRate,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Mode {
    #[default]
    Stream,
    Remote,
    /// Echoes every byte.
    Wrap,
}

/// The mouse's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Mouse {
    pub(super) queue: Queue,
    expects: Expects,
    mode: Mode,
    reporting: bool,
    double_scale: bool,
    resolution: u8,
    sample_rate: u8,
    /// The last three sample rates, newest last.
    knock: [u8; 3],
    wheel: bool,
    buttons: u8,
    /// Movement not yet reported: right, up, wheel.
    moved: [i32; 3],
}

impl Default for Mouse {
    fn default() -> Self {
        Self {
            queue: Queue::default(),
            expects: Expects::Command,
            mode: Mode::Stream,
            reporting: false,
            double_scale: false,
            resolution: 2,
            sample_rate: 100,
            knock: [0; 3],
            wheel: false,
            buttons: 0,
            moved: [0; 3],
        }
    }
}

impl Mouse {
    /// A byte from the host.
    pub(super) fn write(&mut self, value: u8) {
        if self.mode == Mode::Wrap && !matches!(value, 0xec | 0xff) {
            return self.queue.answer(&[value]);
        }
        match std::mem::take(&mut self.expects) {
            Expects::Command => self.command(value),
            Expects::Resolution if value <= 3 => {
                self.resolution = value;
                self.queue.answer(&[ACK]);
            }
            Expects::Resolution => self.queue.answer(&[ERROR]),
            Expects::SampleRate => {
                self.sample_rate = value;
                self.knock = [self.knock[1], self.knock[2], value];
                self.wheel |= self.knock == WHEEL_KNOCK;
                self.queue.answer(&[ACK]);
            }
        }
    }

    fn command(&mut self, command: u8) {
        match command {
            0xe6 => self.double_scale = false,
            0xe7 => self.double_scale = true,
            0xe8 => self.expects = Expects::Resolution,
            0xe9 => {
                let status = u8::from(self.mode == Mode::Remote) << 6
                    | u8::from(self.reporting) << 5
                    | u8::from(self.double_scale) << 4
                    | self.buttons;
                let answer = [ACK, status, self.resolution, self.sample_rate];
                return self.queue.answer(&answer);
            }
            0xea | 0xec => self.mode = Mode::Stream,
            0xeb => {
                self.queue.answer(&[ACK]);
                self.report();
                return;
            }
            0xee => self.mode = Mode::Wrap,
            0xf0 => self.mode = Mode::Remote,
            0xf2 => return self.queue.answer(&[ACK, if self.wheel { 3 } else { 0 }]),
            0xf3 => self.expects = Expects::SampleRate,
            0xf4 => self.reporting = true,
            0xf5 => self.reporting = false,
            0xf6 => {
                *self = Self {
                    wheel: self.wheel,
                    ..Self::default()
                }
            }
            0xff => {
                *self = Self::default();
                return self.queue.answer(&[ACK, TEST_PASSED, 0]);
            }
            _ => return self.queue.answer(&[ERROR]),
        }
        self.queue.answer(&[ACK]);
    }

    /// The mouse moves (right, up, wheel down) and its buttons are as given (left, right, middle from
    /// bit 0). Reports what it can; the rest stays for later.
    pub(super) fn moved(&mut self, by: [i32; 3], buttons: u8) {
        for (total, by) in self.moved.iter_mut().zip(by) {
            *total = total.saturating_add(by);
        }
        self.buttons = buttons & 7;
        if self.reporting && self.mode == Mode::Stream && self.queue.is_empty() {
            self.report();
        }
    }

    fn report(&mut self) {
        let mut part = |index: usize, least: i32, most: i32| {
            let step = self.moved[index].clamp(least, most);
            self.moved[index] = self.moved[index].saturating_sub(step);
            step
        };
        let (right, up) = (part(0, -255, 255), part(1, -255, 255));
        let turned = if self.wheel { part(2, -8, 7) } else { 0 };
        let signs = u8::from(right < 0) << 4 | u8::from(up < 0) << 5;
        let bytes = [
            0x08 | self.buttons | signs,
            right as u8,
            up as u8,
            turned as u8,
        ];
        self.queue.push(&bytes[..if self.wheel { 4 } else { 3 }]);
    }

    /// The next byte for the host.
    pub(super) fn pop(&mut self) -> Option<u8> {
        self.queue.pop()
    }

    /// What a damaged saved state could hold, put right.
    pub(super) fn sane(self) -> Self {
        Self {
            queue: self.queue.sane(),
            resolution: self.resolution & 3,
            buttons: self.buttons & 7,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(mouse: &mut Mouse, bytes: &[u8]) -> Vec<u8> {
        let mut said = Vec::new();
        for byte in bytes {
            mouse.write(*byte);
            said.extend(std::iter::from_fn(|| mouse.pop()));
        }
        said
    }

    #[test]
    fn the_driver_s_opening_is_answered() {
        let mut mouse = Mouse::default();
        assert_eq!(talk(&mut mouse, &[0xff]), [0xfa, 0xaa, 0]);
        assert_eq!(talk(&mut mouse, &[0xf2]), [0xfa, 0]);
        assert_eq!(talk(&mut mouse, &[0xe9]), [0xfa, 0, 2, 100]);
        let knock = [0xf3, 200, 0xf3, 100, 0xf3, 80];
        assert_eq!(talk(&mut mouse, &knock), [0xfa; 6]);
        assert_eq!(talk(&mut mouse, &[0xf2]), [0xfa, 3]);
        assert_eq!(talk(&mut mouse, &[0xe8, 9]), [0xfa, 0xfc]);
        assert_eq!(talk(&mut mouse, &[0xe1]), [0xfc]);
    }

    #[test]
    fn movement_is_reported_in_steps_that_fit() {
        let mut mouse = Mouse::default();
        mouse.moved([5, 5, 0], 0);
        assert!(mouse.queue.is_empty());
        talk(&mut mouse, &[0xf4]);
        mouse.moved([295, -8, 0], 1);
        let sent: Vec<u8> = std::iter::from_fn(|| mouse.pop()).collect();
        assert_eq!(sent, [0x29, 255, 0xfd]);
        mouse.moved([0, 0, 0], 0);
        let sent: Vec<u8> = std::iter::from_fn(|| mouse.pop()).collect();
        assert_eq!(sent, [0x08, 45, 0]);
    }

    #[test]
    fn wrap_mode_echoes_until_it_is_reset() {
        let mut mouse = Mouse::default();
        assert_eq!(talk(&mut mouse, &[0xee, 0x55, 0xf2]), [0xfa, 0x55, 0xf2]);
        assert_eq!(talk(&mut mouse, &[0xec, 0xf2]), [0xfa, 0xfa, 0]);
    }
}
