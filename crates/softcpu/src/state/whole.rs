//! The architectural state of a CPU in one piece: for loaders, snapshots, debuggers and tests.

use serde::{Deserialize, Serialize};

use super::{Control, Flags, Fpu, Segment, flags};
use crate::cpu::Cpu;

/// Everything that software can see of a CPU, but for its local APIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub registers: [u64; 16],
    /// Offset of the next instruction in CS.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS with their hidden parts.
    pub segments: [Segment; 6],
    /// LDT register.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Control and debug registers, descriptor tables, MSRs.
    pub control: Control,
    /// x87, MMX and SSE.
    pub fpu: Fpu,
    /// Stopped by HLT.
    pub halted: bool,
    /// An application processor that waits for its start-up message.
    pub waits_for_startup: bool,
}

impl Cpu {
    /// The state between two instructions.
    pub fn state(&self) -> CpuState {
        let mut registers = [0; 16];
        for (index, register) in registers.iter_mut().enumerate() {
            *register = self.regs.read(index as u8);
        }
        CpuState {
            registers,
            rip: self.rip,
            rflags: self.flags.bits(),
            segments: self.segments,
            ldtr: self.ldtr,
            tr: self.tr,
            control: self.control.clone(),
            fpu: self.fpu.clone(),
            halted: self.halted,
            waits_for_startup: self.waits_for_startup,
        }
    }

    /// Takes on a state. The privilege level is that of SS (in real mode 0, in virtual-8086 mode 3).
    pub fn set_state(&mut self, state: &CpuState) {
        for (index, register) in state.registers.iter().enumerate() {
            self.regs.write(index as u8, *register);
        }
        self.rip = state.rip;
        self.flags = Flags::default();
        self.flags.set_bits(state.rflags);
        self.segments = state.segments;
        self.ldtr = state.ldtr;
        self.tr = state.tr;
        self.control = state.control.clone();
        self.fpu = state.fpu.clone();
        self.halted = state.halted;
        self.waits_for_startup = state.waits_for_startup;
        let protected = self.control.cr0 & super::cr0::PE != 0;
        self.cpl = match (protected, self.flags.has(flags::VM)) {
            (false, _) => 0,
            (true, true) => 3,
            (true, false) => self.segments[super::Seg::Ss as usize].dpl(),
        };
        self.shadow = None;
        self.pending_debug = 0;
        self.flush_translations();
        self.update_mode();
    }
}
