//! HTTP for people and programs that look after a node: health, metrics, and a small JSON API behind a token.
//!
//! Deliberately absent: anything that a client's messages wait for. It runs on the main thread and sees the node
//! through its status, its counters, its heartbeat and a few requests.

mod clients;
mod cluster;
mod health;
mod metrics;
mod node;
mod retained;
mod server;
mod sessions;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwapOption;
use axum::Router;
use axum::body::HttpBody as _;
use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use self::health::Pulse;
use crate::cluster::handle::{ClusterHandle, ClusterRequest, LeaveError};
use crate::config::Admin;
use crate::limits;
use crate::listener::Entrance;
use crate::node::{ReloadRequest, read_token};
use crate::worker::WorkerHandle;

/// What the server shows.
pub struct AdminState {
    /// The cluster's room.
    pub cluster: ClusterHandle,
    /// What each worker counts, and can be asked.
    pub workers: Vec<WorkerHandle>,
    /// What each listener counts.
    pub entrances: Vec<Arc<Entrance>>,
    /// What `/api` asks for; it may change. `None`: nothing.
    pub token: Arc<ArcSwapOption<String>>,
    /// Reads everything again that can be, and knows what came of it.
    pub reload: mpsc::Sender<ReloadRequest>,
}

struct Shared {
    node: AdminState,
    pulse: Pulse,
}

/// Binds the address and reads the token; then serve with [`serve`].
///
/// # Errors
/// When the address can't be bound, or the token file can't be read or is empty.
pub async fn bind(admin: &Admin) -> Result<(TcpListener, Option<String>)> {
    let listener = TcpListener::bind(admin.listen)
        .await
        .with_context(|| format!("admin.listen: {}: can't be bound; choose another", admin.listen))?;
    let token = admin.token_file.as_deref().map(read_token).transpose()?;
    Ok((listener, token))
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, node: AdminState) {
    server::run(listener, router(node)).await;
}

fn router(node: AdminState) -> Router {
    let pulse = Pulse::new(node.cluster.heartbeat.clone());
    let shared = Arc::new(Shared { node, pulse });
    let api = Router::new()
        .route("/cluster", get(cluster::describe))
        .route("/node", get(node::describe))
        .route("/cluster/members/{name}/leave", post(leave).delete(stay))
        .route("/drain", post(drain))
        .route("/reload", post(reload).get(last_reload))
        .route("/config/check", post(check_config))
        .route("/clients", get(clients::list))
        .route("/clients/{client_id}", delete(clients::disconnect))
        .route("/clients/{client_id}/subscriptions", get(clients::subscriptions))
        .route("/sessions", get(sessions::list))
        .route("/sessions/{client_id}", delete(sessions::end))
        .route("/retained", get(retained::list))
        .route("/retained/{topic}", get(retained::payload).delete(retained::end))
        .method_not_allowed_fallback(wrong_method)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(shared.clone(), authorize));
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::scrape))
        .nest("/api/v1", api)
        .method_not_allowed_fallback(wrong_method)
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(limits::ADMIN_BODY_BYTES_MAX as usize))
        .layer(middleware::from_fn(bound_body))
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

async fn wrong_method() -> Response {
    refuse(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path takes another method; GET reads, POST .../leave, /api/v1/drain, /api/v1/reload and /api/v1/config/check ask, DELETE .../leave takes back, DELETE .../clients/ID disconnects, DELETE .../sessions/ID ends a session, DELETE .../retained/TOPIC a retained message",
    )
}

/// A body that announces more than the bound is refused before anything is done.
async fn bound_body(request: Request, next: Next) -> Response {
    if request.body().size_hint().lower() > limits::ADMIN_BODY_BYTES_MAX {
        return refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is too large; only /api/v1/config/check needs one: a configuration file",
        );
    }
    next.run(request).await
}

async fn authorize(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.split_once(' '));
    let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token);
    match shared.node.token.load().as_deref() {
        Some(token) if !given.is_some_and(|given| same(given.as_bytes(), token.as_bytes())) => {
            let what =
                "the token is missing or wrong; send `Authorization: Bearer TOKEN` with the token of admin.token_file";
            let mut response = refuse(StatusCode::UNAUTHORIZED, what);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
        _ => next.run(request).await,
    }
}

