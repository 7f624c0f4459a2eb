//! The endpoints: from an HTTP request to an order and back. [`ROUTES`] is all there is.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::api::{MachineState, Problem, STOP_DEADLINE_MAX, StopRequest};
use super::handle::{Disks, Machine, Order, Refusal, Seen};
use super::{metrics, openapi};

/// Longest body of a request, in bytes; none that makes sense comes near.
pub const BODY_BYTES_MAX: usize = 16 << 10;

/// How long an order waits for its effect before it answers that it is under way.
const EFFECT_WITHIN: Duration = Duration::from_secs(2);

/// How long storage may take to tell of itself.
const STORAGE_WITHIN: Duration = Duration::from_secs(5);

/// How long a request may take to arrive and to be answered, all in all.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What the handlers work on.
#[derive(Clone)]
pub struct Handles {
    /// The machine.
    pub machine: Arc<dyn Machine>,
    /// Its disks.
    pub disks: Arc<dyn Disks>,
}

impl std::fmt::Debug for Handles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handles").finish_non_exhaustive()
    }
}

/// One endpoint.
#[derive(Clone, Copy)]
pub struct Route {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// As in the OpenAPI document.
    pub path: &'static str,
    handler: fn() -> MethodRouter<Handles>,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

const fn route(
    method: &'static str,
    path: &'static str,
    handler: fn() -> MethodRouter<Handles>,
) -> Route {
    Route {
        method,
        path,
        handler,
    }
}

/// Every endpoint.
pub const ROUTES: &[Route] = &[
    route("GET", "/machine", || get(machine)),
    route("POST", "/machine/pause", || post(pause)),
    route("POST", "/machine/resume", || post(resume)),
    route("POST", "/machine/reset", || post(reset)),
    route("POST", "/machine/power", || post(power)),
    route("POST", "/machine/stop", || post(stop)),
    route("GET", "/disks", || get(disks)),
    route("GET", "/disks/{name}", || get(disk)),
    route("POST", "/disks/{name}/replace", || post(replace)),
    route("GET", "/metrics", || get(metrics_text)),
    route("GET", "/openapi.json", || get(document)),
];

/// An answer that is no success.
#[derive(Debug)]
struct Failed(StatusCode, String);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.0, Json(Problem { message: self.1 })).into_response()
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown(text) => Self(StatusCode::NOT_FOUND, text),
            Refusal::Conflict(text) => Self(StatusCode::CONFLICT, text),
            Refusal::Late(text) => Self(StatusCode::GATEWAY_TIMEOUT, text),
        }
    }
}

/// All endpoints over a machine and its disks.
pub fn router(handles: Handles) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        router = router.route(route.path, (route.handler)());
    }
    router
        .fallback(|| async {
            let text = "no such endpoint; GET /openapi.json describes all there are";
            Failed(StatusCode::NOT_FOUND, text.to_owned())
        })
        .method_not_allowed_fallback(|| async {
            let text = "orders are POST, questions are GET";
            Failed(StatusCode::METHOD_NOT_ALLOWED, text.to_owned())
        })
        .layer(from_fn(bounded))
        .with_state(handles)
}

/// One request a connection, within a time: whoever connects can keep nothing.
async fn bounded(request: Request, next: Next) -> Response {
    let late = || {
        let text = format!("no answer within {} s", ANSWER_WITHIN.as_secs());
        Failed(StatusCode::GATEWAY_TIMEOUT, text).into_response()
    };
    let answer = tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await;
    let mut answer = answer.unwrap_or_else(|_| late());
    let close = HeaderValue::from_static("close");
    answer.headers_mut().insert(header::CONNECTION, close);
    answer
}

/// The typed content of a body. What comes without a content type is taken for JSON as well.
async fn content<T: DeserializeOwned>(body: Body) -> Result<T, Failed> {
    let bytes = to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| {
        let text = format!("the body did not arrive, or has more than {BODY_BYTES_MAX} bytes");
        Failed(StatusCode::PAYLOAD_TOO_LARGE, text)
    })?;
    typed(&bytes).map_err(|text| Failed(StatusCode::BAD_REQUEST, text))
}

/// A request's body as its type; no body at all is `{}`. Errors: what is wrong, and where.
pub fn typed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let bytes = match bytes.trim_ascii() {
        b"" => b"{}",
        bytes => bytes,
    };
    // A list of values would be taken for the fields in their order.
    if bytes.first() != Some(&b'{') {
        return Err("the request's JSON: expected an object".to_owned());
    }
    serde_json::from_slice(bytes).map_err(|error| format!("the request's JSON: {error}"))
}

