//! The loop: find a block, run its operations, look at what has come up, go on.

use super::cache::{BlockId, Cache, Link};
use crate::cpu::{Cpu, Exit};
use crate::event;
use crate::fault::Trap;
use crate::op::Flow;
use crate::state::registers::BLOCK_RIP;

impl Cpu {
    /// Runs blocks until the budget is used up or something makes the CPU stop.
    pub(crate) fn run_blocks(&mut self, cache: &mut Cache) -> Exit {
        loop {
            if self.needs_attention()
                && let Some(exit) = self.attend(cache)
            {
                return exit;
            }
            if self.remaining <= 0 {
                // Time has passed: `attend` looks at the timer and takes the next portion.
                self.request_attention();
                continue;
            }
            if self.stepping {
                self.step(cache);
                continue;
            }
            match self.block_at(cache, self.rip, false) {
                Ok(id) => self.run_chain(cache, id),
                Err(Trap) => self.deliver_fault(),
            }
        }
    }

    /// Runs blocks from `id` on, along their links, until something wants a fresh look.
    #[inline(always)]
    fn run_chain(&mut self, cache: &mut Cache, mut id: BlockId) {
        loop {
            match self.run_ops(cache, id) {
                // The block ran to its end, or jumped: both ways can be linked.
                Flow::Next | Flow::Jump => {}
                Flow::End | Flow::Again => return,
                Flow::Fault => return self.deliver_fault(),
                Flow::Halt => {
                    self.halted = true;
                    return self.request_attention();
                }
            }
            // A change of mode asks for attention, so that `stepping` needs no look of its own.
            if self.needs_attention() || self.remaining <= 0 {
                return;
            }
            match self.follow(cache, id) {
                Some(next) => id = next,
                None => return,
            }
        }
    }

    /// Runs the operations of a block, and leaves `rip` where to go on.
    #[inline(always)]
    fn run_ops(&mut self, cache: &Cache, id: BlockId) -> Flow {
        let ops = cache.ops(id);
        let start = self.rip;
        self.regs.write(BLOCK_RIP, start);
        self.running_page = cache.page(id);
        let mut rest = ops.iter();
        while let Some(op) = rest.next() {
            let flow = (op.exec)(self, op);
            if flow == Flow::Next {
                continue;
            }
            let done = match rest.len() {
                0 => cache.block(id).instructions as usize,
                left => ops.len() - left,
            };
            self.account(done);
            match flow {
                Flow::Jump | Flow::Next => {}
                Flow::End | Flow::Halt => self.rip = self.cut_rip(start + u64::from(op.next)),
                Flow::Fault | Flow::Again => self.rip = self.cut_rip(start + op.start()),
            }
            return flow;
        }
        self.account(cache.block(id).instructions as usize);
        if let Some(last) = ops.last() {
            self.rip = self.cut_rip(start + u64::from(last.next));
        }
        Flow::Next
    }

    /// The block that follows `from` at the current `rip`, by its links or the cache; links it.
    #[inline(always)]
    fn follow(&mut self, cache: &mut Cache, from: BlockId) -> Option<BlockId> {
        let (rip, key) = (self.rip, self.code_key);
        for link in &cache.block(from).links {
            if link.rip == rip && link.key == key {
                return Some(link.block);
            }
        }
        self.link(cache, from)
    }

    #[inline(never)]
    fn link(&mut self, cache: &mut Cache, from: BlockId) -> Option<BlockId> {
        let (flushes, key) = (cache.flushes, self.code_key);
        let block = match self.block_at(cache, self.rip, false) {
            Ok(block) => block,
            Err(Trap) => {
                self.deliver_fault();
                return None;
            }
        };
        // A flush has renumbered everything; a dropped block (device memory) must not be linked.
        if cache.flushes != flushes || key != self.code_key {
            self.forget_links();
            return Some(block);
        }
        if cache.is_live(block) {
            let rip = self.rip;
            let links = &mut cache.block_mut(from).links;
            links[1] = links[0];
            links[0] = Link { rip, key, block };
        }
        Some(block)
    }

    /// Runs one instruction and looks at everything afterwards.
    pub(super) fn step(&mut self, cache: &mut Cache) {
        let step = event::debug::before_step(self);
        if step.faulted {
            return;
        }
        let id = match self.block_at(cache, self.rip, true) {
            Ok(id) => id,
            Err(Trap) => {
                self.deliver_fault();
                return;
            }
        };
        self.alone = true;
        let flow = self.run_ops(cache, id);
        self.alone = false;
        if flow == Flow::Halt {
            self.halted = true;
            self.request_attention();
        }
        event::debug::after_step(self, step, flow);
        if flow == Flow::Fault {
            self.deliver_fault();
        }
    }
}
