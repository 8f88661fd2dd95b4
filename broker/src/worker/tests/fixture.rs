//! A node of workers in one thread: clients over in-memory streams, and a cluster that does as it is told.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use crate::auth::Guard;
use crate::door::{RouteChange, RouteOwner, ToCluster, ToWorker};
use crate::identity::{ConnectionId, NodeId};
use crate::limits::ClientLimits;
use crate::listener::{self, Accepted, Entrance};
use crate::message::{Message, QoS, SubscriptionOptions};
use crate::protocol::{
    Connect, Packet, Properties, PropertiesBuilder, PropertyId, Publish, Subscribe, SubscribeFilters, Version, decode,
};
use crate::shard::{Evicted, Outcome, Place};
use crate::worker::{Counters, WorkerConfig, WorkerDoors, WorkerHandle, doors, run, spawn};

/// How long anything may take, on tokio's paused clock.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test on a paused clock.
pub fn run_test<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// Runs a test that needs sockets, whose clock is the real one.
pub fn run_test_in_real_time<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

pub struct Node {
    pub workers: Vec<WorkerHandle>,
    pub cluster: Rc<RefCell<Cluster>>,
}

/// What the cluster was told, and how it answers.
#[derive(Default)]
pub struct Cluster {
    pub told: Vec<ToCluster>,
    /// Publishes aren't answered until this is set.
    pub answers_publishes: bool,
    /// The answer to the next Open, if it isn't the usual.
    pub next_opened: Option<Outcome>,
    /// What readers of retained messages get, a piece for each question; then nothing.
    pub retained: VecDeque<(Vec<Message>, Option<Place>)>,
    /// They wait for their answer.
    pub holds_retained: bool,
    /// Who asked last, and under which token.
    pub last_read: Option<(ConnectionId, u32)>,
    /// Messages for the queue of a persistent session find no room.
    pub has_no_room: bool,
    /// Subscribes of persistent sessions aren't answered.
    pub holds_subscribes: bool,
    holders: BTreeMap<Arc<str>, (ConnectionId, u64)>,
    epoch: u64,
    routes: u64,
    applied: BTreeMap<u16, u64>,
    settling: Vec<(ConnectionId, u32, u64)>,
}

impl Node {
    pub fn start(workers: u16) -> Node {
        Node::with_limits(workers, ClientLimits::default())
    }

    pub fn with_limits(workers: u16, limits: ClientLimits) -> Node {
        Node::with_workers(workers, limits, |config, doors| {
            spawn_local(run(config, doors));
        })
    }

    /// With each worker on a thread of its own.
    pub fn on_threads(workers: u16) -> Node {
        Node::with_workers(workers, ClientLimits::default(), |config, doors| {
            spawn(config, doors).unwrap();
        })
    }

    /// With workers that `start` starts, or doesn't.
    pub fn with_workers(workers: u16, limits: ClientLimits, mut start: impl FnMut(WorkerConfig, WorkerDoors)) -> Node {
        let (to_cluster, mut from_workers) = mpsc::unbounded_channel();
        let (doors, handles): (Vec<_>, Vec<_>) = doors(workers, &to_cluster, &limits).into_iter().unzip();
        for (index, doors) in doors.into_iter().enumerate() {
            let guard = Guard::open(limits.clone());
            let config = WorkerConfig { index: index as u16, node: NodeId(1), guard, seed: 7, now_ms: 1_000_000 };
            start(config, doors);
        }
        let cluster = Rc::new(RefCell::new(Cluster { answers_publishes: true, ..Cluster::default() }));
        let node = Node { workers: handles.clone(), cluster: cluster.clone() };
        node.command_all(|| ToWorker::Serving(true));
        spawn_local(async move {
            while let Some(batch) = from_workers.recv().await {
                for what in batch {
                    cluster.borrow_mut().answer(&what, &handles);
                    cluster.borrow_mut().told.push(what);
                }
            }
        });
        node
    }

    /// Listens on loopback.
    pub fn listen(&self) -> SocketAddr {
        let listener = listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let workers = self.workers.iter().map(|worker| worker.accepted.clone()).collect();
        spawn_local(listener::run(listener, Entrance::plain(true), workers));
        address
    }

