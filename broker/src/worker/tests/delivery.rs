use super::fixture::*;
use crate::door::{RouteOwner, ToCluster, ToWorker};
use crate::identity::{NodeId, ShardId};
use crate::limits::ClientLimits;
use crate::message::{Message, QoS, SubscriptionOptions};
use crate::protocol::{Packet, Properties, PropertiesBuilder, PropertyId, Publish, ReasonCode, Version, decode};
use crate::shard::{Outcome, Refusal};
use crate::worker::run;

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;

#[test]
fn messages_reach_subscribers_of_the_same_worker_in_order() {
    run_test(async {
        let node = Node::start(1);
        for (version, other) in [(Version::V5, Version::V3_1_1), (Version::V3_1_1, Version::V5)] {
            let mut subscriber = node.connect(0, version, "subscriber").await;
            subscriber.subscribe("a/+", Q1, 1).await;
            let mut publisher = node.connect(0, other, "publisher").await;
            for number in 0..100 {
                publisher.publish(Q0, 0, "a/b", &number.to_string()).await;
            }
            for number in 0..100 {
                subscriber.expect(publish(Q0, 0, "a/b", &number.to_string())).await;
            }
            for number in 1..=100 {
                publisher.publish(Q1, number, "a/b", &number.to_string()).await;
            }
            for number in 1..=100 {
                publisher.expect(puback(number)).await;
                let (packet_id, payload) = subscriber.expect_publish().await;
                assert_eq!(payload, number.to_string());
                subscriber.send(puback(packet_id)).await;
            }
            subscriber.expect_nothing().await;
        }
    });
}

#[test]
fn messages_reach_subscribers_of_another_worker_in_order() {
    run_test(async {
        let node = Node::start(2);
        let mut subscriber = node.connect(1, Version::V5, "subscriber").await;
        subscriber.subscribe("#", Q1, 1).await;
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        for number in 1..=200 {
            publisher.publish(Q1, number, "a", &number.to_string()).await;
        }
        for number in 1..=200 {
            publisher.expect(puback(number)).await;
            assert_eq!(subscriber.expect_publish().await.1, number.to_string());
        }
        drop(subscriber);
        node.until("the route is withdrawn", |cluster| {
            cluster.told.iter().any(|what| matches!(what, ToCluster::Route { wanted: false, .. }))
        })
        .await;
        // Once the last subscriber has gone nobody matches.
        node.until("routes are applied", |cluster| {
            matches!(cluster.told.last(), Some(ToCluster::RoutesApplied { .. }))
        })
        .await;
        publisher.publish(Q1, 7, "a", "").await;
        publisher.expect(puback_with(7, 0x10)).await;
    });
}

#[test]
fn a_large_payload_arrives_whole_wherever_it_goes() {
    run_test(async {
        let node = Node::start(2);
        let mut near = node.connect(0, Version::V5, "near").await;
        near.subscribe("a", Q1, 1).await;
        let mut far = node.connect(1, Version::V3_1_1, "far").await;
        far.subscribe("a", Q0, 0).await;
        let mut publisher = node.connect(0, Version::V3_1_1, "publisher").await;
        for (number, bytes) in [(1, 4_095), (2, 4_096), (3, 20_000), (4, 900_000), (5, 10)] {
            let payload = format!("{number}").repeat(bytes);
            publisher.publish(Q1, number, "a", &payload).await;
            assert!(near.expect_publish().await.1 == payload);
            far.expect_payload(&payload).await;
            publisher.expect(puback(number)).await;
        }
    });
}

