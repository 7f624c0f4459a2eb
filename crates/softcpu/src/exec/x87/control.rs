//! Control and status word, environment and state of the x87; FNINIT, FNCLEX, FFREE, FINCSTP, FDECSTP, FWAIT.
//!
//! Memory images: SDM vol. 1, figures 8-9 to 8-12.

use super::{C1, FLAGS, SF};
use crate::cpu::Cpu;
use crate::fault::{Exception, Trap, vector};
use crate::mmu::Intent;
use crate::op::{Flow, Op};
use crate::softfloat::f80::{Class, F80};
use crate::state::fpu::{Fpu, St};
use crate::state::registers::RAX;
use crate::state::{Width, cr0, flags};
use crate::tri;

/// Bits of the control word that can be set; bit 6 always is.
const CONTROL_MASK: u16 = 0x1f3f;
const CONTROL_FIXED: u16 = 0x0040;
const CONTROL_RESET: u16 = 0x037f;

impl Fpu {
    /// Sets the control word and works out what is pending under it.
    pub(crate) fn set_control(&mut self, control: u16) {
        self.control = control & CONTROL_MASK | CONTROL_FIXED;
        self.summarise();
    }

    /// FNINIT: all but the registers themselves.
    pub(crate) fn initialise_x87(&mut self) {
        self.control = CONTROL_RESET;
        self.status = 0;
        self.occupied = 0;
        self.last_opcode = 0;
        self.last_instruction = 0;
        self.last_instruction_selector = 0;
        self.last_data = 0;
        self.last_data_selector = 0;
    }

    /// The tag word: two bits for each physical register.
    fn tags(&self) -> u16 {
        (0..8).fold(0, |tags, index| {
            let tag = if self.occupied >> index & 1 == 0 {
                3
            } else {
                let St {
                    significand,
                    sign_exponent,
                } = self.registers[index];
                match F80::new(sign_exponent, significand).classify() {
                    Class::Zero => 1,
                    Class::Finite {
                        denormal: false, ..
                    } => 0,
                    _ => 2,
                }
            };
            tags | tag << (2 * index)
        })
    }

    fn set_tags(&mut self, tags: u16) {
        self.occupied = (0..8).fold(0, |occupied, index| {
            occupied | u8::from(tags >> (2 * index) & 3 != 3) << index
        });
    }
}

/// FLDCW.
pub(crate) fn load_control(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    let control = tri!(cpu.load_operand::<u16>(op));
    cpu.fpu.set_control(control);
    Flow::Next
}

/// FNSTCW.
pub(crate) fn store_control(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87_without_wait());
    let control = cpu.fpu.control;
    tri!(cpu.store_operand(op, control));
    Flow::Next
}

/// FNSTSW to memory.
pub(crate) fn store_status(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87_without_wait());
    let status = cpu.fpu.status;
    tri!(cpu.store_operand(op, status));
    Flow::Next
}

/// FNSTSW AX.
pub(crate) fn status_to_ax(cpu: &mut Cpu, _op: &Op) -> Flow {
    tri!(cpu.require_x87_without_wait());
    let status = cpu.fpu.status;
    status.set(&mut cpu.regs, RAX);
    Flow::Next
}

/// FNINIT.
pub(crate) fn initialise(cpu: &mut Cpu, _op: &Op) -> Flow {
    tri!(cpu.require_x87_without_wait());
    cpu.fpu.initialise_x87();
    Flow::Next
}

/// FNCLEX.
pub(crate) fn clear_exceptions(cpu: &mut Cpu, _op: &Op) -> Flow {
    tri!(cpu.require_x87_without_wait());
    cpu.fpu.status &= !(FLAGS | SF);
    cpu.fpu.summarise();
    Flow::Next
}

/// FNOP.
pub(crate) fn nothing(cpu: &mut Cpu, _op: &Op) -> Flow {
    tri!(cpu.require_x87());
    Flow::Next
}

/// The instructions of the 8087 and 80287 that do nothing now; they never waited.
pub(crate) fn nothing_without_wait(cpu: &mut Cpu, _op: &Op) -> Flow {
    tri!(cpu.require_x87_without_wait());
    Flow::Next
}

/// FWAIT.
pub(crate) fn wait(cpu: &mut Cpu, _op: &Op) -> Flow {
    const BOTH: u64 = cr0::MP | cr0::TS;
    if cpu.control.cr0 & BOTH == BOTH {
        let _trap = cpu.raise(Exception::plain(vector::NO_DEVICE));
        return Flow::Fault;
    }
    tri!(cpu.report_x87());
    Flow::Next
}

/// FFREE ST(`a`); with `POP`, ST(0) goes (FFREEP).
pub(crate) fn free<const POP: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    cpu.note_instruction(op);
    let slot = cpu.fpu.slot(op.a);
    cpu.fpu.occupied &= !(1 << slot);
    if POP {
        cpu.fpu.pop();
    }
    Flow::Next
}

