//! A node that is alone among three: what its clients hear, and how soon (K3).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mqtt_broker::message::QoS;
use mqtt_broker::protocol::{ReasonCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::client::{Event, Identity, connect};
use crate::cluster::{self, Node, READY_TIMEOUT};
use crate::resume::starved;

/// What K3 allows.
const REFUSED_MAX: Duration = Duration::from_secs(3);
/// Longer than it may take, so that the failure says how long it took.
const PATIENCE: Duration = Duration::from_secs(30);
const TOPIC: &str = "minority/t";

fn identity(client_id: &str, version: Version, persistent: bool) -> Identity {
    Identity { client_id: client_id.into(), version, persistent }
}

/// Sends a CONNECT and gives the code of the CONNACK.
async fn connack(node: SocketAddr, version: Version) -> Result<u8> {
    let connect: &[u8] = match version {
        Version::V5 => &[0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 30, 0, 0, 1, b'x'],
        _ => &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 30, 0, 1, b'y'],
    };
    let mut stream = TcpStream::connect(node).await?;
    stream.write_all(connect).await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    ensure!(answer[0] == 0x20, "instead of a CONNACK: {answer:?}");
    Ok(answer[3])
}

/// Connects, and waits for a CONNACK that says `code` and nothing else.
async fn until_refused(node: SocketAddr, version: Version, code: u8) -> Result<()> {
    match connack(node, version).await? {
        0 => bail!("a CONNECT was accepted by a minority"),
        found if found == code => Ok(()),
        found => bail!("a CONNECT was refused with {found:#x}"),
    }
}

/// What a client hears that publishes again and again: the reason, or nothing when it is disconnected without a word. No
/// publish may be acknowledged.
async fn until_publish_refused(
    mut sender: crate::client::Sender,
    mut receiver: crate::client::Receiver,
) -> Result<Option<ReasonCode>> {
    for packet_id in 1.. {
        if sender.publish(QoS::AtLeastOnce, false, packet_id, TOPIC, b"x").await.is_err() {
            return Ok(None);
        }
        match timeout(Duration::from_millis(100), receiver.next()).await {
            Ok(Ok(Event::PubAck { reason: ReasonCode::SUCCESS, .. })) => bail!("acknowledged by a minority"),
            Ok(Ok(Event::PubAck { reason, .. } | Event::Disconnect { reason })) => return Ok(Some(reason)),
            Ok(Err(_)) => return Ok(None),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
    bail!("nothing was heard")
}

pub async fn a_minority_refuses_and_heals() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut nodes = cluster::start(directory.path(), 3, &[])?;
    for node in &mut nodes {
        node.until_ready().await?;
    }
    nodes[0].until_failover_ready().await?;
    let (alone, dial) = (nodes[0].address, nodes[0].dial());
    let (mut subscriber, mut delivered, _) = connect(&dial, &identity("subscriber", Version::V5, true)).await?;
    subscriber.subscribe(1, QoS::AtLeastOnce, &[TOPIC]).await?;
    ensure!(matches!(delivered.next().await?, Event::SubAck { .. }), "no SUBACK");
    let (sender, receiver, _) = connect(&dial, &identity("publisher-5", Version::V5, false)).await?;
    let (older_sender, older_receiver, _) = connect(&dial, &identity("publisher-4", Version::V3_1_1, false)).await?;

    for node in &nodes[1..] {
        node.signal("STOP")?;
    }
    let process: Vec<u32> = nodes[0].process_id().into_iter().collect();
    let (began, starved_before) = (Instant::now(), starved(&process));
    let refused = async {
        let (_, _, heard, older_heard) = tokio::try_join!(
            until_refused(alone, Version::V5, ReasonCode::SERVER_UNAVAILABLE.0),
            until_refused(alone, Version::V3_1_1, 3),
            until_publish_refused(sender, receiver),
            until_publish_refused(older_sender, older_receiver),
        )?;
        Ok::<_, anyhow::Error>((heard, older_heard))
    };
    let (heard, older_heard) = timeout(PATIENCE, refused).await.context("a minority refuses nothing")??;
    let (took, starved) = (began.elapsed(), starved(&process) - starved_before);
    println!("all was refused after {took:?}; the node waited {starved:?} for a processor");
    ensure!(took <= REFUSED_MAX + starved, "all was refused only after {took:?}");
    // PUBACK with 0x97 or 0x80, or DISCONNECT with 0x88 or 0x9C.
    let allowed = [0x97, 0x80, 0x88, 0x9C].map(ReasonCode);
    ensure!(heard.is_some_and(|reason| allowed.contains(&reason)), "the 5.0 client heard {heard:?}");
    ensure!(older_heard.is_none(), "3.1.1 has no words, but the client heard {older_heard:?}");

    for node in &nodes[1..] {
        node.signal("CONT")?;
    }
    let healed = async {
        loop {
            if publishes(&nodes[0]).await.is_ok() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(READY_TIMEOUT, healed).await.context("it did not heal")?;
    let session = identity("subscriber", Version::V5, true);
    // A node that was frozen may refuse for a moment longer than the one that was not: its client comes back, as clients do.
    let returned = async {
        loop {
            match connect(&nodes[1].dial(), &session).await {
                Ok(connected) => return connected,
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let (_subscriber, mut delivered, present) =
        timeout(READY_TIMEOUT, returned).await.context("a node that was frozen did not heal")?;
    ensure!(present, "the session is gone");
    let delivered = timeout(READY_TIMEOUT, async {
        while !matches!(delivered.next().await?, Event::Publish { payload, .. } if payload == b"healed") {}
        Ok::<_, anyhow::Error>(())
    });
    delivered.await.context("the message is not there")?
}

/// Publishes one message that must be stored.
async fn publishes(node: &Node) -> Result<()> {
    let (mut sender, mut receiver, _) = connect(&node.dial(), &identity("healed", Version::V5, false)).await?;
    sender.publish(QoS::AtLeastOnce, false, 1, TOPIC, b"healed").await?;
    match timeout(Duration::from_secs(2), receiver.next()).await?? {
        Event::PubAck { reason: ReasonCode::SUCCESS, .. } => Ok(()),
        other => bail!("instead of a PUBACK: {other:?}"),
    }
}
