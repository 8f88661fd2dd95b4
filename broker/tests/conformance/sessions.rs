//! Chapter 4: what of a session is kept, and how long.

use std::time::Duration;

use crate::scene::Scene;
use crate::wire::*;

/// 5.0: MQTT-3.1.2-4, MQTT-3.1.2-5, MQTT-3.1.2-6, MQTT-3.1.2-23, MQTT-3.1.4-4, MQTT-3.2.2-2, MQTT-3.2.2-3, MQTT-4.1.0-1,
/// MQTT-4.5.0-1.
/// 3.1.1: MQTT-3.1.2-4, MQTT-3.1.2-5, MQTT-3.1.2-6, MQTT-3.1.4-3, MQTT-3.2.2-1, MQTT-3.2.2-2, MQTT-3.2.2-3, MQTT-4.1.0-1,
/// MQTT-4.1.0-2, MQTT-4.5.0-1.
#[test]
fn a_session_is_gone_on_with_or_discarded_as_connect_says() {
    for scene in Scene::both() {
        let topic = scene.name("a");
        let mut publisher = scene.client("pub");
        let (mut client, present) = scene.open(&scene.kept("c"));
        assert!(!present, "there was none");
        assert_eq!(client.subscribe(&topic, 2), 2);
        drop(client);
        for payload in ["1", "2"] {
            publisher.publishes(2, &topic, &[], payload);
            publisher.publishes(4, &topic, &[], payload);
        }
        let (mut client, present) = scene.open(&scene.kept("c"));
        assert!(present);
        for payload in ["1", "1", "2", "2"] {
            client.gets(payload);
        }
        client.disconnect();
        publisher.publishes(2, &topic, &[], "lost");
        let (mut client, present) = scene.open(&scene.clean("c"));
        assert!(!present, "Clean Start");
        client.nothing();
        publisher.publishes(2, &topic, &[], "nobody's");
        client.nothing();
        drop(client);
        let (mut client, present) = scene.open(&scene.kept("c"));
        assert!(!present, "a clean session leaves none");
        client.nothing();
        // A session lasts at least as long as its connection, and with Clean Start a kept one begins.
        let (mut client, present) = scene.open(&Connect { clean: scene.version == V5, ..scene.kept("c2") });
        assert!(!present);
        assert_eq!(client.subscribe(&topic, 1), 1);
        drop(client);
        assert!(scene.open(&scene.kept("c2")).1);
    }
}

/// 5.0: MQTT-3.1.2-23, MQTT-4.1.0-2.
#[test]
fn a_session_expires_when_it_said() {
    let scene = Scene::new(V5);
    let connect = |expiry: Option<u32>| {
        let properties = expiry.map(|seconds| four(SESSION_EXPIRY, seconds)).unwrap_or_default();
        Connect { clean: false, properties, ..scene.clean("c") }
    };
    assert!(!scene.open(&connect(Some(1))).1);
    assert!(scene.open(&connect(Some(1))).1, "within the second");
    std::thread::sleep(Duration::from_millis(2_500));
    assert!(!scene.open(&connect(None)).1, "after it");
    assert!(!scene.open(&connect(Some(0))).1, "none was to be kept");
    assert!(!scene.open(&connect(Some(u32::MAX))).1);
    // DISCONNECT may say something else.
    let (mut client, present) = scene.open(&connect(Some(3600)));
    assert!(present);
    client.send(&packet(0xe0, &[&[0], &properties(V5, &four(SESSION_EXPIRY, 0))[..]].concat()));
    client.end();
    assert!(!scene.open(&connect(None)).1);
}

