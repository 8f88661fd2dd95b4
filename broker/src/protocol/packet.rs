//! The packets, as views of the bytes they were decoded from.

use super::properties::Properties;
use super::reader::Reader;
use super::reason::ReasonCode;
use crate::message::{QoS, SubscriptionOptions};

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Version {
    /// MQTT 3.1, `MQIsdp`.
    V3_1 = 3,
    /// MQTT 3.1.1.
    V3_1_1 = 4,
    /// MQTT 5.0.
    V5 = 5,
}

/// The type of a packet, as in the first four bits of its fixed header (table 2-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the standard's own names")]
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    pub(super) fn from_bits(bits: u8) -> Option<PacketType> {
        use PacketType::*;
        Some(match bits {
            1 => Connect,
            2 => ConnAck,
            3 => Publish,
            4 => PubAck,
            5 => PubRec,
            6 => PubRel,
            7 => PubComp,
            8 => Subscribe,
            9 => SubAck,
            10 => Unsubscribe,
            11 => UnsubAck,
            12 => PingReq,
            13 => PingResp,
            14 => Disconnect,
            15 => Auth,
            _ => return None,
        })
    }

    /// The low four bits of the fixed header, for all but PUBLISH ([MQTT-2.1.3-1]).
    pub(super) fn flags(self) -> u8 {
        match self {
            PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => 0b0010,
            _ => 0,
        }
    }

    /// Whether MQTT 3.1 sends this packet again with the DUP flag (3.1, section 2.1); later versions never do.
    pub(super) fn repeats_in_v3_1(self) -> bool {
        matches!(self, PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe)
    }
}

/// A control packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the standard's own names")]
pub enum Packet<'a> {
    Connect(Connect<'a>),
    ConnAck(ConnAck<'a>),
    Publish(Publish<'a>),
    PubAck(Acknowledgement<'a>),
    PubRec(Acknowledgement<'a>),
    PubRel(Acknowledgement<'a>),
    PubComp(Acknowledgement<'a>),
    Subscribe(Subscribe<'a>),
    SubAck(SubAck<'a>),
    Unsubscribe(Unsubscribe<'a>),
    UnsubAck(SubAck<'a>),
    PingReq,
    PingResp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

/// CONNECT (section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// From protocol name and level.
    pub version: Version,
    /// Clean Start; Clean Session before 5.0.
    pub clean_start: bool,
    /// Seconds; 0 turns keep-alive off.
    pub keep_alive_seconds: u16,
    /// Its properties.
    pub properties: Properties<'a>,
    /// May be empty.
    pub client_id: &'a str,
    /// The will, if any.
    pub will: Option<WillView<'a>>,
    /// The user name, if any.
    pub user_name: Option<&'a str>,
    /// The password, if any.
    pub password: Option<&'a [u8]>,
}

/// The will in a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WillView<'a> {
    /// Of the message.
    pub qos: QoS,
    /// Of the message.
    pub retain: bool,
    /// Will properties.
    pub properties: Properties<'a>,
    /// A topic name.
    pub topic: &'a str,
    /// The will payload.
    pub payload: &'a [u8],
}

/// CONNACK (section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Session Present.
    pub session_present: bool,
    /// Of 5.0; before, it stands for the nearest return code.
    pub reason: ReasonCode,
    /// Its properties.
    pub properties: Properties<'a>,
}

/// PUBLISH (section 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Sent before.
    pub dup: bool,
    /// Its quality of service.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Empty only with a topic alias.
    pub topic: &'a str,
    /// 0 at QoS 0.
    pub packet_id: u16,
    /// Its properties.
    pub properties: Properties<'a>,
    /// The application message.
    pub payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP (sections 3.4 to 3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement<'a> {
    /// Whose.
    pub packet_id: u16,
    /// Always success before 5.0.
    pub reason: ReasonCode,
    /// Its properties.
    pub properties: Properties<'a>,
}

/// SUBSCRIBE (section 3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Whose SUBACK.
    pub packet_id: u16,
    /// Its properties.
    pub properties: Properties<'a>,
    /// At least one.
    pub filters: SubscribeFilters<'a>,
}

/// The filters of a SUBSCRIBE, checked but for the rules of [`super::parse_filter`], which are answered one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribeFilters<'a> {
    pub(super) raw: &'a [u8],
}

impl<'a> SubscribeFilters<'a> {
    /// Filters as [`SubscribeFilters::append`] wrote them.
    pub fn built(raw: &'a [u8]) -> SubscribeFilters<'a> {
        SubscribeFilters { raw }
    }

    /// Appends one filter and its options byte.
    pub fn append(out: &mut Vec<u8>, filter: &str, options: SubscriptionOptions) {
        super::encode::string(out, filter);
        out.push(
            options.qos as u8
                | u8::from(options.no_local) << 2
                | u8::from(options.retain_as_published) << 3
                | options.retain_handling << 4,
        );
    }

    /// In order; `identifier` of the options is not filled in: it is a property of the whole packet.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, SubscriptionOptions)> + use<'a> {
        let mut reader = Reader::new(self.raw);
        std::iter::from_fn(move || {
            let filter = reader.string().ok()?;
            let byte = reader.u8().ok()?;
            let options = SubscriptionOptions {
                qos: QoS::from_bits(byte & 3)?,
                no_local: byte & 4 != 0,
                retain_as_published: byte & 8 != 0,
                retain_handling: (byte >> 4) & 3,
                identifier: None,
            };
            Some((filter, options))
        })
    }
}

/// SUBACK or UNSUBACK (sections 3.9 and 3.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// Of the SUBSCRIBE or UNSUBSCRIBE.
    pub packet_id: u16,
    /// Its properties.
    pub properties: Properties<'a>,
    /// One per filter. Empty in an UNSUBACK before 5.0.
    pub codes: &'a [u8],
}

/// UNSUBSCRIBE (section 3.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Whose UNSUBACK.
    pub packet_id: u16,
    /// Its properties.
    pub properties: Properties<'a>,
    /// At least one.
    pub filters: UnsubscribeFilters<'a>,
}

/// The filters of an UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsubscribeFilters<'a> {
    pub(super) raw: &'a [u8],
}

impl<'a> UnsubscribeFilters<'a> {
    /// Filters as [`UnsubscribeFilters::append`] wrote them.
    pub fn built(raw: &'a [u8]) -> UnsubscribeFilters<'a> {
        UnsubscribeFilters { raw }
    }

    /// Appends one filter.
    pub fn append(out: &mut Vec<u8>, filter: &str) {
        super::encode::string(out, filter);
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut reader = Reader::new(self.raw);
        std::iter::from_fn(move || reader.string().ok())
    }
}

/// DISCONNECT (section 3.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Always success before 5.0.
    pub reason: ReasonCode,
    /// Its properties.
    pub properties: Properties<'a>,
}

/// AUTH (section 3.15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, Continue authentication or Re-authenticate.
    pub reason: ReasonCode,
    /// Its properties.
    pub properties: Properties<'a>,
}
