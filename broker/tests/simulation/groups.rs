//! Nodes that are nothing but three Raft groups over real links, and publishers that keep them busy.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use mqtt_broker::cluster::frames::{Frame, Hello, PROTOCOL, Peer};
use mqtt_broker::cluster::links::{CallError, LinkEvents, Links};
use mqtt_broker::cluster::tasks::Tasks;
use mqtt_broker::identity::{GroupId, Incarnation, NodeId, Origin};
use mqtt_broker::replication::{Group, Image, LocalFuture, Settings, StateMachine, Transport, TransportError};
use mqtt_broker::storage::{Limits, Log, Options};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use crate::world::{Place, World};

pub const HOSTS: [&str; 3] = ["n1", "n2", "n3"];
const GROUPS: u16 = 3;
const PUBLISHERS: u32 = 6;
/// A publisher that waits longer for an answer asks again, perhaps another node.
const PATIENCE: Duration = Duration::from_secs(2);

/// The number of a message, and who published it.
type Entry = (u32, u64);

/// Everything that was ever applied, in order.
#[derive(Default)]
struct Ledger(Vec<Entry>);

impl StateMachine for Ledger {
    type Effect = ();

    fn apply(&mut self, _index: u64, entry: &[u8], _effects: &mut Vec<()>) {
        self.0.extend(postcard::from_bytes::<Entry>(entry));
    }

    fn snapshot(&self) -> Image {
        postcard::to_stdvec(&self.0).expect("numbers encode").into()
    }

    fn restore(&mut self, bytes: &Bytes) -> io::Result<()> {
        self.0 = postcard::from_bytes(bytes).map_err(io::Error::other)?;
        Ok(())
    }
}

type Groups = Rc<RefCell<BTreeMap<GroupId, Group<Ledger>>>>;

/// The groups of each node that runs, for the publishers.
#[derive(Clone, Default)]
pub struct Nodes {
    running: Rc<RefCell<BTreeMap<String, Groups>>>,
}

fn node_id(host: &str) -> NodeId {
    NodeId(HOSTS.iter().position(|name| *name == host).map_or(0, |at| at as u64 + 1))
}

struct Node {
    links: Links,
    groups: Groups,
}

impl LinkEvents for Node {
    fn up(&self, _peer: &Peer) {}

    fn down(&self, peer: &Peer) {
        let node = peer.node();
        for group in self.groups.borrow().values() {
            let group = group.clone();
            spawn_local(async move { group.peer_closed(node).await });
        }
    }

    fn frame(&self, peer: &Peer, frame: Frame) {
        let Frame::Raft { call, group, request } = frame else { return };
        let (links, node, group) = (self.links.clone(), peer.node(), self.groups.borrow().get(&group).cloned());
        spawn_local(async move {
            let answer = match group {
                Some(group) => Some(group.receive(request).await),
                None => None,
            };
            links.send(node, &Frame::Answer { call, answer });
        });
    }
}

struct Calls(Links);

impl Transport for Calls {
    fn call(
        &self,
        to: NodeId,
        group: GroupId,
        request: Bytes,
        deadline: Duration,
    ) -> LocalFuture<Result<Bytes, TransportError>> {
        let call = self.0.call(to, false, deadline, |call| Frame::Raft { call, group, request });
        Box::pin(async move {
            call.await.map_err(|error| match error {
                CallError::NotLinked => TransportError::Unreachable(to),
                CallError::Late => TransportError::Timeout(to),
                CallError::Refused => TransportError::NoReplica(to),
            })
        })
    }
}

/// The process.
async fn run(place: Place, nodes: Nodes) {
    let me = node_id(&place.host);
    let options = Options { identity: me.0, limits: Limits { segment_bytes_max: 64 << 10, ..Limits::default() } };
    let (log, _) = Log::open(Rc::new(place.disk.clone()), options).await.expect("the log opens");
    let groups = Groups::default();
    let hello = Hello {
        protocol: PROTOCOL,
        cluster: Some(1),
        origin: Origin { node: me, incarnation: Incarnation(place.run) },
        name: place.host.clone(),
        address: format!("{}:7000", place.host),
        version: String::new(),
    };
    let peers = HOSTS.iter().filter(|host| **host != place.host).map(|host| format!("{host}:7000")).collect();
    let node = Rc::new_cyclic(|node: &Weak<Node>| {
        let rng = SmallRng::seed_from_u64(place.seed);
        let links = Links::new(place.net.clone(), hello, peers, node.clone(), Tasks::default(), rng);
        Node { links, groups: groups.clone() }
    });
    let settings = Settings { snapshot_entries: 200, kept_entries: 20, ..Settings::default() };
    for id in (0..GROUPS).map(GroupId) {
        let transport = Rc::new(Calls(node.links.clone()));
        let group =
            Group::start(me, id, Ledger::default(), log.group(id), transport, settings, Rc::new(|_, _| {})).await;
        groups.borrow_mut().insert(id, group.expect("the group starts"));
    }
    node.links.start(&format!("{}:7000", place.host)).await.expect("the address is free");
    nodes.running.borrow_mut().insert(place.host.clone(), groups.clone());
    let own: Vec<_> = groups.borrow().values().cloned().collect();
    for group in own {
        if me == NodeId(1) && !group.is_initialized().await {
            let voters = HOSTS.iter().map(|host| node_id(host)).collect();
            group.initialize(&voters).await.expect("a new group");
        }
    }
    // Holds everything until the process is killed.
    std::future::pending::<()>().await;
    drop((log, node));
}

