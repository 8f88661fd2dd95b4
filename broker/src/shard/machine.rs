//! The state of a shard, and what each command does to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::command::*;
use super::evictions::Evictions;
use super::exchanges::Traffic;
use super::fences::Fences;
use super::loans::Loans;
use super::queue::{Queued, size};
use super::relay::abandon;
use super::retained::{Page, Retained};
use super::session::{Attached, Session, Sessions};
use super::shares::{Strays, set_member};
use super::stored::Stored;
use super::streams::{Expected, Streams};
use super::wills::Wills;
use crate::identity::{ClientId, Incarnation, Origin};
use crate::kept::Shelf;
use crate::limits;
use crate::message::{Message, QoS, SubscriptionOptions};
use crate::router::Trie;
use crate::share::shared_filter;

/// Seconds of a session that never expires (section 3.1.2.11.2).
const NEVER: u32 = u32::MAX;

/// The state of one shard.
#[derive(Default)]
pub struct Shard {
    /// Never goes back.
    pub(super) now_ms: u64,
    pub(super) streams: Streams,
    pub(super) epochs: u64,
    pub(super) sessions: Sessions,
    pub(super) wills: Wills,
    pub(super) evictions: Evictions,
    pub(super) dropped_queue_full: u64,
    pub(super) traffic: Traffic,
    pub(super) retained: Retained,
    pub(super) refused_retained_full: u64,
    pub(super) fences: Fences,
    pub(super) strays: Strays,
    pub(super) loans: Loans,
    pub(super) dropped_without_member: u64,
    /// Sessions that have shared subscriptions.
    pub(super) sharing: BTreeSet<ClientId>,
    /// Persistent subscriptions with QoS above 0: who, and how.
    matching: Trie<BTreeMap<ClientId, SubscriptionOptions>>,
    /// Sessions to delete, by time.
    expiries: BTreeSet<(u64, ClientId)>,
    pub(super) queued_items: usize,
    pub(super) queued_bytes: usize,
    persistent: usize,
    /// Where queued messages are.
    pub(super) shelf: Shelf,
}

/// Figures of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sessions that outlive their connection.
    pub persistent_sessions: usize,
    /// Messages in queues, counted once per queue.
    pub queued_items: usize,
    /// Bytes of them.
    pub queued_bytes: usize,
    /// Messages that were not queued because a queue was full.
    pub dropped_queue_full: u64,
    /// Retained messages.
    pub retained_items: usize,
    /// Bytes of them.
    pub retained_bytes: usize,
    /// Retained messages that were refused for want of room, since this replica started.
    pub refused_retained_full: u64,
    /// Messages of shared subscriptions whose last member had gone, since this replica started.
    pub dropped_without_member: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Totals) {
        self.persistent_sessions += other.persistent_sessions;
        self.queued_items += other.queued_items;
        self.queued_bytes += other.queued_bytes;
        self.dropped_queue_full += other.dropped_queue_full;
        self.retained_items += other.retained_items;
        self.retained_bytes += other.retained_bytes;
        self.refused_retained_full += other.refused_retained_full;
        self.dropped_without_member += other.dropped_without_member;
    }
}

impl Shard {
    /// An empty shard that keeps its queued messages on `shelf`.
    pub fn on(shelf: Shelf) -> Shard {
        Shard { shelf, ..Shard::default() }
    }

    /// Applies a batch, in order. Never fails: what can't be done is answered.
    pub fn apply_entry(&mut self, entry: Entry, effects: &mut Vec<Effect>) {
        self.now_ms = self.now_ms.max(entry.now_ms);
        for numbered in entry.commands {
            self.numbered(numbered, effects);
        }
        self.pass_time(effects);
    }

