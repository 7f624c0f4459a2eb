//! AES-256-GCM-SIV in Rust alone, for hosts where no C is built.

use std::fmt;

use aes_gcm_siv::{AeadInPlace, Aes256GcmSiv, KeyInit, Nonce, Tag};
use crucible_protocol::context::{NONCE_LEN, TAG_LEN};

use super::cipher::{Cipher, SealError, TagMismatch};
use super::key::Key;

pub(super) struct Portable(Aes256GcmSiv);

impl Portable {
    pub(super) fn new(key: &Key) -> Self {
        Self(Aes256GcmSiv::new(key.bytes().into()))
    }
}

impl Cipher for Portable {
    fn seal(&self, nonce: &[u8; NONCE_LEN], block: &mut [u8]) -> Result<[u8; TAG_LEN], SealError> {
        let length = block.len();
        self.0
            .encrypt_in_place_detached(Nonce::from_slice(nonce), &[], block)
            .map(Into::into)
            .map_err(|_| SealError::Cipher(length))
    }

    fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        tag: &[u8; TAG_LEN],
        sealed: &[u8],
        into: &mut [u8],
    ) -> Result<(), TagMismatch> {
        if sealed.len() != into.len() {
            return Err(TagMismatch);
        }
        into.copy_from_slice(sealed);
        self.open_in_place(nonce, tag, into)
    }

    fn open_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        tag: &[u8; TAG_LEN],
        block: &mut [u8],
    ) -> Result<(), TagMismatch> {
        let (nonce, tag) = (Nonce::from_slice(nonce), Tag::from_slice(tag));
        self.0
            .decrypt_in_place_detached(nonce, &[], block, tag)
            .map_err(|_| TagMismatch)
    }
}

impl fmt::Debug for Portable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Portable(..)")
    }
}
