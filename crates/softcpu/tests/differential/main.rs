//! Differential tests: random user-mode instructions run on the host processor and on ours, compared in full:
//! registers, flags but for the undefined ones, x87 and SSE state, memory, and the exception that ended the run.
//!
//! * `templates` walks the opcode maps: which instructions exist. `generate` makes cases of them.
//! * `native` runs cases on the host, `soft` on our processor.
//! * `compare` finds differences; `undefined` holds what may differ, with reasons.
//! * `campaign` does that many times, `reduce` makes what failed small, `text` prints it as one line.
//!
//! Environment: `DIFF_SEED` (number), `DIFF_CASES`, `DIFF_SECONDS`, `DIFF_ONLY` (a mnemonic, the beginning of one
//! with `*`, or `@integer`, `@x87`, `@sse`), `DIFF_CASE` (a line printed before: runs this case alone), `DIFF_TABLE` (file to write the coverage
//! table to), and `TRIVET_SLOW=1` for the long campaign.
//!
//! Where the manuals leave room our processor does what AMD's do since family 25. On other hosts differences are
//! reported and not held against it; on hosts that lack an extension, or refuse the child, nothing runs. Both say so.
#![cfg(test)]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod campaign;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod compare;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod generate;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod layout;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod native;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod prng;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod reduce;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod segments;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod soft;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod state;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod table;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod templates;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod tests;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod text;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod undefined;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod values;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
#[test]
fn there_is_no_processor_to_compare_with() {
    println!("NOT RUN: differential tests need an x86-64 Linux host");
}
