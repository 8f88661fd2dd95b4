//! Clients that keep a cluster busy while nodes die, and write the ledger: publishers, persistent and passing subscribers,
//! and pairs that fight for one client id. Every second publisher and some of the subscribers use QoS 2.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mqtt_broker::message::QoS;
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
            let qos = if matches!(number % 4, 0 | 3) { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
            others.push(tokio::task::spawn_local(subscriber(shared.clone(), identity, qos, filter, fork())));
        }
        for number in 0..shape.passing {
            let identity = identity("passing", number, version(number), false);
            let qos = if number.is_multiple_of(2) { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
            others.push(tokio::task::spawn_local(subscriber(shared.clone(), identity, qos, "load/#", fork())));
        }
        for number in 0..shape.contended {
            let identity = identity("contended", number, version(number), false);
            others.push(tokio::task::spawn_local(contend(shared.clone(), identity, fork())));
        }
        let publishers = (1..=shape.publishers).map(|number| {
            let qos = if number.is_multiple_of(2) { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
            // What is sent again is only known to be the same within a session.
            let identity = identity("publisher", number, version(number / 2), qos == QoS::ExactlyOnce);
            tokio::task::spawn_local(publisher(shared.clone(), identity, number, qos, shape.pace, fork()))
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

    fn acknowledged(&self, message: MessageId) {
        let now = self.now();
        self.history.borrow_mut().published.entry(message).or_default().acknowledged.get_or_insert(now);
    }

    fn delivered(&self, identity: &Identity, connection: u64, event: &Event) -> Result<()> {
        let Event::Publish { qos, dup, topic, payload, .. } = event else { return Ok(()) };
        self.history.borrow_mut().delivered.push(Delivered {
            client: identity.client_id.clone(),
            connection,
            message: message_id(payload)?,
            topic: topic.clone(),
            exactly_once: *qos == QoS::ExactlyOnce,
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

/// A message on its way, oldest first.
struct Waiting {
    message: MessageId,
    topic: String,
    packet_id: u16,
    /// It was sent under this packet id.
    sent: bool,
    /// PUBREC has come: PUBCOMP is awaited.
    received: bool,
}

/// What a publisher keeps over its connections.
struct Outgoing {
    number: u32,
    qos: QoS,
    next: u64,
    packet_id: u16,
    waiting: VecDeque<Waiting>,
}

impl Outgoing {
    fn next_packet_id(&mut self) -> u16 {
        loop {
            self.packet_id = self.packet_id % u16::MAX + 1;
            if self.waiting.iter().all(|waiting| waiting.packet_id != self.packet_id) {
                return self.packet_id;
            }
        }
    }

    fn find(&mut self, packet_id: u16) -> Result<&mut Waiting> {
        let found = self.waiting.iter_mut().find(|waiting| waiting.packet_id == packet_id && waiting.sent);
        found.context("an acknowledgement of nothing")
    }

    /// Its answer is an error: it is sent again as another message.
    fn refused(&mut self, packet_id: u16, reason: ReasonCode) -> Result<()> {
        self.find(packet_id)?.sent = false;
        bail!("refused: {}", reason.words())
    }
}

/// Publishes in order, and again in order what was not acknowledged, wherever it can connect.
async fn publisher(shared: Rc<Shared>, identity: Identity, number: u32, qos: QoS, pace: Duration, mut rng: StdRng) {
    let mut outgoing = Outgoing { number, qos, next: 1, packet_id: 0, waiting: VecDeque::new() };
    let mut known = false;
    while shared.publish.get() || !outgoing.waiting.is_empty() {
        let expected = identity.persistent && known;
        if let Ok((sender, receiver, connection)) = shared.connect(&identity, expected, &mut rng).await {
            known = true;
            if !identity.persistent {
                // A new session: nothing is a repetition to the broker.
                outgoing.waiting.iter_mut().for_each(|waiting| waiting.sent = false);
            }
            let _ = publish_on(&shared, sender, receiver, &mut outgoing, pace).await;
            shared.ended(connection);
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

async fn publish_on(
    shared: &Shared,
    mut sender: Sender,
    mut receiver: Receiver,
    outgoing: &mut Outgoing,
    pace: Duration,
) -> Result<()> {
    for place in 0..outgoing.waiting.len() {
        if !outgoing.waiting[place].sent {
            outgoing.waiting[place].packet_id = outgoing.next_packet_id();
        }
        send(shared, &mut sender, outgoing, place).await?;
    }
    let mut clock = tokio::time::interval(pace);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        if !shared.publish.get() && outgoing.waiting.is_empty() {
            return sender.disconnect().await;
        }
        if !outgoing.waiting.is_empty() && heard.elapsed() > ACKNOWLEDGE_TIMEOUT {
            bail!("no acknowledgement in time");
        }
        tokio::select! {
            event = receiver.next() => {
                heard = Instant::now();
                match event? {
                    Event::PubAck { packet_id, reason } | Event::PubRec { packet_id, reason } if reason.is_error() => {
                        let message = outgoing.find(packet_id)?.message;
                        shared.history.borrow_mut().published.entry(message).or_default().refused = true;
                        shared.refusals.set(shared.refusals.get() + 1);
                        outgoing.refused(packet_id, reason)?;
                    }
                    Event::PubAck { packet_id, .. } => {
                        shared.acknowledged(outgoing.find(packet_id)?.message);
                        outgoing.waiting.retain(|waiting| waiting.packet_id != packet_id);
                    }
                    Event::PubRec { packet_id, .. } => {
                        let waiting = outgoing.find(packet_id)?;
                        waiting.received = true;
                        shared.acknowledged(waiting.message);
                        sender.release(packet_id).await?;
                    }
                    Event::PubComp { packet_id } => outgoing.waiting.retain(|waiting| waiting.packet_id != packet_id),
                    _ => bail!("ended"),
                }
            }
            _ = clock.tick() => {
                if shared.publish.get() && outgoing.waiting.len() < WINDOW {
                    let message = MessageId { publisher: outgoing.number, sequence: outgoing.next };
                    let topic = format!("load/{}/{}", outgoing.number, TOPICS[(outgoing.next % 2) as usize]);
                    outgoing.next += 1;
                    if outgoing.waiting.is_empty() {
                        heard = Instant::now();
                    }
                    let packet_id = outgoing.next_packet_id();
                    outgoing.waiting.push_back(Waiting { message, topic, packet_id, sent: false, received: false });
                    send(shared, &mut sender, outgoing, outgoing.waiting.len() - 1).await?;
                }
            }
        }
    }
}

/// Sends what waits at this place, or its PUBREL. Enters the attempt before a byte is sent: what is not known to be unsent may
/// arrive.
async fn send(shared: &Shared, sender: &mut Sender, outgoing: &mut Outgoing, place: usize) -> Result<()> {
    let now = shared.now();
    let qos = outgoing.qos;
    let Waiting { message, topic, packet_id, sent, received } = &mut outgoing.waiting[place];
    if *received {
        return sender.release(*packet_id).await;
    }
    {
        let mut history = shared.history.borrow_mut();
        let entry = history.published.entry(*message);
        let exactly_once = qos == QoS::ExactlyOnce;
        let published =
            entry.or_insert_with(|| Published { topic: topic.clone(), exactly_once, ..Published::default() });
        published.attempts.push(now);
    }
    let dup = std::mem::replace(sent, true);
    sender.publish(qos, dup, *packet_id, topic, &payload(*message)).await
}

/// Subscribes, acknowledges what comes, and connects again wherever it can. A passing one also leaves now and then by itself.
async fn subscriber(shared: Rc<Shared>, identity: Identity, qos: QoS, filter: &'static str, mut rng: StdRng) {
    let mut subscribed = false;
    let mut unreleased = BTreeSet::new();
    while shared.go_on.get() {
        let expected = identity.persistent && subscribed;
        if let Ok((sender, receiver, connection)) = shared.connect(&identity, expected, &mut rng).await {
            let subscribe = (!expected).then_some((filter, qos));
            if !identity.persistent {
                unreleased.clear();
            }
            let stay = match identity.persistent {
                true => Duration::MAX,
                false => Duration::from_millis(rng.random_range(4000..15_000)),
            };
            let (subscribed, unreleased) = (&mut subscribed, &mut unreleased);
            let _ =
                receive_on(&shared, &identity, sender, receiver, connection, subscribe, stay, subscribed, unreleased)
                    .await;
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
    subscribe: Option<(&str, QoS)>,
    stay: Duration,
    subscribed: &mut bool,
    unreleased: &mut BTreeSet<u16>,
) -> Result<()> {
    let begun = Instant::now();
    let mut pinged = begun;
    let mut acknowledged = subscribe.is_none();
    if let Some((filter, qos)) = subscribe {
        sender.subscribe(1, qos, &[filter]).await?;
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
                shared.subscribed(identity, connection, subscribe.map_or("", |(filter, _)| filter));
            }
            Event::Disconnect { reason } => bail!("told to go: {}", reason.words()),
            Event::Publish { qos: QoS::ExactlyOnce, packet_id, .. } if unreleased.contains(&packet_id) => {
                sender.receive(packet_id).await?;
            }
            Event::PubRel { packet_id } => {
                unreleased.remove(&packet_id);
                sender.complete(packet_id).await?;
            }
            event => {
                shared.delivered(identity, connection, &event)?;
                match event {
                    Event::Publish { qos: QoS::ExactlyOnce, packet_id, .. } => {
                        unreleased.insert(packet_id);
                        sender.receive(packet_id).await?;
                    }
                    Event::Publish { packet_id, .. } => sender.acknowledge(packet_id).await?,
                    _ => {}
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
                let (mut subscribed, mut unreleased) = (true, BTreeSet::new());
                let subscribe = Some(("load/1/a", QoS::AtLeastOnce));
                let (stay, subscribed, unreleased) = (Duration::MAX, &mut subscribed, &mut unreleased);
                let received = receive_on(
                    &shared, &identity, sender, receiver, connection, subscribe, stay, subscribed, unreleased,
                );
                let _ = received.await;
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