    fn numbered(&mut self, Numbered { origin, seq, command }: Numbered, effects: &mut Vec<Effect>) {
        let outcome = match self.streams.expected(origin) {
            Expected::Nothing => Some(Outcome::Refused(Refusal::Unavailable)),
            Expected::Next(next) if seq < next => self.answer_again(origin, seq, &command, effects),
            // A gap: the leader should have refused it. Not applied, not answered: its origin sends it again in order.
            Expected::Next(next) if seq > next => return,
            Expected::Next(_) => {
                if let Some(earlier) = self.streams.advance(origin, seq) {
                    self.end_run(earlier, effects);
                }
                if let (1, Some(before)) = (seq, origin.incarnation.0.checked_sub(1)) {
                    let before = Origin { incarnation: Incarnation(before), ..origin };
                    self.forget_destinations(before, effects);
                    self.forget_borrowers(before, effects);
                }
                let is_publish = is_publish(&command);
                let outcome = self.command(origin, seq, command, effects);
                if is_publish && matches!(outcome, Some(Outcome::Refused(_))) {
                    self.streams.refuse(origin, seq);
                }
                outcome
            }
        };
        if let Some(outcome) = outcome {
            effects.push(Effect::Reply { origin, seq, outcome });
        }
    }

    /// `None`: it is answered later.
    fn command(&mut self, origin: Origin, seq: u64, command: Command, effects: &mut Vec<Effect>) -> Option<Outcome> {
        Some(match command {
            Command::Open(open) => return self.open(origin, seq, open, effects),
            Command::Close(close) => self.close(close, effects),
            Command::Subscribe { client_id, epoch, subscriptions } => {
                let Some(session) = held(&mut self.sessions, &client_id, epoch) else { return Some(Outcome::Stale) };
                let mut codes = Vec::with_capacity(subscriptions.len());
                for subscription in subscriptions {
                    let known = session.lasting.subscriptions.contains_key(&subscription.filter);
                    if !known && session.lasting.subscriptions.len() >= limits::SESSION_SUBSCRIPTIONS_MAX {
                        codes.push(QUOTA_EXCEEDED);
                        continue;
                    }
                    codes.push(subscription.options.qos as u8);
                    let shared = shared_filter(&subscription.filter).is_some();
                    let queued = subscription.options.qos > QoS::AtMostOnce;
                    if queued && !shared && subscription.options.wants_retained(known) {
                        session.lasting.owed.begin(subscription.filter.clone());
                    }
                    session.lasting.subscriptions.insert(subscription.filter.clone(), subscription.options);
                    if shared {
                        self.sharing.insert(client_id.clone());
                        set_member(&client_id, &subscription.filter, queued, effects);
                        continue;
                    }
                    set_matching(
                        &mut self.matching,
                        &subscription.filter,
                        &client_id,
                        Some(subscription.options),
                        effects,
                    );
                }
                Outcome::Codes(codes)
            }
            Command::Unsubscribe { client_id, epoch, filters } => {
                let Some(session) = held(&mut self.sessions, &client_id, epoch) else { return Some(Outcome::Stale) };
                let mut codes = Vec::with_capacity(filters.len());
                for filter in filters {
                    let existed = session.lasting.subscriptions.remove(&filter).is_some();
                    if let Some(owed) = session.owed_if_any() {
                        owed.end(&filter);
                    }
                    codes.push(if existed { SUCCESS } else { NO_SUBSCRIPTION_EXISTED });
                    if shared_filter(&filter).is_some() {
                        set_member(&client_id, &filter, false, effects);
                        continue;
                    }
                    set_matching(&mut self.matching, &filter, &client_id, None, effects);
                }
                Outcome::Codes(codes)
            }
            Command::Publish(message) => self.publish(message, effects),
            Command::Acknowledge { client_id, epoch, acks } => {
                let Some(session) = held(&mut self.sessions, &client_id, epoch) else { return Some(Outcome::Stale) };
                for ack in acks {
                    if let Some(queued) = session.lasting.queue.acknowledge(ack) {
                        self.queued_items -= 1;
                        self.queued_bytes -= queued.message.size();
                    }
                }
                // The bound of what may be sent has moved.
                if session.lasting.queue.next() > session.lasting.queue.first() {
                    effects.push(Effect::Deliverable(client_id));
                }
                Outcome::Done
            }
            Command::NodeGone(gone) => {
                if self.streams.end(gone) {
                    self.end_run(gone, effects);
                }
                self.forget_destinations(gone, effects);
                self.forget_borrowers(gone, effects);
                Outcome::Done
            }
            Command::FireWill { client_id, epoch, spread } => self.fire_will(&client_id, epoch, spread, effects),
            Command::Tick => Outcome::Done,
            Command::Retain(message) => self.retain(message, 0),
            Command::Keep { message, epoch } => self.keep(message, epoch, false),
            Command::KeepAs { message, epoch } => self.keep(message, epoch, true),
            Command::Fence { client_id, epoch } => {
                self.fences.admit(&client_id, epoch);
                Outcome::Done
            }
            Command::Enqueue { client_id, epoch, filter, messages, next } => {
                self.enqueue(&client_id, epoch, &filter, messages, next, effects)
            }
            Command::Released { client_id, epoch } => {
                self.released(&client_id, epoch, effects);
                Outcome::Done
            }
            Command::PublishOnce(publish) => return self.publish_once((origin, seq), publish, effects),
            Command::EndExchange { client_id, epoch, packet_id } => {
                self.end_exchange(&client_id, epoch, packet_id, effects)
            }
            Command::Relay { from, number, message, keep } => self.relayed_in((from, keep), number, |shard| {
                if keep { shard.retain(message, 0) } else { shard.publish(message, effects) }
            }),
            Command::KeepRelayed { from, number, message, sender } => {
                self.relayed_in((from, true), number, |shard| shard.keep_relayed(message, sender))
            }
            Command::Lend { message, .. } if !self.has_room_for(&message) => Outcome::Refused(Refusal::Quota),
            Command::Lend { message, to, heir } => self.lend(to, message, Some(heir), effects),
            Command::EndLoans { done, returned } => {
                self.end_loans(origin, &done, &returned, effects);
                Outcome::Done
            }
            Command::DeleteSession { client_id } => self.delete_session(&client_id, effects),
            Command::HandOver(hand_overs) => self.hand_over(hand_overs, effects),
            Command::Relayed(relayed) => {
                for relayed in relayed {
                    self.relayed(relayed, effects);
                }
                Outcome::Done
            }
        })
    }

