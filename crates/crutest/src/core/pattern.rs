//! The bytes of a block, such that they prove themselves: which block of which volume's log, and which write to it.
//!
//! ```text
//! word 0: block   word 1: number of the write to it   word 2: lineage   words 3..: follow from these three
//! ```
//!
//! Words are little-endian, 8 bytes each. A block that was put in the wrong place, that is older than it should be,
//! or that is torn or flipped in one bit is told from the others.

use super::draw::mix;

/// Bytes of a word.
const WORD: usize = 8;
/// Words that say what the block is.
const HEAD_WORDS: usize = 3;

/// Whose writes these are: data left by another log is not taken for ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage(pub u64);

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// What the write with this number put into this block.
    Write(u32),
    /// Only zeroes.
    Zeroes,
    /// What a write of this lineage put into another block.
    Misplaced {
        /// That block.
        block: u64,
        /// The number of the write to it.
        number: u32,
    },
    /// A whole block of another lineage.
    OtherLineage,
    /// It begins as a block of this lineage; from this byte on it is something else.
    Damaged {
        /// The number of the write.
        number: u32,
        /// In bytes, from the block's start.
        offset: usize,
    },
    /// Nothing that was written by this program.
    Foreign,
}

fn seed(block: u64, number: u32, lineage: Lineage) -> u64 {
    mix(block ^ mix(u64::from(number) ^ mix(lineage.0)))
}

/// One word of the rest: cheap, and different for each place and seed.
const fn word(seed: u64, index: u64) -> u64 {
    let mixed = (seed ^ index).wrapping_mul(0xd134_2543_de82_ef95);
    mixed ^ (mixed >> 32)
}

fn head(block: u64, number: u32, lineage: Lineage) -> [u64; HEAD_WORDS] {
    [block, u64::from(number), lineage.0]
}

/// Fills one block. Its length is a multiple of 8 and at least 24 bytes.
pub fn fill(data: &mut [u8], block: u64, number: u32, lineage: Lineage) {
    let (start, rest) = data.split_at_mut((HEAD_WORDS * WORD).min(data.len()));
    for (place, word) in start
        .chunks_exact_mut(WORD)
        .zip(head(block, number, lineage))
    {
        place.copy_from_slice(&word.to_le_bytes());
    }
    let seed = seed(block, number, lineage);
    for (place, index) in rest.chunks_exact_mut(WORD).zip(0..) {
        place.copy_from_slice(&word(seed, index).to_le_bytes());
    }
}

/// Tells what a block holds.
pub fn identify(data: &[u8], block: u64, lineage: Lineage) -> Found {
    let mut words = data.chunks_exact(WORD).map(|bytes| {
        let mut word = [0; WORD];
        word.copy_from_slice(bytes);
        u64::from_le_bytes(word)
    });
    let (Some(its_block), Some(its_number), Some(its_lineage)) =
        (words.next(), words.next(), words.next())
    else {
        return Found::Foreign;
    };
    let is_zero = data.iter().all(|byte| *byte == 0);
    if is_zero {
        return Found::Zeroes;
    }
    let Ok(number) = u32::try_from(its_number) else {
        return Found::Foreign;
    };
    let seed = seed(its_block, number, Lineage(its_lineage));
    let wrong = words
        .zip(0..)
        .position(|(found, index)| found != word(seed, index));
    match wrong {
        None if its_lineage != lineage.0 => Found::OtherLineage,
        None if its_block != block => Found::Misplaced {
            block: its_block,
            number,
        },
        None => Found::Write(number),
        Some(at) if its_lineage == lineage.0 && its_block == block => Found::Damaged {
            number,
            offset: (at + HEAD_WORDS) * WORD,
        },
        Some(_) => Found::Foreign,
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Write(number) => write!(f, "write {number}"),
            Self::Zeroes => f.write_str("zeroes"),
            Self::Misplaced { block, number } => write!(f, "write {number} to block {block}"),
            Self::OtherLineage => f.write_str("a block of another write log"),
            Self::Damaged { number, offset } => {
                write!(f, "write {number} that is damaged from byte {offset} on")
            }
            Self::Foreign => f.write_str("data that no write log made"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Lineage = Lineage(77);

    fn block(number: u32) -> Vec<u8> {
        let mut data = vec![0xaa; 512];
        fill(&mut data, 5, number, OURS);
        data
    }

    #[test]
    fn a_block_proves_what_it_is() {
        assert_eq!(identify(&block(3), 5, OURS), Found::Write(3));
        assert_eq!(
            identify(&block(3), 6, OURS),
            Found::Misplaced {
                block: 5,
                number: 3
            }
        );
        assert_eq!(identify(&block(3), 5, Lineage(78)), Found::OtherLineage);
        assert_eq!(identify(&[0; 512], 5, OURS), Found::Zeroes);
        assert_eq!(identify(&[1; 512], 5, OURS), Found::Foreign);
        assert_eq!(identify(&[], 5, OURS), Found::Foreign);
    }

    #[test]
    fn a_torn_block_is_damaged_where_it_is_torn() {
        let mut data = block(3);
        data[256..].copy_from_slice(&block(4)[256..]);
        let torn = Found::Damaged {
            number: 3,
            offset: 256,
        };
        assert_eq!(identify(&data, 5, OURS), torn);
        assert_eq!(torn.to_string(), "write 3 that is damaged from byte 256 on");
    }
}
