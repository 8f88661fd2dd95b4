//! The workers of this node that want a filter.

use std::slice;

/// Workers, each once, in order. Most filters are wanted by one, for which this takes no memory of its own: it stands in
/// the nodes of a tree, beside every filter.
#[derive(Clone, Debug)]
pub(super) enum Workers {
    One(u16),
    #[expect(clippy::box_collection, reason = "a word less beside every filter")]
    Others(Option<Box<Vec<u16>>>),
}

impl Default for Workers {
    fn default() -> Self {
        Workers::Others(None)
    }
}

impl Workers {
    /// True if it was not there.
    pub(super) fn insert(&mut self, worker: u16) -> bool {
        let place = self.as_slice().binary_search(&worker);
        if let Err(place) = place {
            let mut workers = self.as_slice().to_vec();
            workers.insert(place, worker);
            *self = Workers::from(workers);
        }
        place.is_err()
    }

    /// True if it was there.
    pub(super) fn remove(&mut self, worker: u16) -> bool {
        let place = self.as_slice().binary_search(&worker);
        if let Ok(place) = place {
            let mut workers = self.as_slice().to_vec();
            workers.remove(place);
            *self = Workers::from(workers);
        }
        place.is_ok()
    }

    pub(super) fn as_slice(&self) -> &[u16] {
        match self {
            Workers::One(worker) => slice::from_ref(worker),
            Workers::Others(workers) => workers.as_deref().map_or(&[], Vec::as_slice),
        }
    }
}

impl From<Vec<u16>> for Workers {
    fn from(workers: Vec<u16>) -> Workers {
        match workers[..] {
            [] => Workers::default(),
            [worker] => Workers::One(worker),
            _ => Workers::Others(Some(Box::new(workers))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_kept_once_and_in_order() {
        let mut workers = Workers::default();
        assert!(workers.as_slice().is_empty() && !workers.remove(3));
        for (worker, new) in [(3, true), (1, true), (3, false), (2, true)] {
            assert_eq!(workers.insert(worker), new);
        }
        assert_eq!(workers.as_slice(), [1, 2, 3]);
        assert!(workers.remove(1) && !workers.remove(1) && workers.remove(3));
        assert_eq!(workers.as_slice(), [2]);
        assert!(workers.remove(2) && workers.as_slice().is_empty());
        assert_eq!(size_of::<Workers>(), 16);
    }
}
