//! One session as its shard keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::command::{Holder, Will};
use super::exchanges::Exchange;
use super::owed::Owed;
use super::queue::Queue;
use crate::identity::ClientId;
use crate::limits;
use crate::message::SubscriptionOptions;

/// A session, or (`expiry_seconds` 0) the record of who holds a client id.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Session {
    pub client_id: ClientId,
    /// Of the present or last holder.
    pub epoch: u64,
    /// `None` while no client is connected.
    pub holder: Option<Holder>,
    pub expiry_seconds: u32,
    /// When it is deleted; only while no client is connected.
    pub expires_at_ms: Option<u64>,
    pub receive_maximum: u16,
    /// Whether the present holder was told that a session was present.
    pub was_present: bool,
    pub will: Option<Will>,
    pub subscriptions: BTreeMap<Arc<str>, SubscriptionOptions>,
    pub queue: Queue,
    /// The highest queue number that may have been sent in an earlier connection.
    pub sent_to: u64,
    /// What the client published at QoS 2 and has not released, by packet id.
    pub exchanges: BTreeMap<u16, Exchange>,
    /// Retained messages that are still to come into the queue.
    pub owed: Owed,
}

/// A session whose client is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Whose.
    pub client_id: ClientId,
    /// Where.
    pub holder: Holder,
    /// The holder's epoch.
    pub epoch: u64,
    /// What the client takes unacknowledged.
    pub receive_maximum: u16,
    /// The first queue number that is not acknowledged.
    pub first: u64,
    /// One past the last queue number.
    pub next: u64,
    /// This number and higher ones are not to be sent yet.
    pub send_bound: u64,
}

impl Session {
    pub(super) fn attached(&self) -> Option<Attached> {
        Some(Attached {
            client_id: self.client_id.clone(),
            holder: self.holder?,
            epoch: self.epoch,
            receive_maximum: self.receive_maximum,
            first: self.queue.first(),
            next: self.queue.next(),
            send_bound: self.send_bound(),
        })
    }

    /// One past the highest number that is sent before the log has more of the client's acknowledgements: what may have
    /// been sent is known by it when the node that sent it is gone, and no packet id stands for two numbers.
    pub(super) fn send_bound(&self) -> u64 {
        let ahead = u64::from(self.receive_maximum) + limits::SESSION_ACKS_AHEAD_MAX;
        self.queue.first() + ahead.min(limits::SESSION_SPAN_MAX)
    }
}
