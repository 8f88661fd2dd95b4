//! What the commands of QoS 2 do to a shard: exchanges begin and are released, messages (and wills) leave and come in, once
//! each.

use super::command::*;
use super::exchanges::{Asker, Behalf, Exchange, Leaving, Pending, Source};
use super::machine::{Shard, held};
use super::queue::size;
use super::stored::Stored;
use super::streams::Expected;
use crate::identity::{ClientId, Origin, ShardId};
use crate::limits;
use crate::message::Message;

/// How a message was sent on its way.
#[derive(Default)]
struct Sent {
    outstanding: u32,
    stored: u32,
    refused: Option<Refusal>,
}

impl Shard {
    /// A PUBLISH of QoS 2. `None`: the answer comes when the message is everywhere.
    pub(super) fn publish_once(
        &mut self,
        asker: Asker,
        publish: PublishOnce,
        effects: &mut Vec<Effect>,
    ) -> Option<Outcome> {
        let PublishOnce { client_id, epoch, packet_id, message, spread } = publish;
        let Some(session) = held(&mut self.sessions, &client_id, epoch) else { return Some(Outcome::Stale) };
        if let Some(exchange) = session.lasting.exchanges.get_mut(&packet_id) {
            // The client sends it again; its message is here already ([MQTT-4.3.3-10]).
            let Some(pending) = &mut exchange.pending else { return Some(Outcome::Stored(1)) };
            let (origin, seq) = std::mem::replace(&mut pending.asker, asker);
            effects.push(Effect::Reply { origin, seq, outcome: Outcome::Stale });
            return None;
        }
        let bytes = size(&message) * (spread.destinations.len() + spread.recipients.len());
        if session.lasting.exchanges.len() >= limits::SESSION_EXCHANGES_MAX
            || self.traffic.bytes() + bytes > limits::SHARD_OUTBOX_BYTES_MAX
        {
            return Some(Outcome::Refused(Refusal::Quota));
        }
        if spread.keep {
            self.fences.admit(&client_id, epoch);
        }
        let number = self.traffic.next_exchange();
        let behalf = Behalf::Exchange { client_id: client_id.clone(), packet_id, number };
        let sent = self.spread(message, spread, |_| behalf.clone(), effects);
        let pending = Pending { asker, outstanding: sent.outstanding, stored: sent.stored, refused: sent.refused };
        let settled = (pending.outstanding == 0).then(|| pending.outcome());
        let refused = matches!(settled, Some(Outcome::Refused(_)));
        if !refused && let Some(session) = self.sessions.get_mut(&client_id) {
            let pending = settled.is_none().then_some(pending);
            session.lasting.exchanges.insert(packet_id, Exchange { number, pending });
        }
        settled
    }

    /// A will goes where it is for.
    pub(super) fn fire_will(
        &mut self,
        client_id: &ClientId,
        epoch: u64,
        spread: Spread,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let Some(message) = self.wills.fire(client_id, epoch) else { return Outcome::NotFound };
        let behalf = |to| match to {
            Destination::Keeper(_) => Behalf::Over { client_id: client_id.clone(), epoch },
            Destination::Shard(_) | Destination::Node(_) | Destination::Borrower(_) => Behalf::Nobody,
        };
        self.spread(message, spread, behalf, effects);
        Outcome::Done
    }

    /// Puts a message into the outboxes of everybody that it is for.
    fn spread(
        &mut self,
        message: Message,
        spread: Spread,
        behalf: impl Fn(Destination) -> Behalf,
        effects: &mut Vec<Effect>,
    ) -> Sent {
        let Spread { here, keep, destinations, recipients } = spread;
        let mut members_here = Vec::new();
        let mut copies: Vec<(Destination, Stored)> = Vec::new();
        if !destinations.is_empty() {
            let stored = Stored::new(&self.shelf, &message);
            copies.extend(destinations.into_iter().map(|to| (to, stored.clone())));
        }
        for (to, recipient) in recipients {
            let copy = Message { recipient: Some(recipient), ..message.clone() };
            match to {
                Some(to) => copies.push((to, Stored::new(&self.shelf, &copy))),
                None => members_here.push(copy),
            }
        }
        let mut sent = Sent::default();
        for (to, message) in copies {
            if let Destination::Borrower(run) = to {
                // Stored here until it is done with, it need not arrive before it is acknowledged.
                self.lend(run, message.message(), None, effects);
                sent.stored += 1;
                continue;
            }
            // Subscribers of a run that is over are no longer connected.
            if matches!(to, Destination::Node(run) if self.streams.expected(run) == Expected::Nothing) {
                if message.is_for_one() {
                    members_here.push(message.message());
                }
                continue;
            }
            sent.outstanding += 1;
            self.traffic.put(to, Leaving { message, behalf: behalf(to) });
            effects.push(Effect::Relayable(to));
        }
        members_here.extend(here.then(|| message.clone()));
        let mut outcomes: Vec<Outcome> =
            members_here.into_iter().map(|message| self.publish(message, effects)).collect();
        if keep {
            outcomes.push(self.retain(message, 0));
        }
        for outcome in outcomes {
            match outcome {
                Outcome::Stored(stored) => sent.stored += stored,
                Outcome::Refused(refusal) => sent.refused = Some(refusal),
                _ => {}
            }
        }
        sent
    }

