//! A node whose disk is full: what it refuses, what goes on, and that it works again by itself (K1).
//!
//! The data directory is on a small file system in memory, mounted in a namespace of the broker's own.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mqtt_broker::message::QoS;
use mqtt_broker::protocol::{ReasonCode, Version};
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Dial, Event, Identity, Receiver, Sender, connect};
use crate::cluster::{self, Node, READY_TIMEOUT};

const STORED: &str = "disk/stored";
const PASSING: &str = "disk/passing";
const PATIENCE: Duration = Duration::from_secs(30);

fn identity(client_id: &str, version: Version, persistent: bool) -> Identity {
    Identity { client_id: client_id.into(), version, persistent }
}

/// Takes all space that is left on the node's file system.
fn fill(node: &Node) -> Result<PathBuf> {
    let path = node.inside(node.data_dir())?.join("filler");
    let mut file = File::create(&path)?;
    for size in [1 << 20, 4 << 10, 1] {
        let block = vec![0; size];
        loop {
            match file.write(&block) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error).context("filling the disk"),
            }
        }
    }
    Ok(path)
}

/// A client that publishes one message at a time.
struct Publisher {
    sender: Sender,
    receiver: Receiver,
    sent: u16,
}

impl Publisher {
    async fn connect(dial: &Dial, client_id: &str) -> Result<Publisher> {
        let (sender, receiver, _) = connect(dial, &identity(client_id, Version::V5, false)).await?;
        Ok(Publisher { sender, receiver, sent: 0 })
    }

    /// Connects, again and again until the node serves.
    async fn reconnect(dial: &Dial, client_id: &str) -> Result<Publisher> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            match Publisher::connect(dial, client_id).await {
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => sleep(Duration::from_millis(50)).await,
                Ok(publisher) => return Ok(publisher),
            }
        }
    }

    /// Publishes, and gives the reason of the PUBACK, or of the DISCONNECT that came instead.
    async fn publish(&mut self, topic: &str, payload: &[u8]) -> Result<ReasonCode> {
        self.sent += 1;
        self.sender.publish(QoS::AtLeastOnce, false, self.sent, topic, payload).await?;
        match timeout(PATIENCE, self.receiver.next()).await.context("no PUBACK")?? {
            Event::PubAck { packet_id, reason } if packet_id == self.sent => Ok(reason),
            Event::Disconnect { reason } => Ok(reason),
            other => bail!("instead of a PUBACK: {other:?}"),
        }
    }
}

/// Subscribes a persistent session to [`STORED`] and leaves, and an ephemeral client to [`PASSING`], which stays.
async fn subscribe(dial: &Dial) -> Result<Receiver> {
    let (mut sender, mut receiver, _) = connect(dial, &identity("stored", Version::V5, true)).await?;
    sender.subscribe(1, QoS::AtLeastOnce, &[STORED]).await?;
    ensure!(matches!(receiver.next().await?, Event::SubAck { .. }), "no SUBACK");
    sender.disconnect().await?;
    let (mut sender, mut receiver, _) = connect(dial, &identity("passing", Version::V5, false)).await?;
    sender.subscribe(1, QoS::AtLeastOnce, &[PASSING]).await?;
    ensure!(matches!(receiver.next().await?, Event::SubAck { .. }), "no SUBACK");
    // The connection lives as long as both halves.
    tokio::task::spawn_local(async move {
        while sender.ping().await.is_ok() {
            sleep(Duration::from_secs(5)).await;
        }
    });
    Ok(receiver)
}

/// Everything acknowledged is there when the session goes on.
async fn assert_stored(dial: &Dial, acknowledged: &[Vec<u8>]) -> Result<()> {
    let (mut sender, mut receiver, present) = connect(dial, &identity("stored", Version::V5, true)).await?;
    ensure!(present, "the session is gone");
    let mut missing: BTreeSet<&[u8]> = acknowledged.iter().map(Vec::as_slice).collect();
    let deadline = Instant::now() + PATIENCE;
    while !missing.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let event = timeout(left, receiver.next()).await;
        let event = event.with_context(|| format!("{} acknowledged messages are missing", missing.len()))??;
        if let Event::Publish { packet_id, payload, .. } = event {
            missing.remove(payload.as_slice());
            sender.acknowledge(packet_id).await?;
        }
    }
    Ok(())
}

fn payload(number: usize) -> Vec<u8> {
    let mut payload = format!("{number:08}").into_bytes();
    payload.resize(4_096, b'.');
    payload
}

