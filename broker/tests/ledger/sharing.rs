//! A shared subscription whose members come and go while nodes are killed. Where all are persistent, every message that was
//! acknowledged reaches one member, once (K1, K2): publishers and members speak QoS 2. Where one is and the sessions of the
//! others end with their connections, each reaches a member at least once: they speak QoS 1, and what a member has not
//! acknowledged it has not done. A publisher that hears nothing of a message goes on to the next.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
/// How long a member works on what it is sent at QoS 1.
const WORK: Duration = Duration::from_millis(100);
/// How long the last messages may take once everybody stays.
const ARRIVE_TIMEOUT: Duration = Duration::from_secs(40);

/// What happened to one message.
#[derive(Clone, Copy, Debug, Default)]
struct Item {
    acknowledged: bool,
    received: u32,
}

/// Who the members are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Members {
    /// All sessions outlive their connections; at QoS 2.
    Persistent,
    /// One does; at QoS 1.
    Mixed,
}

impl Members {
    fn qos(self) -> QoS {
        match self {
            Members::Persistent => QoS::ExactlyOnce,
            Members::Mixed => QoS::AtLeastOnce,
        }
    }
}

/// The publishers and members, and what they know.
pub struct Sharing {
    who: Members,
    items: Rc<RefCell<BTreeMap<String, Item>>>,
    publish: Rc<Cell<bool>>,
    wander: Rc<Cell<bool>>,
    subscribed: Rc<Cell<u32>>,
    publishers: Vec<JoinHandle<()>>,
    members: Vec<JoinHandle<()>>,
}

impl Sharing {
    /// Starts so many of both on the current `LocalSet`.
    pub fn start(
        nodes: &[Dial],
        who: Members,
        publishers: u32,
        members: u32,
        mut fork: impl FnMut() -> StdRng,
    ) -> Sharing {
        let items = Rc::new(RefCell::default());
        let (publish, wander) = (Rc::new(Cell::new(true)), Rc::new(Cell::new(true)));
        let subscribed = Rc::new(Cell::new(0));
        let members = (0..members).map(|number| {
            let persistent = who == Members::Persistent || number == 0;
            let member = Member { who, number, persistent, unreleased: BTreeSet::new(), knows: false };
            let shared = (Rc::clone(&items), wander.clone(), subscribed.clone());
            tokio::task::spawn_local(member.live(nodes.to_vec(), shared, fork()))
        });
        let members = members.collect();
        let publishers = (0..publishers).map(|number| {
            let (items, publish) = (Rc::clone(&items), publish.clone());
            let (nodes, qos, subscribed) = (nodes.to_vec(), who.qos(), subscribed.clone());
            tokio::task::spawn_local(publish_all(nodes, qos, number, items, publish, subscribed, fork()))
        });
        let publishers = publishers.collect();
        Sharing { who, items, publish, wander, subscribed, publishers, members }
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
            "{} published, {acknowledged} acknowledged, {} missing, {} doubled {:?}",
            items.len(),
            missing(&items),
            doubled.len(),
            &doubled[..doubled.len().min(10)]
        );
        ensure!(acknowledged > 100, "hardly any load");
        ensure!(missing(&items) == 0, "acknowledged messages reached no member");
        ensure!(
            self.who == Members::Mixed || doubled.is_empty(),
            "messages reached more than one member, or one twice"
        );
        Ok(())
    }
}

async fn publish_all(
    nodes: Vec<Dial>,
    qos: QoS,
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
        let _ = publish_at(node, &identity, qos, &mut sequence, &items, &go_on).await;
        sleep(PACE).await;
    }
}

async fn publish_at(
    node: &Dial,
    identity: &Identity,
    qos: QoS,
    sequence: &mut u64,
    items: &RefCell<BTreeMap<String, Item>>,
    go_on: &Cell<bool>,
) -> Result<()> {
    let (mut sender, mut receiver, _) = connect(node, identity).await?;
    while go_on.get() {
        *sequence += 1;
        let name = format!("{}:{sequence}", identity.client_id);
        items.borrow_mut().insert(name.clone(), Item::default());
        sender.publish(qos, false, 1, TOPIC, name.as_bytes()).await?;
        let reason = match timeout(ACKNOWLEDGE_TIMEOUT, receiver.next()).await?? {
            Event::PubAck { reason, .. } | Event::PubRec { reason, .. } => reason,
            _ => bail!("ended"),
        };
        ensure!(!reason.is_error(), "refused: {}", reason.words());
        items.borrow_mut().entry(name).or_default().acknowledged = true;
        if qos == QoS::ExactlyOnce {
            sender.release(1).await?;
            let Event::PubComp { .. } = timeout(ACKNOWLEDGE_TIMEOUT, receiver.next()).await?? else { bail!("ended") };
        }
        sleep(PACE).await;
    }
    sender.disconnect().await
}

type Shared = (Rc<RefCell<BTreeMap<String, Item>>>, Rc<Cell<bool>>, Rc<Cell<u32>>);

struct Member {
    who: Members,
    number: u32,
    persistent: bool,
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
        let identity = Identity { client_id, version: Version::V5, persistent: self.persistent };
        let (mut sender, mut receiver, present) = connect(node, &identity).await?;
        ensure!(present || !self.knows || !self.persistent, "K2: the session is gone");
        if !present {
            sender.subscribe(1, self.who.qos(), &[SUBSCRIPTION]).await?;
        }
        let until = Instant::now() + stay;
        let mut works_on: VecDeque<(Instant, u16, String)> = VecDeque::new();
        loop {
            while let Some((_, packet_id, name)) = works_on.pop_front_if(|(begun, ..)| begun.elapsed() >= WORK) {
                sender.acknowledge(packet_id).await?;
                items.borrow_mut().entry(name).or_default().received += 1;
            }
            let event = match timeout(Duration::from_millis(50), receiver.next()).await {
                Ok(event) => event?,
                // Goes without a word, whatever is on its way.
                Err(_) if wander.get() && self.knows && Instant::now() > until => return Ok(()),
                Err(_) => continue,
            };
            match event {
                Event::SubAck { .. } => {
                    subscribed.set(subscribed.get() + u32::from(!self.knows));
                    self.knows = true;
                }
                Event::Publish { qos: QoS::AtLeastOnce, packet_id, payload, .. } if self.who == Members::Mixed => {
                    works_on.push_back((Instant::now(), packet_id, String::from_utf8(payload)?));
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
