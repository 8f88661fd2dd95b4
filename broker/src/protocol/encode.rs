//! From packets to bytes, appended to a buffer. PUBLISH has a room of its own, `publish`.

use super::packet::*;
use super::properties::Properties;
use super::publish::{PublishParts, encode_publish};
use super::reason::{ReasonCode, connack_code_v3};

/// A Variable Byte Integer; at most 268,435,455.
pub(super) fn variable_int(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The bytes that [`variable_int`] takes.
pub(super) fn variable_int_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// A UTF-8 Encoded String; what is longer than 65,535 bytes is cut at a character.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    binary(out, &text.as_bytes()[..text.floor_char_boundary(0xffff)]);
}

/// Binary Data; what is longer than 65,535 bytes is cut.
pub(super) fn binary(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(0xffff)];
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn append_properties(out: &mut Vec<u8>, properties: Properties<'_>, version: Version) {
    if version == Version::V5 {
        variable_int(out, properties.raw().len());
        out.extend_from_slice(properties.raw());
    }
}

/// Header and body; the body is written behind the longest header and moved up to the one it needs.
fn framed(out: &mut Vec<u8>, packet: PacketType, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push((packet as u8) << 4 | packet.flags());
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = out.len() - start - 5;
    let (mut header, mut rest) = (0, length);
    loop {
        header += 1;
        let more = if rest > 0x7f { 0x80 } else { 0 };
        out[start + header] = (rest & 0x7f) as u8 | more;
        rest >>= 7;
        if more == 0 {
            break;
        }
    }
    out.copy_within(start + 5.., start + 1 + header);
    out.truncate(start + 1 + header + length);
}

impl Packet<'_> {
    /// Appends the packet as `version` has it (a CONNECT as its own version has it).
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        match self {
            Packet::Connect(connect) => connect.encode(out),
            Packet::ConnAck(connack) => connack.encode(version, out),
            Packet::Publish(publish) => encode_publish(
                out,
                &PublishParts {
                    version,
                    dup: publish.dup,
                    qos: publish.qos,
                    retain: publish.retain,
                    topic: publish.topic,
                    properties: publish.properties.raw(),
                    payload: publish.payload,
                },
                publish.packet_id,
            ),
            Packet::PubAck(ack) => ack.encode(PacketType::PubAck, version, out),
            Packet::PubRec(ack) => ack.encode(PacketType::PubRec, version, out),
            Packet::PubRel(ack) => ack.encode(PacketType::PubRel, version, out),
            Packet::PubComp(ack) => ack.encode(PacketType::PubComp, version, out),
            Packet::Subscribe(subscribe) => framed(out, PacketType::Subscribe, |out| {
                out.extend_from_slice(&subscribe.packet_id.to_be_bytes());
                append_properties(out, subscribe.properties, version);
                out.extend_from_slice(subscribe.filters.raw);
            }),
            Packet::SubAck(suback) => suback.encode(PacketType::SubAck, version, out),
            Packet::Unsubscribe(unsubscribe) => framed(out, PacketType::Unsubscribe, |out| {
                out.extend_from_slice(&unsubscribe.packet_id.to_be_bytes());
                append_properties(out, unsubscribe.properties, version);
                out.extend_from_slice(unsubscribe.filters.raw);
            }),
            Packet::UnsubAck(unsuback) => unsuback.encode(PacketType::UnsubAck, version, out),
            Packet::PingReq => out.extend_from_slice(&[0xc0, 0]),
            Packet::PingResp => out.extend_from_slice(&[0xd0, 0]),
            Packet::Disconnect(disconnect) => framed(out, PacketType::Disconnect, |out| {
                reason_and_properties(out, disconnect.reason, disconnect.properties, version);
            }),
            Packet::Auth(auth) => framed(out, PacketType::Auth, |out| {
                reason_and_properties(out, auth.reason, auth.properties, version);
            }),
        }
    }
}

fn reason_and_properties(out: &mut Vec<u8>, reason: ReasonCode, properties: Properties<'_>, version: Version) {
    if version < Version::V5 || (reason == ReasonCode::SUCCESS && properties.is_empty()) {
        return;
    }
    out.push(reason.0);
    if !properties.is_empty() {
        append_properties(out, properties, version);
    }
}

impl Connect<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        framed(out, PacketType::Connect, |out| {
            string(out, if self.version == Version::V3_1 { "MQIsdp" } else { "MQTT" });
            out.push(self.version as u8);
            let will_flags = self.will.map_or(0, |will| 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5);
            out.push(
                u8::from(self.user_name.is_some()) << 7
                    | u8::from(self.password.is_some()) << 6
                    | will_flags
                    | u8::from(self.clean_start) << 1,
            );
            out.extend_from_slice(&self.keep_alive_seconds.to_be_bytes());
            append_properties(out, self.properties, self.version);
            string(out, self.client_id);
            if let Some(will) = &self.will {
                append_properties(out, will.properties, self.version);
                string(out, will.topic);
                binary(out, will.payload);
            }
            if let Some(user_name) = self.user_name {
                string(out, user_name);
            }
            if let Some(password) = self.password {
                binary(out, password);
            }
        });
    }
}

impl ConnAck<'_> {
    /// Appends it as `version` has it; before 5.0, with the nearest return code.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        framed(out, PacketType::ConnAck, |out| {
            out.push(u8::from(self.session_present));
            out.push(if version == Version::V5 { self.reason.0 } else { connack_code_v3(self.reason) });
            append_properties(out, self.properties, version);
        });
    }
}

impl Acknowledgement<'_> {
    /// Appends it as a packet of type `packet`: four bytes for a success without properties.
    #[inline]
    pub fn encode(&self, packet: PacketType, version: Version, out: &mut Vec<u8>) {
        let id = self.packet_id.to_be_bytes();
        if version < Version::V5 || (self.reason == ReasonCode::SUCCESS && self.properties.is_empty()) {
            out.extend_from_slice(&[(packet as u8) << 4 | packet.flags(), 2, id[0], id[1]]);
            return;
        }
        framed(out, packet, |out| {
            out.extend_from_slice(&id);
            reason_and_properties(out, self.reason, self.properties, version);
        });
    }
}

impl SubAck<'_> {
    /// Appends it as SUBACK or UNSUBACK. Before 5.0 an UNSUBACK has no codes, and a refusal in a SUBACK is 0x80.
    pub fn encode(&self, packet: PacketType, version: Version, out: &mut Vec<u8>) {
        framed(out, packet, |out| {
            out.extend_from_slice(&self.packet_id.to_be_bytes());
            append_properties(out, self.properties, version);
            match (version, packet) {
                (Version::V5, _) => out.extend_from_slice(self.codes),
                (_, PacketType::UnsubAck) => {}
                _ => out.extend(self.codes.iter().map(|code| (*code).min(0x80))),
            }
        });
    }
}
