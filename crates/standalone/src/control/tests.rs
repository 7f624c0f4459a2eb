//! The router and the server over a machine that only pretends, and the OpenAPI document held against both.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::ControlSocket;
use super::api::*;
use super::handle::{Disks, Later, Machine, Order, Refusal, Seen};
use super::router::{BODY_BYTES_MAX, Handles, ROUTES};
use super::server::{CONNECTIONS_MAX, ControlServer};
use crate::ctl::http::{Answer, Client};

/// A machine that notes its orders and obeys at once, or never.
struct FakeMachine {
    seen: watch::Sender<Seen>,
    orders: Mutex<Vec<Order>>,
    lazy: bool,
}

impl FakeMachine {
    fn new(lazy: bool) -> Self {
        Self {
            seen: watch::Sender::new(Seen {
                state: MachineState::Running,
                boots: 1,
            }),
            orders: Mutex::default(),
            lazy,
        }
    }
}

impl Machine for FakeMachine {
    fn status(&self) -> MachineStatus {
        let Seen { state, boots } = *self.seen.borrow();
        let stop = StopStatus {
            asked_by: "control".to_owned(),
            waits_for: StopPhase::Guest,
            seconds_left: 59,
        };
        MachineStatus {
            name: "fake \"1\"".to_owned(),
            state,
            boots,
            stop: (state == MachineState::Stopping).then_some(stop),
            hypervisor: "soft".to_owned(),
            clock: "host".to_owned(),
            cpus: 2,
            memory_bytes: 1 << 30,
            serial: "ttya".to_owned(),
            pid: 1,
            uptime_seconds: 1.5,
            version: "0".to_owned(),
        }
    }

    fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    fn order(&self, order: Order) -> Result<(), Refusal> {
        self.orders.lock().unwrap().push(order);
        if self.lazy {
            return Ok(());
        }
        self.seen.send_modify(|seen| match order {
            Order::Pause => seen.state = MachineState::Paused,
            Order::Resume => seen.state = MachineState::Running,
            Order::Reset => seen.boots += 1,
            Order::Power => {}
            Order::Stop(_) => seen.state = MachineState::Stopping,
        });
        match order {
            Order::Power => Err(Refusal::Conflict("nobody listens".to_owned())),
            _ => Ok(()),
        }
    }
}

/// Two disks; or storage that says nothing.
struct FakeDisks {
    mute: bool,
}

fn replica(port: u16) -> ReplicaStatus {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    ReplicaStatus {
        address,
        state: "repairing".to_owned(),
        next: "it is made equal".to_owned(),
        leaving_for: Some(address),
        region: Some("4e1e5744-39bd-4e90-9c41-ed15a315798b".to_owned()),
        repair_address: Some(address),
        last_loss: Some("reset".to_owned()),
        repair: Some(RepairProgress { done: 1, total: 2 }),
        jobs: 1,
        queued: 1,
        reads: 1,
        bytes: 4096,
        read_latency_ns: 1,
        write_latency_ns: 2,
        flush_latency_ns: 3,
        counters: BTreeMap::from([("faulted".to_owned(), 3)]),
    }
}

fn disk(name: &str, volume: bool) -> DiskStatus {
    let latency = Latency {
        count: 3,
        p50_ns: 1500,
        p99_ns: 3000,
        p999_ns: 3000,
        buckets: vec![
            Bucket {
                below_ns: 2048,
                count: 2,
            },
            Bucket {
                below_ns: u64::MAX,
                count: 1,
            },
        ],
    };
    let operation = OperationStatus {
        completed: 3,
        bytes: 12288,
        failed: 0,
        latency,
    };
    let replicas = || vec![replica(8810), replica(8820), replica(8830)];
    DiskStatus {
        name: name.to_owned(),
        kind: if volume { "crucible" } else { "file" }.to_owned(),
        path: (!volume).then(|| "disk.img".to_owned()),
        devices: vec![DiskDevice {
            name: "disk0".to_owned(),
            driver: "pci-nvme".to_owned(),
            pci_path: "0.4.0".to_owned(),
        }],
        size_bytes: 1 << 30,
        block_size: 4096,
        read_only: false,
        queue: QueueStatus::default(),
        operations: BTreeMap::from([("read".to_owned(), operation)]),
        volume: volume.then(|| VolumeStatus {
            upstairs_id: "4e1e5744-39bd-4e90-9c41-ed15a315798b".to_owned(),
            phase: "active".to_owned(),
            generation: 3,
            encrypted: true,
            guest_jobs: 1,
            jobs: 2,
            bytes: 3,
            stopped: Some("no reason".to_owned()),
            replicas: replicas(),
        }),
    }
}

