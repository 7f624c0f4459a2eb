//! A small machine for system tests: tables, handlers and page tables at fixed places, a stub that enters the
//! mode wanted, and the code under test at 0x8000.
//!
//! Code comes as an assembler listing, `bytes ; source` a line. What happened comes back as one line:
//! `out 1 2, halt` or `out 5, #13(18) at 2 cs 8`: values written to port 0xe9; then the way it ended (halt,
//! shutdown, or the vector that an unexpecting handler was entered by, with its error code, the saved
//! instruction pointer relative to the code, and the saved CS). All numbers are hexadecimal but vectors.
//!
//! | place | what |
//! |---|---|
//! | 0x1000, 0x2000 | GDT, IDT (real mode: IVT at 0) |
//! | 0x3000, 0x3400, 0x3600, 0x3800 | TSS, second TSS, 16-bit TSS, LDT |
//! | 0x4000 + 32 n | handler n: notes n and the stack pointer, halts |
//! | 0x6000, 0x6010 | those notes |
//! | 0x6c00, 0x6f00, 0x7000, 0x7800 | stacks: IST 1, inner, level 0, level 3 |
//! | 0x7c00, 0x8000, 0x9000 | stub, code, target of call gates |
//! | 0x1f0000... | pages: not present, read-only, supervisor, no-execute |
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a rig that cannot be set up fails the test that wants it"
)]
#![allow(dead_code, reason = "each test file uses its part")]

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use softcpu::apic::Interconnect;
use softcpu::event::SystemState;
use softcpu::state::CpuState;
use softcpu::{Bus, Cpu, Exit, Package, PackageConfig, Sleep, TimeBase, seeded_random};
use vm_types::memory::RegionKind;
use vm_types::{Clock, GuestAddress, GuestMemory, ManualClock, MemoryRange, Span};

/// How the code under test is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Real mode.
    Real,
    /// 16-bit code at level 0.
    Protected16,
    /// 32-bit code at level 0, no paging.
    Protected,
    /// 32-bit code at level 0, 32-bit paging with WP.
    Paged,
    /// 32-bit code at level 3, I/O privilege level 0.
    User,
    /// Virtual-8086 mode, I/O privilege level 0.
    Virtual,
    /// Virtual-8086 mode, I/O privilege level 3.
    VirtualIo,
    /// 64-bit code at level 0.
    Long,
    /// 64-bit code at level 3.
    LongUser,
    /// 32-bit code at level 3 of long mode.
    Compatible,
}

impl Mode {
    const fn stub(self) -> &'static str {
        match self {
            Self::Real => "31c08ed88ec08ee08ee88ed066bc00700000ea00800000",
            Self::Protected16 => {
                "2e660f0116f0072e660f011ef80766b8330000000f22c066ea1f7c0000080066b810008ed88ec08ed0bc00\
                 70000066b830000f00d866b828008ed0ea008000002000"
            }
            Self::Protected => {
                "2e660f0116f0072e660f011ef80766b8330000000f22c066ea1f7c0000080066b810008ed88ec08ed0bc00\
                 70000066b830000f00d8ea008000000800"
            }
            Self::Paged => {
                "2e660f0116f0072e660f011ef80766b8004002000f22d866b8330001800f22c066ea287c0000080066b810\
                 008ed88ec08ed0bc0070000066b830000f00d8ea008000000800"
            }
            Self::User => {
                "2e660f0116f0072e660f011ef80766b8330000000f22c066ea1f7c0000080066b810008ed88ec08ed0bc00\
                 70000066b830000f00d866b853008ed88ec06a53680078000068020200006a4b6800800000cf"
            }
            Self::Virtual => {
                "2e660f0116f0072e660f011ef80766b8330000000f22c066ea1f7c0000080066b810008ed88ec08ed0bc00\
                 70000066b830000f00d86a006a006a006a006a00680078000068020202006a006800800000cf"
            }
            Self::VirtualIo => {
                "2e660f0116f0072e660f011ef80766b8330000000f22c066ea1f7c0000080066b810008ed88ec08ed0bc00\
                 70000066b830000f00d86a006a006a006a006a00680078000068023202006a006800800000cf"
            }
            Self::Long => {
                "2e660f0116f0072e660f011ef80766b8600600000f22e066b8000002000f22d866b9800000c066b8010900\
                 006631d20f3066b8330001800f22c0ea3f7c180031c08ed88ec08ed0bc0070000066b838000f00d8b80080\
                 0000ffe0"
            }
            Self::LongUser => {
                "2e660f0116f0072e660f011ef80766b8600600000f22e066b8000002000f22d866b9800000c066b8010900\
                 006631d20f3066b8330001800f22c0ea3f7c180031c08ed88ec08ed0bc0070000066b838000f00d86a5368\
                 0078000068020200006a5b680080000048cf"
            }
            Self::Compatible => {
                "2e660f0116f0072e660f011ef80766b8600600000f22e066b8000002000f22d866b9800000c066b8010900\
                 006631d20f3066b8330001800f22c0ea3f7c180031c08ed88ec08ed0bc0070000066b838000f00d86a5368\
                 0078000068020200006a4b680080000048cf"
            }
        }
    }

    const fn is_long(self) -> bool {
        matches!(self, Self::Long | Self::LongUser | Self::Compatible)
    }
}

