//! `VM_RUN`: how a vCPU is entered, and why it comes back.
//!
//! A vCPU that exits for a port or memory access stands in the middle of that instruction. The next entry
//! carries the answer ([`command::FULFILL_INOUT`], [`command::FULFILL_MMIO`]) and finishes it; a backend
//! does both inside one call, so that nobody above sees half an instruction.

/// What to do at the entry.
pub mod command {
    /// Just run.
    pub const DEFAULT: u32 = 0;
    /// Drop the instruction that was being emulated.
    pub const DISCARD_INSTRUCTION: u32 = 1;
    /// Finish a memory access; the payload is an [`super::Mmio`].
    pub const FULFILL_MMIO: u32 = 2;
    /// Finish a port access; the payload is an [`super::InOut`].
    pub const FULFILL_INOUT: u32 = 3;
}

/// Added to a command: come back as soon as the vCPU's state is consistent.
pub const EXIT_CONSISTENT: u32 = 1 << 31;

/// A port access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct InOut {
    /// The value, for OUT before and for IN after.
    pub eax: u32,
    /// The port.
    pub port: u16,
    /// 1, 2 or 4.
    pub bytes: u8,
    /// [`INOUT_IN`] and others.
    pub flags: u8,
    /// Address size of a string instruction; the kernel's own.
    pub address_bytes: u8,
    /// Segment register of its operand; the kernel's own.
    pub segment: u8,
}

/// [`InOut::flags`]: an IN.
pub const INOUT_IN: u8 = 1;

/// A memory access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Mmio {
    /// 1 to 8.
    pub bytes: u8,
    /// 1 for a load.
    pub read: u8,
    /// Reserved.
    pub pad: [u16; 3],
    /// Guest physical address.
    pub address: u64,
    /// The value.
    pub data: u64,
}

/// Bytes of an entry's payload.
pub const ENTRY_PAYLOAD_BYTES: usize = 24;
/// Bytes of an exit's payload.
pub const EXIT_PAYLOAD_BYTES: usize = 48;

/// The argument of `VM_RUN`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Entry {
    /// The vCPU.
    pub vcpu: i32,
    /// A [`command`], perhaps with [`EXIT_CONSISTENT`].
    pub command: u32,
    /// Address of an [`ExitData`], which the call fills.
    pub exit_data: u64,
    /// An [`InOut`] or [`Mmio`], as the command says.
    pub payload: [u64; ENTRY_PAYLOAD_BYTES / 8],
}

/// Why a vCPU came back.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ExitData {
    /// An [`ExitCode`] as its number.
    pub code: i32,
    /// Length of the instruction, where that matters.
    pub instruction_bytes: i32,
    /// Its address.
    pub rip: u64,
    /// What belongs to the code.
    pub payload: [u64; EXIT_PAYLOAD_BYTES / 8],
}

const _: () = assert!(size_of::<InOut>() == 12);
const _: () = assert!(size_of::<Mmio>() == 24);
const _: () = assert!(size_of::<Entry>() == 40);
const _: () = assert!(size_of::<ExitData>() == 64);

/// The exits that a backend handles; the kernel keeps the rest to itself or is not asked for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ExitCode {
    /// A port access: [`InOut`].
    InOut = 0,
    /// The hardware refused (Intel).
    Vmx = 1,
    /// Nothing: run again. Also what a hold or a barrier ends in.
    Bogus = 2,
    /// RDMSR: number.
    ReadMsr = 3,
    /// WRMSR: number, value.
    WriteMsr = 4,
    /// HLT, if asked for.
    Halt = 5,
    /// Single step, if asked for.
    Step = 6,
    /// PAUSE, if asked for.
    Pause = 7,
    /// An access that the page tables refuse: address, kind.
    Paging = 8,
    /// An instruction that the kernel cannot emulate: its bytes.
    Instruction = 9,
    /// The machine is suspended: how, by which vCPU, when.
    Suspended = 14,
    /// A memory access: [`Mmio`].
    Mmio = 15,
    /// A task switch (Intel).
    TaskSwitch = 16,
    /// The hardware refused (AMD).
    Svm = 19,
    /// A debugger holds the vCPU.
    Debug = 21,
    /// A breakpoint, if asked for.
    Breakpoint = 23,
}

impl ExitCode {
    /// The code with this number; `None` for those that are the kernel's own.
    pub const fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            0 => Self::InOut,
            1 => Self::Vmx,
            2 => Self::Bogus,
            3 => Self::ReadMsr,
            4 => Self::WriteMsr,
            5 => Self::Halt,
            6 => Self::Step,
            7 => Self::Pause,
            8 => Self::Paging,
            9 => Self::Instruction,
            14 => Self::Suspended,
            15 => Self::Mmio,
            16 => Self::TaskSwitch,
            19 => Self::Svm,
            21 => Self::Debug,
            23 => Self::Breakpoint,
            _ => return None,
        })
    }

    /// Whether the vCPU stands between two instructions, so that its state can be saved.
    pub const fn is_consistent(self) -> bool {
        !matches!(
            self,
            Self::InOut | Self::Mmio | Self::ReadMsr | Self::WriteMsr | Self::Instruction
        )
    }
}

/// How a machine was suspended (`VM_SUSPEND`, [`ExitCode::Suspended`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum SuspendHow {
    /// Reset.
    Reset = 1,
    /// Power-off.
    PowerOff = 2,
    /// All vCPUs are halted for ever.
    Halt = 3,
    /// A triple fault.
    TripleFault = 4,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_codes_agree() {
        let known = (-1..64).filter_map(|number| {
            let code = ExitCode::from_number(number)?;
            assert_eq!(code as i32, number);
            Some(code)
        });
        assert_eq!(known.count(), 16);
        assert!(ExitCode::Bogus.is_consistent());
        assert!(!ExitCode::Mmio.is_consistent());
    }
}
