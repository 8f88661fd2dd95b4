use super::fixture::*;
use crate::limits::ClientLimits;
use crate::message::QoS;
use crate::protocol::{Packet, PropertiesBuilder, PropertyId, Publish, Version};

#[test]
fn a_broken_rule_ends_that_connection_with_its_code_and_nothing_else() {
    run_test(async {
        let node = Node::start(1);
        let mut bystander = node.connect(0, Version::V5, "bystander").await;
        let publish = |qos, properties| {
            let mut bytes = Vec::new();
            let (topic, packet_id) = ("a", if qos == QoS::AtMostOnce { 0 } else { 1 });
            Packet::Publish(Publish { dup: false, qos, retain: false, topic, packet_id, properties, payload: b"" })
                .encode(Version::V5, &mut bytes);
            bytes
        };
        let alias = |alias| PropertiesBuilder::new().int(PropertyId::TopicAlias, alias);
        let identifier = PropertiesBuilder::new().int(PropertyId::SubscriptionIdentifier, 1);
        let cases = [
            ("topic alias too high", publish(QoS::AtMostOnce, alias(17).properties()), 0x94),
            ("topic alias 0", publish(QoS::AtMostOnce, alias(0).properties()), 0x94),
            ("topic alias of nothing", vec![0x30, 6, 0, 0, 3, 0x23, 0, 1], 0x82),
            ("subscription identifier", publish(QoS::AtMostOnce, identifier.properties()), 0x82),
            ("packet type 0", vec![0x00, 0], 0x81),
            ("reserved flags", vec![0xc1, 0], 0x81),
            ("endless length", vec![0x30, 0xff, 0xff, 0xff, 0xff, 1], 0x81),
            ("too large", vec![0x30, 0xff, 0xff, 0xff, 0x7f], 0x95),
            ("wildcard in a topic", vec![0x30, 4, 0, 1, b'#', 0], 0x90),
            ("broken UTF-8", vec![0x30, 5, 0, 2, 0xc3, 0x28, 0], 0x81),
            ("a second CONNECT", vec![0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 0], 0x82),
            ("what servers send", vec![0xd0, 0], 0x82),
            ("AUTH without a method", vec![0xf0, 0], 0x82),
        ];
        for (what, bytes, code) in cases {
            let mut client = node.connect(0, Version::V5, "client").await;
            client.send_bytes(&bytes).await;
            let received = client.receive().await;
            assert_eq!((received[0], received[2]), (0xe0, code), "{what}: {received:02x?}");
            client.expect_end().await;
            bystander.expect_nothing().await;
        }
        let mut client = node.connect(0, Version::V3_1_1, "client").await;
        client.send_bytes(&[0x00, 0]).await;
        client.expect_end().await;
        bystander.expect_nothing().await;
        let counters = node.counters(0).await;
        assert_eq!(counters.protocol_errors, 14);
        assert_eq!((counters.refused_topic_aliases_max, counters.refused_packet_bytes_max), (2, 1));
    });
}

#[test]
fn what_is_no_connect_is_not_answered() {
    run_test(async {
        let node = Node::start(1);
        let start = tokio::time::Instant::now();
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xc0, 0], &[0x30, 3, 0, 1, b'a'], &[0xff; 100]] {
            let mut client = node.open(0).await;
            client.send_bytes(bytes).await;
            client.expect_end().await;
        }
        assert_eq!(start.elapsed(), std::time::Duration::ZERO, "not only when the time to CONNECT is over");
        let mut unknown = node.open(0).await;
        unknown.send_bytes(&[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 6, 2, 0, 0, 0, 0, 0]).await;
        assert_eq!(unknown.receive().await, [0x20, 3, 0, 0x84, 0]);
        unknown.expect_end().await;
        let mut ancient = node.open(0).await;
        ancient.version = Version::V3_1_1;
        ancient.send_bytes(&[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 3, 2, 0, 0, 0, 0]).await;
        assert_eq!(ancient.receive().await, [0x20, 2, 0, 1]);
        ancient.expect_end().await;
        let mut reserved = node.open(0).await;
        reserved.send_bytes(&[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 3, 0, 0, 0, 0, 0]).await;
        // Of this one it is known how much it takes.
        let refused = reserved.receive().await;
        assert_eq!((refused[0], &refused[2..4]), (0x20, &[0, 0x81][..]), "{refused:02x?}");
        assert!(refused.ends_with(b"the reserved connect flag is set"), "{refused:02x?}");
        reserved.expect_end().await;
    });
}

#[test]
fn a_publisher_that_ignores_receive_maximum_is_stopped() {
    run_test(async {
        let limits = ClientLimits { receive_maximum: 5, ..ClientLimits::default() };
        let node = Node::with_limits(1, limits);
        node.route(crate::door::RouteOwner::Shard(crate::identity::ShardId(0)), "a");
        node.cluster.borrow_mut().answers_publishes = false;
        let mut new = node.connect(0, Version::V5, "new").await;
        let mut old = node.connect(0, Version::V3_1_1, "old").await;
        for number in 1..=6 {
            new.publish(QoS::AtLeastOnce, number, "a", "").await;
            old.publish(QoS::AtLeastOnce, number, "a", "").await;
        }
        new.expect_disconnect(0x93).await;
        // An old client can't know: it is not read until something is acknowledged.
        let counters = node.counters(0).await;
        assert_eq!(counters.messages_received, 6 + 5);
        let (connection, _) = node.holder("old");
        let outcome = crate::shard::Outcome::Stored(1);
        node.command(0, crate::door::ToWorker::Published { connection, token: 0, outcome });
        old.expect(puback(1)).await;
        assert_eq!(node.counters(0).await.messages_received, 6 + 6);
    });
}

#[test]
fn more_connections_than_allowed_are_closed_at_once() {
    run_test(async {
        let limits = ClientLimits { connections_max: 1, ..ClientLimits::default() };
        let node = Node::with_limits(1, limits);
        let mut first = node.connect(0, Version::V5, "first").await;
        let mut second = node.open(0).await;
        let start = tokio::time::Instant::now();
        second.expect_end().await;
        assert_eq!(start.elapsed(), std::time::Duration::ZERO, "not only when the time to CONNECT is over");
        assert_eq!(node.counters(0).await.connections_refused, 1);
        first.expect_nothing().await;
        drop(first);
        node.until("the place is free", |cluster| {
            matches!(cluster.told.last(), Some(crate::door::ToCluster::Close(_)))
        })
        .await;
        node.connect(0, Version::V5, "third").await;
    });
}

#[test]
fn a_client_that_never_reads_its_last_packet_is_forgotten() {
    run_test(async {
        let node = Node::start(1);
        let mut client = node.open_with_capacity(0, 8).await;
        client.send_bytes(&[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 0]).await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        client.send_bytes(&[0, 0]).await;
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        assert_eq!(node.counters(0).await.connections, 0);
    });
}
