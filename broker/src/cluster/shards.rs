//! The shards' rooms of a node: its streams of commands to every shard, and the shards it leads.
//!
//! A command comes from a worker, is numbered in the stream of its shard (`shard_client`), goes to the leader, here or on
//! another node, is gathered into an entry (`shard_leader`) and proposed; applied, its effects come back to be carried
//! out. What to send is decided at once; sending waits for the end of the turn, so that it goes in batches.

mod handing;
mod inspecting;
mod relaying;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use self::handing::Choosing;
use self::inspecting::Inspection;
use super::delivery::Say;
use super::mesh::{LocalFuture, Shards, Surroundings};
use super::relays::Relays;
use super::replica::{Replica, replica_of};
use super::retained_reads::{Asked, Question, Reads};
use super::shard_client::{ShardClient, Waiter};
use super::shard_frames::ShardFrame;
use super::shard_leader::{ShardLeader, Taken};
use crate::door::{Recipients, RouteOwner, Targets, ToCluster, ToWorker};
use crate::faults;
use crate::identity::{ClientId, ConnectionId, GroupId, Incarnation, NodeId, Origin, ShardId};
use crate::message::{Message, QoS};
use crate::replication::{Group, Position};
use crate::shard::{
    Ack, Close, CloseCause, Command, Destination, Effect, Outcome, Page, PublishOnce, Refusal, Relayed, Shard, Spread,
    StoredSession, Totals,
};

/// How often expiries are looked for and silent streams sent again.
const TICK: Duration = Duration::from_millis(500);
/// How long a leader waits to hear from a majority that it leads; whoever reads asks again.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);

/// The rooms. Made by [`ShardRooms::build`], held by the cluster's room as [`Shards`].
pub struct ShardRooms {
    around: Surroundings,
    /// This very object, for the tasks it spawns.
    me: Weak<ShardRooms>,
    clients: RefCell<BTreeMap<ShardId, ShardClient>>,
    hosted: RefCell<BTreeMap<ShardId, Hosted>>,
    publishes: RefCell<BTreeMap<u64, PendingPublish>>,
    /// What members of shared subscriptions are being chosen for.
    choosing: RefCell<BTreeMap<u64, Choosing>>,
    /// What administrators wait for.
    inspections: RefCell<BTreeMap<u64, Inspection>>,
    deletions: RefCell<BTreeMap<u64, oneshot::Sender<bool>>>,
    reads: RefCell<Reads>,
    asked: RefCell<BTreeMap<ShardId, Asked>>,
    next_key: Cell<u64>,
    /// Wills of led shards that are being sent on their way, until their shard has done it.
    firing: RefCell<BTreeSet<(ShardId, ClientId, u64)>>,
    /// Against K1, to see that tests notice.
    acknowledges_early: bool,
    /// Against K4, likewise.
    lets_two_hold: bool,
    /// The runs of other nodes that are linked, or were last.
    runs: RefCell<BTreeMap<NodeId, Incarnation>>,
    /// The last number that this run has taken from the outbox of each shard.
    taken: RefCell<BTreeMap<ShardId, u64>>,
    /// What has arrived from the outboxes of shards that this node leads, until the end of the turn.
    arrived: RefCell<BTreeMap<ShardId, Vec<Relayed>>>,
    /// Frames of this node to itself, until the end of the turn.
    inbox: RefCell<VecDeque<ShardFrame>>,
    work: Notify,
}

/// A replica on this node.
struct Hosted {
    group: Option<Group<Shard>>,
    leader: Option<ShardLeader>,
}

/// A publish on its way to several shards and nodes.
struct PendingPublish {
    origin: PublishOrigin,
    outstanding: u32,
    stored: u32,
    refused: Option<Refusal>,
}

/// Who hears when a publish is stored everywhere.
struct PublishOrigin {
    connection: ConnectionId,
    token: u64,
}

