//! Connections that have lost their client id, remembered until they must have heard of it.
//!
//! Whoever led when the client id was taken may have died before the older connection was told. A new leader tells it
//! again, and so does a leader whose link to the connection's node is new (K4).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::command::{Effect, Evicted, Holder};
use crate::identity::{ClientId, Origin};
use crate::limits;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Evictions {
    /// Oldest first.
    remembered: VecDeque<Eviction>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Eviction {
    at_ms: u64,
    client_id: ClientId,
    holder: Holder,
    epoch: u64,
    why: Evicted,
}

impl Evictions {
    /// Remembers one, and gives the effect.
    pub(super) fn put(&mut self, at_ms: u64, client_id: ClientId, holder: Holder, epoch: u64, why: Evicted) -> Effect {
        if self.remembered.len() >= limits::SHARD_EVICTIONS_MAX {
            self.remembered.pop_front();
        }
        let eviction = Eviction { at_ms, client_id, holder, epoch, why };
        let effect = eviction.effect();
        self.remembered.push_back(eviction);
        effect
    }

    /// A node that could not be reached for so long was declared gone, and its connections with it.
    pub(super) fn pass_time(&mut self, now_ms: u64) {
        while self.remembered.front().is_some_and(|oldest| oldest.at_ms.saturating_add(limits::EVICTION_MS) <= now_ms) {
            self.remembered.pop_front();
        }
    }

    /// The connections of these runs are over.
    pub(super) fn forget(&mut self, is_over: impl Fn(Origin) -> bool) {
        self.remembered.retain(|eviction| !is_over(eviction.holder.origin));
    }

    pub(super) fn all(&self) -> Vec<Effect> {
        self.remembered.iter().map(Eviction::effect).collect()
    }
}

impl Eviction {
    fn effect(&self) -> Effect {
        let Eviction { client_id, holder, epoch, why, .. } = self.clone();
        Effect::Evict { client_id, holder, epoch, why }
    }
}
