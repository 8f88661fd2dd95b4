//! From bytes to packets.

use super::packet::*;
use super::properties::{Properties, PropertyId};
use super::reader::Reader;
use super::reason::{ProtocolError, ReasonCode, connack_reason_v3};
use super::text;
use crate::message::QoS;

type Result<T> = std::result::Result<T, ProtocolError>;

/// The flag of a fixed header that says: sent before.
const DUP: u8 = 0b1000;
const RESERVED_FLAGS: &str = "reserved flags of a fixed header are set";

/// A fixed header: what is known of a packet before it is all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub packet_type: PacketType,
    /// Bytes of the fixed header, 2 to 5.
    pub header: usize,
    /// Bytes of the whole packet, header included.
    pub total: usize,
}

/// What is known of a CONNECT that could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glimpse {
    /// The protocol level that it names.
    pub level: u8,
    /// The largest packet that its client takes, in bytes; `None` if its properties could not be read either.
    pub packet_bytes_max: Option<u32>,
}

/// Reads the fixed header. `Ok(None)`: it is not all there yet.
///
/// # Errors
/// 0x81 if no packet begins like this; 0x95 if the packet is larger than `packet_bytes_max`, so that it need not be
/// waited for ([MQTT-3.1.2-24] gives the same right to a client).
#[inline]
pub fn frame(buffer: &[u8], packet_bytes_max: usize) -> Result<Option<Frame>> {
    let Some(first) = buffer.first() else { return Ok(None) };
    let packet_type = PacketType::from_bits(first >> 4)
        .ok_or(ProtocolError::malformed("MQTT-2.1.2", "there is no packet of type 0"))?;
    let flags_allowed = if packet_type == PacketType::Publish {
        // DUP is 0 at QoS 0, and QoS is not 3.
        (first & 0b0110) != 0b0110 && (first & 0b1110) != 0b1000
    } else {
        // Whether this version may set DUP is known to `decode`.
        let repeated = if packet_type.repeats_in_v3_1() { DUP } else { 0 };
        first & 0x0f & !repeated == packet_type.flags()
    };
    if !flags_allowed {
        let rule = match packet_type {
            PacketType::Publish if first & 0b0110 == 0b0110 => "MQTT-3.3.1-4",
            PacketType::Publish => "MQTT-3.3.1-2",
            _ => "MQTT-2.1.3-1",
        };
        return Err(ProtocolError::malformed(rule, RESERVED_FLAGS));
    }
    let (mut length, mut header) = (0, 1);
    loop {
        let Some(byte) = buffer.get(header) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * (header - 1));
        header += 1;
        if byte & 0x80 == 0 {
            if *byte == 0 && header > 2 {
                return Err(ProtocolError::malformed("MQTT-1.5.5-1", "a length is not in its shortest form"));
            }
            break;
        }
        if header == 5 {
            return Err(ProtocolError::malformed("MQTT-2.1.4", "a remaining length has more than four bytes"));
        }
    }
    let total = header + length;
    if total > packet_bytes_max {
        return Err(ProtocolError::with(
            ReasonCode::PACKET_TOO_LARGE,
            "MQTT-3.1.2-24",
            "the packet is larger than the maximum packet size",
        ));
    }
    Ok(Some(Frame { packet_type, header, total }))
}

/// Decodes the first packet in `buffer` and tells its length. `Ok(None)`: it is not all there yet. The version of a
/// CONNECT is in the packet itself; `version` is that of the connection for all others.
///
/// # Errors
/// What is wrong with the packet, with the reason code that the standard provides.
#[inline]
pub fn decode(buffer: &[u8], version: Version, packet_bytes_max: usize) -> Result<Option<(Packet<'_>, usize)>> {
    let Some(frame) = frame(buffer, packet_bytes_max)? else { return Ok(None) };
    let Some(body) = buffer.get(frame.header..frame.total) else { return Ok(None) };
    let reader = Reader::new(body);
    let packet = match frame.packet_type {
        PacketType::Publish => Packet::Publish(publish(buffer[0], reader, version)?),
        PacketType::PubAck => Packet::PubAck(acknowledgement(reader, version, PacketType::PubAck)?),
        _ if buffer[0] & DUP != 0 && version > Version::V3_1 => {
            return Err(ProtocolError::malformed("MQTT-2.1.3-1", RESERVED_FLAGS));
        }
        other => decode_rare(other, reader, version)?,
    };
    Ok(Some((packet, frame.total)))
}