    /// What a command that was applied before is answered. The state is as it left it, or newer. `None`: it is answered
    /// later.
    fn answer_again(&self, origin: Origin, seq: u64, command: &Command, effects: &mut Vec<Effect>) -> Option<Outcome> {
        let session = |client_id: &ClientId| self.sessions.get(client_id);
        Some(match command {
            Command::Open(open) => match session(&open.client_id) {
                Some(session) if session.holder == Some(Holder { origin, connection: open.connection }) => {
                    if self.evictions.is_waiting(&open.client_id) {
                        return None;
                    }
                    // It never heard that it was opened, so it was sent nothing.
                    if session.has_queue() {
                        effects.push(Effect::Opened(open.client_id.clone()));
                        effects.push(Effect::Deliverable(open.client_id.clone()));
                    }
                    opened(session)
                }
                _ => Outcome::Stale,
            },
            Command::Subscribe { client_id, epoch, subscriptions } => {
                match session(client_id).filter(|session| session.epoch == *epoch) {
                    None => Outcome::Stale,
                    Some(session) => {
                        let codes = subscriptions.iter().map(|asked| {
                            session
                                .lasting
                                .subscriptions
                                .get(&asked.filter)
                                .map_or(QUOTA_EXCEEDED, |options| options.qos as u8)
                        });
                        Outcome::Codes(codes.collect())
                    }
                }
            }
            Command::Unsubscribe { filters, .. } => Outcome::Codes(vec![SUCCESS; filters.len()]),
            command if is_publish(command) && self.streams.may_have_refused(origin, seq) => {
                Outcome::Refused(Refusal::Quota)
            }
            command if is_publish(command) => Outcome::Stored(1),
            Command::Enqueue { client_id, epoch, filter, .. } => {
                let session = session(client_id).filter(|session| session.epoch == *epoch);
                session.map_or(Outcome::Stale, |session| Outcome::Owes(session.lasting.owed.place(filter).cloned()))
            }
            Command::Acknowledge { client_id, epoch, .. } | Command::EndExchange { client_id, epoch, .. }
                if session(client_id).is_none_or(|session| session.epoch != *epoch) =>
            {
                Outcome::Stale
            }
            Command::PublishOnce(publish) => return self.once_again((origin, seq), publish),
            Command::Relay { from, number, keep, .. } => self.relayed_before((*from, *keep), *number),
            Command::KeepRelayed { from, number, .. } => self.relayed_before((*from, true), *number),
            _ => Outcome::Done,
        })
    }

