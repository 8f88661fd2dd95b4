//! How connections and their sessions end.

use super::core::Core;
use super::wheel::ticks;
use crate::connection::{Pauses, State, Stream};
use crate::door::{LoanEnd, ToCluster};
use crate::identity::ConnectionId;
use crate::message::Message;
use crate::protocol::{Disconnect, Packet, ReasonCode, Version, Why, encode_explained};
use crate::session::Session;
use crate::shard::{Close, CloseCause};

/// What clients of a node that is cut off are told.
pub(super) const CUT_OFF: &str = "this node does not reach a majority of the cluster";

/// How a session's connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// DISCONNECT 0x00, with the session expiry it may give.
    Normal(Option<u32>),
    /// DISCONNECT 0x04, with the session expiry it may give.
    DisconnectWithWill(Option<u32>),
    /// Anything else.
    WithWill,
    /// Its shard has ended it and need not be told.
    Evicted,
}

impl Core {
    /// Ends the session at `slot` and then its connection, telling a 5.0 client why. It may always be told in
    /// words ([MQTT-3.1.2-29]), within what it takes ([MQTT-3.14.2-3]).
    pub(super) fn close(&mut self, slot: u32, why: Option<Why>, ending: Ending) {
        let Some(connection) = self.table.connections.get_mut(slot as usize) else {
            return;
        };
        match std::mem::replace(&mut connection.state, State::Closing { shut: false }) {
            State::Open(session) => {
                if let Some(Why { reason, words }) = why
                    && session.terms.version == Version::V5
                    && !session.is_held()
                {
                    let buffer = connection.output.buffer(&mut self.table.spares);
                    encode_explained(buffer, words, session.terms.packet_bytes_max, |properties, out| {
                        Packet::Disconnect(Disconnect { reason, properties }).encode(Version::V5, out);
                    });
                }
                self.end_session(slot, *session, ending);
            }
            State::Opening(opening) => {
                connection.state = State::Orphan(Box::new(opening.client_id));
                connection.output.clear(&mut self.table.spares);
                connection.stream = Stream::Closed;
                connection.wake();
                return;
            }
            state @ (State::Closing { .. } | State::Orphan(..)) => {
                connection.state = state;
                return;
            }
            State::Connecting | State::Proving(_) => {}
        }
        self.linger(slot);
    }

    /// Ends every session of a node that is cut off, and its connection. 0x88 is for CONNACK only (table 2-6).
    pub(super) fn close_sessions(&mut self, ending: Ending) {
        let open = self.table.connections.iter().filter(|(_, connection)| matches!(connection.state, State::Open(_)));
        let slots: Vec<u32> = open.map(|(slot, _)| slot as u32).collect();
        let why = ReasonCode::USE_ANOTHER_SERVER.because(CUT_OFF);
        for slot in slots {
            self.close(slot, Some(why), ending);
        }
    }

    /// Lets the last packet leave, and the client close, for a while.
    pub(super) fn linger(&mut self, slot: u32) {
        let now = self.wheel.now();
        let deadline = now + ticks(self.table.limits.linger_ms);
        let Some(connection) = self.table.connections.get_mut(slot as usize) else {
            return;
        };
        connection.heard = now;
        connection.pauses = Pauses::default();
        connection.input = Default::default();
        let timed = (slot, connection.generation);
        if let Some(mut congestion) = connection.take_congestion() {
            self.table.release(&mut congestion);
        }
        self.look_at_later(timed, deadline);
        self.table.mark_dirty(slot);
        self.flush_soon();
    }

    /// Ends the session of a connection whose stream has ended or failed, and forgets the connection.
    pub(super) fn lost(&mut self, slot: u32) {
        self.close(slot, None, Ending::WithWill);
        let orphan = self
            .table
            .connections
            .get(slot as usize)
            .is_some_and(|connection| matches!(connection.state, State::Orphan(..)));
        if !orphan {
            self.remove(slot);
        }
    }

    /// Forgets a connection that has no session any more.
    pub(super) fn remove(&mut self, slot: u32) {
        let Some(mut connection) = self.table.connections.try_remove(slot as usize) else {
            return;
        };
        self.table.counters.connections -= 1;
        connection.output.clear(&mut self.table.spares);
        if let Some(mut congestion) = connection.take_congestion() {
            self.table.release(&mut congestion);
        }
        // Its task finds its place empty and ends.
        connection.wake();
    }

    /// Ends everything at once; nobody is told.
    pub(super) fn close_all(&mut self) {
        for connection in self.table.connections.drain() {
            connection.wake();
        }
    }

    fn end_session(&mut self, slot: u32, mut session: Session, ending: Ending) {
        self.table.counters.sessions -= 1;
        for subscription in session.subscriptions.iter() {
            self.unroute(slot, &session.terms.client_id, &subscription.filter);
        }
        let done = session.take_returned_loans().into_iter().map(|loan| (loan, LoanEnd::Done));
        self.table.loans.extend(done);
        for (message, loan) in session.take_unfinished() {
            match loan {
                Some(loan) => self.table.loans.push((loan, LoanEnd::Returned)),
                None => self.pass_on(Message::clone(&message)),
            }
        }
        let (cause, session_expiry_seconds) = match ending {
            Ending::Normal(session_expiry_seconds) => (CloseCause::Normal, session_expiry_seconds),
            Ending::WithWill => (CloseCause::WithWill, None),
            Ending::DisconnectWithWill(session_expiry_seconds) => (CloseCause::WithWill, session_expiry_seconds),
            Ending::Evicted => return,
        };
        let connection = self.id_of(slot);
        if let Some(acknowledge) = acknowledge(connection, &mut session) {
            self.tell(acknowledge);
        }
        self.tell(ToCluster::Close(Close {
            client_id: session.terms.client_id.clone(),
            epoch: session.terms.epoch,
            cause,
            session_expiry_seconds,
            sent_to: session.sent_to(),
        }));
        // The client may come back, to another worker, as soon as it sees this end or is told of it: what it has
        // acknowledged goes first.
        self.send_to_cluster();
    }
}

/// What the client of a persistent session has acknowledged since this was last asked.
pub(super) fn acknowledge(connection: ConnectionId, session: &mut Session) -> Option<ToCluster> {
    let acks = session.take_acks();
    (!acks.is_empty()).then(|| ToCluster::Acknowledge {
        connection,
        client_id: session.terms.client_id.clone(),
        epoch: session.terms.epoch,
        acks,
    })
}
