//! What is refused, and with which status (spec: wire 1.8, HTTP mapping).

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use crucible_upstairs::core::VolumeError;
use serde_json::json;
use uuid::Uuid;

/// An answer that is not the wanted one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PantryError {
    /// The request makes no sense.
    #[error("{0}")]
    Bad(String),
    /// There is no such volume or job.
    #[error("{0}")]
    Missing(String),
    /// The name is taken by something else.
    #[error("{0}")]
    Conflict(String),
    /// Later it may succeed.
    #[error("{0}")]
    NotNow(String),
    /// It has failed.
    #[error("{0}")]
    Failed(String),
}

impl PantryError {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::Missing(_) => StatusCode::NOT_FOUND,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::NotNow(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<VolumeError> for PantryError {
    fn from(error: VolumeError) -> Self {
        let text = error.to_string();
        match error {
            VolumeError::OutOfRange { .. }
            | VolumeError::NotWholeBlocks { .. }
            | VolumeError::TooLarge { .. }
            | VolumeError::ReadOnly
            | VolumeError::Mismatch { .. }
            | VolumeError::GenerationZero
            | VolumeError::GenerationTooLow { .. }
            | VolumeError::ReplaceRefused(_) => Self::Bad(text),
            VolumeError::Inactive
            | VolumeError::Activating
            | VolumeError::Deactivating
            | VolumeError::Full
            | VolumeError::Unavailable { .. }
            | VolumeError::SnapshotFailed { .. } => Self::NotNow(text),
            _ => Self::Failed(text),
        }
    }
}

/// In the shape that dropshot gives it.
impl IntoResponse for PantryError {
    fn into_response(self) -> Response {
        let body = json!({
            "request_id": Uuid::new_v4().to_string(),
            "message": self.to_string(),
        });
        (self.status(), Json(body)).into_response()
    }
}
