//! What a client's packets do, in the order a PUBLISH is checked. CONNECT and SUBSCRIBE have files of their own.

use std::cell::OnceCell;

use bytes::Bytes;

use super::core::Core;
use super::exactly_once::acknowledgement;
use super::fanout::Reach;
use super::lifetime::{CUT_OFF, Ending};
use super::table::Source;
use super::wheel::Timed;
use crate::connection::{Content, Pauses, Payload, State};
use crate::door::ToCluster;
use crate::limits::{SESSION_EXCHANGES_MAX, SHARED_PAYLOAD_BYTES_MIN};
use crate::message::QoS;
use crate::protocol::{
    Acknowledgement, Disconnect, Packet, PacketType, Properties, PropertyId, ProtocolError, Publish, ReasonCode,
    Version, Why, Words, encode_explained,
};
use crate::session::{Begun, Session};

impl Core {
    /// Processes one packet. `whole` owns the packet's bytes if they came in a buffer of their own.
    pub(super) fn packet(&mut self, timed: Timed, packet: Packet<'_>, whole: Option<&Bytes>) {
        let (slot, _) = timed;
        let opened = self.table.get(timed).is_some_and(|connection| connection.session().is_some());
        match packet {
            Packet::Connect(connect) if !opened => self.connect(timed, connect),
            Packet::Auth(auth) => self.authenticate(timed, auth),
            // [MQTT-3.1.0-1]
            _ if !opened => self.lost(slot),
            Packet::Publish(publish) => self.publish(timed, publish, whole),
            Packet::PubAck(acknowledgement) => self.puback(timed, acknowledgement),
            Packet::Subscribe(subscribe) => self.subscribe(timed, subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(timed, unsubscribe),
            Packet::PingReq => self.send(slot, Packet::PingResp),
            Packet::Disconnect(disconnect) => self.disconnect(timed, disconnect),
            Packet::PubRec(acknowledgement) => self.pubrec(timed, acknowledgement),
            Packet::PubRel(acknowledgement) => self.pubrel(timed, acknowledgement.packet_id),
            Packet::PubComp(acknowledgement) => self.pubcomp(timed, acknowledgement.packet_id),
            // [MQTT-3.1.0-2]
            Packet::Connect(_) => self.break_off(slot, ReasonCode::PROTOCOL_ERROR.because("a second CONNECT")),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                self.break_off(slot, ReasonCode::PROTOCOL_ERROR.because("a packet that only servers send"));
            }
        }
    }

    /// Appends a packet to a client's output.
    pub(super) fn send(&mut self, slot: u32, packet: Packet<'_>) {
        if let Some(connection) = self.table.connections.get_mut(slot as usize)
            && let State::Open(session) = &connection.state
        {
            let version = session.terms.version;
            packet.encode(version, connection.output.buffer(&mut self.table.spares));
            self.table.mark_dirty(slot);
            self.flush_soon();
        }
    }

