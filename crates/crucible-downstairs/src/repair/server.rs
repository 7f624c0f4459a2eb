//! The repair server: plain HTTP/1.1, read only (spec: repair 6.1).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bounded_listener::Bounded;
use bytes::Bytes;
use crucible_protocol::layout::encode_region;
use crucible_protocol::{CrucibleError, ExtentId};
use futures_core::Stream;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

use crate::disk::DiskFile;
use crate::store::{ExtentFile, Mode, Region};

/// Bytes of one piece of a file.
const CHUNK: usize = 512 << 10;
/// Files that are sent at once; more wait.
const DOWNLOADS: usize = 8;
/// Connections at once.
const CONNECTIONS: usize = 64;
/// A peer that takes nothing for so long gets no more.
const STALLED: Duration = Duration::from_secs(60);

struct Shared {
    region: Arc<Region>,
    downloads: Arc<Semaphore>,
}

/// Serves the extents of a region until it is aborted.
pub async fn serve(region: Arc<Region>, listener: TcpListener) {
    let shared = Arc::new(Shared {
        region,
        downloads: Arc::new(Semaphore::new(DOWNLOADS)),
    });
    let router = Router::new()
        .route("/extent/{extent}/files", get(files))
        .route("/extent/{extent}/repair-ready", get(repair_ready))
        .route("/newextent/{extent}/{file}", get(download))
        .route("/region-info", get(region_info))
        .route("/region-mode", get(region_mode))
        .route("/work", get(work))
        .fallback(async || failure(StatusCode::NOT_FOUND, None, "Not Found"))
        .method_not_allowed_fallback(async || {
            failure(StatusCode::METHOD_NOT_ALLOWED, None, "Method Not Allowed")
        })
        .with_state(shared);
    if let Err(error) = axum::serve(Bounded::new(listener, CONNECTIONS), router).await {
        tracing::error!(%error, "the repair server has ended");
    }
}

/// An error in the shape that dropshot gives it.
fn failure(status: StatusCode, code: Option<&str>, message: &str) -> Response {
    let id = Uuid::new_v4().to_string();
    let mut body = serde_json::json!({ "request_id": id, "message": message });
    if let (Some(code), Some(fields)) = (code, body.as_object_mut()) {
        fields.insert("error_code".into(), code.into());
    }
    let mut response = (status, json(body.to_string())).into_response();
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

fn json(text: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], text)
}

fn bad_request(message: &str) -> Response {
    failure(StatusCode::BAD_REQUEST, Some("BadRequest"), message)
}

/// What a failed operation is to an HTTP client (spec: wire 1.8).
fn refused(error: &CrucibleError) -> Response {
    let status = match error {
        CrucibleError::InvalidExtent
        | CrucibleError::OffsetInvalid
        | CrucibleError::ModifyingReadOnlyRegion
        | CrucibleError::RegionIncompatible(_)
        | CrucibleError::Unsupported(_) => StatusCode::BAD_REQUEST,
        CrucibleError::IoError(_) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let code = status.is_client_error().then_some("BadRequest");
    failure(status, code, &error.to_string())
}

/// The extent that a path names, if the region has it.
fn extent_of(shared: &Shared, text: &str) -> Result<ExtentId, Box<Response>> {
    let count = shared.region.geometry().extent_count();
    match text.parse::<u32>() {
        Ok(extent) if extent < count => Ok(ExtentId(extent)),
        Ok(extent) => Err(Box::new(bad_request(&format!(
            "extent {extent}: expected 0 to {}",
            count.saturating_sub(1)
        )))),
        Err(error) => Err(Box::new(bad_request(&format!(
            "bad parameter in URL path: {text:?}: {error}"
        )))),
    }
}

async fn files(State(shared): State<Arc<Shared>>, Path(extent): Path<String>) -> Response {
    let extent = match extent_of(&shared, &extent) {
        Ok(extent) => extent,
        Err(response) => return *response,
    };
    let region = Arc::clone(&shared.region);
    match tokio::task::spawn_blocking(move || region.extent_files(extent)).await {
        Ok(Ok(names)) => json(serde_json::json!(names).to_string()).into_response(),
        Ok(Err(error)) => bad_request(&error.to_string()),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, None, &error.to_string()),
    }
}

