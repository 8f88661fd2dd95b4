//! The rules of the resource, put to the real API server: the same table that the operator's own tests go through.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mqtt_e2e::cluster::Cluster;
use serde_json::{Value, json};

#[path = "../../../operator/tests/rules/case.rs"]
mod case;

use case::Example;

/// Where they are put.
pub const NAMESPACE: &str = "mqtt-rules";
const NAMESPACE_DEADLINE: Duration = Duration::from_secs(60);

pub async fn the_api_server_keeps_each_rule(cluster: &Cluster) -> Result<()> {
    let cases = case::cases()?;
    ensure!(cases.len() >= 20, "only {} rules", cases.len());
    cluster.kubectl(["create", "namespace", NAMESPACE]).output().await?;
    for (number, case) in cases.iter().enumerate() {
        let accepted = verdict(cluster, &case.accepts, &format!("accepted-{number}")).await;
        accepted.with_context(|| format!("{}: must be accepted", case.rule))?;
        let Err(refusal) = verdict(cluster, &case.rejects, &format!("rejected-{number}")).await else {
            anyhow::bail!("{}: was accepted", case.rule);
        };
        ensure!(format!("{refusal:#}").contains(&case.says), "{}: {refusal:#}", case.rule);
    }
    println!("{} rules, each with something accepted and something rejected", cases.len());
    let delete = ["delete", "namespace", NAMESPACE];
    cluster.kubectl(delete).deadline(NAMESPACE_DEADLINE).output().await.map(drop)
}

/// What the API server says to an example, which is not kept; what was before it is, so that it can be changed.
async fn verdict(cluster: &Cluster, example: &Example, name: &str) -> Result<()> {
    let resource = |spec: &Value| {
        json!({
            "apiVersion": "mqttbroker.dev/v1alpha1", "kind": "MqttBroker", "spec": spec,
            "metadata": {
                "name": example.name.as_deref().unwrap_or(name), "namespace": NAMESPACE,
                // No pod is wanted here, only words.
                "annotations": { "mqttbroker.dev/paused": "true" },
            },
        })
        .to_string()
    };
    let ask = match &example.before {
        None => ["create", "--dry-run=server", "-f", "-"],
        Some(before) => {
            cluster.kubectl(["create", "-f", "-"]).input(resource(before)).output().await.context("what was before")?;
            ["replace", "--dry-run=server", "-f", "-"]
        }
    };
    cluster.kubectl(ask).input(resource(&example.spec)).output().await.map(drop)
}