impl ShardRooms {
    /// Makes the rooms and starts their tasks.
    pub fn build(around: Surroundings) -> Rc<dyn Shards> {
        let rooms = Rc::new_cyclic(|me| ShardRooms {
            around,
            me: me.clone(),
            clients: RefCell::default(),
            hosted: RefCell::default(),
            publishes: RefCell::default(),
            choosing: RefCell::default(),
            inspections: RefCell::default(),
            deletions: RefCell::default(),
            reads: RefCell::default(),
            asked: RefCell::default(),
            next_key: Cell::new(1),
            firing: RefCell::default(),
            acknowledges_early: faults::breaks_k1(),
            lets_two_hold: faults::breaks_k4(),
            runs: RefCell::default(),
            taken: RefCell::default(),
            arrived: RefCell::default(),
            inbox: RefCell::default(),
            work: Notify::new(),
        });
        let turns = rooms.clone();
        rooms.around.tasks.spawn(async move {
            loop {
                turns.work.notified().await;
                // Whatever is ready to run now belongs to this turn.
                tokio::task::yield_now().await;
                turns.turn();
            }
        });
        let ticks = rooms.clone();
        rooms.around.tasks.spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                ticks.tick();
            }
        });
        rooms
    }

    fn shard_of(&self, client_id: &str) -> Option<ShardId> {
        match self.around.directory.shards() {
            0 => None,
            shards => Some(ShardId::of_client(client_id, shards)),
        }
    }

    /// Numbers a command in the stream of its shard.
    fn push(&self, shard: ShardId, command: Command, waiter: Waiter) {
        let mut clients = self.clients.borrow_mut();
        let client = clients.entry(shard).or_default();
        if client.leader.is_none() {
            client.leader = self.around.directory.leader(shard);
        }
        client.push(command, waiter);
        self.work.notify_one();
    }

    /// Sends a frame to a node, which may be this one.
    fn send(&self, to: NodeId, frame: ShardFrame) {
        if to == self.around.mesh.me().node {
            self.inbox.borrow_mut().push_back(frame);
            self.work.notify_one();
        } else {
            // A frame that finds no link is made up for when the link is back.
            let _ = self.around.mesh.send_shard(to, frame.encode());
        }
    }

    /// The end of a turn: what was decided goes out.
    fn turn(&self) {
        let me = self.around.mesh.me();
        loop {
            let frame = self.inbox.borrow_mut().pop_front();
            let Some(frame) = frame else { break };
            self.handle(me, frame);
        }
        let arrived = self.arrived.take();
        for (shard, relayed) in arrived {
            self.push(shard, Command::Relayed(relayed), Waiter::Nobody);
        }
        let mut frames = Vec::new();
        for (shard, client) in self.clients.borrow_mut().iter_mut() {
            while client.has_unsent() {
                let Some((leader, _)) = client.leader else { break };
                let commands = client.take_unsent();
                if !commands.is_empty() {
                    frames.push((leader, *shard, commands));
                }
            }
        }
        for (leader, shard, commands) in frames {
            if leader == me.node {
                self.take(me, shard, commands);
            } else {
                self.send(leader, ShardFrame::Commands { shard, commands });
            }
        }
        let led: Vec<ShardId> = {
            let hosted = self.hosted.borrow();
            hosted.iter().filter(|(_, hosted)| hosted.leader.is_some()).map(|(shard, _)| *shard).collect()
        };
        for shard in led {
            self.propose(shard);
        }
    }

    fn tick(&self) {
        let now_ms = (self.around.now_ms)();
        for client in self.clients.borrow_mut().values_mut() {
            client.tick();
        }
        let replicas: Vec<ShardId> = self.hosted.borrow().keys().copied().collect();
        for shard in replicas.into_iter().filter(|shard| self.cannot_write(*shard)) {
            self.withdraw(shard);
        }
        self.ask_to_inspect();
        let questions = self.reads.borrow_mut().ask_again();
        for question in questions {
            self.ask_retained(question);
        }
        let mut due = Vec::new();
        for (shard, hosted) in self.hosted.borrow().iter() {
            if let Some(group) = hosted.group.as_ref().filter(|_| hosted.leader.is_some())
                && group.with(Shard::next_due_ms).is_some_and(|at| at <= now_ms)
            {
                due.push(*shard);
            }
        }
        for shard in due {
            self.push(shard, Command::Tick, Waiter::Nobody);
        }
        for shard in self.led() {
            self.hand_over(shard);
            let state =
                self.with_led(shard, |group, leader| (leader.deliveries.ask_again(), group.with(Shard::due_wills)));
            let Some((asks, wills)) = state else { continue };
            for ask in asks {
                self.say(shard, ask);
            }
            // Those that could not be published when they fell due.
            self.carry_out(shard, wills);
            let relays = self.with_led(shard, |group, leader| group.with(|state| leader.relays.tick(state)));
            for to in relays.into_iter().flatten() {
                self.relay(shard, to);
            }
        }
        self.work.notify_one();
    }

    fn handle(&self, from: Origin, frame: ShardFrame) {
        match frame {
            ShardFrame::Commands { shard, commands } => self.take(from, shard, commands),
            ShardFrame::Replies { shard, replies } => {
                for (seq, outcome) in replies {
                    self.answered(shard, seq, outcome);
                }
            }
            ShardFrame::Expects { shard, seq } => {
                if let Some(client) = self.clients.borrow_mut().get_mut(&shard) {
                    client.rewind_to(seq);
                }
                self.work.notify_one();
            }
            ShardFrame::NotLeader { shard, leader } => self.not_leader(shard, from.node, leader),
            ShardFrame::Deliver { connection, epoch, deliveries } => {
                self.to_worker(connection, ToWorker::Deliver { connection, epoch, deliveries });
            }
            ShardFrame::Evict { client_id, epoch, .. } if self.lets_two_hold => {
                Shards::worker(self, ToCluster::Released { client_id, epoch });
            }
            ShardFrame::Evict { connection, client_id, epoch, why } => {
                self.to_worker(connection, ToWorker::Evict { connection, client_id, epoch, why });
            }
            ShardFrame::Attach { shard, term, connection, client_id, epoch } => {
                // The answer goes to whoever is known to lead.
                self.leader_known(shard, from.node, term);
                self.to_worker(connection, ToWorker::Attach { connection, client_id, epoch });
            }
            ShardFrame::Attached { shard, client_id, epoch, sent_to } => {
                self.with_led(shard, |group, leader| {
                    group.with(|state| leader.deliveries.attached(state, &client_id, epoch, sent_to));
                });
                self.deliver(shard, &client_id);
            }
            ShardFrame::Relay { shard, to, number, message } => self.relayed_here(from, shard, to, number, message),
            ShardFrame::Relayed { shard, to, number } => {
                let to = Destination::Node(Origin { node: from.node, incarnation: to });
                self.has_arrived(shard, Relayed { to, number, refused: None });
            }
            ShardFrame::ReadRetained { shard, read, filter, after } => {
                self.asked_retained(from, Question { shard, read, filter, after });
            }
            ShardFrame::ReadSessions { shard, read, after, count } => {
                self.asked_sessions(from, shard, read, &after, count);
            }
            ShardFrame::Sessions { shard, read, sessions } => self.inspected(shard, read, sessions),
            ShardFrame::Retained { read, messages, next } => {
                let (answer, more) = self.reads.borrow_mut().answered(read, Page { messages, next });
                if let Some((connection, answer)) = answer {
                    self.to_worker(connection, answer);
                }
                if let Some(question) = more {
                    self.ask_retained(question);
                }
            }
        }
    }

    fn to_worker(&self, connection: ConnectionId, message: ToWorker) {
        if connection.worker < self.around.workers.count() {
            self.around.workers.send(connection.worker, message);
        }
    }
}

