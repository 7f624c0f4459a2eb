//! One child process: how it is started, what it gets told, where its output goes, and that it does not outlive us.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::sync::mpsc;

use crate::core::{ChildId, Event, ExitKind};
use crate::plan::Seat;

/// What a process can be told. There are never more than a few under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// End in order (SIGTERM).
    Terminate,
    /// End (SIGKILL).
    Kill,
}

/// How a region server is started.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The program.
    pub ds_bin: &'a Path,
    /// What it serves, and where.
    pub seat: &'a Seat,
    /// The address it listens on.
    pub bind: IpAddr,
    /// Whether it serves for reading only.
    pub read_only: bool,
    /// Whether what an earlier process printed stays in the log.
    pub keep_log: bool,
}

/// A command whose process ends when the thread that starts it does, on Linux. Elsewhere it is an ordinary one.
#[cfg_attr(
    target_os = "linux",
    expect(unsafe_code, reason = "only code between fork and exec can ask for it")
)]
pub fn bound_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;
        let parent = std::process::id();
        let before_exec = move || bind_life(parent);
        // SAFETY: `bind_life` makes two system calls that are safe between fork and exec, and allocates nothing.
        unsafe { command.pre_exec(before_exec) };
    }
    command
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "two system calls that std does not have")]
fn bind_life(parent: u32) -> io::Result<()> {
    // SAFETY: the call takes plain numbers and touches no memory of ours.
    let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call takes nothing and cannot fail.
    let now = unsafe { libc::getppid() };
    // Whoever died before the request was made sends no signal any more.
    if u32::try_from(now).ok() == Some(parent) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// Whether there is a program at this path; otherwise what to do about it.
pub fn check_program(ds_bin: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let shown = ds_bin.display();
    match fs::metadata(ds_bin) {
        Ok(found) if !found.is_file() => Err(format!("--ds-bin {shown}: not a file")),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => {
            Err(format!("--ds-bin {shown}: not executable"))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "{shown}: {error}; build it with `cargo build --release -p crucible-downstairs`, \
             or name the program with --ds-bin"
        )),
    }
}

/// Whether nobody listens on this port yet.
///
/// Errors: a text that names the port and who is to change it.
pub fn check_port(bind: IpAddr, port: u16) -> Result<(), String> {
    let address = SocketAddr::new(bind, port);
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(format!(
            "port {port} is in use on {bind}: another dsc or region server runs there; \
             end it, or choose other ports with --port-base"
        )),
        Err(error) => Err(format!("{address}: {error}")),
    }
}

/// Bytes at the end of a log among which its last line is looked for.
const TAIL: u64 = 4096;

/// The last line that a child printed, if it printed any.
pub fn last_words(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))
        .ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    let last = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(last.trim().to_owned())
}

/// Starts a region server. Must be called on a thread that lives as long as the child is to.
///
/// Errors: a text for the user.
pub fn launch(launch: Launch<'_>) -> Result<Child, String> {
    let Launch {
        ds_bin,
        seat,
        bind,
        read_only,
        keep_log,
    } = launch;
    check_port(bind, seat.port)?;
    let in_log = |error: io::Error| format!("{}: {error}", seat.log.display());
    let log = File::options()
        .create(true)
        .write(true)
        .truncate(!keep_log)
        .append(keep_log)
        .open(&seat.log)
        .map_err(in_log)?;
    let same_log = log.try_clone().map_err(in_log)?;
    let mut command = bound_command(ds_bin);
    command
        .arg("run")
        .args(["-a", &bind.to_string()])
        .args(["-p", &seat.port.to_string()])
        .arg("-d")
        .arg(&seat.region)
        .args(["--mode", if read_only { "ro" } else { "rw" }])
        .stdout(log)
        .stderr(same_log);
    // Ctrl-C at the terminal is for us alone; we pass it on in order.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{}: {error}", ds_bin.display()))
}

