//! Chapter 3: PUBLISH and its properties.

use std::time::Duration;

use crate::scene::{RECEIVE_MAXIMUM as BROKERS, Scene};
use crate::wire::*;

/// 5.0: MQTT-3.3.1-2, MQTT-3.3.1-4.
/// 3.1.1: MQTT-3.3.1-2, MQTT-3.3.1-4.
#[test]
fn dup_at_qos_0_and_qos_3_are_malformed() {
    for scene in Scene::both() {
        for first in [0x38, 0x39, 0x36, 0x37, 0x3e] {
            scene.breaks(&publish(scene.version, first, "a", 1, &[], "x"), 0x81);
        }
    }
}

/// 5.0: MQTT-3.3.1-3, MQTT-4.3.1-1, MQTT-4.3.2-2, MQTT-4.3.3-2.
/// 3.1.1: MQTT-3.3.1-3, MQTT-4.3.1-1, MQTT-4.3.2-1, MQTT-4.3.3-1.
#[test]
fn dup_is_not_passed_on() {
    for scene in Scene::both() {
        let (topic, mut subscriber) = (scene.name("a"), scene.client("sub"));
        assert_eq!(subscriber.subscribe(&topic, 2), 2);
        let mut publisher = scene.client("pub");
        for flags in [0, 2, 4, 8 | 2, 8 | 4] {
            publisher.publishes(flags, &topic, &[], "x");
            assert_eq!(subscriber.gets("x").first, 0x30 | flags & 6);
        }
    }
}

/// 5.0: MQTT-3.3.2-2, MQTT-4.7.0-1, MQTT-4.7.3-1.
/// 3.1.1: MQTT-3.3.2-2, MQTT-4.7.1-1, MQTT-4.7.3-1.
#[test]
fn a_topic_name_has_no_wildcard_and_is_not_empty() {
    for scene in Scene::both() {
        for topic in ["#", "+", "a/#", "a/+/b", "a#", "+a"] {
            scene.breaks(&publish(scene.version, 0x30, topic, 0, &[], "x"), 0x90);
        }
        scene.breaks(&publish(scene.version, 0x30, "", 0, &[], "x"), 0x82);
        for topic in ["#", "a/+", ""] {
            let mut client = scene.dial();
            client.send(&scene.clean("c").will(topic, "x").bytes());
            if scene.version == V5 { client.refused(0x90, 0) } else { client.end() }
        }
    }
}

/// 5.0: MQTT-3.3.2-4, MQTT-3.3.2-15, MQTT-3.3.2-16, MQTT-3.3.2-17, MQTT-3.3.2-18, MQTT-3.3.2-20.
#[test]
fn what_belongs_to_a_message_is_passed_on_unaltered() {
    let scene = Scene::new(V5);
    let raw = [
        user("z", "1"),
        byte(PAYLOAD_FORMAT, 1),
        string(CONTENT_TYPE, "text/plain"),
        user("a", "2"),
        string(RESPONSE_TOPIC, "answers/here"),
        string(CORRELATION, b"\x00\xff\x01"),
        user("z", "1"),
        user("", ""),
    ]
    .concat();
    let topic = scene.name("a");
    let mut clean = scene.client("clean");
    let (mut kept, _) = scene.open(&scene.kept("kept"));
    for subscriber in [&mut clean, &mut kept] {
        assert_eq!(subscriber.subscribe(&topic, 2), 2);
    }
    let mut publisher = scene.client("pub");
    for flags in [0, 2, 4, 1, 3] {
        publisher.publishes(flags, &topic, &raw, "x");
        for subscriber in [&mut clean, &mut kept] {
            let got = subscriber.gets("x");
            for id in [PAYLOAD_FORMAT, CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION] {
                let sent = crate::client::Received { first: 0, body: properties(V5, &raw) }.property(0, id);
                assert_eq!(got.property(id), sent, "property {id}");
            }
            let users = [user("z", "1"), user("a", "2"), user("z", "1"), user("", "")];
            assert_eq!(got.all(USER), users.map(|user| user[1..].to_vec()));
        }
    }
    // So it is when it was retained, or queued.
    drop(kept);
    publisher.publishes(2, &topic, &raw, "queued");
    let (mut kept, _) = scene.open(&scene.kept("kept"));
    assert_eq!(kept.gets("queued").all(USER).len(), 4);
    let mut late = scene.client("late");
    assert_eq!(late.subscribe(&topic, 0), 0);
    assert_eq!(late.gets("x").all(USER).len(), 4);
    // A receiver of 3.1.1 gets the message without.
    let old = Scene::new(V3);
    let mut subscriber = old.client("sub");
    assert_eq!(subscriber.subscribe(&topic, 0), 0);
    subscriber.gets("x");
}

