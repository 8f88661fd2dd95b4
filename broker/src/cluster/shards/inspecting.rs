//! What administrators ask about sessions and retained messages, of the leaders of all shards.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::ShardRooms;
use crate::cluster::retained_reads::Reader;
use crate::cluster::shard_client::Waiter;
use crate::cluster::shard_frames::ShardFrame;
use crate::identity::{ClientId, Origin, ShardId};
use crate::limits;
use crate::message::Message;
use crate::shard::{Command, Outcome, Page, Place, StoredSession};

/// A question that not every shard has answered.
pub(super) struct Inspection {
    after: Arc<str>,
    count: usize,
    outstanding: BTreeSet<ShardId>,
    found: Vec<StoredSession>,
    answer: oneshot::Sender<Vec<StoredSession>>,
}

/// Retained messages that are being gathered.
pub(super) struct Listing {
    filter: Arc<str>,
    count: usize,
    found: Vec<Message>,
    bytes: usize,
    answer: oneshot::Sender<Page>,
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
        self.delete(shard, Command::DeleteSession { client_id }, answer);
    }

    /// Ends a retained message, as a publish without a payload does ([MQTT-3.3.1-6]).
    pub(super) fn delete_retained(&self, topic: Arc<str>, answer: oneshot::Sender<bool>) {
        let shards = self.around.directory.shards();
        if shards == 0 {
            return;
        }
        let shard = ShardId::of_topic(&topic, shards);
        let end = Message { topic, retain: true, ..Message::default() };
        self.delete(shard, Command::Retain(end), answer);
    }

    fn delete(&self, shard: ShardId, command: Command, answer: oneshot::Sender<bool>) {
        let key = self.next_key.get();
        self.next_key.set(key + 1);
        self.deletions.borrow_mut().insert(key, answer);
        self.push(shard, command, Waiter::Deletion(key));
    }

    /// A shard has deleted something, or there was nothing.
    pub(super) fn deleted(&self, key: u64, outcome: &Outcome) {
        let answer = self.deletions.borrow_mut().remove(&key);
        let deleted = match outcome {
            Outcome::Done | Outcome::Stored(_) => true,
            Outcome::NotFound => false,
            // Whoever asked hears that there is no answer.
            _ => return,
        };
        // Whoever asked may have gone.
        let _ = answer.map(|answer| answer.send(deleted));
    }

    /// Reads retained messages as a subscriber does: shard by shard, from the one that `after` is in.
    pub(super) fn list_retained(
        &self,
        filter: Arc<str>,
        after: Option<Arc<str>>,
        count: usize,
        answer: oneshot::Sender<Page>,
    ) {
        let shards = self.around.directory.shards();
        let place = match &after {
            Some(topic) if shards > 0 => Place { shard: ShardId::of_topic(topic, shards), after },
            _ => Place::default(),
        };
        self.go_on_listing(place, Listing { filter, count, found: Vec::new(), bytes: 0, answer });
    }

    fn go_on_listing(&self, place: Place, listing: Listing) {
        let key = self.next_key.get();
        self.next_key.set(key + 1);
        let (reader, filter) = (Reader::Administrator(key), listing.filter.clone());
        let question = self.reads.borrow_mut().begin(reader, filter, place, self.around.directory.shards());
        // Without a cluster yet, whoever asked hears that there is no answer.
        let Some(question) = question else { return };
        self.listings.borrow_mut().insert(key, listing);
        self.ask_retained(question);
    }

    /// Some more have been read.
    pub(super) fn listed(&self, key: u64, messages: Vec<Message>, next: Option<Place>) {
        let Some(mut listing) = self.listings.borrow_mut().remove(&key) else { return };
        let room = listing.count - listing.found.len();
        let more = messages.len() > room || next.is_some();
        for message in messages.into_iter().take(room) {
            listing.bytes += message.topic.len() + message.payload.len() + message.properties.len();
            listing.found.push(message);
        }
        let full = listing.found.len() >= listing.count || listing.bytes >= limits::ADMIN_RETAINED_BYTES_MAX;
        if let Some(place) = next.filter(|_| !full) {
            return self.go_on_listing(place, listing);
        }
        let next = listing.found.last().filter(|_| more).map(|last| last.topic.clone());
        // Whoever asked may have gone.
        let _ = listing.answer.send(Page { messages: listing.found, next });
    }

    /// Called at intervals: who asked may have lost patience.
    pub(super) fn forget_listings(&self) {
        let mut listings = self.listings.borrow_mut();
        listings.retain(|_, listing| !listing.answer.is_closed());
        self.reads.borrow_mut().keep_administrators(|key| listings.contains_key(&key));
    }
}