    /// The same command again, from its node.
    pub(super) fn once_again(&self, asker: Asker, publish: &PublishOnce) -> Option<Outcome> {
        let session = self.sessions.get(&publish.client_id);
        match session.and_then(|session| session.lasting.exchanges.get(&publish.packet_id)) {
            Some(Exchange { pending: Some(pending), .. }) if pending.asker == asker => None,
            Some(Exchange { pending: None, .. }) => Some(Outcome::Stored(1)),
            // A newer command waits for it; or it was refused, and nobody knows any more.
            Some(_) => Some(Outcome::Stale),
            None => Some(Outcome::Refused(Refusal::Quota)),
        }
    }

    /// PUBREL.
    pub(super) fn end_exchange(
        &mut self,
        client_id: &ClientId,
        epoch: u64,
        packet_id: u16,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let Some(session) = held(&mut self.sessions, client_id, epoch) else { return Outcome::Stale };
        let Some(exchange) = session.lasting.exchanges.remove(&packet_id) else { return Outcome::NotFound };
        abandon([&exchange], effects);
        Outcome::Done
    }

    /// A message from the outbox of another shard: `take` is called if it is the next.
    pub(super) fn relayed_in(&mut self, from: Source, number: u64, take: impl FnOnce(&mut Self) -> Outcome) -> Outcome {
        let last = self.traffic.taken.get(&from).map_or(0, |stream| stream.last);
        if number <= last {
            return self.relayed_before(from, number);
        }
        if number > last + 1 {
            // Its leader begins with what is not known to be here, so there is no gap: whoever sees one sends it again.
            return Outcome::Refused(Refusal::Unavailable);
        }
        let outcome = take(self);
        let stream = self.traffic.taken.entry(from).or_default();
        stream.last = number;
        if matches!(outcome, Outcome::Refused(_)) {
            stream.refuse(number);
        }
        outcome
    }

    /// What a message that came before was answered.
    pub(super) fn relayed_before(&self, from: Source, number: u64) -> Outcome {
        match self.traffic.taken.get(&from) {
            Some(stream) if number > stream.last => Outcome::Refused(Refusal::Unavailable),
            Some(stream) if !stream.may_have_refused(number) => Outcome::Stored(1),
            Some(_) => Outcome::Refused(Refusal::Quota),
            None => Outcome::Refused(Refusal::Unavailable),
        }
    }

    /// A destination has something.
    pub(super) fn relayed(&mut self, Relayed { to, number, refused }: Relayed, effects: &mut Vec<Effect>) {
        for (at, leaving) in self.traffic.take(to, number) {
            let refused = refused.filter(|_| at == number);
            if refused.is_some() && leaving.behalf == Behalf::Nobody && leaving.message.is_for_one() {
                self.stray(leaving.message.message());
            }
            self.arrived(leaving, 1, refused, effects);
        }
        if self.traffic.outboxes.get(&to).is_some_and(|outbox| !outbox.leaving.is_empty()) {
            effects.push(Effect::Relayable(to));
        }
    }

    /// These runs of a node are over, and with them its subscribers.
    pub(super) fn forget_destinations(&mut self, gone: Origin, effects: &mut Vec<Effect>) {
        for leaving in self.traffic.forget(gone) {
            let shared = leaving.message.is_for_one();
            if shared {
                self.stray(leaving.message.message());
                effects.push(Effect::Unplaced);
            }
            self.arrived(leaving, u32::from(shared), None, effects);
        }
    }

