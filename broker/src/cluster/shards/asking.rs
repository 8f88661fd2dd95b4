//! This node as the client of every shard: what it asks of their leaders, and what comes of it.

use super::{PendingPublish, PublishOrigin, ShardRooms};
use crate::cluster::retained_reads::Question;
use crate::cluster::shard_client::{Fate, ShardClient, Waiter};
use crate::cluster::shard_frames::ShardFrame;
use crate::door::{Recipients, RouteOwner, Targets, ToWorker};
use crate::identity::{NodeId, ShardId};
use crate::message::Message;
use crate::shard::{Ack, Close, CloseCause, Command, Expected, Outcome, PublishOnce, Refusal, Shard};

impl ShardRooms {
    pub(super) fn answered(&self, shard: ShardId, seq: u64, outcome: Outcome) {
        let answer = self.clients.borrow_mut().get_mut(&shard).and_then(|client| client.answer(seq));
        let Some((command, waiter)) = answer else { return };
        if !self.under_way_asked.borrow().is_empty() {
            self.work.notify_one();
        }
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
            Waiter::Publish(key) => self.publish_answered(key, &outcome),
            Waiter::Enqueue { connection, token } => {
                self.to_worker(connection, ToWorker::Enqueued { connection, token, outcome });
            }
            Waiter::HandOver { shard, term } => self.handed_over(shard, term, &outcome),
            Waiter::Begun(messages) => self.begun(messages, &outcome),
            Waiter::Deletion(key) => self.deleted(key, &outcome),
        }
    }

    pub(super) fn not_leader(&self, shard: ShardId, said: NodeId, leader: Option<NodeId>) {
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
    pub(super) fn publish(
        &self,
        origin: Option<PublishOrigin>,
        epoch: u64,
        message: Message,
        targets: &Targets,
        recipients: Recipients,
    ) {
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
            self.retain(message.clone(), epoch, counted.then_some(key));
        }
        for target in targets {
            self.give(counted.then_some(key), *target, message.clone());
        }
        for recipient in recipients {
            self.give_member(counted.then_some(key), recipient, message.clone());
        }
        if counted {
            self.publish_part(key, 0, None);
        }
    }

    /// Gives a message to one of those that it is for; `key` is that of the publish.
    pub(super) fn give(&self, key: Option<u64>, owner: RouteOwner, message: Message) {
        match owner {
            RouteOwner::Worker(_) => {}
            RouteOwner::Node(node) if node == self.around.mesh.me().node => {
                self.around.workers.hand_over(message);
                if let Some(key) = key {
                    self.publish_part(key, 1, None);
                }
            }
            RouteOwner::Node(node) => self.around.forwarder.forward(node, message, key),
            RouteOwner::Shard(shard) => self.store(key, shard, Command::Publish(message)),
        }
    }

    /// Has a shard store a message; `key` is that of the publish.
    pub(super) fn store(&self, key: Option<u64>, shard: ShardId, command: Command) {
        match key {
            Some(key) if self.is_full(shard) || self.cannot_write(shard) => {
                self.publish_part(key, 0, Some(Refusal::Quota));
            }
            Some(key) => {
                self.push(shard, command, Waiter::Publish(key));
                if self.acknowledges_early {
                    self.publish_part(key, 1, None);
                }
            }
            None => self.push(shard, command, Waiter::Nobody),
        }
    }

    /// Gives a message to the shard that keeps its topic's ([MQTT-3.3.1-5]); `epoch` is that of the publisher's connection,
    /// `key` that of the publish.
    fn retain(&self, message: Message, epoch: u64, key: Option<u64>) {
        let shard = match self.around.directory.shards() {
            0 => None,
            shards => Some(ShardId::of_topic(&message.topic, shards)),
        };
        match (shard.filter(|shard| !self.is_full(*shard)), key) {
            (Some(shard), key) => {
                let waiter = key.map_or(Waiter::Nobody, Waiter::Publish);
                let command = if epoch > 0 && self.names_connections() {
                    Command::KeepAs { message, epoch }
                } else if epoch > 0 && self.minds_what_is_under_way() {
                    Command::Keep { message, epoch }
                } else {
                    Command::Retain(message)
                };
                self.push(shard, command, waiter);
            }
            (None, Some(key)) => {
                let refusal = if shard.is_some() { Refusal::Quota } else { Refusal::Unavailable };
                self.publish_part(key, 0, Some(refusal));
            }
            (None, None) => tracing::debug!(topic = %message.topic, "a retained message of QoS 0 was dropped"),
        }
    }

    /// Whether every member knows of fences, and of questions about what is under way.
    pub(super) fn minds_what_is_under_way(&self) -> bool {
        !self.forgets_what_is_under_way && self.around.mesh.protocol() >= 2
    }

    /// Whether every member knows by which connections retained messages were published.
    pub(super) fn names_connections(&self) -> bool {
        !self.forgets_what_is_under_way && self.around.mesh.protocol() >= 3
    }

    fn publish_answered(&self, key: u64, outcome: &Outcome) {
        match outcome {
            Outcome::Stored(count) => self.publish_part(key, *count, None),
            Outcome::Refused(refusal) => self.publish_part(key, 0, Some(*refusal)),
            _ => self.publish_part(key, 0, Some(Refusal::Unavailable)),
        }
    }

    /// One part of a publish is done; the last one answers whoever waits (K1).
    pub(super) fn publish_part(&self, key: u64, stored: u32, refused: Option<Refusal>) {
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
    pub(super) fn cannot_write(&self, shard: ShardId) -> bool {
        let me = self.around.mesh.me().node;
        let elsewhere = |client: &ShardClient| client.leader.is_some_and(|(leader, _)| leader != me);
        if self.clients.borrow().get(&shard).is_some_and(elsewhere) {
            return false;
        }
        let hosted = self.hosted.borrow();
        let group = hosted.get(&shard).and_then(|hosted| hosted.group.as_ref());
        group.is_some_and(|group| group.leadership().borrow().failed.is_some())
    }

    /// Refuses what waits for a shard whose disk takes nothing. Where other members may have it, it may still be stored, like
    /// anything unacknowledged; but then the packet id of a QoS 2 message must not be used again, so that one waits for
    /// whoever leads next.
    pub(super) fn withdraw(&self, shard: ShardId) {
        let mut settled = Vec::new();
        if let Some(client) = self.clients.borrow_mut().get_mut(&shard) {
            self.with_settled(shard, |state| {
                let Expected::Next(next) = state.expected(self.around.mesh.me()) else { return };
                settled = client.settle(|seq, command| match command {
                    Command::PublishOnce(publish) => exchange_fate(state, publish),
                    _ if seq < next => Fate::Undecided,
                    _ => Fate::Lost(Refusal::Quota),
                });
            });
            let unknown = client.withdraw_opens().into_iter().chain(client.withdraw_publishes());
            settled.extend(unknown.map(|waiter| (waiter, Outcome::Refused(Refusal::Quota))));
        }
        for (waiter, outcome) in settled {
            self.settle(waiter, outcome);
        }
    }

    /// Whether a PUBLISH of QoS 2 is refused before it is numbered: it is new, and the disk takes nothing.
    pub(super) fn refuses_once(&self, shard: ShardId, publish: &PublishOnce) -> bool {
        let lost = |state: &Shard| matches!(exchange_fate(state, publish), Fate::Lost(_));
        self.is_full(shard) || (self.cannot_write(shard) && self.with_settled(shard, lost) == Some(true))
    }

    /// Reads the state of a shard if nobody but this node decides what is in it, and nothing that was proposed is undecided.
    fn with_settled<T>(&self, shard: ShardId, read: impl FnOnce(&Shard) -> T) -> Option<T> {
        let hosted = self.hosted.borrow();
        let hosted = hosted.get(&shard).filter(|hosted| hosted.leader.is_none())?;
        let group = hosted.group.as_ref().filter(|group| group.is_settled())?;
        Some(group.with(read))
    }

    pub(super) fn is_full(&self, shard: ShardId) -> bool {
        self.clients.borrow().get(&shard).is_some_and(ShardClient::is_full)
    }

    /// Lets somebody go whose command has no more hope.
    pub(super) fn refuse(&self, waiter: Waiter, refusal: Refusal) {
        self.settle(waiter, Outcome::Refused(refusal));
    }

    /// Answers somebody for whose command nothing else is to be done.
    fn settle(&self, waiter: Waiter, outcome: Outcome) {
        match waiter {
            Waiter::Nobody | Waiter::Acknowledge(_) | Waiter::Withdrawn | Waiter::Begun(_) => {}
            Waiter::Deletion(key) => self.deleted(key, &outcome),
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
            Waiter::Publish(key) => self.publish_answered(key, &outcome),
            Waiter::Enqueue { connection, token } => {
                self.to_worker(connection, ToWorker::Enqueued { connection, token, outcome });
            }
        }
    }

    /// Asks the leader of a shard. Without one, or a link to it, the question is asked again at the pace of `tick`.
    pub(super) fn ask_retained(&self, question: Question) {
        let Question { shard, read, filter, after } = question;
        if let Some(leader) = self.leader_of(shard) {
            self.send(leader, ShardFrame::ReadRetained { shard, read, filter, after });
        }
    }

    /// Who leads a shard, as far as is known.
    pub(super) fn leader_of(&self, shard: ShardId) -> Option<NodeId> {
        let known = self.clients.borrow().get(&shard).and_then(|client| client.leader);
        known.or_else(|| self.around.directory.leader(shard)).map(|(leader, _)| leader)
    }
}

/// What became of a PUBLISH of QoS 2, by a state that has all that is stored.
fn exchange_fate(state: &Shard, publish: &PublishOnce) -> Fate {
    match state.exchange(&publish.client_id, publish.packet_id) {
        None => Fate::Lost(Refusal::Quota),
        // Its shard has it and sees to the rest. Only what is to be retained must be seen by whoever subscribes next (K8).
        Some(everywhere) if everywhere || !publish.message.retain => Fate::Settled(Outcome::Stored(1)),
        Some(_) => Fate::Undecided,
    }
}
