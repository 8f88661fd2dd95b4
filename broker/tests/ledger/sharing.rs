//! A shared subscription whose members come and go while nodes are killed: every message that was acknowledged reaches one
//! member, once (K1, K2). Publishers and members speak QoS 2; a publisher that hears nothing of a message goes on to the next.

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

use crate::client::{Dial, Event, Identity, connect};

const TOPIC: &str = "work/item";
const SUBSCRIPTION: &str = "$share/workers/work/+";
const PACE: Duration = Duration::from_millis(5);
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last messages may take once everybody stays.
const ARRIVE_TIMEOUT: Duration = Duration::from_secs(40);

/// What happened to one message.
#[derive(Clone, Copy, Debug, Default)]
struct Item {
    acknowledged: bool,
    received: u32,
}

/// The publishers and members, and what they know.
pub struct Sharing {
    items: Rc<RefCell<BTreeMap<String, Item>>>,
    publish: Rc<Cell<bool>>,
    wander: Rc<Cell<bool>>,
    subscribed: Rc<Cell<u32>>,
    publishers: Vec<JoinHandle<()>>,
    members: Vec<JoinHandle<()>>,
}

impl Sharing {
    /// Starts so many of both on the current `LocalSet`.
    pub fn start(nodes: &[Dial], publishers: u32, members: u32, mut fork: impl FnMut() -> StdRng) -> Sharing {
        let items = Rc::new(RefCell::default());
        let (publish, wander) = (Rc::new(Cell::new(true)), Rc::new(Cell::new(true)));
        let subscribed = Rc::new(Cell::new(0));
        let members = (0..members).map(|number| {
            let member = Member { number, unreleased: BTreeSet::new(), knows: false };
            let shared = (Rc::clone(&items), wander.clone(), subscribed.clone());
            tokio::task::spawn_local(member.live(nodes.to_vec(), shared, fork()))
        });
        let members = members.collect();
        let publishers = (0..publishers).map(|number| {
            let (items, publish) = (Rc::clone(&items), publish.clone());
            tokio::task::spawn_local(publish_all(nodes.to_vec(), number, items, publish, subscribed.clone(), fork()))
        });
        let publishers = publishers.collect();
        Sharing { items, publish, wander, subscribed, publishers, members }
    }

    /// Waits until every member has subscribed.
    pub async fn until_subscribed(&self) -> Result<()> {
        let begun = Instant::now();
        while self.subscribed.get() < self.members.len() as u32 {
            ensure!(begun.elapsed() < ARRIVE_TIMEOUT, "only {} members", self.subscribed.get());
            sleep(PACE).await;
        }
        Ok(())
    }

    /// Lets nobody go any more, and checks what every message came to.
    pub async fn check(self) -> Result<()> {
        self.publish.set(false);
        for task in self.publishers {
            task.await?;
        }
        self.wander.set(false);
        let begun = Instant::now();
        let missing = |items: &BTreeMap<String, Item>| {
            items.values().filter(|item| item.acknowledged && item.received == 0).count()
        };
        while missing(&self.items.borrow()) > 0 && begun.elapsed() < ARRIVE_TIMEOUT {
            sleep(PACE).await;
        }
        // What comes a second time would come now.
        sleep(Duration::from_secs(1)).await;
        for task in self.members {
            task.abort();
        }
        let items = self.items.take();
        let acknowledged = items.values().filter(|item| item.acknowledged).count();
        let doubled = items.iter().filter(|(_, item)| item.received > 1).map(|(name, _)| name).collect::<Vec<_>>();
        println!(
            "{} published, {acknowledged} acknowledged, {} missing, {doubled:?} doubled",
            items.len(),
            missing(&items)
        );
        ensure!(acknowledged > 100, "hardly any load");
        ensure!(missing(&items) == 0, "acknowledged messages reached no member");
        ensure!(doubled.is_empty(), "messages reached more than one member, or one twice");
        Ok(())
    }
}

