//! What a person changes, and what the resource says about it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mqtt_e2e::cluster::Cluster;
use mqtt_e2e::installation::{BROKER, Installation, NAMESPACE};
use mqtt_e2e::resource::Resource;
use mqtt_e2e::wait::{self, seen};
use serde_json::{Value, json};

use super::TRAFFIC_DEADLINE;

/// A namespace for resources beside the example.
const SIDE: &str = "mqtt-side";
const ROLL_DEADLINE: Duration = Duration::from_secs(150);
const GONE_DEADLINE: Duration = Duration::from_secs(90);

/// What every small resource has.
fn small(further: Value) -> Value {
    let mut spec = json!({
        "replicas": 1, "persistence": { "size": "64Mi", "deletionPolicy": "Delete" },
        "resources": { "requests": { "cpu": "20m", "memory": "32Mi" } },
    });
    if let (Some(spec), Value::Object(further)) = (spec.as_object_mut(), further) {
        spec.extend(further);
    }
    spec
}

async fn make_side(cluster: &Cluster) -> Result<()> {
    if cluster.kubectl(["get", "namespace", SIDE]).output().await.is_err() {
        cluster.kubectl(["create", "namespace", SIDE]).output().await?;
        // The strictest that Kubernetes has: pods that ask for more than they need are refused.
        let strict = ["label", "namespace", SIDE, "pod-security.kubernetes.io/enforce=restricted"];
        cluster.kubectl(strict).output().await?;
    }
    Ok(())
}

pub async fn what_is_wrong_is_said_in_words(cluster: &Cluster) -> Result<()> {
    make_side(cluster).await?;
    let nowhere = Resource::named(cluster, SIDE, "nowhere");
    let secretless = Resource::named(cluster, SIDE, "secretless");
    let volumeless = Resource::named(cluster, SIDE, "volumeless");
    let crashing = Resource::named(cluster, SIDE, "crashing");
    nowhere.apply(&small(json!({ "podTemplate": { "spec": { "nodeSelector": { "no": "such" } } } }))).await?;
    secretless.apply(&small(json!({ "auth": { "passwords": { "secretName": "users" } } }))).await?;
    volumeless
        .apply(&small(
            json!({ "persistence": { "size": "64Mi", "storageClassName": "none", "deletionPolicy": "Delete" } }),
        ))
        .await?;
    crashing.apply(&small(json!({ "config": { "no_such_key": 1 } }))).await?;

    let words = nowhere.says("Degraded", "True", "Unschedulable", TRAFFIC_DEADLINE).await?;
    ensure!(words.contains("nowhere-0 can't be placed"), "{words}");
    let words = secretless.says("Degraded", "True", "SecretMissing", TRAFFIC_DEADLINE).await?;
    ensure!(words.contains("Secret users is missing"), "{words}");
    let words = crashing.says("Degraded", "True", "Crashing", TRAFFIC_DEADLINE).await?;
    ensure!(words.contains("no_such_key"), "the broker's own words are missing: {words}");
    let words = volumeless.says("Degraded", "True", "VolumeUnbound", 2 * TRAFFIC_DEADLINE).await?;
    ensure!(words.contains("data-volumeless-0 has no volume"), "{words}");

    // Each is mended by a change of the resource alone.
    nowhere.patch(&json!({ "podTemplate": null })).await?;
    crashing.patch(&json!({ "config": null })).await?;
    nowhere.available(1, TRAFFIC_DEADLINE).await?;
    crashing.available(1, TRAFFIC_DEADLINE).await?;
    let gone = ["delete", "namespace", SIDE];
    cluster.kubectl(gone).deadline(GONE_DEADLINE).output().await.context("the namespace must go").map(drop)
}

