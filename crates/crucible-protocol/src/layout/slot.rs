//! The context of a block as an extent file keeps it. There are two places for each block, A and B; one is active,
//! and a write goes to the other (spec: disk 5.3, 5.4, 5.6).

use crate::context::{BlockContext, EncryptionContext, NONCE_LEN, TAG_LEN};

/// Bytes of one slot.
pub const SLOT_LEN: usize = 48;

/// Which of the two places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The first; active in a fresh extent.
    #[default]
    A,
    /// The second.
    B,
}

impl Slot {
    /// The one that it is not.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// What a slot holds when it is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredContext {
    /// As it came with the write.
    pub context: BlockContext,
    /// Hash of the block as it lies in the file: without nonce and tag.
    pub on_disk_hash: u64,
    /// Low bits of the number of the last flush before the write; for who looks for faults.
    pub flush_id: u16,
}

/// A slot that holds what no slot can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// Neither empty nor full.
    #[error("slot begins with {0}: must be 0 (empty) or 1")]
    Occupied(u8),
    /// Neither with nor without nonce and tag.
    #[error("slot says {0} of its encryption context: must be 0 (none) or 1")]
    Encrypted(u8),
}

impl StoredContext {
    /// The bytes of a slot; those that are not used are zero.
    pub fn encode(slot: Option<&Self>) -> [u8; SLOT_LEN] {
        let mut bytes = [0; SLOT_LEN];
        let Some(stored) = slot else {
            return bytes;
        };
        bytes[0] = 1;
        bytes[1..9].copy_from_slice(&stored.context.hash.to_le_bytes());
        let after = match &stored.context.encryption {
            None => PLAIN_AT,
            Some(encryption) => {
                bytes[9] = 1;
                bytes[10..22].copy_from_slice(&encryption.nonce);
                bytes[22..38].copy_from_slice(&encryption.tag);
                SEALED_AT
            }
        };
        bytes[after..after + 8].copy_from_slice(&stored.on_disk_hash.to_le_bytes());
        bytes[after + 8..after + 10].copy_from_slice(&stored.flush_id.to_le_bytes());
        bytes
    }

    /// What a slot holds; bytes that are not used are not looked at.
    pub fn decode(bytes: &[u8; SLOT_LEN]) -> Result<Option<Self>, SlotError> {
        match bytes[0] {
            0 => return Ok(None),
            1 => {}
            other => return Err(SlotError::Occupied(other)),
        }
        let (encryption, after) = match bytes[9] {
            0 => (None, PLAIN_AT),
            1 => {
                let encryption = EncryptionContext {
                    nonce: part::<NONCE_LEN>(bytes, 10),
                    tag: part::<TAG_LEN>(bytes, 22),
                };
                (Some(encryption), SEALED_AT)
            }
            other => return Err(SlotError::Encrypted(other)),
        };
        Ok(Some(Self {
            context: BlockContext {
                hash: u64::from_le_bytes(part(bytes, 1)),
                encryption,
            },
            on_disk_hash: u64::from_le_bytes(part(bytes, after)),
            flush_id: u16::from_le_bytes(part(bytes, after + 8)),
        }))
    }
}

/// Where the hash of the stored block is, in a plain slot.
const PLAIN_AT: usize = 10;
/// Where it is in an encrypted one, which fills the slot.
const SEALED_AT: usize = 38;
const _: () = assert!(SEALED_AT + 8 + 2 == SLOT_LEN && NONCE_LEN == 12 && TAG_LEN == 16);

fn part<const N: usize>(bytes: &[u8; SLOT_LEN], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

/// Which slot speaks for a block of an extent that was not closed properly; `on_disk_hash` of the block is asked
/// for only if it matters. `None` if the block fits neither of its contexts (spec: disk 5.6).
pub fn active_after_crash(
    a: Option<&StoredContext>,
    b: Option<&StoredContext>,
    on_disk_hash: impl FnOnce() -> u64,
) -> Option<Slot> {
    if a.is_none() && b.is_none() {
        return Some(Slot::A);
    }
    let hash = on_disk_hash();
    let fits =
        |slot: Option<&StoredContext>| slot.is_some_and(|stored| stored.on_disk_hash == hash);
    if fits(b) {
        Some(Slot::B)
    } else if fits(a) || a.is_none() {
        Some(Slot::A)
    } else {
        b.is_none().then_some(Slot::B)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        text.split_whitespace()
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect()
    }

    fn check(stored: Option<StoredContext>, text: &str) {
        let mut expected = hex(text);
        expected.resize(SLOT_LEN, 0);
        let encoded = StoredContext::encode(stored.as_ref());
        assert_eq!(encoded.to_vec(), expected);
        assert_eq!(StoredContext::decode(&encoded), Ok(stored));
    }

    const ZEROS: StoredContext = StoredContext {
        context: BlockContext {
            hash: 0x8bbf_7f68_e8c3_b87c,
            encryption: None,
        },
        on_disk_hash: 0x8bbf_7f68_e8c3_b87c,
        flush_id: 0,
    };

    #[test]
    fn slots_are_as_the_reference_writes_them() {
        check(None, "");
        check(
            Some(ZEROS),
            "01 7c b8 c3 e8 68 7f bf 8b 00 7c b8 c3 e8 68 7f bf 8b 00 00",
        );
        let sealed = StoredContext {
            context: BlockContext {
                hash: 0x83c9_b4e1_dd36_3c27,
                encryption: Some(EncryptionContext {
                    nonce: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
                    tag: hex("5d fc b9 60 d7 13 ae 7c c6 79 99 ba 4b 49 86 bc")
                        .try_into()
                        .unwrap(),
                }),
            },
            on_disk_hash: 0xc8cc_cfe5_4476_427b,
            flush_id: 1,
        };
        check(
            Some(sealed),
            "01 27 3c 36 dd e1 b4 c9 83 01 00 01 02 03 04 05 06 07 08 09 0a 0b 5d fc b9 60 d7 13 ae 7c c6 79 99 ba 4b 49 86 bc 7b 42 76 44 e5 cf cc c8 01 00",
        );
    }

    #[test]
    fn a_flag_that_is_none_is_refused() {
        let mut bytes = StoredContext::encode(Some(&ZEROS));
        bytes[9] = 2;
        assert_eq!(StoredContext::decode(&bytes), Err(SlotError::Encrypted(2)));
        bytes[0] = 0x80;
        assert_eq!(
            StoredContext::decode(&bytes),
            Err(SlotError::Occupied(0x80))
        );
    }

    #[test]
    fn after_a_crash_the_slot_that_fits_the_block_speaks_for_it() {
        let of = |on_disk_hash| StoredContext {
            on_disk_hash,
            ..ZEROS
        };
        let (old, new) = (of(1), of(2));
        for (a, b, hash, expected) in [
            (None, None, 0, Some(Slot::A)),
            (Some(&old), Some(&new), 1, Some(Slot::A)),
            (Some(&old), Some(&new), 2, Some(Slot::B)),
            (Some(&old), Some(&old), 1, Some(Slot::B)),
            (Some(&old), Some(&new), 3, None),
            (None, Some(&new), 2, Some(Slot::B)),
            (None, Some(&new), 3, Some(Slot::A)),
            (Some(&old), None, 1, Some(Slot::A)),
            (Some(&old), None, 3, Some(Slot::B)),
        ] {
            assert_eq!(
                active_after_crash(a, b, || hash),
                expected,
                "{a:?} {b:?} {hash}"
            );
        }
    }
}
