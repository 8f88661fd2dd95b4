//! `/api/v1/sessions`: the sessions of the whole cluster that outlive their connections, page by page, and their end.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::clients::{Page, not_utf8};
use super::{Shared, ask, no_answer, refuse};
use crate::cluster::handle::ClusterRequest;
use crate::limits::ADMIN_REQUEST_WAIT;
use crate::shard::StoredSession;

#[derive(Serialize)]
struct Sessions {
    sessions: Vec<StoredSession>,
    /// What to give as `after` for the next page; absent on the last.
    next: Option<String>,
}

pub(super) async fn list(State(shared): State<Arc<Shared>>, page: Result<Query<Page>, QueryRejection>) -> Response {
    let (after, limit) = match Page::bounded(page) {
        Ok(bounded) => bounded,
        Err(refusal) => return refusal,
    };
    let (answer, wait) = oneshot::channel();
    let request = ClusterRequest::Sessions { after, count: limit + 1, answer };
    let answered = async {
        ask(&shared, request).await?;
        wait.await.map_err(|_| no_answer())
    };
    let mut sessions = match timeout(ADMIN_REQUEST_WAIT, answered).await {
        Ok(Ok(sessions)) => sessions,
        Ok(Err(refusal)) => return refusal,
        Err(_) => return no_answer(),
    };
    let more = sessions.len() > limit;
    sessions.truncate(limit);
    let next = sessions.last().filter(|_| more).map(|last| last.client_id.to_string());
    Json(Sessions { sessions, next }).into_response()
}

pub(super) async fn end(State(shared): State<Arc<Shared>>, client_id: Result<Path<String>, PathRejection>) -> Response {
    let Ok(Path(client_id)) = client_id else { return not_utf8() };
    let (answer, wait) = oneshot::channel();
    let answered = async {
        ask(&shared, ClusterRequest::EndSession { client_id, answer }).await?;
        wait.await.map_err(|_| no_answer())
    };
    match timeout(ADMIN_REQUEST_WAIT, answered).await {
        Ok(Ok(true)) => StatusCode::NO_CONTENT.into_response(),
        Ok(Ok(false)) => refuse(StatusCode::NOT_FOUND, "there is no such session; GET /api/v1/sessions lists them"),
        Ok(Err(refusal)) => refusal,
        Err(_) => no_answer(),
    }
}