    pub fn command(&self, worker: u16, what: ToWorker) {
        self.workers[usize::from(worker)].commands.send(vec![what]).unwrap();
    }

    pub fn command_all(&self, what: impl Fn() -> ToWorker) {
        for worker in 0..self.workers.len() {
            self.command(worker as u16, what());
        }
    }

    /// A route of somebody who isn't a worker of this node.
    pub fn route(&self, owner: RouteOwner, filter: &str) {
        let change = RouteChange { owner, filter: filter.into(), wanted: true };
        self.command_all(|| ToWorker::Routes { number: 1_000_000, changes: vec![change.clone()] });
    }

    /// A connection on which nothing was sent.
    pub async fn open(&self, worker: u16) -> Client {
        self.open_with_capacity(worker, 1 << 20).await
    }

    pub async fn open_with_capacity(&self, worker: u16, capacity: usize) -> Client {
        let (client, server) = tokio::io::duplex(capacity);
        let accepted = Accepted::other(server, true);
        self.workers[usize::from(worker)].accepted.send(accepted).await.ok().unwrap();
        Client::over(client)
    }

    /// A client past CONNACK.
    pub async fn connect(&self, worker: u16, version: Version, client_id: &str) -> Client {
        let mut client = self.open(worker).await;
        client.connect(version, client_id).await;
        client
    }