/// As the client of every shard.
impl ShardRooms {
    fn answered(&self, shard: ShardId, seq: u64, outcome: Outcome) {
        let answer = self.clients.borrow_mut().get_mut(&shard).and_then(|client| client.answer(seq));
        let Some((command, waiter)) = answer else { return };
        match waiter {
            Waiter::Nobody => {
                if let Command::FireWill { client_id, epoch, .. } = command {
                    self.firing.borrow_mut().remove(&(shard, client_id, epoch));
                }
            }
            Waiter::Open(connection) => self.to_worker(connection, ToWorker::Opened { connection, outcome }),
            Waiter::Withdrawn => {
                // The client was told that it is not connected: what it asked for is undone.
                if let (Command::Open(open), Outcome::Opened { epoch, .. }) = (command, outcome) {
                    let (client_id, cause) = (open.client_id, CloseCause::Normal);
                    let close = Close { client_id, epoch, cause, session_expiry_seconds: None, sent_to: 0 };
                    self.push(shard, Command::Close(close), Waiter::Nobody);
                }
            }
            Waiter::Subscribe { connection, token } => {
                self.to_worker(connection, ToWorker::Subscribed { connection, token, outcome });
            }
            Waiter::PublishOnce { connection, token } => {
                self.to_worker(connection, ToWorker::Published { connection, token, outcome });
            }
            Waiter::EndExchange { connection, packet_id } => {
                self.to_worker(connection, ToWorker::ExchangeEnded { connection, packet_id, outcome });
            }
            Waiter::Acknowledge(connection) => {
                if let (Command::Acknowledge { epoch, acks, .. }, Outcome::Done) = (command, outcome) {
                    let received = acks.iter().filter_map(Ack::received).collect();
                    self.to_worker(connection, ToWorker::Acknowledged { connection, epoch, received });
                }
            }
            Waiter::Relay { from, to, number } => self.relay_answered(from, to, number, &outcome),
            Waiter::Publish(key) => match outcome {
                Outcome::Stored(count) => self.publish_part(key, count, None),
                Outcome::Refused(refusal) => self.publish_part(key, 0, Some(refusal)),
                _ => self.publish_part(key, 0, Some(Refusal::Unavailable)),
            },
            Waiter::Enqueue { connection, token } => {
                self.to_worker(connection, ToWorker::Enqueued { connection, token, outcome });
            }
            Waiter::HandOver { shard, term } => self.handed_over(shard, term, &outcome),
            Waiter::Deletion(key) => self.session_ended(key, &outcome),
        }
    }

    fn not_leader(&self, shard: ShardId, said: NodeId, leader: Option<NodeId>) {
        let mut clients = self.clients.borrow_mut();
        let Some(client) = clients.get_mut(&shard) else { return };
        let Some((present, term)) = client.leader.filter(|(present, _)| *present == said) else { return };
        // Whoever leads announces it. Until then the hint is tried, or the same node again, at the pace of `tick`: sending at
        // once would go round in circles while nobody leads.
        if let Some(leader) = leader.filter(|leader| *leader != present) {
            client.leader = Some((leader, term));
        }
        client.rewind_at_next_tick();
        let known = self.around.directory.leader(shard);
        if let Some((leader, term)) = known {
            client.leader_known(leader, term);
        }
    }

    /// Publishes to everybody beyond this node's workers, and counts the answers.
    fn publish(&self, origin: Option<PublishOrigin>, message: Message, targets: &Targets, recipients: Recipients) {
        let key = self.next_key.get();
        self.next_key.set(key + 1);
        let mut outstanding = targets.iter().filter(|target| !matches!(target, RouteOwner::Worker(_))).count() as u32;
        let counted = origin.is_some();
        outstanding += recipients.len() as u32;
        // What was meant for a member that has gone is kept already.
        let keep = message.retain && message.recipient.is_none();
        outstanding += u32::from(keep);
        if let Some(origin) = origin {
            let pending = PendingPublish { origin, outstanding: outstanding + 1, stored: 0, refused: None };
            self.publishes.borrow_mut().insert(key, pending);
        }
        if keep {
            self.retain(message.clone(), counted.then_some(key));
        }
        for target in targets {
            self.give(counted.then_some(key), *target, message.clone());
        }
        for (owner, recipient) in recipients {
            let copy = Message { recipient: Some(recipient), ..message.clone() };
            self.give(counted.then_some(key), owner, copy);
        }
        if counted {
            self.publish_part(key, 0, None);
        }
    }

