//! The cluster's room from outside: how it is started, and what can be asked of it from other threads.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::asks::{Ask, Reply};
use super::control::ControlAnswer;
use super::net::Net;
use super::room::Room;
use super::shards::ShardRooms;
use super::status::Status;
use super::tasks::Tasks;
use crate::door::{ToCluster, ToWorker};
use crate::identity::Origin;
use crate::replication::Settings;
use crate::shard::StoredSession;
use crate::storage::Log;

/// Whether a node without data may found a cluster.
pub enum Founding {
    /// It joins one, however long that takes.
    Never,
    /// It is a cluster of one.
    Alone,
    /// It may, unless a peer that answers belongs to one.
    Allowed,
    /// It may while this says so.
    While(Box<dyn Fn() -> bool>),
}

/// What a node is told about its cluster.
pub struct ClusterConfig {
    /// Unique within the cluster.
    pub name: String,
    /// Where peers dial it.
    pub address: String,
    /// Where it listens for peers; `None`: it has none.
    pub listen: Option<String>,
    /// Where to look for peers.
    pub peers: Vec<String>,
    /// The software's version, to be shown.
    pub version: String,
    /// May it found a cluster?
    pub founding: Founding,
    /// Called once it belongs to one.
    pub founded: Box<dyn Fn()>,
    /// Shards of a cluster that it founds.
    pub shards: u16,
    /// Replication factor of a cluster that it founds; `None`: automatic.
    pub factor: Option<u8>,
    /// How groups keep time.
    pub settings: Settings,
    /// For everything drawn at random.
    pub seed: u64,
}

/// What a node's surroundings give it.
pub struct ClusterWorld {
    /// This run of this node.
    pub origin: Origin,
    /// The network between nodes.
    pub net: Rc<dyn Net>,
    /// The node's log.
    pub log: Log,
    /// From its workers.
    pub from_workers: mpsc::UnboundedReceiver<Vec<ToCluster>>,
    /// To its workers.
    pub to_workers: Vec<mpsc::UnboundedSender<Vec<ToWorker>>>,
    /// Milliseconds since the Unix epoch.
    pub now_ms: Rc<dyn Fn() -> u64>,
}

/// Something that administrators ask.
#[derive(Debug)]
pub enum ClusterRequest {
    /// The member of this name shall leave, or stay after all.
    Leave {
        /// Its name.
        name: String,
        /// Leave or stay.
        leaving: bool,
        /// Whether it is done.
        answer: oneshot::Sender<Result<(), LeaveError>>,
    },
    /// The stored sessions of the whole cluster.
    Sessions {
        /// Those after this client id.
        after: String,
        /// At most so many.
        count: usize,
        /// In order.
        answer: oneshot::Sender<Vec<StoredSession>>,
    },
    /// A session shall end, and the connection that holds it.
    EndSession {
        /// Whose.
        client_id: String,
        /// Whether there was one.
        answer: oneshot::Sender<bool>,
    },
    /// Give everything away, and ask clients to go.
    Drain {
        /// Clients a second, per worker.
        rate: u32,
        /// The longest it may take.
        patience: Duration,
        /// When it is over.
        done: oneshot::Sender<()>,
    },
}

/// Why a member can't be told to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaveError {
    /// Nobody has this name.
    #[error("there is no member of that name")]
    Unknown,
    /// Nobody could be asked.
    #[error("the control group has no leader that can be reached now; try again")]
    Unavailable,
}

/// The doors of a running node, for any thread.
#[derive(Clone, Debug)]
pub struct ClusterHandle {
    /// What it knows of the cluster and of itself.
    pub status: watch::Receiver<Status>,
    /// What can be asked.
    pub requests: mpsc::Sender<ClusterRequest>,
    /// Counts up each [`HEARTBEAT`] while the cluster's thread turns; 0 until it first does.
    pub heartbeat: Arc<AtomicU64>,
}

/// How often the cluster's thread shows that it turns.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// Doors for [`run`], and for those who ask.
pub fn doors() -> (ClusterDoors, ClusterHandle) {
    let (status, seen) = watch::channel(Status { not_ready: "starts".into(), ..Status::default() });
    let (requests, asked) = mpsc::channel(REQUESTS_MAX);
    let heartbeat = Arc::new(AtomicU64::new(0));
    let doors = ClusterDoors { status, requests: asked, heartbeat: heartbeat.clone() };
    (doors, ClusterHandle { status: seen, requests, heartbeat })
}

/// Requests of administrators that wait; more wait outside.
const REQUESTS_MAX: usize = 64;

/// The node's ends of [`ClusterHandle`].
pub struct ClusterDoors {
    status: watch::Sender<Status>,
    requests: mpsc::Receiver<ClusterRequest>,
    heartbeat: Arc<AtomicU64>,
}

#[cfg(test)]
impl ClusterDoors {
    /// A node that says it is in `status`.
    pub(crate) fn for_test(self, status: Status) -> ClusterDoors {
        self.status.send_replace(status);
        self
    }

    /// What was asked next.
    pub(crate) async fn next_request(&mut self) -> Option<ClusterRequest> {
        self.requests.recv().await
    }
}

/// Runs a node's part of the cluster until its workers are gone. Must be called within a `LocalSet`. Dropping the future
/// ends everything at once, as a kill would.
///
/// # Errors
/// When the peer address can't be listened on, or the log can't be read.
pub async fn run(config: ClusterConfig, world: ClusterWorld, mut doors: ClusterDoors) -> anyhow::Result<()> {
    crate::replication::seed(config.seed);
    let ClusterWorld { origin, net, log, mut from_workers, to_workers, now_ms } = world;
    let tasks = Tasks::default();
    let _end = EndWithMe(tasks.clone());
    let room = Room::new(config, origin, net, log, to_workers, now_ms, tasks.clone(), doors.status);
    room.start(Box::new(ShardRooms::build)).await?;
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = heartbeat.tick() => {
                doors.heartbeat.fetch_add(1, Ordering::Relaxed);
            }
            batch = from_workers.recv() => {
                let Some(batch) = batch else { return Ok(()) };
                for message in batch {
                    room.worker(message);
                }
            }
            Some(request) = doors.requests.recv() => {
                let room = room.clone();
                tasks.spawn(async move { room.request(request).await });
            }
        }
    }
}

struct EndWithMe(Tasks);

impl Drop for EndWithMe {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Room {
    async fn request(self: Rc<Self>, request: ClusterRequest) {
        match request {
            ClusterRequest::Leave { name, leaving, answer } => {
                let reply = self.ask(Ask::Leave { name, leaving }).await;
                let result = match reply {
                    Some(Reply::Control(ControlAnswer::Done(_))) => Ok(()),
                    Some(Reply::Control(_)) => Err(LeaveError::Unknown),
                    _ => Err(LeaveError::Unavailable),
                };
                // Whoever asked may have gone.
                let _ = answer.send(result);
            }
            ClusterRequest::Sessions { after, count, answer } => self.inspect(after.into(), count, answer),
            ClusterRequest::EndSession { client_id, answer } => self.end_session(client_id.into(), answer),
            ClusterRequest::Drain { rate, patience, done } => {
                self.drain(rate, patience).await;
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
    }
}
