//! Chores of the workspace: checks, demo, tests and benchmarks, run as `cargo xtask NAME`.

fn main() {}
