//! Retained messages on their way to a client that has subscribed.
//!
//! They are read after SUBACK, so that whatever was acknowledged before it is among them, or newer (K8). A client is handed
//! a piece when it has taken the last. What a persistent session gets above QoS 0 goes through its shard's queue.

use std::rc::Rc;

use super::core::Core;
use super::table::Source;
use super::wheel::Timed;
use crate::door::ToCluster;
use crate::limits::RETAINED_RETRY_TICKS;
use crate::message::{Message, QoS, SubscriptionOptions};
use crate::router::{Subscriber, Trie};
use crate::session::Reading;
use crate::shard::{Outcome, Place};

impl Core {
    /// Notes that a subscription was granted, whose SUBACK has `token`.
    pub(super) fn owe_retained(&mut self, timed: Timed, reading: Reading) {
        if let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) {
            session.readings.get_or_insert_default().push(reading);
        }
    }

    /// Sends what was last said in `$SYS` topics to who has just subscribed to them, as if it were retained. Each node tells
    /// of itself, so that no shard keeps it.
    pub(super) fn repeat_report(&mut self, timed: Timed, token: u32) {
        let session = self.table.get(timed).and_then(|connection| connection.session());
        let Some(readings) = session.and_then(|session| session.readings.as_ref()) else {
            return;
        };
        let told: Vec<Reading> =
            readings.after(token).filter(|reading| reading.filter.starts_with("$SYS/")).cloned().collect();
        for reading in told {
            let mut wanted = Trie::default();
            wanted.insert(&reading.filter, ());
            for at in 0..self.reported.len() {
                let mut matches = false;
                wanted.for_each_match(&self.reported[at].topic, |_, ()| matches = true);
                if matches {
                    self.deliver_retained(timed.0, self.reported[at].clone(), &reading.options);
                }
            }
        }
    }

    /// Asks for the next piece, if the client has taken all that there was.
    pub(super) fn read_retained(&mut self, timed: Timed) {
        let (slot, _) = timed;
        let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) else {
            return;
        };
        let idle = session.nothing_waits() && !session.is_held();
        let Some(readings) = &mut session.readings else {
            return;
        };
        if readings.is_empty() {
            session.readings = None;
            return;
        }
        if !idle || readings.to_ask().is_none() {
            return;
        }
        let token = self.token();
        let connection = self.id_of(slot);
        let session = self.table.get(timed).and_then(|connection| connection.session());
        let readings = session.and_then(|session| session.readings.as_mut());
        if let Some(reading) = readings.and_then(|readings| readings.to_ask()) {
            reading.asked = Some(token);
            let (filter, place) = (reading.filter.clone(), reading.place.clone());
            self.tell(ToCluster::ReadRetained { connection, token, filter, place });
        }
    }

    /// A piece has come.
    pub(super) fn retained(&mut self, timed: Timed, token: u32, messages: Vec<Message>, next: Option<Place>) {
        let (slot, _) = timed;
        let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) else {
            return;
        };
        // Out of the way: what is sent here is not newer than itself.
        let Some(mut readings) = session.readings.take() else {
            return;
        };
        let Some(reading) = readings.asked(token).cloned() else {
            session.readings = Some(readings);
            return;
        };
        let (client_id, epoch, persistent) =
            (session.terms.client_id.clone(), session.terms.epoch, session.terms.persistent);
        let mut queued = Vec::new();
        for message in messages {
            if readings.is_superseded(&message.topic) {
                continue;
            }
            if persistent && message.qos.min(reading.options.qos) > QoS::AtMostOnce {
                queued.push(message);
            } else {
                self.deliver_retained(slot, message, &reading.options);
            }
        }
        // Its shard knows what it is owed, and must hear of the end.
        let storing = persistent && reading.options.qos > QoS::AtMostOnce;
        if !storing {
            readings.go_on(token, next.clone());
        }
        if let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) {
            session.readings = Some(readings);
        }
        if storing {
            let (connection, filter) = (self.id_of(slot), reading.filter);
            self.tell(ToCluster::Enqueue { connection, token, client_id, epoch, filter, messages: queued, next });
        } else {
            self.read_retained(timed);
        }
        self.flush_soon();
    }

    /// The shard has put a piece into the session's queue, or has no room now.
    pub(super) fn enqueued(&mut self, timed: Timed, token: u32, outcome: Outcome) {
        let session = self.table.get(timed).and_then(|connection| connection.session());
        let Some(readings) = session.and_then(|session| session.readings.as_mut()) else {
            return;
        };
        let Some(reading) = readings.asked(token) else {
            return;
        };
        let stood = reading.place.clone();
        let again = match &outcome {
            Outcome::Owes(Some(place)) => *place == stood,
            Outcome::Refused(_) => true,
            _ => false,
        };
        match outcome {
            Outcome::Owes(place) => readings.go_on(token, place),
            Outcome::Refused(_) => readings.go_on(token, Some(stood)),
            // Somebody newer holds the client id, and goes on.
            _ => readings.go_on(token, None),
        }
        if again {
            let due = self.wheel.now() + RETAINED_RETRY_TICKS;
            self.retained_later.push_back((timed, due));
        } else {
            self.read_retained(timed);
        }
    }

    /// Called each tick: asks again for sessions whose queue had no room.
    pub(super) fn retry_retained(&mut self) {
        let now = self.wheel.now();
        while let Some((timed, _)) = self.retained_later.pop_front_if(|(_, due)| *due <= now) {
            self.read_retained(timed);
        }
    }

    /// With RETAIN set, whatever the subscription says ([MQTT-3.3.1-8]).
    fn deliver_retained(&mut self, slot: u32, message: Message, options: &SubscriptionOptions) {
        let now_ms = self.now_ms();
        let message = Rc::new(message);
        let Some(source) = Source::of(&message, now_ms) else {
            self.table.counters.dropped_expired += 1;
            return;
        };
        let source = Source { retain: true, ..source };
        let subscriber = Subscriber::new(slot, &SubscriptionOptions { retain_as_published: true, ..*options }, false);
        self.table.layouts.begin();
        self.table.deliver(&source, &message.topic, &subscriber, options.identifier.as_slice());
    }
}
