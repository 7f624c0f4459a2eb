//! Who is meant: the match between a destination field and one local APIC.
//!
//! IPIs, MSIs and IOAPIC messages all come here. What a receiver has to say about itself fits one word
//! ([`Identity`]), so that a sender on another thread reads it with a single atomic load.

/// Destination of a message that carries one (no shorthand).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The destination field: 8 bits from an xAPIC, an IOAPIC or an MSI, 32 bits from an x2APIC.
    pub field: u32,
    /// Logical (a mask) instead of physical (one identifier).
    pub logical: bool,
    /// The field has 32 bits: it comes from an x2APIC's ICR.
    pub wide: bool,
}

impl Destination {
    /// One processor by its identifier, in an 8-bit field.
    pub const fn physical(id: u8) -> Self {
        Self {
            field: id as u32,
            logical: false,
            wide: false,
        }
    }

    /// A logical destination in an 8-bit field.
    pub const fn logical(mask: u8) -> Self {
        Self {
            field: mask as u32,
            logical: true,
            wide: false,
        }
    }

    /// All ones means everybody, in either mode.
    pub const fn is_broadcast(self) -> bool {
        self.field == if self.wide { u32::MAX } else { 0xff }
    }

    /// Whether an APIC that says `identity` of itself takes the message.
    ///
    /// Source: SDM 3A, APIC, "Determining IPI Destination" and "Logical Destination Mode in x2APIC Mode".
    /// A globally disabled APIC takes nothing; software disabling is judged on acceptance, since it does
    /// not stop NMI, INIT and SIPI.
    pub fn matches(self, identity: Identity) -> bool {
        if !identity.present() {
            return false;
        }
        if self.is_broadcast() {
            return true;
        }
        match (self.logical, identity.x2apic()) {
            (false, true) => self.field == identity.id(),
            // An xAPIC compares eight bits; a wide field with more cannot mean it.
            (false, false) => self.field == identity.id() & 0xff,
            (true, true) => {
                let own = x2apic_logical_id(identity.id());
                self.field >> 16 == own >> 16 && self.field & own & 0xffff != 0
            }
            (true, false) => {
                let own = u32::from(identity.logical_id());
                if self.field > 0xff {
                    false
                } else if identity.cluster_model() {
                    // A cluster of 15 addresses all clusters; the low nibble picks members.
                    let cluster = self.field >> 4;
                    (cluster == own >> 4 || cluster == 0xf) && self.field & own & 0xf != 0
                } else {
                    self.field & own != 0
                }
            }
        }
    }
}

/// The logical identifier that an x2APIC derives from its identifier: cluster in the upper half, one bit
/// of sixteen in the lower (SDM 3A, APIC, "Deriving Logical x2APIC ID from the Local x2APIC ID").
pub const fn x2apic_logical_id(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 0xf)
}

/// What one local APIC tells senders about itself.
///
/// Bits: 31:0 identifier, 39:32 logical identifier, 40 cluster model, 41 x2APIC, 42 globally enabled,
/// 43 software-enabled, 55:48 task priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity(u64);

impl Identity {
    const CLUSTER: u64 = 1 << 40;
    const X2APIC: u64 = 1 << 41;
    const PRESENT: u64 = 1 << 42;
    const ENABLED: u64 = 1 << 43;

    /// An APIC that is globally disabled and so receives nothing.
    pub const ABSENT: Self = Self(0);

    /// A present, software-disabled xAPIC in the flat model.
    pub const fn xapic(id: u32, logical_id: u8) -> Self {
        Self(id as u64 | (logical_id as u64) << 32 | Self::PRESENT)
    }

    /// The same in the cluster model.
    #[must_use]
    pub const fn with_cluster_model(self, cluster: bool) -> Self {
        self.with(Self::CLUSTER, cluster)
    }

    /// The same in x2APIC mode, or not.
    #[must_use]
    pub const fn with_x2apic(self, x2apic: bool) -> Self {
        self.with(Self::X2APIC, x2apic)
    }

    /// The same, software-enabled or not.
    #[must_use]
    pub const fn with_enabled(self, enabled: bool) -> Self {
        self.with(Self::ENABLED, enabled)
    }

