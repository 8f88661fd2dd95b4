//! The shard as sentences, then at random: replicas stay equal, and snapshots are as good as the log.

mod exactly_once;
mod inspection;
mod loans;
mod model;
mod retained;
mod shares;
mod wills;

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::identity::{ClientId, ConnectionId, Incarnation, NodeId, Origin, ShardId};
use crate::kept::Shelf;
use crate::limits;
use crate::message::{Message, QoS, Subscription, SubscriptionOptions};
use crate::replication::StateMachine as _;

const NODE_A: Origin = Origin { node: NodeId(1), incarnation: Incarnation(1) };
const NODE_B: Origin = Origin { node: NodeId(2), incarnation: Incarnation(1) };

/// A shard, and nodes that number their commands.
#[derive(Default)]
struct Given {
    shard: Shard,
    now_ms: u64,
    effects: Vec<Effect>,
}

impl Given {
    fn say(&mut self, origin: Origin, command: Command) -> Outcome {
        let Expected::Next(seq) = self.shard.expected(origin) else { panic!("{origin:?} is expected no more") };
        self.say_numbered(origin, seq, command).expect("answered")
    }

    fn say_numbered(&mut self, origin: Origin, seq: u64, command: Command) -> Option<Outcome> {
        self.effects.clear();
        let entry = Entry { now_ms: self.now_ms, commands: vec![Numbered { origin, seq, command }] };
        self.shard.apply(1, &postcard::to_stdvec(&entry).unwrap(), &mut self.effects);
        self.effects.iter().find_map(|effect| match effect {
            Effect::Reply { origin: to, seq: of, outcome } if (*to, *of) == (origin, seq) => Some(outcome.clone()),
            _ => None,
        })
    }

    /// A CONNECT; whoever held the client id lets go at once.
    fn open(&mut self, origin: Origin, open: Open) -> (u64, bool) {
        let mut answer = self.connect(origin, open);
        let evicted: Vec<(Origin, ClientId, u64)> = self
            .effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Evict { client_id, holder, epoch, .. } => Some((holder.origin, client_id.clone(), *epoch)),
                _ => None,
            })
            .collect();
        let mut effects = std::mem::take(&mut self.effects);
        for (node, client_id, epoch) in evicted {
            self.say(node, Command::Released { client_id, epoch });
            answer = answer.or_else(|| self.answered(origin));
            effects.append(&mut self.effects);
        }
        self.effects = effects;
        match answer {
            Some(Outcome::Opened { epoch, session_present, .. }) => (epoch, session_present),
            other => panic!("{other:?}"),
        }
    }

    /// A CONNECT, and its answer if it has one yet.
    fn connect(&mut self, origin: Origin, open: Open) -> Option<Outcome> {
        let Expected::Next(seq) = self.shard.expected(origin) else { panic!("{origin:?} is expected no more") };
        self.say_numbered(origin, seq, Command::Open(open))
    }

    /// The last answer to a CONNECT of this node.
    fn answered(&self, origin: Origin) -> Option<Outcome> {
        self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Reply { origin: to, outcome: outcome @ (Outcome::Opened { .. } | Outcome::Stale), .. }
                if *to == origin =>
            {
                Some(outcome.clone())
            }
            _ => None,
        })
    }

    fn subscribe(&mut self, client_id: &str, epoch: u64, filter: &str, qos: QoS) -> Outcome {
        let options = SubscriptionOptions { qos, ..Default::default() };
        let subscriptions = vec![Subscription { filter: filter.into(), options }];
        self.say(NODE_A, Command::Subscribe { client_id: client_id.into(), epoch, subscriptions })
    }

    fn publish(&mut self, topic: &str, payload: &str) -> Outcome {
        self.say(NODE_B, Command::Publish(message(topic, payload)))
    }

    fn queue(&self, client_id: &str) -> Vec<(u64, String)> {
        let deliveries = self.shard.deliveries(client_id, 1, usize::MAX, usize::MAX);
        deliveries.into_iter().map(|d| (d.seq, String::from_utf8(d.message.payload.to_vec()).unwrap())).collect()
    }

    fn has(&self, wanted: impl Fn(&Effect) -> bool) -> bool {
        self.effects.iter().any(wanted)
    }

    fn wills(&self) -> usize {
        self.effects.iter().filter(|effect| matches!(effect, Effect::Will { .. })).count()
    }
}

