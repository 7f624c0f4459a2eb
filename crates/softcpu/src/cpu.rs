//! The front door: one CPU, run for a number of instructions at a time.

use std::sync::Arc;

use iced_x86::Instruction;
use vm_types::{Clock, GuestMemory, Moment, Span};

use crate::apic::{Effect, LocalApic, LocalApicConfig, Mailbox};
use crate::bus::Bus;
use crate::event;
use crate::fault::{Exception, Trap};
use crate::mmu::{PHYSICAL_BITS, TLB_SIZE, Tlb, View};
use crate::package::{CodeMail, Package, PackageConfig, Sleep, TimeBase};
use crate::state::{Control, Flags, Fpu, Registers, Seg, Segment, cr0, efer};
use crate::trace::Cache;

/// Instructions between two looks at the host's clock: some fifty microseconds.
const PORTION: i64 = 16 * 1024;

/// Why [`Cpu::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The budget is used up.
    Budget,
    /// Somebody kicked the CPU's mailbox.
    Interrupted,
    /// HLT, or waiting for a start-up message: nothing to do until [`Cpu::sleep`] is over.
    Halted,
    /// A fault while delivering a double fault: the machine resets or stops.
    TripleFault,
}

/// One x86-64 CPU with its local APIC.
pub struct Cpu {
    // What the interpreter touches all the time comes first.
    pub(crate) regs: Registers,
    pub(crate) flags: Flags,
    /// Offset of the next instruction in CS. While a block runs, of the block's first.
    pub(crate) rip: u64,
    pub(crate) tlb: Tlb,
    /// Number of the TLB view in use, times its size.
    pub(crate) tlb_base: usize,
    /// Generation of code mappings (upper bits) and mode (low 8): links and fetches hold under it.
    pub(crate) code_key: u64,
    /// Instructions until the APIC timer is looked at again.
    pub(crate) remaining: i64,
    /// What the budget holds beyond `remaining`.
    reserve: i64,
    /// Look at interrupts, mode and mail before the next block.
    pub(crate) local_attention: bool,
    /// One instruction at a time: single step, interrupt shadow, code breakpoints.
    pub(crate) stepping: bool,
    /// Other CPUs run at the same time: locked operations must be atomic on the host.
    pub(crate) shares_memory: bool,
    /// The instruction runs by itself: it may write the page it stands in.
    pub(crate) alone: bool,
    /// A write to the running page: run the instruction again by itself.
    pub(crate) alone_wanted: bool,
    /// The CPU reads its own tables: rights of the supervisor.
    pub(crate) implicit: bool,
    /// DR7 has a data breakpoint enabled.
    pub(crate) data_breakpoints: bool,
    /// HLT was executed and nothing has woken the CPU since.
    pub(crate) halted: bool,
    /// An application processor before its start-up message.
    pub(crate) waits_for_startup: bool,
    /// Interrupts are held off for one instruction (STI, MOV SS, POP SS).
    pub(crate) shadow: Option<Shadow>,
    pub(crate) view: View,
    pub(crate) cpl: u8,
    /// The exception to deliver when an operation returns [`Flow::Fault`](crate::op::Flow::Fault).
    pub(crate) fault: Exception,
    /// DR6 bits of breakpoints hit by the running instruction.
    pub(crate) pending_debug: u64,
    /// Guest physical page of the running block.
    pub(crate) running_page: u64,

    pub(crate) segments: [Segment; 6],
    pub(crate) ldtr: Segment,
    pub(crate) tr: Segment,
    pub(crate) control: Control,
    pub(crate) msrs: crate::msr::Storage,
    pub(crate) fpu: Fpu,
    pub(crate) apic: LocalApic,
    pub(crate) events: event::State,

