use std::time::Duration;

use super::fixture::*;
use crate::door::{ToCluster, ToWorker};
use crate::limits::ClientLimits;
use crate::message::QoS;
use crate::protocol::{
    Connect, Disconnect, Packet, Properties, PropertiesBuilder, PropertyId, ReasonCode, SubAck, Unsubscribe,
    UnsubscribeFilters, Version, WillView, decode,
};
use crate::shard::{Close, CloseCause};

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;

fn closes(told: &[ToCluster]) -> Vec<Close> {
    let closes = told.iter().filter_map(|what| match what {
        ToCluster::Close(close) => Some(close.clone()),
        _ => None,
    });
    closes.collect()
}

#[test]
fn connack_says_what_is_not_offered() {
    run_test(async {
        let node = Node::start(1);
        let mut client = node.open(0).await;
        client.connect_with(Version::V5, "", true, &PropertiesBuilder::new()).await;
        let received = client.receive().await;
        let Ok(Some((Packet::ConnAck(connack), _))) = decode(&received, Version::V5, 1000) else { panic!() };
        assert!(!connack.session_present);
        assert_eq!(connack.properties.int(PropertyId::MaximumQoS), None);
        assert_eq!(connack.properties.int(PropertyId::RetainAvailable), None);
        assert_eq!(connack.properties.int(PropertyId::SharedSubscriptionAvailable), None);
        assert_eq!(connack.properties.int(PropertyId::ReceiveMaximum), Some(1024));
        let assigned = connack.properties.text(PropertyId::AssignedClientIdentifier).unwrap().to_owned();
        assert!(assigned.len() > 10);
        let mut other = node.open(0).await;
        other.connect_with(Version::V5, "", true, &PropertiesBuilder::new()).await;
        let received = other.receive().await;
        let Ok(Some((Packet::ConnAck(connack), _))) = decode(&received, Version::V5, 1000) else { panic!() };
        assert_ne!(connack.properties.text(PropertyId::AssignedClientIdentifier), Some(&*assigned));
        node.holder(&assigned);
    });
}

#[test]
fn an_old_client_without_a_name_is_let_in_only_for_a_clean_session() {
    run_test(async {
        let node = Node::start(1);
        node.connect(0, Version::V3_1_1, "").await;
        let mut client = node.open(0).await;
        client.connect_with(Version::V3_1_1, "", false, &PropertiesBuilder::new()).await;
        assert_eq!(client.receive().await, [0x20, 2, 0, 2]);
        client.expect_end().await;
    });
}

#[test]
fn packets_sent_before_connack_are_processed_after_it() {
    run_test(async {
        let node = Node::start(1);
        let mut client = node.open(0).await;
        client.connect_with(Version::V5, "c", true, &PropertiesBuilder::new()).await;
        client.publish(Q1, 1, "a", "x").await;
        client.send(Packet::PingReq).await;
        assert_eq!(client.receive().await[0], 0x20);
        client.expect(puback_with(1, 0x10)).await;
        client.expect(Packet::PingResp).await;
    });
}

#[test]
fn a_newer_connection_takes_the_client_id_over() {
    run_test(async {
        let node = Node::start(2);
        let mut kept = Vec::new();
        for (first, second) in [(0, 0), (0, 1)] {
            let mut old = node.connect(first, Version::V5, "client").await;
            old.subscribe("a", Q0, 0).await;
            let mut new = node.connect(second, Version::V5, "client").await;
            old.expect_disconnect(0x8e).await;
            new.expect_nothing().await;
            // The older one's subscriptions are gone with it.
            let mut publisher = node.connect(0, Version::V5, "publisher").await;
            publisher.publish(Q1, 1, "a", "x").await;
            publisher.expect(puback_with(1, 0x10)).await;
            kept.extend([new, publisher]);
        }
        assert_eq!(closes(&node.cluster.borrow().told), [], "its shard knows already");
    });
}

#[test]
fn an_old_client_that_is_taken_over_is_just_closed() {
    run_test(async {
        let node = Node::start(1);
        let mut old = node.connect(0, Version::V3_1_1, "client").await;
        node.connect(0, Version::V3_1_1, "client").await;
        old.expect_end().await;
    });
}

