//! What administrators ask about sessions, of the leaders of all shards.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::ShardRooms;
use crate::cluster::shard_client::Waiter;
use crate::cluster::shard_frames::ShardFrame;
use crate::identity::{ClientId, Origin, ShardId};
use crate::shard::{Command, Outcome, StoredSession};

/// A question that not every shard has answered.
pub(super) struct Inspection {
    after: Arc<str>,
    count: usize,
    outstanding: BTreeSet<ShardId>,
    found: Vec<StoredSession>,
    answer: oneshot::Sender<Vec<StoredSession>>,
}

impl ShardRooms {
    /// Asks every shard for its first `count` sessions after a client id.
    pub(super) fn inspect(&self, after: Arc<str>, count: usize, answer: oneshot::Sender<Vec<StoredSession>>) {
        let read = self.next_key.get();
        self.next_key.set(read + 1);
        let outstanding = (0..self.around.directory.shards()).map(ShardId).collect();
        let inspection = Inspection { after, count, outstanding, found: Vec::new(), answer };
        self.inspections.borrow_mut().insert(read, inspection);
        self.ask_to_inspect();
    }

    /// Called at intervals too: a leader may have changed. Who asked may have lost patience.
    pub(super) fn ask_to_inspect(&self) {
        let mut frames = Vec::new();
        self.inspections.borrow_mut().retain(|read, inspection| {
            for shard in &inspection.outstanding {
                if let Some((leader, _)) = self.around.directory.leader(*shard) {
                    let (shard, after, count) = (*shard, inspection.after.clone(), inspection.count as u32);
                    frames.push((leader, ShardFrame::ReadSessions { shard, read: *read, after, count }));
                }
            }
            !inspection.answer.is_closed()
        });
        for (leader, frame) in frames {
            self.send(leader, frame);
        }
    }

    /// A node asks for sessions. Says nothing if this node does not lead: it is asked again.
    pub(super) fn asked_sessions(&self, from: Origin, shard: ShardId, read: u64, after: &str, count: u32) {
        let sessions =
            self.with_led(shard, |group, _| group.with(|state| state.stored_sessions(after, count as usize)));
        if let Some(sessions) = sessions {
            self.send_to_run(from, ShardFrame::Sessions { shard, read, sessions });
        }
    }

    /// A shard has answered; the last one's answer is everybody's.
    pub(super) fn inspected(&self, shard: ShardId, read: u64, sessions: Vec<StoredSession>) {
        let mut inspections = self.inspections.borrow_mut();
        let Some(inspection) = inspections.get_mut(&read) else { return };
        if !inspection.outstanding.remove(&shard) {
            return;
        }
        inspection.found.extend(sessions);
        if !inspection.outstanding.is_empty() {
            return;
        }
        let Some(Inspection { mut found, count, answer, .. }) = inspections.remove(&read) else { return };
        found.sort_by(|left, right| left.client_id.cmp(&right.client_id));
        found.truncate(count);
        // Whoever asked may have gone.
        let _ = answer.send(found);
    }

    /// Ends a session, wherever it is.
    pub(super) fn end_session(&self, client_id: ClientId, answer: oneshot::Sender<bool>) {
        let Some(shard) = self.shard_of(&client_id) else { return };
        let key = self.next_key.get();
        self.next_key.set(key + 1);
        self.deletions.borrow_mut().insert(key, answer);
        self.push(shard, Command::DeleteSession { client_id }, Waiter::Deletion(key));
    }

    /// A shard has ended a session, or there was none.
    pub(super) fn session_ended(&self, key: u64, outcome: &Outcome) {
        let answer = self.deletions.borrow_mut().remove(&key);
        let ended = match outcome {
            Outcome::Done => true,
            Outcome::NotFound => false,
            // Whoever asked hears that there is no answer.
            _ => return,
        };
        // Whoever asked may have gone.
        let _ = answer.map(|answer| answer.send(ended));
    }
}
