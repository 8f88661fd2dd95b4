//! CONNECT: refused here, or passed to the client's shard, whose answer makes a session.

use std::sync::Arc;

use rand::Rng;

use super::access::Identity;
use super::core::Core;
use super::lifetime::{CUT_OFF, Ending};
use super::wheel::{Timed, ticks};
use crate::auth::SCRAM_METHOD;
use crate::connection::{Pauses, State};
use crate::door::ToCluster;
use crate::message::Subscription;
use crate::protocol::{
    ConnAck, Connect, Glimpse, Packet, PropertiesBuilder, PropertyId, ReasonCode, Version, Why, encode_explained,
    glimpse,
};
use crate::session::{Awaited, AwaitedKind, Opening, Reading, Session, Terms, request};
use crate::shard::{Close, CloseCause, Open, Outcome, Place, Refusal};

impl Core {
    /// A client's CONNECT.
    pub(super) fn connect(&mut self, timed: Timed, connect: Connect<'_>) {
        let (slot, _) = timed;
        let refused = if self.draining.is_some() {
            Err(ReasonCode::USE_ANOTHER_SERVER.because("this node is being drained"))
        } else if !self.serving {
            Err(ReasonCode::SERVER_UNAVAILABLE.because(CUT_OFF))
        } else {
            request::check(&connect)
        };
        match refused.and_then(|()| self.identify(timed, &connect)) {
            Err(why) => self.refuse(slot, connect.version, why, request::packet_bytes_max(&connect)),
            Ok(Identity::Known(user)) => self.admit(timed, connect, user),
            Ok(Identity::Unproven(step)) => self.wait_for_proof(timed, connect, step),
        }
    }

    /// A CONNECT whose user is proven, or anonymous.
    pub(super) fn admit(&mut self, timed: Timed, connect: Connect<'_>, user: Option<Arc<str>>) {
        let (slot, _) = timed;
        if let Some(connection) = self.table.get(timed) {
            connection.user = user;
        }
        if let Some(will) = connect.will
            && !self.may_publish_as(timed, connect.client_id, will.topic)
        {
            let why = ReasonCode::NOT_AUTHORIZED.because("the client may not publish to the topic of its will");
            return self.refuse(slot, connect.version, why, request::packet_bytes_max(&connect));
        }
        let assigned = connect.client_id.is_empty();
        let client_id = match assigned {
            true => format!("auto-{:016x}{:016x}", self.random.random::<u64>(), self.random.random::<u64>()).into(),
            false => connect.client_id.into(),
        };
        let opening = request::opening(&connect, client_id, assigned, &self.table.limits);
        let open = Open {
            client_id: opening.client_id.clone(),
            connection: self.id_of(slot),
            clean_start: connect.clean_start,
            session_expiry_seconds: opening.session_expiry_seconds,
            receive_maximum: opening.receive_maximum,
            will: request::will(&connect, &opening.client_id),
        };
        if let Some(connection) = self.table.get(timed) {
            connection.state = State::Opening(Box::new(opening));
            connection.pauses.set(Pauses::OPENING);
        }
        self.tell(ToCluster::Open(open));
    }

    /// The shard's answer.
    pub(super) fn opened(&mut self, timed: Timed, outcome: Outcome) {
        let (slot, _) = timed;
        let Some(connection) = self.table.get(timed) else {
            return;
        };
        match std::mem::replace(&mut connection.state, State::Closing { shut: false }) {
            State::Opening(opening) => match outcome {
                Outcome::Opened { epoch, session_present, subscriptions, owed } => {
                    self.begin_session(timed, *opening, epoch, session_present, subscriptions, owed);
                }
                Outcome::Refused(Refusal::Quota) => {
                    let words = "the broker's disk is full, or it keeps as many sessions as it may";
                    let why = ReasonCode::QUOTA_EXCEEDED.because(words);
                    self.table.counters.refused_session_quota += 1;
                    self.refuse(slot, opening.version, why, opening.packet_bytes_max);
                }
                _ => {
                    let words = "no majority of the cluster answered, or the client id was taken over meanwhile";
                    let why = ReasonCode::SERVER_UNAVAILABLE.because(words);
                    self.refuse(slot, opening.version, why, opening.packet_bytes_max);
                }
            },
            State::Orphan(client_id) => {
                self.remove(slot);
                if let Outcome::Opened { epoch, .. } = outcome {
                    self.tell(ToCluster::Close(Close {
                        client_id: *client_id,
                        epoch,
                        cause: CloseCause::WithWill,
                        session_expiry_seconds: None,
                        sent_to: 0,
                    }));
                }
            }
            state => connection.state = state,
        }
    }

