//! One node's part of the cluster: what its links, its workers and its replicas say comes together here.
//!
//! Deliberately absent: decisions. They are made by the pure parts (`control`, `placement`, `convergence`, `routes`,
//! `forwards`), and carried out here at the end of each turn.

mod doors;
mod duties;
mod hosting;
mod membership;
mod rebuilding;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use self::rebuilding::Damaged;
use super::asks::Ask;
use super::control::{Control, ControlAnswer, ControlCommand};
use super::forwards::Forwards;
use super::frames::{Frame, Hello, PROTOCOL, Peer, RouteFrame};
use super::handle::{ClusterConfig, Founding};
use super::links::{LinkEvents, Links};
use super::mesh::{BuildShards, Shards, Surroundings};
use super::net::Net;
use super::replica::Replica;
use super::routes::{RouteOut, Routes};
use super::status::{DamagedReplica, Overview, Report, Stage, Status};
use super::tasks::Tasks;
use super::wanting::Workers;
use crate::door::{ToCluster, ToWorker};
use crate::identity::{ConnectionId, GroupId, NodeId, Origin};
use crate::message::Message;
use crate::replication::Group;
use crate::router::Trie;
use crate::shard::{Open, Outcome, Refusal};
use crate::share::Member;
use crate::storage::Log;

/// Who waits for routes to be known everywhere.
pub(super) enum Wait {
    /// A SUBSCRIBE on a worker.
    Worker { connection: ConnectionId, token: u32 },
    /// The leader of a shard.
    Leader(oneshot::Sender<()>),
}

/// One node.
pub(super) struct Room {
    config: ClusterConfig,
    /// This very object, for the tasks it spawns.
    me: Weak<Room>,
    tasks: Tasks,
    links: Links,
    log: Log,
    now_ms: Rc<dyn Fn() -> u64>,
    shards: OnceCell<Rc<dyn Shards>>,
    control: RefCell<Option<Group<Control>>>,
    replicas: RefCell<BTreeMap<GroupId, Rc<dyn Replica>>>,
    /// Groups whose replica is starting or stopping, or whose members are being changed.
    busy: RefCell<BTreeSet<GroupId>>,
    /// Replicas that have moved away, and since when.
    moved_since: RefCell<BTreeMap<GroupId, Instant>>,
    /// Replicas that the disk has damaged, until they are rebuilt.
    damaged: RefCell<BTreeMap<GroupId, Damaged>>,
    /// How many were, in this process.
    rebuilt: Cell<u64>,
    /// As the leader of groups: nodes whose replica is damaged, and when they last said so.
    kept_out: RefCell<BTreeMap<(GroupId, NodeId), Instant>>,
    routes: RefCell<Routes<Wait>>,
    forwards: RefCell<Forwards>,
    /// Which workers want which filters, for messages that come from other nodes; kept only if there are several.
    interest: RefCell<Trie<Workers>>,
    /// Members of shared subscriptions, and the worker each is connected to.
    members: RefCell<BTreeMap<Arc<str>, u16>>,
    workers: Vec<mpsc::UnboundedSender<Vec<ToWorker>>>,
    to_workers: RefCell<Vec<Vec<ToWorker>>>,
    connections: RefCell<BTreeMap<u16, u32>>,
    work: Notify,