/// Publishers, what was acknowledged to them, and the check.
pub struct Load {
    world: Rc<World>,
    nodes: Nodes,
    go_on: Cell<bool>,
    acknowledged: RefCell<Vec<(GroupId, Entry)>>,
}

impl Load {
    pub fn boot(&self, host: &str) {
        let nodes = self.nodes.clone();
        self.world.boot(host, |place| run(place, nodes));
    }

    pub fn gone(&self, host: &str) {
        self.nodes.running.borrow_mut().remove(host);
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.borrow().len()
    }

    /// Starts all nodes and the publishers.
    pub fn start(world: &Rc<World>) -> Rc<Load> {
        let load = Rc::new(Load {
            world: world.clone(),
            nodes: Nodes::default(),
            go_on: Cell::new(true),
            acknowledged: RefCell::default(),
        });
        for host in HOSTS {
            load.boot(host);
        }
        for publisher in 1..=PUBLISHERS {
            spawn_local(load.clone().publish(publisher));
        }
        load
    }

    /// One message after the other, each again until it is acknowledged.
    async fn publish(self: Rc<Self>, publisher: u32) {
        let group = GroupId(publisher as u16 % GROUPS);
        let mut sequence = 1;
        let mut host = publisher as usize;
        while self.go_on.get() {
            let entry = Bytes::from(postcard::to_stdvec(&(publisher, sequence)).expect("numbers encode"));
            let running = self.nodes.running.borrow().get(HOSTS[host % HOSTS.len()]).cloned();
            let found = running.and_then(|groups| groups.borrow().get(&group).cloned());
            let answer = match found {
                Some(group) => timeout(PATIENCE, group.propose(entry)).await.ok(),
                None => None,
            };
            if let Some(Ok(())) = answer {
                self.acknowledged.borrow_mut().push((group, (publisher, sequence)));
                self.world.note(format_args!("{publisher}:{sequence} acknowledged"));
                sequence += 1;
            } else {
                host += 1;
            }
            self.world.wait_ms(20..120).await;
        }
    }

    /// Waits until every node has applied the same, and checks it against what was acknowledged (K1, K5).
    pub async fn check(&self) {
        self.go_on.set(false);
        sleep(PATIENCE).await;
        for group in (0..GROUPS).map(GroupId) {
            let mut states = self.states(group);
            for _ in 0..100 {
                if states.len() == HOSTS.len() && states.windows(2).all(|pair| pair[0] == pair[1]) {
                    break;
                }
                sleep(Duration::from_millis(200)).await;
                states = self.states(group);
            }
            assert_eq!(states.len(), HOSTS.len(), "not every node runs");
            assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "{group}: the nodes did not come to agree");
            let applied = &states[0];
            for (of, entry) in self.acknowledged.borrow().iter().filter(|(of, _)| *of == group) {
                assert!(applied.contains(entry), "{of}: {entry:?} was acknowledged and is lost");
            }
            let mut last: BTreeMap<u32, u64> = BTreeMap::new();
            for (publisher, sequence) in applied {
                let last = last.entry(*publisher).or_default();
                assert!(*sequence <= *last + 1, "{group}: {publisher}:{sequence} came after {last}");
                *last = (*last).max(*sequence);
            }
            self.world.note(format_args!("{group}: {applied:?}"));
        }
    }

    fn states(&self, group: GroupId) -> Vec<Vec<Entry>> {
        let running = self.nodes.running.borrow();
        running
            .values()
            .filter_map(|groups| Some(groups.borrow().get(&group)?.with(|ledger| ledger.0.clone())))
            .collect()
    }
}