/// Stays with a process until it has ended: passes signals on, and reports when its port answers and when it ends.
pub async fn keep(
    mut child: Child,
    (id, run): (ChildId, u64),
    port: SocketAddr,
    mut signals: mpsc::Receiver<Signal>,
    reports: mpsc::Sender<Event>,
) {
    let mut answers = false;
    let mut pause = Duration::from_millis(5);
    let ended = loop {
        tokio::select! {
            ended = child.wait() => break ended,
            Some(signal) = signals.recv() => deliver(&child, signal),
            () = tokio::time::sleep(pause), if !answers => {
                answers = answers_at(port).await;
                pause = (pause * 2).min(Duration::from_millis(200));
                if answers && reports.send(Event::Ready(id, run)).await.is_err() {
                    return;
                }
            }
        }
    };
    let how = match ended {
        Ok(status) => exit_kind(status),
        // A child of ours that cannot be waited for is as good as gone.
        Err(_) => ExitKind::Signal(0),
    };
    // If nobody listens any more, nobody wants to know.
    reports.send(Event::Exited(id, run, how)).await.ok();
}

fn exit_kind(status: ExitStatus) -> ExitKind {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitKind::Code(code),
        (None, signal) => ExitKind::Signal(signal.unwrap_or_default()),
    }
}

async fn answers_at(port: SocketAddr) -> bool {
    let attempt = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(port));
    matches!(attempt.await, Ok(Ok(_)))
}

/// The address under which a server that listens on `bind` can be reached from this machine.
pub fn reachable(bind: IpAddr, port: u16) -> SocketAddr {
    let ip = match bind {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, port)
}

#[expect(unsafe_code, reason = "std can kill, but not ask")]
fn deliver(child: &Child, signal: Signal) {
    let number = match signal {
        Signal::Terminate => libc::SIGTERM,
        Signal::Kill => libc::SIGKILL,
    };
    // Known as long as it has not been waited for, so the number cannot belong to somebody else.
    let pid = child.id().and_then(|pid| libc::pid_t::try_from(pid).ok());
    if let Some(pid) = pid {
        // SAFETY: the call takes plain numbers; its only failure is that the process has just ended.
        unsafe { libc::kill(pid, number) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_named_with_the_way_out() {
        let text = check_program(Path::new("/nowhere/crucible-downstairs")).unwrap_err();
        assert!(text.contains("/nowhere/crucible-downstairs"), "{text}");
        assert!(text.contains("cargo build --release -p crucible-downstairs"));
        assert!(text.contains("--ds-bin"));
        let text = check_program(Path::new("/dev")).unwrap_err();
        assert!(text.contains("not a file"));
        let plain = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let text = check_program(&plain).unwrap_err();
        assert!(text.contains("not executable"), "{text}");
        check_program(Path::new("/bin/sh")).unwrap();
    }

    #[test]
    fn the_last_line_of_a_log_is_what_was_said_last() {
        let path = std::env::temp_dir().join(format!("dsc-log-{}", std::process::id()));
        let said = |text: &str| {
            fs::write(&path, text).unwrap();
            last_words(&path)
        };
        assert_eq!(said("").as_deref(), None);
        assert_eq!(said("one\n two \n\n").as_deref(), Some("two"));
        let long = "x".repeat(10_000);
        assert_eq!(said(&long).map(|line| line.len()), Some(4096));
        fs::remove_file(&path).unwrap();
        assert_eq!(last_words(&path), None);
    }

    #[test]
    fn a_port_in_use_is_named() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let text = check_port(address.ip(), address.port()).unwrap_err();
        assert!(text.starts_with(&format!("port {} is in use", address.port())));
        drop(holder);
        check_port(address.ip(), address.port()).unwrap();
    }

    #[test]
    fn all_addresses_are_reached_by_loopback() {
        let any: IpAddr = "0.0.0.0".parse().unwrap();
        assert_eq!(reachable(any, 5).to_string(), "127.0.0.1:5");
        let any: IpAddr = "::".parse().unwrap();
        assert_eq!(reachable(any, 5).to_string(), "[::1]:5");
        let one: IpAddr = "10.0.0.7".parse().unwrap();
        assert_eq!(reachable(one, 5).to_string(), "10.0.0.7:5");
    }
}
