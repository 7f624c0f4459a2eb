//! The secret of a volume.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, Zeroizing};

/// Length of a key of AES-256, in bytes.
const KEY_LEN: usize = 32;

/// The key of an encrypted volume. Wiped when dropped; prints as `Key(..)`; its bytes are seen by the ciphers of
/// this module and by nobody else.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_LEN]>);

/// A text that is no key. Says nothing of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not standard base64.
    #[error("the key is not standard base64 (44 characters, the last one '=')")]
    Encoding,
    /// Not 32 bytes.
    #[error("the key has {0} bytes: {KEY_LEN} are needed, which is 44 characters of base64")]
    Length(usize),
}

impl Key {
    /// A key as configurations have it: 32 bytes in standard base64. Space around it does not count.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        let decoded = STANDARD.decode(text.trim());
        let bytes = Zeroizing::new(decoded.map_err(|_| KeyError::Encoding)?);
        let mut key = Zeroizing::new([0; KEY_LEN]);
        if bytes.len() != KEY_LEN {
            return Err(KeyError::Length(bytes.len()));
        }
        key.copy_from_slice(&bytes);
        Ok(Self(key))
    }

    /// A fresh key from the operating system, for volumes that nobody keeps.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        getrandom::fill(&mut *key)?;
        Ok(Self(key))
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl From<[u8; KEY_LEN]> for Key {
    fn from(mut bytes: [u8; KEY_LEN]) -> Self {
        let key = Self(Zeroizing::new(bytes));
        bytes.zeroize();
        key
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A key as a configuration carries it along: text that is handed on, compared, and not looked at. Wiped when
/// dropped; prints as `KeyText(..)`.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(feature = "drive", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "drive", serde(from = "String", into = "String"))]
pub struct KeyText(Zeroizing<String>);

impl KeyText {
    /// The key it stands for.
    pub fn key(&self) -> Result<Key, KeyError> {
        Key::from_base64(&self.0)
    }
}

impl From<String> for KeyText {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl From<KeyText> for String {
    fn from(text: KeyText) -> Self {
        text.0.as_str().to_owned()
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyText(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_base64_and_does_not_print() {
        let key = Key::from_base64(" tCw7zw0hAsPuxMOTWwnPEFYjBK9qJRtYyGdEXKEnrg0=\n").unwrap();
        assert_eq!(key.bytes()[..3], [0xb4, 0x2c, 0x3b]);
        assert_eq!(format!("{key:?}"), "Key(..)");
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        for (text, error) in [
            ("", KeyError::Length(0)),
            ("AAAA", KeyError::Length(3)),
            ("not base64!", KeyError::Encoding),
        ] {
            let refused = Key::from_base64(text).unwrap_err();
            assert_eq!(refused, error);
            assert!(text.is_empty() || !refused.to_string().contains(text));
        }
    }
}
