//! Faults under load: the demo's story, and nodes that are cut off, drained and powered off while the ledger counts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mqtt_e2e::cluster::Cluster;
use mqtt_e2e::demo;
use mqtt_e2e::installation::Installation;
use mqtt_e2e::ledger::Ledger;
use mqtt_e2e::progress::Progress;

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
    under_load(cluster, "drain", async |node| {
        cluster.node("drain", &[node]).await?;
        cluster.node("uncordon", &[node]).await.map(drop)
    })
    .await
}

pub async fn a_node_without_power_loses_nothing(cluster: &Cluster) -> Result<()> {
    under_load(cluster, "power", async |node| {
        cluster.node("kill", &[node]).await?;
        cluster.node("start", &[node]).await.map(drop)
    })
    .await
}

/// Breaks and mends the node of one pod while messages flow, and waits until all is well again.
async fn under_load(cluster: &Cluster, name: &str, break_and_mend: impl AsyncFnOnce(&str) -> Result<()>) -> Result<()> {
    let broker = Installation::on(cluster);
    broker.available(3, TRAFFIC_DEADLINE).await?;
    let ledger = Ledger::start(broker.endpoint().await?, demo::load(name), TRAFFIC_DEADLINE).await?;
    ledger.more(300, TRAFFIC_DEADLINE).await?;
    let pod = broker.pods().await?.into_iter().last().context("the broker has no pod")?;
    println!("{name}: {} with {}", pod.node, pod.name);
    break_and_mend(&pod.node).await?;
    ledger.more(500, TRAFFIC_DEADLINE).await.context("the majority must go on")?;
    broker.available(3, BOOT_DEADLINE).await?;
    ledger.more(300, TRAFFIC_DEADLINE).await.context("after all is well again")?;
    let balance = ledger.settle(TRAFFIC_DEADLINE).await?;
    println!("{balance}");
    ensure!(balance.kept(), "the ledger does not balance: {balance}");
    Ok(())
}
