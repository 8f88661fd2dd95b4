//! What a client published at QoS 1 and the broker has not yet acknowledged.
//!
//! PUBACKs leave in the order of the PUBLISHes ([MQTT-4.6.0-2]): one that is settled waits for those before it.

use std::collections::VecDeque;

/// Receipts that are owed to a client, oldest first.
#[derive(Debug, Default)]
pub struct Receipts {
    /// The token of the front.
    first: u64,
    owed: VecDeque<Receipt>,
}

#[derive(Debug)]
struct Receipt {
    packet_id: u16,
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
    pub fn owe(&mut self, packet_id: u16) -> u64 {
        self.push(packet_id, None)
    }

    /// Owes a receipt that is settled already, but has others before it.
    pub fn owe_settled(&mut self, packet_id: u16, reason: u8) {
        self.push(packet_id, Some(reason));
    }

    /// Settles what `token` names. False if nothing of that name is open.
    pub fn settle(&mut self, token: u64, reason: u8) -> bool {
        let Some(at) = token.checked_sub(self.first) else {
            return false;
        };
        match self.owed.get_mut(at as usize) {
            Some(receipt) if receipt.reason.is_none() => {
                receipt.reason = Some(reason);
                true
            }
            _ => false,
        }
    }

    /// The next receipt that may leave: packet id and reason code.
    pub fn next_settled(&mut self) -> Option<(u16, u8)> {
        let Receipt { packet_id, reason } = self.owed.front()?;
        let settled = (*packet_id, (*reason)?);
        self.owed.pop_front();
        self.first += 1;
        if self.owed.is_empty() {
            self.owed = VecDeque::new();
        }
        Some(settled)
    }

    fn push(&mut self, packet_id: u16, reason: Option<u8>) -> u64 {
        self.owed.push_back(Receipt { packet_id, reason });
        self.first + self.owed.len() as u64 - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_leave_in_the_order_of_their_publishes() {
        let mut receipts = Receipts::default();
        let first = receipts.owe(10);
        let second = receipts.owe(11);
        receipts.owe_settled(12, 0x10);
        assert_eq!(receipts.next_settled(), None);
        assert!(receipts.settle(second, 0));
        assert_eq!(receipts.next_settled(), None);
        assert!(receipts.settle(first, 0x97));
        assert!(!receipts.settle(first, 0));
        assert_eq!(receipts.next_settled(), Some((10, 0x97)));
        assert_eq!(receipts.next_settled(), Some((11, 0)));
        assert_eq!(receipts.next_settled(), Some((12, 0x10)));
        assert!(receipts.is_empty());
        assert!(!receipts.settle(second, 0));
        assert_eq!(receipts.owe(13), second + 2);
    }
}
