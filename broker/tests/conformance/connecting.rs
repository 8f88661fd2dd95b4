//! Chapter 3: CONNECT, CONNACK, PINGREQ, DISCONNECT.

use std::time::Duration;

use crate::scene::{PACKET_BYTES_MAX, PASSWORD, RECEIVE_MAXIMUM as BROKERS, Scene, USER_NAME, at_the_same_time};
use crate::wire::*;

/// 5.0: MQTT-3.1.0-1.
/// 3.1.1: MQTT-3.1.0-1.
#[test]
fn whatever_comes_before_connect_ends_the_connection() {
    for scene in Scene::both() {
        let version = scene.version;
        for bytes in [
            PINGREQ.to_vec(),
            DISCONNECT.to_vec(),
            publish(version, 0x30, "a", 0, &[], "x"),
            subscribe(version, 1, &[], &[("a", 0)]),
            answer(PUBREL, 1),
            packet(0xf0, &[]),
        ] {
            let mut client = scene.dial();
            client.send(&bytes);
            client.end();
        }
    }
}

/// 5.0: MQTT-3.1.0-2, MQTT-3.2.0-2.
/// 3.1.1: MQTT-3.1.0-2.
#[test]
fn a_second_connect_ends_the_connection() {
    for scene in Scene::both() {
        scene.breaks(&scene.clean("breaks").bytes(), 0x82);
        let mut client = scene.dial();
        client.send(&[scene.clean("c").bytes(), scene.clean("c").bytes()].concat());
        assert!(!client.accepted());
        client.ended(0x82);
    }
}

/// 5.0: MQTT-3.1.2-1, MQTT-3.1.2-2.
/// 3.1.1: MQTT-3.1.2-1, MQTT-3.1.2-2.
#[test]
fn another_protocol_or_level_is_not_spoken() {
    let scene = Scene::new(V5);
    for bytes in
        [&b"\x10\x0d\x00\x04MQTX\x05\x02\x00\x00\x00\x00\x00"[..], b"\x10\x0d\x00\x04mqtt\x04\x02\x00\x00\x00\x01a"]
    {
        let mut client = scene.dial();
        client.send(bytes);
        client.end();
    }
    // As if it were 3.1.1, which is told 1; as if it were 5.0, which is told 0x84.
    let old = Scene::new(V3);
    for level in [0, 1, 2, 3] {
        let mut client = old.dial();
        client.send(&[b"\x10\x0d\x00\x04MQTT", &[level][..], b"\x02\x00\x00\x00\x01a"].concat());
        client.refused(0, 1);
    }
    for level in [6, 127] {
        let mut client = scene.dial();
        client.send(&[b"\x10\x0e\x00\x04MQTT", &[level][..], b"\x02\x00\x00\x00\x00\x01a"].concat());
        client.refused(0x84, 0);
    }
}

/// 5.0: MQTT-3.1.2-3, MQTT-3.1.2-9, MQTT-3.1.2-11, MQTT-3.1.2-12, MQTT-3.1.2-13, MQTT-3.1.2-16, MQTT-3.1.2-17,
/// MQTT-3.1.2-18, MQTT-3.1.2-19, MQTT-3.1.3-3, MQTT-3.1.4-1, MQTT-3.2.2-6, MQTT-3.2.2-7.
/// 3.1.1: MQTT-3.1.2-3, MQTT-3.1.2-9, MQTT-3.1.2-11, MQTT-3.1.2-13, MQTT-3.1.2-14, MQTT-3.1.2-15, MQTT-3.1.2-18,
/// MQTT-3.1.2-19, MQTT-3.1.2-20, MQTT-3.1.2-21, MQTT-3.1.2-22, MQTT-3.1.3-3, MQTT-3.1.4-1, MQTT-3.2.2-6.
#[test]
fn a_connect_whose_flags_lie_is_malformed() {
    for scene in Scene::both() {
        let plain = scene.clean("c");
        let full = Connect { user: Some(b"u".to_vec()), password: Some(b"p".to_vec()), ..plain.clone().will("w", "x") };
        let (bare, all) = (plain.payload(), full.payload());
        let mut lies = vec![
            // The reserved flag; QoS and retain without a will; QoS 3.
            plain.bytes_with(2 | 1, &bare),
            plain.bytes_with(2 | 8, &bare),
            plain.bytes_with(2 | 16, &bare),
            plain.bytes_with(2 | 32, &bare),
            full.bytes_with(full.flags() | 24, &all),
            // Fields that are announced and missing, or there and not announced.
            plain.bytes_with(2 | 4, &bare),
            plain.bytes_with(2 | 0x80, &bare),
            plain.bytes_with(2 | 0xc0, &bare),
            plain.bytes_with(2, &all),
            full.bytes_with(full.flags() & !0x40, &all),
            full.bytes_with(full.flags() & !0x80, &all),
            // No client id at all.
            plain.bytes_with(2, &[]),
        ];
        if scene.version == V3 {
            let nameless = Connect { password: Some(b"p".to_vec()), ..plain.clone() };
            lies.push(nameless.bytes());
        }
        for bytes in lies {
            let mut client = scene.dial();
            client.send(&bytes);
            if scene.version == V5 { client.refused(0x81, 0) } else { client.end() }
        }
    }
}

