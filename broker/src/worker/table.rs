//! The connections of one worker, and how a message gets to one of them.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use slab::Slab;

use super::counters::Counters;
use super::wheel::Timed;
use crate::connection::{Congestion, Connection, Content, Form, Layouts, Pauses, Payload, Spares, State, packet_bytes};
use crate::door::LoanEnd;
use crate::limits::ClientLimits;
use crate::message::{Message, QoS};
use crate::router::Subscriber;
use crate::session::{Admission, BacklogBounds, Identifiers, Session, Waiting};
use crate::share::Loan;

/// The connections of one worker, and what writing to them needs.
pub(super) struct Table {
    pub(super) connections: Slab<Box<Connection>>,
    pub(super) limits: ClientLimits,
    pub(super) counters: Counters,
    pub(super) layouts: Layouts,
    pub(super) spares: Spares,
    /// Connections to flush this turn.
    pub(super) dirty: Vec<u32>,
    /// Receivers that don't keep up, and since which tick.
    pub(super) congested: Vec<(Timed, u32)>,
    /// The tick it is.
    pub(super) tick: u32,
    /// A receiver of the message being delivered wants its publisher to wait.
    pub(super) publisher_must_wait: bool,
    /// What became of loans, until the end of this turn.
    pub(super) loans: Vec<(Loan, LoanEnd)>,
}

/// A message being delivered.
pub(super) struct Source<'m> {
    pub(super) content: Content<'m>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) expires_at_ms: Option<u64>,
    /// The connection that published it on this worker: slot and generation.
    pub(super) publisher: Option<Timed>,
    pub(super) publisher_id: &'m Arc<str>,
    /// It is for a member of a shared subscription, and in [`Source::kept`] says so.
    pub(super) shared: bool,
    /// A shard has lent it to that member.
    pub(super) loan: Option<Loan>,
    /// The message in a form that can be kept, once somebody needs it.
    pub(super) kept: OnceCell<Rc<Message>>,
}

impl<'m> Source<'m> {
    /// A whole message, for whom it is for here; `None` if it has expired.
    pub(super) fn of(message: &'m Rc<Message>, now_ms: u64) -> Option<Source<'m>> {
        Some(Source {
            content: content_of(message, now_ms)?,
            qos: message.qos,
            retain: message.retain,
            expires_at_ms: message.expires_at_ms,
            publisher: None,
            publisher_id: &message.publisher,
            shared: false,
            loan: None,
            kept: OnceCell::from(message.clone()),
        })
    }
}

impl Source<'_> {
    /// The message in a form that can be kept; `topic` is its topic, shared.
    pub(super) fn keep(&self, topic: &Arc<str>) -> &Rc<Message> {
        self.kept.get_or_init(|| {
            Rc::new(Message {
                topic: topic.clone(),
                payload: match self.content.payload {
                    Payload::Copied(payload) => Bytes::copy_from_slice(payload),
                    Payload::Shared(payload) => payload.clone(),
                },
                qos: self.qos,
                retain: self.retain,
                properties: Bytes::copy_from_slice(self.content.properties),
                expires_at_ms: self.expires_at_ms,
                publisher: self.publisher_id.clone(),
                recipient: None,
            })
        })
    }

    fn is_from(&self, slot: u32, client_id: &Arc<str>) -> bool {
        match self.publisher {
            Some((publisher, _)) => publisher == slot,
            None => self.publisher_id == client_id,
        }
    }
}

impl Table {
    pub(super) fn new(limits: ClientLimits) -> Table {
        Table {
            connections: Slab::new(),
            limits,
            counters: Counters::default(),
            layouts: Layouts::default(),
            spares: Spares::default(),
            dirty: Vec::new(),
            congested: Vec::new(),
            tick: 0,
            publisher_must_wait: false,
            loans: Vec::new(),
        }
    }

    /// The connection at `slot` if it is still that one.
    pub(super) fn get(&mut self, (slot, generation): Timed) -> Option<&mut Connection> {
        self.connections
            .get_mut(slot as usize)
            .map(|connection| &mut **connection)
            .filter(|connection| connection.generation == generation)
    }

