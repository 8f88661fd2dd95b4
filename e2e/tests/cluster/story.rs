//! Faults under load: the demo's story, nodes that are cut off, drained and powered off, a pod that is deleted and a broker
//! that is killed, while the ledger counts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mqtt_e2e::cluster::Cluster;
use mqtt_e2e::demo;
use mqtt_e2e::installation::{Installation, NAMESPACE, Pod};
use mqtt_e2e::ledger::Ledger;
use mqtt_e2e::progress::Progress;
use mqtt_e2e::wait::{self, seen};

use super::TRAFFIC_DEADLINE;

const CUT: Duration = Duration::from_secs(30);
/// A node boots, and its broker catches up.
const BOOT_DEADLINE: Duration = Duration::from_secs(150);

pub async fn the_demo_balances(cluster: &Cluster) -> Result<()> {
    let mut progress = Progress::begin("the demo, as a test");
    let counts = demo::tell(cluster, &mut progress).await.with_context(|| progress.current())?;
    progress.finish();
    ensure!(
        counts.killed.0 > 0 && counts.killed.0 == counts.killed.1,
        "mosquitto: {:?} while a pod was killed",
        counts.killed
    );
    ensure!(counts.scaled.0 > 0 && counts.scaled.0 == counts.scaled.1, "mosquitto: {:?} while scaling", counts.scaled);
    for ledger in [&counts.killed_ledger, &counts.scaled_ledger] {
        ensure!(ledger.acknowledged > 0 && ledger.kept(), "{ledger}");
        ensure!(ledger.received.iter().all(|received| *received == ledger.acknowledged), "{ledger}");
    }
    Ok(())
}

pub async fn a_node_cut_off_loses_nothing(cluster: &Cluster) -> Result<()> {
    let broker = Installation::on(cluster);
    broker.available(3, TRAFFIC_DEADLINE).await?;
    let ledger = Ledger::start(broker.endpoint().await?, demo::load("cut"), TRAFFIC_DEADLINE).await?;
    ledger.more(500, TRAFFIC_DEADLINE).await?;
    let pod = broker.pods().await?.into_iter().next().context("the broker has no pod")?;
    println!("cutting off {} with {} for {} s", pod.node, pod.name, CUT.as_secs());
    let cut_off = tokio::time::Instant::now();
    cluster.node("cut", &[&pod.node]).await?;
    let meanwhile = ledger.more(1000, CUT).await.context("the majority must go on while a node is cut off");
    tokio::time::sleep_until(cut_off + CUT).await;
    cluster.node("heal", &[&pod.node]).await?;
    meanwhile?;
    println!("{} is back: {}", pod.node, ledger.balance());
    ledger.more(500, TRAFFIC_DEADLINE).await.context("after the node came back")?;
    broker.available(3, TRAFFIC_DEADLINE).await?;
    let balance = ledger.settle(TRAFFIC_DEADLINE).await?;
    println!("{balance}");
    ensure!(balance.kept(), "the ledger does not balance: {balance}");
    ensure!(balance.received.iter().all(|received| *received == balance.acknowledged), "{balance}");
    Ok(())
}

pub async fn a_drained_node_loses_nothing(cluster: &Cluster) -> Result<()> {
    under_load(cluster, "drain", async |pod| {
        cluster.node("drain", &[&pod.node]).await?;
        // The majority stays, whoever drains another node meanwhile.
        let other = Installation::on(cluster).pods().await?.into_iter().find(|one| one.ready && one.node != pod.node);
        let other = other.context("no other node has a broker")?;
        let refused = cluster.node("drain", &[&other.node, "--timeout=5s"]).await;
        cluster.node("uncordon", &[&other.node]).await?;
        let words = format!("{:#}", refused.err().context("a second node was drained, and the majority with it")?);
        ensure!(words.contains("disruption budget"), "a second node was not drained, but not for its budget: {words}");
        cluster.node("uncordon", &[&pod.node]).await.map(drop)
    })
    .await
}

pub async fn a_node_without_power_loses_nothing(cluster: &Cluster) -> Result<()> {
    under_load(cluster, "power", async |pod| {
        cluster.node("kill", &[&pod.node]).await?;
        cluster.node("start", &[&pod.node]).await.map(drop)
    })
    .await
}

pub async fn a_deleted_pod_loses_nothing(cluster: &Cluster) -> Result<()> {
    under_load(cluster, "delete", async |pod| {
        let delete = ["delete", "pod", &pod.name, "-n", NAMESPACE];
        cluster.kubectl(delete).deadline(TRAFFIC_DEADLINE).output().await.map(drop)
    })
    .await
}

pub async fn a_killed_broker_loses_nothing(cluster: &Cluster) -> Result<()> {
    under_load(cluster, "sigkill", async |pod| Installation::on(cluster).kill_program(pod).await).await
}

/// Breaks and mends the way one pod lives while messages flow, and waits until all is well again.
async fn under_load(cluster: &Cluster, name: &str, break_and_mend: impl AsyncFnOnce(&Pod) -> Result<()>) -> Result<()> {
    let broker = Installation::on(cluster);
    broker.available(3, TRAFFIC_DEADLINE).await?;
    let ledger = Ledger::start(broker.endpoint().await?, demo::load(name), TRAFFIC_DEADLINE).await?;
    ledger.more(300, TRAFFIC_DEADLINE).await?;
    let before = broker.pods().await?;
    let pod = before.last().context("the broker has no pod")?;
    println!("{name}: {} with {}", pod.node, pod.name);
    break_and_mend(pod).await?;
    ledger.more(500, TRAFFIC_DEADLINE).await.context("the majority must go on")?;
    wait::until("its broker was started again, and no other", BOOT_DEADLINE, async || {
        let now = broker.pods().await?;
        let other_life = |pod: &Pod| now.iter().all(|one| (&one.uid, one.restarts) != (&pod.uid, pod.restarts));
        let again: Vec<&str> = before.iter().filter(|pod| other_life(pod)).map(|pod| pod.name.as_str()).collect();
        let ready = now.iter().filter(|pod| pod.ready).count();
        Ok(seen(again == [&pod.name] && ready == before.len(), || format!("again: {again:?}, {ready} ready")))
    })
    .await?;
    broker.available(3, BOOT_DEADLINE).await?;
    ledger.more(300, TRAFFIC_DEADLINE).await.context("after all is well again")?;
    let balance = ledger.settle(TRAFFIC_DEADLINE).await?;
    println!("{balance}");
    ensure!(balance.kept(), "the ledger does not balance: {balance}");
    ensure!(balance.received.iter().all(|received| *received == balance.acknowledged), "{balance}");
    Ok(())
}
