//! Register numbers, as `VM_GET_REGISTER` and its family count them.

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names are the manual's")]
pub enum Register {
    Rax = 0,
    Rbx = 1,
    Rcx = 2,
    Rdx = 3,
    Rsi = 4,
    Rdi = 5,
    Rbp = 6,
    R8 = 7,
    R9 = 8,
    R10 = 9,
    R11 = 10,
    R12 = 11,
    R13 = 12,
    R14 = 13,
    R15 = 14,
    Cr0 = 15,
    Cr3 = 16,
    Cr4 = 17,
    Dr7 = 18,
    Rsp = 19,
    Rip = 20,
    Rflags = 21,
    Es = 22,
    Cs = 23,
    Ss = 24,
    Ds = 25,
    Fs = 26,
    Gs = 27,
    Ldtr = 28,
    Tr = 29,
    Idtr = 30,
    Gdtr = 31,
    Efer = 32,
    Cr2 = 33,
    Pdpte0 = 34,
    Pdpte1 = 35,
    Pdpte2 = 36,
    Pdpte3 = 37,
    InterruptShadow = 38,
    Dr0 = 39,
    Dr1 = 40,
    Dr2 = 41,
    Dr3 = 42,
    Dr6 = 43,
    EntryInstructionLength = 44,
    Xcr0 = 45,
}

/// The general registers in the order of their encodings in instructions.
pub const BY_ENCODING: [Register; 16] = [
    Register::Rax,
    Register::Rcx,
    Register::Rdx,
    Register::Rbx,
    Register::Rsp,
    Register::Rbp,
    Register::Rsi,
    Register::Rdi,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// The hidden part of a segment or table register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SegmentDescriptor {
    /// First linear address.
    pub base: u64,
    /// Last valid offset in bytes.
    pub limit: u32,
    /// Access rights as VMX has them: descriptor bytes 5 and 6, bit 16 for unusable.
    pub access: u32,
}

const _: () = assert!(size_of::<SegmentDescriptor>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_general_register_has_one_encoding() {
        let mut sorted = BY_ENCODING;
        sorted.sort();
        assert!(sorted.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(Register::Xcr0 as i32, 45);
    }
}
