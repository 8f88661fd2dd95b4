//! What a shard's leader has sent from the shard's outboxes: cursors, in memory only.
//!
//! A new leader begins with the first message that is not known to have arrived. Whoever receives takes each number once.

use std::collections::BTreeMap;

use crate::identity::NodeId;
use crate::message::Message;
use crate::shard::{Destination, Shard};

/// Bytes of messages sent at once to one destination, about.
const RELAY_BYTES: usize = 256 << 10;
/// Messages that one destination is sent before the log knows that it has the first of them.
const RELAYS_AHEAD_MAX: u64 = 4096;

/// The cursors of one leadership.
#[derive(Debug, Default)]
pub(super) struct Relays {
    cursors: BTreeMap<Destination, Cursor>,
}

#[derive(Debug)]
struct Cursor {
    /// The number to send next.
    next: u64,
    /// The first that had not arrived at the last [`Relays::tick`].
    first_at_tick: u64,
}

impl Relays {
    /// What is to be sent to a destination now.
    pub(super) fn next(&mut self, shard: &Shard, to: Destination) -> Vec<(u64, Message)> {
        let first = shard.first_leaving(to);
        let cursor = self.cursors.entry(to).or_insert(Cursor { next: first, first_at_tick: 0 });
        cursor.next = cursor.next.max(first);
        if cursor.next >= first + RELAYS_AHEAD_MAX {
            return Vec::new();
        }
        let leaving = shard.leaving(to, cursor.next, RELAY_BYTES);
        cursor.next += leaving.len() as u64;
        leaving
    }

    /// Everything that has not arrived is to be sent to this destination again.
    pub(super) fn rewind(&mut self, to: Destination) {
        self.cursors.remove(&to);
    }

    /// The link to a node is new: what was on its way is lost.
    pub(super) fn rewind_node(&mut self, node: NodeId) {
        self.cursors.retain(|to, _| to.run().is_none_or(|run| run.node != node));
    }

    /// Called at intervals; gives whom to send to. A node that has taken nothing since the last call is sent everything
    /// again; to a shard, the stream of commands sees to that.
    pub(super) fn tick(&mut self, shard: &Shard) -> Vec<Destination> {
        let destinations = shard.destinations();
        self.cursors.retain(|to, _| destinations.contains(to));
        for to in &destinations {
            let first = shard.first_leaving(*to);
            if let (Some(_), Some(cursor)) = (to.run(), self.cursors.get_mut(to))
                && std::mem::replace(&mut cursor.first_at_tick, first) == first
            {
                cursor.next = first;
            }
        }
        destinations
    }
}
