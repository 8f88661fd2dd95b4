//! Clients that keep a cluster busy while nodes die, and write the ledger: publishers, persistent and passing subscribers,
//! and pairs that fight for one client id.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mqtt_broker::protocol::{ReasonCode, Version};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{ANSWER_TIMEOUT, Dial, Event, Identity, Receiver, Sender, connect};
use crate::history::{At, Connected, Delivered, History, MessageId, Published, Subscribed};

/// Messages that a publisher sends before it waits for acknowledgements.
const WINDOW: usize = 16;
/// A publisher that waits longer for an acknowledgement connects again.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
const TOPICS: [&str; 2] = ["a", "b"];

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub publishers: u32,
    pub persistent: u32,
    pub passing: u32,
    pub contended: u32,
    /// Between two messages of a publisher.
    pub pace: Duration,
}

/// The clients, their ledger, and the switch that ends them.
pub struct Load {
    shared: Rc<Shared>,
    publishers: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

struct Shared {
    nodes: Vec<Dial>,
    start: Instant,
    history: RefCell<History>,
    connections: Cell<u64>,
    publish: Cell<bool>,
    go_on: Cell<bool>,
    refusals: Cell<u64>,
    ready: Cell<u32>,
}

impl Load {
    /// Starts the clients on the current `LocalSet`.
    pub fn start(nodes: Vec<Dial>, shape: Shape, seed: u64) -> Load {
        let shared = Rc::new(Shared {
            nodes,
            start: Instant::now(),
            history: RefCell::default(),
            connections: Cell::new(0),
            publish: Cell::new(true),
            go_on: Cell::new(true),
            refusals: Cell::new(0),
            ready: Cell::new(0),
        });
        let mut rng = StdRng::seed_from_u64(seed);
        let mut fork = || StdRng::seed_from_u64(rng.random());
        let version = |number: u32| if number.is_multiple_of(2) { Version::V5 } else { Version::V3_1_1 };
        let mut others = Vec::new();
        for number in 0..shape.persistent {
            let filter = ["load/#", "load/+/a", "load/1/b"][number as usize % 3];
            let identity = identity("kept", number, version(number / 3), true);
            others.push(tokio::task::spawn_local(subscriber(shared.clone(), identity, filter, fork())));
        }
        for number in 0..shape.passing {
            let identity = identity("passing", number, version(number), false);
            others.push(tokio::task::spawn_local(subscriber(shared.clone(), identity, "load/#", fork())));
        }
        for number in 0..shape.contended {
            let identity = identity("contended", number, version(number), false);
            others.push(tokio::task::spawn_local(contend(shared.clone(), identity, fork())));
        }
        let publishers = (1..=shape.publishers).map(|number| {
            let identity = identity("publisher", number, version(number), false);
            tokio::task::spawn_local(publisher(shared.clone(), identity, number, shape.pace, fork()))
        });
        let publishers = publishers.collect();
        Load { shared, publishers, others }
    }

