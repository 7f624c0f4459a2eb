//! `serve`: starts region servers when asked over HTTP (spec: repair 6.1).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bounded_listener::Bounded;
use crucible_downstairs::drive::{self, Config, Faults, Serving};
use crucible_downstairs::store::Mode;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use crate::args::ServeArguments;
use crate::output::{Done, Failure, open, say, start_log};
use crate::run::{bound_memory, runtime, tls_settings};

/// Connections at once.
const CONNECTIONS: usize = 64;

/// What is asked for. Names are the reference's.
#[derive(Debug, Deserialize)]
struct Request {
    address: IpAddr,
    data: PathBuf,
    #[serde(default)]
    oximeter: Option<SocketAddr>,
    lossy: bool,
    port: u16,
    rport: u16,
    read_errors: bool,
    write_errors: bool,
    flush_errors: bool,
    #[serde(default)]
    cert_pem: Option<PathBuf>,
    #[serde(default)]
    key_pem: Option<PathBuf>,
    #[serde(default)]
    root_cert_pem: Option<PathBuf>,
    read_only: bool,
}

#[derive(Default)]
struct Started(std::sync::Mutex<BTreeMap<Uuid, Serving>>);

pub(crate) fn serve(arguments: &ServeArguments) -> Done {
    start_log();
    bound_memory();
    runtime()?.block_on(listen(arguments.bind_addr))
}

async fn listen(address: SocketAddr) -> Done {
    let about_signals = || Failure::about("cannot wait for signals");
    let mut terminate = signal(SignalKind::terminate()).map_err(about_signals())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(about_signals())?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(Failure::about(format!("cannot listen on {address}")))?;
    let address = listener
        .local_addr()
        .map_err(Failure::about("cannot listen"))?;
    say(format_args!("taking requests on {address}"))?;
    let started = Arc::new(Started::default());
    let router = Router::new()
        .route("/regions/{uuid}/downstairs", post(start))
        .with_state(Arc::clone(&started));
    tokio::select! {
        served = axum::serve(Bounded::new(listener, CONNECTIONS), router) => {
            served.map_err(Failure::about("the server has ended"))?;
        }
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let running = std::mem::take(&mut *started.0.lock().unwrap_or_else(PoisonError::into_inner));
    for serving in running.into_values() {
        serving.stop().await;
    }
    Ok(())
}

async fn start(
    State(started): State<Arc<Started>>,
    Path(uuid): Path<String>,
    body: axum::body::Bytes,
) -> Response {
    match try_start(&started, &uuid, &body).await {
        Ok(uuid) => (
            StatusCode::CREATED,
            Json(serde_json::json!({ "uuid": uuid })),
        )
            .into_response(),
        Err((status, message)) => {
            let id = Uuid::new_v4();
            let body = serde_json::json!({ "request_id": id, "message": message }).to_string();
            (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
    }
}

async fn try_start(
    started: &Started,
    uuid: &str,
    body: &[u8],
) -> Result<Uuid, (StatusCode, String)> {
    let bad = |message: String| (StatusCode::BAD_REQUEST, message);
    let uuid: Uuid = uuid
        .parse()
        .map_err(|error| bad(format!("uuid {uuid:?}: {error}")))?;
    let request: Request =
        serde_json::from_slice(body).map_err(|error| bad(format!("body: {error}")))?;
    if request.oximeter.is_some() {
        tracing::warn!("oximeter is accepted for compatibility; nothing is sent there");
    }
    let mut config = Config::at(SocketAddr::new(request.address, request.port));
    config.repair = Some(SocketAddr::new(request.address, request.rport));
    config.faults = Faults {
        lossy: request.lossy,
        read_errors: request.read_errors,
        write_errors: request.write_errors,
        flush_errors: request.flush_errors,
    };
    config.tls = match (&request.cert_pem, &request.key_pem, &request.root_cert_pem) {
        (None, None, None) => None,
        (Some(certificates), Some(key), Some(root)) => {
            Some(tls_settings(certificates, key, root).map_err(|failure| bad(text_of(failure)))?)
        }
        _ => {
            return Err(bad(
                "cert_pem, key_pem, root_cert_pem: give all three or none".into(),
            ));
        }
    };
    let taken = || {
        let running = started.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.contains_key(&uuid)
    };
    if taken() {
        return Err(bad(format!("region {uuid} is being served already")));
    }
    let mode = if request.read_only {
        Mode::ReadOnly
    } else {
        Mode::ReadWrite
    };
    let region = tokio::task::spawn_blocking(move || open(&request.data, mode))
        .await
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
        .map_err(|failure| bad(text_of(failure)))?;
    let found = region.definition().uuid;
    if found != uuid {
        return Err(bad(format!("expected region {uuid}, found {found}")));
    }
    let serving = drive::serve(Arc::new(region), config)
        .await
        .map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    tracing::info!(%uuid, address = %serving.address(), repair = %serving.repair_address(), "serving");
    started
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(uuid, serving);
    Ok(uuid)
}

fn text_of(failure: Failure) -> String {
    match failure {
        Failure::Message(message) => message,
        Failure::Quiet => String::new(),
    }
}