impl Disks for FakeDisks {
    fn all(&self) -> Later<'_, Vec<DiskStatus>> {
        Box::pin(async {
            if self.mute {
                std::future::pending::<()>().await;
            }
            vec![disk("root", true), disk("scratch", false)]
        })
    }

    fn one<'a>(&'a self, name: &'a str) -> Later<'a, Option<DiskStatus>> {
        Box::pin(async move { self.all().await.into_iter().find(|disk| disk.name == name) })
    }

    fn replace<'a>(
        &'a self,
        name: &'a str,
        request: ReplaceRequest,
    ) -> Later<'a, Result<ReplaceAnswer, Refusal>> {
        Box::pin(async move {
            if name != "root" {
                return Err(Refusal::Conflict("no replicas".to_owned()));
            }
            let result = match request.old == request.new {
                true => ReplaceResult::NoChange,
                false => ReplaceResult::Started,
            };
            Ok(ReplaceAnswer { result })
        })
    }

    fn volume_metrics(&self) -> Later<'_, String> {
        Box::pin(async { "crucible_upstairs_active 1\n".to_owned() })
    }
}

/// A server in front of pretenders.
struct Rig {
    machine: Arc<FakeMachine>,
    path: PathBuf,
    client: Client,
    server: Option<ControlServer>,
}

impl Rig {
    fn new() -> Self {
        Self::with(false, false)
    }

    fn with(lazy: bool, mute: bool) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("trivet-control-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let machine = Arc::new(FakeMachine::new(lazy));
        let handles = Handles {
            machine: machine.clone(),
            disks: Arc::new(FakeDisks { mute }),
        };
        let server = ControlSocket::bind(&path).unwrap().serve(handles).unwrap();
        Self {
            machine,
            client: Client::new(&path),
            path,
            server: Some(server),
        }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let Answer { code, body } = self.client.ask(method, path, body).unwrap();
        let text = String::from_utf8(body).unwrap();
        let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        (code, value)
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    /// Says something raw; all that comes back.
    fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // It may be cut off before it has said everything.
        drop(stream.write_all(bytes));
        drop(stream.shutdown(std::net::Shutdown::Write));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn document() -> Value {
    serde_json::from_str(super::openapi::DOCUMENT).unwrap()
}

/// Follows `$ref`s inside the document.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str) {
        None => schema,
        Some(reference) => {
            let pointer = reference.strip_prefix('#').unwrap();
            resolve(document, document.pointer(pointer).unwrap())
        }
    }
}

fn is_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => unreachable!("type {other}"),
    }
}

/// Why `value` does not fit; what the schema does not mention does not fit either.
fn misfit(document: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    let schema = resolve(document, schema);
    if let Some(choices) = schema.get("oneOf").and_then(Value::as_array) {
        let fits = |choice| misfit(document, choice, value, at).is_none();
        let count = choices.iter().filter(|choice| fits(choice)).count();
        return (count != 1).then(|| format!("{at}: fits {count} of oneOf: {value}"));
    }
    let types = match &schema["type"] {
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        other => return Some(format!("{at}: the schema has type {other}")),
    };
    if !types.iter().any(|name| is_type(value, name)) {
        return Some(format!("{at}: {value} is not {types:?}"));
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        return Some(format!("{at}: {value} is none of {allowed:?}"));
    }
    if let Some(items) = value.as_array() {
        let inner = schema.get("items")?;
        return items
            .iter()
            .find_map(|item| misfit(document, inner, item, &format!("{at}[]")));
    }
    let fields = value.as_object()?;
    let required = schema.get("required").and_then(Value::as_array);
    for name in required.into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            return Some(format!("{at}: {name:?} is missing"));
        }
    }
    for (name, field) in fields {
        let known = schema.get("properties").and_then(|all| all.get(name));
        let known = known.or_else(|| {
            schema
                .get("additionalProperties")
                .filter(|it| it.is_object())
        });
        let inside = format!("{at}.{name}");
        // The document of the document is left open.
        match known {
            None if schema.get("properties").is_none() && schema.get("required").is_none() => {}
            None => return Some(format!("{inside}: the schema does not know it")),
            Some(known) => {
                if let Some(problem) = misfit(document, known, field, &inside) {
                    return Some(problem);
                }
            }
        }
    }
    None
}

