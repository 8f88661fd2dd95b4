//! The ledger: what clients did and saw, and the checks of the contract over it. Pure; who writes it is `load`.
//!
//! Every check looks only at what a client can know, so a violation is one that a user would suffer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// Time since the start of the run.
pub type At = Duration;

/// After an acknowledgement or a takeover, how long the network and the clients may take to show it.
pub const MARGIN: Duration = Duration::from_secs(2);

/// A message: the publisher numbers them from 1, over all its topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageId {
    pub publisher: u32,
    pub sequence: u64,
}

/// A message and what its publisher knows of it.
#[derive(Clone, Debug, Default)]
pub struct Published {
    pub topic: String,
    /// At QoS 2.
    pub exactly_once: bool,
    /// Every time it was sent.
    pub attempts: Vec<At>,
    /// When PUBACK or PUBREC came.
    pub acknowledged: Option<At>,
    /// It was once answered with an error, so that its place in the order is the publisher's own affair.
    pub refused: bool,
}

/// A subscription that was acknowledged.
#[derive(Clone, Debug)]
pub struct Subscribed {
    pub client: String,
    /// Of a persistent session: it outlives its connection.
    pub persistent: bool,
    pub connection: u64,
    pub filter: String,
    pub from: At,
    /// When its connection ended; `None` if it was there to the end.
    pub to: Option<At>,
}

/// A message that arrived; at QoS 2, only what its packet id did not tell to have arrived before.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub client: String,
    pub connection: u64,
    pub message: MessageId,
    pub topic: String,
    pub exactly_once: bool,
    pub dup: bool,
}

/// A connection that was accepted.
#[derive(Clone, Debug)]
pub struct Connected {
    pub client: String,
    pub connection: u64,
    pub from: At,
    pub to: Option<At>,
    /// A session was expected, and whether it was there.
    pub session: Option<bool>,
}

/// All that happened, in the order in which it was seen.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub published: BTreeMap<MessageId, Published>,
    pub subscribed: Vec<Subscribed>,
    pub delivered: Vec<Delivered>,
    pub connected: Vec<Connected>,
}

/// A line of the contract that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// K1: acknowledged, and never delivered to a persistent session that wanted it.
    Lost { message: MessageId, client: String },
    /// K2: a persistent session was not there any more.
    SessionLost { client: String, connection: u64 },
    /// K4: an older connection got what was published after the newer one was accepted.
    TwoHolders { client: String, connection: u64, message: MessageId },
    /// K4: an older connection was not ended.
    NotEvicted { client: String, connection: u64 },
    /// K5: it arrived for the first time after a later one of the same publisher and topic.
    OutOfOrder { message: MessageId, after: MessageId, client: String },
    /// K5: it arrived more often than it was sent, and not as a redelivery.
    Duplicate { message: MessageId, client: String },
    /// K2: at QoS 2 from end to end, and it arrived twice.
    Doubled { message: MessageId, client: String },
    /// K6: published after the SUBACK, acknowledged, and never delivered.
    NotRouted { message: MessageId, client: String, connection: u64 },
    /// Nobody published it there.
    Invented { message: MessageId, client: String },
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.publisher, self.sequence)
    }
}

/// Who received it: a persistent session, whatever its connection, or else one connection.
fn receiver<'a>(delivered: &'a Delivered, persistent: &BTreeSet<&str>) -> (&'a str, u64) {
    let client = delivered.client.as_str();
    (client, if persistent.contains(client) { 0 } else { delivered.connection })
}

impl Published {
    fn first_attempt(&self) -> At {
        self.attempts.first().copied().unwrap_or(At::MAX)
    }
}

impl History {
    /// Every violation that can be found.
    pub fn violations(&self) -> Vec<Violation> {
        let checks = [
            self.sessions_last(),
            self.acknowledged_is_delivered(),
            self.one_owner(),
            self.in_order(),
            self.no_unexplained_duplicates(),
            self.exactly_once(),
            self.subscribed_is_routed(),
            self.nothing_invented(),
        ];
        checks.into_iter().flatten().collect()
    }

