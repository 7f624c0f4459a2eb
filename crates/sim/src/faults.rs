//! What can go wrong, by name: chosen on the command line, counted in the table.

use std::fmt;
use std::str::FromStr;

use crate::dice::Dice;

macro_rules! faults {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// One kind of trouble.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[$doc])* $kind,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// As on the command line and in the table.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

faults! {
    /// The links of a node are slow for a while.
    Delay = "delay",
    /// A connection is reset; what was on its way is lost from some point on.
    Cut = "cut",
    /// One direction of a connection goes silent, and nobody is told.
    HalfOpen = "half-open",
    /// Two machines cannot reach each other for a while.
    Partition = "partition",
    /// A second connection that says what the upstairs said first.
    Duplicate = "duplicate",
    /// A process stands still for a while: of a region server or of the upstairs.
    Pause = "pause",
    /// The clock of a machine jumps ahead.
    Clock = "clock",
    /// A region server is killed; its kernel lives on. It comes back.
    Kill = "kill",
    /// A region server loses its power, and what was not synced is lost or torn. It comes back.
    Power = "power",
    /// The power goes in the middle of an operation.
    Tear = "tear",
    /// Operations on a disk fail.
    DiskError = "disk-error",
    /// A disk is full for a while.
    DiskFull = "disk-full",
    /// A disk is slow for a while.
    SlowDisk = "slow-disk",
    /// A bit of an extent file changes.
    Rot = "rot",
    /// A region server is gone for ever, with its disk.
    Loss = "loss",
    /// The operator puts a spare in the place of a region server.
    Replace = "replace",
    /// A second upstairs takes over while the first is running.
    TakeOver = "take-over",
    /// The upstairs dies, and another begins.
    Upstairs = "upstairs",
    /// The operator deactivates the volume and activates it again.
    Deactivate = "deactivate",
    /// The guest asks for a snapshot.
    Snapshot = "snapshot",
    /// Operations on a disk fail, and each error is reported many times, as region servers of the reference do it.
    Repeat = "repeat",
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults(u32);

impl Faults {
    /// Fair weather.
    pub const NONE: Self = Self(0);

    /// Everything.
    pub fn all() -> Self {
        Fault::ALL
            .iter()
            .fold(Self::NONE, |set, kind| set.with(*kind))
    }

    /// Some kinds, drawn from a seed: a world in which everything goes wrong at once hides what goes wrong when one
    /// thing does not.
    pub fn drawn(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 200);
        let chance = [15, 40, 70, 100][dice.index(4)];
        Fault::ALL
            .iter()
            .filter(|_| dice.percent(chance))
            .fold(Self::NONE, |set, kind| set.with(*kind))
    }

    /// This kind as well.
    #[must_use]
    pub const fn with(self, kind: Fault) -> Self {
        Self(self.0 | 1 << kind as u32)
    }

    /// Without this kind.
    #[must_use]
    pub const fn without(self, kind: Fault) -> Self {
        Self(self.0 & !(1 << kind as u32))
    }

    /// Whether this kind is in.
    pub const fn has(self, kind: Fault) -> bool {
        self.0 & (1 << kind as u32) != 0
    }

    /// What is in.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL
            .iter()
            .copied()
            .filter(move |kind| self.has(*kind))
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::all() {
            return f.write_str("all");
        }
        if *self == Self::NONE {
            return f.write_str("none");
        }
        for (index, kind) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", kind.name())?;
        }
        Ok(())
    }
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut set = Self::NONE;
        for word in text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            let (remove, name) = match word.strip_prefix('-') {
                Some(name) => (true, name),
                None => (false, word),
            };
            set = match (name, remove) {
                ("all", false) => Self::all(),
                ("none", false) => Self::NONE,
                _ => {
                    let known = Fault::ALL.iter().find(|kind| kind.name() == name);
                    let Some(kind) = known else {
                        let names: Vec<&str> = Fault::ALL.iter().map(|kind| kind.name()).collect();
                        return Err(format!(
                            "fault {name:?}: expected all, none or some of {}",
                            names.join(", ")
                        ));
                    };
                    if remove {
                        set.without(*kind)
                    } else {
                        set.with(*kind)
                    }
                }
            };
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_prints_as_what_reads_it_back() {
        for set in [
            Faults::NONE,
            Faults::all(),
            Faults::NONE.with(Fault::Rot).with(Fault::HalfOpen),
        ] {
            assert_eq!(set.to_string().parse(), Ok(set));
        }
        assert_eq!("all,-rot".parse(), Ok(Faults::all().without(Fault::Rot)));
        assert!("rust".parse::<Faults>().is_err());
    }
}