    /// Appends an answer, with words if the client wants any ([MQTT-3.1.2-29]) and takes so much.
    pub(super) fn send_explained(
        &mut self,
        slot: u32,
        words: Words,
        encode: impl Fn(Version, Properties<'_>, &mut Vec<u8>),
    ) {
        if let Some(connection) = self.table.connections.get_mut(slot as usize)
            && let State::Open(session) = &connection.state
        {
            let terms = &session.terms;
            let words = if terms.wants_words { words } else { Words::default() };
            let buffer = connection.output.buffer(&mut self.table.spares);
            encode_explained(buffer, words, terms.packet_bytes_max, |properties, out| {
                encode(terms.version, properties, out);
            });
            self.table.mark_dirty(slot);
            self.flush_soon();
        }
    }

    /// Ends a connection whose client broke a rule.
    pub(super) fn break_off(&mut self, slot: u32, why: impl Into<Why>) {
        let why = why.into();
        self.table.counters.protocol_errors += 1;
        self.table.counters.ended(why.reason);
        self.close(slot, Some(why), Ending::WithWill);
    }

    /// Ends a connection whose bytes are no packet.
    pub(super) fn malformed(&mut self, timed: Timed, bytes: &[u8], error: ProtocolError) {
        let (slot, _) = timed;
        let connecting = self.table.get(timed).is_some_and(|connection| matches!(connection.state, State::Connecting));
        tracing::debug!(worker = self.index, slot, %error, "malformed packet");
        let why = match error.reason {
            ReasonCode::PACKET_TOO_LARGE => {
                let words = "the packet has more than {} bytes, the Maximum Packet Size here";
                error.reason.because(Words::with(words, self.table.limits.packet_bytes_max))
            }
            _ => error.into(),
        };
        if connecting {
            self.table.counters.protocol_errors += 1;
            self.table.counters.ended(why.reason);
            self.refuse_unread(slot, bytes, why);
        } else {
            self.break_off(slot, why);
        }
    }

    fn publish(&mut self, timed: Timed, publish: Publish<'_>, whole: Option<&Bytes>) {
        let (slot, _) = timed;
        self.table.counters.messages_received += 1;
        let receive_maximum = usize::from(self.table.limits.receive_maximum);
        let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) else {
            return;
        };
        let aliased;
        let mut publish = publish;
        if !publish.properties.is_empty()
            && let Some(alias) = publish.properties.int(PropertyId::TopicAlias)
        {
            match session.resolve_alias(alias, publish.topic) {
                Ok(topic) => aliased = topic,
                Err(why) => return self.break_off(slot, why),
            }
            publish.topic = &aliased;
        }
        // A repetition is no second message, whatever else it says.
        if publish.qos == QoS::ExactlyOnce {
            match session.rare.exchanges.find(publish.packet_id) {
                Begun::New => {}
                begun => return self.repeated(slot, publish.packet_id, begun),
            }
        }
        if let Err(why) = permit(session, &publish, receive_maximum) {
            return self.break_off(slot, why);
        }
        if !self.serving {
            return self.refuse_publish(slot, &publish);
        }
        let (persistent, publisher_id) = (session.terms.persistent, session.terms.client_id.clone());
        let epoch = session.terms.epoch;
        let version = session.terms.version;
        // What `$SYS` reports is the broker's own.
        let permitted = !publish.topic.starts_with("$SYS/") && self.may_publish(timed, publish.topic);
        let once = permitted && publish.qos == QoS::ExactlyOnce && persistent && !self.forgets_exchanges;
        let mut properties = Vec::new();
        let mut expiry_seconds = None;
        if !publish.properties.is_empty() {
            publish.properties.forwarded_into(&mut properties);
            expiry_seconds = publish.properties.int(PropertyId::MessageExpiryInterval);
        }
        let expires_at_ms = expiry_seconds.map(|seconds| self.now_ms() + u64::from(seconds) * 1000);
        let shared;
        let payload = if publish.payload.len() < SHARED_PAYLOAD_BYTES_MIN {
            Payload::Copied(publish.payload)
        } else {
            shared = match whole {
                Some(packet) => packet.slice_ref(publish.payload),
                None => Bytes::copy_from_slice(publish.payload),
            };
            Payload::Shared(&shared)
        };
        let source = Source {
            content: Content { topic: publish.topic, properties: &properties, expiry_seconds, payload },
            qos: publish.qos,
            retain: publish.retain,
            expires_at_ms,
            publisher: Some(timed),
            publisher_id: &publisher_id,
            shared: false,
            loan: None,
            kept: OnceCell::new(),
        };
        if once {
            let (message, targets, recipients) = self.reach(&source);
            return self.publish_once(timed, publish.packet_id, message, targets, recipients);
        }
        let reach = if permitted { self.fan_out(&source) } else { Reach::default() };
        let reason = match reach.here || reach.beyond.is_some() {
            true => ReasonCode::SUCCESS,
            false if permitted => ReasonCode::NO_MATCHING_SUBSCRIBERS,
            false => self.deny(version),
        };
        let mut token = 0;
        if publish.qos > QoS::AtMostOnce
            && let Some(connection) = self.table.connections.get_mut(slot as usize)
            && let State::Open(session) = &mut connection.state
        {
            if publish.qos == QoS::ExactlyOnce {
                session.rare.exchanges.begin(publish.packet_id);
            }
            if reach.beyond.is_some() {
                token = session.receipts.owe(publish.packet_id, publish.qos);
            } else if session.receipts.is_empty() {
                let packet_type = if publish.qos == QoS::ExactlyOnce {
                    session.rare.exchanges.receive(publish.packet_id, reason.is_error());
                    PacketType::PubRec
                } else {
                    PacketType::PubAck
                };
                let version = session.terms.version;
                let spares = &mut self.table.spares;
                let receipt = acknowledgement(publish.packet_id, reason);
                receipt.encode(packet_type, version, connection.output.buffer(spares));
                self.table.mark_dirty(slot);
            } else {
                session.receipts.owe_settled(publish.packet_id, publish.qos, reason.0);
            }
            self.pause_at_bound(timed);
        }
        if let Some((message, targets, recipients)) = reach.beyond {
            let connection = self.id_of(slot);
            self.to_cluster.push(ToCluster::Publish { connection, token, epoch, message, targets, recipients });
        }
    }