    /// What this node has proposed to the control group.
    proposals: RefCell<BTreeMap<u64, oneshot::Sender<ControlAnswer>>>,
    next_proposal: Cell<u64>,
    /// Ended runs that were told to the shards already.
    ended_told: RefCell<BTreeSet<Origin>>,
    /// The latest version of the control state that this run has acted on: it goes back when the replica starts anew.
    counted: Cell<u64>,
    /// This run has joined at this version of the control state.
    joined: Cell<Option<u64>>,
    /// Peers whose routes this run knows.
    synced: RefCell<BTreeSet<NodeId>>,
    /// This run has known all routes once; whoever joined later waits for it.
    knows_routes: Cell<bool>,
    /// Peers that wait for this node to count them in.
    syncs: RefCell<BTreeMap<NodeId, u64>>,
    lease_until: Cell<Option<Instant>>,
    serving: Cell<bool>,
    left: Cell<bool>,
    /// It has said goodbye: it holds no lease and asks for none, until its process ends.
    drained: Cell<bool>,
    draining: Cell<bool>,
    overview: RefCell<Overview>,
    /// As the control leader: when each run last renewed, and what it reported.
    heard: RefCell<BTreeMap<Origin, (Instant, Report)>>,
    /// As the control leader: runs that are granted nothing any more, since an end of theirs is on its way through the log,
    /// and from when on. A grant now would outlive it.
    dismissed: RefCell<BTreeMap<Origin, Instant>>,
    /// The control term in which `heard` and `dismissed` are kept.
    heard_term: Cell<u64>,
    /// When this node last looked at the members as their leader.
    heard_at: Cell<Option<Instant>>,
    /// Writes without space that the status has counted, and until when it says that the disk is full.
    full_writes_seen: Cell<u64>,
    full_until: Cell<Option<Instant>>,
    status: watch::Sender<Status>,
}

impl Room {
    /// Puts a node together. Nothing runs before [`Room::start`].
    #[expect(clippy::too_many_arguments, reason = "the one place where everything comes together")]
    pub(super) fn new(
        config: ClusterConfig,
        origin: Origin,
        net: Rc<dyn Net>,
        log: Log,
        workers: Vec<mpsc::UnboundedSender<Vec<ToWorker>>>,
        now_ms: Rc<dyn Fn() -> u64>,
        tasks: Tasks,
        status: watch::Sender<Status>,
    ) -> Rc<Room> {
        let hello = Hello {
            protocol: PROTOCOL,
            cluster: None,
            origin,
            name: config.name.clone(),
            address: config.address.clone(),
            version: config.version.clone(),
        };
        let rng = SmallRng::seed_from_u64(config.seed);
        Rc::new_cyclic(|me: &Weak<Room>| {
            let events: Weak<dyn LinkEvents> = me.clone();
            Room {
                links: Links::new(net, hello, config.peers.clone(), events, tasks.clone(), rng),
                me: me.clone(),
                log,
                now_ms,
                shards: OnceCell::new(),
                control: RefCell::default(),
                replicas: RefCell::default(),
                busy: RefCell::default(),
                moved_since: RefCell::default(),
                damaged: RefCell::default(),
                rebuilt: Cell::new(0),
                kept_out: RefCell::default(),
                routes: RefCell::new(Routes::new(workers.len() as u16)),
                forwards: RefCell::default(),
                interest: RefCell::default(),
                members: RefCell::default(),
                to_workers: RefCell::new(workers.iter().map(|_| Vec::new()).collect()),
                workers,
                connections: RefCell::default(),
                work: Notify::new(),
                proposals: RefCell::default(),
                next_proposal: Cell::new(1),
                ended_told: RefCell::default(),
                counted: Cell::new(0),
                joined: Cell::new(None),
                synced: RefCell::default(),
                knows_routes: Cell::new(false),
                syncs: RefCell::default(),
                lease_until: Cell::new(None),
                serving: Cell::new(false),
                left: Cell::new(false),
                drained: Cell::new(false),
                draining: Cell::new(false),
                overview: RefCell::default(),
                heard: RefCell::default(),
                dismissed: RefCell::default(),
                heard_term: Cell::new(0),
                heard_at: Cell::new(None),
                full_writes_seen: Cell::new(0),
                full_until: Cell::new(None),
                status,
                tasks,
                config,
            }
        })
    }