/// Looks into a CONNECT that could not be decoded, or is not all there. `None`: not even its protocol level is certain.
pub fn glimpse(buffer: &[u8]) -> Option<Glimpse> {
    let frame = frame(buffer, usize::MAX).ok().flatten()?;
    if frame.packet_type != PacketType::Connect {
        return None;
    }
    let mut reader = Reader::new(buffer.get(frame.header..buffer.len().min(frame.total))?);
    if !matches!(reader.binary().ok()?, b"MQTT" | b"MQIsdp") {
        return None;
    }
    let level = reader.u8().ok()?;
    let packet_bytes_max = if level == 5 { packet_bytes_max_of_connect(reader).ok() } else { None };
    Some(Glimpse { level, packet_bytes_max })
}

/// `reader` stands at the connect flags.
fn packet_bytes_max_of_connect(mut reader: Reader<'_>) -> Result<u32> {
    reader.u8()?;
    reader.u16()?;
    let properties = Properties::read(&mut reader, PacketType::Connect)?;
    Ok(properties.int(PropertyId::MaximumPacketSize).unwrap_or(u32::MAX))
}

fn decode_rare<'a>(packet_type: PacketType, mut reader: Reader<'a>, version: Version) -> Result<Packet<'a>> {
    Ok(match packet_type {
        PacketType::Connect => Packet::Connect(connect(reader)?),
        PacketType::ConnAck => Packet::ConnAck(connack(reader, version)?),
        PacketType::PubRec => Packet::PubRec(acknowledgement(reader, version, packet_type)?),
        PacketType::PubRel => Packet::PubRel(acknowledgement(reader, version, packet_type)?),
        PacketType::PubComp => Packet::PubComp(acknowledgement(reader, version, packet_type)?),
        PacketType::Subscribe => Packet::Subscribe(subscribe(reader, version)?),
        PacketType::SubAck | PacketType::UnsubAck => {
            let packet_id = reader.packet_id()?;
            let properties = properties(&mut reader, version, packet_type)?;
            let codes = reader.rest();
            if !codes.iter().all(|code| answer_allowed(packet_type, version, *code)) {
                return Err(ProtocolError::malformed("MQTT-3.9.3-2", "a code does not belong in a SUBACK or UNSUBACK"));
            }
            let suback = SubAck { packet_id, properties, codes };
            if packet_type == PacketType::SubAck { Packet::SubAck(suback) } else { Packet::UnsubAck(suback) }
        }
        PacketType::Unsubscribe => Packet::Unsubscribe(unsubscribe(reader, version)?),
        PacketType::PingReq => reader.end().map(|()| Packet::PingReq)?,
        PacketType::PingResp => reader.end().map(|()| Packet::PingResp)?,
        PacketType::Disconnect => {
            let (reason, properties) = reason_and_properties(reader, version, packet_type)?;
            Packet::Disconnect(Disconnect { reason, properties })
        }
        PacketType::Auth if version < Version::V5 => {
            return Err(ProtocolError::malformed("MQTT-2.1.2", "there is no AUTH before MQTT 5.0"));
        }
        PacketType::Auth => {
            let (reason, properties) = reason_and_properties(reader, version, packet_type)?;
            Packet::Auth(Auth { reason, properties })
        }
        // `decode` keeps these two to itself.
        PacketType::PubAck => Packet::PubAck(acknowledgement(reader, version, packet_type)?),
        PacketType::Publish => return Err(ProtocolError::malformed("MQTT-2.1.2", "a PUBLISH without a fixed header")),
    })
}

#[inline]
fn properties<'a>(reader: &mut Reader<'a>, version: Version, packet: PacketType) -> Result<Properties<'a>> {
    if version < Version::V5 { Ok(Properties::default()) } else { Properties::read(reader, packet) }
}

#[inline]
fn publish<'a>(first: u8, mut reader: Reader<'a>, version: Version) -> Result<Publish<'a>> {
    let qos = QoS::from_bits((first >> 1) & 3).ok_or(ProtocolError::malformed("MQTT-3.3.1-4", "the QoS is 3"))?;
    let topic = reader.string()?;
    let packet_id = if qos == QoS::AtMostOnce { 0 } else { reader.packet_id()? };
    let properties = properties(&mut reader, version, PacketType::Publish)?;
    if topic.is_empty() {
        // Only a topic alias may stand for a topic ([MQTT-3.3.2-8] and section 3.3.2.1).
        if properties.is_empty() || properties.int(PropertyId::TopicAlias).is_none() {
            return Err(ProtocolError::protocol("MQTT-4.7.3-1", "the topic name is empty"));
        }
    } else if !text::valid_topic_name(topic) {
        return Err(ProtocolError::with(
            ReasonCode::TOPIC_NAME_INVALID,
            "MQTT-3.3.2-2",
            "the topic name has a wildcard or too many levels",
        ));
    }
    Ok(Publish {
        dup: first & DUP != 0,
        qos,
        retain: first & 1 != 0,
        topic,
        packet_id,
        properties,
        payload: reader.rest(),
    })
}