    /// Notes that `slot` has something to flush.
    pub(super) fn mark_dirty(&mut self, slot: u32) {
        if let Some(connection) = self.connections.get_mut(slot as usize)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Delivers to one subscriber, whose subscriptions that match are `subscriber`, merged, and `identifiers`. True if
    /// the message was for it.
    pub(super) fn deliver(
        &mut self,
        source: &Source<'_>,
        topic: &Arc<str>,
        subscriber: &Subscriber,
        identifiers: &[u32],
    ) -> bool {
        let slot = subscriber.slot;
        let qos = source.qos.min(subscriber.qos);
        if subscriber.persistent && qos > QoS::AtMostOnce {
            return false;
        }
        let Some(connection) = self.connections.get_mut(slot as usize) else {
            return false;
        };
        let State::Open(session) = &mut connection.state else {
            return false;
        };
        if subscriber.no_local && source.is_from(slot, &session.terms.client_id) {
            return false;
        }
        if source.retain
            && let Some(readings) = &mut session.readings
        {
            readings.note(topic);
        }
        let retain = subscriber.retain_as_published && source.retain;
        let mut form =
            Form { version: session.terms.version, qos, packet_id: 0, retain, dup: false, identifiers, alias: None };
        if session.terms.packet_bytes_max != u32::MAX
            && packet_bytes(&source.content, &form) > session.terms.packet_bytes_max as usize
        {
            self.counters.dropped_too_large += 1;
            self.loans.extend(source.loan.map(|loan| (loan, LoanEnd::Done)));
            return true;
        }
        let room = connection.output.len() < self.limits.output_bytes_max
            || make_room(connection, &mut self.spares, &mut self.counters, self.limits.output_bytes_max);
        let State::Open(session) = &mut connection.state else {
            return false;
        };
        match session.admit(qos, room) {
            Admission::Send(packet_id) => {
                form.packet_id = packet_id.unwrap_or(0);
                if source.shared {
                    session.lend(form.packet_id, qos, source.keep(topic), source.loan);
                }
                name_topic(session, &source.content, &mut form);
                self.layouts.append(&source.content, &form, &mut connection.output, &mut self.spares);
                self.counters.messages_sent += 1;
                if !connection.dirty {
                    connection.dirty = true;
                    self.dirty.push(slot);
                }
            }
            Admission::Wait => {
                let waiting = Waiting {
                    message: source.keep(topic).clone(),
                    qos,
                    retain,
                    identifiers: Identifiers::from_slice(identifiers),
                    loan: source.loan,
                };
                let bounds = BacklogBounds {
                    items_max: self.limits.waiting_items_max,
                    bytes_max: self.limits.waiting_bytes_max,
                };
                let (dropped, refused) = session.wait(waiting, bounds);
                let unwanted = refused.and_then(|waiting| waiting.loan);
                // Who lent it has it still.
                self.counters.dropped_slow_client += dropped - u64::from(unwanted.is_some());
                self.loans.extend(unwanted.map(|loan| (loan, LoanEnd::Unwanted)));
                if session.waiting_bytes() > bounds.bytes_max / 2 || session.waiting_items() > bounds.items_max / 2 {
                    self.congest(slot, source.publisher);
                }
            }
        }
        true
    }

    /// Whether a subscriber asked not to be sent what its own client published.
    pub(super) fn is_echo(&self, source: &Source<'_>, subscriber: &Subscriber) -> bool {
        subscriber.no_local
            && self.connections.get(subscriber.slot as usize).is_some_and(|connection| {
                matches!(&connection.state, State::Open(session)
                    if source.is_from(subscriber.slot, &session.terms.client_id))
            })
    }

    /// Lets the publisher wait for the receiver at `slot`, unless that one had its moment.
    fn congest(&mut self, slot: u32, publisher: Option<Timed>) {
        let Some(connection) = self.connections.get_mut(slot as usize) else {
            return;
        };
        if connection.rare.congestion.is_none() {
            self.congested.push(((slot, connection.generation), self.tick));
        }
        let congestion = connection.rare.congestion.get_or_insert_default();
        if let Some(publisher) = publisher
            && !congestion.slow
        {
            if congestion.publishers.last() != Some(&publisher) {
                congestion.publishers.push(publisher);
            }
            self.publisher_must_wait = true;
        }
    }

    /// Lets publishers go on that waited for the receiver at `slot`.
    pub(super) fn release(&mut self, congestion: &mut Congestion) {
        for publisher in std::mem::take(&mut congestion.publishers) {
            self.lift(publisher, Pauses::RECEIVER);
        }
    }

    /// Lifts a pause; wakes the connection if it was the last.
    pub(super) fn lift(&mut self, which: Timed, reason: u8) {
        if let Some(connection) = self.get(which)
            && connection.pauses.lift(reason)
        {
            connection.wake();
        }
    }

    /// Whether something waits for the client at `slot`.
    pub(super) fn something_waits(&self, slot: u32) -> bool {
        self.connections
            .get(slot as usize)
            .is_some_and(|connection| matches!(&connection.state, State::Open(session) if !session.nothing_waits()))
    }

    /// Moves what waits and may be sent now into the output of `slot`, as far as it takes it.
    pub(super) fn pump(&mut self, slot: u32, now_ms: u64) {
        let Some(connection) = self.connections.get_mut(slot as usize) else {
            return;
        };
        let Connection { state, output, .. } = &mut **connection;
        let State::Open(session) = state else {
            return;
        };
        while output.len() < self.limits.output_bytes_max {
            let Some((waiting, packet_id)) = session.next_waiting() else {
                return;
            };
            let message = &*waiting.message;
            let Some(content) = content_of(message, now_ms) else {
                self.counters.dropped_expired += 1;
                if let Some(packet_id) = packet_id {
                    session.give_up(packet_id);
                }
                continue;
            };
            let mut form = Form {
                version: session.terms.version,
                qos: waiting.qos,
                packet_id: packet_id.unwrap_or(0),
                retain: waiting.retain,
                dup: false,
                identifiers: &waiting.identifiers,
                alias: None,
            };
            name_topic(session, &content, &mut form);
            self.layouts.begin();
            self.layouts.append(&content, &form, output, &mut self.spares);
            self.counters.messages_sent += 1;
        }
    }
}

/// Lets an alias stand for the topic, if the client takes any.
pub(super) fn name_topic(session: &mut Session, content: &Content<'_>, form: &mut Form<'_>) {
    if session.terms.aliases_out_max > 0 {
        form.alias = session.name_topic(content.topic, packet_bytes(content, form));
    }
}

/// What is sent of a kept message; `None` once it has expired ([MQTT-3.3.2-5]).
pub(super) fn content_of(message: &Message, now_ms: u64) -> Option<Content<'_>> {
    let expiry_seconds = match message.expires_at_ms {
        None => None,
        Some(at_ms) => {
            let left_ms = at_ms.checked_sub(now_ms).filter(|left_ms| *left_ms > 0)?;
            // To the nearest second: rounded up, a clock that is a little behind would make it longer ([MQTT-3.3.2-6]).
            Some(u32::try_from((left_ms + 500) / 1000).unwrap_or(u32::MAX).max(1))
        }
    };
    Some(content(message, expiry_seconds))
}

/// What is sent of a message that has expired since it was first sent.
pub(super) fn expired_content_of(message: &Message) -> Content<'_> {
    content(message, message.expires_at_ms.map(|_| 0))
}

fn content(message: &Message, expiry_seconds: Option<u32>) -> Content<'_> {
    Content {
        topic: &message.topic,
        properties: &message.properties,
        expiry_seconds,
        payload: Payload::of(&message.payload),
    }
}

/// Writes in the middle of a turn, so that a burst to a client that keeps up needs no more memory than one turn's output.
#[cold]
fn make_room(connection: &mut Connection, spares: &mut Spares, counters: &mut Counters, bytes_max: usize) -> bool {
    if connection.blocked {
        return false;
    }
    let waker = connection.waker.clone().unwrap_or(Waker::noop().clone());
    let mut context = Context::from_waker(&waker);
    // An error shows again when the turn's flush writes.
    if let Ok(count) = connection.output.write_to(&mut connection.stream, &mut context, spares) {
        counters.bytes_sent += count as u64;
    }
    connection.blocked = !connection.output.is_empty() || connection.stream.unflushed();
    connection.output.len() < bytes_max
}
