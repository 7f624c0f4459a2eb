//! Single step and hardware breakpoints (SDM vol. 3B, 18.2 and 18.3).
//!
//! While TF is set, a breakpoint is enabled or an interrupt shadow lasts, instructions run one at a
//! time; [`before_step`] and [`after_step`] stand around each.

use super::{Event, Source};
use crate::cpu::{Cpu, Shadow};
use crate::fault::{Exception, vector};
use crate::op::Flow;
use crate::state::{Seg, cr4, flags};

/// DR6: single step.
pub(crate) const SINGLE_STEP: u64 = 1 << 14;
/// DR6: task switch with the T bit set.
pub(crate) const TASK_SWITCH: u64 = 1 << 15;
/// DR6: an access to a debug register with GD set.
pub(crate) const REGISTER_ACCESS: u64 = 1 << 13;
/// DR7: general detect.
pub(crate) const GENERAL_DETECT: u64 = 1 << 13;

/// Breakpoint kinds in DR7's R/W fields.
const EXECUTE: u64 = 0;
const IO: u64 = 2;

/// What [`before_step`] found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// A fault was delivered instead of the instruction.
    pub(crate) faulted: bool,
    /// TF at the start.
    trap: bool,
}

/// Works out `stepping` and `data_breakpoints` from TF, DR7 and the interrupt shadow.
pub(crate) fn update(cpu: &mut Cpu) {
    let dr7 = cpu.control.dr7;
    cpu.data_breakpoints =
        dr7 & 0xff != 0 && (0..4).any(|index| is_enabled(dr7, index) && kind(dr7, index) & 1 == 1);
    cpu.stepping = cpu.shadow.is_some()
        || cpu.events.alone_once
        || cpu.events.task_trap
        || dr7 & 0xff != 0
        || cpu.flags.has(flags::TF);
    if cpu.stepping {
        // A chain of blocks must not go on.
        cpu.request_attention();
    }
}

/// Before one instruction runs by itself.
pub(crate) fn before_step(cpu: &mut Cpu) -> Step {
    cpu.events.alone_once = false;
    cpu.events.no_step_trap = false;
    let mut step = Step {
        faulted: false,
        trap: cpu.flags.has(flags::TF),
    };
    if std::mem::take(&mut cpu.events.task_trap) {
        trap(cpu, TASK_SWITCH);
        step.faulted = true;
        return step;
    }
    let shadow = cpu.shadow.take();
    if cpu.control.dr7 & 0xff != 0
        && !cpu.flags.has(flags::RF)
        && shadow != Some(Shadow::StackSegment)
    {
        let hits = code_hits(cpu);
        if hits != 0 {
            super::exception(
                cpu,
                Exception {
                    detail: hits,
                    ..Exception::plain(vector::DEBUG)
                },
            );
            step.faulted = true;
        }
    }
    cpu.events.resumed = cpu.flags.has(flags::RF);
    step
}

/// After it.
pub(crate) fn after_step(cpu: &mut Cpu, step: Step, flow: Flow) {
    if flow == Flow::Fault {
        // What the instruction would have hit is hit when it runs again.
        cpu.pending_debug = 0;
        update(cpu);
        cpu.request_attention();
        return;
    }
    // RF covers one instruction, unless that one has just loaded it.
    if cpu.events.resumed {
        cpu.flags.system &= !flags::RF;
    }
    // The single-step trap of MOV SS and POP SS is lost: the next instruction has its own.
    if step.trap && !cpu.events.no_step_trap && cpu.shadow != Some(Shadow::StackSegment) {
        cpu.pending_debug |= SINGLE_STEP;
    }
    update(cpu);
    cpu.request_attention();
    // Data breakpoints that they hit are held until after the next instruction.
    if cpu.shadow == Some(Shadow::StackSegment) {
        return;
    }
    let hits = std::mem::take(&mut cpu.pending_debug);
    let enabled = (0..4)
        .filter(|index| is_enabled(cpu.control.dr7, *index))
        .fold(0, |bits, index| bits | 1 << index);
    if hits & (enabled | SINGLE_STEP) != 0 {
        trap(cpu, hits);
    }
}

/// #DB as a trap: the instruction before `rip` is complete.
fn trap(cpu: &mut Cpu, bits: u64) {
    let event = Event {
        vector: vector::DEBUG,
        source: Source::Exception,
        error: None,
        rip: cpu.rip,
        resume: false,
    };
    super::dispatch(cpu, event, bits);
}

/// I/O breakpoints on `size` ports from `port`; needs CR4.DE.
pub(crate) fn note_port(cpu: &mut Cpu, port: u16, size: u64) {
    let dr7 = cpu.control.dr7;
    if dr7 & 0xff == 0 || cpu.control.cr4 & cr4::DE == 0 {
        return;
    }
    for index in 0..4 {
        if kind(dr7, index) != IO {
            continue;
        }
        let length = length(dr7, index);
        let start = cpu.control.breakpoints[index as usize] & !(length - 1) & 0xffff;
        let port = u64::from(port);
        if port < start + length && start < port + size {
            cpu.pending_debug |= 1 << index;
        }
    }
}

/// DR6 bits of the enabled code breakpoints at the next instruction.
fn code_hits(cpu: &Cpu) -> u64 {
    let dr7 = cpu.control.dr7;
    let linear = if cpu.is_64_bit() {
        cpu.rip
    } else {
        cpu.segments[Seg::Cs as usize].base.wrapping_add(cpu.rip) & 0xffff_ffff
    };
    (0..4)
        .filter(|index| is_enabled(dr7, *index) && kind(dr7, *index) == EXECUTE)
        .filter(|index| cpu.control.breakpoints[*index as usize] == linear)
        .fold(0, |bits, index| bits | 1 << index)
}

/// Locally or globally.
fn is_enabled(dr7: u64, index: u32) -> bool {
    dr7 >> (2 * index) & 3 != 0
}

fn kind(dr7: u64, index: u32) -> u64 {
    dr7 >> (16 + 4 * index) & 3
}

fn length(dr7: u64, index: u32) -> u64 {
    match dr7 >> (18 + 4 * index) & 3 {
        0 => 1,
        1 => 2,
        2 => 8,
        _ => 4,
    }
}