pub async fn a_full_disk_refuses_and_recovers() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut nodes = cluster::start_on_small_disks(directory.path(), 1, &[0])?;
    nodes[0].until_ready().await?;
    let dial = nodes[0].dial();
    let mut passing = subscribe(&dial).await?;
    let mut publisher = Publisher::connect(&dial, "publisher").await?;
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        ensure!(publisher.publish(STORED, &payload(number)).await? == ReasonCode::SUCCESS, "it is not full yet");
        acknowledged.push(payload(number));
    }
    let filler = fill(&nodes[0])?;
    let mut refused = 0;
    for number in 20..60 {
        match publisher.publish(STORED, &payload(number)).await? {
            ReasonCode::SUCCESS => acknowledged.push(payload(number)),
            ReasonCode::QUOTA_EXCEEDED => refused += 1,
            other => bail!("refused with {other:?}"),
        }
        if refused >= 10 {
            break;
        }
    }
    ensure!(refused >= 10, "only {refused} publishes were refused");
    nodes[0].until_storage("full").await?;
    for _ in 0..10 {
        ensure!(publisher.publish(PASSING, b"x").await? == ReasonCode::SUCCESS, "what is not stored needs no disk");
        let Event::Publish { topic, packet_id: _, .. } = timeout(PATIENCE, passing.next()).await?? else {
            bail!("no message")
        };
        ensure!(topic == PASSING, "{topic}");
    }
    fs::remove_file(filler)?;
    let number = until_stored(&mut publisher, 100).await?;
    acknowledged.push(payload(number));
    nodes[0].until_storage("healthy").await?;
    nodes[0].check()?;
    assert_stored(&dial, &acknowledged).await
}

/// A client with a persistent session that publishes at QoS 2, and uses the packet ids of what was refused again at once.
struct Exact {
    sender: Sender,
    receiver: Receiver,
    /// Not in use.
    ids: Vec<u16>,
    /// Released, and not yet completed.
    releasing: BTreeSet<u16>,
    /// Numbers of the messages.
    acknowledged: BTreeSet<usize>,
    refused: BTreeSet<usize>,
}

impl Exact {
    async fn connect(dial: &Dial) -> Result<Exact> {
        let (sender, receiver, _) = connect(dial, &identity("exact", Version::V5, true)).await?;
        let (acknowledged, refused) = (BTreeSet::new(), BTreeSet::new());
        Ok(Exact {
            sender,
            receiver,
            ids: (1..=200).rev().collect(),
            releasing: BTreeSet::new(),
            acknowledged,
            refused,
        })
    }

    /// Publishes these at once, and releases what is acknowledged.
    async fn publish(&mut self, numbers: Range<usize>) -> Result<()> {
        let mut waiting = VecDeque::new();
        for number in numbers {
            let id = self.ids.pop().context("out of packet ids")?;
            self.sender.publish(QoS::ExactlyOnce, false, id, STORED, &payload(number)).await?;
            waiting.push_back((id, number));
        }
        while let Some((id, number)) = waiting.front().copied() {
            match self.next().await.with_context(|| format!("message {number} is not answered"))? {
                Event::PubRec { packet_id, reason } if packet_id == id => match reason {
                    ReasonCode::SUCCESS => {
                        self.acknowledged.insert(number);
                        self.releasing.insert(id);
                        self.sender.release(id).await?;
                    }
                    ReasonCode::QUOTA_EXCEEDED => {
                        self.refused.insert(number);
                        self.ids.push(id);
                    }
                    other => bail!("message {number} is refused with {other:?}"),
                },
                other => bail!("instead of the PUBREC of {id}: {other:?}"),
            }
            waiting.pop_front();
        }
        Ok(())
    }

    /// The next event that is no PUBCOMP.
    async fn next(&mut self) -> Result<Event> {
        loop {
            match timeout(PATIENCE, self.receiver.next()).await?? {
                Event::PubComp { packet_id } => {
                    ensure!(self.releasing.remove(&packet_id), "{packet_id} is not being released");
                    self.ids.push(packet_id);
                }
                other => return Ok(other),
            }
        }
    }

    /// Subscribes to more than what may be left of the disk; gives the reason codes.
    async fn subscribe(&mut self) -> Result<BTreeSet<u8>> {
        let filters: Vec<String> = ('a'..='h').map(|name| format!("disk/{name}{}", "x".repeat(5_000))).collect();
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        self.sender.subscribe(9, QoS::ExactlyOnce, &filters).await?;
        match self.next().await.context("no SUBACK")? {
            Event::SubAck { codes } => Ok(codes.into_iter().collect()),
            other => bail!("instead of a SUBACK: {other:?}"),
        }
    }
}