    /// Acknowledged messages that have not reached a persistent session that wants them: what is still awaited, and, once
    /// nothing more comes, what is lost (K1).
    pub fn acknowledged_is_delivered(&self) -> Vec<Violation> {
        let seen: BTreeSet<(&str, MessageId)> = self.delivered.iter().map(|d| (d.client.as_str(), d.message)).collect();
        let mut lost = Vec::new();
        for subscribed in self.subscribed.iter().filter(|subscribed| subscribed.persistent) {
            for (message, published) in &self.published {
                let wanted = published.acknowledged.is_some()
                    && published.first_attempt() > subscribed.from
                    && matches(&subscribed.filter, &published.topic);
                if wanted && !seen.contains(&(subscribed.client.as_str(), *message)) {
                    lost.push(Violation::Lost { message: *message, client: subscribed.client.clone() });
                }
            }
        }
        lost
    }

    /// K2: a persistent session is found again.
    fn sessions_last(&self) -> Vec<Violation> {
        let lost = self.connected.iter().filter(|connected| connected.session == Some(false));
        lost.map(|c| Violation::SessionLost { client: c.client.clone(), connection: c.connection }).collect()
    }

    /// K4: once a newer connection is accepted, the older one is over.
    fn one_owner(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        let mut delivered_on: BTreeMap<u64, Vec<MessageId>> = BTreeMap::new();
        for delivered in &self.delivered {
            delivered_on.entry(delivered.connection).or_default().push(delivered.message);
        }
        for older in &self.connected {
            let newer = self.connected.iter().filter(|newer| newer.client == older.client && newer.from > older.from);
            let Some(taken_over) = newer.map(|newer| newer.from).min() else { continue };
            let (client, connection) = (older.client.clone(), older.connection);
            for message in delivered_on.get(&connection).into_iter().flatten().copied() {
                let published = self.published.get(&message);
                if published.is_some_and(|published| published.first_attempt() > taken_over) {
                    violations.push(Violation::TwoHolders { client: client.clone(), connection, message });
                }
            }
            if older.to.is_none_or(|to| to > taken_over + MARGIN) {
                violations.push(Violation::NotEvicted { client, connection });
            }
        }
        violations
    }

    /// K5: the first arrivals of one publisher's messages on one topic are in the order in which they were published. A
    /// persistent session is one receiver; any other connection is one of its own.
    fn in_order(&self) -> Vec<Violation> {
        let persistent = self.persistent();
        // What was first sent before the SUBACK may have matched nothing then, and arrive because it was sent again.
        let mut since: BTreeMap<(&str, u64), At> = BTreeMap::new();
        for subscribed in &self.subscribed {
            let connection = if subscribed.persistent { 0 } else { subscribed.connection };
            let from = since.entry((subscribed.client.as_str(), connection)).or_insert(subscribed.from);
            *from = subscribed.from.max(*from);
        }
        let mut newest: BTreeMap<_, MessageId> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut violations = Vec::new();
        for delivered in &self.delivered {
            let (message, receiver) = (delivered.message, receiver(delivered, &persistent));
            let promised = match (self.published.get(&message), since.get(&receiver)) {
                (Some(published), Some(from)) => !published.refused && published.first_attempt() > *from,
                _ => false,
            };
            if !promised || !seen.insert((receiver, message)) {
                continue;
            }
            let stream = (receiver, message.publisher, delivered.topic.as_str());
            let before = newest.get(&stream).copied();
            match before {
                Some(after) if after > message => {
                    let client = delivered.client.clone();
                    violations.push(Violation::OutOfOrder { message, after, client });
                }
                _ => {
                    newest.insert(stream, message);
                }
            }
        }
        violations
    }

    /// K5: at QoS 1 a message arrives again only because it was sent again, by the publisher or, marked so, by the broker.
    fn no_unexplained_duplicates(&self) -> Vec<Violation> {
        let persistent = self.persistent();
        let mut fresh: BTreeMap<_, usize> = BTreeMap::new();
        for delivered in self.delivered.iter().filter(|delivered| !delivered.dup) {
            *fresh.entry((receiver(delivered, &persistent), delivered.message)).or_default() += 1;
        }
        let too_often = fresh.into_iter().filter(|((_, message), times)| {
            let sent = self.published.get(message).map_or(0, |published| published.attempts.len());
            *times > sent.max(1)
        });
        too_often
            .map(|(((client, _), message), _)| Violation::Duplicate { message, client: client.to_owned() })
            .collect()
    }

