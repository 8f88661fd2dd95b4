//! What a person reads of a resource with `kubectl`, and what the API server makes of the README's example.

use anyhow::{Context, Result, ensure};
use mqtt_e2e::cluster::Cluster;
use mqtt_e2e::installation::{BROKER, Installation, NAMESPACE, root};
use serde_json::{Value, json};

use super::TRAFFIC_DEADLINE;

/// What was told while the example became five brokers and three again.
const TOLD: [&str; 8] =
    ["Created", "Founded", "Available", "FailoverReady", "ScalingOut", "MemberLeaving", "ScalingIn", "ClaimDeleted"];

pub async fn kubectl_tells_the_truth(cluster: &Cluster) -> Result<()> {
    let installation = Installation::on(cluster);
    installation.available(3, TRAFFIC_DEADLINE).await?;
    let wait = ["wait", "mqb", BROKER, "-n", NAMESPACE, "--for=condition=Available", "--timeout=20s"];
    cluster.kubectl(wait).output().await?;
    let table = installation.get().await?;
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let (head, row) = rows.next().zip(rows.next()).context("kubectl shows no resource")?;
    let columns = ["NAME", "REPLICAS", "READY", "FAILOVER", "CONNECTIONS", "VERSION", "AGE"];
    ensure!(head == columns, "the columns are {head:?}");
    ensure!(row.starts_with(&[BROKER, "3", "3", "True"]) && row.len() == columns.len(), "the row is {row:?}");
    autoscalers_find_the_pods(cluster, &installation).await?;
    events_tell_what_happened(cluster).await?;
    the_example_of_the_readme_gets_its_defaults(cluster).await
}

/// `/scale` has a selector, which finds the brokers' pods and no others.
async fn autoscalers_find_the_pods(cluster: &Cluster, installation: &Installation<'_>) -> Result<()> {
    let path = format!("/apis/mqttbroker.dev/v1alpha1/namespaces/{NAMESPACE}/mqttbrokers/{BROKER}/scale");
    let scale: Value = serde_json::from_str(&cluster.kubectl(["get", "--raw", &path]).output().await?)?;
    ensure!(scale["spec"]["replicas"] == 3 && scale["status"]["replicas"] == 3, "{scale}");
    let selector = scale["status"]["selector"].as_str().context("/scale has no selector")?;
    let found = cluster.kubectl(["get", "pod", "-n", NAMESPACE, "-o", "name", "-l", selector]).output().await?;
    let mut pods: Vec<String> = installation.pods().await?.iter().map(|pod| format!("pod/{}", pod.name)).collect();
    pods.sort();
    ensure!(pods.len() == 3 && found.lines().eq(&pods), "by {selector} are found {found:?}, there are {pods:?}");
    Ok(())
}

async fn events_tell_what_happened(cluster: &Cluster) -> Result<()> {
    let list = cluster.kubectl(["get", "events.events.k8s.io", "-n", NAMESPACE, "-o", "json"]).output().await?;
    let list: Value = serde_json::from_str(&list)?;
    let about = |event: &&Value| event["regarding"]["kind"] == "MqttBroker" && event["regarding"]["name"] == BROKER;
    let told: Vec<&str> =
        list["items"].as_array().into_iter().flatten().filter(about).filter_map(|one| one["reason"].as_str()).collect();
    let missing: Vec<_> = TOLD.iter().filter(|reason| !told.contains(reason)).collect();
    ensure!(missing.is_empty(), "nothing was told of {missing:?}, only of {told:?}");
    Ok(())
}

/// It is taken as it stands there, and what it leaves out the schema fills in.
async fn the_example_of_the_readme_gets_its_defaults(cluster: &Cluster) -> Result<()> {
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    let example = readme.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    let example = example.context("the README has no example")?;
    let ask = ["create", "--dry-run=server", "-n", "default", "-o", "json", "-f", "-"];
    let made = cluster.kubectl(ask).input(example.to_owned()).output().await.context("the README's example")?;
    let made: Value = serde_json::from_str(&made)?;
    let defaults = [
        ("imagePullPolicy", json!("IfNotPresent")),
        ("listeners/mqtt", json!({ "enabled": true, "port": 1883 })),
        ("listeners/service/type", json!("ClusterIP")),
        ("replication", json!({ "shards": 16 })),
        ("persistence", json!({ "size": "1Gi", "deletionPolicy": "Retain" })),
        ("podDisruptionBudget/enabled", json!(true)),
        ("monitoring/enabled", json!(true)),
    ];
    for (field, default) in defaults {
        let is = made["spec"].pointer(&format!("/{field}"));
        ensure!(is == Some(&default), "spec.{field} is {is:?} where nothing is written, not {default}");
    }
    Ok(())
}