/// 5.0: MQTT-3.3.2-5, MQTT-3.3.2-6, MQTT-4.3.3-7, MQTT-4.3.3-13.
#[test]
fn a_message_expires_unless_it_was_sent() {
    let scene = Scene::new(V5);
    // Of a session that is kept the messages wait in its shard, of another one on its worker.
    for connect in [scene.kept("kept"), scene.clean("clean")] {
        let topic = scene.name(&connect.client_id);
        let (mut subscriber, _) = scene.open(&connect.with(&two(RECEIVE_MAXIMUM, 1)));
        assert_eq!(subscriber.subscribe(&topic, 2), 2);
        let mut publisher = scene.client("pub");
        // Sent, and not acknowledged in time: goes on to its end.
        publisher.publishes(4, &topic, &four(MESSAGE_EXPIRY, 1), "sent");
        let sent = subscriber.message();
        assert_eq!(sent.property(MESSAGE_EXPIRY), Some(1_u32.to_be_bytes().to_vec()));
        publisher.publishes(2, &topic, &four(MESSAGE_EXPIRY, 1), "expires");
        publisher.publishes(4, &topic, &four(MESSAGE_EXPIRY, 1), "expires too");
        publisher.publishes(2, &topic, &four(MESSAGE_EXPIRY, 100), "lasts");
        publisher.publishes(2, &topic, &[], "for ever");
        std::thread::sleep(Duration::from_millis(2100));
        subscriber.send(&answer(PUBREC, sent.id));
        assert_eq!(subscriber.answered(PUBREL, sent.id), 0);
        subscriber.send(&answer(PUBCOMP, sent.id));
        let lasts = subscriber.gets("lasts");
        let left = u32::from_be_bytes(lasts.property(MESSAGE_EXPIRY).unwrap().try_into().unwrap());
        assert!((90..=98).contains(&left), "{left} s are left");
        assert_eq!(subscriber.gets("for ever").property(MESSAGE_EXPIRY), None);
        subscriber.nothing();
    }
}

/// 5.0: MQTT-3.3.2-12.
#[test]
fn every_topic_alias_up_to_the_maximum_is_taken() {
    let scene = Scene::new(V5);
    let mut subscriber = scene.client("sub");
    subscriber.subscribe(&scene.name("#"), 0);
    let mut client = scene.dial();
    client.send(&scene.clean("c").bytes());
    let maximum = client.next().property(2, ALIAS_MAXIMUM).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
    assert!(maximum > 0);
    for alias in 1..=maximum {
        client.publishes(0, &scene.name(&alias.to_string()), &two(ALIAS, alias), "named");
        subscriber.gets("named");
    }
    for alias in (1..=maximum).rev() {
        client.publishes(0, "", &two(ALIAS, alias), "again");
        let got = subscriber.gets("again");
        assert_eq!((got.topic, got.properties.len()), (scene.name(&alias.to_string()), 0));
    }
}

/// 5.0: MQTT-3.1.2-26, MQTT-3.1.2-27, MQTT-3.3.2-11.
#[test]
fn no_client_is_sent_more_topic_aliases_than_it_takes() {
    let scene = Scene::new(V5);
    let mut publisher = scene.client("pub");
    for maximum in [0, 1, 3] {
        let connect = scene.clean("c");
        let connect = if maximum > 0 { connect.with(&two(ALIAS_MAXIMUM, maximum)) } else { connect };
        let (mut client, _) = scene.open(&connect);
        client.subscribe(&scene.name("#"), 0);
        let mut known = std::collections::BTreeMap::new();
        for topic in ["one", "two", "three", "four", "one", "four", "three", "two"] {
            publisher.publishes(0, &scene.name(topic), &[], topic);
            let got = client.gets(topic);
            let Some(alias) = got.property(ALIAS) else {
                assert_eq!(got.topic, scene.name(topic));
                continue;
            };
            let alias = u16::from_be_bytes([alias[0], alias[1]]);
            assert!((1..=maximum).contains(&alias), "{got:?}");
            if !got.topic.is_empty() {
                known.insert(alias, got.topic.clone());
            }
            assert_eq!(known[&alias], scene.name(topic));
        }
        assert_eq!(known.len(), usize::from(maximum));
    }
}

