//! What a person changes, and what the resource says about it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mqtt_e2e::cluster::Cluster;
use mqtt_e2e::installation::{BROKER, Installation, NAMESPACE};
use mqtt_e2e::resource::Resource;
use mqtt_e2e::wait::{self, Seen, seen};
use serde_json::{Value, json};

use super::TRAFFIC_DEADLINE;
use super::side::{self, GONE_DEADLINE, SIDE, small};

const ROLL_DEADLINE: Duration = Duration::from_secs(150);
/// The tag of the image that brokers are rolled to.
const NEXT: &str = "next";
/// The annotation that has the operator keep its hands off.
const PAUSED: &str = "mqttbroker.dev/paused";

pub async fn what_is_wrong_is_said_in_words(cluster: &Cluster) -> Result<()> {
    side::make(cluster).await?;
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
    let taken = a_name_that_is_taken_is_left_alone(cluster).await?;

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
    taken.available(1, 2 * TRAFFIC_DEADLINE).await?;
    side::delete(cluster).await
}

/// Somebody else's object has a name that the operator needs: it says so, and the object stays what it was. Gives the resource,
/// whose name is free in the end.
async fn a_name_that_is_taken_is_left_alone(cluster: &Cluster) -> Result<Resource<'_>> {
    let name = ["configmap", "taken-config", "-n", SIDE];
    cluster.kubectl(["create"]).args(name).args(["--from-literal=whose=ours"]).output().await?;
    let taken = Resource::named(cluster, SIDE, "taken");
    taken.apply(&small(json!({}))).await?;
    let words = taken.says("Degraded", "True", "NameTaken", TRAFFIC_DEADLINE).await?;
    ensure!(words.contains("taken-config"), "the condition does not name the object: {words}");
    let data = cluster.kubectl(["get"]).args(name).args(["-o", "jsonpath={.data},{.metadata.ownerReferences}"]);
    let data = data.output().await?;
    ensure!(data == r#"{"whose":"ours"},"#, "a foreign object was taken over: {data}");
    ensure!(taken.owned("pod").await?.is_empty(), "pods were made although their configuration is another's");
    cluster.kubectl(["delete"]).args(name).output().await?;
    Ok(taken)
}

pub async fn one_becomes_five_and_one_again(cluster: &Cluster) -> Result<()> {
    side::make(cluster).await?;
    let broker = Resource::named(cluster, SIDE, "small");
    broker.apply(&reachable(cluster)).await?;
    broker.available(1, TRAFFIC_DEADLINE).await?;
    ensure!(broker.owned("poddisruptionbudget").await?.is_empty(), "a single broker must not block its node");
    for replicas in [3, 5, 3, 1] {
        broker.patch(&json!({ "replicas": replicas })).await?;
        broker.available(replicas, ROLL_DEADLINE).await?;
        let budgets = broker.owned("poddisruptionbudget").await?.len();
        ensure!(budgets == usize::from(replicas > 1), "{budgets} budgets for {replicas} brokers");
    }
    it_comes_back_to_its_volume(cluster, &broker).await?;
    broker.delete(GONE_DEADLINE).await?;
    wait::until("everything of it is gone", GONE_DEADLINE, async || {
        let mut left = Vec::new();
        for kind in ["pod", "statefulset", "service", "secret", "configmap", "networkpolicy", "serviceaccount", "pvc"] {
            left.extend(broker.owned(kind).await?.iter().map(|one| format!("{kind} {}", one["metadata"]["name"])));
        }
        Ok(seen(left.is_empty(), || left.join(", ")))
    })
    .await?;
    side::delete(cluster).await
}

/// Deleted with `Retain` and made again, it has what it had.
async fn it_comes_back_to_its_volume(cluster: &Cluster, broker: &Resource<'_>) -> Result<()> {
    broker.patch(&json!({ "persistence": { "deletionPolicy": "Retain" } })).await?;
    broker.available(1, TRAFFIC_DEADLINE).await?;
    mosquitto(cluster, "mosquitto_pub", "small", &["-q", "1", "-r", "-m", "from before"]).await?;
    broker.delete(GONE_DEADLINE).await?;
    wait::until("the pod is gone", GONE_DEADLINE, async || {
        let pods = broker.owned("pod").await?.len();
        Ok(seen(pods == 0, || format!("{pods} pods")))
    })
    .await?;
    ensure!(broker.owned("pvc").await?.len() == 1, "the volume was to be retained");
    broker.apply(&reachable(cluster)).await?;
    broker.available(1, ROLL_DEADLINE).await?;
    let kept = mosquitto(cluster, "mosquitto_sub", "small", &["-C", "1", "-W", "5"]).await?;
    ensure!(kept.trim() == "from before", "after it was made again it has {kept:?}");
    Ok(())
}

/// A small resource whose Service can be reached from here, as [`Cluster::endpoint`] does it.
fn reachable(cluster: &Cluster) -> Value {
    let service = if cluster.is_local() { "ClusterIP" } else { "NodePort" };
    small(json!({ "listeners": { "service": { "type": service } } }))
}