    /// Gives a message to one of those that it is for; `key` is that of the publish.
    fn give(&self, key: Option<u64>, owner: RouteOwner, message: Message) {
        match owner {
            RouteOwner::Worker(_) => {}
            RouteOwner::Node(node) if node == self.around.mesh.me().node => {
                self.around.workers.hand_over(message);
                if let Some(key) = key {
                    self.publish_part(key, 1, None);
                }
            }
            RouteOwner::Node(node) => self.around.forwarder.forward(node, message, key),
            RouteOwner::Shard(shard) => match key {
                Some(key) if self.is_full(shard) || self.cannot_write(shard) => {
                    self.publish_part(key, 0, Some(Refusal::Quota));
                }
                Some(key) => {
                    self.push(shard, Command::Publish(message), Waiter::Publish(key));
                    if self.acknowledges_early {
                        self.publish_part(key, 1, None);
                    }
                }
                None => self.push(shard, Command::Publish(message), Waiter::Nobody),
            },
        }
    }

    /// Gives a message to the shard that keeps its topic's ([MQTT-3.3.1-5]); `key` is that of the publish.
    fn retain(&self, message: Message, key: Option<u64>) {
        let shard = match self.around.directory.shards() {
            0 => None,
            shards => Some(ShardId::of_topic(&message.topic, shards)),
        };
        match (shard.filter(|shard| !self.is_full(*shard)), key) {
            (Some(shard), key) => {
                let waiter = key.map_or(Waiter::Nobody, Waiter::Publish);
                self.push(shard, Command::Retain(message), waiter);
            }
            (None, Some(key)) => {
                let refusal = if shard.is_some() { Refusal::Quota } else { Refusal::Unavailable };
                self.publish_part(key, 0, Some(refusal));
            }
            (None, None) => tracing::debug!(topic = %message.topic, "a retained message of QoS 0 was dropped"),
        }
    }

    /// One part of a publish is done; the last one answers whoever waits (K1).
    fn publish_part(&self, key: u64, stored: u32, refused: Option<Refusal>) {
        let mut publishes = self.publishes.borrow_mut();
        let Some(pending) = publishes.get_mut(&key) else { return };
        pending.stored += stored;
        pending.refused = pending.refused.or(refused);
        pending.outstanding -= 1;
        if pending.outstanding > 0 {
            return;
        }
        let Some(PendingPublish { origin, stored, refused, .. }) = publishes.remove(&key) else { return };
        drop(publishes);
        let outcome = refused.map_or(Outcome::Stored(stored), Outcome::Refused);
        let PublishOrigin { connection, token } = origin;
        self.to_worker(connection, ToWorker::Published { connection, token, outcome });
    }

    /// Whether this node should write for a shard, and its disk does not take what is written: it is full, usually. Nothing
    /// is promised then; it is tried again until the disk allows.
    fn cannot_write(&self, shard: ShardId) -> bool {
        let me = self.around.mesh.me().node;
        let elsewhere = |client: &ShardClient| client.leader.is_some_and(|(leader, _)| leader != me);
        if self.clients.borrow().get(&shard).is_some_and(elsewhere) {
            return false;
        }
        let hosted = self.hosted.borrow();
        let group = hosted.get(&shard).and_then(|hosted| hosted.group.as_ref());
        group.is_some_and(|group| group.leadership().borrow().failed.is_some())
    }

    /// Refuses what waits for a shard whose disk takes nothing. It may still be stored, like anything unacknowledged.
    fn withdraw(&self, shard: ShardId) {
        let withdrawn = self.clients.borrow_mut().get_mut(&shard).map(|client| {
            let opens = client.withdraw_opens();
            opens.into_iter().chain(client.withdraw_publishes()).collect::<Vec<_>>()
        });
        for waiter in withdrawn.into_iter().flatten() {
            self.refuse(waiter, Refusal::Quota);
        }
    }

    fn is_full(&self, shard: ShardId) -> bool {
        self.clients.borrow().get(&shard).is_some_and(ShardClient::is_full)
    }

    /// Lets somebody go whose command has no more hope.
    fn refuse(&self, waiter: Waiter, refusal: Refusal) {
        let outcome = Outcome::Refused(refusal);
        match waiter {
            Waiter::Nobody | Waiter::Acknowledge(_) | Waiter::Withdrawn => {}
            Waiter::Deletion(key) => self.session_ended(key, &outcome),
            Waiter::HandOver { shard, term } => self.handed_over(shard, term, &outcome),
            Waiter::PublishOnce { connection, token } => {
                self.to_worker(connection, ToWorker::Published { connection, token, outcome });
            }
            Waiter::EndExchange { connection, packet_id } => {
                self.to_worker(connection, ToWorker::ExchangeEnded { connection, packet_id, outcome });
            }
            Waiter::Relay { from, to, number } => self.relay_answered(from, to, number, &outcome),
            Waiter::Open(connection) => self.to_worker(connection, ToWorker::Opened { connection, outcome }),
            Waiter::Subscribe { connection, token } => {
                self.to_worker(connection, ToWorker::Subscribed { connection, token, outcome });
            }
            Waiter::Publish(key) => self.publish_part(key, 0, Some(refusal)),
            Waiter::Enqueue { connection, token } => {
                self.to_worker(connection, ToWorker::Enqueued { connection, token, outcome });
            }
        }
    }

    /// Asks the leader of a shard. Without one, or a link to it, the question is asked again at the pace of `tick`.
    fn ask_retained(&self, question: Question) {
        let Question { shard, read, filter, after } = question;
        let known = self.clients.borrow().get(&shard).and_then(|client| client.leader);
        if let Some((leader, _)) = known.or_else(|| self.around.directory.leader(shard)) {
            self.send(leader, ShardFrame::ReadRetained { shard, read, filter, after });
        }
    }
}

