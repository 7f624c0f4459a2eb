//! The only source of chance: a seeded generator, so that a seed is a whole world.

use vm_types::Span;

/// A small generator (splitmix64). Each part of the world has its own, so that one more throw in one part does not
/// change what happens in another.
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// A generator for one purpose within the world of `seed`.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut dice = Self {
            state: seed ^ purpose.wrapping_mul(0xd134_2543_de82_ef95),
        };
        dice.roll();
        dice
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound.max(1)
    }

    /// An index into a list of this length.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// True so often in a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.index(from.len())).copied()
    }

    /// A span between the two, each order of magnitude as likely as the other.
    pub fn span(&mut self, least: Span, most: Span) -> Span {
        let (least, most) = (least.as_nanos().max(1), most.as_nanos().max(2));
        let magnitudes = u64::from((most / least).max(1).ilog2());
        let low = least << self.below(magnitudes + 1);
        Span::from_nanos((low + self.below(low)).min(most))
    }
}

/// Makes a number look random; what [`Dice`] is made of.
pub fn mix(number: u64) -> u64 {
    let mut z = number;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_purpose_throw_the_same() {
        let (mut one, mut two) = (Dice::new(7, 1), Dice::new(7, 1));
        let mut other = Dice::new(7, 2);
        let throws: Vec<u64> = (0..10).map(|_| one.roll()).collect();
        assert!(throws.iter().all(|throw| *throw == two.roll()));
        assert!(throws.iter().any(|throw| *throw != other.roll()));
    }

    #[test]
    fn spans_stay_within_their_bounds() {
        let mut dice = Dice::new(1, 1);
        let (least, most) = (Span::from_micros(20), Span::from_secs(3));
        for _ in 0..10_000 {
            let span = dice.span(least, most);
            assert!(span >= least && span <= most, "{span:?}");
        }
    }
}
