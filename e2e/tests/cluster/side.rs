//! A namespace for resources beside the example, of the strictest kind that Kubernetes has. One test after the other uses it; those
//! that are about what remains delete it, with all that others have left in it.

use std::time::Duration;

use anyhow::{Context, Result};
use mqtt_e2e::cluster::Cluster;
use serde_json::{Value, json};

/// Its name.
pub const SIDE: &str = "mqtt-side";
/// A namespace goes, with all that is in it.
pub const GONE_DEADLINE: Duration = Duration::from_secs(90);

/// What every small resource has.
pub fn small(further: Value) -> Value {
    let mut spec = json!({
        "replicas": 1, "persistence": { "size": "64Mi", "deletionPolicy": "Delete" },
        "resources": { "requests": { "cpu": "20m", "memory": "32Mi" } },
    });
    if let (Some(spec), Value::Object(further)) = (spec.as_object_mut(), further) {
        spec.extend(further);
    }
    spec
}

/// Makes it, if it is not there.
pub async fn make(cluster: &Cluster) -> Result<()> {
    if cluster.kubectl(["get", "namespace", SIDE]).output().await.is_err() {
        cluster.kubectl(["create", "namespace", SIDE]).output().await?;
        // Pods that ask for more than they need are refused.
        let strict = ["label", "namespace", SIDE, "pod-security.kubernetes.io/enforce=restricted"];
        cluster.kubectl(strict).output().await?;
    }
    Ok(())
}

/// Deletes it with all that is in it, whatever state that is in.
pub async fn delete(cluster: &Cluster) -> Result<()> {
    let delete = ["delete", "namespace", SIDE];
    cluster.kubectl(delete).deadline(GONE_DEADLINE).output().await.context("the namespace must go").map(drop)
}
