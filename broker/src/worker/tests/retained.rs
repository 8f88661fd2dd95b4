use super::fixture::*;
use crate::door::ToCluster;
use crate::identity::ShardId;
use crate::limits::ClientLimits;
use crate::message::{Message, QoS, SubscriptionOptions};
use crate::protocol::{Packet, Properties, PropertiesBuilder, PropertyId, Publish, Version, decode};
use crate::shard::Place;
use crate::worker::Ask;

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;

fn retained(topic: &str, qos: QoS) -> Message {
    let payload = format!("retained of {topic}").into();
    Message { topic: topic.into(), payload, qos, retain: true, publisher: "somebody".into(), ..Message::default() }
}

fn place(after: &str) -> Option<Place> {
    Some(Place { shard: ShardId(0), after: Some(after.into()) })
}

/// Puts these before whoever reads next.
fn offer(node: &Node, pieces: impl IntoIterator<Item = (Vec<Message>, Option<Place>)>) {
    node.cluster.borrow_mut().retained.extend(pieces);
}

fn questions(node: &Node) -> Vec<(String, Place)> {
    let cluster = node.cluster.borrow();
    let questions = cluster.told.iter().filter_map(|what| match what {
        ToCluster::ReadRetained { filter, place, .. } => Some((filter.to_string(), place.clone())),
        _ => None,
    });
    questions.collect()
}

async fn receive_publish(client: &mut Client) -> (String, bool, QoS, u16) {
    let received = client.receive().await;
    match decode(&received, client.version, usize::MAX) {
        Ok(Some((Packet::Publish(publish), _))) => {
            (publish.topic.to_owned(), publish.retain, publish.qos, publish.packet_id)
        }
        other => panic!("{other:?}"),
    }
}

/// A client that publishes with RETAIN.
async fn publish_retained(client: &mut Client, qos: QoS, topic: &str, payload: &[u8]) {
    let packet_id = if qos == Q0 { 0 } else { 9 };
    let properties = Properties::default();
    client
        .send(Packet::Publish(Publish { dup: false, qos, retain: true, topic, packet_id, properties, payload }))
        .await;
}

async fn connect_persistent(node: &Node, client_id: &str) -> Client {
    let mut client = node.open(0).await;
    let hour = PropertiesBuilder::new().int(PropertyId::SessionExpiryInterval, 3600);
    client.connect_with(Version::V5, client_id, true, &hour).await;
    client.receive().await;
    client
}

#[test]
fn retained_messages_follow_the_suback_with_retain_set_at_the_lower_qos() {
    run_test(async {
        let node = Node::start(1);
        offer(&node, [(vec![retained("a", Q1)], place("a")), (vec![retained("b", Q0)], None)]);
        let mut client = node.connect(0, Version::V5, "client").await;
        client.subscribe("#", Q1, 1).await;
        assert_eq!(receive_publish(&mut client).await, ("a".to_owned(), true, Q1, 2));
        assert_eq!(receive_publish(&mut client).await, ("b".to_owned(), true, Q0, 0));
        client.expect_nothing().await;
        let after_a = place("a").unwrap();
        assert_eq!(questions(&node), [("#".to_owned(), Place::default()), ("#".to_owned(), after_a)]);
        let mut client = node.connect(0, Version::V3_1_1, "old").await;
        offer(&node, [(vec![retained("a", Q1)], None)]);
        client.subscribe("a", Q0, 0).await;
        assert_eq!(receive_publish(&mut client).await, ("a".to_owned(), true, Q0, 0));
    });
}

#[test]
fn retain_handling_says_when_they_are_sent() {
    run_test(async {
        let node = Node::start(1);
        let mut client = node.connect(0, Version::V5, "client").await;
        let mut subscribe = async |retain_handling, asked: usize| {
            let options = SubscriptionOptions { retain_handling, ..Default::default() };
            client.subscribe_with("a", options, 0).await;
            client.expect_nothing().await;
            assert_eq!(questions(&node).len(), asked, "retain handling {retain_handling}");
        };
        subscribe(2, 0).await;
        subscribe(1, 0).await;
        subscribe(0, 1).await;
        subscribe(0, 2).await;
        let mut other = node.connect(0, Version::V5, "other").await;
        let options = SubscriptionOptions { retain_handling: 1, ..Default::default() };
        other.subscribe_with("a", options, 0).await;
        other.expect_nothing().await;
        assert_eq!(questions(&node).len(), 3, "new to this session");
    });
}

