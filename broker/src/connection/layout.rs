//! PUBLISH on its way out: encoded at most once per layout, however many clients it goes to.
//!
//! A layout is what the bytes depend on besides the message: protocol version, QoS and retain flag. Only the packet id is
//! patched per client. Subscription identifiers, topic aliases and DUP are rare and encoded for the one client.

use bytes::Bytes;

use super::output::{Output, Spares};
use crate::limits::SHARED_PAYLOAD_BYTES_MIN;
use crate::message::QoS;
use crate::protocol::{PropertiesBuilder, PropertyId, PublishLayout, PublishParts, Version, publish_len};
use crate::session::TopicAlias;

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
        if payload.len() < SHARED_PAYLOAD_BYTES_MIN { Payload::Copied(payload) } else { Payload::Shared(payload) }
    }

    fn bytes(&self) -> &'m [u8] {
        match self {
            Payload::Copied(payload) => payload,
            Payload::Shared(payload) => payload,
        }
    }
}

/// How a message goes to one client.
#[derive(Clone, Copy, Debug)]
pub struct Form<'m> {
    /// Of the client.
    pub version: Version,
    /// The QoS to send at.
    pub qos: QoS,
    /// 0 at QoS 0.
    pub packet_id: u16,
    /// The retain flag to send.
    pub retain: bool,
    /// It may have been sent before.
    pub dup: bool,
    /// Of the subscriptions that matched; not sent before 5.0.
    pub identifiers: &'m [u32],
    /// Names the topic, of clients that take aliases.
    pub alias: Option<TopicAlias>,
}

/// The encodings of one message.
#[derive(Debug, Default)]
pub struct Layouts {
    made: [PublishLayout; 16],
    /// Which of `made` are of the message at hand.
    valid: u16,
}

impl Layouts {
    /// Forgets the last message.
    pub fn begin(&mut self) {
        self.valid = 0;
    }

    /// Appends the PUBLISH to a client's output. All calls since [`Layouts::begin`] must be for the same message.
    pub fn append(&mut self, content: &Content<'_>, form: &Form<'_>, output: &mut Output, spares: &mut Spares) {
        let buffer = output.buffer(spares);
        let v5 = form.version == Version::V5;
        if form.dup || (v5 && !form.identifiers.is_empty()) || form.alias.is_some() {
            with_parts(content, form, PublishLayout::new).append_header(buffer, form.packet_id);
        } else {
            let index = usize::from(v5) | (form.qos as usize) << 1 | usize::from(form.retain) << 3;
            let layout = &mut self.made[index];
            if self.valid & (1 << index) == 0 {
                self.valid |= 1 << index;
                with_parts(content, form, |parts| layout.set(parts));
            }
            layout.append_header(buffer, form.packet_id);
        }
        match content.payload {
            Payload::Copied(payload) => buffer.extend_from_slice(payload),
            Payload::Shared(payload) => output.share(payload.clone()),
        }
    }
}

/// How many bytes the packet has ([MQTT-3.1.2-24] compares them).
pub fn packet_bytes(content: &Content<'_>, form: &Form<'_>) -> usize {
    with_parts(content, form, publish_len)
}

fn with_parts<R>(content: &Content<'_>, form: &Form<'_>, use_parts: impl FnOnce(&PublishParts<'_>) -> R) -> R {
    let mut parts = PublishParts {
        version: form.version,
        dup: form.dup,
        qos: form.qos,
        retain: form.retain,
        topic: content.topic,
        properties: content.properties,
        payload: content.payload.bytes(),
    };
    if content.expiry_seconds.is_none() && form.identifiers.is_empty() && form.alias.is_none() {
        return use_parts(&parts);
    }
    let mut own = PropertiesBuilder::new();
    if let Some(seconds) = content.expiry_seconds {
        own = own.int(PropertyId::MessageExpiryInterval, seconds);
    }
    if let Some(alias) = form.alias {
        own = own.int(PropertyId::TopicAlias, u32::from(alias.number()));
        if let TopicAlias::Known(_) = alias {
            parts.topic = "";
        }
    }
    for identifier in form.identifiers {
        own = own.int(PropertyId::SubscriptionIdentifier, *identifier);
    }
    let properties = [own.raw(), content.properties].concat();
    parts.properties = &properties;
    use_parts(&parts)
}
