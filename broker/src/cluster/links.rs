//! All links of a node: who is dialled, which of two streams stays, calls and their answers.
//!
//! Both ends dial, for either may be the only one that knows the other's address. Of a pair, the node with the lower id
//! alone decides which stream becomes the link, by sending the first frame on it; so both always agree.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::frames::{Frame, Hello, PROTOCOL, PROTOCOL_MIN, Peer};
use super::link::{self, LinkError, Outbound};
use super::mesh::LocalFuture;
use super::net::{BoxStream, Net};
use super::tasks::Tasks;
use crate::identity::{Incarnation, NodeId, Origin};

/// How long a dial may take.
const DIAL_MS: u64 = 1_000;
/// Wait before an address is dialled again: from here, doubling,
const BACKOFF_MS_MIN: u64 = 50;
/// up to here; then halved at random.
const BACKOFF_MS_MAX: u64 = 2_000;
/// How often the configured peers are resolved anew.
const RESOLVE_MS: u64 = 1_000;
/// How often it is looked for addresses that are due.
const DIAL_TURN_MS: u64 = 50;
/// Addresses remembered; more are not dialled.
const ADDRESSES_MAX: usize = 1_024;

/// What the node does with what its links bring. Called from tasks of the links, one call at a time.
pub trait LinkEvents {
    /// A link is up.
    fn up(&self, peer: &Peer);
    /// The link that was reported up is gone.
    fn down(&self, peer: &Peer);
    /// A frame came; answers to calls and signs of life don't come here.
    fn frame(&self, peer: &Peer, frame: Frame);
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There is no link, or it went down before the answer came.
    #[error("no link")]
    NotLinked,
    /// No answer came in time.
    #[error("no answer in time")]
    Late,
    /// The peer has nothing that could answer.
    #[error("nobody there answers this")]
    Refused,
}

/// All links of a node. Clones are the same.
#[derive(Clone)]
pub struct Links {
    inner: Rc<Inner>,
}

struct Inner {
    net: Rc<dyn Net>,
    tasks: Tasks,
    rng: RefCell<SmallRng>,
    mine: RefCell<Hello>,
    events: Weak<dyn LinkEvents>,
    live: RefCell<BTreeMap<NodeId, Live>>,
    addresses: RefCell<BTreeMap<String, Address>>,
    configured: Vec<String>,
    turn: Notify,
    serial: Cell<u64>,
    /// A cluster that a peer said it belongs to.
    heard_of: Cell<Option<u64>>,
    /// Nodes that spoke an older protocol when they were last linked.
    older: RefCell<BTreeMap<NodeId, u16>>,
}

struct Live {
    peer: Peer,
    outbound: Rc<Outbound>,
    serial: u64,
    calls: BTreeMap<u64, oneshot::Sender<Option<Bytes>>>,
}

/// An address that may be dialled.
struct Address {
    /// Who answered there last.
    node: Option<NodeId>,
    failures: u32,
    due: Instant,
    busy: bool,
}

impl Links {
    /// Links of the node that `mine` introduces. Nothing is dialled or accepted before [`Links::start`].
    pub fn new(
        net: Rc<dyn Net>,
        mine: Hello,
        configured: Vec<String>,
        events: Weak<dyn LinkEvents>,
        tasks: Tasks,
        rng: SmallRng,
    ) -> Links {
        Links {
            inner: Rc::new(Inner {
                net,
                tasks,
                rng: RefCell::new(rng),
                mine: RefCell::new(mine),
                events,
                live: RefCell::default(),
                addresses: RefCell::default(),
                configured,
                turn: Notify::new(),
                serial: Cell::new(0),
                heard_of: Cell::new(None),
                older: RefCell::default(),
            }),
        }
    }

