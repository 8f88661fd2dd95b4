//! What was sent to a client at QoS 1 and 2 and not yet acknowledged, by packet id.
//!
//! Everything sent has a sequence number, and the packet id follows from it ([`Delivery::packet_id`]). Of a persistent
//! session the numbers are those of its queue; of an ephemeral one they count from 1. A window is the span from the
//! oldest unacknowledged number to the newest, with what was acknowledged out of order marked in it. A message of QoS 2
//! stays in it until PUBCOMP.

use std::collections::VecDeque;

use crate::message::QoS;
use crate::seldom::{Nothing, Seldom};
use crate::shard::Delivery;

/// Packet ids in a cycle; the span stays below it, so that an id names one number.
const IDS: u64 = 65_535;
/// An empty window gives back more room than this.
const KEPT_CAPACITY: usize = 64;

/// Where one number stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Sent at QoS 1: PUBACK ends it.
    AtLeastOnce,
    /// Sent at QoS 2: PUBREC is awaited.
    ExactlyOnce,
    /// PUBREC has come: PUBCOMP is awaited.
    Received,
    /// Over, or acknowledged on an earlier connection.
    Over,
}

/// The numbers in flight.
#[derive(Debug)]
pub struct Window {
    /// The oldest number in flight, or the next to be sent if none is.
    first: u64,
    /// A client that is sent nothing but QoS 0 has none.
    sent: Seldom<Sent>,
}

/// What was sent.
#[derive(Debug, Default)]
struct Sent {
    /// From the window's `first` on. The front is never over.
    places: VecDeque<Place>,
    in_flight: u32,
}

impl Nothing for Sent {
    const NOTHING: &'static Self = &Sent { places: VecDeque::new(), in_flight: 0 };

    fn nothing() -> Self {
        Sent::default()
    }
}

impl Default for Window {
    fn default() -> Self {
        Window { first: 1, sent: Seldom::NONE }
    }
}

impl Window {
    /// How many are sent and not acknowledged.
    pub fn in_flight(&self) -> u32 {
        self.sent.in_flight
    }

    /// The highest number sent; 0 for none.
    pub fn sent_to(&self) -> u64 {
        self.next() - 1
    }

    /// Whether one more may be sent to a client that takes `receive_maximum` at once ([MQTT-3.3.4-9]).
    pub fn has_room(&self, receive_maximum: u16) -> bool {
        let sent = &*self.sent;
        sent.in_flight < u32::from(receive_maximum) && (sent.places.len() as u64) < IDS - 1
    }

    /// Takes the next number; gives its packet id.
    pub fn send(&mut self, qos: QoS) -> u16 {
        let number = self.next();
        let sent = &mut *self.sent;
        sent.places.push_back(if qos == QoS::ExactlyOnce { Place::ExactlyOnce } else { Place::AtLeastOnce });
        sent.in_flight += 1;
        Delivery::packet_id(number)
    }

    /// Takes a number that the session's queue has given. Numbers grow; those that are left out were acknowledged on an
    /// earlier connection. `None` if it was sent before on this connection, or would make packet ids ambiguous.
    pub fn send_numbered(&mut self, number: u64, qos: QoS) -> Option<u16> {
        if self.sent.places.is_empty() {
            if number < self.first {
                return None;
            }
            self.first = number;
        }
        let gap = number.checked_sub(self.next())?;
        if self.sent.places.len() as u64 + gap >= IDS - 1 {
            return None;
        }
        self.sent.places.extend(std::iter::repeat_n(Place::Over, gap as usize));
        Some(self.send(qos))
    }

    /// PUBACK: the number that `packet_id` acknowledges; `None` if it is not in flight at QoS 1.
    pub fn acknowledge(&mut self, packet_id: u16) -> Option<u64> {
        self.end_if(packet_id, |place| place == Place::AtLeastOnce)
    }

    /// PUBREC, or what an earlier connection has heard of it: the number that the client has received. A second PUBREC
    /// is as good as the first. `None` if it is not in flight at QoS 2.
    pub fn receive(&mut self, packet_id: u16) -> Option<u64> {
        let (at, place) = self.find(packet_id)?;
        if !matches!(place, Place::ExactlyOnce | Place::Received) {
            return None;
        }
        self.sent.places[at] = Place::Received;
        Some(self.first + at as u64)
    }

