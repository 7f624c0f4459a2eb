//! Runs of blocks with their contexts: sealed under a key, or plain with their hashes.

use std::sync::Arc;

use crucible_protocol::context::{EncryptionContext, hash, integrity_hash};
use crucible_protocol::{BlockContext, CrucibleError, ReadBlockContext};

use super::cipher::{Cipher, CipherKind, SealError};
use super::key::Key;
use super::nonce::Nonces;

/// What stands between a guest's blocks and the wire: a cipher or, on plain volumes, only hashes.
#[derive(Clone, Debug)]
pub struct Envelope {
    cipher: Option<Arc<dyn Cipher>>,
}

/// Why a block that was read is not to be believed (spec: crucible 3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenFault {
    /// Corrupt, or sealed under another key.
    #[error("the tag does not fit")]
    Tag,
    /// Corrupt.
    #[error("the hash does not fit")]
    Hash,
    /// There is data but no context, or a context of the wrong kind.
    #[error("there is data without the context that belongs to it")]
    Context,
    /// Contexts and bytes are of different number.
    #[error("as many contexts as blocks are needed")]
    Length,
}

/// The first bad block of a run, and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block {block} of the run: {fault}")]
pub struct OpenError {
    /// Counted within the run, from 0.
    pub block: usize,
    /// What is wrong.
    pub fault: OpenFault,
}

impl From<OpenError> for CrucibleError {
    fn from(error: OpenError) -> Self {
        match error.fault {
            OpenFault::Tag => Self::DecryptionError,
            OpenFault::Hash => Self::HashMismatch,
            OpenFault::Context => Self::MissingBlockContext,
            OpenFault::Length => Self::DataLenUnaligned,
        }
    }
}

impl Envelope {
    /// For a volume with this key, or a plain one without; by the fastest cipher there is.
    pub fn new(key: Option<&Key>) -> Self {
        Self::with(key, CipherKind::best())
    }

    /// By a cipher of choice.
    pub fn with(key: Option<&Key>, kind: CipherKind) -> Self {
        Self {
            cipher: key.map(|key| kind.cipher(key)),
        }
    }

    /// Whether blocks travel sealed.
    pub const fn is_encrypted(&self) -> bool {
        self.cipher.is_some()
    }

    /// Seals the blocks of `data` in place (or leaves them, on a plain volume) and appends a context for each.
    ///
    /// `data`: whole blocks of `block_size` bytes, else [`SealError::Length`] and nothing is changed. After any
    /// other error `data` is of no use. Each block goes through cache once: sealed, then hashed.
    pub fn seal(
        &self,
        block_size: usize,
        data: &mut [u8],
        nonces: &mut Nonces,
        contexts: &mut Vec<BlockContext>,
    ) -> Result<(), SealError> {
        let length = data.len();
        if block_size == 0 || !length.is_multiple_of(block_size) {
            return Err(SealError::Length { length, block_size });
        }
        contexts.reserve(length / block_size);
        match &self.cipher {
            None => contexts.extend(data.chunks_exact(block_size).map(BlockContext::plain)),
            Some(cipher) => {
                for block in data.chunks_exact_mut(block_size) {
                    let nonce = nonces.draw()?;
                    let tag = cipher.seal(&nonce, block)?;
                    let encryption = EncryptionContext { nonce, tag };
                    contexts.push(BlockContext {
                        hash: integrity_hash(Some(&encryption), block),
                        encryption: Some(encryption),
                    });
                }
            }
        }
        Ok(())
    }

    /// Whether [`Envelope::open`] gives back other bytes than it takes.
    pub const fn transforms(&self) -> bool {
        self.is_encrypted()
    }

    /// Checks the blocks of `sealed` against their contexts and, on an encrypted volume, decrypts them into
    /// `into` (same length; left alone on a plain volume).
    pub fn open(
        &self,
        block_size: usize,
        contexts: &[ReadBlockContext],
        sealed: &[u8],
        into: &mut [u8],
    ) -> Result<(), OpenError> {
        let fault = |block, fault| OpenError { block, fault };
        let fits = block_size > 0 && contexts.len().checked_mul(block_size) == Some(sealed.len());
        if !fits || (self.transforms() && into.len() != sealed.len()) {
            return Err(fault(0, OpenFault::Length));
        }
        let Some(cipher) = &self.cipher else {
            for (at, (block, context)) in sealed.chunks_exact(block_size).zip(contexts).enumerate()
            {
                match context {
                    ReadBlockContext::Unencrypted(expected) if hash(block) == *expected => {}
                    ReadBlockContext::Unencrypted(_) => return Err(fault(at, OpenFault::Hash)),
                    ReadBlockContext::Empty if is_zero(block) => {}
                    _ => return Err(fault(at, OpenFault::Context)),
                }
            }
            return Ok(());
        };
        let blocks = sealed.chunks_exact(block_size);
        let outs = into.chunks_exact_mut(block_size);
        for (at, ((block, out), context)) in blocks.zip(outs).zip(contexts).enumerate() {
            match context {
                ReadBlockContext::Encrypted(EncryptionContext { nonce, tag }) => cipher
                    .open(nonce, tag, block, out)
                    .map_err(|_| fault(at, OpenFault::Tag))?,
                ReadBlockContext::Empty if is_zero(block) => out.fill(0),
                _ => return Err(fault(at, OpenFault::Context)),
            }
        }
        Ok(())
    }
}