    /// Opens `listen` to peers and begins to dial. An error names the address.
    pub async fn start(&self, listen: &str) -> anyhow::Result<()> {
        let mut listener = self
            .inner
            .net
            .listen(listen)
            .await
            .map_err(|error| anyhow::anyhow!("cannot listen for peers on {listen}: {error}"))?;
        let links = self.clone();
        self.inner.tasks.spawn(async move {
            loop {
                match listener.accept().await {
                    Ok(incoming) => links.answer(incoming),
                    Err(error) => {
                        tracing::warn!("accepting peers: {error}");
                        sleep(Duration::from_millis(BACKOFF_MS_MIN)).await;
                    }
                }
            }
        });
        let links = self.clone();
        self.inner.tasks.spawn(async move { links.dial().await });
        let links = self.clone();
        self.inner.tasks.spawn(async move { links.resolve().await });
        Ok(())
    }

    /// This run of this node.
    pub fn me(&self) -> Origin {
        self.inner.mine.borrow().origin
    }

    /// The cluster that this node now belongs to is told to peers from now on.
    pub fn joined(&self, cluster: u64) {
        self.inner.mine.borrow_mut().cluster = Some(cluster);
    }

    /// The node begins a new run: all links are made anew under it.
    pub fn begin_run(&self, incarnation: Incarnation) {
        self.inner.mine.borrow_mut().origin.incarnation = incarnation;
        for live in self.inner.live.borrow().values() {
            live.outbound.close("this node begins a new run");
        }
    }

    /// A cluster that some peer said it belongs to, at any time since the start.
    pub fn heard_of(&self) -> Option<u64> {
        self.inner.heard_of.get()
    }

    /// Members to keep links to, besides the configured peers.
    pub fn remember(&self, members: impl IntoIterator<Item = (NodeId, String)>) {
        for (node, address) in members {
            if node != self.me().node {
                self.note(address, Some(node));
            }
        }
        self.inner.turn.notify_one();
    }

    fn note(&self, address: String, node: Option<NodeId>) {
        let mut addresses = self.inner.addresses.borrow_mut();
        let known = addresses.len();
        match addresses.get_mut(&address) {
            Some(known) => known.node = node.or(known.node),
            None if known < ADDRESSES_MAX => {
                addresses.insert(address, Address { node, failures: 0, due: Instant::now(), busy: false });
            }
            None => {}
        }
    }

    /// The nodes that are linked now, in the order of their ids.
    pub fn peers(&self) -> Vec<Peer> {
        let live = self.inner.live.borrow();
        live.values().map(|live| live.peer.clone()).collect()
    }

    /// The run of `node` that is linked now.
    pub fn peer(&self, node: NodeId) -> Option<Incarnation> {
        let live = self.inner.live.borrow();
        live.get(&node).map(|live| live.peer.origin.incarnation)
    }

    /// The protocol to speak with `node`, as it said when it was last linked.
    pub fn protocol(&self, node: NodeId) -> u16 {
        self.inner.older.borrow().get(&node).copied().unwrap_or(PROTOCOL)
    }

    /// Queues a frame; false when there is no link.
    pub fn send(&self, to: NodeId, frame: &Frame) -> bool {
        match self.inner.live.borrow().get(&to) {
            Some(live) => {
                live.outbound.send(frame);
                true
            }
            None => false,
        }
    }

    /// Bytes that wait for the network on the way to a node.
    pub fn waiting_bytes(&self, to: NodeId) -> usize {
        let live = self.inner.live.borrow();
        live.get(&to).map_or(0, |live| live.outbound.waiting_bytes())
    }

    /// Sends what `frame` makes of a new call number, and waits for the answer. The frame is queued before this returns.
    pub fn call(
        &self,
        to: NodeId,
        bulk: bool,
        wait: Duration,
        frame: impl FnOnce(u64) -> Frame,
    ) -> LocalFuture<Result<Bytes, CallError>> {
        let (sender, receiver) = oneshot::channel();
        let number = self.inner.next_serial();
        {
            let mut live = self.inner.live.borrow_mut();
            let Some(live) = live.get_mut(&to) else {
                return Box::pin(async { Err(CallError::NotLinked) });
            };
            live.calls.insert(number, sender);
            let frame = frame(number);
            if bulk {
                live.outbound.send_bulk(&frame);
            } else {
                live.outbound.send(&frame);
            }
        }
        let forget = Forget { links: self.clone(), to, number };
        Box::pin(async move {
            let _forget = forget;
            match timeout(wait, receiver).await {
                Err(_) => Err(CallError::Late),
                Ok(Err(_)) => Err(CallError::NotLinked),
                Ok(Ok(None)) => Err(CallError::Refused),
                Ok(Ok(Some(answer))) => Ok(answer),
            }
        })
    }