async fn repair_ready(State(shared): State<Arc<Shared>>, Path(extent): Path<String>) -> Response {
    let extent = match extent_of(&shared, &extent) {
        Ok(extent) => extent,
        Err(response) => return *response,
    };
    match is_ready(&shared.region, extent) {
        Ok(ready) => json(ready.to_string()).into_response(),
        Err(error) => refused(&error),
    }
}

fn is_ready(region: &Region, extent: ExtentId) -> Result<bool, CrucibleError> {
    Ok(region.mode() == Mode::ReadOnly || region.is_closed(extent)?)
}

async fn region_info(State(shared): State<Arc<Shared>>) -> Response {
    json(encode_region(shared.region.definition())).into_response()
}

async fn region_mode(State(shared): State<Arc<Shared>>) -> Response {
    json((shared.region.mode() == Mode::ReadOnly).to_string()).into_response()
}

async fn work(State(shared): State<Arc<Shared>>) -> Response {
    let closed = (0..shared.region.geometry().extent_count())
        .filter(|extent| shared.region.is_closed(ExtentId(*extent)) == Ok(true))
        .count();
    tracing::info!(closed_extents = closed, "asked for the work queue");
    json("true".into()).into_response()
}

async fn download(
    State(shared): State<Arc<Shared>>,
    Path((extent, file)): Path<(String, String)>,
) -> Response {
    let extent = match extent_of(&shared, &extent) {
        Ok(extent) => extent,
        Err(response) => return *response,
    };
    let file = match file.as_str() {
        "data" => ExtentFile::Data,
        "db" => ExtentFile::Db,
        "db_shm" => ExtentFile::DbShm,
        "db_wal" => ExtentFile::DbWal,
        other => {
            return bad_request(&format!(
                "bad parameter in URL path: {other:?}: expected data, db, db_shm or db_wal"
            ));
        }
    };
    match is_ready(&shared.region, extent) {
        Ok(true) => {}
        // A file that is written to while it is read is no copy of anything.
        Ok(false) => {
            return bad_request(&format!(
                "extent {extent} is open: close it, or serve the region with --mode ro"
            ));
        }
        Err(error) => return refused(&error),
    }
    let Ok(permit) = Arc::clone(&shared.downloads).acquire_owned().await else {
        return failure(StatusCode::SERVICE_UNAVAILABLE, None, "shutting down");
    };
    let region = Arc::clone(&shared.region);
    let opened = tokio::task::spawn_blocking(move || {
        let file = region.open_extent_file(extent, file)?;
        let length = file
            .length()
            .map_err(|error| CrucibleError::IoError(error.to_string()))?;
        Ok::<_, CrucibleError>((file, length))
    })
    .await;
    let (file, length) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return bad_request(&error.to_string()),
        Err(error) => {
            return failure(StatusCode::INTERNAL_SERVER_ERROR, None, &error.to_string());
        }
    };
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        send_file(file, length, sender).await;
        drop(permit);
    });
    let mut response = Body::from_stream(Chunks(receiver)).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// Reads a file piece by piece, no faster than the peer takes it.
async fn send_file(
    file: Arc<dyn DiskFile>,
    length: u64,
    sender: mpsc::Sender<std::io::Result<Bytes>>,
) {
    let mut offset = 0;
    while offset < length {
        let size = usize::try_from(length - offset).map_or(CHUNK, |left| left.min(CHUNK));
        let file = Arc::clone(&file);
        let read = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; size];
            file.read_at(&mut chunk, offset)
                .map(|()| Bytes::from(chunk))
        })
        .await;
        let chunk = read.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let failed = chunk.is_err();
        let sent = tokio::time::timeout(STALLED, sender.send(chunk)).await;
        if failed || !matches!(sent, Ok(Ok(()))) {
            return;
        }
        offset += size as u64;
    }
}

/// What arrives on a channel, as the body of an answer.
struct Chunks(mpsc::Receiver<std::io::Result<Bytes>>);

impl Stream for Chunks {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}
