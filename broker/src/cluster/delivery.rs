//! What a shard's leader has sent to connected clients: cursors into the queues, in memory only.
//!
//! The window moves as soon as a client acknowledges, while the acknowledgement takes its way through the log. Before a new
//! leader sends anything it asks the connection's node what was sent (`Attach`), so that a client that stays connected
//! sees nothing twice.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::identity::{ClientId, Origin};
use crate::shard::{Ack, Attached, Delivery, Holder, Shard};

/// Bytes of messages handed over at once to one client, about.
const DELIVER_BYTES: usize = 256 << 10;
/// Bytes of a queue that are read from the disk ahead, about.
const AHEAD_BYTES: usize = 1 << 20;

/// Where one connected session stands.
#[derive(Debug)]
struct Cursor {
    holder: Holder,
    epoch: u64,
    receive_maximum: usize,
    /// `None` while the connection's node is asked.
    next: Option<u64>,
    /// Sent and not acknowledged, as far as the leader has heard.
    unacknowledged: BTreeSet<u64>,
    /// Up to this number acknowledgements may have been heard before the connection's node answered what it has sent.
    doubtful_to: u64,
    /// Below this number the queue was read ahead …
    ahead_to: u64,
    /// … and when this one is next, more of it is.
    ahead_at: u64,
}

/// All connected sessions of a shard that have something to receive.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    cursors: BTreeMap<ClientId, Cursor>,
    /// Those whose node was asked; `true` since before the last [`Deliveries::ask_again`].
    asked: BTreeMap<ClientId, bool>,
}

/// What is to be said to a connection.
#[derive(Debug, PartialEq)]
pub(super) enum Say {
    /// Ask what was sent.
    Attach(Holder, ClientId, u64),
    /// Send these.
    Deliver(Holder, u64, Vec<Delivery>),
    /// These messages have expired: acknowledge them instead.
    Expired(ClientId, u64, Vec<Ack>),
    /// To nobody: read these in, they are next.
    ReadAhead(Vec<Bytes>),
}

impl Deliveries {
    /// A client has opened its session: it was sent nothing in this connection, unless this is known better.
    pub(super) fn opened(&mut self, attached: &Attached) {
        let known = self.cursors.get(&attached.client_id);
        if known.is_some_and(|cursor| cursor.epoch == attached.epoch && cursor.next.is_some()) {
            return;
        }
        self.cursors.insert(attached.client_id.clone(), Cursor { next: Some(attached.first), ..cursor(attached) });
    }

    /// Asks the connection of a session that nothing is known of.
    pub(super) fn ask(&mut self, attached: &Attached) -> Say {
        self.cursors.insert(attached.client_id.clone(), cursor(attached));
        self.asked.insert(attached.client_id.clone(), false);
        Say::Attach(attached.holder, attached.client_id.clone(), attached.epoch)
    }

    /// Called at intervals: asks again where no answer has come since the last call. A connection that was still opening
    /// could not say.
    pub(super) fn ask_again(&mut self) -> Vec<Say> {
        let cursors = &self.cursors;
        self.asked.retain(|client_id, _| cursors.get(client_id).is_some_and(|cursor| cursor.next.is_none()));
        let mut asks = Vec::new();
        for (client_id, before) in &mut self.asked {
            if let (true, Some(cursor)) = (std::mem::replace(before, true), cursors.get(client_id)) {
                asks.push(Say::Attach(cursor.holder, client_id.clone(), cursor.epoch));
            }
        }
        asks
    }

    /// The answer: everything up to `sent_to` was sent.
    pub(super) fn attached(&mut self, shard: &Shard, client_id: &ClientId, epoch: u64, sent_to: u64) {
        let Some(cursor) = self.cursors.get_mut(client_id).filter(|cursor| cursor.epoch == epoch) else { return };
        if cursor.next.is_some() {
            return;
        }
        let first = shard.attached(client_id).map_or(1, |attached| attached.first);
        cursor.unacknowledged = shard.unacknowledged(client_id, sent_to).into_iter().collect();
        cursor.doubtful_to = sent_to;
        cursor.next = Some(first.max(sent_to.saturating_add(1)));
    }

