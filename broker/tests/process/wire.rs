//! Packets as bytes, written by hand: nothing of the broker's own codec.

#![allow(dead_code, reason = "not every test uses everything")]

/// Of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 3.1.1.
    V3,
    V5,
}

pub use Version::{V3, V5};

pub const PINGREQ: &[u8] = &[0xc0, 0];
pub const PINGRESP: &[u8] = &[0xd0, 0];
pub const DISCONNECT: &[u8] = &[0xe0, 0];

/// A fixed header and what follows.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first], &*variable(body.len()), body].concat()
}

/// A Variable Byte Integer.
pub fn variable(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let more = if value > 0x7f { 0x80 } else { 0 };
        bytes.push(value as u8 & 0x7f | more);
        value >>= 7;
        if value == 0 {
            return bytes;
        }
    }
}

/// A UTF-8 string, or binary data.
pub fn text(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// The properties of a packet with their length; nothing before 5.0.
pub fn properties(version: Version, raw: &[u8]) -> Vec<u8> {
    if version == V5 { [&*variable(raw.len()), raw].concat() } else { Vec::new() }
}

/// Properties of one byte, two, four; text or binary; a user property.
pub fn byte(id: u8, value: u8) -> Vec<u8> {
    vec![id, value]
}

pub fn two(id: u8, value: u16) -> Vec<u8> {
    [&[id], &value.to_be_bytes()[..]].concat()
}

pub fn four(id: u8, value: u32) -> Vec<u8> {
    [&[id], &value.to_be_bytes()[..]].concat()
}

pub fn string(id: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&[id], &*text(value)].concat()
}

pub fn user(name: &str, value: &str) -> Vec<u8> {
    [&[USER][..], &text(name), &text(value)].concat()
}

pub const PAYLOAD_FORMAT: u8 = 0x01;
pub const MESSAGE_EXPIRY: u8 = 0x02;
pub const CONTENT_TYPE: u8 = 0x03;
pub const RESPONSE_TOPIC: u8 = 0x08;
pub const CORRELATION: u8 = 0x09;
pub const SUBSCRIPTION_ID: u8 = 0x0b;
pub const SESSION_EXPIRY: u8 = 0x11;
pub const ASSIGNED_ID: u8 = 0x12;
pub const AUTH_METHOD: u8 = 0x15;
pub const AUTH_DATA: u8 = 0x16;
pub const PROBLEM_INFORMATION: u8 = 0x17;
pub const WILL_DELAY: u8 = 0x18;
pub const RESPONSE_INFORMATION_WANTED: u8 = 0x19;
pub const RESPONSE_INFORMATION: u8 = 0x1a;
pub const REASON: u8 = 0x1f;
pub const RECEIVE_MAXIMUM: u8 = 0x21;
pub const ALIAS_MAXIMUM: u8 = 0x22;
pub const ALIAS: u8 = 0x23;
pub const USER: u8 = 0x26;
pub const PACKET_MAXIMUM: u8 = 0x27;

/// A CONNECT in the making.
#[derive(Clone)]
pub struct Connect {
    pub version: Version,
    pub client_id: String,
    pub clean: bool,
    pub keep_alive: u16,
    pub properties: Vec<u8>,
    pub will: Option<Will>,
    pub user: Option<Vec<u8>>,
    pub password: Option<Vec<u8>>,
}

#[derive(Clone)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub properties: Vec<u8>,
}

impl Connect {
    /// Of a session that begins and ends with its connection.
    pub fn clean(version: Version, client_id: &str) -> Connect {
        Connect {
            version,
            client_id: client_id.to_owned(),
            clean: true,
            keep_alive: 0,
            properties: Vec::new(),
            will: None,
            user: None,
            password: None,
        }
    }

    /// Of a session that is gone on with, and kept.
    pub fn kept(version: Version, client_id: &str) -> Connect {
        let connect = Connect { clean: false, ..Connect::clean(version, client_id) };
        connect.with(&four(SESSION_EXPIRY, 3600))
    }

    /// With a property more.
    pub fn with(mut self, property: &[u8]) -> Connect {
        self.properties.extend(property);
        self
    }

    /// With a will at QoS 0 that is not retained.
    pub fn will(mut self, topic: &str, payload: &str) -> Connect {
        let (topic, payload) = (topic.to_owned(), payload.as_bytes().to_vec());
        self.will = Some(Will { topic, payload, qos: 0, retain: false, properties: Vec::new() });
        self
    }

    pub fn flags(&self) -> u8 {
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 4 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        flags | u8::from(self.password.is_some()) << 6 | u8::from(self.user.is_some()) << 7
    }

    pub fn payload(&self) -> Vec<u8> {
        let mut payload = text(&self.client_id);
        if let Some(will) = &self.will {
            payload.extend(properties(self.version, &will.properties));
            payload.extend(text(&will.topic));
            payload.extend(text(&will.payload));
        }
        for field in [&self.user, &self.password].into_iter().flatten() {
            payload.extend(text(field));
        }
        payload
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_with(self.flags(), &self.payload())
    }

    /// With flags and a payload that need not fit each other.
    pub fn bytes_with(&self, flags: u8, payload: &[u8]) -> Vec<u8> {
        let level = if self.version == V5 { 5 } else { 4 };
        let head = [&text("MQTT")[..], &[level, flags], &self.keep_alive.to_be_bytes()].concat();
        packet(0x10, &[head, properties(self.version, &self.properties), payload.to_vec()].concat())
    }
}

/// PUBLISH; `first` is its first byte, and `id` stands in it if that says so.
pub fn publish(
    version: Version,
    first: u8,
    topic: impl AsRef<[u8]>,
    id: u16,
    raw: &[u8],
    payload: impl AsRef<[u8]>,
) -> Vec<u8> {
    let id = if first & 6 == 0 { Vec::new() } else { id.to_be_bytes().to_vec() };
    packet(first, &[text(topic), id, properties(version, raw), payload.as_ref().to_vec()].concat())
}

/// SUBSCRIBE.
pub fn subscribe(version: Version, id: u16, raw: &[u8], filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = [id.to_be_bytes().to_vec(), properties(version, raw)].concat();
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

/// UNSUBSCRIBE.
pub fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = [id.to_be_bytes().to_vec(), properties(version, &[])].concat();
    for filter in filters {
        body.extend(text(filter));
    }
    packet(0xa2, &body)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP that says success.
pub fn answer(first: u8, id: u16) -> Vec<u8> {
    packet(first, &id.to_be_bytes())
}

/// The same with a reason (5.0).
pub fn answer_with(first: u8, id: u16, reason: u8) -> Vec<u8> {
    packet(first, &[&id.to_be_bytes()[..], &[reason]].concat())
}

pub const PUBACK: u8 = 0x40;
pub const PUBREC: u8 = 0x50;
pub const PUBREL: u8 = 0x62;
pub const PUBCOMP: u8 = 0x70;