/// 5.0: MQTT-3.1.3-1, MQTT-3.1.4-5, MQTT-3.2.0-1, MQTT-3.2.2-1, MQTT-3.2.2-8.
/// 3.1.1: MQTT-3.1.3-1, MQTT-3.1.4-4, MQTT-3.2.0-1.
#[test]
fn a_connect_with_everything_in_it_is_accepted() {
    for scene in Scene::both() {
        let (topic, mut watcher) = (scene.name("will"), scene.client("watcher"));
        assert_eq!(watcher.subscribe(&topic, 0), 0);
        let mut connect = scene.clean("c").will(&topic, "gone");
        connect.user = Some(USER_NAME.into());
        connect.password = Some(PASSWORD.into());
        connect.keep_alive = 60;
        for property in [two(RECEIVE_MAXIMUM, 5), four(PACKET_MAXIMUM, 1000), two(ALIAS_MAXIMUM, 3), user("a", "b")] {
            connect = connect.with(&property);
        }
        let mut client = scene.dial_users();
        // The broker answers CONNECT first, whatever follows at once.
        client.send(&[&connect.bytes()[..], PINGREQ].concat());
        assert!(!client.accepted());
        client.expect(PINGRESP);
        drop(client);
        assert_eq!(watcher.gets("gone").topic, topic);
    }
}

/// 5.0: MQTT-3.1.3-2, MQTT-3.1.3-5.
/// 3.1.1: MQTT-3.1.3-2, MQTT-3.1.3-5.
#[test]
fn every_plain_client_id_is_accepted_and_names_its_session() {
    for scene in Scene::both() {
        let letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let ids: Vec<&str> = (0..3).map(|third| &letters[third * 21..(third * 21 + 23).min(62)]).collect();
        for id in ids.iter().chain(&["a", "Z"]) {
            let connect = Connect { client_id: (*id).to_owned(), ..scene.kept("") };
            let fresh = Connect { clean: true, ..connect.clone() };
            scene.open(&fresh).0.disconnect();
            assert_eq!(scene.open(&connect).1, scene.version == V5, "{id}");
            assert!(scene.open(&connect).1, "{id}");
            scene.open(&fresh).0.disconnect();
        }
    }
}

/// 5.0: MQTT-3.1.3-6, MQTT-3.1.3-7, MQTT-3.2.2-16.
#[test]
fn a_client_without_an_id_is_told_which_one_it_has() {
    let scene = Scene::new(V5);
    let connect = Connect { client_id: String::new(), ..scene.kept("") };
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let mut client = scene.dial();
        client.send(&connect.bytes());
        let connack = client.next();
        assert_eq!((connack.first, &connack.body[..2]), (0x20, &[0, 0][..]), "{connack:?}");
        let id = connack.property(2, ASSIGNED_ID).expect("an assigned client id");
        assert!(ids.insert(id.clone()));
        client.disconnect();
        // It is the name of its session.
        let again = Connect { client_id: String::from_utf8(id[2..].to_vec()).unwrap(), ..connect.clone() };
        let (mut client, present) = scene.open(&again);
        assert!(present);
        client.nothing();
        scene.open(&Connect { clean: true, properties: Vec::new(), ..again }).0.disconnect();
    }
}

