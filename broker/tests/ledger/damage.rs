//! A byte that flips on the disk of a node that is down: its replica is rebuilt from the others, by itself (K10).

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mqtt_broker::protocol::Version;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};

use crate::client::{Dial, Event, Identity, connect};
use crate::cluster::{self, Node};
use crate::history::History;
use crate::load::{Load, Shape};
use crate::retained::Keepers;
use crate::{KEEPERS, NODES, SETTLE_TIMEOUT, ready};

/// Which file.
#[derive(Clone, Copy, Debug)]
pub enum Damaged {
    Log,
    Snapshot,
}

const PATIENCE: Duration = Duration::from_secs(30);
/// As many as fill the log before a snapshot.
const LARGE_PAYLOADS: usize = 400;
const LARGE_BYTES: usize = 200 << 10;

impl Damaged {
    /// The largest file of this kind, if there is one.
    fn find(self, node: &Node) -> Result<Option<(PathBuf, Vec<u8>)>> {
        let prefix = match self {
            Damaged::Log => "log-",
            Damaged::Snapshot => "snapshot-",
        };
        let mut found = None;
        for entry in fs::read_dir(node.data_dir())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                let length = entry.metadata()?.len();
                found = found.max(Some((length, entry.path())));
            }
        }
        found.map(|(_, path)| Ok((path.clone(), fs::read(path)?))).transpose()
    }
}

/// Publishes so much to one shard that it makes a snapshot.
async fn fill(dial: &Dial) -> Result<()> {
    let (mut filled, begun) = (0, Instant::now());
    while filled < LARGE_PAYLOADS {
        // On a machine with no time for it, a node may lose its lease for a moment.
        if let Err(error) = fill_from(dial, &mut filled).await {
            ensure!(begun.elapsed() < SETTLE_TIMEOUT, "{filled} of {LARGE_PAYLOADS}: {error:#}");
            sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

async fn fill_from(dial: &Dial, filled: &mut usize) -> Result<()> {
    let identity = Identity { client_id: "large".into(), version: Version::V5, persistent: false };
    let (mut sender, mut receiver, _) = connect(dial, &identity).await?;
    while *filled < LARGE_PAYLOADS {
        sender.publish_retained(1, "damage/large", &vec![*filled as u8; LARGE_BYTES]).await?;
        match timeout(PATIENCE, receiver.next()).await.context("no PUBACK")?? {
            Event::PubAck { reason, .. } if !reason.is_error() => *filled += 1,
            other => bail!("instead of a PUBACK: {other:?}"),
        }
    }
    sender.disconnect().await
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !condition().await? {
        ensure!(begun.elapsed() < SETTLE_TIMEOUT, "not within {SETTLE_TIMEOUT:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

pub async fn a_flipped_byte_is_made_good(seed: u64, damaged: Damaged) -> Result<History> {
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
    if matches!(damaged, Damaged::Snapshot) {
        fill(&nodes[other].dial()).await?;
        until("a snapshot", async || Ok(damaged.find(&nodes[victim])?.is_some())).await?;
    }
    until("load", async || Ok(load.acknowledged() > 500)).await?;

    nodes[victim].kill()?;
    let (path, mut bytes) = damaged.find(&nodes[victim])?.context("no such file")?;
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
