//! The newest connection by which each client has published a retained message here. What an older one has left on its way,
//! at a node that stood still or could not reach this shard, comes too late: it must not take the place of a newer message
//! that was acknowledged (K8). Nobody is told that it is stored.
//!
//! Epochs of a client id grow with its connections, and a newer one begins when the older has let go or its node's run is
//! over (K4): so whatever is refused here is of a connection that is owed no answer.

use std::collections::BTreeMap;

use crate::identity::ClientId;
use crate::limits;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fences {
    /// The newest epoch, and when it was raised.
    by_client: BTreeMap<ClientId, (u64, u64)>,
    /// By when they were raised.
    order: BTreeMap<u64, ClientId>,
    raised: u64,
    bytes: usize,
}

impl Fences {
    /// A connection of a client publishes: whether no newer one has. From now on what older ones left is refused.
    pub(super) fn admit(&mut self, client_id: &ClientId, epoch: u64) -> bool {
        match self.by_client.get(client_id) {
            Some((newest, _)) if *newest == epoch => return true,
            Some((newest, _)) if *newest > epoch => return false,
            Some((_, at)) => {
                self.order.remove(at);
            }
            None => self.bytes += client_id.len(),
        }
        self.raised += 1;
        self.by_client.insert(client_id.clone(), (epoch, self.raised));
        self.order.insert(self.raised, client_id.clone());
        while self.order.len() > limits::SHARD_FENCES_ITEMS_MAX || self.bytes > limits::SHARD_FENCES_BYTES_MAX {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.by_client.remove(&oldest);
            self.bytes -= oldest.len();
        }
        true
    }

    /// A connection is over, and all that it published is here: what is of it still is refused from now on.
    pub(super) fn end(&mut self, client_id: &ClientId, epoch: u64) {
        // The epochs of a client id grow, so the next is not less than this.
        self.admit(client_id, epoch.saturating_add(1));
    }

    /// Whether a newer connection of a client than this has published.
    pub(super) fn is_over(&self, client_id: &ClientId, epoch: u64) -> bool {
        self.by_client.get(client_id).is_some_and(|(newest, _)| *newest > epoch)
    }

    /// All of them, in the order raised.
    pub(super) fn all(&self) -> Vec<(ClientId, u64)> {
        let epoch = |client_id: &ClientId| self.by_client.get(client_id).map_or(0, |(epoch, _)| *epoch);
        self.order.values().map(|client_id| (client_id.clone(), epoch(client_id))).collect()
    }

    pub(super) fn restored(fences: Vec<(ClientId, u64)>) -> Fences {
        let mut restored = Fences::default();
        for (client_id, epoch) in fences {
            restored.admit(&client_id, epoch);
        }
        restored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_connection_is_refused_once_a_newer_one_has_published() {
        let (mut fences, client) = (Fences::default(), ClientId::from("c"));
        assert!(fences.admit(&client, 5) && fences.admit(&client, 5) && fences.admit(&client, 7));
        assert!(!fences.admit(&client, 5), "it was fenced off");
        assert!(fences.admit(&"other".into(), 1), "another client is another matter");
    }

    #[test]
    fn at_the_bounds_the_one_that_was_raised_longest_ago_is_forgotten() {
        let mut fences = Fences::default();
        fences.admit(&"first".into(), 2);
        for number in 1..limits::SHARD_FENCES_ITEMS_MAX {
            fences.admit(&format!("{number:06}").into(), 2);
        }
        assert!(!fences.admit(&"first".into(), 1));
        fences.admit(&"first".into(), 3);
        fences.admit(&"one more".into(), 1);
        assert!(!fences.admit(&"first".into(), 2), "raised of late");
        assert!(fences.admit(&"000001".into(), 1), "forgotten");
        let mut fences = Fences::default();
        let long = |number: usize| ClientId::from(format!("{number:060000}"));
        let fitting = limits::SHARD_FENCES_BYTES_MAX / 60_000;
        (0..=fitting).for_each(|number| assert!(fences.admit(&long(number), 2)));
        assert!(fences.admit(&long(0), 1), "forgotten");
        assert!(!fences.admit(&long(fitting), 1));
    }

    #[test]
    fn what_is_restored_forgets_in_the_same_order() {
        let mut fences = Fences::default();
        for (client, epoch) in [("a", 1), ("b", 2), ("a", 3)] {
            fences.admit(&client.into(), epoch);
        }
        let all = fences.all();
        assert_eq!(all, [("b".into(), 2), ("a".into(), 3)]);
        assert_eq!(Fences::restored(all.clone()).all(), all);
    }
}