    async fn resolve(&self) {
        loop {
            for peer in &self.inner.configured {
                match self.inner.net.resolve(peer).await {
                    Ok(found) => {
                        for address in found {
                            self.note(address, None);
                        }
                    }
                    Err(error) => tracing::debug!("cannot resolve peer {peer}: {error}"),
                }
            }
            self.inner.turn.notify_one();
            sleep(Duration::from_millis(RESOLVE_MS)).await;
        }
    }

    async fn dial(&self) {
        loop {
            for address in self.due() {
                let links = self.clone();
                self.inner.tasks.spawn(async move {
                    let outcome = links.dial_one(&address).await;
                    links.dialled(&address, outcome);
                });
            }
            let _ = timeout(Duration::from_millis(DIAL_TURN_MS), self.inner.turn.notified()).await;
        }
    }

    fn due(&self) -> Vec<String> {
        let (now, me) = (Instant::now(), self.me().node);
        let live = self.inner.live.borrow();
        let mut due = Vec::new();
        for (name, address) in self.inner.addresses.borrow_mut().iter_mut() {
            let reached = |node| node == me || live.contains_key(&node);
            if address.busy || address.due > now || address.node.is_some_and(reached) {
                continue;
            }
            address.busy = true;
            due.push(name.clone());
        }
        due
    }

    async fn dial_one(&self, address: &str) -> Result<(), LinkError> {
        let dial = self.inner.net.connect(address);
        let mut stream = timeout(Duration::from_millis(DIAL_MS), dial)
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?;
        let mine = self.inner.mine.borrow().clone();
        let theirs = link::greet(&mut stream, &mine).await?;
        if let Some(known) = self.inner.addresses.borrow_mut().get_mut(address) {
            known.node = Some(theirs.origin.node);
            known.failures = 0;
        }
        self.admit(stream, mine, theirs).await
    }

    fn dialled(&self, address: &str, outcome: Result<(), LinkError>) {
        if let Err(error) = &outcome {
            tracing::debug!("peer at {address}: {error}");
        }
        let mut addresses = self.inner.addresses.borrow_mut();
        if let Some(known) = addresses.get_mut(address) {
            let most = (BACKOFF_MS_MIN << known.failures.min(10)).min(BACKOFF_MS_MAX);
            let wait = self.inner.rng.borrow_mut().random_range(most / 2..=most);
            known.failures += 1;
            known.due = Instant::now() + Duration::from_millis(wait);
            known.busy = false;
        }
    }

    fn answer(&self, incoming: LocalFuture<std::io::Result<BoxStream>>) {
        let links = self.clone();
        self.inner.tasks.spawn(async move {
            let outcome = async {
                let mut stream = incoming.await?;
                let mine = links.inner.mine.borrow().clone();
                let theirs = link::greet(&mut stream, &mine).await?;
                links.admit(stream, mine, theirs).await
            };
            if let Err(error) = outcome.await {
                tracing::debug!("incoming peer: {error}");
            }
        });
    }

