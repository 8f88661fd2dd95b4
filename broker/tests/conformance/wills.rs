//! Chapter 3: wills.

use std::time::{Duration, Instant};

use crate::client::Client;
use crate::scene::Scene;
use crate::wire::*;

fn watcher(scene: &Scene, topic: &str) -> Client {
    let mut watcher = scene.client("watcher");
    assert_eq!(watcher.subscribe(topic, 2), 2);
    watcher
}

/// 5.0: MQTT-3.1.2-7, MQTT-3.1.2-8, MQTT-3.1.2-14, MQTT-3.1.2-15.
/// 3.1.1: MQTT-3.1.2-8, MQTT-3.1.2-16, MQTT-3.1.2-17.
#[test]
fn a_will_is_published_as_it_was_given_when_its_connection_is_lost() {
    for scene in Scene::both() {
        let topic = scene.name("will");
        let mut watcher = watcher(&scene, &topic);
        let mut publisher = scene.client("pub");
        for (qos, retain) in [(0, false), (1, false), (2, false), (0, true), (1, true), (2, true)] {
            for way in ["closed", "broke a rule", "taken over"] {
                let mut connect = scene.clean("dying").will(&topic, way);
                let will = connect.will.as_mut().unwrap();
                (will.qos, will.retain) = (qos, retain);
                let (mut client, _) = scene.open(&connect);
                match way {
                    "closed" => drop(client),
                    "taken over" => drop(scene.client("dying")),
                    _ => {
                        client.send(&[0x00, 0]);
                        client.ended(0x81);
                    }
                }
                let got = watcher.gets(way);
                assert_eq!((got.qos(), got.retain()), (qos, false));
                let mut late = scene.client("late");
                assert_eq!(late.subscribe(&topic, 2), 2);
                if retain {
                    assert!(late.gets(way).retain());
                    publisher.publishes(3, &topic, &[], "");
                    watcher.gets("");
                } else {
                    late.nothing();
                }
            }
        }
    }
}

/// 5.0: MQTT-3.1.2-8, MQTT-3.1.2-10, MQTT-3.14.4-3.
/// 3.1.1: MQTT-3.1.2-10, MQTT-3.1.2-12, MQTT-3.14.4-3.
#[test]
fn a_will_is_forgotten_when_its_client_says_goodbye() {
    for scene in Scene::both() {
        let topic = scene.name("will");
        let mut watcher = watcher(&scene, &topic);
        for connect in [scene.clean("c").will(&topic, "x"), scene.kept("k").will(&topic, "x"), scene.clean("none")] {
            let (client, _) = scene.open(&connect);
            client.disconnect();
            // It was of that connection alone.
            let (client, _) = scene.open(&Connect { will: None, ..connect });
            drop(client);
            watcher.nothing();
        }
        if scene.version == V5 {
            let (mut client, _) = scene.open(&scene.clean("c").will(&topic, "with will"));
            client.send(&packet(0xe0, &[0x04]));
            client.end();
            watcher.gets("with will");
        }
        // Published once, and then gone.
        let (client, _) = scene.open(&scene.kept("once").will(&topic, "once"));
        drop(client);
        watcher.gets("once");
        drop(scene.open(&scene.kept("once")));
        watcher.nothing();
    }
}

/// 5.0: MQTT-3.1.2-8, MQTT-3.1.3-9.
#[test]
fn a_will_waits_for_its_delay_and_is_not_sent_if_its_client_is_back() {
    let scene = Scene::new(V5);
    let topic = scene.name("will");
    let mut watcher = watcher(&scene, &topic);
    let mut connect = scene.kept("c").will(&topic, "x");
    connect.will.as_mut().unwrap().properties = four(WILL_DELAY, 2);
    drop(scene.open(&connect));
    let (client, present) = scene.open(&connect);
    assert!(present);
    std::thread::sleep(Duration::from_millis(2_500));
    watcher.nothing();
    let start = Instant::now();
    drop(client);
    watcher.gets("x");
    assert!((1_800..6_000).contains(&start.elapsed().as_millis()), "after {:?}", start.elapsed());
    // The end of the session ends the wait.
    connect.will.as_mut().unwrap().properties = four(WILL_DELAY, 3600);
    for end in ["expires", "is replaced"] {
        let seconds = if end == "expires" { 1 } else { 3600 };
        let ending = Connect { properties: four(SESSION_EXPIRY, seconds), ..connect.clone() };
        drop(scene.open(&ending));
        if end == "is replaced" {
            watcher.nothing();
            drop(scene.open(&scene.clean("c")));
        }
        watcher.gets("x");
    }
}

/// 5.0: MQTT-3.1.3-10, MQTT-3.3.2-17.
#[test]
fn what_belongs_to_a_will_is_passed_on_unaltered() {
    let scene = Scene::new(V5);
    let topic = scene.name("will");
    let mut watcher = watcher(&scene, &topic);
    let mut connect = scene.clean("c").will(&topic, "x");
    let (raw, names) = ([user("z", "1"), user("a", "2"), user("z", "1")], ["z", "a", "z"]);
    connect.will.as_mut().unwrap().properties =
        [raw.concat(), byte(PAYLOAD_FORMAT, 1), string(CONTENT_TYPE, "t"), string(RESPONSE_TOPIC, "r")].concat();
    drop(scene.open(&connect));
    let got = watcher.gets("x");
    assert_eq!(got.all(USER), raw.map(|user| user[1..].to_vec()), "{names:?}");
    assert_eq!(got.property(PAYLOAD_FORMAT), Some(vec![1]));
    assert_eq!(got.property(CONTENT_TYPE), Some(text("t")));
    assert_eq!(got.property(RESPONSE_TOPIC), Some(text("r")));
    assert_eq!(got.property(WILL_DELAY), None);
}
