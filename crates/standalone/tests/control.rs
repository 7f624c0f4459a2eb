//! The control socket of the real program, by `standalone ctl` and by raw clients, while a guest runs.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod guest;
mod regions;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use guest::{COM1, Code, Machine, PATIENCE, standalone};
use regions::Server;

/// Says dots without end, each after some thousands of instructions.
fn chatter() -> Code {
    Code::new()
        .bytes(&[0xb9, 0, 0, 1, 0]) // mov ecx, 0x10000
        .bytes(&[0xe2, 0xfe]) // loop
        .out(COM1, b'.')
        .bytes(&[0xeb, 0xef]) // jmp mov
}

fn json(machine: &Machine, arguments: &[&str]) -> Value {
    let (code, out, err) = machine.ctl(&[arguments, &["--json"]].concat());
    assert_eq!(code, 0, "{arguments:?}: {err}{}", machine.log());
    serde_json::from_str(&out).unwrap()
}

fn done(machine: &Machine, arguments: &[&str]) -> String {
    let (code, out, err) = machine.ctl(arguments);
    assert_eq!(code, 0, "{arguments:?}: {err}{}", machine.log());
    out
}

/// Bytes that come within `time`.
fn heard(console: &mut UnixStream, time: Duration) -> usize {
    let end = Instant::now() + time;
    let mut count = 0;
    let mut buffer = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return count;
        }
        console.set_read_timeout(Some(left)).unwrap();
        match console.read(&mut buffer) {
            Ok(0) => return count,
            Ok(more) => count += more,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits until the guest has said something more.
fn hears_more(console: &mut UnixStream) {
    let end = Instant::now() + PATIENCE;
    while heard(console, Duration::from_millis(20)) == 0 {
        assert!(Instant::now() < end, "the guest says nothing");
    }
}

#[test]
fn a_machine_waits_runs_stands_still_runs_on_and_ends() {
    let mut machine = Machine::start("life", chatter(), "exit_on_halt = 3", &[]);
    machine.wait_for_control();
    assert_eq!(json(&machine, &["status"])["state"], "created");
    for order in ["pause", "resume", "reset", "power"] {
        let (code, _, err) = machine.ctl(&[order]);
        assert_eq!(code, 1, "{order}");
        assert!(err.contains("has not started"), "{err}");
    }
    let mut console = machine.connect();
    hears_more(&mut console);
    let status = json(&machine, &["status"]);
    assert_eq!(
        (&status["state"], &status["boots"], &status["name"]),
        (&"running".into(), &1.into(), &"guest".into())
    );
    assert_eq!(status["pid"], machine.child.id());

    assert_eq!(done(&machine, &["pause"]), "guest: paused\n");
    // What was on its way arrives; then there is silence.
    while heard(&mut console, Duration::from_millis(100)) > 0 {}
    assert_eq!(heard(&mut console, Duration::from_millis(300)), 0);
    assert_eq!(done(&machine, &["pause"]), "guest: paused\n");
    assert_eq!(done(&machine, &["resume"]), "guest: running\n");
    hears_more(&mut console);

    // A reset of a machine that stands still leaves it so.
    done(&machine, &["pause"]);
    done(&machine, &["reset"]);
    let status = json(&machine, &["status"]);
    assert_eq!(
        (&status["state"], &status["boots"]),
        (&"paused".into(), &2.into())
    );
    while heard(&mut console, Duration::from_millis(100)) > 0 {}
    done(&machine, &["resume"]);
    hears_more(&mut console);

    let (code, _, err) = machine.ctl(&["power"]);
    assert!(
        code == 1 && err.contains("does not listen"),
        "{code}: {err}"
    );
    let ended = json(&machine, &["stop", "--wait"]);
    assert_eq!(ended["state"], "ended");
    assert_eq!(machine.code(), 3);
    assert!(!machine.directory.join("ctl").exists());
    let (code, _, err) = machine.ctl(&["status"]);
    assert!(
        code == 3 && err.contains("no socket there"),
        "{code}: {err}"
    );
}

#[test]
fn a_machine_on_a_virtual_clock_stands_still_as_well() {
    let main = "clock = \"virtual\"";
    let mut machine = Machine::start("still", chatter(), main, &[]);
    let mut console = machine.connect();
    hears_more(&mut console);
    done(&machine, &["pause"]);
    while heard(&mut console, Duration::from_millis(100)) > 0 {}
    assert_eq!(heard(&mut console, Duration::from_millis(200)), 0);
    done(&machine, &["resume"]);
    hears_more(&mut console);
    let status = json(&machine, &["status"]);
    assert_eq!(
        (&status["state"], &status["clock"]),
        (&"running".into(), &"virtual".into())
    );
}

/// Listens to the power button, and says bye when it is pressed, if it obeys.
fn listens(obeys: bool) -> Code {
    let code = Code::new()
        .out(0xb2, 0xf1)
        .out_word(0xb002, 0x0100)
        .out(COM1, b'x');
    match obeys {
        true => code
            .port(0xb000)
            .bytes(&[0x66, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xf9]) // in ax, dx; test ah, 1; jz back
            .power_off(),
        false => code.spin(),
    }
}

#[test]
fn a_stop_gives_the_guest_its_time_and_no_more() {
    let mut machine = Machine::start("obeys", listens(true), "exit_on_halt = 4", &[]);
    hears_more(&mut machine.connect());
    done(&machine, &["power"]);
    assert_eq!(machine.code(), 4);

    // One that stands still is woken for it.
    let mut machine = Machine::start("woken", listens(true), "exit_on_halt = 4", &[]);
    hears_more(&mut machine.connect());
    done(&machine, &["pause"]);
    done(&machine, &["stop", "--wait"]);
    assert_eq!(machine.code(), 4);

    let mut machine = Machine::start("stubborn", listens(false), "exit_on_halt = 4", &[]);
    hears_more(&mut machine.connect());
    let said = done(&machine, &["stop"]);
    assert!(said.contains("asked by control; the guest has"), "{said}");
    assert_eq!(json(&machine, &["status"])["stop"]["waits_for"], "guest");
    let (code, _, err) = machine.ctl(&["stop", "--wait", "--timeout", "0"]);
    assert!(code == 4 && err.contains("s left"), "{code}: {err}");
    // Less patience.
    done(&machine, &["stop", "--deadline", "1", "--wait"]);
    assert_eq!(machine.code(), 4);
    assert!(machine.log().contains("did not switch itself off in time"));

    let mut machine = Machine::start("deadline", listens(false), "stop_deadline = 1", &[]);
    hears_more(&mut machine.connect());
    machine.signal("-TERM");
    assert_eq!(machine.code(), 0);
}

#[test]
fn disks_are_counted_and_watched() {
    let main = "[block_dev.root]\ntype = \"file\"\npath = \"disk.img\"\n\
                [dev.disk0]\ndriver = \"pci-nvme\"\nblock_dev = \"root\"\npci-path = \"0.4.0\"";
    let mut machine = Machine::with("counted", Code::writer(), main, &[], |directory| {
        let disk = std::fs::File::create(directory.join("disk.img")).unwrap();
        disk.set_len(1 << 20).unwrap();
    });
    let mut console = machine.connect();
    hears_more(&mut console);
    let disk = json(&machine, &["disks", "root"]);
    assert_eq!(disk["kind"], "file");
    assert_eq!(disk["devices"][0]["pci_path"], "0.4.0");
    let count = |disk: &Value, what: &str| disk["operations"][what]["completed"].as_u64().unwrap();
    let (writes, flushes) = (count(&disk, "write"), count(&disk, "flush"));
    assert!(
        writes >= 4 && flushes >= 1 && writes / 4 <= flushes + 1,
        "{disk}"
    );
    hears_more(&mut console);
    assert!(count(&json(&machine, &["disks", "root"]), "write") > writes);
    let table = done(&machine, &["disks"]);
    assert!(table.contains("pci-nvme 0.4.0"), "{table}");
    let looks = done(
        &machine,
        &["watch", "--count", "2", "--interval", "0.1", "--json"],
    );
    assert_eq!(looks.lines().count(), 2, "{looks}");
    let metrics = done(&machine, &["metrics"]);
    assert!(metrics.contains("trivet_disk_completed_total{disk=\"root\",operation=\"write\"}"));
    let (code, _, err) = machine.ctl(&["replace", "root", "127.0.0.1:1", "127.0.0.1:2"]);
    assert!(code == 1 && err.contains("no replicas"), "{code}: {err}");

    // While it stands still, nothing is under way and nothing is counted.
    done(&machine, &["pause"]);
    let still = json(&machine, &["disks", "root"]);
    assert_eq!(still["queue"]["in_flight"], 0);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(
        json(&machine, &["disks", "root"])["operations"],
        still["operations"]
    );
    done(&machine, &["resume"]);
    hears_more(&mut console);
    assert!(count(&json(&machine, &["disks", "root"]), "write") > count(&still, "write"));
}

#[test]
fn unruly_clients_trouble_neither_machine_nor_others() {
    let mut machine = Machine::start("unruly", chatter(), "", &[]);
    machine.wait_for_control();
    let mut console = machine.connect();
    let connect = || UnixStream::connect(machine.directory.join("ctl")).unwrap();
    let mut idle: Vec<UnixStream> = (0..200).map(|_| connect()).collect();
    for (index, stream) in idle.iter_mut().enumerate() {
        let half: &[u8] = match index % 4 {
            0 => b"",
            1 => b"POST /machine/stop HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{",
            2 => b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
            _ => b"\x00\xff\x16\x03",
        };
        // The oldest have been cut off already.
        drop(stream.write_all(half));
    }
    assert_eq!(json(&machine, &["status"])["state"], "running");
    hears_more(&mut console);
    drop(idle);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| done(&machine, &["disks"]));
        }
    });
    hears_more(&mut console);
}

