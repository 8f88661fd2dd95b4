//! What a CONNECT asks for, and what of it is refused.

use bytes::Bytes;

use crate::identity::ClientId;
use crate::limits::{CLIENT_ID_BYTES_MAX, ClientLimits};
use crate::message::Message;
use crate::protocol::{Connect, PropertyId, ReasonCode, Version, Why, Words};
use crate::shard::Will;

/// What CONNECT said, until its shard answers.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The client id.
    pub client_id: ClientId,
    /// It was assigned by the server and must be told ([MQTT-3.1.3-7]).
    pub assigned: bool,
    /// Of the protocol.
    pub version: Version,
    /// Of the client, within the worker's limit.
    pub receive_maximum: u16,
    /// Of the client.
    pub packet_bytes_max: u32,
    /// It wants to hear in words what is wrong ([MQTT-3.1.2-29]).
    pub wants_words: bool,
    /// Seconds the session outlives its connection; `u32::MAX` for ever.
    pub session_expiry_seconds: u32,
    /// Seconds; 0 for none.
    pub keep_alive_seconds: u16,
    /// The client asked for more, or none, and is to be told ([MQTT-3.1.2-21]).
    pub keep_alive_lowered: bool,
    /// The highest topic alias that it takes.
    pub aliases_out_max: u16,
}

/// Refuses what is not offered.
///
/// # Errors
/// What CONNACK says.
pub fn check(connect: &Connect<'_>) -> Result<(), Why> {
    // [MQTT-3.1.3-8] of 3.1.1: a session that is kept needs a name.
    let nameless = connect.client_id.is_empty() && connect.version < Version::V5 && !connect.clean_start;
    if nameless || connect.client_id.len() > CLIENT_ID_BYTES_MAX {
        let words = Words::with("a client id has at most {} bytes", CLIENT_ID_BYTES_MAX as u64);
        return Err(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID.because(words));
    }
    Ok(())
}

/// The largest packet that a client takes, in bytes.
pub fn packet_bytes_max(connect: &Connect<'_>) -> u32 {
    connect.properties.int(PropertyId::MaximumPacketSize).unwrap_or(u32::MAX)
}

/// What is remembered of a CONNECT that was not refused, within `limits`.
pub fn opening(connect: &Connect<'_>, client_id: ClientId, assigned: bool, limits: &ClientLimits) -> Opening {
    let properties = &connect.properties;
    let session_expiry_seconds = match (connect.version, connect.clean_start) {
        (Version::V5, _) => properties.int(PropertyId::SessionExpiryInterval).unwrap_or(0),
        (_, true) => 0,
        (_, false) => u32::MAX,
    };
    // An older client could not be told.
    let (asked, bound) = (connect.keep_alive_seconds, limits.keep_alive_seconds_max);
    let keep_alive_lowered = connect.version == Version::V5 && bound > 0 && (asked == 0 || asked > bound);
    let receive_maximum = properties.int(PropertyId::ReceiveMaximum);
    let receive_maximum = receive_maximum.map_or(u16::MAX, |maximum| maximum as u16);
    Opening {
        client_id,
        assigned,
        version: connect.version,
        receive_maximum: receive_maximum.min(limits.in_flight_max),
        packet_bytes_max: packet_bytes_max(connect),
        wants_words: properties.int(PropertyId::RequestProblemInformation) != Some(0),
        session_expiry_seconds,
        keep_alive_seconds: if keep_alive_lowered { limits.keep_alive_seconds_max } else { asked },
        keep_alive_lowered,
        aliases_out_max: properties
            .int(PropertyId::TopicAliasMaximum)
            .map_or(0, |maximum| limits.topic_aliases_max.min(maximum as u16)),
    }
}

/// The will, for the shard to keep.
pub fn will(connect: &Connect<'_>, client_id: &ClientId) -> Option<Will> {
    let will = connect.will?;
    let mut properties = Vec::new();
    will.properties.forwarded_into(&mut properties);
    Some(Will {
        message: Message {
            topic: will.topic.into(),
            payload: Bytes::copy_from_slice(will.payload),
            qos: will.qos,
            retain: will.retain,
            properties: properties.into(),
            // Counts from when it is published, which is for the shard to say.
            expires_at_ms: None,
            publisher: client_id.clone(),
            recipient: None,
        },
        delay_seconds: will.properties.int(PropertyId::WillDelayInterval).unwrap_or(0),
        expiry_seconds: will.properties.int(PropertyId::MessageExpiryInterval),
    })
}
