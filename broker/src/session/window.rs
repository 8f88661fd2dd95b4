//! What was sent to a client at QoS 1 and not yet acknowledged, by packet id.
//!
//! Everything sent has a sequence number, and the packet id follows from it ([`Delivery::packet_id`]). Of a persistent
//! session the numbers are those of its queue; of an ephemeral one they count from 1. A window is the span from the
//! oldest unacknowledged number to the newest, with what was acknowledged out of order marked in it.

use std::collections::VecDeque;

use crate::shard::Delivery;

/// Packet ids in a cycle; the span stays below it, so that an id names one number.
const IDS: u64 = 65_535;
/// An empty window gives back more room than this.
const KEPT_CAPACITY: usize = 64;

/// The numbers in flight.
#[derive(Debug)]
pub struct Window {
    /// The number at the front of `acknowledged`, or the next to be sent if that is empty.
    first: u64,
    /// From `first` on: whether it is acknowledged. The front never is.
    acknowledged: VecDeque<bool>,
    in_flight: u32,
}

impl Default for Window {
    fn default() -> Self {
        Window { first: 1, acknowledged: VecDeque::new(), in_flight: 0 }
    }
}

impl Window {
    /// How many are sent and not acknowledged.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The highest number sent; 0 for none.
    pub fn sent_to(&self) -> u64 {
        self.next() - 1
    }

    /// Whether one more may be sent to a client that takes `receive_maximum` at once ([MQTT-3.3.4-9]).
    pub fn has_room(&self, receive_maximum: u16) -> bool {
        self.in_flight < u32::from(receive_maximum) && (self.acknowledged.len() as u64) < IDS - 1
    }

    /// Takes the next number; gives its packet id.
    pub fn send(&mut self) -> u16 {
        let number = self.next();
        self.acknowledged.push_back(false);
        self.in_flight += 1;
        Delivery::packet_id(number)
    }

    /// Takes a number that the session's queue has given. Numbers grow; those that are left out were acknowledged on an
    /// earlier connection. `None` if it was sent before on this connection, or would make packet ids ambiguous.
    pub fn send_numbered(&mut self, number: u64) -> Option<u16> {
        if self.acknowledged.is_empty() {
            if number < self.first {
                return None;
            }
            self.first = number;
        }
        let gap = number.checked_sub(self.next())?;
        if self.acknowledged.len() as u64 + gap >= IDS - 1 {
            return None;
        }
        self.acknowledged.extend(std::iter::repeat_n(true, gap as usize));
        Some(self.send())
    }

    /// The number that `packet_id` acknowledges; `None` if it is not in flight.
    pub fn acknowledge(&mut self, packet_id: u16) -> Option<u64> {
        let oldest = Delivery::packet_id(self.first);
        let distance = (u64::from(packet_id) + IDS - u64::from(oldest)) % IDS;
        let acknowledged = self.acknowledged.get_mut(distance as usize)?;
        if packet_id == 0 || std::mem::replace(acknowledged, true) {
            return None;
        }
        self.in_flight -= 1;
        let number = self.first + distance;
        while self.acknowledged.front() == Some(&true) {
            self.acknowledged.pop_front();
            self.first += 1;
        }
        if self.acknowledged.is_empty() && self.acknowledged.capacity() > KEPT_CAPACITY {
            self.acknowledged = VecDeque::new();
        }
        Some(number)
    }

    fn next(&self) -> u64 {
        self.first + self.acknowledged.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_ids_go_round_and_are_never_zero() {
        let mut window = Window::default();
        let mut seen = std::collections::BTreeSet::new();
        for number in 1..=200_000_u64 {
            let id = window.send();
            assert_ne!(id, 0);
            seen.insert(id);
            assert_eq!(window.acknowledge(id), Some(number));
            assert_eq!(window.acknowledge(id), None);
        }
        assert_eq!(seen.len(), 65_535);
    }

    #[test]
    fn an_id_is_not_used_again_while_in_flight() {
        let mut window = Window::default();
        let oldest = window.send();
        let mut sent = 1;
        while window.has_room(u16::MAX) {
            let id = window.send();
            assert_ne!(id, oldest);
            window.acknowledge(id);
            sent += 1;
        }
        assert_eq!((sent, window.in_flight()), (65_534, 1));
        assert_eq!(window.acknowledge(oldest), Some(1));
        assert!(window.has_room(1));
    }

    #[test]
    fn acknowledgements_may_come_in_any_order() {
        let mut window = Window::default();
        let ids: Vec<u16> = (0..4).map(|_| window.send()).collect();
        assert!(!window.has_room(4));
        assert_eq!(window.acknowledge(ids[2]), Some(3));
        assert!(window.has_room(4));
        assert_eq!(window.acknowledge(0), None);
        assert_eq!(window.acknowledge(ids[0]), Some(1));
        assert_eq!(window.acknowledge(ids[1]), Some(2));
        assert_eq!(window.acknowledge(ids[3]), Some(4));
        assert_eq!((window.in_flight(), window.sent_to()), (0, 4));
    }

    #[test]
    fn numbers_of_a_queue_keep_their_packet_ids_over_gaps() {
        let mut window = Window::default();
        assert_eq!(window.send_numbered(70_000), Some(Delivery::packet_id(70_000)));
        assert_eq!(window.send_numbered(70_003), Some(Delivery::packet_id(70_003)));
        assert_eq!(window.send_numbered(70_003), None);
        assert_eq!(window.in_flight(), 2);
        assert_eq!(window.acknowledge(Delivery::packet_id(70_001)), None);
        assert_eq!(window.acknowledge(Delivery::packet_id(70_003)), Some(70_003));
        assert_eq!(window.acknowledge(Delivery::packet_id(70_000)), Some(70_000));
        assert_eq!(window.sent_to(), 70_003);
        assert_eq!(window.send_numbered(70_002), None);
        assert!(window.send_numbered(70_004).is_some());
    }
}