    /// Whether PUBREL may be sent for this number.
    pub fn is_received(&self, number: u64) -> bool {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.sent.places.get(at)) == Some(&Place::Received)
    }

    /// PUBCOMP: the number that is over with it. `None` if none was received under this id.
    pub fn complete(&mut self, packet_id: u16) -> Option<u64> {
        self.end_if(packet_id, |place| place == Place::Received)
    }

    /// PUBREC with an error ([MQTT-4.3.3-4] asks for PUBREL only below 0x80), or a message that is given up: over.
    pub fn give_up(&mut self, packet_id: u16) -> Option<u64> {
        self.end_if(packet_id, |place| matches!(place, Place::AtLeastOnce | Place::ExactlyOnce))
    }

    fn end_if(&mut self, packet_id: u16, wanted: impl Fn(Place) -> bool) -> Option<u64> {
        let (at, place) = self.find(packet_id)?;
        if !wanted(place) {
            return None;
        }
        let sent = &mut *self.sent;
        sent.places[at] = Place::Over;
        sent.in_flight -= 1;
        let number = self.first + at as u64;
        while sent.places.front() == Some(&Place::Over) {
            sent.places.pop_front();
            self.first += 1;
        }
        if sent.places.is_empty() && sent.places.capacity() > KEPT_CAPACITY {
            self.sent = Seldom::NONE;
        }
        Some(number)
    }

    fn find(&self, packet_id: u16) -> Option<(usize, Place)> {
        if packet_id == 0 {
            return None;
        }
        let oldest = Delivery::packet_id(self.first);
        let at = ((u64::from(packet_id) + IDS - u64::from(oldest)) % IDS) as usize;
        self.sent.places.get(at).map(|place| (at, *place))
    }

    fn next(&self) -> u64 {
        self.first + self.sent.places.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q1: QoS = QoS::AtLeastOnce;
    const Q2: QoS = QoS::ExactlyOnce;

    #[test]
    fn packet_ids_go_round_and_are_never_zero() {
        let mut window = Window::default();
        let mut seen = std::collections::BTreeSet::new();
        for number in 1..=200_000_u64 {
            let id = window.send(Q1);
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
        let oldest = window.send(Q1);
        let mut sent = 1;
        while window.has_room(u16::MAX) {
            let id = window.send(Q1);
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
        let ids: Vec<u16> = (0..4).map(|_| window.send(Q1)).collect();
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
        assert_eq!(window.send_numbered(70_000, Q1), Some(Delivery::packet_id(70_000)));
        assert_eq!(window.send_numbered(70_003, Q1), Some(Delivery::packet_id(70_003)));
        assert_eq!(window.send_numbered(70_003, Q1), None);
        assert_eq!(window.in_flight(), 2);
        assert_eq!(window.acknowledge(Delivery::packet_id(70_001)), None);
        assert_eq!(window.acknowledge(Delivery::packet_id(70_003)), Some(70_003));
        assert_eq!(window.acknowledge(Delivery::packet_id(70_000)), Some(70_000));
        assert_eq!(window.sent_to(), 70_003);
        assert_eq!(window.send_numbered(70_002, Q1), None);
        assert!(window.send_numbered(70_004, Q1).is_some());
    }

    #[test]
    fn a_message_of_qos_2_is_in_flight_until_pubcomp() {
        let mut window = Window::default();
        let id = window.send(Q2);
        assert_eq!(window.acknowledge(id), None, "PUBACK is for QoS 1");
        assert_eq!(window.complete(id), None, "not received yet");
        assert_eq!(window.receive(id), Some(1));
        assert_eq!(window.receive(id), Some(1), "PUBREC may come twice");
        assert!(window.is_received(1) && !window.has_room(1));
        assert_eq!(window.give_up(id), None, "once received it is not given up");
        assert_eq!(window.complete(id), Some(1));
        assert_eq!((window.complete(id), window.receive(id), window.in_flight()), (None, None, 0));
        let id = window.send(Q2);
        assert_eq!((window.give_up(id), window.in_flight()), (Some(2), 0));
        let id = window.send(Q1);
        assert_eq!(window.receive(id), None, "PUBREC is for QoS 2");
    }
}
