//! The NBD export of a volume, used by programs that know nothing of us.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::background::Background;
use super::fleet::{Fleet, Programs, Shape};
use super::trials::settled;
use crate::debian;

const LIMIT: Duration = Duration::from_secs(120);

/// An NBD server on a volume.
struct Export<'a> {
    fleet: Fleet<'a>,
    server: Background,
    uri: String,
}

impl<'a> Export<'a> {
    fn start(programs: &'a Programs, name: &str) -> Result<Self, String> {
        let mut fleet = Fleet::start(programs, name, Shape::SMALL)?;
        // A short path: a socket's name is limited to about a hundred bytes.
        let socket = std::env::temp_dir().join(format!("trivet-{}-{name}", std::process::id()));
        let mut command = programs.command("crucible-nbd-server");
        fleet.attach(&mut command);
        command.arg("--unix").arg(&socket);
        let server = Background::start(&mut command, &fleet.directory().join("nbd.txt"))?;
        let started = Instant::now();
        while !socket.exists() {
            if started.elapsed() > LIMIT {
                return Err(format!("no NBD server: {}", server.said()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self {
            fleet,
            server,
            uri: format!("nbd+unix:///?socket={}", socket.display()),
        })
    }

    fn image(&self) -> Result<PathBuf, String> {
        // Content that neither repeats nor compresses, and holes between.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = vec![0_u8; Shape::SMALL.bytes() as usize];
        for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
            if index >> 14 & 1 == 0 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                word.copy_from_slice(&state.to_le_bytes());
            }
        }
        let path = self.fleet.directory().join("image");
        fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    fn end(mut self) -> Result<(), String> {
        self.server.stop()?;
        settled(&mut self.fleet)
    }
}

fn there_and_back(
    programs: &Programs,
    name: &str,
    copy: impl Fn(&str, &str) -> Command,
) -> Result<String, String> {
    let export = Export::start(programs, name)?;
    let image = export.image()?;
    let back = export.fleet.directory().join("back");
    let (from, to) = (image.display().to_string(), back.display().to_string());
    programs.quiet(&mut copy(&from, &export.uri))?;
    programs.quiet(&mut copy(&export.uri, &to))?;
    programs.quiet(Command::new("cmp").args([&image, &back]))?;
    export.end()?;
    Ok(format!("{} MiB there and back", Shape::SMALL.bytes() >> 20))
}

pub(super) fn qemu_img(programs: &Programs) -> Result<String, String> {
    let program = debian::provide("qemu-img", "qemu-utils")?;
    there_and_back(programs, "nbd-qemu-img", |from, to| {
        let mut command = Command::new(&program);
        command.args(["convert", "-n"]);
        if !to.starts_with("nbd") {
            command = Command::new(&program);
            command.arg("convert");
        }
        command.args(["-f", "raw", "-O", "raw", from, to]);
        command
    })
}

pub(super) fn nbdcopy(programs: &Programs) -> Result<String, String> {
    let program = debian::provide("nbdcopy", "libnbd-bin")?;
    there_and_back(programs, "nbd-nbdcopy", |from, to| {
        let mut command = Command::new(&program);
        command.args(["--flush", from, to]);
        command
    })
}

pub(super) fn fio(programs: &Programs) -> Result<String, String> {
    let program = debian::provide("fio", "fio")?;
    let export = Export::start(programs, "nbd-fio")?;
    let mut command = Command::new(program);
    command
        .current_dir(export.fleet.directory())
        .args(["--name=verify", "--ioengine=nbd", "--rw=randwrite"])
        .args(["--bs=4k", "--iodepth=32", "--size=32m", "--verify=crc32c"])
        .args(["--verify_fatal=1", "--end_fsync=1"])
        .arg(format!("--uri={}", export.uri));
    programs.quiet(&mut command)?;
    export.end()?;
    Ok("32 MiB written at random and verified".to_owned())
}