    /// Counts a message that its client may not publish; gives what it is told. Before 5.0 nothing can be said: it is
    /// acknowledged and dropped, as by Mosquitto.
    fn deny(&mut self, version: Version) -> ReasonCode {
        self.table.counters.dropped_not_authorized += 1;
        if version == Version::V5 { ReasonCode::NOT_AUTHORIZED } else { ReasonCode::SUCCESS }
    }

    /// A client that cannot be told a Receive Maximum is not read while it has so many unacknowledged.
    pub(super) fn pause_at_bound(&mut self, timed: Timed) {
        let receive_maximum = usize::from(self.table.limits.receive_maximum);
        if let Some(connection) = self.table.get(timed)
            && let State::Open(session) = &connection.state
            && is_at_bound(session, receive_maximum)
        {
            connection.pauses.set(Pauses::RECEIPTS);
        }
    }

    /// A node that may be cut off promises nothing (K3).
    fn refuse_publish(&mut self, slot: u32, publish: &Publish<'_>) {
        if publish.qos == QoS::AtMostOnce {
            self.table.counters.dropped_not_serving += 1;
        } else {
            // 0x88 is for CONNACK only (table 2-6).
            self.close(slot, Some(ReasonCode::USE_ANOTHER_SERVER.because(CUT_OFF)), Ending::WithWill);
        }
    }

