//! The shards' rooms of a node: its streams of commands to every shard, and the shards it leads.
//!
//! A command comes from a worker, is numbered in the stream of its shard (`shard_client`), goes to the leader, here or on
//! another node, is gathered into an entry (`shard_leader`) and proposed; applied, its effects come back to be carried
//! out. What to send is decided at once; sending waits for the end of the turn, so that it goes in batches.

mod asking;
mod handing;
mod inspecting;
mod keeping;
mod leading;
mod lending;
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
use self::inspecting::{Inspection, Listing};
use self::lending::EndedLoans;
use super::mesh::{LocalFuture, Shards, Surroundings};
use super::relays::Relays;
use super::replica::{Replica, replica_of};
use super::retained_reads::{Answer, Asked, Question, Reader, Reads};
use super::retained_rounds::{self, Owed, Rounds};
use super::shard_client::{ShardClient, Waiter};
use super::shard_frames::ShardFrame;
use super::shard_leader::ShardLeader;
use crate::door::{ToCluster, ToWorker};
use crate::faults;
use crate::identity::{ClientId, ConnectionId, GroupId, Incarnation, NodeId, Origin, ShardId};
use crate::message::{Message, QoS};
use crate::replication::Group;
use crate::shard::{
    Command, Destination, Effect, Page, PublishOnce, Refusal, Relayed, Shard, Spread, StoredSession, Totals,
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
    listings: RefCell<BTreeMap<u64, Listing>>,
    deletions: RefCell<BTreeMap<u64, oneshot::Sender<bool>>>,
    reads: RefCell<Reads>,
    asked: RefCell<BTreeMap<ShardId, Asked>>,
    /// What comes before reads for new subscriptions.
    rounds: RefCell<Rounds>,
    /// Who asks when the commands of these shards, up to these numbers, are answered.
    under_way_asked: RefCell<Owed<Vec<(ShardId, u64)>>>,
    next_key: Cell<u64>,
    /// Wills of led shards that are being sent on their way, until their shard has done it.
    firing: RefCell<BTreeSet<(ShardId, ClientId, u64)>>,
    /// Against K1, to see that tests notice.
    acknowledges_early: bool,
    /// Against K4, likewise.
    lets_two_hold: bool,
    /// Against K8, likewise.
    forgets_what_is_under_way: bool,
    /// The runs of other nodes that are linked, or were last.
    runs: RefCell<BTreeMap<NodeId, Incarnation>>,
    /// The last number that this run has taken from the outbox of each shard.
    taken: RefCell<BTreeMap<ShardId, u64>>,
    /// The last number of what each shard has lent to this run.
    borrowed: RefCell<BTreeMap<ShardId, u64>>,
    /// What became of that, until the end of the turn.
    ended_loans: RefCell<EndedLoans>,
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
            listings: RefCell::default(),
            deletions: RefCell::default(),
            reads: RefCell::default(),
            asked: RefCell::default(),
            rounds: RefCell::default(),
            under_way_asked: RefCell::default(),
            next_key: Cell::new(1),
            firing: RefCell::default(),
            acknowledges_early: faults::breaks_k1(),
            lets_two_hold: faults::breaks_k4(),
            forgets_what_is_under_way: faults::breaks_k8(),
            runs: RefCell::default(),
            taken: RefCell::default(),
            borrowed: RefCell::default(),
            ended_loans: RefCell::default(),
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
        client.push(shard, command, waiter);
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
        self.end_loans();
        self.answer_under_way();
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
        self.forget_listings();
        self.ended_loans.borrow_mut().tick();
        self.tick_rounds();
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
            ShardFrame::Lend { shard, to, number, message } => self.lent_here(from, shard, to, number, message),
            ShardFrame::Lent { shard, to, number } => {
                let to = Destination::Borrower(Origin { node: from.node, incarnation: to });
                self.has_arrived(shard, Relayed { to, number, refused: None });
            }
            ShardFrame::ReadRetained { shard, read, filter, after } => {
                self.asked_retained(from, Question { shard, read, filter, after });
            }
            ShardFrame::ReadSessions { shard, read, after, count } => {
                self.asked_sessions(from, shard, read, &after, count);
            }
            ShardFrame::AskUnderWay { number, scope } => self.asked_under_way(from, number, scope),
            ShardFrame::UnderWayKept { number } => {
                self.answered_in_round(number, retained_rounds::Asked::Node(from.node));
            }
            ShardFrame::AskOutboxes { shard, number, scope } => self.asked_outboxes(from, shard, number, scope),
            ShardFrame::OutboxesKept { shard, number } => {
                self.answered_in_round(number, retained_rounds::Asked::Shard(shard));
            }
            ShardFrame::Sessions { shard, read, sessions } => self.inspected(shard, read, sessions),
            ShardFrame::Retained { read, messages, next } => {
                let (answer, more) = self.reads.borrow_mut().answered(read, Page { messages, next });
                if let Some(Answer { reader, messages, next }) = answer {
                    match reader {
                        Reader::Subscriber { connection, token } => {
                            self.to_worker(connection, ToWorker::Retained { connection, token, messages, next });
                        }
                        Reader::Administrator(key) => self.listed(key, messages, next),
                    }
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
            ToCluster::Publish { connection, token, epoch, message, targets, recipients } => {
                let counted = message.qos > QoS::AtMostOnce;
                let origin = counted.then_some(PublishOrigin { connection, token });
                self.publish(origin, epoch, message, &targets, recipients);
            }
            ToCluster::Chosen { token, chosen } => self.chosen(token, chosen),
            ToCluster::Loans(ended) => self.loans_ended(ended),
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
                self.read_retained(Reader::Subscriber { connection, token }, filter, place);
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
                Shard::on(rooms.around.log.shelf()),
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
            self.relay(shard, Destination::Borrower(peer));
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
        self.borrowed.borrow_mut().clear();
        self.ended_loans.take();
        let mut unanswered = Vec::new();
        self.reads.borrow_mut().clear();
        self.rounds.borrow_mut().end();
        self.under_way_asked.borrow_mut().clear();
        self.listings.borrow_mut().clear();
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

    fn list_retained(&self, filter: Arc<str>, after: Option<Arc<str>>, count: usize, answer: oneshot::Sender<Page>) {
        ShardRooms::list_retained(self, filter, after, count, answer);
    }

    fn delete_retained(&self, topic: Arc<str>, answer: oneshot::Sender<bool>) {
        ShardRooms::delete_retained(self, topic, answer);
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
