//! Chapter 3: SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK; what of several subscriptions reaches a client.

use std::time::Instant;

use crate::broker::PATIENCE;
use crate::scene::Scene;
use crate::wire::*;

/// 5.0: MQTT-3.8.3-2, MQTT-3.8.3-5, MQTT-3.10.3-2.
/// 3.1.1: MQTT-3.8.3-3, MQTT-3-8.3-4, MQTT-3.10.3-2.
#[test]
fn a_request_without_filters_or_with_reserved_bits_ends_the_connection() {
    for scene in Scene::both() {
        let version = scene.version;
        scene.breaks(&subscribe(version, 1, &[], &[]), 0x82);
        scene.breaks(&unsubscribe(version, 1, &[]), 0x82);
        let reserved: &[u8] = if version == V5 { &[0x40, 0x80, 0x03] } else { &[0x04, 0x08, 0x10, 0x80, 0x03] };
        for options in reserved {
            scene.breaks(&subscribe(version, 1, &[], &[("good", 0), ("a", *options)]), 0x81);
        }
    }
}

/// 5.0: MQTT-3.8.3-3.
#[test]
fn a_client_that_does_not_want_its_own_messages_does_not_get_them() {
    let scene = Scene::new(V5);
    let topic = scene.name("a");
    let no_local = 4;
    for connect in [scene.clean("c"), scene.kept("k")] {
        for qos in [0, 1, 2] {
            let (mut client, _) = scene.open(&connect);
            client.subscribe(&topic, no_local | qos);
            client.publishes(qos << 1, &topic, &[], "own");
            client.nothing();
            scene.client("other").publishes(qos << 1, &topic, &[], "another's");
            client.gets("another's");
            client.nothing();
            // Not by way of a later connection of the same client either.
            let (mut client, _) = scene.open(&connect);
            client.publishes(qos << 1, &topic, &[], "own");
            client.nothing();
        }
    }
}

/// 5.0: MQTT-3.8.3-4.
#[test]
fn no_local_on_a_shared_subscription_ends_the_connection() {
    Scene::new(V5).breaks(&subscribe(V5, 1, &[], &[("$share/g/a", 4)]), 0x82);
}

/// 5.0: MQTT-3.8.4-3, MQTT-3.8.4-4, MQTT-3.8.4-8.
/// 3.1.1: MQTT-3.8.4-3, MQTT-3.8.4-6.
#[test]
fn a_subscription_replaces_the_one_before() {
    for scene in Scene::both() {
        for connect in [scene.clean("c"), scene.kept("k")] {
            let (mut client, _) = scene.open(&connect);
            let mut publisher = scene.client("pub");
            let topic = scene.name("a");
            for granted in [2, 0, 1, 2] {
                assert_eq!(client.subscribe(&topic, granted), granted);
                for published in [0, 1, 2] {
                    publisher.publishes(published << 1, &topic, &[], "x");
                    assert_eq!(client.gets("x").qos(), published.min(granted));
                }
                client.nothing();
            }
        }
    }
}

/// 5.0: MQTT-3.8.4-5, MQTT-3.8.4-6, MQTT-3.8.4-7, MQTT-3.9.3-1, MQTT-3.9.3-2.
/// 3.1.1: MQTT-3.8.4-4, MQTT-3.8.4-5, MQTT-3.9.3-1, MQTT-3.9.3-2.
#[test]
fn every_filter_of_a_subscribe_has_its_code_in_its_place() {
    for scene in Scene::both() {
        for connect in [scene.clean("c"), scene.kept("k")] {
            let (mut client, _) = scene.open(&connect);
            let invalid = if scene.version == V5 { 0x8f } else { 0x80 };
            let names = ["a", "b", "c", "d"].map(|name| scene.name(name));
            client.send(&subscribe(
                scene.version,
                7,
                &[],
                &[(&names[0], 2), ("not/#/so", 1), (&names[1], 0), (&names[2], 1), ("+a", 0), (&names[0], 1)],
            ));
            assert_eq!(client.suback(7), [2, invalid, 0, 1, invalid, 1]);
            let mut publisher = scene.client("pub");
            for (name, qos) in names.iter().zip([Some(1), Some(0), Some(1), None]) {
                publisher.publishes(4, name, &[], name);
                if let Some(qos) = qos {
                    assert_eq!(client.gets(name).qos(), qos);
                }
            }
            client.nothing();
        }
    }
}