fn message(topic: &str, payload: &str) -> Message {
    Message {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QoS::AtLeastOnce,
        ..Message::default()
    }
}

fn connection(slot: u32) -> ConnectionId {
    ConnectionId { worker: 0, slot, generation: 1 }
}

fn durable(client_id: &str, slot: u32) -> Open {
    Open {
        client_id: client_id.into(),
        connection: connection(slot),
        clean_start: false,
        session_expiry_seconds: 60,
        receive_maximum: 10,
        will: None,
    }
}

fn close(client_id: &str, epoch: u64, cause: CloseCause) -> Command {
    Command::Close(Close { client_id: client_id.into(), epoch, cause, session_expiry_seconds: None, sent_to: 0 })
}

fn ack(client_id: &str, epoch: u64, acks: Vec<Ack>) -> Command {
    Command::Acknowledge { client_id: client_id.into(), epoch, acks }
}

#[test]
fn a_message_waits_in_the_queue_of_a_session_that_is_not_connected() {
    let mut given = Given::default();
    let (epoch, present) = given.open(NODE_A, durable("c", 1));
    assert!(!present);
    assert_eq!(given.subscribe("c", epoch, "a/+", QoS::AtLeastOnce), Outcome::Codes(vec![1]));
    given.say(NODE_A, close("c", epoch, CloseCause::Normal));
    assert_eq!(given.publish("a/b", "x"), Outcome::Stored(1));
    assert_eq!(given.publish("other", "y"), Outcome::Stored(0));
    let (_, present) = given.open(NODE_B, durable("c", 2));
    assert!(present);
    assert!(given.has(|effect| matches!(effect, Effect::Deliverable(_))));
    assert_eq!(given.queue("c"), [(1, "x".to_owned())]);
}

#[test]
fn what_is_acknowledged_in_any_order_leaves_the_queue_and_numbers_go_on() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("c", 1));
    given.subscribe("c", epoch, "t", QoS::AtLeastOnce);
    for payload in ["1", "2", "3"] {
        given.publish("t", payload);
    }
    given.say(NODE_A, ack("c", epoch, vec![Ack::Done(2), Ack::Done(2), Ack::Done(99)]));
    assert_eq!(given.queue("c"), [(1, "1".to_owned()), (3, "3".to_owned())]);
    given.say(NODE_A, ack("c", epoch, vec![Ack::Done(1), Ack::Done(3)]));
    assert_eq!(given.queue("c"), []);
    given.publish("t", "4");
    assert_eq!(given.queue("c"), [(4, "4".to_owned())]);
    assert_eq!(given.shard.totals().queued_items, 1);
}

#[test]
fn a_newer_connection_takes_the_client_id_and_the_older_is_told_and_fenced() {
    let mut given = Given::default();
    let (old, _) = given.open(NODE_A, durable("c", 1));
    let (new, _) = given.open(NODE_B, durable("c", 2));
    assert!(new > old);
    assert!(given.has(|effect| matches!(effect,
        Effect::Evict { holder, epoch, why: Evicted::TakenOver, .. }
            if *epoch == old && holder.connection == connection(1))));
    assert_eq!(given.subscribe("c", old, "t", QoS::AtLeastOnce), Outcome::Stale);
    assert_eq!(given.say(NODE_A, ack("c", old, vec![Ack::Done(1)])), Outcome::Stale);
    assert_eq!(given.say(NODE_A, close("c", old, CloseCause::Normal)), Outcome::Stale);
    assert_eq!(given.shard.attached("c").unwrap().epoch, new);
}

#[test]
fn a_clean_start_forgets_what_was_there() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("c", 1));
    given.subscribe("c", epoch, "t", QoS::AtLeastOnce);
    given.publish("t", "x");
    let (_, present) = given.open(NODE_A, Open { clean_start: true, ..durable("c", 2) });
    assert!(!present);
    assert!(given.has(|effect| *effect == Effect::RouteRemoved("t".into())));
    assert_eq!(given.queue("c"), []);
    assert_eq!(given.shard.totals().queued_bytes, 0);
}

#[test]
fn an_ephemeral_holder_leaves_nothing_behind() {
    let mut given = Given::default();
    let ephemeral = Open { clean_start: true, session_expiry_seconds: 0, ..durable("c", 1) };
    let (epoch, _) = given.open(NODE_A, ephemeral);
    assert_eq!((given.shard.connected(), given.shard.totals().persistent_sessions), (1, 0));
    given.say(NODE_A, close("c", epoch, CloseCause::Normal));
    assert_eq!(given.shard.totals(), Totals::default());
    assert_eq!(given.shard.sessions.len(), 0);
}

