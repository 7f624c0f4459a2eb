//! Small guests for the real program, and the program with one of them in a directory of its own.
//!
//! The guests are multiboot images of a few dozen bytes, assembled here. Whatever happens, dropping the [`Machine`] ends
//! its process and removes its directory.
#![allow(dead_code, reason = "each test program uses a part")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Far more than any of these guests needs, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const COM1: u16 = 0x3f8;
const DEBUG_EXIT: u16 = 0xf4;

/// 32-bit code with a multiboot header.
pub(crate) struct Code(pub(crate) Vec<u8>);

impl Code {
    const BASE: u32 = 0x10_0000;

    pub(crate) fn new() -> Self {
        let (magic, flags) = (0x1bad_b002_u32, 0x1_0000_u32);
        let checksum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
        let header = [
            magic,
            flags,
            checksum,
            Self::BASE,
            Self::BASE,
            0,
            0,
            Self::BASE + 32,
        ];
        Self(header.iter().flat_map(|word| word.to_le_bytes()).collect())
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// mov edx, port
    pub(crate) fn port(self, port: u16) -> Self {
        self.bytes(&[0xba]).bytes(&u32::from(port).to_le_bytes())
    }

    /// mov al, value; out dx, al
    pub(crate) fn out(self, port: u16, value: u8) -> Self {
        self.port(port).bytes(&[0xb0, value, 0xee])
    }

    /// mov eax, value; out dx, ax
    pub(crate) fn out_word(self, port: u16, value: u16) -> Self {
        self.port(port)
            .bytes(&[0xb8])
            .bytes(&u32::from(value).to_le_bytes())
            .bytes(&[0x66, 0xef])
    }

    pub(crate) fn say(self, text: &str) -> Self {
        text.bytes().fold(self, |code, byte| code.out(COM1, byte))
    }

    pub(crate) fn exit(self, value: u8) -> Self {
        self.out(DEBUG_EXIT, value).stop()
    }

    /// S5: sleep enable in PM1 control.
    pub(crate) fn power_off(self) -> Self {
        self.out_word(0xb004, 0x2000).stop()
    }

    /// cli; hlt; jmp back
    pub(crate) fn stop(self) -> Self {
        self.bytes(&[0xfa, 0xf4, 0xeb, 0xfc])
    }

    /// jmp to itself
    pub(crate) fn spin(self) -> Self {
        self.bytes(&[0xeb, 0xfe])
    }

    /// Writes to the NVMe disk at 0.4.0 without end; `nvme.hex` says how.
    pub(crate) fn writer() -> Self {
        let listing = include_str!("nvme.hex").lines();
        let words = listing.flat_map(|line| line.split(';').next().unwrap_or_default().split(' '));
        let bytes = words.filter(|word| !word.is_empty());
        let bytes: Vec<u8> = bytes
            .map(|word| u8::from_str_radix(word, 16).unwrap())
            .collect();
        Self::new().bytes(&bytes)
    }

    /// Waits for a byte on COM1; it is in AL afterwards.
    pub(crate) fn read(self) -> Self {
        self.port(COM1 + 5)
            .bytes(&[0xec, 0xa8, 0x01, 0x74, 0xfb]) // in al, dx; test al, 1; jz back
            .port(COM1)
            .bytes(&[0xec]) // in al, dx
    }
}

/// A machine that runs `code`, in a directory of its own.
pub(crate) struct Machine {
    pub(crate) child: Child,
    pub(crate) directory: PathBuf,
}

impl Machine {
    pub(crate) fn start(name: &str, code: Code, main: &str, arguments: &[&str]) -> Self {
        Self::with(name, code, main, arguments, |_| {})
    }

    /// The same, with more in the directory.
    pub(crate) fn with(
        name: &str,
        code: Code,
        main: &str,
        arguments: &[&str],
        furnish: impl FnOnce(&Path),
    ) -> Self {
        let directory =
            std::env::temp_dir().join(format!("trivet-sys-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("kernel"), code.0).unwrap();
        furnish(&directory);
        let config = format!(
            "[main]\nname = \"guest\"\ncpus = 1\nmemory = 16\nkernel = \"kernel\"\n\
             hypervisor = \"soft\"\n{main}\n[dev.exit]\ndriver = \"isa-debug-exit\"\n"
        );
        std::fs::write(directory.join("vm.toml"), config).unwrap();
        let log = std::fs::File::create(directory.join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_standalone"))
            .current_dir(&directory)
            .args(arguments)
            .arg("vm.toml")
            .env_remove("TRIVET_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, directory }
    }

    pub(crate) fn connect(&mut self) -> UnixStream {
        let end = Instant::now() + PATIENCE;
        loop {
            match UnixStream::connect(self.directory.join("ttya")) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    return stream;
                }
                Err(error) => {
                    let ended = self.child.try_wait().unwrap();
                    assert!(ended.is_none(), "{ended:?}: {}", self.log());
                    assert!(Instant::now() < end, "{error}: {}", self.log());
                    std::thread::yield_now();
                }
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(status.success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "still running: {}", self.log());
            std::thread::yield_now();
        }
    }

    pub(crate) fn code(&mut self) -> i32 {
        let status = self.wait();
        match status.code() {
            Some(code) => code,
            None => panic!("{status}: {}", self.log()),
        }
    }

    pub(crate) fn wait_for_log(&self, words: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.log().contains(words) {
            assert!(Instant::now() < end, "{}", self.log());
            std::thread::yield_now();
        }
    }

    /// What `standalone ctl` says about it: exit code, results, complaints.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> (i32, String, String) {
        standalone(&self.directory, &[&["ctl", "ctl"], arguments].concat())
    }

    /// Waits until the control socket answers.
    pub(crate) fn wait_for_control(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self.ctl(&["status"]).0 != 0 {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", self.log());
            assert!(Instant::now() < end, "{}", self.log());
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        std::fs::remove_dir_all(&self.directory).ok();
    }
}

/// The program with these arguments, to its end: exit code, results, complaints.
pub(crate) fn standalone(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_standalone"))
        .current_dir(directory)
        .args(arguments)
        .output()
        .unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}