pub async fn one_becomes_three_and_one_again(cluster: &Cluster) -> Result<()> {
    make_side(cluster).await?;
    let broker = Resource::named(cluster, SIDE, "small");
    broker.apply(&small(json!({}))).await?;
    broker.available(1, TRAFFIC_DEADLINE).await?;
    ensure!(broker.owned("poddisruptionbudget").await?.is_empty(), "a single broker must not block its node");
    for replicas in [3, 1] {
        broker.patch(&json!({ "replicas": replicas })).await?;
        broker.available(replicas, ROLL_DEADLINE).await?;
        let budgets = broker.owned("poddisruptionbudget").await?.len();
        ensure!(budgets == usize::from(replicas > 1), "{budgets} budgets for {replicas} brokers");
    }
    broker.delete(GONE_DEADLINE).await?;
    wait::until("everything of it is gone", GONE_DEADLINE, async || {
        let mut left = Vec::new();
        for kind in ["pod", "statefulset", "service", "secret", "configmap", "networkpolicy", "serviceaccount", "pvc"] {
            left.extend(broker.owned(kind).await?.iter().map(|one| format!("{kind} {}", one["metadata"]["name"])));
        }
        Ok(seen(left.is_empty(), || left.join(", ")))
    })
    .await?;
    cluster.kubectl(["delete", "namespace", SIDE]).deadline(GONE_DEADLINE).output().await.map(drop)
}

pub async fn a_bad_image_stops_the_roll(cluster: &Cluster) -> Result<()> {
    let installation = Installation::on(cluster);
    let broker = installation.resource();
    broker.available(3, TRAFFIC_DEADLINE).await?;
    let before = broker.pod_identities().await?;
    let image = broker.get().await?["spec"]["image"].clone();

    broker.patch(&json!({ "image": "localhost/mqtt-broker:no-such" })).await?;
    let words = broker.says("Degraded", "True", "ImagePull", TRAFFIC_DEADLINE).await?;
    ensure!(words.contains("no-such"), "{words}");
    broker.says("Available", "True", "BrokersReady", TRAFFIC_DEADLINE).await?;
    let same = broker.pod_identities().await?.iter().filter(|pod| before.contains(pod)).count();
    ensure!(same == 2, "{same} pods of three were left alone");

    // No hand on any pod: the resource is corrected, and that is all.
    broker.patch(&json!({ "image": image, "resources": { "requests": { "cpu": "40m" } } })).await?;
    broker.available(3, ROLL_DEADLINE).await?;
    let same = broker.pod_identities().await?.iter().filter(|pod| before.contains(pod)).count();
    ensure!(same == 0, "{same} pods were not rolled, although their resources changed");
    Ok(())
}

pub async fn volumes_grow_and_drift_is_undone(cluster: &Cluster) -> Result<()> {
    let broker = Installation::on(cluster).resource();
    let before = broker.pod_identities().await?;
    broker.patch(&json!({ "persistence": { "size": "300Mi" } })).await?;
    wait::until("all claims ask for 300Mi", TRAFFIC_DEADLINE, async || {
        let claims = broker.owned("pvc").await?;
        let asked: Vec<_> =
            claims.iter().map(|claim| claim["spec"]["resources"]["requests"]["storage"].clone()).collect();
        Ok(seen(asked.len() == 3 && asked.iter().all(|size| size == "300Mi"), || format!("{asked:?}")))
    })
    .await?;

    let patch = r#"[{"op":"replace","path":"/spec/ports/0/port","value":1}]"#;
    let drift = ["patch", "service", BROKER, "-n", NAMESPACE, "--type=json", "-p", patch];
    cluster.kubectl(drift).output().await?;
    cluster.kubectl(["delete", "configmap", &format!("{BROKER}-config"), "-n", NAMESPACE]).output().await?;
    wait::until("the Service and the ConfigMap are as they were", TRAFFIC_DEADLINE, async || {
        let services = broker.owned("service").await?;
        let ports: Vec<_> = services.iter().map(|service| service["spec"]["ports"][0]["port"].clone()).collect();
        let maps = broker.owned("configmap").await?.len();
        Ok(seen(ports.contains(&json!(1883)) && maps == 1, || format!("ports {ports:?}, {maps} ConfigMaps")))
    })
    .await?;
    ensure!(broker.pod_identities().await? == before, "no pod had to be touched for that");
    Ok(())
}
