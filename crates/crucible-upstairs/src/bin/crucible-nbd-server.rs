//! Serves a volume to NBD clients.

fn main() {}
