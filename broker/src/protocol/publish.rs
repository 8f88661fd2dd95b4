//! Encoding PUBLISH: once per layout (version, QoS, retain, properties), patched per receiver.

use super::encode::{variable_int, variable_int_len};
use super::packet::{PacketType, Version};
use crate::message::QoS;

/// What a PUBLISH is made of, but for its packet id.
#[derive(Clone, Copy, Debug)]
pub struct PublishParts<'a> {
    /// Of the receiver.
    pub version: Version,
    /// Sent before ([MQTT-3.3.1-1]).
    pub dup: bool,
    /// As sent.
    pub qos: QoS,
    /// As sent.
    pub retain: bool,
    /// The topic name.
    pub topic: &'a str,
    /// Encoded, without the length in front; not written before 5.0.
    pub properties: &'a [u8],
    /// The application message.
    pub payload: &'a [u8],
}

impl PublishParts<'_> {
    fn remaining_len(&self) -> usize {
        let properties = match self.version {
            Version::V5 => variable_int_len(self.properties.len()) + self.properties.len(),
            _ => 0,
        };
        let packet_id = if self.qos == QoS::AtMostOnce { 0 } else { 2 };
        2 + self.topic.len() + packet_id + properties + self.payload.len()
    }

    /// Appends everything in front of the payload, and tells where in `out` the packet id stands.
    fn append_header(&self, out: &mut Vec<u8>, packet_id: u16) -> usize {
        out.push(
            (PacketType::Publish as u8) << 4 | u8::from(self.dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain),
        );
        variable_int(out, self.remaining_len());
        out.extend_from_slice(&(self.topic.len() as u16).to_be_bytes());
        out.extend_from_slice(self.topic.as_bytes());
        let at = out.len();
        if self.qos != QoS::AtMostOnce {
            out.extend_from_slice(&packet_id.to_be_bytes());
        }
        if self.version == Version::V5 {
            variable_int(out, self.properties.len());
            out.extend_from_slice(self.properties);
        }
        at
    }
}

/// The bytes of the whole packet: what a client's Maximum Packet Size is compared with ([MQTT-3.1.2-24]).
pub fn publish_len(parts: &PublishParts<'_>) -> usize {
    let remaining = parts.remaining_len();
    1 + variable_int_len(remaining) + remaining
}

/// Appends a whole PUBLISH. `packet_id` counts for nothing at QoS 0.
#[inline]
pub fn encode_publish(out: &mut Vec<u8>, parts: &PublishParts<'_>, packet_id: u16) {
    out.reserve(publish_len(parts));
    parts.append_header(out, packet_id);
    out.extend_from_slice(parts.payload);
}

/// A PUBLISH encoded once for many receivers: everything in front of the payload, and where the packet id stands in it.
#[derive(Clone, Debug, Default)]
pub struct PublishLayout {
    header: Vec<u8>,
    packet_id_at: Option<usize>,
}

impl PublishLayout {
    /// Encodes what comes in front of the payload.
    pub fn new(parts: &PublishParts<'_>) -> PublishLayout {
        let mut layout = PublishLayout::default();
        layout.set(parts);
        layout
    }

    /// As [`PublishLayout::new`], in the room of the one before.
    pub fn set(&mut self, parts: &PublishParts<'_>) {
        self.header.clear();
        let at = parts.append_header(&mut self.header, 0);
        self.packet_id_at = (parts.qos != QoS::AtMostOnce).then_some(at);
    }

    /// Appends the bytes in front of the payload with this receiver's packet id.
    #[inline]
    pub fn append_header(&self, out: &mut Vec<u8>, packet_id: u16) {
        let start = out.len();
        out.extend_from_slice(&self.header);
        if let Some(at) = self.packet_id_at {
            out[start + at..start + at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
    }

    /// Bytes in front of the payload.
    pub fn header_len(&self) -> usize {
        self.header.len()
    }
}