#[test]
fn a_session_expires_after_its_time_and_not_before() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("c", 1));
    given.subscribe("c", epoch, "t", QoS::AtLeastOnce);
    given.say(NODE_A, close("c", epoch, CloseCause::Normal));
    assert_eq!(given.shard.next_due_ms(), Some(60_000));
    given.now_ms = 59_999;
    given.say(NODE_A, Command::Tick);
    assert_eq!(given.publish("t", "x"), Outcome::Stored(1));
    given.now_ms = 60_000;
    given.say(NODE_A, Command::Tick);
    assert!(given.has(|effect| *effect == Effect::RouteRemoved("t".into())));
    assert_eq!(given.publish("t", "x"), Outcome::Stored(0));
}

#[test]
fn a_command_takes_effect_once_and_is_answered_as_often_as_it_comes() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("c", 1));
    given.subscribe("c", epoch, "t", QoS::AtLeastOnce);
    let publish = Command::Publish(message("t", "x"));
    assert_eq!(given.say_numbered(NODE_B, 1, publish.clone()), Some(Outcome::Stored(1)));
    assert_eq!(given.say_numbered(NODE_B, 1, publish.clone()), Some(Outcome::Stored(1)));
    assert_eq!(given.queue("c").len(), 1);
    assert_eq!(given.say_numbered(NODE_B, 3, publish), None, "a gap is neither applied nor answered");
    assert_eq!(given.queue("c").len(), 1);
    let again = given.say_numbered(NODE_A, 1, Command::Open(durable("c", 1)));
    assert!(matches!(again, Some(Outcome::Opened { epoch: e, session_present: false, .. }) if e == epoch));
    assert!(!given.has(|effect| matches!(effect, Effect::Evict { .. })));
}

#[test]
fn a_filter_is_wanted_from_the_first_subscription_above_qos_0_to_the_last() {
    let mut given = Given::default();
    let (first, _) = given.open(NODE_A, durable("c", 1));
    let (second, _) = given.open(NODE_A, durable("d", 2));
    let added = |given: &Given| given.has(|effect| *effect == Effect::RouteAdded("t".into()));
    let removed = |given: &Given| given.has(|effect| *effect == Effect::RouteRemoved("t".into()));
    given.subscribe("c", first, "t", QoS::AtMostOnce);
    assert!(!added(&given), "QoS 0 never enters a shard");
    given.subscribe("c", first, "t", QoS::AtLeastOnce);
    assert!(added(&given));
    given.subscribe("d", second, "t", QoS::AtLeastOnce);
    assert!(!added(&given));
    given.subscribe("c", first, "t", QoS::AtMostOnce);
    assert!(!removed(&given));
    let unsubscribe =
        Command::Unsubscribe { client_id: "d".into(), epoch: second, filters: vec!["t".into(), "u".into()] };
    assert_eq!(given.say(NODE_A, unsubscribe), Outcome::Codes(vec![0x00, 0x11]));
    assert!(removed(&given));
    assert!(given.shard.routes().is_empty());
}

#[test]
fn a_will_is_due_once_after_its_delay_and_not_after_a_normal_end() {
    let with_will = |slot, delay_seconds| Open {
        will: Some(Will { message: message("will", "w"), delay_seconds, expiry_seconds: None }),
        ..durable("c", slot)
    };
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, with_will(1, 0));
    given.say(NODE_A, close("c", epoch, CloseCause::Normal));
    assert_eq!(given.wills(), 0);
    let (epoch, _) = given.open(NODE_A, with_will(2, 0));
    given.say(NODE_A, close("c", epoch, CloseCause::WithWill));
    assert_eq!(given.wills(), 1);
    given.say(NODE_A, Command::Tick);
    assert_eq!(given.wills(), 0, "told once");
    assert_eq!(given.shard.due_wills().len(), 1, "a new leader is told again");
    let fire = || Command::FireWill { client_id: "c".into(), epoch, spread: Spread::default() };
    assert_eq!(given.say(NODE_A, fire()), Outcome::Done);
    assert_eq!(given.say(NODE_A, fire()), Outcome::NotFound, "once");
    assert!(given.shard.due_wills().is_empty());

    let (epoch, _) = given.open(NODE_A, with_will(3, 5));
    given.say(NODE_A, close("c", epoch, CloseCause::WithWill));
    let (epoch, _) = given.open(NODE_A, with_will(4, 5));
    given.now_ms += 10_000;
    given.say(NODE_A, Command::Tick);
    assert_eq!(given.wills(), 0, "the session went on before the delay was over");
    given.say(NODE_A, close("c", epoch, CloseCause::WithWill));
    given.now_ms += 5_000;
    given.say(NODE_A, Command::Tick);
    assert_eq!(given.wills(), 1);
}