    /// Waits until `count` subscribers have had their SUBACK.
    pub async fn until_subscribed(&self, count: u32, limit: Duration) -> Result<()> {
        let ready = async {
            while self.shared.ready.get() < count {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(limit, ready).await.context("the subscribers got no SUBACK")
    }

    pub fn acknowledged(&self) -> usize {
        let history = self.shared.history.borrow();
        history.published.values().filter(|published| published.acknowledged.is_some()).count()
    }

    /// Stops the publishers when all they sent is acknowledged, waits until everything acknowledged has arrived or `limit`
    /// is over, ends the clients, and gives the ledger.
    pub async fn finish(self, limit: Duration) -> Result<History> {
        self.shared.publish.set(false);
        let publishers = async {
            for publisher in self.publishers {
                publisher.await?;
            }
            anyhow::Ok(())
        };
        timeout(limit, publishers).await.context("publishers are still waiting for acknowledgements")??;
        let arrived = async {
            while !self.shared.history.borrow().acknowledged_is_delivered().is_empty() {
                sleep(Duration::from_millis(500)).await;
            }
        };
        // What has not arrived is the ledger's to judge.
        let _ = timeout(limit, arrived).await;
        // Time for what must not come.
        sleep(crate::history::MARGIN).await;
        self.shared.go_on.set(false);
        for other in self.others {
            other.await?;
        }
        println!("{} messages were refused and sent again", self.shared.refusals.get());
        Ok(self.shared.history.take())
    }
}

fn identity(role: &str, number: u32, version: Version, persistent: bool) -> Identity {
    Identity { client_id: format!("{role}-{number}"), version, persistent }
}

impl Shared {
    fn now(&self) -> At {
        self.start.elapsed()
    }

    fn any_node(&self, rng: &mut StdRng) -> &Dial {
        &self.nodes[rng.random_range(0..self.nodes.len())]
    }

    /// Connects to any node and enters the connection. `expected`: a session should be there.
    async fn connect(&self, identity: &Identity, expected: bool, rng: &mut StdRng) -> Result<(Sender, Receiver, u64)> {
        let (sender, receiver, present) = connect(self.any_node(rng), identity).await?;
        let connection = self.connections.get() + 1;
        self.connections.set(connection);
        self.history.borrow_mut().connected.push(Connected {
            client: identity.client_id.clone(),
            connection,
            from: self.now(),
            to: None,
            session: expected.then_some(present),
        });
        Ok((sender, receiver, connection))
    }

    /// The connection is over, and what ended with it.
    fn ended(&self, connection: u64) {
        let now = self.now();
        let mut history = self.history.borrow_mut();
        let connected = history.connected.iter_mut().filter(|connected| connected.connection == connection);
        connected.for_each(|connected| connected.to = Some(now));
        let subscribed = history.subscribed.iter_mut().filter(|subscribed| subscribed.connection == connection);
        subscribed.filter(|subscribed| !subscribed.persistent).for_each(|subscribed| subscribed.to = Some(now));
    }

    fn subscribed(&self, identity: &Identity, connection: u64, filter: &str) {
        self.history.borrow_mut().subscribed.push(Subscribed {
            client: identity.client_id.clone(),
            persistent: identity.persistent,
            connection,
            filter: filter.to_owned(),
            from: self.now(),
            to: None,
        });
    }

    fn delivered(&self, identity: &Identity, connection: u64, event: &Event) -> Result<()> {
        let Event::Publish { dup, topic, payload, .. } = event else { return Ok(()) };
        self.history.borrow_mut().delivered.push(Delivered {
            client: identity.client_id.clone(),
            connection,
            message: message_id(payload)?,
            topic: topic.clone(),
            dup: *dup,
        });
        Ok(())
    }
}

/// A payload of 64 bytes that says which message it is.
fn payload(message: MessageId) -> Vec<u8> {
    format!("{:<64}", message.to_string()).into_bytes()
}

fn message_id(payload: &[u8]) -> Result<MessageId> {
    let text = std::str::from_utf8(payload)?.trim_end();
    let (publisher, sequence) = text.split_once(':').with_context(|| format!("a strange payload: {text:?}"))?;
    Ok(MessageId { publisher: publisher.parse()?, sequence: sequence.parse()? })
}

/// Publishes in order, and again in order what was not acknowledged, wherever it can connect.
async fn publisher(shared: Rc<Shared>, identity: Identity, number: u32, pace: Duration, mut rng: StdRng) {
    let mut next = 1;
    // Sent and not acknowledged, oldest first.
    let mut waiting: VecDeque<(MessageId, String)> = VecDeque::new();
    while shared.publish.get() || !waiting.is_empty() {
        if let Ok((sender, receiver, connection)) = shared.connect(&identity, false, &mut rng).await {
            let _ = publish_on(&shared, sender, receiver, number, pace, &mut next, &mut waiting).await;
            shared.ended(connection);
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

async fn publish_on(
    shared: &Shared,
    mut sender: Sender,
    mut receiver: Receiver,
    number: u32,
    pace: Duration,
    next: &mut u64,
    waiting: &mut VecDeque<(MessageId, String)>,
) -> Result<()> {
    let mut packet_ids: BTreeMap<u16, MessageId> = BTreeMap::new();
    let mut packet_id = 0;
    let again: Vec<_> = waiting.iter().cloned().collect();
    for (message, topic) in again {
        packet_id += 1;
        send(shared, &mut sender, packet_id, message, &topic).await?;
        packet_ids.insert(packet_id, message);
    }
    let mut clock = tokio::time::interval(pace);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        if !shared.publish.get() && waiting.is_empty() {
            return sender.disconnect().await;
        }
        if !waiting.is_empty() && heard.elapsed() > ACKNOWLEDGE_TIMEOUT {
            bail!("no acknowledgement in time");
        }
        tokio::select! {
            event = receiver.next() => {
                heard = Instant::now();
                let Event::PubAck { packet_id, reason } = event? else { bail!("ended") };
                let message = packet_ids.remove(&packet_id).context("an acknowledgement of nothing")?;
                let now = shared.now();
                let mut history = shared.history.borrow_mut();
                let published = history.published.entry(message).or_default();
                if reason.is_error() {
                    published.refused = true;
                    shared.refusals.set(shared.refusals.get() + 1);
                    bail!("refused: {}", reason.words());
                }
                published.acknowledged.get_or_insert(now);
                waiting.retain(|(waiting, _)| *waiting != message);
            }
            _ = clock.tick() => {
                if shared.publish.get() && waiting.len() < WINDOW {
                    let message = MessageId { publisher: number, sequence: *next };
                    let topic = format!("load/{number}/{}", TOPICS[(*next % 2) as usize]);
                    *next += 1;
                    if waiting.is_empty() {
                        heard = Instant::now();
                    }
                    waiting.push_back((message, topic.clone()));
                    packet_id = packet_id % u16::MAX + 1;
                    packet_ids.insert(packet_id, message);
                    send(shared, &mut sender, packet_id, message, &topic).await?;
                }
            }
        }
    }
}

/// Enters the attempt before a byte is sent: what is not known to be unsent may arrive.
async fn send(shared: &Shared, sender: &mut Sender, packet_id: u16, message: MessageId, topic: &str) -> Result<()> {
    let now = shared.now();
    {
        let mut history = shared.history.borrow_mut();
        let entry = history.published.entry(message);
        let published = entry.or_insert_with(|| Published { topic: topic.to_owned(), ..Published::default() });
        published.attempts.push(now);
    }
    // Each connection is a new session, so nothing is a repetition to the broker.
    sender.publish(false, packet_id, topic, &payload(message)).await
}

/// Subscribes, acknowledges what comes, and connects again wherever it can. A passing one also leaves now and then by itself.
async fn subscriber(shared: Rc<Shared>, identity: Identity, filter: &'static str, mut rng: StdRng) {
    let mut subscribed = false;
    while shared.go_on.get() {
        let expected = identity.persistent && subscribed;
        if let Ok((sender, receiver, connection)) = shared.connect(&identity, expected, &mut rng).await {
            let subscribe = (!expected).then_some(filter);
            let stay = match identity.persistent {
                true => Duration::MAX,
                false => Duration::from_millis(rng.random_range(4000..15_000)),
            };
            let _ =
                receive_on(&shared, &identity, sender, receiver, connection, subscribe, stay, &mut subscribed).await;
            shared.ended(connection);
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

#[expect(clippy::too_many_arguments, reason = "one connection's whole life")]
async fn receive_on(
    shared: &Shared,
    identity: &Identity,
    mut sender: Sender,
    mut receiver: Receiver,
    connection: u64,
    subscribe: Option<&str>,
    stay: Duration,
    subscribed: &mut bool,
) -> Result<()> {
    let begun = Instant::now();
    let mut pinged = begun;
    let mut acknowledged = subscribe.is_none();
    if let Some(filter) = subscribe {
        sender.subscribe(1, &[filter]).await?;
    }
    while shared.go_on.get() && begun.elapsed() < stay {
        if !acknowledged && begun.elapsed() > ANSWER_TIMEOUT {
            bail!("no SUBACK in time");
        }
        if pinged.elapsed() > Duration::from_secs(10) {
            pinged = Instant::now();
            sender.ping().await?;
        }
        let Ok(event) = timeout(Duration::from_millis(100), receiver.next()).await else { continue };
        match event? {
            Event::SubAck { codes } => {
                if codes.iter().any(|code| ReasonCode(*code).is_error()) {
                    bail!("the subscription was refused: {codes:?}");
                }
                acknowledged = true;
                if !*subscribed {
                    shared.ready.set(shared.ready.get() + 1);
                }
                *subscribed = true;
                shared.subscribed(identity, connection, subscribe.unwrap_or_default());
            }
            Event::Disconnect { reason } => bail!("told to go: {}", reason.words()),
            event => {
                shared.delivered(identity, connection, &event)?;
                if let Event::Publish { packet_id, .. } = event {
                    sender.acknowledge(packet_id).await?;
                }
            }
        }
    }
    sender.disconnect().await
}

/// Connects with one client id again and again, on any node, and listens on all of these connections to what they still get.
async fn contend(shared: Rc<Shared>, identity: Identity, mut rng: StdRng) {
    let mut holders: Vec<JoinHandle<()>> = Vec::new();
    while shared.go_on.get() {
        if let Ok((sender, receiver, connection)) = shared.connect(&identity, false, &mut rng).await {
            let (shared, identity) = (shared.clone(), identity.clone());
            holders.push(tokio::task::spawn_local(async move {
                let (mut subscribed, filter) = (true, Some("load/1/a"));
                let stay = Duration::MAX;
                let _ =
                    receive_on(&shared, &identity, sender, receiver, connection, filter, stay, &mut subscribed).await;
                shared.ended(connection);
            }));
        }
        holders.retain(|holder| !holder.is_finished());
        sleep(Duration::from_millis(rng.random_range(200..2000))).await;
    }
    for holder in holders {
        let _ = holder.await;
    }
}
