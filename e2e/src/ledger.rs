//! The ledger: publishers and subscribers at QoS 1 that write down every message handed over, acknowledged and received,
//! reconnect for as long as it takes, and are compared at the end.
//!
//! The publisher's rule is the contract's: a message counts as acknowledged when its PUBACK came, and only then. What was not
//! acknowledged is sent again on the next connection, in order, marked as a duplicate. Subscribers have persistent sessions.

mod publisher;
mod subscriber;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::service::Endpoint;
use crate::wait;

/// How silent a broker may be to an open connection before the client gives the connection up.
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// How often a client asks for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(1);
/// How long a client waits before it connects again.
const RECONNECT_AFTER: Duration = Duration::from_millis(200);
/// How long the greeting may take on a new connection.
const GREETING_DEADLINE: Duration = Duration::from_secs(5);

/// Who takes part, and how fast.
#[derive(Clone, Debug)]
pub struct Load {
    /// Beginning of every client id and of the topics, so that two ledgers don't mix.
    pub name: String,
    /// Clients that publish, each on a topic of its own.
    pub publishers: u32,
    /// Clients that each receive all of it.
    pub subscribers: u32,
    /// Messages a second of each publisher.
    pub per_second: u32,
    /// Messages a publisher sends ahead of their acknowledgements.
    pub window: usize,
}

impl Load {
    fn filter(&self) -> String {
        format!("{}/#", self.name)
    }

    fn topic(&self, publisher: u32) -> String {
        format!("{}/{publisher}", self.name)
    }
}

/// A message: its publisher and its place in that publisher's order.
type Message = (u32, u64);

/// What one subscriber wrote down.
#[derive(Default)]
struct Received {
    messages: BTreeSet<Message>,
    newest: BTreeMap<u32, u64>,
    duplicates: u64,
    out_of_order: u64,
    sessions_lost: u64,
    subscribed: bool,
}

/// What everybody wrote down.
#[derive(Default)]
struct Pages {
    sent: BTreeSet<Message>,
    acknowledged: BTreeSet<Message>,
    received: BTreeMap<u32, Received>,
    foreign: u64,
    reconnects: u64,
    last_acknowledgement: BTreeMap<u32, Instant>,
    longest_pause: Duration,
    last_trouble: String,
}

/// The pages, shared by the clients. Never held across an await.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<Pages>>);

impl Book {
    fn open(&self) -> MutexGuard<'_, Pages> {
        // A client that panicked has written whole lines only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reconnected(&self, why: &anyhow::Error) {
        let mut pages = self.open();
        pages.reconnects += 1;
        pages.last_trouble = format!("{why:#}");
    }
}

/// How the pages compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Messages handed to a broker at least once.
    pub sent: usize,
    /// Of these, acknowledged.
    pub acknowledged: usize,
    /// Different messages received, for each subscriber.
    pub received: Vec<usize>,
    /// Acknowledged messages that a subscriber does not have, summed over the subscribers.
    pub lost: usize,
    /// Second and further receptions, which QoS 1 allows.
    pub duplicates: u64,
    /// First receptions that came after a later message of the same publisher.
    pub out_of_order: u64,
    /// Reconnections that found no session.
    pub sessions_lost: u64,
    /// Messages received that nobody sent.
    pub foreign: u64,
    /// Connections made again, or tried to.
    pub reconnects: u64,
    /// The longest time that a publisher was without an acknowledgement.
    pub longest_pause: Duration,
}

impl Balance {
    /// Whether the contract was kept: everything acknowledged was received, in order, on sessions that lasted.
    pub fn kept(&self) -> bool {
        self.lost == 0 && self.out_of_order == 0 && self.sessions_lost == 0 && self.foreign == 0
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let received = self.received.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        write!(
            f,
            "acknowledged {}, received {received}, lost {}; {} duplicates, {} out of order, {} sessions lost, \
             {} reconnections, longest pause {:.1} s",
            self.acknowledged,
            self.lost,
            self.duplicates,
            self.out_of_order,
            self.sessions_lost,
            self.reconnects,
            self.longest_pause.as_secs_f64()
        )
    }
}

/// A running ledger. Dropping it ends its clients.
pub struct Ledger {
    load: Load,
    endpoint: Endpoint,
    book: Book,
    stop: watch::Sender<bool>,
    publishers: JoinSet<()>,
    subscribers: JoinSet<()>,
}

