//! The endpoints, below `/crucible/pantry/0` (spec: volume layer 7). Bodies are JSON and bounded; errors have the body
//! `{"request_id", "message"}`.

use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use bounded_listener::Bounded;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::api::{
    AttachBackgroundRequest, AttachRequest, AttachResult, BULK_MAX, BulkReadRequest,
    BulkReadResponse, BulkWriteRequest, ImportFromUrlRequest, JobPoll, JobResult, JobStarted,
    NAME_MAX, PantryStatus, SnapshotRequest, ValidateRequest, VolumeStatus, name_of,
};
use crate::error::PantryError;
use crate::pantry::Pantry;
use crate::work;

/// The longest body, in bytes: a bulk write in base64, or a large construction request.
const BODY_MAX: usize = BULK_MAX / 3 * 4 + (256 << 10);

/// Connections at once.
const CONNECTIONS: usize = 64;

type Answer<T> = Result<Json<T>, PantryError>;
type Done = Result<StatusCode, PantryError>;
type Body = Result<Bytes, BytesRejection>;

/// All endpoints.
pub fn router(pantry: Pantry) -> Router {
    let volume = Router::new()
        .route("/", get(volume_status).post(attach).delete(detach))
        .route("/background", post(attach_in_background))
        .route("/replace", post(replace))
        .route("/import-from-url", post(import_from_url))
        .route("/snapshot", post(snapshot))
        .route("/bulk-write", post(bulk_write))
        .route("/bulk-read", post(bulk_read))
        .route("/scrub", post(scrub))
        .route("/validate", post(validate));
    let all = Router::new()
        .route("/", get(status))
        .route("/status", get(status))
        .route("/job/{id}/is-finished", get(is_finished))
        .route("/job/{id}/ok", get(ok))
        .nest("/volume/{id}", volume);
    Router::new()
        .nest("/crucible/pantry/0", all)
        .fallback(|| async { PantryError::Missing("there is no such endpoint".to_owned()) })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(pantry)
}

/// Serves until `stop` resolves; what is being answered then is still answered.
pub async fn serve(
    listener: TcpListener,
    pantry: Pantry,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(Bounded::new(listener, CONNECTIONS), router(pantry))
        .with_graceful_shutdown(stop)
        .await
}

fn parse<T: DeserializeOwned>(body: Body) -> Result<T, PantryError> {
    let body = body.map_err(|rejection| PantryError::Bad(rejection.body_text()))?;
    serde_json::from_slice(&body).map_err(|error| PantryError::Bad(format!("body: {error}")))
}

async fn status(State(pantry): State<Pantry>) -> Json<PantryStatus> {
    Json(pantry.status())
}

async fn volume_status(
    State(pantry): State<Pantry>,
    Path(id): Path<String>,
) -> Answer<VolumeStatus> {
    Ok(Json(pantry.volume_status(&id).await?))
}

async fn attach(
    State(pantry): State<Pantry>,
    Path(id): Path<String>,
    body: Body,
) -> Answer<AttachResult> {
    let request: AttachRequest = parse(body)?;
    let request = request.volume_construction_request;
    pantry.attach(&id, request).await?;
    Ok(Json(AttachResult { id }))
}

async fn attach_in_background(
    State(pantry): State<Pantry>,
    Path(id): Path<String>,
    body: Body,
) -> Done {
    let AttachBackgroundRequest {
        volume_construction_request: request,
        job_id,
    } = parse(body)?;
    pantry.attach_in_background(&id, request, &job_id)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn detach(State(pantry): State<Pantry>, Path(id): Path<String>) -> Done {
    pantry.detach(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn replace(
    State(pantry): State<Pantry>,
    Path(id): Path<String>,
    body: Body,
) -> Answer<&'static str> {
    let request: AttachRequest = parse(body)?;
    let request = request.volume_construction_request;
    Ok(Json(name_of(pantry.replace(&id, request).await?)))
}

async fn snapshot(State(pantry): State<Pantry>, Path(id): Path<String>, body: Body) -> Done {
    let SnapshotRequest { snapshot_id } = parse(body)?;
    if snapshot_id.is_empty() || snapshot_id.len() > NAME_MAX {
        return Err(PantryError::Bad(format!(
            "snapshot_id: expected 1 to {NAME_MAX} bytes, found {}",
            snapshot_id.len()
        )));
    }
    pantry.volume(&id)?.flush(Some(snapshot_id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn bulk_write(State(pantry): State<Pantry>, Path(id): Path<String>, body: Body) -> Done {
    let request: BulkWriteRequest = parse(body)?;
    let volume = pantry.volume(&id)?;
    work::bulk_write(&volume, request.offset, &request.base64_encoded_data).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn bulk_read(
    State(pantry): State<Pantry>,
    Path(id): Path<String>,
    body: Body,
) -> Answer<BulkReadResponse> {
    let BulkReadRequest { offset, size } = parse(body)?;
    let volume = pantry.volume(&id)?;
    let base64_encoded_data = work::bulk_read(&volume, offset, size).await?;
    Ok(Json(BulkReadResponse {
        base64_encoded_data,
    }))
}

/// Begins a job with an id of its own.
fn begin(
    pantry: &Pantry,
    volume: &str,
    work: impl Future<Output = Result<(), String>> + Send + 'static,
) -> Answer<JobStarted> {
    let job_id = Uuid::new_v4().to_string();
    pantry.jobs.begin(&job_id, volume, work)?;
    Ok(Json(JobStarted { job_id }))
}

async fn import_from_url(
    State(pantry): State<Pantry>,
    Path(id): Path<String>,
    body: Body,
) -> Answer<JobStarted> {
    let request: ImportFromUrlRequest = parse(body)?;
    let wanted = request.expected_digest.as_ref().map(work::wanted);
    let volume = pantry.volume(&id)?;
    let import = work::import(volume, request.url, wanted.transpose()?);
    begin(&pantry, &id, import)
}

async fn scrub(State(pantry): State<Pantry>, Path(id): Path<String>) -> Answer<JobStarted> {
    let volume = pantry.volume(&id)?;
    begin(&pantry, &id, work::scrub(volume))
}

async fn validate(
    State(pantry): State<Pantry>,
    Path(id): Path<String>,
    body: Body,
) -> Answer<JobStarted> {
    let ValidateRequest {
        expected_digest,
        size_to_validate,
    } = parse(body)?;
    let wanted = work::wanted(&expected_digest)?;
    let volume = pantry.volume(&id)?;
    let validate = work::validate(volume, wanted, size_to_validate);
    begin(&pantry, &id, validate)
}

async fn is_finished(State(pantry): State<Pantry>, Path(id): Path<String>) -> Answer<JobPoll> {
    let job_is_finished = pantry.jobs.is_finished(&id)?;
    Ok(Json(JobPoll { job_is_finished }))
}

async fn ok(State(pantry): State<Pantry>, Path(id): Path<String>) -> Answer<JobResult> {
    let result = pantry.jobs.result(&id).await?;
    let job_result_ok = result.is_ok();
    Ok(Json(JobResult { job_result_ok }))
}
