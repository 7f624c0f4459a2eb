//! The programs that people use: `qemu-img`, `nbdcopy`, `nbdinfo`, fio.
//!
//! Where one is not installed its test says so and passes.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use block::nbd::ExportOptions;
use block::{Disk, FileOptions};

use crate::client::Served;

/// Runs a program to its end; its output if it went well. `None`: it is not installed.
#[expect(clippy::print_stderr, reason = "a test that does nothing says so")]
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("NOT TESTED: {program} is not installed");
            return None;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{text}{errors}",
        output.status
    );
    Some(text)
}

/// An image of `length` bytes with data, zeroes and data again.
fn image(path: &Path, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for (at, byte) in bytes.iter_mut().enumerate() {
        let data = (at >> 18) % 3 != 1;
        *byte = if data {
            (at ^ (at >> 8) ^ (at >> 16)) as u8
        } else {
            0
        };
    }
    fs::File::create(path).unwrap().write_all(&bytes).unwrap();
    bytes
}

/// A served disk of the wanted block size in a file, with another content than zeroes.
fn served(block_size: u32, length: u64) -> (Served, Disk) {
    let path = std::env::temp_dir().join(format!(
        "block-nbd-disk-{}-{block_size}-{length}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    fs::write(&path, vec![0xa5; length as usize]).unwrap();
    let options = FileOptions {
        block_size,
        ..FileOptions::new(&path)
    };
    let disk = Disk::file(&options);
    // The open file is all that is needed.
    fs::remove_file(&path).unwrap();
    let disk = disk.unwrap();
    (Served::new(&disk, ExportOptions::default()), disk)
}

fn uri(served: &Served) -> String {
    format!("nbd+unix:///?socket={}", served.socket().display())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn qemu_img_converts_to_the_export_and_back() {
    for block_size in [512, 4096] {
        let (served, _disk) = served(block_size, 8 << 20);
        let from = served.directory.join("from");
        let to = served.directory.join("to");
        let bytes = image(&from, 8 << 20);
        let uri = uri(&served);
        let there = ["convert", "-n", "-f", "raw", "-O", "raw", text(&from), &uri];
        if run("qemu-img", &there).is_none() {
            return;
        }
        run(
            "qemu-img",
            &["convert", "-f", "raw", "-O", "raw", &uri, text(&to)],
        );
        assert!(fs::read(&to).unwrap() == bytes, "the same image");
        run(
            "qemu-img",
            &["compare", "-f", "raw", "-F", "raw", text(&from), &uri],
        );
    }
}

#[test]
fn qemu_img_writes_what_is_not_whole_blocks() {
    let (served, _disk) = served(4096, 8 << 20);
    let from = served.directory.join("from");
    let bytes = image(&from, (1 << 20) + 512);
    let uri = uri(&served);
    let there = ["convert", "-n", "-f", "raw", "-O", "raw", text(&from), &uri];
    if run("qemu-img", &there).is_some() {
        let (mut client, ..) = served.enter(true);
        assert!(client.read(0, (1 << 20) + 512) == bytes, "the same image");
    }
}

#[test]
fn nbdcopy_copies_over_several_connections() {
    for block_size in [512, 4096] {
        let (served, _disk) = served(block_size, 8 << 20);
        let from = served.directory.join("from");
        let to = served.directory.join("to");
        let bytes = image(&from, 8 << 20);
        let uri = uri(&served);
        let there = ["--connections=4", "--flush", text(&from), &uri];
        if run("nbdcopy", &there).is_none() {
            return;
        }
        run("nbdcopy", &["--connections=4", &uri, text(&to)]);
        assert!(fs::read(&to).unwrap() == bytes, "the same image");
    }
}

#[test]
fn nbdinfo_understands_what_it_is_told() {
    let (served, _disk) = served(4096, 8 << 20);
    let Some(told) = run("nbdinfo", &[&uri(&served)]) else {
        return;
    };
    for line in [
        "export-size: 8388608",
        "is_read_only: false",
        "can_flush: true",
        "can_fua: true",
        "can_multi_conn: true",
        "can_trim: true",
        "can_zero: true",
        "block_size_minimum: 4096",
        "block_size_maximum: 33554432",
    ] {
        assert!(told.contains(line), "{line:?} is missing from\n{told}");
    }
    let listed = run("nbdinfo", &["--list", "--json", &uri(&served)]);
    assert!(listed.is_some_and(|text| text.contains("\"export-size\": 8388608")));
}

#[test]
fn fio_verifies_what_it_wrote() {
    let engines = run("fio", &["--enghelp"]);
    if !engines.is_some_and(|text| text.contains("nbd")) {
        return;
    }
    for (block_size, unit) in [(512, "4k"), (4096, "4k"), (512, "512")] {
        let (served, _disk) = served(block_size, 4 << 20);
        let state = format!("--aux-path={}", text(&served.directory));
        run(
            "fio",
            &[
                "--name=verify",
                "--ioengine=nbd",
                &format!("--uri={}", uri(&served)),
                &state,
                "--rw=randwrite",
                &format!("--bs={unit}"),
                "--size=4m",
                "--iodepth=32",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--do_verify=1",
                "--verify_state_save=0",
                "--minimal",
            ],
        );
    }
}
