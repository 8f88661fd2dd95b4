//! What administrators see of the sessions of a shard, and their end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::command::{Effect, Evicted, Outcome};
use super::machine::Shard;
use crate::identity::ClientId;

/// A session that outlives its connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSession {
    /// Whose.
    pub client_id: ClientId,
    /// Its client is connected.
    pub connected: bool,
    /// Seconds that it outlives its connection; 4,294,967,295: for ever.
    pub session_expiry_seconds: u32,
    /// How many it has.
    pub subscriptions: usize,
    /// Messages in its queue.
    pub queued_messages: usize,
    /// Bytes of them.
    pub queued_bytes: usize,
}

impl Shard {
    /// The first `count` stored sessions after a client id, in order. Looks at every session of the shard.
    pub fn stored_sessions(&self, after: &str, count: usize) -> Vec<StoredSession> {
        let mut first = BTreeMap::new();
        for session in self.sessions.values() {
            if session.expiry_seconds == 0 || *session.client_id <= *after {
                continue;
            }
            first.insert(&session.client_id, session);
            if first.len() > count {
                first.pop_last();
            }
        }
        let sessions = first.into_values().map(|session| StoredSession {
            client_id: session.client_id.clone(),
            connected: session.holder.is_some(),
            session_expiry_seconds: session.expiry_seconds,
            subscriptions: session.lasting.subscriptions.len(),
            queued_messages: session.lasting.queue.items().iter().flatten().count(),
            queued_bytes: session.lasting.queue.bytes(),
        });
        sessions.collect()
    }

    /// Ends a session, and the connection that holds it (0x98).
    pub(super) fn delete_session(&mut self, client_id: &ClientId, effects: &mut Vec<Effect>) -> Outcome {
        if !self.sessions.contains_key(client_id) {
            return Outcome::NotFound;
        }
        self.evict(client_id, Evicted::Administrative, effects);
        self.delete(client_id, effects);
        Outcome::Done
    }
}