#[test]
fn the_document_lists_exactly_the_routes_there_are() {
    let document = document();
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            described.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let routes: BTreeSet<String> = ROUTES.iter().map(|route| format!("{route:?}")).collect();
    assert_eq!(described, routes);
    let names: Vec<_> = ROUTES
        .iter()
        .map(|route| &document["paths"][route.path])
        .collect();
    let ids: BTreeSet<_> = names
        .iter()
        .flat_map(|it| it.as_object().unwrap().values())
        .map(|it| it["operationId"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), ROUTES.len());
}

#[test]
fn every_answer_is_as_the_document_says() {
    let rig = Rig::new();
    let document = document();
    let replace = r#"{"old":"127.0.0.1:8810","new":"127.0.0.1:8840"}"#;
    let mut asked = BTreeSet::new();
    for (method, path, body) in [
        ("GET", "/machine", ""),
        ("POST", "/machine/pause", ""),
        ("POST", "/machine/resume", ""),
        ("POST", "/machine/reset", ""),
        ("POST", "/machine/power", ""),
        ("GET", "/disks", ""),
        ("GET", "/disks/{name}", ""),
        ("POST", "/disks/{name}/replace", replace),
        ("POST", "/disks/{name}/replace", "{}"),
        ("GET", "/metrics", ""),
        ("GET", "/openapi.json", ""),
        ("POST", "/machine/stop", ""),
        ("POST", "/machine/stop", r#"{"deadline": 5}"#),
        ("POST", "/machine/stop", r#"{"deadline": 86401}"#),
    ] {
        let (code, value) = rig.ask(method, &path.replace("{name}", "root"), body);
        let operation = &document["paths"][path][method.to_lowercase()];
        let answers = &operation["responses"];
        let Some(answer) = answers.get(code.to_string()) else {
            panic!("{path}: {code} is not described");
        };
        let answer = resolve(&document, answer);
        let content = answer["content"].as_object().unwrap();
        let (kind, content) = content.iter().next().unwrap();
        if kind == "application/json" {
            let problem = misfit(&document, &content["schema"], &value, path);
            assert_eq!(problem, None);
        } else {
            assert!(value.is_string());
        }
        if let Some(schema) = operation.pointer("/requestBody/content/application~1json/schema")
            && code < 300
            && !body.is_empty()
        {
            let body = serde_json::from_str(body).unwrap();
            assert_eq!(misfit(&document, schema, &body, path), None);
        }
        asked.insert(format!("{method} {path}"));
    }
    let routes: BTreeSet<String> = ROUTES.iter().map(|route| format!("{route:?}")).collect();
    assert_eq!(asked, routes);
    let stops: Vec<Order> = rig.machine.orders.lock().unwrap()[4..].to_vec();
    let stop = |deadline| Order::Stop(StopRequest { deadline });
    assert_eq!(stops, [stop(None), stop(Some(5))]);
}

#[test]
fn every_name_that_is_told_is_in_the_document() {
    let document = document();
    let names = |schema: &str| {
        let path = format!("/components/schemas/{schema}/enum");
        document.pointer(&path).unwrap().as_array().unwrap().clone()
    };
    let states = MachineState::ALL.map(|state| serde_json::to_value(state).unwrap());
    assert_eq!(names("MachineState"), states);
    assert_eq!(states, MachineState::ALL.map(|state| json!(state.name())));
    use crucible_upstairs::core::{Mode, ReplicaState, Step};
    let connecting = |mode, step| ReplicaState::Connecting { mode, step };
    let replica_states = [
        ReplicaState::Idle,
        ReplicaState::Active,
        ReplicaState::LiveRepair,
        connecting(Mode::New, Step::WaitConnect),
        connecting(Mode::New, Step::Reconcile),
        connecting(Mode::Offline, Step::Start),
        connecting(Mode::Faulted, Step::Start),
        connecting(Mode::Replaced, Step::Start),
    ];
    let known = names("ReplicaStatus/properties/state");
    for state in replica_states {
        assert!(known.contains(&json!(state.name())), "{state:?}");
    }
    let results = [
        ReplaceResult::Started,
        ReplaceResult::StartedAlready,
        ReplaceResult::CompletedAlready,
        ReplaceResult::NoChange,
    ];
    let results = results.map(|result| serde_json::to_value(result).unwrap());
    assert_eq!(names("ReplaceAnswer/properties/result"), results);
    let phases = [StopPhase::Guest, StopPhase::Storage];
    let phases = phases.map(|phase| serde_json::to_value(phase).unwrap());
    assert_eq!(names("StopStatus/properties/waits_for"), phases);
}

#[test]
fn what_makes_no_sense_is_refused_with_a_code_and_a_message() {
    let rig = Rig::new();
    let long = format!("{{\"deadline\":{}1}}", " ".repeat(BODY_BYTES_MAX));
    for (method, path, body, code, words) in [
        ("GET", "/", "", 404, "openapi.json"),
        ("GET", "/machine/pause", "", 405, "POST"),
        ("DELETE", "/machine", "", 405, "POST"),
        ("GET", "/disks/none", "", 404, "no disk is called \"none\""),
        ("GET", "/disks/%ff", "", 400, "UTF-8"),
        ("POST", "/machine/power", "", 409, "nobody listens"),
        ("POST", "/machine/stop", "{", 400, "JSON"),
        ("POST", "/machine/stop", "[]", 400, "JSON"),
        ("POST", "/machine/stop", r#"{"deadline":-1}"#, 400, "JSON"),
        ("POST", "/machine/stop", r#"{"deadline":1e9}"#, 400, "JSON"),
        (
            "POST",
            "/machine/stop",
            r#"{"deadline":99999999}"#,
            400,
            "86400",
        ),
        (
            "POST",
            "/machine/stop",
            r#"{"dead":1}"#,
            400,
            "unknown field",
        ),
        ("POST", "/machine/stop", long.as_str(), 413, "16384"),
        ("POST", "/disks/root/replace", "", 400, "missing field"),
        (
            "POST",
            "/disks/root/replace",
            r#"{"old":"a","new":"b"}"#,
            400,
            "JSON",
        ),
        (
            "POST",
            "/disks/scratch/replace",
            r#"{"old":"1.1.1.1:1","new":"[::1]:2"}"#,
            409,
            "no replicas",
        ),
    ] {
        let (found, value) = rig.ask(method, path, body);
        assert_eq!(found, code, "{method} {path} {value}");
        let message = value["message"].as_str().unwrap_or_default();
        assert!(message.contains(words), "{method} {path}: {value}");
    }
    // Nothing of that stopped anybody.
    let orders = rig.machine.orders.lock().unwrap().clone();
    assert_eq!(orders, [Order::Power]);
}

#[test]
fn an_order_that_takes_long_is_on_its_way() {
    let rig = Rig::with(true, false);
    let (code, value) = rig.ask("POST", "/machine/pause", "");
    assert_eq!((code, &value["state"]), (202, &json!("running")));
}

#[test]
fn storage_that_says_nothing_holds_nobody_up() {
    let rig = Rig::with(false, true);
    let waiting: Vec<_> = ["/disks", "/disks/root", "/metrics"]
        .map(|path| {
            let client = rig.client.clone();
            std::thread::spawn(move || client.ask("GET", path, "").unwrap().code)
        })
        .into();
    assert_eq!(rig.ask("GET", "/machine", "").0, 200);
    assert!(waiting.iter().all(|thread| !thread.is_finished()));
    for thread in waiting {
        assert_eq!(thread.join().unwrap(), 504);
    }
}

#[test]
fn metrics_are_prometheus_text_with_steady_steps() {
    let rig = Rig::new();
    let (_, text) = rig.ask("GET", "/metrics", "");
    let text = text.as_str().unwrap();
    let (mut families, mut samples) = (BTreeSet::new(), BTreeSet::new());
    let mut last = ("", 0.0);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(families.insert(rest.split(' ').next().unwrap()), "{line}");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        assert!(samples.insert(name), "twice: {name}");
        // Steps of a histogram never go down.
        if let Some((series, _)) = name.split_once(",le=") {
            assert!(series != last.0 || value >= last.1, "{line}");
            last = (series, value);
        }
    }
    for sample in [
        r#"trivet_machine_state{state="running"}"#,
        r#"trivet_machine_info{name="fake \"1\"",hypervisor="soft",clock="host",version="0"}"#,
        r#"trivet_disk_latency_seconds_bucket{disk="root",operation="read",le="0.000002048"}"#,
        r#"trivet_disk_latency_seconds_bucket{disk="scratch",operation="read",le="+Inf"}"#,
        "crucible_upstairs_active",
    ] {
        assert!(samples.contains(sample), "{sample}\n{text}");
    }
    assert!(text.contains("le=\"0.000002048\"} 2\n") && text.contains("le=\"+Inf\"} 3\n"));
}

#[test]
fn the_socket_is_its_owners_and_goes_with_the_server() {
    let mut rig = Rig::new();
    let mode = std::fs::metadata(&rig.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(ControlSocket::bind(&rig.path).is_err());
    // Whoever hangs on it does not keep it.
    let mut idle = rig.connect();
    let begin = Instant::now();
    drop(rig.server.take());
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert!(!rig.path.exists());
    assert_eq!(idle.read(&mut [0; 16]).unwrap_or(0), 0);
}

#[test]
fn a_connection_answers_one_request() {
    let rig = Rig::new();
    let one = "GET /machine HTTP/1.1\r\nHost: m\r\n\r\n";
    let answer = rig.say(one.repeat(3).as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"));
}

#[test]
fn many_who_say_nothing_keep_nobody_out() {
    let rig = Rig::new();
    let mut idle: Vec<UnixStream> = (0..2 * CONNECTIONS_MAX).map(|_| rig.connect()).collect();
    for stream in &mut idle {
        // Half a request, if it has not been cut off already.
        drop(stream.write_all(b"POST /machine/stop HTTP/1.1\r\nHost"));
    }
    let begin = Instant::now();
    for _ in 0..10 {
        assert_eq!(rig.ask("GET", "/machine", "").0, 200);
    }
    assert!(begin.elapsed() < Duration::from_secs(5));
    // The oldest is gone, the newest still welcome.
    assert_eq!(idle[0].read(&mut [0; 16]).unwrap_or(0), 0);
    let newest = idle.last_mut().unwrap();
    newest
        .write_all(b": m\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    newest.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
}

#[test]
fn garbage_is_answered_or_cut_off_and_changes_nothing() {
    let rig = Rig::new();
    let endless = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    let headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(10_000));
    for bytes in [
        &b"\0\0\0\0"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /machine HTTP/9.9\r\n\r\n",
        b"POST /machine/stop HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
        b"POST /machine/stop HTTP/1.1\r\nContent-Length: 5\r\n\r\n{}",
        b"POST /machine/stop HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        endless.as_bytes(),
        headers.as_bytes(),
    ] {
        let answer = rig.say(bytes);
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    }
    assert_eq!(rig.ask("GET", "/machine", "").0, 200);
    assert!(rig.machine.orders.lock().unwrap().is_empty());
}

proptest! {
    #[test]
    fn a_body_is_typed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        super::fuzz(&bytes);
    }

    #[test]
    fn a_request_survives_the_way_there_and_back(
        deadline in any::<Option<u64>>(),
        old in any::<(u32, u16)>(),
        new in any::<(u128, u16)>(),
    ) {
        let stop = StopRequest { deadline };
        let text = serde_json::to_vec(&stop).unwrap();
        prop_assert_eq!(super::router::typed::<StopRequest>(&text), Ok(stop));
        let old = (std::net::Ipv4Addr::from_bits(old.0), old.1).into();
        let new = (std::net::Ipv6Addr::from_bits(new.0), new.1).into();
        let replace = ReplaceRequest { old, new };
        let text = serde_json::to_vec(&replace).unwrap();
        prop_assert_eq!(super::router::typed::<ReplaceRequest>(&text), Ok(replace));
    }

    #[test]
    fn tables_can_be_made_of_any_answer(
        counts in prop::collection::vec(any::<u64>(), 8),
        text in ".{0,40}",
    ) {
        let mut status = disk(&text, true);
        status.size_bytes = counts[0];
        status.queue.in_flight = counts[1];
        if let Some(operation) = status.operations.get_mut("read") {
            operation.completed = counts[2];
            operation.latency.p50_ns = counts[3];
        }
        if let Some(replica) = status.volume.as_mut().and_then(|it| it.replicas.first_mut()) {
            replica.repair = Some(RepairProgress { done: counts[4], total: counts[5] });
            (replica.jobs, replica.reads) = (counts[6], counts[7]);
        }
        crate::ctl::tables(&status);
    }
}