/// 3.1.1: MQTT-3.1.3-6, MQTT-3.1.3-7, MQTT-3.1.3-8, MQTT-3.1.3-9, MQTT-3.2.2-4, MQTT-3.2.2-5.
#[test]
fn a_client_without_an_id_cannot_keep_a_session_before_5() {
    let scene = Scene::new(V3);
    let mut client = scene.dial();
    client.send(&Connect { client_id: String::new(), ..scene.kept("") }.bytes());
    client.refused(0, 2);
    let nameless = Connect { client_id: String::new(), ..scene.clean("") };
    let (mut one, mut other) = (scene.open(&nameless).0, scene.open(&nameless).0);
    one.nothing();
    other.nothing();
}

/// 5.0: MQTT-3.1.3-8, MQTT-3.1.4-6.
/// 3.1.1: MQTT-3.1.3-9, MQTT-3.1.4-5.
#[test]
fn a_client_id_that_is_too_long_is_refused_and_nothing_after_it_done() {
    for scene in Scene::both() {
        let (topic, mut watcher) = (scene.name("a"), scene.client("watcher"));
        assert_eq!(watcher.subscribe(&topic, 0), 0);
        let mut client = scene.dial();
        let connect = scene.clean(&"x".repeat(2000)).bytes();
        client.send(&[connect, publish(scene.version, 0x30, &topic, 0, &[], "too late")].concat());
        client.refused(0x85, 2);
        watcher.nothing();
    }
}

/// 5.0: MQTT-3.1.4-2, MQTT-3.1.4-6.
/// 3.1.1: MQTT-3.1.4-5, MQTT-3.2.2-5.
#[test]
fn who_is_not_proven_is_refused_and_nothing_after_it_done() {
    for scene in Scene::both() {
        let (topic, mut watcher) = (scene.name("a"), scene.client("watcher"));
        assert_eq!(watcher.subscribe(&topic, 0), 0);
        for (user, password, reason, code) in
            [(None, None, 0x87, 5), (Some(USER_NAME), Some("wrong"), 0x86, 4), (Some("nobody"), Some("x"), 0x86, 4)]
        {
            let mut client = scene.dial_users();
            let connect =
                Connect { user: user.map(Into::into), password: password.map(Into::into), ..scene.clean("c") };
            client.send(&[connect.bytes(), publish(scene.version, 0x30, &topic, 0, &[], "too late")].concat());
            client.refused(reason, code);
        }
        watcher.nothing();
    }
}

/// 5.0: MQTT-3.1.4-3, MQTT-3.14.2-2, MQTT-3.14.4-1, MQTT-3.14.4-2.
/// 3.1.1: MQTT-3.1.4-2.
#[test]
fn a_client_id_has_one_connection() {
    for scene in Scene::both() {
        for connect in [scene.clean("c"), scene.kept("c")] {
            let (mut first, _) = scene.open(&connect);
            let (mut second, present) = scene.open(&connect);
            assert_eq!(present, !connect.clean);
            first.ended(0x8e);
            second.nothing();
        }
    }
}

/// 5.0: MQTT-3.1.2-22, MQTT-3.2.2-22.
/// 3.1.1: MQTT-3.1.2-24.
#[test]
fn a_client_that_is_silent_for_one_and_a_half_keep_alives_is_disconnected() {
    at_the_same_time(|scene| {
        let (mut client, _) = scene.open(&Connect { keep_alive: 1, ..scene.clean("c") });
        // Kept alive by what it sends.
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(700));
            client.send(PINGREQ);
            client.expect(PINGRESP);
        }
        let (mut forever, _) = scene.open(&scene.clean("forever"));
        let silent = client.time_to_end();
        assert!((1_000..4_000).contains(&silent.as_millis()), "after {silent:?}");
        forever.nothing();
    });
}

