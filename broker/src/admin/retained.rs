//! `/api/v1/retained`: the retained messages of the whole cluster, page by page, the payload of one, and its end.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Shared, ask, no_answer, refuse};
use crate::cluster::handle::ClusterRequest;
use crate::limits::{ADMIN_PAGE_MAX, ADMIN_REQUEST_WAIT};
use crate::message::Message;
use crate::protocol::{parse_filter, valid_topic_name};
use crate::shard;

#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default = "everything")]
    filter: String,
    after: Option<String>,
    #[serde(default = "page_max")]
    limit: usize,
}

fn everything() -> String {
    "#".to_owned()
}

fn page_max() -> usize {
    ADMIN_PAGE_MAX
}

#[derive(Serialize)]
struct Retained {
    retained: Vec<RetainedMessage>,
    /// What to give as `after` for the next page; absent on the last.
    next: Option<Arc<str>>,
}

#[derive(Serialize)]
struct RetainedMessage {
    topic: Arc<str>,
    qos: u8,
    payload_bytes: usize,
    /// Milliseconds since the Unix epoch; absent if it does not expire.
    expires_at_ms: Option<u64>,
}

/// Lists what a subscriber to the filter would be sent: `#` does not match `$`-topics ([MQTT-4.7.2-1]).
pub(super) async fn list(State(shared): State<Arc<Shared>>, page: Result<Query<Page>, QueryRejection>) -> Response {
    let page = page.ok().map(|Query(page)| page);
    let page = page.filter(|page| (1..=ADMIN_PAGE_MAX).contains(&page.limit) && plain(&page.filter));
    let Some(Page { filter, after, limit }) = page else {
        let what = format!(
            "write ?filter=FILTER&after=TOPIC&limit=N, with a topic filter and a limit from 1 to {ADMIN_PAGE_MAX}"
        );
        return refuse(StatusCode::BAD_REQUEST, &what);
    };
    let shard::Page { messages, next } = match read(&shared, filter, after, limit).await {
        Ok(page) => page,
        Err(refusal) => return refusal,
    };
    let retained = messages.into_iter().map(|message| RetainedMessage {
        topic: message.topic,
        qos: message.qos as u8,
        payload_bytes: message.payload.len(),
        expires_at_ms: message.expires_at_ms,
    });
    Json(Retained { retained: retained.collect(), next }).into_response()
}

/// A topic filter, and not one of a shared subscription, which gets no retained messages.
fn plain(filter: &str) -> bool {
    parse_filter(filter).is_some_and(|filter| filter.share.is_none())
}

type Topic = Result<Path<String>, PathRejection>;

/// Answers with the bytes as they were published.
pub(super) async fn payload(State(shared): State<Arc<Shared>>, topic: Topic) -> Response {
    match find(&shared, topic).await {
        Ok(message) => {
            let headers =
                [(header::CONTENT_TYPE, "application/octet-stream"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
            (headers, message.payload).into_response()
        }
        Err(refusal) => refusal,
    }
}

pub(super) async fn end(State(shared): State<Arc<Shared>>, topic: Topic) -> Response {
    let topic = match find(&shared, topic).await {
        Ok(message) => message.topic.to_string(),
        Err(refusal) => return refusal,
    };
    let (answer, wait) = oneshot::channel();
    match answered(&shared, ClusterRequest::DeleteRetained { topic, answer }, wait).await {
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => refusal,
    }
}

/// The retained message of a topic.
async fn find(shared: &Shared, topic: Topic) -> Result<Message, Response> {
    let topic = topic.ok().map(|Path(topic)| topic).filter(|topic| valid_topic_name(topic));
    let Some(topic) = topic else {
        let what = "this is no topic name; write it percent-encoded, a/b as a%2Fb, without wildcards";
        return Err(refuse(StatusCode::BAD_REQUEST, what));
    };
    let found = read(shared, topic, None, 1).await?.messages.pop();
    found.ok_or_else(|| {
        refuse(StatusCode::NOT_FOUND, "this topic has no retained message; GET /api/v1/retained lists them")
    })
}

async fn read(shared: &Shared, filter: String, after: Option<String>, count: usize) -> Result<shard::Page, Response> {
    let (answer, wait) = oneshot::channel();
    answered(shared, ClusterRequest::Retained { filter, after, count, answer }, wait).await
}

async fn answered<T>(shared: &Shared, request: ClusterRequest, wait: oneshot::Receiver<T>) -> Result<T, Response> {
    let answered = async {
        ask(shared, request).await?;
        wait.await.map_err(|_| no_answer())
    };
    match timeout(ADMIN_REQUEST_WAIT, answered).await {
        Ok(answer) => answer,
        Err(_) => Err(no_answer()),
    }
}
