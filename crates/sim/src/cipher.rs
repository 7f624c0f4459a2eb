//! What the simulation has for a cipher: quick, and good enough to tell a wrong key, nonce, tag or block.
//!
//! Blocks tell their story: which block they are, and which write they come from.

use bytes::{Bytes, BytesMut};
use crucible_protocol::context::{hash, integrity_hash};
use crucible_protocol::{BlockContext, EncryptionContext, ReadBlockContext};
use crucible_upstairs::core::{BadData, Plain, Written};

use crate::dice::{Dice, mix};

/// Which write a block comes from: unique in the world, 0 for a block that was never written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64);

/// The content of a block.
pub fn paint(block: u64, version: Version, size: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(size);
    data.extend_from_slice(&block.to_le_bytes());
    data.extend_from_slice(&version.0.to_le_bytes());
    let seed = mix(block ^ version.0 << 20);
    let mut word = seed;
    while data.len() < size {
        word = word.wrapping_add(seed | 1);
        data.extend_from_slice(&word.to_le_bytes());
    }
    data
}

/// Which write this content is of. `None`: of none.
pub fn recognise(block: u64, data: &[u8]) -> Option<Version> {
    if data.iter().all(|byte| *byte == 0) {
        return Some(Version(0));
    }
    let number = data.get(8..16)?.try_into().ok()?;
    let version = Version(u64::from_le_bytes(number));
    (version.0 != 0 && data == paint(block, version, data.len())).then_some(version)
}

fn scramble(nonce: &[u8], data: &mut [u8]) {
    let mut word = hash(nonce);
    for chunk in data.chunks_mut(8) {
        word = mix(word.wrapping_add(0x9e37_79b9_7f4a_7c15));
        for (byte, key) in chunk.iter_mut().zip(word.to_le_bytes()) {
            *byte ^= key;
        }
    }
}

/// Seals blocks, or only hashes them.
pub fn seal(
    mut data: BytesMut,
    size: usize,
    encrypted: bool,
    dice: &mut Dice,
) -> (Vec<BlockContext>, Bytes) {
    let mut contexts = Vec::new();
    for block in data.chunks_mut(size) {
        let encryption = encrypted.then(|| {
            let mut sealed = EncryptionContext {
                nonce: [0; 12],
                tag: [0; 16],
            };
            sealed.nonce[..8].copy_from_slice(&dice.roll().to_le_bytes());
            sealed.tag[..8].copy_from_slice(&hash(block).to_le_bytes());
            sealed.tag[8..].copy_from_slice(&hash(&sealed.nonce).to_le_bytes());
            scramble(&sealed.nonce, block);
            sealed
        });
        contexts.push(BlockContext {
            hash: integrity_hash(encryption.as_ref(), block),
            encryption,
        });
    }
    (contexts, data.freeze())
}

/// Opens blocks, or only checks their hashes.
pub fn open(
    contexts: &[ReadBlockContext],
    data: &Bytes,
    size: usize,
    encrypted: bool,
) -> Result<Plain, BadData> {
    if contexts.len() * size != data.len() {
        return Err(BadData::Length);
    }
    let mut plain = data.to_vec();
    let mut marks = Vec::new();
    for (context, block) in contexts.iter().zip(plain.chunks_mut(size)) {
        match (context, encrypted) {
            (ReadBlockContext::Empty, _) => {
                if block.iter().any(|byte| *byte != 0) {
                    return Err(BadData::Context);
                }
            }
            (ReadBlockContext::Encrypted(sealed), true) => {
                scramble(&sealed.nonce, block);
                let good = sealed.tag[..8] == hash(block).to_le_bytes()
                    && sealed.tag[8..] == hash(&sealed.nonce).to_le_bytes();
                if !good {
                    return Err(BadData::Tag);
                }
            }
            (ReadBlockContext::Unencrypted(known), false) => {
                if hash(block) != *known {
                    return Err(BadData::Hash);
                }
            }
            _ => return Err(BadData::Context),
        }
        marks.push(*context != ReadBlockContext::Empty);
    }
    Ok(Plain {
        data: plain.into(),
        written: Written::Some(marks.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_block_opens_and_a_changed_one_does_not() {
        for encrypted in [false, true] {
            let mut dice = Dice::new(1, 1);
            let plain = paint(3, Version(9), 512);
            let (contexts, data) = seal(BytesMut::from(&plain[..]), 512, encrypted, &mut dice);
            assert!(contexts[0].fits(&data));
            let contexts: Vec<ReadBlockContext> = contexts.into_iter().map(Into::into).collect();
            let opened = open(&contexts, &data, 512, encrypted);
            assert_eq!(opened.map(|opened| opened.data), Ok(plain.into()));
            let mut bad = data.to_vec();
            bad[77] ^= 4;
            assert!(open(&contexts, &bad.into(), 512, encrypted).is_err());
        }
    }

    #[test]
    fn a_block_knows_where_it_comes_from() {
        let data = paint(5, Version(12), 1024);
        assert_eq!(recognise(5, &data), Some(Version(12)));
        assert_eq!(recognise(6, &data), None);
        assert_eq!(recognise(6, &[0; 1024]), Some(Version(0)));
    }
}
