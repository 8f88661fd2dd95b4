//! What a shard's leader has sent to connected clients: cursors into the queues, in memory only.
//!
//! The window moves as soon as a client acknowledges, while the acknowledgement takes its way through the log. Before a new
//! leader sends anything it asks the connection's node what was sent (`Attach`), so that a client that stays connected
//! sees nothing twice.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::{ClientId, Origin};
use crate::shard::{Ack, Attached, Delivery, Holder, Shard};

/// Bytes of messages handed over at once to one client, about.
const DELIVER_BYTES: usize = 256 << 10;

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
        let Some(last) = deliveries.last() else { return Vec::new() };
        cursor.next = Some(last.seq + 1);
        let (expired, live): (Vec<Delivery>, Vec<Delivery>) = deliveries
            .into_iter()
            .partition(|delivery| delivery.message.expires_at_ms.is_some_and(|at| at <= now_ms) && !delivery.dup);
        cursor.unacknowledged.extend(live.iter().map(|delivery| delivery.seq));
        let mut say = Vec::new();
        if !live.is_empty() {
            say.push(Say::Deliver(cursor.holder, cursor.epoch, live));
        }
        if !expired.is_empty() {
            let acks = expired.iter().map(|delivery| Ack::Done(delivery.seq)).collect();
            say.push(Say::Expired(client_id.clone(), cursor.epoch, acks));
        }
        say
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
    }
}
