//! Chapter 4: the flows of QoS 1 and 2 on one connection, and order.

use crate::scene::Scene;
use crate::wire::*;

/// 5.0: MQTT-4.3.2-5.
/// 3.1.1: MQTT-4.3.2-2.
#[test]
fn after_puback_a_packet_id_is_of_a_new_message() {
    for scene in Scene::both() {
        let topic = scene.name("a");
        let mut subscriber = scene.client("sub");
        assert_eq!(subscriber.subscribe(&topic, 1), 1);
        let mut publisher = scene.client("pub");
        for first in [0x32, 0x3a] {
            publisher.send(&publish(scene.version, first, &topic, 7, &[], "x"));
            assert_eq!(publisher.answered(PUBACK, 7), 0);
            subscriber.gets("x");
        }
    }
}

/// 5.0: MQTT-4.3.3-8, MQTT-4.3.3-10, MQTT-4.3.3-11, MQTT-4.3.3-12.
/// 3.1.1: MQTT-4.3.3-2.
#[test]
fn until_pubrel_a_packet_id_is_of_the_same_message() {
    for scene in Scene::both() {
        let topic = scene.name("a");
        let mut subscriber = scene.client("sub");
        assert_eq!(subscriber.subscribe(&topic, 2), 2);
        for connect in [scene.clean("pub"), scene.kept("kept")] {
            let (mut publisher, _) = scene.open(&connect);
            for first in [0x34, 0x3c, 0x3c] {
                publisher.send(&publish(scene.version, first, &topic, 7, &[], "x"));
                assert_eq!(publisher.answered(PUBREC, 7), 0);
            }
            subscriber.gets("x");
            subscriber.nothing();
            publisher.send(&answer(PUBREL, 7));
            assert_eq!(publisher.answered(PUBCOMP, 7), 0);
            publisher.send(&publish(scene.version, 0x34, &topic, 7, &[], "y"));
            assert_eq!(publisher.answered(PUBREC, 7), 0);
            subscriber.gets("y");
            publisher.send(&answer(PUBREL, 7));
            assert_eq!(publisher.answered(PUBCOMP, 7), 0);
        }
    }
}

/// 5.0: MQTT-4.3.3-4, MQTT-3.6.2-1.
/// 3.1.1: MQTT-4.3.3-1.
#[test]
fn pubrec_is_answered_with_pubrel() {
    for scene in Scene::both() {
        let topic = scene.name("a");
        for connect in [scene.clean("c"), scene.kept("k")] {
            let (mut client, _) = scene.open(&connect);
            assert_eq!(client.subscribe(&topic, 2), 2);
            let mut publisher = scene.client("pub");
            publisher.publishes(4, &topic, &[], "x");
            let id = client.message().id;
            for _ in 0..2 {
                client.send(&answer(PUBREC, id));
                assert_eq!(client.answered(PUBREL, id), 0);
            }
            client.send(&answer(PUBCOMP, id));
            client.nothing();
            // Of what there is nothing.
            client.send(&answer(PUBREC, id));
            assert_eq!(client.answered(PUBREL, id), if scene.version == V5 { 0x92 } else { 0 });
            if scene.version == V5 {
                publisher.publishes(4, &topic, &[], "x");
                let id = client.message().id;
                client.send(&answer_with(PUBREC, id, 0x80));
                client.nothing();
            }
        }
    }
}

/// 5.0: MQTT-4.3.3-9.
#[test]
fn a_packet_id_whose_message_was_refused_is_free() {
    let scene = Scene::new(V5);
    for connect in [scene.clean("c"), scene.kept("k")] {
        let (mut client, _) = scene.open(&connect);
        let topic = scene.name("a");
        assert_eq!(client.subscribe(&topic, 0), 0);
        // Nobody may publish to $SYS.
        client.send(&publish(V5, 0x34, "$SYS/a", 7, &[], "x"));
        assert_eq!(client.answered(PUBREC, 7), 0x87);
        client.publishes(0, &scene.name("b"), &[], "x");
        let mut publisher = scene.client("other");
        publisher.send(&publish(V5, 0x34, "$SYS/a", 7, &[], "x"));
        assert_eq!(publisher.answered(PUBREC, 7), 0x87);
        publisher.send(&publish(V5, 0x34, &topic, 7, &[], "y"));
        assert_eq!(publisher.answered(PUBREC, 7), 0);
        client.gets("y");
    }
}

/// 5.0: MQTT-4.6.0-2, MQTT-4.6.0-3, MQTT-4.6.0-4.
/// 3.1.1: MQTT-4.6.0-2, MQTT-4.6.0-3, MQTT-4.6.0-4.
#[test]
fn answers_come_in_the_order_of_what_they_answer() {
    for scene in Scene::both() {
        let topic = scene.name("a");
        // Some go to a queue that is stored, some to nobody.
        let (mut stored, _) = scene.open(&scene.kept("stored"));
        assert_eq!(stored.subscribe(&topic, 2), 2);
        for connect in [scene.clean("c"), scene.kept("k")] {
            let (mut client, _) = scene.open(&connect);
            let sent = [(2, "a"), (4, "nobody"), (4, "a"), (2, "nobody"), (2, "a"), (4, "a"), (2, "nobody")];
            let mut bytes = Vec::new();
            for (id, (flags, topic)) in (1..).zip(sent) {
                bytes.extend(publish(scene.version, 0x30 | flags, scene.name(topic), id, &[], "x"));
            }
            client.send(&bytes);
            for (id, (flags, _)) in (1..).zip(sent) {
                assert!(client.answered(if flags == 2 { PUBACK } else { PUBREC }, id) < 0x80);
            }
        }
    }
}

/// 5.0: MQTT-4.6.0-5, MQTT-4.6.0-6.
/// 3.1.1: MQTT-4.6.0-5, MQTT-4.6.0-6.
#[test]
fn messages_come_in_the_order_in_which_they_were_published() {
    for scene in Scene::both() {
        for connect in [scene.clean("c"), scene.kept("k")] {
            let (mut client, _) = scene.open(&connect);
            assert_eq!(client.subscribe(&scene.name("+"), 2), 2);
            let mut publisher = scene.client("pub");
            for qos in [0, 1, 2] {
                for number in 0..30 {
                    publisher.publishes(qos << 1, &scene.name(&format!("{}", number % 2)), &[], &number.to_string());
                }
                for number in 0..30 {
                    assert_eq!(client.gets(&number.to_string()).qos(), qos);
                }
            }
        }
    }
}