/// FINCSTP and FDECSTP: TOP moves by `imm`.
pub(crate) fn rotate(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    cpu.note_instruction(op);
    let top = cpu.fpu.top().wrapping_add(op.imm as u8);
    cpu.fpu.set_top(top);
    cpu.fpu.status &= !C1;
    Flow::Next
}

/// Whether the environment has the layout of protected mode.
fn is_protected(cpu: &Cpu) -> bool {
    cpu.control.cr0 & cr0::PE != 0 && !cpu.flags.has(flags::VM)
}

/// The environment in an area of 14 or 28 bytes; gives its size.
fn write_environment(cpu: &Cpu, area: &mut [u8; 108], wide: bool) -> usize {
    let fpu = &cpu.fpu;
    let (instruction, data) = (fpu.last_instruction as u32, fpu.last_data as u32);
    let opcode = u32::from(fpu.last_opcode & 0x7ff);
    let high = |address: u32| (address >> 16) << 12;
    let tail = if is_protected(cpu) {
        let selector = u32::from(fpu.last_instruction_selector);
        [
            instruction,
            selector | opcode << 16,
            data,
            u32::from(fpu.last_data_selector),
        ]
    } else {
        // Real mode has linear addresses in place of selectors.
        let linear = |selector: u16, offset: u32| (u32::from(selector) << 4).wrapping_add(offset);
        let instruction = linear(fpu.last_instruction_selector, instruction);
        let data = linear(fpu.last_data_selector, data);
        [
            instruction & 0xffff,
            high(instruction) | opcode,
            data & 0xffff,
            high(data),
        ]
    };
    let head = [fpu.control, fpu.status, fpu.tags()].map(u32::from);
    let step = if wide { 4 } else { 2 };
    for (index, word) in head.into_iter().chain(tail).enumerate() {
        // What has no meaning reads as ones.
        let filled = match index {
            0..=2 | 6 => word | 0xffff_0000,
            _ => word,
        };
        let bytes = if wide { filled } else { word }.to_le_bytes();
        area[index * step..(index + 1) * step].copy_from_slice(&bytes[..step]);
    }
    7 * step
}

/// What [`write_environment`] wrote.
fn read_environment(cpu: &mut Cpu, area: &[u8; 108], wide: bool) {
    let step = if wide { 4 } else { 2 };
    let word = |index: usize| {
        let mut bytes = [0; 4];
        bytes[..step].copy_from_slice(&area[index * step..(index + 1) * step]);
        u32::from_le_bytes(bytes)
    };
    let protected = is_protected(cpu);
    let fpu = &mut cpu.fpu;
    fpu.status = word(1) as u16;
    fpu.set_tags(word(2) as u16);
    let (ip, cs, dp, ds) = (word(3), word(4), word(5), word(6));
    if protected {
        fpu.last_instruction = ip.into();
        fpu.last_instruction_selector = cs as u16;
        fpu.last_opcode = (cs >> 16) as u16 & 0x7ff;
        fpu.last_data = dp.into();
        fpu.last_data_selector = ds as u16;
    } else {
        fpu.last_instruction = u64::from(ip & 0xffff | (cs & 0x0fff_f000) << 4);
        fpu.last_instruction_selector = 0;
        fpu.last_opcode = cs as u16 & 0x7ff;
        fpu.last_data = u64::from(dp & 0xffff | (ds & 0x0fff_f000) << 4);
        fpu.last_data_selector = 0;
    }
    fpu.set_control(word(0) as u16);
}

fn store_area(cpu: &mut Cpu, op: &Op, area: &[u8]) -> Result<(), Trap> {
    let linear = cpu.linear(op, area.len() as u64, Intent::Store)?;
    cpu.probe_last(op, linear, area.len(), Intent::Store)?;
    cpu.store_bytes(linear, area, op.segment())
}

fn load_area(cpu: &mut Cpu, op: &Op, area: &mut [u8]) -> Result<(), Trap> {
    let linear = cpu.linear(op, area.len() as u64, Intent::Load)?;
    cpu.probe_last(op, linear, area.len(), Intent::Load)?;
    cpu.load_bytes(linear, area, op.segment())
}

/// FNSTENV; `imm` is the size of the area.
pub(crate) fn store_environment(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87_without_wait());
    let mut area = [0; 108];
    let size = write_environment(cpu, &mut area, op.imm == 28);
    tri!(store_area(cpu, op, &area[..size]));
    cpu.fpu.control |= FLAGS;
    cpu.fpu.summarise();
    Flow::Next
}