#[test]
fn a_node_that_is_gone_loses_its_connections_fires_its_wills_and_is_heard_no_more() {
    let mut given = Given::default();
    let will = Some(Will { message: message("will", "w"), delay_seconds: 0, expiry_seconds: None });
    let (epoch, _) = given.open(NODE_A, Open { will, ..durable("c", 1) });
    given.subscribe("c", epoch, "t", QoS::AtLeastOnce);
    given.publish("t", "x");
    given.say(NODE_B, Command::NodeGone(NODE_A));
    assert_eq!(given.wills(), 1);
    assert!(given.shard.attached("c").is_none());
    assert_eq!(given.shard.expected(NODE_A), Expected::Nothing);
    let refused = given.say_numbered(NODE_A, 3, ack("c", epoch, vec![Ack::Done(1)]));
    assert_eq!(refused, Some(Outcome::Refused(Refusal::Unavailable)));
    assert!(given.shard.deliveries("c", 1, 9, 9)[0].dup, "it may have been sent");
    let later = Origin { incarnation: Incarnation(2), ..NODE_A };
    assert_eq!(given.shard.expected(later), Expected::Next(1));
}

#[test]
fn a_later_run_of_a_node_ends_the_earlier() {
    let mut given = Given::default();
    given.open(NODE_A, durable("c", 1));
    let later = Origin { incarnation: Incarnation(2), ..NODE_A };
    given.say(later, Command::Tick);
    assert!(given.shard.attached("c").is_none());
    assert_eq!(given.shard.expected(NODE_A), Expected::Nothing);
}

#[test]
fn a_message_is_queued_once_at_the_highest_qos_with_all_identifiers() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("c", 1));
    let subscription = |filter: &str, qos, identifier| Subscription {
        filter: filter.into(),
        options: SubscriptionOptions { qos, identifier: Some(identifier), ..Default::default() },
    };
    let subscriptions = vec![subscription("t/#", QoS::ExactlyOnce, 9), subscription("t/+", QoS::AtLeastOnce, 3)];
    given.say(NODE_A, Command::Subscribe { client_id: "c".into(), epoch, subscriptions });
    given.publish("t/a", "x");
    let deliveries = given.shard.deliveries("c", 1, 9, 99);
    assert_eq!(deliveries.len(), 1);
    assert_eq!((deliveries[0].message.qos, deliveries[0].identifiers.clone()), (QoS::AtLeastOnce, vec![3, 9]));
}

#[test]
fn no_local_keeps_a_client_from_its_own_messages() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("c", 1));
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, no_local: true, ..Default::default() };
    let subscriptions = vec![Subscription { filter: "t".into(), options }];
    given.say(NODE_A, Command::Subscribe { client_id: "c".into(), epoch, subscriptions });
    let own = Message { publisher: "c".into(), ..message("t", "own") };
    assert_eq!(given.say(NODE_A, Command::Publish(own)), Outcome::Stored(0));
    assert_eq!(given.publish("t", "other"), Outcome::Stored(1));
}

#[test]
fn a_full_queue_takes_no_more_and_counts_it() {
    let mut given = Given::default();
    let (epoch, _) = given.open(NODE_A, durable("c", 1));
    given.subscribe("c", epoch, "t", QoS::AtLeastOnce);
    for _ in 0..limits::SESSION_QUEUE_ITEMS_MAX {
        given.publish("t", "x");
    }
    let over = Command::Publish(message("t", "over"));
    let Expected::Next(seq) = given.shard.expected(NODE_B) else { panic!("expected") };
    let refused = Some(Outcome::Refused(Refusal::Quota));
    assert_eq!(given.say_numbered(NODE_B, seq, over.clone()), refused, "it is stored nowhere");
    let totals = given.shard.totals();
    assert_eq!((totals.queued_items, totals.dropped_queue_full), (limits::SESSION_QUEUE_ITEMS_MAX, 1));
    given.say(NODE_A, ack("c", epoch, vec![Ack::Done(1)]));
    assert_eq!(given.say_numbered(NODE_B, seq, over), refused, "nor is it when it comes again");
    let (other, _) = given.open(NODE_A, durable("d", 2));
    given.publish("t", "fills");
    given.subscribe("d", other, "t", QoS::AtLeastOnce);
    assert_eq!(given.publish("t", "others"), Outcome::Stored(1), "a full queue is no other's concern");
}

