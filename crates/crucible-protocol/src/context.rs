//! What is kept beside each block: its integrity hash and, when it is encrypted, the nonce and the tag.

use std::hash::Hasher;

use twox_hash::XxHash64;

/// Length of a nonce of AES-256-GCM-SIV.
pub const NONCE_LEN: usize = 12;
/// Length of a tag of AES-256-GCM-SIV.
pub const TAG_LEN: usize = 16;

/// How one block was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncryptionContext {
    /// Fresh for each write of each block.
    pub nonce: [u8; NONCE_LEN],
    /// Proves block and nonce to who has the key.
    pub tag: [u8; TAG_LEN],
}

/// What comes with a block that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockContext {
    /// [`integrity_hash`] of the block as it travels and the encryption context.
    pub hash: u64,
    /// Absent in a plain region.
    pub encryption: Option<EncryptionContext>,
}

/// What comes with a block that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBlockContext {
    /// Never written: all zero, and without a context.
    Empty,
    /// Sealed; the tag stands for the hash.
    Encrypted(EncryptionContext),
    /// Plain, with its hash.
    Unencrypted(u64),
}

impl BlockContext {
    /// The context of a plain block.
    pub fn plain(data: &[u8]) -> Self {
        Self {
            hash: hash(data),
            encryption: None,
        }
    }

    /// Whether `data` (as it travels: sealed, if it is) is the block that this context was made for.
    pub fn fits(&self, data: &[u8]) -> bool {
        self.hash == integrity_hash(self.encryption.as_ref(), data)
    }
}

impl From<BlockContext> for ReadBlockContext {
    fn from(context: BlockContext) -> Self {
        match context.encryption {
            Some(encryption) => Self::Encrypted(encryption),
            None => Self::Unencrypted(context.hash),
        }
    }
}

/// XXH64 with seed 0.
pub fn hash(data: &[u8]) -> u64 {
    XxHash64::oneshot(0, data)
}

/// The hash that goes with a block: over nonce, tag and data where it is sealed, over the data where it is not.
pub fn integrity_hash(encryption: Option<&EncryptionContext>, data: &[u8]) -> u64 {
    match encryption {
        None => hash(data),
        Some(encryption) => {
            let mut hasher = XxHash64::with_seed(0);
            hasher.write(&encryption.nonce);
            hasher.write(&encryption.tag);
            hasher.write(data);
            hasher.finish()
        }
    }
}
