//! The numbers that jobs, extents, blocks and peers are named by. Each is a type of its own, so that none is
//! taken for another.

use std::fmt;

use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// One job of one upstairs. Numbered from [`JobId::FIRST`] on; may arrive out of order and with gaps.
    JobId(u64)
}
number! {
    /// One step of a reconciliation, from 0 for each.
    ReconciliationId(u64)
}
number! {
    /// The place of an extent in its region, from 0.
    ExtentId(u32)
}
number! {
    /// The place of a block in its region, from 0, in blocks.
    BlockIndex(u64)
}
number! {
    /// Which of the three region servers of an upstairs: 0, 1 or 2. On the wire any byte may come.
    ClientId(u8)
}

impl JobId {
    /// What an upstairs gives its first job.
    pub const FIRST: Self = Self(1000);

    /// The next number; stops at the largest.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl ClientId {
    /// All three.
    pub const ALL: [Self; 3] = [Self(0), Self(1), Self(2)];
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

identity! {
    /// The volume: the same over restarts of whoever has it attached.
    UpstairsId
}
identity! {
    /// One run of one upstairs: new with each start of the program.
    SessionId
}