#[test]
fn of_refusals_long_past_nothing_is_said_to_be_stored() {
    let mut streams = streams::Streams::default();
    for seq in 1..=limits::STREAM_REFUSALS_MAX as u64 * 2 {
        streams.advance(NODE_A, seq);
        if seq % 2 == 0 || seq > 100 {
            streams.refuse(NODE_A, seq);
        }
    }
    assert!(streams.may_have_refused(NODE_A, 1), "nobody knows any more");
    let last = limits::STREAM_REFUSALS_MAX as u64 * 2;
    assert!(streams.may_have_refused(NODE_A, last));
    streams.advance(NODE_A, last + 1);
    assert!(!streams.may_have_refused(NODE_A, last + 1));
}

#[test]
fn a_newer_connection_waits_until_the_older_has_let_go() {
    let mut given = Given::default();
    let (old, _) = given.open(NODE_A, durable("c", 1));
    given.subscribe("c", old, "t", QoS::AtLeastOnce);
    assert_eq!(given.connect(NODE_B, durable("c", 2)), None);
    assert!(matches!(given.shard.evictions()[..], [Effect::Evict { epoch, .. }] if epoch == old));
    given.publish("t", "x");
    assert!(given.shard.attached("c").is_none(), "nothing is sent to a connection that waits");
    assert_eq!(given.say_numbered(NODE_B, 1, Command::Open(durable("c", 2))), None, "asked again, it waits still");
    given.say(NODE_A, Command::Released { client_id: "c".into(), epoch: old + 7 });
    assert_eq!(given.answered(NODE_B), None, "another epoch has no say");
    let bytes = given.shard.snapshot();
    given.shard = Shard::default();
    given.shard.restore(&bytes.to_bytes()).unwrap();
    given.say(NODE_A, Command::Released { client_id: "c".into(), epoch: old });
    let answer = given.answered(NODE_B);
    assert!(matches!(answer, Some(Outcome::Opened { epoch, session_present: true, .. }) if epoch > old));
    assert!(given.has(|effect| matches!(effect, Effect::Deliverable(_))));
    assert_eq!(given.shard.evictions(), []);
    let again = given.say_numbered(NODE_B, 1, Command::Open(durable("c", 2)));
    assert_eq!(again, answer, "a new leader finds that it need not wait");
}

#[test]
fn an_older_connection_lets_go_by_its_end_or_by_that_of_its_run() {
    let mut given = Given::default();
    let (old, _) = given.open(NODE_A, durable("c", 1));
    assert_eq!(given.connect(NODE_B, durable("c", 2)), None);
    assert_eq!(given.say(NODE_A, close("c", old, CloseCause::Normal)), Outcome::Stale);
    assert!(matches!(given.answered(NODE_B), Some(Outcome::Opened { .. })));
    assert_eq!(given.connect(NODE_A, durable("c", 3)), None);
    given.say(NODE_A, Command::NodeGone(NODE_B));
    assert!(matches!(given.answered(NODE_A), Some(Outcome::Opened { .. })));
}

#[test]
fn of_two_connections_that_wait_the_newest_wins() {
    let mut given = Given::default();
    let (old, _) = given.open(NODE_A, durable("c", 1));
    assert_eq!(given.connect(NODE_B, durable("c", 2)), None);
    assert_eq!(given.connect(NODE_A, durable("c", 3)), None);
    assert_eq!(given.answered(NODE_B), Some(Outcome::Stale));
    assert_eq!(given.shard.evictions().len(), 1, "who was never let in need not go");
    given.say(NODE_A, Command::Released { client_id: "c".into(), epoch: old });
    assert!(matches!(given.answered(NODE_A), Some(Outcome::Opened { .. })));
    assert_eq!(given.answered(NODE_B), None);
}

