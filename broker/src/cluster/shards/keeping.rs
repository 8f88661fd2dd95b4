//! Before retained messages are read for a new subscription: what was published before everybody knew of it is brought to
//! where it is kept (`retained_rounds`). This node as the one that asks, and as the one that is asked.

use std::sync::Arc;

use super::{CONFIRM_TIMEOUT, ShardRooms};
use crate::cluster::retained_reads::Reader;
use crate::cluster::retained_rounds::{Asked, Everybody, Inquiry, Scope, Turn};
use crate::cluster::shard_frames::ShardFrame;
use crate::identity::{Origin, ShardId};
use crate::shard::Place;

impl ShardRooms {
    /// Reads retained messages for a subscriber: from the beginning only after a round.
    pub(super) fn read_retained(&self, reader: Reader, filter: Arc<str>, place: Place) {
        if let Some(earlier) = self.reads.borrow_mut().drop_earlier(reader) {
            self.rounds.borrow_mut().leave(earlier);
        }
        let begins = place == Place::default();
        let exact = !filter.contains(['+', '#']);
        let question = self.reads.borrow_mut().begin(reader, filter, place, self.around.directory.shards());
        let Some(question) = question else { return };
        if !begins || !self.minds_what_is_under_way() {
            return self.ask_retained(question);
        }
        self.reads.borrow_mut().hold(question.read);
        let scope = exact.then_some(question.shard);
        let turn = self.rounds.borrow_mut().join(scope, question.read, || self.everybody());
        self.take_turn(turn);
    }

    /// Called at intervals.
    pub(super) fn tick_rounds(&self) {
        debug_assert_eq!(
            self.rounds.borrow().waiting(),
            self.reads.borrow().held(),
            "rounds are for reads that somebody wants (K9)"
        );
        let turn = if self.minds_what_is_under_way() {
            self.rounds.borrow_mut().tick(|| self.everybody())
        } else {
            // An older broker has joined, which would not answer.
            Turn { inquiries: Vec::new(), over: self.rounds.borrow_mut().end() }
        };
        self.take_turn(turn);
        let me = self.around.mesh.me();
        let present = |from: Origin| from == me || self.around.mesh.peer(from.node) == Some(from.incarnation);
        self.under_way_asked.borrow_mut().tick(present);
        for shard in self.led() {
            self.with_led(shard, |_, leader| leader.outboxes_asked.tick(present));
        }
    }

    pub(super) fn answered_in_round(&self, number: u64, who: Asked) {
        let turn = self.rounds.borrow_mut().answered(number, who, || self.everybody());
        self.take_turn(turn);
    }

    fn everybody(&self) -> Everybody {
        let mut members = self.around.directory.members();
        members.insert(self.around.mesh.me().node);
        (members, self.around.directory.shards())
    }

    fn take_turn(&self, Turn { inquiries, over }: Turn) {
        for Inquiry { to, number, scope } in inquiries {
            match to {
                Asked::Node(node) => self.send(node, ShardFrame::AskUnderWay { number, scope }),
                Asked::Shard(shard) => {
                    // Without a leader it is asked again at the pace of `tick`.
                    if let Some(leader) = self.leader_of(shard) {
                        self.send(leader, ShardFrame::AskOutboxes { shard, number, scope });
                    }
                }
            }
        }
        for read in over {
            let question = self.reads.borrow_mut().release(read);
            if let Some(question) = question {
                self.ask_retained(question);
            }
        }
    }

    /// A node asks when what is under way here is kept.
    pub(super) fn asked_under_way(&self, from: Origin, number: u64, scope: Scope) {
        let clients = self.clients.borrow();
        let under_way = clients.iter().filter_map(|(shard, client)| Some((*shard, client.last_kept(scope)?)));
        self.under_way_asked.borrow_mut().owe(from, number, scope, under_way.collect());
        self.work.notify_one();
    }

    /// Answers those who asked for what has come to its end. Called each turn.
    pub(super) fn answer_under_way(&self) {
        if self.under_way_asked.borrow().is_empty() {
            return;
        }
        let clients = self.clients.borrow();
        let answers = self.under_way_asked.borrow_mut().take_done(|before, scope, patient| {
            let still = |(shard, last): &(ShardId, u64)| {
                (patient || scope == Some(*shard))
                    && clients.get(shard).is_some_and(|client| client.keeps(scope, *last))
            };
            !before.iter().any(still)
        });
        drop(clients);
        for (to, number) in answers {
            self.send_to_run(to, ShardFrame::UnderWayKept { number });
        }
    }

    /// A node asks when what is in the outboxes of a shard is kept.
    pub(super) fn asked_outboxes(&self, from: Origin, shard: ShardId, number: u64, scope: Scope) {
        let led = self.with_led(shard, |group, leader| (group.clone(), leader.term));
        let (Some((group, term)), Some(rooms)) = (led, self.me.upgrade()) else {
            let leader = self.around.directory.leader(shard).map(|(leader, _)| leader);
            return self.send(from.node, ShardFrame::NotLeader { shard, leader });
        };
        self.around.tasks.spawn(async move {
            // What is committed by now must be seen here, whoever has led since.
            if !matches!(tokio::time::timeout(CONFIRM_TIMEOUT, group.linearizable()).await, Ok(Ok(()))) {
                return tracing::debug!(shard = shard.0, "no majority confirms that this node leads");
            }
            rooms.with_led(shard, |group, leader| {
                if leader.term == term {
                    let before = group.with(|state| state.to_be_kept(scope));
                    leader.outboxes_asked.owe(from, number, scope, before);
                }
            });
            rooms.answer_outboxes(shard);
        });
    }

    /// Answers those who asked for what has left the outboxes of a shard. Called when something was applied there.
    pub(super) fn answer_outboxes(&self, shard: ShardId) {
        let answers = self.with_led(shard, |group, leader| {
            if leader.outboxes_asked.is_empty() {
                return Vec::new();
            }
            group.with(|state| {
                let gone = |before: &Vec<_>| before.iter().all(|(to, last)| state.first_leaving(*to) > *last);
                leader.outboxes_asked.take_done(|before, _, _| gone(before))
            })
        });
        for (to, number) in answers.into_iter().flatten() {
            self.send_to_run(to, ShardFrame::OutboxesKept { shard, number });
        }
    }
}