/// What one of Mosquitto's tools says at the Service of a resource in the side namespace. Again and again until it has come
/// through: the nodes learn a little later than the resource's status where the Service's pods are now.
async fn mosquitto(cluster: &Cluster, tool: &str, service: &str, arguments: &[&str]) -> Result<String> {
    let address = cluster.endpoint(SIDE, service).await?.address;
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    wait::until(&format!("{tool} at the Service {service}"), TRAFFIC_DEADLINE, async || {
        let program = cluster.program(tool).args(["-h", &host, "-p", &port, "-t", "kept"]);
        Ok(Seen::Yes(program.args(arguments).output().await?))
    })
    .await
}

pub async fn a_bad_image_stops_the_roll(cluster: &Cluster) -> Result<()> {
    let broker = Installation::on(cluster).resource();
    broker.available(3, TRAFFIC_DEADLINE).await?;
    let before = broker.pod_identities().await?;

    broker.patch(&json!({ "image": "localhost/mqtt-broker:no-such" })).await?;
    let words = broker.says("Degraded", "True", "ImagePull", TRAFFIC_DEADLINE).await?;
    ensure!(words.contains("no-such"), "{words}");
    broker.says("Available", "True", "BrokersReady", TRAFFIC_DEADLINE).await?;
    let same = broker.pod_identities().await?.iter().filter(|pod| before.contains(pod)).count();
    ensure!(same == 2, "{same} pods of three were left alone");

    // No hand on any pod: the resource is corrected, and that is all. The right image is one that no pod has run yet.
    let (repository, tag) = cluster.image("mqtt-broker");
    let (image, next) = (format!("{repository}:{tag}"), format!("{repository}:{NEXT}"));
    for node in ["node1", "node2", "node3"] {
        cluster.node("ctr", &[node, "images", "tag", "--force", &image, &next]).await?;
    }
    broker.patch(&json!({ "image": repository, "version": NEXT })).await?;
    broker.available(3, ROLL_DEADLINE).await?;
    let pods = broker.owned("pod").await?;
    let images: Vec<_> = pods.iter().map(|pod| &pod["spec"]["containers"][0]["image"]).collect();
    ensure!(images.len() == 3 && images.iter().all(|image| **image == next), "the pods run {images:?}");
    let same = broker.pod_identities().await?.iter().filter(|pod| before.contains(pod)).count();
    ensure!(same == 0, "{same} pods were not rolled, although their image is another");
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

pub async fn a_paused_resource_is_left_alone(cluster: &Cluster) -> Result<()> {
    let broker = Installation::on(cluster).resource();
    broker.available(3, TRAFFIC_DEADLINE).await?;
    broker.annotate(&format!("{PAUSED}=true")).await?;
    broker.says("Paused", "True", "Annotated", TRAFFIC_DEADLINE).await?;
    let before = versions(&broker).await?;

    // What would roll every pod, what would delete an object, and an object that is missing.
    let spec = &broker.get().await?["spec"];
    let right = json!({ "image": spec["image"], "version": spec["version"] });
    let image = "localhost/mqtt-broker:no-such";
    let edit = json!({ "image": image, "version": null, "podDisruptionBudget": { "enabled": false } });
    broker.patch(&edit).await?;
    cluster.kubectl(["delete", "networkpolicy", BROKER, "-n", NAMESPACE]).output().await?;
    // The condition is of the new generation: the edit was seen, and all that was done about it is done.
    broker.says("Paused", "True", "Annotated", TRAFFIC_DEADLINE).await?;
    let after = versions(&broker).await?;
    let (policies, others): (Vec<_>, Vec<_>) = before.into_iter().partition(|one| one.starts_with("networkpolicy "));
    ensure!(policies.len() == 1, "the NetworkPolicies were {policies:?}");
    ensure!(after == others, "a paused resource was carried out: {others:?} have become {after:?}");

    broker.patch(&right).await?;
    broker.annotate(&format!("{PAUSED}-")).await?;
    broker.says("Paused", "False", "NotAnnotated", TRAFFIC_DEADLINE).await?;
    let kinds = async |kind: &str, wanted: usize| {
        wait::until(&format!("{wanted} {kind}"), TRAFFIC_DEADLINE, async || {
            let found = broker.owned(kind).await?.len();
            Ok(seen(found == wanted, || format!("{found}")))
        })
        .await
    };
    kinds("poddisruptionbudget", 0).await.context("what was asked for while it was paused")?;
    kinds("networkpolicy", 1).await.context("what was missing while it was paused")?;
    broker.patch(&json!({ "podDisruptionBudget": { "enabled": true } })).await?;
    kinds("poddisruptionbudget", 1).await?;
    broker.available(3, TRAFFIC_DEADLINE).await
}

/// What belongs to a resource, each with the version that it had when it was written last.
async fn versions(broker: &Resource<'_>) -> Result<Vec<String>> {
    let mut versions = Vec::new();
    let kinds = ["configmap", "networkpolicy", "pod", "poddisruptionbudget", "pvc"];
    for kind in kinds.iter().chain(&["secret", "service", "serviceaccount", "statefulset"]) {
        for one in broker.owned(kind).await? {
            let metadata = &one["metadata"];
            versions.push(format!("{kind} {} {} {}", metadata["name"], metadata["uid"], metadata["resourceVersion"]));
        }
    }
    Ok(versions)
}