#[test]
fn no_local_and_identifiers_hold_for_retained_messages_too() {
    run_test(async {
        let node = Node::start(1);
        let mut client = node.connect(0, Version::V5, "somebody").await;
        offer(&node, [(vec![retained("a", Q0)], None)]);
        client.subscribe_with("a", SubscriptionOptions { no_local: true, ..Default::default() }, 0).await;
        client.expect_nothing().await;
        offer(&node, [(vec![retained("a", Q0)], None)]);
        client.subscribe_with("a", SubscriptionOptions { identifier: Some(9), ..Default::default() }, 0).await;
        let received = client.receive().await;
        let Ok(Some((Packet::Publish(publish), _))) = decode(&received, Version::V5, 1000) else { panic!() };
        assert_eq!(publish.properties.int(PropertyId::SubscriptionIdentifier), Some(9));
    });
}

#[test]
fn what_is_published_with_retain_goes_to_be_kept_and_to_subscribers_as_they_asked() {
    run_test(async {
        let node = Node::start(1);
        let mut client = node.connect(0, Version::V5, "client").await;
        let mut keeper = node.connect(0, Version::V5, "keeper").await;
        client.subscribe("a", Q0, 0).await;
        keeper.subscribe_with("a", SubscriptionOptions { retain_as_published: true, ..Default::default() }, 0).await;
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        for (qos, payload) in [(Q1, &b"x"[..]), (Q0, b"")] {
            publish_retained(&mut publisher, qos, "a", payload).await;
            assert_eq!(receive_publish(&mut client).await, ("a".to_owned(), false, Q0, 0));
            assert_eq!(receive_publish(&mut keeper).await, ("a".to_owned(), true, Q0, 0));
        }
        publisher.expect(puback(9)).await;
        publisher.expect_nothing().await;
        let cluster = node.cluster.borrow();
        let told =
            cluster.told.iter().filter(|what| matches!(what, ToCluster::Publish { message, .. } if message.retain));
        assert_eq!(told.count(), 2, "nobody else wants it, but it must be kept");
    });
}

#[test]
fn a_newer_message_is_not_followed_by_the_retained_one_of_before() {
    run_test(async {
        let node = Node::start(1);
        let mut client = node.connect(0, Version::V5, "client").await;
        node.cluster.borrow_mut().holds_retained = true;
        client.subscribe("#", Q0, 0).await;
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        publish_retained(&mut publisher, Q0, "a", b"newer").await;
        client.expect_payload("newer").await;
        let (connection, token) = node.cluster.borrow().last_read.unwrap();
        let messages = vec![retained("a", Q0), retained("b", Q0)];
        node.command(0, crate::door::ToWorker::Retained { connection, token, messages, next: None });
        assert_eq!(receive_publish(&mut client).await.0, "b");
        client.expect_nothing().await;
    });
}

#[test]
fn a_client_that_does_not_acknowledge_is_not_handed_more() {
    run_test(async {
        let limits = ClientLimits { in_flight_max: 2, ..ClientLimits::default() };
        let node = Node::with_limits(1, limits);
        let mut client = node.connect(0, Version::V5, "client").await;
        let piece = |from: u32| (0..4).map(|number| retained(&format!("{}", from + number), Q1)).collect::<Vec<_>>();
        offer(&node, [(piece(0), place("3")), (piece(4), None)]);
        client.subscribe("+", Q1, 1).await;
        for number in 0..8 {
            let (topic, _, _, packet_id) = receive_publish(&mut client).await;
            assert_eq!(topic, number.to_string());
            assert_eq!(questions(&node).len(), if number < 3 { 1 } else { 2 }, "at {number}");
            if number < 1 {
                continue;
            }
            client.send(puback(packet_id)).await;
        }
    });
}