    fn open(&mut self, origin: Origin, seq: u64, open: Open, effects: &mut Vec<Effect>) -> Option<Outcome> {
        let client_id = open.client_id.clone();
        let full = match self.sessions.get(&client_id) {
            None => self.sessions.len() >= limits::SHARD_SESSIONS_MAX,
            Some(session) => session.holder.is_some() && self.evictions.is_full(),
        };
        if full {
            return Some(Outcome::Refused(Refusal::Quota));
        }
        self.evict(&client_id, Evicted::TakenOver, effects);
        if open.clean_start {
            self.delete(&client_id, effects);
        } else {
            self.wills.cancel(&client_id);
        }
        self.epochs += 1;
        let was_present = self.sessions.contains_key(&client_id);
        let session = self.sessions.get_or_create(&client_id);
        let lasting = session.lasting.if_any();
        if let Some(at) = lasting.and_then(|lasting| lasting.expires_at_ms.take()) {
            self.expiries.remove(&(at, client_id.clone()));
        }
        self.persistent -= usize::from(session.expiry_seconds > 0);
        session.epoch = self.epochs;
        session.holder = Some(Holder { origin, connection: open.connection });
        session.expiry_seconds = open.session_expiry_seconds;
        session.receive_maximum = open.receive_maximum.max(1);
        session.was_present = was_present;
        session.set_will(open.will);
        self.persistent += usize::from(session.expiry_seconds > 0);
        session.tell_members(true, effects);
        if self.evictions.wait(&client_id, (origin, seq)) {
            return None;
        }
        Some(self.begun(&client_id, effects))
    }

    /// The connection that holds a client id hears so from now on, and is sent what waits.
    fn begun(&self, client_id: &ClientId, effects: &mut Vec<Effect>) -> Outcome {
        let Some(session) = self.sessions.get(client_id) else { return Outcome::Stale };
        if session.has_queue() {
            effects.push(Effect::Opened(client_id.clone()));
        }
        if session.lasting.queue.next() > session.lasting.queue.first() {
            effects.push(Effect::Deliverable(client_id.clone()));
        }
        opened(session)
    }

    /// Ends the present connection of a client id, in favour of a newer one ([MQTT-3.1.4-3]) or for good.
    pub(super) fn evict(&mut self, client_id: &ClientId, why: Evicted, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get(client_id) else { return };
        let Some(holder) = session.holder else { return };
        let (epoch, sent_to) = (session.epoch, presumed_sent(session));
        match self.evictions.stop_waiting(client_id) {
            // It was never told that it holds the client id.
            Some((origin, seq)) => effects.push(Effect::Reply { origin, seq, outcome: Outcome::Stale }),
            None => effects.push(self.evictions.put(client_id.clone(), holder, epoch, why)),
        }
        self.detach(client_id, CloseCause::WithWill, sent_to, effects);
    }

    /// The connection of this epoch has let go of the client id: a newer one that waited for it holds it alone now (K4).
    fn released(&mut self, client_id: &ClientId, epoch: u64, effects: &mut Vec<Effect>) {
        if let Some((origin, seq)) = self.evictions.release(client_id, epoch) {
            let outcome = self.begun(client_id, effects);
            effects.push(Effect::Reply { origin, seq, outcome });
        }
    }

    fn close(&mut self, close: Close, effects: &mut Vec<Effect>) -> Outcome {
        self.released(&close.client_id, close.epoch, effects);
        let Some(session) = held(&mut self.sessions, &close.client_id, close.epoch) else { return Outcome::Stale };
        if let Some(expiry) = close.session_expiry_seconds {
            self.persistent -= usize::from(session.expiry_seconds > 0);
            session.expiry_seconds = expiry;
            self.persistent += usize::from(expiry > 0);
        }
        self.detach(&close.client_id, close.cause, close.sent_to, effects);
        self.pass_time(effects);
        Outcome::Done
    }