    /// K2: what is published and received at QoS 2 arrives once, whatever was sent again.
    fn exactly_once(&self) -> Vec<Violation> {
        let persistent = self.persistent();
        let mut times: BTreeMap<_, usize> = BTreeMap::new();
        for delivered in self.delivered.iter().filter(|delivered| delivered.exactly_once) {
            let published = self.published.get(&delivered.message);
            // One that was refused was sent again as another message.
            if published.is_some_and(|published| published.exactly_once && !published.refused) {
                *times.entry((receiver(delivered, &persistent), delivered.message)).or_default() += 1;
            }
        }
        let doubled = times.into_iter().filter(|(_, times)| *times > 1);
        doubled.map(|(((client, _), message), _)| Violation::Doubled { message, client: client.to_owned() }).collect()
    }

    /// K6: what was published after the SUBACK arrives on that connection, if it lasted.
    fn subscribed_is_routed(&self) -> Vec<Violation> {
        let seen: BTreeSet<(u64, MessageId)> = self.delivered.iter().map(|d| (d.connection, d.message)).collect();
        let mut violations = Vec::new();
        for subscribed in self.subscribed.iter().filter(|subscribed| !subscribed.persistent) {
            for (message, published) in &self.published {
                let Some(acknowledged) = published.acknowledged else { continue };
                let lasted = subscribed.to.is_none_or(|to| to > acknowledged + MARGIN);
                let wanted =
                    published.first_attempt() > subscribed.from && matches(&subscribed.filter, &published.topic);
                if wanted && lasted && !seen.contains(&(subscribed.connection, *message)) {
                    let (client, connection) = (subscribed.client.clone(), subscribed.connection);
                    violations.push(Violation::NotRouted { message: *message, client, connection });
                }
            }
        }
        violations
    }

    fn nothing_invented(&self) -> Vec<Violation> {
        let invented = self.delivered.iter().filter(|delivered| {
            self.published.get(&delivered.message).is_none_or(|published| published.topic != delivered.topic)
        });
        invented.map(|d| Violation::Invented { message: d.message, client: d.client.clone() }).collect()
    }

    /// The names of the persistent sessions.
    fn persistent(&self) -> BTreeSet<&str> {
        let persistent = self.subscribed.iter().filter(|subscribed| subscribed.persistent);
        persistent.map(|subscribed| subscribed.client.as_str()).collect()
    }
}

