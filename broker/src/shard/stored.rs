//! A message as queues and outboxes keep it: encoded, on the node's shelf, with what must be known without looking at it.

use std::rc::Rc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::queue::size;
use crate::kept::{Kept, Shelf};
use crate::message::{Message, QoS};

/// A message on the shelf. Cloning copies nothing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored {
    kept: Rc<Kept>,
    size: u32,
    /// It is for one member of a shared subscription.
    for_one: bool,
}

/// What a snapshot says about a message beside its bytes.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredRecord {
    pub length: u32,
    size: u32,
    for_one: bool,
}

/// The fields of a [`Message`] as they are encoded, looked at where they are.
#[derive(Deserialize)]
struct Fields<'m> {
    topic: &'m str,
    payload: &'m [u8],
    qos: QoS,
    retain: bool,
    properties: &'m [u8],
    expires_at_ms: Option<u64>,
    publisher: &'m str,
    recipient: Option<&'m str>,
}

impl Stored {
    pub(super) fn new(shelf: &Shelf, message: &Message) -> Stored {
        Stored { kept: shelf.keep(message), size: size(message) as u32, for_one: message.recipient.is_some() }
    }

    /// As a snapshot has it: `bytes` are its data.
    pub(super) fn restored(shelf: &Shelf, record: &StoredRecord, bytes: Bytes) -> Stored {
        Stored { kept: shelf.keep_stored(bytes), size: record.size, for_one: record.for_one }
    }

    pub(super) fn record(&self) -> StoredRecord {
        StoredRecord { length: self.kept.len() as u32, size: self.size, for_one: self.for_one }
    }

    pub(super) fn kept(&self) -> &Rc<Kept> {
        &self.kept
    }

    /// What it counts for in the bounds of queues.
    pub(super) fn size(&self) -> usize {
        self.size as usize
    }

    /// Whether it names a member of a shared subscription that it is for.
    pub(super) fn is_for_one(&self) -> bool {
        self.for_one
    }

    /// The message. Payload and properties stay where they are. Looking at it may wait for a disk.
    pub(super) fn message(&self) -> Message {
        let bytes = self.kept.bytes();
        match postcard::from_bytes::<Fields<'_>>(&bytes) {
            Ok(fields) => Message {
                topic: fields.topic.into(),
                payload: bytes.slice_ref(fields.payload),
                qos: fields.qos,
                retain: fields.retain,
                properties: bytes.slice_ref(fields.properties),
                expires_at_ms: fields.expires_at_ms,
                publisher: fields.publisher.into(),
                recipient: fields.recipient.map(Into::into),
            },
            // It was encoded here, or on the node whose snapshot this replica took.
            Err(error) => {
                tracing::error!(%error, bytes = bytes.len(), "a queued message cannot be read; it is empty");
                Message::default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_back_as_it_was_kept_and_shares_its_bytes() {
        let message = Message {
            topic: "a/b".into(),
            payload: Bytes::from(vec![7; 300]),
            qos: QoS::ExactlyOnce,
            retain: true,
            properties: Bytes::from_static(b"properties"),
            expires_at_ms: Some(1 << 40),
            publisher: "p".into(),
            recipient: Some("$share/g/a/+".into()),
        };
        for message in [message.clone(), Message { recipient: None, ..message }, Message::default()] {
            let stored = Stored::new(&Shelf::default(), &message);
            assert_eq!(stored.message(), message);
            assert_eq!((stored.size(), stored.is_for_one()), (size(&message), message.recipient.is_some()));
            let bytes = stored.kept().bytes();
            let payload = stored.message().payload;
            assert!(payload.is_empty() || bytes.as_ptr_range().contains(&payload.as_ptr()), "not a copy");
        }
    }

    #[test]
    fn bytes_that_are_no_message_are_an_empty_one() {
        let record = StoredRecord { length: 3, size: 3, for_one: false };
        let stored = Stored::restored(&Shelf::default(), &record, Bytes::from_static(&[255, 255, 255]));
        assert_eq!(stored.message(), Message::default());
    }
}
