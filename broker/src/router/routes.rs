//! Who outside a worker wants which filters: other workers, nodes, shards.

use smallvec::SmallVec;

use super::{Trie, add_target};
use crate::door::{RouteChange, RouteOwner, Targets};

/// Filters and their owners. Every worker has its own copy, so that reading it needs no lock.
#[derive(Clone, Debug, Default)]
pub(super) struct RouteTable {
    owners: Trie<SmallVec<[RouteOwner; 1]>>,
}

impl RouteTable {
    /// Applies a change. False if it was so already.
    pub(super) fn apply(&mut self, change: &RouteChange) -> bool {
        if change.wanted {
            let (_, owners, _) = self.owners.entry(&change.filter, SmallVec::new);
            let new = !owners.contains(&change.owner);
            if new {
                owners.push(change.owner);
            }
            return new;
        }
        let Some(owners) = self.owners.get_mut(&change.filter) else {
            return false;
        };
        let Some(at) = owners.iter().position(|owner| *owner == change.owner) else {
            return false;
        };
        owners.remove(at);
        if owners.is_empty() {
            self.owners.remove(&change.filter);
        }
        true
    }

    /// Adds to `targets` every owner of a filter that matches `topic`, once.
    pub(super) fn targets(&self, topic: &str, targets: &mut Targets) {
        self.owners.for_each_match(topic, |_, owners| {
            for owner in owners {
                add_target(targets, *owner);
            }
        });
    }
}
