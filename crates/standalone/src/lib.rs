//! `standalone`: one TOML file in, one running machine out.
//!
//! Reading order: [`config`] (TOML to machine configuration, all complaints with file and line),
//! [`cloudinit`] (the NoCloud volume).

pub mod config;

pub mod cloudinit;
