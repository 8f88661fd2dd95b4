//! The retained messages of a shard: the last one published with RETAIN on each of its topics.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::command::{Outcome, Refusal};
use super::machine::Shard;
use super::queue::size;
use crate::limits;
use crate::message::Message;
use crate::router::LevelMap;

#[derive(Clone, Debug, Default)]
pub(super) struct Retained {
    messages: LevelMap<Message>,
    bytes: usize,
    /// Those that expire, by time.
    expiries: BTreeSet<(u64, Arc<str>)>,
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
    pub(super) fn put(&mut self, message: Message) -> Result<(), Full> {
        let (topic, new_bytes) = (message.topic.clone(), size(&message));
        if message.payload.is_empty() {
            self.remove(&topic);
            return Ok(());
        }
        let present = self.messages.get(&topic).map(size);
        let items = self.messages.len() + usize::from(present.is_none());
        let bytes = self.bytes + new_bytes - present.unwrap_or(0);
        if items > limits::SHARD_RETAINED_ITEMS_MAX || bytes > limits::SHARD_RETAINED_BYTES_MAX {
            return Err(Full);
        }
        self.remove(&topic);
        self.bytes += new_bytes;
        self.expiries.extend(message.expires_at_ms.map(|at_ms| (at_ms, topic.clone())));
        self.messages.insert(topic, message);
        Ok(())
    }

    pub(super) fn remove(&mut self, topic: &str) {
        let Some(message) = self.messages.remove(topic) else { return };
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
        page.next = self.messages.search(filter, after, limits::RETAINED_PAGE_STEPS_MAX, |message| {
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
        self.messages.values().cloned().collect()
    }

    pub(super) fn restored(messages: Vec<Message>) -> Retained {
        let mut retained = Retained::default();
        for message in messages {
            retained.bytes += size(&message);
            retained.expiries.extend(message.expires_at_ms.map(|at_ms| (at_ms, message.topic.clone())));
            retained.messages.insert(message.topic.clone(), message);
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
    /// Keeps a message that was published with RETAIN ([MQTT-3.3.1-5]).
    pub(super) fn retain(&mut self, message: Message) -> Outcome {
        match self.retained.put(message) {
            Ok(()) => Outcome::Stored(0),
            Err(Full) => {
                self.refused_retained_full += 1;
                Outcome::Refused(Refusal::Quota)
            }
        }
    }
}