#[test]
fn a_connection_that_waits_ends_with_its_run() {
    let mut given = Given::default();
    let (old, _) = given.open(NODE_A, durable("c", 1));
    assert_eq!(given.connect(NODE_B, durable("c", 2)), None);
    given.say(NODE_A, Command::NodeGone(NODE_B));
    given.say(NODE_A, Command::Released { client_id: "c".into(), epoch: old });
    assert_eq!(given.answered(NODE_B), None);
    assert_eq!(given.shard.connected(), 0);
    given.open(NODE_A, durable("c", 3));
}

#[test]
fn a_takeover_that_cannot_be_remembered_is_refused() {
    let mut given = Given::default();
    for number in 0..=limits::SHARD_EVICTIONS_MAX as u32 {
        given.open(NODE_A, durable(&format!("c{number}"), number));
    }
    for number in 0..limits::SHARD_EVICTIONS_MAX as u32 {
        assert_eq!(given.connect(NODE_B, durable(&format!("c{number}"), number)), None);
    }
    let last = durable(&format!("c{}", limits::SHARD_EVICTIONS_MAX), 1);
    assert_eq!(given.connect(NODE_B, last), Some(Outcome::Refused(Refusal::Quota)));
    assert!(matches!(given.connect(NODE_B, durable("new", 1)), Some(Outcome::Opened { .. })));
}

#[test]
fn a_later_run_that_is_gone_takes_the_earlier_with_it() {
    let mut given = Given::default();
    given.open(NODE_A, durable("c", 1));
    let later = Origin { incarnation: Incarnation(2), ..NODE_A };
    given.say(NODE_B, Command::NodeGone(later));
    assert!(given.shard.attached("c").is_none());
}

#[test]
fn a_full_shard_refuses_a_publish() {
    let mut given = Given::default();
    for number in 0..5 {
        let client_id = format!("c{number}");
        let (epoch, _) = given.open(NODE_A, durable(&client_id, number));
        given.subscribe(&client_id, epoch, "t", QoS::AtLeastOnce);
    }
    let large = Message { payload: Bytes::from(vec![0; 1 << 20]), ..message("t", "") };
    let mut refused = false;
    for _ in 0..=limits::SHARD_QUEUE_BYTES_MAX >> 20 {
        refused = given.say(NODE_B, Command::Publish(large.clone())) == Outcome::Refused(Refusal::Quota);
        if refused {
            break;
        }
    }
    assert!(refused);
    assert!(given.shard.totals().queued_bytes <= limits::SHARD_QUEUE_BYTES_MAX + (5 << 20));
}

#[test]
fn a_snapshot_of_another_version_is_refused() {
    let mut shard = Shard::default();
    assert!(shard.restore(&Bytes::new()).is_err());
    assert!(shard.restore(&Bytes::from_static(&[99, 0])).unwrap_err().to_string().contains("version 99"));
}

#[test]
fn packet_ids_are_never_zero_and_follow_the_queue_number() {
    assert_eq!(Delivery::packet_id(1), 2);
    assert_eq!(Delivery::packet_id(65_534), 65_535);
    assert_eq!(Delivery::packet_id(65_535), 1);
}