/// At QoS 2 as well nothing waits for space: what is refused is nowhere, and its packet id is free.
pub async fn a_full_disk_refuses_exactly_once() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut nodes = cluster::start_on_small_disks(directory.path(), 1, &[0])?;
    nodes[0].until_ready().await?;
    let dial = nodes[0].dial();
    let (mut sender, mut receiver, _) = connect(&dial, &identity("stored", Version::V5, true)).await?;
    sender.subscribe(1, QoS::ExactlyOnce, &[STORED]).await?;
    ensure!(matches!(receiver.next().await?, Event::SubAck { .. }), "no SUBACK");
    sender.disconnect().await?;
    let mut exact = Exact::connect(&dial).await?;
    exact.publish(0..8).await?;
    ensure!(exact.refused.is_empty(), "it is not full yet");
    let filler = fill(&nodes[0])?;
    // Some are still stored by the publisher's shard, and find no space in that of the session that they are for.
    let length = fs::metadata(&filler)?.len();
    File::options().write(true).open(&filler)?.set_len(length - (24 << 10))?;
    let mut from = 8;
    while exact.refused.len() < 40 && from < 120 {
        exact.publish(from..from + 8).await?;
        from += 8;
    }
    ensure!(exact.refused.len() >= 40, "only {} publishes were refused", exact.refused.len());
    nodes[0].until_storage("full").await?;
    let codes = exact.subscribe().await?;
    ensure!(codes == BTreeSet::from([ReasonCode::QUOTA_EXCEEDED.0]), "SUBSCRIBE is answered with {codes:x?}");
    fs::remove_file(filler)?;
    let deadline = Instant::now() + READY_TIMEOUT;
    let before = exact.acknowledged.len();
    while exact.acknowledged.len() < before + 20 {
        ensure!(Instant::now() < deadline, "nothing is stored although there is space");
        exact.publish(from..from + 4).await?;
        from += 4;
        if !exact.refused.is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
    }
    let codes = exact.subscribe().await?;
    ensure!(codes == BTreeSet::from([2]), "SUBSCRIBE is answered with {codes:x?}");
    nodes[0].check()?;

    let (mut sender, mut receiver, present) = connect(&dial, &identity("stored", Version::V5, true)).await?;
    ensure!(present, "the session is gone");
    // What comes last tells that the others have come.
    exact.publish(from..from + 1).await?;
    ensure!(exact.acknowledged.contains(&from), "there is space");
    let mut got = Vec::new();
    while got.last() != Some(&from) {
        match timeout(PATIENCE, receiver.next()).await.with_context(|| format!("{} messages came", got.len()))?? {
            Event::Publish { packet_id, payload, .. } => {
                got.push(std::str::from_utf8(&payload[..8])?.parse()?);
                sender.receive(packet_id).await?;
            }
            Event::PubRel { packet_id } => sender.complete(packet_id).await?,
            other => bail!("instead of a message: {other:?}"),
        }
    }
    let expected: Vec<usize> = exact.acknowledged.into_iter().collect();
    ensure!(got == expected, "acknowledged: {expected:?}, received: {got:?}");
    Ok(())
}

/// Publishes until one is stored; gives its number.
async fn until_stored(publisher: &mut Publisher, from: usize) -> Result<usize> {
    let deadline = Instant::now() + READY_TIMEOUT;
    for number in from.. {
        if publisher.publish(STORED, &payload(number)).await? == ReasonCode::SUCCESS {
            return Ok(number);
        }
        ensure!(Instant::now() < deadline, "nothing is stored although there is space");
        sleep(Duration::from_millis(100)).await;
    }
    bail!("out of numbers")
}

pub async fn one_full_disk_of_three_loses_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut nodes = cluster::start_on_small_disks(directory.path(), 3, &[0])?;
    for node in &mut nodes {
        node.until_ready().await?;
    }
    nodes[0].until_failover_ready().await?;
    let other = nodes[1].dial();
    let _passing = subscribe(&other).await?;
    let mut publisher = Publisher::connect(&other, "publisher").await?;
    let filler = fill(&nodes[0])?;
    let mut acknowledged = Vec::new();
    for number in 0..200 {
        match publisher.publish(STORED, &payload(number)).await? {
            ReasonCode::SUCCESS => acknowledged.push(payload(number)),
            // On a machine with no time for it, the node may lose its lease for a moment.
            ReasonCode::USE_ANOTHER_SERVER => publisher = Publisher::reconnect(&other, "publisher").await?,
            _ => {}
        }
    }
    ensure!(acknowledged.len() > 100, "a majority has space, but only {} were stored", acknowledged.len());
    nodes[0].until_storage("full").await?;
    nodes[1].until_storage("healthy").await.context("it is full where it is full")?;
    fs::remove_file(filler)?;
    nodes[0].until_failover_ready().await.context("the node with the full disk has not caught up")?;
    // Now the node that was full is needed for a majority.
    nodes[2].kill()?;
    let number = until_stored(&mut Publisher::reconnect(&other, "after").await?, 1_000).await?;
    acknowledged.push(payload(number));
    nodes[0].check()?;
    assert_stored(&other, &acknowledged).await
}
