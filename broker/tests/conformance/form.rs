//! Chapters 1 and 2: text, lengths, flags, packet identifiers, where properties stand.

use crate::scene::Scene;
use crate::wire::*;

const SURROGATE: &[u8] = b"\xed\xa0\x80";

/// Every packet with a string in it, and the string replaced.
fn with_text(version: Version, bad: &[u8]) -> Vec<Vec<u8>> {
    let filter = [&1_u16.to_be_bytes()[..], &properties(version, &[]), &text(bad)].concat();
    let mut packets = vec![
        publish(version, 0x30, bad, 0, &[], "x"),
        packet(0x82, &[&filter[..], &[0]].concat()),
        packet(0xa2, &filter),
    ];
    if version == V5 {
        packets.push(publish(V5, 0x30, "a", 0, &string(CONTENT_TYPE, bad), "x"));
        packets.push(publish(V5, 0x30, "a", 0, &string(RESPONSE_TOPIC, bad), "x"));
        packets.push(publish(V5, 0x30, "a", 0, &[&[USER], &text("name")[..], &text(bad)].concat(), "x"));
        packets.push(publish(V5, 0x30, "a", 0, &[&[USER], &text(bad)[..], &text("value")].concat(), "x"));
        packets.push(packet(0xe0, &[&[0], &properties(V5, &string(REASON, bad))[..]].concat()));
    }
    packets
}

/// A CONNECT with each of its strings replaced.
fn connects_with_text(scene: &Scene, bad: &[u8]) -> Vec<Vec<u8>> {
    let connect = Connect { user: Some(b"user".to_vec()), ..scene.clean("c").will("topic", "x") };
    let whole = connect.bytes();
    let mut connects = Vec::new();
    for field in [connect.client_id.as_bytes(), b"topic", b"user"] {
        let at = whole.windows(field.len() + 2).position(|part| part == text(field)).unwrap();
        let body = [&whole[2..at], &text(bad), &whole[at + 2 + field.len()..]].concat();
        connects.push(packet(0x10, &body));
    }
    connects
}

/// 5.0: MQTT-1.5.4-1, MQTT-1.5.7-1, MQTT-3.1.3-4, MQTT-3.1.3-11, MQTT-3.1.3-12, MQTT-3.3.2-1, MQTT-3.3.2-13,
/// MQTT-3.3.2-19, MQTT-3.8.3-1, MQTT-3.10.3-1, MQTT-4.13.1-1.
/// 3.1.1: MQTT-1.5.3-1, MQTT-3.1.3-4, MQTT-3.1.3-10, MQTT-3.1.3-11, MQTT-3.3.2-1, MQTT-3.8.3-1, MQTT-3.10.3-1.
#[test]
fn text_that_is_not_utf_8_is_malformed() {
    for bad in [SURROGATE, b"\xff", b"\xc3", b"a\xc0\xafb", b"\xf5\x80\x80\x80"] {
        for scene in Scene::both() {
            for bytes in with_text(scene.version, bad) {
                scene.breaks(&bytes, 0x81);
            }
            for bytes in connects_with_text(&scene, bad) {
                let mut client = scene.dial();
                client.send(&bytes);
                if scene.version == V5 { client.refused(0x81, 0) } else { client.end() }
            }
        }
    }
}

/// 5.0: MQTT-1.5.4-2, MQTT-4.7.3-2.
/// 3.1.1: MQTT-1.5.3-2, MQTT-4.7.3-2.
#[test]
fn text_with_a_null_character_is_malformed() {
    for scene in Scene::both() {
        for bytes in with_text(scene.version, b"a\0b") {
            scene.breaks(&bytes, 0x81);
        }
        for bytes in connects_with_text(&scene, b"a\0b") {
            let mut client = scene.dial();
            client.send(&bytes);
            if scene.version == V5 { client.refused(0x81, 0) } else { client.end() }
        }
    }
}

