//! From a topic to who wants it: the topic trie, and what a worker builds on it.
//!
//! [`Trie`] is generic over what is kept at a filter; workers, shards and the cluster thread each have their own, so
//! nothing here is shared and nothing locks. Deliberately absent: sockets, clocks, async, and shared subscriptions
//! (`$share/…`), which are refused before they come here.

mod cache;
mod level_map;
mod levels;
mod routes;
mod subscribers;
mod trie;

use std::sync::Arc;

use crate::door::{RouteChange, RouteOwner, Targets};

pub use level_map::LevelMap;
pub use subscribers::{Subscriber, Subscribers};
pub use trie::{Trie, ValueId};

use cache::{Matches, TopicCache};
use routes::RouteTable;

/// What one worker knows about topics: its own subscribers, everybody else's routes, and the answers it gave lately.
#[derive(Default)]
pub struct Router {
    subscribers: Trie<Subscribers>,
    routes: RouteTable,
    cache: TopicCache,
}

impl Router {
    /// Adds or replaces a subscription of this worker. True if it is the first of its filter.
    pub fn subscribe(&mut self, filter: &str, subscriber: Subscriber) -> bool {
        let (_, subscribers, new) = self.subscribers.entry(filter, Subscribers::default);
        subscribers.put(subscriber);
        if new {
            self.cache.changed(filter);
        }
        new
    }

    /// Removes a subscription of this worker. True if it was the last of its filter.
    pub fn unsubscribe(&mut self, filter: &str, slot: u32) -> bool {
        let Some(subscribers) = self.subscribers.get_mut(filter) else {
            return false;
        };
        subscribers.remove(slot);
        if !subscribers.is_empty() {
            return false;
        }
        self.subscribers.remove(filter);
        self.cache.changed(filter);
        true
    }

    /// Applies a change of somebody else's routes.
    pub fn apply(&mut self, change: &RouteChange) {
        if self.routes.apply(change) {
            self.cache.changed(&change.filter);
        }
    }

    /// Who wants `topic`.
    pub fn find(&mut self, topic: &str) -> Found<'_> {
        let Router { subscribers, routes, cache } = self;
        let matches = cache.get_or_fill(topic, |matches| {
            subscribers.for_each_match(topic, |id, _| matches.local.push(id));
            routes.targets(topic, &mut matches.targets);
        });
        Found { matches, subscribers }
    }
}

/// Who wants a topic.
#[derive(Clone, Copy)]
pub struct Found<'r> {
    matches: &'r Matches,
    subscribers: &'r Trie<Subscribers>,
}

impl<'r> Found<'r> {
    /// The topic, to be shared by what leaves the worker.
    pub fn topic(&self) -> &'r Arc<str> {
        &self.matches.topic
    }

    /// Everybody outside the worker, each once.
    pub fn targets(&self) -> &'r [RouteOwner] {
        &self.matches.targets
    }

    /// The worker's own subscribers, one slice per filter that matches.
    pub fn local(&self) -> impl ExactSizeIterator<Item = &'r [Subscriber]> + use<'r> {
        let subscribers = self.subscribers;
        let filters = self.matches.local.iter();
        filters.map(|id| subscribers.value(*id).map_or(&[][..], Subscribers::as_slice))
    }
}

/// Collects an owner once.
fn add_target(targets: &mut Targets, owner: RouteOwner) {
    if !targets.contains(&owner) {
        targets.push(owner);
    }
}

#[cfg(test)]
mod tests;
