//! A message on its way to everybody who wants it.

use std::rc::Rc;
use std::sync::Arc;

use super::core::Core;
use super::sharing::{choice, deliver_to_member, for_member};
use super::table::{Source, Table};
use crate::connection::Pauses;
use crate::door::{Recipients, RouteOwner, Targets};
use crate::message::{Message, QoS};
use crate::router::{Found, Subscriber};

/// Where a message went.
#[derive(Default)]
pub(super) struct Reach {
    /// Some connected subscriber of this node was reached.
    pub(super) here: bool,
    /// Nodes, shards and members of shared subscriptions that must have it too, and the message for them.
    pub(super) beyond: Option<(Message, Targets, Recipients)>,
}

impl Core {
    /// Delivers to this worker's subscribers and to other workers; says who else must have it.
    pub(super) fn fan_out(&mut self, source: &Source<'_>) -> Reach {
        let Core { router, table, merging, peers, index, node, policy, random, .. } = self;
        let found = router.find(source.content.topic);
        let mut reach = Reach { here: deliver_here(table, merging, source, found), beyond: None };
        let mut beyond = Targets::new();
        let mut wait_for_peer = false;
        for owner in found.targets() {
            match owner {
                RouteOwner::Worker(worker) if worker == index => {}
                RouteOwner::Worker(worker) => {
                    if let Some(peer) = peers.get_mut(usize::from(*worker)) {
                        peer.messages.push(Message::clone(source.keep(found.topic())));
                        table.counters.forwarded_to_workers += 1;
                        reach.here = true;
                        wait_for_peer |= peer.holds_up(source.publisher);
                    }
                }
                RouteOwner::Node(_) => beyond.push(*owner),
                // A shard holds what must not be lost.
                RouteOwner::Shard(_) if source.qos == QoS::AtMostOnce => {}
                RouteOwner::Shard(_) => beyond.push(*owner),
            }
        }
        let mut recipients = Recipients::new();
        for group in found.shared() {
            let mut choice = choice(policy.strategy, source, random);
            let Some(chosen) = group.choose(&mut choice) else { continue };
            match chosen.owner {
                RouteOwner::Worker(worker) if worker == *index && chosen.heir.is_none() => {
                    let Some(member) = found.member(chosen.text) else { continue };
                    reach.here |= deliver_to_member(table, source, found.topic(), chosen.text, member, None);
                }
                RouteOwner::Worker(worker) if chosen.heir.is_none() => {
                    if let Some(peer) = peers.get_mut(usize::from(worker)) {
                        peer.messages.push(for_member(source.keep(found.topic()), chosen.text));
                        table.counters.forwarded_to_workers += 1;
                        reach.here = true;
                        wait_for_peer |= peer.holds_up(source.publisher);
                    }
                }
                _ => recipients.push(chosen.recipient(*node)),
            }
        }
        // Its topic's shard keeps it, whoever wants it now.
        if !beyond.is_empty() || !recipients.is_empty() || source.retain {
            table.counters.forwarded_to_cluster += 1;
            reach.beyond = Some((Message::clone(source.keep(found.topic())), beyond, recipients));
        }
        let wait_for_receiver = table.publisher_must_wait;
        if let Some(publisher) = source.publisher
            && (wait_for_peer || wait_for_receiver)
            && let Some(connection) = table.get(publisher)
        {
            connection.pauses.set(if wait_for_peer { Pauses::PEER } else { 0 });
            connection.pauses.set(if wait_for_receiver { Pauses::RECEIVER } else { 0 });
            table.counters.publishers_slowed += 1;
        }
        self.flush_soon();
        reach
    }