#[test]
fn packets_may_come_in_pieces_of_any_size() {
    run_test(async {
        let node = Node::start(1);
        let mut subscriber = node.connect(0, Version::V5, "subscriber").await;
        subscriber.subscribe("a", Q1, 1).await;
        let mut bytes = Vec::new();
        for (number, length) in [(1, 5), (2, 300), (3, 0), (4, 17_000)] {
            publish(Q1, number, "a", &"x".repeat(length)).encode(Version::V5, &mut bytes);
        }
        for size in [1, 2, 7, 100, 16_500] {
            let mut publisher = node.connect(0, Version::V5, "publisher").await;
            for piece in bytes.chunks(size) {
                publisher.send_bytes(piece).await;
                tokio::task::yield_now().await;
            }
            for (number, length) in [(1, 5), (2, 300), (3, 0), (4, 17_000)] {
                publisher.expect(puback(number)).await;
                let (packet_id, payload) = subscriber.expect_publish().await;
                assert_eq!(payload.len(), length);
                subscriber.send(puback(packet_id)).await;
            }
        }
    });
}

#[test]
fn acknowledgements_leave_in_the_order_of_the_publishes() {
    run_test(async {
        let node = Node::start(1);
        node.route(RouteOwner::Shard(ShardId(3)), "stored");
        node.route(RouteOwner::Node(NodeId(2)), "stored");
        node.cluster.borrow_mut().answers_publishes = false;
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        publisher.publish(Q1, 1, "stored", "a").await;
        publisher.publish(Q1, 2, "nobody", "b").await;
        publisher.publish(Q1, 3, "stored", "c").await;
        publisher.publish(Q0, 0, "stored", "d").await;
        publisher.expect_nothing().await;
        let mut sent = Vec::new();
        node.until("three publishes are passed on", |cluster| {
            sent = cluster
                .told
                .iter()
                .filter_map(|what| match what {
                    ToCluster::Publish { connection, token, message, targets, .. } => {
                        Some((*connection, *token, message.qos, targets.len()))
                    }
                    _ => None,
                })
                .collect();
            sent.len() == 3
        })
        .await;
        // QoS 0 never goes to a shard.
        assert_eq!(
            sent.iter().map(|(_, _, qos, targets)| (*qos, *targets)).collect::<Vec<_>>(),
            [(Q1, 2), (Q1, 2), (Q0, 1)]
        );
        let answer = |number: usize, outcome| {
            let (connection, token, ..) = sent[number];
            node.command(0, ToWorker::Published { connection, token, outcome });
        };
        answer(1, Outcome::Refused(Refusal::Quota));
        publisher.expect_nothing().await;
        answer(0, Outcome::Stored(1));
        publisher.expect(puback(1)).await;
        publisher.expect(puback_with(2, 0x10)).await;
        let refused = publisher.receive().await;
        let Ok(Some((Packet::PubAck(refused), _))) = decode(&refused, Version::V5, usize::MAX) else {
            panic!("{refused:02x?} instead of PUBACK")
        };
        assert_eq!((refused.packet_id, refused.reason), (3, ReasonCode::QUOTA_EXCEEDED));
        assert_eq!(node.counters(0).await.refused_publish_quota, 1);
        assert!(refused.properties.text(PropertyId::ReasonString).unwrap().contains("full"));
    });
}

#[test]
fn a_refused_publish_of_an_old_client_ends_its_connection() {
    run_test(async {
        let node = Node::start(1);
        node.route(RouteOwner::Shard(ShardId(3)), "stored");
        node.cluster.borrow_mut().answers_publishes = false;
        let mut publisher = node.connect(0, Version::V3_1_1, "publisher").await;
        publisher.publish(Q1, 1, "stored", "a").await;
        let (connection, _) = node.holder("publisher");
        publisher.expect_nothing().await;
        let outcome = Outcome::Refused(Refusal::Unavailable);
        node.command(0, ToWorker::Published { connection, token: 0, outcome });
        publisher.expect_end().await;
    });
}

