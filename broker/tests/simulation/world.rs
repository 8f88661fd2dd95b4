//! Nodes that run as tasks of one thread, and what can happen to them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use mqtt_broker::cluster::control::RUN_BITS;
use mqtt_broker::cluster::handle::{self, ClusterConfig, ClusterHandle, ClusterWorld, Founding};
use mqtt_broker::cluster::net::memory::MemoryNet;
use mqtt_broker::identity::{Incarnation, NodeId, Origin};
use mqtt_broker::limits::ClientLimits;
use mqtt_broker::listener::Accepted;
use mqtt_broker::storage::{Crash, Disk, Faults, Log, Options, SimulatedDisk};
use mqtt_broker::worker::{self, WorkerConfig, WorkerHandle};
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Instant;

/// The wall clock when a simulation starts, in milliseconds since the Unix epoch.
const BEGAN_MS: u64 = 1_800_000_000_000;
const SHARDS: u16 = 4;
/// A disk as slow as a busy one.
const FAULTS: Faults = Faults { delay_max: Duration::from_millis(4), capacity_bytes: u64::MAX };
const PIPE_BYTES: usize = 64 << 10;

pub struct World {
    seed: u64,
    began: Instant,
    net: MemoryNet,
    nodes: Vec<Node>,
}

struct Node {
    disk: RefCell<SimulatedDisk>,
    starts: Cell<u64>,
    running: RefCell<Option<Running>>,
}

struct Running {
    tasks: Vec<AbortHandle>,
    worker: WorkerHandle,
    cluster: ClusterHandle,
}

impl World {
    pub fn new(seed: u64, nodes: usize) -> World {
        let node = |number: usize| Node {
            disk: RefCell::new(SimulatedDisk::new(seed ^ number as u64, FAULTS)),
            starts: Cell::new(0),
            running: RefCell::new(None),
        };
        World { seed, began: Instant::now(), net: MemoryNet::new(seed), nodes: (0..nodes).map(node).collect() }
    }

    /// Starts a node from what its disk has.
    pub async fn start(&self, number: usize) {
        let node = &self.nodes[number];
        node.starts.set(node.starts.get() + 1);
        let seed = self.seed.wrapping_mul(31).wrapping_add(number as u64 * 1_000 + node.starts.get());
        let origin =
            Origin { node: NodeId(number as u64 + 1), incarnation: Incarnation(node.starts.get() << RUN_BITS) };
        let disk: Rc<dyn Disk> = Rc::new(node.disk.borrow().clone());
        let options = Options { identity: origin.node.0, limits: Default::default() };
        let (log, recovered) = Log::open(disk, options).await.expect("the log opens");
        assert!(recovered.damaged.is_empty(), "{recovered:?}");
        let (to_cluster, from_workers) = mpsc::unbounded_channel();
        let limits = ClientLimits::default();
        let (doors, worker) = worker::doors(1, &to_cluster, &limits).remove(0);
        drop(to_cluster);
        let began = self.began;
        let now_ms = move || BEGAN_MS + began.elapsed().as_millis() as u64;
        let worker_task =
            worker::run(WorkerConfig { index: 0, node: origin.node, limits, seed, now_ms: now_ms() }, doors);
        let peers = (0..self.nodes.len()).map(|peer| format!("{}:7883", host(peer))).collect();
        let config = ClusterConfig {
            name: host(number),
            address: format!("{}:7883", host(number)),
            listen: Some(format!("{}:7883", host(number))),
            peers,
            version: "simulated".into(),
            founding: if number == 0 && node.starts.get() == 1 { Founding::Allowed } else { Founding::Never },
            founded: Box::new(|| {}),
            shards: SHARDS,
            factor: None,
            settings: Default::default(),
            seed,
        };
        let (cluster_doors, cluster) = handle::doors();
        let world = ClusterWorld {
            origin,
            net: self.net.host(&host(number)),
            log,
            from_workers,
            to_workers: vec![worker.commands.clone()],
            now_ms: Rc::new(now_ms),
        };
        let cluster_task = async move {
            if let Err(error) = handle::run(config, world, cluster_doors).await {
                panic!("node {number}: {error:#}");
            }
        };
        let tasks = vec![spawn_local(worker_task).abort_handle(), spawn_local(cluster_task).abort_handle()];
        *node.running.borrow_mut() = Some(Running { tasks, worker, cluster });
    }

    /// The process dies; with it what its disk had not synced.
    pub fn kill(&self, number: usize, rng: &mut StdRng) {
        let node = &self.nodes[number];
        let Some(running) = node.running.borrow_mut().take() else { return };
        for task in running.tasks {
            task.abort();
        }
        self.net.kill(&host(number));
        let crash = if rng.random() { Crash::PowerCut } else { Crash::Kill };
        let disk = node.disk.borrow().crash(crash);
        *node.disk.borrow_mut() = disk;
    }

    /// Nothing passes between the node and the others.
    pub fn cut(&self, number: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != number) {
            self.net.cut(&host(number), &host(other));
        }
    }

    pub fn heal(&self, number: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != number) {
            self.net.heal(&host(number), &host(other));
        }
    }

    /// A connection of a client to a node; `None` while it does not run.
    pub async fn connect(&self, number: usize) -> Option<DuplexStream> {
        let accepted = self.nodes[number].running.borrow().as_ref()?.worker.accepted.clone();
        let (client, broker) = tokio::io::duplex(PIPE_BYTES);
        accepted.send(Accepted::other(broker, true)).await.ok()?;
        Some(client)
    }

    /// Waits until all these nodes accept publishes.
    pub async fn until_serving(&self, numbers: &[usize]) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !numbers.iter().all(|number| self.serves(*number)) {
            assert!(Instant::now() < deadline, "not all serve: {:?}", self.states());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn serves(&self, number: usize) -> bool {
        let running = self.nodes[number].running.borrow();
        running.as_ref().is_some_and(|running| running.cluster.status.borrow().serving)
    }

    fn states(&self) -> Vec<String> {
        let state = |node: &Node| {
            let running = node.running.borrow();
            running.as_ref().map_or("down".to_owned(), |running| running.cluster.status.borrow().not_ready.clone())
        };
        self.nodes.iter().map(state).collect()
    }
}

fn host(number: usize) -> String {
    format!("node-{number}")
}
