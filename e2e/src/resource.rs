//! One `MqttBroker` as a person handles it with `kubectl`: applied, patched, waited for, looked at.
//!
//! Deliberately absent: the types of the operator. What is read here is the JSON of the API, as everybody sees it.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::wait::{self, Seen};

/// A resource, which need not exist yet.
pub struct Resource<'a> {
    cluster: &'a Cluster,
    namespace: String,
    name: String,
}

impl<'a> Resource<'a> {
    /// Of this name.
    pub fn named(cluster: &'a Cluster, namespace: &str, name: &str) -> Self {
        Self { cluster, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// `kubectl apply` of a resource with this spec.
    pub async fn apply(&self, spec: &Value) -> Result<()> {
        let resource = json!({
            "apiVersion": "mqttbroker.dev/v1alpha1", "kind": "MqttBroker",
            "metadata": { "name": self.name, "namespace": self.namespace }, "spec": spec,
        });
        self.cluster.kubectl(["apply", "-f", "-"]).input(resource.to_string()).output().await.map(drop)
    }

    /// `kubectl patch` of its spec.
    pub async fn patch(&self, spec: &Value) -> Result<()> {
        let patch = json!({ "spec": spec }).to_string();
        let args = ["patch", "mqb", &self.name, "-n", &self.namespace, "--type=merge", "-p", &patch];
        self.cluster.kubectl(args).output().await.map(drop)
    }

    /// `kubectl annotate`, `KEY=VALUE` or `KEY-`.
    pub async fn annotate(&self, annotation: &str) -> Result<()> {
        let args = ["annotate", "mqb", &self.name, "-n", &self.namespace, "--overwrite", annotation];
        self.cluster.kubectl(args).output().await.map(drop)
    }

    /// `kubectl delete`, to its end.
    pub async fn delete(&self, deadline: Duration) -> Result<()> {
        let args = ["delete", "mqb", &self.name, "-n", &self.namespace];
        self.cluster.kubectl(args).deadline(deadline).output().await.map(drop)
    }

    /// The resource as it is.
    pub async fn get(&self) -> Result<Value> {
        let args = ["get", "mqb", &self.name, "-n", &self.namespace, "-o", "json"];
        serde_json::from_str(&self.cluster.kubectl(args).output().await?).context("reading an MqttBroker")
    }

    /// Objects of a kind that belong to it.
    pub async fn owned(&self, kind: &str) -> Result<Vec<Value>> {
        let selector = format!("app.kubernetes.io/instance={}", self.name);
        let args = ["get", kind, "-n", &self.namespace, "-l", &selector, "-o", "json"];
        let mut list: Value = serde_json::from_str(&self.cluster.kubectl(args).output().await?)?;
        serde_json::from_value(list["items"].take()).with_context(|| format!("reading the list of {kind}"))
    }

    /// What each of its pods is: name and identity. A pod that was made again has another.
    pub async fn pod_identities(&self) -> Result<Vec<(String, String)>> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pods = self.owned("pod").await?;
        Ok(pods.iter().map(|pod| (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]))).collect())
    }

    /// Waits until so many brokers are there, members, ready, and safe from the loss of one, and run what the resource says.
    pub async fn available(&self, replicas: i64, deadline: Duration) -> Result<()> {
        wait::until(&format!("{replicas} brokers of {} available", self.name), deadline, async || {
            standing(&self.get().await?, replicas)
        })
        .await
    }

    /// Waits until a condition has a status and a reason, of this generation; returns its message.
    pub async fn says(&self, kind: &str, status: &str, reason: &str, deadline: Duration) -> Result<String> {
        wait::until(&format!("{kind} of {} is {status}, {reason}", self.name), deadline, async || {
            let resource = self.get().await?;
            let condition = condition(&resource["status"], kind).cloned().unwrap_or_default();
            let current = condition["observedGeneration"] == resource["metadata"]["generation"];
            if current && condition["status"] == status && condition["reason"] == reason {
                return Ok(Seen::Yes(condition["message"].as_str().unwrap_or_default().to_owned()));
            }
            Ok(Seen::NotYet(condition.to_string()))
        })
        .await
    }
}

/// How the resource stands against what is waited for.
fn standing(resource: &Value, replicas: i64) -> Result<Seen<()>> {
    let status = &resource["status"];
    let current = status["observedGeneration"] == resource["metadata"]["generation"];
    let is_true = |kind: &str| condition(status, kind).is_some_and(|condition| condition["status"] == "True");
    let counted = ["replicas", "readyReplicas", "members"].iter().all(|field| status[field] == replicas);
    let safe = replicas < 3 || is_true("FailoverReady");
    let done = is_true("Available") && is_true("ConfigApplied");
    Ok(wait::seen(current && counted && safe && done, || {
        let words =
            |kind| condition(status, kind).and_then(|condition| condition["message"].as_str()).unwrap_or("not said");
        format!(
            "{} pods, {} ready, {} members; Available: {}; Progressing: {}; FailoverReady: {}; Degraded: {}",
            status["replicas"],
            status["readyReplicas"],
            status["members"],
            words("Available"),
            words("Progressing"),
            words("FailoverReady"),
            words("Degraded")
        )
    }))
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(members: i64, observed: i64) -> Value {
        let is = |kind: &str| json!({ "type": kind, "status": "True", "message": "so it is" });
        json!({
            "metadata": { "generation": 2 },
            "status": {
                "observedGeneration": observed, "replicas": 3, "readyReplicas": 3, "members": members,
                "conditions": [is("Available"), is("FailoverReady"), is("ConfigApplied")],
            },
        })
    }

    #[test]
    fn available_means_this_generation_with_all_members() {
        assert!(matches!(standing(&broker(3, 2), 3), Ok(Seen::Yes(()))));
        assert!(matches!(standing(&broker(2, 2), 3), Ok(Seen::NotYet(_))));
        assert!(matches!(standing(&broker(3, 1), 3), Ok(Seen::NotYet(_))));
        assert!(matches!(standing(&json!({}), 3), Ok(Seen::NotYet(_))));
    }
}
