//! From a topic to who wants it: the topic trie, and what a worker builds on it.
//!
//! [`Trie`] is generic over what is kept at a filter; workers, shards and the cluster thread each have their own, so
//! nothing here is shared and nothing locks. Deliberately absent: sockets, clocks, async, and shared subscriptions
//! (`$share/…`), which are refused before they come here.

mod cache;
mod levels;
mod routes;
mod subscribers;
mod trie;

use crate::door::{RouteChange, Targets};

pub use cache::Matches;
pub use levels::{is_shared, levels_of};
pub use routes::RouteTable;
pub use subscribers::{Subscriber, Subscribers};
pub use trie::{Trie, ValueId};

use cache::TopicCache;

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
    pub fn matches(&mut self, topic: &str) -> &Matches {
        let Router {
            subscribers,
            routes,
            cache,
        } = self;
        cache.get_or_fill(topic, |matches| {
            subscribers.for_each_match(topic, |id, _| matches.local.push(id));
            routes.targets(topic, &mut matches.targets);
        })
    }

    /// The subscribers of a filter that [`Router::matches`] named; empty if it is gone.
    pub fn subscribers(&self, id: ValueId) -> &[Subscriber] {
        self.subscribers
            .value(id)
            .map_or(&[], Subscribers::as_slice)
    }

    /// How many filters this worker's subscribers have.
    pub fn filters(&self) -> usize {
        self.subscribers.len()
    }
}

/// Collects an owner once.
fn add_target(targets: &mut Targets, owner: crate::door::RouteOwner) {
    if !targets.contains(&owner) {
        targets.push(owner);
    }
}

#[cfg(test)]
mod tests;
