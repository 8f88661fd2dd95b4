//! The subscriptions of one session, and the requests for them that aren't answered yet.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::message::{Subscription, SubscriptionOptions};

/// A session's subscriptions, ordered by filter. Most sessions have one, which takes no memory of its own.
#[derive(Clone, Debug, Default)]
pub struct Subscriptions(SmallVec<[Subscription; 1]>);

impl Subscriptions {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this filter is subscribed to.
    pub fn contains(&self, filter: &str) -> bool {
        self.position(filter).is_ok()
    }

    /// Adds a subscription, or replaces the options of the one that has its filter ([MQTT-3.8.4-3]).
    pub fn put(&mut self, subscription: Subscription) {
        match self.position(&subscription.filter) {
            Ok(at) => self.0[at].options = subscription.options,
            Err(at) => self.0.insert(at, subscription),
        }
    }

    /// Removes a subscription; gives the options it had.
    pub fn remove(&mut self, filter: &str) -> Option<SubscriptionOptions> {
        let at = self.position(filter).ok()?;
        Some(self.0.remove(at).options)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.0.iter()
    }

    fn position(&self, filter: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|known| (*known.filter).cmp(filter))
    }
}

/// A request that is answered once others have done their part.
#[derive(Debug)]
pub struct Awaited {
    /// Comes back with the answers.
    pub token: u32,
    /// Which packet it answers.
    pub packet_id: u16,
    /// What the answer is.
    pub kind: AwaitedKind,
    /// How many route changes the worker had sent by then.
    pub routes: u64,
    /// They are not everywhere yet.
    pub settling: bool,
    /// The shard has not stored it yet.
    pub storing: bool,
    /// One reason code per filter, as far as known.
    pub codes: Vec<u8>,
    /// The filters that the shard stores, each with its place in `codes`.
    pub filters: Vec<(usize, Arc<str>)>,
}

/// Which answer is awaited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AwaitedKind {
    /// CONNACK of a session that goes on, encoded.
    Connack(Vec<u8>),
    /// SUBACK.
    Suback,
    /// UNSUBACK.
    Unsuback,
}
