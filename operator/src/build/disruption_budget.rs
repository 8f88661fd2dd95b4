//! How many pods may be evicted at once: as many as every shard can lose and keep its majority, but one at least.
//! A single broker has none, because its budget would block the maintenance of its node for ever.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{Blueprint, metadata};

pub(super) fn build(blueprint: &Blueprint<'_>) -> Option<PodDisruptionBudget> {
    let broker = blueprint.broker;
    let wanted = &broker.spec.pod_disruption_budget;
    if broker.spec.replicas == 1 || !wanted.enabled {
        return None;
    }
    let factor = broker.spec.replication.factor.unwrap_or(if broker.spec.replicas < 3 { 1 } else { 3 });
    let evictable = wanted.max_unavailable.unwrap_or(((factor - 1) / 2).max(1));
    Some(PodDisruptionBudget {
        metadata: metadata(blueprint, broker.names.disruption_budget()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(evictable)),
            selector: Some(LabelSelector {
                match_labels: Some(broker.names.selector_labels()),
                ..LabelSelector::default()
            }),
            // A pod that isn't ready protects nothing by staying on a node that is being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}
