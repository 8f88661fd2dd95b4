//! Publishers of retained messages, each on a topic of its own; subscribers that come and go meanwhile; and what a new
//! subscriber of every node must find in the end (K8).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mqtt_broker::message::QoS;
use mqtt_broker::protocol::Version;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{ANSWER_TIMEOUT, Dial, Event, Identity, connect};

const PACE: Duration = Duration::from_millis(20);
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a subscriber may wait for all of them.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// Subscribers that come and go.
const WATCHERS: u32 = 2;
/// From SUBACK to when a watcher looks at what was acknowledged, at most.
const WATCH_MS_MAX: u64 = 200;

/// What was published with RETAIN on one topic.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    acknowledged: u64,
    attempted: u64,
}

/// The publishers, and what they know.
pub struct Keepers {
    nodes: Vec<Dial>,
    kept: Rc<RefCell<BTreeMap<String, Kept>>>,
    go_on: Rc<Cell<bool>>,
    tasks: Vec<JoinHandle<()>>,
    watched: Rc<Watched>,
}

/// What watchers have found.
#[derive(Debug, Default)]
struct Watched {
    complete: Cell<u32>,
    missed: RefCell<Vec<String>>,
}

impl Keepers {
    /// Starts so many publishers on the current `LocalSet`.
    pub fn start(nodes: Vec<Dial>, count: u32, mut fork: impl FnMut() -> StdRng) -> Keepers {
        let (kept, go_on) = (Rc::new(RefCell::default()), Rc::new(Cell::new(true)));
        let tasks = (0..count).map(|number| {
            let topic = format!("kept/{number}");
            tokio::task::spawn_local(keep(nodes.clone(), topic, Rc::clone(&kept), go_on.clone(), fork()))
        });
        let mut tasks: Vec<_> = tasks.collect();
        let watched = Rc::new(Watched::default());
        for number in 0..WATCHERS {
            let watch = watch(nodes.clone(), number, Rc::clone(&kept), go_on.clone(), watched.clone(), fork());
            tasks.push(tokio::task::spawn_local(watch));
        }
        Keepers { nodes, kept, go_on, tasks, watched }
    }

    /// Ends the publishers, and subscribes on every node: it must find the last message that was acknowledged on each
    /// topic, or one that was sent after it.
    pub async fn check(self) -> Result<()> {
        self.go_on.set(false);
        for task in self.tasks {
            task.await?;
        }
        let kept = self.kept.take();
        for (number, node) in self.nodes.iter().enumerate() {
            let begun = Instant::now();
            let found = loop {
                match read(node, kept.len()).await {
                    Ok(found) => break found,
                    // A node that is cut off for a moment sends its clients away (K3).
                    Err(error) if begun.elapsed() > READ_TIMEOUT => {
                        return Err(error.context(format!("reading at node {number}")));
                    }
                    Err(_) => sleep(PACE).await,
                }
            };
            for (topic, Kept { acknowledged, attempted }) in &kept {
                let found = found.get(topic).copied().unwrap_or(0);
                ensure!(
                    (*acknowledged..=*attempted).contains(&found),
                    "K8: node {number} has {found} on {topic}; {acknowledged} was acknowledged, {attempted} sent"
                );
            }
        }
        println!("{kept:?} are what every node has kept; {:?}", self.watched);
        let missed = self.watched.missed.take();
        ensure!(missed.is_empty(), "K8: {missed:?}");
        ensure!(self.watched.complete.get() > 0, "no subscriber has seen everything");
        ensure!(kept.values().all(|kept| kept.acknowledged > 0), "hardly any load: {kept:?}");
        Ok(())
    }
}

/// Publishes 1, 2, 3, …, each when the one before is acknowledged, wherever it can connect.
async fn keep(
    nodes: Vec<Dial>,
    topic: String,
    kept: Rc<RefCell<BTreeMap<String, Kept>>>,
    go_on: Rc<Cell<bool>>,
    mut rng: StdRng,
) {
    let identity = Identity { client_id: format!("keeper-{topic}"), version: Version::V5, persistent: false };
    kept.borrow_mut().entry(topic.clone()).or_default();
    while go_on.get() {
        let node = &nodes[rng.random_range(0..nodes.len())];
        // What was not acknowledged counts as sent.
        let _ = keep_at(node, &identity, &topic, &kept, &go_on).await;
        sleep(PACE).await;
    }
}

async fn keep_at(
    node: &Dial,
    identity: &Identity,
    topic: &str,
    kept: &RefCell<BTreeMap<String, Kept>>,
    go_on: &Cell<bool>,
) -> Result<()> {
    let (mut sender, mut receiver, _) = connect(node, identity).await?;
    while go_on.get() {
        let next = {
            let mut kept = kept.borrow_mut();
            let kept = kept.entry(topic.to_owned()).or_default();
            kept.attempted += 1;
            kept.attempted
        };
        sender.publish_retained(1, topic, next.to_string().as_bytes()).await?;
        let Event::PubAck { reason, .. } = timeout(ACKNOWLEDGE_TIMEOUT, receiver.next()).await?? else {
            bail!("ended")
        };
        ensure!(!reason.is_error(), "refused: {}", reason.words());
        kept.borrow_mut().entry(topic.to_owned()).or_default().acknowledged = next;
        sleep(PACE).await;
    }
    sender.disconnect().await
}

