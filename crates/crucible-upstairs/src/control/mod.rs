//! HTTP for operators: `GET /info` and `/work` as the reference answers them (spec: crucible 7), and `/metrics` for
//! Prometheus.

mod info;
mod metrics;
mod volume_info;

use std::net::TcpListener;
use std::sync::{Arc, Weak};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bounded_listener::Bounded;

use crate::drive::Region;
use crate::store::Insight;

pub use info::{Info, Work};
pub use metrics::metrics;
pub use volume_info::{TargetInfo, TargetState, UpstairsInfo, VolumeInfo};

/// Most connections at a time.
const CONNECTIONS: usize = 32;

/// Answers on `listener` until the region ends.
pub(crate) async fn serve(listener: TcpListener, region: Weak<Region>) {
    let router = Router::new()
        .route("/info", get(info_page))
        .route("/work", get(work_page))
        .route("/metrics", get(metrics_page))
        .with_state(region);
    let served = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => axum::serve(Bounded::new(listener, CONNECTIONS), router).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::warn!(%error, "control has ended");
    }
}

/// What the region tells of itself, or the answer that it is gone.
async fn look(region: &Weak<Region>) -> Result<Box<Insight>, Response> {
    let gone = || {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the volume was shut down\n",
        )
            .into_response()
    };
    let region: Arc<Region> = region.upgrade().ok_or_else(gone)?;
    region.insight().await.ok_or_else(gone)
}

async fn info_page(State(region): State<Weak<Region>>) -> Response {
    match look(&region).await {
        Ok(insight) => Json(Info::from(&insight.status)).into_response(),
        Err(gone) => gone,
    }
}

async fn work_page(State(region): State<Weak<Region>>) -> Response {
    match look(&region).await {
        Ok(insight) => Json(Work::from(&*insight)).into_response(),
        Err(gone) => gone,
    }
}

async fn metrics_page(State(region): State<Weak<Region>>) -> Response {
    match look(&region).await {
        Ok(insight) => {
            let text = metrics(&[insight.status]);
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
        }
        Err(gone) => gone,
    }
}