impl Ledger {
    /// Subscribes everybody, then begins to publish.
    pub async fn start(endpoint: Endpoint, load: Load, deadline: Duration) -> Result<Self> {
        let (stop, stopping) = watch::channel(false);
        let book = Book::default();
        let mut subscribers = JoinSet::new();
        for number in 0..load.subscribers {
            book.open().received.insert(number, Received::default());
            subscribers.spawn(subscriber::run(number, load.clone(), endpoint.clone(), book.clone()));
        }
        wait::until("all subscribers subscribed", deadline, async || {
            let pages = book.open();
            let missing = pages.received.values().filter(|received| !received.subscribed).count();
            Ok(wait::seen(missing == 0, || format!("{missing} missing, last trouble: {}", pages.last_trouble)))
        })
        .await?;
        let mut publishers = JoinSet::new();
        for number in 0..load.publishers {
            publishers.spawn(publisher::run(number, load.clone(), endpoint.clone(), book.clone(), stopping.clone()));
        }
        Ok(Self { load, endpoint, book, stop, publishers, subscribers })
    }

    /// How the pages compare now. While messages are under way, "lost" only means "not yet".
    pub fn balance(&self) -> Balance {
        let pages = self.book.open();
        let received = pages.received.values();
        Balance {
            sent: pages.sent.len(),
            acknowledged: pages.acknowledged.len(),
            received: received.clone().map(|page| page.messages.len()).collect(),
            lost: received.clone().map(|page| pages.acknowledged.difference(&page.messages).count()).sum(),
            duplicates: received.clone().map(|page| page.duplicates).sum(),
            out_of_order: received.clone().map(|page| page.out_of_order).sum(),
            sessions_lost: received.map(|page| page.sessions_lost).sum(),
            foreign: pages.foreign,
            reconnects: pages.reconnects,
            longest_pause: pages.longest_pause,
        }
    }

    /// Waits until so many more messages were acknowledged: proof that the brokers go on.
    pub async fn more(&self, messages: usize, deadline: Duration) -> Result<()> {
        let goal = self.balance().acknowledged + messages;
        wait::until(&format!("{messages} more messages acknowledged"), deadline, async || {
            let pages = self.book.open();
            let now = pages.acknowledged.len();
            Ok(wait::seen(now >= goal, || format!("{now} of {goal}, last trouble: {}", pages.last_trouble)))
        })
        .await
    }

    /// Publishes nothing new, waits until every message is acknowledged and received, and draws the balance.
    ///
    /// An error means that the clients could not finish; a balance that is not [`Balance::kept`] means that the contract was broken.
    pub async fn settle(mut self, deadline: Duration) -> Result<Balance> {
        let end = Instant::now() + deadline;
        self.stop.send_replace(true);
        let finished = async { while self.publishers.join_next().await.is_some() {} };
        if tokio::time::timeout_at(end, finished).await.is_err() {
            bail!(
                "the publishers wait for acknowledgements after {} s: {}; last trouble: {}",
                deadline.as_secs(),
                self.balance(),
                self.book.open().last_trouble
            );
        }
        // Whether or not the rest comes, the balance is the answer.
        while Instant::now() < end && self.balance().lost > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.subscribers.shutdown().await;
        for number in 0..self.load.subscribers {
            subscriber::forget(number, &self.load, &self.endpoint).await?;
        }
        Ok(self.balance())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(pages: Pages) -> Balance {
        let (stop, _) = watch::channel(false);
        let load = Load { name: "test".into(), publishers: 1, subscribers: 1, per_second: 1, window: 1 };
        let endpoint = Endpoint { address: ([127, 0, 0, 1], 1).into(), namespace: None };
        let book = Book(Arc::new(Mutex::new(pages)));
        Ledger { load, endpoint, book, stop, publishers: JoinSet::new(), subscribers: JoinSet::new() }.balance()
    }

    #[test]
    fn an_acknowledged_message_that_one_subscriber_lacks_is_lost() {
        let mut pages = Pages::default();
        for sequence in 0..3 {
            pages.sent.insert((0, sequence));
            pages.acknowledged.insert((0, sequence));
        }
        for subscriber in 0..2 {
            let page = pages.received.entry(subscriber).or_default();
            page.messages.extend([(0, 0), (0, 1), (0, 2)]);
        }
        pages.received.entry(1).or_default().messages.remove(&(0, 1));
        let balance = ledger(pages);
        assert_eq!((balance.acknowledged, balance.lost), (3, 1));
        assert_eq!(balance.received, [3, 2]);
        assert!(!balance.kept());
    }

    #[test]
    fn an_unacknowledged_message_may_be_missing() {
        let mut pages = Pages::default();
        pages.sent.insert((0, 0));
        pages.received.insert(0, Received::default());
        assert!(ledger(pages).kept());
    }
}
