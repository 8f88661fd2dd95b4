//! Chapter 4: topic names and filters.

use crate::scene::Scene;
use crate::wire::*;

/// 5.0: MQTT-4.7.1-1, MQTT-4.7.1-2.
/// 3.1.1: MQTT-4.7.1-2, MQTT-4.7.1-3.
#[test]
fn wildcards_stand_alone_in_their_level_and_the_deep_one_last() {
    for scene in Scene::both() {
        let mut client = scene.client("c");
        let invalid = if scene.version == V5 { 0x8f } else { 0x80 };
        for filter in ["a#", "a/#/b", "#/a", "a/b#", "##", "a+", "+a/b", "a/b+/c", "++", "a/+#"] {
            assert_eq!(client.subscribe(filter, 0), invalid, "{filter}");
        }
        for filter in ["#", "+", "+/+", "a/#", "/#", "/", "//", "+/a/#", "a/+/b/+"] {
            assert_eq!(client.subscribe(&scene.name(filter), 0), 0, "{filter}");
        }
    }
}

/// 5.0: MQTT-3.3.2-3, MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.7.3-4.
/// 3.1.1: MQTT-3.3.2-3, MQTT-4.7.1-2, MQTT-4.7.1-3, MQTT-4.7.3-4.
#[test]
fn a_filter_matches_what_the_standard_says() {
    let matches = [
        ("a/#", "a", true),
        ("a/#", "a/b/c", true),
        ("a/#", "ab", false),
        ("a/+", "a/b", true),
        ("a/+", "a/", true),
        ("a/+", "a", false),
        ("a/+", "a/b/c", false),
        ("+/+", "/b", true),
        ("/+", "/b", true),
        ("+", "/b", false),
        ("x/+", "x", false),
        ("a", "A", false),
        ("a", "a/", false),
        ("a/", "a/", true),
        ("//", "//", true),
        ("//", "/", false),
        ("a/+/c", "a//c", true),
        ("a/+/c/#", "a/b/c", true),
        ("+/b/#", "a/b/c/d", true),
        ("a b", "a b", true),
    ];
    for scene in Scene::both() {
        let mut publisher = scene.client("pub");
        for (filter, topic, fits) in matches {
            let (filter, topic) = (scene.name(filter), scene.name(topic));
            let mut client = scene.client("c");
            assert_eq!(client.subscribe(&filter, 0), 0);
            assert_eq!(client.subscribe(&scene.name("end"), 0), 0);
            publisher.publishes(2, &topic, &[], "x");
            publisher.publishes(2, &scene.name("end"), &[], "end");
            if fits {
                assert_eq!(client.gets("x").topic, topic, "{filter}");
            }
            client.gets("end");
        }
    }
}

/// 5.0: MQTT-4.7.2-1.
/// 3.1.1: MQTT-4.7.2-1.
#[test]
fn a_wildcard_at_the_beginning_does_not_match_a_dollar() {
    for scene in Scene::both() {
        let topic = format!("$dollar/{}", scene.name("a"));
        let mut all = scene.client("all");
        for filter in [format!("+/{}", scene.name("a")), format!("+/{}", scene.name("#"))] {
            assert_eq!(all.subscribe(&filter, 0), 0);
        }
        let mut deep = scene.client("deep");
        // What others publish may come before the answer.
        deep.send(&subscribe(scene.version, 1, &[], &[("#", 0)]));
        while deep.next().first != 0x90 {}
        let mut exact = scene.client("exact");
        for filter in [format!("$dollar/{}", scene.name("+")), "$dollar/#".to_owned()] {
            assert_eq!(exact.subscribe(&filter, 0), 0);
        }
        scene.client("pub").publishes(2, &topic, &[], "x");
        assert_eq!(exact.gets("x").topic, topic);
        all.nothing();
        // Others publish meanwhile, but nothing of this comes; what `#` matches does.
        scene.client("pub").publishes(2, &scene.name("plain"), &[], "plain");
        loop {
            let got = deep.message();
            assert!(!got.topic.starts_with('$'), "{got:?}");
            if got.topic == scene.name("plain") {
                break;
            }
        }
    }
}

/// 5.0: MQTT-4.7.3-1.
/// 3.1.1: MQTT-4.7.3-1.
#[test]
fn a_filter_is_not_empty() {
    for scene in Scene::both() {
        scene.breaks(&subscribe(scene.version, 1, &[], &[("", 0)]), 0x81);
        scene.breaks(&unsubscribe(scene.version, 1, &[""]), 0x81);
    }
}
