//! The control server: what a running `dsc start` can be asked over HTTP (spec: section 8.1).
//!
//! Answers to GET are JSON. A POST that was carried out is 204, and what is asked next shows it. Errors have the
//! body `{"request_id", "message"}` that clients of the reference expect; a child that does not exist is 400.

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bounded_listener::Bounded;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::core::{ChildId, Event};
use crate::drive::{ChildStatus, Handle, Request, Status};

/// Connections at once.
const CONNECTIONS: usize = 64;

/// An answer that is not the wanted one.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({ "request_id": Uuid::new_v4(), "message": self.1 });
        (self.0, Json(body)).into_response()
    }
}

type Answer = Result<Json<Value>, Refusal>;
type Done = Result<StatusCode, Refusal>;

/// All endpoints.
pub fn router(handle: Handle) -> Router {
    Router::new()
        .route("/pid/cid/{cid}", get(one(|child| json!(child.pid))))
        .route("/port/cid/{cid}", get(one(|child| json!(child.port))))
        .route("/state/cid/{cid}", get(one(|child| json!(child.state))))
        .route("/uuid/cid/{cid}", get(one(|child| json!(child.uuid))))
        .route("/allrunning", get(all(|status| json!(status.all_running))))
        .route("/allstopped", get(all(|status| json!(status.all_stopped))))
        .route("/regioncount", get(all(|s| json!(s.children.len()))))
        .route("/regioninfo", get(all(|status| json!(status.region))))
        .route("/readonly", get(all(|status| json!(status.read_only))))
        .route("/stop/cid/{cid}", post(to_one(Event::Stop)))
        .route("/stop/all", post(plain(Event::StopAll)))
        .route("/stop/rand", post(plain(Event::StopRandom)))
        .route("/start/cid/{cid}", post(to_one(Event::Start)))
        .route("/start/all", post(plain(Event::StartAll)))
        .route(
            "/disablerestart/cid/{cid}",
            post(to_one(|id| Event::Restart(id, false))),
        )
        .route("/disablerestart/all", post(plain(Event::RestartAll(false))))
        .route(
            "/enablerestart/cid/{cid}",
            post(to_one(|id| Event::Restart(id, true))),
        )
        .route("/enablerestart/all", post(plain(Event::RestartAll(true))))
        .route("/shutdown", post(plain(Event::Shutdown)))
        .route("/randomstop/enable", post(plain(Event::RandomStop(true))))
        .route("/randomstop/disable", post(plain(Event::RandomStop(false))))
        .route(
            "/randomstop/min/{s}",
            post(with_seconds(Event::RandomStopMin)),
        )
        .route(
            "/randomstop/max/{s}",
            post(with_seconds(Event::RandomStopMax)),
        )
        .fallback(|| async { Refusal(StatusCode::NOT_FOUND, "no such endpoint".to_owned()) })
        .method_not_allowed_fallback(|| async {
            let text = "commands are POST, questions are GET".to_owned();
            Refusal(StatusCode::METHOD_NOT_ALLOWED, text)
        })
        .with_state(handle)
}

/// Serves until `stop` resolves; what is being answered then is still answered.
pub async fn serve(
    listener: TcpListener,
    handle: Handle,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(Bounded::new(listener, CONNECTIONS), router(handle))
        .with_graceful_shutdown(stop)
        .await
}

type Boxed<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

fn all(
    field: fn(&Status) -> Value,
) -> impl Fn(State<Handle>) -> Boxed<Answer> + Clone + Send + Sync + 'static {
    move |State(handle)| {
        let answer = Ok(Json(field(&handle.status.borrow())));
        Box::pin(async { answer })
    }
}

fn one(
    field: fn(&ChildStatus) -> Value,
) -> impl Fn(State<Handle>, Path<String>) -> Boxed<Answer> + Clone + Send + Sync + 'static {
    move |State(handle), Path(cid)| {
        let answer = find(&handle, &cid).map(|(_, child)| Json(field(&child)));
        Box::pin(async { answer })
    }
}

fn plain(event: Event) -> impl Fn(State<Handle>) -> Boxed<Done> + Clone + Send + Sync + 'static {
    move |State(handle)| Box::pin(async move { carry_out(&handle, event).await })
}

fn to_one(
    event: fn(ChildId) -> Event,
) -> impl Fn(State<Handle>, Path<String>) -> Boxed<Done> + Clone + Send + Sync + 'static {
    move |State(handle), Path(cid)| {
        Box::pin(async move {
            let (id, _) = find(&handle, &cid)?;
            carry_out(&handle, event(id)).await
        })
    }
}

fn with_seconds(
    event: fn(u64) -> Event,
) -> impl Fn(State<Handle>, Path<String>) -> Boxed<Done> + Clone + Send + Sync + 'static {
    move |State(handle), Path(seconds)| {
        Box::pin(async move {
            match seconds.parse() {
                Ok(seconds) => carry_out(&handle, event(seconds)).await,
                Err(_) => Err(Refusal(
                    StatusCode::BAD_REQUEST,
                    format!("{seconds:?}: expected a whole number of seconds"),
                )),
            }
        })
    }
}

fn find(handle: &Handle, cid: &str) -> Result<(ChildId, ChildStatus), Refusal> {
    let status = handle.status.borrow();
    let index = cid.parse().ok();
    index
        .and_then(|index: usize| Some((ChildId(index), *status.children.get(index)?)))
        .ok_or_else(|| {
            let last = status.children.len().saturating_sub(1);
            let text = format!("client id {cid:?}: expected a number from 0 to {last}");
            Refusal(StatusCode::BAD_REQUEST, text)
        })
}

async fn carry_out(handle: &Handle, event: Event) -> Done {
    let gone = || {
        let text = "dsc is shutting down".to_owned();
        Refusal(StatusCode::SERVICE_UNAVAILABLE, text)
    };
    let (done, carried_out) = oneshot::channel();
    let request = Request { event, done };
    handle.requests.send(request).await.map_err(|_| gone())?;
    carried_out.await.map_err(|_| gone())?;
    Ok(StatusCode::NO_CONTENT)
}
