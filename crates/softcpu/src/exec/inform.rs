//! What software asks the CPU: CPUID, time stamps, counters, random numbers, MSRs.

use super::system::need_level_0;
use crate::cpu::Cpu;
use crate::fault::{Exception, Trap};
use crate::op::{Flow, Op};
use crate::state::registers::{RAX, RBX, RCX, RDX};
use crate::state::{Width, cr4, flags};
use crate::{cpuid, msr, tri};

/// CPUID.
pub(crate) fn identify(cpu: &mut Cpu, _op: &Op) -> Flow {
    let leaf = cpu.regs.read(RAX) as u32;
    let subleaf = cpu.regs.read(RCX) as u32;
    let result = cpuid::query(cpu, leaf, subleaf);
    for (register, value) in [RAX, RBX, RCX, RDX].into_iter().zip(result) {
        cpu.regs.write(register, value.into());
    }
    Flow::Next
}

/// RDTSC, and RDTSCP (`imm` 1).
pub(crate) fn read_time_stamp(cpu: &mut Cpu, op: &Op) -> Flow {
    if cpu.control.cr4 & cr4::TSD != 0 && cpu.cpl != 0 {
        let Trap = cpu.raise(Exception::protection(0));
        return Flow::Fault;
    }
    let tsc = cpu.tsc();
    cpu.regs.write(RAX, tsc & 0xffff_ffff);
    cpu.regs.write(RDX, tsc >> 32);
    if op.imm == 1 {
        cpu.regs.write(RCX, cpu.control.tsc_aux & 0xffff_ffff);
    }
    Flow::Next
}

/// RDPMC: there are no counters, so that every number is wrong.
pub(crate) fn read_counter(cpu: &mut Cpu, _op: &Op) -> Flow {
    let Trap = cpu.raise(Exception::protection(0));
    Flow::Fault
}

/// RDRAND and RDSEED to register `a`: always ready, CF says so.
pub(crate) fn random<W: Width>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = cpu.random();
    W::truncate(value).set(&mut cpu.regs, op.a);
    cpu.flags.set_status(flags::CF);
    Flow::Next
}

/// RDMSR.
pub(crate) fn read_msr(cpu: &mut Cpu, _op: &Op) -> Flow {
    tri!(need_level_0(cpu));
    let index = cpu.regs.read(RCX) as u32;
    let value = tri!(msr::read(cpu, index));
    cpu.regs.write(RAX, value & 0xffff_ffff);
    cpu.regs.write(RDX, value >> 32);
    Flow::Next
}

/// WRMSR.
pub(crate) fn write_msr(cpu: &mut Cpu, _op: &Op) -> Flow {
    tri!(need_level_0(cpu));
    let index = cpu.regs.read(RCX) as u32;
    let value = cpu.regs.read(RDX) << 32 | cpu.regs.read(RAX) & 0xffff_ffff;
    tri!(msr::write(cpu, index, value));
    Flow::End
}