#[inline]
fn acknowledgement<'a>(mut reader: Reader<'a>, version: Version, packet: PacketType) -> Result<Acknowledgement<'a>> {
    let packet_id = reader.packet_id()?;
    let (reason, properties) = reason_and_properties(reader, version, packet)?;
    Ok(Acknowledgement { packet_id, reason, properties })
}

/// The end of a packet in which a success without properties may be left out (sections 3.4.2.1 and 3.14.2.1).
#[inline]
fn reason_and_properties<'a>(
    mut reader: Reader<'a>,
    version: Version,
    packet: PacketType,
) -> Result<(ReasonCode, Properties<'a>)> {
    if reader.is_empty() {
        return Ok((ReasonCode::SUCCESS, Properties::default()));
    }
    if version < Version::V5 {
        return reader.end().map(|()| (ReasonCode::SUCCESS, Properties::default()));
    }
    let reason = ReasonCode(reader.u8()?);
    if !reason_allowed(packet, reason) {
        return Err(ProtocolError::malformed("MQTT-2.4", "the reason code does not belong in this packet"));
    }
    let properties = if reader.is_empty() { Properties::default() } else { Properties::read(&mut reader, packet)? };
    reader.end()?;
    Ok((reason, properties))
}

/// Table 2-6, for the packets with one reason code.
fn reason_allowed(packet: PacketType, reason: ReasonCode) -> bool {
    match packet {
        PacketType::ConnAck => {
            matches!(reason.0, 0x00 | 0x80..=0x8a | 0x8c | 0x90 | 0x95 | 0x97 | 0x99..=0x9d | 0x9f)
        }
        PacketType::PubAck | PacketType::PubRec => {
            matches!(reason.0, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
        }
        PacketType::PubRel | PacketType::PubComp => matches!(reason.0, 0x00 | 0x92),
        PacketType::Auth => matches!(reason.0, 0x00 | 0x18 | 0x19),
        PacketType::Disconnect => {
            matches!(reason.0, 0x00 | 0x04 | 0x80..=0x83 | 0x87 | 0x89 | 0x8b..=0x90 | 0x93..=0xa2)
        }
        _ => false,
    }
}

/// Table 2-6, for the packets with a code for each filter; before 5.0, [MQTT-3.9.3-2] of 3.1.1.
fn answer_allowed(packet: PacketType, version: Version, code: u8) -> bool {
    match (packet, version) {
        (PacketType::SubAck, Version::V5) => {
            matches!(code, 0..=2 | 0x80 | 0x83 | 0x87 | 0x8f | 0x91 | 0x97 | 0x9e | 0xa1 | 0xa2)
        }
        (PacketType::SubAck, _) => matches!(code, 0..=2 | 0x80),
        (_, Version::V5) => matches!(code, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8f | 0x91),
        _ => false,
    }
}

fn connect(mut reader: Reader<'_>) -> Result<Connect<'_>> {
    let version = match (reader.binary()?, reader.u8()?) {
        (b"MQTT", 5) => Version::V5,
        (b"MQTT", 4) => Version::V3_1_1,
        (b"MQIsdp", 3) => Version::V3_1,
        (b"MQTT" | b"MQIsdp", _) => {
            return Err(ProtocolError::with(
                ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
                "MQTT-3.1.2-2",
                "only MQTT 3.1, 3.1.1 and 5.0 are spoken here",
            ));
        }
        _ => {
            return Err(ProtocolError::with(
                ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
                "MQTT-3.1.2-1",
                "the protocol name is not MQTT",
            ));
        }
    };
    let flags = reader.u8()?;
    let (has_user_name, has_password, has_will) = (flags & 0x80 != 0, flags & 0x40 != 0, flags & 0x04 != 0);
    if flags & 1 != 0 {
        return Err(ProtocolError::malformed("MQTT-3.1.2-3", "the reserved connect flag is set"));
    }
    if !has_will && flags & 0x38 != 0 {
        return Err(ProtocolError::malformed("MQTT-3.1.2-11", "will QoS or will retain without a will"));
    }
    if version < Version::V5 && has_password && !has_user_name {
        return Err(ProtocolError::malformed("MQTT-3.1.2-22", "a password without a user name"));
    }
    let will_qos =
        QoS::from_bits((flags >> 3) & 3).ok_or(ProtocolError::malformed("MQTT-3.1.2-12", "the will QoS is 3"))?;
    let keep_alive_seconds = reader.u16()?;
    let properties = properties(&mut reader, version, PacketType::Connect)?;
    let client_id = reader.string()?;
    let will = if has_will {
        let properties =
            if version < Version::V5 { Properties::default() } else { Properties::read_will(&mut reader)? };
        let topic = reader.string()?;
        if !text::valid_topic_name(topic) {
            return Err(ProtocolError::with(
                ReasonCode::TOPIC_NAME_INVALID,
                "MQTT-3.1.3-11",
                "the will topic is empty, has a wildcard or too many levels",
            ));
        }
        let payload = reader.binary()?;
        Some(WillView { qos: will_qos, retain: flags & 0x20 != 0, properties, topic, payload })
    } else {
        None
    };
    let user_name = has_user_name.then(|| reader.string()).transpose()?;
    let password = has_password.then(|| reader.binary()).transpose()?;
    reader.end()?;
    Ok(Connect {
        version,
        clean_start: flags & 2 != 0,
        keep_alive_seconds,
        properties,
        client_id,
        will,
        user_name,
        password,
    })
}

fn connack(mut reader: Reader<'_>, version: Version) -> Result<ConnAck<'_>> {
    let flags = reader.u8()?;
    if flags > 1 {
        return Err(ProtocolError::malformed("MQTT-3.2.2-1", "reserved CONNACK flags are set"));
    }
    let code = reader.u8()?;
    let reason = match version {
        Version::V5 => Some(ReasonCode(code)).filter(|reason| reason_allowed(PacketType::ConnAck, *reason)),
        _ => connack_reason_v3(code),
    };
    let reason =
        reason.ok_or(ProtocolError::malformed("MQTT-3.2.2-8", "the reason code does not belong in this packet"))?;
    if flags == 1 && reason.is_error() {
        return Err(ProtocolError::protocol("MQTT-3.2.2-6", "a session is present in a refused connection"));
    }
    let properties = properties(&mut reader, version, PacketType::ConnAck)?;
    reader.end()?;
    Ok(ConnAck { session_present: flags == 1, reason, properties })
}

fn subscribe(mut reader: Reader<'_>, version: Version) -> Result<Subscribe<'_>> {
    let packet_id = reader.packet_id()?;
    let properties = properties(&mut reader, version, PacketType::Subscribe)?;
    let raw = reader.rest();
    if raw.is_empty() {
        return Err(ProtocolError::protocol("MQTT-3.8.3-2", "a SUBSCRIBE without a filter"));
    }
    let mut filters = Reader::new(raw);
    while !filters.is_empty() {
        let filter = filters.string()?;
        let options = filters.u8()?;
        let reserved = if version < Version::V5 { 0xfc } else { 0xc0 };
        if filter.is_empty() {
            return Err(ProtocolError::malformed("MQTT-4.7.3-1", "a topic filter is empty"));
        }
        if options & reserved != 0 || options & 3 == 3 {
            return Err(ProtocolError::malformed("MQTT-3.8.3-5", "subscription options use reserved bits or QoS 3"));
        }
        if options & 0x30 == 0x30 {
            return Err(ProtocolError::protocol("MQTT-3.8.3.1", "retain handling is 3"));
        }
        if options & 4 != 0 && filter.starts_with("$share/") {
            return Err(ProtocolError::protocol("MQTT-3.8.3-4", "no local on a shared subscription"));
        }
    }
    Ok(Subscribe { packet_id, properties, filters: SubscribeFilters { raw } })
}

fn unsubscribe(mut reader: Reader<'_>, version: Version) -> Result<Unsubscribe<'_>> {
    let packet_id = reader.packet_id()?;
    let properties = properties(&mut reader, version, PacketType::Unsubscribe)?;
    let raw = reader.rest();
    if raw.is_empty() {
        return Err(ProtocolError::protocol("MQTT-3.10.3-2", "an UNSUBSCRIBE without a filter"));
    }
    let mut filters = Reader::new(raw);
    while !filters.is_empty() {
        if filters.string()?.is_empty() {
            return Err(ProtocolError::malformed("MQTT-4.7.3-1", "a topic filter is empty"));
        }
    }
    Ok(Unsubscribe { packet_id, properties, filters: UnsubscribeFilters { raw } })
}
