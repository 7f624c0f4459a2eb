//! One block: the trait, and the choice between its implementations.

use std::fmt;
use std::sync::Arc;

use crucible_protocol::context::{NONCE_LEN, TAG_LEN};

use super::key::Key;
use super::portable::Portable;

/// AES-256-GCM-SIV (RFC 8452) over single blocks, without associated data.
pub trait Cipher: Send + Sync + fmt::Debug {
    /// Encrypts `block` in place; returns the tag.
    fn seal(&self, nonce: &[u8; NONCE_LEN], block: &mut [u8]) -> Result<[u8; TAG_LEN], SealError>;

    /// Decrypts `sealed` into `into`, which has the same length. After an error the content of `into` means
    /// nothing.
    fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        tag: &[u8; TAG_LEN],
        sealed: &[u8],
        into: &mut [u8],
    ) -> Result<(), TagMismatch>;

    /// Decrypts `block` in place. After an error its content means nothing.
    fn open_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        tag: &[u8; TAG_LEN],
        block: &mut [u8],
    ) -> Result<(), TagMismatch>;
}

/// Why a block could not be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The system gave no random numbers.
    #[error("the system has no random numbers for nonces")]
    Random,
    /// The cipher refused.
    #[error("the cipher refused a block of {0} bytes")]
    Cipher(usize),
    /// The data are no whole blocks.
    #[error("{length} bytes are no whole blocks of {block_size} bytes")]
    Length {
        /// In bytes.
        length: usize,
        /// In bytes.
        block_size: usize,
    },
}

/// The tag does not belong to this block, nonce and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tag does not fit the block: corrupt data, or another key")]
pub struct TagMismatch;

/// Which implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CipherKind {
    /// AWS-LC; about three times as fast. Needs the feature `aws-lc`.
    #[cfg(feature = "aws-lc")]
    AwsLc,
    /// Rust alone, on every host.
    Portable,
}

impl CipherKind {
    /// All that were built in, the fastest first.
    pub const ALL: &'static [Self] = &[
        #[cfg(feature = "aws-lc")]
        Self::AwsLc,
        Self::Portable,
    ];

    /// The fastest that was built in.
    pub const fn best() -> Self {
        Self::ALL[0]
    }

    /// A cipher under `key`.
    pub fn cipher(self, key: &Key) -> Arc<dyn Cipher> {
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc => match super::aws::AwsLc::new(key) {
                Some(cipher) => Arc::new(cipher),
                // It refuses keys of another length only, which there are none of.
                None => Arc::new(Portable::new(key)),
            },
            Self::Portable => Arc::new(Portable::new(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crucible_protocol::EncryptionContext;
    use crucible_protocol::context::{hash, integrity_hash};

    use super::*;

    fn counting<const N: usize>() -> [u8; N] {
        std::array::from_fn(|at| at as u8)
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text
            .chars()
            .map(|digit| digit.to_digit(16).unwrap() as u8)
            .collect();
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect()
    }

    /// The vector of spec: crucible, appendix A.
    #[test]
    fn every_cipher_gives_the_bytes_of_the_specification() {
        let nonce = counting();
        for kind in CipherKind::ALL {
            let cipher = kind.cipher(&Key::from(counting()));
            let mut block = [0; 512];
            let tag = cipher.seal(&nonce, &mut block).unwrap();
            assert_eq!(tag.to_vec(), hex("5dfcb960d713ae7cc67999ba4b4986bc"));
            let first = "64154d151d91e74489fd9bd468706a00a5758b719dafd6418974e1583ac754a6";
            assert_eq!(block[..32], hex(first));
            assert_eq!(block[496..], hex("5d01a4ddb5df36d0ebc9a54b8c73b759"));
            let context = EncryptionContext { nonce, tag };
            assert_eq!(
                integrity_hash(Some(&context), &block),
                0x83c9_b4e1_dd36_3c27
            );
            assert_eq!(hash(&block), 0xc8cc_cfe5_4476_427b);
        }
    }

    #[test]
    fn what_one_cipher_seals_every_other_opens_and_a_changed_bit_is_seen() {
        let key = Key::random().unwrap();
        for (length, sealer) in [512, 4096, 32768]
            .into_iter()
            .flat_map(|length| CipherKind::ALL.iter().map(move |kind| (length, kind)))
        {
            let nonce = [length as u8; NONCE_LEN];
            let plain: Vec<u8> = (0..length).map(|at| (at * 7 % 251) as u8).collect();
            let mut sealed = plain.clone();
            let tag = sealer.cipher(&key).seal(&nonce, &mut sealed).unwrap();
            assert_ne!(sealed, plain);
            for opener in CipherKind::ALL {
                let cipher = opener.cipher(&key);
                let mut into = vec![0; length];
                cipher.open(&nonce, &tag, &sealed, &mut into).unwrap();
                assert_eq!(into, plain);
                let mut block = sealed.clone();
                cipher.open_in_place(&nonce, &tag, &mut block).unwrap();
                assert_eq!(block, plain);

                let mut bad = sealed.clone();
                bad[length / 2] ^= 1;
                assert!(cipher.open(&nonce, &tag, &bad, &mut into).is_err());
                assert!(cipher.open_in_place(&nonce, &tag, &mut bad).is_err());
                let mut other_tag = tag;
                other_tag[15] ^= 0x80;
                assert!(cipher.open(&nonce, &other_tag, &sealed, &mut into).is_err());
                let other_key = opener.cipher(&Key::random().unwrap());
                assert!(other_key.open(&nonce, &tag, &sealed, &mut into).is_err());
                assert!(cipher.open(&nonce, &tag, &sealed, &mut into[1..]).is_err());
            }
        }
    }
}