/// 5.0: MQTT-3.1.2-24, MQTT-3.1.2-25.
#[test]
fn what_is_too_large_for_a_client_is_not_sent_and_counts_as_sent() {
    let scene = Scene::new(V5);
    for connect in [scene.clean("c"), scene.kept("k")] {
        let topic = scene.name("a");
        let (mut client, _) = scene.open(&connect.clone().with(&four(PACKET_MAXIMUM, 64)));
        assert_eq!(client.subscribe(&topic, 2), 2);
        let mut publisher = scene.client("pub");
        for flags in [0, 2, 4] {
            publisher.publishes(flags, &topic, &[], &"large".repeat(20));
            publisher.publishes(flags, &topic, &[], "small");
            client.gets("small");
        }
        client.disconnect();
        if !connect.clean {
            // It is not sent to the session's next connection either.
            let (mut client, present) = scene.open(&connect);
            assert!(present);
            client.nothing();
        }
    }
}

/// 5.0: MQTT-3.2.2-19, MQTT-3.2.2-20, MQTT-3.4.2-2, MQTT-3.4.2-3, MQTT-3.5.2-2, MQTT-3.5.2-3, MQTT-3.6.2-2, MQTT-3.6.2-3,
/// MQTT-3.7.2-2, MQTT-3.7.2-3, MQTT-3.9.2-1, MQTT-3.9.2-2, MQTT-3.11.2-1, MQTT-3.11.2-2, MQTT-3.14.2-3, MQTT-3.14.2-4.
#[test]
fn no_answer_grows_beyond_what_a_client_takes() {
    let scene = Scene::new(V5);
    const SMALL: u32 = 6;
    let connect = scene.clean("c").with(&four(PACKET_MAXIMUM, SMALL));
    let mut client = scene.dial();
    client.send(&connect.bytes());
    let connack = client.next();
    assert!(connack.properties(2).iter().all(|(id, _)| !matches!(*id, REASON | USER)), "{connack:?}");
    let whole = |packet: crate::client::Received| {
        assert!(packet.bytes().len() <= SMALL as usize, "{packet:?}");
        packet
    };
    for bytes in [
        publish(V5, 0x32, "$SYS/denied", 1, &[], "x"),
        publish(V5, 0x34, "$SYS/denied", 2, &[], "x"),
        publish(V5, 0x32, scene.name("nobody"), 3, &[], "x"),
        answer(PUBREL, 77),
        answer(PUBREC, 77),
        subscribe(V5, 4, &[], &[("wrong/#/filter", 0)]),
        unsubscribe(V5, 5, &["never"]),
    ] {
        client.send(&bytes);
        whole(client.next());
    }
    client.send(&[0xd0, 0]);
    assert_eq!(whole(client.next()).first, 0xe0);
    client.end();
}

/// 5.0: MQTT-3.1.2-28.
#[test]
fn response_information_is_not_given_unasked() {
    let scene = Scene::new(V5);
    for connect in [scene.clean("c"), scene.clean("c").with(&byte(RESPONSE_INFORMATION_WANTED, 0))] {
        let mut client = scene.dial();
        client.send(&connect.bytes());
        assert_eq!(client.next().property(2, RESPONSE_INFORMATION), None);
    }
}

/// 5.0: MQTT-3.1.2-29.
#[test]
fn problems_are_not_explained_to_who_does_not_want_it() {
    let scene = Scene::new(V5);
    let (mut client, _) = scene.open(&scene.clean("c").with(&byte(PROBLEM_INFORMATION, 0)));
    for (bytes, at) in [
        (publish(V5, 0x32, "$SYS/denied", 1, &[], "x"), 3),
        (publish(V5, 0x34, "$SYS/denied", 2, &[], "x"), 3),
        (answer(PUBREL, 77), 3),
        (answer(PUBREC, 77), 3),
        (subscribe(V5, 4, &[], &[("wrong/#/filter", 0)]), 2),
        (unsubscribe(V5, 5, &["never"]), 2),
    ] {
        client.send(&bytes);
        let answer = client.next();
        let properties = answer.properties(at);
        assert!(properties.iter().all(|(id, _)| !matches!(*id, REASON | USER)), "{answer:?}");
    }
}