    /// Opens the peer address, starts what the log has, and joins or founds the cluster in the background.
    pub(super) async fn start(self: &Rc<Self>, build: BuildShards) -> anyhow::Result<()> {
        let around = Surroundings {
            mesh: self.clone(),
            directory: self.clone(),
            forwarder: self.clone(),
            announcer: self.clone(),
            workers: self.clone(),
            transport: self.clone(),
            log: self.log.clone(),
            settings: self.config.settings,
            now_ms: self.now_ms.clone(),
            tasks: self.tasks.clone(),
        };
        if self.shards.set(build(around)).is_err() {
            anyhow::bail!("a node starts once");
        }
        if self.log.group(GroupId::CONTROL).next_index() > 0 || self.log.group(GroupId::CONTROL).load(1).is_some() {
            let started = self.start_control().await;
            match self.log.group(GroupId::CONTROL).damage() {
                None => started?,
                // Those that have it can be asked.
                Some(_) if self.config.listen.is_some() => {}
                Some(damage) => {
                    let replica = DamagedReplica { reason: damage.reason, stage: Stage::Stuck };
                    anyhow::bail!(replica.describe(GroupId::CONTROL));
                }
            }
        }
        if let Some(listen) = &self.config.listen {
            self.links.start(listen).await?;
        }
        // They beat together: to wake the thread costs more than what most of them do.
        let beat = Instant::now();
        self.every(beat, Duration::from_millis(20), Room::membership_turn);
        self.every(beat, Duration::from_millis(100), Room::hosting_turn);
        self.every(beat, Duration::from_millis(100), Room::duties_turn);
        self.every(beat, rebuilding::REBUILDING_TURN, Room::rebuilding_turn);
        self.every(beat, Duration::from_millis(100), Room::publish_status);
        let renewals = self.clone();
        self.tasks.spawn(async move { renewals.renew_for_ever().await });
        let joins = self.clone();
        self.tasks.spawn(async move { joins.belong_for_ever().await });
        let turns = self.clone();
        self.tasks.spawn(async move {
            loop {
                turns.work.notified().await;
                // Whatever is ready to run now belongs to this turn.
                tokio::task::yield_now().await;
                turns.flush();
            }
        });
        Ok(())
    }

