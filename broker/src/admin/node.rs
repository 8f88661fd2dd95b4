//! `GET /api/v1/node`: what this node says of itself alone, whether or not it reaches any other.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::{Shared, health};
use crate::storage::Health;

#[derive(Serialize)]
pub(super) struct Node {
    name: String,
    version: &'static str,
    ready: bool,
    /// Why not; empty when it is.
    not_ready: String,
    storage: Storage,
}

/// Whether the data directory takes what is to be stored.
#[derive(Serialize)]
struct Storage {
    /// `healthy`; `full`: it has no space, and is tried again; `failed`: only a restart helps.
    state: &'static str,
    /// Why it has failed.
    reason: String,
}

pub(super) async fn describe(State(shared): State<Arc<Shared>>) -> Json<Node> {
    let not_ready = health::why_not_ready(&shared);
    let status = shared.node.cluster.status.borrow();
    let (state, reason) = match &status.storage {
        Health::Healthy => ("healthy", ""),
        Health::Full => ("full", ""),
        Health::Failed(reason) => ("failed", reason.as_str()),
    };
    Json(Node {
        name: status.name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        ready: not_ready.is_none(),
        not_ready: not_ready.unwrap_or_default(),
        storage: Storage { state, reason: reason.to_owned() },
    })
}