/// As the leader of some shards.
impl ShardRooms {
    /// Calls `act` if this node leads `shard` and has caught up with what was committed before.
    fn with_led<T>(&self, shard: ShardId, act: impl FnOnce(&Group<Shard>, &mut ShardLeader) -> T) -> Option<T> {
        let mut hosted = self.hosted.borrow_mut();
        let Hosted { group, leader } = hosted.get_mut(&shard)?;
        Some(act(group.as_ref()?, leader.as_mut()?))
    }

    fn take(&self, from: Origin, shard: ShardId, commands: Vec<(u64, Command)>) {
        let acknowledged: BTreeSet<_> = commands
            .iter()
            .filter_map(|(_, command)| match command {
                Command::Acknowledge { client_id, .. } => Some(client_id.clone()),
                _ => None,
            })
            .collect();
        let all: Vec<u64> = commands.iter().map(|(seq, _)| *seq).collect();
        let taken = self.with_led(shard, |group, leader| group.with(|state| leader.take(state, from, commands)));
        match taken {
            Some(Taken::All) => {}
            Some(Taken::Expects(seq)) => self.send(from.node, ShardFrame::Expects { shard, seq }),
            Some(Taken::Refused) => {
                let replies = all.into_iter().map(|seq| (seq, Outcome::Refused(Refusal::Unavailable))).collect();
                self.send(from.node, ShardFrame::Replies { shard, replies });
            }
            None => {
                let leader = self.around.directory.leader(shard).map(|(leader, _)| leader);
                self.send(from.node, ShardFrame::NotLeader { shard, leader });
            }
        }
        for client_id in acknowledged {
            self.deliver(shard, &client_id);
        }
        self.work.notify_one();
    }

    /// Proposes what was gathered, if it is time.
    fn propose(&self, shard: ShardId) {
        loop {
            let now_ms = (self.around.now_ms)();
            let next = self.with_led(shard, |group, leader| {
                leader.next_entry(now_ms).map(|entry| (group.clone(), leader.term, entry))
            });
            let Some(Some((group, term, entry))) = next else { return };
            let Some(rooms) = self.me.upgrade() else { return };
            // Plain data always encodes.
            let bytes = Bytes::from(postcard::to_stdvec(&entry).unwrap_or_default());
            self.around.tasks.spawn(async move {
                let result = group.propose(bytes).await;
                if let Err(error) = &result {
                    tracing::debug!(shard = shard.0, %error, "an entry was not committed");
                }
                rooms.with_led(shard, |_, leader| {
                    if leader.term == term {
                        if result.is_ok() { leader.proposed() } else { leader.lost() }
                    }
                });
                rooms.work.notify_one();
            });
        }
    }

    /// A node asks for retained messages.
    fn asked_retained(&self, from: Origin, question: Question) {
        let shard = question.shard;
        if self.with_led(shard, |_, _| ()).is_none() {
            let leader = self.around.directory.leader(shard).map(|(leader, _)| leader);
            return self.send(from.node, ShardFrame::NotLeader { shard, leader });
        }
        let begins = self.asked.borrow_mut().entry(shard).or_default().ask(from, question);
        let (true, Some(rooms)) = (begins, self.me.upgrade()) else { return };
        self.around.tasks.spawn(async move {
            loop {
                let questions = rooms.asked.borrow_mut().entry(shard).or_default().round();
                if questions.is_empty() {
                    return;
                }
                rooms.answer_retained(shard, questions).await;
            }
        });
    }

    /// Answers from what was committed when this was called, or later. Says nothing if this node leads no longer.
    async fn answer_retained(&self, shard: ShardId, questions: Vec<(Origin, Question)>) {
        let Some(group) = self.with_led(shard, |group, _| group.clone()) else { return };
        match tokio::time::timeout(CONFIRM_TIMEOUT, group.linearizable()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return tracing::debug!(shard = shard.0, %error, "retained messages cannot be read"),
            Err(_) => return tracing::debug!(shard = shard.0, "no majority confirms that this node leads"),
        }
        for (from, Question { read, filter, after, .. }) in questions {
            let Page { messages, next } = group.with(|state| state.retained(&filter, after.as_deref()));
            self.send_to_run(from, ShardFrame::Retained { read, messages, next });
            // A page is some work: others have their turn.
            tokio::task::yield_now().await;
        }
    }

    /// An entry was applied here. If this node proposed it in its present leadership, its effects are carried out.
    fn applied(&self, shard: ShardId, position: Position, effects: Option<Vec<Effect>>) {
        let led = self.with_led(shard, |_, leader| leader.term == position.term);
        let Some(effects) = effects.filter(|_| led == Some(true)) else { return };
        let mut replies: BTreeMap<Origin, Vec<(u64, Outcome)>> = BTreeMap::new();
        let (mut deliverable, mut relayable, mut unplaced) = (BTreeSet::new(), BTreeSet::new(), false);
        for effect in effects {
            match effect {
                Effect::Reply { origin, seq, outcome: outcome @ Outcome::Codes(_) } => {
                    self.reply_when_settled(shard, position.term, origin, seq, outcome);
                }
                Effect::Reply { origin, seq, outcome } => {
                    replies.entry(origin).or_default().push((seq, outcome));
                }
                Effect::Deliverable(client_id) => {
                    deliverable.insert(client_id);
                }
                Effect::Opened(client_id) => {
                    self.with_led(shard, |group, leader| {
                        if let Some(attached) = group.with(|state| state.attached(&client_id)) {
                            leader.deliveries.opened(&attached);
                        }
                    });
                }
                evict @ Effect::Evict { .. } => self.carry_out(shard, [evict]),
                Effect::Relayable(to) => {
                    relayable.insert(to);
                }
                Effect::Unplaced => unplaced = true,
                Effect::RouteAdded(filter) => self.around.announcer.change(shard, position.term, filter, true),
                Effect::RouteRemoved(filter) => self.around.announcer.change(shard, position.term, filter, false),
                will @ Effect::Will { .. } => self.carry_out(shard, [will]),
            }
        }
        // First the answers, so that a client hears CONNACK before its queue.
        for (origin, replies) in replies {
            self.send_to_run(origin, ShardFrame::Replies { shard, replies });
        }
        for client_id in deliverable {
            self.deliver(shard, &client_id);
        }
        for to in relayable {
            self.relay(shard, to);
        }
        if unplaced {
            self.hand_over(shard);
        }
    }