/// Subscribes to all of them, at one node after another.
async fn watch(
    nodes: Vec<Dial>,
    number: u32,
    kept: Rc<RefCell<BTreeMap<String, Kept>>>,
    go_on: Rc<Cell<bool>>,
    watched: Rc<Watched>,
    mut rng: StdRng,
) {
    let identity = Identity { client_id: format!("watcher-{number}"), version: Version::V5, persistent: false };
    while go_on.get() {
        let node = rng.random_range(0..nodes.len());
        let wait = Duration::from_millis(rng.random_range(0..WATCH_MS_MAX));
        // A connection that ends says nothing.
        if let Ok(missing) = watch_at(&nodes[node], &identity, &kept, wait).await {
            if missing.is_empty() {
                watched.complete.set(watched.complete.get() + 1);
            } else {
                watched.missed.borrow_mut().push(format!("a subscriber of node {node} waits for {missing:?}"));
            }
        }
        sleep(PACE).await;
    }
}

/// Subscribes, and waits until it was sent what was acknowledged `wait` later, or something newer: as a retained message or as
/// it was published. Gives what it waits for in vain.
async fn watch_at(
    node: &Dial,
    identity: &Identity,
    kept: &RefCell<BTreeMap<String, Kept>>,
    wait: Duration,
) -> Result<BTreeMap<String, u64>> {
    let (mut sender, mut receiver, _) = connect(node, identity).await?;
    sender.subscribe(1, QoS::AtLeastOnce, &["kept/+"]).await?;
    let suback = timeout(ANSWER_TIMEOUT, receiver.next()).await??;
    ensure!(matches!(suback, Event::SubAck { .. }), "{suback:?} instead of a SUBACK");
    let subscribed = Instant::now();
    let mut waits_for: Option<BTreeMap<String, u64>> = None;
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    let mut asked = false;
    loop {
        let limit = match (&waits_for, asked) {
            (None, _) => wait,
            (Some(_), false) => wait + READ_TIMEOUT,
            (Some(_), true) => wait + READ_TIMEOUT + ANSWER_TIMEOUT,
        };
        match tokio::time::timeout_at(subscribed + limit, receiver.next()).await {
            Ok(event) => match event? {
                Event::Publish { packet_id, topic, payload, .. } => {
                    sender.acknowledge(packet_id).await?;
                    let newest = newest.entry(topic).or_default();
                    *newest = std::str::from_utf8(&payload)?.parse::<u64>()?.max(*newest);
                }
                // It is alive, and has nothing more to say.
                Event::SubAck { .. } => return Ok(waits_for.unwrap_or_default()),
                _ => {}
            },
            Err(_) if waits_for.is_none() => {
                let acknowledged = kept.borrow();
                let all = acknowledged.iter().map(|(topic, kept)| (topic.clone(), kept.acknowledged));
                waits_for = Some(all.filter(|(_, acknowledged)| *acknowledged > 0).collect());
            }
            // Is it there at all?
            Err(_) if !asked => {
                asked = true;
                sender.subscribe(2, QoS::AtMostOnce, &["nothing"]).await?;
            }
            Err(_) => bail!("no answer"),
        }
        if let Some(waits_for) = &mut waits_for {
            waits_for.retain(|topic, acknowledged| newest.get(topic).is_none_or(|newest| newest < acknowledged));
            if waits_for.is_empty() {
                sender.disconnect().await?;
                return Ok(BTreeMap::new());
            }
        }
    }
}

/// What a new subscriber is sent, until it has so many topics.
async fn read(node: &Dial, topics: usize) -> Result<BTreeMap<String, u64>> {
    let identity = Identity { client_id: "reader".to_owned(), version: Version::V5, persistent: false };
    let (mut sender, mut receiver, _) = connect(node, &identity).await?;
    sender.subscribe(1, QoS::AtLeastOnce, &["kept/+"]).await?;
    let suback = timeout(ANSWER_TIMEOUT, receiver.next()).await??;
    ensure!(matches!(suback, Event::SubAck { .. }), "{suback:?} instead of a SUBACK");
    let mut found = BTreeMap::new();
    let all = async {
        while found.len() < topics {
            if let Event::Publish { packet_id, topic, payload, .. } = receiver.next().await? {
                sender.acknowledge(packet_id).await?;
                found.insert(topic, std::str::from_utf8(&payload)?.parse()?);
            }
        }
        anyhow::Ok(())
    };
    if let Ok(result) = timeout(READ_TIMEOUT, all).await {
        result?;
    }
    sender.disconnect().await?;
    Ok(found)
}
