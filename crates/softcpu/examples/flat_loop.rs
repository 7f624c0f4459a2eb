//! Runs a loop of integer instructions in 64-bit mode without paging structures of an operating system,
//! and prints how many guest instructions a second that makes. `cargo run --release -p softcpu --example flat_loop`

use std::sync::Arc;
use std::time::Instant;

use softcpu::state::{Segment, cr0, cr4, efer};
use softcpu::{Exit, NoBus, Package, PackageConfig, TimeBase, seeded_random};
use vm_types::{Clock, GuestAddress, GuestMemory};

/// Counts down from RCX; a mix of arithmetic, loads and stores.
const PROGRAM: &[u8] = &[
    0x48, 0x01, 0xd8, // add rax, rbx
    0x48, 0x31, 0xc2, // xor rdx, rax
    0x48, 0x89, 0x17, // mov [rdi], rdx
    0x48, 0x03, 0x1f, // add rbx, [rdi]
    0x48, 0xc1, 0xc0, 0x07, // rol rax, 7
    0x48, 0x8d, 0x74, 0x86, 0x08, // lea rsi, [rsi + rax*4 + 8]
    0x48, 0xff, 0xc9, // dec rcx
    0x75, 0xe6, // jnz start
    0xf4, // hlt
];

/// The same with a call, a return and two more branches in each round.
const BRANCHES: &[u8] = &[
    0x48, 0x01, 0xd8, // add rax, rbx
    0xe8, 0x0d, 0x00, 0x00, 0x00, // call function
    0xa8, 0x01, // test al, 1
    0x74, 0x03, // jz skip
    0x48, 0xff, 0xc3, // inc rbx
    0x48, 0xff, 0xc9, // skip: dec rcx
    0x75, 0xec, // jnz start
    0xf4, // hlt
    0x48, 0x39, 0xd8, // function: cmp rax, rbx
    0x72, 0x04, // jb out
    0x48, 0x83, 0xc0, 0x03, // add rax, 3
    0xc3, // out: ret
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (name, program) in [("straight", PROGRAM), ("branches", BRANCHES)] {
        let (count, seconds) = run(program)?;
        #[expect(clippy::print_stdout, reason = "an example's purpose")]
        {
            let rate = count as f64 / seconds / 1e6;
            println!("{name}: {count} instructions in {seconds:.2} s: {rate:.0} million a second");
        }
    }
    Ok(())
}

/// Runs `program` to its HLT; instructions and seconds.
fn run(program: &[u8]) -> Result<(u64, f64), Box<dyn std::error::Error>> {
    let memory = GuestMemory::flat(8 << 20)?;
    // One gibibyte by 2 MiB pages: PML4 at 0x1000, PDPT at 0x2000, PD at 0x3000.
    memory.write_value(GuestAddress(0x1000), 0x2003u64)?;
    memory.write_value(GuestAddress(0x2000), 0x3003u64)?;
    for index in 0..512u64 {
        memory.write_value(GuestAddress(0x3000 + index * 8), index << 21 | 0x83)?;
    }
    memory.write(GuestAddress(0x10_0000), program)?;
    let config = PackageConfig {
        cpus: 1,
        memory,
        bus: Arc::new(NoBus),
        clock: Clock::monotonic(),
        time_base: TimeBase::Clock,
        tsc_hz: 1_000_000_000,
        apic_hz: 1_000_000_000,
        random: seeded_random,
        random_seed: 1,
    };
    let (_package, mut cpus) = Package::new(&config);
    let Some(cpu) = cpus.first_mut() else {
        return Err("a package has a CPU".into());
    };
    let mut state = cpu.state();
    state.control.cr0 = cr0::PE | cr0::PG | cr0::ET;
    state.control.cr3 = 0x1000;
    state.control.cr4 = cr4::PAE;
    state.control.efer = efer::LME | efer::LMA;
    for segment in &mut state.segments {
        *segment = Segment {
            selector: 0x10,
            attributes: 0xc093,
            limit: u32::MAX,
            base: 0,
        };
    }
    state.segments[1] = Segment {
        selector: 8,
        attributes: 0xa09b,
        limit: u32::MAX,
        base: 0,
    };
    state.rip = 0x10_0000;
    state.registers[1] = 50_000_000;
    state.registers[4] = 0x30_0000;
    state.registers[7] = 0x20_0000;
    cpu.set_state(&state);
    let start = Instant::now();
    while cpu.run(1_000_000) == Exit::Budget {}
    let seconds = start.elapsed().as_secs_f64();
    Ok((cpu.executed(), seconds))
}