    /// One part of a message's way is done; the last one answers whoever asks.
    fn arrived(&mut self, leaving: Leaving, stored: u32, refused: Option<Refusal>, effects: &mut Vec<Effect>) {
        let Behalf::Exchange { client_id, packet_id, number } = leaving.behalf else { return };
        let Some(session) = self.sessions.get_mut(&client_id) else { return };
        let Some(exchange) = session.lasting.exchanges.get_mut(&packet_id) else { return };
        let Some(pending) = exchange.pending.as_mut().filter(|_| exchange.number == number) else { return };
        pending.outstanding -= 1;
        pending.stored += stored;
        pending.refused = pending.refused.or(refused);
        if pending.outstanding > 0 {
            return;
        }
        let ((origin, seq), outcome) = (pending.asker, pending.outcome());
        exchange.pending = None;
        if let Outcome::Refused(_) = outcome {
            // PUBREC with an error ends the exchange: the packet id is free (section 4.3.3).
            session.lasting.exchanges.remove(&packet_id);
        }
        effects.push(Effect::Reply { origin, seq, outcome });
    }
}

/// What the shard's leader reads.
impl Shard {
    /// Whether a session has an open exchange of this packet id; if so, whether its message is everywhere.
    pub fn exchange(&self, client_id: &ClientId, packet_id: u16) -> Option<bool> {
        let exchange = self.sessions.get(client_id)?.lasting.exchanges.get(&packet_id)?;
        Some(exchange.pending.is_none())
    }

    /// Everybody that something is on its way to.
    pub fn destinations(&self) -> Vec<Destination> {
        let outboxes = self.traffic.outboxes.iter();
        outboxes.filter(|(_, outbox)| !outbox.leaving.is_empty()).map(|(to, _)| *to).collect()
    }

    /// The outboxes of what is to be kept, by all shards or by one, that are not empty, and the last number in each.
    pub fn to_be_kept(&self, keeper: Option<ShardId>) -> Vec<(Destination, u64)> {
        let within =
            |to: &Destination| matches!(to, Destination::Keeper(to) if keeper.is_none_or(|keeper| keeper == *to));
        let outboxes = self.traffic.outboxes.iter();
        let outboxes = outboxes.filter(|(to, outbox)| within(to) && !outbox.leaving.is_empty());
        outboxes.map(|(to, outbox)| (*to, outbox.first + outbox.leaving.len() as u64 - 1)).collect()
    }

    /// The first number on its way to `to`.
    pub fn first_leaving(&self, to: Destination) -> u64 {
        self.traffic.outboxes.get(&to).map_or(1, |outbox| outbox.first)
    }

    /// By which connection the message was sent that is on its way to `to` under `number`.
    pub fn sender(&self, to: Destination, number: u64) -> Sender {
        let leaving = self.traffic.outboxes.get(&to).and_then(|outbox| {
            let place = usize::try_from(number.checked_sub(outbox.first)?).ok()?;
            outbox.leaving.get(place)
        });
        match leaving.map(|leaving| &leaving.behalf) {
            None | Some(Behalf::Nobody) => Sender::Unknown,
            Some(Behalf::Over { epoch, .. }) => Sender::Over(*epoch),
            Some(Behalf::Exchange { client_id, packet_id, number }) => {
                let session = self.sessions.get(client_id);
                let waits = session.and_then(|session| {
                    let exchange = session.lasting.exchanges.get(packet_id)?;
                    (exchange.number == *number).then_some(session.epoch)
                });
                // Its session has ended: it was acknowledged to nobody.
                waits.map_or(Sender::Over(0), Sender::Waits)
            }
        }
    }

    /// What is on its way to `to` from `number` on, within about `bytes_max`.
    pub fn leaving(&self, to: Destination, number: u64, bytes_max: usize) -> Vec<(u64, Message)> {
        self.traffic.leaving(to, number, bytes_max)
    }
}

/// Lets whoever asks go: these exchanges are over before their messages are everywhere.
pub(super) fn abandon<'e>(exchanges: impl IntoIterator<Item = &'e Exchange>, effects: &mut Vec<Effect>) {
    for pending in exchanges.into_iter().filter_map(|exchange| exchange.pending.as_ref()) {
        let (origin, seq) = pending.asker;
        effects.push(Effect::Reply { origin, seq, outcome: Outcome::Stale });
    }
}
