//! An application message on its way through the broker, and what a subscription asks for.
//!
//! A message here is free of any connection: no packet id, no alias, no DUP flag.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Quality of service of a message or a granted subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum QoS {
    /// Delivered at most once: never stored.
    #[default]
    AtMostOnce = 0,
    /// Delivered at least once.
    AtLeastOnce = 1,
    /// Delivered exactly once.
    ExactlyOnce = 2,
}

impl QoS {
    /// From the two bits of a packet; 3 is malformed ([MQTT-3.3.1-4]).
    pub fn from_bits(bits: u8) -> Option<QoS> {
        match bits {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            2 => Some(QoS::ExactlyOnce),
            _ => None,
        }
    }
}

/// An application message. Cloning copies no payload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The topic name, without wildcards.
    pub topic: Arc<str>,
    /// The payload as published.
    pub payload: Bytes,
    /// As published.
    pub qos: QoS,
    /// As published.
    pub retain: bool,
    /// The properties that are forwarded unaltered (payload format, content type, response topic, correlation data, user
    /// properties; [MQTT-3.3.2-4] and following), encoded as in MQTT 5.0 without the length in front. Empty for none.
    pub properties: Bytes,
    /// When it expires, in milliseconds of the cluster's clock (`now_ms`); `None` for never.
    pub expires_at_ms: Option<u64>,
    /// Who published it, for No Local ([MQTT-3.8.3-3]). Empty for the broker itself.
    pub publisher: Arc<str>,
    /// The member of a shared subscription that it is for, and for nobody else ([`crate::share::Member`]).
    pub recipient: Option<Arc<str>>,
}

/// One subscription of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// The topic filter as the client sent it.
    pub filter: Arc<str>,
    /// The options it asked for.
    pub options: SubscriptionOptions,
}

/// The options byte of a subscription, and its identifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionOptions {
    /// Maximum QoS at which messages are sent.
    pub qos: QoS,
    /// Don't send back what this client published.
    pub no_local: bool,
    /// Keep the retain flag as published.
    pub retain_as_published: bool,
    /// When retained messages are sent: 0 at subscribe, 1 if new, 2 never.
    pub retain_handling: u8,
    /// Subscription identifier, 1 to 268,435,455.
    pub identifier: Option<u32>,
}

impl SubscriptionOptions {
    /// Whether subscribing so brings the retained messages ([MQTT-3.3.1-9] to [MQTT-3.3.1-11]); `known`: the filter was
    /// subscribed to before.
    pub fn wants_retained(&self, known: bool) -> bool {
        match self.retain_handling {
            0 => true,
            1 => !known,
            _ => false,
        }
    }
}
