//! Three nodes, their links, and the thin ends of clients.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::super::ShardRooms;
use crate::cluster::convergence::Step;
use crate::cluster::frames::PROTOCOL;
use crate::cluster::mesh::{
    Directory, Forwarder, LocalFuture, Mesh, NotLinked, RouteAnnouncer, Shards, Surroundings, Workers,
};
use crate::cluster::replica::Replica;
use crate::cluster::tasks::Tasks;
use crate::door::{Heir, LoanEnd, Recipient, RouteOwner, Targets, ToCluster, ToWorker, Wanted};
use crate::identity::{ConnectionId, GroupId, Incarnation, NodeId, Origin, ShardId};
use crate::message::{Message, QoS, Subscription, SubscriptionOptions};
use crate::replication::{Settings, Transport, TransportError, seed};
use crate::session::Window;
use crate::shard::{Ack, Close, CloseCause, Open, Outcome};
use crate::share::{Kind, Loan, Member};
use crate::storage::{Log, MemoryDisk, Options};

const SHARD: ShardId = ShardId(0);
const RECEIVE_MAXIMUM: u16 = 8;
pub(super) const SHARED: &str = "$share/g/t";

pub(super) fn node(number: u64) -> NodeId {
    NodeId(number)
}

fn run(node: NodeId) -> Origin {
    Origin { node, incarnation: Incarnation(1) }
}

/// Runs `test` among three nodes that share one shard.
pub(super) fn simulate(seed_value: u64, test: impl AsyncFnOnce(&World)) {
    seed(seed_value);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let world = World(Rc::new(Inner::default()));
        world.found().await;
        test(&world).await;
        for node in world.0.nodes.borrow().values() {
            node.tasks.end();
        }
    });
}

pub(super) struct World(Rc<Inner>);

#[derive(Default)]
struct Inner {
    nodes: RefCell<BTreeMap<NodeId, Node>>,
    cut: RefCell<BTreeSet<(NodeId, NodeId)>>,
    frames: RefCell<VecDeque<(NodeId, NodeId, Bytes)>>,
    to_workers: RefCell<VecDeque<(NodeId, ToWorker)>>,
    leader: Cell<Option<(NodeId, u64)>>,
    leaders: Cell<u32>,
    /// By slot of the connection.
    clients: RefCell<BTreeMap<u32, Client>>,
    subscribed: RefCell<BTreeMap<u32, Outcome>>,
    published: RefCell<BTreeMap<u64, Option<Outcome>>>,
    /// What each node's connected subscribers were given.
    forwarded: RefCell<BTreeMap<NodeId, Vec<String>>>,
    /// What each node's members of the shared subscription were lent and have not ended.
    lent: RefCell<BTreeMap<NodeId, Vec<(Loan, Message)>>>,
    /// Where the member is that a worker chooses.
    chosen: RefCell<Option<Recipient>>,
    /// A member of the cluster speaks no newer one.
    protocol: Cell<Option<u16>>,
}

#[derive(Clone)]
struct Node {
    rooms: Rc<dyn Shards>,
    replica: Rc<dyn Replica>,
    tasks: Tasks,
}

/// The thin end of a session.
struct Client {
    client_id: Arc<str>,
    node: NodeId,
    opened: Option<Outcome>,
    epoch: u64,
    window: Window,
    acknowledges: bool,
    evicted: bool,
    received: Vec<(String, bool)>,
}

fn pair(one: NodeId, other: NodeId) -> (NodeId, NodeId) {
    (one.min(other), one.max(other))
}

impl Inner {
    fn linked(&self, one: NodeId, other: NodeId) -> bool {
        one != other && !self.cut.borrow().contains(&pair(one, other))
    }

    fn node(&self, node: NodeId) -> Option<Node> {
        self.nodes.borrow().get(&node).cloned()
    }

