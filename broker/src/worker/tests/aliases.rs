use super::fixture::*;
use crate::limits::ClientLimits;
use crate::message::QoS;
use crate::protocol::{Packet, Properties, PropertiesBuilder, PropertyId, Publish, Version, decode};

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;

fn aliased<'a>(topic: &'a str, properties: &'a PropertiesBuilder, payload: &'a str) -> Packet<'a> {
    Packet::Publish(Publish {
        dup: false,
        qos: Q0,
        retain: false,
        topic,
        packet_id: 0,
        properties: properties.properties(),
        payload: payload.as_bytes(),
    })
}

fn alias(number: u32) -> PropertiesBuilder {
    PropertiesBuilder::new().int(PropertyId::TopicAlias, number)
}

async fn connect(node: &Node, client_id: &str, properties: &PropertiesBuilder) -> Client {
    let mut client = node.open(0).await;
    client.connect_with(Version::V5, client_id, true, properties).await;
    client.receive().await;
    client
}

/// The next packet: topic, alias, payload.
async fn received(client: &mut Client) -> (String, Option<u32>, String) {
    let packet = client.receive().await;
    let Ok(Some((Packet::Publish(publish), _))) = decode(&packet, Version::V5, 1000) else { panic!("{packet:02x?}") };
    let payload = String::from_utf8_lossy(publish.payload).into_owned();
    (publish.topic.to_owned(), publish.properties.int(PropertyId::TopicAlias), payload)
}

#[test]
fn a_client_may_name_a_topic_once_and_then_by_number() {
    run_test(async {
        let node = Node::start(1);
        let mut subscriber = node.connect(0, Version::V3_1_1, "subscriber").await;
        subscriber.subscribe("#", Q0, 0).await;
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        for (topic, number, payload) in
            [("a/b", 16, "1"), ("", 16, "2"), ("c", 16, "3"), ("", 16, "4"), ("a/b", 1, "5")]
        {
            publisher.send(aliased(topic, &alias(number), payload)).await;
        }
        // [MQTT-3.3.2-10]: it is the receiver's own, and not forwarded.
        for (topic, payload) in [("a/b", "1"), ("a/b", "2"), ("c", "3"), ("c", "4"), ("a/b", "5")] {
            subscriber.expect(publish(Q0, 0, topic, payload)).await;
        }
        drop(publisher);
        // [MQTT-3.3.2-7]: a new connection knows none.
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        publisher.send(aliased("", &alias(16), "")).await;
        publisher.expect_disconnect(0x82).await;
    });
}

#[test]
fn connack_says_how_many_and_an_operator_may_allow_none() {
    run_test(async {
        for (topic_aliases_max, told) in [(16, Some(16)), (0, None)] {
            let node = Node::with_limits(1, ClientLimits { topic_aliases_max, ..ClientLimits::default() });
            let mut client = node.open(0).await;
            client.connect_with(Version::V5, "client", true, &PropertiesBuilder::new()).await;
            let connack = client.receive().await;
            let Ok(Some((Packet::ConnAck(connack), _))) = decode(&connack, Version::V5, 1000) else { panic!() };
            assert_eq!(connack.properties.int(PropertyId::TopicAliasMaximum), told);
            let first_too_high = told.unwrap_or(0) + 1;
            client.send(aliased("a", &alias(first_too_high), "")).await;
            client.expect_disconnect(0x94).await;
        }
    });
}

#[test]
fn a_client_that_takes_aliases_is_sent_a_long_topic_once() {
    run_test(async {
        let node = Node::start(1);
        let two = PropertiesBuilder::new().int(PropertyId::TopicAliasMaximum, 2);
        let mut taker = connect(&node, "taker", &two).await;
        taker.subscribe("#", Q1, 1).await;
        let mut plain = node.connect(0, Version::V5, "plain").await;
        plain.subscribe("#", Q0, 0).await;
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        let topics = ["long/1", "a", "long/1", "long/2", "long/3", "long/2", "long/1"];
        for (number, topic) in topics.iter().enumerate() {
            publisher.publish(if number % 2 == 0 { Q0 } else { Q1 }, number as u16 + 1, topic, topic).await;
        }
        for (named, alias, topic) in [
            ("long/1", Some(1), "long/1"),
            ("a", None, "a"),
            ("", Some(1), "long/1"),
            ("long/2", Some(2), "long/2"),
            ("long/3", None, "long/3"),
            ("", Some(2), "long/2"),
            ("", Some(1), "long/1"),
        ] {
            assert_eq!(received(&mut taker).await, (named.to_owned(), alias, topic.to_owned()));
        }
        for topic in topics {
            assert_eq!(received(&mut plain).await, (topic.to_owned(), None, topic.to_owned()));
        }
    });
}

#[test]
fn what_waited_is_named_by_alias_in_the_order_it_is_sent() {
    run_test(async {
        let node = Node::start(1);
        let one = PropertiesBuilder::new().int(PropertyId::TopicAliasMaximum, 1).int(PropertyId::ReceiveMaximum, 1);
        let mut taker = connect(&node, "taker", &one).await;
        taker.subscribe("#", Q1, 1).await;
        let mut publisher = node.connect(0, Version::V5, "publisher").await;
        for number in 1..=3 {
            publisher.publish(Q1, number, "long/1", &number.to_string()).await;
        }
        for (named, number) in [("long/1", 1), ("", 2), ("", 3)] {
            let packet = taker.receive().await;
            let Ok(Some((Packet::Publish(publish), _))) = decode(&packet, Version::V5, 1000) else { panic!() };
            assert_eq!((publish.topic, publish.payload), (named, number.to_string().as_bytes()));
            let packet_id = publish.packet_id;
            taker.send(puback(packet_id)).await;
        }
    });
}

#[test]
fn a_keep_alive_that_is_too_long_is_lowered_and_told() {
    run_test(async {
        let limits = ClientLimits { keep_alive_seconds_max: 20, ..ClientLimits::default() };
        let node = Node::with_limits(1, limits);
        for (version, asked, told) in [(Version::V5, 0, Some(20)), (Version::V5, 21, Some(20)), (Version::V5, 20, None)]
        {
            let mut client = node.open(0).await;
            client.version = version;
            client
                .send(Packet::Connect(crate::protocol::Connect {
                    version,
                    clean_start: true,
                    keep_alive_seconds: asked,
                    properties: Properties::default(),
                    client_id: "client",
                    will: None,
                    user_name: None,
                    password: None,
                }))
                .await;
            let connack = client.receive().await;
            let Ok(Some((Packet::ConnAck(connack), _))) = decode(&connack, version, 1000) else { panic!() };
            assert_eq!(connack.properties.int(PropertyId::ServerKeepAlive), told);
            // [MQTT-3.1.2-22]: one and a half times what it was told.
            client.expect_disconnect(0x8d).await;
        }
    });
}