    /// Who must have a message that a shard hands out: shards, nodes, this one among them. Delivers
    /// nothing.
    pub(super) fn reach(&mut self, source: &Source<'_>) -> (Message, Targets, Recipients) {
        let Core { router, node, policy, random, .. } = self;
        let found = router.find(source.content.topic);
        let served_here =
            |subscriber: &Subscriber| !subscriber.persistent || subscriber.qos.min(source.qos) == QoS::AtMostOnce;
        let mut here = found.local().flatten().any(served_here);
        let mut targets = Targets::new();
        for owner in found.targets() {
            match owner {
                RouteOwner::Worker(_) => here = true,
                RouteOwner::Node(_) | RouteOwner::Shard(_) => targets.push(*owner),
            }
        }
        if here {
            targets.push(RouteOwner::Node(*node));
        }
        let mut recipients = Recipients::new();
        for group in found.shared() {
            let chosen = group.choose(&mut choice(policy.strategy, source, random));
            recipients.extend(chosen.map(|chosen| chosen.recipient(*node)));
        }
        (Message::clone(source.keep(found.topic())), targets, recipients)
    }

    /// Messages from other workers and nodes, for this worker's subscribers.
    pub(super) fn forward(&mut self, messages: Vec<Message>) {
        let now_ms = self.now_ms();
        for message in messages {
            if message.recipient.is_some() {
                self.forward_to_member(message);
                continue;
            }
            let message = Rc::new(message);
            let Some(source) = Source::of(&message, now_ms) else {
                self.table.counters.dropped_expired += 1;
                continue;
            };
            let found = self.router.find(&message.topic);
            deliver_here(&mut self.table, &mut self.merging, &source, found);
        }
        self.flush_soon();
    }
}

/// Delivers to the subscribers of this worker. True if there was one.
fn deliver_here(table: &mut Table, merging: &mut Vec<Subscriber>, source: &Source<'_>, found: Found<'_>) -> bool {
    table.layouts.begin();
    table.publisher_must_wait = false;
    let mut reached = false;
    let mut filters = found.local();
    match (filters.next(), filters.len()) {
        (None, _) => {}
        (Some(subscribers), 0) => {
            for subscriber in subscribers {
                let identifier = [subscriber.identifier];
                let identifiers = if subscriber.identifier == 0 { &[][..] } else { &identifier };
                reached |= table.deliver(source, found.topic(), subscriber, identifiers);
            }
        }
        (Some(_), _) => {
            merging.clear();
            let subscribers = found.local().flatten();
            merging.extend(subscribers.filter(|subscriber| !table.is_echo(source, subscriber)));
            // Each filter's are ordered already: this only merges.
            merging.sort_by_key(|subscriber| subscriber.slot);
            for of_one_client in merging.chunk_by_mut(|left, right| left.slot == right.slot) {
                reached |= deliver_merged(table, source, found.topic(), of_one_client);
            }
        }
    }
    reached
}

/// Delivers to one client, of whose subscriptions several match.
fn deliver_merged(table: &mut Table, source: &Source<'_>, topic: &Arc<str>, subscribers: &mut [Subscriber]) -> bool {
    let (subscriber, identifiers) = merge(subscribers);
    if !subscriber.persistent || subscriber.qos.min(source.qos) == QoS::AtMostOnce {
        return table.deliver(source, topic, &subscriber, &identifiers);
    }
    // Its shard sends the message and knows nothing of subscriptions at QoS 0: their identifiers go with a copy of their
    // own ([MQTT-3.3.4-3], [MQTT-3.3.4-5]).
    subscribers.sort_by_key(|subscriber| subscriber.qos);
    let fleeting = subscribers.iter().take_while(|subscriber| subscriber.qos == QoS::AtMostOnce).count();
    let fleeting = &subscribers[..fleeting];
    if fleeting.iter().all(|subscriber| subscriber.identifier == 0) {
        return false;
    }
    let (subscriber, identifiers) = merge(fleeting);
    table.deliver(source, topic, &subscriber, &identifiers)
}

/// One delivery for all subscriptions of a client that match: the maximum QoS ([MQTT-3.3.4-2]), all identifiers
/// ([MQTT-3.3.4-4]).
fn merge(subscribers: &[Subscriber]) -> (Subscriber, crate::session::Identifiers) {
    let mut merged = subscribers[0];
    for subscriber in &subscribers[1..] {
        merged.qos = merged.qos.max(subscriber.qos);
        merged.retain_as_published |= subscriber.retain_as_published;
    }
    merged.no_local = false;
    let identifiers = subscribers.iter().map(|subscriber| subscriber.identifier);
    (merged, identifiers.filter(|identifier| *identifier != 0).collect())
}
