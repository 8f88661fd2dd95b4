//! What a client published at QoS 1 and 2 and the broker has not yet answered with PUBACK or PUBREC.
//!
//! Both leave in the order of the PUBLISHes ([MQTT-4.6.0-2], [MQTT-4.6.0-3]): one that is settled waits for those before
//! it.

use std::collections::VecDeque;

use crate::message::QoS;
use crate::seldom::Seldom;

/// Receipts that are owed to a client, oldest first.
#[derive(Debug, Default)]
pub struct Receipts {
    /// The token of the front.
    first: u64,
    /// Mostly none.
    owed: Seldom<VecDeque<Receipt>>,
}

#[derive(Debug)]
struct Receipt {
    packet_id: u16,
    qos: QoS,
    /// The reason code to answer with; `None` while it isn't settled.
    reason: Option<u8>,
}

impl Receipts {
    /// How many are owed.
    pub fn len(&self) -> usize {
        self.owed.len()
    }

    /// Whether none is: the next one may leave at once.
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Owes a receipt that is settled later, under the token returned.
    pub fn owe(&mut self, packet_id: u16, qos: QoS) -> u64 {
        self.push(packet_id, qos, None)
    }

    /// Owes a receipt that is settled already, but has others before it.
    pub fn owe_settled(&mut self, packet_id: u16, qos: QoS, reason: u8) {
        self.push(packet_id, qos, Some(reason));
    }

    /// Settles what `token` names. False if nothing of that name is open.
    pub fn settle(&mut self, token: u64, reason: u8) -> bool {
        let Some(at) = token.checked_sub(self.first) else {
            return false;
        };
        match self.owed.if_any().and_then(|owed| owed.get_mut(at as usize)) {
            Some(receipt) if receipt.reason.is_none() => {
                receipt.reason = Some(reason);
                true
            }
            _ => false,
        }
    }

    /// The next receipt that may leave: packet id, QoS of the PUBLISH, and reason code.
    pub fn next_settled(&mut self) -> Option<(u16, QoS, u8)> {
        let owed = self.owed.if_any()?;
        let Receipt { packet_id, qos, reason } = owed.front()?;
        let settled = (*packet_id, *qos, (*reason)?);
        owed.pop_front();
        self.first += 1;
        if owed.is_empty() {
            self.owed = Seldom::NONE;
        }
        Some(settled)
    }

    fn push(&mut self, packet_id: u16, qos: QoS, reason: Option<u8>) -> u64 {
        self.owed.push_back(Receipt { packet_id, qos, reason });
        self.first + self.owed.len() as u64 - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_leave_in_the_order_of_their_publishes() {
        let mut receipts = Receipts::default();
        let (q1, q2) = (QoS::AtLeastOnce, QoS::ExactlyOnce);
        let first = receipts.owe(10, q1);
        let second = receipts.owe(11, q2);
        receipts.owe_settled(12, q1, 0x10);
        assert_eq!(receipts.next_settled(), None);
        assert!(receipts.settle(second, 0));
        assert_eq!(receipts.next_settled(), None);
        assert!(receipts.settle(first, 0x97));
        assert!(!receipts.settle(first, 0));
        assert_eq!(receipts.next_settled(), Some((10, q1, 0x97)));
        assert_eq!(receipts.next_settled(), Some((11, q2, 0)));
        assert_eq!(receipts.next_settled(), Some((12, q1, 0x10)));
        assert!(receipts.is_empty());
        assert!(!receipts.settle(second, 0));
        assert_eq!(receipts.owe(13, q1), second + 2);
    }
}
