//! QoS 2 in both directions, of sessions that end with their connection and of those that their shard keeps.

use super::fixture::*;
use crate::door::{ToCluster, ToWorker};
use crate::identity::ConnectionId;
use crate::limits::ClientLimits;
use crate::message::{Message, QoS};
use crate::protocol::{Acknowledgement, Packet, Properties, PropertiesBuilder, PropertyId, ReasonCode, Version};
use crate::shard::{Ack, Delivery, Outcome};

const Q2: QoS = QoS::ExactlyOnce;

fn answer(packet_id: u16, reason: u8) -> Acknowledgement<'static> {
    Acknowledgement { packet_id, reason: ReasonCode(reason), properties: Properties::default() }
}

fn pubrec(packet_id: u16, reason: u8) -> Packet<'static> {
    Packet::PubRec(answer(packet_id, reason))
}

fn pubrel(packet_id: u16, reason: u8) -> Packet<'static> {
    Packet::PubRel(answer(packet_id, reason))
}

fn pubcomp(packet_id: u16, reason: u8) -> Packet<'static> {
    Packet::PubComp(answer(packet_id, reason))
}

fn delivery(seq: u64, received: bool) -> Delivery {
    let message = Message { topic: "a".into(), payload: seq.to_string().into(), qos: Q2, ..Message::default() };
    Delivery { seq, message, dup: received, received, identifiers: Vec::new() }
}

async fn connect_persistent(node: &Node) -> (Client, ConnectionId, u64) {
    let mut client = node.open(0).await;
    let hour = PropertiesBuilder::new().int(PropertyId::SessionExpiryInterval, 3600);
    client.connect_with(Version::V5, "client", false, &hour).await;
    client.receive().await;
    let (connection, epoch) = node.holder("client");
    (client, connection, epoch)
}

fn acks(node: &Node) -> Vec<Ack> {
    let cluster = node.cluster.borrow();
    let acks = cluster.told.iter().filter_map(|what| match what {
        ToCluster::Acknowledge { acks, .. } => Some(acks.clone()),
        _ => None,
    });
    acks.flatten().collect()
}

#[test]
fn a_message_goes_through_once_however_often_it_is_sent() {
    for version in [Version::V3_1_1, Version::V5] {
        run_test(async move {
            let node = Node::start(1);
            let mut subscriber = node.connect(0, version, "subscriber").await;
            subscriber.subscribe("a", Q2, 2).await;
            let mut publisher = node.connect(0, version, "publisher").await;
            for _ in 0..3 {
                publisher.publish(Q2, 9, "a", "once").await;
                publisher.expect(pubrec(9, 0)).await;
            }
            assert_eq!(subscriber.expect_publish().await, (2, "once".to_owned()));
            subscriber.expect_nothing().await;
            for _ in 0..2 {
                subscriber.send(pubrec(2, 0)).await;
                subscriber.expect(pubrel(2, 0)).await;
            }
            subscriber.send(pubcomp(2, 0)).await;
            publisher.send(pubrel(9, 0)).await;
            publisher.expect(pubcomp(9, 0)).await;
            publisher.publish(Q2, 9, "a", "again").await;
            publisher.expect(pubrec(9, 0)).await;
            assert_eq!(subscriber.expect_publish().await, (3, "again".to_owned()));
        });
    }
}

#[test]
fn packet_ids_that_nobody_knows_are_named_so() {
    run_test(async {
        let node = Node::start(1);
        let mut client = node.connect(0, Version::V5, "client").await;
        client.send(pubrel(5, 0)).await;
        client.expect(pubcomp(5, 0x92)).await;
        client.send(pubrec(5, 0)).await;
        client.expect(pubrel(5, 0x92)).await;
        client.send(pubcomp(5, 0)).await;
        client.send(pubrec(5, 0x80)).await;
        client.expect_nothing().await;
        client.publish(Q2, 5, "nobody", "").await;
        client.expect(pubrec(5, 0x10)).await;
    });
}

#[test]
fn a_pubrec_with_an_error_ends_the_exchange_and_frees_the_window() {
    run_test(async {
        let node = Node::start(1);
        let mut subscriber = node.open(0).await;
        let one = PropertiesBuilder::new().int(PropertyId::ReceiveMaximum, 1);
        subscriber.connect_with(Version::V5, "subscriber", true, &one).await;
        subscriber.receive().await;
        subscriber.subscribe("a", Q2, 2).await;
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        for packet_id in 1..=3 {
            publisher.publish(Q2, packet_id, "a", &packet_id.to_string()).await;
        }
        assert_eq!(subscriber.expect_publish().await, (2, "1".to_owned()));
        subscriber.expect_nothing().await;
        subscriber.send(pubrec(2, 0x97)).await;
        assert_eq!(subscriber.expect_publish().await, (3, "2".to_owned()));
        subscriber.send(pubrec(3, 0)).await;
        subscriber.expect(pubrel(3, 0)).await;
        subscriber.expect_nothing().await;
        subscriber.send(pubcomp(3, 0)).await;
        assert_eq!(subscriber.expect_publish().await, (4, "3".to_owned()));
    });
}

