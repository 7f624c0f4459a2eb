//! Sets of interrupt vectors, 256 bits each, as the APIC keeps them.

/// A set of vectors. The APIC shows it as eight 32-bit registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VectorSet([u64; 4]);

impl VectorSet {
    /// No vector.
    pub const EMPTY: Self = Self([0; 4]);

    /// Adds `vector`.
    pub fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector >> 6)] |= 1 << (vector & 63);
    }

    /// Takes `vector` out.
    pub fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector >> 6)] &= !(1 << (vector & 63));
    }

    /// Adds or takes out `vector`.
    pub fn set(&mut self, vector: u8, member: bool) {
        if member {
            self.insert(vector);
        } else {
            self.remove(vector);
        }
    }

    /// Whether `vector` is a member.
    pub fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 6)] >> (vector & 63) & 1 == 1
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// The highest member, which has the highest priority.
    pub fn highest(&self) -> Option<u8> {
        (0u8..4).rev().find_map(|word| {
            let bits = self.0[usize::from(word)];
            (bits != 0).then(|| word * 64 + (63 - bits.leading_zeros() as u8))
        })
    }

    /// How many members there are.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Adds 64 vectors at once: those of `bits`, counted from `word * 64`. `word` is 0 to 3.
    pub fn merge_word(&mut self, word: usize, bits: u64) {
        if let Some(slot) = self.0.get_mut(word) {
            *slot |= bits;
        }
    }

    /// The register `index` (0 to 7) of the eight that show the set; zero beyond.
    pub fn register(&self, index: usize) -> u32 {
        let word = self.0.get(index / 2).copied().unwrap_or(0);
        (word >> (index % 2 * 32)) as u32
    }

    /// Replaces the register `index` (0 to 7); nothing happens beyond.
    pub fn set_register(&mut self, index: usize, value: u32) {
        if let Some(word) = self.0.get_mut(index / 2) {
            let shift = index % 2 * 32;
            *word = *word & !(0xffff_ffff << shift) | u64::from(value) << shift;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highest_is_the_last_of_several() {
        let mut set = VectorSet::EMPTY;
        assert_eq!(set.highest(), None);
        for vector in [0x31, 0xff, 0x10, 0x80] {
            set.insert(vector);
        }
        for expected in [0xff, 0x80, 0x31, 0x10] {
            assert_eq!(set.highest(), Some(expected));
            set.remove(expected);
        }
        assert!(set.is_empty());
    }

    #[test]
    fn registers_show_32_vectors_each() {
        let mut set = VectorSet::EMPTY;
        set.insert(0x20);
        set.insert(0xe1);
        assert_eq!(set.register(1), 1);
        assert_eq!(set.register(7), 2);
        assert_eq!(set.register(8), 0);
        let mut copy = VectorSet::EMPTY;
        for index in 0..8 {
            copy.set_register(index, set.register(index));
        }
        assert_eq!(copy, set);
    }
}
