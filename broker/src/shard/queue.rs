//! The queue of a persistent session: numbered from 1 without gaps, acknowledged in any order.

use std::collections::VecDeque;

use bytes::Bytes;

use super::command::{Ack, Delivery};
use super::stored::Stored;
use crate::limits;
use crate::message::{Message, QoS};
use crate::seldom::Nothing;

/// A message in a queue. The message itself is shared by all queues of the shard.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Queued {
    pub message: Stored,
    pub qos: QoS,
    pub retain: bool,
    /// PUBREC has come.
    pub received: bool,
    pub identifiers: Identifiers,
}

/// Subscription identifiers. Most messages have none, and take no room for them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Identifiers(
    #[expect(clippy::box_collection, reason = "one word in each of many messages")] Option<Box<Vec<u32>>>,
);

impl From<Vec<u32>> for Identifiers {
    fn from(identifiers: Vec<u32>) -> Identifiers {
        Identifiers((!identifiers.is_empty()).then(|| Box::new(identifiers)))
    }
}

impl Identifiers {
    pub(super) fn to_vec(&self) -> Vec<u32> {
        self.0.as_deref().cloned().unwrap_or_default()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Queue {
    /// The number of the first item.
    first: u64,
    /// What was acknowledged out of order is `None`.
    items: VecDeque<Option<Queued>>,
    bytes: usize,
}

impl Nothing for Queue {
    const NOTHING: &'static Self = &Queue::new();

    fn nothing() -> Self {
        Queue::new()
    }
}

impl Queue {
    const fn new() -> Queue {
        Queue { first: 1, items: VecDeque::new(), bytes: 0 }
    }

    /// A queue as a snapshot has it.
    pub(super) fn restored(first: u64, items: VecDeque<Option<Queued>>) -> Queue {
        let bytes = items.iter().flatten().map(|item| item.message.size()).sum();
        Queue { first, items, bytes }
    }

    pub(super) fn items(&self) -> &VecDeque<Option<Queued>> {
        &self.items
    }

    /// The lowest number that is not acknowledged, or the next one.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The number that the next message gets.
    pub(super) fn next(&self) -> u64 {
        self.first + self.items.len() as u64
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// False when the queue is full: the message is not taken.
    pub(super) fn push(&mut self, queued: Queued) -> bool {
        let bytes = queued.message.size();
        if self.items.len() >= limits::SESSION_QUEUE_ITEMS_MAX || self.bytes + bytes > limits::SESSION_QUEUE_BYTES_MAX {
            return false;
        }
        self.bytes += bytes;
        self.items.push_back(Some(queued));
        true
    }

    /// Gives what leaves the queue. Numbers that are not in it are passed over: acknowledgements may come twice.
    pub(super) fn acknowledge(&mut self, ack: Ack) -> Option<Queued> {
        let (Ack::Done(seq) | Ack::Received(seq) | Ack::Completed(seq)) = ack;
        let place = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        let item = self.items.get_mut(place)?;
        if let Ack::Received(_) = ack {
            if let Some(queued) = item {
                queued.received = true;
            }
            return None;
        }
        let taken = item.take()?;
        self.bytes -= taken.message.size();
        while let Some(None) = self.items.front() {
            self.items.pop_front();
            self.first += 1;
        }
        Some(taken)
    }

    /// The numbers up to `to` that are not acknowledged.
    pub(super) fn numbers(&self, to: u64) -> Vec<u64> {
        let count = usize::try_from(to.saturating_add(1).saturating_sub(self.first)).unwrap_or(usize::MAX);
        let items = self.items.iter().enumerate().take(count);
        items.filter(|(_, item)| item.is_some()).map(|(place, _)| self.first + place as u64).collect()
    }

    /// What is not acknowledged under this number.
    pub(super) fn get(&self, number: u64) -> Option<&Queued> {
        let place = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok())?;
        self.items.get(place)?.as_ref()
    }

    /// Whether a number is not acknowledged.
    pub(super) fn contains(&self, number: u64) -> bool {
        self.get(number).is_some()
    }

    /// What of the queue from number `from` on is in a file, looking at about `bytes_max`; and one past the last number that
    /// was looked at.
    pub(super) fn ahead(&self, from: u64, bytes_max: usize) -> (Vec<Bytes>, u64) {
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let (mut stored, mut bytes, mut next) = (Vec::new(), 0, from.max(self.first));
        for (place, item) in self.items.iter().enumerate().skip(skip) {
            if bytes >= bytes_max {
                break;
            }
            next = self.first + place as u64 + 1;
            let Some(queued) = item else { continue };
            bytes += queued.message.size();
            stored.extend(queued.message.kept().stored_bytes());
        }
        (stored, next)
    }

    /// What is not acknowledged from number `from` on: at most `count`, and at least one if there is any, within
    /// `bytes_max` of payload. `dup_to` is the highest number that may have been sent before.
    pub(super) fn deliveries(&self, from: u64, count: usize, bytes_max: usize, dup_to: u64) -> Vec<Delivery> {
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut deliveries = Vec::new();
        for (place, item) in self.items.iter().enumerate().skip(skip) {
            let Some(queued) = item else { continue };
            bytes += queued.message.size();
            if deliveries.len() >= count || (bytes > bytes_max && !deliveries.is_empty()) {
                break;
            }
            let seq = self.first + place as u64;
            let mut message = Message { qos: queued.qos, retain: queued.retain, ..queued.message.message() };
            if queued.received {
                // Only PUBREL is sent.
                (message.payload, message.properties) = Default::default();
            }
            deliveries.push(Delivery {
                seq,
                message,
                dup: seq <= dup_to,
                received: queued.received,
                identifiers: queued.identifiers.to_vec(),
            });
        }
        deliveries
    }
}

/// What a message counts for in the bounds of queues.
pub(super) fn size(message: &Message) -> usize {
    message.payload.len() + message.properties.len() + message.topic.len()
}
