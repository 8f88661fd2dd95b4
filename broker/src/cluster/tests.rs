//! Whole clusters on one thread: the room over a network in memory and a clock that is paused. Workers are played.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep};

use super::control::{MemberState, RUN_BITS};
use super::handle::{self, ClusterConfig, ClusterHandle, ClusterRequest, ClusterWorld, Founding, LeaveError};
use super::net::memory::MemoryNet;
use super::status::Status;
use crate::door::{RouteOwner, ToCluster, ToWorker};
use crate::identity::{ConnectionId, Incarnation, NodeId, Origin};
use crate::message::{Message, QoS};
use crate::replication::Settings;
use crate::shard::{Outcome, Refusal};
use crate::storage::{Disk, Faults, Health, Log, MemoryDisk, Options, SimulatedDisk};

mod membership;
mod rebuilding;
mod retaining;
mod routing;

const SHARDS: u16 = 4;
const WORKERS: u16 = 2;
/// Longer than any wait that a test may need.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the workers of a node were told.
#[derive(Default)]
struct Told {
    serving: BTreeMap<u16, bool>,
    /// How often a worker was told not to serve.
    stopped: usize,
    routes: BTreeMap<u16, BTreeSet<(RouteOwner, Arc<str>)>>,
    settled: Vec<(u32, Instant)>,
    published: Vec<(u64, Outcome)>,
    forwarded: Vec<(u16, Arc<str>)>,
    expelled: usize,
    drained: usize,
    /// By slot of the connection.
    opened: BTreeMap<u32, Outcome>,
    /// By token: what of the retained messages was read first.
    retained: BTreeMap<u32, Vec<String>>,
}

/// A node that runs.
struct Node {
    name: String,
    id: NodeId,
    run: u64,
    disk: Rc<dyn Disk>,
    log: Log,
    to_cluster: mpsc::UnboundedSender<Vec<ToCluster>>,
    told: Rc<RefCell<Told>>,
    handle: ClusterHandle,
    process: JoinHandle<()>,
}

struct Cluster {
    net: MemoryNet,
    nodes: BTreeMap<String, Node>,
    /// In which of its runs `a` may found.
    founding_runs: u64,
}

/// Runs a test on one thread, with its clock paused.
fn simulate(test: impl AsyncFnOnce(Cluster)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let cluster = Cluster { net: MemoryNet::new(1), nodes: BTreeMap::new(), founding_runs: 1 };
    LocalSet::new().block_on(&runtime.expect("a runtime"), test(cluster));
}

impl Cluster {
    /// Founds with `a`, joins the others, and waits until all serve.
    async fn start(&mut self, names: &[&str]) {
        for (index, name) in names.iter().enumerate() {
            self.boot(name, index as u64 + 1, 1, Rc::new(MemoryDisk::default())).await;
        }
        self.until("all serve", |cluster| cluster.nodes.values().all(Node::serves)).await;
    }

    /// Starts a process. `a` may found.
    async fn boot(&mut self, name: &str, id: u64, run: u64, disk: Rc<dyn Disk>) {
        let origin = Origin { node: NodeId(id), incarnation: Incarnation(run << RUN_BITS) };
        let options = Options { identity: id, limits: Default::default() };
        let (log, _) = Log::open(disk.clone(), options).await.expect("a log");
        let (to_cluster, from_workers) = mpsc::unbounded_channel();
        let told = Rc::new(RefCell::new(Told::default()));
        let to_workers = (0..WORKERS).map(|worker| play_worker(worker, told.clone(), to_cluster.clone())).collect();
        let config = ClusterConfig {
            name: name.to_string(),
            address: format!("{name}:7"),
            listen: Some(format!("{name}:7")),
            peers: ["a:7", "b:7"].map(str::to_string).to_vec(),
            version: "test".to_string(),
            founding: if name == "a" && run <= self.founding_runs { Founding::Allowed } else { Founding::Never },
            founded: Box::new(|| {}),
            shards: SHARDS,
            factor: None,
            settings: Settings::default(),
            seed: id * 1_000 + run,
        };
        let epoch = Instant::now();
        let now_ms = Rc::new(move || epoch.elapsed().as_millis() as u64);
        let net = self.net.host(name);
        let world = ClusterWorld { origin, net, log: log.clone(), from_workers, to_workers, now_ms };
        let (doors, handle) = handle::doors();
        let process = spawn_local(async move {
            if let Err(error) = handle::run(config, world, doors).await {
                panic!("a node ended: {error:?}");
            }
        });
        let name = name.to_string();
        let node = Node { name: name.clone(), id: NodeId(id), run, disk, log, to_cluster, told, handle, process };
        self.nodes.insert(name, node);
    }