/// In pieces that the compiler turns into wide compares.
fn is_zero(block: &[u8]) -> bool {
    block
        .chunks(128)
        .all(|piece| piece.iter().fold(0, |or, byte| or | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(envelope: &Envelope, data: &[u8]) -> (Vec<u8>, Vec<ReadBlockContext>) {
        let (mut bytes, mut contexts) = (data.to_vec(), Vec::new());
        envelope
            .seal(512, &mut bytes, &mut Nonces::new(), &mut contexts)
            .unwrap();
        assert!(
            bytes
                .chunks(512)
                .zip(&contexts)
                .all(|(block, context)| context.fits(block))
        );
        (bytes, contexts.into_iter().map(Into::into).collect())
    }

    fn envelopes() -> [Envelope; 2] {
        [
            Envelope::new(None),
            Envelope::new(Some(&Key::random().unwrap())),
        ]
    }

    #[test]
    fn a_run_comes_back_as_it_was() {
        let data: Vec<u8> = (0..4 * 512).map(|at| (at / 3) as u8).collect();
        for envelope in envelopes() {
            let (bytes, contexts) = sealed(&envelope, &data);
            let mut into = vec![0xff; data.len()];
            envelope.open(512, &contexts, &bytes, &mut into).unwrap();
            let back = if envelope.transforms() { &into } else { &bytes };
            assert_eq!(*back, data);
        }
    }

    #[test]
    fn equal_blocks_are_sealed_differently() {
        let (bytes, _) = sealed(&Envelope::new(Some(&Key::random().unwrap())), &[7; 1024]);
        assert_ne!(bytes[..512], bytes[512..]);
    }

    #[test]
    fn a_bad_block_is_named_with_what_is_wrong() {
        for envelope in envelopes() {
            let wrong = if envelope.is_encrypted() {
                OpenFault::Tag
            } else {
                OpenFault::Hash
            };
            let (mut bytes, mut contexts) = sealed(&envelope, &[1; 4 * 512]);
            bytes[2 * 512 + 9] ^= 4;
            let mut into = vec![0; bytes.len()];
            let mut open = |contexts: &[ReadBlockContext], bytes: &[u8]| {
                envelope.open(512, contexts, bytes, &mut into).unwrap_err()
            };
            let error = |block, fault| OpenError { block, fault };
            assert_eq!(open(&contexts, &bytes), error(2, wrong));
            contexts[1] = ReadBlockContext::Empty;
            assert_eq!(open(&contexts, &bytes), error(1, OpenFault::Context));
            assert_eq!(open(&contexts[1..], &bytes), error(0, OpenFault::Length));
            contexts[0] = match contexts[0] {
                ReadBlockContext::Encrypted(_) => {
                    ReadBlockContext::Unencrypted(hash(&bytes[..512]))
                }
                _ => ReadBlockContext::Encrypted(EncryptionContext {
                    nonce: [0; 12],
                    tag: [0; 16],
                }),
            };
            assert_eq!(open(&contexts, &bytes), error(0, OpenFault::Context));
        }
    }

    #[test]
    fn a_block_that_was_never_written_reads_as_zeroes() {
        for envelope in envelopes() {
            let mut into = [9; 1024];
            let empty = [ReadBlockContext::Empty; 2];
            envelope.open(512, &empty, &[0; 1024], &mut into).unwrap();
            assert!(!envelope.transforms() || into == [0; 1024]);
        }
    }

    #[test]
    fn data_that_is_no_whole_blocks_is_left_alone() {
        for envelope in envelopes() {
            let (mut data, mut contexts) = ([5; 700], Vec::new());
            let error = envelope.seal(512, &mut data, &mut Nonces::new(), &mut contexts);
            assert!(matches!(error, Err(SealError::Length { length: 700, .. })));
            assert_eq!((data, contexts.len()), ([5; 700], 0));
        }
    }
}
