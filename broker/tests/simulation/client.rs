//! A publisher and a persistent subscriber at QoS 1 that never give up.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use mqtt_broker::message::{QoS, SubscriptionOptions};
use mqtt_broker::protocol::{
    Acknowledgement, Connect, Packet, Properties, PropertiesBuilder, PropertyId, Publish, ReasonCode, Subscribe,
    SubscribeFilters, Version, decode,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::History;
use super::world::World;

const TOPIC: &str = "simulated/topic";
const WINDOW: usize = 8;
/// Without an answer for this long, another node is tried.
const PATIENCE: Duration = Duration::from_secs(4);
const RECONNECT: Duration = Duration::from_millis(50);
const PACKET_BYTES_MAX: usize = 1 << 20;

struct Client {
    stream: DuplexStream,
    buffer: Vec<u8>,
}

/// What came.
enum Came {
    ConnAck(ReasonCode),
    SubAck,
    PubAck(u16, ReasonCode),
    Publish(u16, String),
    Other,
}

impl Client {
    async fn connect(world: &World, rng: &mut StdRng, client_id: &str, durable: bool) -> Option<Client> {
        let stream = world.connect(rng.random_range(0..super::NODES)).await?;
        let mut client = Client { stream, buffer: Vec::new() };
        let properties = PropertiesBuilder::new().int(PropertyId::SessionExpiryInterval, 100_000);
        let connect = Packet::Connect(Connect {
            version: Version::V5,
            clean_start: !durable,
            keep_alive_seconds: 60,
            properties: if durable { properties.properties() } else { Properties::default() },
            client_id,
            will: None,
            user_name: None,
            password: None,
        });
        client.send(&connect).await?;
        match client.next().await? {
            Came::ConnAck(ReasonCode::SUCCESS) => Some(client),
            _ => None,
        }
    }

    async fn send(&mut self, packet: &Packet<'_>) -> Option<()> {
        let mut bytes = Vec::new();
        packet.encode(Version::V5, &mut bytes);
        self.stream.write_all(&bytes).await.ok()
    }

    /// The next packet; `None` when the connection is over, or silent for too long.
    async fn next(&mut self) -> Option<Came> {
        loop {
            if let Some((packet, length)) = decode(&self.buffer, Version::V5, PACKET_BYTES_MAX).ok()? {
                let came = match packet {
                    Packet::ConnAck(connack) => Came::ConnAck(connack.reason),
                    Packet::SubAck(_) => Came::SubAck,
                    Packet::PubAck(ack) => Came::PubAck(ack.packet_id, ack.reason),
                    Packet::Publish(publish) => {
                        Came::Publish(publish.packet_id, String::from_utf8_lossy(publish.payload).into_owned())
                    }
                    _ => Came::Other,
                };
                self.buffer.drain(..length);
                return Some(came);
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await.ok()?.ok()?;
            if read == 0 {
                return None;
            }
        }
    }
}

/// Subscribes; ready when the subscription is acknowledged. Receives for ever in the background.
pub async fn subscriber(world: Rc<World>, history: Rc<History>, start: Instant, seed: u64) {
    let (first, subscribed) = oneshot::channel();
    let mut first = Some(first);
    tokio::task::spawn_local(async move {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5u64);
        loop {
            if let Some(mut client) = Client::connect(&world, &mut rng, "subscriber", true).await {
                history.say(start, "subscriber connected");
                if first.is_some() {
                    let mut filters = Vec::new();
                    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() };
                    SubscribeFilters::append(&mut filters, "simulated/#", options);
                    let subscribe = Subscribe {
                        packet_id: 1,
                        properties: Properties::default(),
                        filters: SubscribeFilters::built(&filters),
                    };
                    client.send(&Packet::Subscribe(subscribe)).await;
                }
                // A silent connection is left for another node: it may be on the wrong side of a cut.
                while let Some(came) = client.next().await {
                    match came {
                        Came::SubAck => {
                            if let Some(first) = first.take() {
                                let _ = first.send(());
                            }
                        }
                        Came::Publish(packet_id, payload) => {
                            if history.delivered.borrow_mut().insert(payload.clone()) {
                                history.say(start, format_args!("delivered {payload}"));
                            }
                            let ack = acknowledgement(packet_id);
                            if client.send(&Packet::PubAck(ack)).await.is_none() {
                                break;
                            }
                        }
                        _ => break,
                    }
                }
                history.say(start, "subscriber disconnected");
            }
            sleep(RECONNECT).await;
        }
    });
    subscribed.await.expect("the subscriber lives");
}

fn acknowledgement(packet_id: u16) -> Acknowledgement<'static> {
    Acknowledgement { packet_id, reason: ReasonCode::SUCCESS, properties: Properties::default() }
}

/// Publishes until told to stop, then until everything is acknowledged. A publisher that `lies` counts as acknowledged what
/// it has only sent, and sends nothing twice.
pub async fn publisher(
    world: Rc<World>,
    history: Rc<History>,
    start: Instant,
    stop: Rc<Cell<bool>>,
    number: usize,
    seed: u64,
    lies: bool,
) {
    let mut rng = StdRng::seed_from_u64(seed ^ (0x70 + number as u64));
    let (mut next, mut waiting) = (1_u32, VecDeque::<String>::new());
    while !stop.get() || !waiting.is_empty() {
        let client_id = format!("publisher-{number}");
        if let Some(mut client) = Client::connect(&world, &mut rng, &client_id, false).await {
            if lies {
                waiting.clear();
            }
            for (place, payload) in waiting.iter().enumerate() {
                publish(&mut client, place as u16 + 1, payload).await;
            }
            // Packet ids of this connection, oldest first.
            let mut ids: VecDeque<u16> = (1..=waiting.len() as u16).collect();
            let mut next_id = waiting.len() as u16 + 1;
            loop {
                while !stop.get() && waiting.len() < WINDOW {
                    let payload = format!("{number}:{next}");
                    next += 1;
                    publish(&mut client, next_id, &payload).await;
                    if lies {
                        history.acknowledged.borrow_mut().insert(payload.clone());
                    }
                    waiting.push_back(payload);
                    ids.push_back(next_id);
                    next_id = next_id % u16::MAX + 1;
                    sleep(Duration::from_millis(rng.random_range(1..20))).await;
                }
                if waiting.is_empty() {
                    return;
                }
                let Some(Came::PubAck(packet_id, reason)) = client.next().await else { break };
                let (Some(id), Some(payload)) = (ids.pop_front(), waiting.pop_front()) else { break };
                assert_eq!(packet_id, id, "PUBACKs come in the order of the PUBLISHes");
                if reason.is_error() {
                    waiting.push_front(payload);
                    break;
                }
                history.say(start, format_args!("acknowledged {payload}"));
                history.acknowledged.borrow_mut().insert(payload);
            }
        }
        sleep(RECONNECT).await;
    }
}

async fn publish(client: &mut Client, packet_id: u16, payload: &str) {
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: TOPIC,
        packet_id,
        properties: Properties::default(),
        payload: payload.as_bytes(),
    };
    // A connection that is over shows at the next read.
    let _ = client.send(&Packet::Publish(publish)).await;
}
