//! The client of the control server: `dsc cmd`.

use std::time::Duration;

use serde_json::Value;

use crate::args::{CmdArgs, ControlCommand};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Get(String),
    Post(String),
}

/// Sends the command and returns what is to be printed, which may be nothing.
///
/// Errors: a text for the user.
pub fn run(args: &CmdArgs) -> Result<String, String> {
    let server = &url(&args.server);
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .build()
        .into();
    let outcome = match call(args.command) {
        Call::Get(path) => agent.get(format!("{server}{path}")).call(),
        Call::Post(path) => agent.post(format!("{server}{path}")).send_empty(),
    };
    let mut response = outcome.map_err(|error| {
        format!("{server}: {error}; is `dsc start` running with this --control?")
    })?;
    let status = response.status();
    let body = response
        .body_mut()
        .read_to_string()
        .map_err(|error| format!("{server}: {error}"))?;
    if !status.is_success() {
        let message = serde_json::from_str::<Value>(&body)
            .ok()
            .and_then(|body| Some(body.get("message")?.as_str()?.to_owned()))
            .unwrap_or(body);
        return Err(format!("{server}: {status}: {message}"));
    }
    if body.is_empty() {
        return Ok(String::new());
    }
    let value: Value = serde_json::from_str(&body)
        .map_err(|error| format!("{server}: the answer is not JSON: {error}"))?;
    Ok(if args.json {
        format!("{value}\n")
    } else {
        format!("{}\n", plain(&value))
    })
}

/// An address is enough.
fn url(server: &str) -> String {
    let server = server.trim_end_matches('/');
    if server.contains("://") {
        server.to_owned()
    } else {
        format!("http://{server}")
    }
}

fn call(command: ControlCommand) -> Call {
    use ControlCommand as C;
    let get = |path: &str| Call::Get(path.to_owned());
    let post = |path: &str| Call::Post(path.to_owned());
    match command {
        C::AllRunning => get("/allrunning"),
        C::AllStopped => get("/allstopped"),
        C::DisableRandomStop => post("/randomstop/disable"),
        C::DisableRestart(one) => Call::Post(format!("/disablerestart/cid/{}", one.cid)),
        C::DisableRestartAll => post("/disablerestart/all"),
        C::EnableRestart(one) => Call::Post(format!("/enablerestart/cid/{}", one.cid)),
        C::EnableRandomStop => post("/randomstop/enable"),
        C::EnableRandomMin { min } => Call::Post(format!("/randomstop/min/{min}")),
        C::EnableRandomMax { max } => Call::Post(format!("/randomstop/max/{max}")),
        C::EnableRestartAll => post("/enablerestart/all"),
        C::Pid(one) => Call::Get(format!("/pid/cid/{}", one.cid)),
        C::Port(one) => Call::Get(format!("/port/cid/{}", one.cid)),
        C::ReadOnly => get("/readonly"),
        C::RegionCount => get("/regioncount"),
        C::RegionInfo => get("/regioninfo"),
        C::Shutdown => post("/shutdown"),
        C::Start(one) => Call::Post(format!("/start/cid/{}", one.cid)),
        C::StartAll => post("/start/all"),
        C::State(one) => Call::Get(format!("/state/cid/{}", one.cid)),
        C::Stop(one) => Call::Post(format!("/stop/cid/{}", one.cid)),
        C::StopAll => post("/stop/all"),
        C::StopRand => post("/stop/rand"),
        C::Uuid(one) => Call::Get(format!("/uuid/cid/{}", one.cid)),
    }
}

/// For people: text without quotes, an object as `name: value` lines.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let lines: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name}: {}", plain(value)))
                .collect();
            lines.join("\n")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_plain_words() {
        assert_eq!(plain(&json!("running")), "running");
        assert_eq!(plain(&json!(null)), "none");
        assert_eq!(plain(&json!(true)), "true");
        assert_eq!(plain(&json!(8810)), "8810");
        assert_eq!(
            plain(&json!({"block_size": 512, "extent_count": 3})),
            "block_size: 512\nextent_count: 3"
        );
    }

    #[test]
    fn an_address_is_enough() {
        assert_eq!(url("127.0.0.1:9998"), "http://127.0.0.1:9998");
        assert_eq!(url("http://[::1]:1/"), "http://[::1]:1");
    }

    #[test]
    fn nobody_there_is_said_with_the_way_out() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        drop(holder);
        let text = run(&CmdArgs {
            server: format!("http://{address}"),
            json: false,
            command: ControlCommand::AllRunning,
        })
        .unwrap_err();
        assert!(text.contains("is `dsc start` running"), "{text}");
    }
}