    fn begin_session(
        &mut self,
        timed: Timed,
        opening: Opening,
        epoch: u64,
        session_present: bool,
        subscriptions: Vec<Subscription>,
        owed: Vec<(Arc<str>, Place)>,
    ) {
        let (slot, _) = timed;
        let mut connack = Vec::new();
        self.accepted(timed, &opening, session_present).encode(opening.version, &mut connack);
        let persistent = opening.session_expiry_seconds > 0 || session_present;
        let keep_alive_seconds = opening.keep_alive_seconds;
        let mut session = Session::new(Terms {
            client_id: opening.client_id,
            epoch,
            version: opening.version,
            persistent,
            receive_maximum: opening.receive_maximum,
            packet_bytes_max: opening.packet_bytes_max,
            wants_words: opening.wants_words,
            session_expiry_seconds: opening.session_expiry_seconds,
            aliases_in_max: self.table.limits.topic_aliases_max,
            aliases_out_max: opening.aliases_out_max,
        });
        let client_id = session.terms.client_id.clone();
        let (subscriptions, denied): (Vec<_>, Vec<_>) = subscriptions
            .into_iter()
            .partition(|subscription| self.may_subscribe_as(timed, &client_id, &subscription.filter));
        self.withdraw(timed, client_id.clone(), epoch, denied);
        for subscription in subscriptions {
            self.route(slot, &client_id, persistent, &subscription);
            if let Some((filter, place)) = owed.iter().find(|(filter, _)| *filter == subscription.filter) {
                session.readings.get_or_insert_default().push(Reading {
                    filter: filter.clone(),
                    options: subscription.options,
                    place: place.clone(),
                    after: None,
                    asked: None,
                });
            }
            session.subscriptions.put(subscription);
        }
        self.table.counters.sessions += 1;
        // A session that goes on is told so once its messages find it here (K6).
        if !session.subscriptions.is_empty() && !self.is_settled() {
            let token = self.settle(slot);
            session.hold();
            session.awaited.push(Awaited {
                token,
                packet_id: 0,
                kind: AwaitedKind::Connack(connack),
                routes: self.routes_sent,
                settling: true,
                storing: false,
                codes: Vec::new(),
                filters: Vec::new(),
            });
            self.put_session(timed, session, keep_alive_seconds);
        } else {
            self.put_session(timed, session, keep_alive_seconds);
            self.greet(timed, &connack);
        }
    }

    fn put_session(&mut self, timed: Timed, session: Session, keep_alive_seconds: u16) {
        let now = self.wheel.now();
        let Some(connection) = self.table.get(timed) else {
            return;
        };
        connection.state = State::Open(Box::new(session));
        connection.heard = now;
        if keep_alive_seconds > 0 {
            connection.silence_ticks_max = ticks(u64::from(keep_alive_seconds) * 1500);
            let deadline = now + connection.silence_ticks_max;
            self.look_at_later(timed, deadline);
        }
    }

    /// Sends CONNACK; from now on the client is read.
    pub(super) fn greet(&mut self, timed: Timed, connack: &[u8]) {
        let (slot, _) = timed;
        let Some(connection) = self.table.get(timed) else {
            return;
        };
        let mut deliveries = Vec::new();
        if let Some(session) = connection.session() {
            deliveries = session.let_go();
        }
        if let Some(connection) = self.table.connections.get_mut(slot as usize) {
            connection.output.buffer(&mut self.table.spares).extend_from_slice(connack);
        }
        self.deliver(timed, deliveries);
        self.table.lift(timed, Pauses::OPENING);
        self.table.mark_dirty(slot);
        self.read_retained(timed);
        self.flush_soon();
    }

