//! A volume that is full: what is not stored is not acknowledged, and all goes on when there is room again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mqtt_e2e::cluster::Cluster;
use mqtt_e2e::resource::Resource;
use mqtt_e2e::wait::{self, seen};
use serde_json::json;

use super::TRAFFIC_DEADLINE;
use super::side::{self, SIDE, small};

const VOLUME: &str = "brim";
const ROOM_DEADLINE: Duration = Duration::from_secs(90);

/// The broker's data is on a small file system in memory, put in the place of its claim by a patch of the pod.
pub async fn a_full_volume_refuses_and_goes_on(cluster: &Cluster) -> Result<()> {
    side::make(cluster).await?;
    let broker = Resource::named(cluster, SIDE, VOLUME);
    broker
        .apply(&small(json!({ "podTemplate": { "spec": {
            "volumes": [{ "name": VOLUME, "emptyDir": { "medium": "Memory", "sizeLimit": "16Mi" } }],
            "containers": [{ "name": "mqtt-broker", "volumeMounts": [
                { "name": "data", "mountPath": "/spare" }, { "name": VOLUME, "mountPath": "/var/lib/mqtt-broker" },
            ] }],
        } } })))
        .await?;
    broker.available(1, TRAFFIC_DEADLINE).await?;
    let before = broker.pod_identities().await?;
    let pod = broker.owned("pod").await?.into_iter().next().context("the broker has no pod")?;
    let (node, uid) = (pod["spec"]["nodeName"].as_str(), pod["metadata"]["uid"].as_str());
    let (node, uid) = node.zip(uid).context("the pod has no node or identity")?;
    let kubelet = cluster.state().await?.join(node).join("kubelet");
    let ballast = kubelet.join(format!("pods/{uid}/volumes/kubernetes.io~empty-dir/{VOLUME}/ballast"));
    let ballast = ballast.display().to_string();

    let address = cluster.endpoint(SIDE, VOLUME).await?.address;
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let publish = async |message: &str| {
        let to = ["-V", "mqttv5", "-h", &host, "-p", &port, "-q", "1", "-r", "-t", "kept", "-d", "-m", message];
        cluster.program("mosquitto_pub").args(to).output().await
    };
    ensure!(acknowledged(&publish("before").await?), "there is room, and a message is refused");

    let fill = format!("dd if=/dev/zero of={ballast} bs=4096 2>&1; true");
    let said = cluster.node("exec", &[node, "bash", "-c", &fill]).await?;
    ensure!(said.contains("No space left"), "the volume has no end: {said}");
    // A segment of the log may have room of its own; after that nothing is acknowledged.
    let refusal = wait::until("a message is refused", ROOM_DEADLINE, async || {
        let said = publish(&"x".repeat(50_000)).await?;
        Ok(if acknowledged(&said) { wait::Seen::NotYet(said) } else { wait::Seen::Yes(said) })
    })
    .await?;
    println!("a full volume: {}", refusal.lines().find(|line| line.contains("PUBACK")).unwrap_or(&refusal));

    cluster.node("exec", &[node, "rm", &ballast]).await?;
    wait::until("messages are stored again", ROOM_DEADLINE, async || {
        let said = publish("after").await?;
        Ok(seen(acknowledged(&said), || said))
    })
    .await?;
    let subscribe = ["-h", &host, "-p", &port, "-t", "kept", "-C", "1", "-W", "20"];
    let kept = cluster.program("mosquitto_sub").args(subscribe).output().await?;
    ensure!(kept.trim() == "after", "what was acknowledged last is not there: {kept:?}");
    ensure!(broker.pod_identities().await? == before, "no pod had to be made again for that");
    Ok(())
}

/// Whether the debug output of `mosquitto_pub` has a PUBACK that is none of a refusal.
fn acknowledged(said: &str) -> bool {
    said.lines().any(|line| line.contains("received PUBACK") && line.contains("RC:0"))
}
