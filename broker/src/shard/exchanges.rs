//! QoS 2 from persistent sessions: open exchanges, and the messages on their way from here to other shards and nodes.
//!
//! The publisher's shard records packet id and message in one command, and from then on it alone sees to it that the
//! message goes, once, to everybody it was for: the message stands in an *outbox* for each of them, numbered from 1
//! without gaps, until they have it. Whoever takes from an outbox remembers the last number it took. So a PUBLISH that
//! comes again, over whatever connection, finds its packet id here and goes nowhere.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::command::{Destination, Outcome, Refusal};
use super::stored::Stored;
use super::streams::Stream;
use crate::identity::{ClientId, Origin, ShardId};
use crate::message::Message;
use crate::seldom::Nothing;

/// An outbox for this shard: whose, and whether it holds what is to be kept.
pub(super) type Source = (ShardId, bool);

/// A command that is answered later: whose, and its number.
pub(super) type Asker = (Origin, u64);

/// The exchanges of a session, by packet id.
pub(super) type OpenExchanges = BTreeMap<u16, Exchange>;

impl Nothing for OpenExchanges {
    const NOTHING: &'static Self = &BTreeMap::new();

    fn nothing() -> Self {
        BTreeMap::new()
    }
}

/// One exchange of a session, from PUBLISH to PUBREL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Exchange {
    /// Unique in the shard: a packet id may be used again while its last message is still on its way.
    pub number: u64,
    /// While its message is not everywhere yet: who is answered then.
    pub pending: Option<Pending>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pending {
    pub asker: Asker,
    pub outstanding: u32,
    pub stored: u32,
    pub refused: Option<Refusal>,
}

impl Pending {
    pub(super) fn outcome(&self) -> Outcome {
        self.refused.map_or(Outcome::Stored(self.stored), Outcome::Refused)
    }
}

/// A message on its way, and on whose behalf.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Leaving {
    pub message: Stored,
    pub behalf: Behalf,
}

/// Who sent a message on its way.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Behalf {
    /// Nobody who waits or comes back: one member of a shared subscription leaves it to another, or it is a will on its way
    /// to subscribers.
    Nobody,
    /// An exchange of a session, which may have ended since.
    Exchange { client_id: ClientId, packet_id: u16, number: u64 },
    /// The connection of this epoch, whose will is on its way to be kept.
    Over { client_id: ClientId, epoch: u64 },
}

/// What is on its way to one destination.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outbox {
    /// The number of the first in `leaving`, or the next.
    pub first: u64,
    pub leaving: VecDeque<Leaving>,
}

impl Default for Outbox {
    fn default() -> Self {
        Outbox { first: 1, leaving: VecDeque::new() }
    }
}

/// Everything on its way out, and what was taken of what came in.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Traffic {
    /// The number of the last exchange.
    pub exchanges: u64,
    /// Kept when empty: the numbers go on.
    pub outboxes: BTreeMap<Destination, Outbox>,
    /// The last number taken from each other shard's outboxes: what is for this shard's sessions, and what it keeps.
    pub taken: BTreeMap<Source, Stream>,
    bytes: usize,
}

impl Traffic {
    pub(super) fn restored(
        exchanges: u64,
        outboxes: BTreeMap<Destination, Outbox>,
        taken: BTreeMap<Source, Stream>,
    ) -> Traffic {
        let bytes = outboxes.values().flat_map(|outbox| &outbox.leaving).map(|leaving| leaving.message.size()).sum();
        Traffic { exchanges, outboxes, taken, bytes }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn next_exchange(&mut self) -> u64 {
        self.exchanges += 1;
        self.exchanges
    }

    /// Gives its number in the outbox.
    pub(super) fn put(&mut self, to: Destination, leaving: Leaving) -> u64 {
        self.bytes += leaving.message.size();
        let outbox = self.outboxes.entry(to).or_default();
        outbox.leaving.push_back(leaving);
        outbox.first + outbox.leaving.len() as u64 - 1
    }

    /// Everything up to `number` is with `to`: what that was, each with its number.
    pub(super) fn take(&mut self, to: Destination, number: u64) -> Vec<(u64, Leaving)> {
        let Some(outbox) = self.outboxes.get_mut(&to) else { return Vec::new() };
        let mut taken = Vec::new();
        while outbox.first <= number {
            let Some(leaving) = outbox.leaving.pop_front() else { break };
            self.bytes -= leaving.message.size();
            taken.push((outbox.first, leaving));
            outbox.first += 1;
        }
        taken
    }

    /// The runs of a node up to this one are over: what was on its way there has nobody to go to.
    /// What was lent is kept elsewhere.
    pub(super) fn forget(&mut self, gone: Origin) -> Vec<Leaving> {
        let ended = |run: Origin| run.node == gone.node && run.incarnation <= gone.incarnation;
        let is_over = |to: &Destination| to.run().is_some_and(ended);
        let over: Vec<Destination> = self.outboxes.keys().copied().filter(is_over).collect();
        let mut lost = Vec::new();
        for to in over {
            let leaving = self.outboxes.remove(&to).map(|outbox| outbox.leaving).unwrap_or_default();
            self.bytes -= leaving.iter().map(|leaving| leaving.message.size()).sum::<usize>();
            if matches!(to, Destination::Node(_)) {
                lost.extend(leaving);
            }
        }
        lost
    }

    /// What is on its way to `to` from `number` on, within about `bytes_max`.
    pub(super) fn leaving(&self, to: Destination, number: u64, bytes_max: usize) -> Vec<(u64, Message)> {
        let Some(outbox) = self.outboxes.get(&to) else { return Vec::new() };
        let skip = usize::try_from(number.saturating_sub(outbox.first)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let numbered = outbox.leaving.iter().enumerate().skip(skip);
        let fitting = numbered.take_while(|(_, leaving)| {
            let before = bytes;
            bytes += leaving.message.size();
            before < bytes_max
        });
        fitting.map(|(place, leaving)| (outbox.first + place as u64, leaving.message.message())).collect()
    }
}
