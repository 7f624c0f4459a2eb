//! `standalone`: one TOML file in, one running machine out.
//!
//! Start at [`run`]. Reading order: [`args`] (the command line) → [`config`] (TOML to machine
//! configuration, all complaints with file and line) → [`volumes`]
//! (the replicated volumes under its disks) → [`cloudinit`] (the NoCloud volume) → [`console`]
//! (the serial console's socket, and the terminal at its other end) → [`control`] (the control socket) → [`ctl`]
//! (its other end) → [`stop`] (the orderly end, and signals) → [`logs`], [`debug`].
//!
//! Never here: how a machine works. That is `vmm`.
#![forbid(unsafe_code)]

pub mod args;

pub mod run;

pub mod config;

pub mod volumes;

pub mod cloudinit;

pub mod console;

pub mod control;

pub mod ctl;

pub mod stop;

pub mod logs;

pub mod debug;