    /// A connection has ended, by whatever cause. The session waits for its expiry; its will for its delay.
    fn detach(&mut self, client_id: &ClientId, cause: CloseCause, sent_to: u64, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(client_id) else { return };
        session.holder = None;
        self.evictions.stop_waiting(client_id);
        if sent_to > session.lasting.sent_to {
            session.lasting.sent_to = sent_to;
        }
        session.tell_members(false, effects);
        let will = session.set_will(None).filter(|_| cause == CloseCause::WithWill);
        if let Some(will) = will {
            let due_ms = self.now_ms.saturating_add(u64::from(will.delay_seconds) * 1000);
            self.wills.put(client_id.clone(), session.epoch, will, due_ms);
        }
        match session.expiry_seconds {
            0 => self.delete(client_id, effects),
            NEVER => self.wills.fall_due(self.now_ms, effects),
            seconds => {
                let at = self.now_ms.saturating_add(u64::from(seconds) * 1000);
                session.lasting.expires_at_ms = Some(at);
                self.expiries.insert((at, client_id.clone()));
                self.wills.fall_due(self.now_ms, effects);
            }
        }
    }

    /// The session ends, and with it its subscriptions and queue; a will that waits for its delay is due.
    pub(super) fn delete(&mut self, client_id: &ClientId, effects: &mut Vec<Effect>) {
        self.wills.hasten(client_id, self.now_ms);
        self.wills.fall_due(self.now_ms, effects);
        let Some(session) = self.sessions.remove(client_id) else { return };
        abandon(session.lasting.exchanges.values(), effects);
        self.leave_to_others(&session, effects);
        let plain = |filter: &&Arc<str>| shared_filter(filter).is_none();
        for filter in session.lasting.subscriptions.keys().filter(plain) {
            set_matching(&mut self.matching, filter, client_id, None, effects);
        }
        if let Some(at) = session.lasting.expires_at_ms {
            self.expiries.remove(&(at, client_id.clone()));
        }
        self.persistent -= usize::from(session.expiry_seconds > 0);
        self.queued_items -= session.lasting.queue.items().iter().flatten().count();
        self.queued_bytes -= session.lasting.queue.bytes();
    }

    /// All connections of a run of a node are over, and of those before it.
    fn end_run(&mut self, gone: Origin, effects: &mut Vec<Effect>) {
        self.forget_destinations(gone, effects);
        let is_over = |origin: Origin| origin.node == gone.node && origin.incarnation <= gone.incarnation;
        let free = self.evictions.forget(is_over);
        let is_held = |session: &&Session| session.holder.is_some_and(|holder| is_over(holder.origin));
        let mut lost: Vec<(ClientId, u64)> = self
            .sessions
            .values()
            .filter(is_held)
            .map(|session| (session.client_id.clone(), presumed_sent(session)))
            .collect();
        // The map's order is not the same on every replica.
        lost.sort();
        for (client_id, sent_to) in lost {
            self.detach(&client_id, CloseCause::WithWill, sent_to, effects);
        }
        for (client_id, (origin, seq)) in free.into_iter().filter(|(_, (origin, _))| !is_over(*origin)) {
            let outcome = self.begun(&client_id, effects);
            effects.push(Effect::Reply { origin, seq, outcome });
        }
        // Now nothing is taken for sent that an heir on this very run gets.
        self.forget_borrowers(gone, effects);
    }

    fn has_room_for(&self, message: &Message) -> bool {
        let bytes = self.queued_bytes + self.strays.bytes() + self.loans.bytes();
        bytes + size(message) <= limits::SHARD_QUEUE_BYTES_MAX
    }

    pub(super) fn publish(&mut self, message: Message, effects: &mut Vec<Effect>) -> Outcome {
        if !self.has_room_for(&message) {
            return Outcome::Refused(Refusal::Quota);
        }
        if message.recipient.is_some() {
            return self.dispatch(message, effects);
        }
        let mut matched: BTreeMap<&ClientId, (QoS, bool, Vec<u32>)> = BTreeMap::new();
        self.matching.for_each_match(&message.topic, |_, subscribers| {
            for (client_id, options) in subscribers {
                if options.no_local && **client_id == *message.publisher {
                    continue;
                }
                let (qos, retain, identifiers) = matched.entry(client_id).or_default();
                *qos = (*qos).max(options.qos.min(message.qos));
                *retain |= options.retain_as_published && message.retain;
                identifiers.extend(options.identifier);
            }
        });
        let mut kept: Option<Stored> = None;
        let (mut stored, mut full) = (0, 0);
        for (client_id, (qos, retain, mut identifiers)) in matched {
            let Some(session) = self.sessions.get_mut(client_id) else { continue };
            if message.retain
                && let Some(owed) = session.owed_if_any()
            {
                owed.note(&message.topic);
            }
            identifiers.sort_unstable();
            let kept = kept.get_or_insert_with(|| Stored::new(&self.shelf, &message)).clone();
            let queued = Queued { message: kept, qos, retain, received: false, identifiers: identifiers.into() };
            if !session.lasting.queue.push(queued) {
                full += 1;
                continue;
            }
            stored += 1;
            self.queued_items += 1;
            self.queued_bytes += size(&message);
            if session.holder.is_some() {
                effects.push(Effect::Deliverable(client_id.clone()));
            }
        }
        self.dropped_queue_full += full;
        // One session that does not read must not keep the message from others, but nobody is told of a message that is
        // nowhere that it is stored (K1, K9).
        if stored == 0 && full > 0 { Outcome::Refused(Refusal::Quota) } else { Outcome::Stored(stored) }
    }

