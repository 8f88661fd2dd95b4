//! The retained messages of a shard: the last one published with RETAIN on each of its topics.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::command::{Outcome, Refusal, Sender};
use super::machine::Shard;
use super::queue::size;
use crate::identity::ClientId;
use crate::limits;
use crate::message::Message;
use crate::router::LevelMap;

#[derive(Clone, Debug, Default)]
pub(super) struct Retained {
    messages: LevelMap<Kept>,
    bytes: usize,
    /// Those that expire, by time.
    expiries: BTreeSet<(u64, Arc<str>)>,
}

#[derive(Clone, Debug)]
struct Kept {
    message: Message,
    /// Of its publisher's connection; 0 if nobody knows.
    epoch: u64,
}

/// There is no room for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// A piece of the retained messages that match a filter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// In the order of their topics' levels.
    pub messages: Vec<Message>,
    /// The topic to go on after; `None` for the last page.
    pub next: Option<Arc<str>>,
}

impl Retained {
    /// Takes the place of the message of its topic; without a payload it leaves none ([MQTT-3.3.1-6]).
    pub(super) fn put(&mut self, message: Message, epoch: u64) -> Result<(), Full> {
        let (topic, new_bytes) = (message.topic.clone(), size(&message));
        if message.payload.is_empty() {
            self.remove(&topic);
            return Ok(());
        }
        let present = self.messages.get(&topic).map(|kept| size(&kept.message));
        let items = self.messages.len() + usize::from(present.is_none());
        let bytes = self.bytes + new_bytes - present.unwrap_or(0);
        if items > limits::SHARD_RETAINED_ITEMS_MAX || bytes > limits::SHARD_RETAINED_BYTES_MAX {
            return Err(Full);
        }
        self.remove(&topic);
        self.bytes += new_bytes;
        self.expiries.extend(message.expires_at_ms.map(|at_ms| (at_ms, topic.clone())));
        self.messages.insert(topic, Kept { message, epoch });
        Ok(())
    }

    pub(super) fn remove(&mut self, topic: &str) {
        let Some(Kept { message, .. }) = self.messages.remove(topic) else { return };
        self.bytes -= size(&message);
        if let Some(at_ms) = message.expires_at_ms {
            self.expiries.remove(&(at_ms, message.topic));
        }
    }

    pub(super) fn pass_time(&mut self, now_ms: u64) {
        while let Some((_, topic)) = self.expiries.first().filter(|(at_ms, _)| *at_ms <= now_ms).cloned() {
            self.remove(&topic);
        }
    }

    /// When the next one expires.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.expiries.first().map(|(at_ms, _)| *at_ms)
    }

    pub(super) fn page(&self, filter: &str, after: Option<&str>) -> Page {
        let mut page = Page::default();
        let mut bytes = 0;
        page.next = self.messages.search(filter, after, limits::RETAINED_PAGE_STEPS_MAX, |Kept { message, .. }| {
            bytes += size(message);
            page.messages.push(message.clone());
            let full =
                page.messages.len() >= limits::RETAINED_PAGE_ITEMS_MAX || bytes >= limits::RETAINED_PAGE_BYTES_MAX;
            if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        page
    }

    /// All of them, in order.
    pub(super) fn all(&self) -> Vec<Message> {
        self.messages.values().map(|kept| kept.message.clone()).collect()
    }

    /// The epochs of their publishers' connections, in the same order.
    pub(super) fn epochs(&self) -> Vec<u64> {
        self.messages.values().map(|kept| kept.epoch).collect()
    }

    /// Who published the message of a topic, and by the connection of which epoch.
    pub(super) fn publisher(&self, topic: &str) -> Option<(&ClientId, u64)> {
        self.messages.get(topic).map(|Kept { message, epoch }| (&message.publisher, *epoch))
    }

    /// `epochs` may be fewer than the messages.
    pub(super) fn restored(messages: Vec<Message>, epochs: Vec<u64>) -> Retained {
        let mut retained = Retained::default();
        for (message, epoch) in messages.into_iter().zip(epochs.into_iter().chain(std::iter::repeat(0))) {
            retained.bytes += size(&message);
            retained.expiries.extend(message.expires_at_ms.map(|at_ms| (at_ms, message.topic.clone())));
            retained.messages.insert(message.topic.clone(), Kept { message, epoch });
        }
        retained
    }

    pub(super) fn items(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Shard {
    /// Keeps a message that was published with RETAIN ([MQTT-3.3.1-5]) by a connection of this epoch; 0 if nobody knows.
    pub(super) fn retain(&mut self, message: Message, epoch: u64) -> Outcome {
        match self.retained.put(message, epoch) {
            Ok(()) => Outcome::Stored(0),
            Err(Full) => {
                self.refused_retained_full += 1;
                Outcome::Refused(Refusal::Quota)
            }
        }
    }

    /// Keeps a message that its publisher has just sent; refused if the publisher has gone on by a newer connection.
    pub(super) fn keep(&mut self, message: Message, epoch: u64, remember: bool) -> Outcome {
        if !self.fences.admit(&message.publisher, epoch) {
            // Its connection is over: nobody is owed an answer.
            return Outcome::Refused(Refusal::Unavailable);
        }
        self.retain(message, if remember { epoch } else { 0 })
    }

    /// Keeps a message that was on its way in an outbox.
    pub(super) fn keep_relayed(&mut self, message: Message, sender: Sender) -> Outcome {
        match sender {
            Sender::Unknown => self.retain(message, 0),
            Sender::Waits(epoch) => {
                self.fences.admit(&message.publisher, epoch);
                self.retain(message, epoch)
            }
            Sender::Over(epoch) => {
                let late = match self.retained.publisher(&message.topic) {
                    Some((publisher, newest)) => *publisher == message.publisher && newest > epoch,
                    // A newer connection may have ended what was here. If there never was anything, the client is back
                    // all the same.
                    None => self.fences.is_over(&message.publisher, epoch),
                };
                if epoch > 0 {
                    self.fences.end(&message.publisher, epoch);
                }
                if late { Outcome::Stored(0) } else { self.retain(message, epoch) }
            }
        }
    }
}
