//! Wills whose connection has ended: waiting for their delay, or due and not yet on their way.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::command::{Effect, Will};
use crate::identity::ClientId;
use crate::message::Message;

/// A client id and the epoch that stored the will.
type Key = (ClientId, u64);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Wills {
    waiting: BTreeMap<Key, Waiting>,
    /// Those that wait, by time.
    by_time: BTreeSet<(u64, Key)>,
    /// The effect was given; what remains is to hear whom they are for.
    due: BTreeMap<Key, Message>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Waiting {
    message: Message,
    due_ms: u64,
    expiry_seconds: Option<u32>,
}

impl Wills {
    pub(super) fn put(&mut self, client_id: ClientId, epoch: u64, will: Will, due_ms: u64) {
        let (key, Will { message, expiry_seconds, .. }) = ((client_id, epoch), will);
        self.by_time.insert((due_ms, key.clone()));
        self.waiting.insert(key, Waiting { message, due_ms, expiry_seconds });
    }

    /// The session goes on: what still waits for its delay is not sent ([MQTT-3.1.3-9]).
    pub(super) fn cancel(&mut self, client_id: &ClientId) {
        for key in self.waiting_of(client_id) {
            if let Some(will) = self.waiting.remove(&key) {
                self.by_time.remove(&(will.due_ms, key));
            }
        }
    }

    /// The session has ended: what still waits for its delay is due now (section 3.1.3.2.2).
    pub(super) fn hasten(&mut self, client_id: &ClientId, now_ms: u64) {
        for key in self.waiting_of(client_id) {
            if let Some(will) = self.waiting.get_mut(&key).filter(|will| will.due_ms > now_ms) {
                self.by_time.remove(&(will.due_ms, key.clone()));
                will.due_ms = now_ms;
                self.by_time.insert((now_ms, key));
            }
        }
    }

    /// Takes one that is due.
    pub(super) fn fire(&mut self, client_id: &ClientId, epoch: u64) -> Option<Message> {
        self.due.remove(&(client_id.clone(), epoch))
    }

    /// Gives the effect of each will that falls due, once.
    pub(super) fn fall_due(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        while self.next_due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            let Some((_, key)) = self.by_time.pop_first() else { return };
            if let Some(Waiting { mut message, expiry_seconds, .. }) = self.waiting.remove(&key) {
                // It counts from here on (section 3.1.3.2.4).
                message.expires_at_ms = expiry_seconds.map(|seconds| now_ms.saturating_add(u64::from(seconds) * 1000));
                effects.push(effect(&key, &message));
                self.due.insert(key, message);
            }
        }
    }

    /// Those that are due and not on their way: a new leader's to carry out.
    pub(super) fn due(&self) -> Vec<Effect> {
        self.due.iter().map(|(key, message)| effect(key, message)).collect()
    }

    /// When the next one falls due.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.by_time.first().map(|(due_ms, _)| *due_ms)
    }

    fn waiting_of(&self, client_id: &ClientId) -> Vec<Key> {
        let range = (client_id.clone(), 0)..=(client_id.clone(), u64::MAX);
        self.waiting.range(range).map(|(key, _)| key.clone()).collect()
    }
}

fn effect((client_id, epoch): &Key, message: &Message) -> Effect {
    Effect::Will { client_id: client_id.clone(), epoch: *epoch, message: message.clone() }
}
