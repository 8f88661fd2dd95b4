//! Properties (MQTT 5.0, section 2.2.2): checked once when decoded, kept as the bytes that came.

use super::packet::PacketType;
use super::reader::Reader;
use super::reason::ProtocolError;

/// The value of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertyValue<'a> {
    /// Byte, Two Byte Integer, Four Byte Integer or Variable Byte Integer.
    Int(u32),
    /// UTF-8 Encoded String.
    Text(&'a str),
    /// Binary Data.
    Binary(&'a [u8]),
    /// UTF-8 String Pair.
    Pair(&'a str, &'a str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Byte,
    U16,
    U32,
    VariableInt,
    Text,
    Binary,
    Pair,
}

/// Pseudo packet type under which the properties of a will are checked.
const WILL: u16 = 1;

const fn on(packets: &[PacketType]) -> u16 {
    let (mut mask, mut index) = (0, 0);
    while index < packets.len() {
        mask |= 1 << packets[index] as u16;
        index += 1;
    }
    mask
}

macro_rules! properties {
    ($($name:ident = $id:literal, $kind:ident, $packets:expr, $words:literal;)*) => {
        /// The identifier of a property (table 2-4).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum PropertyId { $(#[doc = $words] $name = $id,)* }

        impl PropertyId {
            fn from_byte(byte: u8) -> Option<PropertyId> {
                match byte { $($id => Some(PropertyId::$name),)* _ => None }
            }

            fn kind(self) -> Kind {
                match self { $(PropertyId::$name => Kind::$kind,)* }
            }

            /// Bit n: allowed in packet type n; bit 0: in a will.
            fn allowed(self) -> u16 {
                match self { $(PropertyId::$name => $packets,)* }
            }
        }
    };
}

use PacketType::*;
const ANY: u16 = on(&[
    Connect,
    ConnAck,
    Publish,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    Subscribe,
    SubAck,
    Unsubscribe,
    UnsubAck,
    Disconnect,
    Auth,
]) | WILL;

properties! {
    PayloadFormatIndicator = 0x01, Byte, on(&[Publish]) | WILL, "Payload Format Indicator";
    MessageExpiryInterval = 0x02, U32, on(&[Publish]) | WILL, "Message Expiry Interval, in seconds";
    ContentType = 0x03, Text, on(&[Publish]) | WILL, "Content Type";
    ResponseTopic = 0x08, Text, on(&[Publish]) | WILL, "Response Topic";
    CorrelationData = 0x09, Binary, on(&[Publish]) | WILL, "Correlation Data";
    SubscriptionIdentifier = 0x0b, VariableInt, on(&[Publish, Subscribe]), "Subscription Identifier";
    SessionExpiryInterval = 0x11, U32, on(&[Connect, ConnAck, Disconnect]), "Session Expiry Interval, in seconds";
    AssignedClientIdentifier = 0x12, Text, on(&[ConnAck]), "Assigned Client Identifier";
    ServerKeepAlive = 0x13, U16, on(&[ConnAck]), "Server Keep Alive, in seconds";
    AuthenticationMethod = 0x15, Text, on(&[Connect, ConnAck, Auth]), "Authentication Method";
    AuthenticationData = 0x16, Binary, on(&[Connect, ConnAck, Auth]), "Authentication Data";
    RequestProblemInformation = 0x17, Byte, on(&[Connect]), "Request Problem Information";
    WillDelayInterval = 0x18, U32, WILL, "Will Delay Interval, in seconds";
    RequestResponseInformation = 0x19, Byte, on(&[Connect]), "Request Response Information";
    ResponseInformation = 0x1a, Text, on(&[ConnAck]), "Response Information";
    ServerReference = 0x1c, Text, on(&[ConnAck, Disconnect]), "Server Reference";
    ReasonString = 0x1f, Text,
        on(&[ConnAck, PubAck, PubRec, PubRel, PubComp, SubAck, UnsubAck, Disconnect, Auth]), "Reason String";
    ReceiveMaximum = 0x21, U16, on(&[Connect, ConnAck]), "Receive Maximum";
    TopicAliasMaximum = 0x22, U16, on(&[Connect, ConnAck]), "Topic Alias Maximum";
    TopicAlias = 0x23, U16, on(&[Publish]), "Topic Alias";
    MaximumQoS = 0x24, Byte, on(&[ConnAck]), "Maximum QoS";
    RetainAvailable = 0x25, Byte, on(&[ConnAck]), "Retain Available";
    UserProperty = 0x26, Pair, ANY, "User Property";
    MaximumPacketSize = 0x27, U32, on(&[Connect, ConnAck]), "Maximum Packet Size, in bytes";
    WildcardSubscriptionAvailable = 0x28, Byte, on(&[ConnAck]), "Wildcard Subscription Available";
    SubscriptionIdentifierAvailable = 0x29, Byte, on(&[ConnAck]), "Subscription Identifier Available";
    SharedSubscriptionAvailable = 0x2a, Byte, on(&[ConnAck]), "Shared Subscription Available";
}

/// The properties of a packet, checked. Empty for versions before 5.0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties<'a> {
    raw: &'a [u8],
}

impl<'a> Properties<'a> {
    /// Reads the length and the properties of a packet of type `packet`.
    #[inline]
    pub(super) fn read(reader: &mut Reader<'a>, packet: PacketType) -> Result<Properties<'a>, ProtocolError> {
        Properties::read_allowed(reader, 1 << packet as u16)
    }

    /// Reads the properties of a will.
    pub(super) fn read_will(reader: &mut Reader<'a>) -> Result<Properties<'a>, ProtocolError> {
        Properties::read_allowed(reader, WILL)
    }

    fn read_allowed(reader: &mut Reader<'a>, packet: u16) -> Result<Properties<'a>, ProtocolError> {
        let length = reader.variable_int()?;
        let raw = reader.take(length as usize)?;
        if !raw.is_empty() {
            check(raw, packet)?;
        }
        Ok(Properties { raw })
    }

    /// Properties that a [`PropertiesBuilder`] wrote.
    pub fn built(raw: &'a [u8]) -> Properties<'a> {
        Properties { raw }
    }

    /// As encoded, without the length in front.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// All, in the order they came.
    pub fn iter(&self) -> impl Iterator<Item = (PropertyId, PropertyValue<'a>)> + use<'a> {
        let mut reader = Reader::new(self.raw);
        // They were checked when read: an error can only mean the end.
        std::iter::from_fn(move || if reader.is_empty() { None } else { next(&mut reader).ok() })
    }

    /// The integer value of `id`.
    pub fn int(&self, id: PropertyId) -> Option<u32> {
        self.iter().find_map(|(found, value)| match value {
            PropertyValue::Int(value) if found == id => Some(value),
            _ => None,
        })
    }

    /// The text value of `id`.
    pub fn text(&self, id: PropertyId) -> Option<&'a str> {
        self.iter().find_map(|(found, value)| match value {
            PropertyValue::Text(value) if found == id => Some(value),
            _ => None,
        })
    }

    /// The binary value of `id`.
    pub fn binary(&self, id: PropertyId) -> Option<&'a [u8]> {
        self.iter().find_map(|(found, value)| match value {
            PropertyValue::Binary(value) if found == id => Some(value),
            _ => None,
        })
    }

    /// Appends what is forwarded unaltered with a message: all but topic alias, message expiry, subscription identifier
    /// and will delay, in order ([MQTT-3.3.2-17] and others).
    pub fn forwarded_into(&self, out: &mut Vec<u8>) {
        let mut reader = Reader::new(self.raw);
        while !reader.is_empty() {
            let before = reader;
            let Ok((id, _)) = next(&mut reader) else { return };
            let own = matches!(
                id,
                PropertyId::TopicAlias
                    | PropertyId::MessageExpiryInterval
                    | PropertyId::SubscriptionIdentifier
                    | PropertyId::WillDelayInterval
            );
            if !own {
                let (mut before, mut after) = (before, reader);
                let (from, to) = (before.rest(), after.rest());
                out.extend_from_slice(&from[..from.len() - to.len()]);
            }
        }
    }
}

#[inline]
fn next<'a>(reader: &mut Reader<'a>) -> Result<(PropertyId, PropertyValue<'a>), ProtocolError> {
    let byte = reader.u8()?;
    let id = PropertyId::from_byte(byte)
        .ok_or(ProtocolError::malformed("MQTT-2.2.2.2", "there is no property of that identifier"))?;
    let value = match id.kind() {
        Kind::Byte => PropertyValue::Int(u32::from(reader.u8()?)),
        Kind::U16 => PropertyValue::Int(u32::from(reader.u16()?)),
        Kind::U32 => PropertyValue::Int(reader.u32()?),
        Kind::VariableInt => PropertyValue::Int(reader.variable_int()?),
        Kind::Text => PropertyValue::Text(reader.string()?),
        Kind::Binary => PropertyValue::Binary(reader.binary()?),
        Kind::Pair => PropertyValue::Pair(reader.string()?, reader.string()?),
    };
    Ok((id, value))
}

fn check(raw: &[u8], packet: u16) -> Result<(), ProtocolError> {
    let mut reader = Reader::new(raw);
    let mut seen = 0_u64;
    let mut has_authentication_data = false;
    while !reader.is_empty() {
        let (id, value) = next(&mut reader)?;
        if id.allowed() & packet == 0 {
            return Err(ProtocolError::protocol("MQTT-2.2.2.2", "a property does not belong in this packet"));
        }
        let many =
            id == PropertyId::UserProperty || (id == PropertyId::SubscriptionIdentifier && packet == on(&[Publish]));
        if seen & (1 << id as u64) != 0 && !many {
            return Err(ProtocolError::protocol("MQTT-2.2.2.2", "a property stands twice in a packet"));
        }
        seen |= 1 << id as u64;
        check_value(id, value)?;
        has_authentication_data |= id == PropertyId::AuthenticationData;
    }
    if has_authentication_data && seen & (1 << PropertyId::AuthenticationMethod as u64) == 0 {
        return Err(ProtocolError::protocol("MQTT-3.1.2.11.10", "authentication data without a method"));
    }
    Ok(())
}

fn check_value(id: PropertyId, value: PropertyValue<'_>) -> Result<(), ProtocolError> {
    let rule = match (id, value) {
        (PropertyId::ReceiveMaximum, PropertyValue::Int(0)) => "MQTT-3.1.2.11.3",
        (PropertyId::MaximumPacketSize, PropertyValue::Int(0)) => "MQTT-3.1.2.11.4",
        (PropertyId::SubscriptionIdentifier, PropertyValue::Int(0)) => "MQTT-3.8.2.1.2",
        (PropertyId::TopicAlias, PropertyValue::Int(0)) => {
            return Err(ProtocolError::with(
                super::ReasonCode::TOPIC_ALIAS_INVALID,
                "MQTT-3.3.2-8",
                "the topic alias is 0",
            ));
        }
        (PropertyId::ResponseTopic, PropertyValue::Text(topic)) if !super::valid_topic_name(topic) => "MQTT-3.3.2-14",
        (_, PropertyValue::Int(2..)) if id.kind() == Kind::Byte => "MQTT-2.2.2.2",
        _ => return Ok(()),
    };
    Err(ProtocolError::protocol(rule, "the value of a property is not allowed"))
}

/// Writes properties, without the length in front.
#[derive(Clone, Debug, Default)]
pub struct PropertiesBuilder {
    raw: Vec<u8>,
}

impl PropertiesBuilder {
    /// None yet.
    pub fn new() -> PropertiesBuilder {
        PropertiesBuilder::default()
    }

    /// Adds an integer, in the size that `id` has.
    pub fn int(mut self, id: PropertyId, value: u32) -> Self {
        self.raw.push(id as u8);
        match id.kind() {
            Kind::Byte => self.raw.push(value as u8),
            Kind::U16 => self.raw.extend_from_slice(&(value as u16).to_be_bytes()),
            Kind::VariableInt => super::encode::variable_int(&mut self.raw, value as usize),
            _ => self.raw.extend_from_slice(&value.to_be_bytes()),
        }
        self
    }

    /// Adds text of at most 65,535 bytes; what is longer is cut at a character.
    pub fn text(mut self, id: PropertyId, value: &str) -> Self {
        self.raw.push(id as u8);
        super::encode::string(&mut self.raw, value);
        self
    }

    /// Adds binary data of at most 65,535 bytes; what is longer is cut.
    pub fn binary(mut self, id: PropertyId, value: &[u8]) -> Self {
        self.raw.push(id as u8);
        super::encode::binary(&mut self.raw, value);
        self
    }

    /// Adds a user property.
    pub fn user(mut self, name: &str, value: &str) -> Self {
        self.raw.push(PropertyId::UserProperty as u8);
        super::encode::string(&mut self.raw, name);
        super::encode::string(&mut self.raw, value);
        self
    }

    /// The bytes so far.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// To be put into a packet.
    pub fn properties(&self) -> Properties<'_> {
        Properties::built(&self.raw)
    }
}