    /// CONNACK of a session that begins or goes on.
    fn accepted(&mut self, timed: Timed, opening: &Opening, session_present: bool) -> OwnedConnAck {
        let limits = self.table.limits.clone();
        let mut properties = PropertiesBuilder::new();
        if opening.version == Version::V5 {
            properties = properties
                .int(PropertyId::ReceiveMaximum, u32::from(limits.receive_maximum))
                .int(PropertyId::MaximumPacketSize, limits.packet_bytes_max);
            if limits.topic_aliases_max > 0 {
                properties = properties.int(PropertyId::TopicAliasMaximum, u32::from(limits.topic_aliases_max));
            }
            if opening.keep_alive_lowered {
                properties = properties.int(PropertyId::ServerKeepAlive, u32::from(opening.keep_alive_seconds));
            }
            if let Some(authentication) =
                self.table.get(timed).and_then(|connection| connection.rare.authentication.as_ref())
            {
                properties = properties
                    .text(PropertyId::AuthenticationMethod, SCRAM_METHOD)
                    .binary(PropertyId::AuthenticationData, authentication.last.as_bytes());
            }
            if opening.assigned {
                properties = properties.text(PropertyId::AssignedClientIdentifier, &opening.client_id);
            }
        }
        OwnedConnAck { session_present, properties }
    }

    /// Refuses a CONNECT whose client id was taken over before it was answered.
    pub(super) fn lose_opening(&mut self, timed: Timed, client_id: &str) {
        let opening = match self.table.get(timed).map(|connection| &connection.state) {
            Some(State::Opening(opening)) if *opening.client_id == *client_id => opening,
            _ => return,
        };
        let (version, packet_bytes_max) = (opening.version, opening.packet_bytes_max);
        let why = ReasonCode::SERVER_UNAVAILABLE.because("the client id was taken over meanwhile");
        self.refuse(timed.0, version, why, packet_bytes_max);
    }

    /// Refuses a CONNECT and ends the connection. The client may always be told in words ([MQTT-3.1.2-29]), within what it
    /// takes ([MQTT-3.2.2-19]).
    pub(super) fn refuse(&mut self, slot: u32, version: Version, why: impl Into<Why>, packet_bytes_max: u32) {
        let Why { reason, words } = why.into();
        self.table.counters.connects_refused += 1;
        if let Some(connection) = self.table.connections.get_mut(slot as usize) {
            let buffer = connection.output.buffer(&mut self.table.spares);
            encode_explained(buffer, words, packet_bytes_max, |properties, out| {
                ConnAck { session_present: false, reason, properties }.encode(version, out);
            });
            connection.state = State::Closing { shut: false };
        }
        self.linger(slot);
    }

    /// Refuses what should have been a CONNECT. The client is told only if it is certain which version it speaks, and in
    /// words only if it is known how much it takes.
    pub(super) fn refuse_unread(&mut self, slot: u32, bytes: &[u8], why: Why) {
        let unsupported = why.reason == ReasonCode::UNSUPPORTED_PROTOCOL_VERSION;
        match glimpse(bytes) {
            Some(Glimpse { level: 5.., packet_bytes_max }) => {
                self.refuse(slot, Version::V5, why, packet_bytes_max.unwrap_or(0));
            }
            // [MQTT-3.1.2-2] of 3.1.1
            Some(_) if unsupported => self.refuse(slot, Version::V3_1_1, why, 0),
            _ => self.close(slot, None, Ending::WithWill),
        }
    }
}

struct OwnedConnAck {
    session_present: bool,
    properties: PropertiesBuilder,
}

impl OwnedConnAck {
    fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let connack = ConnAck {
            session_present: self.session_present,
            reason: ReasonCode::SUCCESS,
            properties: self.properties.properties(),
        };
        Packet::ConnAck(connack).encode(version, out);
    }
}