    /// Sends the acknowledgements that are settled and in turn.
    pub(super) fn send_receipts(&mut self, timed: Timed) {
        let (slot, _) = timed;
        let receive_maximum = usize::from(self.table.limits.receive_maximum);
        let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) else {
            return;
        };
        let version = session.terms.version;
        let mut refused = false;
        let mut settled = Vec::new();
        while let Some((packet_id, qos, reason)) = session.receipts.next_settled() {
            let reason = ReasonCode(reason);
            if reason.is_error() && version != Version::V5 {
                // Neither PUBACK nor PUBREC can say no before 5.0.
                refused = true;
                break;
            }
            let packet_type = match qos {
                QoS::ExactlyOnce => {
                    session.rare.exchanges.receive(packet_id, reason.is_error());
                    PacketType::PubRec
                }
                _ => PacketType::PubAck,
            };
            settled.push((packet_type, packet_id, reason));
        }
        let below_bound = !is_at_bound(session, receive_maximum);
        for (packet_type, packet_id, reason) in settled {
            // [MQTT-3.4.2-2], [MQTT-3.5.2-2]
            self.send_explained(slot, words_of_receipt(reason), |version, properties, out| {
                Acknowledgement { packet_id, reason, properties }.encode(packet_type, version, out);
            });
        }
        if refused {
            self.close(slot, None, Ending::WithWill);
        } else if below_bound {
            self.table.lift(timed, Pauses::RECEIPTS);
        }
    }

    fn puback(&mut self, timed: Timed, acknowledgement: Acknowledgement<'_>) {
        let (slot, _) = timed;
        let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) else {
            return;
        };
        let known = session.acknowledge(acknowledgement.packet_id);
        let waits = !session.nothing_waits();
        if known && (waits || session.terms.persistent || session.has_returned_loans()) {
            // The flush passes on the acknowledgement and sends what waited for it.
            self.table.mark_dirty(slot);
            self.flush_soon();
        }
    }

    fn disconnect(&mut self, timed: Timed, disconnect: Disconnect<'_>) {
        let (slot, _) = timed;
        let expiry = disconnect.properties.int(PropertyId::SessionExpiryInterval);
        let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) else {
            return;
        };
        // A session that was to end with its connection cannot be kept after all (section 3.14.2.2.2).
        if session.terms.session_expiry_seconds == 0 && expiry.is_some_and(|seconds| seconds != 0) {
            let words = "a session without expiry cannot be given one by DISCONNECT";
            return self.break_off(slot, ReasonCode::PROTOCOL_ERROR.because(words));
        }
        // [MQTT-3.1.2-10]
        let ending = match disconnect.reason {
            ReasonCode::SUCCESS => Ending::Normal(expiry),
            _ => Ending::DisconnectWithWill(expiry),
        };
        self.close(slot, None, ending);
    }
}

/// What PUBACK and PUBREC leave open.
fn words_of_receipt(reason: ReasonCode) -> Words {
    let words = match reason {
        ReasonCode::QUOTA_EXCEEDED => {
            "a subscriber's queue, what is retained, or the broker's disk is full; try again later"
        }
        ReasonCode::UNSPECIFIED_ERROR => "it is not certain that a majority of the cluster has the message; try again",
        _ => "",
    };
    words.into()
}

/// Whether a client may publish this at all; what it is told if not.
fn permit(session: &Session, publish: &Publish<'_>, receive_maximum: usize) -> Result<(), Why> {
    // [MQTT-3.3.4-7]
    if publish.qos > QoS::AtMostOnce
        && session.terms.version == Version::V5
        && session.receipts.len() + session.rare.exchanges.counted() >= receive_maximum
    {
        let words = "more than {} messages above QoS 0 are unacknowledged, the Receive Maximum here";
        return Err(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED.because(Words::with(words, receive_maximum as u64)));
    }
    if publish.qos == QoS::ExactlyOnce && session.rare.exchanges.len() >= SESSION_EXCHANGES_MAX {
        let words = "{} exchanges of QoS 2 are open; send PUBREL for them";
        return Err(ReasonCode::QUOTA_EXCEEDED.because(Words::with(words, SESSION_EXCHANGES_MAX as u64)));
    }
    if publish.properties.is_empty() {
        return Ok(());
    }
    // [MQTT-3.3.4-6]
    if publish.properties.int(PropertyId::SubscriptionIdentifier).is_some() {
        return Err(ReasonCode::PROTOCOL_ERROR.because("a client's PUBLISH with a subscription identifier"));
    }
    Ok(())
}

/// Whether a client must not be read for a while: an older one has published as much as it may, or any has released more
/// than its shard has taken.
pub(super) fn is_at_bound(session: &Session, receive_maximum: usize) -> bool {
    (session.terms.version != Version::V5 && session.receipts.len() >= receive_maximum)
        || session.rare.exchanges.releasing() >= receive_maximum
}
