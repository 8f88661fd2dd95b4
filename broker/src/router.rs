//! From a topic to who wants it: the topic trie, and what a worker builds on it.
//!
//! [`Trie`] is generic over what is kept at a filter; workers, shards and the cluster thread each have their own, so
//! nothing here is shared and nothing locks. Deliberately absent: sockets, clocks, async.

mod cache;
mod filters;
mod hints;
mod keys;
mod leading;
mod level_map;
mod levels;
mod prefixes;
mod routes;
mod segments;
mod shares;
mod subscribers;
mod trie;

use std::sync::Arc;

use crate::door::{RouteChange, RouteOwner, Targets};

pub use level_map::LevelMap;
pub use segments::ValueId;
pub use shares::{Choice, Chosen, Group};
pub use subscribers::{Subscriber, Subscribers};
pub use trie::Trie;

use cache::{Matches, TopicCache};
use routes::RouteTable;
use shares::Shares;

/// What one worker knows about topics: its own subscribers, everybody else's routes, and the answers it gave lately.
#[derive(Default)]
pub struct Router {
    subscribers: Trie<Subscribers>,
    routes: RouteTable,
    shares: Shares,
    cache: TopicCache,
    /// How often filters were moved, of which answers in `cache` know.
    moves: u64,
}

impl Router {
    /// Adds or replaces a subscription of this worker. True if it is the first of its filter.
    pub fn subscribe(&mut self, filter: &str, subscriber: Subscriber) -> bool {
        let (_, subscribers, new) = self.subscribers.entry(filter, Subscribers::default);
        subscribers.put(subscriber);
        if new {
            self.cache.changed(filter);
            self.forget_moved();
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

    /// Makes a subscriber of this worker a member of a shared subscription; `text` names it, and `owner` is this worker.
    /// True if it was none.
    pub fn join(&mut self, text: Arc<str>, owner: RouteOwner, subscriber: Subscriber) -> bool {
        let new = self.shares.own(&text).is_none();
        self.shares.put_own(text.clone(), subscriber);
        self.apply(&RouteChange { owner, filter: text, wanted: true });
        new
    }

    /// Ends the membership of one of this worker's own. True if it was one.
    pub fn leave(&mut self, text: &Arc<str>, owner: RouteOwner, slot: u32) -> bool {
        // A newer connection may have it.
        if self.shares.own(text).is_none_or(|subscriber| subscriber.slot != slot) {
            return false;
        }
        self.shares.remove_own(text);
        self.apply(&RouteChange { owner, filter: text.clone(), wanted: false });
        true
    }

    /// One of this worker's own members of shared subscriptions.
    pub fn member(&self, text: &str) -> Option<&Subscriber> {
        self.shares.own(text)
    }

    /// A shared subscription that has members.
    pub fn group(&self, subscription: &str) -> Option<&Group> {
        self.shares.group(subscription)
    }

    /// Applies a change of somebody else's routes.
    pub fn apply(&mut self, change: &RouteChange) {
        if change.filter.starts_with("$share/") {
            if let Some(filter) = self.shares.apply(change) {
                self.cache.changed(filter);
            }
            self.forget_moved();
        } else if self.routes.apply(change) {
            self.cache.changed(&change.filter);
        }
    }

    /// Answers name filters by numbers, which are others once the filters were moved.
    fn forget_moved(&mut self) {
        let moves = self.subscribers.moves() + self.shares.moves();
        if moves != self.moves {
            self.moves = moves;
            self.cache.everything_changed();
        }
    }

    /// Who wants `topic`.
    pub fn find(&mut self, topic: &str) -> Found<'_> {
        let Router { subscribers, routes, shares, cache, .. } = self;
        let matches = cache.get_or_fill(topic, |matches| {
            subscribers.for_each_match(topic, |id, _| matches.local.push(id));
            routes.targets(topic, &mut matches.targets);
            shares.for_each_match(topic, |id| matches.shared.push(id));
        });
        Found { matches, subscribers, shares }
    }
}

/// Who wants a topic.
#[derive(Clone, Copy)]
pub struct Found<'r> {
    matches: &'r Matches,
    subscribers: &'r Trie<Subscribers>,
    shares: &'r Shares,
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

    /// The shared subscriptions that match, each of which wants it once.
    pub fn shared(&self) -> impl Iterator<Item = &'r Group> + use<'r> {
        let shares = self.shares;
        self.matches.shared.iter().flat_map(|id| shares.groups(*id))
    }

    /// One of the worker's own members of shared subscriptions.
    pub fn member(&self, text: &str) -> Option<&'r Subscriber> {
        self.shares.own(text)
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
