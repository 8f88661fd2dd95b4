//! A volume that is full: what is not stored is not acknowledged, publishers and the resource's status say why, and all goes
//! on when there is room again.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mqtt_e2e::cluster::Cluster;
use mqtt_e2e::mosquitto::Client;
use mqtt_e2e::resource::Resource;
use serde_json::json;
use tokio::time::Instant;

use super::TRAFFIC_DEADLINE;
use super::side::{self, SIDE, small};

const VOLUME: &str = "brim";
const ROOM_DEADLINE: Duration = Duration::from_secs(90);
/// A broker answers a publish within this, or has lost the publisher.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// What a publisher hears while there is no room.
const QUOTA_EXCEEDED: u8 = 0x97;
/// So many refusals are waited for, of at most so many large messages.
const REFUSALS: usize = 5;
const MESSAGES_MAX: usize = 200;

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

    // At the pod's own address: a broker that can't store is not ready, and the Service leads nobody to it.
    let host: IpAddr = pod["status"]["podIP"].as_str().context("the pod has no address")?.parse()?;
    let mut publisher = Publisher { cluster, address: SocketAddr::new(host, 1883), client: None };
    let stored = publisher.say("before").await?;
    ensure!(stored < 0x80, "there is room, and a message is refused with {stored:#04x}");

    let fill = format!("dd if=/dev/zero of={ballast} bs=4096 2>&1; true");
    let said = cluster.node("exec", &[node, "bash", "-c", &fill]).await?;
    ensure!(said.contains("No space left"), "the volume has no end: {said}");
    // A segment of the log may have room of its own; after that nothing is acknowledged, and each publisher hears why.
    let large = "x".repeat(50_000);
    let mut verdicts = Vec::new();
    while verdicts.iter().filter(|code| **code >= 0x80).count() < REFUSALS {
        ensure!(verdicts.len() < MESSAGES_MAX, "of {MESSAGES_MAX} large messages too few are refused: {verdicts:x?}");
        verdicts.push(publisher.say(&large).await?);
    }
    println!("a full volume: PUBACKs of {verdicts:x?}");
    let first = verdicts.iter().position(|code| *code >= 0x80).unwrap_or_default();
    ensure!(
        verdicts[first..].iter().all(|code| *code == QUOTA_EXCEEDED),
        "a publisher hears {verdicts:x?} where it must hear {QUOTA_EXCEEDED:#04x}"
    );
    let words = broker.says("Degraded", "True", "VolumeFull", TRAFFIC_DEADLINE).await?;
    for part in [format!("{VOLUME}-0").as_str(), format!("data-{VOLUME}-0").as_str(), "raise persistence.size"] {
        ensure!(words.contains(part), "the condition does not say {part}: {words}");
    }

    cluster.node("exec", &[node, "rm", &ballast]).await?;
    let end = Instant::now() + ROOM_DEADLINE;
    while publisher.say("after").await? >= 0x80 {
        ensure!(Instant::now() < end, "nothing is stored although there is room again");
    }
    broker.says("Degraded", "False", "AsExpected", ROOM_DEADLINE).await.context("there is room again")?;
    broker.available(1, ROOM_DEADLINE).await?;
    let address = cluster.endpoint(SIDE, VOLUME).await?.address;
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let subscribe = ["-h", &host, "-p", &port, "-t", "kept", "-C", "1", "-W", "20"];
    let kept = cluster.program("mosquitto_sub").args(subscribe).output().await?;
    ensure!(kept.trim() == "after", "what was acknowledged last is not there: {kept:?}");
    ensure!(broker.pod_identities().await? == before, "no pod had to be made again for that");
    Ok(())
}

/// A publisher that connects again when it has lost its connection: on a machine without time for it, the broker lets everybody
/// go for a moment, full or not.
struct Publisher<'a> {
    cluster: &'a Cluster,
    address: SocketAddr,
    client: Option<Client>,
}

impl Publisher<'_> {
    /// Publishes one message, as often as it takes to hear what became of it: the reason code of its PUBACK.
    async fn say(&mut self, message: &str) -> Result<u8> {
        let end = Instant::now() + ROOM_DEADLINE;
        loop {
            let failure = match self.try_to_say(message).await {
                Ok(verdict) => return Ok(verdict),
                Err(failure) => failure,
            };
            println!("a publisher connects again: {failure:#}");
            self.client = None;
            ensure!(Instant::now() < end, "a publisher hears nothing: {failure:#}");
        }
    }

    async fn try_to_say(&mut self, message: &str) -> Result<u8> {
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::speaker(self.cluster, self.address, "speaker", "kept").await?,
        };
        self.client.insert(client).say(message, ANSWER_DEADLINE).await
    }
}
