//! Guest bytes to a block of operations.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};
use vm_types::GuestAddress;

use super::cache::{BlockId, Cache};
use crate::cpu::Cpu;
use crate::exec;
use crate::fault::Trap;
use crate::lower;
use crate::mmu::{Intent, Privilege};
use crate::op::Op;

/// Instructions in a block at most.
const BLOCK_MAX: usize = 48;
/// Bytes in an instruction at most.
const INSTRUCTION_MAX: usize = 15;
const PAGE: u64 = 4096;
/// Mode bit of blocks that hold one instruction.
const SINGLE: u8 = 1 << 7;

impl Cpu {
    /// The block at `rip`, from the cache or freshly lowered.
    ///
    /// Errors: the fetch itself faulted. Bytes that are no instruction become an operation that raises
    /// #UD when it is executed, so that an instruction before it still runs.
    ///
    /// With `single`, a block of one instruction, not fused with the next.
    pub(super) fn block_at(
        &mut self,
        cache: &mut Cache,
        rip: u64,
        single: bool,
    ) -> Result<BlockId, Trap> {
        let linear = self.fetch_linear(rip)?;
        let physical = self.fetch_physical(linear)?;
        let near_limit = self.is_near_limit(rip);
        let single = single || near_limit;
        let mode = self.code_mode() | if single { SINGLE } else { 0 };
        let id = match cache.find(physical, mode) {
            Some(id) => id,
            None => self.lower_block(cache, linear, physical, mode)?,
        };
        if near_limit {
            let length = cache.ops(id).first().map_or(1, |op| u64::from(op.length));
            self.check_fetch(rip.wrapping_add(length - 1))?;
        }
        Ok(id)
    }

    /// Whether a block at `rip` could reach beyond the limit of CS: such code runs one instruction at a
    /// time, each checked as a whole.
    fn is_near_limit(&self, rip: u64) -> bool {
        let limit = u64::from(self.segments[crate::state::Seg::Cs as usize].limit);
        !self.is_64_bit() && limit < rip.saturating_add(PAGE)
    }

    /// Linear address of the instruction at `rip`, after the limit check.
    fn fetch_linear(&mut self, rip: u64) -> Result<u64, Trap> {
        self.check_fetch(rip)?;
        if self.is_64_bit() {
            return Ok(rip);
        }
        Ok(self.segments[crate::state::Seg::Cs as usize]
            .base
            .wrapping_add(rip)
            & 0xffff_ffff)
    }

    /// Guest physical address of the code byte at `linear`.
    fn fetch_physical(&mut self, linear: u64) -> Result<u64, Trap> {
        let page = linear & !(PAGE - 1);
        if let Some(physical) = self.tlb.fetch(page, self.code_key) {
            return Ok(physical | (linear & (PAGE - 1)));
        }
        let privilege = Privilege {
            user: self.cpl == 3,
            anywhere: false,
        };
        match self.walk(linear, Intent::Fetch, privilege) {
            Ok(mapping) => {
                let physical = mapping.physical & !(PAGE - 1);
                self.tlb.fill_fetch(page, self.code_key, physical);
                Ok(mapping.physical)
            }
            Err(exception) => Err(self.raise(exception)),
        }
    }