/// 5.0: MQTT-1.5.4-3, MQTT-4.7.3-4.
/// 3.1.1: MQTT-1.5.3-3, MQTT-4.7.3-4.
#[test]
fn text_is_neither_stripped_nor_normalised() {
    for scene in Scene::both() {
        let mut client = scene.client("c");
        // A mark of byte order, and two ways to write an e with an accent.
        let topics =
            ["\u{feff}x", "x", "\u{e9}", "e\u{301}", "\u{fdd0}", "X", "x/", "/x", "x "].map(|topic| scene.name(topic));
        for topic in &topics {
            assert_eq!(client.subscribe(topic, 0), 0);
            client.publish(0, topic, topic);
            assert_eq!(client.gets(topic).topic, *topic);
        }
        client.nothing();
    }
}

/// 5.0: MQTT-1.5.5-1.
#[test]
fn a_length_longer_than_it_must_be_is_malformed() {
    let scene = Scene::new(V5);
    for bytes in [
        &b"\xc0\x80\x00"[..],
        b"\x30\x84\x00\x00\x01a\x00",
        b"\x30\x05\x00\x01a\x80\x00",
        // A subscription identifier of five bytes, and one of two that could be one.
        b"\x82\x0d\x00\x01\x06\x0b\xff\xff\xff\xff\x01\x00\x01a\x00",
        b"\x82\x0a\x00\x01\x03\x0b\x81\x00\x00\x01a\x00",
        b"\xc0\xff\xff\xff\xff\x01",
    ] {
        scene.breaks(bytes, 0x81);
    }
    // The broker's own are checked by the client that reads them, here at the bounds of one byte and of two.
    let mut client = scene.client("c");
    for identifier in [1, 127, 128, 16_383, 16_384, 268_435_455] {
        let raw = [&[SUBSCRIPTION_ID], &*variable(identifier)].concat();
        assert_eq!(client.subscribe_with(&raw, &scene.name("a"), 0), 0);
        client.publish(0, &scene.name("a"), "x");
        assert_eq!(client.gets("x").all(SUBSCRIPTION_ID), [variable(identifier)]);
    }
    for size in [100, 127, 128, 200, 3000] {
        client.publish(0, &scene.name("a"), &"x".repeat(size));
        client.gets(&"x".repeat(size));
    }
}

/// 5.0: MQTT-2.1.3-1, MQTT-3.6.1-1, MQTT-3.8.1-1, MQTT-3.10.1-1, MQTT-3.14.1-1, MQTT-3.15.1-1.
/// 3.1.1: MQTT-2.2.2-1, MQTT-2.2.2-2, MQTT-3.6.1-1, MQTT-3.8.1-1, MQTT-3.10.1-1, MQTT-3.14.1-1.
#[test]
fn reserved_flags_are_malformed() {
    for scene in Scene::both() {
        let version = scene.version;
        let mut packets = vec![
            answer(PUBACK, 1),
            answer(PUBREC, 1),
            answer(PUBREL, 1),
            answer(PUBCOMP, 1),
            subscribe(version, 1, &[], &[("a", 0)]),
            unsubscribe(version, 1, &["a"]),
            PINGREQ.to_vec(),
            DISCONNECT.to_vec(),
        ];
        if version == V5 {
            packets.push(packet(0xf0, &[]));
        }
        for bytes in packets {
            for flags in (0..16).filter(|flags| flags != &(bytes[0] & 15)) {
                let mut bytes = bytes.clone();
                bytes[0] = bytes[0] & 0xf0 | flags;
                scene.breaks(&bytes, 0x81);
            }
        }
        for flags in 1..16 {
            let mut bytes = scene.clean("c").bytes();
            bytes[0] |= flags;
            let mut client = scene.dial();
            client.send(&bytes);
            if version == V3 || client.receive().is_some() {
                client.end();
            }
        }
        // Types that are forbidden to everybody, or to a client.
        scene.breaks(&[0x00, 0], 0x81);
        if version == V3 {
            scene.breaks(&[0xf0, 0], 0);
        }
        scene.breaks(&[0xd0, 0], 0x82);
        scene.breaks(&packet(0x90, &[&[0, 1][..], &properties(version, &[]), &[0]].concat()), 0x82);
        scene.breaks(&packet(0x20, &[&[0, 0][..], &properties(version, &[])].concat()), 0x82);
    }
}

