//! The workers of this node that want a filter.

use smallvec::SmallVec;

/// Workers, each once, in order. Most filters are wanted by one, for which this takes no memory of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Workers(SmallVec<[u16; 4]>);

impl Workers {
    /// True if it was not there.
    pub(super) fn insert(&mut self, worker: u16) -> bool {
        let place = self.0.binary_search(&worker);
        if let Err(place) = place {
            self.0.insert(place, worker);
        }
        place.is_err()
    }

    /// True if it was there.
    pub(super) fn remove(&mut self, worker: u16) -> bool {
        let place = self.0.binary_search(&worker);
        if let Ok(place) = place {
            self.0.remove(place);
        }
        place.is_ok()
    }

    pub(super) fn as_slice(&self) -> &[u16] {
        &self.0
    }
}
