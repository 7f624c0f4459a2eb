//! What runs inside: kernels and programs of Debian's packages, joined to an initramfs of our own.
//!
//! Reading order: `elf` (what a binary needs), `kernel` (a kernel package and its modules),
//! `programs` (commands with their libraries), `cpio` (the archive format), `initramfs` (all of it
//! together), then `machine` (a `vm.toml` and the process that runs it) and `console` (its serial
//! line, read against a clock).

pub(crate) mod console;
pub(crate) mod cpio;
pub(crate) mod elf;
pub(crate) mod initramfs;
pub(crate) mod kernel;
pub(crate) mod machine;
pub(crate) mod programs;