    pub(crate) memory: GuestMemory,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) package: Arc<Package>,
    /// This CPU's own: looked at between any two blocks.
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) id: usize,
    pub(crate) cpus: usize,
    clock: Clock,
    time_base: TimeBase,
    pub(crate) tsc_hz: u64,
    pub(crate) apic_hz: u64,
    random: fn(usize, u64) -> (u64, u64),
    random_state: u64,
    /// Start of this `run` and its budget, for [`TimeBase::Instructions`].
    run_start: Moment,
    run_budget: i64,
    executed: u64,
    /// Written code pages that were noted while waiting for other CPUs.
    late_writes: Vec<u64>,
    /// Taken out while blocks run, so that operations cannot reach the arena they stand in.
    cache: Option<Box<Cache>>,
}

/// What holds interrupts off for one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shadow {
    /// STI: interrupts, not NMI or debug traps.
    Sti,
    /// A load of SS: all of them.
    StackSegment,
}

impl Cpu {
    pub(crate) fn new(id: usize, config: &PackageConfig, package: Arc<Package>) -> Self {
        let apic = LocalApic::new(LocalApicConfig {
            id: id as u32,
            bootstrap: id == 0,
            timer_hz: config.apic_hz,
            tsc_hz: config.tsc_hz,
            physical_address_bits: PHYSICAL_BITS as u8,
        });
        let mut cpu = Self {
            regs: Registers::new(),
            flags: Flags::default(),
            rip: 0,
            tlb: Tlb::new(),
            tlb_base: 0,
            code_key: 0,
            remaining: 0,
            reserve: 0,
            local_attention: true,
            stepping: false,
            shares_memory: config.cpus > 1 && config.time_base == TimeBase::Clock,
            alone: false,
            alone_wanted: false,
            implicit: false,
            data_breakpoints: false,
            halted: false,
            waits_for_startup: false,
            shadow: None,
            view: View::Supervisor,
            cpl: 0,
            fault: Exception::plain(0),
            pending_debug: 0,
            running_page: u64::MAX,
            segments: [Segment::default(); 6],
            ldtr: Segment::default(),
            tr: Segment::default(),
            control: Control::new(),
            msrs: crate::msr::Storage::new(),
            fpu: Fpu::new(),
            apic,
            events: event::State::default(),
            memory: config.memory.clone(),
            bus: config.bus.clone(),
            mailbox: package
                .interconnect()
                .mailbox(id)
                .cloned()
                .unwrap_or_default(),
            package,
            id,
            cpus: config.cpus,
            clock: config.clock.clone(),
            time_base: config.time_base,
            tsc_hz: config.tsc_hz,
            apic_hz: config.apic_hz,
            random: config.random,
            random_state: config.random_seed.wrapping_add(id as u64),
            run_start: Moment::START,
            run_budget: 0,
            executed: 0,
            late_writes: Vec::new(),
            cache: Some(Box::new(Cache::new())),
        };
        cpu.reset();
        cpu
    }

    /// The power-on state (SDM vol. 3A, table 9-1): real mode at F000:FFF0, base FFFF0000. Application
    /// processors wait for a start-up message.
    pub fn reset(&mut self) {
        self.apic.reset();
        self.control = Control::new();
        self.msrs = crate::msr::Storage::new();
        self.fpu = Fpu::new();
        self.init();
        self.waits_for_startup = self.id != 0;
        self.mailbox.clear();
        self.publish();
    }

