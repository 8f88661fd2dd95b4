//! Shared subscriptions: each message to one member, and to another if that one has gone.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use rand::rngs::SmallRng;

use super::core::Core;
use super::table::{Source, Table};
use crate::connection::{Content, Payload};
use crate::door::{LoanEnd, Recipients, RouteOwner, Targets, ToCluster, Wanted};
use crate::identity::ConnectionId;
use crate::message::{Message, QoS, Subscription};
use crate::router::{Choice, Chosen, Subscriber};
use crate::share::{Kind, Loan, Member, Strategy, shared_filter};

/// Nobody: who passes a message on does not wait for an answer.
const NOBODY: ConnectionId = ConnectionId { worker: 0, slot: u32::MAX, generation: 0 };

/// How a member is chosen for a message.
pub(super) fn choice<'c>(strategy: Strategy, source: &Source<'c>, random: &'c mut SmallRng) -> Choice<'c> {
    let (qos, topic, publisher) = (source.qos, source.content.topic, &**source.publisher_id);
    Choice { strategy, qos, topic, publisher, connected_only: false, random }
}

/// The message as it is for one member alone.
pub(super) fn for_member(message: &Message, text: &Arc<str>) -> Message {
    Message { recipient: Some(text.clone()), ..message.clone() }
}

/// Delivers to a member on this worker. False if it is not there; then nothing becomes of `loan`.
pub(super) fn deliver_to_member(
    table: &mut Table,
    source: &Source<'_>,
    topic: &Arc<str>,
    text: &Arc<str>,
    member: &Subscriber,
    loan: Option<Loan>,
) -> bool {
    let identifier = [member.identifier];
    let identifiers = if member.identifier == 0 { &[][..] } else { &identifier };
    table.layouts.begin();
    if source.qos == QoS::AtMostOnce || member.qos == QoS::AtMostOnce {
        let delivered = table.deliver(source, topic, member, identifiers);
        if let (true, Some(loan)) = (delivered, loan) {
            table.loans.push((loan, LoanEnd::Done));
        }
        return delivered;
    }
    // Kept until it is acknowledged.
    let message = Rc::new(for_member(source.keep(topic), text));
    let Source { content: Content { topic: name, properties, expiry_seconds, .. }, .. } = *source;
    let source = Source {
        content: Content { topic: name, properties, expiry_seconds, payload: Payload::of(&message.payload) },
        qos: source.qos,
        retain: source.retain,
        expires_at_ms: source.expires_at_ms,
        publisher: source.publisher,
        publisher_id: source.publisher_id,
        shared: true,
        loan,
        kept: OnceCell::from(message.clone()),
    };
    table.deliver(&source, topic, member, identifiers)
}

impl Core {
    /// Lets the messages of a subscription find the client at `slot`.
    pub(super) fn route(&mut self, slot: u32, client_id: &str, persistent: bool, subscription: &Subscription) {
        let subscriber = Subscriber::new(slot, &subscription.options, persistent);
        let filter = &subscription.filter;
        if shared_filter(filter).is_none() {
            if self.router.subscribe(filter, subscriber) {
                self.announce(filter.clone(), true);
            }
            return;
        }
        let (kind, other) = match persistent && subscriber.qos > QoS::AtMostOnce {
            true => (Kind::Fleeting, Kind::Ephemeral),
            false => (Kind::Ephemeral, Kind::Fleeting),
        };
        self.leave(slot, Member { subscription: filter, kind: other, client_id });
        let text = Member { subscription: filter, kind, client_id }.text();
        if self.router.join(text.clone(), RouteOwner::Worker(self.index), subscriber) {
            self.announce(text, true);
        }
    }

    /// Ends that.
    pub(super) fn unroute(&mut self, slot: u32, client_id: &str, filter: &str) {
        if shared_filter(filter).is_none() {
            if self.router.unsubscribe(filter, slot) {
                self.announce(filter.into(), false);
            }
            return;
        }
        for kind in [Kind::Ephemeral, Kind::Fleeting] {
            self.leave(slot, Member { subscription: filter, kind, client_id });
        }
    }