    fn every(self: &Rc<Self>, start: Instant, period: Duration, act: impl Fn(&Rc<Room>) + 'static) {
        let room = self.clone();
        self.tasks.spawn(async move {
            let mut beats = interval_at(start, period);
            beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                beats.tick().await;
                act(&room);
            }
        });
    }

    fn shards(&self) -> Option<&Rc<dyn Shards>> {
        self.shards.get()
    }

    fn myself(&self) -> Origin {
        self.links.me()
    }

    /// Reads the control state, if this node has a replica of it.
    fn with_control<T>(&self, read: impl FnOnce(&Control) -> T) -> Option<T> {
        let control = self.control.borrow();
        control.as_ref().map(|group| group.with(read))
    }

    /// Takes what a worker says.
    pub(super) fn worker(&self, message: ToCluster) {
        match message {
            ToCluster::Route { worker, filter, wanted } => {
                let mut interest = self.interest.borrow_mut();
                if Member::parse(&filter).is_some() {
                    let mut members = self.members.borrow_mut();
                    if wanted {
                        members.insert(filter.clone(), worker);
                    } else if members.get(&filter) == Some(&worker) {
                        members.remove(&filter);
                    }
                } else if self.workers.len() == 1 {
                    // There is no choice.
                } else if wanted {
                    interest.entry(&filter, Workers::default).1.insert(worker);
                } else if let Some(workers) = interest.get_mut(&filter) {
                    workers.remove(worker);
                    if workers.as_slice().is_empty() {
                        interest.remove(&filter);
                    }
                }
                self.routes.borrow_mut().worker_wants(worker, filter, wanted);
            }
            ToCluster::Settle { connection, token } => {
                self.routes.borrow_mut().settle(Wait::Worker { connection, token });
            }
            ToCluster::RoutesApplied { worker, number } => self.routes.borrow_mut().worker_applied(worker, number),
            ToCluster::Connections { worker, connections } => {
                self.connections.borrow_mut().insert(worker, connections);
            }
            // Its worker has not heard yet.
            ToCluster::Open(Open { connection, .. }) if !self.serving.get() => {
                let outcome = Outcome::Refused(Refusal::Unavailable);
                self.to_worker(connection.worker, ToWorker::Opened { connection, outcome });
            }
            message => {
                if let Some(shards) = self.shards() {
                    shards.worker(message);
                }
            }
        }
        self.work.notify_one();
    }

    /// The end of a turn: what was decided goes out.
    fn flush(&self) {
        let mut leaders = Vec::new();
        let out = self.routes.borrow_mut().flush();
        for out in out {
            match out {
                RouteOut::Peer(node, frame) => {
                    self.links.send(node, &Frame::Route(frame));
                }
                RouteOut::Worker(worker, number, changes) => {
                    self.to_worker(worker, ToWorker::Routes { number, changes });
                }
                RouteOut::Settled(Wait::Worker { connection, token }) => {
                    self.to_worker(connection.worker, ToWorker::Settled { connection, token });
                }
                RouteOut::Settled(Wait::Leader(done)) => {
                    // The leadership may have ended meanwhile.
                    let _ = done.send(());
                }
                RouteOut::Synced(node, version) => {
                    if self.joined.get().is_some_and(|joined| version >= joined) {
                        self.synced.borrow_mut().insert(node);
                    }
                }
                RouteOut::Leader(shard, leader, term) => leaders.push((shard, leader, term)),
            }
        }
        if let Some(shards) = self.shards() {
            for (shard, leader, term) in leaders {
                shards.leader_known(shard, leader, term);
            }
        }
        let frames = self.forwards.borrow_mut().flush(|node| self.links.waiting_bytes(node));
        for (node, frame) in frames {
            self.links.send(node, &frame);
        }
        let over = self.forwards.borrow_mut().take_over();
        let homeless = self.forwards.borrow_mut().take_homeless();
        if let Some(shards) = self.shards() {
            for (key, message) in homeless {
                shards.member_lost(key, message);
            }
            for (key, reached) in over {
                shards.forwarded(key, reached);
            }
        }
        for (worker, batch) in self.to_workers.borrow_mut().iter_mut().enumerate() {
            if !batch.is_empty() {
                // A worker that is gone takes its connections with it.
                let _ = self.workers[worker].send(std::mem::take(batch));
            }
        }
    }

    fn to_worker(&self, worker: u16, message: ToWorker) {
        if let Some(batch) = self.to_workers.borrow_mut().get_mut(usize::from(worker)) {
            batch.push(message);
        }
        self.work.notify_one();
    }

    fn to_all_workers(&self, message: impl Fn() -> ToWorker) {
        for worker in 0..self.workers.len() {
            self.to_worker(worker as u16, message());
        }
    }

    /// Messages from another node, or from a shard, for this node's connected subscribers.
    fn hand_over(&self, messages: Vec<Message>) {
        let mut batches: Vec<Vec<Message>> = self.workers.iter().map(|_| Vec::new()).collect();
        let interest = self.interest.borrow();
        for message in messages {
            if let Some(recipient) = &message.recipient {
                // If the member has gone, any worker finds another.
                let worker = self.members.borrow().get(recipient).copied().unwrap_or(0);
                if let Some(batch) = batches.get_mut(usize::from(worker)) {
                    batch.push(message);
                }
                continue;
            }
            if let [batch] = &mut batches[..] {
                batch.push(message);
                continue;
            }
            let mut wanting = BTreeSet::new();
            interest.for_each_match(&message.topic, |_, workers| wanting.extend(workers.as_slice().iter().copied()));
            for worker in wanting {
                if let Some(batch) = batches.get_mut(usize::from(worker)) {
                    batch.push(message.clone());
                }
            }
        }
        for (worker, batch) in batches.into_iter().enumerate() {
            if !batch.is_empty() {
                self.to_worker(worker as u16, ToWorker::Forward(batch));
            }
        }
    }

    fn answer(&self, to: NodeId, call: u64, answer: Option<Bytes>) {
        self.links.send(to, &Frame::Answer { call, answer });
    }
}