async fn machine(State(handles): State<Handles>) -> Response {
    Json(handles.machine.status()).into_response()
}

/// Gives the order, waits a little for `reached`, and tells where the machine stands then: 200 if it is there,
/// 202 if it is still on its way.
async fn carry_out(
    handles: &Handles,
    order: Order,
    reached: impl Fn(&Seen, &Seen) -> bool,
) -> Result<Response, Failed> {
    let mut seen = handles.machine.seen();
    let before = *seen.borrow();
    handles.machine.order(order)?;
    let there = seen.wait_for(|now| reached(&before, now) || now.state.is_last());
    let code = match tokio::time::timeout(EFFECT_WITHIN, there).await {
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::ACCEPTED,
    };
    Ok((code, Json(handles.machine.status())).into_response())
}

async fn pause(State(handles): State<Handles>) -> Result<Response, Failed> {
    let reached = |_: &Seen, now: &Seen| now.state == MachineState::Paused;
    carry_out(&handles, Order::Pause, reached).await
}

async fn resume(State(handles): State<Handles>) -> Result<Response, Failed> {
    let reached = |_: &Seen, now: &Seen| now.state == MachineState::Running;
    carry_out(&handles, Order::Resume, reached).await
}

async fn reset(State(handles): State<Handles>) -> Result<Response, Failed> {
    let reached = |before: &Seen, now: &Seen| now.boots > before.boots;
    carry_out(&handles, Order::Reset, reached).await
}

async fn power(State(handles): State<Handles>) -> Result<Response, Failed> {
    // What the guest makes of it may take long, or never come.
    carry_out(&handles, Order::Power, |_, _| true).await
}

async fn stop(State(handles): State<Handles>, body: Body) -> Result<Response, Failed> {
    let request: StopRequest = content(body).await?;
    if request
        .deadline
        .is_some_and(|seconds| seconds > STOP_DEADLINE_MAX)
    {
        let text = format!("deadline: expected 0 to {STOP_DEADLINE_MAX} seconds");
        return Err(Failed(StatusCode::BAD_REQUEST, text));
    }
    handles.machine.order(Order::Stop(request))?;
    Ok((StatusCode::ACCEPTED, Json(handles.machine.status())).into_response())
}

/// What storage tells of itself, if it does so in time.
async fn told<T>(later: impl Future<Output = T>) -> Result<T, Failed> {
    tokio::time::timeout(STORAGE_WITHIN, later)
        .await
        .map_err(|_| {
            let text = format!(
                "the volumes say nothing within {} s",
                STORAGE_WITHIN.as_secs()
            );
            Failed(StatusCode::GATEWAY_TIMEOUT, text)
        })
}

/// The `{name}` of a path.
type Name = Result<Path<String>, PathRejection>;

fn named(name: Name) -> Result<String, Failed> {
    name.map(|Path(name)| name)
        .map_err(|error| Failed(StatusCode::BAD_REQUEST, error.body_text()))
}

fn no_such_disk(name: &str) -> Failed {
    let text = format!("no disk is called {name:?}; GET /disks names them");
    Failed(StatusCode::NOT_FOUND, text)
}

async fn disks(State(handles): State<Handles>) -> Result<Response, Failed> {
    let all = told(handles.disks.all()).await?;
    Ok(json(&all))
}

async fn disk(State(handles): State<Handles>, name: Name) -> Result<Response, Failed> {
    let name = named(name)?;
    let disk = told(handles.disks.one(&name)).await?;
    let disk = disk.ok_or_else(|| no_such_disk(&name))?;
    Ok(json(&disk))
}

async fn replace(
    State(handles): State<Handles>,
    name: Name,
    body: Body,
) -> Result<Response, Failed> {
    let name = named(name)?;
    let request = content(body).await?;
    let answer = told(handles.disks.replace(&name, request)).await??;
    Ok(json(&answer))
}

fn json(value: &impl Serialize) -> Response {
    Json(value).into_response()
}

async fn metrics_text(State(handles): State<Handles>) -> Result<Response, Failed> {
    let disks = told(handles.disks.all()).await?;
    let volumes = told(handles.disks.volume_metrics()).await?;
    let text = metrics::text(&handles.machine.status(), &disks, &volumes);
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    Ok((kind, text).into_response())
}

async fn document() -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, openapi::DOCUMENT).into_response()
}
