//! `standalone`: one TOML file in, one running machine out.
//!
//! Reading order: [`config`] (TOML to machine configuration, all complaints with file and line) →
//! [`cloudinit`] (the NoCloud volume) → [`console`] (the serial console's socket, and the terminal at its
//! other end).
#![forbid(unsafe_code)]

pub mod config;

pub mod cloudinit;

pub mod console;
