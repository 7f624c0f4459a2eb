//! New inputs from old ones: cut, copied, joined, flipped, from a seeded generator.

/// Inputs are at most this long, in bytes.
pub const LENGTH_MAX: usize = 4096;

/// A small generator (xorshift with a multiplier); the same seed gives the same inputs everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; any seed will do.
    pub fn new(seed: u64) -> Random {
        // The state must not be zero.
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.draw() % end).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        // Bytes at the edges of ranges find more than others.
        const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, 0x10, 0x40, 0xfe];
        match self.below(4) {
            0 => EDGES[self.below(EDGES.len())],
            _ => self.draw().to_le_bytes()[7],
        }
    }
}

/// One input, bred from `parents`.
pub fn input(random: &mut Random, parents: &[&[u8]]) -> Vec<u8> {
    let mut bytes: Vec<u8> = match random.below(8) {
        // Sometimes from nothing.
        0 => (0..random.below(256)).map(|_| random.byte()).collect(),
        _ => parents
            .get(random.below(parents.len()))
            .map(|seed| seed.to_vec())
            .unwrap_or_default(),
    };
    for _ in 0..random.below(12) {
        change(random, &mut bytes, parents);
    }
    bytes.truncate(LENGTH_MAX);
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, parents: &[&[u8]]) {
    let at = random.below(bytes.len() + 1);
    match random.below(7) {
        0 => bytes.insert(at, random.byte()),
        1 if at < bytes.len() => {
            bytes.remove(at);
        }
        2 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        3 if at < bytes.len() => bytes[at] = random.byte(),
        4 => bytes.truncate(at),
        5 => {
            // A piece of another parent.
            if let Some(parent) = parents.get(random.below(parents.len())) {
                let start = random.below(parent.len());
                let end = start + random.below(parent.len() - start + 1);
                bytes.splice(at..at, parent[start..end].iter().copied());
            }
        }
        _ => {
            // A number of eight bytes, small or near a power of two.
            let number = (1_u64 << random.below(64)).wrapping_sub(random.draw() % 3);
            bytes.splice(at..at, number.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_inputs() {
        let breed = |seed| {
            let mut random = Random::new(seed);
            (0..50)
                .map(|_| input(&mut random, &[b"abc", b"defg"]))
                .collect::<Vec<_>>()
        };
        assert_eq!(breed(7), breed(7));
        assert_ne!(breed(7), breed(8));
    }

    #[test]
    fn inputs_vary_and_stay_short() {
        let mut random = Random::new(0);
        let inputs: Vec<Vec<u8>> = (0..500)
            .map(|_| input(&mut random, &[&[1; LENGTH_MAX]]))
            .collect();
        assert!(inputs.iter().all(|bytes| bytes.len() <= LENGTH_MAX));
        assert!(inputs.iter().any(|bytes| bytes.len() < 8));
        assert!(inputs.iter().any(|bytes| bytes.len() > 1000));
    }

    #[test]
    fn no_parents_are_no_obstacle() {
        let mut random = Random::new(3);
        (0..200).for_each(|_| drop(input(&mut random, &[])));
    }
}
