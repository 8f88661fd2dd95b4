//! The `PodMonitor` of the Prometheus operator, as far as we write one. Its definition is not ours: where a Kubernetes
//! cluster doesn't know the kind, there is none.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{Client, CustomResource};
use serde::{Deserialize, Serialize};

/// Group and version under which the API server knows it.
const API: &str = "monitoring.coreos.com/v1";

/// Which pods are scraped, and where.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(group = "monitoring.coreos.com", version = "v1", kind = "PodMonitor", namespaced, schema = "disabled")]
#[serde(rename_all = "camelCase")]
pub struct PodMonitorSpec {
    /// The pods.
    #[serde(default)]
    pub selector: LabelSelector,
    /// Where their metrics are.
    #[serde(default)]
    pub pod_metrics_endpoints: Vec<PodMetricsEndpoint>,
}

/// Where the metrics of a pod are.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodMetricsEndpoint {
    /// Name of the container's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Path on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// What others have set.
    #[serde(flatten)]
    pub further: BTreeMap<String, serde_json::Value>,
}

/// Whether the Kubernetes cluster knows the kind. Asked once: whoever installs it later restarts the operator.
pub async fn is_known(client: &Client) -> Result<bool, kube::Error> {
    match client.list_api_group_resources(API).await {
        Ok(resources) => Ok(resources.resources.iter().any(|resource| resource.kind == "PodMonitor")),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}