    /// What INIT does: as reset, but the caches, the FPU and most MSRs stay.
    pub(crate) fn init(&mut self) {
        let cr0_kept = self.control.cr0 & (cr0::CD | cr0::NW);
        let fresh = Control::new();
        self.control.cr0 = cr0_kept | cr0::ET;
        self.control.cr2 = 0;
        self.control.cr3 = 0;
        self.control.cr4 = 0;
        self.control.efer = 0;
        self.control.xcr0 = fresh.xcr0;
        self.control.breakpoints = fresh.breakpoints;
        self.control.dr6 = fresh.dr6;
        self.control.dr7 = fresh.dr7;
        self.control.gdt = fresh.gdt;
        self.control.idt = fresh.idt;
        self.regs = Registers::new();
        // Family 25, model 17 in EDX, as CPUID leaf 1 says.
        self.regs.write(crate::state::registers::RDX, 0x00a1_0f11);
        self.flags = Flags::default();
        self.flags.set_bits(0);
        for seg in [Seg::Es, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs] {
            self.segments[seg as usize] = Segment::real(0);
        }
        self.segments[Seg::Cs as usize] = Segment {
            selector: 0xf000,
            base: 0xffff_0000,
            ..Segment::real(0)
        };
        let system = |kind| Segment {
            selector: 0,
            attributes: Segment::PRESENT | kind,
            limit: 0xffff,
            base: 0,
        };
        self.ldtr = system(0x2);
        self.tr = system(0xb);
        self.rip = 0xfff0;
        self.cpl = 0;
        self.halted = false;
        self.shadow = None;
        self.pending_debug = 0;
        self.events = event::State::default();
        self.flush_translations();
        self.update_mode();
    }

    /// Runs about `budget` instructions, less if something else makes it come back.
    ///
    /// Never blocks, except in what the [`Bus`] does. A halted CPU comes back at once.
    pub fn run(&mut self, budget: u64) -> Exit {
        self.executed = self.executed();
        self.run_start = self.clock.now();
        self.run_budget = i64::try_from(budget).unwrap_or(i64::MAX);
        self.remaining = 0;
        self.reserve = self.run_budget;
        self.package.enter(self.id);
        self.local_attention = true;
        let Some(mut cache) = self.cache.take() else {
            return Exit::Interrupted;
        };
        let exit = self.run_blocks(&mut cache);
        self.cache = Some(cache);
        self.package.leave(self.id);
        exit
    }

    /// Instructions executed since the CPU was made.
    pub fn executed(&self) -> u64 {
        self.executed + self.executed_in_run()
    }

    fn executed_in_run(&self) -> u64 {
        (self.run_budget - self.reserve - self.remaining).max(0) as u64
    }

    /// Takes the next portion of the budget: as much as may run before somebody must look at the APIC
    /// timer. False when the budget is used up.
    pub(crate) fn take_portion(&mut self) -> bool {
        self.reserve += self.remaining;
        self.remaining = 0;
        if self.reserve <= 0 {
            return false;
        }
        let portion = match (self.time_base, self.apic.deadline()) {
            (TimeBase::Clock, _) => PORTION,
            (TimeBase::Instructions, None) => i64::MAX,
            // A nanosecond is an instruction; a deadline that is past has been acted on.
            (TimeBase::Instructions, Some(deadline)) => {
                i64::try_from(deadline.since(self.now()).as_nanos())
                    .unwrap_or(i64::MAX)
                    .max(1)
            }
        };
        self.remaining = portion.min(self.reserve);
        self.reserve -= self.remaining;
        true
    }

    /// Until when a CPU that came back with [`Exit::Halted`] has nothing to do.
    pub fn sleep(&self) -> Sleep {
        if self.mailbox.attention() {
            return Sleep::Awake;
        }
        match self.apic.deadline() {
            Some(moment) => Sleep::Until(moment),
            None => Sleep::Indefinitely,
        }
    }

    /// This CPU's number in its package.
    pub fn id(&self) -> usize {
        self.id
    }

    /// The current moment as the guest sees it.
    pub(crate) fn now(&self) -> Moment {
        match self.time_base {
            TimeBase::Clock => self.clock.now(),
            TimeBase::Instructions => self
                .run_start
                .after(Span::from_nanos(self.executed_in_run())),
        }
    }

    /// The time stamp counter.
    pub(crate) fn tsc(&self) -> u64 {
        let ticks = self.now().since(Moment::START).ticks(self.tsc_hz);
        ticks.wrapping_add(self.control.tsc_offset)
    }

    /// 64 random bits.
    pub(crate) fn random(&mut self) -> u64 {
        let (state, value) = (self.random)(self.id, self.random_state);
        self.random_state = state;
        value
    }

