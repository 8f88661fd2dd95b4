//! `/api/v1/clients`: who is connected to this node, page by page, and their end.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Shared, ending, no_answer, refuse};
use crate::limits::{ADMIN_PAGE_MAX, ADMIN_REQUEST_WAIT};
use crate::worker::{Ask, ConnectedClient};

/// `?after=CLIENT_ID&limit=N`.
#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    after: String,
    limit: Option<usize>,
}

impl Page {
    /// Where to begin, and how many are asked for.
    #[expect(clippy::result_large_err, reason = "the error is the answer")]
    pub(super) fn bounded(page: Result<Query<Page>, QueryRejection>) -> Result<(String, usize), Response> {
        let limit_max = ADMIN_PAGE_MAX;
        let (after, limit) = match page {
            Ok(Query(Page { after, limit })) => (after, limit.unwrap_or(limit_max)),
            Err(_) => (String::new(), 0),
        };
        if !(1..=limit_max).contains(&limit) {
            let what = format!("write ?after=CLIENT_ID&limit=N, with a limit from 1 to {limit_max}");
            return Err(refuse(StatusCode::BAD_REQUEST, &what));
        }
        Ok((after, limit))
    }
}

#[derive(Serialize)]
struct Clients {
    clients: Vec<ConnectedClient>,
    /// What to give as `after` for the next page; absent on the last.
    next: Option<String>,
}

type ClientId = Result<Path<String>, PathRejection>;

pub(super) async fn list(State(shared): State<Arc<Shared>>, page: Result<Query<Page>, QueryRejection>) -> Response {
    let (after, limit) = match Page::bounded(page) {
        Ok(bounded) => bounded,
        Err(refusal) => return refusal,
    };
    let asked = ask_all(&shared, |answer| Ask::Clients { after: after.clone(), limit: limit + 1, answer }).await;
    let mut clients: Vec<ConnectedClient> = match asked {
        Ok(lists) => lists.into_iter().flatten().collect(),
        Err(refusal) => return refusal,
    };
    clients.sort_by(|left, right| left.client_id.cmp(&right.client_id));
    let more = clients.len() > limit;
    clients.truncate(limit);
    let next = clients.last().filter(|_| more).map(|last| last.client_id.clone());
    Json(Clients { clients, next }).into_response()
}

pub(super) async fn subscriptions(State(shared): State<Arc<Shared>>, client_id: ClientId) -> Response {
    let Ok(Path(client_id)) = client_id else { return not_utf8() };
    match ask_all(&shared, |answer| Ask::Subscriptions { client_id: client_id.clone(), answer }).await {
        Err(refusal) => refusal,
        Ok(answers) => match answers.into_iter().flatten().next() {
            Some(subscriptions) => Json(serde_json::json!({ "subscriptions": subscriptions })).into_response(),
            None => not_connected(),
        },
    }
}

pub(super) async fn disconnect(State(shared): State<Arc<Shared>>, client_id: ClientId) -> Response {
    let Ok(Path(client_id)) = client_id else { return not_utf8() };
    match ask_all(&shared, |answer| Ask::Disconnect { client_id: client_id.clone(), answer }).await {
        Err(refusal) => refusal,
        Ok(answers) if answers.contains(&true) => StatusCode::NO_CONTENT.into_response(),
        Ok(_) => not_connected(),
    }
}

/// Asks every worker, and waits for all of them.
async fn ask_all<T>(shared: &Shared, ask: impl Fn(oneshot::Sender<T>) -> Ask) -> Result<Vec<T>, Response> {
    let answered = async {
        let mut waits = Vec::new();
        for worker in &shared.node.workers {
            let (answer, wait) = oneshot::channel();
            worker.asks.send(ask(answer)).await.map_err(|_| ending())?;
            waits.push(wait);
        }
        let mut answers = Vec::new();
        for wait in waits {
            answers.push(wait.await.map_err(|_| ending())?);
        }
        Ok(answers)
    };
    match timeout(ADMIN_REQUEST_WAIT, answered).await {
        Ok(answers) => answers,
        Err(_) => Err(no_answer()),
    }
}

fn not_connected() -> Response {
    refuse(StatusCode::NOT_FOUND, "no such client is connected to this node; GET /api/v1/clients lists them")
}

pub(super) fn not_utf8() -> Response {
    refuse(StatusCode::BAD_REQUEST, "the client id is not UTF-8; GET /api/v1/clients lists them")
}
