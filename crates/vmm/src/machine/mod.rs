//! One machine: what it is to be, and how it is put together.

pub mod config;