    fn pass_time(&mut self, effects: &mut Vec<Effect>) {
        while let Some((at, client_id)) = self.expiries.first().cloned() {
            if at > self.now_ms {
                break;
            }
            self.delete(&client_id, effects);
        }
        self.wills.fall_due(self.now_ms, effects);
        self.retained.pass_time(self.now_ms);
    }

    /// Fills what is derived from the sessions, after a snapshot gave them.
    pub(super) fn rebuild(&mut self) {
        self.matching = Trie::new();
        self.expiries.clear();
        self.sharing.clear();
        (self.queued_items, self.queued_bytes, self.persistent) = (0, 0, 0);
        for session in self.sessions.values() {
            for (filter, options) in &session.lasting.subscriptions {
                if shared_filter(filter).is_some() {
                    self.sharing.insert(session.client_id.clone());
                    continue;
                }
                set_matching(&mut self.matching, filter, &session.client_id, Some(*options), &mut Vec::new());
            }
            if let Some(at) = session.lasting.expires_at_ms {
                self.expiries.insert((at, session.client_id.clone()));
            }
            self.queued_items += session.lasting.queue.items().iter().flatten().count();
            self.queued_bytes += session.lasting.queue.bytes();
            self.persistent += usize::from(session.expiry_seconds > 0);
        }
    }
}

/// What the shard's leader reads.
impl Shard {
    /// Which command comes next from `origin`.
    pub fn expected(&self, origin: Origin) -> Expected {
        self.streams.expected(origin)
    }

    /// Whether something of this run may still be here, or come: it was not ended, and no later run was heard.
    pub fn may_act(&self, origin: Origin) -> bool {
        self.streams.expected(origin) != Expected::Nothing
    }

    /// A session whose client is connected, and holds its client id alone.
    pub fn attached(&self, client_id: &str) -> Option<Attached> {
        self.sessions.get(client_id).filter(|_| !self.evictions.is_waiting(client_id))?.attached()
    }

    /// All sessions whose clients are connected and that have subscriptions or a queue.
    pub fn all_attached(&self) -> Vec<Attached> {
        let worth = |session: &&Session| {
            (!session.lasting.subscriptions.is_empty() || session.lasting.queue.next() > 1)
                && !self.evictions.is_waiting(&session.client_id)
        };
        self.sessions.values().filter(worth).filter_map(Session::attached).collect()
    }

    /// What `client_id` has not acknowledged from queue number `from` on; at most `count`, about `bytes_max`.
    pub fn deliveries(&self, client_id: &str, from: u64, count: usize, bytes_max: usize) -> Vec<Delivery> {
        self.sessions
            .get(client_id)
            .map(|session| session.lasting.queue.deliveries(from, count, bytes_max, session.lasting.sent_to))
            .unwrap_or_default()
    }

    /// What of `client_id`'s queue from number `from` on has to be read from a disk, looking at about `bytes_max`; and one
    /// past the last number that was looked at.
    pub fn ahead(&self, client_id: &str, from: u64, bytes_max: usize) -> (Vec<Bytes>, u64) {
        self.sessions.get(client_id).map(|session| session.lasting.queue.ahead(from, bytes_max)).unwrap_or_default()
    }

    /// All filters that this shard wants.
    pub fn routes(&self) -> Vec<Arc<str>> {
        let mut filters = Vec::with_capacity(self.matching.len());
        self.matching.for_each(|filter, _| filters.push(Arc::from(filter)));
        filters.sort();
        filters.extend(self.members());
        filters
    }