    /// Takes acknowledgements that are on their way into the log.
    pub(super) fn acknowledge(&mut self, client_id: &ClientId, epoch: u64, acks: &[Ack]) {
        let Some(cursor) = self.cursors.get_mut(client_id).filter(|cursor| cursor.epoch == epoch) else { return };
        for ack in acks {
            if let Ack::Done(seq) | Ack::Completed(seq) = ack {
                cursor.unacknowledged.remove(seq);
            }
        }
    }

    /// The connection has lost its client id.
    pub(super) fn evicted(&mut self, client_id: &ClientId, epoch: u64) {
        if self.cursors.get(client_id).is_some_and(|cursor| cursor.epoch == epoch) {
            self.cursors.remove(client_id);
        }
    }

    /// The link to a node is new: what was on its way is lost, and must be asked for.
    pub(super) fn forget_node(&mut self, origin: Origin) {
        self.cursors.retain(|_, cursor| cursor.holder.origin.node != origin.node);
    }

    /// What the client can be sent now.
    pub(super) fn next(&mut self, shard: &Shard, client_id: &ClientId, now_ms: u64) -> Vec<Say> {
        let Some(attached) = shard.attached(client_id) else {
            self.cursors.remove(client_id);
            return Vec::new();
        };
        let known = self.cursors.get_mut(client_id).filter(|cursor| cursor.epoch == attached.epoch);
        let Some(cursor) = known else { return vec![self.ask(&attached)] };
        let Some(next) = cursor.next else { return Vec::new() };
        let doubtful_to = cursor.doubtful_to;
        if cursor.unacknowledged.first().is_some_and(|oldest| *oldest <= doubtful_to) {
            cursor.unacknowledged.retain(|seq| *seq > doubtful_to || shard.is_queued(client_id, *seq));
        }
        let room = cursor.receive_maximum.saturating_sub(cursor.unacknowledged.len());
        if room == 0 || next >= attached.send_bound {
            return Vec::new();
        }
        let mut deliveries = shard.deliveries(client_id, next, room, DELIVER_BYTES);
        deliveries.retain(|delivery| delivery.seq < attached.send_bound);
        let Some(last_seq) = deliveries.last().map(|delivery| delivery.seq) else { return Vec::new() };
        cursor.next = Some(last_seq + 1);
        let (expired, live): (Vec<Delivery>, Vec<Delivery>) = deliveries.into_iter().partition(|delivery| {
            let expired = delivery.message.expires_at_ms.is_some_and(|at| at <= now_ms);
            // What the client has received is brought to its end.
            expired && !delivery.dup && !delivery.received
        });
        cursor.unacknowledged.extend(live.iter().map(|delivery| delivery.seq));
        let mut say = Vec::new();
        if !live.is_empty() {
            say.push(Say::Deliver(cursor.holder, cursor.epoch, live));
        }
        if !expired.is_empty() {
            let acks = expired.iter().map(|delivery| Ack::Done(delivery.seq)).collect();
            say.push(Say::Expired(client_id.clone(), cursor.epoch, acks));
        }
        let ahead = cursor.read_ahead(shard, client_id, last_seq + 1);
        if !ahead.is_empty() {
            say.push(Say::ReadAhead(ahead));
        }
        say
    }
}

impl Cursor {
    /// What the client will be sent from `next` on and is not in memory, each message once.
    fn read_ahead(&mut self, shard: &Shard, client_id: &ClientId, next: u64) -> Vec<Bytes> {
        if next < self.ahead_at {
            return Vec::new();
        }
        let from = next.max(self.ahead_to);
        let (pieces, to) = shard.ahead(client_id, from, AHEAD_BYTES);
        (self.ahead_to, self.ahead_at) = (to.max(from), from + to.saturating_sub(from) / 2);
        pieces
    }
}

