//! Connections that have lost their client id, remembered until they have let go, and the newer connections that wait for
//! that (K4).
//!
//! A newer connection hears that it holds a client id only when no older one holds it any more: the older one's node has
//! said so through the log, or its run is over. Whoever led when the client id was taken may have died before the older
//! connection was told. A new leader tells it again, and so does a leader whose link to the connection's node is new.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::command::{Effect, Evicted, Holder};
use super::exchanges::Asker;
use crate::identity::{ClientId, Origin};
use crate::limits;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Evictions {
    /// By client id and the epoch that was held.
    unreleased: BTreeMap<(ClientId, u64), Eviction>,
    /// The CONNECTs that are answered when all older connections of their client id have let go.
    waiting: BTreeMap<ClientId, Asker>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Eviction {
    holder: Holder,
    why: Evicted,
}

impl Evictions {
    /// Whether no more can be remembered.
    pub(super) fn is_full(&self) -> bool {
        self.unreleased.len() >= limits::SHARD_EVICTIONS_MAX
    }

    /// Remembers one, and gives the effect.
    pub(super) fn put(&mut self, client_id: ClientId, holder: Holder, epoch: u64, why: Evicted) -> Effect {
        let key = (client_id, epoch);
        let eviction = Eviction { holder, why };
        let effect = effect(&key, &eviction);
        self.unreleased.insert(key, eviction);
        effect
    }

    /// Lets a CONNECT wait, if an older connection of the client id has not let go. False if there is none.
    pub(super) fn wait(&mut self, client_id: &ClientId, asker: Asker) -> bool {
        let waits = !self.has_let_go(client_id);
        if waits {
            self.waiting.insert(client_id.clone(), asker);
        }
        waits
    }

    /// Whether the present holder of a client id has not been told so yet.
    pub(super) fn is_waiting(&self, client_id: &str) -> bool {
        self.waiting.contains_key(client_id)
    }

    /// The present holder's connection is over, or taken over: it need not wait any more.
    pub(super) fn stop_waiting(&mut self, client_id: &str) -> Option<Asker> {
        self.waiting.remove(client_id)
    }

    /// The connection of this epoch has let go. Gives the CONNECT that can be answered now.
    pub(super) fn release(&mut self, client_id: &ClientId, epoch: u64) -> Option<Asker> {
        self.unreleased.remove(&(client_id.clone(), epoch))?;
        if self.has_let_go(client_id) { self.waiting.remove(client_id) } else { None }
    }

    /// The connections of these runs are over. Gives the client ids whose CONNECTs can be answered now.
    pub(super) fn forget(&mut self, is_over: impl Fn(Origin) -> bool) -> Vec<(ClientId, Asker)> {
        self.unreleased.retain(|_, eviction| !is_over(eviction.holder.origin));
        let free: Vec<ClientId> = self.waiting.keys().filter(|client_id| self.has_let_go(client_id)).cloned().collect();
        free.into_iter().filter_map(|client_id| self.waiting.remove_entry(&client_id)).collect()
    }

    pub(super) fn all(&self) -> Vec<Effect> {
        self.unreleased.iter().map(|(key, eviction)| effect(key, eviction)).collect()
    }

    fn has_let_go(&self, client_id: &ClientId) -> bool {
        let held = (client_id.clone(), 0)..=(client_id.clone(), u64::MAX);
        self.unreleased.range(held).next().is_none()
    }
}

fn effect((client_id, epoch): &(ClientId, u64), eviction: &Eviction) -> Effect {
    let Eviction { holder, why } = eviction.clone();
    Effect::Evict { client_id: client_id.clone(), holder, epoch: *epoch, why }
}
