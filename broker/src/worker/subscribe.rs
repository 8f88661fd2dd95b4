//! SUBSCRIBE and UNSUBSCRIBE. The answer waits until every node routes accordingly (K6), and for a persistent session
//! until its shard has stored it.

use std::sync::Arc;

use super::core::Core;
use super::wheel::Timed;
use crate::connection::Pauses;
use crate::door::ToCluster;
use crate::limits::{SESSION_SUBSCRIPTIONS_MAX, TOPIC_LEVELS_MAX};
use crate::message::Subscription;
use crate::protocol::{PacketType, PropertyId, ReasonCode, SubAck, Subscribe, Unsubscribe, Words, parse_filter};
use crate::seldom::Seldom;
use crate::session::{Awaited, AwaitedKind, Reading};
use crate::shard::{Outcome, Place, Refusal};
use crate::share::shared_filter;

impl Core {
    /// A client's SUBSCRIBE.
    pub(super) fn subscribe(&mut self, timed: Timed, subscribe: Subscribe<'_>) {
        let (slot, _) = timed;
        let identifier = subscribe.properties.int(PropertyId::SubscriptionIdentifier);
        let mut codes = Vec::new();
        let mut granted: Vec<Subscription> = Vec::new();
        let mut filters = Vec::new();
        let mut owed = Vec::new();
        for (filter, mut options) in subscribe.filters.iter() {
            options.identifier = identifier;
            match self.permit_filter(timed, filter) {
                Err(reason) => codes.push(reason.0),
                Ok(()) => {
                    let filter: Arc<str> = filter.into();
                    filters.push((codes.len(), filter.clone()));
                    codes.push(options.qos as u8);
                    // Shared subscriptions bring none (section 4.8.2).
                    let alone = shared_filter(&filter).is_none();
                    if alone && options.wants_retained(self.is_subscribed(timed, &filter)) {
                        owed.push((filter.clone(), options));
                    }
                    let subscription = Subscription { filter, options };
                    self.add_subscription(timed, subscription.clone());
                    granted.push(subscription);
                }
            }
        }
        let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) else {
            return;
        };
        let (client_id, epoch) = (session.terms.client_id.clone(), session.terms.epoch);
        let storing = session.terms.persistent && !granted.is_empty();
        let settling = !granted.is_empty() && !self.is_settled();
        let connection = self.id_of(slot);
        let token = if settling { self.settle(slot) } else { self.token() };
        for (filter, options) in owed {
            let reading = Reading { filter, options, place: Place::default(), after: Some(token), asked: None };
            self.owe_retained(timed, reading);
        }
        if storing {
            self.tell(ToCluster::Subscribe { connection, token, client_id, epoch, subscriptions: granted });
        }
        self.await_answer(
            timed,
            Awaited {
                token,
                packet_id: subscribe.packet_id,
                kind: AwaitedKind::Suback,
                routes: self.routes_sent,
                settling,
                storing,
                codes,
                filters,
            },
        );
    }

    /// A client's UNSUBSCRIBE.
    pub(super) fn unsubscribe(&mut self, timed: Timed, unsubscribe: Unsubscribe<'_>) {
        let (slot, _) = timed;
        let mut codes = Vec::new();
        let mut filters: Vec<(usize, Arc<str>)> = Vec::new();
        for filter in unsubscribe.filters.iter() {
            let existed = self.remove_subscription(timed, filter);
            filters.push((codes.len(), Arc::from(filter)));
            codes.push(match existed {
                true => ReasonCode::SUCCESS.0,
                false => ReasonCode::NO_SUBSCRIPTION_EXISTED.0,
            });
        }
        let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) else {
            return;
        };
        let (client_id, epoch) = (session.terms.client_id.clone(), session.terms.epoch);
        let storing = session.terms.persistent;
        let connection = self.id_of(slot);
        let token = self.token();
        if storing {
            let filters = filters.iter().map(|(_, filter)| filter.clone()).collect();
            self.tell(ToCluster::Unsubscribe { connection, token, client_id, epoch, filters });
        }
        self.await_answer(
            timed,
            Awaited {
                token,
                packet_id: unsubscribe.packet_id,
                kind: AwaitedKind::Unsuback,
                routes: 0,
                settling: false,
                storing,
                codes,
                filters,
            },
        );
    }

    /// The shard's answer to either.
    pub(super) fn subscribed(&mut self, timed: Timed, token: u32, outcome: Outcome) {
        let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) else {
            return;
        };
        let Some(awaited) = session.awaited.iter_mut().find(|awaited| awaited.token == token) else {
            return;
        };
        awaited.storing = false;
        let (mut refused, mut full) = (Vec::new(), 0);
        for (number, (place, filter)) in awaited.filters.iter().enumerate() {
            let code = match &outcome {
                Outcome::Codes(codes) => codes.get(number).copied().unwrap_or(ReasonCode::UNSPECIFIED_ERROR.0),
                Outcome::Refused(Refusal::Quota) => ReasonCode::QUOTA_EXCEEDED.0,
                _ => ReasonCode::UNSPECIFIED_ERROR.0,
            };
            awaited.codes[*place] = code;
            full += u64::from(ReasonCode(code) == ReasonCode::QUOTA_EXCEEDED);
            if ReasonCode(code).is_error() && awaited.kind == AwaitedKind::Suback {
                refused.push(filter.clone());
            }
        }
        self.table.counters.refused_subscriptions_max += full;
        for filter in refused {
            self.remove_subscription(timed, &filter);
        }
        self.answer_if_complete(timed, token);
    }

    /// Every route change that was sent before this request is everywhere.
    pub(super) fn settled(&mut self, timed: Timed, token: u32) {
        let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) else {
            return;
        };
        let Some(awaited) = session.awaited.iter_mut().find(|awaited| awaited.token == token) else {
            return;
        };
        awaited.settling = false;
        let routes = awaited.routes;
        self.routes_settled = self.routes_settled.max(routes);
        self.answer_if_complete(timed, token);
    }

    /// Whether every route change that this worker has sent is known to be everywhere.
    pub(super) fn is_settled(&self) -> bool {
        self.routes_settled == self.routes_sent
    }

    /// Asks to be told when every route change so far is everywhere; returns the token.
    pub(super) fn settle(&mut self, slot: u32) -> u32 {
        let token = self.token();
        let connection = self.id_of(slot);
        self.tell(ToCluster::Settle { connection, token });
        token
    }

    fn permit_filter(&mut self, timed: Timed, filter: &str) -> Result<(), ReasonCode> {
        let parsed = parse_filter(filter).ok_or(ReasonCode::TOPIC_FILTER_INVALID)?;
        if !self.may_subscribe(timed, parsed.filter) {
            self.table.counters.subscriptions_denied += 1;
            return Err(ReasonCode::NOT_AUTHORIZED);
        }
        let subscriptions_max = self.table.limits.subscriptions_max;
        let session = self.table.get(timed).and_then(|connection| connection.session());
        let full = session.is_some_and(|session| {
            session.subscriptions.len() >= subscriptions_max && !session.subscriptions.contains(filter)
        });
        self.table.counters.refused_subscriptions_max += u64::from(full);
        if full { Err(ReasonCode::QUOTA_EXCEEDED) } else { Ok(()) }
    }

    fn is_subscribed(&mut self, timed: Timed, filter: &str) -> bool {
        let session = self.table.get(timed).and_then(|connection| connection.session());
        session.is_some_and(|session| session.subscriptions.contains(filter))
    }

    fn add_subscription(&mut self, timed: Timed, subscription: Subscription) {
        let (slot, _) = timed;
        let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) else {
            return;
        };
        let (client_id, persistent) = (session.terms.client_id.clone(), session.terms.persistent);
        session.subscriptions.put(subscription.clone());
        self.route(slot, &client_id, persistent, &subscription);
    }

    /// False if there was none.
    fn remove_subscription(&mut self, timed: Timed, filter: &str) -> bool {
        let (slot, _) = timed;
        let session = self.table.get(timed).and_then(|connection| connection.session());
        let Some(session) = session else { return false };
        if let Some(readings) = &mut session.readings {
            readings.remove(filter);
        }
        let existed = session.subscriptions.remove(filter).is_some();
        let client_id = session.terms.client_id.clone();
        if existed {
            self.unroute(slot, &client_id, filter);
        }
        existed
    }

    fn await_answer(&mut self, timed: Timed, awaited: Awaited) {
        let token = awaited.token;
        let awaited_max = self.table.limits.awaited_max;
        if let Some(connection) = self.table.get(timed)
            && let Some(session) = connection.session()
        {
            session.awaited.push(awaited);
            if session.awaited.len() >= awaited_max {
                connection.pauses.set(Pauses::AWAITED);
            }
        }
        self.answer_if_complete(timed, token);
    }

    fn answer_if_complete(&mut self, timed: Timed, token: u32) {
        let (slot, _) = timed;
        let (awaited_max, subscriptions_max) = (self.table.limits.awaited_max, self.table.limits.subscriptions_max);
        let Some(session) = self.table.get(timed).and_then(|connection| connection.session()) else {
            return;
        };
        let complete = |awaited: &Awaited| awaited.token == token && !awaited.settling && !awaited.storing;
        let Some(at) = session.awaited.iter().position(complete) else {
            return;
        };
        let Awaited { packet_id, kind, codes, .. } = session.awaited.remove(at);
        if session.awaited.is_empty() {
            session.awaited = Seldom::default();
        }
        let below_bound = session.awaited.len() < awaited_max;
        // [MQTT-3.9.2-1], [MQTT-3.11.2-1]
        let bound = match session.terms.persistent {
            true => subscriptions_max.min(SESSION_SUBSCRIPTIONS_MAX),
            false => subscriptions_max,
        };
        let words = codes.iter().map(|code| words_of(ReasonCode(*code), bound)).find(|words| !words.is_empty());
        let answer = |core: &mut Core, packet: PacketType| {
            core.send_explained(slot, words.unwrap_or_default(), |version, properties, out| {
                SubAck { packet_id, properties, codes: &codes }.encode(packet, version, out);
            });
        };
        match kind {
            AwaitedKind::Connack(connack) => self.greet(timed, &connack),
            AwaitedKind::Suback => {
                answer(self, PacketType::SubAck);
                self.repeat_report(timed, token);
                let session = self.table.get(timed).and_then(|connection| connection.session());
                if let Some(readings) = session.and_then(|session| session.readings.as_mut()) {
                    readings.subscribed(token);
                    self.read_retained(timed);
                }
            }
            AwaitedKind::Unsuback => answer(self, PacketType::UnsubAck),
        }
        if below_bound {
            self.table.lift(timed, Pauses::AWAITED);
        }
    }
}

/// What SUBACK and UNSUBACK leave open. A session may have so many subscriptions.
fn words_of(reason: ReasonCode, subscriptions_max: usize) -> Words {
    match reason {
        ReasonCode::TOPIC_FILTER_INVALID => Words::with(
            "a filter is empty, has more than {} levels, or + or # beside other characters",
            TOPIC_LEVELS_MAX as u64,
        ),
        ReasonCode::QUOTA_EXCEEDED => Words::with(
            "the session has {} subscriptions, as many as it may, or the broker's disk is full",
            subscriptions_max as u64,
        ),
        ReasonCode::UNSPECIFIED_ERROR => {
            "it is not certain that a majority of the cluster has stored this; try again".into()
        }
        _ => Words::default(),
    }
}
