//! Who is to collect the brokers' metrics, where the Kubernetes cluster knows such an object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::ObjectMeta;

use super::{Blueprint, metadata};
use crate::pod_monitor::{PodMetricsEndpoint, PodMonitor, PodMonitorSpec};

pub(super) fn build(blueprint: &Blueprint<'_>) -> Option<PodMonitor> {
    let broker = blueprint.broker;
    let monitoring = &broker.spec.monitoring;
    if !monitoring.enabled || !blueprint.settings.pod_monitors {
        return None;
    }
    let ObjectMeta { labels, .. } = metadata(blueprint, broker.names.pod_monitor());
    let mut monitor = PodMonitor::new(
        &broker.names.pod_monitor(),
        PodMonitorSpec {
            selector: LabelSelector { match_labels: Some(broker.names.selector_labels()), ..LabelSelector::default() },
            pod_metrics_endpoints: vec![PodMetricsEndpoint {
                port: Some("admin".to_owned()),
                path: Some("/metrics".to_owned()),
                interval: monitoring.interval.clone(),
                ..PodMetricsEndpoint::default()
            }],
        },
    );
    monitor.metadata = metadata(blueprint, broker.names.pod_monitor());
    // Ours last: they are how we find it again.
    monitor.metadata.labels = Some(monitoring.labels.clone().into_iter().chain(labels.into_iter().flatten()).collect());
    Some(monitor)
}
