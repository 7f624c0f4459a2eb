//! The real program with small guests: started, talked to over its socket, stopped by signals.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod guest;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use guest::{COM1, Code, Machine, standalone};

fn read_all(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn read_exactly(stream: &mut UnixStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_guest_is_heard_and_chooses_the_exit_code() {
    let mut machine = Machine::start("hello", Code::new().say("hello\r\n").exit(20), "", &[]);
    let mut console = machine.connect();
    assert_eq!(read_all(&mut console), "hello\r\n");
    assert_eq!(machine.code(), 41);
    assert!(!machine.directory.join("ttya").exists());
}

#[test]
fn nothing_runs_before_the_first_client() {
    let mut machine = Machine::start("waits", Code::new().exit(0), "", &[]);
    machine.wait_for_log("waiting for a client");
    assert!(machine.child.try_wait().unwrap().is_none());
    let _console = machine.connect();
    assert_eq!(machine.code(), 1);
}

#[test]
fn no_wait_starts_at_once() {
    let mut machine = Machine::start("nowait", Code::new().exit(3), "", &["--no-wait"]);
    assert_eq!(machine.code(), 7);
}

#[test]
fn what_is_typed_reaches_the_guest() {
    // Reads two bytes, sends each plus one.
    let echo = |code: Code| {
        code.read()
            .bytes(&[0x04, 0x01]) // add al, 1
            .port(COM1)
            .bytes(&[0xee]) // out dx, al
    };
    let code = echo(echo(Code::new())).exit(0);
    let mut machine = Machine::start("echo", code, "", &[]);
    let mut console = machine.connect();
    console.write_all(b"a").unwrap();
    assert_eq!(read_exactly(&mut console, 1), "b");
    console.write_all(b"y").unwrap();
    assert_eq!(read_all(&mut console), "z");
    assert_eq!(machine.code(), 1);
}

#[test]
fn a_client_that_vanishes_is_no_loss_and_a_late_one_sees_all() {
    let code = Code::new().say("early ").read().say("late").exit(0);
    let mut machine = Machine::start("vanish", code, "", &[]);
    let mut first = machine.connect();
    assert_eq!(read_exactly(&mut first, 6), "early ");
    drop(first);
    let mut second = machine.connect();
    assert_eq!(read_exactly(&mut second, 6), "early ");
    // The server may see the first one's end later than our byte; then it is not ours to type yet.
    second
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut said = Vec::new();
    while said.len() < 4 {
        second.write_all(b".").ok();
        let mut byte = [0; 4];
        match second.read(&mut byte) {
            Ok(0) => break,
            Ok(count) => said.extend_from_slice(&byte[..count]),
            Err(_) => {}
        }
    }
    assert_eq!(said, b"late");
    assert_eq!(machine.code(), 1);
}

/// Counts in memory that survives a reset: `1`, `2`, then powers off.
fn reboots_once(reset: impl Fn(Code) -> Code) -> Code {
    let code = Code::new()
        .bytes(&[0xb8, 0, 0, 5, 0]) // mov eax, 0x50000
        .bytes(&[0xfe, 0x00]) // inc byte [eax]
        .bytes(&[0x8a, 0x18]) // mov bl, [eax]
        .bytes(&[0x88, 0xd8, 0x04, b'0']) // mov al, bl; add al, '0'
        .port(COM1)
        .bytes(&[0xee]) // out dx, al
        .bytes(&[0x80, 0xfb, 0x02]); // cmp bl, 2
    let off = Code(Vec::new()).power_off().0;
    reset(code.bytes(&[0x75, off.len() as u8]).bytes(&off)) // jne over it
}

#[test]
fn a_reboot_stays_in_the_process() {
    let ways: [(&str, fn(Code) -> Code); 3] = [
        ("keyboard", |code| code.out(0x64, 0xfe).stop()),
        ("cf9", |code| code.out(0xcf9, 0x06).stop()),
        // lidt [zero limit]; int3: a triple fault.
        ("triple", |code| {
            code.bytes(&[0x6a, 0x00, 0x6a, 0x00, 0x0f, 0x01, 0x1c, 0x24, 0xcc])
                .stop()
        }),
    ];
    for (name, reset) in ways {
        let mut machine = Machine::start(name, reboots_once(reset), "exit_on_halt = 9", &[]);
        let mut console = machine.connect();
        assert_eq!(read_all(&mut console), "12", "{name}: {}", machine.log());
        assert_eq!(machine.code(), 9, "{name}");
    }
}

#[test]
fn exit_on_reboot_ends_the_process() {
    let code = reboots_once(|code| code.out(0x64, 0xfe).stop());
    let mut machine = Machine::start("once", code, "exit_on_reboot = 6", &[]);
    let mut console = machine.connect();
    assert_eq!(read_all(&mut console), "1");
    assert_eq!(machine.code(), 6);
}

#[test]
fn the_first_signal_stops_a_guest_that_does_not_listen() {
    for (name, main, signal) in [
        ("int", "exit_on_halt = 5", "-INT"),
        ("term", "exit_on_halt = 5", "-TERM"),
        ("virtual", "exit_on_halt = 5\nclock = \"virtual\"", "-INT"),
    ] {
        let mut machine = Machine::start(name, Code::new().say("x").spin(), main, &[]);
        let mut console = machine.connect();
        assert_eq!(read_exactly(&mut console, 1), "x");
        machine.signal(signal);
        assert_eq!(machine.code(), 5, "{name}: {}", machine.log());
        assert!(!machine.directory.join("ttya").exists());
    }
}

#[test]
fn a_signal_before_the_start_ends_the_machine() {
    let mut machine = Machine::start("before", Code::new().exit(0), "exit_on_halt = 5", &[]);
    machine.wait_for_log("waiting for a client");
    machine.signal("-TERM");
    assert_eq!(machine.code(), 5);
}

/// Listens to the power button: its enable bit in PM1, and ACPI mode.
fn listens(code: Code) -> Code {
    code.out(0xb2, 0xf1).out_word(0xb002, 0x0100)
}

#[test]
fn a_guest_that_listens_gets_its_power_button_and_may_be_cut_short() {
    let code = listens(Code::new()).say("x").spin();
    let mut machine = Machine::start("deaf", code, "", &[]);
    let mut console = machine.connect();
    assert_eq!(read_exactly(&mut console, 1), "x");
    machine.signal("-INT");
    machine.wait_for_log("power button pressed");
    assert!(machine.child.try_wait().unwrap().is_none());
    machine.signal("-INT");
    assert_eq!(machine.code(), 130);
    assert!(!machine.directory.join("ttya").exists());
}

#[test]
fn a_guest_that_obeys_its_power_button_ends_in_order() {
    // Polls the status register for the button, then powers off.
    let code = listens(Code::new())
        .say("x")
        .port(0xb000)
        .bytes(&[0x66, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xf9]) // in ax, dx; test ah, 1; jz back
        .say("bye")
        .power_off();
    let mut machine = Machine::start("obeys", code, "exit_on_halt = 4", &[]);
    let mut console = machine.connect();
    assert_eq!(read_exactly(&mut console, 1), "x");
    machine.signal("-INT");
    assert_eq!(read_all(&mut console), "bye");
    assert_eq!(machine.code(), 4);
}

#[test]
fn two_machines_do_not_take_each_others_socket() {
    let mut machine = Machine::start("socket", Code::new().say("x").spin(), "", &[]);
    let mut console = machine.connect();
    assert_eq!(read_exactly(&mut console, 1), "x");
    let second = Command::new(env!("CARGO_BIN_EXE_standalone"))
        .current_dir(&machine.directory)
        .arg("vm.toml")
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let complaint = String::from_utf8(second.stderr).unwrap();
    assert!(
        complaint.contains("another process listens there"),
        "{complaint}"
    );
    // The first one is still there.
    assert!(machine.directory.join("ttya").exists());
    drop(machine.connect());
}

#[test]
fn the_terminal_program_shows_the_console_and_passes_input_on() {
    let code = Code::new().say("name? ").read().say("ok").exit(0);
    let mut machine = Machine::start("terminal", code, "", &[]);
    drop(machine.connect());
    let terminal = Command::new(env!("CARGO_BIN_EXE_standalone"))
        .arg("console")
        .arg(machine.directory.join("ttya"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = terminal.stdin.as_ref().unwrap();
    // The connection that started the machine may still count as the one that types.
    while machine.child.try_wait().unwrap().is_none() {
        if input.write_all(b"x").is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = terminal.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "name? ok");
    assert!(output.status.success());
    assert_eq!(machine.code(), 1);
}

#[test]
fn runs_on_a_virtual_clock_are_alike() {
    // Sends four bits of the time stamp counter, as a letter, eight times.
    let code = Code::new()
        .bytes(&[0xbe, 8, 0, 0, 0]) // mov esi, 8
        .bytes(&[0x0f, 0x31, 0x24, 0x0f, 0x04, b'a']) // rdtsc; and al, 15; add al, 'a'
        .port(COM1)
        .bytes(&[0xee, 0x4e, 0x75, 0xf1]); // out dx, al; dec esi; jnz rdtsc
    let image = code.exit(0).0;
    let run = |name: &str| {
        let code = Code(image.clone());
        let mut machine = Machine::start(name, code, "clock = \"virtual\"", &[]);
        let mut console = machine.connect();
        let text = read_all(&mut console);
        assert_eq!(machine.code(), 1);
        let log = machine.log();
        let line = log
            .lines()
            .find(|line| line.contains("guest memory at the end"));
        let line = line.unwrap().to_owned();
        let hash = line.split("\"hash\":\"").nth(1).unwrap()[..16].to_owned();
        (text, hash)
    };
    let first = run("virtual-1");
    assert_eq!(first.0.len(), 8);
    assert_eq!(first, run("virtual-2"));
}

#[test]
fn checking_printing_and_refusing_start_nothing() {
    let machine = Machine::start("check", Code::new().spin(), "", &[]);
    let directory = &machine.directory;
    let (code, out, _) = standalone(directory, &["--check", "vm.toml"]);
    assert_eq!((code, out.as_str()), (0, "vm.toml: ok\n"));
    let (code, out, _) = standalone(directory, &["--print-config", "vm.toml"]);
    assert_eq!(code, 0);
    assert!(
        out.contains("cpus = 1\n") && out.contains("# default"),
        "{out}"
    );
    let (code, out, _) = standalone(directory, &["--print-config", "--json", "vm.toml"]);
    assert_eq!(code, 0);
    assert!(out.contains("\"driver\": \"isa-debug-exit\""), "{out}");
    std::fs::write(directory.join("bad.toml"), "[main]\nnmae = \"x\"\n").unwrap();
    let (code, _, err) = standalone(directory, &["--check", "bad.toml"]);
    assert_eq!(code, 1);
    assert!(
        err.contains("bad.toml:2: [main] \"nmae\": unknown key; the nearest known one is \"name\""),
        "{err}"
    );
    let (code, _, err) = standalone(directory, &["absent.toml"]);
    assert_eq!(code, 1);
    assert!(err.contains("absent.toml\": no such file"), "{err}");
    let kvm = std::fs::read_to_string(directory.join("vm.toml"))
        .unwrap()
        .replace("\"soft\"", "\"kvm\"\nserial = \"./other\"");
    std::fs::write(directory.join("kvm.toml"), kvm).unwrap();
    for arguments in [&["kvm.toml"][..], &["--check", "kvm.toml"]] {
        let (code, _, err) = standalone(directory, arguments);
        assert_eq!(code, 1);
        assert!(err.contains("hypervisor kvm: not built in yet"), "{err}");
    }
}