/// 5.0: MQTT-3.1.2-29, MQTT-3.2.2-19, MQTT-3.9.2-1, MQTT-3.14.2-3.
#[test]
fn words_come_where_a_code_is_not_enough_and_are_wanted_and_fit() {
    let scene = Scene::new(V5);
    let attempt = |bytes: &[u8], property: &[u8]| {
        let mut client = scene.dial();
        let connect = if bytes.is_empty() { scene.clean(&"x".repeat(2000)) } else { scene.clean("c") };
        client.send(&connect.with(property).bytes());
        if !bytes.is_empty() {
            assert!(!client.accepted());
            client.send(bytes);
        }
        client.next()
    };
    for (bytes, first, at, always) in [
        (vec![], 0x20, 2, true),
        (scene.clean("c").bytes(), 0xe0, 1, true),
        (vec![0xd0, 0], 0xe0, 1, true),
        (vec![0xc1, 0], 0xe0, 1, true),
        (subscribe(V5, 4, &[], &[("wrong/#/filter", 0), ("right", 0)]), 0x90, 2, false),
    ] {
        let whole = attempt(&bytes, &[]);
        assert_eq!(whole.first, first, "{whole:?}");
        assert!(whole.property(at, REASON).is_some_and(|words| words.len() > 2), "{whole:?}");
        let size = whole.bytes().len() as u32;
        assert_eq!(attempt(&bytes, &four(PACKET_MAXIMUM, size)).bytes(), whole.bytes());
        let without = attempt(&bytes, &four(PACKET_MAXIMUM, size - 1));
        assert_eq!((without.first, without.property(at, REASON)), (first, None), "{without:?}");
        let unwanted = attempt(&bytes, &byte(PROBLEM_INFORMATION, 0));
        assert_eq!(unwanted.property(at, REASON).is_some(), always, "{unwanted:?}");
    }
    // Who may not hears nothing that helps.
    let mut client = scene.client("denied");
    client.send(&publish(V5, 0x32, "$SYS/denied", 1, &[], "x"));
    assert_eq!(client.next().bytes(), [PUBACK, 3, 0, 1, 0x87]);
    for (user, password) in [("nobody", "x"), (USER_NAME, "x")] {
        let mut client = scene.dial_users();
        let connect = Connect { user: Some(user.into()), password: Some(password.into()), ..scene.clean("c") };
        client.send(&connect.bytes());
        assert_eq!(client.next().bytes(), [0x20, 3, 0, 0x86, 0]);
    }
}

/// 5.0: MQTT-3.2.2-19.
#[test]
fn a_connect_that_cannot_be_read_is_told_why_once_it_is_known_how_much_its_client_takes() {
    let scene = Scene::new(V5);
    let refused = |connect: &Connect, flags: u8| {
        let mut client = scene.dial();
        client.send(&connect.bytes_with(flags, &connect.payload()));
        let got = client.next();
        client.end();
        got
    };
    let connect = scene.clean("c").will("a/#", "x");
    let whole = refused(&connect, connect.flags());
    assert_eq!((whole.first, whole.body[1]), (0x20, 0x90), "{whole:?}");
    assert_eq!(whole.words(2), "the will topic is empty, has a wildcard or too many levels");
    let size = whole.bytes().len() as u32;
    for (bytes_max, told) in [(size, true), (size - 1, false)] {
        let got = refused(&connect.clone().with(&four(PACKET_MAXIMUM, bytes_max)), connect.flags());
        assert_eq!((got.body[1], got.property(2, REASON).is_some()), (0x90, told), "{got:?}");
    }
    let connect = scene.clean("c");
    assert_eq!(refused(&connect, 3).words(2), "the reserved connect flag is set");
    // Where its properties are wrong nobody knows.
    let got = refused(&connect.clone().with(&two(RECEIVE_MAXIMUM, 0)), connect.flags());
    assert_eq!(got.bytes(), [0x20, 3, 0, 0x82, 0]);
}