    /// Carries out what may have been carried out before, by an earlier leader or over a link that was lost.
    fn carry_out(&self, shard: ShardId, effects: impl IntoIterator<Item = Effect>) {
        for effect in effects {
            match effect {
                Effect::Evict { client_id, holder, epoch, why } => {
                    self.with_led(shard, |_, leader| leader.deliveries.evicted(&client_id, epoch));
                    let frame = ShardFrame::Evict { connection: holder.connection, client_id, epoch, why };
                    self.send_to_run(holder.origin, frame);
                }
                Effect::Will { client_id, epoch, message } => self.originate(shard, client_id, epoch, message),
                _ => {}
            }
        }
    }

    /// Sends to a node only while it is in this run: a later run would misunderstand.
    fn send_to_run(&self, to: Origin, frame: ShardFrame) {
        let me = self.around.mesh.me();
        if to == me || (to.node != me.node && self.around.mesh.peer(to.node) == Some(to.incarnation)) {
            self.send(to.node, frame);
        }
    }

    /// SUBACK waits until every member that may accept publishes knows the routes (K6).
    fn reply_when_settled(&self, shard: ShardId, term: u64, origin: Origin, seq: u64, outcome: Outcome) {
        let Some(rooms) = self.me.upgrade() else { return };
        let settled = self.around.announcer.settled(shard, term);
        self.around.tasks.spawn(async move {
            settled.await;
            rooms.send_to_run(origin, ShardFrame::Replies { shard, replies: vec![(seq, outcome)] });
        });
    }

    /// Sends a session what its window has room for.
    fn deliver(&self, shard: ShardId, client_id: &ClientId) {
        let now_ms = (self.around.now_ms)();
        let say =
            self.with_led(shard, |group, leader| group.with(|state| leader.deliveries.next(state, client_id, now_ms)));
        for say in say.into_iter().flatten() {
            self.say(shard, say);
        }
    }

    fn say(&self, shard: ShardId, say: Say) {
        match say {
            Say::Attach(holder, client_id, epoch) => {
                let Some(term) = self.with_led(shard, |_, leader| leader.term) else { return };
                let frame = ShardFrame::Attach { shard, term, connection: holder.connection, client_id, epoch };
                self.send_to_run(holder.origin, frame);
            }
            Say::Deliver(holder, epoch, deliveries) => {
                let frame = ShardFrame::Deliver { connection: holder.connection, epoch, deliveries };
                self.send_to_run(holder.origin, frame);
            }
            Say::Expired(client_id, epoch, acks) => {
                self.push(shard, Command::Acknowledge { client_id, epoch, acks }, Waiter::Nobody);
            }
        }
    }

    /// Asks a worker whom a will is for.
    fn originate(&self, shard: ShardId, client_id: ClientId, epoch: u64, message: Message) {
        if !self.firing.borrow_mut().insert((shard, client_id.clone(), epoch)) {
            return;
        }
        let token = self.next_key.get();
        self.next_key.set(token + 1);
        let about = Message { payload: Bytes::new(), ..message.clone() };
        self.choosing.borrow_mut().insert(token, Choosing::Will { shard, client_id, epoch, about });
        self.around.workers.send(0, ToWorker::Originate { token, message });
    }

    /// This node leads `shard` from now on, and has applied all that was committed before.
    fn lead(&self, shard: ShardId, term: u64) {
        let begun = {
            let mut hosted = self.hosted.borrow_mut();
            let Some(Hosted { group: Some(group), leader }) = hosted.get_mut(&shard) else { return };
            *leader = Some(ShardLeader::new(term));
            group.with(|state| (state.routes(), state.all_attached(), [state.evictions(), state.due_wills()].concat()))
        };
        let (routes, attached, effects) = begun;
        tracing::info!(shard = shard.0, term, sessions = attached.len(), "leads");
        self.around.announcer.lead(shard, term, routes);
        let asks = self.with_led(shard, |_, leader| {
            attached.iter().map(|attached| leader.deliveries.ask(attached)).collect::<Vec<_>>()
        });
        for ask in asks.into_iter().flatten() {
            self.say(shard, ask);
        }
        self.carry_out(shard, effects);
        let destinations = self.with_led(shard, |group, _| group.with(Shard::destinations)).unwrap_or_default();
        for to in destinations {
            self.relay(shard, to);
        }
        self.end_runs(shard, &self.around.directory.ended());
    }

    fn resign(&self, shard: ShardId) {
        let led = self.hosted.borrow_mut().get_mut(&shard).and_then(|hosted| hosted.leader.take());
        if let Some(leader) = led {
            tracing::info!(shard = shard.0, term = leader.term, "no longer leads");
            self.firing.borrow_mut().retain(|(of, _, _)| *of != shard);
            self.around.announcer.resign(shard, leader.term);
        }
    }