    fn leave(&mut self, slot: u32, member: Member<'_>) {
        let text = member.text();
        if self.router.leave(&text, RouteOwner::Worker(self.index), slot) {
            self.announce(text, false);
        }
    }

    /// A message for a member that was on this worker when it was sent.
    pub(super) fn forward_to_member(&mut self, message: Message) {
        let text = message.recipient.clone().unwrap_or_default();
        match self.router.member(&text).copied() {
            Some(member) => {
                self.hand_to(message, &text, &member, None);
            }
            None => self.pass_on(message),
        }
    }

    /// A message that a shard has lent to a member that was on this worker when it was sent.
    pub(super) fn lend(&mut self, loan: Loan, message: Message) {
        let text = message.recipient.clone().unwrap_or_default();
        match self.router.member(&text).copied() {
            Some(member) if member.qos.min(message.qos) == QoS::ExactlyOnce => {
                self.table.loans.push((loan, LoanEnd::Begun(message)));
            }
            Some(member) if self.hand_to(message, &text, &member, Some(loan)) => {}
            _ => self.table.loans.push((loan, LoanEnd::Returned)),
        }
        self.flush_soon();
    }

    /// Finds another member for a message of a shared subscription; its own has gone.
    pub(super) fn pass_on(&mut self, message: Message) {
        let text = message.recipient.clone().unwrap_or_default();
        let subscription = Member::parse(&text).map_or("", |member| member.subscription);
        let (topic, publisher) = (&message.topic, &message.publisher);
        let (index, node) = (self.index, self.node);
        match self.choose_one(subscription, topic, publisher, message.qos, false) {
            None => self.table.counters.dropped_without_member += 1,
            Some(Chosen { owner: RouteOwner::Worker(worker), text, heir: None }) if worker == index => {
                let text = text.clone();
                if let Some(member) = self.router.member(&text).copied() {
                    self.hand_to(message, &text, &member, None);
                }
            }
            Some(Chosen { owner: RouteOwner::Worker(worker), text, heir: None }) => {
                let recipient = Some(text.clone());
                if let Some(peer) = self.peers.get_mut(usize::from(worker)) {
                    peer.messages.push(Message { recipient, ..message });
                    self.flush_soon();
                }
            }
            Some(chosen) => {
                let (targets, recipients) = (Targets::new(), Recipients::from([chosen.recipient(node)]));
                self.tell(ToCluster::Publish { connection: NOBODY, token: 0, epoch: 0, message, targets, recipients });
            }
        }
    }

    /// Chooses members for messages that the cluster thread has.
    pub(super) fn choose(&mut self, token: u64, wanted: &[Wanted]) {
        let mut chosen = Vec::with_capacity(wanted.len());
        let wanted = if self.serving { wanted } else { &[] };
        for Wanted { subscription, topic, publisher, qos, connected_only } in wanted {
            let node = self.node;
            let member = self.choose_one(subscription, topic, publisher, *qos, *connected_only);
            chosen.push(member.map(|member| member.recipient(node)));
        }
        self.tell(ToCluster::Chosen { token, chosen });
    }

    fn choose_one(
        &mut self,
        subscription: &str,
        topic: &str,
        publisher: &str,
        qos: QoS,
        connected_only: bool,
    ) -> Option<Chosen<'_>> {
        let Core { router, policy, random, .. } = self;
        let mut choice = Choice { strategy: policy.strategy, qos, topic, publisher, connected_only, random };
        router.group(subscription)?.choose(&mut choice)
    }

    /// False if the member is not there; then nothing becomes of `loan`.
    fn hand_to(&mut self, message: Message, text: &Arc<str>, member: &Subscriber, loan: Option<Loan>) -> bool {
        let now_ms = self.now_ms();
        let message = Rc::new(message);
        let Some(source) = Source::of(&message, now_ms) else {
            self.table.counters.dropped_expired += 1;
            self.table.loans.extend(loan.map(|loan| (loan, LoanEnd::Done)));
            return true;
        };
        self.table.publisher_must_wait = false;
        let delivered = deliver_to_member(&mut self.table, &source, &message.topic, text, member, loan);
        self.flush_soon();
        delivered
    }
}
