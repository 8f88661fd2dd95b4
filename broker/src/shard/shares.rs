//! Members of shared subscriptions that are persistent sessions, and messages that need another member.
//!
//! A message for a member stands in its session's queue like any other. While the client is away, whoever leads the shard
//! looks for a connected member anywhere and has it handed over ([`Command::HandOver`](super::Command::HandOver)): taken
//! out of the queue and put into an outbox in one step, so that it is never at two places, and never at none. What has no
//! session any more is a *stray* until that happens.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::{Ack, Destination, Effect, HandOver, Onward, Outcome, Refusal};
use super::exchanges::{Behalf, Leaving};
use super::machine::Shard;
use super::queue::{Queued, size};
use super::session::Session;
use super::stored::Stored;
use super::streams::Expected;
use crate::identity::ClientId;
use crate::limits;
use crate::message::{Message, QoS};
use crate::share::{Kind, Member, shared_filter};

/// Messages whose member has gone, numbered from 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Strays {
    last: u64,
    messages: BTreeMap<u64, Message>,
    bytes: usize,
}

impl Strays {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn put(&mut self, message: Message) {
        self.last += 1;
        self.bytes += size(&message);
        self.messages.insert(self.last, message);
    }

    fn take(&mut self, number: u64) -> Option<Message> {
        let message = self.messages.remove(&number)?;
        self.bytes -= size(&message);
        Some(message)
    }
}

/// A message that another member could take.
#[derive(Clone, Debug, PartialEq)]
pub struct Unplaced {
    /// In whose queue it stands; `None` for a stray.
    pub from: Option<ClientId>,
    /// Its number there.
    pub number: u64,
    /// The message. It names the member that it was for.
    pub message: Message,
}

impl Session {
    /// Whether a message of a shared subscription may still go to somebody else: not one of QoS 2 that may have been sent
    /// ([MQTT-4.8.2-4], [MQTT-4.8.2-5]).
    fn may_leave(&self, number: u64, queued: &Queued) -> bool {
        let begun = queued.qos == QoS::ExactlyOnce && (queued.received || number <= self.lasting.sent_to);
        queued.message.is_for_one() && !begun
    }

    /// Tells that its memberships are other ones now that its client has come, or gone.
    pub(super) fn tell_members(&self, connected: bool, effects: &mut Vec<Effect>) {
        let shared = |(filter, _): &(&Arc<str>, _)| shared_filter(filter).is_some();
        for (subscription, options) in self.lasting.subscriptions.iter().filter(shared) {
            if options.qos > QoS::AtMostOnce {
                let member = |kind| Member { subscription, kind, client_id: &self.client_id }.text();
                let (new, old) = if connected { (Kind::Connected, Kind::Away) } else { (Kind::Away, Kind::Connected) };
                effects.push(Effect::RouteAdded(member(new)));
                effects.push(Effect::RouteRemoved(member(old)));
            }
        }
        if !connected && self.lasting.queue.items().iter().flatten().any(|queued| queued.message.is_for_one()) {
            effects.push(Effect::Unplaced);
        }
    }

    /// Its memberships, as they are announced.
    fn members(&self) -> impl Iterator<Item = Arc<str>> + '_ {
        let kind = if self.holder.is_some() { Kind::Connected } else { Kind::Away };
        let stored = self
            .lasting
            .subscriptions
            .iter()
            .filter(|(filter, options)| options.qos > QoS::AtMostOnce && shared_filter(filter).is_some());
        stored.map(move |(subscription, _)| Member { subscription, kind, client_id: &self.client_id }.text())
    }
}

/// A session has begun or ceased to be a member that takes more than QoS 0.
pub(super) fn set_member(client_id: &ClientId, subscription: &str, wanted: bool, effects: &mut Vec<Effect>) {
    for kind in [Kind::Connected, Kind::Away] {
        let text = Member { subscription, kind, client_id }.text();
        match wanted {
            // Whoever subscribes is connected.
            true if kind == Kind::Connected => effects.push(Effect::RouteAdded(text)),
            true => {}
            false => effects.push(Effect::RouteRemoved(text)),
        }
    }
}

impl Shard {
    /// A message for one member: into the queue of its session. If it is none any more, another is found.
    pub(super) fn dispatch(&mut self, message: Message, effects: &mut Vec<Effect>) -> Outcome {
        let recipient = message.recipient.clone().unwrap_or_default();
        let member = Member::parse(&recipient);
        let session = member.and_then(|member| self.sessions.get_mut(member.client_id));
        let options = session.as_ref().zip(member).and_then(|(session, member)| {
            session
                .lasting
                .subscriptions
                .get(member.subscription)
                .filter(|options| options.qos > QoS::AtMostOnce)
                .copied()
        });
        let (Some(session), Some(options)) = (session, options) else {
            self.strays.put(message);
            effects.push(Effect::Unplaced);
            return Outcome::Stored(1);
        };
        let (qos, bytes) = (options.qos.min(message.qos), size(&message));
        let retain = options.retain_as_published && message.retain;
        let identifiers = Vec::from_iter(options.identifier).into();
        let message = Stored::new(&self.shelf, &message);
        if !session.lasting.queue.push(Queued { message, qos, retain, received: false, identifiers }) {
            self.dropped_queue_full += 1;
            return Outcome::Refused(Refusal::Quota);
        }
        self.queued_items += 1;
        self.queued_bytes += bytes;
        // Whoever sent it here while the client is away knew of nobody better: the leader looks again in its own time.
        if session.holder.is_some() {
            effects.push(Effect::Deliverable(session.client_id.clone()));
        }
        Outcome::Stored(1)
    }