/// The GDT; selectors are the offsets.
const GDT: [u64; 34] = [
    0,
    0x00cf_9b00_0000_ffff, // 08 code, 32 bits
    0x00cf_9300_0000_ffff, // 10 data
    0x00af_9b00_0000_ffff, // 18 code, 64 bits
    0x0000_9b00_0000_ffff, // 20 code, 16 bits
    0x0000_9300_0000_ffff, // 28 data, 16 bits
    0x0000_8900_3000_0fff, // 30 TSS, 32 bits
    0x0000_8900_3000_0fff, // 38 TSS, 64 bits
    0,
    0x00cf_fb00_0000_ffff, // 48 code, level 3
    0x00cf_f300_0000_ffff, // 50 data, level 3
    0x00af_fb00_0000_ffff, // 58 code, 64 bits, level 3
    0x00cf_1b00_0000_ffff, // 60 code, not present
    0x00cf_1300_0000_ffff, // 68 data, not present
    0x00cf_9f00_0000_ffff, // 70 code, conforming
    0x00cf_9100_0000_ffff, // 78 data, read-only
    0x00cf_9900_0000_ffff, // 80 code, execute-only
    0x0000_8200_3800_001f, // 88 LDT
    0,
    0x0000_ec01_0008_9000, // 98 call gate, 32 bits, one parameter
    0x0000_e500_00a8_0000, // a0 task gate
    0x0000_e900_3400_0067, // a8 second TSS
    0x0000_8b00_3400_0067, // b0 the same, busy
    0x0000_ec00_0018_9000, // b8 call gate, 64 bits
    0,
    0x0040_f700_0000_0fff, // c8 data, expand-down, level 3
    0x0000_8100_3600_002b, // d0 TSS, 16 bits
    0x0000_8e00_0008_9000, // d8 interrupt gate, out of place
    0x0040_9b00_0000_0fff, // e0 code with a small limit
    0x0000_8900_3400_0020, // e8 TSS that is too small
    0x00cf_b300_0000_ffff, // f0 data, level 1
    0x0000_0200_3800_001f, // f8 LDT, not present
    0x00ef_9b00_0000_ffff, // 100 code with L and D
    0,
];

/// The machine's devices: port 0xe9 records; 0x50 raises an external interrupt with the vector written, 0x51
/// an NMI, 0x52 kicks; 0x60 to 0x6f read as their number in each byte.
struct TestBus {
    interconnect: Mutex<Option<Arc<Interconnect>>>,
    values: Mutex<Vec<u32>>,
    external: Mutex<Option<u8>>,
}