/// 5.0: MQTT-3.3.1-1, MQTT-4.3.2-3, MQTT-4.3.3-3, MQTT-4.3.3-5, MQTT-4.3.3-6, MQTT-4.4.0-1, MQTT-4.6.0-1.
/// 3.1.1: MQTT-3.3.1-1, MQTT-4.3.2-1, MQTT-4.3.3-1, MQTT-4.4.0-1, MQTT-4.6.0-1.
#[test]
fn what_was_not_acknowledged_is_sent_again_in_order_and_under_its_id() {
    for scene in Scene::both() {
        let topic = scene.name("a");
        let (mut client, _) = scene.open(&scene.kept("c"));
        assert_eq!(client.subscribe(&topic, 2), 2);
        let mut publisher = scene.client("pub");
        for (flags, payload) in [(4, "1"), (2, "2"), (4, "3"), (2, "4")] {
            publisher.publishes(flags, &topic, &[], payload);
        }
        let sent: Vec<_> = (0..4).map(|_| client.message()).collect();
        assert!(sent.iter().all(|message| !message.dup()));
        client.send(&answer(PUBREC, sent[0].id));
        assert_eq!(client.answered(PUBREL, sent[0].id), 0);
        client.send(&answer(PUBACK, sent[1].id));
        client.nothing();
        for _ in 0..2 {
            let (again, present) = scene.open(&scene.kept("c"));
            client = again;
            assert!(present);
            assert_eq!(client.answered(PUBREL, sent[0].id), 0);
            for message in &sent[2..] {
                let got = client.message();
                assert_eq!(
                    (got.id, got.qos(), got.dup(), &got.payload),
                    (message.id, message.qos(), true, &message.payload)
                );
            }
            // At no other time.
            client.nothing();
        }
        client.send(&answer(PUBCOMP, sent[0].id));
        client.send(&answer(PUBREC, sent[2].id));
        assert_eq!(client.answered(PUBREL, sent[2].id), 0);
        client.send(&answer(PUBCOMP, sent[2].id));
        client.send(&answer(PUBACK, sent[3].id));
        client.nothing();
        let (mut client, _) = scene.open(&scene.kept("c"));
        client.nothing();
    }
}

/// 5.0: MQTT-4.4.0-2.
#[test]
fn what_a_client_refused_is_not_sent_again() {
    let scene = Scene::new(V5);
    let topic = scene.name("a");
    let (mut client, _) = scene.open(&scene.kept("c"));
    assert_eq!(client.subscribe(&topic, 2), 2);
    let mut publisher = scene.client("pub");
    for (flags, first) in [(2, PUBACK), (4, PUBREC)] {
        publisher.publishes(flags, &topic, &[], "x");
        let id = client.message().id;
        client.send(&answer_with(first, id, 0x97));
        client.nothing();
        let (again, present) = scene.open(&scene.kept("c"));
        client = again;
        assert!(present);
        client.nothing();
    }
}

/// 5.0: MQTT-4.3.3-10, MQTT-4.3.3-12.
/// 3.1.1: MQTT-4.3.3-2.
#[test]
fn a_message_of_qos_2_that_comes_twice_is_delivered_once_over_connections() {
    for scene in Scene::both() {
        let topic = scene.name("a");
        let mut subscriber = scene.client("sub");
        assert_eq!(subscriber.subscribe(&topic, 2), 2);
        let (mut publisher, _) = scene.open(&scene.kept("pub"));
        publisher.send(&publish(scene.version, 0x34, &topic, 7, &[], "x"));
        assert_eq!(publisher.answered(PUBREC, 7), 0);
        subscriber.gets("x");
        let (mut publisher, present) = scene.open(&scene.kept("pub"));
        assert!(present);
        publisher.send(&publish(scene.version, 0x3c, &topic, 7, &[], "x"));
        assert_eq!(publisher.answered(PUBREC, 7), 0);
        subscriber.nothing();
        publisher.send(&answer(PUBREL, 7));
        assert_eq!(publisher.answered(PUBCOMP, 7), 0);
        // What is over is not known any more.
        publisher.send(&answer(PUBREL, 7));
        assert_eq!(publisher.answered(PUBCOMP, 7), if scene.version == V5 { 0x92 } else { 0 });
        publisher.send(&publish(scene.version, 0x34, &topic, 7, &[], "y"));
        assert_eq!(publisher.answered(PUBREC, 7), 0);
        subscriber.gets("y");
    }
}