#[test]
fn an_exchange_counts_against_receive_maximum_until_pubcomp() {
    run_test(async {
        let node = Node::with_limits(1, ClientLimits { receive_maximum: 2, ..ClientLimits::default() });
        let mut client = node.connect(0, Version::V5, "client").await;
        for packet_id in [1, 2] {
            client.publish(Q2, packet_id, "a", "").await;
            client.expect(pubrec(packet_id, 0x10)).await;
        }
        client.publish(Q2, 1, "a", "").await;
        client.expect(pubrec(1, 0)).await;
        client.send(pubrel(1, 0)).await;
        client.expect(pubcomp(1, 0)).await;
        client.publish(Q2, 3, "a", "").await;
        client.expect(pubrec(3, 0x10)).await;
        client.publish(Q2, 4, "a", "").await;
        client.expect_disconnect(0x93).await;
        assert_eq!(node.counters(0).await.refused_receive_maximum, 1);
    });
}

#[test]
fn of_a_persistent_session_the_shard_decides_what_is_new() {
    run_test(async {
        let node = Node::start(1);
        let mut subscriber = node.connect(0, Version::V5, "subscriber").await;
        subscriber.subscribe("a", Q2, 2).await;
        node.cluster.borrow_mut().answers_publishes = false;
        let (mut client, connection, _) = connect_persistent(&node).await;
        for _ in 0..2 {
            client.publish(Q2, 7, "a", "x").await;
        }
        client.expect_nothing().await;
        subscriber.expect_nothing().await;
        let mut asked = Vec::new();
        node.until("the shard is asked", |cluster| {
            asked = cluster
                .told
                .iter()
                .filter_map(|what| match what {
                    ToCluster::PublishOnce { token, packet_id, targets, .. } => {
                        Some((*token, *packet_id, targets.len()))
                    }
                    _ => None,
                })
                .collect();
            !asked.is_empty()
        })
        .await;
        let [(token, 7, 1)] = asked[..] else { panic!("{asked:?}") };
        node.command(0, ToWorker::Published { connection, token, outcome: Outcome::Stored(1) });
        client.expect(pubrec(7, 0)).await;
        for _ in 0..2 {
            client.send(pubrel(7, 0)).await;
        }
        client.send(pubrel(8, 0)).await;
        client.expect_nothing().await;
        let ended = |cluster: &Cluster| {
            let ends = cluster.told.iter().filter(|what| matches!(what, ToCluster::EndExchange { .. }));
            ends.count()
        };
        assert_eq!(ended(&node.cluster.borrow()), 2);
        for (packet_id, outcome, reason) in [(7, Outcome::Done, 0), (8, Outcome::NotFound, 0x92)] {
            node.command(0, ToWorker::ExchangeEnded { connection, packet_id, outcome });
            client.expect(pubcomp(packet_id, reason)).await;
        }
    });
}

#[test]
fn pubrel_waits_until_it_is_stored_that_the_client_has_the_message() {
    run_test(async {
        let node = Node::start(1);
        let (mut client, connection, epoch) = connect_persistent(&node).await;
        let deliveries = vec![delivery(1, true), delivery(2, false), delivery(3, false)];
        node.command(0, ToWorker::Deliver { connection, epoch, deliveries });
        client.expect(pubrel(Delivery::packet_id(1), 0)).await;
        for number in [2, 3] {
            assert_eq!(client.expect_publish().await, (Delivery::packet_id(number), number.to_string()));
        }
        client.send(pubrec(Delivery::packet_id(2), 0)).await;
        client.send(pubcomp(Delivery::packet_id(1), 0)).await;
        client.send(pubrec(Delivery::packet_id(3), 0x83)).await;
        client.expect_nothing().await;
        assert_eq!(acks(&node), [Ack::Received(2), Ack::Completed(1), Ack::Done(3)]);
        let stored = |epoch| ToWorker::Acknowledged { connection, epoch, received: vec![2] };
        node.command(0, stored(epoch + 1));
        client.expect_nothing().await;
        node.command(0, stored(epoch));
        client.expect(pubrel(Delivery::packet_id(2), 0)).await;
        client.send(pubcomp(Delivery::packet_id(2), 0)).await;
        client.expect_nothing().await;
        assert_eq!(acks(&node).last(), Some(&Ack::Completed(2)));
    });
}