fn any_command() -> impl Strategy<Value = (u8, Command)> {
    let client = prop::sample::select(vec!["c", "d", "e"]).prop_map(ClientId::from);
    let filter = prop::sample::select(vec!["t", "t/#", "+", "u"]).prop_map(Arc::<str>::from);
    let qos = (0..3_u8).prop_map(|bits| QoS::from_bits(bits).unwrap());
    let command = prop_oneof![
        (client.clone(), any::<bool>(), 0..3_u32, any::<bool>(), 0..9_u32).prop_map(
            |(client_id, clean_start, expiry, will, slot)| Command::Open(Open {
                client_id,
                connection: connection(slot),
                clean_start,
                session_expiry_seconds: expiry * 10,
                receive_maximum: 3,
                will: will.then(|| Will { message: message("t", "will"), delay_seconds: expiry, expiry_seconds: None }),
            })
        ),
        (client.clone(), 0..12_u64, any::<bool>()).prop_map(|(client_id, epoch, normal)| {
            close(&client_id, epoch, if normal { CloseCause::Normal } else { CloseCause::WithWill })
        }),
        (client.clone(), 0..12_u64, filter.clone(), qos).prop_map(|(client_id, epoch, filter, qos)| {
            let options = SubscriptionOptions { qos, ..Default::default() };
            Command::Subscribe { client_id, epoch, subscriptions: vec![Subscription { filter, options }] }
        }),
        (client.clone(), 0..12_u64, filter).prop_map(|(client_id, epoch, filter)| Command::Unsubscribe {
            client_id,
            epoch,
            filters: vec![filter]
        }),
        prop::sample::select(vec!["t", "u", "t/a"]).prop_map(|topic| Command::Publish(message(topic, "x"))),
        (client, 0..12_u64, 0..9_u64).prop_map(|(client_id, epoch, seq)| ack(&client_id, epoch, vec![Ack::Done(seq)])),
        (0..2_u64).prop_map(|node| Command::NodeGone(Origin { node: NodeId(node + 1), incarnation: Incarnation(1) })),
        Just(Command::Tick),
        (prop::sample::select(vec!["c", "d", "e"]), 0..12_u64)
            .prop_map(|(client_id, epoch)| Command::Released { client_id: client_id.into(), epoch }),
        (prop::sample::select(vec!["c", "d"]), 0..4_u64, prop::sample::select(vec!["", "x"])).prop_map(
            |(publisher, epoch, payload)| {
                let message = Message { publisher: publisher.into(), retain: true, ..message("t", payload) };
                Command::Keep { message, epoch }
            }
        ),
        (prop::sample::select(vec!["c", "d"]), 0..4_u64, prop::sample::select(vec!["", "x"]), 0..4_u64).prop_map(
            |(publisher, epoch, payload, number)| {
                let message = Message { publisher: publisher.into(), retain: true, ..message("t", payload) };
                match number {
                    0 => Command::KeepAs { message, epoch },
                    number => {
                        let sender = if epoch % 2 == 0 { Sender::Over(epoch) } else { Sender::Waits(epoch) };
                        Command::KeepRelayed { from: ShardId(9), number, message, sender }
                    }
                }
            }
        ),
        (prop::sample::select(vec!["c", "d", "e"]).prop_map(ClientId::from), 0..12_u64).prop_map(
            |(client_id, epoch)| {
                let spread = Spread { destinations: vec![Destination::Keeper(ShardId(9))], ..Spread::default() };
                Command::FireWill { client_id, epoch, spread }
            }
        ),
    ];
    (0..3_u8, command)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn replicas_stay_equal_and_a_snapshot_is_as_good_as_the_log(
        commands in prop::collection::vec(any_command(), 1..60), cut in 0..60_usize,
    ) {
        // One has everything in memory, the other nothing.
        let (shelf, mut whole) = (Shelf::bounded(0), Shard::default());
        let mut resumed = Shard::on(shelf.clone());
        let mut seqs = [0_u64; 3];
        for (place, (node, command)) in commands.into_iter().enumerate() {
            seqs[usize::from(node)] += 1;
            let origin = Origin { node: NodeId(u64::from(node) + 1), incarnation: Incarnation(1) };
            let numbered = Numbered { origin, seq: seqs[usize::from(node)], command };
            let entry = postcard::to_stdvec(&Entry { now_ms: place as u64 * 3_000, commands: vec![numbered] }).unwrap();
            let (mut effects, mut resumed_effects) = (Vec::new(), Vec::new());
            whole.apply(1, &entry, &mut effects);
            resumed.apply(1, &entry, &mut resumed_effects);
            prop_assert_eq!(effects, resumed_effects);
            for kept in shelf.take_oldest(usize::MAX) {
                kept.move_to(Bytes::from(kept.bytes().to_vec()));
            }
            prop_assert_eq!(shelf.in_memory_bytes(), 0);
            if place == cut {
                let snapshot = resumed.snapshot();
                resumed = Shard::on(shelf.clone());
                resumed.restore(&snapshot.to_bytes()).unwrap();
            }
        }
        prop_assert_eq!(whole.snapshot().to_bytes(), resumed.snapshot().to_bytes());
        prop_assert_eq!(whole.totals(), resumed.totals());
        prop_assert_eq!(whole.routes(), resumed.routes());
        // What is counted is what is there.
        let items: usize = ["c", "d", "e"].iter().map(|c| whole.deliveries(c, 0, usize::MAX, usize::MAX).len()).sum();
        prop_assert_eq!(whole.totals().queued_items, items);
    }
}
