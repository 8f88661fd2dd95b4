//! One session as its shard keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashTable;

use super::command::{Holder, Will};
use super::exchanges::OpenExchanges;
use super::owed::Owed;
use super::queue::Queue;
use crate::identity::{ClientId, keyed_hash};
use crate::limits;
use crate::message::SubscriptionOptions;
use crate::seldom::{Nothing, Seldom};

/// A session, or (`expiry_seconds` 0) the record of who holds a client id.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Session {
    pub client_id: ClientId,
    /// Of the present or last holder.
    pub epoch: u64,
    /// `None` while no client is connected.
    pub holder: Option<Holder>,
    pub expiry_seconds: u32,
    pub receive_maximum: u16,
    /// Whether the present holder was told that a session was present.
    pub was_present: bool,
    /// What may outlast the connection. Most sessions end with theirs, without a will.
    pub lasting: Seldom<Lasting>,
}

// One for every client: a size of the allocator. A field more makes it the next, 96 bytes.
const _: () = assert!(size_of::<Session>() <= 80);

/// What of a session may outlast its connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Lasting {
    pub will: Option<Box<Will>>,
    /// When the session is deleted; only while no client is connected.
    pub expires_at_ms: Option<u64>,
    pub subscriptions: BTreeMap<Arc<str>, SubscriptionOptions>,
    pub queue: Seldom<Queue>,
    /// The highest queue number that may have been sent in an earlier connection.
    pub sent_to: u64,
    /// What the client published at QoS 2 and has not released, by packet id.
    pub exchanges: Seldom<OpenExchanges>,
    /// Retained messages that are still to come into the queue.
    pub owed: Seldom<Owed>,
}

impl Nothing for Lasting {
    const NOTHING: &'static Self = &Lasting {
        will: None,
        expires_at_ms: None,
        subscriptions: BTreeMap::new(),
        queue: Seldom::NONE,
        sent_to: 0,
        exchanges: Seldom::NONE,
        owed: Seldom::NONE,
    };

    fn nothing() -> Self {
        Lasting::default()
    }
}

/// The sessions of a shard, by client id. Each in memory of its own: a table of whole sessions would have room for twice as
/// many as there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(HashTable<Box<Session>>);

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn contains_key(&self, client_id: &str) -> bool {
        self.get(client_id).is_some()
    }

    pub(super) fn get(&self, client_id: &str) -> Option<&Session> {
        self.0.find(hash(client_id), |session| *session.client_id == *client_id).map(|session| &**session)
    }

    pub(super) fn get_mut(&mut self, client_id: &str) -> Option<&mut Session> {
        self.0.find_mut(hash(client_id), |session| *session.client_id == *client_id).map(|session| &mut **session)
    }

    /// The session of a client id; an empty one, without a holder, if there was none.
    pub(super) fn get_or_create(&mut self, client_id: &ClientId) -> &mut Session {
        let hash_of = hash(client_id);
        let entry =
            self.0.entry(hash_of, |session| session.client_id == *client_id, |session| hash(&session.client_id));
        entry.or_insert_with(|| Box::new(Session::new(client_id.clone()))).into_mut()
    }

    /// Puts a session in that wasn't there.
    pub(super) fn insert(&mut self, session: Session) {
        self.0.insert_unique(hash(&session.client_id), Box::new(session), |session| hash(&session.client_id));
    }

    pub(super) fn remove(&mut self, client_id: &str) -> Option<Session> {
        let found = self.0.find_entry(hash(client_id), |session| *session.client_id == *client_id).ok()?;
        Some(*found.remove().0)
    }

    /// In no order: that is not the same on every replica.
    pub(super) fn values(&self) -> impl Iterator<Item = &Session> {
        self.0.iter().map(|session| &**session)
    }
}

fn hash(client_id: &str) -> u64 {
    keyed_hash(client_id.as_bytes())
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
    fn new(client_id: ClientId) -> Session {
        Session {
            client_id,
            epoch: 0,
            holder: None,
            expiry_seconds: 0,
            receive_maximum: 0,
            was_present: false,
            lasting: Seldom::default(),
        }
    }

    /// Sets the will; gives the one it had.
    pub(super) fn set_will(&mut self, will: Option<Will>) -> Option<Will> {
        let before = self.lasting.if_any().and_then(|lasting| lasting.will.take());
        if let Some(will) = will {
            self.lasting.will = Some(Box::new(will));
        }
        before.map(|will| *will)
    }

    /// The retained messages that it is owed, to be changed; `None` if there are none.
    pub(super) fn owed_if_any(&mut self) -> Option<&mut Owed> {
        self.lasting.if_any()?.owed.if_any()
    }

    /// Whether messages may ever wait for it here: an ephemeral session that began with its connection is all its worker's.
    pub(super) fn has_queue(&self) -> bool {
        self.expiry_seconds > 0 || self.was_present
    }

    pub(super) fn attached(&self) -> Option<Attached> {
        Some(Attached {
            client_id: self.client_id.clone(),
            holder: self.holder?,
            epoch: self.epoch,
            receive_maximum: self.receive_maximum,
            first: self.lasting.queue.first(),
            next: self.lasting.queue.next(),
            send_bound: self.send_bound(),
        })
    }

    /// One past the highest number that is sent before the log has more of the client's acknowledgements: what may have
    /// been sent is known by it when the node that sent it is gone, and no packet id stands for two numbers.
    pub(super) fn send_bound(&self) -> u64 {
        let ahead = u64::from(self.receive_maximum) + limits::SESSION_ACKS_AHEAD_MAX;
        self.lasting.queue.first() + ahead.min(limits::SESSION_SPAN_MAX)
    }
}
