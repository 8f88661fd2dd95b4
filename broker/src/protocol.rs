//! The packets of MQTT 3.1, 3.1.1 and 5.0: decode and encode, nothing else.
//!
//! Decoding copies nothing: a [`Packet`] borrows from the buffer it was found in. What a packet means to a session, and
//! whether its sender may send it now, is `session`'s to say. The same types go both ways, so that whatever is decoded
//! encodes to the same bytes.

mod decode;
mod encode;
mod explain;
mod packet;
mod properties;
mod publish;
mod reader;
mod reason;
mod text;

#[cfg(test)]
mod tests;

pub use decode::{Frame, Glimpse, decode, frame, glimpse};
pub use explain::{Why, Words, encode_explained};
pub use packet::{
    Acknowledgement, Auth, ConnAck, Connect, Disconnect, Packet, PacketType, Publish, SubAck, Subscribe,
    SubscribeFilters, Unsubscribe, UnsubscribeFilters, Version, WillView,
};
pub use properties::{Properties, PropertiesBuilder, PropertyId, PropertyValue};
pub use publish::{PublishLayout, PublishParts, encode_publish, publish_len};
pub use reason::{ProtocolError, ReasonCode, connack_code_v3};
pub use text::{Filter, parse_filter, valid_topic_name};
