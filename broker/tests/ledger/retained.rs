//! Publishers of retained messages, each on a topic of its own; subscribers that come and go meanwhile; and what a new
//! subscriber of every node must find in the end (K8).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
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
#[derive(Clone, Debug, Default)]
struct Kept {
    acknowledged: BTreeSet<u64>,
    attempted: u64,
}

impl Kept {
    fn last(&self) -> u64 {
        self.acknowledged.last().copied().unwrap_or(0)
    }
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

    /// Whether a subscriber was sent what is wrong.
    #[allow(dead_code, reason = "the simulation, which has this file too, need not ask")]
    pub fn have_missed(&self) -> bool {
        !self.watched.missed.borrow().is_empty()
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
            for (topic, kept) in &kept {
                let (found, acknowledged) = (found.get(topic).copied().unwrap_or(0), kept.last());
                ensure!(
                    (acknowledged..=kept.attempted).contains(&found),
                    "K8: node {number} has {found} on {topic}; {acknowledged} was acknowledged, {} sent",
                    kept.attempted
                );
            }
        }
        let last: Vec<u64> = kept.values().map(Kept::last).collect();
        println!("{last:?} are what every node has kept; {:?}", self.watched);
        let missed = self.watched.missed.take();
        ensure!(missed.is_empty(), "K8: {missed:?}");
        ensure!(self.watched.complete.get() > 0, "no subscriber has seen everything");
        ensure!(last.iter().all(|last| *last > 0), "hardly any load: {last:?}");
        Ok(())
    }
}

/// Subscribes to all of them, and stays until it is dropped.
#[allow(dead_code, reason = "the simulation, which has this file too, has nobody who stays")]
pub async fn stay(node: &Dial, client_id: String) -> Result<JoinHandle<()>> {
    let (mut sender, mut receiver, _) =
        connect(node, &Identity { client_id, version: Version::V5, persistent: false }).await?;
    sender.subscribe(1, QoS::AtMostOnce, &["kept/+"]).await?;
    let suback = timeout(ANSWER_TIMEOUT, receiver.next()).await??;
    ensure!(matches!(suback, Event::SubAck { .. }), "{suback:?} instead of a SUBACK");
    Ok(tokio::task::spawn_local(async move {
        let _sender = sender;
        while receiver.next().await.is_ok() {}
    }))
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
        kept.borrow_mut().entry(topic.to_owned()).or_default().acknowledged.insert(next);
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
        let mut found = Found::default();
        if let Ok(missing) = watch_at(&nodes[node], &identity, &kept, wait, &mut found).await {
            if missing.is_empty() {
                watched.complete.set(watched.complete.get() + 1);
            } else {
                watched.missed.borrow_mut().push(format!("a subscriber of node {node} waits for {missing:?}"));
            }
        }
        let wrong = found.wrong.into_iter().map(|wrong| format!("a subscriber of node {node} was sent {wrong}"));
        watched.missed.borrow_mut().extend(wrong);
        sleep(PACE).await;
    }
}

/// What a watcher was sent.
#[derive(Default)]
struct Found {
    newest: BTreeMap<String, u64>,
    /// As a retained message, and nothing newer since.
    retained: BTreeMap<String, u64>,
    wrong: Vec<String>,
}

impl Found {
    /// A retained message is none that was replaced before the watcher subscribed (`before`). What is published next follows
    /// it: what was acknowledged in between has passed the watcher by.
    fn take(&mut self, topic: String, value: u64, retain: bool, before: &BTreeMap<String, u64>, kept: &Kept) {
        if retain {
            let before = before.get(&topic).copied().unwrap_or(0);
            if value < before {
                self.wrong.push(format!("{value} as what {topic} keeps, when {before} had been acknowledged"));
            }
            self.retained.insert(topic.clone(), value);
        } else if let Some(retained) = self.retained.remove(&topic)
            && let Some(missed) = kept.acknowledged.range(retained + 1..value.max(retained + 1)).next()
        {
            self.wrong.push(format!("{retained} as what {topic} keeps, and then {value}, but not {missed}"));
        }
        let newest = self.newest.entry(topic).or_default();
        *newest = value.max(*newest);
    }
}

/// Subscribes, and waits until it was sent what was acknowledged `wait` later, or something newer: as a retained message or as
/// it was published. Gives what it waits for in vain.
async fn watch_at(
    node: &Dial,
    identity: &Identity,
    kept: &RefCell<BTreeMap<String, Kept>>,
    wait: Duration,
    found: &mut Found,
) -> Result<BTreeMap<String, u64>> {
    let (mut sender, mut receiver, _) = connect(node, identity).await?;
    let acknowledged = || -> BTreeMap<String, u64> {
        let kept = kept.borrow();
        let all = kept.iter().map(|(topic, kept)| (topic.clone(), kept.last()));
        all.filter(|(_, last)| *last > 0).collect()
    };
    let before = acknowledged();
    sender.subscribe(1, QoS::AtLeastOnce, &["kept/+"]).await?;
    let suback = timeout(ANSWER_TIMEOUT, receiver.next()).await??;
    ensure!(matches!(suback, Event::SubAck { .. }), "{suback:?} instead of a SUBACK");
    let subscribed = Instant::now();
    let mut waits_for: Option<BTreeMap<String, u64>> = None;
    let mut asked = false;
    loop {
        let limit = match (&waits_for, asked) {
            (None, _) => wait,
            (Some(_), false) => wait + READ_TIMEOUT,
            (Some(_), true) => wait + READ_TIMEOUT + ANSWER_TIMEOUT,
        };
        match tokio::time::timeout_at(subscribed + limit, receiver.next()).await {
            Ok(event) => match event? {
                Event::Publish { packet_id, topic, payload, retain, .. } => {
                    sender.acknowledge(packet_id).await?;
                    let value = std::str::from_utf8(&payload)?.parse()?;
                    if let Some(kept) = kept.borrow().get(&topic) {
                        found.take(topic, value, retain, &before, kept);
                    }
                }
                // It is alive, and has nothing more to say.
                Event::SubAck { .. } => return Ok(waits_for.unwrap_or_default()),
                _ => {}
            },
            Err(_) if waits_for.is_none() => waits_for = Some(acknowledged()),
            // Is it there at all?
            Err(_) if !asked => {
                asked = true;
                sender.subscribe(2, QoS::AtMostOnce, &["nothing"]).await?;
            }
            Err(_) => bail!("no answer"),
        }
        if let Some(waits_for) = &mut waits_for {
            waits_for.retain(|topic, last| found.newest.get(topic).is_none_or(|newest| newest < last));
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
