//! The rules of one connected session, as a pure state machine: packet ids, in-flight windows, what waits for whom.
//!
//! An ephemeral session is all here and ends with its connection. Of a persistent one this is the thin end: its queue
//! and its subscriptions live in its shard, and only what is effectively QoS 0 is served from here. Deliberately absent:
//! sockets, clocks, encodings, and the fan-out.

mod aliases;
mod backlog;
mod exchanges;
mod lent;
mod readings;
mod receipts;
pub mod request;
mod subscriptions;
mod window;

use std::rc::Rc;
use std::sync::Arc;

use crate::identity::ClientId;
use crate::message::{Message, QoS};
use crate::protocol::{ReasonCode, Version, Why, Words};
use crate::seldom::{Nothing, Seldom};
use crate::shard::{Ack, Delivery};
use crate::share::Loan;

pub use aliases::{Aliases, TopicAlias};
pub use backlog::{Backlog, BacklogBounds, Identifiers, Waiting};
pub use exchanges::{Begun, Exchanges};
use lent::Lent;
pub use readings::{Reading, Readings};
pub use receipts::Receipts;
pub use request::Opening;
pub use subscriptions::{Awaited, AwaitedKind, Subscriptions};
pub use window::Window;

/// Bytes that a topic alias adds to a PUBLISH at most: itself, and two lengths that may need one more.
const ALIAS_BYTES_MAX: usize = 5;

/// What CONNECT and its answer have settled.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The client id.
    pub client_id: ClientId,
    /// Fences what this connection says to the shard.
    pub epoch: u64,
    /// Of the protocol.
    pub version: Version,
    /// The session outlives its connection.
    pub persistent: bool,
    /// How many unacknowledged messages the client takes at once.
    pub receive_maximum: u16,
    /// The largest packet the client takes, in bytes.
    pub packet_bytes_max: u32,
    /// It wants to hear in words what is wrong ([MQTT-3.1.2-29]).
    pub wants_words: bool,
    /// Seconds the session outlives its connection.
    pub session_expiry_seconds: u32,
    /// The highest topic alias that the client may give.
    pub aliases_in_max: u16,
    /// The highest that it takes.
    pub aliases_out_max: u16,
}

/// A session while it is connected.
#[derive(Debug)]
pub struct Session {
    /// What CONNECT and its answer have settled.
    pub terms: Terms,
    /// Its subscriptions on this worker.
    pub subscriptions: Subscriptions,
    /// What it published and the broker has not acknowledged.
    pub receipts: Receipts,
    /// SUBSCRIBE and UNSUBSCRIBE that are not answered yet.
    pub awaited: Seldom<Vec<Awaited>>,
    /// Retained messages that it is still to be sent.
    pub readings: Option<Box<Readings>>,
    /// What most sessions never have.
    pub rare: Seldom<Rare>,
    /// CONNACK has not been sent: the client's subscriptions are still on their way to every node (K6).
    held: Option<Box<Held>>,
    window: Window,
    backlog: Option<Box<Backlog>>,
}

// One for every client: a size of the allocator. A field more makes it the next, 192 bytes.
const _: () = assert!(size_of::<Session>() <= 160);

/// What most sessions never have.
#[derive(Debug, Default)]
pub struct Rare {
    /// What it published at QoS 2 and has not released.
    pub exchanges: Seldom<Exchanges>,
    acks: Vec<Ack>,
    lent: Option<Box<Lent>>,
    /// Loans that the client has acknowledged.
    returned: Vec<Loan>,
    aliases: Option<Box<Aliases>>,
}

impl Nothing for Rare {
    const NOTHING: &'static Self =
        &Rare { exchanges: Seldom::NONE, acks: Vec::new(), lent: None, returned: Vec::new(), aliases: None };

    fn nothing() -> Self {
        Rare::default()
    }
}

/// Deliveries that came before CONNACK was sent.
#[derive(Debug, Default)]
struct Held(Vec<Delivery>);

/// What becomes of a message for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Send it now, under this packet id if it has one.
    Send(Option<u16>),
    /// It must wait: [`Session::wait`].
    Wait,
}

impl Session {
    /// A session on these terms.
    pub fn new(terms: Terms) -> Session {
        Session {
            terms,
            subscriptions: Subscriptions::default(),
            receipts: Receipts::default(),
            awaited: Seldom::NONE,
            readings: None,
            rare: Seldom::NONE,
            held: None,
            window: Window::default(),
            backlog: None,
        }
    }