    /// Tells the shard of runs that are over, unless it knows.
    fn end_runs(&self, shard: ShardId, origins: &[Origin]) {
        let unknown: Vec<Origin> = self
            .with_led(shard, |group, _| {
                group.with(|state| origins.iter().copied().filter(|origin| state.may_act(*origin)).collect())
            })
            .unwrap_or_default();
        for origin in unknown {
            self.push(shard, Command::NodeGone(origin), Waiter::Nobody);
        }
    }

    fn led(&self) -> Vec<ShardId> {
        let hosted = self.hosted.borrow();
        hosted.iter().filter(|(_, hosted)| hosted.leader.is_some()).map(|(shard, _)| *shard).collect()
    }

    async fn follow_leadership(self: Rc<Self>, shard: ShardId, group: Group<Shard>) {
        let mut leadership = group.leadership();
        loop {
            let now = leadership.borrow_and_update().clone();
            let leading = self.with_led(shard, |_, leader| leader.term);
            if leading.is_some_and(|term| !now.ready || term != now.term) {
                self.resign(shard);
            }
            if now.ready && leading != Some(now.term) {
                self.lead(shard, now.term);
            }
            if leadership.changed().await.is_err() {
                self.resign(shard);
                return;
            }
        }
    }
}

impl Shards for ShardRooms {
    fn worker(&self, message: ToCluster) {
        match message {
            ToCluster::Open(open) => {
                let connection = open.connection;
                match self.shard_of(&open.client_id) {
                    Some(shard) if self.cannot_write(shard) => self.refuse(Waiter::Open(connection), Refusal::Quota),
                    Some(shard) => self.push(shard, Command::Open(open), Waiter::Open(connection)),
                    None => self.refuse(Waiter::Open(connection), Refusal::Unavailable),
                }
            }
            ToCluster::Close(close) => {
                if let Some(shard) = self.shard_of(&close.client_id) {
                    self.push(shard, Command::Close(close), Waiter::Nobody);
                }
            }
            ToCluster::Subscribe { connection, token, client_id, epoch, subscriptions } => {
                let waiter = Waiter::Subscribe { connection, token };
                match self.shard_of(&client_id) {
                    Some(shard) => self.push(shard, Command::Subscribe { client_id, epoch, subscriptions }, waiter),
                    None => self.refuse(waiter, Refusal::Unavailable),
                }
            }
            ToCluster::Unsubscribe { connection, token, client_id, epoch, filters } => {
                let waiter = Waiter::Subscribe { connection, token };
                match self.shard_of(&client_id) {
                    Some(shard) => self.push(shard, Command::Unsubscribe { client_id, epoch, filters }, waiter),
                    None => self.refuse(waiter, Refusal::Unavailable),
                }
            }
            ToCluster::Publish { connection, token, message, targets, recipients } => {
                let counted = message.qos > QoS::AtMostOnce;
                let origin = counted.then_some(PublishOrigin { connection, token });
                self.publish(origin, message, &targets, recipients);
            }
            ToCluster::Chosen { token, chosen } => self.chosen(token, chosen),
            ToCluster::Originated { token, reach } => self.fire_will(token, reach),
            ToCluster::PublishOnce { connection, token, client_id, epoch, packet_id, message, targets, recipients } => {
                let publish = PublishOnce { client_id, epoch, packet_id, message, spread: Spread::default() };
                self.publish_once(connection, token, publish, &targets, recipients);
            }
            ToCluster::EndExchange { connection, client_id, epoch, packet_id } => {
                let waiter = Waiter::EndExchange { connection, packet_id };
                match self.shard_of(&client_id) {
                    Some(shard) => self.push(shard, Command::EndExchange { client_id, epoch, packet_id }, waiter),
                    None => self.refuse(waiter, Refusal::Unavailable),
                }
            }
            ToCluster::Acknowledge { connection, client_id, epoch, acks } => {
                let received = acks.iter().any(|ack| ack.received().is_some());
                let waiter = if received { Waiter::Acknowledge(connection) } else { Waiter::Nobody };
                if let Some(shard) = self.shard_of(&client_id) {
                    self.push(shard, Command::Acknowledge { client_id, epoch, acks }, waiter);
                }
            }
            ToCluster::Released { client_id, epoch } => {
                if let Some(shard) = self.shard_of(&client_id) {
                    self.push(shard, Command::Released { client_id, epoch }, Waiter::Nobody);
                }
            }
            ToCluster::ReadRetained { connection, token, filter, place } => {
                let shards = self.around.directory.shards();
                let question = self.reads.borrow_mut().begin(connection, token, filter, place, shards);
                if let Some(question) = question {
                    self.ask_retained(question);
                }
            }
            ToCluster::Enqueue { connection, token, client_id, epoch, filter, messages, next } => {
                let waiter = Waiter::Enqueue { connection, token };
                match self.shard_of(&client_id) {
                    Some(shard) => {
                        self.push(shard, Command::Enqueue { client_id, epoch, filter, messages, next }, waiter);
                    }
                    None => self.refuse(waiter, Refusal::Unavailable),
                }
            }
            ToCluster::Attached { client_id, epoch, sent_to } => {
                let Some(shard) = self.shard_of(&client_id) else { return };
                let leader = self.clients.borrow().get(&shard).and_then(|client| client.leader);
                if let Some((leader, _)) = leader.or_else(|| self.around.directory.leader(shard)) {
                    self.send(leader, ShardFrame::Attached { shard, client_id, epoch, sent_to });
                }
            }
            ToCluster::Route { .. }
            | ToCluster::Settle { .. }
            | ToCluster::RoutesApplied { .. }
            | ToCluster::Connections { .. } => {
                debug_assert!(false, "routes and figures are the cluster's");
            }
        }
    }

