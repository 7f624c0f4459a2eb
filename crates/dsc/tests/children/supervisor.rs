//! The supervisor and its control server over fake region servers: every endpoint, ends of every kind, restarts.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command as Process;
use std::time::{Duration, Instant};

use crate::fake::Site;
use clap::Parser;
use dsc::args::{Arguments, Command, CreateArgs};
use dsc::drive::{Options, Supervisor};
use dsc::plan::{Plan, Shape};
use dsc::{cmd, http, regions};
use tokio::sync::mpsc;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn create_args(site: &Site, more: &[&str]) -> CreateArgs {
    let words = ["dsc", "create"].map(str::to_owned);
    let more = more.iter().map(|word| (*word).to_owned());
    match Arguments::parse_from(words.into_iter().chain(site.flags()).chain(more)).command {
        Command::Create(args) => args,
        other => panic!("{other:?}"),
    }
}

/// A client that types commands.
struct User {
    server: String,
}

impl User {
    fn try_type(&self, line: &str) -> Result<String, String> {
        let words = ["dsc", "cmd", "--server", &self.server]
            .into_iter()
            .chain(line.split_whitespace());
        match Arguments::try_parse_from(words).unwrap().command {
            Command::Cmd(args) => cmd::run(&args).map(|text| text.trim_end().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    fn types(&self, line: &str) -> String {
        self.try_type(line)
            .unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Types it again and again until the answer is the expected one.
    fn waits(&self, line: &str, expected: &str) {
        let start = Instant::now();
        loop {
            let found = self.types(line);
            if found == expected {
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{line}: {found}, not {expected}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Regions are made, children started, `story` is played on a thread of its own, and all is taken down.
fn with_fleet(site: &Site, read_only: bool, story: impl FnOnce(&User) + Send + 'static) -> String {
    let args = create_args(site, &["--block-size", "512", "--extent-size", "7"]);
    let plan = Plan::new(&args, None).unwrap();
    regions::create_all(&plan, Shape::new(&args).unwrap(), |_| {}).unwrap();
    let regions = regions::read_all(&plan).unwrap();
    std::fs::create_dir_all(&plan.output_dir).unwrap();
    let options = Options {
        bind: LOOPBACK,
        read_only,
        seed: 1,
    };
    let mut notices = String::new();
    let (supervisor, handle) = Supervisor::new(&plan, &regions, options, |line| {
        notices.push_str(line);
        notices.push('\n');
    });
    // When this returns or panics, the runtime drops the children, and that kills them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let user = User {
            server: format!("http://{}", listener.local_addr().unwrap()),
        };
        let server = tokio::spawn(http::serve(listener, handle, std::future::pending()));
        let (interrupt, interrupts) = mpsc::channel(2);
        let told = std::thread::spawn(move || {
            let story = std::panic::AssertUnwindSafe(|| story(&user));
            let outcome = std::panic::catch_unwind(story);
            interrupt.blocking_send(()).ok();
            outcome
        });
        supervisor.run(interrupts).await;
        server.abort();
        if let Err(panic) = told.join().unwrap() {
            std::panic::resume_unwind(panic);
        }
    });
    notices
}

#[test]
fn every_question_has_its_answer() {
    let site = Site::new("questions");
    let base = site.port_base;
    let notices = with_fleet(&site, false, move |user| {
        user.waits("all-running", "true");
        assert_eq!(user.types("all-stopped"), "false");
        assert_eq!(user.types("region-count"), "3");
        assert_eq!(
            user.types("region-info"),
            "block_size: 512\nblocks_per_extent: 7\nextent_count: 15"
        );
        assert_eq!(
            user.types("region-info --json"),
            r#"{"block_size":512,"blocks_per_extent":7,"extent_count":15}"#
        );
        assert_eq!(user.types("read-only"), "false");
        for cid in 0..3 {
            let port = base + cid * 10;
            assert_eq!(user.types(&format!("port -c {cid}")), port.to_string());
            assert_eq!(user.types(&format!("state -c {cid}")), "running");
            assert_eq!(
                user.types(&format!("uuid -c {cid}")),
                format!("12345678-0000-0000-0000-0000000{port}")
            );
            let pid: u32 = user.types(&format!("pid -c {cid}")).parse().unwrap();
            assert!(pid > 1);
        }
        assert_eq!(user.types("state -c 1 --json"), r#""running""#);
    });
    assert!(
        notices.contains("all 3 downstairs are running"),
        "{notices}"
    );
    let log = site.root.join(format!("out/downstairs-{base}.txt"));
    assert!(std::fs::read_to_string(log).unwrap().contains("mode rw"));
}

#[test]
fn stop_and_start_one_and_all() {
    let site = Site::new("stop-start");
    with_fleet(&site, true, |user| {
        user.waits("all-running", "true");
        assert_eq!(user.types("read-only"), "true");
        let pid = user.types("pid -c 1");
        assert_eq!(user.types("stop -c 1"), "");
        user.waits("state -c 1", "exit");
        assert_eq!(user.types("pid -c 1"), "none");
        assert_eq!(user.types("pid -c 1 --json"), "null");
        assert_eq!(user.types("all-running"), "false");
        assert_eq!(user.types("state -c 0"), "running");
        user.types("start -c 1");
        user.waits("all-running", "true");
        assert_ne!(user.types("pid -c 1"), pid);
        user.types("stop-all");
        user.waits("all-stopped", "true");
        assert_eq!(user.types("state -c 2"), "exit");
        user.types("start-all");
        user.waits("all-running", "true");
        user.types("stop-rand");
        let states = || [0, 1, 2].map(|cid| user.types(&format!("state -c {cid}")));
        assert_eq!(states().iter().filter(|s| *s != "running").count(), 1);
        user.types("shutdown");
    });
    let log = site
        .root
        .join(format!("out/downstairs-{}.txt", site.port_base));
    assert!(std::fs::read_to_string(log).unwrap().contains("mode ro"));
}

#[test]
fn a_killed_child_comes_back_only_when_restart_is_enabled() {
    let site = Site::new("restart");
    let notices = with_fleet(&site, false, |user| {
        user.waits("all-running", "true");
        let kill = |cid: u32| {
            let pid = user.types(&format!("pid -c {cid}"));
            let killed = Process::new("kill").args(["-9", &pid]).status().unwrap();
            assert!(killed.success());
            pid
        };
        kill(0);
        user.waits("state -c 0", "exit");
        user.types("enable-restart -c 2");
        let pid = kill(2);
        user.waits("state -c 2", "exit");
        assert_eq!(user.types("all-stopped"), "false");
        user.waits("state -c 2", "running");
        assert_ne!(user.types("pid -c 2"), pid);
        assert_eq!(user.types("state -c 0"), "exit", "not this one");
        user.types("disable-restart -c 2");
        kill(2);
        user.waits("state -c 2", "exit");
        user.types("enable-restart-all");
        user.types("stop -c 1");
        user.waits("state -c 1", "running");
        user.types("disable-restart-all");
        user.types("stop -c 1");
        user.waits("state -c 1", "exit");
        user.waits("all-stopped", "true");
    });
    assert!(notices.contains("exit, signal 9, restart in"), "{notices}");
}

#[test]
fn random_stops_happen_while_enabled() {
    let site = Site::new("random");
    with_fleet(&site, false, |user| {
        user.waits("all-running", "true");
        user.types("enable-random-max -m 0");
        user.types("enable-random-min -m 0");
        user.types("enable-random-stop");
        user.waits("all-stopped", "true");
        user.types("disable-random-stop");
        user.types("start-all");
        user.waits("all-running", "true");
    });
}

#[test]
fn a_child_that_ends_by_itself_has_failed_and_its_log_is_named() {
    let site = Site::new("failed");
    site.behave("code");
    let args = create_args(&site, &[]);
    let plan = Plan::new(&args, None).unwrap();
    let error = regions::create_all(&plan, Shape::new(&args).unwrap(), |_| {}).unwrap_err();
    assert!(
        error.to_string().ends_with("create: cannot serve this"),
        "{error}"
    );
    site.behave("");
    let behaviour = site.root.join("behaviour");
    let notices = with_fleet(&site, false, move |user| {
        user.waits("all-running", "true");
        user.types("enable-restart-all");
        user.types("disable-restart -c 0");
        user.types("stop -c 0");
        user.waits("state -c 0", "exit");
        std::fs::write(behaviour, "code").unwrap();
        user.types("start -c 0");
        user.waits("state -c 0", "failed");
    });
    assert!(
        notices.contains("failed, exit code 3: cannot serve this (") && notices.contains(".txt)"),
        "{notices}"
    );
}

#[test]
fn what_cannot_be_launched_is_an_error_and_can_be_started_later() {
    let site = Site::new("error");
    let ds_bin = site.ds_bin();
    let port = site.port_base;
    let notices = with_fleet(&site, false, move |user| {
        user.waits("all-running", "true");
        user.types("stop-all");
        user.waits("all-stopped", "true");
        let holder = std::net::TcpListener::bind((LOOPBACK, port)).unwrap();
        user.types("start -c 0");
        assert_eq!(user.types("state -c 0"), "error");
        drop(holder);
        let hidden = ds_bin.with_extension("hidden");
        std::fs::rename(&ds_bin, &hidden).unwrap();
        user.types("start -c 1");
        assert_eq!(user.types("state -c 1"), "error");
        std::fs::rename(&hidden, &ds_bin).unwrap();
        user.types("start-all");
        user.waits("all-running", "true");
    });
    assert!(notices.contains("is in use"), "{notices}");
}

#[test]
fn bad_requests_are_refused_in_words() {
    let site = Site::new("bad");
    with_fleet(&site, false, |user| {
        for line in ["state -c 3", "stop -c 4000000000", "pid -c 3"] {
            let text = user.try_type(line).unwrap_err();
            assert!(
                text.contains("400") && text.contains("from 0 to 2"),
                "{text}"
            );
        }
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let ask = |path: &str| {
            let response = agent.get(format!("{}{path}", user.server)).call();
            response.unwrap().status().as_u16()
        };
        let tell = |path: &str| {
            let response = agent.post(format!("{}{path}", user.server)).send_empty();
            response.unwrap().status().as_u16()
        };
        assert_eq!(ask("/state/cid/x"), 400);
        assert_eq!(ask("/state/cid/-1"), 400);
        assert_eq!(ask("/nothing"), 404);
        assert_eq!(ask("/stop/all"), 405);
        assert_eq!(tell("/randomstop/min/soon"), 400);
        assert_eq!(tell("/randomstop/max/5"), 204);
        assert_eq!(tell("/start/cid/9"), 400);
    });
}

#[test]
fn slow_a_deaf_child_is_killed_after_the_grace() {
    if std::env::var_os("TRIVET_SLOW").is_none() {
        eprintln!("not run: set TRIVET_SLOW");
        return;
    }
    let site = Site::new("deaf");
    site.behave("deaf");
    with_fleet(&site, false, |user| {
        user.waits("all-running", "true");
        user.types("stop -c 0");
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(user.types("state -c 0"), "stopping");
        user.waits("state -c 0", "exit");
    });
}