    /// Carries everything one step further.
    fn step(&self) {
        let frames = self.frames.take();
        for (from, to, frame) in frames {
            if let (true, Some(node)) = (self.linked(from, to), self.node(to)) {
                node.rooms.frame(run(from), frame);
            }
        }
        let messages = self.to_workers.take();
        for (at, message) in messages {
            self.worker(at, message);
        }
        let nodes: Vec<(NodeId, Node)> = self.nodes.borrow().iter().map(|(id, node)| (*id, node.clone())).collect();
        for (id, leader) in &nodes {
            let leadership = leader.replica.leadership().borrow().clone();
            if leadership.ready && self.leader.get().is_none_or(|(_, known)| known < leadership.term) {
                self.leader.set(Some((*id, leadership.term)));
                self.leaders.set(self.leaders.get() + 1);
                for (_, node) in &nodes {
                    node.rooms.leader_known(SHARD, *id, leadership.term);
                }
            }
        }
    }

    /// What a worker of `at` does.
    fn worker(&self, at: NodeId, message: ToWorker) {
        let Some(node) = self.node(at) else { return };
        let mut clients = self.clients.borrow_mut();
        match message {
            ToWorker::Opened { connection, outcome } => {
                let client = clients.get_mut(&connection.slot).unwrap();
                if let Outcome::Opened { epoch, .. } = &outcome {
                    client.epoch = *epoch;
                }
                client.opened = Some(outcome);
            }
            ToWorker::Deliver { connection, epoch, deliveries } => {
                let client = clients.get_mut(&connection.slot).unwrap();
                if client.epoch != epoch || client.evicted {
                    return;
                }
                let mut acks = Vec::new();
                for delivery in deliveries {
                    let Some(packet_id) = client.window.send_numbered(delivery.seq, delivery.message.qos) else {
                        continue;
                    };
                    assert!(client.window.in_flight() <= u32::from(RECEIVE_MAXIMUM), "more than the client takes");
                    let payload = String::from_utf8(delivery.message.payload.to_vec()).unwrap();
                    client.received.push((payload, delivery.dup));
                    if client.acknowledges {
                        acks.extend(client.window.acknowledge(packet_id).map(Ack::Done));
                    }
                }
                if !acks.is_empty() {
                    let client_id = client.client_id.clone();
                    node.rooms.worker(ToCluster::Acknowledge { connection, client_id, epoch, acks });
                }
            }
            ToWorker::Attach { connection, client_id, epoch } => {
                let client = &clients[&connection.slot];
                let holds = client.epoch == epoch && !client.evicted;
                let (epoch, sent_to) = if holds { (epoch, client.window.sent_to()) } else { (0, 0) };
                node.rooms.worker(ToCluster::Attached { client_id, epoch, sent_to });
            }
            ToWorker::Evict { connection, client_id, epoch, .. } => {
                let client = clients.get_mut(&connection.slot).unwrap();
                client.evicted |= client.epoch == epoch;
                node.rooms.worker(ToCluster::Released { client_id, epoch });
            }
            ToWorker::Forward(messages) => {
                let mut forwarded = self.forwarded.borrow_mut();
                let payloads = messages.iter().map(|message| String::from_utf8(message.payload.to_vec()).unwrap());
                forwarded.entry(at).or_default().extend(payloads);
            }
            ToWorker::Lend { loan, message } => {
                self.lent.borrow_mut().entry(at).or_default().push((loan, message));
            }
            ToWorker::Choose { token, wanted } => {
                let connected = |wanted: &Wanted| !wanted.connected_only;
                let chosen = self.chosen.borrow();
                let chosen = wanted.iter().map(|wanted| chosen.clone().filter(|_| connected(wanted))).collect();
                node.rooms.worker(ToCluster::Chosen { token, chosen });
            }
            ToWorker::Subscribed { token, outcome, .. } => {
                self.subscribed.borrow_mut().insert(token, outcome);
            }
            ToWorker::Published { token, outcome, .. } => {
                let before = self.published.borrow_mut().insert(token, Some(outcome));
                assert_eq!(before, Some(None), "answered once");
            }
            other => panic!("{other:?} is not expected here"),
        }
    }
}

