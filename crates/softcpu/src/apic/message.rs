//! One interrupt on its way between processors or from a device.

use vm_types::MsiMessage;

use super::destination::Destination;

/// What the receiver does with the message. Numbers as in the ICR, the LVT, IOAPIC entries and MSI data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// The vector goes into IRR.
    Fixed,
    /// Like fixed, to one receiver of those that match.
    LowestPriority,
    /// System management interrupt: there is no SMM here, so it is dropped.
    Smi,
    /// Reserved in this encoding; dropped.
    Reserved,
    /// Non-maskable interrupt; the vector field is ignored.
    Nmi,
    /// Processor initialisation.
    Init,
    /// Start-up: the vector is the page where a waiting processor begins.
    Startup,
    /// The vector comes from the 8259 pair.
    ExtInt,
}

impl DeliveryMode {
    /// From the low three bits of `bits`.
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            _ => Self::ExtInt,
        }
    }
}

/// Edge or level: what is remembered in TMR and so whether the end of interrupt is broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Once.
    Edge,
    /// Again until the source is quiet; the IOAPIC wants to hear of the end.
    Level,
}

/// Who shall get the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Those whose identity matches.
    Matching(Destination),
    /// All processors, the sender too.
    All,
    /// All but the sender.
    Others,
}

/// An interrupt message as it travels on the interconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Receivers.
    pub target: Target,
    /// What it does there.
    pub mode: DeliveryMode,
    /// Vector, or start-up page.
    pub vector: u8,
    /// Edge or level.
    pub trigger: Trigger,
}

impl Message {
    /// Reads an MSI write, which is also how an IOAPIC speaks (SDM 3A, APIC, "Message Signalled
    /// Interrupts").
    ///
    /// `None` when the address is not in the interrupt range `0xFEEx_xxxx`. The redirection hint asks for
    /// one receiver, as lowest-priority delivery does; real chipsets obey the destination mode bit with
    /// and without the hint, and Linux relies on that.
    pub fn from_msi(msi: MsiMessage) -> Option<Self> {
        if msi.address >> 20 != 0xfee {
            return None;
        }
        let mode = DeliveryMode::from_bits(msi.data >> 8);
        let redirect = msi.address & 1 << 3 != 0;
        Some(Self {
            target: Target::Matching(Destination {
                field: (msi.address >> 12 & 0xff) as u32,
                logical: msi.address & 1 << 2 != 0,
                wide: false,
            }),
            mode: if redirect && mode == DeliveryMode::Fixed {
                DeliveryMode::LowestPriority
            } else {
                mode
            },
            vector: msi.data as u8,
            trigger: if msi.data & 1 << 15 != 0 {
                Trigger::Level
            } else {
                Trigger::Edge
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_fields() {
        let message = |address, data| Message::from_msi(MsiMessage { address, data });
        assert_eq!(
            message(0xfee0_3000, 0x41),
            Some(Message {
                target: Target::Matching(Destination::physical(3)),
                mode: DeliveryMode::Fixed,
                vector: 0x41,
                trigger: Trigger::Edge,
            })
        );
        assert_eq!(
            message(0xfee0_f00c, 0xc030),
            Some(Message {
                target: Target::Matching(Destination::logical(0x0f)),
                mode: DeliveryMode::LowestPriority,
                vector: 0x30,
                trigger: Trigger::Level,
            })
        );
        assert_eq!(
            message(0xfee0_0000, 0x400).map(|m| m.mode),
            Some(DeliveryMode::Nmi)
        );
        assert_eq!(message(0xfed0_0000, 0x41), None);
        assert_eq!(message(0x1_fee0_0000, 0x41), None);
    }
}