#[test]
fn one_client_gets_one_copy_at_the_highest_qos_with_all_identifiers() {
    run_test(async {
        let node = Node::start(1);
        let mut subscriber = node.connect(0, Version::V5, "subscriber").await;
        let options = |qos, identifier| SubscriptionOptions { qos, identifier, ..Default::default() };
        subscriber.subscribe_with("a/#", options(Q0, Some(5)), 0).await;
        subscriber.subscribe_with("a/b", options(Q1, Some(300)), 1).await;
        subscriber.subscribe_with("+/b", options(Q0, None), 0).await;
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        publisher.publish(Q1, 1, "a/b", "x").await;
        let received = subscriber.receive().await;
        let decoded = crate::protocol::decode(&received, Version::V5, 1000).unwrap().unwrap().0;
        let Packet::Publish(publish) = decoded else { panic!("{decoded:?}") };
        assert_eq!(publish.qos, Q1);
        let mut identifiers: Vec<_> = publish.properties.iter().map(|(_, value)| format!("{value:?}")).collect();
        identifiers.sort();
        assert_eq!(identifiers, ["Int(300)", "Int(5)"]);
        subscriber.expect_nothing().await;
    });
}

#[test]
fn no_local_keeps_a_clients_own_messages_from_it() {
    run_test(async {
        let node = Node::start(1);
        let mut client = node.connect(0, Version::V5, "client").await;
        let options = SubscriptionOptions { no_local: true, ..Default::default() };
        client.subscribe_with("a", options, 0).await;
        client.publish(Q1, 1, "a", "own").await;
        client.expect(puback_with(1, 0x10)).await;
        let mut other = node.connect(0, Version::V5, "other").await;
        other.publish(Q0, 0, "a", "other's").await;
        client.expect_payload("other's").await;
        let own = Message { topic: "a".into(), publisher: "client".into(), ..Message::default() };
        node.command(0, ToWorker::Forward(vec![own]));
        client.expect_nothing().await;
    });
}

#[test]
fn properties_are_forwarded_and_expiry_counts_down() {
    run_test(async {
        let node = Node::start(1);
        let mut subscriber = node.connect(0, Version::V5, "subscriber").await;
        subscriber.subscribe("a", Q0, 0).await;
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        let properties = PropertiesBuilder::new()
            .user("k", "v")
            .int(PropertyId::MessageExpiryInterval, 60)
            .text(PropertyId::ContentType, "text");
        publisher
            .send(Packet::Publish(Publish {
                dup: false,
                qos: Q0,
                retain: false,
                topic: "a",
                packet_id: 0,
                properties: properties.properties(),
                payload: b"x",
            }))
            .await;
        let expected = PropertiesBuilder::new()
            .int(PropertyId::MessageExpiryInterval, 60)
            .user("k", "v")
            .text(PropertyId::ContentType, "text");
        let expect = |properties| {
            Packet::Publish(Publish {
                dup: false,
                qos: Q0,
                retain: false,
                topic: "a",
                packet_id: 0,
                properties,
                payload: b"x",
            })
        };
        subscriber.expect(expect(expected.properties())).await;
        let forwarded = |expires_at_ms| Message {
            topic: "a".into(),
            payload: "x".into(),
            expires_at_ms: Some(expires_at_ms),
            ..Message::default()
        };
        node.command(0, ToWorker::Forward(vec![forwarded(999_999), forwarded(1_000_000 + 100_000)]));
        let expected = PropertiesBuilder::new().int(PropertyId::MessageExpiryInterval, 100);
        subscriber.expect(expect(expected.properties())).await;
        let mut old = node.connect(0, Version::V3_1_1, "old").await;
        old.subscribe("a", Q0, 0).await;
        node.command(0, ToWorker::Forward(vec![forwarded(2_000_000)]));
        old.expect(expect(Properties::default())).await;
    });
}

#[test]
fn no_more_than_receive_maximum_is_sent_and_the_rest_follows() {
    run_test(async {
        let node = Node::start(1);
        let mut subscriber = node.open(0).await;
        let properties = PropertiesBuilder::new().int(PropertyId::ReceiveMaximum, 3);
        subscriber.connect_with(Version::V5, "subscriber", true, &properties).await;
        subscriber.receive().await;
        subscriber.subscribe("a", Q1, 1).await;
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        for number in 1..=20 {
            publisher.publish(Q1, number, "a", &number.to_string()).await;
            publisher.expect(puback(number)).await;
        }
        let mut in_flight = Vec::new();
        for number in 1..=3 {
            let (packet_id, payload) = subscriber.expect_publish().await;
            assert_eq!(payload, number.to_string());
            in_flight.push(packet_id);
        }
        subscriber.expect_nothing().await;
        for number in 4..=20 {
            subscriber.send(puback(in_flight.remove(0))).await;
            let (packet_id, payload) = subscriber.expect_publish().await;
            assert_eq!(payload, number.to_string());
            in_flight.push(packet_id);
        }
    });
}

