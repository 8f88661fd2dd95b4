//! The retained messages that a persistent session has subscribed to and that are not all in its queue yet.
//!
//! How far it has got is logged with the messages themselves, so another node goes on where one has died. What changes
//! meanwhile reaches the session as it is published, and must not be followed by the message of before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::{Effect, Outcome, Place};
use super::machine::{Shard, held};
use super::queue::{Queued, size};
use super::stored::Stored;
use crate::identity::ClientId;
use crate::limits;
use crate::message::{Message, QoS};
use crate::seldom::Nothing;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Owed {
    /// By filter, where to go on.
    places: BTreeMap<Arc<str>, Place>,
    /// Topics whose newer message is in the queue, or was.
    newer: BTreeSet<Arc<str>>,
}

impl Nothing for Owed {
    const NOTHING: &'static Self = &Owed { places: BTreeMap::new(), newer: BTreeSet::new() };

    fn nothing() -> Self {
        Owed::default()
    }
}

impl Owed {
    /// From now on everything that matches `filter` is owed.
    pub(super) fn begin(&mut self, filter: Arc<str>) {
        self.places.insert(filter, Place::default());
    }

    /// What remains to be read of `filter`.
    pub(super) fn place(&self, filter: &str) -> Option<&Place> {
        self.places.get(filter)
    }

    /// What is before `next` was paid; `None` if that was all.
    pub(super) fn go_on(&mut self, filter: &str, next: Option<Place>) {
        match (self.places.get_mut(filter), next) {
            (Some(place), Some(next)) => *place = next,
            (_, None) => self.end(filter),
            (None, Some(_)) => {}
        }
    }

    pub(super) fn end(&mut self, filter: &str) {
        self.places.remove(filter);
        if self.places.is_empty() {
            self.newer.clear();
        }
    }

    /// A message that was published with RETAIN goes into the queue.
    pub(super) fn note(&mut self, topic: &Arc<str>) {
        if self.places.is_empty() {
            return;
        }
        self.newer.insert(topic.clone());
        if self.newer.len() > limits::RETAINED_SEEN_MAX {
            self.newer.pop_first();
        }
    }

    pub(super) fn is_superseded(&self, topic: &str) -> bool {
        self.newer.contains(topic)
    }

    pub(super) fn all(&self) -> Vec<(Arc<str>, Place)> {
        self.places.iter().map(|(filter, place)| (filter.clone(), place.clone())).collect()
    }
}

impl Shard {
    /// Puts retained messages into the queue of the session that they are owed to, with RETAIN set ([MQTT-3.3.1-8]).
    pub(super) fn enqueue(
        &mut self,
        client_id: &ClientId,
        epoch: u64,
        filter: &str,
        messages: Vec<Message>,
        next: Option<Place>,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let Some(session) = held(&mut self.sessions, client_id, epoch) else { return Outcome::Stale };
        let Some(place) = session.lasting.owed.place(filter).cloned() else { return Outcome::Owes(None) };
        let Some(options) = session.lasting.subscriptions.get(filter).copied() else { return Outcome::Owes(None) };
        // The other half is for what is published.
        let half_full = session.lasting.queue.items().len() > limits::SESSION_QUEUE_ITEMS_MAX / 2
            || session.lasting.queue.bytes() > limits::SESSION_QUEUE_BYTES_MAX / 2
            || self.queued_bytes > limits::SHARD_QUEUE_BYTES_MAX / 2;
        if half_full && !messages.is_empty() {
            return Outcome::Owes(Some(place));
        }
        for message in messages {
            let qos = options.qos.min(message.qos);
            let echo = options.no_local && message.publisher == *client_id;
            if qos == QoS::AtMostOnce || echo || session.lasting.owed.is_superseded(&message.topic) {
                continue;
            }
            let bytes = size(&message);
            let identifiers = Vec::from_iter(options.identifier).into();
            let message = Stored::new(&self.shelf, &message);
            let queued = Queued { message, qos, retain: true, received: false, identifiers };
            if session.lasting.queue.push(queued) {
                self.queued_items += 1;
                self.queued_bytes += bytes;
            } else {
                self.dropped_queue_full += 1;
            }
        }
        session.lasting.owed.go_on(filter, next);
        effects.push(Effect::Deliverable(client_id.clone()));
        Outcome::Owes(session.lasting.owed.place(filter).cloned())
    }
}
