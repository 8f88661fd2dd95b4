//! Section 4.8.2: shared subscriptions.

use crate::scene::*;
use crate::wire::*;

/// 5.0: MQTT-4.8.2-1, MQTT-4.8.2-2.
#[test]
fn a_shared_subscription_has_a_name_and_a_filter() {
    let scene = Scene::new(V5);
    let mut client = scene.client("c");
    for broken in
        ["$share", "$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/g#/a", "$share/g/a#"]
    {
        assert_eq!(client.subscribe(broken, 1), 0x8f, "{broken}");
    }
    assert_eq!(client.subscribe(&format!("$share/g/{}", scene.name("#")), 1), 1);
}

/// 5.0: MQTT-4.8.2-3.
#[test]
fn a_member_gets_each_message_at_the_qos_that_it_was_granted() {
    for scene in Scene::both() {
        for connect in [scene.clean("c"), scene.kept("k")] {
            let (topic, mut publisher) = (scene.name("t"), scene.client("pub"));
            for granted in [0, 1, 2] {
                let (mut member, _) = scene.open(&connect);
                assert_eq!(member.subscribe(&format!("$share/g/{topic}"), granted), granted);
                for qos in [0, 1, 2] {
                    publisher.publishes(qos << 1, &topic, &[], "x");
                    assert_eq!(member.gets("x").qos(), qos.min(granted));
                }
                // A kept one is away from here on; the next is the same client.
                member.disconnect();
            }
        }
    }
}

/// 5.0: MQTT-4.8.2-4.
#[test]
fn what_was_begun_at_qos_2_is_completed_with_the_same_client() {
    let scene = Scene::new(V5);
    let (topic, mut publisher) = (scene.name("t"), scene.client("pub"));
    let shared = format!("$share/g/{topic}");
    let (mut chosen, _) = scene.open(&scene.kept("chosen"));
    chosen.subscribe(&shared, 2);
    publisher.publishes(4, &topic, &[], "sent");
    let sent = chosen.message();
    publisher.publishes(4, &topic, &[], "received");
    let received = chosen.message();
    chosen.send(&answer(PUBREC, received.id));
    chosen.expect(&answer(PUBREL, received.id));
    let mut other = scene.client("other");
    other.subscribe(&shared, 2);
    drop(chosen);
    other.nothing();
    let (mut chosen, present) = scene.open(&scene.kept("chosen"));
    assert!(present);
    let again = chosen.message();
    assert_eq!((again.id, again.payload, again.first & 8), (sent.id, b"sent".to_vec(), 8));
    chosen.expect(&answer(PUBREL, received.id));
    chosen.send(&answer(PUBCOMP, received.id));
    chosen.send(&answer(PUBREC, sent.id));
    chosen.expect(&answer(PUBREL, sent.id));
    chosen.send(&answer(PUBCOMP, sent.id));
    other.nothing();
}

/// 5.0: MQTT-4.8.2-5.
#[test]
fn what_was_begun_at_qos_2_ends_with_the_session_of_its_client() {
    let scene = Scene::new(V5);
    let (topic, mut publisher) = (scene.name("t"), scene.client("pub"));
    let shared = format!("$share/g/{topic}");
    for connect in [scene.clean("c"), scene.kept("k")] {
        let (mut chosen, _) = scene.open(&connect);
        chosen.subscribe(&shared, 2);
        publisher.publishes(4, &topic, &[], "sent");
        chosen.message();
        let mut other = scene.client("other");
        other.subscribe(&shared, 2);
        drop(chosen);
        // The session is over, whichever it was.
        let chosen = [scene.client("c"), scene.open(&scene.clean("k")).0];
        other.nothing();
        drop(chosen);
        other.disconnect();
    }
}

/// 5.0: MQTT-4.8.2-6.
#[test]
fn what_a_member_refuses_nobody_else_gets() {
    let scene = Scene::new(V5);
    let (topic, mut publisher) = (scene.name("t"), scene.client("pub"));
    let shared = format!("$share/g/{topic}");
    for (connect, qos, first) in [
        (scene.clean("c"), 1, PUBACK),
        (scene.clean("c"), 2, PUBREC),
        (scene.kept("k"), 1, PUBACK),
        (scene.kept("k"), 2, PUBREC),
    ] {
        let (mut chosen, _) = scene.open(&connect);
        chosen.subscribe(&shared, qos);
        publisher.publishes(qos << 1, &topic, &[], "refused");
        let refused = chosen.message();
        let mut other = scene.client("other");
        other.subscribe(&shared, qos);
        chosen.send(&answer_with(first, refused.id, 0x80));
        chosen.nothing();
        drop(chosen);
        other.nothing();
        other.disconnect();
    }
}

#[test]
fn what_a_member_did_not_acknowledge_at_qos_1_another_gets() {
    for scene in Scene::both() {
        let (topic, mut publisher) = (scene.name("t"), scene.client("pub"));
        let shared = format!("$share/g/{topic}");
        for connect in [scene.clean("c"), scene.kept("k")] {
            let (mut chosen, _) = scene.open(&connect);
            chosen.subscribe(&shared, 1);
            publisher.publishes(2, &topic, &[], "left");
            chosen.message();
            let mut other = scene.client("other");
            other.subscribe(&shared, 1);
            drop(chosen);
            other.gets("left");
            other.nothing();
            other.disconnect();
        }
    }
}

#[test]
fn a_message_waits_for_the_first_member_that_comes() {
    let scene = Scene::new(V5);
    let (topic, mut publisher) = (scene.name("t"), scene.client("pub"));
    let shared = format!("$share/g/{topic}");
    for name in ["a", "b"] {
        let (mut member, _) = scene.open(&scene.kept(name));
        member.subscribe(&shared, 1);
        member.disconnect();
    }
    for number in 0..10 {
        publisher.publishes(2, &topic, &[], &number.to_string());
    }
    let (mut member, _) = scene.open(&scene.kept("b"));
    let mut all: Vec<u32> = Vec::new();
    while all.len() < 10 {
        let message = member.message();
        member.send(&answer(PUBACK, message.id));
        all.push(String::from_utf8(message.payload).unwrap().parse().unwrap());
    }
    all.sort();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
    member.nothing();
}
