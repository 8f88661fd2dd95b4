//! QoS 2 in both directions, but for what PUBLISH has in common with QoS 1 (`packets`).

use super::core::Core;
use super::lifetime::Ending;
use super::packets::is_at_bound;
use super::wheel::Timed;
use crate::connection::Pauses;
use crate::door::{Recipients, Targets, ToCluster};
use crate::message::{Message, QoS};
use crate::protocol::{Acknowledgement, Packet, Properties, ReasonCode};
use crate::session::Begun;
use crate::shard::Outcome;

/// From the client: PUBLISH, PUBREL.
impl Core {
    /// A PUBLISH whose packet id is in use.
    pub(super) fn repeated(&mut self, slot: u32, packet_id: u16, begun: Begun) {
        match begun {
            Begun::New | Begun::Owed => {}
            Begun::Received => self.send(slot, Packet::PubRec(acknowledgement(packet_id, ReasonCode::SUCCESS))),
            Begun::Releasing => {
                let words = "a PUBLISH with the packet id of an exchange that PUBREL is ending";
                self.break_off(slot, ReasonCode::PROTOCOL_ERROR.because(words));
            }
        }
    }

    /// A message of a persistent session goes by way of its shard, which knows whether it has come before.
    pub(super) fn publish_once(
        &mut self,
        timed: Timed,
        packet_id: u16,
        message: Message,
        targets: Targets,
        recipients: Recipients,
    ) {
        let connection = self.id_of(timed.0);
        let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) else {
            return;
        };
        session.rare.exchanges.begin(packet_id);
        let token = session.receipts.owe(packet_id, QoS::ExactlyOnce);
        let (client_id, epoch) = (session.terms.client_id.clone(), session.terms.epoch);
        self.table.counters.forwarded_to_cluster += 1;
        self.tell(ToCluster::PublishOnce {
            connection,
            token,
            client_id,
            epoch,
            packet_id,
            message,
            targets,
            recipients,
        });
        self.pause_at_bound(timed);
    }

    /// PUBREL: the client will not send the message again.
    pub(super) fn pubrel(&mut self, timed: Timed, packet_id: u16) {
        let (slot, _) = timed;
        let connection = self.id_of(slot);
        let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) else {
            return;
        };
        if !session.terms.persistent {
            let reason = found(session.rare.exchanges.release(packet_id));
            return self.send(slot, Packet::PubComp(acknowledgement(packet_id, reason)));
        }
        // An id that is not known here may be from an earlier connection.
        if session.rare.exchanges.begin_release(packet_id) {
            let (client_id, epoch) = (session.terms.client_id.clone(), session.terms.epoch);
            self.tell(ToCluster::EndExchange { connection, client_id, epoch, packet_id });
            self.pause_at_bound(timed);
        }
    }

    /// The shard has released it, or cannot.
    pub(super) fn exchange_ended(&mut self, timed: Timed, packet_id: u16, outcome: &Outcome) {
        let (slot, _) = timed;
        let receive_maximum = usize::from(self.table.limits.receive_maximum);
        let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) else {
            return;
        };
        if !session.rare.exchanges.end_release(packet_id) {
            return;
        }
        let below_bound = !is_at_bound(session, receive_maximum);
        match outcome {
            Outcome::Done | Outcome::NotFound => {
                let reason = found(*outcome == Outcome::Done);
                self.send(slot, Packet::PubComp(acknowledgement(packet_id, reason)));
            }
            // Whoever took the session over is about to be heard of.
            Outcome::Stale => {}
            // PUBCOMP cannot say no.
            _ => {
                let why = ReasonCode::USE_ANOTHER_SERVER.because("the end of a QoS 2 exchange could not be stored");
                self.close(slot, Some(why), Ending::WithWill);
            }
        }
        if below_bound {
            self.table.lift(timed, Pauses::RECEIPTS);
        }
    }
}

/// To the client: what it says of what it was sent.
impl Core {
    /// PUBREC: from now on the message is not sent again, only PUBREL.
    pub(super) fn pubrec(&mut self, timed: Timed, pubrec: Acknowledgement<'_>) {
        let (slot, _) = timed;
        let packet_id = pubrec.packet_id;
        let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) else {
            return;
        };
        if pubrec.reason.is_error() {
            if session.give_up(packet_id) {
                self.acknowledged(slot);
            }
            return;
        }
        if !session.receive(packet_id) {
            return self.send(slot, Packet::PubRel(acknowledgement(packet_id, found(false))));
        }
        if session.terms.persistent {
            // The flush tells the shard; `received` goes on.
            self.acknowledged(slot);
        } else {
            self.send(slot, Packet::PubRel(acknowledgement(packet_id, ReasonCode::SUCCESS)));
        }
    }

    /// The shard has stored that the client has received these.
    pub(super) fn received(&mut self, timed: Timed, numbers: &[u64]) {
        let (slot, _) = timed;
        for number in numbers {
            let session = self.table.get(timed).and_then(|connection| connection.session());
            if let Some(packet_id) = session.and_then(|session| session.release(*number)) {
                self.send(slot, Packet::PubRel(acknowledgement(packet_id, ReasonCode::SUCCESS)));
            }
        }
    }

    /// PUBCOMP: the exchange is over.
    pub(super) fn pubcomp(&mut self, timed: Timed, packet_id: u16) {
        let session = self.table.get(timed).and_then(|connection| connection.session());
        if session.is_some_and(|session| session.complete(packet_id)) {
            self.acknowledged(timed.0);
        }
    }

    /// The flush passes on what the client acknowledged, and sends what waited for it.
    fn acknowledged(&mut self, slot: u32) {
        self.table.mark_dirty(slot);
        self.flush_soon();
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
pub(super) fn acknowledgement(packet_id: u16, reason: ReasonCode) -> Acknowledgement<'static> {
    Acknowledgement { packet_id, reason, properties: Properties::default() }
}

fn found(known: bool) -> ReasonCode {
    if known { ReasonCode::SUCCESS } else { ReasonCode::PACKET_IDENTIFIER_NOT_FOUND }
}
