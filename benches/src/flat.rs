//! One function of machine code on a bare processor: 64-bit mode, flat segments, no devices.
//!
//! The function is called as the System V ABI calls it, with two arguments, and returns to a HLT. The
//! same bytes can be called on the host, which gives the right result to compare with.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use softcpu::state::{Segment, cr0, cr4, efer};
use softcpu::{Exit, NoBus, Package, PackageConfig, TimeBase, seeded_random};
use vm_types::{Clock, GuestAddress, GuestMemory};

/// Where the function's second argument points to, and how many bytes it may use there.
pub const DATA: u64 = 0x40_0000;
/// Bytes from [`DATA`] on.
pub const DATA_BYTES: usize = 0x20_0000;

const MEMORY: usize = 8 << 20;
const CODE: u64 = 0x10_0000;
const STACK: u64 = 0x20_0000;
/// One instruction, HLT, which the function returns to.
const END: u64 = 0x0f_0000;
const HLT: u8 = 0xf4;
/// Instructions between two looks at the world.
const BUDGET: u64 = 1_000_000;

/// What a run gave.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Guest instructions executed.
    pub instructions: u64,
    /// Time that took.
    pub took: Duration,
    /// The function's result, from RAX.
    pub result: u64,
}

impl Run {
    /// Millions of guest instructions a second.
    pub fn millions_a_second(&self) -> f64 {
        self.instructions as f64 / self.took.as_secs_f64() / 1e6
    }
}

/// Why a run came to nothing.
#[derive(Debug)]
pub enum RunError {
    /// The processor could not be set up.
    Setup(String),
    /// It stopped in another way than by the final HLT.
    Stopped(Exit),
}

impl fmt::Display for RunError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Setup(error) => write!(formatter, "set-up: {error}"),
            RunError::Stopped(exit) => write!(formatter, "stopped by {exit:?}"),
        }
    }
}

impl std::error::Error for RunError {}

/// Calls `function(count, DATA)`, with `data` at [`DATA`].
///
/// `function`: position-independent code. Errors: it does not come back.
pub fn call(function: &[u8], count: u64, data: &[u8]) -> Result<Run, RunError> {
    let setup = |error: &dyn fmt::Display| RunError::Setup(error.to_string());
    let memory = GuestMemory::flat(MEMORY as u64).map_err(|error| setup(&error))?;
    let write = |address: u64, bytes: &[u8]| {
        memory
            .write(GuestAddress(address), bytes)
            .map_err(|error| setup(&error))
    };
    // The first gibibyte onto itself by pages of 2 MiB: tables at 0x1000, 0x2000, 0x3000.
    write(0x1000, &0x2003_u64.to_le_bytes())?;
    write(0x2000, &0x3003_u64.to_le_bytes())?;
    for index in 0..512_u64 {
        write(0x3000 + index * 8, &(index << 21 | 0x83).to_le_bytes())?;
    }
    write(CODE, function)?;
    write(END, &[HLT])?;
    write(STACK - 8, &END.to_le_bytes())?;
    write(DATA, data)?;

    let config = PackageConfig {
        cpus: 1,
        memory: memory.clone(),
        bus: Arc::new(NoBus),
        clock: Clock::monotonic(),
        time_base: TimeBase::Clock,
        tsc_hz: 1_000_000_000,
        apic_hz: 1_000_000_000,
        random: seeded_random,
        random_seed: 1,
    };
    let (_package, mut cpus) = Package::new(&config);
    let cpu = cpus
        .first_mut()
        .ok_or_else(|| setup(&"a package without a processor"))?;
    let mut state = cpu.state();
    state.control.cr0 = cr0::PE | cr0::PG | cr0::ET;
    state.control.cr3 = 0x1000;
    state.control.cr4 = cr4::PAE | cr4::OSFXSR;
    state.control.efer = efer::LME | efer::LMA;
    let data_segment = Segment {
        selector: 0x10,
        attributes: 0xc093,
        limit: u32::MAX,
        base: 0,
    };
    state.segments.fill(data_segment);
    // CS, the second in the manual's order.
    state.segments[1] = Segment {
        selector: 8,
        attributes: 0xa09b,
        limit: u32::MAX,
        base: 0,
    };
    state.rip = CODE;
    state.registers[4] = STACK - 8; // RSP
    state.registers[6] = DATA; // RSI
    state.registers[7] = count; // RDI
    cpu.set_state(&state);

    let started = Instant::now();
    let exit = loop {
        match cpu.run(BUDGET) {
            Exit::Budget => {}
            other => break other,
        }
    };
    let took = started.elapsed();
    let end = cpu.state();
    if exit != Exit::Halted {
        return Err(RunError::Stopped(exit));
    }
    Ok(Run {
        instructions: cpu.executed(),
        took,
        result: end.registers[0],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_returns_its_result() {
        // lea rax, [rdi + rsi]; ret
        let run = call(&[0x48, 0x8d, 0x04, 0x37, 0xc3], 5, &[]).unwrap();
        assert_eq!(run.result, DATA + 5);
        assert!((3..=4).contains(&run.instructions), "{}", run.instructions);
    }

    #[test]
    fn a_function_that_faults_is_reported() {
        // ud2, without an interrupt table: a triple fault.
        let error = call(&[0x0f, 0x0b], 0, &[]).unwrap_err();
        assert!(
            matches!(error, RunError::Stopped(Exit::TripleFault)),
            "{error}"
        );
    }
}