#[test]
fn the_end_of_a_connection_is_told_with_its_cause() {
    run_test(async {
        let node = Node::start(1);
        let disconnect = |reason, properties| Packet::Disconnect(Disconnect { reason, properties });
        let expect = async |cause, expiry| {
            let mut found = Vec::new();
            node.until("the session is closed", |cluster| {
                found = closes(&cluster.told);
                !found.is_empty()
            })
            .await;
            node.cluster.borrow_mut().told.clear();
            assert_eq!((found[0].cause, found[0].session_expiry_seconds), (cause, expiry));
        };
        let mut client = node.connect(0, Version::V5, "client").await;
        client.send(disconnect(ReasonCode::SUCCESS, Properties::default())).await;
        client.expect_end().await;
        expect(CloseCause::Normal, None).await;

        let mut client = node.connect(0, Version::V5, "client").await;
        client.send(disconnect(ReasonCode::DISCONNECT_WITH_WILL, Properties::default())).await;
        expect(CloseCause::WithWill, None).await;

        drop(node.connect(0, Version::V3_1_1, "client").await);
        expect(CloseCause::WithWill, None).await;

        let mut client = node.open(0).await;
        let hour = PropertiesBuilder::new().int(PropertyId::SessionExpiryInterval, 3600);
        client.connect_with(Version::V5, "client", true, &hour).await;
        client.receive().await;
        let minute = PropertiesBuilder::new().int(PropertyId::SessionExpiryInterval, 60);
        client.send(disconnect(ReasonCode::SUCCESS, minute.properties())).await;
        expect(CloseCause::Normal, Some(60)).await;

        // A session that was to end with its connection cannot be kept after all.
        let mut client = node.connect(0, Version::V5, "client").await;
        client.send(disconnect(ReasonCode::SUCCESS, minute.properties())).await;
        client.expect_disconnect(0x82).await;
    });
}

#[test]
fn a_will_is_passed_to_the_shard() {
    run_test(async {
        let node = Node::start(1);
        let connect = |qos| {
            Packet::Connect(Connect {
                version: Version::V5,
                clean_start: true,
                keep_alive_seconds: 0,
                properties: Properties::default(),
                client_id: "client",
                will: Some(WillView {
                    qos,
                    retain: true,
                    properties: Properties::default(),
                    topic: "will",
                    payload: b"gone",
                }),
                user_name: None,
                password: None,
            })
        };
        let mut client = node.open(0).await;
        client.send(connect(Q1)).await;
        assert_eq!(client.receive().await[3], 0);
        let will = node.cluster.borrow().told.iter().find_map(|what| match what {
            ToCluster::Open(open) => open.will.clone(),
            _ => None,
        });
        let will = will.unwrap();
        assert_eq!((&*will.message.topic, &*will.message.payload), ("will", &b"gone"[..]));
        assert_eq!((will.message.qos, will.message.retain, &*will.message.publisher), (Q1, true, "client"));
    });
}

#[test]
fn filters_are_answered_one_by_one() {
    run_test(async {
        let limits = ClientLimits { subscriptions_max: 2, ..ClientLimits::default() };
        let node = Node::with_limits(1, limits);
        let mut client = node.connect(0, Version::V5, "client").await;
        client.subscribe("a/#/b", Q0, 0x8f).await;
        client.subscribe("$share/a", Q0, 0x8f).await;
        client.subscribe("$share/g+/a", Q0, 0x8f).await;
        client.subscribe("a", QoS::ExactlyOnce, 2).await;
        client.subscribe("b", Q0, 0).await;
        client.subscribe("c", Q0, 0x97).await;
        assert_eq!(node.counters(0).await.refused_subscriptions_max, 1);
        client.subscribe("b", Q1, 1).await;
        let mut filters = Vec::new();
        UnsubscribeFilters::append(&mut filters, "b");
        UnsubscribeFilters::append(&mut filters, "c");
        client
            .send(Packet::Unsubscribe(Unsubscribe {
                packet_id: 9,
                properties: Properties::default(),
                filters: UnsubscribeFilters::built(&filters),
            }))
            .await;
        client
            .expect(Packet::UnsubAck(SubAck { packet_id: 9, properties: Properties::default(), codes: &[0, 0x11] }))
            .await;
        let mut old = node.connect(0, Version::V3_1_1, "old").await;
        old.subscribe("$share//a", Q0, 0x80).await;
    });
}