/// Compares in a time that tells nothing of where the two differ.
fn same(given: &[u8], token: &[u8]) -> bool {
    let differs = given.iter().zip(token).fold(0, |differs, (a, b)| differs | (a ^ b));
    given.len() == token.len() && std::hint::black_box(differs) == 0
}

type Name = Result<Path<String>, PathRejection>;

async fn leave(shared: State<Arc<Shared>>, name: Name) -> Response {
    set_leaving(shared, name, true).await
}

async fn stay(shared: State<Arc<Shared>>, name: Name) -> Response {
    set_leaving(shared, name, false).await
}

async fn set_leaving(State(shared): State<Arc<Shared>>, name: Name, leaving: bool) -> Response {
    let Ok(Path(name)) = name else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "the member's name is not UTF-8; GET /api/v1/cluster lists the members",
        );
    };
    let (answer, wait) = oneshot::channel();
    let answered = async {
        if let Err(refusal) = ask(&shared, ClusterRequest::Leave { name, leaving, answer }).await {
            return refusal;
        }
        match wait.await {
            Ok(Ok(())) => StatusCode::ACCEPTED.into_response(),
            Ok(Err(error @ LeaveError::Unknown)) => {
                refuse(StatusCode::NOT_FOUND, &format!("{error}; GET /api/v1/cluster lists the members"))
            }
            Ok(Err(error @ LeaveError::Unavailable)) => refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
            Err(_) => ending(),
        }
    };
    timeout(limits::ADMIN_REQUEST_WAIT, answered).await.unwrap_or_else(|_| no_answer())
}

/// Reads everything again; says what is in force, what waits for a restart, and what could not be read.
async fn reload(State(shared): State<Arc<Shared>>) -> Response {
    match ask_reloader(&shared, ReloadRequest::Reload).await {
        Ok(report) if report.failed.is_empty() => axum::Json(report).into_response(),
        Ok(report) => (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(report)).into_response(),
        Err(refusal) => refusal,
    }
}

/// Says what came of it when everything was last read.
async fn last_reload(State(shared): State<Arc<Shared>>) -> Response {
    match ask_reloader(&shared, ReloadRequest::Last).await {
        Ok(report) => axum::Json(report).into_response(),
        Err(refusal) => refusal,
    }
}

/// Says whether the body would do as this node's configuration file.
async fn check_config(State(shared): State<Arc<Shared>>, text: String) -> Response {
    match ask_reloader(&shared, |answer| ReloadRequest::Check(text, answer)).await {
        Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(why)) => refuse(StatusCode::UNPROCESSABLE_ENTITY, &why),
        Err(refusal) => refusal,
    }
}

async fn ask_reloader<T>(
    shared: &Shared,
    request: impl FnOnce(oneshot::Sender<T>) -> ReloadRequest,
) -> Result<T, Response> {
    let (answer, wait) = oneshot::channel();
    let answered = async {
        shared.node.reload.send(request(answer)).await.ok()?;
        wait.await.ok()
    };
    match timeout(limits::ADMIN_REQUEST_WAIT, answered).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(ending()),
        Err(_) => Err(no_answer()),
    }
}

async fn drain(State(shared): State<Arc<Shared>>) -> Response {
    let (done, _) = oneshot::channel();
    let request = ClusterRequest::Drain { rate: limits::DRAIN_RATE, patience: limits::DRAIN_PATIENCE, done };
    match timeout(limits::ADMIN_REQUEST_WAIT, ask(&shared, request)).await {
        Ok(Ok(())) => StatusCode::ACCEPTED.into_response(),
        Ok(Err(refusal)) => refusal,
        Err(_) => no_answer(),
    }
}

/// Hands a request to the cluster's thread.
async fn ask(shared: &Shared, request: ClusterRequest) -> Result<(), Response> {
    shared.node.cluster.requests.send(request).await.map_err(|_| ending())
}

fn ending() -> Response {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "this node is ending; ask another")
}

fn no_answer() -> Response {
    let within = limits::ADMIN_REQUEST_WAIT.as_secs();
    let what =
        format!("the cluster gave no answer within {within} s; the request may yet be done: look, then try again");
    refuse(StatusCode::SERVICE_UNAVAILABLE, &what)
}

#[cfg(test)]
mod tests;