#[test]
fn without_a_machine_it_says_what_is_missing() {
    let directory = std::env::temp_dir().join(format!("trivet-nobody-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let ask = |arguments: &[&str]| standalone(&directory, arguments);
    let (code, _, err) = ask(&["ctl", "ctl", "status"]);
    assert!(code == 3 && err.contains("no socket there"), "{err}");
    drop(UnixListener::bind(directory.join("old")).unwrap());
    let (code, _, err) = ask(&["ctl", "old", "status"]);
    assert!(code == 3 && err.contains("has ended"), "{err}");
    // Somebody else's socket.
    let other = UnixListener::bind(directory.join("other")).unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        stream.write_all(b"220 mail.example ESMTP\r\n\r\n").unwrap();
        // Else what it said would be lost with what it was told.
        drop(stream.read(&mut [0; 1024]));
    });
    let (code, _, err) = ask(&["ctl", "other", "status"]);
    assert!(code == 3 && err.contains("no control socket"), "{err}");
    answering.join().unwrap();
    let (code, _, _) = ask(&["ctl", "other", "nonsense"]);
    assert_eq!(code, 2);
    let (code, out, _) = ask(&["ctl", "--help"]);
    assert!(code == 0 && out.contains("replace root") && out.contains("Exit codes"));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_control_socket_that_somebody_has_is_refused_and_none_is_possible() {
    let mut first = Machine::start("taken", chatter(), "", &["--no-wait"]);
    first.wait_for_control();
    let config = std::fs::read_to_string(first.directory.join("vm.toml")).unwrap();
    let second = config.replace("[main]", "[main]\nserial = \"ttyb\"");
    std::fs::write(first.directory.join("second.toml"), second).unwrap();
    let (code, _, err) = standalone(&first.directory, &["second.toml"]);
    assert!(code == 1 && err.contains("[main] \"control\""), "{err}");
    drop(first);
    let mut machine = Machine::start(
        "none",
        Code::new().exit(1),
        "control = \"\"",
        &["--no-wait"],
    );
    assert_eq!(machine.code(), 3);
    assert!(!machine.log().contains("control socket"));
}

/// A machine that writes without end on a volume on these.
fn on_volume(name: &str, servers: &[Server], main: &str) -> Machine {
    let targets: Vec<String> = servers
        .iter()
        .map(|server| format!("\"{}\"", server.address))
        .collect();
    let main = format!(
        "{main}\n[block_dev.root]\ntype = \"crucible\"\ntargets = [{}]\n\
         [dev.disk0]\ndriver = \"pci-nvme\"\nblock_dev = \"root\"\npci-path = \"0.4.0\"",
        targets.join(", ")
    );
    Machine::start(name, Code::writer(), &main, &[])
}

/// The states of the replicas of the disk, by address.
fn replicas(machine: &Machine) -> Vec<(String, String)> {
    let disk = json(machine, &["disks", "root"]);
    let replicas = disk["volume"]["replicas"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    replicas
        .map(|it| (text(&it["address"]), text(&it["state"])))
        .collect()
}

#[test]
fn a_region_server_is_replaced_under_a_guest_that_writes() {
    let Some(servers) = Server::three(false) else {
        return;
    };
    let spare = servers[0].another(false);
    let mut machine = on_volume("replaced", &servers, "");
    let mut console = machine.connect();
    hears_more(&mut console);
    assert!(
        replicas(&machine)
            .iter()
            .all(|(_, state)| state == "active")
    );
    let metrics = done(&machine, &["metrics"]);
    assert!(
        metrics.contains("trivet_disk_volume{disk=\"root\",volume="),
        "{metrics}"
    );
    assert!(
        metrics.contains("crucible_upstairs_replica_reads_total"),
        "{metrics}"
    );

    let [first, mut second, third] = servers;
    second.kill();
    let (old, new) = (second.address.to_string(), spare.address.to_string());
    let (code, out, err) = machine.ctl(&["replace", "root", &old, &new, "--wait"]);
    assert_eq!(code, 0, "{err}{}", machine.log());
    assert!(out.contains("has all data and is in use"), "{out}");
    // On no terminal, progress is lines.
    assert!(err.lines().all(|line| line.starts_with("root ")), "{err}");
    let mut expected: Vec<String> = [&first, &spare, &third]
        .map(|server| server.address.to_string())
        .into();
    let mut found: Vec<String> = replicas(&machine).into_iter().map(|it| it.0).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    done(&machine, &["disks", "--watch", "--timeout", "60"]);
    let (code, _, err) = machine.ctl(&["replace", "root", &old, "127.0.0.1:9"]);
    assert!(code == 1 && err.contains("does not use"), "{code}: {err}");
    let again = done(&machine, &["replace", "root", &old, &new]);
    assert!(again.contains("already"), "{again}");
    hears_more(&mut console);
    done(&machine, &["stop", "--wait"]);
    assert_eq!(machine.code(), 0, "{}", machine.log());
    let disk = "volume flushed and let go";
    assert!(machine.log().contains(disk), "{}", machine.log());
}

#[test]
fn a_machine_that_waits_for_its_disks_answers_and_takes_another_region_server() {
    let Some(mut servers) = Server::three(false) else {
        return;
    };
    let spare = servers[0].another(false);
    servers[1].kill();
    let (old, new) = (servers[1].address.to_string(), spare.address.to_string());
    let mut ended = on_volume("starting", &servers, "");
    ended.wait_for_log("control socket");
    assert_eq!(json(&ended, &["status"])["state"], "starting");
    let (code, _, err) = ended.ctl(&["pause"]);
    assert!(code == 1 && err.contains("waits for its disks"), "{err}");
    done(&ended, &["stop", "--wait"]);
    assert_eq!(ended.code(), 1, "{}", ended.log());
    assert!(ended.log().contains("interrupted while waiting"));

    let mut machine = on_volume("starting-replaced", &servers, "");
    machine.wait_for_log("waiting for this downstairs");
    let disk = json(&machine, &["disks", "root"]);
    assert_eq!(
        (&disk["kind"], &disk["size_bytes"]),
        (&Value::from("crucible"), &Value::from(0))
    );
    let states = replicas(&machine);
    assert!(
        states.contains(&(old.clone(), "connecting".to_owned())),
        "{states:?}"
    );
    done(&machine, &["replace", "root", &old, &new]);
    hears_more(&mut machine.connect());
    assert!(
        replicas(&machine)
            .iter()
            .all(|(_, state)| state == "active")
    );
    assert_ne!(json(&machine, &["disks", "root"])["size_bytes"], 0);
    done(&machine, &["stop", "--wait"]);
    assert_eq!(machine.code(), 0, "{}", machine.log());
}

#[test]
fn a_stop_that_storage_hangs_on_names_it_and_ends() {
    let Some(servers) = Server::three(false) else {
        return;
    };
    let mut machine = on_volume("hangs", &servers, "storage_deadline = 2");
    let mut console = machine.connect();
    hears_more(&mut console);
    servers[1].freeze();
    servers[2].freeze();
    // It writes until it waits for a flush.
    while heard(&mut console, Duration::from_millis(300)) > 0 {}

    // Whoever asks is answered all the same, and sees who is behind.
    let disk = json(&machine, &["disks", "root"]);
    assert_eq!(disk["queue"]["in_flight"], 1);
    let behind = |it: &&Value| it["jobs"].as_u64().unwrap() > 0;
    let replicas = disk["volume"]["replicas"].as_array().unwrap();
    assert_eq!(replicas.iter().filter(behind).count(), 2, "{disk}");
    // A pause waits for what is under way, and says so.
    let (code, _, err) = machine.ctl(&["pause", "--timeout", "1"]);
    assert!(
        code == 4 && err.contains("the machine is pausing"),
        "{code}: {err}"
    );
    let begin = Instant::now();
    machine.signal("-INT");
    let code = machine.code();
    let elapsed = begin.elapsed();
    let log = machine.log();
    servers[1].thaw();
    servers[2].thaw();
    assert_eq!(code, 1, "{log}");
    assert!(elapsed < Duration::from_secs(30), "{elapsed:?} {log}");
    assert!(log.contains("storage does not come to rest"), "{log}");
    let named = |hung: &Server| {
        let words = |line: &&str| {
            line.contains("has not confirmed") && line.contains(&hung.address.to_string())
        };
        log.lines().find(words).unwrap_or_else(|| panic!("{log}"))
    };
    // They may have been frozen between a write and its flush, or before both.
    let writes = |hung| !named(hung).contains("has not confirmed 0 writes");
    let both = writes(&servers[1]) && writes(&servers[2]);
    assert_eq!(log.contains("less than two copies"), both, "{log}");
    assert!(!machine.directory.join("ctl").exists());
}

#[test]
fn one_region_server_that_hangs_keeps_no_stop() {
    let Some(servers) = Server::three(false) else {
        return;
    };
    let mut machine = on_volume("one-hangs", &servers, "storage_deadline = 4");
    let mut console = machine.connect();
    hears_more(&mut console);
    servers[0].freeze();
    // The guest notices nothing.
    hears_more(&mut console);
    let begin = Instant::now();
    done(&machine, &["stop", "--wait"]);
    machine.wait();
    let elapsed = begin.elapsed();
    servers[0].thaw();
    let log = machine.log();
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?} {log}");
    // The other two have everything, whether or not the third is named.
    assert!(!log.contains("less than two copies"), "{log}");
}