    fn start(&self, shard: ShardId) -> LocalFuture<io::Result<Rc<dyn Replica>>> {
        let Some(rooms) = self.me.upgrade() else {
            return Box::pin(std::future::ready(Err(io::Error::other("the node is ending"))));
        };
        Box::pin(async move {
            rooms.hosted.borrow_mut().insert(shard, Hosted { group: None, leader: None });
            let sink = {
                let me = rooms.me.clone();
                Rc::new(move |position, effects| {
                    if let Some(rooms) = me.upgrade() {
                        rooms.applied(shard, position, effects);
                    }
                })
            };
            let group_id = GroupId::of_shard(shard);
            let group = Group::start(
                rooms.around.mesh.me().node,
                group_id,
                Shard::default(),
                rooms.around.log.group(group_id),
                rooms.around.transport.clone(),
                rooms.around.settings,
                sink,
            )
            .await?;
            if let Some(hosted) = rooms.hosted.borrow_mut().get_mut(&shard) {
                hosted.group = Some(group.clone());
            }
            let replica = replica_of(&group);
            rooms.around.tasks.spawn(rooms.clone().follow_leadership(shard, group));
            Ok(replica)
        })
    }

    fn stopped(&self, shard: ShardId) {
        self.resign(shard);
        self.hosted.borrow_mut().remove(&shard);
    }

    fn link_up(&self, peer: Origin) {
        self.runs.borrow_mut().insert(peer.node, peer.incarnation);
        for client in self.clients.borrow_mut().values_mut() {
            if client.leader.is_some_and(|(leader, _)| leader == peer.node) {
                client.rewind();
            }
        }
        for shard in self.led() {
            let asks = self.with_led(shard, |group, leader| {
                leader.deliveries.forget_node(peer);
                let attached = group.with(Shard::all_attached);
                let theirs = attached.iter().filter(|attached| attached.holder.origin == peer);
                theirs.map(|attached| leader.deliveries.ask(attached)).collect::<Vec<_>>()
            });
            for ask in asks.into_iter().flatten() {
                self.say(shard, ask);
            }
            let evictions = self.with_led(shard, |group, _| group.with(Shard::evictions)).unwrap_or_default();
            let theirs = |effect: &Effect| matches!(effect, Effect::Evict { holder, .. } if holder.origin == peer);
            self.carry_out(shard, evictions.into_iter().filter(theirs));
            self.with_led(shard, |_, leader| leader.relays.rewind_node(peer.node));
            self.relay(shard, Destination::Node(peer));
        }
        self.work.notify_one();
    }

    fn link_down(&self, peer: Origin) {
        for shard in self.led() {
            self.with_led(shard, |_, leader| leader.deliveries.forget_node(peer));
        }
    }

    fn frame(&self, from: Origin, frame: Bytes) {
        match ShardFrame::decode(&frame) {
            Some(frame) => self.handle(from, frame),
            None => tracing::warn!(node = %from.node, "a frame of an unknown version was passed over"),
        }
    }

    fn leader_known(&self, shard: ShardId, leader: NodeId, term: u64) {
        self.clients.borrow_mut().entry(shard).or_default().leader_known(leader, term);
        self.work.notify_one();
    }

    fn ended(&self, origins: &[Origin]) {
        for shard in self.led() {
            self.end_runs(shard, origins);
        }
    }

    fn withdraw_opens(&self) {
        let mut clients = self.clients.borrow_mut();
        let withdrawn: Vec<Waiter> = clients.values_mut().flat_map(ShardClient::withdraw_opens).collect();
        drop(clients);
        for waiter in withdrawn {
            self.refuse(waiter, Refusal::Unavailable);
        }
    }

    fn begin_run(&self) {
        self.taken.borrow_mut().clear();
        let mut unanswered = Vec::new();
        self.reads.borrow_mut().clear();
        for client in self.clients.borrow_mut().values_mut() {
            unanswered.extend(client.reset().into_iter().map(|(_, waiter)| waiter));
        }
        // Connections are over, and with them what they asked; a will that has not gone is found again.
        for waiter in unanswered {
            self.refuse(waiter, Refusal::Unavailable);
        }
        self.firing.borrow_mut().clear();
        for shard in self.led() {
            // The news of what had arrived may be among what was let go.
            self.with_led(shard, |_, leader| leader.relays = Relays::default());
            self.end_runs(shard, &self.around.directory.ended());
        }
    }

    fn forwarded(&self, key: u64, reached: bool) {
        self.publish_part(key, u32::from(reached), None);
    }

    fn member_lost(&self, key: u64, message: Message) {
        self.choose_again(key, message);
    }

    fn inspect(&self, after: Arc<str>, count: usize, answer: oneshot::Sender<Vec<StoredSession>>) {
        ShardRooms::inspect(self, after, count, answer);
    }

    fn end_session(&self, client_id: ClientId, answer: oneshot::Sender<bool>) {
        ShardRooms::end_session(self, client_id, answer);
    }

    fn totals(&self) -> Totals {
        let hosted = self.hosted.borrow();
        let led = hosted.values().filter(|hosted| hosted.leader.is_some());
        let mut totals = Totals::default();
        for group in led.filter_map(|hosted| hosted.group.as_ref()) {
            totals += group.with(Shard::totals);
        }
        totals
    }
}

#[cfg(test)]
mod tests;
