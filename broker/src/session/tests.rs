use std::rc::Rc;

use super::*;
use crate::message::Message;

const BOUNDS: BacklogBounds = BacklogBounds { items_max: 10, bytes_max: 10_000 };

fn session(persistent: bool, receive_maximum: u16) -> Session {
    Session::new(Terms {
        client_id: "c".into(),
        epoch: 1,
        version: Version::V5,
        persistent,
        receive_maximum,
        packet_bytes_max: u32::MAX,
        wants_words: true,
        session_expiry_seconds: 0,
        aliases_in_max: 2,
        aliases_out_max: 1,
    })
}

fn waiting(qos: QoS) -> Waiting {
    Waiting { message: Rc::new(Message::default()), qos, retain: false, identifiers: Identifiers::new(), loan: None }
}

fn delivery(seq: u64) -> Delivery {
    Delivery { seq, message: Message::default(), dup: false, received: false, identifiers: Vec::new() }
}

#[test]
fn no_more_than_receive_maximum_is_in_flight() {
    let mut session = session(false, 2);
    assert_eq!(session.admit(QoS::AtLeastOnce, true), Admission::Send(Some(2)));
    assert_eq!(session.admit(QoS::AtLeastOnce, true), Admission::Send(Some(3)));
    assert_eq!(session.admit(QoS::AtLeastOnce, true), Admission::Wait);
    assert_eq!(session.wait(waiting(QoS::AtLeastOnce), BOUNDS).0, 0);
    assert_eq!(session.admit(QoS::AtMostOnce, true), Admission::Send(None));
    assert!(session.next_waiting().is_none());
    assert!(session.acknowledge(3));
    assert!(!session.acknowledge(3));
    let (_, packet_id) = session.next_waiting().unwrap();
    assert_eq!(packet_id, Some(4));
    assert!(session.nothing_waits());
}

#[test]
fn what_comes_later_waits_behind_what_waits() {
    let mut session = session(false, 10);
    assert_eq!(session.admit(QoS::AtMostOnce, false), Admission::Wait);
    session.wait(waiting(QoS::AtMostOnce), BOUNDS);
    assert_eq!(session.admit(QoS::AtMostOnce, true), Admission::Wait);
    assert!(session.next_waiting().is_some());
    assert_eq!(session.admit(QoS::AtMostOnce, true), Admission::Send(None));
}

#[test]
fn nothing_is_sent_before_connack() {
    let mut session = session(false, 10);
    session.hold();
    assert_eq!(session.admit(QoS::AtMostOnce, true), Admission::Wait);
    session.wait(waiting(QoS::AtMostOnce), BOUNDS);
    assert!(session.next_waiting().is_none());
    session.let_go();
    assert!(session.next_waiting().is_some());
}

#[test]
fn a_persistent_session_acknowledges_by_queue_number() {
    let mut session = session(true, 10);
    for seq in [7, 8, 9] {
        let packet_id = session.deliver(&delivery(seq));
        assert_eq!(packet_id, Some(Delivery::packet_id(seq)));
    }
    assert_eq!(session.deliver(&delivery(8)), None, "sent on this connection");
    session.acknowledge(Delivery::packet_id(8));
    session.give_up(Delivery::packet_id(7));
    assert_eq!(session.take_acks(), [Ack::Done(8), Ack::Done(7)]);
    assert_eq!(session.take_acks(), []);
    assert_eq!(session.sent_to(), 9);
}

#[test]
fn an_ephemeral_session_says_nothing_to_a_shard() {
    let mut session = session(false, 10);
    session.admit(QoS::AtLeastOnce, true);
    assert!(session.acknowledge(2));
    assert_eq!(session.take_acks(), []);
    assert_eq!(session.sent_to(), 0);
}

fn refused(answer: Result<Arc<str>, Why>) -> ReasonCode {
    answer.unwrap_err().reason
}

#[test]
fn an_alias_of_the_client_is_one_that_it_was_allowed_and_has_given() {
    let mut session = session(false, 10);
    assert_eq!(refused(session.resolve_alias(3, "a")), ReasonCode::TOPIC_ALIAS_INVALID);
    assert_eq!(refused(session.resolve_alias(0, "a")), ReasonCode::TOPIC_ALIAS_INVALID);
    assert_eq!(refused(session.resolve_alias(2, "")), ReasonCode::PROTOCOL_ERROR);
    assert_eq!(session.resolve_alias(2, "a").as_deref(), Ok("a"));
    assert_eq!(session.resolve_alias(2, "").as_deref(), Ok("a"));
}

#[test]
fn an_alias_never_makes_a_packet_too_large() {
    let mut session = session(false, 10);
    session.terms.packet_bytes_max = 100;
    assert_eq!(session.name_topic("topic", 96), None);
    assert_eq!(session.name_topic("topic", 95), Some(TopicAlias::New(1)));
    assert_eq!(session.name_topic("topic", 99), Some(TopicAlias::Known(1)), "it is shorter than the name");
}

#[test]
fn what_was_sent_of_a_shared_subscription_is_left_to_others_until_it_is_acknowledged() {
    let mut session = session(false, 2);
    let message =
        |topic: &str| Rc::new(Message { topic: topic.into(), recipient: Some("m".into()), ..Message::default() });
    let mut ids = Vec::new();
    for (topic, qos) in [("1", QoS::AtLeastOnce), ("2", QoS::ExactlyOnce)] {
        let Admission::Send(Some(packet_id)) = session.admit(qos, true) else { panic!("no room") };
        session.lend(packet_id, qos, &message(topic), None);
        ids.push(packet_id);
    }
    session.wait(Waiting { message: message("3"), ..waiting(QoS::AtLeastOnce) }, BOUNDS);
    session.wait(waiting(QoS::AtLeastOnce), BOUNDS);
    session.acknowledge(ids[0]);
    assert!(session.next_waiting().is_some(), "the third goes out");
    let left: Vec<_> = session.take_unfinished().iter().map(|(message, _)| message.topic.to_string()).collect();
    assert_eq!(left, ["3"]);
    assert!(session.take_unfinished().is_empty());
}

#[test]
fn a_second_subscription_to_a_filter_replaces_the_first() {
    let mut subscriptions = Subscriptions::default();
    for (filter, qos) in [("b", 0), ("a", 1), ("b", 1)] {
        subscriptions.put(crate::message::Subscription {
            filter: filter.into(),
            options: crate::message::SubscriptionOptions { qos: QoS::from_bits(qos).unwrap(), ..Default::default() },
        });
    }
    let held: Vec<_> = subscriptions.iter().map(|held| (&*held.filter, held.options.qos)).collect();
    assert_eq!(held, [("a", QoS::AtLeastOnce), ("b", QoS::AtLeastOnce)]);
    assert!(subscriptions.remove("a").is_some());
    assert!(subscriptions.remove("a").is_none());
    assert_eq!(subscriptions.len(), 1);
}