    fn lower_block(
        &mut self,
        cache: &mut Cache,
        linear: u64,
        physical: u64,
        mode: u8,
    ) -> Result<BlockId, Trap> {
        let page = physical & !(PAGE - 1);
        let ram = self.memory.host_page(GuestAddress(page)).is_some();
        if ram {
            // The watch stands before the bytes are read: a write from now on is noticed.
            self.watch_code(page);
        }
        let mut bytes = [0; PAGE as usize + INSTRUCTION_MAX];
        let in_page = (PAGE - (physical & (PAGE - 1))) as usize;
        self.fetch_bytes(physical, &mut bytes[..in_page]);

        let bits = self.code_bits();
        let mut ops: Vec<Op> = Vec::with_capacity(BLOCK_MAX);
        let mut decoder = Decoder::new(bits, &bytes[..in_page], DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        let mut second_page = None;
        let mut previous = Instruction::default();
        let mut instructions = 0;
        let most = if mode & SINGLE != 0 { 1 } else { BLOCK_MAX };
        while instructions < most {
            let start = decoder.position();
            decoder.set_ip(start as u64);
            decoder.decode_out(&mut instruction);
            if decoder.last_error() == iced_x86::DecoderError::NoMoreBytes {
                if !ops.is_empty() {
                    break;
                }
                // The first instruction of the block crosses into the next page, if the limit lets it.
                let base = if self.is_64_bit() {
                    0
                } else {
                    self.segments[crate::state::Seg::Cs as usize].base
                };
                let offset = self.cut_rip(linear.wrapping_sub(base));
                self.check_fetch(offset.wrapping_add(in_page as u64))?;
                let next = self.fetch_next_page(linear, in_page)?;
                let (next_physical, ram) = next;
                if ram {
                    self.watch_code(next_physical);
                }
                self.fetch_bytes(
                    next_physical,
                    &mut bytes[in_page..in_page + INSTRUCTION_MAX],
                );
                second_page = Some(next_physical);
                let window = &bytes[start..in_page + INSTRUCTION_MAX];
                let mut wide = Decoder::new(bits, window, DecoderOptions::NONE);
                wide.set_ip(start as u64);
                wide.decode_out(&mut instruction);
                ops.push(self.lower_at(&instruction, start));
                instructions = 1;
                break;
            }
            let op = self.lower_at(&instruction, start);
            instructions += 1;
            let fused = ops
                .last()
                .and_then(|last| lower::fuse((&previous, last), (&instruction, &op)));
            match (fused, ops.last_mut()) {
                (Some(fused), Some(last)) => *last = fused,
                _ => ops.push(op),
            }
            if ends_block(&instruction) {
                break;
            }
            previous = instruction;
        }
        // Device memory can be executed from, but not cached: what it reads as may change.
        let id = cache.insert(physical, mode, (&ops, instructions), second_page);
        if !ram {
            cache.drop_page(page);
        }
        Ok(id)
    }

    /// Physical address of the page behind the one that `linear` is in, and whether it is memory.
    fn fetch_next_page(&mut self, linear: u64, in_page: usize) -> Result<(u64, bool), Trap> {
        let mut next = linear.wrapping_add(in_page as u64);
        if !self.is_64_bit() {
            next &= 0xffff_ffff;
        }
        let physical = self.fetch_physical(next)?;
        Ok((
            physical,
            self.memory.host_page(GuestAddress(physical)).is_some(),
        ))
    }

    fn fetch_bytes(&mut self, physical: u64, into: &mut [u8]) {
        if self.memory.read(GuestAddress(physical), into).is_err() {
            for (index, chunk) in into.iter_mut().enumerate() {
                *chunk = self.load_physical(physical.wrapping_add(index as u64), 1) as u8;
            }
        }
    }

    /// Lowers one decoded instruction that stands `start` bytes into the block.
    fn lower_at(&self, instruction: &Instruction, start: usize) -> Op {
        let length = instruction.len().min(INSTRUCTION_MAX);
        let mut op = if instruction.is_invalid() || !self.announces(instruction) {
            Op::new(exec::control::undefined)
        } else {
            lower::lower(
                instruction,
                &lower::Context {
                    bits: self.code_bits(),
                },
            )
        };
        op.length = length as u8;
        op.next = (start + length) as u16;
        op
    }
}

/// Whether what follows must not be lowered with it: control leaves, or is not certain to go on.
fn ends_block(instruction: &Instruction) -> bool {
    instruction.is_invalid()
        || instruction.flow_control() != FlowControl::Next
        || lower::changes_context(instruction)
}