    /// Sends nothing to the client until [`Session::let_go`].
    pub fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// Whether nothing may be sent yet, CONNACK neither.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Keeps deliveries if the session is held; gives them back if it isn't.
    pub fn hold_back(&mut self, deliveries: Vec<Delivery>) -> Option<Vec<Delivery>> {
        match &mut self.held {
            None => Some(deliveries),
            Some(held) => {
                held.0.extend(deliveries);
                None
            }
        }
    }

    /// The highest queue number that was held back; 0 for none.
    pub fn held_to(&self) -> u64 {
        self.held.as_ref().and_then(|held| held.0.last()).map_or(0, |delivery| delivery.seq)
    }

    /// CONNACK is sent: gives what was held back.
    pub fn let_go(&mut self) -> Vec<Delivery> {
        self.held.take().map(|held| held.0).unwrap_or_default()
    }

    /// Whether a message may be sent now; `room` says whether the connection's output takes it. Takes a packet id if so.
    pub fn admit(&mut self, qos: QoS, room: bool) -> Admission {
        let behind = self.backlog.as_ref().is_some_and(|backlog| backlog.precedes(qos));
        if !room || behind || self.is_held() {
            return Admission::Wait;
        }
        match qos {
            QoS::AtMostOnce => Admission::Send(None),
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                if self.window.has_room(self.terms.receive_maximum) {
                    Admission::Send(Some(self.window.send(qos)))
                } else {
                    Admission::Wait
                }
            }
        }
    }

    /// Keeps a message until it can be sent; returns how many were dropped for it, and itself if it is among them.
    pub fn wait(&mut self, waiting: Waiting, bounds: BacklogBounds) -> (u64, Option<Waiting>) {
        self.backlog.get_or_insert_default().push(waiting, bounds)
    }

    /// Takes the next message that waits and may be sent now, with its packet id.
    pub fn next_waiting(&mut self) -> Option<(Waiting, Option<u16>)> {
        if self.is_held() {
            return None;
        }
        let backlog = self.backlog.as_mut()?;
        let room = self.window.has_room(self.terms.receive_maximum);
        let Some(next) = backlog.pop(room) else {
            if backlog.is_empty() {
                self.backlog = None;
            }
            return None;
        };
        let packet_id = (next.qos != QoS::AtMostOnce).then(|| self.window.send(next.qos));
        if let (Some(packet_id), true) = (packet_id, next.message.recipient.is_some()) {
            self.lend(packet_id, next.qos, &next.message, next.loan);
        }
        Some((next, packet_id))
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.bytes())
    }

    /// Messages that wait.
    pub fn waiting_items(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.len())
    }

    /// Whether nothing waits.
    pub fn nothing_waits(&self) -> bool {
        self.backlog.as_ref().is_none_or(|backlog| backlog.is_empty())
    }

    /// Whether something waits that may be sent as soon as the connection's output takes it.
    pub fn may_send_waiting(&self) -> bool {
        let room = self.window.has_room(self.terms.receive_maximum);
        !self.is_held() && self.backlog.as_ref().is_some_and(|backlog| backlog.has_next(room))
    }

    /// Takes a delivery of the persistent queue; gives its packet id. `None` if this connection has sent it before.
    pub fn deliver(&mut self, delivery: &Delivery) -> Option<u16> {
        let packet_id = self.window.send_numbered(delivery.seq, delivery.message.qos)?;
        if delivery.received {
            self.window.receive(packet_id);
        }
        Some(packet_id)
    }

    /// A delivery that is not sent after all (expired, too large), or that the client refused with its PUBREC: over.
    /// False if nothing of that id is in flight.
    pub fn give_up(&mut self, packet_id: u16) -> bool {
        let number = self.window.give_up(packet_id);
        self.is_returned(packet_id);
        self.note(number.map(Ack::Done))
    }

    /// PUBACK of the client. False if nothing of that id is in flight at QoS 1.
    pub fn acknowledge(&mut self, packet_id: u16) -> bool {
        let number = self.window.acknowledge(packet_id);
        self.is_returned(packet_id);
        self.note(number.map(Ack::Done))
    }

    /// The topic that a PUBLISH of the client names by an alias, or gives one; `topic` is empty if it is not named otherwise.
    ///
    /// # Errors
    /// 0x94 for an alias that the client may not give ([MQTT-3.3.2-9]); 0x82 for one that stands for nothing.
    pub fn resolve_alias(&mut self, alias: u32, topic: &str) -> Result<Arc<str>, Why> {
        let alias = u16::try_from(alias).ok().filter(|alias| (1..=self.terms.aliases_in_max).contains(alias));
        let Some(alias) = alias else {
            let words =
                Words::with("a topic alias is above {}, the Topic Alias Maximum here", self.terms.aliases_in_max);
            return Err(ReasonCode::TOPIC_ALIAS_INVALID.because(words));
        };
        if topic.is_empty() {
            let known = self.rare.aliases.as_ref().and_then(|aliases| aliases.topic(alias));
            return known.ok_or(ReasonCode::PROTOCOL_ERROR.because("a topic alias was not given a topic before"));
        }
        let topic: Arc<str> = topic.into();
        self.rare.aliases.get_or_insert_default().learn(alias, topic.clone());
        Ok(topic)
    }

    /// How a PUBLISH of `bytes` bytes to the client names its topic, other than by its name alone.
    pub fn name_topic(&mut self, topic: &str, bytes: usize) -> Option<TopicAlias> {
        let maximum = self.terms.aliases_out_max;
        if maximum == 0 {
            return None;
        }
        let fits = bytes + ALIAS_BYTES_MAX <= self.terms.packet_bytes_max as usize;
        self.rare.aliases.get_or_insert_default().name(topic, maximum, fits)
    }

    /// Keeps a message of a shared subscription that was sent under this packet id, in case the client goes without having
    /// acknowledged it. One of QoS 2 goes to nobody else once it was sent ([MQTT-4.8.2-5]).
    pub fn lend(&mut self, packet_id: u16, qos: QoS, message: &Rc<Message>, loan: Option<Loan>) {
        if qos == QoS::AtLeastOnce {
            self.rare.lent.get_or_insert_default().put(packet_id, message.clone(), loan);
        }
    }

    /// Whether [`Session::take_returned_loans`] gives any.
    pub fn has_returned_loans(&self) -> bool {
        !self.rare.returned.is_empty()
    }

    /// The loans that the client has acknowledged since this was last asked.
    pub fn take_returned_loans(&mut self) -> Vec<Loan> {
        self.rare.if_any().map(|rare| std::mem::take(&mut rare.returned)).unwrap_or_default()
    }

    /// What the client leaves of shared subscriptions: somebody else's, in the order it was for this one.
    pub fn take_unfinished(&mut self) -> Vec<(Rc<Message>, Option<Loan>)> {
        let lent = self.rare.if_any().and_then(|rare| rare.lent.take());
        let mut unfinished = lent.map(|lent| lent.into_messages()).unwrap_or_default();
        if let Some(backlog) = &mut self.backlog {
            unfinished.extend(backlog.take_shared());
        }
        unfinished
    }

    /// PUBREC of the client. False if nothing of that id is in flight at QoS 2. PUBREL may follow at once for an
    /// ephemeral session; for a persistent one when its shard has stored this, or a failure would bring the message
    /// again to a client that has forgotten it ([MQTT-4.3.3-6]).
    pub fn receive(&mut self, packet_id: u16) -> bool {
        let number = self.window.receive(packet_id);
        self.note(number.map(Ack::Received))
    }

    /// The shard has stored that the client has received this number: the packet id to release, if it still is to be.
    pub fn release(&self, number: u64) -> Option<u16> {
        self.window.is_received(number).then(|| Delivery::packet_id(number))
    }

    /// PUBCOMP of the client. False if nothing of that id waits for it.
    pub fn complete(&mut self, packet_id: u16) -> bool {
        let number = self.window.complete(packet_id);
        self.note(number.map(Ack::Completed))
    }

    fn is_returned(&mut self, packet_id: u16) {
        if let Some(rare) = self.rare.if_any()
            && let Some(lent) = &mut rare.lent
        {
            rare.returned.extend(lent.remove(packet_id));
            if lent.is_empty() {
                rare.lent = None;
            }
        }
    }

    fn note(&mut self, ack: Option<Ack>) -> bool {
        if self.terms.persistent
            && let Some(ack) = ack
        {
            self.rare.acks.push(ack);
        }
        ack.is_some()
    }

    /// What the client acknowledged of its persistent queue since this was last asked.
    pub fn take_acks(&mut self) -> Vec<Ack> {
        self.rare.if_any().map(|rare| std::mem::take(&mut rare.acks)).unwrap_or_default()
    }

    /// The highest queue number sent on this connection; 0 for none, and for an ephemeral session.
    pub fn sent_to(&self) -> u64 {
        if self.terms.persistent { self.window.sent_to() } else { 0 }
    }
}

#[cfg(test)]
mod tests;