#[test]
fn a_persistent_session_gets_them_by_its_queue_and_waits_for_room_there() {
    run_test(async {
        let node = Node::start(1);
        let mut client = connect_persistent(&node, "client").await;
        node.cluster.borrow_mut().has_no_room = true;
        let piece = || (vec![retained("a", Q1), retained("b", Q0)], None);
        offer(&node, [piece(), piece()]);
        client.subscribe("#", Q1, 1).await;
        assert_eq!(receive_publish(&mut client).await.0, "b");
        node.until("it is tried", |cluster| matches!(cluster.told.last(), Some(ToCluster::Enqueue { .. }))).await;
        node.cluster.borrow_mut().has_no_room = false;
        let enqueued = |cluster: &mut Cluster| {
            let enqueues = cluster.told.iter().filter_map(|what| match what {
                ToCluster::Enqueue { messages, filter, next: None, .. } => Some((filter.clone(), messages.len())),
                _ => None,
            });
            enqueues.collect::<Vec<_>>() == [("#".into(), 1), ("#".into(), 1)]
        };
        node.until("it is tried again", enqueued).await;
    });
}

#[test]
fn a_session_that_goes_on_goes_on_reading() {
    run_test(async {
        let node = Node::start(1);
        let options = SubscriptionOptions { qos: Q1, ..Default::default() };
        node.cluster.borrow_mut().next_opened = Some(crate::shard::Outcome::Opened {
            epoch: 9,
            session_present: true,
            subscriptions: vec![crate::message::Subscription { filter: "#".into(), options }],
            owed: vec![("#".into(), place("m").unwrap())],
        });
        let mut client = node.open(0).await;
        client.connect_with(Version::V5, "client", false, &PropertiesBuilder::new()).await;
        client.receive().await;
        node.until("it reads", |cluster| matches!(cluster.told.last(), Some(ToCluster::Enqueue { .. }))).await;
        assert_eq!(questions(&node), [("#".to_owned(), place("m").unwrap())]);
    });
}

#[test]
fn who_subscribes_to_sys_gets_the_last_report_as_if_it_were_retained() {
    run_test(async {
        let node = Node::start(1);
        let report = async |payload: &'static str| {
            let message = |topic: &str| Message { topic: topic.into(), payload: payload.into(), ..Message::default() };
            let messages = vec![message("$SYS/broker/a"), message("$SYS/broker/b/c")];
            node.workers[0].asks.send(Ask::Report(messages)).await.unwrap();
        };
        report("old").await;
        report("new").await;
        let (a, c) = (("$SYS/broker/a".to_owned(), true, Q0, 0), ("$SYS/broker/b/c".to_owned(), true, Q0, 0));
        for mut client in [node.connect(0, Version::V5, "client").await, connect_persistent(&node, "kept").await] {
            let mut subscribe = async |filter, retain_handling, qos| {
                let options = SubscriptionOptions { qos, retain_handling, identifier: Some(7), ..Default::default() };
                client.subscribe_with(filter, options, qos as u8).await;
                let mut got = Vec::new();
                client.send(Packet::PingReq).await;
                loop {
                    let received = client.receive().await;
                    match decode(&received, Version::V5, usize::MAX) {
                        Ok(Some((Packet::Publish(publish), _))) => {
                            assert_eq!(publish.payload, b"new");
                            assert_eq!(publish.properties.int(PropertyId::SubscriptionIdentifier), Some(7));
                            got.push((publish.topic.to_owned(), publish.retain, publish.qos, publish.packet_id));
                        }
                        other => break assert!(matches!(other, Ok(Some((Packet::PingResp, _)))), "{other:?}"),
                    }
                }
                got
            };
            assert_eq!(subscribe("$SYS/#", 2, Q0).await, []);
            assert_eq!(subscribe("$SYS/#", 1, Q0).await, [], "known");
            assert_eq!(subscribe("$SYS/#", 0, Q1).await, [a.clone(), c.clone()]);
            assert_eq!(subscribe("$SYS/broker/+", 1, Q0).await, vec![a.clone()]);
            assert_eq!(subscribe("$SYS/broker/+/c", 0, Q0).await, vec![c.clone()]);
            assert_eq!(subscribe("$SYS/broker", 0, Q0).await, []);
            for filter in ["#", "+/broker/a", "$share/g/$SYS/#"] {
                assert_eq!(subscribe(filter, 0, Q0).await, [], "{filter}");
            }
        }
        // Who is subscribed gets the next as it comes.
        let mut client = node.connect(0, Version::V3_1_1, "old").await;
        client.subscribe("$SYS/broker/a", Q0, 0).await;
        assert_eq!(receive_publish(&mut client).await, a);
        report("newer").await;
        assert_eq!(receive_publish(&mut client).await, ("$SYS/broker/a".to_owned(), false, Q0, 0));
    });
}
