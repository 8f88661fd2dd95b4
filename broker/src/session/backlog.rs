//! Messages that an ephemeral session's client cannot take now, bounded in items and in bytes.
//!
//! At the bound QoS 0 drops its oldest; QoS 1, which was acknowledged to nobody on this session's behalf, refuses the
//! newest. The two wait apart: order holds per QoS (K5), and a client that acknowledges late still gets its QoS 0.

use std::collections::VecDeque;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::message::{Message, QoS};
use crate::share::Loan;

/// Subscription identifiers of the subscriptions that matched.
pub type Identifiers = SmallVec<[u32; 2]>;

/// A message on its way to one client.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The message, shared by everyone who waits for it.
    pub message: Rc<Message>,
    /// The QoS to send it at.
    pub qos: QoS,
    /// The retain flag to send.
    pub retain: bool,
    /// What to name in a 5.0 PUBLISH.
    pub identifiers: Identifiers,
    /// A shard has lent it.
    pub loan: Option<Loan>,
}

impl Waiting {
    fn bytes(&self) -> usize {
        let Message { topic, payload, properties, .. } = &*self.message;
        topic.len() + payload.len() + properties.len() + size_of::<Waiting>()
    }
}

/// The bounds of a [`Backlog`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BacklogBounds {
    /// Messages.
    pub items_max: usize,
    /// Bytes of topics, payloads, properties and bookkeeping.
    pub bytes_max: usize,
}

/// What waits.
#[derive(Debug, Default)]
pub struct Backlog {
    at_most_once: VecDeque<Waiting>,
    acknowledged: VecDeque<Waiting>,
    bytes: usize,
}

impl Backlog {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages held.
    pub fn len(&self) -> usize {
        self.at_most_once.len() + self.acknowledged.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.at_most_once.is_empty() && self.acknowledged.is_empty()
    }

    /// Whether something of the same kind waits, which must go first.
    pub fn precedes(&self, qos: QoS) -> bool {
        match qos {
            QoS::AtMostOnce => !self.at_most_once.is_empty(),
            QoS::AtLeastOnce | QoS::ExactlyOnce => !self.acknowledged.is_empty(),
        }
    }

    /// Adds a message; returns how many were dropped to stay within `bounds`, and itself if it is among them.
    pub fn push(&mut self, waiting: Waiting, bounds: BacklogBounds) -> (u64, Option<Waiting>) {
        let bytes = waiting.bytes();
        if bytes > bounds.bytes_max {
            return (1, Some(waiting));
        }
        let mut dropped = 0;
        while self.len() >= bounds.items_max || self.bytes + bytes > bounds.bytes_max {
            let Some(oldest) = self.at_most_once.pop_front() else {
                return (dropped + 1, Some(waiting));
            };
            self.bytes -= oldest.bytes();
            dropped += 1;
        }
        self.bytes += bytes;
        match waiting.qos {
            QoS::AtMostOnce => self.at_most_once.push_back(waiting),
            QoS::AtLeastOnce | QoS::ExactlyOnce => self.acknowledged.push_back(waiting),
        }
        (dropped, None)
    }

    /// Takes what another member of its shared subscription can be sent.
    pub fn take_shared(&mut self) -> Vec<(Rc<Message>, Option<Loan>)> {
        let (shared, rest) = std::mem::take(&mut self.acknowledged)
            .into_iter()
            .partition::<VecDeque<_>, _>(|waiting| waiting.message.recipient.is_some());
        self.acknowledged = rest;
        self.bytes -= shared.iter().map(Waiting::bytes).sum::<usize>();
        shared.into_iter().map(|waiting| (waiting.message, waiting.loan)).collect()
    }

    /// Whether [`Backlog::pop`] would give something.
    pub fn has_next(&self, window_has_room: bool) -> bool {
        !self.at_most_once.is_empty() || (window_has_room && !self.acknowledged.is_empty())
    }

    /// Takes the next message; one that must be acknowledged only if the window has room.
    pub fn pop(&mut self, window_has_room: bool) -> Option<Waiting> {
        let next = match window_has_room {
            true => self.acknowledged.pop_front(),
            false => None,
        };
        let next = next.or_else(|| self.at_most_once.pop_front())?;
        self.bytes -= next.bytes();
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(payload: &str, qos: QoS) -> Waiting {
        Waiting {
            message: Rc::new(Message {
                topic: "t".into(),
                payload: payload.to_owned().into(),
                qos,
                ..Message::default()
            }),
            qos,
            retain: false,
            identifiers: Identifiers::new(),
            loan: None,
        }
    }

    fn drain(backlog: &mut Backlog) -> Vec<String> {
        std::iter::from_fn(|| backlog.pop(true))
            .map(|waiting| String::from_utf8_lossy(&waiting.message.payload).into_owned())
            .collect()
    }

    #[test]
    fn at_the_bound_qos_0_drops_its_oldest_and_qos_1_refuses_the_newest() {
        let bounds = BacklogBounds { items_max: 3, bytes_max: usize::MAX };
        let mut backlog = Backlog::default();
        assert_eq!(backlog.push(waiting("a", QoS::AtMostOnce), bounds).0, 0);
        assert_eq!(backlog.push(waiting("b", QoS::AtMostOnce), bounds).0, 0);
        assert_eq!(backlog.push(waiting("1", QoS::AtLeastOnce), bounds).0, 0);
        assert_eq!(backlog.push(waiting("c", QoS::AtMostOnce), bounds).0, 1);
        assert_eq!(backlog.push(waiting("2", QoS::AtLeastOnce), bounds).0, 1);
        assert_eq!(backlog.push(waiting("3", QoS::AtLeastOnce), bounds).0, 1);
        assert_eq!(backlog.push(waiting("4", QoS::AtLeastOnce), bounds).0, 1);
        assert_eq!(backlog.push(waiting("d", QoS::AtMostOnce), bounds).0, 1);
        assert_eq!(drain(&mut backlog), ["1", "2", "3"]);
        assert_eq!(backlog.bytes(), 0);
    }

    #[test]
    fn the_bound_in_bytes_holds_for_many_and_for_one() {
        let one = waiting("0123456789", QoS::AtMostOnce).bytes();
        let bounds = BacklogBounds { items_max: usize::MAX, bytes_max: 2 * one };
        let mut backlog = Backlog::default();
        for payload in ["0123456789", "1123456789", "2123456789"] {
            backlog.push(waiting(payload, QoS::AtMostOnce), bounds);
            assert!(backlog.bytes() <= bounds.bytes_max);
        }
        assert_eq!(drain(&mut backlog), ["1123456789", "2123456789"]);
        let large = "x".repeat(2 * one);
        backlog.push(waiting("kept", QoS::AtMostOnce), bounds);
        assert_eq!(backlog.push(waiting(&large, QoS::AtMostOnce), bounds).0, 1);
        assert_eq!(drain(&mut backlog), ["kept"]);
    }

    #[test]
    fn qos_0_does_not_wait_for_acknowledgements() {
        let bounds = BacklogBounds { items_max: 9, bytes_max: 9_999 };
        let mut backlog = Backlog::default();
        backlog.push(waiting("1", QoS::AtLeastOnce), bounds);
        assert!(backlog.precedes(QoS::AtLeastOnce));
        assert!(!backlog.precedes(QoS::AtMostOnce));
        backlog.push(waiting("a", QoS::AtMostOnce), bounds);
        let next = backlog.pop(false).map(|waiting| waiting.qos);
        assert_eq!(next, Some(QoS::AtMostOnce));
        assert!(backlog.pop(false).is_none());
    }
}
