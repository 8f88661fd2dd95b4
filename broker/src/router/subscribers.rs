//! The connected subscribers of one filter on one worker.

use smallvec::SmallVec;

use crate::message::{QoS, SubscriptionOptions};

/// A connection's subscription to a filter, as the fan-out needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// The connection's place in the worker's table.
    pub slot: u32,
    /// Subscription identifier; 0 for none.
    pub identifier: u32,
    /// Maximum QoS at which messages are sent.
    pub qos: QoS,
    /// Don't send back what this client published.
    pub no_local: bool,
    /// Keep the retain flag as published.
    pub retain_as_published: bool,
    /// Of a persistent session: only what is effectively QoS 0 is served here, the rest by its shard.
    pub persistent: bool,
}

impl Subscriber {
    /// The subscription of the connection at `slot`.
    pub fn new(slot: u32, options: &SubscriptionOptions, persistent: bool) -> Subscriber {
        Subscriber {
            slot,
            identifier: options.identifier.unwrap_or(0),
            qos: options.qos,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            persistent,
        }
    }
}

/// The subscribers of one filter, at most one entry per connection, ordered by slot.
#[derive(Clone, Debug, Default)]
pub struct Subscribers(SmallVec<[Subscriber; 1]>);

impl Subscribers {
    /// Adds a subscriber, or replaces its options.
    pub fn put(&mut self, subscriber: Subscriber) {
        match self.position(subscriber.slot) {
            Ok(at) => self.0[at] = subscriber,
            Err(at) => self.0.insert(at, subscriber),
        }
    }

    /// Removes the subscriber at `slot`, if it is one.
    pub fn remove(&mut self, slot: u32) {
        if let Ok(at) = self.position(slot) {
            self.0.remove(at);
        }
    }

    /// Whether nobody is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn as_slice(&self) -> &[Subscriber] {
        &self.0
    }

    fn position(&self, slot: u32) -> Result<usize, usize> {
        self.0.binary_search_by_key(&slot, |known| known.slot)
    }
}
