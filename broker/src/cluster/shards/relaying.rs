//! QoS 2 from persistent sessions, and wills, as they pass between nodes: into the publisher's shard, and from its outboxes to the
//! shards and nodes that its messages are for.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::ShardRooms;
use super::handing::Choosing;
use crate::cluster::shard_client::Waiter;
use crate::cluster::shard_frames::ShardFrame;
use crate::door::{Recipients, RouteOwner, Targets, ToWorker};
use crate::identity::{ConnectionId, Incarnation, NodeId, Origin, ShardId};
use crate::message::{Message, QoS};
use crate::shard::{Command, Destination, Outcome, PublishOnce, Refusal, Relayed, Sender, Spread};

impl ShardRooms {
    /// Gives a message to the shard of its publisher, which sees to the rest.
    pub(super) fn publish_once(
        &self,
        connection: ConnectionId,
        token: u64,
        publish: PublishOnce,
        targets: &Targets,
        members: Recipients,
    ) {
        let waiter = Waiter::PublishOnce { connection, token };
        let Some(own) = self.shard_of(&publish.client_id) else { return self.refuse(waiter, Refusal::Unavailable) };
        if self.refuses_once(own, &publish) {
            let outcome = Outcome::Refused(Refusal::Quota);
            return self.to_worker(connection, ToWorker::Published { connection, token, outcome });
        }
        let spread = self.spread(own, &publish.message, targets, members);
        self.push(own, Command::PublishOnce(PublishOnce { spread, ..publish }), waiter);
    }

    /// A worker has said whom a will is for: its shard sends it there.
    pub(super) fn fire_will(&self, token: u64, reach: Option<(Targets, Recipients)>) {
        let will = self.choosing.borrow_mut().remove(&token);
        let Some(Choosing::Will { shard, client_id, epoch, about }) = will else { return };
        let Some((targets, members)) = reach else {
            // Tried again at the next tick.
            self.firing.borrow_mut().remove(&(shard, client_id, epoch));
            return;
        };
        let spread = self.spread(shard, &about, &targets, members);
        self.push(shard, Command::FireWill { client_id, epoch, spread }, Waiter::Nobody);
    }

    /// Whom a message is for, as the outboxes of shard `own` know them.
    fn spread(&self, own: ShardId, message: &Message, targets: &Targets, members: Recipients) -> Spread {
        let (mut here, mut keep, mut destinations) = (false, false, Vec::new());
        for target in targets {
            match target {
                // A shard holds what must not be lost.
                RouteOwner::Shard(_) if message.qos == QoS::AtMostOnce => {}
                RouteOwner::Shard(shard) if *shard == own => here = true,
                RouteOwner::Shard(shard) => destinations.push(Destination::Shard(*shard)),
                // The routes of a node that was never linked are not known either.
                RouteOwner::Node(node) => destinations.extend(self.run_of(*node).map(Destination::Node)),
                RouteOwner::Worker(_) => {}
            }
        }
        if message.retain {
            let keeper = ShardId::of_topic(&message.topic, self.around.directory.shards());
            // From the outbox, also to this shard itself, it names its connection.
            keep = keeper == own && !self.names_connections();
            destinations.extend((!keep).then_some(Destination::Keeper(keeper)));
        }
        let mut recipients = Vec::with_capacity(members.len());
        for member in members {
            let to = match member.owner {
                RouteOwner::Shard(shard) if shard == own => None,
                // If it has gone already, its shard finds another.
                _ => self.destination_of(&member),
            };
            recipients.push((to, member.text));
        }
        Spread { here, keep, destinations, recipients }
    }

    /// Where an outbox for somebody goes.
    pub(super) fn destination(&self, owner: RouteOwner) -> Option<Destination> {
        match owner {
            RouteOwner::Shard(shard) => Some(Destination::Shard(shard)),
            RouteOwner::Node(node) => self.run_of(node).map(Destination::Node),
            RouteOwner::Worker(_) => None,
        }
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
        if matches!(to, Destination::Shard(other) | Destination::Keeper(other) if self.is_full(other)) {
            return;
        }
        let messages = self.with_led(shard, |group, leader| {
            group.with(|state| {
                let messages = leader.relays.next(state, to).into_iter();
                messages.map(|(number, message)| (number, message, state.sender(to, number))).collect::<Vec<_>>()
            })
        });
        let from = shard;
        for (number, message, sender) in messages.into_iter().flatten() {
            let waiter = Waiter::Relay { from, to, number };
            match to {
                Destination::Shard(other) => {
                    self.push(other, Command::Relay { from, number, message, keep: false }, waiter);
                }
                Destination::Keeper(other) if self.names_connections() => {
                    self.push(other, Command::KeepRelayed { from, number, message, sender }, waiter);
                }
                Destination::Keeper(other) => {
                    if let Sender::Waits(epoch) = sender
                        && self.minds_what_is_under_way()
                    {
                        let client_id = message.publisher.clone();
                        self.push(other, Command::Fence { client_id, epoch }, Waiter::Nobody);
                    }
                    self.push(other, Command::Relay { from, number, message, keep: true }, waiter);
                }
                Destination::Borrower(run) => {
                    self.send_to_run(run, ShardFrame::Lend { shard, to: run.incarnation, number, message });
                }
                Destination::Node(run) => {
                    self.send_to_run(run, ShardFrame::Relay { shard, to: run.incarnation, number, message });
                }
            }
        }
    }

    /// The shard that a message was relayed to has answered.
    pub(super) fn relay_answered(&self, from: ShardId, to: Destination, number: u64, outcome: &Outcome) {
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
        if let Some(number) = take_next(&self.taken, shard, number, || self.around.workers.hand_over(message)) {
            self.send(from.node, ShardFrame::Relayed { shard, to, number });
        }
    }
}

/// Calls `take` for what came from the outbox of `shard` under `number` if it is the next, and remembers that in `last`. Gives
/// the number of the last that was taken, unless some before `number` are missing.
pub(super) fn take_next(
    last: &RefCell<BTreeMap<ShardId, u64>>,
    shard: ShardId,
    number: u64,
    take: impl FnOnce(),
) -> Option<u64> {
    let mut last = last.borrow_mut();
    let last = last.entry(shard).or_default();
    if number == *last + 1 {
        *last = number;
        take();
    }
    (number <= *last).then_some(*last)
}
