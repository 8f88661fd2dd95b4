//! The demo: from an empty machine to brokers that lose nothing while one of them is killed and while they become five and three again.
//!
//! The same story runs as a test. Each step has a deadline and tells what it does; the names of the steps are what a failure names.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;
use crate::installation::{BROKER, Installation, NAMESPACE, OPERATOR_NAMESPACE, Pod, example};
use crate::ledger::{Balance, Ledger, Load};
use crate::mosquitto::Client;
use crate::progress::Progress;
use crate::service::{Endpoint, pods_reached};

const FOUND_DEADLINE: Duration = Duration::from_secs(120);
const SCALE_DEADLINE: Duration = Duration::from_secs(180);
const RECOVERY_DEADLINE: Duration = Duration::from_secs(120);
const TRAFFIC_DEADLINE: Duration = Duration::from_secs(60);
/// How often a publisher is connected again until the Service gives it another pod than the subscriber has.
const TRIES_FOR_ANOTHER_POD: usize = 20;
const TOPIC: &str = "demo/greetings";

/// What a run of the story counted.
pub struct Counts {
    /// Acknowledged to `mosquitto_pub` and received by `mosquitto_sub` while a pod was killed.
    pub killed: (usize, usize),
    /// The same while the brokers became five and three again.
    pub scaled: (usize, usize),
    /// The ledger while a pod was killed.
    pub killed_ledger: Balance,
    /// The ledger while the brokers became five and three again.
    pub scaled_ledger: Balance,
}

/// The load of one ledger in the story.
pub fn load(name: &str) -> Load {
    Load { name: name.into(), publishers: 6, subscribers: 3, per_second: 50, window: 16 }
}

/// Tells the whole story on a cluster that this run brings up. Taking it down is the caller's.
pub async fn tell(cluster: &Cluster, progress: &mut Progress) -> Result<Counts> {
    let broker = Installation::on(cluster);

    progress.step("A Kubernetes");
    progress.say(cluster.describe());
    cluster.up().await?;
    progress.quote(&cluster.kubectl(["get", "node"]).output().await?);

    progress.step("The operator, from its Helm chart");
    progress.say(format!("helm upgrade --install mqtt-operator charts/mqtt-operator -n {OPERATOR_NAMESPACE}"));
    broker.install_operator().await?;

    progress.step("kubectl apply: three brokers that are one");
    progress.say(format!("kubectl apply -n {NAMESPACE} -f {}", example().file_name().unwrap_or_default().display()));
    broker.apply_example().await?;
    {
        let _watch = broker.watch()?;
        broker.available(3, FOUND_DEADLINE).await?;
    }
    progress.say("Available; kubectl get mqb:");
    progress.quote(&broker.get().await?);
    let endpoint = broker.endpoint().await?;

    progress.step("A publisher and a subscriber on different pods, and one of the pods killed");
    let ledger = Ledger::start(endpoint.clone(), load("kill"), TRAFFIC_DEADLINE).await?;
    let (pair, victim) = Pair::start(cluster, &broker, &endpoint, progress, "kill").await?;
    pair.subscriber.has_received(200, TRAFFIC_DEADLINE).await?;
    let means = if cluster.is_local() { "SIGKILL, " } else { "" };
    progress.say(format!(
        "killing {} on {} without grace ({means}kubectl delete --grace-period=0 --force)",
        victim.name, victim.node
    ));
    broker.kill(&victim).await?;
    let before = pair.subscriber.received();
    ledger.more(500, TRAFFIC_DEADLINE).await.context("after the kill")?;
    pair.subscriber.has_received(before + 200, TRAFFIC_DEADLINE).await.context("after the kill")?;
    progress.say("the subscriber goes on");
    broker.available(3, RECOVERY_DEADLINE).await?;
    progress.say("the pod is back, and every shard has all its replicas");
    let killed = pair.settle().await?;
    let killed_ledger = ledger.settle(TRAFFIC_DEADLINE).await?;
    report(progress, killed, &killed_ledger)?;

    progress.step("Five brokers, and three again");
    let ledger = Ledger::start(endpoint.clone(), load("scale"), TRAFFIC_DEADLINE).await?;
    let (pair, _) = Pair::start(cluster, &broker, &endpoint, progress, "scale").await?;
    {
        let _watch = broker.watch()?;
        for replicas in [5, 3] {
            progress.say(format!("kubectl scale mqb {BROKER} --replicas={replicas}; kubectl get mqb -w:"));
            broker.scale(replicas).await?;
            broker.available(replicas, SCALE_DEADLINE).await?;
        }
    }
    ledger.more(500, TRAFFIC_DEADLINE).await.context("after scaling")?;
    let scaled = pair.settle().await?;
    let scaled_ledger = ledger.settle(TRAFFIC_DEADLINE).await?;
    report(progress, scaled, &scaled_ledger)?;

    Ok(Counts { killed, scaled, killed_ledger, scaled_ledger })
}

