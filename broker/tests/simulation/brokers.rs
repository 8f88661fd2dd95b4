//! Whole brokers: a host runs the rooms of a node, workers and cluster, in one process.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use mqtt_broker::auth::Guard;
use mqtt_broker::cluster::control::RUN_BITS;
use mqtt_broker::cluster::handle::{self, ClusterConfig, ClusterHandle, ClusterWorld, Founding};
use mqtt_broker::identity::{Incarnation, NodeId, Origin};
use mqtt_broker::limits::ClientLimits;
use mqtt_broker::listener::Accepted;
use mqtt_broker::replication::Settings;
use mqtt_broker::storage::{Crash, Disk, Log, Options};
use mqtt_broker::worker::{self, WorkerConfig};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use crate::client::{Dial, Wire};
use crate::world::{Place, World};

pub const HOSTS: [&str; 3] = ["n1", "n2", "n3"];
const SHARDS: u16 = 3;
const WORKERS: u16 = 2;
/// What the wall clocks show when the world begins.
const EPOCH_MS: u64 = 1_800_000_000_000;
/// A socket's buffers.
const WIRE_BYTES: usize = 64 << 10;

/// What a disk is put behind, for those who want it worse than it is.
type Spoil = fn(Rc<dyn Disk>) -> Rc<dyn Disk>;

/// The brokers of a world.
pub struct Brokers {
    world: Rc<World>,
    running: RefCell<BTreeMap<String, Running>>,
    unfounded: Cell<bool>,
    spoil: Spoil,
    /// How often a broker found that its disk had lost something.
    pub damaged: Cell<u32>,
}

struct Running {
    accepted: Vec<mpsc::Sender<Accepted>>,
    next: usize,
    cluster: ClusterHandle,
}

impl Brokers {
    /// Starts a broker on every host.
    pub fn start(world: &Rc<World>, spoil: Spoil) -> Rc<Brokers> {
        let running = RefCell::default();
        let brokers = Rc::new(Brokers {
            world: world.clone(),
            running,
            unfounded: Cell::new(true),
            spoil,
            damaged: Cell::new(0),
        });
        HOSTS.iter().for_each(|host| brokers.boot(host));
        brokers
    }

    pub fn boot(self: &Rc<Self>, host: &str) {
        let brokers = self.clone();
        self.world.boot(host, |place| async move {
            let host = place.host.clone();
            if let Err(error) = run(place, &brokers).await {
                panic!("{host} ended: {error:?}");
            }
        });
    }

    pub fn kill(&self, host: &str, crash: Crash) {
        self.running.borrow_mut().remove(host);
        self.world.kill(host, crash);
    }

    /// The way of clients to a host.
    pub fn dial(self: &Rc<Self>, host: &'static str) -> Dial {
        let brokers = self.clone();
        Rc::new(move || {
            let brokers = brokers.clone();
            Box::pin(async move {
                sleep(Duration::from_millis(1)).await;
                let worker = brokers.next_worker(host).ok_or(io::ErrorKind::ConnectionRefused)?;
                let (ours, theirs) = tokio::io::duplex(WIRE_BYTES);
                worker.send(Accepted::other(theirs, true)).await.map_err(|_| io::ErrorKind::ConnectionReset)?;
                let wire: Wire = Box::new(ours);
                Ok(wire)
            })
        })
    }

    fn next_worker(&self, host: &str) -> Option<mpsc::Sender<Accepted>> {
        let mut running = self.running.borrow_mut();
        let running = running.get_mut(host)?;
        running.next = (running.next + 1) % running.accepted.len();
        Some(running.accepted[running.next].clone())
    }

    /// How many replicas of a host were damaged and are rebuilt, in this run of it.
    pub fn rebuilt(&self, host: &str) -> u64 {
        self.running.borrow().get(host).map_or(0, |running| running.cluster.status.borrow().rebuilt)
    }

    /// Waits until every node serves and any one of them may die without harm.
    pub async fn until_whole(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let statuses: Vec<_> =
                self.running.borrow().values().map(|running| running.cluster.status.borrow().clone()).collect();
            let whole = |host: &mqtt_broker::cluster::status::Status| {
                host.serving && host.factor == HOSTS.len() && host.not_failover_ready.is_empty()
            };
            if statuses.len() == HOSTS.len() && statuses.iter().all(whole) {
                return self.world.note("the cluster is whole");
            }
            if Instant::now() >= deadline {
                let missing = statuses.iter().map(|s| (&s.name, &s.not_ready, s.factor, &s.not_failover_ready));
                panic!("the cluster did not become whole: {:#?}", missing.collect::<Vec<_>>());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The process.
async fn run(place: Place, brokers: &Rc<Brokers>) -> anyhow::Result<()> {
    let number = HOSTS.iter().position(|host| *host == place.host).map_or(0, |at| at as u64 + 1);
    let origin = Origin { node: NodeId(number), incarnation: Incarnation(place.run << RUN_BITS) };
    let world = brokers.world.clone();
    let now_ms = Rc::new(move || EPOCH_MS + world.elapsed().as_millis() as u64);
    let disk = (brokers.spoil)(Rc::new(place.disk.clone()));
    let (log, recovered) = Log::open(disk, Options { identity: number, limits: Default::default() }).await?;
    if !recovered.damaged.is_empty() {
        brokers.damaged.set(brokers.damaged.get() + 1);
    }

    let limits = ClientLimits::default();
    let (to_cluster, from_workers) = mpsc::unbounded_channel();
    let (mut accepted, mut to_workers) = (Vec::new(), Vec::new());
    for (index, (doors, handle)) in worker::doors(WORKERS, &to_cluster, &limits).into_iter().enumerate() {
        let seed = place.seed.wrapping_add(index as u64 + 1);
        let (index, node, guard) = (index as u16, origin.node, Guard::open(limits.clone()));
        spawn_local(worker::run(WorkerConfig { index, node, guard, seed, now_ms: now_ms() }, doors));
        accepted.push(handle.accepted);
        to_workers.push(handle.commands);
    }
    drop(to_cluster);
    let (doors, cluster) = handle::doors();
    brokers.running.borrow_mut().insert(place.host.clone(), Running { accepted, next: 0, cluster });

    let (may_found, has_founded) = (brokers.clone(), brokers.clone());
    let config = ClusterConfig {
        name: place.host.clone(),
        address: format!("{}:7000", place.host),
        listen: Some(format!("{}:7000", place.host)),
        peers: HOSTS.iter().filter(|host| **host != place.host).map(|host| format!("{host}:7000")).collect(),
        version: "simulated".to_string(),
        founding: match number {
            1 => Founding::While(Box::new(move || may_found.unfounded.get())),
            _ => Founding::Never,
        },
        founded: Box::new(move || has_founded.unfounded.set(false)),
        shards: SHARDS,
        factor: None,
        settings: Settings { snapshot_entries: 500, kept_entries: 50, ..Settings::default() },
        seed: place.seed,
    };
    let around = ClusterWorld { origin, net: place.net, log, from_workers, to_workers, now_ms };
    handle::run(config, around, doors).await
}