#[test]
fn a_slow_reader_is_bounded_and_holds_nobody_up_for_long() {
    run_test(async {
        let limits = ClientLimits { waiting_items_max: 100, output_bytes_max: 10_000, ..ClientLimits::default() };
        let node = Node::with_limits(1, limits);
        let mut slow = node.open_with_capacity(0, 1_000).await;
        slow.connect(Version::V3_1_1, "slow").await;
        slow.subscribe("a", Q0, 0).await;
        let mut quick = node.connect(0, Version::V3_1_1, "quick").await;
        quick.subscribe("a", Q0, 0).await;
        let mut publisher = node.connect(0, Version::V3_1_1, "publisher").await;
        let payload = |number| format!("{number:0100}");
        for number in 0..2_000 {
            publisher.publish(Q0, 0, "a", &payload(number)).await;
        }
        for number in 0..2_000 {
            quick.expect_payload(&payload(number)).await;
        }
        publisher.expect_nothing().await;
        let counters = node.counters(0).await;
        assert!(counters.publishers_slowed > 0);
        assert!(counters.dropped_slow_client > 1_500, "{counters:?}");
        // What is left are the oldest, which were under way, and the newest.
        let mut received = Vec::new();
        while received.last() != Some(&payload(1_999)) {
            received.push(slow.expect_publish().await.1);
        }
        assert_eq!(received.len() as u64, 2_000 - counters.dropped_slow_client);
        assert!(received.is_sorted());
        assert_eq!(received[received.len() - 100..], (1_900..2_000).map(payload).collect::<Vec<_>>());
        // It has caught up: from now on publishers wait for it again.
        publisher.publish(Q0, 0, "a", "again").await;
        slow.expect_payload("again").await;
    });
}

#[test]
fn a_publisher_waits_for_a_worker_that_does_not_keep_up() {
    run_test(async {
        let limits = ClientLimits { peer_batches_max: 1, ..ClientLimits::default() };
        let mut stuck = None;
        let node = Node::with_workers(2, limits, |config, doors| {
            if config.index == 1 {
                stuck = Some((config, doors));
            } else {
                tokio::task::spawn_local(run(config, doors));
            }
        });
        node.route(RouteOwner::Worker(1), "a");
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        let mut bytes = Vec::new();
        for _ in 0..50_000 {
            publish(Q0, 0, "a", "0123456789").encode(Version::V5, &mut bytes);
        }
        publisher.send_bytes(&bytes).await;
        let counters = node.counters(0).await;
        assert!(counters.messages_received < 20_000, "{counters:?}");
        assert_eq!(node.counters(0).await, counters);
        let (config, doors) = stuck.unwrap();
        tokio::task::spawn_local(run(config, doors));
        publisher.expect_nothing().await;
        assert_eq!(node.counters(0).await.forwarded_to_workers, 50_000);
    });
}

#[test]
fn a_client_gets_no_packet_larger_than_it_takes() {
    run_test(async {
        let node = Node::start(1);
        let mut subscriber = node.open(0).await;
        let properties = PropertiesBuilder::new().int(PropertyId::MaximumPacketSize, 50);
        subscriber.connect_with(Version::V5, "subscriber", true, &properties).await;
        subscriber.receive().await;
        subscriber.subscribe("a", Q1, 1).await;
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        // 2 of header, 3 of topic, 2 of packet id, 1 of properties.
        publisher.publish(Q1, 1, "a", &"x".repeat(43)).await;
        publisher.publish(Q1, 2, "a", &"y".repeat(42)).await;
        assert_eq!(subscriber.expect_publish().await.1, "y".repeat(42));
        assert_eq!(node.counters(0).await.dropped_too_large, 1);
    });
}