    /// As SIGKILL does: everything stops at once, sockets close. Gives what the disk had.
    async fn kill(&mut self, name: &str) -> Node {
        let node = self.nodes.remove(name).expect("a node of the test");
        node.process.abort();
        self.net.kill(name);
        // The tasks of the node are dropped at their next turn.
        sleep(Duration::from_millis(1)).await;
        node
    }

    async fn restart(&mut self, node: &Node) {
        self.boot(&node.name, node.id.0, node.run + 1, node.disk.clone()).await;
    }

    fn cut_off(&self, name: &str, cut: bool) {
        for other in self.nodes.keys().filter(|other| *other != name) {
            if cut {
                self.net.cut(name, other);
            } else {
                self.net.heal(name, other);
            }
        }
    }

    fn node(&self, name: &str) -> &Node {
        self.nodes.get(name).expect("a node of the test")
    }

    async fn until(&self, what: &str, condition: impl Fn(&Cluster) -> bool) -> Duration {
        let began = Instant::now();
        while !condition(self) {
            if began.elapsed() > PATIENCE {
                let statuses: Vec<Status> = self.nodes.values().map(Node::status).collect();
                panic!("not within {PATIENCE:?}: {what}; {statuses:#?}");
            }
            sleep(Duration::from_millis(10)).await;
        }
        began.elapsed()
    }

    /// Waits until every node says that any one may die.
    async fn until_whole(&self) {
        self.until("every replica is in sync", |cluster| {
            let whole =
                |status: Status| status.cluster != 0 && status.factor == 3 && status.not_failover_ready.is_empty();
            cluster.nodes.values().all(|node| whole(node.status()))
        })
        .await;
    }
}

impl Node {
    fn status(&self) -> Status {
        self.handle.status.borrow().clone()
    }

    fn serves(&self) -> bool {
        let told = self.told.borrow();
        told.serving.len() == usize::from(WORKERS) && told.serving.values().all(|serving| *serving)
    }

    fn member(&self, name: &str) -> Option<MemberState> {
        self.status().members.iter().find(|member| member.name == name).map(|member| member.state)
    }

    fn say(&self, message: ToCluster) {
        self.to_cluster.send(vec![message]).expect("a node that runs");
    }

    fn knows(&self, owner: RouteOwner, filter: &str) -> bool {
        let told = self.told.borrow();
        let knows = |worker| told.routes.get(&worker).is_some_and(|routes| routes.contains(&(owner, filter.into())));
        (0..WORKERS).all(knows)
    }

    async fn leave(&self, name: &str, leaving: bool) -> Result<(), LeaveError> {
        let (answer, answered) = oneshot::channel();
        let request = ClusterRequest::Leave { name: name.to_string(), leaving, answer };
        self.handle.requests.send(request).await.expect("a node that runs");
        answered.await.expect("a node that runs")
    }
}

/// A worker that applies what it is told and writes it down.
fn play_worker(
    worker: u16,
    told: Rc<RefCell<Told>>,
    to_cluster: mpsc::UnboundedSender<Vec<ToCluster>>,
) -> mpsc::UnboundedSender<Vec<ToWorker>> {
    let (commands, mut receiver) = mpsc::unbounded_channel::<Vec<ToWorker>>();
    spawn_local(async move {
        while let Some(batch) = receiver.recv().await {
            for message in batch {
                let mut told = told.borrow_mut();
                match message {
                    ToWorker::Serving(serving) => {
                        told.stopped += usize::from(!serving);
                        told.serving.insert(worker, serving);
                    }
                    ToWorker::Routes { number, changes } => {
                        let routes = told.routes.entry(worker).or_default();
                        for change in changes {
                            if change.wanted {
                                routes.insert((change.owner, change.filter));
                            } else {
                                routes.remove(&(change.owner, change.filter));
                            }
                        }
                        // The node may have ended.
                        let _ = to_cluster.send(vec![ToCluster::RoutesApplied { worker, number }]);
                    }
                    ToWorker::Settled { token, .. } => told.settled.push((token, Instant::now())),
                    ToWorker::Published { token, outcome, .. } => told.published.push((token, outcome)),
                    ToWorker::Forward(messages) => {
                        told.forwarded.extend(messages.into_iter().map(|message| (worker, message.topic)));
                    }
                    ToWorker::Opened { connection, outcome } => {
                        told.opened.insert(connection.slot, outcome);
                    }
                    ToWorker::Retained { token, messages, .. } => {
                        let payload = |message: Message| String::from_utf8_lossy(&message.payload).into_owned();
                        told.retained.insert(token, messages.into_iter().map(payload).collect());
                    }
                    ToWorker::Originate { token, .. } => {
                        // For nobody but the shard that keeps it.
                        let _ = to_cluster.send(vec![ToCluster::Originated { token, reach: Some(Default::default()) }]);
                    }
                    ToWorker::Expelled => told.expelled += 1,
                    ToWorker::Drain { .. } => told.drained += 1,
                    _ => {}
                }
            }
        }
    });
    commands
}