    /// Makes the stream the link, if both ends want it, and carries it to its end.
    async fn admit(&self, mut stream: BoxStream, mine: Hello, theirs: Hello) -> Result<(), LinkError> {
        if theirs.cluster.is_some() {
            self.inner.heard_of.set(theirs.cluster);
        }
        let node = theirs.origin.node;
        if node == mine.origin.node {
            if theirs.origin != mine.origin || theirs.name != mine.name {
                tracing::warn!(name = theirs.name, "another process runs with this node's data: id {node}");
            }
            return Err(LinkError::Dropped("it is this node itself"));
        }
        if theirs.protocol < PROTOCOL_MIN {
            tracing::warn!(name = theirs.name, "peer speaks protocol {}", theirs.protocol);
            return Err(LinkError::Dropped("its protocol is too old"));
        }
        if let (Some(ours), Some(other)) = (mine.cluster, theirs.cluster)
            && ours != other
        {
            tracing::warn!(name = theirs.name, "peer belongs to another cluster");
            return Err(LinkError::Dropped("it belongs to another cluster"));
        }
        if mine.origin.node < node {
            if self.peer(node).is_some_and(|run| run >= theirs.origin.incarnation) {
                return Err(LinkError::Dropped("it is linked already"));
            }
        } else {
            link::taken(&mut stream).await?;
        }
        if mine.origin != self.me() {
            return Err(LinkError::Dropped("this node has begun a new run"));
        }
        if theirs.protocol < PROTOCOL {
            self.inner.older.borrow_mut().insert(node, theirs.protocol);
        } else {
            self.inner.older.borrow_mut().remove(&node);
        }
        let peer = Peer { origin: theirs.origin, name: theirs.name, address: theirs.address, version: theirs.version };
        let error = self.run(stream, peer).await;
        match error {
            LinkError::Closed | LinkError::Dropped(_) => Ok(()),
            error => Err(error),
        }
    }

    async fn run(&self, stream: BoxStream, peer: Peer) -> LinkError {
        let node = peer.node();
        let serial = self.inner.next_serial();
        let outbound = Rc::new(Outbound::default());
        // The first frame: it says that this stream is the link.
        outbound.send(&Frame::Ping);
        self.take_down(node, None);
        self.inner
            .live
            .borrow_mut()
            .insert(node, Live { peer: peer.clone(), outbound: outbound.clone(), serial, calls: BTreeMap::new() });
        tracing::info!(peer = peer.name, node = %node, "link up");
        if let Some(events) = self.inner.events.upgrade() {
            events.up(&peer);
        }
        let links = self.clone();
        let from = peer.clone();
        let error = link::carry(stream, outbound, move |frame| {
            links.receive(&from, serial, frame);
        })
        .await;
        tracing::info!(peer = peer.name, node = %node, "link down: {error}");
        self.take_down(node, Some(serial));
        error
    }

    /// Removes the link to `node` (only the one of `serial`, if given) and says so.
    fn take_down(&self, node: NodeId, serial: Option<u64>) {
        let removed = {
            let mut live = self.inner.live.borrow_mut();
            let current = live.get(&node).map(|live| live.serial);
            if current.is_none() || serial.is_some_and(|serial| current != Some(serial)) {
                return;
            }
            live.remove(&node)
        };
        if let Some(removed) = removed {
            removed.outbound.close("replaced by a newer stream");
            // With `removed.calls` every call under way fails here.
            let peer = removed.peer;
            drop(removed.calls);
            if let Some(events) = self.inner.events.upgrade() {
                events.down(&peer);
            }
            self.inner.turn.notify_one();
        }
    }

    fn receive(&self, peer: &Peer, serial: u64, frame: Frame) {
        let node = peer.node();
        match frame {
            Frame::Ping => {}
            Frame::Answer { call, answer } => {
                let waiting = {
                    let mut live = self.inner.live.borrow_mut();
                    live.get_mut(&node).filter(|live| live.serial == serial).and_then(|live| live.calls.remove(&call))
                };
                if let Some(waiting) = waiting {
                    // The caller may have given up.
                    let _ = waiting.send(answer);
                }
            }
            frame => {
                let current = self.inner.live.borrow().get(&node).map(|live| live.serial);
                if current == Some(serial)
                    && let Some(events) = self.inner.events.upgrade()
                {
                    events.frame(peer, frame);
                }
            }
        }
    }
}

impl Inner {
    fn next_serial(&self) -> u64 {
        self.serial.set(self.serial.get() + 1);
        self.serial.get()
    }
}

/// Forgets a call when its caller goes.
struct Forget {
    links: Links,
    to: NodeId,
    number: u64,
}

impl Drop for Forget {
    fn drop(&mut self) {
        if let Some(live) = self.links.inner.live.borrow_mut().get_mut(&self.to) {
            live.calls.remove(&self.number);
        }
    }
}