/// FLDENV; `imm` is the size of the area.
pub(crate) fn load_environment(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    let mut area = [0; 108];
    let wide = op.imm == 28;
    tri!(load_area(cpu, op, &mut area[..if wide { 28 } else { 14 }]));
    read_environment(cpu, &area, wide);
    Flow::Next
}

/// FNSAVE; `imm` is the size of the area.
pub(crate) fn save(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87_without_wait());
    let mut area = [0; 108];
    let start = write_environment(cpu, &mut area, op.imm == 108);
    for index in 0..8 {
        let at = start + 10 * usize::from(index);
        area[at..at + 10].copy_from_slice(&cpu.fpu.st(index).to_bits().to_le_bytes()[..10]);
    }
    tri!(store_area(cpu, op, &area[..start + 80]));
    cpu.fpu.initialise_x87();
    Flow::Next
}

/// FRSTOR; `imm` is the size of the area.
pub(crate) fn restore(cpu: &mut Cpu, op: &Op) -> Flow {
    tri!(cpu.require_x87());
    let mut area = [0; 108];
    let wide = op.imm == 108;
    let start = if wide { 28 } else { 14 };
    tri!(load_area(cpu, op, &mut area[..start + 80]));
    read_environment(cpu, &area, wide);
    let occupied = cpu.fpu.occupied;
    for index in 0..8 {
        let at = start + 10 * usize::from(index);
        let mut bytes = [0; 16];
        bytes[..10].copy_from_slice(&area[at..at + 10]);
        cpu.fpu
            .set_st(index, F80::from_bits(u128::from_le_bytes(bytes)));
    }
    cpu.fpu.occupied = occupied;
    Flow::Next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::{Package, PackageConfig, TimeBase, seeded_random};
    use std::sync::Arc;
    use vm_types::{Clock, GuestMemory};

    fn cpu(cr0: u64) -> Cpu {
        let config = PackageConfig {
            cpus: 1,
            memory: GuestMemory::flat(0x1000).unwrap(),
            bus: Arc::new(crate::bus::NoBus),
            clock: Clock::manual().0,
            time_base: TimeBase::Instructions,
            tsc_hz: 1_000_000_000,
            apic_hz: 1_000_000_000,
            random: seeded_random,
            random_seed: 1,
        };
        let (_, cpus) = Package::new(&config);
        let mut cpu = cpus.into_iter().next().unwrap();
        cpu.control.cr0 = cr0;
        let fpu = &mut cpu.fpu;
        fpu.control = 0x0c7f;
        fpu.status = 0x3800;
        fpu.occupied = 0x81;
        fpu.registers[0] = St {
            significand: 1 << 63,
            sign_exponent: 0x3fff,
        };
        (fpu.last_opcode, fpu.last_instruction) = (0x5d8, 0x1234);
        (fpu.last_instruction_selector, fpu.last_data) = (0xf00d, 0x5678);
        fpu.last_data_selector = 0xbeef;
        cpu
    }

    fn words(area: &[u8; 108], step: usize) -> Vec<u32> {
        area.chunks(step)
            .take(7)
            .map(|word| {
                word.iter()
                    .rev()
                    .fold(0, |sum, &byte| sum << 8 | u32::from(byte))
            })
            .collect()
    }

    #[test]
    fn environments_have_the_layout_of_mode_and_size() {
        // Register 7 is empty of value (zero), register 0 is one, the others are empty.
        let tags = 0x7ffc;
        for (cr0, wide, expected) in [
            (
                cr0::PE,
                true,
                [
                    0xffff_0c7f,
                    0xffff_3800,
                    0xffff_0000 | tags,
                    0x1234,
                    0x05d8_f00d,
                    0x5678,
                    0xffff_beef,
                ],
            ),
            (
                cr0::PE,
                false,
                [0x0c7f, 0x3800, tags, 0x1234, 0xf00d, 0x5678, 0xbeef],
            ),
            (
                0,
                true,
                [
                    0xffff_0c7f,
                    0xffff_3800,
                    0xffff_0000 | tags,
                    0x1304,
                    0xf5d8,
                    0x4568,
                    0xffff_c000,
                ],
            ),
            (
                0,
                false,
                [0x0c7f, 0x3800, tags, 0x1304, 0xf5d8, 0x4568, 0xc000],
            ),
        ] {
            let mut cpu = cpu(cr0);
            let mut area = [0; 108];
            let size = write_environment(&cpu, &mut area, wide);
            assert_eq!(size, if wide { 28 } else { 14 });
            assert_eq!(words(&area, size / 7), expected, "{cr0} {wide}");
            let before = cpu.fpu.clone();
            cpu.fpu.initialise_x87();
            read_environment(&mut cpu, &area, wide);
            assert_eq!(cpu.fpu.control, before.control);
            assert_eq!(cpu.fpu.status, before.status);
            assert_eq!(cpu.fpu.occupied, before.occupied);
        }
    }
}
