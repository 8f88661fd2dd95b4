//! Messages of shared subscriptions whose member has gone, on their way to another: whoever holds them has a worker choose,
//! which knows all members.

use super::ShardRooms;
use crate::cluster::shard_client::Waiter;
use crate::door::{Recipient, ToWorker, Wanted};
use crate::identity::{ClientId, ShardId};
use crate::limits::HAND_OVERS_MAX;
use crate::message::Message;
use crate::shard::{Command, Destination, HandOver, Onward, Outcome, Refusal};
use crate::share::Member;

/// What members are being chosen for.
pub(super) enum Choosing {
    /// Messages in a shard that this node leads in this term: in whose queue, under which number.
    HandOver { shard: ShardId, term: u64, waiting: Vec<(Option<ClientId>, u64)> },
    /// Whom a will is for, which this node's shard has in this epoch; `about` is the will without its payload.
    Will { shard: ShardId, client_id: ClientId, epoch: u64, about: Message },
    /// One that was on its way to a node that has gone; the key is that of its publish.
    Publish { key: u64, message: Message },
}

impl ShardRooms {
    /// Looks for messages in a shard that other members could take, unless some are being handed over.
    pub(super) fn hand_over(&self, shard: ShardId) {
        let found = self.with_led(shard, |group, leader| {
            if leader.handing.busy {
                return None;
            }
            let (unplaced, after) = group.with(|state| state.unplaced(leader.handing.after.as_ref(), HAND_OVERS_MAX));
            leader.handing.after = after;
            leader.handing.busy = !unplaced.is_empty();
            Some((leader.term, unplaced))
        });
        let Some((term, unplaced)) = found.flatten().filter(|(_, unplaced)| !unplaced.is_empty()) else { return };
        let wanted = unplaced.iter().map(|unplaced| wanted(&unplaced.message, unplaced.from.is_some())).collect();
        let waiting = unplaced.into_iter().map(|unplaced| (unplaced.from, unplaced.number)).collect();
        self.ask_to_choose(Choosing::HandOver { shard, term, waiting }, wanted);
    }

    /// Finds another member for a message that was on its way to a node that has gone.
    pub(super) fn choose_again(&self, key: u64, message: Message) {
        let wanted = vec![wanted(&message, false)];
        self.ask_to_choose(Choosing::Publish { key, message }, wanted);
    }

    fn ask_to_choose(&self, choosing: Choosing, wanted: Vec<Wanted>) {
        let token = self.next_key.get();
        self.next_key.set(token + 1);
        self.choosing.borrow_mut().insert(token, choosing);
        self.around.workers.send(0, ToWorker::Choose { token, wanted });
    }

    /// A worker has chosen.
    pub(super) fn chosen(&self, token: u64, chosen: Vec<Option<Recipient>>) {
        let choosing = self.choosing.borrow_mut().remove(&token);
        match choosing {
            None | Some(Choosing::Will { .. }) => {}
            Some(Choosing::Publish { key, message }) => match chosen.into_iter().next() {
                Some(Some(recipient)) => self.give_member(Some(key), recipient, message),
                Some(None) => self.publish_part(key, 0, None),
                None => self.publish_part(key, 0, Some(Refusal::Unavailable)),
            },
            Some(Choosing::HandOver { shard, term, waiting }) => {
                let mut hand_overs = Vec::new();
                for ((from, number), member) in waiting.into_iter().zip(chosen) {
                    let to = match member {
                        Some(member) => self.onward(shard, from.is_none(), member),
                        None if from.is_none() => Some(Onward::Nowhere),
                        None => None,
                    };
                    hand_overs.extend(to.map(|to| HandOver { from, number, to }));
                }
                if hand_overs.is_empty() {
                    self.handed_over(shard, term, &Outcome::Stored(0));
                } else {
                    self.push(shard, Command::HandOver(hand_overs), Waiter::HandOver { shard, term });
                }
            }
        }
    }

    /// Where a message of `shard` goes whose next member is `recipient`. One that may not be lent it leaves a stray to its heir.
    fn onward(&self, shard: ShardId, stray: bool, recipient: Recipient) -> Option<Onward> {
        let mut to = self.destination_of(&recipient)?;
        let Recipient { mut text, heir, .. } = recipient;
        if let (Destination::Borrower(run), Some(heir)) = (to, heir)
            && self.with_led(shard, |group, _| group.with(|state| state.may_hand_over(run, &text))) == Some(false)
        {
            if !stray {
                return None;
            }
            (to, text) = (Destination::Shard(heir.shard), heir.text);
        }
        Some(if to == Destination::Shard(shard) { Onward::Here(text) } else { Onward::To(to, text) })
    }

    /// So many were handed over: on with the next. If none could be, the next tick tries again.
    pub(super) fn handed_over(&self, shard: ShardId, term: u64, outcome: &Outcome) {
        let led = self.with_led(shard, |_, leader| {
            if leader.term == term {
                leader.handing.busy = false;
            }
            leader.term
        });
        if led == Some(term) && matches!(outcome, Outcome::Stored(1..)) {
            self.hand_over(shard);
        }
    }
}

fn wanted(message: &Message, connected_only: bool) -> Wanted {
    let recipient = message.recipient.as_deref().unwrap_or_default();
    Wanted {
        subscription: Member::parse(recipient).map_or("", |member| member.subscription).into(),
        topic: message.topic.clone(),
        publisher: message.publisher.clone(),
        qos: message.qos,
        connected_only,
    }
}
