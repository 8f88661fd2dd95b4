//! `GET /api/v1/cluster`: what this node knows of all.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::Shared;
use crate::cluster::status::Status;

#[derive(Serialize)]
pub(super) struct Cluster {
    cluster_id: String,
    initialised: bool,
    version: &'static str,
    failover_ready: bool,
    failover_reason: String,
    replication_factor: usize,
    members: Vec<Member>,
    shards: Shards,
    connections: u64,
    sessions: u64,
    /// Replicas of the node that answers.
    damaged: Vec<Damaged>,
}

#[derive(Serialize)]
struct Member {
    id: String,
    name: String,
    address: String,
    state: &'static str,
    shards_led: usize,
    replicas: usize,
    connections: u32,
    version: String,
}

#[derive(Serialize)]
struct Damaged {
    group: String,
    stage: &'static str,
    reason: String,
}

#[derive(Serialize)]
struct Shards {
    total: u16,
    under_replicated: usize,
    without_leader: usize,
}

pub(super) async fn describe(State(shared): State<Arc<Shared>>) -> Json<Cluster> {
    let status = shared.node.cluster.status.borrow().clone();
    Json(Cluster::of(&status))
}

impl Cluster {
    pub(super) fn of(status: &Status) -> Cluster {
        let members = status.members.iter().map(|member| Member {
            id: member.origin.node.to_string(),
            name: member.name.clone(),
            address: member.address.clone(),
            state: member.state.name(),
            shards_led: member.shards_led,
            replicas: member.replicas,
            connections: member.connections,
            version: member.version.clone(),
        });
        let damaged = status.damaged.iter().map(|(group, replica)| Damaged {
            group: group.to_string(),
            stage: replica.stage.name(),
            reason: replica.reason.clone(),
        });
        Cluster {
            cluster_id: format!("{:016x}", status.cluster),
            initialised: status.cluster != 0,
            version: env!("CARGO_PKG_VERSION"),
            failover_ready: status.not_failover_ready.is_empty(),
            failover_reason: status.not_failover_ready.clone(),
            replication_factor: status.factor,
            members: members.collect(),
            shards: Shards {
                total: status.shards,
                under_replicated: status.under_replicated,
                without_leader: status.without_leader,
            },
            connections: status.members.iter().map(|member| u64::from(member.connections)).sum(),
            sessions: status.members.iter().map(|member| member.sessions).sum(),
            damaged: damaged.collect(),
        }
    }
}