/// 5.0: MQTT-3.3.2-7, MQTT-3.3.2-8, MQTT-3.3.2-9.
#[test]
fn a_topic_alias_that_is_not_allowed_ends_the_connection() {
    let scene = Scene::new(V5);
    scene.breaks(&publish(V5, 0x30, "a", 0, &two(ALIAS, 0), "x"), 0x94);
    let mut client = scene.dial();
    client.send(&scene.clean("c").bytes());
    let maximum = client.next().property(2, ALIAS_MAXIMUM).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
    if let Some(above) = maximum.checked_add(1) {
        scene.breaks(&publish(V5, 0x30, "a", 0, &two(ALIAS, above), "x"), 0x94);
    }
    // One that was not established on this connection stands for no topic.
    let mut client = scene.client("breaks");
    client.send(&publish(V5, 0x30, "", 0, &two(ALIAS, 1), "x"));
    let got = client.next();
    assert!(got.first == 0xe0 && matches!(got.body[0], 0x82 | 0x94), "{got:?}");
    client.end();
}

/// 5.0: MQTT-3.3.2-14.
#[test]
fn a_response_topic_has_no_wildcard() {
    let scene = Scene::new(V5);
    for topic in ["a/#", "+", ""] {
        scene.breaks(&publish(V5, 0x30, "a", 0, &string(RESPONSE_TOPIC, topic), "x"), 0x82);
    }
}

/// 5.0: MQTT-3.3.4-6.
#[test]
fn a_client_may_not_publish_with_a_subscription_identifier() {
    Scene::new(V5).breaks(&publish(V5, 0x30, "a", 0, &[SUBSCRIPTION_ID, 1], "x"), 0x82);
}

/// 5.0: MQTT-3.3.4-7, MQTT-4.9.0-1, MQTT-4.9.0-2.
#[test]
fn a_client_may_not_have_more_in_flight_than_the_broker_takes() {
    let scene = Scene::new(V5);
    let mut client = scene.dial();
    client.send(&scene.clean("c").bytes());
    assert_eq!(client.next().property(2, RECEIVE_MAXIMUM), Some(BROKERS.to_be_bytes().to_vec()));
    let topic = scene.name("nobody");
    for id in 1..=BROKERS {
        client.send(&publish(V5, 0x34, &topic, id, &[], "x"));
        assert_eq!(client.answered(PUBREC, id), 0x10);
    }
    client.send(&publish(V5, 0x34, &topic, 100, &[], "x"));
    client.ended(0x93);
    // Before 5.0 nobody can be told: they are all taken.
    let old = Scene::new(V3);
    let mut client = old.client("c");
    for id in 1..=2 * BROKERS {
        client.send(&publish(V3, 0x34, old.name("nobody"), id, &[], "x"));
        client.answered(PUBREC, id);
    }
}

/// 5.0: MQTT-3.3.4-9, MQTT-3.3.4-10, MQTT-4.9.0-2, MQTT-4.9.0-3.
#[test]
fn a_client_is_sent_no_more_at_once_than_it_takes() {
    let scene = Scene::new(V5);
    for connect in [scene.clean("c"), scene.kept("k")] {
        let topic = scene.name("a");
        let (mut client, _) = scene.open(&connect.with(&two(RECEIVE_MAXIMUM, 2)));
        assert_eq!(client.subscribe(&topic, 2), 2);
        let mut publisher = scene.client("pub");
        for (flags, payload) in [(2, "1"), (4, "2"), (2, "3"), (4, "4")] {
            publisher.publishes(flags, &topic, &[], payload);
        }
        let (first, second) = (client.message(), client.message());
        assert_eq!((&first.payload[..], &second.payload[..]), (&b"1"[..], &b"2"[..]));
        client.nothing();
        // Everything else is answered meanwhile.
        assert_eq!(client.subscribe(&scene.name("b"), 1), 1);
        client.publishes(4, &scene.name("nobody"), &[], "x");
        // PUBREC does not give room, PUBCOMP does.
        client.send(&answer(PUBREC, second.id));
        assert_eq!(client.answered(PUBREL, second.id), 0);
        client.nothing();
        client.send(&answer(PUBCOMP, second.id));
        let third = client.message();
        assert_eq!(third.payload, b"3");
        client.nothing();
        client.send(&answer(PUBACK, first.id));
        assert_eq!(client.message().payload, b"4");
        client.nothing();
    }
}

/// 3.1.1: MQTT-3.3.5-2.
#[test]
fn a_publish_that_is_not_allowed_is_acknowledged_and_dropped_before_5() {
    for scene in Scene::both() {
        let mut client = scene.client("c");
        let topic = "$SYS/nobody may";
        for (flags, first, id) in [(0x32, PUBACK, 1), (0x34, PUBREC, 2)] {
            client.send(&publish(scene.version, flags, topic, id, &[], "x"));
            assert_eq!(client.answered(first, id), if scene.version == V5 { 0x87 } else { 0 });
        }
    }
}