fn cursor(attached: &Attached) -> Cursor {
    Cursor {
        holder: attached.holder,
        epoch: attached.epoch,
        receive_maximum: usize::from(attached.receive_maximum),
        next: None,
        unacknowledged: BTreeSet::new(),
        doubtful_to: 0,
        ahead_to: 0,
        ahead_at: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{ConnectionId, Incarnation, NodeId};
    use crate::kept::Shelf;
    use crate::message::{Message, QoS, Subscription, SubscriptionOptions};
    use crate::shard::{Command, Entry, Expected, Numbered, Open};

    const NODE: Origin = Origin { node: NodeId(1), incarnation: Incarnation(1) };

    /// A shard with a connected session `c` that takes two messages at once.
    struct Given {
        shelf: Shelf,
        shard: Shard,
        client_id: ClientId,
    }

    impl Given {
        fn session_with(messages: u32) -> Given {
            // As much as there is in memory is too much.
            let shelf = Shelf::bounded(0);
            let mut given = Given { shard: Shard::on(shelf.clone()), shelf, client_id: "c".into() };
            given.say(Command::Open(Open {
                client_id: "c".into(),
                connection: ConnectionId::default(),
                clean_start: true,
                session_expiry_seconds: 60,
                receive_maximum: 2,
                will: None,
            }));
            let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() };
            let subscriptions = vec![Subscription { filter: "t".into(), options }];
            given.say(Command::Subscribe { client_id: "c".into(), epoch: 1, subscriptions });
            for _ in 0..messages {
                given.publish(None);
            }
            given
        }

        fn say(&mut self, command: Command) {
            let Expected::Next(seq) = self.shard.expected(NODE) else { panic!("expected no more") };
            let entry = Entry { now_ms: 0, commands: vec![Numbered { origin: NODE, seq, command }] };
            self.shard.apply_entry(entry, &mut Vec::new());
        }

        fn publish(&mut self, expires_at_ms: Option<u64>) {
            let (topic, payload) = ("t".into(), Bytes::from_static(b"x"));
            let message = Message { topic, payload, qos: QoS::AtLeastOnce, expires_at_ms, ..Message::default() };
            self.say(Command::Publish(message));
        }

        fn apply(&mut self, acks: &[Ack]) {
            self.say(Command::Acknowledge { client_id: "c".into(), epoch: 1, acks: acks.to_vec() });
        }

        fn attached(&self) -> Attached {
            self.shard.attached("c").unwrap()
        }

        /// What is sent now.
        fn sent(&self, deliveries: &mut Deliveries) -> Vec<u64> {
            let say = deliveries.next(&self.shard, &self.client_id, 100);
            let sent = say.into_iter().filter_map(|say| match say {
                Say::Deliver(_, 1, deliveries) => Some(deliveries),
                _ => None,
            });
            sent.flatten().map(|delivery| delivery.seq).collect()
        }
    }

    #[test]
    fn the_window_moves_before_the_log_has_the_acknowledgement() {
        let (given, mut deliveries) = (Given::session_with(4), Deliveries::default());
        deliveries.opened(&given.attached());
        assert_eq!(given.sent(&mut deliveries), [1, 2]);
        assert!(given.sent(&mut deliveries).is_empty());
        deliveries.acknowledge(&given.client_id, 1, &[Ack::Done(2)]);
        assert_eq!(given.sent(&mut deliveries), [3]);
        deliveries.acknowledge(&given.client_id, 0, &[Ack::Done(1)]);
        assert!(given.sent(&mut deliveries).is_empty(), "an earlier epoch has no say");
    }

    #[test]
    fn what_is_in_a_file_and_comes_next_is_read_once_before_it_does() {
        let (mut given, mut deliveries) = (Given::session_with(10), Deliveries::default());
        for kept in given.shelf.take_oldest(usize::MAX) {
            kept.move_to(Bytes::from(kept.bytes().to_vec()));
        }
        for _ in 0..10 {
            given.publish(None);
        }
        deliveries.opened(&given.attached());
        let mut read = Vec::new();
        for seq in 1..=9 {
            for say in deliveries.next(&given.shard, &given.client_id, 100) {
                if let Say::ReadAhead(pieces) = say {
                    read.push((seq, pieces.len()));
                }
            }
            let acks = [Ack::Done(seq)];
            deliveries.acknowledge(&given.client_id, 1, &acks);
            given.apply(&acks);
        }
        assert_eq!(read, [(1, 8)], "two are sent, and ten are in memory");
    }

    #[test]
    fn a_new_leader_sends_nothing_before_it_knows_what_was_sent() {
        let (given, mut deliveries) = (Given::session_with(4), Deliveries::default());
        let holder = given.attached().holder;
        assert_eq!(
            deliveries.next(&given.shard, &given.client_id, 0),
            [Say::Attach(holder, given.client_id.clone(), 1)]
        );
        assert!(given.sent(&mut deliveries).is_empty());
        assert_eq!(deliveries.ask_again(), [], "it was asked just now");
        assert_eq!(deliveries.ask_again(), [Say::Attach(holder, given.client_id.clone(), 1)]);
        deliveries.attached(&given.shard, &given.client_id, 1, 1);
        assert_eq!(given.sent(&mut deliveries), [2], "one of two is still on its way");
        assert_eq!(deliveries.ask_again(), []);
    }

    #[test]
    fn an_acknowledgement_that_overtakes_the_answer_frees_the_window_all_the_same() {
        let (mut given, mut deliveries) = (Given::session_with(4), Deliveries::default());
        deliveries.ask(&given.attached());
        let acks = [Ack::Done(1), Ack::Done(2)];
        deliveries.acknowledge(&given.client_id, 1, &acks);
        deliveries.attached(&given.shard, &given.client_id, 1, 2);
        assert!(given.sent(&mut deliveries).is_empty(), "the log does not have it yet");
        given.apply(&acks);
        assert_eq!(given.sent(&mut deliveries), [3, 4]);
    }

    #[test]
    fn what_was_sent_is_counted_even_where_the_log_is_behind() {
        let (given, mut deliveries) = (Given::session_with(6), Deliveries::default());
        deliveries.ask(&given.attached());
        // The log has no acknowledgement yet; 1 and 2 are on their way into it, 3 and 4 with the client.
        deliveries.attached(&given.shard, &given.client_id, 1, 4);
        deliveries.acknowledge(&given.client_id, 1, &[Ack::Done(1), Ack::Done(2)]);
        assert!(given.sent(&mut deliveries).is_empty());
        deliveries.acknowledge(&given.client_id, 1, &[Ack::Done(3)]);
        assert_eq!(given.sent(&mut deliveries), [5]);
    }

    #[test]
    fn a_second_answer_to_open_does_not_send_again() {
        let (given, mut deliveries) = (Given::session_with(2), Deliveries::default());
        deliveries.opened(&given.attached());
        assert_eq!(given.sent(&mut deliveries), [1, 2]);
        deliveries.opened(&given.attached());
        assert!(given.sent(&mut deliveries).is_empty());
    }

    #[test]
    fn what_is_expired_is_acknowledged_instead_of_sent() {
        let (mut given, mut deliveries) = (Given::session_with(0), Deliveries::default());
        given.publish(Some(50));
        given.publish(Some(150));
        deliveries.opened(&given.attached());
        let say = deliveries.next(&given.shard, &given.client_id, 100);
        assert!(matches!(&say[0], Say::Deliver(_, 1, sent) if sent.len() == 1 && sent[0].seq == 2));
        assert_eq!(say[1], Say::Expired(given.client_id.clone(), 1, vec![Ack::Done(1)]));
    }

    #[test]
    fn nothing_is_sent_further_ahead_of_the_log_than_is_presumed_sent_when_its_node_is_gone() {
        let (mut given, mut deliveries) = (Given::session_with(2_000), Deliveries::default());
        deliveries.opened(&given.attached());
        let mut sent_to = 0;
        loop {
            let sent = given.sent(&mut deliveries);
            let Some(last) = sent.last() else { break };
            sent_to = *last;
            deliveries.acknowledge(&given.client_id, 1, &sent.into_iter().map(Ack::Done).collect::<Vec<_>>());
        }
        assert_eq!(sent_to + 1, given.attached().send_bound);
        given.say(Command::NodeGone(NODE));
        let queued = given.shard.deliveries("c", 1, usize::MAX, usize::MAX);
        assert!(queued.iter().all(|delivery| delivery.dup == (delivery.seq <= sent_to)));
    }
}
