//! Chapter 3: retained messages.

use crate::client::Client;
use crate::scene::Scene;
use crate::wire::*;

const RETAIN: u8 = 1;

/// 5.0: MQTT-3.3.1-5, MQTT-3.3.1-9.
/// 3.1.1: MQTT-3.3.1-5, MQTT-3.3.1-6, MQTT-3.3.1-7, MQTT-3.3.1-8, MQTT-3.1.2-7.
#[test]
fn the_last_retained_message_is_sent_to_who_subscribes() {
    for scene in Scene::both() {
        let topic = scene.name("a/b");
        let mut publisher = scene.client("pub");
        for (flags, payload, qos) in [(RETAIN | 2, "first", 1), (RETAIN | 4, "second", 2), (RETAIN, "third", 0)] {
            publisher.publishes(flags, &topic, &[], payload);
            for filter in ["a/b", "a/+", "a/#", "#"] {
                let mut client = scene.client("sub");
                assert_eq!(client.subscribe(&scene.name(filter), 2), 2);
                let got = client.gets(payload);
                assert_eq!((got.qos(), got.retain(), &got.topic), (qos, true, &topic));
                client.nothing();
                client.disconnect();
            }
        }
        // It outlives the session that published it.
        publisher.disconnect();
        let mut client = scene.client("sub");
        assert_eq!(client.subscribe(&topic, 2), 2);
        client.gets("third");
    }
}

/// 5.0: MQTT-3.3.1-6, MQTT-3.3.1-7.
/// 3.1.1: MQTT-3.3.1-10, MQTT-3.3.1-11.
#[test]
fn an_empty_retained_message_removes_what_was_retained() {
    for scene in Scene::both() {
        let topic = scene.name("a");
        let mut publisher = scene.client("pub");
        for flags in [RETAIN, RETAIN | 2, RETAIN | 4] {
            publisher.publishes(flags, &topic, &[], "x");
            let mut present = scene.client("present");
            assert_eq!(present.subscribe(&topic, 2), 2);
            present.gets("x");
            publisher.publishes(flags, &topic, &[], "");
            assert!(!present.gets("").retain());
            let mut late = scene.client("late");
            assert_eq!(late.subscribe(&topic, 2), 2);
            late.nothing();
        }
    }
}

/// 5.0: MQTT-3.3.1-8.
/// 3.1.1: MQTT-3.3.1-12.
#[test]
fn a_message_without_retain_leaves_what_is_retained() {
    for scene in Scene::both() {
        let topic = scene.name("a");
        let mut publisher = scene.client("pub");
        publisher.publishes(2, &topic, &[], "not kept");
        let mut client = scene.client("sub");
        assert_eq!(client.subscribe(&topic, 2), 2);
        client.nothing();
        publisher.publishes(RETAIN | 2, &topic, &[], "kept");
        publisher.publishes(2, &topic, &[], "not kept");
        publisher.publishes(2, &topic, &[], "");
        let mut client = scene.client("sub");
        assert_eq!(client.subscribe(&topic, 2), 2);
        client.gets("kept");
        client.nothing();
    }
}

/// 5.0: MQTT-3.3.1-9, MQTT-3.3.1-10, MQTT-3.3.1-11, MQTT-3.8.4-3, MQTT-3.8.4-4.
#[test]
fn retain_handling_says_when_retained_messages_are_sent() {
    let scene = Scene::new(V5);
    let (topic, marker) = (scene.name("a"), scene.name("marker"));
    let (always, if_new, never) = (0x00, 0x10, 0x20);
    for (topic, payload) in [(&topic, "kept"), (&marker, "marker")] {
        scene.client("pub").publishes(RETAIN | 2, topic, &[], payload);
    }
    // What was owed before comes before the marker, however long it takes.
    let nothing_more = |client: &mut Client| {
        client.subscribe(&marker, always | 1);
        client.gets("marker");
    };
    for connect in [scene.clean("c"), scene.kept("k")] {
        let (mut client, _) = scene.open(&connect);
        client.subscribe(&topic, never | 1);
        nothing_more(&mut client);
        client.subscribe(&topic, if_new | 1);
        nothing_more(&mut client);
        for _ in 0..2 {
            client.subscribe(&topic, always | 1);
            client.gets("kept");
        }
        client.send(&unsubscribe(V5, 99, &[&topic]));
        assert_eq!(client.suback(99), [0]);
        client.subscribe(&topic, if_new | 1);
        client.gets("kept");
        nothing_more(&mut client);
    }
}

/// 3.1.1: MQTT-3.3.1-6, MQTT-3.8.4-3.
#[test]
fn subscribing_again_sends_retained_messages_again_before_5() {
    let scene = Scene::new(V3);
    let topic = scene.name("a");
    scene.client("pub").publishes(RETAIN | 2, &topic, &[], "kept");
    let mut client = scene.client("c");
    for qos in [0, 1, 2, 1] {
        assert_eq!(client.subscribe(&topic, qos), qos);
        assert_eq!(client.gets("kept").qos(), qos.min(1));
        client.nothing();
    }
}

/// 5.0: MQTT-3.3.1-12, MQTT-3.3.1-13.
/// 3.1.1: MQTT-3.3.1-9.
#[test]
fn retain_is_passed_on_only_to_who_wants_it() {
    for scene in Scene::both() {
        let topic = scene.name("a");
        for connect in [scene.clean("c"), scene.kept("k")] {
            let (mut client, _) = scene.open(&connect);
            let mut publisher = scene.client("pub");
            let as_published: &[u8] = if scene.version == V5 { &[0, 8] } else { &[0] };
            for options in as_published {
                client.subscribe(&topic, options | 2);
                for flags in [0, RETAIN, 2, RETAIN | 2, RETAIN | 4, 4] {
                    publisher.publishes(flags, &topic, &[], "x");
                    let wanted = *options == 8 && flags & RETAIN != 0;
                    assert_eq!(client.gets("x").retain(), wanted, "{options} {flags}");
                }
                publisher.publishes(RETAIN | 2, &topic, &[], "");
                client.gets("");
            }
        }
    }
}
