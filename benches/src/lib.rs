//! In-process benchmarks, one small program each; `cargo xtask bench` runs them and shows the ratios.