/// 5.0: MQTT-2.2.1-2.
/// 3.1.1: MQTT-2.3.1-5.
#[test]
fn a_message_of_qos_0_has_no_packet_id() {
    for scene in Scene::both() {
        let mut client = scene.client("c");
        let topic = scene.name("a");
        assert_eq!(client.subscribe(&topic, 2), 2);
        client.send(&publish(scene.version, 0x30, &topic, 0, &[], "\x01\x02payload"));
        client.expect(&publish(scene.version, 0x30, &topic, 0, &[], "\x01\x02payload"));
    }
}

/// 5.0: MQTT-2.2.1-3.
/// 3.1.1: MQTT-2.3.1-1.
#[test]
fn a_packet_id_is_not_0() {
    for scene in Scene::both() {
        let version = scene.version;
        for bytes in [
            publish(version, 0x32, "a", 0, &[], "x"),
            publish(version, 0x34, "a", 0, &[], "x"),
            subscribe(version, 0, &[], &[("a", 0)]),
            unsubscribe(version, 0, &["a"]),
            answer(PUBREL, 0),
        ] {
            scene.breaks(&bytes, 0x81);
        }
    }
}

/// 5.0: MQTT-2.2.1-4, MQTT-4.3.2-1, MQTT-4.3.3-1.
/// 3.1.1: MQTT-2.3.1-4.
#[test]
fn the_broker_uses_no_packet_id_twice_at_a_time() {
    for scene in Scene::both() {
        let topic = scene.name("a");
        let mut subscriber = scene.client("sub");
        assert_eq!(subscriber.subscribe(&topic, 2), 2);
        let mut publisher = scene.client("pub");
        let mut used = std::collections::BTreeSet::new();
        for number in 0..40_u16 {
            publisher.publishes(2 + (number as u8 & 1) * 2, &topic, &[], "x");
            let message = subscriber.message();
            assert!(message.id != 0 && used.insert(message.id), "{message:?} {used:?}");
            if number % 3 == 0 && message.qos() == 1 {
                subscriber.send(&answer(PUBACK, message.id));
                used.remove(&message.id);
            }
        }
    }
}

/// 5.0: MQTT-2.2.1-5, MQTT-3.3.4-1, MQTT-3.4.2-1, MQTT-3.5.2-1, MQTT-3.7.2-1, MQTT-4.3.2-4, MQTT-4.3.3-8, MQTT-4.3.3-11.
/// 3.1.1: MQTT-2.3.1-6, MQTT-3.3.4-1, MQTT-4.3.2-2, MQTT-4.3.3-2.
#[test]
fn answers_carry_the_packet_id_of_what_they_answer() {
    for scene in Scene::both() {
        let mut client = scene.client("c");
        let topic = scene.name("nobody");
        // No matching subscribers: said to 5.0.
        let reason = if scene.version == V5 { 0x10 } else { 0 };
        for id in [1, 0x1234, 0xfffe, 0xffff] {
            client.send(&publish(scene.version, 0x30, &topic, id, &[], "x"));
            client.nothing();
            client.send(&publish(scene.version, 0x32, &topic, id, &[], "x"));
            assert_eq!(client.answered(PUBACK, id), reason);
            client.send(&publish(scene.version, 0x34, &topic, id, &[], "x"));
            assert_eq!(client.answered(PUBREC, id), reason);
            client.send(&answer(PUBREL, id));
            assert_eq!(client.answered(PUBCOMP, id), 0);
        }
    }
}