impl Bus for TestBus {
    fn read_port(&self, port: u16, data: &mut [u8]) {
        data.fill(port as u8);
    }
    fn write_port(&self, port: u16, data: &[u8]) {
        let value = data
            .iter()
            .rev()
            .fold(0u32, |value, byte| value << 8 | u32::from(*byte));
        let interconnect = self.interconnect.lock().unwrap().clone().unwrap();
        match port {
            0x50 => {
                *self.external.lock().unwrap() = Some(value as u8);
                interconnect.set_intr(true);
            }
            0x51 => interconnect.mailbox(0).unwrap().post_nmi(),
            0x52 => interconnect.mailbox(0).unwrap().kick(),
            _ => self.values.lock().unwrap().push(value),
        }
    }
    fn read_mmio(&self, _address: GuestAddress, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn write_mmio(&self, _address: GuestAddress, _data: &[u8]) {}
    fn acknowledge_interrupt(&self) -> Option<u8> {
        let interconnect = self.interconnect.lock().unwrap().clone().unwrap();
        interconnect.set_intr(false);
        self.external.lock().unwrap().take()
    }
    fn end_of_interrupt(&self, vector: u8) {
        self.values.lock().unwrap().push(0xe00 + u32::from(vector));
    }
}

/// Instructions that a processor runs before it is the next one's turn.
const SLICE: u64 = 2_000;

/// New processors on a machine's memory and devices.
fn processors_on(
    memory: &GuestMemory,
    bus: &Arc<TestBus>,
    clock: &Clock,
    processors: usize,
) -> Vec<Cpu> {
    let (package, cpus) = Package::new(&PackageConfig {
        cpus: processors,
        memory: memory.clone(),
        bus: bus.clone(),
        clock: clock.clone(),
        time_base: TimeBase::Instructions,
        tsc_hz: 2_000_000_000,
        apic_hz: 1_000_000_000,
        random: seeded_random,
        random_seed: 1,
    });
    *bus.interconnect.lock().unwrap() = Some(package.interconnect().clone());
    cpus
}

/// A machine ready to run.
pub(crate) struct Machine {
    pub memory: GuestMemory,
    cpus: Vec<Cpu>,
    clock: Clock,
    hand: ManualClock,
    mode: Mode,
    bus: Arc<TestBus>,
}

impl Machine {
    /// A machine with `processors` processors of which the first will run `listing` in `mode`.
    pub(crate) fn new(mode: Mode, processors: usize, listing: &str) -> Self {
        let range = |start, length| MemoryRange {
            start: GuestAddress(start),
            length,
            kind: RegionKind::Ram,
        };
        let memory =
            GuestMemory::anonymous(&[range(0, 0x20_0000), range(0xffff_0000, 0x1_0000)]).unwrap();
        let put = |at: u64, bytes: &[u8]| memory.write(GuestAddress(at), bytes).unwrap();
        // JMP FAR 0:7C00 where a processor begins.
        put(0xffff_fff0, &[0xea, 0x00, 0x7c, 0x00, 0x00]);
        put(0x7c00, &bytes_of(mode.stub()));
        put(0x8000, &bytes_of(listing));
        put(0x6000, &[0xff; 2]);
        // In any code size: MOV EAX, CS; OUT 0xE9, AL; HLT.
        put(0x9000, &[0x8c, 0xc8, 0xe6, 0xe9, 0xf4]);
        // Limit and base of GDT and IDT, for the stub.
        put(0x7f0, &[0x0f, 0x01, 0x00, 0x10, 0x00, 0x00]);
        put(0x7f8, &[0xff, 0x0f, 0x00, 0x20, 0x00, 0x00]);
        for (index, descriptor) in GDT.iter().enumerate() {
            put(0x1000 + 8 * index as u64, &descriptor.to_le_bytes());
        }
        for vector in 0..=255u8 {
            put(0x4000 + 32 * u64::from(vector), &handler(mode, vector));
            install(&memory, mode, vector);
        }
        put_tasks(&memory, mode);
        put_page_tables(&memory);
        let bus = Arc::new(TestBus {
            interconnect: Mutex::new(None),
            values: Mutex::new(Vec::new()),
            external: Mutex::new(None),
        });
        let (clock, hand) = Clock::manual();
        let cpus = processors_on(&memory, &bus, &clock, processors);
        Self {
            memory,
            cpus,
            clock,
            hand,
            mode,
            bus,
        }
    }

    /// Replaces the processors by new ones with the same state.
    pub(crate) fn transplant(&mut self) {
        let states: Vec<(SystemState, CpuState)> = self
            .cpus
            .iter_mut()
            .map(|cpu| (cpu.system_state(self.clock.now()), cpu.state()))
            .collect();
        self.cpus = processors_on(&self.memory, &self.bus, &self.clock, states.len());
        for (cpu, (system, state)) in self.cpus.iter_mut().zip(&states) {
            cpu.set_state(state);
            cpu.set_system_state(self.clock.now(), system).unwrap();
            let again = cpu.system_state(self.clock.now());
            assert_eq!((&again, &cpu.state()), (system, state));
        }
    }

