//! What a client published at QoS 2 and has not released, as its connection knows it.
//!
//! Of an ephemeral session these are all there are. Of a persistent one its shard keeps the packet ids, and here is what
//! came over this connection: an id that is not known here may be known there. That the ids are bounded is for whoever
//! calls [`Exchanges::begin`] to see to.

use std::collections::BTreeMap;

use crate::seldom::Nothing;

/// Exchanges by packet id.
#[derive(Debug, Default)]
pub struct Exchanges {
    open: BTreeMap<u16, Phase>,
    /// Those of `open` whose PUBREC has left and that were published over this connection.
    received: usize,
    /// Those of `open` that are being released.
    releasing: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// PUBREC is owed: a receipt stands for it.
    Storing,
    /// PUBREC has left.
    Received,
    /// PUBREL has come; its shard does not know yet. `counted`: published over this connection.
    Releasing { counted: bool },
}

/// What a PUBLISH of QoS 2 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// A new message, as far as is known here.
    New,
    /// The same message again, which has no PUBREC yet: the one that is owed answers both.
    Owed,
    /// The same message again: PUBREC again ([MQTT-4.3.3-10]).
    Received,
    /// Its packet id is being released: it must not be used before PUBCOMP ([MQTT-2.2.1-3]).
    Releasing,
}

impl Nothing for Exchanges {
    const NOTHING: &'static Self = &Exchanges { open: BTreeMap::new(), received: 0, releasing: 0 };

    fn nothing() -> Self {
        Exchanges::default()
    }
}

impl Exchanges {
    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// How many count against the Receive Maximum besides the receipts that are owed.
    pub fn counted(&self) -> usize {
        self.received
    }

    /// How many wait for their shard to release them.
    pub fn releasing(&self) -> usize {
        self.releasing
    }

    /// What a PUBLISH with this packet id is. Opens nothing.
    pub fn find(&self, packet_id: u16) -> Begun {
        match self.open.get(&packet_id) {
            None => Begun::New,
            Some(Phase::Storing) => Begun::Owed,
            Some(Phase::Received) => Begun::Received,
            Some(Phase::Releasing { .. }) => Begun::Releasing,
        }
    }

    /// Opens an exchange whose PUBREC is owed.
    pub fn begin(&mut self, packet_id: u16) {
        self.open.insert(packet_id, Phase::Storing);
    }

    /// PUBREC leaves; with an error the exchange is over.
    pub fn receive(&mut self, packet_id: u16, refused: bool) {
        if let Some(phase @ Phase::Storing) = self.open.get_mut(&packet_id) {
            *phase = Phase::Received;
            self.received += 1;
            if refused {
                self.open.remove(&packet_id);
                self.received -= 1;
            }
        }
    }

    /// PUBREL for an ephemeral session: false if the packet id is not known.
    pub fn release(&mut self, packet_id: u16) -> bool {
        let known = self.open.get(&packet_id) == Some(&Phase::Received);
        if known {
            self.open.remove(&packet_id);
            self.received -= 1;
        }
        known
    }

    /// PUBREL for a persistent session: false if there is nothing to ask its shard, because it was asked already, or
    /// because PUBREC has not left.
    pub fn begin_release(&mut self, packet_id: u16) -> bool {
        let before = self.open.get(&packet_id).copied();
        let counted = match before {
            None => false,
            Some(Phase::Received) => true,
            Some(Phase::Storing | Phase::Releasing { .. }) => return false,
        };
        self.open.insert(packet_id, Phase::Releasing { counted });
        self.releasing += 1;
        true
    }

    /// The shard has released it: PUBCOMP leaves. False if that was not awaited.
    pub fn end_release(&mut self, packet_id: u16) -> bool {
        let Some(&Phase::Releasing { counted }) = self.open.get(&packet_id) else { return false };
        self.open.remove(&packet_id);
        self.releasing -= 1;
        self.received -= usize::from(counted);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_counts_from_publish_to_pubcomp() {
        let mut exchanges = Exchanges::default();
        assert_eq!(exchanges.find(5), Begun::New);
        exchanges.begin(5);
        assert_eq!((exchanges.find(5), exchanges.counted()), (Begun::Owed, 0));
        assert!(!exchanges.release(5), "PUBREC has not left");
        exchanges.receive(5, false);
        exchanges.receive(5, false);
        assert_eq!((exchanges.find(5), exchanges.counted()), (Begun::Received, 1));
        assert!(exchanges.begin_release(5));
        assert!(!exchanges.begin_release(5), "asked already");
        assert_eq!((exchanges.find(5), exchanges.counted(), exchanges.releasing()), (Begun::Releasing, 1, 1));
        assert!(exchanges.end_release(5));
        assert!(!exchanges.end_release(5));
        assert_eq!((exchanges.len(), exchanges.counted(), exchanges.releasing()), (0, 0, 0));
    }

    #[test]
    fn what_an_earlier_connection_published_does_not_count() {
        let mut exchanges = Exchanges::default();
        assert!(exchanges.begin_release(9));
        assert_eq!((exchanges.counted(), exchanges.releasing()), (0, 1));
        assert!(exchanges.end_release(9));
        assert!(exchanges.is_empty());
    }

    #[test]
    fn a_refused_exchange_is_over() {
        let mut exchanges = Exchanges::default();
        exchanges.begin(5);
        exchanges.receive(5, true);
        assert_eq!((exchanges.find(5), exchanges.counted()), (Begun::New, 0));
        assert!(!exchanges.release(5));
    }
}