/// A `mosquitto_pub` and a `mosquitto_sub`, publishing.
struct Pair {
    publisher: Client,
    subscriber: Client,
}

impl Pair {
    /// Connects both through the Service until they are on different pods; returns the subscriber's, too.
    async fn start(
        cluster: &Cluster,
        broker: &Installation<'_>,
        endpoint: &Endpoint,
        progress: &Progress,
        name: &str,
    ) -> Result<(Self, Pod)> {
        let topic = format!("{TOPIC}/{name}");
        let ids = (format!("greeter-{name}"), format!("guest-{name}"));
        let subscriber = Client::subscriber(cluster, endpoint.address, &ids.1, &topic).await?;
        progress.say(format!("mosquitto_sub -h {} -q 1 -c -i {} -t {topic}", endpoint.address.ip(), ids.1));
        progress.say(format!("mosquitto_pub -h {} -q 1 -l -i {} -t {topic}", endpoint.address.ip(), ids.0));
        if !cluster.is_local() {
            progress.say("which pods they are on can't be seen from outside of this cluster's network");
            let mut publisher = Client::publisher(cluster, endpoint.address, &ids.0, &topic).await?;
            publisher.publish()?;
            let victim = broker.pods().await?.into_iter().next().context("the broker has no pod")?;
            return Ok((Self { publisher, subscriber }, victim));
        }
        let home = pod_of(cluster, broker, endpoint, &subscriber).await?;
        for _ in 0..TRIES_FOR_ANOTHER_POD {
            let mut publisher = Client::publisher(cluster, endpoint.address, &ids.0, &topic).await?;
            let other = pod_of(cluster, broker, endpoint, &publisher).await?;
            if other.name != home.name {
                progress.say(format!("the subscriber is on {}, the publisher on {}", home.name, other.name));
                publisher.publish()?;
                return Ok((Self { publisher, subscriber }, home));
            }
        }
        bail!("the Service gave {TRIES_FOR_ANOTHER_POD} connections to {}: are the other pods ready?", home.name)
    }

    /// Ends the publisher, then waits for what it was promised: messages acknowledged and messages received.
    async fn settle(self) -> Result<(usize, usize)> {
        let acknowledged = self.publisher.finish(TRAFFIC_DEADLINE).await?;
        self.subscriber.has_received(acknowledged, TRAFFIC_DEADLINE).await?;
        Ok((acknowledged, self.subscriber.received()))
    }
}

async fn pod_of(cluster: &Cluster, broker: &Installation<'_>, endpoint: &Endpoint, client: &Client) -> Result<Pod> {
    let port = client.local_port(cluster).await?;
    let reached = pods_reached(cluster, endpoint.address).await?;
    let address = reached.get(&port).with_context(|| format!("port {port} is not among the tracked connections"))?;
    let pods = broker.pods().await?;
    pods.into_iter()
        .find(|pod| pod.address == Some(*address))
        .with_context(|| format!("no pod has the address {address}"))
}

fn report(progress: &Progress, mosquitto: (usize, usize), ledger: &Balance) -> Result<()> {
    progress.say(format!("mosquitto: acknowledged {}, received {}", mosquitto.0, mosquitto.1));
    progress.say(format!("ledger:    {ledger}"));
    if mosquitto.0 != mosquitto.1 {
        bail!("mosquitto_pub had {} messages acknowledged, mosquitto_sub received {}", mosquitto.0, mosquitto.1);
    }
    if !ledger.kept() {
        bail!("the ledger does not balance: {ledger}");
    }
    Ok(())
}