impl LinkEvents for Room {
    fn up(&self, peer: &Peer) {
        self.routes.borrow_mut().link_up(peer.node());
        let frames = self.forwards.borrow_mut().link_up(peer.origin);
        for frame in frames {
            self.links.send(peer.node(), &frame);
        }
        self.ask_for_routes(peer.node());
        if let Some(shards) = self.shards() {
            shards.link_up(peer.origin);
        }
        self.work.notify_one();
    }

    fn down(&self, peer: &Peer) {
        let node = peer.node();
        self.routes.borrow_mut().link_down(node);
        self.forwards.borrow_mut().link_down(node);
        self.syncs.borrow_mut().remove(&node);
        if let Some(shards) = self.shards() {
            shards.link_down(peer.origin);
        }
        let replicas: Vec<Rc<dyn Replica>> = self.replicas.borrow().values().cloned().collect();
        for replica in replicas {
            let closed = replica.peer_closed(node);
            self.tasks.spawn(closed);
        }
        self.work.notify_one();
    }

    fn frame(&self, peer: &Peer, frame: Frame) {
        let node = peer.node();
        match frame {
            Frame::Ping | Frame::Answer { .. } => {}
            Frame::Raft { call, group, request } => self.raft(node, call, group, request),
            Frame::Ask { call, request } => {
                let Some(room) = self.me.upgrade() else { return };
                let ask = postcard::from_bytes::<Ask>(&request);
                self.tasks.spawn(async move {
                    let answer = match ask {
                        Ok(ask) => {
                            let reply = room.reply(ask).await;
                            postcard::to_stdvec(&reply).ok().map(Bytes::from)
                        }
                        Err(error) => {
                            tracing::warn!(%error, "a question of an unknown version");
                            None
                        }
                    };
                    room.answer(node, call, answer);
                });
            }
            Frame::Shard(bytes) => {
                if let Some(shards) = self.shards() {
                    shards.frame(peer.origin, bytes);
                }
            }
            Frame::Route(RouteFrame::Sync { version }) => {
                self.syncs.borrow_mut().insert(node, version);
                self.answer_syncs();
            }
            Frame::Route(frame) => self.routes.borrow_mut().frame(node, frame),
            Frame::Forward { number, messages } => {
                let messages = self.forwards.borrow_mut().take(peer.origin, number, messages);
                self.hand_over(messages);
                if number > 0 {
                    self.links.send(node, &Frame::Forwarded { number });
                }
            }
            Frame::Forwarded { number } => self.forwards.borrow_mut().acknowledged(node, number),
        }
        self.work.notify_one();
    }
}

/// A control command and its answer, as this node waits for it.
impl Room {
    /// Proposes to the control group; only its leader gets an answer.
    async fn propose(&self, command: ControlCommand) -> Option<ControlAnswer> {
        let control = self.control.borrow().clone()?;
        let number = self.next_proposal.get();
        self.next_proposal.set(number + 1);
        let (answer, wait) = oneshot::channel();
        self.proposals.borrow_mut().insert(number, answer);
        let proposal = super::control::Proposal { origin: self.myself(), number, command };
        let bytes = Bytes::from(postcard::to_stdvec(&proposal).ok()?);
        let proposed = control.propose(bytes).await;
        if proposed.is_err() {
            self.proposals.borrow_mut().remove(&number);
            return None;
        }
        wait.await.ok()
    }

    fn may_found(&self) -> bool {
        if self.has_belonged() {
            return false;
        }
        match &self.config.founding {
            Founding::Never => false,
            Founding::Alone | Founding::Allowed => true,
            Founding::While(allowed) => allowed(),
        }
    }
}