    /// Waits until something is so.
    pub async fn until(&self, what: &str, mut is_so: impl FnMut(&mut Cluster) -> bool) {
        let wait = async {
            while !is_so(&mut self.cluster.borrow_mut()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
    }

    /// The counters of a worker, as published after now.
    pub async fn counters(&self, worker: u16) -> Counters {
        tokio::time::sleep(Duration::from_millis(250)).await;
        self.workers[usize::from(worker)].counters.read()
    }

    /// The connection that holds a client id, and its epoch.
    pub fn holder(&self, client_id: &str) -> (ConnectionId, u64) {
        self.cluster.borrow().holders[client_id]
    }
}

impl Cluster {
    fn answer(&mut self, what: &ToCluster, workers: &[WorkerHandle]) {
        let tell = |worker: u16, what| {
            workers[usize::from(worker)].commands.send(vec![what]).unwrap();
        };
        match what {
            ToCluster::Open(open) => {
                self.epoch += 1;
                let outcome = self.next_opened.take().unwrap_or(Outcome::Opened {
                    epoch: self.epoch,
                    session_present: false,
                    subscriptions: Vec::new(),
                    owed: Vec::new(),
                });
                if let Outcome::Opened { epoch, .. } = outcome {
                    let new = (open.connection, epoch);
                    if let Some((connection, epoch)) = self.holders.insert(open.client_id.clone(), new) {
                        let why = Evicted::TakenOver;
                        let client_id = open.client_id.clone();
                        tell(connection.worker, ToWorker::Evict { connection, client_id, epoch, why });
                    }
                }
                tell(open.connection.worker, ToWorker::Opened { connection: open.connection, outcome });
            }
            ToCluster::Close(close) => {
                let ended = |holder: &(ConnectionId, u64)| holder.1 == close.epoch;
                self.holders.retain(|client_id, holder| *client_id != close.client_id || !ended(holder));
            }
            ToCluster::Route { worker, filter, wanted } => {
                self.routes += 1;
                let owner = RouteOwner::Worker(*worker);
                let change = RouteChange { owner, filter: filter.clone(), wanted: *wanted };
                for worker in 0..workers.len() {
                    let changes = vec![change.clone()];
                    tell(worker as u16, ToWorker::Routes { number: self.routes, changes });
                }
            }
            ToCluster::RoutesApplied { worker, number } => {
                self.applied.insert(*worker, *number);
                self.settle(workers);
            }
            ToCluster::Settle { connection, token } => {
                self.settling.push((*connection, *token, self.routes));
                self.settle(workers);
            }
            ToCluster::Subscribe { connection, token, subscriptions, .. } if !self.holds_subscribes => {
                let codes = subscriptions.iter().map(|subscription| subscription.options.qos as u8);
                let outcome = Outcome::Codes(codes.collect());
                let (connection, token) = (*connection, *token);
                tell(connection.worker, ToWorker::Subscribed { connection, token, outcome });
            }
            ToCluster::Unsubscribe { connection, token, filters, .. } => {
                let outcome = Outcome::Codes(vec![0; filters.len()]);
                let (connection, token) = (*connection, *token);
                tell(connection.worker, ToWorker::Subscribed { connection, token, outcome });
            }
            ToCluster::ReadRetained { connection, token, .. } => {
                self.last_read = Some((*connection, *token));
                if self.holds_retained {
                    return;
                }
                let (messages, next) = self.retained.pop_front().unwrap_or_default();
                let (connection, token) = (*connection, *token);
                tell(connection.worker, ToWorker::Retained { connection, token, messages, next });
            }
            ToCluster::Enqueue { connection, token, next, .. } => {
                let place = if self.has_no_room { Some(Place::default()) } else { next.clone() };
                let (connection, token, outcome) = (*connection, *token, Outcome::Owes(place));
                tell(connection.worker, ToWorker::Enqueued { connection, token, outcome });
            }
            ToCluster::Publish { connection, token, message, .. }
                if self.answers_publishes && message.qos > QoS::AtMostOnce =>
            {
                let (connection, token, outcome) = (*connection, *token, Outcome::Stored(1));
                tell(connection.worker, ToWorker::Published { connection, token, outcome });
            }
            ToCluster::PublishOnce { connection, token, .. } if self.answers_publishes => {
                let (connection, token, outcome) = (*connection, *token, Outcome::Stored(1));
                tell(connection.worker, ToWorker::Published { connection, token, outcome });
            }
            _ => {}
        }
    }

    fn settle(&mut self, workers: &[WorkerHandle]) {
        let everywhere =
            (0..workers.len() as u16).map(|worker| self.applied.get(&worker).copied().unwrap_or(0)).min().unwrap_or(0);
        self.settling.retain(|(connection, token, routes)| {
            let waits = *routes > everywhere;
            if !waits {
                let settled = ToWorker::Settled { connection: *connection, token: *token };
                workers[usize::from(connection.worker)].commands.send(vec![settled]).unwrap();
            }
            waits
        });
    }
}

pub trait ByteStream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> ByteStream for S {}

pub struct Client {
    stream: Box<dyn ByteStream>,
    read: Vec<u8>,
    pub version: Version,
}

impl Client {
    pub fn over(stream: impl ByteStream + 'static) -> Client {
        Client { stream: Box::new(stream), read: Vec::new(), version: Version::V5 }
    }

    /// A client past CONNACK, over TCP.
    pub async fn connect_to(address: SocketAddr, version: Version, client_id: &str) -> Client {
        let mut client = Client::over(TcpStream::connect(address).await.unwrap());
        client.connect(version, client_id).await;
        client
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("the broker reads").unwrap();
    }

    pub async fn send(&mut self, packet: Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(self.version, &mut bytes);
        self.send_bytes(&bytes).await;
    }

    /// Sends CONNECT and expects to be let in.
    pub async fn connect(&mut self, version: Version, client_id: &str) {
        let properties = PropertiesBuilder::new();
        self.connect_with(version, client_id, true, &properties).await;
        let connack = self.receive().await;
        assert_eq!(connack[..4], if version == Version::V5 { connack[..4].to_vec() } else { vec![0x20, 2, 0, 0] });
        assert_eq!(connack[3], 0, "{connack:02x?}");
    }

    pub async fn connect_with(
        &mut self,
        version: Version,
        client_id: &str,
        clean_start: bool,
        properties: &PropertiesBuilder,
    ) {
        self.version = version;
        let properties = if version == Version::V5 { properties.properties() } else { Properties::default() };
        self.send(Packet::Connect(Connect {
            version,
            clean_start,
            keep_alive_seconds: 0,
            properties,
            client_id,
            will: None,
            user_name: None,
            password: None,
        }))
        .await;
    }

    pub async fn publish(&mut self, qos: QoS, packet_id: u16, topic: &str, payload: &str) {
        self.send(publish(qos, packet_id, topic, payload)).await;
    }

    /// Sends SUBSCRIBE and expects these codes.
    pub async fn subscribe(&mut self, filter: &str, qos: QoS, code: u8) {
        self.subscribe_with(filter, SubscriptionOptions { qos, ..Default::default() }, code).await;
    }

    pub async fn subscribe_with(&mut self, filter: &str, options: SubscriptionOptions, code: u8) {
        let mut filters = Vec::new();
        SubscribeFilters::append(&mut filters, filter, options);
        let mut properties = PropertiesBuilder::new();
        if let Some(identifier) = options.identifier {
            properties = properties.int(PropertyId::SubscriptionIdentifier, identifier);
        }
        self.send(Packet::Subscribe(Subscribe {
            packet_id: 77,
            properties: properties.properties(),
            filters: SubscribeFilters::built(&filters),
        }))
        .await;
        let suback = self.receive().await;
        assert_eq!((suback[0], suback.last()), (0x90, Some(&code)), "{suback:02x?}");
    }

    /// The next packet, as bytes.
    pub async fn receive(&mut self) -> Vec<u8> {
        match timeout(PATIENCE, self.try_receive()).await {
            Ok(Some(packet)) => packet,
            Ok(None) => panic!("the connection has ended"),
            Err(_) => panic!("no packet comes"),
        }
    }

    async fn try_receive(&mut self) -> Option<Vec<u8>> {
        loop {
            let decoded = decode(&self.read, self.version, usize::MAX).unwrap();
            if let Some((_, length)) = decoded {
                return Some(self.read.drain(..length).collect());
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk).await {
                Ok(0) | Err(_) => {
                    assert!(self.read.is_empty(), "half a packet");
                    return None;
                }
                Ok(count) => self.read.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// The next packet must be this.
    pub async fn expect(&mut self, packet: Packet<'_>) {
        let mut expected = Vec::new();
        packet.encode(self.version, &mut expected);
        let received = self.receive().await;
        assert_eq!(received, expected, "{:?} instead of {packet:?}", decode(&received, self.version, usize::MAX));
    }

    /// The next packet must be a PUBLISH at QoS 0 with this payload.
    pub async fn expect_payload(&mut self, payload: &str) {
        let received = self.receive().await;
        match decode(&received, self.version, usize::MAX) {
            Ok(Some((Packet::Publish(publish), _))) => {
                assert_eq!(String::from_utf8_lossy(publish.payload), payload);
            }
            other => panic!("{other:?}"),
        }
    }

    /// A PUBLISH comes at QoS 1; returns its packet id and payload.
    pub async fn expect_publish(&mut self) -> (u16, String) {
        let received = self.receive().await;
        match decode(&received, self.version, usize::MAX) {
            Ok(Some((Packet::Publish(publish), _))) => {
                (publish.packet_id, String::from_utf8_lossy(publish.payload).into_owned())
            }
            other => panic!("{other:?}"),
        }
    }

    /// Nothing comes before the answer to a PINGREQ.
    pub async fn expect_nothing(&mut self) {
        self.send(Packet::PingReq).await;
        self.expect(Packet::PingResp).await;
    }

    /// The broker ends the connection.
    pub async fn expect_end(&mut self) {
        match timeout(PATIENCE, self.try_receive()).await {
            Ok(None) => {}
            Ok(Some(packet)) => panic!("{packet:02x?} instead of the end"),
            Err(_) => panic!("the connection does not end"),
        }
    }

    /// The broker says DISCONNECT with this reason and ends the connection.
    pub async fn expect_disconnect(&mut self, reason: u8) {
        let received = self.receive().await;
        assert_eq!((received[0], received[2]), (0xe0, reason), "{received:02x?}");
        self.expect_end().await;
    }
}

pub fn publish<'a>(qos: QoS, packet_id: u16, topic: &'a str, payload: &'a str) -> Packet<'a> {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id,
        properties: Properties::default(),
        payload: payload.as_bytes(),
    })
}

pub fn puback(packet_id: u16) -> Packet<'static> {
    puback_with(packet_id, 0)
}

pub fn puback_with(packet_id: u16, reason: u8) -> Packet<'static> {
    Packet::PubAck(crate::protocol::Acknowledgement {
        packet_id,
        reason: crate::protocol::ReasonCode(reason),
        properties: Properties::default(),
    })
}