/// 5.0: MQTT-2.2.1-6, MQTT-3.8.4-1, MQTT-3.8.4-2, MQTT-3.10.4-4, MQTT-3.10.4-5.
/// 3.1.1: MQTT-2.3.1-7, MQTT-3.8.4-1, MQTT-3.8.4-2, MQTT-3.10.4-4, MQTT-3.10.4-5.
#[test]
fn suback_and_unsuback_carry_the_packet_id_of_what_they_answer() {
    for scene in Scene::both() {
        let mut client = scene.client("c");
        for id in [1, 0x4321, 0xffff] {
            client.send(&subscribe(scene.version, id, &[], &[(&scene.name("a"), 1)]));
            assert_eq!(client.suback(id), [1]);
            client.send(&unsubscribe(scene.version, id, &[&scene.name("a"), &scene.name("never")]));
            assert_eq!(client.suback(id), if scene.version == V5 { vec![0, 0x11] } else { vec![] });
        }
    }
}

/// 5.0: MQTT-2.2.2-1.
#[test]
fn properties_are_there_even_if_there_are_none() {
    let scene = Scene::new(V5);
    let mut client = scene.client("c");
    let topic = scene.name("a");
    client.send(&subscribe(V5, 1, &[], &[(&topic, 1)]));
    client.expect(&[0x90, 4, 0, 1, 0, 1]);
    client.send(&publish(V5, 0x30, &topic, 0, &[], "x"));
    client.expect(&publish(V5, 0x30, &topic, 0, &[], "x"));
    client.send(&unsubscribe(V5, 2, &[&topic]));
    client.expect(&[0xb0, 4, 0, 2, 0, 0]);
    // A CONNECT and a SUBSCRIBE without.
    scene.breaks(b"\x82\x02\x00\x01", 0x81);
    let mut client = scene.dial();
    client.send(b"\x10\x0a\x00\x04MQTT\x05\x02\x00\x00");
    client.refused(0x81, 0);
}

/// 5.0: MQTT-4.13.1-1, MQTT-4.13.2-1.
/// 3.1.1: MQTT-4.8.0-1.
#[test]
fn what_breaks_the_rules_ends_the_connection() {
    for scene in Scene::both() {
        let version = scene.version;
        // Fields that are cut off, and bytes behind the last.
        scene.breaks(b"\x30\x01\x00", 0x81);
        scene.breaks(b"\x30\x03\x00\x05a", 0x81);
        scene.breaks(b"\x32\x04\x00\x01a\x00", 0x81);
        scene.breaks(b"\x40\x01\x00", 0x81);
        scene.breaks(&packet(0x82, &[&[0, 1][..], &properties(version, &[]), &text("a")].concat()), 0x81);
        scene.breaks(b"\xc0\x01\x00", 0x81);
        if version == V5 {
            // Twice what may be there once; where it does not belong; what there is not; a value out of its range.
            scene.breaks(
                &publish(V5, 0x30, "a", 0, &[byte(PAYLOAD_FORMAT, 0), byte(PAYLOAD_FORMAT, 0)].concat(), ""),
                0x82,
            );
            scene.breaks(&publish(V5, 0x30, "a", 0, &four(SESSION_EXPIRY, 1), ""), 0x82);
            scene.breaks(&publish(V5, 0x30, "a", 0, &byte(0x7e, 1), ""), 0x81);
            scene.breaks(&publish(V5, 0x30, "a", 0, &byte(PAYLOAD_FORMAT, 2), ""), 0x82);
            scene.breaks(&subscribe(V5, 1, &[SUBSCRIPTION_ID, 0], &[("a", 0)]), 0x82);
            scene.breaks(&subscribe(V5, 1, &[SUBSCRIPTION_ID, 1, SUBSCRIPTION_ID, 2], &[("a", 0)]), 0x82);
            scene.breaks(&subscribe(V5, 1, &[], &[("a", 0x30)]), 0x82);
            for property in [two(RECEIVE_MAXIMUM, 0), four(PACKET_MAXIMUM, 0), byte(PROBLEM_INFORMATION, 2)] {
                let mut client = scene.dial();
                client.send(&scene.clean("c").with(&property).bytes());
                client.refused(0x82, 0);
            }
        }
    }
}
