//! QoS 2 from persistent sessions, as it passes between nodes: into the publisher's shard, and from its outboxes to the
//! shards and nodes that its messages are for.

use super::ShardRooms;
use crate::cluster::shard_client::Waiter;
use crate::cluster::shard_frames::ShardFrame;
use crate::door::{RouteOwner, Targets, ToWorker};
use crate::identity::{ConnectionId, Incarnation, NodeId, Origin, ShardId};
use crate::message::Message;
use crate::shard::{Command, Destination, Outcome, PublishOnce, Refusal, Relayed};

impl ShardRooms {
    /// Gives a message to the shard of its publisher, which sees to the rest.
    pub(super) fn publish_once(&self, connection: ConnectionId, token: u64, publish: PublishOnce, targets: &Targets) {
        let waiter = Waiter::PublishOnce { connection, token };
        let Some(own) = self.shard_of(&publish.client_id) else { return self.refuse(waiter, Refusal::Unavailable) };
        if self.is_full(own) {
            let outcome = Outcome::Refused(Refusal::Quota);
            return self.to_worker(connection, ToWorker::Published { connection, token, outcome });
        }
        let (mut here, mut destinations) = (false, Vec::new());
        for target in targets {
            match target {
                RouteOwner::Shard(shard) if *shard == own => here = true,
                RouteOwner::Shard(shard) => destinations.push(Destination::Shard(*shard)),
                // The routes of a node that was never linked are not known either.
                RouteOwner::Node(node) => destinations.extend(self.run_of(*node).map(Destination::Node)),
                RouteOwner::Worker(_) => {}
            }
        }
        self.push(own, Command::PublishOnce(PublishOnce { here, destinations, ..publish }), waiter);
    }

    /// The run of a node that is linked, or was last.
    fn run_of(&self, node: NodeId) -> Option<Origin> {
        let me = self.around.mesh.me();
        if node == me.node {
            return Some(me);
        }
        let linked = self.around.mesh.peer(node);
        let incarnation = linked.or_else(|| self.runs.borrow().get(&node).copied())?;
        Some(Origin { node, incarnation })
    }

    /// Sends what a shard has for a destination, if this node leads it.
    pub(super) fn relay(&self, shard: ShardId, to: Destination) {
        if matches!(to, Destination::Shard(other) if self.is_full(other)) {
            return;
        }
        let messages = self.with_led(shard, |group, leader| group.with(|state| leader.relays.next(state, to)));
        for (number, message) in messages.into_iter().flatten() {
            match to {
                Destination::Shard(other) => {
                    let waiter = Waiter::Relay { from: shard, to: other, number };
                    self.push(other, Command::Relay { from: shard, number, message }, waiter);
                }
                Destination::Node(run) => {
                    self.send_to_run(run, ShardFrame::Relay { shard, to: run.incarnation, number, message });
                }
            }
        }
    }

    /// The shard that a message was relayed to has answered.
    pub(super) fn relay_answered(&self, from: ShardId, to: ShardId, number: u64, outcome: &Outcome) {
        let to = Destination::Shard(to);
        let refused = match outcome {
            Outcome::Stored(_) => None,
            Outcome::Refused(Refusal::Quota) => Some(Refusal::Quota),
            // It may not have it: once more, at the pace of `tick`.
            _ => {
                self.with_led(from, |_, leader| leader.relays.rewind(to));
                return;
            }
        };
        self.has_arrived(from, Relayed { to, number, refused });
    }

    /// Tells a shard, at the end of the turn, that a destination has what was on its way there.
    pub(super) fn has_arrived(&self, shard: ShardId, relayed: Relayed) {
        self.arrived.borrow_mut().entry(shard).or_default().push(relayed);
        self.work.notify_one();
    }

    /// A message for the connected subscribers of this run of this node. Each number is taken once, whoever leads.
    pub(super) fn relayed_here(&self, from: Origin, shard: ShardId, to: Incarnation, number: u64, message: Message) {
        if to != self.around.mesh.me().incarnation {
            return;
        }
        let last = {
            let mut taken = self.taken.borrow_mut();
            let last = taken.entry(shard).or_default();
            if number == *last + 1 {
                *last = number;
                for worker in 0..self.around.workers.count() {
                    self.around.workers.send(worker, ToWorker::Forward(vec![message.clone()]));
                }
            }
            *last
        };
        if number <= last {
            self.send(from.node, ShardFrame::Relayed { shard, to, number: last });
        }
    }
}
