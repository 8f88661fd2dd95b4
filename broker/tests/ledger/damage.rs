//! A byte that flips on the disk of a node that is down: its replica is rebuilt from the others, by itself (K10).

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use crate::cluster::{self, Node};
use crate::history::History;
use crate::load::{Load, Shape};
use crate::retained::Keepers;
use crate::{KEEPERS, NODES, SETTLE_TIMEOUT, ready};

/// The largest file of the log.
fn segment(node: &Node) -> Result<(PathBuf, Vec<u8>)> {
    let mut found = None;
    for entry in fs::read_dir(node.data_dir())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("log-") {
            found = found.max(Some((entry.metadata()?.len(), entry.path())));
        }
    }
    let (_, path) = found.context("no log")?;
    let bytes = fs::read(&path)?;
    Ok((path, bytes))
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !condition().await? {
        ensure!(begun.elapsed() < SETTLE_TIMEOUT, "not within {SETTLE_TIMEOUT:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

pub async fn a_flipped_byte_is_made_good(seed: u64) -> Result<History> {
    let directory = tempfile::tempdir()?;
    let mut nodes = cluster::start(directory.path(), NODES, &[])?;
    ready(&mut nodes).await?;
    nodes[0].until_failover_ready().await?;
    let dials: Vec<_> = nodes.iter().map(Node::dial).collect();
    let shape = Shape { publishers: 4, persistent: 4, passing: 1, contended: 0, pace: Duration::from_millis(10) };
    let load = Load::start(dials.clone(), shape, seed);
    load.until_subscribed(shape.persistent + shape.passing, SETTLE_TIMEOUT).await?;
    let mut rng = StdRng::seed_from_u64(seed);
    let keepers = Keepers::start(dials, KEEPERS, || StdRng::from_rng(&mut rng));
    let victim = rng.random_range(0..nodes.len());
    let other = (victim + 1) % nodes.len();
    until("load", async || Ok(load.acknowledged() > 500)).await?;

    nodes[victim].kill()?;
    let (path, mut bytes) = segment(&nodes[victim])?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes)?;
    println!("node {victim}: byte {middle} of {} is flipped", path.display());
    let begun = Instant::now();
    nodes[victim].start()?;
    until("the replica is rebuilt", async || {
        nodes[victim].check()?;
        Ok(nodes[victim].metric("mqtt_broker_replicas_rebuilt_total").await.unwrap_or(0) > 0)
    })
    .await?;
    println!("rebuilt {:?} after the start", begun.elapsed());
    nodes[victim].until_ready().await?;
    nodes[victim].until_failover_ready().await?;
    ensure!(nodes[victim].metric("mqtt_broker_replicas_damaged").await? == 0, "more is damaged");

    // What was rebuilt is needed for a majority from now on.
    nodes[other].kill()?;
    let before = load.acknowledged();
    until("it counts", async || Ok(load.acknowledged() > before + 200)).await?;
    nodes[other].start()?;
    nodes[other].until_ready().await?;
    for node in &mut nodes {
        node.check()?;
    }
    keepers.check().await?;
    load.finish(SETTLE_TIMEOUT).await
}
