//! Passwords, rules, and what changes them while the broker runs.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::broker::{Broker, free_address};
use crate::client::Client;
use crate::mosquitto::{end, mosquitto, receives};
use crate::wire::*;

fn passwd(file: &std::path::Path, user: &str, password: &str, more: &[&str]) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mqtt-broker"))
        .arg("passwd")
        .args(more)
        .arg(file)
        .arg(user)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn users_get_in_by_their_passwords_and_may_what_the_rules_say() {
    let address = free_address();
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    passwd(&users, "ann", "right", &["--scram"]);
    std::fs::write(folder.path().join("acl"), "user ann\ntopic readwrite home/#\ntopic deny home/safe\n").unwrap();
    let broker = Broker::start(
        folder,
        &format!(
            "auth: {{ password_file: FOLDER/users, acl_file: FOLDER/acl }}\nlisteners: [{{ url: \"mqtt://{address}\" }}]"
        ),
    );
    let publish = |words: &str| end(mosquitto("pub", &broker, address, &format!("-q 1 -m x {words}")));
    assert!(publish("-u ann -P right -t home/door").0);
    for version in ["mqttv311", "mqttv5"] {
        for who in ["", "-u ann -P wrong", "-u nobody -P right"] {
            let (ok, said) = publish(&format!("-V {version} {who} -t home/door"));
            assert!(!ok, "{version} {who:?}: {said}");
        }
    }
    // Denied: told in 5.0, dropped before.
    let (_, said) = publish("-V mqttv5 -u ann -P right -t home/safe");
    assert!(said.contains("ot authorized"), "{said}");
    let subscriber = mosquitto("sub", &broker, address, "-u ann -P right -t home/door -C 1 -W 20");
    let said = receives(&broker, subscriber, || {
        publish("-V mqttv311 -u ann -P right -t home/safe");
        publish("-u ann -P right -t home/door");
    });
    assert_eq!(said.trim(), "x");
    let (_, said) = end(mosquitto("sub", &broker, address, "-u ann -P right -t home/# -W 5"));
    assert!(said.contains("denied") || said.contains("ot authorized"), "{said}");
    assert!(broker.ask("GET /metrics").contains("mqtt_broker_messages_dropped_total{reason=\"not_authorized\"}"));

    // A new user, and one who is gone.
    passwd(&users, "bob", "secret", &[]);
    broker.hang_up();
    let bob = "-V mqttv5 -u bob -P secret -t home/door";
    broker.until("bob gets in", || publish(bob).1.contains("ot authorized"));
    std::fs::write(broker.path("acl"), "user bob\ntopic home/#\n").unwrap();
    broker.until("the new rules are in force", || publish(bob) == (true, String::new()));
    passwd(&users, "ann", "", &["--delete"]);
    broker.until("ann is out", || !publish("-u ann -P right -t home/door").0);

    let answer = broker.ask("POST /api/v1/reload");
    assert!(answer.contains(" 200 ") && answer.contains("auth.acl_file"), "{answer}");
    // What makes no sense leaves the old in force.
    std::fs::write(broker.path("acl"), "topic").unwrap();
    let answer = broker.ask("POST /api/v1/reload");
    assert!(answer.contains(" 422 ") && answer.contains("line 1"), "{answer}");
    let last = broker.ask("GET /api/v1/reload");
    assert!(last.contains(" 200 ") && last.contains("line 1") && last.contains("config_sha256\":\""), "{last}");
    assert!(publish(bob).0);
}

/// The exchange of a QoS 2 message that the rules deny ends as the version of its client provides, and reaches nobody.
#[test]
fn a_denied_publish_of_qos_2_is_over_and_nobody_has_it() {
    let address = free_address();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("acl"), "topic readwrite home/#\ntopic deny home/safe\ntopic read home/safe\n")
        .unwrap();
    let config = format!("auth: {{ acl_file: FOLDER/acl }}\nlisteners: [{{ url: \"mqtt://{address}\" }}]");
    let _broker = Broker::start(folder, &config);
    for version in [V3, V5] {
        for connect in [Connect::clean(version, "c"), Connect::kept(version, "k")] {
            let mut watcher = Client::dial(address, version);
            watcher.send(&Connect::clean(version, "watcher").bytes());
            watcher.accepted();
            assert_eq!(watcher.subscribe("home/door", 2), 2);
            let mut client = Client::dial(address, version);
            client.send(&connect.bytes());
            client.accepted();
            client.send(&publish(version, 0x34, "home/safe", 7, &[], "denied"));
            if version == V5 {
                assert_eq!(client.answered(PUBREC, 7), 0x87);
                // Over: the packet id is of a new message.
                client.send(&publish(version, 0x34, "home/door", 7, &[], "allowed"));
                assert_eq!(client.answered(PUBREC, 7), 0);
            } else {
                assert_eq!(client.answered(PUBREC, 7), 0);
                client.send(&publish(version, 0x3c, "home/safe", 7, &[], "denied"));
                assert_eq!(client.answered(PUBREC, 7), 0);
                client.send(&answer(PUBREL, 7));
                assert_eq!(client.answered(PUBCOMP, 7), 0);
                client.send(&publish(version, 0x34, "home/door", 7, &[], "allowed"));
                assert_eq!(client.answered(PUBREC, 7), 0);
            }
            client.send(&answer(PUBREL, 7));
            assert_eq!(client.answered(PUBCOMP, 7), 0);
            watcher.gets("allowed");
            watcher.nothing();
        }
    }
}

#[test]
fn the_broker_reports_under_sys() {
    let address = free_address();
    let config = format!("listeners: [{{ url: \"mqtt://{address}\" }}]");
    let broker = Broker::start(tempfile::tempdir().unwrap(), &config);
    let (ok, said) = end(mosquitto("sub", &broker, address, "-t $SYS/broker/clients/connected -C 2 -W 20"));
    assert!(ok && said.contains('1'), "{said}");
    // The last report is there at once, and marked as what was said before.
    let (ok, said) = end(mosquitto("sub", &broker, address, "-t $SYS/broker/version --retained-only -C 1 -W 20"));
    assert!(ok && said.contains("mqtt-broker"), "{said}");
    let (_, said) = end(mosquitto("pub", &broker, address, "-V mqttv5 -q 1 -t $SYS/broker/uptime -m never"));
    assert!(said.contains("ot authorized"), "{said}");
}
