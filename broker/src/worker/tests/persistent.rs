use super::fixture::*;
use crate::door::{ToCluster, ToWorker};
use crate::message::{Message, QoS, Subscription, SubscriptionOptions};
use crate::protocol::{Packet, PropertiesBuilder, PropertyId, Publish, Version, decode};
use crate::shard::{Ack, Delivery, Outcome};

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;

fn delivery(seq: u64, dup: bool) -> Delivery {
    Delivery {
        seq,
        message: Message { topic: "a".into(), payload: seq.to_string().into(), qos: Q1, ..Message::default() },
        dup,
        received: false,
        identifiers: Vec::new(),
    }
}

async fn connect(node: &Node, worker: u16, client_id: &str) -> Client {
    let mut client = node.open(worker).await;
    let hour = PropertiesBuilder::new().int(PropertyId::SessionExpiryInterval, 3600);
    client.connect_with(Version::V5, client_id, false, &hour).await;
    client
}

fn acks(told: &[ToCluster]) -> Vec<Ack> {
    let acks = told.iter().filter_map(|what| match what {
        ToCluster::Acknowledge { acks, .. } => Some(acks.clone()),
        _ => None,
    });
    acks.flatten().collect()
}

#[test]
fn deliveries_go_out_under_their_queue_numbers_and_are_acknowledged_by_them() {
    run_test(async {
        let node = Node::start(1);
        let mut client = connect(&node, 0, "client").await;
        client.receive().await;
        let (connection, epoch) = node.holder("client");
        let deliver = |epoch, deliveries| ToWorker::Deliver { connection, epoch, deliveries };
        node.command(0, deliver(epoch, vec![delivery(70_000, true), delivery(70_001, false)]));
        node.command(0, deliver(epoch - 1, vec![delivery(1, false)]));
        node.command(0, deliver(epoch, vec![delivery(70_001, false), delivery(70_002, false)]));
        for seq in 70_000..=70_002 {
            let received = client.receive().await;
            let Ok(Some((Packet::Publish(publish), _))) = decode(&received, Version::V5, 1000) else { panic!() };
            assert_eq!(publish.packet_id, Delivery::packet_id(seq));
            assert_eq!((publish.payload, publish.dup), (seq.to_string().as_bytes(), seq == 70_000));
        }
        client.expect_nothing().await;
        for seq in [70_001, 70_000, 70_001] {
            client.send(puback(Delivery::packet_id(seq))).await;
        }
        client.expect_nothing().await;
        assert_eq!(acks(&node.cluster.borrow().told), [Ack::Done(70_001), Ack::Done(70_000)]);
        node.command(0, ToWorker::Attach { connection, client_id: "client".into(), epoch });
        node.command(0, ToWorker::Attach { connection, client_id: "client".into(), epoch: epoch + 1 });
        let mut attached = Vec::new();
        node.until("both are answered", |cluster| {
            attached = cluster
                .told
                .iter()
                .filter_map(|what| match what {
                    ToCluster::Attached { epoch, sent_to, .. } => Some((*epoch, *sent_to)),
                    _ => None,
                })
                .collect();
            attached.len() == 2
        })
        .await;
        assert_eq!(attached, [(epoch, 70_002), (0, 0)]);
        drop(client);
        node.until(
            "the close names what was sent",
            |cluster| matches!(cluster.told.last(), Some(ToCluster::Close(close)) if close.sent_to == 70_002),
        )
        .await;
    });
}