    /// Notes an exception; gives the error that says so.
    #[cold]
    pub(crate) fn raise(&mut self, exception: Exception) -> Trap {
        self.fault = exception;
        Trap
    }

    /// 64-bit code runs.
    #[inline(always)]
    pub(crate) fn is_64_bit(&self) -> bool {
        self.code_key & 3 == 2
    }

    /// Long mode is active (64-bit or compatibility).
    pub(crate) fn is_long(&self) -> bool {
        self.control.efer & efer::LMA != 0
    }

    /// Protected mode, and not virtual-8086.
    pub(crate) fn is_protected(&self) -> bool {
        self.control.cr0 & cr0::PE != 0 && !self.flags.has(crate::state::flags::VM)
    }

    /// Width of code addresses and default operands: 16, 32 or 64.
    pub(crate) fn code_bits(&self) -> u32 {
        16 << (self.code_key & 3)
    }

    /// The mode bits that lowering and fetching depend on: code size, user.
    pub(crate) fn code_mode(&self) -> u8 {
        (self.code_key & 0xff) as u8
    }

    /// Mask of the stack pointer: 16, 32 or 64 bits.
    pub(crate) fn stack_mask(&self) -> u64 {
        if self.is_64_bit() {
            u64::MAX
        } else if self.segments[Seg::Ss as usize].has(Segment::BIG) {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// `rip` cut to the width of code addresses.
    pub(crate) fn cut_rip(&self, rip: u64) -> u64 {
        if self.is_64_bit() {
            rip
        } else {
            rip & 0xffff_ffff
        }
    }

    /// Works out everything that hangs on mode, privilege and flags. Called after each change of CS,
    /// CPL, CR0, CR4, EFER, AC, TF, DR7 or the interrupt shadow.
    pub(crate) fn update_mode(&mut self) {
        let cs = &self.segments[Seg::Cs as usize];
        let size = if self.is_long() && cs.has(Segment::LONG) {
            2
        } else if cs.has(Segment::BIG) {
            1
        } else {
            0
        };
        let user = u64::from(self.cpl == 3) << 2;
        self.code_key = (self.code_key & !0xff) | size | user;
        event::debug::update(self);
        self.update_view();
        // Most changes of level and mode let nothing in; the others want a look.
        if event::is_pending(self) {
            self.local_attention = true;
        }
    }

    /// Makes all links and fetch translations stale.
    pub(crate) fn forget_links(&mut self) {
        self.code_key += 1 << 8;
    }

    /// Drops all cached translations, global ones too.
    pub(crate) fn flush_translations(&mut self) {
        self.tlb.flush_all();
        self.forget_links();
    }

    /// Drops translations that are not global, as a write to CR3 does.
    pub(crate) fn flush_local_translations(&mut self) {
        self.tlb.flush_local();
        self.forget_links();
    }

    /// Drops the translation of one page, as INVLPG does.
    pub(crate) fn flush_page(&mut self, linear: u64) {
        self.tlb.flush_page(linear);
        self.forget_links();
    }

    /// Asks for a look at interrupts before the next block.
    #[inline(always)]
    pub(crate) fn request_attention(&mut self) {
        self.local_attention = true;
    }

    #[inline(always)]
    pub(crate) fn needs_attention(&self) -> bool {
        self.local_attention || self.mailbox.attention()
    }

    /// Counts executed instructions.
    #[inline(always)]
    pub(crate) fn account(&mut self, instructions: usize) {
        self.remaining -= instructions as i64;
    }

    /// Looks at mail, signals, timer and interrupts between two blocks.
    pub(crate) fn attend(&mut self, cache: &mut Cache) -> Option<Exit> {
        self.local_attention = false;
        self.running_page = u64::MAX;
        self.handle_mail(cache);
        let now = self.now();
        self.apic.advance(now);
        let signals = self.mailbox.collect(&mut self.apic);
        let exit = event::attend(self, signals);
        if exit.is_none() && !self.take_portion() {
            return Some(Exit::Budget);
        }
        exit
    }

    /// Acts on notes about code pages.
    fn handle_mail(&mut self, cache: &mut Cache) {
        for page in std::mem::take(&mut self.late_writes) {
            if cache.drop_page(page) {
                self.forget_links();
            }
        }
        let mail = self.package.take_mail(self.id);
        if mail.is_empty() {
            return;
        }
        for note in &mail {
            match *note {
                CodeMail::Written(page) => {
                    if cache.drop_page(page) {
                        self.forget_links();
                    }
                }
                CodeMail::Watched(page) => self.tlb.forbid_stores(page),
            }
        }
        self.package.mail_done(self.id, mail.len());
    }

    /// Makes sure that no store to `page` goes unnoticed from now on.
    pub(crate) fn watch_code(&mut self, page: u64) {
        if self.memory.is_watched(vm_types::GuestAddress(page)) {
            return;
        }
        self.tlb.forbid_stores(page);
        let package = self.package.clone();
        let id = self.id;
        package.watch_page(id, page, || {
            // Only stores matter to whoever waits for us; blocks are dropped when we get back.
            let mail = package.take_mail(id);
            for note in &mail {
                match *note {
                    CodeMail::Watched(page) => self.tlb.forbid_stores(page),
                    CodeMail::Written(page) => self.late_writes.push(page),
                }
            }
            package.mail_done(id, mail.len());
            self.local_attention = true;
        });
    }

    /// Delivers `self.fault`, or does what stands in its place.
    pub(crate) fn deliver_fault(&mut self) {
        if self.alone_wanted {
            self.alone_wanted = false;
            // One step by itself, then `update` clears the flag again.
            self.stepping = true;
            self.events.alone_once = true;
            return;
        }
        // No instruction runs any more: the pushes of the delivery may go where the code stands.
        self.running_page = u64::MAX;
        let fault = self.fault;
        event::exception(self, fault);
    }

    /// Tells senders of interrupts what the APIC says of itself.
    pub(crate) fn publish(&mut self) {
        self.mailbox.publish(self.apic.identity());
    }

    /// A load from the APIC's register page.
    pub(crate) fn load_apic(&mut self, offset: u32, size: u64) -> u64 {
        let now = self.now();
        let value = self.apic.read(now, (offset & !3) as u16);
        let shift = 8 * (offset & 3);
        let value = u64::from(value) >> shift;
        if size >= 8 {
            value
        } else {
            value & ((1 << (8 * size)) - 1)
        }
    }

    /// A store to the APIC's register page.
    pub(crate) fn store_apic(&mut self, offset: u32, _size: u64, value: u64) {
        let now = self.now();
        let effect = self.apic.write(now, offset as u16, value as u32);
        self.apply_apic(effect);
    }

    /// Carries out what an APIC access asked for.
    pub(crate) fn apply_apic(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Send(message) => {
                self.package.interconnect().send(Some(self.id), &message);
            }
            Effect::EndOfInterrupt(vector) => self.bus.end_of_interrupt(vector),
        }
        self.publish();
        self.request_attention();
    }

    /// Whether CPUID announces what `instruction` needs.
    pub(crate) fn announces(&self, instruction: &Instruction) -> bool {
        crate::cpuid::announces(instruction)
    }

    /// The limit check of an instruction fetch.
    pub(crate) fn check_fetch(&mut self, rip: u64) -> Result<(), Trap> {
        if self.is_64_bit() {
            if crate::mmu::is_canonical(rip) {
                return Ok(());
            }
        } else if rip <= u64::from(self.segments[Seg::Cs as usize].limit) {
            return Ok(());
        }
        Err(self.raise(Exception::protection(0)))
    }
}

impl std::fmt::Debug for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cpu")
            .field("id", &self.id)
            .field("rip", &format_args!("{:#x}", self.rip))
            .field("cpl", &self.cpl)
            .field("halted", &self.halted)
            .finish_non_exhaustive()
    }
}

const _: () = assert!(TLB_SIZE.is_power_of_two());