    /// Runs the processors in turn until all have come to their ends.
    fn run(&mut self, slice: u64) -> Exit {
        for _ in 0..100_000 / slice {
            let exits: Vec<Exit> = self.cpus.iter_mut().map(|cpu| cpu.run(slice)).collect();
            self.hand.advance(Span::from_nanos(slice));
            if slice < SLICE {
                self.transplant();
            }
            // A halted processor that others or its timer will wake has not come to its end.
            let waiting = self
                .cpus
                .iter()
                .any(|cpu| cpu.sleep() != Sleep::Indefinitely);
            match exits[0] {
                Exit::Halted if waiting => {}
                Exit::Halted if exits.contains(&Exit::Budget) => {}
                Exit::Budget => {}
                end => return end,
            }
        }
        Exit::Budget
    }

    /// Runs to the end and says what happened.
    pub(crate) fn outcome(&mut self) -> String {
        self.outcome_in(SLICE)
    }

    /// The same in slices of so many instructions; short slices have new processors each.
    pub(crate) fn outcome_in(&mut self, slice: u64) -> String {
        let exit = self.run(slice);
        let mut text = String::new();
        let values = std::mem::take(&mut *self.bus.values.lock().unwrap());
        if !values.is_empty() {
            text.push_str("out");
            for value in values {
                write!(text, " {value:x}").unwrap();
            }
            text.push_str(", ");
        }
        let word = |at: u64| self.memory.read_value::<u16>(GuestAddress(at)).unwrap();
        match exit {
            Exit::Halted if word(0x6000) == 0xffff => text.push_str("halt"),
            Exit::Halted => self.describe_frame(&mut text, word(0x6000) as u8),
            Exit::TripleFault => text.push_str("shutdown"),
            other => write!(text, "{other:?}").unwrap(),
        }
        text
    }

