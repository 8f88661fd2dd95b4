//! HTTP for people and programs that look after a node: health, metrics, and a small JSON API behind a token.
//!
//! Deliberately absent: anything that a client's messages wait for. It runs on the main thread and sees the node
//! through its status, its counters and a few requests.

mod cluster;
mod metrics;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::cluster::handle::{ClusterHandle, ClusterRequest, LeaveError};
use crate::config::Admin;
use crate::limits;
use crate::worker::PublishedCounters;

/// How long a request may wait for the cluster.
const REQUEST_WAIT: Duration = Duration::from_secs(5);

/// What the server shows.
pub struct AdminState {
    /// The cluster's room.
    pub cluster: ClusterHandle,
    /// What each worker counts.
    pub counters: Vec<Arc<PublishedCounters>>,
}

struct Shared {
    node: AdminState,
    token: Option<String>,
}

/// Binds the address and reads the token; then serve with [`serve`].
///
/// # Errors
/// When the address can't be bound, or the token file can't be read or is empty.
pub async fn bind(admin: &Admin) -> Result<(TcpListener, Option<String>)> {
    let listener = TcpListener::bind(admin.listen)
        .await
        .with_context(|| format!("admin.listen: {}: can't be bound; choose another", admin.listen))?;
    let token = match &admin.token_file {
        None => None,
        Some(path) => {
            let name = path.display();
            let text = std::fs::read_to_string(path).with_context(|| format!("admin.token_file: {name}"))?;
            let token = text.trim().to_owned();
            anyhow::ensure!(!token.is_empty(), "admin.token_file: {name}: is empty; write a token into it");
            Some(token)
        }
    };
    Ok((listener, token))
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, token: Option<String>, node: AdminState) -> std::io::Result<()> {
    let listener = listener.tap_io(|stream| {
        // A request is answered in one write: nothing is gained by waiting.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router(token, node)).await
}

fn router(token: Option<String>, node: AdminState) -> Router {
    let shared = Arc::new(Shared { node, token });
    let api = Router::new()
        .route("/cluster", get(cluster::describe))
        .route("/cluster/members/{name}/leave", post(leave).delete(stay))
        .route("/drain", post(drain))
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(shared.clone(), authorize));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::scrape))
        .nest("/api/v1", api)
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(limits::ADMIN_BODY_BYTES_MAX))
        .with_state(shared)
}

/// An error as the API tells it: what is wrong, and what to do.
fn refuse(status: StatusCode, what: &str) -> Response {
    let body = serde_json::json!({ "error": what }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn not_found() -> Response {
    refuse(StatusCode::NOT_FOUND, "there is nothing here; see /healthz, /readyz, /metrics, /api/v1/cluster")
}

async fn authorize(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer "));
    match &shared.token {
        Some(token) if !given.is_some_and(|given| same(given.as_bytes(), token.as_bytes())) => {
            refuse(StatusCode::UNAUTHORIZED, "send `Authorization: Bearer TOKEN` with the token of admin.token_file")
        }
        _ => next.run(request).await,
    }
}

/// Compares in a time that tells nothing of where the two differ.
fn same(given: &[u8], token: &[u8]) -> bool {
    let differs = given.iter().zip(token).fold(0, |differs, (a, b)| differs | (a ^ b));
    given.len() == token.len() && std::hint::black_box(differs) == 0
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let why = shared.node.cluster.status.borrow().not_ready.clone();
    if why.is_empty() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response()
    }
}

async fn leave(shared: State<Arc<Shared>>, name: Path<String>) -> Response {
    set_leaving(shared, name, true).await
}

async fn stay(shared: State<Arc<Shared>>, name: Path<String>) -> Response {
    set_leaving(shared, name, false).await
}

async fn set_leaving(State(shared): State<Arc<Shared>>, Path(name): Path<String>, leaving: bool) -> Response {
    let (answer, wait) = oneshot::channel();
    let request = ClusterRequest::Leave { name, leaving, answer };
    if shared.node.cluster.requests.send(request).await.is_err() {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the node is ending");
    }
    match tokio::time::timeout(REQUEST_WAIT, wait).await {
        Ok(Ok(Ok(()))) => StatusCode::ACCEPTED.into_response(),
        Ok(Ok(Err(error @ LeaveError::Unknown))) => refuse(StatusCode::NOT_FOUND, &error.to_string()),
        _ => refuse(StatusCode::SERVICE_UNAVAILABLE, &LeaveError::Unavailable.to_string()),
    }
}

async fn drain(State(shared): State<Arc<Shared>>) -> Response {
    let (done, _) = oneshot::channel();
    let request = ClusterRequest::Drain { rate: limits::DRAIN_RATE, patience: limits::DRAIN_PATIENCE, done };
    match shared.node.cluster.requests.send(request).await {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "the node is ending"),
    }
}

#[cfg(test)]
mod tests;