async fn publish_all(
    nodes: Vec<Dial>,
    number: u32,
    items: Rc<RefCell<BTreeMap<String, Item>>>,
    go_on: Rc<Cell<bool>>,
    subscribed: Rc<Cell<u32>>,
    mut rng: StdRng,
) {
    let identity = Identity { client_id: format!("giver-{number}"), version: Version::V5, persistent: false };
    let mut sequence = 0;
    while subscribed.get() == 0 {
        sleep(PACE).await;
    }
    while go_on.get() {
        let node = &nodes[rng.random_range(0..nodes.len())];
        // What was not acknowledged may have been stored, or not.
        let _ = publish_at(node, &identity, &mut sequence, &items, &go_on).await;
        sleep(PACE).await;
    }
}

async fn publish_at(
    node: &Dial,
    identity: &Identity,
    sequence: &mut u64,
    items: &RefCell<BTreeMap<String, Item>>,
    go_on: &Cell<bool>,
) -> Result<()> {
    let (mut sender, mut receiver, _) = connect(node, identity).await?;
    while go_on.get() {
        *sequence += 1;
        let name = format!("{}:{sequence}", identity.client_id);
        items.borrow_mut().insert(name.clone(), Item::default());
        sender.publish(QoS::ExactlyOnce, false, 1, TOPIC, name.as_bytes()).await?;
        let Event::PubRec { reason, .. } = timeout(ACKNOWLEDGE_TIMEOUT, receiver.next()).await?? else {
            bail!("ended")
        };
        ensure!(!reason.is_error(), "refused: {}", reason.words());
        items.borrow_mut().entry(name).or_default().acknowledged = true;
        sender.release(1).await?;
        let Event::PubComp { .. } = timeout(ACKNOWLEDGE_TIMEOUT, receiver.next()).await?? else { bail!("ended") };
        sleep(PACE).await;
    }
    sender.disconnect().await
}

type Shared = (Rc<RefCell<BTreeMap<String, Item>>>, Rc<Cell<bool>>, Rc<Cell<u32>>);

struct Member {
    number: u32,
    /// Packet ids that it has received and that were not released.
    unreleased: BTreeSet<u16>,
    knows: bool,
}

impl Member {
    /// Connects somewhere for a while, again and again.
    async fn live(mut self, nodes: Vec<Dial>, shared: Shared, mut rng: StdRng) {
        loop {
            let node = &nodes[rng.random_range(0..nodes.len())];
            let stay = Duration::from_millis(rng.random_range(100..1500));
            let _ = self.work(node, &shared, stay).await;
            sleep(Duration::from_millis(rng.random_range(0..500))).await;
        }
    }

    async fn work(&mut self, node: &Dial, (items, wander, subscribed): &Shared, stay: Duration) -> Result<()> {
        let client_id = format!("worker-{}", self.number);
        let identity = Identity { client_id, version: Version::V5, persistent: true };
        let (mut sender, mut receiver, present) = connect(node, &identity).await?;
        ensure!(present || !self.knows, "K2: the session is gone");
        if !self.knows {
            sender.subscribe(1, QoS::ExactlyOnce, &[SUBSCRIPTION]).await?;
        }
        let until = Instant::now() + stay;
        loop {
            let event = match timeout(Duration::from_millis(50), receiver.next()).await {
                Ok(event) => event?,
                // Goes without a word, whatever is on its way.
                Err(_) if wander.get() && self.knows && Instant::now() > until => return Ok(()),
                Err(_) => continue,
            };
            match event {
                Event::SubAck { .. } => {
                    self.knows = true;
                    subscribed.set(subscribed.get() + 1);
                }
                Event::Publish { qos, packet_id, payload, .. } => {
                    ensure!(qos == QoS::ExactlyOnce, "at {qos:?}");
                    if self.unreleased.insert(packet_id) {
                        items.borrow_mut().entry(String::from_utf8(payload)?).or_default().received += 1;
                    }
                    sender.receive(packet_id).await?;
                }
                Event::PubRel { packet_id } => {
                    self.unreleased.remove(&packet_id);
                    sender.complete(packet_id).await?;
                }
                other => bail!("{other:?}"),
            }
            if wander.get() && self.knows && Instant::now() > until {
                return Ok(());
            }
        }
    }
}
