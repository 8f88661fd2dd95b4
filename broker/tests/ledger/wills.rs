//! Clients with wills that go without a word while nodes are killed: of every connection that a broker accepted, those that
//! watch see the will once (K7).

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
use tokio::time::{Instant, sleep};

use crate::client::{Dial, Event, Identity, connect, connect_with_will};

const PACE: Duration = Duration::from_millis(10);
/// How long the last wills may take: as long as it takes to see that a node is gone, and more.
const ARRIVE_TIMEOUT: Duration = Duration::from_secs(40);

/// What is known of one connection's will.
#[derive(Clone, Copy, Debug, Default)]
struct Will {
    /// The broker has accepted the connection.
    accepted: bool,
    /// It has ended.
    over: bool,
    /// By DISCONNECT: there is none, unless the node died before it told anybody. Nobody is told that.
    discarded: bool,
    seen: u32,
}

type Book = Rc<RefCell<BTreeMap<String, Will>>>;

/// Mortals with wills, and one that watches.
pub struct Wills {
    book: Book,
    go_on: Rc<Cell<bool>>,
    watches: Rc<Cell<bool>>,
    mortals: Vec<JoinHandle<()>>,
    watcher: JoinHandle<()>,
}

impl Wills {
    /// Starts so many mortals on the current `LocalSet`.
    pub fn start(nodes: &[Dial], count: u32, mut fork: impl FnMut() -> StdRng) -> Wills {
        let book = Book::default();
        let (go_on, watches) = (Rc::new(Cell::new(true)), Rc::new(Cell::new(false)));
        let watcher = tokio::task::spawn_local(watch(nodes.to_vec(), book.clone(), watches.clone(), fork()));
        let mortals = (0..count).map(|number| {
            let (book, go_on, watches) = (book.clone(), go_on.clone(), watches.clone());
            tokio::task::spawn_local(live(nodes.to_vec(), number, book, go_on, watches, fork()))
        });
        let mortals = mortals.collect();
        Wills { book, go_on, watches, mortals, watcher }
    }

    /// Waits until somebody watches.
    pub async fn until_watched(&self) -> Result<()> {
        let begun = Instant::now();
        while !self.watches.get() {
            ensure!(begun.elapsed() < ARRIVE_TIMEOUT, "nobody watches");
            sleep(PACE).await;
        }
        Ok(())
    }

    /// Lets the last of them die, and checks what was seen.
    pub async fn check(self) -> Result<()> {
        self.go_on.set(false);
        for task in self.mortals {
            task.await?;
        }
        let begun = Instant::now();
        let unseen = |book: &BTreeMap<String, Will>| -> Vec<String> {
            let missing = |will: &Will| will.accepted && will.over && !will.discarded && will.seen == 0;
            book.iter().filter(|(_, will)| missing(will)).map(|(name, _)| name.clone()).collect()
        };
        while !unseen(&self.book.borrow()).is_empty() && begun.elapsed() < ARRIVE_TIMEOUT {
            sleep(PACE).await;
        }
        // What comes a second time would come now.
        sleep(Duration::from_secs(2)).await;
        self.watcher.abort();
        let book = self.book.take();
        let count = |is: fn(&Will) -> bool| book.values().filter(|will| is(will)).count();
        let (due, doubled) = (count(|will| will.accepted && !will.discarded), count(|will| will.seen > 1));
        let (missing, all) = (unseen(&book), book.len());
        let after_all = count(|will| will.discarded && will.seen > 0);
        println!(
            "{all} connections, {due} wills due, {missing:?} not seen, {doubled} twice, {after_all} after DISCONNECT"
        );
        ensure!(due > 50, "hardly any load");
        ensure!(missing.is_empty(), "K7: wills were not published");
        ensure!(doubled == 0, "K7: wills were published twice");
        Ok(())
    }
}

/// Connects with a new will each time, stays for a while, and goes.
async fn live(
    nodes: Vec<Dial>,
    number: u32,
    book: Book,
    go_on: Rc<Cell<bool>>,
    watches: Rc<Cell<bool>>,
    mut rng: StdRng,
) {
    let identity = Identity { client_id: format!("mortal-{number}"), version: Version::V5, persistent: false };
    let mut life = 0;
    while go_on.get() {
        sleep(PACE).await;
        if !watches.get() {
            continue;
        }
        life += 1;
        let name = format!("{number}:{life}");
        book.borrow_mut().insert(name.clone(), Will::default());
        let node = &nodes[rng.random_range(0..nodes.len())];
        let stay = Instant::now() + Duration::from_millis(rng.random_range(0..600));
        if let Ok((sender, mut receiver, _)) = connect_with_will(node, &identity, Some(("will/of", &name))).await {
            book.borrow_mut().entry(name.clone()).or_default().accepted = true;
            let ended = tokio::time::timeout_at(stay, receiver.next()).await.is_ok();
            if !ended && rng.random_bool(0.2) && sender.disconnect().await.is_ok() {
                book.borrow_mut().entry(name.clone()).or_default().discarded = true;
            }
        }
        book.borrow_mut().entry(name).or_default().over = true;
    }
}

async fn watch(nodes: Vec<Dial>, book: Book, watches: Rc<Cell<bool>>, mut rng: StdRng) {
    let mut unreleased = BTreeSet::new();
    loop {
        let node = &nodes[rng.random_range(0..nodes.len())];
        let _ = watch_at(node, &book, &watches, &mut unreleased).await;
        sleep(PACE).await;
    }
}

async fn watch_at(node: &Dial, book: &Book, watches: &Cell<bool>, unreleased: &mut BTreeSet<u16>) -> Result<()> {
    let identity = Identity { client_id: "watcher".to_owned(), version: Version::V5, persistent: true };
    let (mut sender, mut receiver, _) = connect(node, &identity).await?;
    if !watches.get() {
        sender.subscribe(1, QoS::ExactlyOnce, &["will/+"]).await?;
    }
    loop {
        match receiver.next().await? {
            Event::SubAck { .. } => watches.set(true),
            Event::Publish { packet_id, payload, .. } => {
                if unreleased.insert(packet_id) {
                    book.borrow_mut().entry(String::from_utf8(payload)?).or_default().seen += 1;
                }
                sender.receive(packet_id).await?;
            }
            Event::PubRel { packet_id } => {
                unreleased.remove(&packet_id);
                sender.complete(packet_id).await?;
            }
            other => bail!("{other:?}"),
        }
    }
}
