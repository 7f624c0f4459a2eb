//! One VM from one TOML file.
