//! This node as the leader of some shards: commands become entries, and what was applied is carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;

use super::handing::Choosing;
use super::{CONFIRM_TIMEOUT, Hosted, ShardRooms};
use crate::cluster::delivery::Say;
use crate::cluster::retained_reads::Question;
use crate::cluster::shard_client::Waiter;
use crate::cluster::shard_frames::ShardFrame;
use crate::cluster::shard_leader::{ShardLeader, Taken};
use crate::door::ToWorker;
use crate::identity::{ClientId, Origin, ShardId};
use crate::message::Message;
use crate::replication::{Group, Position};
use crate::shard::{Command, Effect, Outcome, Page, Refusal, Shard};

impl ShardRooms {
    /// Calls `act` if this node leads `shard` and has caught up with what was committed before.
    pub(super) fn with_led<T>(
        &self,
        shard: ShardId,
        act: impl FnOnce(&Group<Shard>, &mut ShardLeader) -> T,
    ) -> Option<T> {
        let mut hosted = self.hosted.borrow_mut();
        let Hosted { group, leader } = hosted.get_mut(&shard)?;
        Some(act(group.as_ref()?, leader.as_mut()?))
    }

    pub(super) fn take(&self, from: Origin, shard: ShardId, commands: Vec<(u64, Command)>) {
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
    pub(super) fn propose(&self, shard: ShardId) {
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
    pub(super) fn asked_retained(&self, from: Origin, question: Question) {
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
    pub(super) fn applied(&self, shard: ShardId, position: Position, effects: Option<Vec<Effect>>) {
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
        self.answer_outboxes(shard);
    }

    /// Carries out what may have been carried out before, by an earlier leader or over a link that was lost.
    pub(super) fn carry_out(&self, shard: ShardId, effects: impl IntoIterator<Item = Effect>) {
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
    pub(super) fn send_to_run(&self, to: Origin, frame: ShardFrame) {
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
    pub(super) fn deliver(&self, shard: ShardId, client_id: &ClientId) {
        let now_ms = (self.around.now_ms)();
        let say =
            self.with_led(shard, |group, leader| group.with(|state| leader.deliveries.next(state, client_id, now_ms)));
        for say in say.into_iter().flatten() {
            self.say(shard, say);
        }
    }

    pub(super) fn say(&self, shard: ShardId, say: Say) {
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
            Say::ReadAhead(pieces) => self.around.log.read_ahead(pieces),
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

    pub(super) fn resign(&self, shard: ShardId) {
        let led = self.hosted.borrow_mut().get_mut(&shard).and_then(|hosted| hosted.leader.take());
        if let Some(leader) = led {
            tracing::info!(shard = shard.0, term = leader.term, "no longer leads");
            self.firing.borrow_mut().retain(|(of, _, _)| *of != shard);
            self.around.announcer.resign(shard, leader.term);
        }
    }

    /// Tells the shard of runs that are over, unless it knows.
    pub(super) fn end_runs(&self, shard: ShardId, origins: &[Origin]) {
        let unknown: Vec<Origin> = self
            .with_led(shard, |group, _| {
                group.with(|state| origins.iter().copied().filter(|origin| state.may_act(*origin)).collect())
            })
            .unwrap_or_default();
        for origin in unknown {
            self.push(shard, Command::NodeGone(origin), Waiter::Nobody);
        }
    }

    pub(super) fn led(&self) -> Vec<ShardId> {
        let hosted = self.hosted.borrow();
        hosted.iter().filter(|(_, hosted)| hosted.leader.is_some()).map(|(shard, _)| *shard).collect()
    }

    pub(super) async fn follow_leadership(self: Rc<Self>, shard: ShardId, group: Group<Shard>) {
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