    fn describe_frame(&self, text: &mut String, vector: u8) {
        let long = self.mode.is_long();
        let size: u64 = match self.mode {
            _ if long => 8,
            Mode::Real => 2,
            _ => 4,
        };
        let mut at = u64::from(self.memory.read_value::<u32>(GuestAddress(0x6010)).unwrap());
        if size == 2 {
            at &= 0xffff;
        }
        let mut next = || {
            let value = self.memory.read_value::<u64>(GuestAddress(at)).unwrap();
            at += size;
            if size == 8 {
                value
            } else {
                value & ((1 << (8 * size)) - 1)
            }
        };
        write!(text, "#{vector}").unwrap();
        let coded = matches!(vector, 8 | 10..=14 | 17) && size != 2;
        if coded {
            write!(text, "({:x})", next()).unwrap();
        }
        let rip = next();
        let cs = next() & 0xffff;
        match rip.checked_sub(0x8000).filter(|offset| *offset < 0x1000) {
            Some(offset) => write!(text, " at {offset:x} cs {cs:x}").unwrap(),
            None => write!(text, " at {rip:x} absolute cs {cs:x}").unwrap(),
        }
    }
}

/// Runs `listing` in `mode` and compares what happened.
#[track_caller]
pub(crate) fn check(mode: Mode, listing: &str, expected: &str) {
    check_on(mode, 1, listing, expected);
}

/// The same with several processors; the others wait for a start-up message.
#[track_caller]
pub(crate) fn check_on(mode: Mode, processors: usize, listing: &str, expected: &str) {
    let mut machine = Machine::new(mode, processors, listing);
    let outcome = machine.outcome();
    assert_eq!(outcome, expected, "{mode:?}\n{listing}");
}

/// The bytes of a listing: hexadecimal digits up to a semicolon, line by line.
fn bytes_of(listing: &str) -> Vec<u8> {
    let digits: Vec<u8> = listing
        .lines()
        .flat_map(|line| line.split(';').next().unwrap_or("").bytes())
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| (byte as char).to_digit(16).unwrap() as u8)
        .collect();
    assert_eq!(digits.len() % 2, 0, "half a byte in:\n{listing}");
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// Notes the vector at 0x6000 and the stack pointer at 0x6010, then halts.
fn handler(mode: Mode, vector: u8) -> Vec<u8> {
    if mode.is_long() {
        let mut code = bytes_of("c6042500600000 00 48892425 10600000 f4");
        code[7] = vector;
        code
    } else if mode == Mode::Real {
        let mut code = bytes_of("2e c606 0060 00 2e 6689 26 1060 f4");
        code[5] = vector;
        code
    } else {
        // The stack segment is the one that is sure to be flat.
        let mut code = bytes_of("36 c605 00600000 00 36 8925 10600000 f4");
        code[7] = vector;
        code
    }
}

/// Fills in one entry of the IVT or IDT. From 0x30 on they are special.
fn install(memory: &GuestMemory, mode: Mode, vector: u8) {
    let target = 0x4000 + 32 * u64::from(vector);
    if mode == Mode::Real {
        let entry = (target as u32).to_le_bytes();
        memory
            .write(GuestAddress(4 * u64::from(vector)), &entry)
            .unwrap();
        return;
    }
    let code: u64 = if mode.is_long() { 0x18 } else { 0x08 };
    // Kind and rights, selector, interrupt stack.
    let (rights, selector, stack) = match vector {
        3 | 4 | 0x30 => (0xee, code, 0),
        0x31 => (0xef, code, 0),
        0x32 => (0xe5, 0xa8, 0),
        0x33 => (0x6e, code, 0),
        0x34 => (0xee, 0, 0),
        0x35 => (0xee, 0x10, 0),
        0x36 => (0xe6, code, 0),
        0x37 => (0xee, 0x70, 0),
        0x38 => (0xee, code, 1),
        0x39 => (0xee, 0x60, 0),
        0x3a => (0xee, 0x48, 0),
        0x3b => (0xee, 0x200, 0),
        0x3c => (0xec, code, 0),
        _ => (0x8e, code, 0),
    };
    let gate = target & 0xffff | selector << 16 | stack << 32 | rights << 40;
    let size = if mode.is_long() { 16 } else { 8 };
    memory
        .write(
            GuestAddress(0x2000 + size * u64::from(vector)),
            &gate.to_le_bytes(),
        )
        .unwrap();
}

fn put_tasks(memory: &GuestMemory, mode: Mode) {
    let put = |at: u64, value: u32| {
        memory
            .write(GuestAddress(at), &value.to_le_bytes())
            .unwrap();
    };
    if mode.is_long() {
        put(0x3004, 0x6f00); // RSP0
        put(0x3024, 0x6c00); // IST1
    } else {
        put(0x3004, 0x6f00); // ESP0
        put(0x3008, 0x10); // SS0
    }
    // I/O permission bitmap: all refused but port 0xe9.
    memory
        .write(GuestAddress(0x3066), &0x68u16.to_le_bytes())
        .unwrap();
    memory.fill(GuestAddress(0x3068), 0xff, 0x398).unwrap();
    memory
        .write(GuestAddress(0x3068 + 0xe9 / 8), &[!(1 << (0xe9 % 8))])
        .unwrap();
    // The second task: code at 0x9000, stack at 0x6e00, level 0.
    for (at, value) in [
        (0x1c, 0x24000),
        (0x20, 0x9000),
        (0x24, 2),
        (0x28, 0xa0),
        (0x38, 0x6e00),
        (0x48, 0x10),
        (0x4c, 0x08),
        (0x50, 0x10),
        (0x54, 0x10),
        (0x58, 0),
        (0x5c, 0),
    ] {
        put(0x3400 + at, value);
    }
    // The 16-bit task: IP, FLAGS, SP, then ES, CS, SS, DS.
    for (at, value) in [
        (0x0e, 0x9000u16),
        (0x10, 2),
        (0x1a, 0x6e00),
        (0x22, 0x28),
        (0x24, 0x20),
        (0x26, 0x28),
        (0x28, 0x28),
    ] {
        memory
            .write(GuestAddress(0x3600 + at), &value.to_le_bytes())
            .unwrap();
    }
    // The LDT: data of level 3 at selector 0xf, code at 0x7.
    memory
        .write(GuestAddress(0x3800), &GDT[9].to_le_bytes())
        .unwrap();
    memory
        .write(GuestAddress(0x3808), &GDT[10].to_le_bytes())
        .unwrap();
}

fn put_page_tables(memory: &GuestMemory) {
    let put = |at: u64, value: u64| {
        memory
            .write(GuestAddress(at), &value.to_le_bytes())
            .unwrap();
    };
    put(0x20000, 0x21007);
    put(0x21000, 0x22007);
    put(0x22000, 0x23007);
    // 32-bit paging: present, writable, user.
    memory
        .write(GuestAddress(0x24000), &0x25007u32.to_le_bytes())
        .unwrap();
    for page in 0..512u64 {
        let rights: u64 = match page {
            0x1f0 => 0,
            0x1f1 => 5,
            0x1f2 => 3,
            0x1f3 => 7 | 1 << 63,
            _ => 7,
        };
        put(0x23000 + 8 * page, page << 12 | rights);
        let entry = (page << 12 | rights) as u32;
        memory
            .write(GuestAddress(0x25000 + 4 * page), &entry.to_le_bytes())
            .unwrap();
    }
}
