//! `GET /metrics`: the text format of Prometheus. Names are stable; each is prefixed `mqtt_broker_`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::{AdminState, Shared};
use crate::shard::Totals;
use crate::storage::Health;

/// Worker counters that go up and down.
const GAUGES: [&str; 2] = ["connections", "sessions"];

pub(super) async fn scrape(State(shared): State<Arc<Shared>>) -> Response {
    let mut registry = Registry::with_prefix("mqtt_broker");
    registry.register_collector(Box::new(Snapshot::of(&shared.node)));
    let mut out = String::new();
    match text::encode(&mut out, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], out)
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The figures at the time of a scrape.
#[derive(Debug)]
struct Snapshot {
    workers: BTreeMap<&'static str, (&'static str, u64)>,
    forwards_dropped: u64,
    rebuilt: u64,
    totals: Totals,
    gauges: Vec<(&'static str, &'static str, i64)>,
    listeners: Vec<Listener>,
}

/// The figures of one listener.
#[derive(Debug)]
struct Listener {
    url: String,
    connections: u64,
    accepted: u64,
    refused_full: u64,
    handshakes_failed: u64,
}

impl Snapshot {
    fn of(node: &AdminState) -> Snapshot {
        let mut workers: BTreeMap<&'static str, (&'static str, u64)> = BTreeMap::new();
        for worker in &node.workers {
            for (name, help, value) in worker.counters.read().named() {
                // The encoder ends each help with a full stop of its own.
                workers.entry(name).or_insert((help.trim().trim_end_matches('.'), 0)).1 += value;
            }
        }
        let status = node.cluster.status.borrow();
        let connections: i64 = status.members.iter().map(|member| i64::from(member.connections)).sum();
        let sessions: u64 = status.members.iter().map(|member| member.sessions).sum();
        let gauges = vec![
            ("members", "Members of the cluster", status.members.len() as i64),
            ("cluster_connections", "Client connections of all members", connections),
            ("cluster_sessions", "Persistent sessions of the cluster", sessions as i64),
            ("peers_linked", "Nodes that this one has a link to", status.linked as i64),
            ("shards", "Shards of the cluster", i64::from(status.shards)),
            ("shards_under_replicated", "Shards that lack a replica in sync", status.under_replicated as i64),
            ("shards_without_leader", "Shards that nobody leads", status.without_leader as i64),
            (
                "replicas_damaged",
                "Replicas here that the disk has damaged and that are not rebuilt yet",
                status.damaged.len() as i64,
            ),
            ("replication_factor", "Voters of each shard", status.factor as i64),
            (
                "storage_refuses",
                "1 while the data directory takes nothing, being full or broken",
                i64::from(status.storage != Health::Healthy),
            ),
            ("serving", "1 while this node accepts CONNECT and PUBLISH", i64::from(status.serving)),
            (
                "failover_ready",
                "1 while any one node may die without harm",
                i64::from(status.not_failover_ready.is_empty()),
            ),
            (
                "queued_messages",
                "Messages in the queues of the shards this node leads",
                status.totals.queued_items as i64,
            ),
            ("queued_bytes", "Bytes of them", status.totals.queued_bytes as i64),
            (
                "retained_messages",
                "Retained messages of the shards this node leads",
                status.totals.retained_items as i64,
            ),
            ("retained_bytes", "Bytes of them", status.totals.retained_bytes as i64),
            ("subscribes_unsettled", "SUBSCRIBEs that wait for other nodes", status.unsettled as i64),
        ];
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let listeners = node.entrances.iter().map(|entrance| Listener {
            url: entrance.url.clone(),
            connections: read(&entrance.connections),
            accepted: read(&entrance.accepted),
            refused_full: read(&entrance.refused_full),
            handshakes_failed: read(&entrance.handshakes_failed),
        });
        let (forwards_dropped, rebuilt, totals) = (status.forwards_dropped, status.rebuilt, status.totals);
        Snapshot { workers, forwards_dropped, rebuilt, totals, gauges, listeners: listeners.collect() }
    }
}

/// Which of a listener's counters.
type CountOf = fn(&Listener) -> u64;

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, (help, value)) in &self.workers {
            if name.starts_with("dropped_") || name.starts_with("refused_") {
                // These are two families, below.
                continue;
            }
            if GAUGES.contains(name) {
                let gauge = ConstGauge::new(*value as i64);
                gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
            } else {
                let counter = ConstCounter::new(*value);
                counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
            }
        }
        let counter = ConstCounter::new(self.rebuilt);
        let help = "Replicas here that were damaged and are rebuilt";
        counter.encode(encoder.encode_descriptor("replicas_rebuilt", help, None, counter.metric_type())?)?;
        let counter = ConstCounter::new(0_u64);
        let mut dropped = encoder.encode_descriptor(
            "messages_dropped",
            "Messages that were not delivered, by reason",
            None,
            counter.metric_type(),
        )?;
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::from([
            ("node_not_reached", self.forwards_dropped),
            ("queue_full", self.totals.dropped_queue_full),
            ("retained_full", self.totals.refused_retained_full),
            ("without_member", self.totals.dropped_without_member),
        ]);
        for (name, (_, value)) in &self.workers {
            if let Some(reason) = name.strip_prefix("dropped_") {
                *reasons.entry(reason).or_default() += value;
            }
        }
        for (reason, value) in reasons {
            ConstCounter::new(value).encode(dropped.encode_family(&[("reason", reason)])?)?;
        }
        let help = "What clients asked and a limit did not allow, by reason";
        let mut refused = encoder.encode_descriptor("refused", help, None, counter.metric_type())?;
        for (name, (_, value)) in &self.workers {
            if let Some(reason) = name.strip_prefix("refused_") {
                ConstCounter::new(*value).encode(refused.encode_family(&[("reason", reason)])?)?;
            }
        }
        let gauge = ConstGauge::new(0_i64);
        let mut open = encoder.encode_descriptor(
            "listener_connections",
            "Connections that exist now, by listener",
            None,
            gauge.metric_type(),
        )?;
        for listener in &self.listeners {
            let labels = [("listener", listener.url.as_str())];
            ConstGauge::new(listener.connections as i64).encode(open.encode_family(&labels)?)?;
        }
        let counted: [(&str, &str, CountOf); 3] = [
            ("listener_accepted", "Connections accepted, by listener", |listener| listener.accepted),
            (
                "listener_refused_full",
                "Connections closed because there were connections_max, by listener",
                |listener| listener.refused_full,
            ),
            ("listener_handshakes_failed", "Connections that ended before MQTT began, by listener", |listener| {
                listener.handshakes_failed
            }),
        ];
        for (name, help, value) in counted {
            let mut family = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            for listener in &self.listeners {
                let labels = [("listener", listener.url.as_str())];
                ConstCounter::new(value(listener)).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, value) in &self.gauges {
            let gauge = ConstGauge::new(*value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
