//! Clients that others wrote: each does the same round with a broker process, and so does a person with Debian's tools.
//!
//! A round: subscribe in a session that is kept, publish, receive in order; disconnect, publish, resume and receive what
//! was queued; a client with a will dies, and the will arrives.

#![allow(clippy::unwrap_used, missing_docs)]

mod process;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use process::Broker;

/// Runs `program` to its end; its output is the error if it fails.
fn run(mut program: Command) -> Result<()> {
    let output = program.output().with_context(|| format!("{program:?}"))?;
    let said = || [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    ensure!(output.status.success(), "{program:?}: {}\n{}", output.status, said());
    Ok(())
}

/// This folder.
fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Where the clients from PyPI and npm are, installed if they were not.
fn installed() -> Result<PathBuf> {
    let cache = std::env::var("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|_| std::env::var("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    let folder = cache.join("mqtt-broker/clients");
    let mut install = Command::new(here().join("install"));
    install.arg(&folder);
    run(install)?;
    Ok(folder)
}

/// One round of each QoS with each version, over each of the broker's listeners.
fn rounds(broker: &Broker, versions: &[&str], client: impl Fn() -> Result<Command>) -> Result<()> {
    for url in &broker.urls {
        for version in versions {
            for qos in process::QOS {
                let mut command = client()?;
                command.args([url.as_str(), version, qos]);
                run(command)?;
            }
        }
    }
    Ok(())
}

#[test]
fn paho_does_a_round() -> Result<()> {
    let (folder, broker) = (installed()?, Broker::start()?);
    rounds(&broker, &["3.1", "3.1.1", "5"], || {
        let mut python = Command::new(folder.join("python/bin/python"));
        python.arg(here().join("paho_round.py"));
        Ok(python)
    })
}

#[test]
fn mqtt_js_does_a_round() -> Result<()> {
    let (folder, broker) = (installed()?, Broker::start()?);
    rounds(&broker, &["3.1", "3.1.1", "5"], || {
        let mut node = Command::new("node");
        node.env("NODE_PATH", folder.join("node/node_modules")).arg(here().join("mqtt_js_round.js"));
        Ok(node)
    })
}

/// Debian's tools: what `mosquitto_pub` sends while `mosquitto_sub` is away waits for it in its session.
#[test]
fn mosquitto_pub_and_sub_exchange_messages() -> Result<()> {
    let broker = Broker::start()?;
    let port = broker.port.to_string();
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        for qos in process::QOS.iter().filter(|qos| **qos != "0") {
            let (topic, id) = (format!("{version}/{qos}"), format!("{version}-{qos}"));
            let subscribe = |more: &[&str]| {
                let mut command = Command::new("mosquitto_sub");
                command.args(["-p", &port, "-V", version, "-q", qos, "-i", &id, "-c", "-W", "20", "-t", &topic]);
                if version == "mqttv5" {
                    command.args(["-x", "300"]);
                }
                command.args(more);
                command
            };
            // -E: subscribes, and ends.
            run(subscribe(&["-E"]))?;
            for number in 0..3 {
                let mut publish = Command::new("mosquitto_pub");
                publish.args(["-p", &port, "-V", version, "-q", qos, "-t", &topic, "-m", &format!("message {number}")]);
                run(publish)?;
            }
            let mut receive = subscribe(&["-C", "3"]);
            let output = receive.output()?;
            let received = String::from_utf8_lossy(&output.stdout);
            assert_eq!(received, "message 0\nmessage 1\nmessage 2\n", "{receive:?}: {output:?}");
        }
    }
    Ok(())
}

/// A client that knocks in the moment in which the broker starts is served, not refused.
#[test]
fn a_connect_during_the_start_waits_for_its_end() -> Result<()> {
    for _ in 0..5 {
        let broker = Broker::start()?;
        let mut stream = TcpStream::connect(("127.0.0.1", broker.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a")?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack)?;
        assert_eq!(connack, [0x20, 2, 0, 0]);
    }
    Ok(())
}