/// 5.0: MQTT-3.3.4-2, MQTT-3.3.4-3, MQTT-3.3.4-4, MQTT-3.3.4-5.
/// 3.1.1: MQTT-3.3.5-1.
#[test]
fn overlapping_subscriptions_deliver_at_the_highest_qos_and_with_every_identifier() {
    for scene in Scene::both() {
        for connect in [scene.clean("c"), scene.kept("k")] {
            let (mut client, _) = scene.open(&connect);
            let topic = scene.name("a/b");
            let filters = [("a/b", 0, 1), ("a/+", 2, 2), ("a/#", 1, 300), ("+/b", 0, 0)];
            for (filter, qos, identifier) in filters {
                let raw = if identifier == 0 { vec![] } else { [&[SUBSCRIPTION_ID], &*variable(identifier)].concat() };
                assert_eq!(client.subscribe_with(&raw, &scene.name(filter), qos), qos);
            }
            let mut publisher = scene.client("pub");
            for qos in [0, 1, 2] {
                publisher.publishes(qos << 1, &topic, &[], "x");
                // One copy with all, or more of them.
                let (mut highest, mut identifiers) = (None, Vec::new());
                let start = Instant::now();
                let complete = |highest, found| highest == Some(qos) && (scene.version == V3 || found >= 3);
                while !complete(highest, identifiers.len()) {
                    assert!(start.elapsed() < PATIENCE, "{highest:?} {identifiers:?}");
                    for got in client.all() {
                        let message = got.message(scene.version);
                        highest = highest.max(Some(message.qos()));
                        identifiers.extend(message.all(SUBSCRIPTION_ID));
                        match message.qos() {
                            0 => {}
                            1 => client.send(&answer(PUBACK, message.id)),
                            _ => {
                                client.send(&answer(PUBREC, message.id));
                                assert_eq!(client.answered(PUBREL, message.id), 0);
                                client.send(&answer(PUBCOMP, message.id));
                            }
                        }
                    }
                }
                client.nothing();
                if scene.version == V5 {
                    identifiers.sort();
                    assert_eq!(identifiers, [variable(1), variable(2), variable(300)]);
                }
            }
        }
    }
}

/// 5.0: MQTT-3.10.4-1, MQTT-3.10.4-2, MQTT-3.10.4-6, MQTT-3.11.3-1, MQTT-3.11.3-2.
/// 3.1.1: MQTT-3.10.4-1, MQTT-3.10.4-2, MQTT-3.10.4-6.
#[test]
fn unsubscribe_removes_exactly_the_filters_that_it_names() {
    for scene in Scene::both() {
        for connect in [scene.clean("c"), scene.kept("k")] {
            let (mut client, _) = scene.open(&connect);
            let name = |filter: &str| scene.name(filter);
            for filter in ["a/b", "c/+", "d"] {
                assert_eq!(client.subscribe(&name(filter), 1), 1);
            }
            client.send(&unsubscribe(
                scene.version,
                50,
                &[&name("a/+"), &name("c/+"), &name("A/B"), &name("a/b/"), &name("d"), &name("d")],
            ));
            let codes = client.suback(50);
            assert_eq!(codes, if scene.version == V5 { vec![0x11, 0, 0x11, 0x11, 0, 0x11] } else { vec![] });
            let mut publisher = scene.client("pub");
            for topic in ["c/x", "d", "a/b"] {
                publisher.publishes(2, &name(topic), &[], topic);
            }
            client.gets("a/b");
            client.nothing();
        }
    }
}

/// 5.0: MQTT-3.10.4-3.
/// 3.1.1: MQTT-3.10.4-3.
#[test]
fn unsubscribe_leaves_what_is_on_its_way() {
    for scene in Scene::both() {
        for connect in [scene.clean("c"), scene.kept("k")] {
            let topic = scene.name("a");
            let (mut client, _) = scene.open(&connect);
            assert_eq!(client.subscribe(&topic, 2), 2);
            scene.client("pub").publishes(4, &topic, &[], "x");
            let message = client.message();
            client.send(&unsubscribe(scene.version, 9, &[&topic]));
            client.suback(9);
            client.send(&answer(PUBREC, message.id));
            assert_eq!(client.answered(PUBREL, message.id), 0);
            client.send(&answer(PUBCOMP, message.id));
            client.nothing();
        }
    }
}
