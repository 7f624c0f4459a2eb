//! Segment registers: the selector that software sees and the hidden part that the CPU works with.

use serde::{Deserialize, Serialize};

/// A segment register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Seg {
    /// Extra.
    Es = 0,
    /// Code.
    Cs = 1,
    /// Stack.
    Ss = 2,
    /// Data.
    Ds = 3,
    /// F.
    Fs = 4,
    /// G.
    Gs = 5,
}

impl Seg {
    /// The register with number `index`, as instructions encode it.
    pub const fn from_index(index: u8) -> Option<Self> {
        match index {
            0 => Some(Self::Es),
            1 => Some(Self::Cs),
            2 => Some(Self::Ss),
            3 => Some(Self::Ds),
            4 => Some(Self::Fs),
            5 => Some(Self::Gs),
            _ => None,
        }
    }
}

/// A segment (or LDT, TSS) register with its hidden part.
///
/// `attributes` are laid out as bytes 5 and 6 of a descriptor (SDM vol. 3A, 3.4.5): type in bits 0..4,
/// S bit 4, DPL 5..7, P 7, then AVL 12, L 13, D/B 14, G 15.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// What MOV from the register gives.
    pub selector: u16,
    /// Access rights, see above. Zero for a null selector: present is clear.
    pub attributes: u16,
    /// Last valid offset, in bytes whatever the granularity (for expand-down: last invalid one).
    pub limit: u32,
    /// First linear address.
    pub base: u64,
}

impl Segment {
    /// Present.
    pub const PRESENT: u16 = 1 << 7;
    /// Not a system descriptor.
    pub const CODE_OR_DATA: u16 = 1 << 4;
    /// Type bit: code.
    pub const CODE: u16 = 1 << 3;
    /// Type bit of code: conforming. Of data: expand-down.
    pub const CONFORMING_OR_DOWN: u16 = 1 << 2;
    /// Type bit of code: readable. Of data: writable.
    pub const READ_OR_WRITE: u16 = 1 << 1;
    /// Type bit: accessed.
    pub const ACCESSED: u16 = 1 << 0;
    /// 64-bit code.
    pub const LONG: u16 = 1 << 13;
    /// 32-bit default size, or big stack.
    pub const BIG: u16 = 1 << 14;
    /// Limit counts pages.
    pub const GRANULAR: u16 = 1 << 15;

    /// A real-mode segment: base is 16 times the selector, 64 KiB, writable data or code.
    pub const fn real(selector: u16) -> Self {
        Self {
            selector,
            attributes: Self::PRESENT | Self::CODE_OR_DATA | Self::READ_OR_WRITE | Self::ACCESSED,
            limit: 0xffff,
            base: (selector as u64) << 4,
        }
    }

    /// Descriptor privilege level.
    pub const fn dpl(&self) -> u8 {
        ((self.attributes >> 5) & 3) as u8
    }

    /// The selector's requested privilege level.
    pub const fn rpl(&self) -> u8 {
        (self.selector & 3) as u8
    }

    /// Whether attribute bit(s) `mask` are set.
    pub const fn has(&self, mask: u16) -> bool {
        self.attributes & mask != 0
    }

    /// The four type bits.
    pub const fn kind(&self) -> u16 {
        self.attributes & 0xf
    }
}