#[test]
fn suback_waits_until_every_worker_routes() {
    run_test(async {
        let node = Node::start(2);
        let mut subscriber = node.connect(1, Version::V5, "subscriber").await;
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        for round in 0..20 {
            subscriber.subscribe(&format!("{round}/+"), Q0, 0).await;
            publisher.publish(Q0, 0, &format!("{round}/x"), "x").await;
            subscriber.expect_payload("x").await;
        }
    });
}

#[test]
fn a_silent_client_is_ended_after_one_and_a_half_keep_alives() {
    run_test(async {
        let node = Node::start(1);
        let mut client = node.open(0).await;
        client
            .send(Packet::Connect(Connect {
                version: Version::V5,
                clean_start: true,
                keep_alive_seconds: 10,
                properties: Properties::default(),
                client_id: "client",
                will: None,
                user_name: None,
                password: None,
            }))
            .await;
        client.receive().await;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(14)).await;
            client.expect_nothing().await;
        }
        let before = tokio::time::Instant::now();
        client.expect_disconnect(0x8d).await;
        let silence = before.elapsed();
        assert!(silence >= Duration::from_secs(15) && silence < Duration::from_millis(15_500), "{silence:?}");
        // Nobody else is bound by it.
        let mut other = node.connect(0, Version::V5, "other").await;
        tokio::time::sleep(Duration::from_secs(10_000)).await;
        other.expect_nothing().await;
    });
}

#[test]
fn a_connection_without_connect_is_ended() {
    run_test(async {
        let node = Node::start(1);
        let mut client = node.open(0).await;
        let before = tokio::time::Instant::now();
        client.expect_end().await;
        let waited = before.elapsed();
        assert!(waited >= Duration::from_secs(10) && waited < Duration::from_secs(11), "{waited:?}");
        let counters = node.counters(0).await;
        assert_eq!((counters.connections, counters.connections_accepted), (0, 1));
    });
}

#[test]
fn a_node_that_is_cut_off_refuses() {
    run_test(async {
        let node = Node::start(1);
        let mut new = node.connect(0, Version::V5, "new").await;
        let mut old = node.connect(0, Version::V3_1_1, "old").await;
        node.command(0, ToWorker::Serving(false));
        new.expect_nothing().await;
        new.publish(Q0, 0, "a", "x").await;
        new.publish(Q1, 1, "a", "x").await;
        new.expect_disconnect(0x9c).await;
        old.publish(Q1, 1, "a", "x").await;
        old.expect_end().await;
        for (version, code) in [(Version::V5, 0x88), (Version::V3_1_1, 3)] {
            let mut client = node.open(0).await;
            client.connect_with(version, "c", true, &PropertiesBuilder::new()).await;
            assert_eq!(client.receive().await[3], code);
            client.expect_end().await;
        }
        node.command(0, ToWorker::Serving(true));
        node.connect(0, Version::V5, "new").await;
        assert_eq!(node.counters(0).await.dropped_not_serving, 1);
    });
}

#[test]
fn a_drain_asks_clients_to_go_at_its_rate() {
    run_test(async {
        let node = Node::start(1);
        let mut clients = Vec::new();
        for number in 0..20 {
            clients.push(node.connect(0, Version::V5, &number.to_string()).await);
        }
        let before = tokio::time::Instant::now();
        node.command(0, ToWorker::Drain { rate: 10 });
        for client in &mut clients {
            client.expect_disconnect(0x9c).await;
        }
        let took = before.elapsed();
        assert!(took > Duration::from_millis(1_700) && took < Duration::from_millis(2_300), "{took:?}");
        let mut late = node.open(0).await;
        late.connect_with(Version::V5, "late", true, &PropertiesBuilder::new()).await;
        assert_eq!(late.receive().await[3], 0x9c);
    });
}

#[test]
fn a_client_that_leaves_before_connack_leaves_nothing_behind() {
    run_test(async {
        let node = Node::start(1);
        let mut client = node.open(0).await;
        client.connect_with(Version::V5, "client", true, &PropertiesBuilder::new()).await;
        drop(client);
        node.until("the session is closed", |cluster| !closes(&cluster.told).is_empty()).await;
        assert_eq!(node.counters(0).await.connections, 0);
    });
}
