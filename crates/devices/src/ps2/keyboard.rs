//! An AT keyboard (IBM PS/2 technical reference, keyboard section).

use serde::{Deserialize, Serialize};

use super::queue::Queue;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const TEST_PASSED: u8 = 0xaa;
/// What a keyboard says to "identify".
const IDENT: [u8; 2] = [0xab, 0x83];

/// A key by its code in scan code set 1, the one that PC software speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Make code, 1 to 0x7f.
    pub code: u8,
    /// Whether the 0xe0 prefix comes before it (cursor keys, right Ctrl).
    pub extended: bool,
}

/// The translation that the controller applies: set 2 code to set 1 code. From the PS/2 technical
/// reference; codes from 0x80 on pass through, but for F7 and Alt-SysRq.
const TO_SET_1: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
];

/// A set 2 byte as the controller translates it.
pub(super) fn to_set_1(code: u8) -> u8 {
    match code {
        0x83 => 0x41,
        0x84 => 0x54,
        code => TO_SET_1.get(usize::from(code)).copied().unwrap_or(code),
    }
}

/// The set 2 code of a set 1 make code.
fn to_set_2(code: u8) -> Option<u8> {
    if code == 0x41 {
        // F7, whose code is past the table.
        return Some(0x83);
    }
    let index = TO_SET_1.iter().position(|set_1| *set_1 == code)?;
    u8::try_from(index).ok()
}

/// What the next byte from the host belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Expects {
    #[default]
    Command,
    Leds,
    ScanCodeSet,
    Typematic,
}

/// The keyboard's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Keyboard {
    pub(super) queue: Queue,
    expects: Expects,
    /// Sends keys.
    scanning: bool,
    set: u8,
    leds: u8,
    last_sent: u8,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self {
            queue: Queue::default(),
            expects: Expects::Command,
            scanning: true,
            set: 2,
            leds: 0,
            last_sent: 0,
        }
    }
}

impl Keyboard {
    /// A byte from the host.
    pub(super) fn write(&mut self, value: u8) {
        match std::mem::take(&mut self.expects) {
            Expects::Command => self.command(value),
            Expects::Leds => {
                self.leds = value & 7;
                self.queue.answer(&[ACK]);
            }
            Expects::ScanCodeSet => match value {
                0 => self.queue.answer(&[ACK, self.set]),
                1..=3 => {
                    self.set = value;
                    self.queue.answer(&[ACK]);
                }
                _ => self.queue.answer(&[RESEND]),
            },
            Expects::Typematic => self.queue.answer(&[ACK]),
        }
    }

    fn command(&mut self, command: u8) {
        match command {
            0xed => self.expects = Expects::Leds,
            0xee => return self.queue.answer(&[0xee]),
            0xf0 => self.expects = Expects::ScanCodeSet,
            0xf2 => return self.queue.answer(&[ACK, IDENT[0], IDENT[1]]),
            0xf3 => self.expects = Expects::Typematic,
            0xf4 => self.scanning = true,
            0xf5 => {
                *self = Self {
                    scanning: false,
                    ..Self::default()
                }
            }
            0xf6 => *self = Self::default(),
            // Typematic, make and break for all keys or for some: nothing depends on it here.
            0xf7..=0xfd => {}
            0xfe => return self.queue.answer(&[self.last_sent]),
            0xff => {
                *self = Self::default();
                return self.queue.answer(&[ACK, TEST_PASSED]);
            }
            _ => return self.queue.answer(&[RESEND]),
        }
        self.queue.answer(&[ACK]);
    }

    /// A key goes down or up. Returns whether it will be sent.
    pub(super) fn key(&mut self, key: Key, pressed: bool) -> bool {
        if !self.scanning || key.code == 0 || key.code > 0x7f {
            return false;
        }
        let mut bytes = Vec::with_capacity(3);
        if key.extended {
            bytes.push(0xe0);
        }
        if self.set == 1 {
            bytes.push(key.code | if pressed { 0 } else { 0x80 });
        } else {
            let Some(code) = to_set_2(key.code) else {
                return false;
            };
            if !pressed {
                bytes.push(0xf0);
            }
            bytes.push(code);
        }
        self.queue.push(&bytes)
    }

    /// The next byte for the host.
    pub(super) fn pop(&mut self) -> Option<u8> {
        let byte = self.queue.pop()?;
        self.last_sent = byte;
        Some(byte)
    }

    /// What a damaged saved state could hold, put right.
    pub(super) fn sane(self) -> Self {
        Self {
            queue: self.queue.sane(),
            set: self.set.clamp(1, 3),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(keyboard: &mut Keyboard, bytes: &[u8]) -> Vec<u8> {
        let mut said = Vec::new();
        for byte in bytes {
            keyboard.write(*byte);
            said.extend(std::iter::from_fn(|| keyboard.pop()));
        }
        said
    }

    #[test]
    fn the_driver_s_opening_is_answered() {
        let mut keyboard = Keyboard::default();
        assert_eq!(talk(&mut keyboard, &[0xff]), [0xfa, 0xaa]);
        assert_eq!(talk(&mut keyboard, &[0xf2]), [0xfa, 0xab, 0x83]);
        assert_eq!(talk(&mut keyboard, &[0xed, 7]), [0xfa, 0xfa]);
        assert_eq!(talk(&mut keyboard, &[0xf3, 0]), [0xfa, 0xfa]);
        assert_eq!(talk(&mut keyboard, &[0xf0, 0]), [0xfa, 0xfa, 2]);
        assert_eq!(talk(&mut keyboard, &[0xf4]), [0xfa]);
        assert_eq!(talk(&mut keyboard, &[0x12]), [0xfe]);
        assert_eq!(talk(&mut keyboard, &[0xfe]), [0xfe]);
    }

    #[test]
    fn keys_are_sent_in_the_chosen_set() {
        let mut keyboard = Keyboard::default();
        let a = Key {
            code: 0x1e,
            extended: false,
        };
        assert!(keyboard.key(a, true));
        assert!(keyboard.key(a, false));
        let sent: Vec<u8> = std::iter::from_fn(|| keyboard.pop()).collect();
        assert_eq!(sent, [0x1c, 0xf0, 0x1c]);
        talk(&mut keyboard, &[0xf0, 1]);
        let up = Key {
            code: 0x48,
            extended: true,
        };
        assert!(keyboard.key(up, false));
        let sent: Vec<u8> = std::iter::from_fn(|| keyboard.pop()).collect();
        assert_eq!(sent, [0xe0, 0xc8]);
        talk(&mut keyboard, &[0xf5]);
        assert!(!keyboard.key(up, true));
    }

    #[test]
    fn every_key_survives_the_way_there_and_back() {
        for code in 1..=0x7f {
            if let Some(set_2) = to_set_2(code) {
                assert_eq!(to_set_1(set_2), code);
            }
        }
    }
}
