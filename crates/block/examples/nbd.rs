//! Exports a disk over NBD until its input ends: `nbd SOCKET (PATH | MEGABYTES) [BLOCK_SIZE]`.
//!
//! A file, or so much memory. Then, say, `qemu-img info 'nbd+unix:///?socket=SOCKET'`.

use std::io::Read;
use std::os::unix::net::UnixListener;

use block::nbd::{ExportOptions, export};
use block::{Disk, FileOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (socket, what, block_size) = match words.as_slice() {
        [socket, what] => (socket, what, 512),
        [socket, what, block_size] => (socket, what, block_size.parse()?),
        _ => return Err("usage: nbd SOCKET (PATH | MEGABYTES) [BLOCK_SIZE]".into()),
    };
    let disk = match what.parse::<u64>() {
        Ok(megabytes) => Disk::memory(block_size, megabytes << 20)?,
        Err(_) => Disk::file(&FileOptions {
            block_size,
            ..FileOptions::new(what)
        })?,
    };
    let export = export(&disk, UnixListener::bind(socket)?, ExportOptions::default())?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    export.stop();
    std::fs::remove_file(socket)?;
    Ok(())
}