impl World {
    async fn found(&self) {
        for id in [1, 2, 3].map(node) {
            let tasks = Tasks::default();
            let disk = Rc::new(MemoryDisk::default());
            let (log, _) = Log::open(disk, Options { identity: id.0, limits: Default::default() }).await.unwrap();
            let wire = Rc::new(Wire { me: id, world: Rc::downgrade(&self.0) });
            let start = Instant::now();
            let rooms = ShardRooms::build(Surroundings {
                mesh: wire.clone(),
                directory: wire.clone(),
                forwarder: wire.clone(),
                announcer: wire.clone(),
                workers: wire.clone(),
                transport: wire,
                log,
                settings: Settings::default(),
                now_ms: Rc::new(move || start.elapsed().as_millis() as u64),
                tasks: tasks.clone(),
            });
            let replica = rooms.start(SHARD).await.unwrap();
            self.0.nodes.borrow_mut().insert(id, Node { rooms, replica, tasks });
        }
        let steps = Rc::downgrade(&self.0);
        tokio::task::spawn_local(async move {
            while let Some(world) = steps.upgrade() {
                world.step();
                drop(world);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let first = self.0.node(node(1)).unwrap().replica;
        first.initialize(node(1)).await.unwrap();
        self.leader().await;
        first.take(Step::AddLearner(node(2))).await.unwrap();
        first.take(Step::AddLearner(node(3))).await.unwrap();
        first.take(Step::ChangeVoters([1, 2, 3].map(node).into())).await.unwrap();
    }

    pub(super) async fn within<T>(&self, seconds: u64, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "not within {seconds} s");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) fn cut(&self, one: NodeId, other: NodeId) {
        if !self.0.cut.borrow_mut().insert(pair(one, other)) {
            return;
        }
        self.0.frames.borrow_mut().retain(|(from, to, _)| pair(*from, *to) != pair(one, other));
        for (at, lost) in [(one, other), (other, one)] {
            self.0.node(at).unwrap().rooms.link_down(run(lost));
        }
    }

    pub(super) fn heal(&self, one: NodeId, other: NodeId) {
        if !self.0.cut.borrow_mut().remove(&pair(one, other)) {
            return;
        }
        for (at, back) in [(one, other), (other, one)] {
            self.0.node(at).unwrap().rooms.link_up(run(back));
        }
    }

    pub(super) fn heal_all(&self) {
        let cut = self.0.cut.borrow().clone();
        for (one, other) in cut {
            self.heal(one, other);
        }
    }

    pub(super) async fn leader(&self) -> NodeId {
        self.within(10, || self.0.leader.get()).await.0
    }

    /// How many leaders there have been.
    pub(super) fn leaders(&self) -> u32 {
        self.0.leaders.get()
    }

    pub(super) fn others(&self, than: NodeId) -> (NodeId, NodeId) {
        let others: Vec<NodeId> = [1, 2, 3].map(node).into_iter().filter(|node| *node != than).collect();
        (others[0], others[1])
    }

    /// Hands leadership to the next node.
    pub(super) async fn move_leader(&self) {
        let (from, term) = self.within(10, || self.0.leader.get()).await;
        let to = node(from.0 % 3 + 1);
        let replica = self.0.node(from).unwrap().replica;
        // It declines while the other is not in sync.
        while replica.take(Step::Transfer(to)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.within(10, || self.0.leader.get().filter(|(_, now)| *now > term)).await;
    }

    /// Sends a CONNECT and does not wait.
    pub(super) fn connect(&self, client_id: &str, at: NodeId) -> u32 {
        let slot = self.0.clients.borrow().len() as u32 + 1;
        let client = Client {
            client_id: client_id.into(),
            node: at,
            opened: None,
            epoch: 0,
            window: Window::default(),
            acknowledges: true,
            evicted: false,
            received: Vec::new(),
        };
        self.0.clients.borrow_mut().insert(slot, client);
        self.0.node(at).unwrap().rooms.worker(ToCluster::Open(Open {
            client_id: client_id.into(),
            connection: connection(slot),
            clean_start: false,
            session_expiry_seconds: 3600,
            receive_maximum: RECEIVE_MAXIMUM,
            will: None,
        }));
        slot
    }

    pub(super) async fn open(&self, client_id: &str, at: NodeId) -> u32 {
        let slot = self.connect(client_id, at);
        self.within(10, || self.opened(slot)).await;
        slot
    }

    pub(super) fn opened(&self, slot: u32) -> Option<Outcome> {
        self.0.clients.borrow()[&slot].opened.clone()
    }

    pub(super) fn close(&self, slot: u32) {
        let (at, close) = {
            let client = &self.0.clients.borrow()[&slot];
            let close = Close {
                client_id: client.client_id.clone(),
                epoch: client.epoch,
                cause: CloseCause::WithWill,
                session_expiry_seconds: None,
                sent_to: client.window.sent_to(),
            };
            (client.node, close)
        };
        self.0.node(at).unwrap().rooms.worker(ToCluster::Close(close));
    }

    pub(super) async fn subscribe(&self, slot: u32, filter: &str) {
        let (at, client_id, epoch) = {
            let client = &self.0.clients.borrow()[&slot];
            (client.node, client.client_id.clone(), client.epoch)
        };
        let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() };
        let subscriptions = vec![Subscription { filter: filter.into(), options }];
        let (connection, token) = (connection(slot), slot);
        let subscribe = ToCluster::Subscribe { connection, token, client_id, epoch, subscriptions };
        self.0.node(at).unwrap().rooms.worker(subscribe);
        let codes = self.within(10, || self.0.subscribed.borrow().get(&slot).cloned()).await;
        assert_eq!(codes, Outcome::Codes(vec![1]));
    }

    pub(super) fn publish(&self, at: NodeId, topic: &str, payload: &str) {
        self.publish_to(at, topic, payload, &[RouteOwner::Shard(SHARD)], Vec::new());
    }

    /// To the ephemeral member of [`SHARED`] at `to`; `heir` has it else.
    pub(super) fn publish_lent(&self, at: NodeId, payload: &str, to: NodeId, heir: &str) {
        self.publish_to(at, "t", payload, &[], vec![borrower(to, heir)]);
    }

    /// To a persistent member of [`SHARED`].
    pub(super) fn publish_shared(&self, at: NodeId, payload: &str, client_id: &str) {
        let recipient =
            Recipient { owner: RouteOwner::Shard(SHARD), text: member(Kind::Connected, client_id), heir: None };
        self.publish_to(at, "t", payload, &[], vec![recipient]);
    }

    fn publish_to(&self, at: NodeId, topic: &str, payload: &str, targets: &[RouteOwner], recipients: Vec<Recipient>) {
        let token = self.0.published.borrow().len() as u64;
        self.0.published.borrow_mut().insert(token, None);
        let message = Message {
            topic: topic.into(),
            payload: payload.to_owned().into(),
            qos: QoS::AtLeastOnce,
            ..Message::default()
        };
        let (connection, targets) = (ConnectionId::default(), Targets::from_slice(targets));
        let publish = ToCluster::Publish { connection, token, epoch: 0, message, targets, recipients };
        self.0.node(at).unwrap().rooms.worker(publish);
    }

    /// What the members at a node were lent and have not ended.
    pub(super) fn lent(&self, at: NodeId) -> Vec<String> {
        let lent = self.0.lent.borrow();
        let payload = |(_, message): &(Loan, Message)| String::from_utf8(message.payload.to_vec()).unwrap();
        lent.get(&at).into_iter().flatten().map(payload).collect()
    }

    /// A worker says what became of the loan of this payload.
    pub(super) fn end_loan(&self, at: NodeId, payload: &str, end: impl FnOnce(Message) -> LoanEnd) {
        let (loan, message) = {
            let mut lent = self.0.lent.borrow_mut();
            let lent = lent.get_mut(&at).unwrap();
            let place = lent.iter().position(|(_, message)| message.payload == payload.as_bytes()).unwrap();
            lent.remove(place)
        };
        self.0.node(at).unwrap().rooms.worker(ToCluster::Loans(vec![(loan, end(message))]));
    }

    /// From now on workers choose the ephemeral member at `to`.
    pub(super) fn choose(&self, to: NodeId, heir: &str) {
        self.0.chosen.replace(Some(borrower(to, heir)));
    }

    pub(super) fn speak(&self, protocol: u16) {
        self.0.protocol.set(Some(protocol));
    }

    /// The run of a node is declared over.
    pub(super) fn end_run(&self, ended: NodeId) {
        let nodes: Vec<Node> = self.0.nodes.borrow().values().cloned().collect();
        for node in nodes {
            node.rooms.ended(&[run(ended)]);
        }
    }

    /// PUBLISH at QoS 2 by the client at `slot`, for its shard and the connected subscribers of every node.
    pub(super) fn publish_once(&self, slot: u32, packet_id: u16, topic: &str, payload: &str) {
        let (at, client_id, epoch) = {
            let client = &self.0.clients.borrow()[&slot];
            (client.node, client.client_id.clone(), client.epoch)
        };
        let token = self.0.published.borrow().len() as u64;
        self.0.published.borrow_mut().insert(token, None);
        let message = Message {
            topic: topic.into(),
            payload: payload.to_owned().into(),
            qos: QoS::ExactlyOnce,
            ..Message::default()
        };
        let nodes = [1, 2, 3].map(|number| RouteOwner::Node(node(number)));
        let targets = Targets::from_iter([RouteOwner::Shard(SHARD)].into_iter().chain(nodes));
        let connection = connection(slot);
        let recipients = Vec::new();
        let publish =
            ToCluster::PublishOnce { connection, token, client_id, epoch, packet_id, message, targets, recipients };
        self.0.node(at).unwrap().rooms.worker(publish);
    }

    pub(super) fn all_are_answered(&self) -> bool {
        self.0.published.borrow().values().all(Option::is_some)
    }

    /// What the connected subscribers of a node were given.
    pub(super) fn forwarded(&self, at: NodeId) -> Vec<String> {
        self.0.forwarded.borrow().get(&at).cloned().unwrap_or_default()
    }

    /// Every publish was answered, and stored in the one session there is.
    pub(super) async fn all_are_stored(&self) {
        let answered = || self.0.published.borrow().values().all(Option::is_some).then_some(());
        self.within(30, answered).await;
        for (token, outcome) in self.0.published.borrow().iter() {
            assert_eq!(*outcome, Some(Outcome::Stored(1)), "publish {token}");
        }
    }

    pub(super) fn stop_acknowledging(&self, slot: u32) {
        self.0.clients.borrow_mut().get_mut(&slot).unwrap().acknowledges = false;
    }

    pub(super) fn received(&self, slot: u32) -> Vec<String> {
        self.0.clients.borrow()[&slot].received.iter().map(|(payload, _)| payload.clone()).collect()
    }

    pub(super) fn all_marked_dup(&self, slot: u32) -> bool {
        self.0.clients.borrow()[&slot].received.iter().all(|(_, dup)| *dup)
    }

    pub(super) fn is_evicted(&self, slot: u32) -> bool {
        self.0.clients.borrow()[&slot].evicted
    }
}

fn member(kind: Kind, client_id: &str) -> Arc<str> {
    Member { subscription: SHARED, kind, client_id }.text()
}

fn borrower(at: NodeId, heir: &str) -> Recipient {
    let heir = Some(Heir { shard: SHARD, text: member(Kind::Connected, heir) });
    Recipient { owner: RouteOwner::Node(at), text: member(Kind::Ephemeral, "e"), heir }
}

fn connection(slot: u32) -> ConnectionId {
    ConnectionId { worker: 0, slot, generation: 1 }
}

/// What one node sees of the world.
struct Wire {
    me: NodeId,
    world: Weak<Inner>,
}

impl Mesh for Wire {
    fn me(&self) -> Origin {
        run(self.me)
    }

    fn peer(&self, node: NodeId) -> Option<Incarnation> {
        self.world.upgrade()?.linked(self.me, node).then_some(Incarnation(1))
    }

    fn protocol(&self) -> u16 {
        self.world.upgrade().and_then(|world| world.protocol.get()).unwrap_or(PROTOCOL)
    }

    fn send_shard(&self, to: NodeId, frame: Bytes) -> Result<(), NotLinked> {
        let world = self.world.upgrade().filter(|world| world.linked(self.me, to)).ok_or(NotLinked(to))?;
        world.frames.borrow_mut().push_back((self.me, to, frame));
        Ok(())
    }
}

impl Directory for Wire {
    fn shards(&self) -> u16 {
        1
    }

    fn leader(&self, _shard: ShardId) -> Option<(NodeId, u64)> {
        self.world.upgrade()?.leader.get()
    }

    fn members(&self) -> BTreeSet<NodeId> {
        [1, 2, 3].map(node).into_iter().filter(|node| *node != self.me).collect()
    }

    fn placement(&self, _shard: ShardId) -> Vec<NodeId> {
        [1, 2, 3].map(node).into()
    }

    fn ended(&self) -> Vec<Origin> {
        Vec::new()
    }
}

impl Forwarder for Wire {
    fn forward(&self, to: NodeId, _message: Message, _key: Option<u64>) {
        panic!("nothing is for node {to}");
    }
}

impl RouteAnnouncer for Wire {
    fn lead(&self, _shard: ShardId, _term: u64, _filters: Vec<Arc<str>>) {}

    fn change(&self, _shard: ShardId, _term: u64, _filter: Arc<str>, _wanted: bool) {}

    fn resign(&self, _shard: ShardId, _term: u64) {}

    fn settled(&self, _shard: ShardId, _term: u64) -> LocalFuture<()> {
        Box::pin(std::future::ready(()))
    }
}

impl Workers for Wire {
    fn count(&self) -> u16 {
        1
    }

    fn hand_over(&self, message: Message) {
        self.send(0, ToWorker::Forward(vec![message]));
    }

    fn lend(&self, loan: Loan, message: Message) {
        self.send(0, ToWorker::Lend { loan, message });
    }

    fn send(&self, _worker: u16, message: ToWorker) {
        if let Some(world) = self.world.upgrade() {
            world.to_workers.borrow_mut().push_back((self.me, message));
        }
    }
}

impl Transport for Wire {
    fn call(
        &self,
        to: NodeId,
        _group: GroupId,
        request: Bytes,
        _deadline: Duration,
    ) -> LocalFuture<Result<Bytes, TransportError>> {
        let (me, world) = (self.me, self.world.clone());
        let (answer, wait) = tokio::sync::oneshot::channel();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let linked = || world.upgrade().is_some_and(|world| world.linked(me, to));
            let target = world.upgrade().filter(|_| linked()).and_then(|world| world.node(to));
            let result = match target {
                None => Err(TransportError::Unreachable(to)),
                Some(target) => {
                    let bytes = target.replica.receive(request).await;
                    if linked() { Ok(bytes) } else { Err(TransportError::Closed(to)) }
                }
            };
            let _ = answer.send(result);
        });
        Box::pin(async move { wait.await.unwrap_or(Err(TransportError::Closed(to))) })
    }
}