    /// The same with this task priority, by which a lowest-priority message picks its receiver.
    #[must_use]
    pub const fn with_priority(self, priority: u8) -> Self {
        Self(self.0 & !(0xff << 48) | (priority as u64) << 48)
    }

    const fn with(self, bit: u64, set: bool) -> Self {
        Self(if set { self.0 | bit } else { self.0 & !bit })
    }

    /// From the word that [`Identity::bits`] gave.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As one word, for an atomic.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The identifier, 32 bits.
    pub const fn id(self) -> u32 {
        self.0 as u32
    }

    /// The logical identifier of an xAPIC.
    pub const fn logical_id(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// Whether logical identifiers are read as cluster and member (DFR 0).
    pub const fn cluster_model(self) -> bool {
        self.0 & Self::CLUSTER != 0
    }

    /// Whether the APIC is in x2APIC mode.
    pub const fn x2apic(self) -> bool {
        self.0 & Self::X2APIC != 0
    }

    /// Whether the APIC is globally enabled.
    pub const fn present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// Whether it accepts fixed interrupts.
    pub const fn enabled(self) -> bool {
        self.0 & Self::ENABLED != 0
    }

    /// The task priority.
    pub const fn priority(self) -> u8 {
        (self.0 >> 48) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `physical 3` or `logical 0x11` (8 bits), `wide physical`, `wide logical`.
    fn check(destination: &str, identity: Identity, expected: bool) {
        let words: Vec<&str> = destination.split(' ').collect();
        let field = words[words.len() - 1];
        let field = field.strip_prefix("0x").map_or_else(
            || field.parse().unwrap(),
            |hex| u32::from_str_radix(hex, 16).unwrap(),
        );
        let destination = Destination {
            field,
            logical: words.contains(&"logical"),
            wide: words.contains(&"wide"),
        };
        assert_eq!(
            destination.matches(identity),
            expected,
            "{destination:?} to {identity:?}"
        );
    }

    #[test]
    fn flat_model() {
        let third = Identity::xapic(2, 0b100);
        check("physical 2", third, true);
        check("physical 3", third, false);
        check("physical 255", third, true);
        check("logical 0x04", third, true);
        check("logical 0x07", third, true);
        check("logical 0x0b", third, false);
        check("logical 0xff", third, true);
        check("logical 0x00", third, false);
        check("wide physical 2", third, true);
        check("wide physical 0x102", third, false);
        check("wide physical 0xffffffff", third, true);
        check("physical 2", Identity::ABSENT, false);
        check("physical 255", Identity::ABSENT, false);
    }

    #[test]
    fn cluster_model() {
        let member = Identity::xapic(5, 0x12).with_cluster_model(true);
        check("logical 0x12", member, true);
        check("logical 0x13", member, true);
        check("logical 0x11", member, false);
        check("logical 0x22", member, false);
        check("logical 0xf2", member, true);
        check("logical 0xf1", member, false);
        check("logical 0xff", member, true);
    }

    #[test]
    fn x2apic_clusters_of_sixteen() {
        let id = 0x23;
        let x2apic = Identity::xapic(id, 0).with_x2apic(true);
        check("wide physical 0x23", x2apic, true);
        check("physical 35", x2apic, true);
        check("wide logical 0x00020008", x2apic, true);
        check("wide logical 0x0002ffff", x2apic, true);
        check("wide logical 0x00020004", x2apic, false);
        check("wide logical 0x00010008", x2apic, false);
        check("wide logical 0xffffffff", x2apic, true);
        check("wide physical 0xff", x2apic, false);
        check("physical 255", x2apic, true);
    }

    #[test]
    fn identity_keeps_its_parts_apart() {
        let identity = Identity::xapic(0xdead_beef, 0x5a)
            .with_cluster_model(true)
            .with_enabled(true)
            .with_priority(0x70);
        let copy = Identity::from_bits(identity.bits());
        assert_eq!(copy.id(), 0xdead_beef);
        assert_eq!(copy.logical_id(), 0x5a);
        assert_eq!(copy.priority(), 0x70);
        assert!(copy.cluster_model() && copy.enabled() && copy.present() && !copy.x2apic());
    }
}
