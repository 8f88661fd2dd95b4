//! Wills whose connection has ended: waiting for their delay, or due and not yet known to be published.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::command::Effect;
use crate::identity::ClientId;
use crate::message::Message;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Wills {
    /// By client id and the epoch that stored it.
    pending: BTreeMap<(ClientId, u64), Pending>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pending {
    message: Message,
    due_ms: u64,
    /// The effect was given; what remains is to hear that it was carried out.
    due: bool,
}

impl Wills {
    pub(super) fn put(&mut self, client_id: ClientId, epoch: u64, message: Message, due_ms: u64) {
        self.pending.insert((client_id, epoch), Pending { message, due_ms, due: false });
    }

    /// The session goes on: what still waits for its delay is not sent ([MQTT-3.1.3-9]).
    pub(super) fn cancel(&mut self, client_id: &ClientId) {
        self.pending.retain(|(client, _), will| client != client_id || will.due);
    }

    /// The session has ended: what still waits for its delay is due now (section 3.1.3.2.2).
    pub(super) fn hasten(&mut self, client_id: &ClientId, now_ms: u64) {
        for ((client, _), will) in &mut self.pending {
            if client == client_id {
                will.due_ms = will.due_ms.min(now_ms);
            }
        }
    }

    pub(super) fn fired(&mut self, client_id: &ClientId, epoch: u64) {
        self.pending.remove(&(client_id.clone(), epoch));
    }

    /// Gives the effect of each will that falls due, once.
    pub(super) fn fall_due(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        for ((client_id, epoch), will) in &mut self.pending {
            if !will.due && will.due_ms <= now_ms {
                will.due = true;
                effects.push(effect(client_id, *epoch, will));
            }
        }
    }

    /// Those that are due and not known to be published: a new leader's to carry out.
    pub(super) fn due(&self) -> Vec<Effect> {
        let due = self.pending.iter().filter(|(_, will)| will.due);
        due.map(|((client_id, epoch), will)| effect(client_id, *epoch, will)).collect()
    }

    /// When the next one falls due.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.pending.values().filter(|will| !will.due).map(|will| will.due_ms).min()
    }
}

fn effect(client_id: &ClientId, epoch: u64, will: &Pending) -> Effect {
    Effect::Will { client_id: client_id.clone(), epoch, message: will.message.clone() }
}