/// 5.0: MQTT-3.2.2-19, MQTT-4.12.0-1, MQTT-4.12.0-4.
#[test]
fn who_is_not_let_in_hears_what_to_bring() {
    let scene = Scene::new(V5);
    let method = |name: &str, data: &str| [string(AUTH_METHOD, name), string(AUTH_DATA, data)].concat();
    for (property, reason, words) in [
        (vec![], 0x87, "nobody may come in here who does not prove who it is"),
        (method("SCRAM-MD5", "x"), 0x8c, "the only authentication method here is SCRAM-SHA-256"),
        (
            method("SCRAM-SHA-256", "hello"),
            0x87,
            "the Authentication Data are not what SCRAM-SHA-256 has next, without channel binding",
        ),
    ] {
        let mut sizes = Vec::new();
        for bytes_max in [u32::MAX, 24] {
            let mut client = scene.dial_users();
            client.send(&scene.clean("c").with(&property).with(&four(PACKET_MAXIMUM, bytes_max)).bytes());
            let got = client.next();
            assert_eq!((got.first, got.body[1]), (0x20, reason), "{got:?}");
            if bytes_max == u32::MAX {
                assert_eq!(got.words(2), words);
            }
            sizes.push(got.bytes().len());
            client.end();
        }
        assert!(sizes[0] > 24 && sizes[1] <= 24, "{sizes:?}");
    }
}

/// 5.0: MQTT-3.14.2-3, MQTT-3.9.2-1.
#[test]
fn a_client_at_a_limit_is_told_its_value() {
    let scene = Scene::new(V5);
    let large = publish(V5, 0x30, scene.name("a"), 0, &[], "x".repeat(PACKET_BYTES_MAX));
    let mut in_flight = Vec::new();
    for id in 1..=BROKERS + 1 {
        in_flight.extend(publish(V5, 0x34, scene.name("nobody"), id, &[], "x"));
    }
    for (bytes, reason, limit) in [
        (large, 0x95, PACKET_BYTES_MAX.to_string()),
        (in_flight, 0x93, BROKERS.to_string()),
        (publish(V5, 0x30, "a", 0, &two(ALIAS, 65_535), "x"), 0x94, "16".to_owned()),
    ] {
        let mut client = scene.client("c");
        client.send(&bytes);
        let got = std::iter::from_fn(|| client.receive()).find(|got| got.first == 0xe0).unwrap();
        assert_eq!(got.body[0], reason);
        let words = got.words(1);
        assert!(words.split([' ', ',', ';']).any(|word| word == limit), "{words} does not say {limit}");
    }
    let (mut client, _) = scene.open(&Connect { keep_alive: 1, ..scene.clean("silent") });
    assert_eq!(client.next().words(1), "nothing came for one and a half times the keep alive, which is 1 s");
}

/// 5.0: MQTT-3.2.2-15, MQTT-4.13.1-1.
#[test]
fn a_packet_that_is_too_large_for_the_broker_ends_the_connection() {
    for scene in Scene::both() {
        let topic = scene.name("a");
        let fits = PACKET_BYTES_MAX - publish(scene.version, 0x32, &topic, 1, &[], "").len() - 1;
        let mut client = scene.client("c");
        client.publishes(2, &topic, &[], &"x".repeat(fits));
        scene.breaks(&publish(scene.version, 0x32, &topic, 1, &[], "x".repeat(fits + 1)), 0x95);
    }
}

/// 5.0: MQTT-3.12.4-1.
/// 3.1.1: MQTT-3.12.4-1.
#[test]
fn every_ping_is_answered() {
    for scene in Scene::both() {
        let mut client = scene.client("c");
        client.send(&PINGREQ.repeat(100));
        for _ in 0..100 {
            client.expect(PINGRESP);
        }
    }
}

/// 5.0: MQTT-3.14.0-1.
#[test]
fn nobody_is_disconnected_with_a_reason_before_connack() {
    let scene = Scene::new(V5);
    for bytes in [&b"\xe0\x00"[..], b"\x00\x00", b"\x10\x02\x00\x04", b"\x36\x05\x00\x01a\x00\x01"] {
        let mut client = scene.dial();
        client.send(bytes);
        let got = client.receive();
        assert!(got.as_ref().is_none_or(|packet| packet.first == 0x20), "{got:?}");
    }
}

/// 5.0: MQTT-3.14.2-1.
#[test]
fn disconnect_carries_a_reason_that_there_is() {
    let scene = Scene::new(V5);
    for reason in [0x01, 0x18, 0x85, 0x86, 0x88, 0xff] {
        scene.breaks(&packet(0xe0, &[reason]), 0x81);
    }
    // A session that ends with its connection cannot be kept after all.
    scene.breaks(&packet(0xe0, &[&[0], &properties(V5, &four(SESSION_EXPIRY, 5))[..]].concat()), 0x82);
}
