//! PUBLISH on its way out: encoded at most once per layout, however many clients it goes to.
//!
//! A layout is what the bytes depend on besides the message: protocol version, QoS and retain flag. Only the packet id is
//! patched per client. Subscription identifiers and DUP are rare and encoded for the one client.

use bytes::Bytes;

use super::output::{Output, Spares};
use crate::limits::SHARED_PAYLOAD_BYTES_MIN;
use crate::message::QoS;

/// The message as the encoder sees it.
#[derive(Clone, Copy, Debug)]
pub struct Content<'m> {
    /// The topic name.
    pub topic: &'m str,
    /// Forwarded properties, encoded without the length in front.
    pub properties: &'m [u8],
    /// What is left of the message expiry interval.
    pub expiry_seconds: Option<u32>,
    /// The payload.
    pub payload: Payload<'m>,
}

/// A payload: small ones are copied to each client, large ones shared.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'m> {
    /// Below [`SHARED_PAYLOAD_BYTES_MIN`].
    Copied(&'m [u8]),
    /// From there on.
    Shared(&'m Bytes),
}

impl<'m> Payload<'m> {
    /// As is fit for its size.
    pub fn of(payload: &'m Bytes) -> Payload<'m> {
        if payload.len() < SHARED_PAYLOAD_BYTES_MIN {
            Payload::Copied(payload)
        } else {
            Payload::Shared(payload)
        }
    }

    fn len(&self) -> usize {
        match self {
            Payload::Copied(payload) => payload.len(),
            Payload::Shared(payload) => payload.len(),
        }
    }
}

/// How a message goes to one client.
#[derive(Clone, Copy, Debug)]
pub struct Form<'m> {
    /// MQTT 5.0: there are properties.
    pub v5: bool,
    /// The QoS to send at.
    pub qos: QoS,
    /// Above QoS 0.
    pub packet_id: Option<u16>,
    /// The retain flag to send.
    pub retain: bool,
    /// It may have been sent before.
    pub dup: bool,
    /// Of the subscriptions that matched; 5.0 only.
    pub identifiers: &'m [u32],
}

/// The encodings of one message.
#[derive(Debug, Default)]
pub struct Layouts {
    bytes: Vec<u8>,
    made: [Option<Layout>; 16],
}

#[derive(Clone, Copy, Debug)]
struct Layout {
    start: usize,
    end: usize,
    /// Where the packet id is, from `start`.
    packet_id_at: usize,
}

impl Layouts {
    /// Forgets the last message.
    pub fn begin(&mut self) {
        self.bytes.clear();
        self.made = [None; 16];
    }

    /// Appends the PUBLISH to a client's output. All calls since [`Layouts::begin`] must be for the same message.
    pub fn append(
        &mut self,
        content: &Content<'_>,
        form: &Form<'_>,
        output: &mut Output,
        spares: &mut Spares,
    ) {
        let identifiers = form.v5 && !form.identifiers.is_empty();
        if identifiers || form.dup {
            let buffer = output.buffer(spares);
            let start = buffer.len();
            let packet_id_at = encode(content, form, buffer);
            patch(buffer, start + packet_id_at, form.packet_id);
        } else {
            let layout = self.layout(content, form);
            let buffer = output.buffer(spares);
            let start = buffer.len();
            buffer.extend_from_slice(&self.bytes[layout.start..layout.end]);
            patch(buffer, start + layout.packet_id_at, form.packet_id);
        }
        if let Payload::Shared(payload) = content.payload {
            output.share(payload.clone());
        }
    }

    fn layout(&mut self, content: &Content<'_>, form: &Form<'_>) -> Layout {
        let index =
            usize::from(form.v5) | (form.qos as usize) << 1 | usize::from(form.retain) << 3;
        if let Some(layout) = self.made[index] {
            return layout;
        }
        let start = self.bytes.len();
        let packet_id_at = encode(content, form, &mut self.bytes);
        let layout = Layout {
            start,
            end: self.bytes.len(),
            packet_id_at,
        };
        self.made[index] = Some(layout);
        layout
    }
}

/// How many bytes the packet has ([MQTT-3.1.2-24] compares them).
pub fn packet_bytes(content: &Content<'_>, form: &Form<'_>) -> usize {
    let remaining = remaining_length(content, form);
    1 + varint_bytes(remaining) + remaining
}

fn properties_length(content: &Content<'_>, form: &Form<'_>) -> usize {
    let identifiers: usize = form
        .identifiers
        .iter()
        .map(|identifier| 1 + varint_bytes(*identifier as usize))
        .sum();
    content.properties.len() + content.expiry_seconds.map_or(0, |_| 5) + identifiers
}

fn remaining_length(content: &Content<'_>, form: &Form<'_>) -> usize {
    let properties = if form.v5 {
        let length = properties_length(content, form);
        varint_bytes(length) + length
    } else {
        0
    };
    2 + content.topic.len()
        + form.packet_id.map_or(0, |_| 2)
        + properties
        + content.payload.len()
}

/// Encodes all but a shared payload, with 0 for the packet id; returns where that is.
fn encode(content: &Content<'_>, form: &Form<'_>, into: &mut Vec<u8>) -> usize {
    let start = into.len();
    into.push(
        0x30 | u8::from(form.dup) << 3 | (form.qos as u8) << 1 | u8::from(form.retain),
    );
    put_varint(into, remaining_length(content, form));
    into.extend_from_slice(&(content.topic.len() as u16).to_be_bytes());
    into.extend_from_slice(content.topic.as_bytes());
    let packet_id_at = into.len() - start;
    if form.packet_id.is_some() {
        into.extend_from_slice(&[0, 0]);
    }
    if form.v5 {
        put_varint(into, properties_length(content, form));
        if let Some(seconds) = content.expiry_seconds {
            into.push(0x02);
            into.extend_from_slice(&seconds.to_be_bytes());
        }
        for identifier in form.identifiers {
            into.push(0x0B);
            put_varint(into, *identifier as usize);
        }
        into.extend_from_slice(content.properties);
    }
    if let Payload::Copied(payload) = content.payload {
        into.extend_from_slice(payload);
    }
    packet_id_at
}

fn patch(buffer: &mut [u8], at: usize, packet_id: Option<u16>) {
    if let Some(packet_id) = packet_id {
        buffer[at..at + 2].copy_from_slice(&packet_id.to_be_bytes());
    }
}

fn varint_bytes(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

fn put_varint(into: &mut Vec<u8>, mut value: usize) {
    while value > 127 {
        into.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}
