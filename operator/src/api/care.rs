//! How the pods are looked after: how many may be evicted, and who collects their metrics.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How many brokers may be evicted at once, by the maintenance of nodes for example.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionBudget {
    /// Whether there is a PodDisruptionBudget. A single broker never has one.
    #[serde(default = "yes")]
    pub enabled: bool,

    /// Brokers that may be evicted at once. Unset: as many as every shard can lose and keep its majority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 49))]
    pub max_unavailable: Option<i32>,
}

impl Default for DisruptionBudget {
    fn default() -> Self {
        Self { enabled: true, max_unavailable: None }
    }
}

/// Who collects the brokers' metrics.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// Whether there is a PodMonitor, where the Kubernetes cluster knows such things.
    #[serde(default = "yes")]
    pub enabled: bool,

    /// How often metrics are collected, as Prometheus writes it. Unset: as Prometheus is set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 32))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]+(ms|s|m|h))+$')")
            .message("monitoring.interval must be a duration such as 30s")
    )]
    pub interval: Option<String>,

    /// Labels by which a Prometheus finds the PodMonitor.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self { enabled: true, interval: None, labels: BTreeMap::new() }
    }
}

fn yes() -> bool {
    true
}