/// Whether a filter matches a topic ([MQTT-4.7]); naive on purpose, and not the broker's.
fn matches(filter: &str, topic: &str) -> bool {
    let (mut levels, mut wanted) = (topic.split('/'), filter.split('/'));
    loop {
        match (wanted.next(), levels.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(want), Some(level)) if want == level => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: MessageId = MessageId { publisher: 1, sequence: 1 };
    const TWO: MessageId = MessageId { publisher: 1, sequence: 2 };

    fn at(seconds: u64) -> At {
        Duration::from_secs(seconds)
    }

    /// Two messages on `t/a`, acknowledged, and two sessions subscribed since second 1, one of them persistent, that got both.
    fn good() -> History {
        let mut history = History::default();
        for (message, sent) in [(ONE, 10), (TWO, 20)] {
            let published = Published {
                topic: "t/a".to_owned(),
                exactly_once: false,
                attempts: vec![at(sent)],
                acknowledged: Some(at(sent + 1)),
                refused: false,
            };
            history.published.insert(message, published);
            for (client, connection) in [("kept", 1), ("passing", 2)] {
                history.delivered.push(Delivered {
                    client: client.to_owned(),
                    connection,
                    message,
                    topic: "t/a".to_owned(),
                    exactly_once: false,
                    dup: false,
                });
            }
        }
        for (client, connection) in [("kept", 1), ("passing", 2)] {
            history.connected.push(Connected {
                client: client.to_owned(),
                connection,
                from: at(0),
                to: None,
                session: None,
            });
            history.subscribed.push(Subscribed {
                client: client.to_owned(),
                persistent: client == "kept",
                connection,
                filter: "t/+".to_owned(),
                from: at(1),
                to: None,
            });
        }
        assert_eq!(history.violations(), []);
        history
    }

    #[test]
    fn an_acknowledged_message_that_never_arrives_is_lost() {
        let mut history = good();
        history.delivered.retain(|delivered| delivered.connection != 1 || delivered.message != TWO);
        assert_eq!(history.violations(), [Violation::Lost { message: TWO, client: "kept".to_owned() }]);
        history.published.get_mut(&TWO).unwrap().acknowledged = None;
        assert_eq!(history.violations(), [], "not acknowledged, not promised");
    }

    #[test]
    fn a_message_for_nobody_is_not_lost() {
        let mut history = good();
        history.delivered.clear();
        history.subscribed[0].filter = "u/#".to_owned();
        history.subscribed[1].from = at(30);
        assert_eq!(history.violations(), []);
    }

    #[test]
    fn a_session_that_is_gone_is_noticed() {
        let mut history = good();
        history.connected[0].session = Some(false);
        assert_eq!(history.violations(), [Violation::SessionLost { client: "kept".to_owned(), connection: 1 }]);
    }

    #[test]
    fn two_connections_never_hold_one_client_id() {
        let mut history = good();
        history.connected[0].to = Some(at(16));
        let newer = Connected { client: "kept".to_owned(), connection: 3, from: at(15), to: None, session: Some(true) };
        history.connected.push(newer);
        let client = "kept".to_owned();
        let two_holders = Violation::TwoHolders { client: client.clone(), connection: 1, message: TWO };
        assert_eq!(history.violations(), [two_holders]);
        history.delivered.iter_mut().filter(|d| d.connection == 1 && d.message == TWO).for_each(|d| d.connection = 3);
        assert_eq!(history.violations(), []);
        history.connected[0].to = Some(at(18));
        assert_eq!(history.violations(), [Violation::NotEvicted { client, connection: 1 }]);
    }

    #[test]
    fn a_first_arrival_out_of_order_is_noticed_and_a_repeated_one_is_not() {
        let mut history = good();
        let again = Delivered { dup: true, ..history.delivered[0].clone() };
        history.delivered.push(again);
        assert_eq!(history.violations(), []);
        history.delivered.retain(|delivered| delivered.connection == 1);
        history.subscribed.pop();
        history.delivered.swap(0, 1);
        let out_of_order = Violation::OutOfOrder { message: ONE, after: TWO, client: "kept".to_owned() };
        assert_eq!(history.violations(), std::slice::from_ref(&out_of_order));
        history.published.get_mut(&ONE).unwrap().refused = true;
        assert_eq!(history.violations(), [], "its publisher had been told to send it later");
    }

    #[test]
    fn what_was_first_sent_before_the_suback_has_no_place_in_the_order() {
        let mut history = good();
        history.delivered.retain(|delivered| delivered.connection == 1);
        history.subscribed.pop();
        history.delivered.swap(0, 1);
        let first = history.published.get_mut(&ONE).unwrap();
        first.attempts = vec![at(2), at(25)];
        assert_eq!(history.violations().len(), 1, "sent after the SUBACK");
        history.subscribed[0].from = at(3);
        assert_eq!(history.violations(), [], "sent again after it, behind the second");
    }

    #[test]
    fn a_duplicate_needs_a_reason() {
        let mut history = good();
        history.delivered.push(history.delivered[0].clone());
        assert_eq!(history.violations(), [Violation::Duplicate { message: ONE, client: "kept".to_owned() }]);
        history.published.get_mut(&ONE).unwrap().attempts.push(at(11));
        assert_eq!(history.violations(), [], "it was published twice");
    }

    #[test]
    fn what_goes_through_at_qos_2_arrives_once_even_if_it_was_sent_twice() {
        let mut history = good();
        history.published.get_mut(&ONE).unwrap().attempts.push(at(11));
        history.delivered.push(Delivered { dup: true, ..history.delivered[0].clone() });
        history.delivered.iter_mut().for_each(|delivered| delivered.exactly_once = true);
        assert_eq!(history.violations(), [], "published at QoS 1");
        history.published.get_mut(&ONE).unwrap().exactly_once = true;
        assert_eq!(history.violations(), [Violation::Doubled { message: ONE, client: "kept".to_owned() }]);
    }

    #[test]
    fn a_message_published_after_the_suback_is_routed() {
        let mut history = good();
        history.delivered.retain(|delivered| delivered.connection != 2 || delivered.message != TWO);
        let not_routed = Violation::NotRouted { message: TWO, client: "passing".to_owned(), connection: 2 };
        assert_eq!(history.violations(), [not_routed]);
        history.subscribed[1].to = Some(at(22));
        assert_eq!(history.violations(), [], "the connection ended before it could be told from lost");
    }

    #[test]
    fn a_message_that_nobody_published_is_noticed() {
        let mut history = good();
        history.delivered[0].topic = "t/b".to_owned();
        assert_eq!(history.violations(), [Violation::Invented { message: ONE, client: "kept".to_owned() }]);
    }

    #[test]
    fn filters_match_as_the_standard_says() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/+", "a/b", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("+", "a/b", false),
            ("a", "a/b", false),
            ("a/b", "a", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }
}