    /// A session has ended: what it had of shared subscriptions and did not begin is for others.
    pub(super) fn leave_to_others(&mut self, session: &Session, effects: &mut Vec<Effect>) {
        let items = session.lasting.queue.items().iter().enumerate();
        for (place, queued) in items.filter_map(|(place, queued)| Some((place, queued.as_ref()?))) {
            if session.may_leave(session.lasting.queue.first() + place as u64, queued) {
                self.strays.put(queued.message.message());
                effects.push(Effect::Unplaced);
            }
        }
        self.sharing.remove(&session.client_id);
        for text in session.members() {
            effects.push(Effect::RouteRemoved(text));
        }
    }

    /// What has no member any more.
    pub(super) fn stray(&mut self, message: Message) {
        self.strays.put(message);
    }

    /// Messages go to other members; those that may not, or not now, stay. Answered with how many went.
    pub(super) fn hand_over(&mut self, hand_overs: Vec<HandOver>, effects: &mut Vec<Effect>) -> Outcome {
        let mut moved = 0;
        for HandOver { from, number, to } in hand_overs {
            if !self.takes(&to) {
                continue;
            }
            let message = match from {
                None => self.strays.take(number),
                Some(client_id) => self.take_shared(&client_id, number),
            };
            let Some(message) = message else { continue };
            moved += 1;
            match to {
                Onward::Nowhere => self.dropped_without_member += 1,
                Onward::Here(recipient) => {
                    let message = Message { recipient: Some(recipient), ..message };
                    if let Outcome::Refused(_) = self.dispatch(message.clone(), effects) {
                        // Its queue is full. Not at once again.
                        self.strays.put(message);
                        moved -= 1;
                    }
                }
                Onward::To(Destination::Borrower(run), recipient) => {
                    self.lend(run, Message { recipient: Some(recipient), ..message }, None, effects);
                }
                Onward::To(destination, recipient) => {
                    let message = Stored::new(&self.shelf, &Message { recipient: Some(recipient), ..message });
                    self.traffic.put(destination, Leaving { message, behalf: Behalf::Nobody });
                    effects.push(Effect::Relayable(destination));
                }
            }
        }
        Outcome::Stored(moved)
    }

    fn takes(&self, to: &Onward) -> bool {
        match to {
            Onward::Nowhere | Onward::Here(_) => true,
            Onward::To(Destination::Borrower(run), recipient) => self.may_hand_over(*run, recipient),
            Onward::To(Destination::Node(run), _) if self.streams.expected(*run) == Expected::Nothing => false,
            Onward::To(..) => self.traffic.bytes() < limits::SHARD_OUTBOX_BYTES_MAX,
        }
    }

    fn take_shared(&mut self, client_id: &ClientId, number: u64) -> Option<Message> {
        let session = self.sessions.get_mut(client_id).filter(|session| session.holder.is_none())?;
        let queued = session.lasting.queue.get(number)?;
        if !session.may_leave(number, queued) {
            return None;
        }
        let queued = session.lasting.queue.acknowledge(Ack::Done(number))?;
        self.queued_items -= 1;
        self.queued_bytes -= queued.message.size();
        Some(queued.message.message())
    }
}

/// What the shard's leader reads.
impl Shard {
    /// Strays, and messages of shared subscriptions that wait for clients that are away, these from after a client id on;
    /// at most `count`. Gives the client id to go on after.
    pub fn unplaced(&self, after: Option<&ClientId>, count: usize) -> (Vec<Unplaced>, Option<ClientId>) {
        let strays = self.strays.messages.iter().take(count);
        let mut unplaced: Vec<Unplaced> = strays
            .map(|(number, message)| Unplaced { from: None, number: *number, message: message.clone() })
            .collect();
        let from: Bound<&ClientId> = after.map_or(Bound::Unbounded, Bound::Excluded);
        let sharing = self.sharing.range::<ClientId, _>((from, Bound::Unbounded));
        for (looked_at, client_id) in sharing.enumerate() {
            let Some(session) = self.sessions.get(client_id).filter(|session| session.holder.is_none()) else {
                continue;
            };
            for (place, queued) in session.lasting.queue.items().iter().enumerate() {
                let (Some(queued), number) = (queued, session.lasting.queue.first() + place as u64) else { continue };
                if unplaced.len() >= count {
                    break;
                }
                if session.may_leave(number, queued) {
                    let message = queued.message.message();
                    unplaced.push(Unplaced { from: Some(client_id.clone()), number, message });
                }
            }
            if unplaced.len() >= count || looked_at >= limits::SHARING_SESSIONS_PER_LOOK_MAX {
                return (unplaced, Some(client_id.clone()));
            }
        }
        (unplaced, None)
    }

    /// All members that are sessions of this shard.
    pub(super) fn members(&self) -> Vec<Arc<str>> {
        let sessions = self.sharing.iter().filter_map(|client_id| self.sessions.get(client_id));
        sessions.flat_map(Session::members).collect()
    }
}
