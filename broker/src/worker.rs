//! One core's share of the clients: a single-threaded loop that owns its connections, their sessions and its routes.
//!
//! A turn: every connection that has something to read is read and its packets processed, what they cause is appended
//! to the output of whom it concerns, and then everything is flushed once: a vectored write per client, a batch per
//! other worker, a batch for the cluster thread. Nothing here is shared with another thread but the channels and the
//! published counters; no lock and no atomic per message.

mod access;
mod asks;
mod commands;
mod connect;
mod core;
mod counters;
mod exactly_once;
mod fanout;
mod flush;
mod lifetime;
mod packets;
mod reading;
mod retained;
mod sharing;
mod subscribe;
mod table;
mod wheel;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::MissedTickBehavior;

use crate::auth::Guard;
use crate::door::{ToCluster, ToWorker};
use crate::identity::NodeId;
use crate::limits::{ACCEPTED_MAX, ASKS_MAX, ClientLimits, TICK_MS};
use crate::listener::{Accepted, TurnTaking};
use crate::message::Message;

pub use asks::{Ask, ClientSubscription, ConnectedClient};
pub use counters::{Counters, PublishedCounters};

use self::core::Core;

/// What a worker is told at its start.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Its number, from 0.
    pub index: u16,
    /// The node it is part of: its own routes are not followed.
    pub node: NodeId,
    /// Who may what, and the bounds on clients.
    pub guard: Guard,
    /// For assigned client ids.
    pub seed: u64,
    /// The wall clock when the worker starts, in milliseconds since the Unix epoch. From there on it counts on tokio's.
    pub now_ms: u64,
}

/// The worker's ends of its channels.
pub struct WorkerDoors {
    to_cluster: mpsc::UnboundedSender<Vec<ToCluster>>,
    commands: mpsc::UnboundedReceiver<Vec<ToWorker>>,
    accepted: mpsc::Receiver<Accepted>,
    forwards: mpsc::Receiver<Vec<Message>>,
    asks: mpsc::Receiver<Ask>,
    /// By worker number; unused at its own.
    peers: Vec<mpsc::Sender<Vec<Message>>>,
    counters: Arc<PublishedCounters>,
}

/// Everybody else's ends of a worker's channels.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    /// For the cluster thread. The worker ends when all of these are gone.
    pub commands: mpsc::UnboundedSender<Vec<ToWorker>>,
    /// For listeners.
    pub accepted: mpsc::Sender<Accepted>,
    /// For administrators.
    pub asks: mpsc::Sender<Ask>,
    /// For metrics.
    pub counters: Arc<PublishedCounters>,
}

/// The channels of `workers` workers that share a node.
pub fn doors(
    workers: u16,
    to_cluster: &mpsc::UnboundedSender<Vec<ToCluster>>,
    limits: &ClientLimits,
) -> Vec<(WorkerDoors, WorkerHandle)> {
    let (peers, forwards): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(limits.peer_batches_max)).unzip();
    forwards
        .into_iter()
        .map(|forwards| {
            let (commands_sender, commands) = mpsc::unbounded_channel();
            let (accepted_sender, accepted) = mpsc::channel(ACCEPTED_MAX);
            let (asks_sender, asks) = mpsc::channel(ASKS_MAX);
            let counters = Arc::new(PublishedCounters::default());
            let doors = WorkerDoors {
                to_cluster: to_cluster.clone(),
                commands,
                accepted,
                forwards,
                asks,
                peers: peers.clone(),
                counters: counters.clone(),
            };
            let handle =
                WorkerHandle { commands: commands_sender, accepted: accepted_sender, asks: asks_sender, counters };
            (doors, handle)
        })
        .collect()
}

/// Runs a worker on a thread of its own.
pub fn spawn(config: WorkerConfig, doors: WorkerDoors) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    std::thread::Builder::new()
        .name(format!("worker-{}", config.index))
        .spawn(move || LocalSet::new().block_on(&runtime, run(config, doors)))
}

/// Runs a worker until nobody can command it any more. Must be called within a [`LocalSet`]. Dropping the future closes
/// every connection.
pub async fn run(config: WorkerConfig, doors: WorkerDoors) {
    let WorkerDoors { to_cluster, mut commands, mut accepted, mut forwards, mut asks, peers, counters } = doors;
    let core = RefCell::new(Core::new(config, to_cluster, peers, counters));
    let worker = Rc::new(Worker { core, turns: TurnTaking::default() });
    let mut tasks = Tasks { worker: worker.clone(), handles: Vec::new() };
    tasks.add({
        let worker = worker.clone();
        async move { poll_fn(|context| worker.core.borrow_mut().poll_flush(context)).await }
    });
    tasks.add({
        let worker = worker.clone();
        async move {
            while let Some(batch) = forwards.recv().await {
                worker.core.borrow_mut().forward(batch);
            }
        }
    });
    tasks.add({
        let worker = worker.clone();
        async move {
            while let Some(ask) = asks.recv().await {
                worker.core.borrow_mut().asked(ask);
            }
        }
    });
    tasks.add({
        let worker = worker.clone();
        async move {
            while let Some(accepted) = accepted.recv().await {
                reading::accept(&worker, accepted);
            }
        }
    });
    tasks.add({
        let worker = worker.clone();
        async move {
            let mut interval = tokio::time::interval(Duration::from_millis(TICK_MS));
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                worker.core.borrow_mut().tick();
            }
        }
    });
    while let Some(batch) = commands.recv().await {
        worker.core.borrow_mut().command(batch);
    }
}

/// A worker as its tasks share it. No borrow lives across an await.
struct Worker {
    core: RefCell<Core>,
    /// Of TLS handshakes.
    turns: TurnTaking,
}

/// The tasks of a worker; they and its connections end with it.
struct Tasks {
    worker: Rc<Worker>,
    handles: Vec<AbortHandle>,
}

impl Tasks {
    fn add(&mut self, task: impl Future<Output = ()> + 'static) {
        self.handles.push(spawn_local(task).abort_handle());
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for handle in &self.handles {
            handle.abort();
        }
        if let Ok(mut core) = self.worker.core.try_borrow_mut() {
            core.close_all();
        }
    }
}

#[cfg(test)]
mod tests;