#[test]
fn suback_waits_for_the_shard_and_a_refused_filter_is_taken_back() {
    run_test(async {
        let node = Node::start(1);
        node.cluster.borrow_mut().holds_subscribes = true;
        let mut client = connect(&node, 0, "client").await;
        client.receive().await;
        let mut bytes = Vec::new();
        let mut filters = Vec::new();
        for filter in ["a", "b/#/c", "b"] {
            let options = SubscriptionOptions { qos: Q1, ..Default::default() };
            crate::protocol::SubscribeFilters::append(&mut filters, filter, options);
        }
        Packet::Subscribe(crate::protocol::Subscribe {
            packet_id: 5,
            properties: Default::default(),
            filters: crate::protocol::SubscribeFilters::built(&filters),
        })
        .encode(Version::V5, &mut bytes);
        client.send_bytes(&bytes).await;
        client.expect_nothing().await;
        let mut asked = None;
        node.until("the shard is asked", |cluster| {
            asked = cluster.told.iter().find_map(|what| match what {
                ToCluster::Subscribe { connection, token, subscriptions, .. } => {
                    Some((*connection, *token, subscriptions.len()))
                }
                _ => None,
            });
            asked.is_some()
        })
        .await;
        let (connection, token, count) = asked.unwrap();
        assert_eq!(count, 2);
        let outcome = Outcome::Codes(vec![1, 0x97]);
        node.command(0, ToWorker::Subscribed { connection, token, outcome });
        let suback = client.receive().await;
        assert_eq!((&suback[2..4], &suback[suback.len() - 3..]), (&[0, 5][..], &[1, 0x8f, 0x97][..]), "{suback:02x?}");
        assert_eq!(node.counters(0).await.refused_subscriptions_max, 1);
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        publisher.publish(Q0, 0, "b", "not subscribed").await;
        publisher.publish(Q0, 0, "a", "subscribed").await;
        client.expect_payload("subscribed").await;
    });
}

#[test]
fn only_what_is_effectively_qos_0_is_served_past_the_shard() {
    run_test(async {
        let node = Node::start(2);
        let mut client = connect(&node, 1, "client").await;
        client.receive().await;
        client.subscribe("one", Q1, 1).await;
        client.subscribe("zero", Q0, 0).await;
        client.subscribe("zero/#", Q1, 1).await;
        for worker in [0, 1] {
            let mut publisher = node.connect(worker, Version::V5, "publisher").await;
            publisher.publish(Q1, 1, "one", "by its shard").await;
            publisher.publish(Q0, 0, "one", "a").await;
            publisher.publish(Q1, 2, "zero", "by its shard").await;
            publisher.publish(Q0, 0, "zero", "b").await;
            client.expect_payload("a").await;
            client.expect_payload("b").await;
            client.expect_nothing().await;
        }
    });
}

#[test]
fn a_session_that_goes_on_gets_connack_once_routed_and_then_what_waited() {
    run_test(async {
        let node = Node::start(2);
        node.cluster.borrow_mut().next_opened = Some(Outcome::Opened {
            epoch: 9,
            session_present: true,
            subscriptions: vec![Subscription { filter: "a".into(), options: SubscriptionOptions::default() }],
            owed: Vec::new(),
        });
        let mut client = connect(&node, 1, "client").await;
        node.until("the session is opened", |cluster| {
            cluster.told.iter().any(|what| matches!(what, ToCluster::Open(_)))
        })
        .await;
        let (connection, epoch) = node.holder("client");
        node.command(1, ToWorker::Deliver { connection, epoch, deliveries: vec![delivery(4, true)] });
        let connack = client.receive().await;
        assert_eq!(connack[..1], [0x20]);
        assert_eq!(connack[2..4], [1, 0]);
        assert_eq!(client.expect_publish().await, (Delivery::packet_id(4), "4".to_owned()));
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        publisher
            .send(Packet::Publish(Publish {
                dup: false,
                qos: Q0,
                retain: false,
                topic: "a",
                packet_id: 0,
                properties: Default::default(),
                payload: b"routed",
            }))
            .await;
        client.expect_payload("routed").await;
    });
}

#[test]
fn a_session_without_expiry_that_was_found_is_the_shards_too() {
    run_test(async {
        let node = Node::start(1);
        node.cluster.borrow_mut().next_opened =
            Some(Outcome::Opened { epoch: 3, session_present: true, subscriptions: Vec::new(), owed: Vec::new() });
        let mut client = node.open(0).await;
        client.connect_with(Version::V5, "client", false, &PropertiesBuilder::new()).await;
        client.receive().await;
        client.subscribe("a", Q1, 1).await;
        assert!(node.cluster.borrow().told.iter().any(|what| matches!(what, ToCluster::Subscribe { .. })));
    });
}
