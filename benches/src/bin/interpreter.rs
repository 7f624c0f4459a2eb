//! How many guest instructions a second the software processor executes, on four kinds of code.
//! Each result is compared with the host's own.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    measure(benches::rounds())
}

#[cfg(target_arch = "x86_64")]
fn measure(rounds: usize) -> Result<(), Box<dyn Error>> {
    use benches::flat::{self, DATA_BYTES};
    use benches::programs::PROGRAMS;
    use benches::{Figure, report};

    /// What `PROMISES.md` says, in millions a second.
    const PROMISED: &[(&str, f64)] = &[("integer loop", 150.0), ("sha256", 150.0)];

    for program in PROGRAMS {
        let data: Vec<u8> = (0..DATA_BYTES).map(|at| (at % 251) as u8).collect();
        let expected = program.call_here(program.count, &mut data.clone());
        let mut best = 0.0_f64;
        for _ in 0..rounds {
            let run = flat::call(program.bytes(), program.count, &data)?;
            if Some(run.result) != expected {
                return Err(format!("{}: wrong result {:#x}", program.name, run.result).into());
            }
            best = best.max(run.millions_a_second());
        }
        report(&Figure {
            name: format!("guest instructions, {}", program.name),
            ours: best,
            theirs: None,
            unit: "M/s",
            at_least: PROMISED
                .iter()
                .find(|(name, _)| *name == program.name)
                .map(|(_, least)| *least),
        });
    }
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn measure(_rounds: usize) -> Result<(), Box<dyn Error>> {
    Err("the guest programs are assembled by the host's compiler, which needs x86-64".into())
}
