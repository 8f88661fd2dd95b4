//! What a client's packets do, in the order a PUBLISH is checked. CONNECT and SUBSCRIBE have files of their own.

use std::cell::OnceCell;

use bytes::Bytes;

use super::core::Core;
use super::exactly_once::acknowledgement;
use super::fanout::Reach;
use super::lifetime::Ending;
use super::table::Source;
use super::wheel::Timed;
use crate::connection::{Content, Pauses, Payload, State};
use crate::door::ToCluster;
use crate::limits::{SESSION_EXCHANGES_MAX, SHARED_PAYLOAD_BYTES_MIN};
use crate::message::QoS;
use crate::protocol::{
    Acknowledgement, Disconnect, Packet, PacketType, PropertyId, ProtocolError, Publish, ReasonCode, Version,
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
            // A second CONNECT ([MQTT-3.1.0-2]), and what only servers send.
            Packet::Connect(_) | Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                self.break_off(slot, ReasonCode::PROTOCOL_ERROR)
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

    /// Ends a connection whose client broke a rule.
    pub(super) fn break_off(&mut self, slot: u32, reason: ReasonCode) {
        self.table.counters.protocol_errors += 1;
        self.close(slot, Some(reason), Ending::WithWill);
    }

    /// Ends a connection whose bytes are no packet.
    pub(super) fn malformed(&mut self, timed: Timed, bytes: &[u8], error: ProtocolError) {
        let (slot, _) = timed;
        let connecting = self.table.get(timed).is_some_and(|connection| matches!(connection.state, State::Connecting));
        tracing::debug!(worker = self.index, slot, %error, "malformed packet");
        if connecting {
            self.table.counters.protocol_errors += 1;
            self.refuse_unread(slot, bytes, error.reason);
        } else {
            self.break_off(slot, error.reason);
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
                Err(reason) => return self.break_off(slot, reason),
            }
            publish.topic = &aliased;
        }
        // A repetition is no second message, whatever else it says.
        if publish.qos == QoS::ExactlyOnce {
            match session.exchanges.find(publish.packet_id) {
                Begun::New => {}
                begun => return self.repeated(slot, publish.packet_id, begun),
            }
        }
        if let Err(reason) = permit(session, &publish, receive_maximum) {
            return self.break_off(slot, reason);
        }
        if !self.serving {
            return self.refuse_publish(slot, &publish);
        }
        let (persistent, publisher_id) = (session.terms.persistent, session.terms.client_id.clone());
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
                session.exchanges.begin(publish.packet_id);
            }
            if reach.beyond.is_some() {
                token = session.receipts.owe(publish.packet_id, publish.qos);
            } else if session.receipts.is_empty() {
                let packet_type = if publish.qos == QoS::ExactlyOnce {
                    session.exchanges.receive(publish.packet_id, reason.is_error());
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
            self.to_cluster.push(ToCluster::Publish { connection, token, message, targets, recipients });
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
            self.close(slot, Some(ReasonCode::USE_ANOTHER_SERVER), Ending::WithWill);
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
            let receipt = acknowledgement(packet_id, reason);
            settled.push(match qos {
                QoS::ExactlyOnce => {
                    session.exchanges.receive(packet_id, reason.is_error());
                    Packet::PubRec(receipt)
                }
                _ => Packet::PubAck(receipt),
            });
        }
        let below_bound = !is_at_bound(session, receive_maximum);
        for receipt in settled {
            self.send(slot, receipt);
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
        if known && (waits || session.terms.persistent) {
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
            return self.break_off(slot, ReasonCode::PROTOCOL_ERROR);
        }
        // [MQTT-3.1.2-10]
        let ending = match disconnect.reason {
            ReasonCode::SUCCESS => Ending::Normal(expiry),
            _ => Ending::DisconnectWithWill(expiry),
        };
        self.close(slot, None, ending);
    }
}

/// Whether a client may publish this at all; what it is told if not.
fn permit(session: &Session, publish: &Publish<'_>, receive_maximum: usize) -> Result<(), ReasonCode> {
    // [MQTT-3.3.4-7]
    if publish.qos > QoS::AtMostOnce
        && session.terms.version == Version::V5
        && session.receipts.len() + session.exchanges.counted() >= receive_maximum
    {
        return Err(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
    }
    if publish.qos == QoS::ExactlyOnce && session.exchanges.len() >= SESSION_EXCHANGES_MAX {
        return Err(ReasonCode::QUOTA_EXCEEDED);
    }
    if publish.properties.is_empty() {
        return Ok(());
    }
    // [MQTT-3.3.4-6]
    if publish.properties.int(PropertyId::SubscriptionIdentifier).is_some() {
        return Err(ReasonCode::PROTOCOL_ERROR);
    }
    Ok(())
}

/// Whether a client must not be read for a while: an older one has published as much as it may, or any has released more
/// than its shard has taken.
pub(super) fn is_at_bound(session: &Session, receive_maximum: usize) -> bool {
    (session.terms.version != Version::V5 && session.receipts.len() >= receive_maximum)
        || session.exchanges.releasing() >= receive_maximum
}