    /// Which queue numbers up to `to` are not acknowledged.
    pub fn unacknowledged(&self, client_id: &str, to: u64) -> Vec<u64> {
        self.sessions.get(client_id).map(|session| session.lasting.queue.numbers(to)).unwrap_or_default()
    }

    /// Whether a queue number is not acknowledged.
    pub fn is_queued(&self, client_id: &str, number: u64) -> bool {
        self.sessions.get(client_id).is_some_and(|session| session.lasting.queue.contains(number))
    }

    /// Connections that lost their client id and have not let go: a new leader's to tell.
    pub fn evictions(&self) -> Vec<Effect> {
        self.evictions.all()
    }

    /// Wills that are due and not on their way.
    pub fn due_wills(&self) -> Vec<Effect> {
        self.wills.due()
    }

    /// The retained messages that match `filter`, from after a topic on.
    pub fn retained(&self, filter: &str, after: Option<&str>) -> Page {
        self.retained.page(filter, after)
    }

    /// When a [`Command::Tick`] has something to do, in milliseconds of the shard's clock.
    pub fn next_due_ms(&self) -> Option<u64> {
        let expiry = self.expiries.first().map(|(at, _)| *at);
        [expiry, self.wills.next_due_ms(), self.retained.next_due_ms()].into_iter().flatten().min()
    }

    /// The time of the last entry.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Client ids that are held, persistent or not.
    #[cfg(test)]
    pub(super) fn connected(&self) -> usize {
        self.sessions.values().filter(|session| session.holder.is_some()).count()
    }

    /// Figures.
    pub fn totals(&self) -> Totals {
        Totals {
            persistent_sessions: self.persistent,
            queued_items: self.queued_items,
            queued_bytes: self.queued_bytes,
            dropped_queue_full: self.dropped_queue_full,
            retained_items: self.retained.items(),
            retained_bytes: self.retained.bytes(),
            refused_retained_full: self.refused_retained_full,
            dropped_without_member: self.dropped_without_member,
        }
    }
}

/// SUBACK and UNSUBACK codes (sections 3.9.3 and 3.11.3).
const SUCCESS: u8 = 0x00;
const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
const QUOTA_EXCEEDED: u8 = 0x97;

/// Whether a command is one message on its first way.
fn is_publish(command: &Command) -> bool {
    matches!(
        command,
        Command::Publish(_) | Command::Retain(_) | Command::Keep { .. } | Command::KeepAs { .. } | Command::Lend { .. }
    )
}

pub(super) fn held<'s>(sessions: &'s mut Sessions, client_id: &str, epoch: u64) -> Option<&'s mut Session> {
    sessions.get_mut(client_id).filter(|session| session.epoch == epoch && session.holder.is_some())
}

fn opened(session: &Session) -> Outcome {
    let subscription = |(filter, options): (&Arc<str>, &SubscriptionOptions)| crate::message::Subscription {
        filter: filter.clone(),
        options: *options,
    };
    Outcome::Opened {
        epoch: session.epoch,
        session_present: session.was_present,
        subscriptions: session.lasting.subscriptions.iter().map(subscription).collect(),
        owed: session.lasting.owed.all(),
    }
}

/// What may have been sent when nobody can say any more.
fn presumed_sent(session: &Session) -> u64 {
    session.send_bound().min(session.lasting.queue.next()) - 1
}

/// Adds, replaces or removes what a session wants of a filter; tells when the shard begins or ceases to want it.
fn set_matching(
    matching: &mut Trie<BTreeMap<ClientId, SubscriptionOptions>>,
    filter: &Arc<str>,
    client_id: &ClientId,
    options: Option<SubscriptionOptions>,
    effects: &mut Vec<Effect>,
) {
    match options.filter(|options| options.qos > QoS::AtMostOnce) {
        Some(options) => {
            let (_, subscribers, new) = matching.entry(filter, BTreeMap::new);
            subscribers.insert(client_id.clone(), options);
            if new {
                effects.push(Effect::RouteAdded(filter.clone()));
            }
        }
        None => {
            let Some(subscribers) = matching.get_mut(filter) else { return };
            subscribers.remove(client_id);
            if subscribers.is_empty() {
                matching.remove(filter);
                effects.push(Effect::RouteRemoved(filter.clone()));
            }
        }
    }
}
